"""Predictions made by a process of their own, which may use so much memory and time and no more.

A structure that somebody uploads goes through libraries that were written for honest files. One
that makes them crash, hang or take all memory ends that process; the server says so and goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from simulations.progress import Progress, silent

log = structlog.get_logger()

START_SECONDS = 180.0
MAX_ASKED_BYTES = 32 * 2**20
MAX_ANSWER_BYTES = 256 * 2**20
PROGRESS = b"progress "
"""What a message of the process begins with that is no answer yet."""
LAST = b" last"
"""What the status of an answer ends with after which the process takes no other request."""
MAX_TOLD_BYTES = 1000
GONE = 499
"""Status of a prediction that was cancelled."""
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one prediction may use."""

    memory_bytes: int = 6 * 2**30  # address space beyond that of the libraries
    processor_s: float = 600.0
    wall_s: float = 600.0
    file_bytes: int = 256 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """An answer as it goes out: JSON, with its HTTP status."""

    status: int
    content: bytes


def faults_of(error: ValidationError) -> str:
    """What is wrong with the fields of a request, in words."""
    faults = error.errors(include_url=False, include_input=False)
    places = [".".join(map(str, fault["loc"])) or "body" for fault in faults]
    words = [str(fault["msg"]).removeprefix("Value error, ") for fault in faults]
    return "; ".join(f"{place}: {word}" for place, word in zip(places, words, strict=True))


def kept_within(limits: Limits) -> str:
    """The limit of memory, and what to do about it, in words."""
    return (
        f"{limits.memory_bytes / 2**30:.3g} GiB, which is all that one prediction gets here. Give "
        "a smaller cell, or run `beamsteer predict` on a machine of your own."
    )


class Cancellation:
    """Ends one prediction from any thread: a waiting one is not begun, a running one killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether it was asked for."""
        return self._cancelled

    def cancel(self) -> None:
        """Ask for it, and kill the process that works on it."""
        with self._lock:
            self._cancelled = True
            if self._child is not None:
                self._child.kill()

    @contextlib.contextmanager
    def _working(self, child: _Child) -> Iterator[bool]:
        """Name the process that works on it for a block; False: there is no need to."""
        with self._lock:
            if not self._cancelled:
                self._child = child
            wanted = not self._cancelled
        try:
            yield wanted
        finally:
            with self._lock:
                self._child = None


class BoundedPredictor:
    """Predictions of this installation, one at a time, each in a confined process.

    The process starts with the first request, is kept for the next ones, and is replaced after a
    fault, also one that it outlived and told.

    Parameters
    ----------
    limits : Limits
    database : Path, optional
        Store whose entries structures may name.
    cache_folder : Path, optional
        Where answers that others may ask for again are kept; in memory, if there is none.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        database: Path | None = None,
        cache_folder: Path | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.database, self.cache_folder = database, cache_folder
        self._one_at_a_time = threading.Lock()
        self._child: _Child | None = None
        self._closed = False

    def predict(
        self,
        asked: Mapping[str, Any],
        *,
        progress: Progress = silent,
        cancellation: Cancellation | None = None,
        time_limit_s: float | None = None,
    ) -> Prediction:
        """Answer one request; whatever becomes of the process, there is an answer.

        Parameters
        ----------
        asked : mapping
            Fields of `PredictionRequest`; and ``uploaded``, names and base64 of files.
        progress : callable
            Called in this thread with what the process says that it does.
        cancellation : Cancellation, optional
        time_limit_s : float, optional
            Wall time, within the limits of all.
        """
        asked_for = cancellation or Cancellation()
        wall_s = min(self.limits.wall_s, time_limit_s or self.limits.wall_s)
        while not self._one_at_a_time.acquire(timeout=_LOOK_SECONDS):
            if asked_for.cancelled:
                return _cancelled()
        try:
            if self._closed:
                return _problem(503, "this server is stopping; ask again later.")
            if asked_for.cancelled:
                return _cancelled()
            if self._child is not None and self._child.dead:  # since the last answer
                self._ending(self._child.end(), overdue=False, wall_s=wall_s)
                self._child = None
            told = None
            try:
                child = self._child = self._child or _Child(self.limits, self.database)
                with asked_for._working(child) as wanted:
                    if not wanted:
                        return _cancelled()
                    child.wait_until_ready()
                    told = child.ask(json.dumps(dict(asked)).encode(), wall_s, progress)
            except (OSError, EOFError) as error:
                self._child = None
                if asked_for.cancelled:
                    return _cancelled()
                log.error("prediction_process_not_started", reason=str(error))
                return _problem(
                    503,
                    f"the process for predictions does not start ({error}); ask again later, or "
                    "use `beamsteer predict`.",
                )
            if told is not None and not asked_for.cancelled:
                if child.retired:
                    self._child = None
                    child.end()
                return told
            self._child = None
            ended, overdue = child.end(), child.overdue
            if asked_for.cancelled and not self._closed:
                return _cancelled()
            return _problem(*self._ending(ended, overdue, wall_s))
        finally:
            self._one_at_a_time.release()

    def close(self) -> None:
        """End the process, also while it computes."""
        self._closed = True
        child = self._child
        if child is not None:
            child.kill()
        with self._one_at_a_time:
            if self._child is not None:
                self._child.end()
                self._child = None

    def _ending(self, code: int, overdue: bool, wall_s: float) -> tuple[int, str]:
        """What to say of a process that ended instead of answering."""
        name = signal.Signals(-code).name if code < 0 else f"status {code}"
        log.error("prediction_process_ended", how=name, overdue=overdue)
        smaller = "Give a smaller cell, or run `beamsteer predict` on a machine of your own."
        if self._closed:
            return 503, "this server is stopping; ask again later."
        if overdue:
            return 422, f"structure: it takes longer than {wall_s:g} s, the time limit. {smaller}"
        if code == -signal.SIGXCPU:
            used = f"{self.limits.processor_s:g} s of processor time"
            return 422, f"structure: it takes more than {used}. {smaller}"
        if code == -signal.SIGKILL:
            return 503, f"the prediction was killed, perhaps for want of memory. {smaller}"
        if code >= 0:
            return 422, (
                f"structure: a library gave up ({name}), perhaps since it needs more than "
                f"{kept_within(self.limits)}"
            )
        return 422, (
            f"structure: a library that reads or computes it crashed ({name}). Check lattice and "
            "positions; the server goes on."
        )


class _Child:
    """One process, from its start to its end."""

    def __init__(self, limits: Limits, database: Path | None = None) -> None:
        self.overdue = False
        self.retired = False  # it said that the answer was its last
        ours, theirs = socket.socketpair()
        with theirs:
            command = (sys.executable, "-m", "steering.web.prediction_child")
            self._process = subprocess.Popen(  # noqa: S603  our own module, by this interpreter
                (
                    *command,
                    str(theirs.fileno()),
                    json.dumps(asdict(limits)),
                    *(() if database is None else (str(database),)),
                ),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env=_environment(),
            )
        self._connection = Connection(ours.detach())
        self._ready = False

    def wait_until_ready(self) -> None:
        """Wait until it takes requests.

        Raises
        ------
        EOFError
            If it ended instead.
        """
        if self._ready:
            return
        try:
            with self._killed_after(START_SECONDS):
                self._connection.recv_bytes(16)
        except (EOFError, OSError):
            raise EOFError(f"it ended with {self.end()}") from None
        self._ready = True

    def ask(self, asked: bytes, wall_s: float, progress: Progress = silent) -> Prediction | None:
        """Its answer; None if there is none."""
        try:
            with self._killed_after(wall_s):
                self._connection.send_bytes(asked)
                while (told := self._connection.recv_bytes(MAX_TOLD_BYTES)).startswith(PROGRESS):
                    message, fraction = json.loads(told.removeprefix(PROGRESS))
                    progress(str(message), float(fraction))
                status = int(told.removesuffix(LAST))
                content = self._connection.recv_bytes(MAX_ANSWER_BYTES)
                self.retired = told.endswith(LAST)
                return Prediction(status=status, content=content)
        except (EOFError, OSError, ValueError):
            return None

    @contextlib.contextmanager
    def _killed_after(self, seconds: float) -> Any:
        def overdue() -> None:
            self.overdue = True
            self.kill()

        timer = threading.Timer(seconds, overdue)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @property
    def dead(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End it and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> int:
        """See to it that it is gone; its status, negative for a signal."""
        with contextlib.suppress(OSError):
            self._connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(2.0)
        self.kill()
        return self._process.wait()


def _environment() -> dict[str, str]:
    """That of the server, without what is secret or what its supervisor told it."""
    aside = re.compile(r"TOKEN|PASSWORD|SECRET|KEY|^NOTIFY_|^WATCHDOG_", re.IGNORECASE)
    kept = {name: value for name, value in os.environ.items() if not aside.search(name)}
    # Every thread more takes address space, and processors from the service.
    threads = str(min(2, os.cpu_count() or 1))
    return (
        {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        | kept
        | {"MALLOC_ARENA_MAX": "2"}
    )


def _cancelled() -> Prediction:
    return _problem(GONE, "it was cancelled.")


def _problem(status: int, text: str) -> Prediction:
    return Prediction(status=status, content=json.dumps({"detail": text}).encode())
