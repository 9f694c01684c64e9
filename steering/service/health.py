"""What a service says of itself, and what follows for supervisors: alive, ready, and why not."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from steering.service.clocks import Clock, steady_ns
from steering.web import People, add_guards

LOOP_SECONDS = 30.0
READY_SECONDS = 8.0  # a loop that turned longer ago does not do its work
BUSY_SECONDS = 1800.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a run is, as one service sees it; in chunks."""

    folded: int
    estimated: int | None = None  # None: this service does not estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerStatus:
    """One moment of a service that follows a stream or a state folder; times by ``steady_ns``.

    ``counters`` are named ``family`` or ``family.label``: ``messages.TOPIC``, ``bytes.TOPIC``,
    ``events.OUTCOME``, ``dead_letters.REASON``, ``duplicates``, ``late`` (see
    :mod:`steering.service.metrics`).
    """

    service: str  # name of the service, the same on every host: "consume", "model-server"
    last_loop_ns: int  # when its loop turned last
    busy_since_ns: int | None = None  # since when one step takes long: a fold, an estimate
    connected: bool | None = None  # with its source; None: it has none
    joined: bool = True  # partitions are assigned, or it stands by for them
    partitions: tuple[int, ...] = ()  # those it owns; none: it stands by
    last_commit_ns: int | None = None  # newest manifest written, or estimate made
    open_chunks: int = 0
    held_bytes: Mapping[str, int] = field(default_factory=dict)  # of open dwells, by where
    lag: Mapping[tuple[str, int], int] = field(default_factory=dict)  # messages by topic, partition
    generation: Mapping[int, int] = field(default_factory=dict)  # of the manifest, by partition
    chunks: Mapping[str, int] = field(default_factory=dict)  # closed ones by run
    progress: Mapping[str, Progress] = field(default_factory=dict)  # by run
    estimating_since_ns: int | None = None  # since when an estimate is computed
    data_ns: int | None = None  # when the last message came
    counters: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None  # why the last commit or estimate failed; None once one succeeds
    state: Path | None = None  # folder that it must be able to write
    free_bytes: int | None = None  # on the disk of that folder
    reserve_bytes: int | None = None  # what the next commits may need of it
    warnings: tuple[str, ...] = ()  # what the source tells, e.g. of its broker


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Yes, or no with the reasons; and what will become a reason."""

    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons


def judge_health(
    status: WorkerStatus,
    now_ns: int,
    *,
    loop_seconds: float = LOOP_SECONDS,
    busy_seconds: float = BUSY_SECONDS,
) -> Verdict:
    """Whether the loop turns; a supervisor restarts a service of which this is not so.

    Parameters
    ----------
    status : WorkerStatus
    now_ns : int
        By the clock of the status.
    loop_seconds : float
        Longest time between two turns.
    busy_seconds : float
        Longest time that one step may take which said that it takes long.
    """
    silent = (now_ns - status.last_loop_ns) / 1e9
    if silent <= loop_seconds:
        return Verdict()
    if status.busy_since_ns is not None:
        busy = (now_ns - status.busy_since_ns) / 1e9
        if busy <= busy_seconds:
            return Verdict()
        return Verdict(
            reasons=(
                f"one step has taken {busy:.0f} s; expected at most {busy_seconds:g} s. "
                "Restart the service: it goes on from its state folder.",
            )
        )
    return Verdict(
        reasons=(
            f"the loop turned {silent:.0f} s ago; expected at most {loop_seconds:g} s. "
            "Restart the service: it goes on from its state folder.",
        )
    )


def judge_readiness(status: WorkerStatus, health: Verdict) -> Verdict:
    """Whether the service does its work now; while it does not, the reasons say what is missing."""
    reasons = list(health.reasons)
    if status.connected is False:
        reasons.append(
            "the source is not connected; expected a broker, or a publisher, that answers."
        )
    if not status.joined:
        reasons.append("no partitions are assigned yet; expected an answer of the group.")
    if status.state is not None and not _writable(status.state):
        reasons.append(
            f"state folder {status.state.name} cannot be written; expected a folder of this user."
        )
    if status.error is not None:
        reasons.append(status.error)
    return Verdict(reasons=tuple(reasons), warnings=warnings_of(status))


def warnings_of(status: WorkerStatus) -> tuple[str, ...]:
    """What will stop the service unless somebody acts."""
    free, reserve = status.free_bytes, status.reserve_bytes
    if free is None or reserve is None or free >= reserve:
        return status.warnings
    return (
        *status.warnings,
        f"the disk of the state folder has {free / 1e6:.0f} MB free; expected at least "
        f"{reserve / 1e6:.0f} MB, what the next commits may need. Make room.",
    )


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def status_json(status: WorkerStatus, *, now_ns: int | None = None) -> dict[str, Any]:
    """The status as plain values, for heartbeats and readers; no paths, no host.

    Parameters
    ----------
    status : WorkerStatus
    now_ns : int, optional
        That of the status, ns; the clock's by default. Whether the service is alive hangs on it.
    """
    health = judge_health(status, steady_ns() if now_ns is None else now_ns)
    return {
        "service": status.service,
        "healthy": health.ok,
        "reasons": list(judge_readiness(status, health).reasons),
        "connected": status.connected,
        "partitions": list(status.partitions),
        "last_commit_ns": status.last_commit_ns,
        "open_chunks": status.open_chunks,
        "held_bytes": dict(status.held_bytes),
        "lag": {f"{topic}/{partition}": n for (topic, partition), n in status.lag.items()},
        "generation": {str(partition): n for partition, n in status.generation.items()},
        "runs": dict(status.chunks),
        "counters": dict(status.counters),
        "error": status.error,
        "free_bytes": status.free_bytes,
        "reserve_bytes": status.reserve_bytes,
        "warnings": list(warnings_of(status)),
    }


def operations_app(
    status: Callable[[], WorkerStatus],
    registry: CollectorRegistry,
    *,
    token: str | None = None,
    loop_seconds: float = LOOP_SECONDS,
    busy_seconds: float = BUSY_SECONDS,
    clock: Clock = steady_ns,
) -> FastAPI:
    """Build ``/health``, ``/ready``, ``/status`` and ``/metrics`` of a service without a page.

    Parameters
    ----------
    status : callable
        Newest status; called from the server's threads.
    registry : CollectorRegistry
        What ``/metrics`` shows.
    token : str, optional
        Secret that ``/status`` and ``/metrics`` demand; without it the app must be bound to
        loopback (see :func:`steering.web.serving.check_binding`).
    loop_seconds, busy_seconds : float
        As in :func:`judge_health`.
    clock : callable
        That of the status, ns.
    """
    app = FastAPI(title="Beamsteer service", version="0.1.0", docs_url=None, redoc_url=None)
    add_guards(app, people=People(token=token), max_body_bytes=20_000)

    def healthy(now: WorkerStatus) -> Verdict:
        return judge_health(now, clock(), loop_seconds=loop_seconds, busy_seconds=busy_seconds)

    @app.get("/health")
    def health() -> JSONResponse:
        """Whether the loop turns: 200, or 503 with the reasons."""
        return _answer("ok", "stuck", healthy(status()))

    @app.get("/ready")
    def ready() -> JSONResponse:
        """Whether the service does its work: 200, or 503 with the reasons."""
        now = status()
        turns = judge_health(
            now,
            clock(),
            loop_seconds=min(loop_seconds, READY_SECONDS),
            busy_seconds=busy_seconds,
        )
        return _answer("ready", "not ready", judge_readiness(now, turns))

    @app.get("/status")
    def told() -> JSONResponse:
        """All that the service says of itself."""
        told = status_json(status(), now_ns=clock())
        return JSONResponse(told, headers={"Cache-Control": "no-store"})

    @app.get("/metrics")
    def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _answer(good: str, bad: str, verdict: Verdict) -> JSONResponse:
    body: dict[str, Any] = {
        "status": good if verdict.ok else bad,
        "reasons": list(verdict.reasons),
    }
    if verdict.warnings:
        body["warnings"] = list(verdict.warnings)
    return JSONResponse(body, 200 if verdict.ok else 503, headers={"Cache-Control": "no-store"})
