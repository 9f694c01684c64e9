"""``beamsteer train-springs``: the network of bond springs, from a database of phonons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steering.cli import _terminal as terminal


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        name="train-springs",
        epilog="Example: beamsteer train-springs --data phonondb-2018.h5 -o build/springs",
    )(train_springs)


def train_springs(
    output: Annotated[
        Path, typer.Option("--output", "-o", file_okay=False, help="Folder for the bundle.")
    ],
    data: Annotated[
        Path,
        typer.Option(help="Phonon database in one HDF5 file, or a folder of phonopy files."),
    ],
    crystals: Annotated[int, typer.Option(min=100, help="Crystals to learn from.")] = 1500,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the crystals.")] = 25,
    seed: Annotated[int, typer.Option(min=0, help="Seed; the same seed, the same bundle.")] = 0,
    json: terminal.Json = False,
) -> None:
    """Train the network of bond springs, which tells what interferes in maps of route direct.

    It takes some ten minutes on one core and begins anew when it is interrupted. Formulas are split
    as for `beamsteer train-direct`, which names the data; what the model card says is measured on
    the unseen ones.
    """
    from steering.study import SpringTraining
    from steering.study import train_springs_on as run

    with terminal.progress("train-springs", quiet=json) as progress:
        card = run(
            data, output, SpringTraining(crystals=crystals, epochs=epochs, seed=seed), progress
        )
    terminal.print_bundle(card, output, as_json=json)
