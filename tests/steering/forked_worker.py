"""Fold workers as forks of one warm process, so that a test can kill very many of them.

Reads lines from stdin: ``start STATE CONTROL`` forks a worker and prints its process number;
``wait PID`` waits for one and prints how it ended. CONTROL is JSON: ``bootstrap``, ``prefix``,
``group``, ``idle_s`` (null: until killed). ``command LOG ARGUMENTS`` forks a process that runs
``beamsteer`` with a JSON list of arguments and writes to a file; ``ended PID`` prints how one
ended, or ``lives``. All end with this process.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import logging
import os
import signal
import sys
import traceback
from pathlib import Path

import structlog

from consumers.transport import KafkaSection, KafkaTopics
from steering.cli import run as beamsteer
from steering.service import LiveOptions, open_live
from tests.steering.live_stream import as_raw, live_experiment, live_measurement, live_scan
from tests.steering.virtual_scan import EXAMPLES

PR_SET_PDEATHSIG = 1


def fork() -> int:
    """A fork that does not outlive this process."""
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    return pid


def command(log: str, arguments: list[str]) -> None:
    """Be ``beamsteer`` with a log of its own."""
    with open(os.devnull) as nothing, open(log, "ab") as file:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os._exit(beamsteer(arguments))


def work(state: str, control: dict) -> None:
    """Fold until idle or killed."""
    section = KafkaSection(
        bootstrap_servers=control["bootstrap"],
        topics=KafkaTopics(prefix=control["prefix"], reduced=None, bluesky=None),
        group=control["group"],
        session_timeout_s=control.get("session_s", 1.0),
        connect_timeout_s=60.0,
    )
    experiment = live_experiment(kind="kafka", lateness_s=300.0, settle_s=0.5)
    source = experiment.source.model_copy(update={"kafka": section})
    experiment = experiment.model_copy(update={"source": source})
    with open_live(
        experiment,
        experiment_dir=EXAMPLES,
        state=Path(state),
        options=LiveOptions(run="unnamed"),
        measurement=live_measurement(),
    ) as live:
        live.consume(lambda: False, until_idle_s=control["idle_s"])


def main() -> None:
    """Warm up, then serve."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    import tempfile

    from steering.service.consuming import consume
    from steering.service.fold_worker import FoldWorker
    from tests.steering.live_stream import ListSource

    with tempfile.TemporaryDirectory() as folder:  # compile everything once
        worker = FoldWorker(live_measurement(), state=Path(folder), default_run="warm")
        raws = as_raw(live_scan(psis=(5.0,)))
        consume(ListSource(raws, worker), worker, stop=lambda: False, until_idle_s=0.0)
        worker.close()
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        word, *rest = line.split(maxsplit=2)
        if word == "start":
            pid = fork()
            if pid == 0:
                faulthandler.dump_traceback_later(45)
                try:
                    work(rest[0], json.loads(rest[1]))
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
            print(pid, flush=True)  # noqa: T201
        elif word == "command":
            pid = fork()
            if pid == 0:
                try:
                    command(rest[0], json.loads(rest[1]))
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
            print(pid, flush=True)  # noqa: T201
        elif word == "ended":
            pid, status = os.waitpid(int(rest[0]), os.WNOHANG)
            print(os.waitstatus_to_exitcode(status) if pid else "lives", flush=True)  # noqa: T201
        elif word == "wait":
            _, status = os.waitpid(int(rest[0]), 0)
            print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
