"""A run that the model service follows: what is known of it, and how it is told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from consumers.state import ChunkRecord, ClosedChunk, RunRecord, read_manifest
from model_server.posterior import Posterior
from steering.run import (
    NO_ORDERS,
    NO_WISHES,
    ActionLog,
    Estimate,
    Orders,
    Run,
    RunSnapshot,
    Wishes,
)

Key = tuple[str, ...]  # names of folded chunks with their generations, in order


@dataclass(slots=True)
class Followed:
    """A run of the state folder, and what was made of it."""

    run_id: str
    folder: Path  # of the run
    log: ActionLog = field(init=False)  # of what people asked for
    state_id: str = ""
    run: Run | None = None  # made when it is needed
    used_ns: int = 0  # when it was needed last
    chunks: dict[str, ClosedChunk] = field(default_factory=dict)  # by file
    withdrawn: dict[str, ClosedChunk] = field(default_factory=dict)  # by file
    broken: dict[str, str] = field(default_factory=dict)  # file, why it cannot be read
    refused: dict[str, str] = field(default_factory=dict)  # file, why the run does not take it
    answered: Key | None = None  # chunks of the newest answer
    published: Key | None = None  # chunks of what this process published last
    heeded: int = 0  # number of the last action in what this process published last
    orders: Orders = NO_ORDERS  # of people
    wishes: Wishes = NO_WISHES  # what of them an answer hangs on
    log_mark: tuple[int, int, int] = (0, 0, 0)  # of the log of actions when it was looked at
    looks: dict[Key, Estimate] = field(default_factory=dict)  # to begin the next ones at
    seen: dict[Key, tuple[Posterior, bool]] = field(default_factory=dict)  # and whether trusted
    history: dict[str, dict[str, Any]] = field(default_factory=dict)  # by newest chunk
    result: dict[str, Any] | None = None
    snapshot: RunSnapshot | None = None
    failure: str | None = None  # why there is no estimate of the newest chunks
    unsaved: bool = False  # the newest answer is not on disk
    folded: int = 0  # chunks of the newest manifest that was looked at
    estimated: int = 0  # those that the newest answer is of, and those that it cannot be of

    def __post_init__(self) -> None:
        self.log = ActionLog(self.folder)

    @property
    def moved(self) -> bool:
        """Whether people asked for something since it was looked at."""
        return self.log.mark != self.log_mark

    def heed(self) -> None:
        """Take up what people asked for.

        Raises
        ------
        InputError
            If the log of actions is damaged.
        """
        self.log_mark = self.log.mark
        self.orders = self.log.read().orders()

    def wish(self, closed: Sequence[ClosedChunk], record: RunRecord) -> None:
        """Say what of the orders still holds for these chunks."""
        measured = [(chunk.psi_deg, chunk.start_time_ns) for chunk in closed]
        self.wishes = self.orders.wishes(measured, len(record.chunks))

    @property
    def holds(self) -> bool:
        """Whether the newest answer is what people want now, given its chunks."""
        return self.result is not None and (self.result.get("asked") or {}) == (
            self.wishes.document()
        )

    def ended(self, record: RunRecord) -> bool:
        """Whether the run is closed."""
        return record.closed or self.orders.closed is not None

    @property
    def error(self) -> str | None:
        """All that is wrong with the run."""
        return "; ".join([*self.broken.values(), *([self.failure] if self.failure else [])]) or None


def digest(fingerprint: Mapping[str, str]) -> str:
    """What a fingerprint is told by."""
    return hashlib.sha256(json.dumps(dict(fingerprint), sort_keys=True).encode()).hexdigest()


def key_of(closed: list[ClosedChunk]) -> Key:
    """What an answer of these chunks is known by."""
    return tuple(c.key for c in closed)


def asked_of(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an experiment that an answer depends on."""
    aside = ("title", "source", "virtual", "alarms")
    return {name: value for name, value in experiment.items() if name not in aside}


def refusal(file: str, error: Exception) -> str:
    """Why a file is not used, and what to do."""
    return f"{file} cannot be used: {str(error).rstrip('.')}. Restore the file, or fold it anew."


def newer(folder: Path, generation: int) -> bool:
    """Whether a partition has another manifest by now."""
    try:
        manifest = read_manifest(folder)
    except (OSError, ValueError):
        return False
    return manifest is not None and manifest.generation != generation


def records_of(record: RunRecord, followed: Followed) -> list[dict[str, Any]]:
    """All chunks of a run as ``result.json`` tells them, in the order of the manifest."""
    return [_record(told, followed) for told in record.chunks]


def _record(told: ChunkRecord, followed: Followed) -> dict[str, Any]:
    closed = followed.chunks.get(told.file or "")
    if closed is not None:
        return {
            "chunk": closed.chunk,
            "psi_deg": closed.psi_deg,
            "minutes": closed.minutes,
            "events": asdict(closed.account),
            "status": "folded",
            "reason": None,
        }
    out = followed.orders.withdrawn.get(told.chunk) if told.file is not None else None
    kept = followed.withdrawn.get(told.file or "")
    if out is not None:
        return {
            "chunk": told.chunk,
            "psi_deg": None if kept is None else kept.psi_deg,
            "minutes": 0.0,
            "events": {},
            "status": "withdrawn",
            "reason": out,
        }
    file = told.file or ""
    folded = told.status == "folded" or file in followed.broken
    return {
        "chunk": told.chunk,
        "psi_deg": None,
        "minutes": 0.0,
        "events": {},
        "status": "set aside" if folded else told.status,
        "reason": followed.broken.get(file) if folded else told.reason,
    }
