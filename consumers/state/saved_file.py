"""Files of the state folder, written in one step: a temporary name, a flush, a rename."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from simulations.errors import storing


@contextmanager
def in_one_step(path: Path) -> Generator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends well.

    After a failure it is removed, so that its bytes do not fill a disk that is full already.

    Raises
    ------
    StorageError
        If the system fails to write, flush or rename.
    """
    temporary = path.with_name(f"{path.name}.partial")
    try:
        with storing(path):
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
    except Exception:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
