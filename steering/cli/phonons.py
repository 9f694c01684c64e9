"""``beamsteer phonons``: dispersion and density of states of a crystal, or of a run's result."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulations.errors import InputError
from steering.cli import _terminal as terminal
from steering.cli._option_text import (
    DatabasePath,
    DipoleSum,
    Order,
    Summed,
    isotopes_named,
    named_database,
    supercell_numbers,
)

if TYPE_CHECKING:
    from steering.predict import Phonons

Structure = Annotated[
    str,
    typer.Argument(
        help="phonopy.yaml, POSCAR or CIF (with FORCE_CONSTANTS or FORCE_SETS and BORN beside it "
        "if there are any), the name of a builtin crystal, an id of the database, or the "
        "result.json of a run."
    ),
]
Route = Annotated[
    str,
    typer.Option(
        help="auto, force_constants (given), database, force_field, a force field's name, or "
        "mace:FILE, m3gnet:FOLDER with your weights."
    ),
]
Supercell = Annotated[
    str | None,
    typer.Option(
        help="Supercell of given force constants, e.g. 2,2,1 or the nine numbers of a matrix, if "
        "no file says it."
    ),
]
Isotopes = Annotated[
    str | None,
    typer.Option(help="Isotopes in place of natural elements, e.g. H=D,Li=7Li."),
]
Outputs = Annotated[
    list[Path] | None,
    typer.Option(
        "--output",
        "-o",
        help="File ending in .png, .npz or .csv; may be given again. Without an ending: all "
        "three. Of a result: a folder.",
    ),
]
PathText = Annotated[
    str | None,
    typer.Option(
        help="Path other than the standard one: 'Gamma X | K Gamma L', or points of your own as "
        "label=h,k,l."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: beamsteer phonons germanium -o build/ge-phonons, or beamsteer phonons "
        "build/ge/replay/result.json -o build/ge-posterior"
    )(phonons)


def phonons(
    structure: Structure,
    path: PathText = None,
    points: Annotated[
        int, typer.Option(min=2, max=20_000, help="Points along the whole path.")
    ] = 400,
    route: Route = "auto",
    supercell: Supercell = None,
    isotopes: Isotopes = None,
    dipole_sum: DipoleSum = Summed.CONVERGED,
    database: DatabasePath = None,
    order: Order = False,
    experiment: Annotated[
        Path | None,
        typer.Option(
            "--experiment",
            "-e",
            help="Of a result: the experiment that it was measured with, if it does not lie "
            "beside it.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=20, max=10_000, help="Of a result: draws for its bands (200)."),
    ] = None,
    sets: Annotated[
        int | None,
        typer.Option(
            min=0, max=10_000, help="Of a result: most draws written as FORCE_CONSTANTS (20)."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of a result: seed of the draws (0).")
    ] = None,
    temperatures: Annotated[
        str | None,
        typer.Option(
            help="Of a result: kelvins of heat capacity and displacements, min:max:step "
            "(0:600:10); that of the sample is added."
        ),
    ] = None,
    output: Outputs = None,
    json: terminal.Json = False,
) -> None:
    """Compute the phonon dispersion along the standard path and the density of states.

    Imaginary modes are reported and drawn below zero. Of the result of a run: with bands from
    draws of its posterior, elastic constants, heat capacity and displacements; mean and draws are
    written for phonopy.
    """
    from steering.cli._posterior_phonons import posterior_verb
    from steering.predict import is_result

    own = {
        "--route": route != "auto",
        "--supercell": supercell,
        "--isotopes": isotopes,
        "--dipole-sum": dipole_sum != Summed.CONVERGED,
        "--database": database,
        "--order": order,
    }
    results = {
        "--experiment": experiment,
        "--samples": samples,
        "--sets": sets,
        "--seed": seed,
        "--temperatures": temperatures,
    }
    of_result = is_result(Path(structure))
    for option, given in (own if of_result else results).items():
        if given is not None and given is not False:
            kind = "a structure" if of_result else "the result.json of a run"
            raise InputError(f"{option} is given; expected it with {kind} alone. Leave it out")
    if of_result:
        posterior_verb(
            Path(structure),
            experiment=experiment,
            path=path,
            points=points,
            samples=200 if samples is None else samples,
            sets=20 if sets is None else sets,
            seed=seed or 0,
            temperatures=temperatures or "0:600:10",
            output=output or [],
            json=json,
        )
        return

    from steering.report import named_files

    files = named_files(output or [])
    repeats, made_of = supercell_numbers(supercell), isotopes_named(isotopes)

    from steering.predict import open_structure, ordered_structure, vibrations_of, write_phonons
    from steering.predict import phonons as run

    with terminal.progress("phonons", quiet=json) as progress:
        progress(f"vibrations of {structure}, route {route}", 0.05)
        stored = named_database(database)
        with (
            open_structure(structure, files=True, database=stored) as opened,
            ordered_structure(opened, order) as (source, notes),
        ):
            vibrations = vibrations_of(
                source,
                route,
                supercell=repeats,
                isotopes=made_of,
                dipole_sum=dipole_sum.value,
                database=stored,
                notes=notes,
            )
        progress("dispersion", 0.6)
        found = run(vibrations, path=path, points=points)
        progress("writing", 0.9)
        written = write_phonons(found, files)
    if json:
        terminal.print_json({**found.content(), "files": written})
        return
    _print(found)
    print_files(written)


def print_files(written: Iterable[Path]) -> None:
    """Say where the files are, or how to get some."""
    listed = ", ".join(map(str, written))
    if listed:
        terminal.out.print(f"Written: {listed}")
    else:
        terminal.out.print("Write picture and data with -o NAME (NAME.png, NAME.npz, NAME.csv)")


def print_notes(route: dict[str, str], notes: Iterable[str]) -> None:
    """Say where force constants came from and what is approximate."""
    terminal.out.print(f"{route['kind'].replace('_', ' ')}: {route['source']}", markup=False)
    for note in notes:
        if note != f"harmonic force constants: {route['source']}":
            terminal.out.print(f"  - {note}", markup=False)


def _print(found: Phonons) -> None:
    print_notes(found.route, found.approximations)
    rows = [
        [label, ", ".join(f"{round(float(x), 6) + 0.0:.4g}" for x in hkl), _grouped(energies)]
        for label, hkl, energies in zip(
            found.path.corner_labels,
            found.path.corner_hkl,
            found.corner_energies_meV,
            strict=True,
        )
    ]
    terminal.table(f"Phonons of {found.title}, meV", ["point", "h, k, l", "energies"], rows)
    terminal.out.print(
        f"Highest mode on the path: {found.highest_meV:.4g} meV; the density of states holds "
        f"{found.modes_counted:.4g} modes per primitive cell"
    )
    if found.imaginary is not None:
        terminal.out.print("[bold yellow]IMAGINARY MODES[/]: ", end="")
        terminal.out.print(found.imaginary.words, markup=False)


def _grouped(energies: Iterable[float], same_meV: float = 0.01) -> str:
    """Ascending energies, equal ones counted: ``0 x3, 37.4 x3``; imaginary ones with an i."""
    groups: list[list[float]] = []
    for energy in energies:
        if groups and energy - groups[-1][-1] < same_meV:
            groups[-1].append(energy)
        else:
            groups.append([energy])
    told = []
    for group in groups:
        mean = sum(group) / len(group)
        name = f"{-mean:.2f}i" if mean < -0.05 else f"{abs(mean):.2f}"
        told.append(name + (f" x{len(group)}" if len(group) > 1 else ""))
    return ", ".join(told)
