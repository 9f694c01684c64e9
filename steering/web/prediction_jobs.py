"""Predictions as jobs: one computed at a time, users in turn, each with progress and cancel.

Who asks for what is computed already waits for the same computation; it ends early only when all
of them have cancelled. All but what computes lives in the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import structlog
from fastapi.concurrency import run_in_threadpool

from simulations.progress import Progress
from steering.run import now_ns
from steering.web.prediction_cache_store import PredictionCache
from steering.web.prediction_process import GONE, Cancellation, Prediction
from steering.web.turns import QueueFullError, Turns

log = structlog.get_logger()

JobState = Literal["waiting", "running", "done", "failed", "cancelled"]
ENDED: tuple[JobState, ...] = ("done", "failed", "cancelled")
KEPT_JOBS = 512
KEPT_SECONDS = 3600.0
JOBS_PER_USER = 64
JOBS_IN_ALL = 128
WAITING_BYTES = 64 * 2**20  # of requests that wait, all together


class JobPredictor(Protocol):
    """What computes."""

    def predict(
        self,
        asked: Mapping[str, Any],
        *,
        progress: Progress,
        cancellation: Cancellation | None,
        time_limit_s: float | None,
    ) -> Prediction:
        """Answer one request, whatever is wrong with it; called from threads."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Why there is no prediction."""

    status: int
    detail: str
    retry_after_s: int | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class Job:
    """One request of one user; changes until it ends."""

    id: str
    key: str
    state: JobState = "waiting"
    stage: str = "waits for its turn"
    fraction: float = 0.0
    cached: bool = False
    fault: Fault | None = None
    created_ns: int = field(default_factory=now_ns)
    ended_ns: int | None = None
    version: int = 0  # grows with every change
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ended(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.state in ENDED

    def change(self, **values: Any) -> None:
        """Set fields, unless it has ended, and tell who looks at it."""
        if self.ended:
            return
        for name, value in values.items():
            setattr(self, name, value)
        if self.ended:
            self.ended_ns = now_ns()
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def next_change(self) -> None:
        """Wait for the next one."""
        await self._changed.wait()


@dataclass(kw_only=True, slots=True, eq=False)
class _Computation:
    """What one or more jobs wait for."""

    asked: Mapping[str, Any]
    size: int
    time_limit_s: float | None
    jobs: list[Job]
    cancellation: Cancellation = field(default_factory=Cancellation)
    task: asyncio.Task[None] | None = None
    has_turn: bool = False

    def tell(self, **values: Any) -> None:
        for job in self.jobs:
            job.change(**values)


class PredictionJobs:
    """Jobs of all users.

    Parameters
    ----------
    predictor : JobPredictor
    cache : PredictionCache
    turns : Turns, optional
        Who is next, and how many may wait.
    """

    def __init__(
        self, predictor: JobPredictor, cache: PredictionCache, *, turns: Turns | None = None
    ) -> None:
        self._predictor, self.cache = predictor, cache
        self._turns = turns or prediction_turns()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._computations: dict[tuple[str, float | None], _Computation] = {}
        self._began: dict[str, float] = {}
        self._read_bytes = 0

    @contextlib.contextmanager
    def reading(self, size: int) -> Iterator[Fault | None]:
        """Room in memory for a request of so many bytes while it is read.

        Yields why there is none, or None.
        """
        waiting = self._read_bytes + sum(one.size for one in self._computations.values())
        if waiting + size > WAITING_BYTES:
            yield Fault(
                status=429,
                detail=f"requests of {waiting:,} bytes wait already; expected at most "
                f"{WAITING_BYTES:,} with this one. Ask again later.",
                retry_after_s=30,
            )
            return
        self._read_bytes += size
        try:
            yield None
        finally:
            self._read_bytes -= size

    async def submit(
        self,
        user: str,
        key: str,
        asked: Mapping[str, Any],
        *,
        size: int,
        time_limit_s: float | None = None,
    ) -> Job:
        """Begin a job, or join the computation of the same; at once done if it is known already.

        Parameters
        ----------
        user : str
            Whose turn it takes.
        key : str
            Digest of all that went into it.
        asked : mapping
            For the predictor.
        size : int
            Bytes of the request.
        time_limit_s : float, optional
        """
        job = Job(id=secrets.token_urlsafe(16), key=key)
        self._register(job)
        if await run_in_threadpool(self.cache.get, key) is not None:
            job.change(state="done", stage="was known already", fraction=1.0, cached=True)
            return job
        which = (key, time_limit_s)
        same = self._computations.get(which)
        if same is not None and not same.cancellation.cancelled:
            other = next((one for one in same.jobs if not one.ended), job)
            job.change(state=other.state, stage=other.stage, fraction=other.fraction)
            same.jobs.append(job)
            return job
        made = _Computation(asked=asked, size=size, time_limit_s=time_limit_s, jobs=[job])
        self._computations[which] = made
        made.task = asyncio.create_task(self._compute(user, key, which, made))
        await asyncio.sleep(0)  # where there is no room, it says so at once
        return job

    def find(self, job_id: str) -> Job | None:
        """A job that is still known."""
        return self._jobs.get(job_id)

    async def wait(self, job: Job, seconds: float) -> None:
        """Wait for its end, or so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not job.ended:
                    await job.next_change()

    def cancel(self, job: Job) -> None:
        """End a job, and what computes it if nobody else waits for that."""
        job.change(state="cancelled", stage="cancelled")
        for one in self._computations.values():
            if job in one.jobs and all(other.ended for other in one.jobs):
                one.cancellation.cancel()
                if one.task is not None and not one.has_turn:
                    one.task.cancel()

    def close(self) -> None:
        """End them all; safe in the event loop alone."""
        for job in tuple(self._jobs.values()):
            if not job.ended:
                self.cancel(job)

    def _register(self, job: Job) -> None:
        now = time.monotonic()
        self._jobs[job.id] = job
        self._began[job.id] = now
        for job_id, one in tuple(self._jobs.items()):
            old = now - self._began[job_id] > KEPT_SECONDS
            if not (one.ended and (old or len(self._jobs) > KEPT_JOBS)):
                continue
            del self._jobs[job_id], self._began[job_id]

    async def _compute(
        self, user: str, key: str, which: tuple[str, float | None], made: _Computation
    ) -> None:
        loop = asyncio.get_running_loop()

        def tell(stage: str, fraction: float) -> None:
            share = min(max(fraction, 0.01), 1.0) if math.isfinite(fraction) else 0.01
            loop.call_soon_threadsafe(
                lambda: made.tell(state="running", stage=stage, fraction=share)
            )

        try:
            async with self._turns.turn(user):
                made.has_turn = True
                made.tell(state="running", stage="begins", fraction=0.01)
                told = await run_in_threadpool(
                    self._predictor.predict,
                    made.asked,
                    progress=tell,
                    cancellation=made.cancellation,
                    time_limit_s=made.time_limit_s,
                )
                if told.status == 200:
                    await run_in_threadpool(self.cache.put, key, told.content)
        except QueueFullError as full:
            fault = Fault(status=429, detail=str(full), retry_after_s=full.retry_after_s)
            made.tell(state="failed", stage="refused", fault=fault)
        except asyncio.CancelledError:
            made.tell(state="cancelled", stage="cancelled")
            raise
        except Exception as error:
            log.exception("prediction_job_failed")
            fault = Fault(status=500, detail=f"{type(error).__name__}: a fault of Beamsteer.")
            made.tell(state="failed", stage="failed", fault=fault)
        else:
            self._end(made, told)
        finally:
            if self._computations.get(which) is made:
                del self._computations[which]

    @staticmethod
    def _end(made: _Computation, told: Prediction) -> None:
        if told.status == 200:
            made.tell(state="done", stage="done", fraction=1.0)
            return
        if told.status == GONE:
            made.tell(state="cancelled", stage="cancelled")
            return
        detail = str(json.loads(told.content).get("detail", ""))
        made.tell(state="failed", stage="failed", fault=Fault(status=told.status, detail=detail))


def prediction_turns() -> Turns:
    """The one queue of all predictions of a server."""
    return Turns(per_user=JOBS_PER_USER, in_all=JOBS_IN_ALL)


async def job_events(job: Job, closed: asyncio.Event) -> AsyncIterator[Job]:
    """The job now and after changes, until its end or the server's."""
    while True:
        version, ended = job.version, job.ended
        yield job
        if ended or closed.is_set():
            return
        if job.version != version:
            continue
        waits = [asyncio.ensure_future(job.next_change()), asyncio.ensure_future(closed.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
