"""``beamsteer align``: how the crystal sits and what the beam's energy is, from recorded files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from simulations.errors import InputError
from steering.cli import _terminal as terminal
from steering.cli._command_lines import command_line
from steering.cli._option_text import three_numbers
from steering.cli.replay import Files, Psi

if TYPE_CHECKING:
    from steering.experiment import Experiment
    from steering.report import AlignmentReport


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example: beamsteer align build/ge/*.nxs.h5 --experiment examples/ge-arcs.yaml"
    )(align)


def align(
    files: Files,
    experiment: Annotated[
        Path | None,
        typer.Option("--experiment", "-e", help="Experiment file to hold the findings against."),
    ] = None,
    structure: Annotated[
        str | None,
        typer.Option("--structure", "-s", help="Builtin crystal or file; else the experiment's."),
    ] = None,
    propagation: Annotated[
        str | None,
        typer.Option(help="Reflections also at hkl plus this, e.g. 0.5,0.5,0.5."),
    ] = None,
    psi: Psi = None,
    psi_log: Annotated[
        str | None, typer.Option(help="Log that holds psi; the experiment's, else s1.")
    ] = None,
    correct: Annotated[
        Path | None,
        typer.Option(
            "--correct",
            help="Write the experiment file with the mount that was found, and with Ei and T0 "
            "where they raise an alarm. Its comments, and what is open beside them, stay.",
        ),
    ] = None,
    json: terminal.Json = False,
) -> None:
    """Find mount, lattice, psi offset and drift from elastic peaks, Ei and T0 from monitors.

    Every finding comes with its error and with how far it is from the experiment file; what does
    not agree raises an alarm, and the exit status is 3. With --correct a file is written that
    holds what was found, u and v too where they are open (TODO) or of another plane; then 3 is for
    alarms that it does not answer, and 2 says why there is nothing to correct.
    """
    if experiment is None and structure is None:
        raise InputError("neither --experiment nor --structure is given; expected one of the two.")
    if correct is not None and experiment is None:
        raise InputError("--correct needs --experiment; expected the file to correct.")
    extra = (
        None if propagation is None else three_numbers(propagation, "--propagation", "0.5,0.5,0.5")
    )

    from simulations.crystal import (
        builtin_crystals,
        read_crystal,
        structure_notes,
        with_isotopes,
    )
    from steering.experiment import Experiment, load_experiment, todos_of

    described, unknown = None, ()
    if experiment is not None:
        needed = () if structure is not None else ("structure",)
        described = load_experiment(experiment, spared=_all_but_sample(Experiment, needed))
        unknown = tuple(todo.field for todo in todos_of(experiment))

    from steering.experiment import structure_of
    from steering.report import align_files, refuse_missing

    refuse_missing(files)

    if structure is not None:
        opened = structure if structure in builtin_crystals() else Path(structure)
        crystal = read_crystal(opened)
    else:
        assert described is not None  # noqa: S101 - checked above
        assert experiment is not None  # noqa: S101
        opened = structure_of(described, experiment.parent)
        crystal = with_isotopes(read_crystal(opened), described.sample.made_of)
    decided = structure_notes(opened) if isinstance(opened, Path) else ()
    with terminal.progress("align", quiet=json) as progress:
        report = align_files(
            files,
            crystal,
            experiment=described,
            psi_log=psi_log,
            psi_deg=psi,
            propagation=extra,
            unknown=unknown,
            progress=progress,
        )
    report = replace(report, notes=(*decided, *report.notes))
    if json:
        terminal.print_json(_plain(report.as_dict()))
    else:
        _tell(report)
    if correct is None or described is None or experiment is None:
        raise typer.Exit(terminal.ALARM if report.alarms else 0)
    _correct(experiment, correct, report)
    if not json:
        words = [
            f"{section}.{name} = {_value(value)}"
            for section, values in report.corrections.items()
            for name, value in values.items()
        ]
        terminal.out.print(escape(f"Written to {correct}: {', '.join(words)}"))
        if "sample" not in report.corrections:
            why = "; ".join(report.refusals) or "it was not found"
            terminal.out.print(escape(f"The mount is as it was, because {why}"))
        for todo in todos_of(correct):
            terminal.out.print(f"  still open, line {todo.line}: {todo.field}")
        terminal.out.print(
            f"Next: {command_line('replay', files, experiment=correct, output=Path('replay'))}",
            markup=False,
        )
    raise typer.Exit(terminal.ALARM if report.left else 0)


def _all_but_sample(experiment: type[Experiment], needed: Sequence[str]) -> tuple[str, ...]:
    """What `align` can do without: all sections, and the fields of the sample but some."""
    sections = (name for name in experiment.model_fields if name != "sample")
    sample = ("u", "v", "psi_offset_deg", "temperature_K", "structure")
    return (*sections, *(f"sample.{name}" for name in sample if name not in needed))


def _correct(experiment: Path, correct: Path, report: AlignmentReport) -> None:
    """Write the experiment file as the report corrects it.

    Raises
    ------
    InputError
        If the report corrects nothing; says why not.
    """
    from steering.experiment import files_made_absolute, write_amended
    from steering.report import corrections_of

    changes = corrections_of(report)
    correct.parent.mkdir(parents=True, exist_ok=True)
    if correct.parent.resolve() != experiment.parent.resolve():
        for section, values in files_made_absolute(experiment).items():
            changes[section] = values | changes.get(section, {})
    write_amended(experiment, correct, changes)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(f"{x:g}" for x in value) + "]"
    return f"{value:g}"


def _plain(value: Any) -> Any:
    """Dataclasses of estimates as dicts."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "sigma") and hasattr(value, "value"):
        return {"value": value.value, "sigma": value.sigma}
    return value


def _tell(report: Any) -> None:
    rows = []
    for check in report.checks:
        away = "-" if check.sigmas is None else f"{check.sigmas:+.1f}"
        verdict = {True: "yes", False: "NO", None: "-"}[check.agrees]
        expected = "-" if check.expected is None else terminal.number(check.expected, 6)
        rows.append(
            [
                f"{check.quantity}, {check.unit}",
                _with_error(check.found, check.sigma),
                expected,
                away,
                verdict,
            ]
        )
    heads = ["", "found", "expected", "sigma away", "agrees"]
    if rows:
        terminal.table("Alignment", heads, rows)
    if report.u is not None:
        shown = " ".join(f"{x:.4f}" for x in report.u), " ".join(f"{x:.4f}" for x in report.v)
        known = "a guess, see ALARM"
        if report.axis_sigma_deg is not None:
            known = f"each \u00b1 {terminal.number(report.axis_sigma_deg, 2)} degrees"
        terminal.out.print(
            f"at a logged angle of 0: u = [{shown[0]}] along the beam, v = [{shown[1]}] across, "
            f"{known}",
            markup=False,
        )
        rows_of = ["  ".join(f"{x: .6f}" for x in row) for row in report.UB]
        terminal.out.print("UB (Mantid) " + "\n            ".join(rows_of))
    alike: dict[tuple[bool, str], list[dict[str, Any]]] = {}
    for one in report.beam:
        found = one["ei_meV"] is not None
        alike.setdefault((found, "" if found else one["reason"]), []).append(one)
    for some in alike.values():
        where = some[0]["file"] + ("" if len(some) == 1 else f" and {len(some) - 1} more")
        terminal.out.print(f"Ei and T0 of {escape(where)}: {escape(_beam_words(some))}")
    for note in report.notes:
        terminal.out.print(escape(note))
    for name, reason in report.set_aside:
        terminal.out.print(f"[yellow]set aside[/] {escape(name)}: {escape(reason)}")
    for alarm in report.alarms:
        answer = " (--correct puts it right)" if alarm in report.mended else ""
        terminal.out.print(f"[bold red]ALARM[/] {escape(alarm)}{answer}")
    if not report.alarms:
        terminal.out.print("[bold green]no alarm[/]")


def _with_error(value: float, sigma: float) -> str:
    """Value and error, both to the error's second digit."""
    digits = 6 if not sigma > 0 else min(max(1 - math.floor(math.log10(sigma)), 0), 6)
    return f"{round(value, digits) + 0.0:.{digits}f} \u00b1 {sigma:.{digits}f}"


def _range(values: list[float], digits: int) -> str:
    """Smallest to largest, or one number where both look alike."""
    low, high = (f"{round(x, digits) + 0.0:.{digits}f}" for x in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _beam_words(some: list[dict[str, Any]]) -> str:
    """What files of one kind tell of Ei and T0."""
    lines = [one["elastic_t0_us"] for one in some if one["elastic_t0_us"] is not None]
    line = f"T0 {_range(lines, 1)} us if Ei is as recorded" if lines else ""
    reason = some[0]["reason"]
    if some[0]["ei_meV"] is None:
        return f"{reason}; elastic line: {line}" if line else reason
    ei, t0 = [one["ei_meV"] for one in some], [one["t0_us"] for one in some]
    words = f"{_range([x.value for x in ei], 3)} meV, each \u00b1 {ei[0].sigma:.2g}; "
    words += f"{_range([x.value for x in t0], 0)} us, each \u00b1 {t0[0].sigma:.2g}; {reason}"
    return f"{words} ({line})" if line else words
