"""``beamsteer init``: an experiment file from recorded files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from simulations.errors import InputError
from steering.cli import _terminal as terminal
from steering.cli._command_lines import aligned, command_line
from steering.cli._option_text import three_numbers


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: beamsteer init HYS_17892*.nxs.h5 --structure MnO -o experiment.yaml"
    )(init)


def init(
    files: Annotated[
        list[Path],
        typer.Argument(help="NXSPE, SQW, SPE, SNS or ISIS raw event files of one scan."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", dir_okay=False, help="Where to write it.")
    ] = Path("experiment.yaml"),
    structure: Annotated[
        str | None,
        typer.Option("--structure", "-s", help="Builtin crystal or structure file."),
    ] = None,
    u: Annotated[str | None, typer.Option(help="hkl along the beam at psi = 0: 1,1,0.")] = None,
    v: Annotated[str | None, typer.Option(help="hkl across it in the plane: 0,0,1.")] = None,
    psi_offset: Annotated[
        float | None, typer.Option(help="Degrees, added to every recorded psi.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="Kelvin, for files that log none.")
    ] = None,
    limits: Annotated[
        str | None,
        typer.Option(help="Degrees of psi that may be measured: -90:90; else those of the files."),
    ] = None,
    speed: Annotated[
        float | None, typer.Option(min=1e-6, help="Of the rotation, degrees per second.")
    ] = None,
    overhead: Annotated[
        float | None,
        typer.Option(min=0.0, help="Seconds per change of psi; else the pauses of the files."),
    ] = None,
    prior: Annotated[
        str | None, typer.Option(help="Name or file of a prior, as `beamsteer prior` writes it.")
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
    """Write an experiment file from recorded files; what they do not say reads TODO.

    Nothing is guessed: a TODO stops the verbs that need it, with its line. What an option says
    stands in its place. The mount may stay open: `beamsteer align` finds it.
    """
    if output.exists() and not force:
        raise InputError(f"{output}: exists; expected a new file. Choose another, or use --force.")
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: is no file; expected a recorded file. Correct the path.")
    given = {
        "sample.u": None if u is None else three_numbers(u, "--u", "1,1,0"),
        "sample.v": None if v is None else three_numbers(v, "--v", "0,0,1"),
        "sample.psi_offset_deg": psi_offset,
        "sample.temperature_K": temperature,
        "motion.limits_deg": None if limits is None else _limits(limits),
        "motion.speed_deg_per_s": speed,
        "motion.overhead_s": overhead,
    }

    from consumers.recorded import inspect_file
    from simulations.prior import stored_priors
    from steering.experiment import GIVEN, draft_experiment, todos_of, write_draft
    from steering.report import scan_of

    if prior is not None:
        given["parameters.prior"] = prior if prior in stored_priors() else _named(prior, output)
    reports = []
    with terminal.progress("init", quiet=json or len(files) == 1) as show:
        for k, file in enumerate(files):
            show(f"reading {file.name}", k / len(files))
            reports.append(inspect_file(file, psi_log=psi_log, ei_meV=ei))
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    draft = draft_experiment(
        reports,
        structure=structure,
        folder=output.parent,
        name=f"{files[0].name}{more}",
        psi_log=psi_log,
        given=given,
    )
    write_draft(draft, output)
    unknown = dict(draft.unknown)
    for k, problem in enumerate(scan_of(reports)["problems"] if len(files) > 1 else []):
        unknown[f"scan {k + 1}"] = problem
    todos = todos_of(output)
    follow = [
        command_line("align", files, experiment=output, correct=aligned(output)),
        command_line("replay", files, experiment=aligned(output), output=Path("replay")),
    ]
    if json:
        terminal.print_json(
            {
                "written": output,
                "unknown": unknown,
                "todo": [
                    {"field": t.field, "line": t.line, "option": GIVEN.get(t.field)} for t in todos
                ],
                "next": follow,
                "experiment": draft.content,
            }
        )
        return
    terminal.out.print(f"Written to {output}.", markup=False)
    if unknown:
        terminal.out.print("The files do not say this, and nothing was guessed:")
    lines = {todo.field: f"line {todo.line}, " for todo in todos}
    for field, note in unknown.items():
        option = f" (or {GIVEN[field]})" if field in lines and field in GIVEN else ""
        terminal.out.print(f"  {lines.get(field, '')}{field}: {escape(note)}{option}")
    terminal.out.print("Next:")
    for line in follow:
        terminal.out.print(f"  {line}", markup=False)


def _limits(text: str) -> tuple[float, float]:
    """Read ``lower:upper`` in degrees."""
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low = high = 0.0
    if not -3600 <= low < high <= low + 360:
        raise InputError(
            f"--limits is {text!r}; expected lower:upper in degrees, at most 360 apart, as -90:90."
        )
    return low, high


def _named(file: str, output: Path) -> str:
    """A file as the experiment file is to name it: from its own folder."""
    if not Path(file).is_file():
        raise InputError(
            f"--prior is {file!r}; expected the name of a stored prior or a file, as `beamsteer "
            "prior` writes it. Correct it."
        )
    return os.path.relpath(file, output.parent)
