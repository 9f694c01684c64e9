"""The state of one partition: a manifest, replaced in one step, over immutable chunk files.

Only what the manifest names exists. It holds how far the source was read, what was made of it and
which files carry it, so that sums and offsets can never disagree: after a crash the source goes
back to ``positions`` and the fold goes on from ``runs``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from simulations.errors import InputError, storing
from simulations.saved_file import in_one_step

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
Status = Literal["folded", "set aside", "withdrawn"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """How far a topic of the partition is settled."""

    next: int  # offset of the first message still needed
    done: tuple[tuple[int, int], ...] = ()  # settled [first, last] beyond it, rising
    seen: int = field(default=0, compare=False)  # offset beyond all that were read

    def has(self, offset: int) -> bool:
        """Whether a message at this offset is settled."""
        if offset < self.next:
            return True
        i = bisect_right(self.done, offset, key=_first)
        return i > 0 and offset <= self.done[i - 1][1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """An earlier recording of a dwell, of which a part belongs to no chunk yet."""

    recording: str  # relative to the partition's folder
    left: tuple[tuple[int, int], ...] = ()  # [first, last] times of pulses, rising
    logs_from_ns: int | None = None  # of samples; None: none is left


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkRecord:
    """One dwell that was closed."""

    chunk: str
    job: str
    generation: int  # grows when a late message reopens the chunk
    start_time_ns: int
    stop_time_ns: int
    status: Status
    reason: str | None = None
    file: str | None = None  # of the closed chunk, relative to the partition's folder
    recording: str | None = None  # of its raw data, likewise
    explicit_stop: bool = True  # whether a stop message said so
    note: str | None = None  # e.g. closed by the next start
    descriptors: tuple[str, ...] = ()  # bluesky's, so that a late document finds its dwell
    cut: tuple[Cut, ...] = ()  # what was cut off it and waits

    def files(self) -> tuple[str, ...]:
        """Names of its files, relative to the partition's folder."""
        own = [name for name in (self.file, self.recording) if name is not None]
        return (*own, *(cut.recording for cut in self.cut))


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """All dwells of a run, in order of their start."""

    chunks: tuple[ChunkRecord, ...] = ()
    logs: Mapping[str, tuple[int, tuple[float, ...]]] = field(
        default_factory=dict[str, tuple[int, tuple[float, ...]]]
    )
    closed: bool = False
    actions: int = 0  # number of the last action of people that its chunks obey


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything that a successor needs."""

    partition: int
    generation: int = 0  # grows by one with every commit
    state_id: str = ""  # of the state folder; empty: not known
    fingerprint: Mapping[str, str] = field(default_factory=dict[str, str])  # of its folds
    positions: Mapping[str, Position] = field(default_factory=dict[str, Position])  # by topic
    counters: Mapping[str, int] = field(default_factory=dict[str, int])
    runs: Mapping[str, RunRecord] = field(default_factory=dict[str, RunRecord])

    def files(self) -> frozenset[str]:
        """Names of all files that exist, relative to the partition's folder."""
        chunks = [c for run in self.runs.values() for c in run.chunks]
        return frozenset(name for c in chunks for name in c.files())


def _first(offsets: tuple[int, int]) -> int:
    return offsets[0]


def partition_folder(state: Path, partition: int) -> Path:
    """Folder of a partition inside a state folder."""
    return state / f"partition-{partition}"


def run_folder(partition: Path, run: str) -> Path:
    """Folder of a run inside a partition's; a name that is no plain file name gets a safe one."""
    return partition / file_name(run)


def file_name(text: str) -> str:
    """A file name for any text; texts that differ get names that differ."""
    safe = "".join(c if c.isalnum() and c.isascii() or c in "-_." else "_" for c in text)[:80]
    if text and safe == text and not text.startswith("."):
        return text
    return f"{safe.lstrip('.')}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def partition_folders(state: Path) -> tuple[Path, ...]:
    """Folders of all partitions that have a manifest."""
    return tuple(sorted(p.parent for p in state.glob(f"partition-*/{MANIFEST}")))


def read_manifest(folder: Path) -> Manifest | None:
    """Manifest of a partition's folder; None when it has none yet.

    Raises
    ------
    ValueError
        If it is damaged, or of a version that this software does not know.
    """
    path = folder / MANIFEST
    try:
        return manifest_of(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise _no_manifest(path, error) from error


def _no_manifest(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path}: not a manifest ({error}); expected schema_version, sha256 and state. "
        "Restore it from a backup, or start in an empty folder: the source is read again."
    )


def manifest_of(text: str, path: Path) -> Manifest:
    """Manifest of a text that was read from ``path``.

    Raises
    ------
    InputError
        If it is damaged, or of a version that this software does not know.
    """
    try:
        outer = json.loads(text)
        version, digest, body = outer["schema_version"], outer["sha256"], outer["state"]
    except (ValueError, KeyError, TypeError) as error:
        raise _no_manifest(path, error) from error
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema_version is {version}; expected {SCHEMA_VERSION}. Finish the run with "
            "the version that began it, or start in an empty folder: the source is read again."
        )
    if _digest(body) != digest:
        raise InputError(
            f"{path}: its checksum does not match; it was changed or damaged. Restore it from a "
            "backup, or start in an empty folder: the source is read again."
        )
    return Manifest(
        partition=body["partition"],
        generation=body["generation"],
        state_id=body.get("state_id", ""),
        fingerprint=body.get("fingerprint", {}),
        positions={
            topic: Position(
                next=p["next"],
                done=tuple((a, b) for a, b in p["done"]),
                seen=p.get("seen", 0),
            )
            for topic, p in body["positions"].items()
        },
        counters=body["counters"],
        runs={
            name: RunRecord(
                chunks=tuple(map(_chunk_record, run["chunks"])),
                logs={k: (t, tuple(v)) for k, (t, v) in run["logs"].items()},
                closed=run["closed"],
                actions=run.get("actions", 0),
            )
            for name, run in body["runs"].items()
        },
    )


def _chunk_record(body: Mapping[str, Any]) -> ChunkRecord:
    cuts = (
        Cut(
            recording=c["recording"],
            left=tuple((a, b) for a, b in c["left"]),
            logs_from_ns=c["logs_from_ns"],
        )
        for c in body.get("cut", ())
    )
    return replace(ChunkRecord(**body), descriptors=tuple(body["descriptors"]), cut=tuple(cuts))


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Replace the manifest in one step; returns it with its generation counted up.

    Raises
    ------
    RuntimeError
        If somebody else has written a newer one: this process lost the partition.
    StorageError
        If it cannot be written; the one before stays.
    """
    found = read_manifest(folder)
    there = 0 if found is None else found.generation
    if there != manifest.generation:
        raise RuntimeError(
            f"{folder / MANIFEST}: generation is {there}; expected {manifest.generation}, the one "
            "written here last. Another process owns this partition; this one must stop."
        )
    manifest = replace(manifest, generation=manifest.generation + 1)
    body = json.loads(json.dumps(asdict(manifest)))
    document = {"schema_version": SCHEMA_VERSION, "sha256": _digest(body), "state": body}
    with in_one_step(folder / MANIFEST) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(document, file, sort_keys=True)
    return manifest


def remove_unnamed(folder: Path, manifest: Manifest) -> int:
    """Delete chunk and recording files that the manifest does not name; returns how many."""
    named, removed = manifest.files(), 0
    for pattern in ("*/chunks/*", "*/recorded/*"):
        for path in folder.glob(pattern):
            if str(path.relative_to(folder)) not in named:
                path.unlink(missing_ok=True)
                removed += 1
    return removed


def _digest(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class PartitionLock:
    """Only one process may own a partition's folder; the lock ends with the process.

    Parameters
    ----------
    folder : Path
        Folder of the partition; made if it is not there.

    Raises
    ------
    BlockingIOError
        If another process holds it.
    StorageError
        If the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        with storing(folder / "lock"):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / "lock").open("w", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise BlockingIOError(
                f"{folder}: another process owns this partition; expected one at a time. "
                "Stop it, or give this one a folder of its own."
            ) from error

    def release(self) -> None:
        """Let others have it."""
        self._file.close()
