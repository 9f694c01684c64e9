"""The same task for many arguments: here one after the other, or in Dask's processes.

Tasks must not depend on each other nor on who runs them. Numerical libraries get one thread, here
and there, so that results are the same to the last bit.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, parent_process
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from simulations.errors import InputError

MOST_WORKERS = 256
_Argument = TypeVar("_Argument")


def run_tasks(
    task: Callable[[_Argument], Any],
    arguments: Sequence[_Argument],
    workers: int,
    done: Callable[[int], None],
) -> None:
    """Run a task for every argument.

    Parameters
    ----------
    task : callable
        Of a module; its results are thrown away.
    arguments : sequence
    workers : int
        Processes; 1: none beside this one.
    done : callable
        Told after every task how many are done.

    Raises
    ------
    InputError
        Without Dask, if there are to be several workers; if one of them died.
    Exception
        The first that a task raises.
    """
    if not 1 <= workers <= MOST_WORKERS:
        raise InputError(f"workers is {workers}; expected 1 to {MOST_WORKERS}")
    if workers == 1 or len(arguments) < 2:
        for count, one in enumerate(arguments, start=1):
            _one(task, one)
            done(count)
        return
    try:
        from dask import config
        from dask.base import compute
        from dask.callbacks import Callback
        from dask.delayed import delayed
    except ImportError as error:
        raise InputError(
            f"workers is {workers} but Dask is not installed; expected it for more than one. Run: "
            "pip install 'beamsteer[dask]'"
        ) from error
    count = 0

    def told(*_: Any) -> None:
        nonlocal count
        count += 1
        done(count)

    call = delayed(_one, pure=False)
    tasks = [call(task, one) for one in arguments]
    try:
        with Callback(posttask=told), config.set({"chunksize": 1}):
            compute(
                *tasks,
                scheduler="processes",
                num_workers=min(workers, len(arguments)),
                initializer=die_with_parent,
            )
    except BrokenProcessPool as error:
        raise InputError(
            "a worker died, most likely for want of memory; expected it to end its task. Run the "
            "same command again, with fewer --workers: it goes on where it was"
        ) from error


def _one(task: Callable[[Any], Any], argument: Any) -> None:
    with threadpool_limits(1):
        task(argument)


def die_with_parent() -> None:
    """End this process when the one that started it is gone, whatever killed it."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent watch").start()
