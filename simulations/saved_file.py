"""Files written in one step: a temporary name, a flush, a rename."""

from __future__ import annotations

import errno
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


def write_whole(path: Path | str, content: str | bytes) -> None:
    """Write a file that somebody named, at once; what was there stays where the disk is full.

    A link is followed, and a pipe or a terminal written to as it is.

    Raises
    ------
    StorageError
        If the system fails to write, flush or rename.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        with storing(path):
            path.write_bytes(data)
        return
    with in_one_step(path.resolve()) as partial:
        partial.write_bytes(data)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder last; some mounts know no such thing, and are not asked."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(handle)
