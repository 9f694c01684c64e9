"""``beamsteer train-direct``: the networks of the direct route, from a database of phonons."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from steering.cli import _terminal as terminal


class Device(StrEnum):
    """Where the networks are trained."""

    CPU = "cpu"
    CUDA = "cuda"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        name="train-direct",
        epilog="Example: beamsteer train-direct --data phonondb-2018.h5 --crystals 1500 "
        "-o build/direct",
    )(train_direct)


def train_direct(
    output: Annotated[
        Path, typer.Option("--output", "-o", file_okay=False, help="Folder for the bundle.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Phonon database in one HDF5 file, or a folder of phonopy files; without it, the "
            "site densities that --work has already."
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder for what lies between; OUTPUT-work, if not said."),
    ] = None,
    crystals: Annotated[int, typer.Option(min=300, help="Crystals to learn from.")] = 1500,
    members: Annotated[
        int, typer.Option(min=1, max=20, help="Networks, of three kinds in turn; two ship.")
    ] = 2,
    cycles: Annotated[
        int, typer.Option(min=1, max=20, help="Cycles of the learning rate, of each network.")
    ] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the crystals in a cycle.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Seed; the same seed, the same bundle.")] = 0,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.CPU,
    json: terminal.Json = False,
) -> None:
    """Train the networks of route direct on a database of phonons, or go on with it.

    Kill it at any time and run it again with the same options: it goes on behind the last block of
    site densities or the last epoch. Formulas are split 80:10:10 into training, calibration and
    unseen ones; what the model card says is measured on the last.

    The data are those that `beamsteer database build` takes. Of the public phonon database of Kyoto
    (phonondb, one archive per material with phonopy.yaml, FORCE_SETS and, where polar, BORN): fetch
    the archives of the materials that you want, unpack each into a folder of its own under one
    folder, and name that folder.
    """
    from steering.study import DirectTraining
    from steering.study import train_direct as run

    if device is Device.CUDA:
        import torch

        from simulations.errors import InputError

        if not torch.cuda.is_available():
            raise InputError("--device is cuda, and torch sees none; expected cpu on this machine")
    training = DirectTraining(
        crystals=crystals,
        members=members,
        cycles=cycles,
        epochs=epochs,
        seed=seed,
        device=device.value,
    )
    between = work or output.with_name(f"{output.name}-work")
    with terminal.progress("train-direct", quiet=json) as progress:
        card = run(data, output, between, training, progress)
    terminal.print_bundle(card, output, as_json=json)
