"""The process whose forks are the workers of a test; its program is ``forked_worker``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Host:
    """Forks workers, waits for them and kills them.

    Parameters
    ----------
    log : Path
        Gets what the host and its workers write to stderr.
    environment : mapping, optional
        Added to that of this process.
    """

    def __init__(self, log: Path, environment: Mapping[str, str] | None = None) -> None:
        one_thread = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.steering.forked_worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, cwd=ROOT, text=True,
            env={**os.environ, **one_thread, **(environment or {})},
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", log.read_text()

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def start(self, state: Path, **control: object) -> int:
        """Fork a worker with a source of its own; returns its process number."""
        return int(self._ask(f"start {state} {json.dumps(control)}"))

    def command(self, log: Path, arguments: list[str]) -> int:
        """Fork a process that runs ``beamsteer`` and writes to a log of its own."""
        return int(self._ask(f"command {log} {json.dumps(arguments)}"))

    def wait(self, pid: int) -> int:
        """How one ended."""
        return int(self._ask(f"wait {pid}"))

    def ended(self, pid: int) -> int | None:
        """How one ended; None while it lives."""
        found = self._ask(f"ended {pid}")
        return None if found == "lives" else int(found)

    def kill(self, pid: int) -> None:
        """SIGKILL, and see that it died of that."""
        os.kill(pid, signal.SIGKILL)
        assert self.wait(pid) == -signal.SIGKILL

    def close(self) -> None:
        """End it, and its workers with it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._log.close()
