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
        str, typer.Argument(help="`aluminium` (measured, in the package) or an NPZ file.")
    ] = "aluminium",
    temperature: Annotated[float, typer.Option(min=0, help="Which of the spectra, kelvin.")] = 50.0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON file for the result.")
    ] = None,
    json: terminal.Json = False,
) -> None:
    """Fit force constants to a measured powder spectrum S(|Q|,E)."""
    from model_server.powder_inversion import invert_powder as run

    with terminal.progress("invert-powder", quiet=json) as progress:
        result = run(spectrum, temperature_K=temperature, progress=progress)
    if output is not None:
        import json as text

        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text.dumps(terminal.plain(result), indent=2) + "\n", encoding="utf-8")
    if json:
        terminal.print_json(result)
    else:
        terminal.print_result(result)
