"""``beamsteer predict``: what a crystal will look like, before beam time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steering.cli import _terminal as terminal


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: beamsteer predict POSCAR --instrument ARCS --ei 40 --temperature 300 "
        "-o build/predicted.npz"
    )(predict)


def predict(
    structure: Annotated[
        str, typer.Argument(help="POSCAR, CIF or phonopy.yaml, or the name of a builtin crystal.")
    ],
    instrument: Annotated[str, typer.Option(help="Instrument name.")] = "ARCS",
    ei: Annotated[float, typer.Option(min=1e-3, help="Incident energy, meV.")] = 40.0,
    temperature: Annotated[float, typer.Option(min=0, help="Temperature, kelvin.")] = 300.0,
    route: Annotated[
        str,
        typer.Option(help="given (force constants), a force field's name, or auto."),
    ] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="NPZ file for the arrays.")
    ] = None,
    json: terminal.Json = False,
) -> None:
    """Predict the phonon DOS, S(|Q|,E) and the expected background of a crystal."""
    from steering.predictions import PredictionRequest
    from steering.predictions import predict as run

    request = PredictionRequest(
        structure=structure,
        instrument=instrument,
        ei_meV=ei,
        temperature_K=temperature,
        route=route,
    )
    with terminal.progress("predict", quiet=json) as progress:
        progress(f"{structure} by {route}", 0.1)
        prediction = run(request)
    if output is not None:
        write_arrays(prediction, output)
    if json:
        terminal.print_json(prediction)
        return
    rows = [
        [key, terminal.number(value, 5) if isinstance(value, float) else str(value)]
        for key, value in terminal.plain(prediction).items()
        if isinstance(value, str | int | float)
    ]
    terminal.table(f"Prediction for {structure}", ["", ""], rows)
    terminal.out.print(f"Arrays are in {output}" if output else "Write the arrays with -o FILE.npz")


def write_arrays(prediction: dict, output: Path) -> None:
    """Write every numeric array of a prediction to one NPZ file."""
    from steering.plots_file import write_arrays as write

    write(prediction, output)
