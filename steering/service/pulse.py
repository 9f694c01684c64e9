"""The pulse of a service: as long as its loop turns, supervisor and readers are told that it lives.

A thread of its own looks at what the loop left behind, so a long fold or estimate does not look
like death, and a loop that stands still is not made to look alive.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import structlog

from steering.service.clocks import Clock, steady_ns
from steering.service.health import (
    READY_SECONDS,
    WorkerStatus,
    judge_health,
    judge_readiness,
)
from steering.web import HeartbeatFile, notify

log = structlog.get_logger()

PULSE_SECONDS = 2.0
RUNS = 200  # that a heartbeat names


@contextmanager
def pulse(
    status: Callable[[], WorkerStatus],
    *,
    every_s: float = PULSE_SECONDS,
    environment: Mapping[str, str] = os.environ,
    clock: Clock = steady_ns,
) -> Iterator[None]:
    """Tell that a service lives, for as long as a block runs and its loop turns.

    systemd is told ``READY=1`` and then ``WATCHDOG=1`` while the service is healthy (see
    :func:`steering.service.health.judge_health`), and what keeps it from its work as its status;
    the state folder gets a heartbeat, which `beamsteer serve` reads.

    Parameters
    ----------
    status : callable
        Newest status; its ``state`` is the folder that gets the heartbeat.
    every_s : float
        Time between two looks.
    environment : mapping
        ``NOTIFY_SOCKET`` says where the supervisor listens.
    clock : callable
        That of the status, ns.
    """
    end = threading.Event()
    first = status()
    heard = [clock()]  # when the stream was there last
    file = None if first.state is None else HeartbeatFile(first.state, first.service)

    def look() -> None:
        now = status()
        health = judge_health(now, clock())
        turns = judge_health(now, clock(), loop_seconds=READY_SECONDS)
        reasons = judge_readiness(now, turns).reasons
        told = "; ".join(reasons) or "working"
        words = ["READY=1", "WATCHDOG=1"] if health.ok else []
        if now.connected is not False:
            heard[0] = clock()
        if file is not None and health.ok:
            lost_ns = heard[0] if now.connected is False else None
            work = _work(now, clock(), lost_ns=lost_ns)
            file.write(partitions=now.partitions, reasons=reasons, **work)
        notify(*words, f"STATUS={told[:500]}", environment=environment)

    def beat() -> None:
        while True:
            try:
                look()
            except Exception as error:  # a fault here must not look like death
                log.error("pulse_failed", reason=repr(error))
            if end.wait(every_s):
                return

    thread = threading.Thread(target=beat, name="pulse", daemon=True)
    thread.start()
    peace = True  # being asked to stop is no fault
    try:
        yield
    except Exception:
        peace = False  # the heartbeat grows old
        raise
    finally:
        end.set()
        thread.join()
        notify("STOPPING=1", environment=environment)
        if file is not None and peace:
            last = status()
            runs = _work(last, clock(), lost_ns=None)["runs"]
            file.write(partitions=last.partitions, reasons=(), stopped=True, runs=runs)


def _work(status: WorkerStatus, now_ns: int, *, lost_ns: int | None) -> dict[str, Any]:
    """What a heartbeat says of the work; durations, since clocks of two machines may differ."""

    def since(then_ns: int | None) -> float | None:
        return None if then_ns is None else round(max(now_ns - then_ns, 0) / 1e9, 1)

    newest = list(status.progress.items())[-RUNS:]
    return {
        "connected": status.connected,
        "lost_s": since(lost_ns),
        "quiet_s": since(status.data_ns),
        "estimating_s": since(status.estimating_since_ns),
        "runs": {name: asdict(one) for name, one in newest},
    }
