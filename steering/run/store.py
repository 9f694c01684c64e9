"""What the status API and the page read: the newest snapshot of every run."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from simulations.arrays import BoolArray, FloatArray
from simulations.errors import InputError
from steering.run.reach import Reach
from steering.run.result import (
    SCHEMA_VERSION as RESULT_VERSION,
)
from steering.run.result import (
    ChunkResult,
    HistoryEntry,
    RunResult,
    chunk_results,
    history_entries,
    result_document,
)

Status = Literal["running", "finished", "failed"]
SCHEMA_VERSION = 1
RESULT_EXPERIMENT = "result-experiment.yaml"
"""Beside a ``result.json``: the experiment that it was measured with."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpectrumView:
    """The folded spectrum along the path, ready to draw."""

    path_position: FloatArray  # (bins,) centres along the path, any unit that runs on
    segment_breaks: tuple[int, ...]  # index of the first bin after each gap of the path (U|K)
    tick_positions: tuple[float, ...]  # where the labels stand, unit of path_position
    tick_labels: tuple[str, ...]  # "Gamma", "X", "U|K"
    energy_edges_meV: FloatArray  # (energy bins + 1,)
    intensity: FloatArray  # (bins, energy bins) barn/meV/sr per cell; NaN where D = 0
    sigma: FloatArray  # (bins, energy bins)
    model_intensity: FloatArray  # (bins, energy bins) of the estimate; NaN where D = 0
    residual_sigma: FloatArray  # (bins, energy bins) (measured - model) / sigma
    branches: FloatArray  # (bins, modes) estimated mode energies, meV
    exposure: FloatArray | None = None  # (bins, energy bins) D
    fitted: BoolArray | None = None  # (bins, energy bins) cells that the fit looks at
    hkl: FloatArray | None = None  # (bins, 3) centres, r.l.u.
    counts: FloatArray | None = None  # (bins, energy bins) N, effective ones of reduced input
    scale: FloatArray | None = None  # () intensity is S / (D scale)
    branches_low: FloatArray | None = None  # (bins, modes) 5 % of the posterior, meV
    branches_high: FloatArray | None = None  # (bins, modes) 95 %

    def __post_init__(self) -> None:
        shape = (len(self.path_position), len(self.energy_edges_meV) - 1)
        for name in (
            "intensity",
            "sigma",
            "model_intensity",
            "residual_sigma",
            "exposure",
            "fitted",
            "counts",
        ):
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}; expected {shape}")
        if self.branches.ndim != 2 or len(self.branches) != shape[0]:
            raise ValueError(f"branches has shape {self.branches.shape}; expected ({shape[0]}, _)")
        for name in ("branches_low", "branches_high"):
            array = getattr(self, name)
            if array is not None and array.shape != self.branches.shape:
                raise ValueError(f"{name} has shape {array.shape}; expected that of branches")
        if self.hkl is not None and self.hkl.shape != (shape[0], 3):
            raise ValueError(f"hkl has shape {self.hkl.shape}; expected ({shape[0]}, 3)")
        if len(self.tick_positions) != len(self.tick_labels):
            raise InputError("tick_positions and tick_labels differ in length; expected one each")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunSnapshot:
    """All that is known about a run at one moment."""

    run_id: str
    title: str
    status: Status
    experiment: dict[str, Any]
    updated_ns: int  # since the Unix epoch
    error: str | None = None
    chunks: tuple[ChunkResult, ...] = ()
    spectrum: SpectrumView | None = None
    result: RunResult | None = None
    history: tuple[HistoryEntry, ...] = ()
    estimate_seconds: float | None = None  # computing time of the newest estimate
    lag_seconds: float | None = None  # age of the newest chunk when its estimate was ready
    estimated_ns: int | None = None  # when the newest estimate was made, since the Unix epoch
    force_constants: Mapping[str, str] | None = None  # files for phonopy, of the posterior mean
    reach: Reach | None = None  # of done and advised orientations
    version: int = 0  # set by the store; grows with every publication of any run


class Subscription:
    """Newest snapshots, one slot per run: a slow reader skips versions, it never delays a run."""

    def __init__(
        self,
        forget: Callable[[Subscription], None],
        run_id: str | None,
        wake: Callable[[], object] | None,
    ) -> None:
        self._forget = forget
        self._run_id = run_id
        self._wake = wake
        self._pending: OrderedDict[str, RunSnapshot] = OrderedDict()
        self._ready = threading.Condition()
        self._closed = False

    def offer(self, snapshot: RunSnapshot) -> None:
        """Put a snapshot in its run's slot; called by the store."""
        if self._run_id is not None and snapshot.run_id != self._run_id:
            return
        with self._ready:
            self._pending[snapshot.run_id] = snapshot
            self._ready.notify()
        if self._wake is not None:
            with contextlib.suppress(RuntimeError):  # the reader's event loop is closed
                self._wake()

    def take(self, timeout: float | None = 0) -> RunSnapshot | None:
        """Next unread snapshot; None after ``timeout`` seconds (None waits) or when closed."""
        with self._ready:
            self._ready.wait_for(lambda: self._pending or self._closed, timeout)
            if not self._pending:
                return None
            return self._pending.popitem(last=False)[1]

    def close(self) -> None:
        """Stop; a waiting ``take`` returns None."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        self._forget(self)

    def __iter__(self) -> Iterator[RunSnapshot]:
        while (snapshot := self.take(None)) is not None:
            yield snapshot

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RunStore:
    """Newest snapshot of every run; safe to use from several threads.

    Parameters
    ----------
    max_runs : int
        Runs kept; beyond it those that ended longest ago go first, then the longest silent.
    """

    def __init__(self, max_runs: int = 32) -> None:
        if max_runs < 1:
            raise InputError(f"max_runs is {max_runs}; expected 1 or more")
        self._max_runs = max_runs
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, RunSnapshot] = OrderedDict()
        self._subscriptions: list[Subscription] = []
        self._version = 0

    def publish(self, snapshot: RunSnapshot) -> RunSnapshot:
        """Replace the run's snapshot, wake its readers, return it with its version set."""
        with self._lock:
            self._version += 1
            snapshot = replace(snapshot, version=self._version)
            self._runs[snapshot.run_id] = snapshot
            self._runs.move_to_end(snapshot.run_id)
            while len(self._runs) > self._max_runs:
                ended = (name for name, run in self._runs.items() if run.status != "running")
                del self._runs[next(ended, next(iter(self._runs)))]
            # Inside the lock, so that readers see versions in order; offers never wait.
            for subscription in self._subscriptions:
                subscription.offer(snapshot)
        return snapshot

    def get(self, run_id: str) -> RunSnapshot | None:
        """Newest snapshot of a run, None where there is no such run."""
        with self._lock:
            return self._runs.get(run_id)

    def list(self) -> tuple[RunSnapshot, ...]:
        """Newest snapshot of every run, last updated first."""
        with self._lock:
            return tuple(reversed(self._runs.values()))

    def subscribe(
        self, run_id: str | None = None, *, wake: Callable[[], object] | None = None
    ) -> Subscription:
        """Follow one run, or all; what is known already comes first.

        Parameters
        ----------
        run_id : str, optional
            None follows every run.
        wake : callable, optional
            Called from the publishing thread after each offer, e.g. to set an event in a loop;
            it must not block.
        """
        subscription = Subscription(self._remove, run_id, wake)
        with self._lock:
            self._subscriptions.append(subscription)
            for snapshot in self._runs.values():
                subscription.offer(snapshot)
        return subscription

    def _remove(self, subscription: Subscription) -> None:
        with self._lock:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)


def now_ns() -> int:
    """Wire time: integer nanoseconds since the Unix epoch."""
    return time.time_ns()


def save_snapshot(snapshot: RunSnapshot, path: Path | str) -> None:
    """Write a snapshot, so that ``beamsteer serve`` can show the run again later.

    The file is an ``.npz`` without pickle; it is replaced in one step.
    """
    path = Path(path)
    plain = {
        field.name: getattr(snapshot, field.name)
        for field in fields(RunSnapshot)
        if field.name not in ("spectrum", "reach", "version")
    }
    plain["result"] = None if snapshot.result is None else snapshot.result.document()
    for name in ("chunks", "history"):
        plain[name] = [part.document() for part in plain[name]]
    arrays: dict[str, Any] = {}
    if snapshot.spectrum is not None:
        view = snapshot.spectrum
        for field in fields(SpectrumView):
            value = getattr(view, field.name)
            if isinstance(value, np.ndarray):
                arrays[f"spectrum_{field.name}"] = value
        plain["spectrum"] = {
            "segment_breaks": list(view.segment_breaks),
            "tick_positions": list(view.tick_positions),
            "tick_labels": list(view.tick_labels),
        }
    if snapshot.reach is not None:
        plain["reach"] = {"measured": snapshot.reach.measured}
        for name in ("psi_deg", "rank", "share"):
            arrays[f"reach_{name}"] = getattr(snapshot.reach, name)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(
                file,
                schema_version=np.array(SCHEMA_VERSION),
                snapshot=np.frombuffer(json.dumps(plain, default=_plain).encode(), dtype=np.uint8),
                **arrays,
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_snapshot(path: Path | str) -> RunSnapshot:
    """Read what :func:`save_snapshot` wrote.

    Raises
    ------
    ValueError
        If the file is something else, of another version, or damaged.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            version = int(file["schema_version"])
            if version != SCHEMA_VERSION:
                raise InputError(f"schema_version is {version}; expected {SCHEMA_VERSION}")
            plain = json.loads(file["snapshot"].tobytes())
            arrays, reached = _arrays(file, "spectrum_"), _arrays(file, "reach_")
        axes = plain.pop("spectrum", None)
        spectrum = None
        if axes is not None:
            view: dict[str, Any] = {key: tuple(value) for key, value in axes.items()}
            spectrum = SpectrumView(**arrays, **view)
        if plain["result"] is not None:
            plain["result"] = result_document(plain["result"])
        plain["chunks"] = chunk_results(plain["chunks"])
        plain["history"] = history_entries(plain["history"])
        known = plain.pop("reach", None)
        reach = None if known is None else Reach(**reached, **known)
        return RunSnapshot(**plain, spectrum=spectrum, reach=reach)
    except OSError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: is no snapshot of a run ({error}); expected a file that `beamsteer replay` "
            "wrote. Replay the run again."
        ) from error


def _arrays(file: Any, prefix: str) -> dict[str, Any]:
    return {name[len(prefix) :]: file[name] for name in file.files if name.startswith(prefix)}


def save_result(result: RunResult, path: Path | str) -> None:
    """Write a ``result.json`` in one step; the same result gives the same bytes."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(result.text(), encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_result(path: Path | str) -> RunResult | None:
    """Read what :func:`save_result` wrote; None where there is none, or it is damaged."""
    try:
        return read_result(path)
    except (OSError, ValueError):
        return None


def newest_result(path: Path) -> RunResult | None:
    """A worker's newest answer; read again only where the file is another one. None: none."""
    try:
        told = path.stat()
    except OSError:
        return None
    return _read(path, told.st_mtime_ns, told.st_size, told.st_ino)


@lru_cache(maxsize=64)
def _read(path: Path, _mtime_ns: int, _size: int, _inode: int) -> RunResult | None:
    return load_result(path)


def read_result(path: Path | str) -> RunResult:
    """Read what :func:`save_result` wrote.

    Raises
    ------
    InputError
        If the file is cut short, or something else.
    """
    path = Path(path)
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(
            f"{path}: is no whole JSON ({error}); expected the result.json of a run. Replay the "
            "run again, or copy the file again"
        ) from error
    wanted = ("schema_version", "parameters", "run")
    if not isinstance(document, dict) or any(key not in document for key in wanted):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(
            f"{path}: is JSON, but no result of a run (schema_version, run or parameters is "
            "missing); expected the result.json that `beamsteer replay` or `model-server` writes"
        )
    if document["schema_version"] != RESULT_VERSION:
        raise InputError(
            f"{path}: schema_version is {document['schema_version']!r}; expected {RESULT_VERSION}. "
            "Replay the run with this version of Beamsteer"
        )
    return result_document(document, where=str(path))


def _snapshots_below(folder: Path) -> Iterator[Path]:
    """Snapshots in a folder and its folders, but for those that hold chunks only."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in ("chunks", "recorded"))
        if "snapshot.npz" in files:
            yield Path(place) / "snapshot.npz"


class SnapshotFolders:
    """Snapshots of runs below some folders; tells which ones are new since the last look."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = tuple(folders)
        self._seen: dict[Path, tuple[int, int]] = {}

    def publish_new(self, store: RunStore) -> list[str]:
        """Publish what is new or changed, oldest first; returns what could not be read."""
        changed: list[tuple[tuple[int, int], Path]] = []
        for folder in self._folders:
            for path in [folder] if folder.is_file() else _snapshots_below(folder):
                with contextlib.suppress(FileNotFoundError):  # gone between the looks
                    told = path.stat()
                    mark = (told.st_mtime_ns, told.st_size)
                    if self._seen.get(path) != mark:
                        changed.append((mark, path))
        faults: list[str] = []
        for mark, path in sorted(changed):
            self._seen[path] = mark
            try:
                store.publish(load_snapshot(path))
            except (OSError, ValueError) as error:
                faults.append(str(error))
        return faults


def _plain(value: Any) -> Any:
    """Numpy values as plain ones, for JSON."""
    if isinstance(value, np.generic):
        return cast("np.generic[Any]", value).item()
    if isinstance(value, np.ndarray):
        return cast("np.ndarray[Any, Any]", value).tolist()
    raise TypeError(f"{type(value).__name__} is not JSON; expected plain values")
