"""Dwells of a run: open, closed, or closed and changed by what came late.

Time decides: a dwell goes on until its stop or the next start, whichever is first.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from consumers.state.manifest_store import ChunkRecord
from consumers.state.offset_ledger import Place, place_of
from consumers.wire import RawMessage, RunBegins, RunEnds


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Who said that a dwell begins, and where."""

    topic: str
    key: bytes | None
    service: str
    instrument: str

    def __str__(self) -> str:
        """As people read it."""
        service = f"service {self.service!r}" if self.service else "an unnamed service"
        instrument = f", instrument {self.instrument!r}" if self.instrument else ""
        return f"{service} on topic {self.topic!r}{instrument}"


@dataclass(slots=True, eq=False)
class Dwell:
    """One dwell, from its start message on."""

    job: str
    start_ns: int
    begins: RunBegins | None  # None: restored, only its record is known
    places: list[Place] = field(default_factory=list[Place])  # of start, stop and descriptors
    ends: RunEnds | None = None
    ends_since_ns: int = 0  # when the stop came, by the clock here
    since_ns: int = 0  # when the start came, by the clock here
    record: ChunkRecord | None = None  # once it was closed
    descriptors: tuple[str, ...] = ()
    changed_ns: int | None = None  # a late message changes what was closed
    late: bool = False  # something came late, and whether it changes anything is not known yet
    heard_ns: int = 0  # when data of it came last, by the clock here; 0: none did
    origin: Origin | None = None
    raw: RawMessage | None = None  # the start message, while it may still be refused

    @property
    def stop_ns(self) -> int | None:
        """Where a message said that it stopped; None if none did."""
        if self.ends is not None:
            return self.ends.stop_time_ns
        if self.record is not None and self.record.explicit_stop:
            return self.record.stop_time_ns
        return None

    @property
    def waiting(self) -> bool:
        """Whether it will be assembled, for the first time or again."""
        return self.record is None or self.changed_ns is not None or self.late


def dwell_that_begins(begins: RunBegins, raw: RawMessage, now_ns: int) -> Dwell:
    """A dwell by its start message; it may say when the dwell will stop."""
    dwell = Dwell(
        job=begins.job,
        start_ns=begins.start_time_ns,
        begins=begins,
        places=[place_of(raw)],
        since_ns=now_ns,
        origin=Origin(
            topic=raw.topic, key=raw.key, service=begins.source, instrument=begins.instrument_name
        ),
        raw=raw,
    )
    if begins.stop_time_ns is not None and begins.stop_time_ns > begins.start_time_ns:
        dwell.ends = RunEnds(job=begins.job, source=begins.source, stop_time_ns=begins.stop_time_ns)
        dwell.ends_since_ns = now_ns
    return dwell


class Dwells:
    """The dwells of a run by start, one at a time."""

    def __init__(self) -> None:
        self._row: list[Dwell] = []
        self._of_job: dict[str, Dwell] = {}

    def __iter__(self) -> Iterator[Dwell]:
        return iter(tuple(self._row))  # other threads count while a dwell begins

    def add(self, dwell: Dwell) -> None:
        """Put a dwell in its place."""
        insort(self._row, dwell, key=_start)
        self._of_job[dwell.job] = dwell

    def remove(self, dwell: Dwell) -> None:
        """Forget a dwell that has not closed."""
        self._row.remove(dwell)
        del self._of_job[dwell.job]

    def of_job(self, job: str) -> Dwell | None:
        """The dwell of a job; None if it did not begin."""
        return self._of_job.get(job)

    def before_time(self, time_ns: int) -> Dwell | None:
        """The last that starts before a time."""
        i = bisect_left(self._row, time_ns, key=_start)
        return self._row[i - 1] if i else None

    def at(self, start_ns: int) -> Dwell | None:
        """The dwell that starts at exactly this time."""
        i = bisect_left(self._row, start_ns, key=_start)
        return self._row[i] if i < len(self._row) and self._row[i].start_ns == start_ns else None

    def before(self, dwell: Dwell) -> Dwell | None:
        """The one before; None for the first."""
        i = bisect_left(self._row, dwell.start_ns, key=_start)
        return self._row[i - 1] if i else None

    def after(self, dwell: Dwell) -> Dwell | None:
        """The one after; None for the last."""
        i = bisect_left(self._row, dwell.start_ns, key=_start)
        return self._row[i + 1] if i + 1 < len(self._row) else None

    def ran_on_into(self, dwell: Dwell) -> Dwell | None:
        """The recorded dwell before, if it ran on into this one, whose start came late."""
        before = self.before(dwell)
        if before is None or before.record is None or before.record.recording is None:
            return None
        return before if before.record.stop_time_ns > dwell.start_ns else None

    def end_of(self, dwell: Dwell) -> int | None:
        """Where a dwell ends as far as is known; None while it may go on."""
        after, stop = self.after(dwell), dwell.stop_ns
        if stop is None or after is None:
            return after.start_ns if after is not None else stop
        return min(stop, after.start_ns)

    def around(self, time_ns: int) -> list[Dwell]:
        """The dwell that a time falls into or follows, and the next one."""
        i = bisect_right(self._row, time_ns, key=_start)
        return self._row[max(i - 1, 0) : i + 1]

    def between(self, first_ns: int, last_ns: int) -> list[Dwell]:
        """Dwells that times from first to last may belong to."""
        first = bisect_right(self._row, first_ns, key=_start)
        last = bisect_right(self._row, last_ns, key=_start)
        return self._row[max(first - 1, 0) : last]


def _start(dwell: Dwell) -> int:
    return dwell.start_ns
