"""``beamsteer invert-powder``: force constants from a measured powder spectrum."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steering.cli import _terminal as terminal


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "invert-powder",
        epilog="Example: beamsteer invert-powder aluminium --temperature 50",
    )(invert_powder)


def invert_powder(
    spectrum: Annotated[
        str,
        typer.Argument(help="`aluminium` (measured, in the package) or an NPZ file in its layout."),
    ] = "aluminium",
    temperature: Annotated[float, typer.Option(min=0, help="Which of the spectra, kelvin.")] = 50.0,
    shells: Annotated[
        int, typer.Option(min=1, max=5, help="Neighbour shells with free constants.")
    ] = 2,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON file for the result.")
    ] = None,
    json: terminal.Json = False,
) -> None:
    """Fit force constants of aluminium to a measured powder spectrum S(|Q|,E)."""
    from model_server.powder import invert_powder as run

    with terminal.progress("invert-powder", quiet=json) as progress:
        result = run(spectrum, temperature_K=temperature, shells=shells, progress=progress)
    if output is not None:
        from steering.report import write_json

        write_json(terminal.plain(result), output)
    if json:
        terminal.print_json(result)
    else:
        print_powder(result)


def print_powder(result: dict) -> None:
    """Print what a powder inversion found, and how good the fit is."""
    terminal.print_result(result)
    for one in result.get("derived", []):
        value, sigma = terminal.number(one["value"]), terminal.number(one["sigma"], 2)
        terminal.out.print(f"{one['name']}: {value} +- {sigma} {one['unit']}")
    misfit = terminal.number(result.get("nmse_free"), 3)
    terminal.out.print(
        f"{result['spectrum']}, "
        f"Ei {terminal.number(result['ei_meV'])} meV; misfit {misfit} of the squared signal"
    )
    terminal.out.print(result["error_bars"])
    if result.get("outside_prior"):
        terminal.out.print(f"outside the prior: {', '.join(result['outside_prior'])}")
