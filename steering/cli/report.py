"""``beamsteer report``: what a run measured and what follows, as one page to keep."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulations.errors import InputError
from steering.cli import _terminal as terminal

if TYPE_CHECKING:
    from steering.report import Decision


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: beamsteer report build/ge/replay -o build/ge/report.html")(report)


def report(
    place: Annotated[
        Path,
        typer.Argument(
            metavar="STATE_OR_RESULT",
            help="State folder of a live run, folder of a replayed one, or its result.json.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", dir_okay=False, help="Gets the report: .html, or .pdf by Chromium."
        ),
    ] = Path("run.html"),
    run: Annotated[
        str | None, typer.Option(help="Name of the run, where there are several.")
    ] = None,
    zone: Annotated[
        str | None,
        typer.Option(help="Time zone, such as Europe/Berlin; that of alarms.zone by default."),
    ] = None,
    json: terminal.Json = False,
) -> None:
    """Write what a run measured, what follows and how far it may be trusted, as one page to keep.

    The page holds its pictures, asks for nothing from elsewhere and runs no scripts. It has the
    folded map with fit and residual, parameters with errors, prior and targets, trust with its
    evidence, every chunk and event, decisions, versions and the fingerprint.
    """
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    if zone is not None:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise InputError(
                f"--zone is {zone!r}; expected a time zone such as Europe/Berlin or UTC."
            ) from None
    if not place.exists():
        raise InputError(f"{place}: is not there; expected the folder of a run. Correct the path.")

    from steering.report import chosen_run, runs_found, write_run_report

    chosen = chosen_run(runs_found(place), run)
    written = write_run_report(
        chosen,
        output,
        made_ns=time.time_ns(),
        zone=zone,
        decisions=_decisions(chosen.top, chosen.snapshot.run_id),
    )
    if json:
        terminal.print_json(
            {"run": chosen.snapshot.run_id, "file": written, "bytes": written.stat().st_size}
        )
    else:
        terminal.out.print(f"Report of {chosen.snapshot.run_id} written to {written}", markup=False)


def _decisions(state: Path, run: str) -> list[Decision]:
    """What the alarms of a live run told, and who knew."""
    from steering.alarms import AlarmFolder
    from steering.report import Decision

    events = AlarmFolder(state).events(last=2000)
    ours = {one.alarm for one in events if one.subject in (run, f"estimate of {run}")}
    words = {"raised": "alarm", "over": "over", "acknowledged": "acknowledged"}
    return [
        Decision(
            at_ns=one.at_ns,
            what=f"{words[one.what]}: {one.kind}",
            who=one.by or "",
            why=one.text,
        )
        for one in events
        if one.what in words and (one.alarm in ours or one.kind in ("stream lost", "disk filling"))
    ]
