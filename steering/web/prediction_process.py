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
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

import structlog

log = structlog.get_logger()

START_SECONDS = 180.0
MAX_ASKED_BYTES = 16 * 2**20
MAX_ANSWER_BYTES = 256 * 2**20


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


def kept_within(limits: Limits) -> str:
    """The limit of memory, and what to do about it, in words."""
    return (
        f"{limits.memory_bytes / 2**30:.3g} GiB, which is all that one prediction gets here. Give "
        "a smaller cell, or run `beamsteer predict` on a machine of your own."
    )


class BoundedPredictor:
    """Predictions of this installation, one at a time, each in a confined process.

    The process starts with the first request, is kept for the next ones, and is replaced after a
    fault.

    Parameters
    ----------
    limits : Limits
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._one_at_a_time = threading.Lock()
        self._child: _Child | None = None
        self._closed = False

    def predict(self, asked: Mapping[str, Any]) -> Prediction:
        """Answer one request; whatever becomes of the process, there is an answer."""
        with self._one_at_a_time:
            if self._closed:
                return _problem(503, "this server is stopping; ask again later.")
            try:
                child = self._child = self._child or _Child(self.limits)
            except (OSError, EOFError) as error:
                log.error("prediction_process_not_started", reason=str(error))
                return _problem(
                    503,
                    f"the process for predictions does not start ({error}); ask again later, or "
                    "use `beamsteer predict`.",
                )
            told = child.ask(json.dumps(dict(asked)).encode(), self.limits.wall_s)
            if told is None:
                self._child = None
                ended, overdue = child.end(), child.overdue
                return _problem(*self._ending(ended, overdue))
            return told

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

    def _ending(self, code: int, overdue: bool) -> tuple[int, str]:
        """What to say of a process that ended instead of answering."""
        name = signal.Signals(-code).name if code < 0 else f"status {code}"
        log.error("prediction_process_ended", how=name, overdue=overdue)
        smaller = "Give a smaller cell, or run `beamsteer predict` on a machine of your own."
        if self._closed:
            return 503, "this server is stopping; ask again later."
        if overdue:
            return 422, f"structure: it takes longer than {self.limits.wall_s:g} s. {smaller}"
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

    def __init__(self, limits: Limits) -> None:
        self.overdue = False
        ours, theirs = socket.socketpair()
        with theirs:
            command = (sys.executable, "-m", "steering.web.prediction_child")
            self._process = subprocess.Popen(  # noqa: S603  our own module, by this interpreter
                (*command, str(theirs.fileno()), json.dumps(asdict(limits))),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env=_environment(),
            )
        self._connection = Connection(ours.detach())
        try:
            with self._killed_after(START_SECONDS):
                self._connection.recv_bytes(16)
        except (EOFError, OSError):
            raise EOFError(f"it ended with {self.end()}") from None

    def ask(self, asked: bytes, wall_s: float) -> Prediction | None:
        """Its answer; None if there is none."""
        try:
            with self._killed_after(wall_s):
                self._connection.send_bytes(asked)
                status = int(self._connection.recv_bytes(16))
                return Prediction(
                    status=status, content=self._connection.recv_bytes(MAX_ANSWER_BYTES)
                )
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


def _problem(status: int, text: str) -> Prediction:
    return Prediction(status=status, content=json.dumps({"detail": text}).encode())
