"""``beamsteer phonons``: dispersion and density of states of a crystal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steering.cli import _terminal as terminal
from steering.cli._option_text import isotopes_named, supercell_numbers

if TYPE_CHECKING:
    from steering.predict import Phonons

Structure = Annotated[
    str,
    typer.Argument(
        help="phonopy.yaml, POSCAR or CIF (with FORCE_CONSTANTS or FORCE_SETS and BORN beside it "
        "if there are any), or the name of a builtin crystal."
    ),
]
Route = Annotated[
    str,
    typer.Option(
        help="auto, force_constants (given), force_field, a force field's name, or mace:FILE, "
        "m3gnet:FOLDER with your weights."
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
        help="File ending in .png, .npz or .csv; may be given again. Without an ending: all three.",
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
    app.command(epilog="Example: beamsteer phonons germanium -o build/ge-phonons")(phonons)


def phonons(
    structure: Structure,
    path: PathText = None,
    points: Annotated[
        int, typer.Option(min=2, max=20_000, help="Points along the whole path.")
    ] = 400,
    route: Route = "auto",
    supercell: Supercell = None,
    isotopes: Isotopes = None,
    output: Outputs = None,
    json: terminal.Json = False,
) -> None:
    """Compute the phonon dispersion along the standard path and the density of states.

    Imaginary modes are reported and drawn below zero.
    """
    from steering.report import named_files

    files = named_files(output or [])
    repeats, made_of = supercell_numbers(supercell), isotopes_named(isotopes)

    from steering.predict import open_structure, vibrations_of, write_phonons
    from steering.predict import phonons as run

    with terminal.progress("phonons", quiet=json) as progress:
        progress(f"vibrations of {structure}, route {route}", 0.05)
        with open_structure(structure, files=True) as opened:
            vibrations = vibrations_of(opened, route, supercell=repeats, isotopes=made_of)
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
