"""Chunks out of wire values: which dwell a neutron belongs to, whatever order messages come in.

Time decides: an event belongs to the dwell whose start is the last before it and whose stop comes
after it. What has come is held until the dwell is closed; nothing of an open dwell is ever saved,
because the source can be read again from the oldest message that is still needed. Once closed, a
dwell is opened again by a message that came late, so that the end does not depend on the order.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumers.manifest_store import ChunkRecord, Manifest, Position
from consumers.nexus_template import log_names
from consumers.wire import (
    Described,
    Description,
    Events,
    Heartbeat,
    LogSample,
    RawMessage,
    ReducedHistogram,
    RunBegins,
    RunEnds,
    WireError,
    WireValue,
)

SECOND = 1_000_000_000
CHARGE_LOG = "proton_charge"  # one sample per pulse: the last one before the start is not ours
STALE_NS = 5 * SECOND  # a sample from before the start gives way to one this soon after it
JUMP_NS = 3600 * SECOND  # a clock that runs ahead by more must be confirmed by a second message

Place = tuple[str, int]  # topic and offset
NOWHERE: Place = ("", -1)  # of what a recording gave back: settled when it came
Identity = tuple[str, int, int]  # source, sequence, first reference time


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LogSeries:
    """Samples of one log of a dwell, rising in time."""

    time_ns: NDArray[np.int64]  # (samples,); the first may be from before the start
    value: NDArray[np.float64]  # (samples,)
    unit: str = ""

    def average(self, start_ns: int, stop_ns: int) -> float:
        """Mean weighted by how long every value held within the dwell; NaN without samples."""
        if len(self.value) == 0:
            return float("nan")
        times = np.clip(self.time_ns, start_ns, stop_ns)
        held = np.diff(np.append(times, stop_ns)).astype(float)
        if len(self.value) == 1 or not held.sum() > 0:
            return float(self.value[-1])
        if np.all(self.value == self.value[0]):
            return float(self.value[0])
        return float((self.value * held).sum() / held.sum())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AssembledChunk:
    """All that belongs to one dwell, in an order that does not depend on how it came."""

    run: str
    job: str
    chunk: str
    generation: int
    instrument_name: str
    structure: Mapping[str, Any]
    start_time_ns: int
    stop_time_ns: int
    explicit_stop: bool
    note: str | None
    descriptors: tuple[str, ...]
    logs: Mapping[str, LogSeries]  # by name in a file
    events: tuple[Events, ...]  # by first reference time, source, sequence
    reduced: tuple[ReducedHistogram, ...]  # by time, source, sequence

    @property
    def identities(self) -> frozenset[Identity]:
        """What tells its event messages apart."""
        return frozenset(identity(e) for e in self.events)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DeadLetter:
    """A message that can be used nowhere, and why."""

    raw: RawMessage
    reason: str


def identity(events: Events | ReducedHistogram) -> Identity:
    """Source, sequence and first reference time: equal for a message sent twice."""
    if isinstance(events, ReducedHistogram):
        return (events.source, events.sequence, events.time_ns)
    first = int(events.reference_time_ns[0]) if len(events.reference_time_ns) else 0
    return (events.source, events.sequence, first)


def select_pulses(events: Events, keep: NDArray[np.bool_]) -> Events:
    """The events of some pulses of a message.

    Parameters
    ----------
    events : Events
    keep : (pulses,) bool
    """
    if keep.all():
        return events
    ends = np.append(events.reference_index[1:], len(events.time_of_flight_ns))
    lengths = ends - events.reference_index
    first = int(events.reference_index[0]) if len(lengths) else 0
    chosen = np.zeros(len(events.time_of_flight_ns), np.bool_)
    chosen[first:] = np.repeat(keep, lengths)
    return replace(
        events,
        reference_time_ns=events.reference_time_ns[keep],
        reference_index=np.concatenate([[0], np.cumsum(lengths[keep])[:-1]]).astype(np.int64)
        if keep.any()
        else np.empty(0, np.int64),
        time_of_flight_ns=events.time_of_flight_ns[chosen],
        pixel_id=events.pixel_id[chosen],
    )


@dataclass(slots=True, eq=False)
class _Held:
    """Data that came and wait for their dwell to close."""

    value: Events | ReducedHistogram
    raw: RawMessage
    times: NDArray[np.int64]  # (pulses,)
    left: NDArray[np.bool_]  # (pulses,) in no chunk yet
    since_ns: int  # by the clock here
    used: bool = False  # some of it is in a chunk
    first_ns: int = 0

    def __post_init__(self) -> None:
        self.first_ns = int(self.times.min())


@dataclass(slots=True, eq=False)
class _Dwell:
    """One dwell, from its start message on."""

    job: str
    start_ns: int
    begins: RunBegins | None  # None: restored, only its record is known
    places: list[Place] = field(default_factory=list)
    ends: RunEnds | None = None
    ends_since_ns: int = 0  # when the stop came, by the clock here
    since_ns: int = 0  # when the start came, by the clock here
    record: ChunkRecord | None = None  # once it was closed
    descriptors: tuple[str, ...] = ()
    changed_ns: int | None = None  # a late message changes what was closed


@dataclass(slots=True, eq=False)
class _Run:
    name: str
    dwells: list[_Dwell] = field(default_factory=list)  # by start
    held: list[_Held] = field(default_factory=list)
    identities: dict[Identity, _Held] = field(default_factory=dict)
    samples: dict[str, list[tuple[int, float, Place, int]]] = field(default_factory=dict)
    carried: dict[str, tuple[int, tuple[float, ...]]] = field(default_factory=dict)
    newest_ns: int = 0  # of the stream
    heard_ns: int = 0  # by the clock here
    suspects: list[tuple[RawMessage, int, int]] = field(default_factory=list)  # time, since


class Assembler:
    """Holds what came of one partition and says which chunks are complete.

    Parameters
    ----------
    default_run : str
        Run of messages without a key.
    outline : callable
        (run, record) to the chunk as it was recorded; its event arrays may be empty, its
        ``identities`` and logs may not.
    settle_ns : int
        A dwell closes when the stream, or the clock here, is this far beyond its stop.
    lateness_ns : int
        Data of no dwell are dropped, and counted, when the stream is this far beyond them and so
        much time has passed here since they came.
    timeout_ns : int
        A dwell without a stop closes after this much silence.
    """

    def __init__(
        self,
        *,
        default_run: str,
        outline: Callable[[str, ChunkRecord], AssembledChunk],
        settle_ns: int = 2 * SECOND,
        lateness_ns: int = 60 * SECOND,
        timeout_ns: int = 600 * SECOND,
    ) -> None:
        self.default_run = default_run
        self.settle_ns, self.lateness_ns, self.timeout_ns = settle_ns, lateness_ns, timeout_ns
        self.counters: Counter[str] = Counter()
        self.dead: list[DeadLetter] = []
        self._outline = outline
        self._runs: dict[str, _Run] = {}
        self._run_of_job: dict[str, str] = {}
        self._job_of_descriptor: dict[str, str] = {}
        self._stray: list[tuple[RawMessage, WireValue, int]] = []  # no start, no descriptor yet
        self._needed: dict[str, Counter[int]] = {}  # topic -> offset -> parts still needed
        self._newest: dict[str, int] = {}  # topic -> largest offset
        self._restored: dict[str, Position] = {}
        self._settled: dict[str, set[int]] = {}  # topic -> settled offsets
        self._finishing, self._now_ns = False, 0

    # -- state ----------------------------------------------------------------------------------

    def restore(self, manifest: Manifest) -> None:
        """Begin where a manifest ended."""
        self.counters = Counter(manifest.counters)
        self._restored = dict(manifest.positions)
        for name, record in manifest.runs.items():
            run = self._run(name)
            run.carried = {k: (t, tuple(v)) for k, (t, v) in record.logs.items()}
            for chunk in record.chunks:
                dwell = _Dwell(
                    job=chunk.job,
                    start_ns=chunk.start_time_ns,
                    begins=None,
                    record=chunk,
                    descriptors=chunk.descriptors,
                )
                run.dwells.append(dwell)
                self._run_of_job[chunk.job] = name
                for descriptor in chunk.descriptors:
                    self._job_of_descriptor[descriptor] = chunk.job
                run.newest_ns = max(run.newest_ns, chunk.stop_time_ns)
            run.dwells.sort(key=lambda d: d.start_ns)

    def positions(self) -> dict[str, Position]:
        """By topic: first offset still needed, and what is settled beyond it."""
        found: dict[str, Position] = {}
        for topic in {*self._newest, *self._restored}:
            before = self._restored.get(topic, Position(next=0))
            newest = self._newest.get(topic, before.next - 1)
            needed = self._needed.get(topic)
            settled = _ranges(sorted(self._settled.get(topic, ())))
            done = _merged([*before.done, *settled])
            first = min(needed) if needed else max(newest + 1, before.next)
            for a, b in () if needed else done:
                if a <= first <= b:
                    first = b + 1
            found[topic] = Position(next=first, done=tuple(r for r in done if r[0] > first))
            self._settled[topic] = set()
            self._restored[topic] = found[topic]
        return found

    def logs(self) -> dict[str, dict[str, tuple[int, tuple[float, ...]]]]:
        """By run and log: the newest settled sample, which a later dwell may begin with."""
        return {name: dict(run.carried) for name, run in self._runs.items()}

    @property
    def open_chunks(self) -> int:
        """Dwells that are not closed."""
        return sum(
            d.record is None for run in tuple(self._runs.values()) for d in tuple(run.dwells)
        )

    @property
    def held_events(self) -> int:
        """Events in memory, waiting for their dwell to close."""
        return sum(
            len(h.value.time_of_flight_ns)
            for run in self._runs.values()
            for h in run.held
            if isinstance(h.value, Events)
        )

    # -- messages in ----------------------------------------------------------------------------

    def accept(self, raw: RawMessage, value: WireValue | WireError, now_ns: int) -> None:
        """Take one message; one that was settled before a restart is passed over.

        Parameters
        ----------
        raw : RawMessage
        value : WireValue or WireError
            What it says, or why nothing can be understood.
        now_ns : int
            Clock here.
        """
        place = (raw.topic, raw.offset)
        before = self._restored.get(raw.topic)
        if (before is not None and before.has(raw.offset)) or raw.offset in self._settled.get(
            raw.topic, ()
        ):
            return
        if raw.offset in self._needed.get(raw.topic, ()):
            return  # delivered again while it is still held
        self._newest[raw.topic] = max(self._newest.get(raw.topic, -1), raw.offset)
        self._need(place)
        if isinstance(value, WireError):
            self._bury(raw, str(value))
        else:
            self._take(raw, value, now_ns)

    def _take(self, raw: RawMessage, value: WireValue, now_ns: int) -> None:
        if isinstance(value, Heartbeat):
            self._settle(raw, "heartbeats")
        elif isinstance(value, RunBegins):
            self._begin(raw, value, now_ns)
        elif isinstance(value, RunEnds):
            self._end(raw, value, now_ns)
        elif isinstance(value, Description):
            self._describe(raw, value, now_ns)
        elif isinstance(value, Described):
            job = self._job_of_descriptor.get(value.descriptor)
            if job is None:
                self._stray.append((raw, value, now_ns))
                return
            for _ in value.values[1:]:
                self._need((raw.topic, raw.offset))
            for part in value.values:
                self._take(raw, replace(part, job=job), now_ns)
            if not value.values:
                self._settle(raw, "logs")
        else:
            run = self._run_for(raw, value, now_ns)
            if run is None:
                return
            run.heard_ns = now_ns
            if isinstance(value, LogSample):
                self._sample(raw, run, value, now_ns)
            else:
                self._hold(raw, run, value, now_ns)

    def _run_for(
        self, raw: RawMessage, value: LogSample | Events | ReducedHistogram, now_ns: int
    ) -> _Run | None:
        if value.job is None:
            return self._run(raw.run or self.default_run)
        name = self._run_of_job.get(value.job)
        if name is None:
            self._stray.append((raw, value, now_ns))
            return None
        return self._run(name)

    def _begin(self, raw: RawMessage, begins: RunBegins, now_ns: int) -> None:
        name = begins.metadata.get("run")
        run = self._run(name if isinstance(name, str) and name else raw.run or self.default_run)
        run.heard_ns = now_ns
        if begins.job in self._run_of_job:
            same = next(
                (
                    d
                    for r in self._runs.values()
                    for d in r.dwells
                    if d.job == begins.job and d.start_ns == begins.start_time_ns
                ),
                None,
            )
            if same is None:
                self._bury(
                    raw,
                    f"job {begins.job!r} started twice with different times; expected every job "
                    "once. The first start counts",
                )
            else:
                self._settle(raw, "duplicates")
            return
        if any(d.start_ns == begins.start_time_ns for d in run.dwells):
            self._bury(
                raw,
                f"start_time is {begins.start_time_ns}, that of another job of run {run.name!r}; "
                "expected one dwell at a time. The first start counts",
            )
            return
        dwell = _Dwell(
            job=begins.job,
            start_ns=begins.start_time_ns,
            begins=begins,
            places=[(raw.topic, raw.offset)],
            since_ns=now_ns,
        )
        if begins.stop_time_ns is not None and begins.stop_time_ns > begins.start_time_ns:
            dwell.ends = RunEnds(
                job=begins.job, source=begins.source, stop_time_ns=begins.stop_time_ns
            )
            dwell.ends_since_ns = now_ns
        insort(run.dwells, dwell, key=lambda d: d.start_ns)
        self._run_of_job[begins.job] = run.name
        self._bound(run, begins.start_time_ns)
        self._retry(now_ns)

    def _end(self, raw: RawMessage, ends: RunEnds, now_ns: int) -> None:
        name = self._run_of_job.get(ends.job)
        if name is None:
            self._stray.append((raw, ends, now_ns))
            return
        run = self._run(name)
        run.heard_ns = now_ns
        dwell = next(d for d in run.dwells if d.job == ends.job)
        if ends.stop_time_ns <= dwell.start_ns:
            self._bury(
                raw,
                f"stop_time is {ends.stop_time_ns}; expected one after the start of job "
                f"{ends.job!r}, {dwell.start_ns}. Check the clock of the sender",
            )
            return
        known = dwell.ends.stop_time_ns if dwell.ends is not None else None
        if dwell.record is not None and dwell.record.explicit_stop:
            known = dwell.record.stop_time_ns
        if known is not None:
            if known == ends.stop_time_ns:
                self._settle(raw, "duplicates")
            else:
                self._bury(
                    raw,
                    f"job {ends.job!r} stopped at {known} and again at {ends.stop_time_ns}; "
                    "expected one stop. The first counts",
                )
            return
        dwell.ends, dwell.ends_since_ns = ends, now_ns
        dwell.places.append((raw.topic, raw.offset))
        if dwell.record is not None:
            dwell.changed_ns = now_ns
        self._bound(run, ends.stop_time_ns)

    def _describe(self, raw: RawMessage, value: Description, now_ns: int) -> None:
        known = self._job_of_descriptor.get(value.descriptor)
        if known is not None:
            if known == value.job:
                self._settle(raw, "duplicates")
            else:
                self._bury(
                    raw,
                    f"descriptor {value.descriptor!r} belongs to job {known!r} and to "
                    f"{value.job!r}; expected one. The first counts",
                )
            return
        name = self._run_of_job.get(value.job)
        if name is None:
            self._stray.append((raw, value, now_ns))
            return
        dwell = next(d for d in self._run(name).dwells if d.job == value.job)
        dwell.descriptors = tuple(sorted({*dwell.descriptors, value.descriptor}))
        self._job_of_descriptor[value.descriptor] = value.job
        if dwell.record is None:
            dwell.places.append((raw.topic, raw.offset))
        else:
            self._settle(raw, "logs")
        self._retry(now_ns)

    def _retry(self, now_ns: int) -> None:
        """Messages that waited for a start or a descriptor may have found it."""
        waiting, self._stray = self._stray, []
        for raw, value, since in waiting:
            before = len(self._stray)
            self._take(raw, value, now_ns)
            if len(self._stray) > before:
                self._stray[-1] = (raw, value, since)

    def _sample(self, raw: RawMessage, run: _Run, sample: LogSample, now_ns: int) -> None:
        place = (raw.topic, raw.offset)
        if len(sample.value) != 1:
            self._settle(raw, "logs")  # no dwell is described by a vector
            return
        value, t = float(sample.value[0]), sample.time_ns
        series = run.samples.setdefault(sample.source, [])
        i = bisect_right(series, t, key=lambda s: s[0])
        if i and series[i - 1][0] == t:
            if series[i - 1][1] == value or (np.isnan(value) and np.isnan(series[i - 1][1])):
                self._settle(raw, "duplicates")
            else:
                self._bury(
                    raw,
                    f"log {sample.source!r} has the values {series[i - 1][1]} and {value} at the "
                    f"time {t}; expected one. The first counts",
                )
            return
        self._advance(run, raw, t, now_ns)
        touched = self._closed_by_sample(run, sample.source, t, value)
        if touched is None:
            self._settle(raw, "duplicates")
            series.insert(i, (t, value, NOWHERE, now_ns))  # the next dwell may begin with it
            return
        series.insert(i, (t, value, place, now_ns))
        for dwell in touched:
            dwell.changed_ns = now_ns

    def _closed_by_sample(
        self, run: _Run, source: str, t: int, value: float
    ) -> list[_Dwell] | None:
        """Closed dwells that a sample changes; None when one of them has it already."""
        changed: list[_Dwell] = []
        i = bisect_right(run.dwells, t, key=lambda d: d.start_ns)
        # The dwell it falls into, and the next one, which it may precede.
        for dwell in run.dwells[max(i - 1, 0) : i + 1]:
            if dwell.record is None or dwell.record.recording is None:
                continue
            stop = self._end_of(run, dwell)
            if stop is not None and t >= stop:
                continue
            known = self._outline(run.name, dwell.record)
            name = log_names(known.structure)
            mapped = name[source].name if source in name else source
            series = known.logs.get(mapped)
            there = series is not None and bool(np.any(series.time_ns == t))
            if there:
                return None
            if t < dwell.start_ns:
                if mapped == CHARGE_LOG:
                    continue
                if series is not None and len(series.time_ns):
                    first = int(series.time_ns[0])
                    if first > t and first - dwell.start_ns <= STALE_NS and first >= dwell.start_ns:
                        continue
                    if t < first < dwell.start_ns:
                        continue
            changed.append(dwell)
        return changed

    def _hold(
        self, raw: RawMessage, run: _Run, value: Events | ReducedHistogram, now_ns: int
    ) -> None:
        own = identity(value)
        same = run.identities.get(own)
        if same is not None:
            if _same_data(same.value, value):
                self._settle(raw, "duplicates")
            else:
                self._bury(
                    raw,
                    f"source {own[0]!r} sent message {own[1]} of time {own[2]} twice with other "
                    "content; expected one. The first counts",
                )
            return
        times = (
            value.reference_time_ns
            if isinstance(value, Events)
            else np.array([value.time_ns], np.int64)
        )
        if len(times) == 0:
            self._settle(raw, "empty")
            return
        if value.job is None:
            self._advance(run, raw, int(times.max()), now_ns)
        held = _Held(
            value=value,
            raw=raw,
            times=times,
            left=np.ones(len(times), np.bool_),
            since_ns=now_ns,
        )
        for dwell in self._near(run, held):
            if dwell.record is None:
                continue
            mine = self._pulses_of(run, dwell, held)
            if not mine.any():
                continue
            part = select_pulses(value, mine) if isinstance(value, Events) else value
            if dwell.record.recording is None or identity(part) in (
                self._outline(run.name, dwell.record).identities
            ):
                held.left = held.left & ~mine
            else:
                dwell.changed_ns = now_ns
        if not held.left.any():
            self._settle(raw, "duplicates")
            return
        run.held.append(held)
        run.identities[own] = held

    def _near(self, run: _Run, held: _Held) -> list[_Dwell]:
        """Dwells that data may belong to."""
        if held.value.job is not None:
            return [d for d in run.dwells if d.job == held.value.job]
        first = bisect_right(run.dwells, int(held.times.min()), key=lambda d: d.start_ns)
        last = bisect_right(run.dwells, int(held.times.max()), key=lambda d: d.start_ns)
        return run.dwells[max(first - 1, 0) : last]

    def _bound(self, run: _Run, time_ns: int) -> None:
        """A start or stop moves the stream's time on, but never makes it jump."""
        if run.newest_ns and time_ns <= run.newest_ns + JUMP_NS:
            run.newest_ns = max(run.newest_ns, time_ns)

    def _advance(self, run: _Run, raw: RawMessage, time_ns: int, now_ns: int) -> None:
        """Move the stream's time on; a jump ahead, or the first time, wants a second witness."""
        if run.newest_ns and time_ns <= run.newest_ns + JUMP_NS:
            run.newest_ns = max(run.newest_ns, time_ns)
        elif any(abs(time_ns - t) <= JUMP_NS for _, t, _ in run.suspects):
            run.suspects = [s for s in run.suspects if abs(time_ns - s[1]) > JUMP_NS]
            run.newest_ns = time_ns
        else:
            run.suspects.append((raw, time_ns, now_ns))

    # -- chunks out -----------------------------------------------------------------------------

    def due(self, now_ns: int, *, finish: bool = False) -> list[AssembledChunk]:
        """Chunks that are complete, or changed after they were closed.

        Everything returned must go into one manifest together.

        Parameters
        ----------
        now_ns : int
            Clock here.
        finish : bool
            The stream has ended: close what is open and settle what is left.
        """
        chunks: list[AssembledChunk] = []
        self._finishing, self._now_ns = finish, now_ns
        for run in self._runs.values():
            for dwell in run.dwells:
                if dwell.record is None:
                    end = self._closing_time(run, dwell, now_ns, finish)
                    if end is not None:
                        chunks.extend(self._give_up_surplus(run, dwell))
                        chunks.append(self._assemble(run, dwell, *end))
                elif dwell.changed_ns is not None and (
                    finish or now_ns - dwell.changed_ns >= self.settle_ns
                ):
                    chunks.append(self._assemble_again(run, dwell))
            self._drop_between(run, now_ns, finish)
        self._drop_strays(now_ns, finish)
        return chunks

    def closed(self, chunk: AssembledChunk, record: ChunkRecord) -> None:
        """The chunk is on disk; its record goes into the next manifest."""
        run = self._run(chunk.run)
        dwell = next(d for d in run.dwells if d.job == chunk.job)
        dwell.record = record
        self._settle_samples(run)

    def _end_of(self, run: _Run, dwell: _Dwell) -> int | None:
        """Where a dwell ends as far as is known; None while it may go on."""
        i = run.dwells.index(dwell)
        following = run.dwells[i + 1].start_ns if i + 1 < len(run.dwells) else None
        stop = dwell.ends.stop_time_ns if dwell.ends is not None else None
        if stop is None and dwell.record is not None and dwell.record.explicit_stop:
            stop = dwell.record.stop_time_ns
        if stop is None or following is None:
            return following if stop is None else stop
        return min(stop, following)

    def _closing_time(
        self, run: _Run, dwell: _Dwell, now_ns: int, finish: bool
    ) -> tuple[int, bool, str | None] | None:
        """Stop, whether a message said so, and a note; None while the dwell stays open."""
        end = self._end_of(run, dwell)
        explicit = dwell.ends is not None
        if end is not None:
            passed = run.newest_ns >= end + self.settle_ns
            if not explicit:  # the stop may be late, and so may a start in between
                following = run.dwells[run.dwells.index(dwell) + 1]
                passed = passed and now_ns - following.since_ns >= self.lateness_ns
            silent = explicit and now_ns - max(run.heard_ns, dwell.ends_since_ns) >= self.settle_ns
            if not (finish or passed or silent):
                return None
            if not explicit:
                return end, False, "no stop came; closed where the next dwell starts"
            if dwell.ends is not None and end < dwell.ends.stop_time_ns:
                return end, True, "the next dwell starts before its stop; closed there"
            return end, True, None
        if finish or now_ns - run.heard_ns >= self.timeout_ns:
            last = max(
                (
                    int(h.times[h.times >= dwell.start_ns].max())
                    for h in run.held
                    if h.value.job in (None, dwell.job) and np.any(h.times >= dwell.start_ns)
                ),
                default=dwell.start_ns,
            )
            why = "the stream ended" if finish else "no stop came in time"
            return last + 1, False, f"{why}; closed after the last event"
        return None

    def _pulses_of(
        self, run: _Run, dwell: _Dwell, held: _Held, end_ns: int | None = None
    ) -> NDArray[np.bool_]:
        """Which pulses of a message belong to a dwell."""
        if held.value.job is not None:
            return held.left if held.value.job == dwell.job else np.zeros_like(held.left)
        end = self._end_of(run, dwell) if end_ns is None else end_ns
        mine = held.left & (held.times >= dwell.start_ns)
        return mine if end is None else mine & (held.times < end)

    def _assemble(
        self, run: _Run, dwell: _Dwell, end_ns: int, explicit: bool, note: str | None
    ) -> AssembledChunk:
        begins = dwell.begins
        if begins is None:
            raise RuntimeError(f"job {dwell.job!r} has no start; this is a fault of Beamsteer")
        names = log_names(begins.structure)
        logs: dict[str, LogSeries] = {}
        for source in {*run.samples, *run.carried}:
            name = names[source].name if source in names else source
            unit = names[source].unit if source in names else ""
            series = self._series(run, source, dwell.start_ns, end_ns, carry=name != CHARGE_LOG)
            if len(series[0]):
                logs[name] = LogSeries(time_ns=series[0], value=series[1], unit=unit)
        events, reduced = self._parts(run, dwell, end_ns)
        for place in dwell.places:
            self._settle_place(place, "bounds")
        dwell.places.clear()
        dwell.changed_ns = None
        return AssembledChunk(
            run=run.name,
            job=dwell.job,
            chunk=begins.chunk,
            generation=0,
            instrument_name=begins.instrument_name,
            structure=begins.structure,
            start_time_ns=dwell.start_ns,
            stop_time_ns=end_ns,
            explicit_stop=explicit,
            note=note,
            descriptors=dwell.descriptors,
            logs=dict(sorted(logs.items())),
            events=in_order(events),
            reduced=tuple(sorted(reduced, key=lambda r: (r.time_ns, r.source, r.sequence))),
        )

    def _parts(
        self, run: _Run, dwell: _Dwell, end_ns: int
    ) -> tuple[list[Events], list[ReducedHistogram]]:
        """Take what belongs to a dwell out of what is held."""
        events: list[Events] = []
        reduced: list[ReducedHistogram] = []
        for held in run.held:
            mine = self._pulses_of(run, dwell, held, end_ns)
            if not mine.any():
                continue
            if isinstance(held.value, Events):
                events.append(select_pulses(held.value, mine))
            else:
                reduced.append(held.value)
            held.left = held.left & ~mine
            held.used = True
        self._let_go(run)
        return events, reduced

    def _let_go(self, run: _Run, outcome: str | None = None) -> None:
        kept: list[_Held] = []
        for held in run.held:
            if held.left.any():
                kept.append(held)
            else:
                run.identities.pop(identity(held.value), None)
                self._settle(held.raw, outcome or ("data" if held.used else "between_chunks"))
        run.held = kept

    def _series(
        self, run: _Run, source: str, start_ns: int, end_ns: int, *, carry: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        samples = run.samples.get(source, [])
        times = [s[0] for s in samples]
        i, j = bisect_right(times, start_ns - 1), bisect_right(times, end_ns - 1)
        inside = [s[:2] for s in samples[i:j]]
        soon = bool(inside) and inside[0][0] - start_ns <= STALE_NS
        if carry and not soon:
            if i:
                inside.insert(0, samples[i - 1][:2])
            elif source in run.carried and run.carried[source][0] < start_ns:
                t, v = run.carried[source]
                inside.insert(0, (t, v[0]))
        return (
            np.array([t for t, _ in inside], np.int64),
            np.array([v for _, v in inside], np.float64),
        )

    def _give_up_surplus(self, run: _Run, dwell: _Dwell) -> list[AssembledChunk]:
        """A closed dwell that ran on into this one, whose start came late, gives back its share."""
        i = run.dwells.index(dwell)
        before = run.dwells[i - 1] if i else None
        if before is None or before.record is None or before.record.recording is None:
            return []
        if before.record.stop_time_ns <= dwell.start_ns:
            return []
        return [self._assemble_again(run, before)]

    def _give_back(self, run: _Run, known: AssembledChunk, end_ns: int) -> None:
        """What a recording has beyond the end of its dwell may belong to another one."""
        for events in known.events:
            beyond = events.reference_time_ns >= end_ns
            if beyond.any():
                run.held.append(
                    _Held(
                        value=events,
                        raw=RawMessage(topic=NOWHERE[0], partition=0, offset=-1, value=b""),
                        times=events.reference_time_ns,
                        left=beyond,
                        since_ns=self._now_ns,
                        used=True,
                    )
                )
        sources = {named.name: source for source, named in log_names(known.structure).items()}
        for name, log in known.logs.items():
            series = run.samples.setdefault(sources.get(name, name), [])
            for t, value in zip(log.time_ns.tolist(), log.value.tolist(), strict=True):
                i = bisect_right(series, t, key=lambda s: s[0])
                if t >= end_ns and not (i and series[i - 1][0] == t):
                    series.insert(i, (t, value, NOWHERE, self._now_ns))

    def _assemble_again(self, run: _Run, dwell: _Dwell) -> AssembledChunk:
        """The chunk as recorded together with what came late."""
        record = dwell.record
        if record is None or record.recording is None:
            raise RuntimeError(f"job {dwell.job!r} was not recorded; this is a fault of Beamsteer")
        known = self._outline(run.name, record)
        end = self._end_of(run, dwell)
        explicit = record.explicit_stop or dwell.ends is not None
        note = None if explicit else record.note
        if end is None:
            late = [
                int(h.times[h.times >= dwell.start_ns].max())
                for h in run.held
                if h.value.job in (None, dwell.job) and np.any(h.times >= dwell.start_ns)
            ]
            end = max([record.stop_time_ns, *(t + 1 for t in late)])
        names = log_names(known.structure)
        logs = dict(known.logs)
        for source in run.samples:
            name = names[source].name if source in names else source
            unit = names[source].unit if source in names else ""
            times, values = self._series(run, source, dwell.start_ns, end, carry=name != CHARGE_LOG)
            logs[name] = _joined(
                logs.get(name), LogSeries(time_ns=times, value=values, unit=unit),
                dwell.start_ns, end,
            )  # fmt: skip
        self._give_back(run, known, end)
        events, reduced = self._parts(run, dwell, end)
        kept = [
            select_pulses(e, e.reference_time_ns < end)
            for e in known.events
            if np.any(e.reference_time_ns < end)
        ]
        there = {identity(e) for e in kept}
        for place in dwell.places:
            self._settle_place(place, "bounds")
        dwell.places.clear()
        dwell.changed_ns = None
        self.counters["reopened"] += 1
        return replace(
            known,
            generation=record.generation + 1,
            stop_time_ns=end,
            explicit_stop=explicit,
            note=note,
            descriptors=dwell.descriptors,
            logs=dict(sorted((k, v) for k, v in logs.items() if len(v.time_ns))),
            events=in_order([*kept, *(e for e in events if identity(e) not in there)]),
            reduced=tuple(
                sorted(
                    {identity(r): r for r in [*known.reduced, *reduced]}.values(),
                    key=lambda r: (r.time_ns, r.source, r.sequence),
                )
            ),
        )

    # -- what belongs nowhere -------------------------------------------------------------------

    def _drop_between(self, run: _Run, now_ns: int, finish: bool) -> None:
        """Count pulses of no dwell, once the stream is well beyond them."""
        waiting = []
        for raw, t, since in run.suspects:
            if finish or now_ns - since >= self.lateness_ns:
                self._bury_suspect(run, raw, t)
            else:
                waiting.append((raw, t, since))
        run.suspects = waiting
        limit = run.newest_ns - self.lateness_ns
        for held in run.held:
            if not finish and (held.first_ns >= limit or held.since_ns > now_ns - self.lateness_ns):
                continue
            old = held.left & (finish | (held.times < limit))
            for dwell in run.dwells:
                if dwell.record is None or dwell.changed_ns is not None:
                    old &= ~self._pulses_of(run, dwell, held)
            if old.any():
                if isinstance(held.value, Events):
                    lost = select_pulses(held.value, old)
                    self.counters["events_between_chunks"] += len(lost.time_of_flight_ns)
                held.left = held.left & ~old
        self._let_go(run)
        self._settle_samples(run)

    def _bury_suspect(self, run: _Run, raw: RawMessage, t: int) -> None:
        """A message that jumped ahead of the stream and stayed alone; not if a dwell has it."""
        place = (raw.topic, raw.offset)
        held = next((h for h in run.held if h.raw is raw), None)
        if held is not None:
            if any(self._pulses_of(run, d, held).any() for d in self._near(run, held)):
                return
            run.held.remove(held)
            run.identities.pop(identity(held.value), None)
        else:
            source = next(
                (k for k, series in run.samples.items() if any(s[2] == place for s in series)), None
            )
            if source is None or any(d.start_ns <= t for d in run.dwells if d.record is None):
                return
            run.samples[source] = [s for s in run.samples[source] if s[2] != place]
        self._bury(
            raw,
            f"time is {t}, {(t - run.newest_ns) / SECOND:.0f} s ahead of the stream of run "
            f"{run.name!r}, and no other message agrees; expected a step of at most "
            f"{JUMP_NS // SECOND} s. Check the sender's clock",
        )

    def _settle_samples(self, run: _Run) -> None:
        """Samples that no open dwell needs: the newest is carried, the others are done with."""
        limit = run.newest_ns - self.lateness_ns
        waiting = [d.start_ns for d in run.dwells if d.record is None or d.changed_ns is not None]
        limit = min([limit, *waiting])
        if self._finishing and not waiting:
            limit = max([limit, *(s[-1][0] + 1 for s in run.samples.values() if s)])
        for source, samples in run.samples.items():
            n = bisect_right(samples, limit - 1, key=lambda s: s[0])
            if not self._finishing:  # a topic that is read later may still bring their dwell
                old = self._now_ns - self.lateness_ns
                n = next((i for i, s in enumerate(samples[:n]) if s[3] > old), n)
            if not n:
                continue
            t, value = samples[n - 1][:2]
            if source not in run.carried or run.carried[source][0] <= t:
                run.carried[source] = (t, (value,))
            for sample in samples[:n]:
                self._settle_place(sample[2], "logs")
            del samples[:n]

    def _drop_strays(self, now_ns: int, finish: bool) -> None:
        kept = []
        for raw, value, since in self._stray:
            if not finish and now_ns - since < self.lateness_ns:
                kept.append((raw, value, since))
            elif isinstance(value, RunEnds):
                self._bury(
                    raw,
                    f"stop of job {value.job!r} came without a start; expected the start first. "
                    "Check the sender, or the topic of run starts",
                )
            elif isinstance(value, Described):
                self._bury(
                    raw,
                    f"event of descriptor {value.descriptor!r}, which never came; expected the "
                    "descriptor first",
                )
            else:
                job = getattr(value, "job", None)
                self._bury(
                    raw,
                    f"{type(value).__name__} of job {job!r}, which never started; expected its "
                    "start first",
                )
        self._stray = kept

    # -- accounts -------------------------------------------------------------------------------

    def _run(self, name: str) -> _Run:
        if name not in self._runs:
            self._runs[name] = _Run(name=name)
        return self._runs[name]

    def _need(self, place: Place) -> None:
        self._needed.setdefault(place[0], Counter())[place[1]] += 1

    def _settle(self, raw: RawMessage, outcome: str) -> None:
        self._settle_place((raw.topic, raw.offset), outcome)

    def _settle_place(self, place: Place, outcome: str) -> None:
        needed = self._needed.get(place[0])
        if needed is None or place[1] not in needed:
            return  # data given back by a recording: counted when they first came
        needed[place[1]] -= 1
        if needed[place[1]] <= 0:
            del needed[place[1]]
            self._settled.setdefault(place[0], set()).add(place[1])
            self.counters[f"messages.{place[0]}"] += 1
            self.counters[outcome] += 1

    def _bury(self, raw: RawMessage, reason: str) -> None:
        if not any(d.raw is raw for d in self.dead):
            self.dead.append(DeadLetter(raw=raw, reason=reason))
        self._settle(raw, "dead_letters")


def in_order(events: Iterable[Events]) -> tuple[Events, ...]:
    """Canonical order: by first reference time, source, sequence."""
    return tuple(sorted(events, key=lambda e: (int(e.reference_time_ns[0]), e.source, e.sequence)))


def _joined(known: LogSeries | None, new: LogSeries, start_ns: int, stop_ns: int) -> LogSeries:
    """Both together, cut to the dwell and the one sample before it."""
    if known is None:
        return new
    pairs = dict(zip(known.time_ns.tolist(), known.value.tolist(), strict=True))
    for t, v in zip(new.time_ns.tolist(), new.value.tolist(), strict=True):
        pairs.setdefault(t, v)
    inside = sorted(p for p in pairs.items() if start_ns <= p[0] < stop_ns)
    before = sorted(p for p in pairs.items() if p[0] < start_ns)
    if before and not (inside and inside[0][0] - start_ns <= STALE_NS):
        inside.insert(0, before[-1])
    return LogSeries(
        time_ns=np.array([t for t, _ in inside], np.int64),
        value=np.array([v for _, v in inside], np.float64),
        unit=known.unit or new.unit,
    )


def _same_data(one: Events | ReducedHistogram, two: Events | ReducedHistogram) -> bool:
    if isinstance(one, Events) and isinstance(two, Events):
        return (
            np.array_equal(one.reference_time_ns, two.reference_time_ns)
            and np.array_equal(one.time_of_flight_ns, two.time_of_flight_ns)
            and np.array_equal(one.pixel_id, two.pixel_id)
        )
    if isinstance(one, ReducedHistogram) and isinstance(two, ReducedHistogram):
        return np.array_equal(one.intensity, two.intensity, equal_nan=True)
    return False


def _ranges(offsets: list[int]) -> tuple[tuple[int, int], ...]:
    """Rising offsets as closed ranges."""
    found: list[tuple[int, int]] = []
    for offset in offsets:
        if found and found[-1][1] == offset - 1:
            found[-1] = (found[-1][0], offset)
        else:
            found.append((offset, offset))
    return tuple(found)


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Closed ranges in order, those that touch as one."""
    found: list[tuple[int, int]] = []
    for a, b in sorted(ranges):
        if found and a <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], b))
        else:
            found.append((a, b))
    return found
