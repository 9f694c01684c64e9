"""``beamsteer predict``: what a crystal will look like, before beam time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from simulations.errors import InputError
from steering.cli import _terminal as terminal
from steering.cli._option_text import (
    DatabasePath,
    DipoleSum,
    Imaginary,
    Order,
    Summed,
    Treatment,
    isotopes_named,
    named_database,
    supercell_numbers,
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: beamsteer predict POSCAR --instrument ARCS --ei 40 --temperature 300 "
        "-o build/predicted.npz"
    )(predict)


def predict(
    structure: Annotated[
        str,
        typer.Argument(
            help="POSCAR, CIF or phonopy.yaml, the name of a builtin crystal, or an id of the "
            "database."
        ),
    ],
    instrument: Annotated[str, typer.Option(help="Instrument name.")] = "ARCS",
    ei: Annotated[float, typer.Option(help="Incident energy, meV.")] = 40.0,
    temperature: Annotated[float, typer.Option(help="Temperature, kelvin.")] = 300.0,
    route: Annotated[
        str,
        typer.Option(
            help="auto, force_constants (given), database, direct, force_field, or the name of a "
            "force field."
        ),
    ] = "auto",
    quantity: Annotated[str, typer.Option(help="all, dos, powder or background.")] = "all",
    can: Annotated[str, typer.Option(help="Metal of the can: aluminium, vanadium or none.")] = (
        "aluminium"
    ),
    supercell: Annotated[
        str | None,
        typer.Option(help="Supercell of given force constants, e.g. 2,2,1, if no file says it."),
    ] = None,
    isotopes: Annotated[
        str | None,
        typer.Option(help="Isotopes in place of natural elements, e.g. H=D,Li=7Li."),
    ] = None,
    imaginary: Imaginary = Treatment.LEFT_OUT,
    dipole_sum: DipoleSum = Summed.CONVERGED,
    database: DatabasePath = None,
    order: Order = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="NPZ file for the arrays.")
    ] = None,
    json: terminal.Json = False,
) -> None:
    """Predict the phonon DOS, S(|Q|,E) and the expected background of a crystal."""
    from pydantic import ValidationError

    from steering.predict import PredictionRequest
    from steering.predict import predict as run

    try:
        request = PredictionRequest.model_validate(
            {
                "structure": structure,
                "instrument": instrument,
                "ei_meV": ei,
                "temperature_K": temperature,
                "route": route,
                "quantity": quantity,
                "imaginary": imaginary.value,
                "dipole_sum": dipole_sum.value,
                "can": None if can == "none" else can,
                "supercell": supercell_numbers(supercell),
                "isotopes": isotopes_named(isotopes),
            }
        )
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc']))} is {fault['input']!r}; "
            f"{fault['msg'].removeprefix('Value error, ')}."
            for fault in error.errors(include_url=False)
        ]
        raise InputError("\n".join(faults)) from error
    with terminal.progress("predict", quiet=json) as progress:
        progress(f"{structure}, route {route}", 0.1)
        prediction = run(request, files=True, database=named_database(database), order=order)
    if output is not None:
        from steering.report import write_arrays

        write_arrays(prediction, output)
    if json:
        terminal.print_json(prediction)
        return
    print_prediction(structure, prediction)
    terminal.out.print(f"Arrays are in {output}" if output else "Write the arrays with -o FILE.npz")


def print_prediction(title: str, prediction: dict[str, Any]) -> None:
    """Print what was predicted and with which approximations; arrays by their shape."""
    rows: list[list[str]] = []
    _collect(terminal.plain(prediction), "", rows)
    terminal.table(f"Prediction for {title}", ["", ""], rows)


def _collect(value: Any, name: str, rows: list[list[str]]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _collect(item, f"{name}.{key}" if name else str(key), rows)
    elif isinstance(value, list) and value and not isinstance(value[0], str | dict):
        shape = []
        inner: Any = value
        while isinstance(inner, list):
            shape.append(str(len(inner)))
            inner = inner[0] if inner else None
        rows.append([name, f"array of {' x '.join(shape)}"])
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _collect(item, f"{name}[{i}]", rows)
    else:
        rows.append([name, terminal.number(value, 5) if isinstance(value, float) else str(value)])
