"""``beamsteer backup``: a state folder as one file, while its workers go on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from simulations.errors import InputError
from steering.cli import _terminal as terminal


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: beamsteer backup build/state -o /var/backups --keep 14")(backup)


def backup(
    state: Annotated[Path, typer.Argument(help="State folder that `beamsteer consume` writes.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="A new file, or a folder, where it is named by state and time."
        ),
    ],
    keep: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With a folder: delete older backups of this state there, but so many newest.",
        ),
    ] = None,
    json: terminal.Json = False,
) -> None:
    """Write a backup of a state folder, whole and checked, while its workers go on.

    What was committed when it began is in it, with the tape, the logs of people and the newest
    answers. `beamsteer restore` lays it out again, and workers go on from there to the same bits.
    """
    if keep is not None and not output.is_dir():
        raise InputError(
            f"--keep is {keep} and {output} is no folder; expected a folder of backups. Name one "
            "with -o."
        )
    from consumers.state import back_up, backup_name, read_backup, read_state, remove_old_backups

    file = output
    if output.is_dir():
        found = read_state(state) if state.is_dir() else None
        name = "none" if found is None else found.state_id  # back_up says what is wrong
        file = output / backup_name(name, datetime.now(UTC))
    with terminal.progress("Backing up", quiet=json) as progress:
        back_up(state, file, progress=progress)
    made = read_backup(file)  # from the disk, every byte
    old = () if keep is None else remove_old_backups(output, made.state_id, keep)
    outside = _named_outside(state)
    if json:
        terminal.print_json(
            {
                "file": str(file),
                "state_id": made.state_id,
                "made": made.made,
                "partitions": made.partitions,
                "files": len(made.files),
                "bytes": made.bytes,
                "removed": [str(path) for path in old],
                "not_in_it": outside,
            }
        )
        return
    terminal.out.print(
        f"{file}: {len(made.files)} files, {made.bytes / 1e6:.1f} MB of state {made.state_id}, "
        "read back and whole",
        markup=False,
    )
    for path in old:
        terminal.out.print(f"removed {path}, older than the {keep} that are kept", markup=False)
    if outside:
        terminal.say("Not in it, and needed beside it: " + ", ".join(outside))


def _named_outside(state: Path) -> list[str]:
    """Files of the experiment that lie elsewhere; none where the experiment cannot be read."""
    from steering.experiment import files_named, load_experiment

    try:
        experiment = load_experiment(state / "experiment.yaml")
    except (OSError, InputError):
        return []
    paths = {path for paths in files_named(experiment, state).values() for path in paths}
    return sorted(str(path) for path in paths)
