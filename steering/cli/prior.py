"""``beamsteer prior``: ranges of the force constants from universal force fields."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulations.errors import InputError
from steering.cli import _terminal as terminal
from steering.cli._option_text import whole_numbers

if TYPE_CHECKING:
    from steering.predict import MadePrior


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: beamsteer prior POSCAR -o prior.yaml")(prior)


def prior(
    structure: Annotated[
        str, typer.Argument(help="POSCAR, CIF or phonopy.yaml, or the name of a builtin crystal.")
    ],
    force_field: Annotated[
        list[str] | None,
        typer.Option(
            "--force-field",
            help="Name, or mace:FILE, m3gnet:FOLDER with your weights; may be given again. All "
            "that are installed by default.",
        ),
    ] = None,
    cutoff_A: Annotated[  # noqa: N803
        float | None,
        typer.Option(
            "--cutoff-A",
            help="Longest bond with a range; 6 by default, less for large cells.",
        ),
    ] = None,
    supercell: Annotated[
        str | None,
        typer.Option(help="Repeats of the primitive cell, e.g. 4,4,4; by default what holds."),
    ] = None,
    displacement_A: Annotated[  # noqa: N803
        float, typer.Option("--displacement-A", help="Displacement of an atom, both ways.")
    ] = 0.01,
    free: Annotated[
        int, typer.Option(min=1, help="Parameters drawn to measure the share of stable sets.")
    ] = 8,
    samples: Annotated[int, typer.Option(min=1, help="Stable sets wanted for it.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            dir_okay=False,
            help="YAML file that experiment.yaml can name as prior.",
        ),
    ] = None,
    json: terminal.Json = False,
) -> None:
    """Relax a crystal in universal force fields and make ranges of its force constants.

    Each force field relaxes the cell, displaces atoms and gives force constants. Those that find
    the crystal unstable are left out, with the reason; the range of the others is widened, most
    towards stiffer bonds, by what a comparison with a database of DFT phonons asks for. With -o, a
    run that was interrupted goes on where it stopped.
    """
    repeats = whole_numbers(supercell, "--supercell")
    if output is not None and output.suffix.lower() not in (".yaml", ".yml"):
        raise InputError(f"--output is {output}; expected a name that ends in .yaml.")

    from simulations.crystal import builtin_crystals, read_crystal, structure_notes
    from simulations.prior import write_prior
    from steering.predict import formula, make_prior, open_structure

    with open_structure(structure, files=True) as opened:
        crystal = read_crystal(opened)
        decided = structure_notes(opened) if isinstance(opened, Path) else ()
    kept = None if output is None else output.with_suffix(".members")
    with terminal.progress("prior", quiet=json) as progress:
        made = make_prior(
            structure if structure in builtin_crystals() else formula(crystal),
            crystal,
            force_fields=force_field or (),
            cutoff_A=cutoff_A,
            supercell=repeats,
            displacement_A=displacement_A,
            free=free,
            samples=samples,
            seed=seed,
            members_folder=kept,
            progress=progress,
        )
    made = replace(made, notes=(*decided, *made.notes))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_prior(made.record, output)
    if kept is not None:
        shutil.rmtree(kept, ignore_errors=True)
    if json:
        terminal.print_json({**made.content(), "file": output})
        return
    _print(made)
    if output is None:
        terminal.out.print("Write it with -o prior.yaml, for experiment.yaml to name")
    else:
        terminal.out.print(
            f"Written: {output}. In experiment.yaml: parameters.prior: {output.name} (beside it), "
            f"with cutoff_A up to {math.floor(1e5 * made.longest_A + 1e-6) / 1e5:.5f}",
            markup=False,
        )


def _print(made: MadePrior) -> None:
    record = made.record
    terminal.table(
        f"Force fields asked about {record.crystal}, supercell "
        f"{' x '.join(map(str, made.supercell))}",
        ["force field", "lowest mode, meV", "highest mode, meV", "used"],
        [
            [
                m.force_field,
                f"{round(m.lowest_meV, 2) + 0.0:.2f}",
                f"{m.highest_meV:.2f}",
                "yes" if m in record.used_members else "no",
            ]
            for m in record.members
        ],
    )
    for name, reason in made.dropped.items():
        terminal.out.print("[yellow]left out[/] ", end="")
        terminal.out.print(f"{name}: {reason}", markup=False)
    for note in made.notes:
        terminal.out.print("[yellow]note[/] ", end="")
        terminal.out.print(note, markup=False)
    stable = record.used_members
    rows = []
    for k, name in enumerate(record.box.names):
        values = [float(m.values[k]) for m in stable]
        rows.append(
            [
                name,
                f"{min(values):.4f} .. {max(values):.4f}",
                f"{record.box.lower[k]:.4f}",
                f"{record.box.upper[k]:.4f}",
            ]
        )
    terminal.table(
        f"Prior of the force constants up to {record.cutoff_A:g} angstrom, eV/angstrom^2",
        ["parameter", "force fields used", "lower", "upper"],
        rows,
    )
    terminal.out.print(made.acceptance_words, markup=False)
