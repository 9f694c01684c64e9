"""``beamsteer train``: a frozen model bundle from simulated spectra."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steering.cli import _terminal as terminal


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: beamsteer train examples/ge-arcs.yaml --spectra 10000 -o build/germanium"
    )(train)


def train(
    experiment: Annotated[Path, typer.Argument(help="The experiment file (YAML).")],
    output: Annotated[
        Path, typer.Option("--output", "-o", file_okay=False, help="Folder for the bundle.")
    ],
    spectra: Annotated[
        int, typer.Option(min=100, help="Simulated spectra to learn from.")
    ] = 10_000,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over them.", show_default="100")
    ] = None,
    architecture: Annotated[
        str,
        typer.Option(
            help="`variational-encoder` (ours: sees coverage), `fc-ae`, `fc-vae`, `conv-ae`, "
            "`conv-vae`, `resnet-18`, or `flow` (posterior of all constants, with its "
            "calibration)."
        ),
    ] = "variational-encoder",
    as_published: Annotated[
        bool,
        typer.Option(
            "--as-published",
            help="Clean spectra and the publication's schedule: thousands of passes, hours.",
        ),
    ] = False,
    around: Annotated[
        Path | None,
        typer.Option(
            help="result.json of a run whose data left the domain: spectra are simulated about its "
            "answer, in a box as wide as the prior's.",
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder for spectra and the state of the training.", show_default="OUTPUT-work"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed; the same seed, the same bundle.")] = 0,
    json: terminal.Json = False,
) -> None:
    """Train a network to read the force constants of an experiment, and write a frozen bundle.

    Kill it at any time and run it again with the same options: it goes on with the spectra that
    were simulated and behind the last kept epoch, and ends with the same bundle.
    """
    from steering.experiment import load_experiment

    described = load_experiment(experiment)

    from steering.run import read_result
    from steering.study import train as run

    with terminal.progress("train", quiet=json) as progress:
        card = run(
            described,
            experiment_dir=experiment.parent,
            output=output,
            spectra=spectra,
            epochs=epochs,
            seed=seed,
            architecture=architecture,
            as_published=as_published,
            around=None if around is None else read_result(around),
            work=work or output.with_name(f"{output.name}-work"),
            progress=progress,
        )
    if json:
        terminal.print_json(card)
    else:
        terminal.out.print(f"The bundle is in {output}; its model card says what it can do.")
