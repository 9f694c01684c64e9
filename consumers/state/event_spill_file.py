"""Events of open dwells beyond a bound of memory: on disk, in files that nobody has to remove.

A spill is a cache of what the source keeps anyway. Its files are nameless: their space comes back
when the last events in them are used up, or when the process ends, however it ends. Events are read
back as views of a mapped file, so that nothing else needs to know where they are.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from consumers.wire import Events

MEMORY_BYTES = 64 * 2**20
SEGMENT_BYTES = 64 * 2**20
_ALIGNED = 64


@dataclass(slots=True)
class HeldBound:
    """How many bytes of events the partitions of a worker may hold in memory, and do."""

    limit_bytes: int = MEMORY_BYTES
    used_bytes: int = 0


class EventSpill:
    """Takes events out of memory once the bound is reached.

    Parameters
    ----------
    folder : Path
        Where the nameless files are made.
    bound : HeldBound
        Shared by all spills of a worker.
    segment_bytes : int
        Size of a file; events that are larger get one of their own.

    Attributes
    ----------
    disk_bytes : int
        Size of the files that are still in use.
    """

    def __init__(
        self, folder: Path, bound: HeldBound | None = None, *, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self._folder, self._bound = folder, bound or HeldBound()
        self._segment_bytes = segment_bytes
        self.memory_bytes = self.disk_bytes = 0
        self._file: BinaryIO | None = None
        self._map: mmap.mmap | None = None
        self._end = 0  # of what is written in the file at hand

    def has_room(self, events: Events) -> bool:
        """Whether events may stay in memory."""
        return self._bound.used_bytes + bytes_of(events) <= self._bound.limit_bytes

    @property
    def overfull(self) -> bool:
        """Whether more is in memory than may be."""
        return self._bound.used_bytes > self._bound.limit_bytes

    def count(self, n_bytes: int) -> None:
        """So many bytes more, or less, are in memory."""
        self.memory_bytes += n_bytes
        self._bound.used_bytes += n_bytes

    def spill(self, events: Events) -> Events:
        """The same events, on disk.

        Raises
        ------
        OSError
            If they cannot be written, e.g. because the disk is full; nothing has changed then.
        """
        size = sum(_padded(array.nbytes) for array in _bulk(events).values())
        if self._file is None or self._map is None or self._end + size > len(self._map):
            self._begin(max(size, self._segment_bytes))
        file, mapped = self._file, self._map
        if file is None or mapped is None:
            raise RuntimeError("a spill without a file; this is a fault of Beamsteer")
        found: dict[str, NDArray[Any]] = {}
        end = self._end
        for name, array in _bulk(events).items():
            _write_at(file.fileno(), np.ascontiguousarray(array), end)
            found[name] = np.frombuffer(mapped, array.dtype, len(array), end)
            end += _padded(array.nbytes)
        self._end = end
        forget_pages(found.values())
        return replace(
            events,
            reference_time_ns=events.reference_time_ns.copy(),  # views would keep the message
            reference_index=events.reference_index.copy(),
            **found,
        )

    def _begin(self, size: int) -> None:
        file = tempfile.TemporaryFile(dir=self._folder, prefix=".spill-")
        try:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is told here, not when reading
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        except BaseException:
            file.close()
            raise
        if self._file is not None:
            self._file.close()
        self._file, self._map, self._end = file, mapped, 0
        self.disk_bytes += size
        weakref.finalize(mapped, self._given_back, size)

    def _given_back(self, size: int) -> None:
        self.disk_bytes -= size

    def empty(self) -> None:
        """Nothing is held any more: give the file at hand back."""
        if self._file is not None:
            self._file.close()
        self._file = self._map = None

    def close(self) -> None:
        """The partition is somebody else's now."""
        self.count(-self.memory_bytes)
        self.empty()


def bytes_of(events: Events) -> int:
    """What events take in memory, apart from a few hundred bytes for each message."""
    return sum(array.nbytes for array in _bulk(events).values()) + 2 * (
        events.reference_time_ns.nbytes
    )


def forget_pages(arrays: Iterable[NDArray[Any]]) -> None:
    """Let go of the memory of arrays that are views of a mapped file; they can be read again."""
    maps: dict[int, mmap.mmap] = {}
    for array in arrays:
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base  # pyright: ignore[reportUnknownMemberType]
        if isinstance(base, memoryview):
            base = base.obj
        if isinstance(base, mmap.mmap):
            maps[id(base)] = base
    for mapped in maps.values():
        mapped.madvise(mmap.MADV_DONTNEED)


def _bulk(events: Events) -> Mapping[str, NDArray[Any]]:
    return {"time_of_flight_ns": events.time_of_flight_ns, "pixel_id": events.pixel_id}


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNED) * _ALIGNED


def _write_at(handle: int, array: NDArray[Any], place: int) -> None:
    left = memoryview(array.tobytes())
    while left:
        done = os.pwrite(handle, left, place)
        place += done
        left = left[done:]
