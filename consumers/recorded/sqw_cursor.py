"""A place in an SQW file: numbers and text in its byte order, never beyond its end."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from consumers.recorded.hdf5_file import UnreadableError

LONGEST_TEXT = 1 << 16  # characters of a name, a title, a path


class SqwCursor:
    """Reads forward; every length is checked against what is left before memory is taken.

    Parameters
    ----------
    path : Path
        For messages.
    file : binary file
        Open, seekable.
    order : str
        ``"<"`` or ``">"``.
    at : int
        First byte to read.
    end : int
        Byte behind the last one that may be read.
    """

    def __init__(self, path: Path, file: BinaryIO, order: str, at: int, end: int) -> None:
        self.path, self.order, self.at, self.end = path, order, at, end
        self.stream = file

    def fault(self, field: str, state: str, expected: str) -> UnreadableError:
        """An error that names field, value and expectation."""
        return UnreadableError(
            f"{self.path}: {field} {state}; expected {expected}. The file is cut or damaged: "
            "copy it again"
        )

    def skip(self, field: str, size: int) -> int:
        """Pass over bytes; returns where they began."""
        begin = self.at
        if size < 0 or size > self.end - begin:
            raise self.fault(
                field,
                f"takes {size} bytes at byte {begin}",
                f"at most the {self.end - begin} that are left",
            )
        self.at = begin + size
        return begin

    def take(self, field: str, size: int) -> bytes:
        """So many bytes."""
        begin = self.skip(field, size)
        self.stream.seek(begin)
        data = self.stream.read(size)
        if len(data) != size:
            raise self.fault(field, f"ends after {len(data)} bytes", f"{size}")
        return data

    def number(self, field: str, code: str) -> Any:
        """One number by its code of `struct`."""
        form = self.order + code
        return struct.unpack(form, self.take(field, struct.calcsize(form)))[0]

    def count(self, field: str, code: str = "i", most: int | None = None) -> int:
        """A length, not negative."""
        value = int(self.number(field, code))
        if value < 0 or (most is not None and value > most):
            bound = "0 or more" if most is None else f"0 to {most}"
            raise self.fault(field, f"is {value} at byte {self.at}", bound)
        return value

    def array(self, field: str, kind: str, count: int) -> NDArray[Any]:
        """``count`` numbers of a type of numpy, in the byte order of the machine."""
        dtype = np.dtype(self.order + kind)
        data = self.take(field, count * dtype.itemsize)
        return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))

    def text(self, field: str, length: int | None = None) -> str:
        """Text of a known length, or with its length (32 bits) before it."""
        size = self.count(field, "i", LONGEST_TEXT) if length is None else length
        return self.take(field, size).decode("latin-1")
