"""What a store is being made of: its sources, and a lock for who makes it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from simulations.errors import InputError, storing
from simulations.saved_file import in_one_step
from steering.database.block_store import FORMAT

PLAN = "store.json"
BLOCKS = "blocks"
BLOCK_ENTRIES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePlan:
    """One source of a store."""

    name: str
    note: str
    fingerprint: str
    entries: int

    def blocks(self) -> tuple[tuple[str, int, int], ...]:
        """Name of the file, first entry and the one behind the last, of every block."""
        stem = self.fingerprint[:12]
        return tuple(
            (f"{stem}-{start:06d}.h5", start, min(start + BLOCK_ENTRIES, self.entries))
            for start in range(0, self.entries, BLOCK_ENTRIES)
        )


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold a folder that is written for as long as the block lasts; it is made if need be.

    Raises
    ------
    BlockingIOError
        If another process writes it.
    StorageError
        If it cannot be written.
    """
    with storing(folder / "lock"):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                f"{folder}: another process writes it; expected one at a time. Wait for it, or "
                "name another folder"
            ) from error
        yield


def read_plan(folder: Path) -> tuple[SourcePlan, ...]:
    """Sources of a store; none where there is no store yet.

    Raises
    ------
    InputError
        If the folder holds something else, or a store of another version.
    """
    path = folder / PLAN
    if not path.is_file():
        others = [one.name for one in folder.iterdir() if one.name != "lock"]
        if others:
            raise InputError(
                f"store: {folder} holds other files, such as {sorted(others)[0]!r}; expected a new "
                "or empty folder, or a store"
            )
        return ()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT or found["block_entries"] != BLOCK_ENTRIES:
            raise InputError(
                f"store: {folder} has format {found['format']}; expected {FORMAT}. Build it anew "
                "with this version, into another folder"
            )
        return tuple(SourcePlan(**one) for one in found["sources"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"store: {path} cannot be read ({error}); expected the plan of a store. Build it anew, "
            "into another folder"
        ) from error


def write_plan(folder: Path, sources: tuple[SourcePlan, ...]) -> None:
    """Write it in one step.

    Raises
    ------
    StorageError
        If there is no room.
    """
    told = {
        "format": FORMAT,
        "block_entries": BLOCK_ENTRIES,
        "sources": [asdict(one) for one in sources],
    }
    with in_one_step(folder / PLAN) as temporary:
        temporary.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    with storing(folder / BLOCKS):
        (folder / BLOCKS).mkdir(exist_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for path in folder.glob("*.partial"):
        path.unlink(missing_ok=True)
