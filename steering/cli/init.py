"""``beamsteer init``: an experiment file from a recorded file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simulations.errors import InputError
from steering.cli import _terminal as terminal


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: beamsteer init HYS_178921.nxs.h5 --structure MnO -o experiment.yaml"
    )(init)


def init(
    file: Annotated[Path, typer.Argument(help="An NXSPE, SQW, SPE, SNS or ISIS raw event file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it.")] = Path(
        "experiment.yaml"
    ),
    structure: Annotated[
        str | None,
        typer.Option(
            "--structure", "-s", help="Builtin crystal or structure file, if you know it."
        ),
    ] = None,
    ei: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            help="Incident energy, meV, for files that record none (SPE) or several (ISIS).",
        ),
    ] = None,
    psi_log: Annotated[str, typer.Option(help="Log of event files that holds psi.")] = "s1",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    json: terminal.Json = False,
) -> None:
    """Write an experiment file from a recorded file, and list what it could not know."""
    if output.exists() and not force:
        raise InputError(f"{output}: exists; expected a new file. Choose another, or use --force.")
    if not file.is_file():
        raise InputError(f"{file}: is no file; expected a recorded file. Correct the path.")

    from consumers.recorded import inspect_file
    from steering.experiment import draft_experiment, dump_experiment

    draft, unknown = draft_experiment(
        inspect_file(file, psi_log=psi_log, ei_meV=ei),
        structure=structure,
        name=file.name,
        psi_log=psi_log,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    dump_experiment(draft, output)
    if json:
        terminal.print_json(
            {"written": output, "unknown": unknown, "experiment": draft.model_dump(mode="json")}
        )
        return
    terminal.out.print(f"Written to {output}.")
    if unknown:
        terminal.out.print(f"{file.name} does not say, so look at these before you use it:")
        for field, note in unknown.items():
            terminal.out.print(f"  {field}: {note}")
