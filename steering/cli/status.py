"""``beamsteer status``: what the page says of runs, on a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simulations.errors import InputError
from steering.cli import _terminal as terminal


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: beamsteer status build/state")(status)


def status(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="State folders, or folders of replayed runs; build/ by default."),
    ] = None,
    run: Annotated[str | None, typer.Option(help="Of this run alone.")] = None,
    json: terminal.Json = False,
) -> None:
    """Say what the page says of runs, in the same words; 75 while what feeds one is gone.

    Reads snapshots and signs of life in the folders; no server is asked.
    """
    looked = folders if folders else [Path("build")]
    for folder in looked:
        if not folder.exists():
            raise InputError(
                f"{folder}: is not there; expected a state folder, or one that `beamsteer replay "
                "-o` wrote. Correct the path."
            )
    from steering.run import RunStore, SnapshotFolders, judge, now_ns, wall_time
    from steering.web import read_heartbeats

    store = RunStore()
    for fault in SnapshotFolders(looked).publish_new(store):
        terminal.complain(fault)
    shown = [one for one in store.list() if run is None or one.run_id == run]
    if not shown:
        known = ", ".join(one.run_id for one in store.list()) or "none"
        raise InputError(
            f"run is {run or 'missing'}; expected one in {', '.join(map(str, looked))}; there "
            f"are: {known}. `beamsteer replay` and `beamsteer model-server` write runs."
        )
    workers, now = read_heartbeats(looked), now_ns()
    verdicts = [judge(one, workers, now_ns=now) for one in shown]
    if json:
        terminal.print_json({"verdicts": [one.model_dump(mode="json") for one in verdicts]})
    else:
        for one, verdict in zip(shown, verdicts, strict=True):
            as_of = f"as of {wall_time(verdict.as_of_ns, now_ns=now)}"
            old = "old, " if verdict.stale else ""
            terminal.out.print(
                f"{one.title} ({one.run_id}): {one.status}, {old}{as_of}", markup=False
            )
            for reason in verdict.stale:
                terminal.out.print(f"! {reason.text}", markup=False)
            for warning in verdict.warnings:
                terminal.out.print(f"note: {warning}", markup=False)
            terminal.print_words(verdict)
    if any(verdict.stale for verdict in verdicts):
        raise typer.Exit(75)  # as of what may pass
