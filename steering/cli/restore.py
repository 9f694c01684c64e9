"""``beamsteer restore``: lay out a backup as a new state folder, or only check it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simulations.errors import InputError
from steering.cli import _terminal as terminal


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: beamsteer restore beamsteer-backup.tar build/state")(restore)


def restore(
    file: Annotated[Path, typer.Argument(help="File that `beamsteer backup` wrote.")],
    state: Annotated[
        Path | None, typer.Argument(help="New or empty folder; nothing is written over.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read and check every byte, and write nothing.")
    ] = False,
    json: terminal.Json = False,
) -> None:
    """Lay out a backup as a new state folder, after every byte of it was checked.

    Start `beamsteer consume -o FOLDER` there with the same experiment: it goes on where the
    backup ends. The folder that the backup was made of must have no worker any more.
    """
    if check == (state is not None):
        raise InputError(
            f"state folder is {state or 'missing'} {'beside --check' if check else ''}; expected a "
            "folder to restore into, or --check. Give one of them."
        )
    from consumers.state import read_backup
    from consumers.state import restore as restored

    with terminal.progress("Restoring", quiet=json) as progress:
        found = read_backup(file) if state is None else restored(file, state, progress=progress)
    if json:
        terminal.print_json(
            {
                "state": state,
                "state_id": found.state_id,
                "made": found.made,
                "partitions": found.partitions,
                "files": len(found.files),
                "bytes": found.bytes,
            }
        )
        return
    told = f"{len(found.files)} files, {found.bytes / 1e6:.1f} MB of state {found.state_id}"
    if state is None:
        terminal.out.print(f"{file} is whole: {told}, made {found.made}", markup=False)
        return
    terminal.out.print(f"{state}: {told}, as it was at {found.made}", markup=False)
    terminal.say(f"Go on with: beamsteer consume EXPERIMENT -o {state}")
