"""What went wrong and whose fault it is.

`StorageError` is a disk, folder or handle that fails now and may not later: nothing is wrong with
the data, and trying again helps. `InputError` is bad input: a file, a value or a message that
cannot be used, told with the field, the value and what was expected. It is a ``ValueError``, so
that callers of the library may catch either. Any other ``ValueError`` that reaches a command, the
API or a worker is a fault of Beamsteer and is told as such.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What a process or machine is short of for a while; a file that cannot be read for it is not bad.
SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ESTALE, errno.ETIMEDOUT}
)


class InputError(ValueError):
    """What was given cannot be used; says which field, its value and what was expected."""


class NoForceConstantsError(InputError):
    """A structure comes without force constants; other ways to them may be tried."""


class StorageError(OSError):
    """A file that cannot be written, or read for want of handles or memory; trying again helps.

    Parameters
    ----------
    message : str
    number : int, optional
        The system's ``errno``.
    """

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[0])


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Let every failure of the system in a block that writes ``path`` be one kind of error.

    Raises
    ------
    StorageError
        For any ``OSError``.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        name = path.name.removesuffix(".partial")
        raise StorageError(
            f"{name} cannot be written ({error.strerror or error}); expected room on the disk "
            f"and a folder {path.parent.name!r} that this user may write. Make room, or mend the "
            "folder. A service then goes on by itself; a command is to be run again.",
            error.errno,
        ) from error
