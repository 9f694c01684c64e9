"""Chunks out of wire values: which dwell a neutron belongs to, whatever order messages come in.

Time decides: an event belongs to the dwell whose start is the last before it and whose stop comes
after it. What has come is held until the dwell is closed; nothing of an open dwell is ever saved,
because the source can be read again from the oldest message that is still needed. Once closed, a
dwell is opened again by a message that came late, so that the end does not depend on the order.

Here every message finds its run; what a run makes of it is in ``run_assembly.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

import structlog

from consumers.state.assembled_chunk import AssembledChunk
from consumers.state.closing import Patience
from consumers.state.event_spill_file import EventSpill
from consumers.state.manifest_store import ChunkRecord, Cut, Manifest, Position
from consumers.state.offset_ledger import DeadLetter, OffsetLedger, place_of
from consumers.state.open_dwells import OpenDwell, open_dwells
from consumers.state.pulses import Identity
from consumers.state.run_assembly import Outline, RunAssembly
from consumers.state.settling import settling
from consumers.state.stream_clock import SECOND
from consumers.wire import (
    Described,
    Description,
    Events,
    FaultPolicy,
    Heartbeat,
    LogSample,
    RawMessage,
    ReducedHistogram,
    RunBegins,
    RunEnds,
    Several,
    WireError,
    WireValue,
)
from simulations.errors import InputError

log = structlog.get_logger()


class Assembler:
    """Holds what came of one partition and says which chunks are complete.

    Parameters
    ----------
    default_run : str
        Run of messages without a key.
    outline : callable
        (run, record) to the chunk as it was recorded.
    settle_ns : int
        A dwell closes when the stream, or the clock here, is this far beyond its stop.
    lateness_ns : int
        Data of no dwell are dropped, and counted, when the stream is this far beyond them and so
        much time has passed here since they came.
    timeout_ns : int
        A dwell without a stop closes after this much silence.
    spill : EventSpill, optional
        Where events wait that are too many for memory; absent: all wait in memory.
    instrument : str
        Name of the instrument that is folded, by which starts of others are told; empty where it
        is not known.
    undecodable : str
        What becomes of a message that nobody can understand.
    """

    def __init__(
        self,
        *,
        default_run: str,
        outline: Outline,
        settle_ns: int = 2 * SECOND,
        lateness_ns: int = 60 * SECOND,
        timeout_ns: int = 600 * SECOND,
        spill: EventSpill | None = None,
        instrument: str = "",
        undecodable: FaultPolicy = "dead-letter",
    ) -> None:
        self.default_run = default_run
        self._outline, self._spill, self._instrument = outline, spill, instrument
        self._undecodable = undecodable
        self._patience = Patience(
            settle_ns=settle_ns, lateness_ns=lateness_ns, timeout_ns=timeout_ns
        )
        self._ledger = OffsetLedger()
        self._runs: dict[str, RunAssembly] = {}
        self._run_of_job: dict[str, str] = {}
        self._job_of_descriptor: dict[str, str] = {}
        self._stray: list[tuple[RawMessage, WireValue, int]] = []  # no start, no descriptor yet

    # -- state ----------------------------------------------------------------------------------

    def restore(self, manifest: Manifest, now_ns: int = 0) -> None:
        """Begin where a manifest ended, at a time of the clock here."""
        self._ledger.restore(manifest.positions, manifest.counters)
        for name, record in manifest.runs.items():
            self._run(name).restore(record, now_ns)
            for chunk in record.chunks:
                self._run_of_job[chunk.job] = name
                for descriptor in chunk.descriptors:
                    self._job_of_descriptor[descriptor] = chunk.job

    def positions(self) -> dict[str, Position]:
        """By topic: first offset still needed, and what is settled beyond it."""
        return self._ledger.positions()

    def logs(self) -> dict[str, dict[str, tuple[int, tuple[float, ...]]]]:
        """By run and log: the newest settled sample, which a later dwell may begin with."""
        return {n: dict(run.logs.carried) for n, run in self._runs.items() if run.logs.carried}

    def cuts(self) -> dict[tuple[str, str], tuple[Cut, ...]]:
        """By run and job: what was cut off closed dwells and waits for another one."""
        return {
            (name, job): cuts
            for name, run in self._runs.items()
            for job, cuts in run.cut_off.cuts().items()
        }

    @property
    def counters(self) -> Counter[str]:
        """Messages by what became of them and by topic, events between chunks, reopened chunks."""
        return self._ledger.counters

    @property
    def dead(self) -> list[DeadLetter]:
        """Messages that can be used nowhere; who passes them on clears the list."""
        return self._ledger.dead

    @property
    def open_chunks(self) -> int:
        """Dwells that are not closed."""
        return sum(d.record is None for run in tuple(self._runs.values()) for d in run.dwells)

    @property
    def held_events(self) -> int:
        """Events that wait for their dwell to close."""
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

        Raises
        ------
        ValueError
            If nothing can be understood, and that is the end.
        """
        if not self._ledger.admit(raw):
            return
        if isinstance(value, WireError):
            self._fault(raw, str(value))
        else:
            self._take(raw, value, now_ns)

    def _fault(self, raw: RawMessage, reason: str) -> None:
        if self._undecodable == "dead-letter":
            self._ledger.bury(raw, reason)
        elif self._undecodable == "skip":
            log.warning("message_skipped", topic=raw.topic, offset=raw.offset, reason=reason)
            self._ledger.settle(place_of(raw), "skipped")
        else:
            raise InputError(
                f"source.undecodable is stop, and {raw.topic}[{raw.partition}] offset "
                f"{raw.offset} cannot be used ({reason}); expected messages that can. Mend the "
                "sender, and set it to dead-letter or skip to go beyond this one."
            )

    def _take(self, raw: RawMessage, value: WireValue, now_ns: int) -> None:
        """Take what a message says, or one part of it."""
        if isinstance(value, Heartbeat):
            self._ledger.settle(place_of(raw), "heartbeats")
        elif isinstance(value, RunBegins):
            self._begin(raw, value, now_ns)
        elif isinstance(value, RunEnds):
            run = self._run_of(value.job)
            if run is None:
                self._stray.append((raw, value, now_ns))
            else:
                run.end(raw, value, now_ns)
        elif isinstance(value, Description):
            self._describe(raw, value, now_ns)
        elif isinstance(value, Described):
            self._take_described(raw, value, now_ns)
        elif isinstance(value, Several):
            self._take_several(raw, value, now_ns)
        else:
            self._take_data(raw, value, now_ns)

    def _take_described(self, raw: RawMessage, value: Described, now_ns: int) -> None:
        job = self._job_of_descriptor.get(value.descriptor)
        if job is None:
            self._stray.append((raw, value, now_ns))
            return
        for _ in value.values[1:]:
            self._ledger.need(raw)
        for part in value.values:
            self._take(raw, replace(part, job=job), now_ns)
        if not value.values:
            self._ledger.settle(place_of(raw), "logs")

    def _take_several(self, raw: RawMessage, value: Several, now_ns: int) -> None:
        for _ in value.values[1:]:
            self._ledger.need(raw)
        for part in value.values:
            self._take_data(raw, part, now_ns)
        if not value.values:
            self._ledger.settle(place_of(raw), "logs")

    def _take_data(
        self, raw: RawMessage, value: LogSample | Events | ReducedHistogram, now_ns: int
    ) -> None:
        if value.job is None:
            run = self._run(raw.run or self.default_run)
        else:
            run = self._run_of(value.job)
        if run is None:
            self._stray.append((raw, value, now_ns))
        elif isinstance(value, LogSample):
            run.sample(raw, value, now_ns)
        else:
            run.hold(raw, value, now_ns)

    def _begin(self, raw: RawMessage, begins: RunBegins, now_ns: int) -> None:
        name = begins.metadata.get("run")
        run = self._run(name if isinstance(name, str) and name else raw.run or self.default_run)
        run.clock.heard_ns = now_ns
        if begins.job in self._run_of_job:
            first = self._run(self._run_of_job[begins.job])
            if first.knows(begins.job, begins.start_time_ns):
                self._ledger.settle(place_of(raw), "duplicates", again="bounds")
            else:
                self._ledger.bury(
                    raw,
                    f"job {begins.job!r} started twice with different times; expected every job "
                    "once. The first start counts",
                )
        elif run.begin(raw, begins, now_ns):
            self._run_of_job[begins.job] = run.name
            self._retry(now_ns)

    def _describe(self, raw: RawMessage, value: Description, now_ns: int) -> None:
        known = self._job_of_descriptor.get(value.descriptor)
        if known is not None:
            if known == value.job:
                self._ledger.settle(place_of(raw), "duplicates", again="bounds")
            else:
                self._ledger.bury(
                    raw,
                    f"descriptor {value.descriptor!r} belongs to job {known!r} and to "
                    f"{value.job!r}; expected one. The first counts",
                )
            return
        run = self._run_of(value.job)
        if run is None:
            self._stray.append((raw, value, now_ns))
            return
        run.describe(raw, value.job, value.descriptor)
        self._job_of_descriptor[value.descriptor] = value.job
        self._retry(now_ns)

    def _retry(self, now_ns: int) -> None:
        """Messages that waited for a start or a descriptor may have found it."""
        waiting, self._stray = self._stray, []
        for raw, value, since in waiting:
            before = len(self._stray)
            self._take(raw, value, now_ns)
            if len(self._stray) > before:
                self._stray[-1] = (raw, value, since)

    # -- chunks out -----------------------------------------------------------------------------

    def settling(self, log: str) -> list[float | None]:
        """Average of a log in every dwell of events that has stopped and waits for what is late."""
        return settling(tuple(self._runs.values()), log)

    def open_dwells(
        self, *, logs: Collection[str], known: Collection[Identity] = ()
    ) -> list[OpenDwell]:
        """What has come of the newest dwell of every run that is not closed; see there."""
        return open_dwells(tuple(self._runs.values()), logs=logs, known=known)

    def relieve(self) -> None:
        """Bring events out of memory that found no room on disk when they came; before ``due``.

        Raises
        ------
        OSError
            If they still cannot be written; nothing is lost then.
        """
        for run in self._runs.values():
            run.held.relieve()

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
        stream_ns = max((run.clock.newest_ns for run in self._runs.values()), default=0)
        chunks = [
            chunk
            for run in self._runs.values()
            for chunk in run.due(now_ns, finish=finish, stream_ns=stream_ns)
        ]
        self._drop_strays(now_ns, finish)
        for name in [name for name, run in self._runs.items() if run.is_idle(now_ns)]:
            del self._runs[name]  # keys name runs, and anybody may send a key
        return chunks

    def closed(self, chunk: AssembledChunk, record: ChunkRecord) -> None:
        """The chunk is on disk; its record goes into the next manifest."""
        self._run(chunk.run).closed(chunk.job, record)

    def needed(self) -> set[tuple[str, str]]:
        """Run and job of dwells of which something is open, or waits."""
        return {(name, job) for name, run in self._runs.items() for job in run.needed()}

    def without_recording(self, run: str, job: str) -> None:
        """The recording of a closed dwell is not kept: nothing late can change it any more."""
        self._run(run).without_recording(job)

    def forget_run(self, name: str) -> None:
        """A run is not kept."""
        self._runs.pop(name, None)
        gone = {job for job, run in self._run_of_job.items() if run == name}
        for job in gone:
            del self._run_of_job[job]
        for descriptor in [d for d, job in self._job_of_descriptor.items() if job in gone]:
            del self._job_of_descriptor[descriptor]

    def _drop_strays(self, now_ns: int, finish: bool) -> None:
        """Messages whose start or descriptor never came."""
        kept: list[tuple[RawMessage, WireValue, int]] = []
        for raw, value, since in self._stray:
            if finish or now_ns - since >= self._patience.lateness_ns:
                self._ledger.bury(raw, _why_stray(value))
            else:
                kept.append((raw, value, since))
        self._stray = kept

    # -- runs -----------------------------------------------------------------------------------

    def _run(self, name: str) -> RunAssembly:
        if name not in self._runs:
            self._runs[name] = RunAssembly(
                name,
                ledger=self._ledger,
                outline=self._outline,
                patience=self._patience,
                spill=self._spill,
                instrument=self._instrument,
            )
        return self._runs[name]

    def _run_of(self, job: str) -> RunAssembly | None:
        """Run of a job that began."""
        name = self._run_of_job.get(job)
        return None if name is None else self._run(name)


def _why_stray(value: WireValue) -> str:
    if isinstance(value, RunEnds):
        return (
            f"stop of job {value.job!r} came without a start; expected the start first. "
            "Check the sender, or the topic of run starts"
        )
    if isinstance(value, Described):
        return (
            f"event of descriptor {value.descriptor!r}, which never came; expected the "
            "descriptor first"
        )
    return (
        f"{type(value).__name__} of job {getattr(value, 'job', None)!r}, which never started; "
        "expected its start first"
    )
