"""What of a state may be removed, by age and size: never what may still be needed.

Age is told by the stream, not by a clock here: a clock that was set must not empty a disk, and what
nothing is added to does not grow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from consumers.state.manifest_store import ChunkRecord, RunRecord
from consumers.state.stream_clock import SECOND

DAY_NS = 86_400 * SECOND
NEWEST_KEPT = 2  # recordings of a run: a start that comes late may cut the last
Place = tuple[str, str]  # run, job
SizeOf = Callable[[str], int]  # of a file that a manifest names, bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """How much is kept; None: without bound."""

    days: float | None = None
    size_bytes: int | None = None

    @property
    def everything(self) -> bool:
        """Whether nothing is ever removed."""
        return self.days is None and self.size_bytes is None


def recordings_to_remove(
    runs: Mapping[str, RunRecord],
    *,
    bounds: Bounds,
    needed: Collection[Place],
    lateness_ns: int,
    size_of: SizeOf,
) -> list[Place]:
    """Dwells whose recording may go, oldest first.

    Kept whatever the bounds say: of dwells that are open or wait for something late, of the last
    ``NEWEST_KEPT`` of every run, of those that ended less than ``lateness_ns`` ago, and in a run
    that goes on those that are the only copy of a dwell, because it is not folded.

    Parameters
    ----------
    runs : mapping
        Of the manifest that is to be written.
    bounds : Bounds
    needed : collection of (run, job)
        Dwells that wait for something.
    lateness_ns : int
    size_of : callable
    """
    if bounds.everything:
        return []
    newest_ns = _newest(runs)
    running = _running(runs, needed)
    rows: list[tuple[int, Place, int, bool]] = []
    for name, run in runs.items():
        recorded = [c for c in run.chunks if c.recording is not None]
        last = {c.job for c in recorded[-NEWEST_KEPT:]}
        for chunk in recorded:
            free = (name, chunk.job) not in needed and chunk.job not in last
            free &= chunk.stop_time_ns < newest_ns - lateness_ns
            free &= chunk.status == "folded" or name not in running
            size = size_of(str(chunk.recording))
            rows.append((chunk.stop_time_ns, (name, chunk.job), size, free))
    return _beyond(rows, bounds, newest_ns)


def runs_to_remove(
    runs: Mapping[str, RunRecord],
    *,
    bounds: Bounds,
    needed: Collection[Place],
    size_of: SizeOf,
) -> list[str]:
    """Runs that may go altogether, oldest first; never one that goes on.

    A run goes on while it is the newest of its partition, or something of it waits.
    """
    if bounds.everything:
        return []
    newest_ns = _newest(runs)
    running = _running(runs, needed)
    rows = [
        (
            _newest({name: run}),
            (name, ""),
            sum(map(size_of, _files(run.chunks))),
            name not in running,
        )
        for name, run in runs.items()
        if run.chunks
    ]
    return [name for name, _ in _beyond(rows, bounds, newest_ns)]


def _beyond(
    rows: list[tuple[int, Place, int, bool]], bounds: Bounds, newest_ns: int
) -> list[Place]:
    """Of (time, place, bytes, may go): those beyond the bounds."""
    left = sum(size for _, _, size, _ in rows)
    found: list[Place] = []
    for time_ns, place, size, free in sorted(rows):
        old = bounds.days is not None and newest_ns - time_ns > bounds.days * DAY_NS
        much = bounds.size_bytes is not None and left > bounds.size_bytes
        if free and (old or much):
            found.append(place)
            left -= size
    return found


def _newest(runs: Mapping[str, RunRecord]) -> int:
    return max((c.stop_time_ns for run in runs.values() for c in run.chunks), default=0)


def _running(runs: Mapping[str, RunRecord], needed: Collection[Place]) -> set[str]:
    newest = max(runs, key=lambda name: _newest({name: runs[name]}), default="")
    return {newest, *(name for name, _ in needed)}


def _files(chunks: Iterable[ChunkRecord]) -> list[str]:
    return [name for c in chunks for name in c.files()]
