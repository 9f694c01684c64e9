"""The fold worker: raw messages in, closed chunks and a manifest out, every message exactly once.

What a dwell became is on disk before the source learns that its messages are settled, and nothing
else is ever kept: a worker that is killed at any instant leaves the last manifest, and its
successor reads the source again from the oldest message that this manifest still needs.
"""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import structlog

from consumers.fold import Message, Payload, SetAside
from consumers.recorded import EI_LOGS, UnreadableError, recorded_source
from consumers.state import (
    MANIFEST,
    SECOND,
    AssembledChunk,
    Assembler,
    ChunkRecord,
    DeadLetter,
    EventSpill,
    HeldBound,
    Manifest,
    PartitionLock,
    file_name,
    partition_folder,
    read_recording,
    remove_unnamed,
    run_folder,
    write_manifest,
    write_recording,
)
from consumers.transport import DeadLetters
from consumers.wire import FaultPolicy, RawMessage, WireError, decode
from simulations.errors import InputError, StorageError, storing
from steering.experiment import Measurement
from steering.run import Run
from steering.service.clocks import Clock, ClockWatch, Patience, steady_ns
from steering.service.foresight import Foresight
from steering.service.glimpsing import Glimpses
from steering.service.health import Progress, WorkerStatus
from steering.service.metrics import Timings
from steering.service.obeying import Obedience
from steering.service.reduced_dwell import reduced_payloads
from steering.service.retaining import Kept, events_of, held_bytes, retain, run_records
from steering.service.storage import (
    HELD_EVENT_BYTES,
    DiskWatch,
    WriteTrouble,
    claimed_manifest,
    refuse_too_many,
)

log = structlog.get_logger()


class FoldWorker:
    """Folds the partitions it is given; a ``PartitionOwner``.

    Parameters
    ----------
    measurement : Measurement
        The experiment made concrete.
    state : Path
        The state folder, shared by all workers and readers of this experiment.
    default_run : str
        Run of messages without a key.
    psi_deg : float, optional
        Operator's psi for dwells that log none.
    patience : Patience
    dead_letters : DeadLetters, optional
        Where messages go that can be used nowhere; absent: they are logged and counted.
    on_commit : callable, optional
        Called with (folder of the partition, manifest, runs) after every commit.
    timings : Timings, optional
        Gets how long folds and commits take.
    on_take : callable, optional
        Called when a partition's lock is held and the state is known to be this experiment's.
    held : HeldBound, optional
        Memory for events of open dwells; what is beyond it waits on disk.
    kept : Kept, optional
        Bounds of recordings and runs; absent: all stay.
    undecodable : str
        What becomes of a message that cannot be decoded.
    clock : callable
        Time in ns that never steps; it turns the loop.
    watch : ClockWatch, optional
        Looks at the wall clock.
    """

    def __init__(
        self,
        measurement: Measurement,
        *,
        state: Path,
        default_run: str,
        psi_deg: float | None = None,
        patience: Patience | None = None,
        dead_letters: DeadLetters | None = None,
        on_commit: Callable[[Path, Manifest, Mapping[str, Run]], None] | None = None,
        timings: Timings | None = None,
        on_take: Callable[[], None] | None = None,
        held: HeldBound | None = None,
        kept: Kept | None = None,
        undecodable: FaultPolicy = "dead-letter",
        clock: Clock = steady_ns,
        watch: ClockWatch | None = None,
    ) -> None:
        self.measurement = measurement
        self.state = state
        self.default_run = default_run
        self.psi_deg = psi_deg
        self.patience = patience or Patience()
        self.held = held or HeldBound()
        self.kept = kept or Kept()
        self.undecodable: FaultPolicy = undecodable
        self._dead_letters = dead_letters
        self._on_commit = on_commit
        self._timings, self._on_take = timings, on_take
        self._clock = clock
        self._watch = watch or ClockWatch()
        self._partitions: dict[int, _Partition] = {}
        self._taken = 0
        self._uncommitted: dict[int, str] = {}  # partition: why, when it was released
        self._busy = threading.RLock()  # a partition neither comes nor goes during a turn
        self._received: Counter[str] = Counter()
        self._data_ns: int | None = None
        self._error: str | None = None
        self._last_loop_ns = clock()
        self._last_commit_ns: int | None = None
        self._last_turn_ns = 0
        self._busy_since_ns: int | None = None
        self.disk = DiskWatch(state)
        self.foresight = Foresight(measurement)

    # -- partitions -----------------------------------------------------------------------------

    def take(self, partition: int) -> Mapping[str, int]:
        """Lock a partition's folder, load its state, say where its source must go on."""
        with self._busy:
            if partition in self._partitions:
                self.release(partition)
            mine = _Partition(self, partition)
            self._taken += 1
            mine.since = self._taken
            self._partitions[partition] = mine
        log.info("partition_taken", partition=partition, generation=mine.manifest.generation)
        return {topic: p.next for topic, p in mine.manifest.positions.items()}

    def release(self, partition: int) -> None:
        """Commit what is settled and unlock; what is open is read again by the next owner."""
        with self._busy:
            mine = self._partitions.pop(partition, None)
            if mine is None:
                return
            try:
                mine.flush()
            except OSError as error:  # the manifest before stands; the next owner reads again
                self.failed(str(error))
                self._uncommitted[partition] = str(error)
                log.error("not_committed", partition=partition, reason=str(error))
            finally:
                mine.leave()
        log.info("partition_released", partition=partition, generation=mine.manifest.generation)

    def forget(self, partition: int) -> None:
        """Unlock a partition without saving: somebody else may own it already."""
        with self._busy:
            mine = self._partitions.pop(partition, None)
            if mine is not None:
                mine.leave()
                log.warning("partition_forgotten", partition=partition)

    def owned_since(self, partition: int) -> int:
        """A number that changes whenever a partition is taken anew; 0 while it is not ours."""
        mine = self._partitions.get(partition)
        return 0 if mine is None else mine.since

    def stuck(self) -> frozenset[int]:
        """Partitions that take nothing more until what they hold can be written."""
        return frozenset(n for n, mine in self._partitions.items() if mine.trouble.reason)

    def close(self) -> None:
        """Release everything.

        Raises
        ------
        StorageError
            If something could not be written; the next worker reads it again.
        """
        self._uncommitted.clear()
        for partition in tuple(self._partitions):
            self.release(partition)
        if self._uncommitted:
            raise StorageError(
                f"what came last was not written: {'; '.join(self._uncommitted.values())} Nothing "
                "is lost: start again, and it is read again from the source."
            )

    def abandon(self) -> None:
        """Forget everything, after a fault: only what was committed may count."""
        for partition in tuple(self._partitions):
            self.forget(partition)

    # -- messages -------------------------------------------------------------------------------

    def accept(self, raw: RawMessage) -> None:
        """Take one message of a partition that is ours.

        Raises
        ------
        ValueError
            If the partition was not taken.
        """
        mine = self._partitions.get(raw.partition)
        if mine is None:
            raise InputError(
                f"message of partition {raw.partition}, which was not taken; expected one of "
                f"{sorted(self._partitions)}"
            )
        self._data_ns = self._clock()
        self._received[f"bytes.{raw.topic}"] += len(raw.value)
        mine.accept(raw)

    def turn(self, *, finish: bool = False) -> bool:
        """Close what is due and commit; True when a manifest was written.

        Parameters
        ----------
        finish : bool
            The source has ended: close every open dwell.
        """
        now = self._last_loop_ns = self._clock()
        self._watch.look()
        if not finish and now - self._last_turn_ns < self.patience.turn_s * SECOND:
            return False
        self._last_turn_ns = now
        self._busy_since_ns = now
        self.disk.look(lambda: sum(m.held_bytes for m in tuple(self._partitions.values())))
        with self._busy:
            try:
                wrote = [mine.turn(now, finish) for mine in self._partitions.values()]
                return any(wrote)
            finally:
                self._busy_since_ns = None
                self._last_loop_ns = self._clock()

    def settled(self) -> dict[tuple[str, int], int]:
        """Next offset still needed by (topic, partition), as in the newest manifests."""
        return {
            (topic, number): position.next
            for number, mine in self._partitions.items()
            for topic, position in mine.manifest.positions.items()
        }

    def committed(self, when_ns: int) -> None:
        """A manifest was written."""
        self._last_commit_ns, self._error = when_ns, None

    def failed(self, reason: str) -> None:
        """A commit did not succeed; it is tried again."""
        self._error = reason

    def status(self, *, connected: bool | None = None, lag: Any = None) -> WorkerStatus:
        """One moment of this worker, for health, readiness and metrics."""
        counters: Counter[str] = Counter(self._received)
        counters.update({f"clock_steps.{way}": n for way, n in self._watch.steps.items()})
        chunks: Counter[str] = Counter()
        owned = dict(self._partitions)  # the loop goes on meanwhile
        for mine in owned.values():
            counters.update(mine.counters())
            for name, run in dict(mine.runs).items():
                chunks[name] += len(run.chunks)
        return WorkerStatus(
            service="consume",
            last_loop_ns=self._last_loop_ns,
            busy_since_ns=self._busy_since_ns,
            connected=connected,
            partitions=tuple(sorted(owned)),
            last_commit_ns=self._last_commit_ns,
            held_bytes=held_bytes([m.spill for m in owned.values()]),
            open_chunks=sum(m.assembler.open_chunks for m in owned.values()),
            lag=dict(lag or {}),
            generation={n: m.manifest.generation for n, m in owned.items()},
            chunks=dict(chunks),
            data_ns=self._data_ns,
            progress={name: Progress(folded=number) for name, number in chunks.items()},
            counters=dict(counters),
            error="; ".join(m.trouble.reason for m in owned.values() if m.trouble.reason)
            or "; ".join(f for m in owned.values() for f in m.obedience.faults.values())
            or self._error,
            state=self.state,
            free_bytes=self.disk.free_bytes,
            reserve_bytes=self.disk.reserve_bytes,
        )

    @property
    def fingerprint(self) -> dict[str, str]:
        """All that changes what this worker folds."""
        more = {"psi_deg": json.dumps(self.psi_deg), "run": json.dumps(self.default_run)}
        return {**self.measurement.fingerprint, **more}

    @property
    def runs(self) -> dict[tuple[int, str], Run]:
        """Folded runs by partition and name."""
        return {(n, k): run for n, m in self._partitions.items() for k, run in m.runs.items()}

    # -- for partitions ---------------------------------------------------------------------------

    def bury(self, letters: list[DeadLetter]) -> bool:
        """Send dead letters; False when they have not arrived.

        Raises
        ------
        StorageError
            If the tape that they go to cannot be written.
        """
        if self._dead_letters is None:
            for letter in letters:
                log.warning("message_unusable", topic=letter.raw.topic, reason=letter.reason)
            return True
        try:
            self._dead_letters.deliver([(letter.raw, letter.reason) for letter in letters])
        except (ConnectionError, ValueError) as error:
            self.failed(f"dead letters could not be sent ({error}); nothing is committed before.")
            log.error("dead_letters_not_sent", reason=str(error), messages=len(letters))
            return False
        except OSError as error:
            raise StorageError(
                f"the tape of dead letters cannot be written ({error.strerror or error}); expected "
                "room on its disk. Make room: it is tried again.",
                error.errno,
            ) from error
        return True

    def timed(self, kind: str) -> AbstractContextManager[None]:
        """Measure a "fold" or a "commit"."""
        return nullcontext() if self._timings is None else self._timings.timed(kind)

    def observe_closing(self, chunk: AssembledChunk, now_ns: int) -> None:
        """Note how long after its stop a dwell is closed."""
        if self._timings is not None and chunk.explicit_stop:
            self._timings.observe("close", max((now_ns - chunk.stop_time_ns) / 1e9, 0.0))

    def announce(self, folder: Path, manifest: Manifest, runs: Mapping[str, Run]) -> None:
        """Tell whoever wants to know that a manifest is new."""
        self.committed(self._clock())
        if self._on_commit is not None:
            self._on_commit(folder, manifest, runs)


class _Partition:
    """State of one partition while this process owns it."""

    def __init__(self, worker: FoldWorker, number: int) -> None:
        self.worker = worker
        self.folder = partition_folder(worker.state, number)
        self.lock = PartitionLock(self.folder)
        self.since = 0
        self.runs: dict[str, Run] = {}
        self._records: dict[str, dict[str, ChunkRecord]] = {}  # run -> job -> record
        self._letters: list[DeadLetter] = []
        self._last_commit_ns = worker._clock()
        self._dirty = False
        self._pending: list[AssembledChunk] = []  # due, and not on disk
        self._unsaved = False  # there are chunks that no manifest names
        self._broken = False  # by a fault: what is in memory must not be committed
        self._attempts = 0
        self.trouble = WriteTrouble(f"partition {number}", patience_s=worker.patience.storage_s)
        self._outline = lru_cache(maxsize=3)(self._read_outline)
        self.obedience = Obedience(self.folder, clock=time.time_ns)
        self.glimpses = Glimpses(
            worker.measurement, state=worker.state, partition=number, psi_deg=worker.psi_deg
        )
        patience = worker.patience
        self.spill = EventSpill(self.folder, worker.held)
        self.assembler = Assembler(
            default_run=worker.default_run,
            outline=lambda run, record: self._outline(str(record.recording)),
            settle_ns=round(patience.settle_s * SECOND),
            lateness_ns=round(patience.lateness_s * SECOND),
            timeout_ns=round(patience.timeout_s * SECOND),
            spill=self.spill,
            instrument=worker.measurement.instrument.name,
            undecodable=worker.undecodable,
        )
        try:
            self.manifest = claimed_manifest(worker.state, number, worker.fingerprint)
            if worker._on_take is not None:
                worker._on_take()
            self._recover()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Let others have the partition."""
        self.glimpses.close()
        self.spill.close()
        self.lock.release()

    def _recover(self) -> None:
        self.assembler.restore(self.manifest, self.worker._clock())
        for name, record in self.manifest.runs.items():
            run = self._run(name)
            for chunk in record.chunks:
                self._records[name][chunk.job] = chunk
                for file in (chunk.file, chunk.recording):
                    if file is not None:
                        self.worker.disk.wrote(self.folder / file)
            self.obedience.recover(run, record)
        self._unsaved = self.obedience.obey(self._records, self._run)
        removed = remove_unnamed(self.folder, self.manifest)
        if self.manifest.generation:
            log.info(
                "state_recovered",
                folder=self.folder.name,
                generation=self.manifest.generation,
                removed_files=removed,
            )

    def _read_outline(self, recording: str) -> AssembledChunk:
        return read_recording(self.folder / recording)

    def _run(self, name: str) -> Run:
        if name not in self.runs:
            folder = run_folder(self.folder, name)
            for part in ("chunks", "recorded"):
                with storing(folder / part):
                    (folder / part).mkdir(parents=True, exist_ok=True)
            self.runs[name] = Run(
                self.worker.measurement, run_id=name, folder=folder / "chunks", estimate=False
            )
            self._records[name] = {}
        return self.runs[name]

    def accept(self, raw: RawMessage) -> None:
        try:
            value = decode(raw)
        except WireError as error:
            value = error
        self.assembler.accept(raw, value, self.worker._clock())
        self._dirty = True

    @property
    def held_bytes(self) -> int:
        """What of an open dwell will be written."""
        return HELD_EVENT_BYTES * self.assembler.held_events

    def turn(self, now_ns: int, finish: bool) -> bool:
        """Write what is due; what cannot be written is kept and tried again."""
        if self.trouble.waits:
            return False
        try:
            wrote = self._turn(now_ns, finish)
        except OSError as error:
            if self._broken:
                raise
            self.trouble.failed(error)
            return False
        except BaseException:
            self._broken = True
            raise
        self.trouble.over()
        return wrote

    def _turn(self, now_ns: int, finish: bool) -> bool:
        self._unsaved |= self.obedience.obey(self._records, self._run)
        self.obedience.note({name: run.actions for name, run in self.manifest.runs.items()})
        if not self._pending:
            with storing(self.folder / "events of open dwells"):
                self.assembler.relieve()
            self._pending = self._due(now_ns, finish)
            for chunk in self._pending:
                self.worker.observe_closing(chunk, now_ns)
        self._close_pending()
        patience = self.worker.patience
        letters = bool(self.assembler.dead or self._letters)
        longest_s = min(patience.tell_s, patience.commit_s) if letters else patience.commit_s
        waited = now_ns - self._last_commit_ns >= longest_s * SECOND
        waiting = self._dirty or letters
        wrote = False
        if self._unsaved or self.trouble.reason or finish or (waiting and waited):
            wrote = self.commit()
        if not finish:
            psis = self.assembler.settling(self.worker.measurement.experiment.source.psi_log)
            given = float("nan") if self.worker.psi_deg is None else self.worker.psi_deg
            self.worker.foresight.look([given if psi is None else psi for psi in psis])
            self.glimpses.look(self.assembler, self.worker.foresight.instrument, now_ns)
        return wrote

    def _due(self, now_ns: int, finish: bool) -> list[AssembledChunk]:
        try:
            return self.assembler.due(now_ns, finish=finish)
        except (OSError, UnreadableError) as error:  # what it took out of memory is lost here
            self._broken = True
            raise StorageError(
                f"a recording in {self.folder.name} cannot be read ({error}); expected it as it "
                "was written. Start again: what is not committed is read from the source."
            ) from error

    def _close_pending(self) -> None:
        """Bring to disk what the assembler gave away: its messages are settled with it."""
        while self._pending:
            self.assembler.closed(self._pending[0], self._close(self._pending[0]))
            del self._pending[0]
            self._unsaved = True

    def flush(self) -> None:
        """Commit what is settled, before the partition goes.

        Raises
        ------
        OSError
            If it cannot be written; nothing is committed then.
        """
        if not self._broken:
            self._close_pending()
            self.commit()
            if self._letters:
                raise StorageError(f"dead letters of {self.folder.name} could not be sent.")

    def counters(self) -> Counter[str]:
        """What became of messages and events."""
        found: Counter[str] = Counter(self.assembler.counters)
        found["dead_letters.message"] = found.pop("dead_letters", 0)
        found["events.between_chunks"] = found.pop("events_between_chunks", 0)
        found["late"] = found.pop("reopened", 0)
        for run in tuple(self.runs.values()):
            found += events_of(run)
        return found

    def commit(self) -> bool:
        """Write the manifest; nothing is written before all dead letters have arrived.

        Raises
        ------
        OSError
            If it, or the dead letters' tape, cannot be written.
        """
        self._letters += self.assembler.dead
        self.assembler.dead.clear()
        if not self.worker.bury(self._letters):
            refuse_too_many(self._letters, self.folder.name)
            return False
        self._letters.clear()
        lateness_ns = round(self.worker.patience.lateness_s * SECOND)
        gone = retain(self.worker.kept, self._records, self.assembler, self.folder, lateness_ns)
        for name in gone:  # what was counted once stays counted
            self.assembler.counters.update(events_of(self.runs.pop(name)))
            self.obedience.forget(name)
        manifest = replace(
            self.manifest,
            positions=self.assembler.positions(),
            counters=dict(self.assembler.counters),
            runs=run_records(
                self._records,
                self.assembler.logs(),
                self.assembler.cuts(),
                self.obedience.heeded(),
            ),
        )
        if manifest == self.manifest:
            self._unsaved = False
            return False
        with self.worker.timed("commit"):
            self.manifest = write_manifest(self.folder, manifest)
        self._last_commit_ns, self._dirty, self._unsaved = self.worker._clock(), False, False
        self.worker.disk.wrote(self.folder / MANIFEST)
        try:
            remove_unnamed(self.folder, self.manifest)
        except OSError as error:
            log.warning("old_files_not_removed", reason=str(error))
        self.worker.announce(self.folder, self.manifest, self.runs)
        return True

    # -- one chunk --------------------------------------------------------------------------------

    def _close(self, chunk: AssembledChunk) -> ChunkRecord:
        """Record a dwell and fold it; whatever goes wrong with it is its own fault."""
        run = self._run(chunk.run)
        records = self._records[chunk.run]
        record = ChunkRecord(
            chunk=chunk.chunk,
            job=chunk.job,
            generation=chunk.generation,
            start_time_ns=chunk.start_time_ns,
            stop_time_ns=chunk.stop_time_ns,
            status="set aside",
            explicit_stop=chunk.explicit_stop,
            note=chunk.note,
            descriptors=chunk.descriptors,
        )
        recording = (
            run_folder(self.folder, chunk.run)
            / "recorded"
            / f"{file_name(chunk.chunk)}.{file_name(chunk.job)}.g{chunk.generation}.nxs.h5"
        )
        try:
            write_recording(recording, chunk)
            record = replace(record, recording=str(recording.relative_to(self.folder)))
            before, orders = records.get(chunk.job), self.obedience.orders(chunk.run)
            closed = self.obedience.closed(chunk.run)
            if closed is not None:
                records[chunk.job] = _after_the_end(record, before, closed)
                self.worker.disk.wrote(recording)
                return records[chunk.job]
            folded = any(c.chunk == chunk.chunk for c in run.chunks)
            if before is not None and before.file is not None:
                if folded or before.status == "withdrawn":
                    run.reopen(chunk.chunk)
            run.foreseen = self.worker.foresight.at_hand
            with self.worker.timed("fold"):
                folded_anew = self._fold(run, chunk, record, recording)
            records[chunk.job] = self.obedience.placed(run, folded_anew, orders)
            run.foreseen = None
            self.worker.foresight.used(run.instrument)
            self.worker.disk.wrote(recording)
        except (OSError, MemoryError):  # of disk or machine, never of the dwell: it comes again
            self._attempts += 1
            run.drop_open(chunk.chunk)
            raise
        except Exception as error:  # a fault in one dwell must never end the night
            log.error("chunk_fault", chunk=chunk.chunk, fault=traceback.format_exc())
            reason = str(error) if isinstance(error, ValueError) else f"fault: {error!r}"
            records[chunk.job] = replace(record, status="set aside", reason=reason)
        return records[chunk.job]

    def _fold(
        self, run: Run, chunk: AssembledChunk, record: ChunkRecord, recording: Path
    ) -> ChunkRecord:
        noted = len(run.records)
        closed = False
        for sequence, payload in enumerate(self._payloads(chunk, recording)):
            closed |= run.accept(
                Message(
                    run=chunk.run,
                    source=f"{chunk.job}.g{chunk.generation}.{self._attempts}",
                    sequence=sequence,
                    payload=payload,
                )
            )
        if closed and run.newest is not None:
            self.worker.disk.wrote(run.newest.path)
            file = run.newest.path.relative_to(self.folder)
            return replace(record, status="folded", file=str(file))
        reasons = [r["reason"] for r in run.records[noted:] if r["status"] == "set aside"]
        return replace(record, status="set aside", reason=reasons[-1] if reasons else "no stop")

    def _payloads(self, chunk: AssembledChunk, recording: Path) -> Iterator[Payload]:
        if chunk.reduced:
            yield from reduced_payloads(chunk, self.worker.measurement, self.worker.psi_deg)
            return
        measurement = self.worker.measurement
        source = recorded_source(
            [recording],
            run=chunk.run,
            psi_log=measurement.experiment.source.psi_log,
            psi_deg=self.worker.psi_deg,
            ei_meV=measurement.experiment.source.ei_meV
            or (None if any(n in chunk.logs for n in EI_LOGS) else measurement.ei_meV),
            t0_us=measurement.experiment.source.t0_us,
            instrument=measurement.instrument,
        )
        for message in source.messages():
            payload = message.payload
            if isinstance(payload, SetAside):
                reason = payload.reason.removeprefix(f"{recording}: ")
                payload = replace(payload, origin=chunk.chunk, reason=reason)
            yield payload


def _after_the_end(record: ChunkRecord, before: ChunkRecord | None, closed: str) -> ChunkRecord:
    """What becomes of data that came after their run was closed: recorded, and not folded."""
    if before is None or before.file is None:
        return replace(record, status="set aside", reason=f"the run is {closed}")
    note = "late data came after the run was closed; they are recorded, not folded"
    return replace(record, status=before.status, reason=before.reason, file=before.file, note=note)
