"""Signs of life in a state folder: who works on it, written by the workers, read by ``serve``.

Each process has a small file of its own in ``heartbeats``; one that ends well says so in it, and
one that dies leaves it to grow old. The newest file that names a partition counts for it.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog
from pydantic import ValidationError

from steering.web.answers import WorkerAnswer

log = structlog.get_logger()

FOLDER = "heartbeats"
DEAD_SECONDS = 7.0  # of silence; workers write every two
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
        self, *, partitions: tuple[int, ...], reasons: tuple[str, ...], stopped: bool = False
    ) -> None:
        """Say that this process lives, or that it stops; a full disk is no reason to end."""
        told = WorkerAnswer(
            service=self._service,
            partitions=list(partitions),
            state="stopped" if stopped else "not ready" if reasons else "ready",
            reasons=list(reasons),
            heard_ns=self._clock(),
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
        for path, one in known:
            if path != self._path and _replaced(one, known):
                path.unlink(missing_ok=True)


def read_heartbeats(
    folders: Iterable[Path], *, clock: Callable[[], int] = time.time_ns
) -> list[WorkerAnswer]:
    """Who works on the state folders in and below some folders, dead workers included.

    Parameters
    ----------
    folders : iterable of Path
        State folders, or folders that hold some.
    clock : callable
        Unix time, ns; that of the machines that write.
    """
    now = clock()
    found: list[WorkerAnswer] = []
    for folder in folders:
        for pattern in (FOLDER, f"*/{FOLDER}", f"*/*/{FOLDER}"):
            for place in sorted(folder.glob(pattern)):
                known = _read(place)
                found += [_judged(one, now) for _, one in known if not _replaced(one, known)]
    return sorted(found, key=lambda one: (one.service, one.partitions, one.heard_ns))


def _read(place: Path) -> list[tuple[Path, WorkerAnswer]]:
    found: list[tuple[Path, WorkerAnswer]] = []
    for path in sorted(place.glob("*.json"))[:FILES]:
        with contextlib.suppress(OSError, ValidationError, json.JSONDecodeError):
            if path.stat().st_size <= LARGEST_BYTES:
                found.append((path, WorkerAnswer.model_validate_json(path.read_bytes())))
    return found


def _replaced(one: WorkerAnswer, known: list[tuple[Path, WorkerAnswer]]) -> bool:
    """Whether newer files speak for all that this one speaks for."""
    newer = [
        other
        for _, other in known
        if other.service == one.service and other.heard_ns > one.heard_ns
    ]
    taken = {partition for other in newer for partition in other.partitions}
    return bool(newer) if not one.partitions else taken.issuperset(one.partitions)


def _judged(one: WorkerAnswer, now_ns: int) -> WorkerAnswer:
    silent = (now_ns - one.heard_ns) / 1e9
    if one.state == "stopped" or silent <= DEAD_SECONDS:
        return one
    whose = ", ".join(map(str, one.partitions))
    of = f" of partition {whose}" if one.partitions else ""
    reason = (
        f"{one.service}{of} has been silent for {silent:.0f} s; expected a sign of life every 2 s. "
        "Look at its log, and start it again: it goes on from its state folder."
    )
    return one.model_copy(update={"state": "dead", "reasons": [reason]})
