"""``beamsteer estimate``: force constants from a fold alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steering.cli import _terminal as terminal


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: beamsteer estimate build/ge/fold/folded.npz -e examples/ge-arcs.yaml"
    )(estimate)


def estimate(
    folded: Annotated[Path, typer.Argument(help="folded.npz of `beamsteer fold` or `replay`.")],
    experiment: terminal.ExperimentPath,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="JSON file for the result."),
    ] = None,
    json: terminal.Json = False,
) -> None:
    """Fit the force constants of an experiment to folded.npz, and judge the fit.

    Rates are those of the folded model; a replay of the recorded files does better.
    """
    from steering.experiment import load_experiment
    from steering.run import estimate_folded

    described = load_experiment(experiment)
    with terminal.progress("estimate", quiet=json) as progress:
        result = estimate_folded(
            folded, described, experiment_dir=experiment.parent, progress=progress
        )
    if output is not None:
        from steering.report import write_json

        write_json(terminal.plain(result), output)
    if json:
        terminal.print_json(result)
        return
    terminal.print_result(result)
    terminal.out.print(
        f"chi_square {terminal.number(result['chi_square'], 3)} per degree of freedom; nmse_free "
        f"{terminal.number(result['nmse_free'], 3)}, nmse_paper "
        f"{terminal.number(result['nmse_paper'], 3)}"
    )
    for note in result["notes"]:
        terminal.out.print(f"note: {note}", markup=False)
