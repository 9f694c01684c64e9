"""What a live state folder says of itself at one moment: all that alarms are judged by.

One function, :func:`observe`, reads manifests, heartbeats, answers and the disk as they are
published today; whoever gives alarms another source of verdicts changes this module alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from consumers.state import Manifest, RunRecord, partition_folders, read_manifest, run_folder
from steering.run import EventCounts, RunResult, newest_result, targets_met, words_of
from steering.web import read_heartbeats

ESTIMATE = "estimate/result.json"  # of a run's newest answer, inside the run's folder
AWAY = "the source is not connected"  # how a worker's reason begins whose stream is lost
CHUNKS_FOR_A_RATE = 3  # before a run has a usual rate


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A worker of the state folder, by its last sign of life."""

    service: str  # "consume", "model-server"
    state: str  # "ready", "not ready", "stopped", "dead"
    reasons: tuple[str, ...] = ()
    heard_ns: int = 0  # since the Unix epoch

    @property
    def stream_lost(self) -> str | None:
        """Why its source is away, if it is."""
        return next((reason for reason in self.reasons if reason.startswith(AWAY)), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class ObservedRun:
    """A run of the state folder that is still open."""

    name: str
    folded: int = 0  # chunks
    set_aside: tuple[tuple[str, str], ...] = ()  # chunk and reason, in order
    newest_stop_ns: int | None = None  # end of its newest dwell
    waiting_chunks: int = 0  # folded, without an estimate yet
    rate: float | None = None  # events a minute of the newest folded chunk
    usual_rate: float | None = None  # median of those before it; None: too few
    estimated: bool = False
    doubted: bool = False  # the model does not explain the data
    reasons: tuple[str, ...] = ()  # why
    stop: bool = False
    stop_reason: str = ""
    targets: int = 0
    targets_met: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """One moment of a live state folder."""

    at_ns: int  # since the Unix epoch
    workers: tuple[Worker, ...] = ()
    runs: tuple[ObservedRun, ...] = ()
    taken_bytes: int = 0  # of the stream, grows while data come
    faults: tuple[str, ...] = ()  # what cannot be read
    free_bytes: int | None = None  # on its disk
    last_sign_ns: int | None = None  # of anybody who works on it


def observe(state: Path, *, clock: Callable[[], int]) -> Observed:
    """Read one moment of a state folder.

    Parameters
    ----------
    state : Path
    clock : callable
        Unix time, ns; that of the machines that write.
    """
    now = clock()
    workers = tuple(
        Worker(
            service=one.service,
            state=one.state,
            reasons=tuple(one.reasons),
            heard_ns=one.heard_ns,
        )
        for one in read_heartbeats([state], clock=lambda: now)
    )
    runs: list[ObservedRun] = []
    faults: list[str] = []
    taken = 0
    for folder in partition_folders(state):
        try:
            manifest = read_manifest(folder)
        except (OSError, ValueError) as error:
            faults.append(str(error))
            continue
        if manifest is None:
            continue
        taken += _bytes_of(manifest)
        for name, record in manifest.runs.items():
            if not record.closed:
                runs.append(_run(name, record, newest_result(run_folder(folder, name) / ESTIMATE)))
    try:
        free = shutil.disk_usage(state).free
    except OSError:
        free = None
    return Observed(
        at_ns=now,
        workers=workers,
        runs=tuple(runs),
        taken_bytes=taken,
        faults=tuple(faults),
        free_bytes=free,
        last_sign_ns=max((one.heard_ns for one in workers), default=None),
    )


def _bytes_of(manifest: Manifest) -> int:
    return sum(n for name, n in manifest.counters.items() if name.startswith("bytes."))


def _run(name: str, record: RunRecord, result: RunResult | None) -> ObservedRun:
    folded = [c for c in record.chunks if c.status == "folded"]
    answered = set() if result is None else set(result.folded_chunks)
    broken = (
        {}
        if result is None
        else {c.chunk: c.reason or "" for c in result.chunks if c.status == "set aside"}
    )
    aside = {c.chunk: c.reason or "" for c in record.chunks if c.status == "set aside"}
    rate, usual = _rates(record, result)
    common = ObservedRun(
        name=name,
        folded=len(folded),
        set_aside=tuple((broken | aside).items()),
        newest_stop_ns=max((c.stop_time_ns for c in record.chunks), default=None),
        waiting_chunks=sum(c.chunk not in answered and c.chunk not in broken for c in folded),
        rate=rate,
        usual_rate=usual,
    )
    if result is None or result.goodness_of_fit is None:
        return common
    words, met = words_of(result), targets_met(result)
    return replace(
        common,
        estimated=True,
        doubted=words.trust.code == "not trusted",
        reasons=result.reasons,
        stop=words.stop.code == "stop",
        stop_reason=" ".join(words.stop.evidence),
        targets=len(result.targets or ()),
        targets_met=0 if met is None else met[0],
    )


def _rates(record: RunRecord, result: RunResult | None) -> tuple[float | None, float | None]:
    """Events a minute of wall time: of the newest folded chunk, and as usual before it."""
    if result is None:
        return None, None
    minutes = {c.chunk: (c.stop_time_ns - c.start_time_ns) / 60e9 for c in record.chunks}
    rates = [
        c.events.read / minutes[c.chunk]
        for c in result.chunks
        if isinstance(c.events, EventCounts) and minutes.get(c.chunk, 0) > 0
    ]
    if len(rates) <= CHUNKS_FOR_A_RATE:
        return (rates[-1] if rates else None), None
    return rates[-1], median(rates[:-1])
