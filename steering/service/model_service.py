"""Estimates beside a fold worker: follows the manifests of a state folder, never writes into them.

A result is a function of the manifest alone: it does not matter how often the service looked, was
killed, or fell behind. A fit normally begins at the answer before it, which would make it depend on
that; here it begins at the answer of a fixed earlier number of chunks (:func:`base_of`), and what
the stop rule wants to know about earlier looks is computed where it was not seen.
"""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import structlog

from consumers.state import (
    ChunkRecord,
    ClosedChunk,
    Manifest,
    RunRecord,
    check_fingerprint,
    only_model_server,
    partition_folders,
    read_chunk,
    read_manifest,
    run_folder,
)
from simulations.errors import InputError, StorageError, storing
from steering.advice import LOOKS_BELOW_TARGET
from steering.experiment import Measurement
from steering.run import (
    Run,
    RunSnapshot,
    RunStore,
    SnapshotFolders,
    chunk_results,
    history_entries,
    load_result,
    load_snapshot,
    result_document,
    save_result,
    save_snapshot,
    stop_of,
)
from steering.service.clocks import Clock, steady_ns
from steering.service.followed_run import (
    Followed,
    Key,
    asked_of,
    digest,
    key_of,
    newer,
    records_of,
    refusal,
)
from steering.service.health import Progress, WorkerStatus
from steering.service.metrics import Timings
from steering.service.publishing import Publisher, folded_spectrum
from steering.service.storage import DiskWatch, WriteTrouble

log = structlog.get_logger()

ESTIMATE = "estimate"  # folder of a run's newest answer, inside the run's
POLL_SECONDS = 1.0
WARM_RUNS = 2  # runs whose exposures and rates stay in memory; others are read again when needed


def base_of(n: int) -> int:
    """Number of chunks whose answer the estimate of ``n`` chunks begins at; 0: from nothing.

    Few chunks leave several minima open: there a fit begins at the answer just before, as in a
    replay. Later at most a fifth of the chunks are newer than the base, and from there a chain of
    bases is as short as the logarithm of ``n``: 0, 1, ..., 8, 10, 12, 14, 16, 20, 24, 28, 32, ...
    """
    before = n - 1
    if before < 8:
        return max(before, 0)
    shift = before.bit_length() - 3
    return before >> shift << shift


class ModelService:
    """Posterior, trust and advice of every run of a state folder.

    Writes ``result.json``, ``snapshot.npz`` and ``folded.npz`` into ``RUN/estimate``; the first
    has ``state_generation``, that of the manifest, and is written last. Only one service may work
    on a state folder at a time.

    Parameters
    ----------
    state : Path
        The state folder.
    measurement : Measurement
        The experiment made concrete.
    publisher : Publisher, optional
        Gets folded spectra after every commit, and estimates with advice.
    store : RunStore, optional
        Gets every snapshot, where the page is served by the same process.
    timings : Timings, optional
        Gets how long estimates take.
    publish_folded : bool
        False where the fold worker publishes folded spectra itself.
    patience_s : float
        How long answers may not be written before ``step`` raises ``StorageError``.
    clock : callable
        Time in ns that never steps; it turns the loop.
    unix : callable
        The wall clock, ns: of what people read.
    """

    def __init__(
        self,
        state: Path,
        measurement: Measurement,
        *,
        publisher: Publisher | None = None,
        store: RunStore | None = None,
        timings: Timings | None = None,
        publish_folded: bool = True,
        patience_s: float = math.inf,
        clock: Clock = steady_ns,
        unix: Clock = time.time_ns,
    ) -> None:
        self.state = state
        self.measurement = measurement
        self._publisher, self._store, self._timings = publisher, store, timings
        self._publish_folded, self._clock, self._unix = publish_folded, clock, unix
        self._runs: dict[tuple[str, str], Followed] = {}  # partition's folder, name
        self._generation: dict[str, int] = {}  # by partition's folder
        self._partition: dict[str, int] = {}
        self._state_id: dict[str, str] = {}
        self._waiting: str | None = None
        self._faults: dict[str, str] = {}  # of manifests, by partition's folder
        self._last_estimate_ns: int | None = None
        self._last_loop_ns = clock()
        self._busy_since_ns: int | None = None
        self._estimates = 0
        self._estimating_since_ns: int | None = None
        self._trouble = WriteTrouble("the model service", patience_s=patience_s)
        self.disk = DiskWatch(state)
        self._experiment = asked_of(measurement.experiment.model_dump(mode="json"))

    # -- one look -------------------------------------------------------------------------------

    def step(self) -> bool:
        """Look at the manifests once and answer what is new; True when an estimate was made."""
        self._last_loop_ns = self._busy_since_ns = self._clock()
        self.disk.look()
        before = self._estimates
        try:
            if not self._trouble.waits:
                for folder in partition_folders(self.state):
                    self._look(folder)
                self._trouble.over()
        except StorageError as error:
            self._trouble.failed(error)
        finally:
            self._busy_since_ns = None
            self._last_loop_ns = self._clock()
        return self._estimates > before

    def _look(self, folder: Path) -> None:
        try:
            manifest = read_manifest(folder)
            if manifest is not None:
                self._check(folder, manifest)
        except (OSError, ValueError) as error:
            if self._faults.get(folder.name) != str(error):
                log.error("manifest_refused", partition=folder.name, reason=str(error))
            self._faults[folder.name] = str(error)
            return
        self._faults.pop(folder.name, None)
        if manifest is None:
            return
        known = [self._runs.get((folder.name, name)) for name in manifest.runs]
        moved = any(one is not None and one.moved for one in known)
        if self._generation.get(folder.name) == manifest.generation and not moved:
            return
        self._state_id[folder.name] = manifest.state_id
        self._partition[folder.name] = manifest.partition
        for name in manifest.runs:
            self._answer(folder, name, manifest)
        self._generation[folder.name] = manifest.generation

    def _check(self, folder: Path, manifest: Manifest) -> None:
        """Refuse what was folded with another experiment than this one."""
        ours = self.measurement.fingerprint
        theirs = {key: value for key, value in manifest.fingerprint.items() if key in ours}
        check_fingerprint(folder.name, theirs, ours)

    def _answer(self, folder: Path, name: str, manifest: Manifest) -> None:
        """Bring one run to a manifest; a fault in it is its own."""
        followed = self._followed(folder, name)
        try:
            self._follow(followed, folder, manifest.runs[name], manifest.generation)
        except StorageError:
            raise  # of the disk, not of the run: all of this manifest is looked at again
        except Exception as error:
            if newer(folder, manifest.generation):
                return  # files of this manifest may be gone; the next look finds the newer one
            followed.failure = f"run {name!r} has no estimate of its newest chunks: {error}"
            log.error("estimate_failed", run=name, fault=traceback.format_exc())
            try:
                self._show(followed, manifest.runs[name])
            except StorageError:
                raise
            except Exception as second:
                log.error("snapshot_not_written", run=name, fault=repr(second))
        finally:
            self._estimating_since_ns = None

    def _followed(self, folder: Path, name: str) -> Followed:
        place = (folder.name, name)
        if place not in self._runs:
            # Messages without a key may put a run into two partitions: two runs, two names.
            taken = any(f.run_id == name for f in self._runs.values())
            run_id = f"{name}@{self._partition[folder.name]}" if taken else name
            self._runs[place] = Followed(
                run_id=run_id,
                folder=run_folder(folder, name),
                state_id=self._state_id[folder.name],
            )
            self._resume(self._runs[place])
        return self._runs[place]

    def _run(self, followed: Followed) -> Run:
        """The run itself; those not needed for longest give their memory back."""
        followed.used_ns = self._clock()
        if followed.run is None:
            followed.run = Run(
                self.measurement, run_id=followed.run_id, folder=followed.folder / "chunks"
            )
            warm = [f for f in self._runs.values() if f.run is not None and f is not followed]
            for cold in sorted(warm, key=lambda f: f.used_ns)[: max(len(warm) + 1 - WARM_RUNS, 0)]:
                cold.run = None
                cold.looks.clear()
        return followed.run

    def _resume(self, followed: Followed) -> None:
        """Take up what an earlier process left."""
        result = load_result(followed.folder / ESTIMATE / "result.json")
        path = followed.folder / ESTIMATE / "snapshot.npz"
        if result is None or not path.is_file():
            return
        if (result.state_id or "") != followed.state_id:
            log.warning("answer_of_another_state", run=followed.run_id, state_id=result.state_id)
            return
        try:
            snapshot = load_snapshot(path)
        except (OSError, ValueError) as error:
            log.warning("snapshot_refused", run=followed.run_id, reason=str(error))
            return
        followed.history = {entry.chunk: entry.document() for entry in snapshot.history}
        if asked_of(snapshot.experiment) == self._experiment and result.chunk_keys is not None:
            followed.result, followed.snapshot = result.document(), snapshot
            followed.answered = result.chunk_keys
            followed.estimated = len(result.chunk_keys)
            if self._store is not None:
                self._store.publish(snapshot)

    def _follow(self, followed: Followed, folder: Path, record: RunRecord, generation: int) -> None:
        followed.heed()
        folded = sum(_counts(told, followed) for told in record.chunks)
        followed.folded = folded
        if folded > followed.estimated:  # to read them, and to compile, counts as computing
            self._estimating_since_ns = self._clock()
        closed = self._read(followed, folder, record)
        followed.failure = None
        if key_of(closed) != followed.answered:
            closed = self._admit(followed, closed, folder)
        key = key_of(closed)
        followed.wish(closed, record)
        if closed and key != followed.published and self._publisher is not None:
            if self._publish_folded:
                self._hold(followed, closed)
                self._publisher.folded(
                    folded_spectrum(self._run(followed), generation, state_id=followed.state_id)
                )
        if key == followed.answered and followed.holds:
            self._mark(followed, record, generation)
            if followed.unsaved:
                self._save(followed)
        elif closed:
            if followed.result is None:
                self._show(followed, record)  # the map is there before the first estimate is
            self._answer_anew(followed, closed, record, generation)
        else:
            self._withdraw_answer(followed, record, generation)
        heeded = followed.orders.number
        news = (key, heeded) != (followed.published, followed.heeded)
        if news and self._publisher is not None and followed.result:
            result = result_document(followed.result)
            self._publisher.result(followed.run_id, result, generation=generation)
        followed.published, followed.heeded = key, heeded
        followed.estimated = folded
        if heeded:
            followed.log.note_applied(heeded, "model-server", self._unix())

    def _answer_anew(
        self, followed: Followed, closed: list[ClosedChunk], record: RunRecord, generation: int
    ) -> None:
        began = time.perf_counter()
        if self._estimating_since_ns is None:
            self._estimating_since_ns = self._clock()
        result, snapshot = self._estimate(followed, closed, record, generation)
        seconds = time.perf_counter() - began
        if self._timings is not None:
            self._timings.observe("estimate", seconds)
        newest = max(c.stop_time_ns for c in record.chunks if c.status == "folded")
        now = self._unix()
        if self._timings is not None:
            self._timings.observe("advice", max((now - newest) / 1e9, 0.0))
        followed.answered, followed.result = key_of(closed), result
        followed.snapshot = replace(
            snapshot,
            estimate_seconds=seconds,
            lag_seconds=max((now - newest) / 1e9, 0.0),
            updated_ns=now,
            estimated_ns=now,
        )
        self._save(followed)
        self._estimates += 1
        self._last_estimate_ns = self._clock()
        log.info(
            "estimate_made",
            run=followed.run_id,
            chunks=len(closed),
            state_generation=generation,
            trusted=result["trusted"],
            seconds=round(seconds, 3),
        )

    # -- chunks ---------------------------------------------------------------------------------

    def _read(self, followed: Followed, folder: Path, record: RunRecord) -> list[ClosedChunk]:
        """Folded chunks of the manifest in canonical order; those that cannot be used are noted."""
        chunks: dict[str, ClosedChunk] = {}
        broken: dict[str, str] = {}
        withdrawn: dict[str, ClosedChunk] = {}
        known = followed.chunks | followed.withdrawn
        for told in record.chunks:
            if told.file is None or told.status == "set aside":
                continue
            if told.file in followed.refused:
                broken[told.file] = followed.refused[told.file]
                continue
            try:
                closed = known.get(told.file) or read_chunk(folder / told.file)
                if closed.chunk != told.chunk:
                    raise InputError(f"it holds chunk {closed.chunk!r}; expected {told.chunk!r}")
                held = withdrawn if told.chunk in followed.orders.withdrawn else chunks
                held[told.file] = closed
            except (OSError, ValueError) as error:
                broken[told.file] = refusal(told.file, error)
                if told.file not in followed.broken:
                    log.error("chunk_refused", run=followed.run_id, reason=broken[told.file])
        followed.chunks, followed.withdrawn, followed.broken = chunks, withdrawn, broken
        return sorted(chunks.values(), key=lambda c: c.start_time_ns)  # else as in the manifest

    def _admit(
        self, followed: Followed, closed: list[ClosedChunk], folder: Path
    ) -> list[ClosedChunk]:
        """Let the run judge new chunks; those it refuses are noted and left out from now on."""
        run = self._run(followed)
        self._hold(followed, [c for c in closed if c.key in {k.key for k in run.chunks}])
        for chunk in [c for c in closed if c not in run.chunks]:
            try:
                run.adopt(chunk)
            except (ValueError, OSError) as error:
                file = chunk.path.relative_to(folder).as_posix()
                followed.refused[file] = followed.broken[file] = refusal(file, error)
                followed.chunks.pop(file)
                log.error("chunk_refused", run=followed.run_id, reason=followed.refused[file])
        return [c for c in closed if c in run.chunks]

    def _hold(self, followed: Followed, closed: list[ClosedChunk]) -> None:
        """Let the run hold exactly these chunks."""
        run = self._run(followed)
        wanted = {c.key for c in closed}
        for chunk in [c for c in run.chunks if c.key not in wanted]:
            run.reopen(chunk.chunk)
        held = {c.key for c in run.chunks}
        for chunk in closed:
            if chunk.key not in held:
                run.adopt(chunk)

    # -- estimates ------------------------------------------------------------------------------

    def _estimate(
        self, followed: Followed, closed: list[ClosedChunk], record: RunRecord, generation: int
    ) -> tuple[dict[str, Any], RunSnapshot]:
        self._look_at(followed, closed)
        run = self._run(followed)
        folder = followed.folder / ESTIMATE
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        run.write_folded(folder / "folded.npz")
        self.disk.wrote(folder / "folded.npz")
        result, snapshot = run.result(), run.snapshot()
        estimate = followed.looks[key_of(closed)]
        below = self._looks_below_target(followed, closed)
        result["stop"] = asdict(stop_of(estimate, below))
        result = self._told(followed, result, record, generation, key_of(closed))
        kept = {key_of(closed[: base_of(n)]) for n in range(len(closed) - 2, len(closed) + 2)}
        kept.add(key_of(closed))  # other wishes need no other fit
        followed.looks = {key: look for key, look in followed.looks.items() if key in kept}
        recent = len(closed) - LOOKS_BELOW_TARGET
        followed.seen = {key: one for key, one in followed.seen.items() if len(key) > recent}
        known = {c.chunk for c in closed}
        followed.history = {k: v for k, v in followed.history.items() if k in known}
        snapshot = replace(
            snapshot,
            status="finished" if followed.ended(record) else "running",
            error=followed.error,
            result=result_document(result),
            chunks=chunk_results(result["chunks"]),
            history=history_entries(
                followed.history[c.chunk] for c in closed if c.chunk in followed.history
            ),
        )
        return result, snapshot

    def _look_at(self, followed: Followed, closed: list[ClosedChunk]) -> None:
        """Estimate from exactly these chunks, beginning at the answer of their base."""
        base, key = base_of(len(closed)), key_of(closed)
        self._run(followed).wishes = followed.wishes
        if base and key_of(closed[:base]) not in followed.looks:
            self._look_at(followed, closed[:base])
        self._hold(followed, closed)
        look = followed.looks.get(key_of(closed[:base])) if base else None
        run, known = self._run(followed), followed.looks.get(key)
        estimate = run.look(look) if known is None else run.advise_again(known, look)
        followed.looks[key] = estimate
        followed.seen[key] = estimate.posterior, estimate.trust.trusted
        followed.history[closed[-1].chunk] = estimate.told()

    def _looks_below_target(self, followed: Followed, closed: list[ClosedChunk]) -> int:
        """How many of the last looks, one per chunk, met every target and were trusted."""
        for back in range(LOOKS_BELOW_TARGET):
            seen = closed[: len(closed) - back]
            if not seen:
                return back
            if key_of(seen) not in followed.seen:
                self._look_at(followed, seen)
            posterior, trusted = followed.seen[key_of(seen)]
            if not self._run(followed).meets_targets(posterior, trusted=trusted):
                return back
        return LOOKS_BELOW_TARGET

    # -- what is told ---------------------------------------------------------------------------

    def _told(
        self,
        followed: Followed,
        result: dict[str, Any],
        record: RunRecord,
        generation: int,
        key: Key,
    ) -> dict[str, Any]:
        heeded = followed.orders.number
        told = {name: value for name, value in result.items() if name not in ("actions", "asked")}
        told |= {"actions": heeded} if heeded else {}
        told |= {"asked": wanted} if (wanted := followed.wishes.document()) else {}
        return told | {
            "chunks": records_of(record, followed),
            "chunk_keys": list(key),
            "state_generation": generation,
            "state_id": followed.state_id,
            "fingerprint": digest(self.measurement.fingerprint),
        }

    def _mark(self, followed: Followed, record: RunRecord, generation: int) -> None:
        """Bring an answer that still holds to a newer manifest."""
        result, snapshot = followed.result, followed.snapshot
        if result is None or snapshot is None or followed.answered is None:
            return
        told = self._told(followed, result, record, generation, followed.answered)
        if told == result and snapshot.error == followed.error:
            return
        status = "finished" if followed.ended(record) else "running"
        shown = told["chunks"] != result["chunks"] or snapshot.status != status
        shown |= snapshot.error != followed.error
        followed.result = told
        if shown:
            followed.snapshot = replace(
                snapshot,
                status=status,
                error=followed.error,
                result=result_document(told),
                chunks=chunk_results(told["chunks"]),
                updated_ns=self._unix(),
            )
        self._save(followed, snapshot=shown)

    def _withdraw_answer(self, followed: Followed, record: RunRecord, generation: int) -> None:
        """No chunk is folded (any more): say so instead of an old answer."""
        empty = Run(self.measurement, run_id=followed.run_id, folder=followed.folder / "chunks")
        empty.wishes = followed.wishes
        followed.run, followed.looks = empty, {}
        followed.history.clear()
        followed.answered = ()
        followed.result = self._told(followed, empty.result(), record, generation, ())
        followed.snapshot = replace(
            empty.snapshot("finished" if followed.ended(record) else "running", followed.error),
            chunks=chunk_results(followed.result["chunks"]),
        )
        self._save(followed)
        empty.prepare()

    def _show(self, followed: Followed, record: RunRecord) -> None:
        """Show a run as it is without an estimate of its newest chunks."""
        chunks = chunk_results(records_of(record, followed))
        shown = followed.snapshot
        if shown is None or shown.result is None:
            self._hold(followed, sorted(followed.chunks.values(), key=lambda c: c.start_time_ns))
            run = self._run(followed)
            run.drop_estimate()
            shown = run.snapshot()
        followed.snapshot = replace(
            shown, chunks=chunks, error=followed.error, updated_ns=self._unix()
        )
        self._save(followed, result=False)

    def _save(self, followed: Followed, *, snapshot: bool = True, result: bool = True) -> None:
        folder = followed.folder / ESTIMATE
        followed.unsaved = True
        with storing(folder / "result.json"):
            folder.mkdir(parents=True, exist_ok=True)
            if snapshot and followed.snapshot is not None:
                save_snapshot(followed.snapshot, folder / "snapshot.npz")
                if self._store is not None:
                    self._store.publish(followed.snapshot)
            if result and followed.result is not None:
                save_result(result_document(followed.result), folder / "result.json")
        followed.unsaved = False

    def status(self) -> WorkerStatus:
        """One moment of this service, for health, readiness and metrics."""
        runs = tuple(self._runs.values())
        errors = [*self._faults.values(), *(f.failure for f in runs if f.failure)]
        counters = {} if self._publisher is None else self._publisher.counters
        trouble = None if self._publisher is None else self._publisher.trouble
        return WorkerStatus(
            service="model-server",
            last_loop_ns=self._last_loop_ns,
            busy_since_ns=self._busy_since_ns,
            partitions=tuple(sorted(self._partition.values())),
            last_commit_ns=self._last_estimate_ns,
            generation={self._partition[name]: g for name, g in tuple(self._generation.items())},
            chunks={f.run_id: len(f.answered or ()) for f in runs},
            progress={f.run_id: Progress(folded=f.folded, estimated=f.estimated) for f in runs},
            estimating_since_ns=self._estimating_since_ns,
            counters=counters,
            error="; ".join(errors) or self._trouble.reason or self._waiting,
            state=self.state,
            free_bytes=self.disk.free_bytes,
            reserve_bytes=self.disk.reserve_bytes,
            warnings=() if trouble is None else (trouble,),
        )

    @contextmanager
    def alone(
        self, stop: threading.Event | None, *, every_s: float = POLL_SECONDS
    ) -> Iterator[None]:
        """Wait until no other service writes estimates of this folder; none does in the block.

        Parameters
        ----------
        stop : threading.Event, optional
            Ends the waiting; absent: do not wait.
        every_s : float
            Time between two attempts.

        Raises
        ------
        BlockingIOError
            If another one does, and this one is not to wait, or is told to stop.
        """
        while True:
            with only_model_server(self.state) as ours:
                if ours:
                    self._waiting = None
                    yield
                    return
            if self._waiting is None:
                self._waiting = (
                    f"another model server works on state folder {self.state.name}; expected one. "
                    "This one waits until that one ends: stop one of them."
                )
                log.warning("waiting_for_another_model_server", state=self.state.name)
            self._last_loop_ns = self._clock()
            if stop is None or stop.wait(every_s):
                raise BlockingIOError(self._waiting)

    def results(self) -> dict[str, dict[str, Any] | None]:
        """Newest result of every run."""
        return {f.run_id: f.result for f in self._runs.values()}


def serve_estimates(
    service: ModelService, stop: threading.Event | None = None, *, every_s: float = POLL_SECONDS
) -> None:
    """Let a service look again and again until told to stop; for a thread or a process."""
    stop = stop or threading.Event()
    with suppress(BlockingIOError), service.alone(stop, every_s=every_s):
        while not stop.is_set():
            if not service.step():
                stop.wait(every_s)


def follow(
    store: RunStore, folder: Path, stop: threading.Event, *, every_s: float = POLL_SECONDS
) -> None:
    """Publish what a model service of another process leaves in a state folder, as it comes.

    Parameters
    ----------
    store : RunStore
        Gets every new snapshot, of runs that appear later too.
    folder : Path
        The state folder, or any folder of replayed runs.
    stop : threading.Event
        Ends it.
    every_s : float
        Time between looks.
    """
    stored = SnapshotFolders((folder,))
    while not stop.is_set():
        for fault in stored.publish_new(store):
            log.warning("snapshot_refused", reason=fault)
        stop.wait(every_s)


def _counts(told: ChunkRecord, followed: Followed) -> bool:
    """Whether a dwell is folded and not withdrawn."""
    if told.file is None:
        return told.status == "folded"
    return told.status != "set aside" and told.chunk not in followed.orders.withdrawn
