"""``beamsteer estimate``: force constants from a fold alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    draws: Annotated[
        int,
        typer.Option(
            help="Draws of the posterior with weights, which tell where it is not Gaussian; "
            "0: none. 200 take a minute."
        ),
    ] = 0,
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
            folded,
            described,
            experiment_dir=experiment.parent,
            draws=draws,
            progress=progress,
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
    if draws:
        _print_draws(result["draws"])
    for note in result["notes"]:
        terminal.out.print(f"note: {note}", markup=False)


def _print_draws(draws: dict[str, Any]) -> None:
    """Print mean and error by weighed draws, and what they are worth."""
    if draws["exact"]:
        rows = [
            (name, terminal.number(mean), terminal.number(sigma, 2))
            for name, mean, sigma in zip(
                draws["parameters"], draws["mean"], draws["sigma"], strict=True
            )
        ]
        heads = ("parameter", "mean", "sigma")
        terminal.table(f"By weighed draws, {draws['unit']}", heads, rows)
    terminal.out.print(draws["told"], markup=False)
