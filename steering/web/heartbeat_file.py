"""Signs of life in a state folder: who works on it, written by the workers, read by ``serve``.

Each process has a small file of its own in ``heartbeats``; one that ends well says so in it, and
one that dies leaves it to grow old. The newest file that names a partition counts for it.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from steering.web.answers import WorkerAnswer

log = structlog.get_logger()

FOLDER = "heartbeats"
DEAD_SECONDS = 7.0  # of silence; workers write every two
SKEW_SECONDS = 3.0  # that a clock may be off before it is told
LOOK_SECONDS = 0.5  # between two looks at the files
LARGEST_BYTES = 100_000
FILES = 200  # that are looked at in one state folder


class HeartbeatFile:
    """The sign of life of this process in one state folder.

    Parameters
    ----------
    state : Path
    service : str
        "consume", "model-server".
    clock : callable
        Unix time, ns.
    """

    def __init__(
        self, state: Path, service: str, *, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._folder, self._service, self._clock = state / FOLDER, service, clock
        self._path = self._folder / f"{service}-{uuid.uuid4().hex[:12]}.json"
        self._failed = False
        self._partitions: tuple[int, ...] | None = None

    def write(
        self,
        *,
        partitions: tuple[int, ...],
        reasons: tuple[str, ...],
        stopped: bool = False,
        **work: Any,
    ) -> None:
        """Say that this process lives, or that it stops; a full disk is no reason to end.

        Parameters
        ----------
        partitions : tuple of int
        reasons : tuple of str
            Why it does not do its work.
        stopped : bool
        **work
            Fields of :class:`~steering.web.answers.WorkerAnswer` that say what it does.
        """
        told = WorkerAnswer(
            service=self._service,
            partitions=list(partitions),
            state="stopped" if stopped else "not ready" if reasons else "ready",
            reasons=list(reasons),
            heard_ns=self._clock(),
            **work,
        )
        partial = self._path.with_suffix(".partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial.write_text(told.model_dump_json())
            partial.replace(self._path)
            if self._partitions != partitions:
                self._partitions = partitions
                self._replace_others()
        except OSError as error:
            if not self._failed:
                log.warning("heartbeat_not_written", reason=str(error))
            self._failed = True
        else:
            self._failed = False

    def _replace_others(self) -> None:
        """Remove files of processes before this one that spoke for nothing else."""
        known = _read(self._folder)
        everyone = [one for _, one in known]
        for path, one in known:
            if path != self._path and _replaced(one, everyone):
                path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Heard:
    """When a sign of life came, by the clock of who listens."""

    told_ns: int  # by the clock of who wrote
    at_s: float
    skew_s: float | None = None


class Heartbeats:
    """Who works on the state folders in and below some folders, dead workers included.

    How long a worker is silent is told by the clock of this process alone: from one look to the
    next, a sign of life that changed is new, whatever time it says. So a worker whose clock is off
    neither looks dead nor lives for ever, and how far it is off is told. Only of what it finds at
    its first look, or after a long pause, it must believe the time.

    Parameters
    ----------
    folders : iterable of Path
        State folders, or folders that hold some.
    clock : callable
        Unix time, ns.
    monotonic : callable
        Clock in seconds that never steps.
    """

    def __init__(
        self,
        folders: Iterable[Path],
        *,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folders, self._clock, self._monotonic = tuple(folders), clock, monotonic
        self._heard: dict[Path, _Heard] = {}
        self._found: list[WorkerAnswer] = []
        self._looked_s = -math.inf
        self._looking = threading.Lock()

    def __call__(self) -> list[WorkerAnswer]:
        """Look, unless that was done a moment ago; safe to call from several threads."""
        with self._looking:
            now_s = self._monotonic()
            if now_s - self._looked_s >= LOOK_SECONDS:
                self._found = self._look(now_s)
                self._looked_s = now_s
            return list(self._found)

    def _look(self, now_s: float) -> list[WorkerAnswer]:
        found: list[WorkerAnswer] = []
        heard: dict[Path, _Heard] = {}
        for folder in self._folders:
            for pattern in (FOLDER, f"*/{FOLDER}", f"*/*/{FOLDER}"):
                for place in sorted(folder.glob(pattern)):
                    known: list[WorkerAnswer] = []
                    for path, one in _read(place):
                        told = heard[path] = self._hear(path, one, now_s)
                        silent = max(now_s - told.at_s, 0.0)
                        more = {"silent_s": round(silent, 1), "skew_s": told.skew_s}
                        known.append(one.model_copy(update=more))
                    found += [_judged(one) for one in known if not _replaced(one, known)]
        self._heard = heard
        return sorted(found, key=lambda one: (one.service, one.partitions, one.heard_ns))

    def _hear(self, path: Path, one: WorkerAnswer, now_s: float) -> _Heard:
        before, gap = self._heard.get(path), now_s - self._looked_s
        if before is not None and before.told_ns == one.heard_ns:
            return before
        ahead = (one.heard_ns - self._clock()) / 1e9
        if before is None or gap > DEAD_SECONDS:  # it may have come at any time: believe it
            return _Heard(told_ns=one.heard_ns, at_s=now_s - max(-ahead, 0.0))
        off = ahead > SKEW_SECONDS or -ahead > SKEW_SECONDS + gap
        return _Heard(told_ns=one.heard_ns, at_s=now_s, skew_s=round(ahead, 1) if off else None)


def read_heartbeats(
    folders: Iterable[Path], *, clock: Callable[[], int] = time.time_ns
) -> list[WorkerAnswer]:
    """As one look of :class:`Heartbeats`, which must believe the times that workers write.

    Parameters
    ----------
    folders : iterable of Path
        State folders, or folders that hold some.
    clock : callable
        Unix time, ns; that of the machines that write.
    """
    return Heartbeats(folders, clock=clock)()


def _read(place: Path) -> list[tuple[Path, WorkerAnswer]]:
    found: list[tuple[Path, WorkerAnswer]] = []
    for path in sorted(place.glob("*.json"))[:FILES]:
        with contextlib.suppress(OSError, ValidationError, json.JSONDecodeError):
            if path.stat().st_size <= LARGEST_BYTES:
                found.append((path, WorkerAnswer.model_validate_json(path.read_bytes())))
    return found


def _replaced(one: WorkerAnswer, known: list[WorkerAnswer]) -> bool:
    """Whether newer files speak for all that this one speaks for."""

    def newer_than(other: WorkerAnswer) -> bool:
        if other.silent_s != one.silent_s:
            return other.silent_s < one.silent_s
        return other.heard_ns > one.heard_ns

    newer = [other for other in known if other.service == one.service and newer_than(other)]
    taken = {partition for other in newer for partition in other.partitions}
    return bool(newer) if not one.partitions else taken.issuperset(one.partitions)


def _judged(one: WorkerAnswer) -> WorkerAnswer:
    if one.state == "stopped" or one.silent_s <= DEAD_SECONDS:
        return one
    whose = ", ".join(map(str, one.partitions))
    of = f" of partition {whose}" if one.partitions else ""
    reason = (
        f"{one.service}{of} has been silent for {one.silent_s:.0f} s; expected a sign of life "
        "every 2 s. Look at its log, and start it again: it goes on from its state folder."
    )
    return one.model_copy(update={"state": "dead", "reasons": [reason]})
