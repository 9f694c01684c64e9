"""Opening HDF5 files that may be cut, foreign or absent: every failure is one kind of error.

h5py says nothing of its types; who writes or reads nodes in bulk takes them as ``Any``.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from simulations.errors import SHORTAGES, InputError, StorageError, storing


class UnreadableError(InputError):
    """A file that cannot become a chunk; the message names file, field, value and next step."""


@contextmanager
def open_hdf5(path: Path) -> Generator[h5py.File]:
    """Open a file for reading; what HDF5 cannot read raises ``UnreadableError``.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    UnreadableError
        If the file is absent, no HDF5, cut, or a dataset in it cannot be read.
    StorageError
        If the system is short of handles or memory: the file may be good.
    """
    if not path.is_file():
        raise UnreadableError(f"{path}: no such file. Check the path")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except UnreadableError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        number = getattr(error, "errno", None)
        if number in SHORTAGES:
            raise StorageError(
                f"{path.name} cannot be read now ({os.strerror(number)}); expected free handles "
                "and memory. Raise the limit (LimitNOFILE), or close what holds them: it is tried "
                "again.",
                number,
            ) from error
        text = " ".join(str(error).split())
        if "signature not found" in text:
            raise UnreadableError(
                f"{path}: no HDF5 file; expected NeXus or NXSPE. Check the path"
            ) from error
        raise UnreadableError(
            f"{path}: HDF5 cannot read it ({text[:160]}); the file is cut or damaged. Copy it again"
        ) from error


@contextmanager
def create_hdf5(path: Path) -> Generator[Any]:
    """A new file to write to, readable by HDF5 1.10 and later; replaced if it exists.

    Raises
    ------
    StorageError
        If it cannot be written, e.g. because the disk is full.
    """
    with storing(path), path.open("w+b", buffering=0) as opened:
        bytes_out = _Unfailing(opened)
        try:
            with h5py.File(bytes_out, "w", libver=("earliest", "v110")) as file:
                yield file
        except Exception as error:
            if bytes_out.failure is not None:
                raise bytes_out.failure from error
            raise
        if bytes_out.failure is not None:
            raise bytes_out.failure


class _Unfailing:
    """A file to HDF5 in which no write fails: the first failure is kept, what follows is dropped.

    HDF5 cannot give up a file that it cannot write: its close fails, and later the process.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        while len(left) and self.failure is None:
            try:
                left = left[self._file.write(left) :]
            except OSError as error:
                self.failure = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)  # type: ignore[attr-defined]

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        """Nothing waits here."""


def child_group(parent: h5py.Group, path: str) -> Any | None:
    """Group inside a group; None when it is absent or something else."""
    node = parent.get(path)
    return node if isinstance(node, h5py.Group) else None


def group_of_class(parent: h5py.Group, nx_class: str) -> list[h5py.Group]:
    """Child groups of a NeXus class, in the order of their names."""
    found = []
    for name in parent:
        child = parent.get(name)
        if isinstance(child, h5py.Group) and text_of(child.attrs.get("NX_class")) == nx_class:
            found.append(child)
    return found


def text_of(value: object) -> str:
    """Text of an attribute or of a dataset's first element; empty when there is none."""
    if isinstance(value, h5py.Dataset):
        value = value[()]
    while isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.size else ""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace").strip("\x00 \n")
    return "" if value is None else str(value)


def child_text(parent: h5py.Group, path: str) -> str:
    """Text of a dataset, empty when it is absent."""
    node = parent.get(path)
    return text_of(node) if isinstance(node, h5py.Dataset) else ""


def child_number(parent: h5py.Group, path: str) -> float:
    """First number of a dataset; NaN when it is absent or no number."""
    node = parent.get(path)
    if not isinstance(node, h5py.Dataset) or node.size == 0:
        return float("nan")
    try:
        return float(np.asarray(node[()]).ravel()[0])
    except (TypeError, ValueError):
        return float("nan")


def child_array(parent: h5py.Group, path: str) -> NDArray[Any] | None:
    """Whole dataset, None when it is absent."""
    node = parent.get(path)
    return np.asarray(node[()]) if isinstance(node, h5py.Dataset) else None
