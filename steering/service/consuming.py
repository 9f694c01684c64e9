"""The loop of a fold worker: messages in, while what is due is folded and committed beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from consumers.wire import RawMessage, RawSource
from steering.service.fold_worker import FoldWorker
from steering.service.storage import pause_stuck, poll_unless_stuck

READ_AHEAD = 256 * 2**20  # bytes that are read while the worker is busy


def consume(
    source: RawSource,
    worker: FoldWorker,
    *,
    stop: Callable[[], bool],
    until_idle_s: float | None = None,
    poll_s: float = 0.2,
    each: Callable[[], None] | None = None,
) -> None:
    """Feed a worker from a source until told to stop.

    While dwells are folded and committed, the source is read on beside it, up to ``READ_AHEAD``. A
    partition that cannot write is paused, and goes on where it was once it can.

    Parameters
    ----------
    source : RawSource
        Asks the worker for positions as its ``PartitionOwner``.
    worker : FoldWorker
    stop : callable
        True ends the loop; what is open then is read again by the next worker.
    until_idle_s : float, optional
        Take the stream as ended after this much silence: close every open dwell, commit, return.
    poll_s : float
        Longest wait for messages.
    each : callable, optional
        Called once per turn.

    Raises
    ------
    StorageError
        If a partition could write nothing for ``Patience.storage_s``.
    """
    heard = time.monotonic()
    stuck: frozenset[int] = frozenset()
    waiting: list[tuple[int, RawMessage]] = []  # read while the worker was busy
    size = 0
    with ThreadPoolExecutor(1, thread_name_prefix="fold") as beside:
        turn: Future[bool] | None = None
        while not stop():
            batch = poll_unless_stuck(source, poll_s, stuck)
            waiting += ((worker.owned_since(raw.partition), raw) for raw in batch)
            size += sum(len(raw.value) for raw in batch)
            if batch:
                heard = time.monotonic()
            if turn is not None:
                if not turn.done() and size < READ_AHEAD:
                    continue
                if turn.result():
                    source.acknowledge(worker.settled())
                turn = None
            stuck = pause_stuck(source, worker.stuck(), stuck)
            kept: list[tuple[int, RawMessage]] = []
            for since, raw in waiting:
                if since != worker.owned_since(raw.partition):
                    continue  # it is read again
                if raw.partition in stuck:
                    kept.append((since, raw))
                else:
                    worker.accept(raw)
            waiting = kept
            size = sum(len(raw.value) for _, raw in waiting)
            if stuck:
                heard = time.monotonic()
            idle = time.monotonic() - heard
            if not batch and not stuck and until_idle_s is not None and idle >= until_idle_s:
                if worker.turn(finish=True):
                    source.acknowledge(worker.settled())
                if not worker.stuck():
                    return
            turn = beside.submit(worker.turn)
            if each is not None:
                each()
        if turn is not None and turn.result():
            source.acknowledge(worker.settled())
