"""Who is served next: one job at a time, users in turn, and bounded queues."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

LOOK_SECONDS = 1.0  # between looks at whether a waiting user is still there


class QueueFullError(Exception):
    """There is no room to wait; the message says so, ``retry_after_s`` when to come again."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UserGoneError(Exception):
    """Who waited has left."""


class Turns:
    """Turns at one place of work.

    Parameters
    ----------
    per_user : int
        Jobs of one user that may wait or be worked on.
    in_all : int
        Jobs of all users together.
    """

    def __init__(self, *, per_user: int = 3, in_all: int = 24) -> None:
        self._per_user, self._in_all = per_user, in_all
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # who had a turn goes last
        self._jobs: dict[str, int] = {}
        self._busy = False
        self._usual_s = 10.0

    @asynccontextmanager
    async def turn(
        self, user: str, gone: Callable[[], Awaitable[bool]] | None = None
    ) -> AsyncIterator[None]:
        """Wait for a turn and hold it for a block.

        Parameters
        ----------
        user : str
            Who asks, e.g. an address.
        gone : callable, optional
            Whether the user has left; asked while waiting.

        Raises
        ------
        QueueFullError
            If the user, or all together, have too many jobs already.
        UserGoneError
            If the user left before the turn came.
        """
        mine, all_ = self._jobs.get(user, 0), sum(self._jobs.values())
        if mine >= self._per_user or all_ >= self._in_all:
            whose = f"{mine} of yours" if mine >= self._per_user else str(all_)
            most = self._per_user if mine >= self._per_user else self._in_all
            raise QueueFullError(
                f"predictions wait already: {whose}; expected at most {most}. Ask again later.",
                max(1, round(self._usual_s * max(all_, 1))),
            )
        self._jobs[user] = mine + 1
        try:
            await self._come(user, gone)
            began = time.monotonic()
            try:
                yield
            finally:
                self._usual_s += 0.3 * (time.monotonic() - began - self._usual_s)
                self._pass_on()
        finally:
            self._jobs[user] -= 1
            if not self._jobs[user]:
                del self._jobs[user]

    async def _come(self, user: str, gone: Callable[[], Awaitable[bool]] | None) -> None:
        if not self._busy:
            self._busy = True
            return
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(called)
        try:
            while not called.done():
                await asyncio.wait({called}, timeout=LOOK_SECONDS)
                if not called.done() and gone is not None and await gone():
                    raise UserGoneError
        except BaseException:
            self._leave(user, called)
            raise

    def _leave(self, user: str, called: asyncio.Future[None]) -> None:
        if called.done():  # the turn came as they left
            self._pass_on()
            return
        queue = self._waiting[user]
        queue.remove(called)
        if not queue:
            del self._waiting[user]

    def _pass_on(self) -> None:
        if not self._waiting:
            self._busy = False
            return
        user = next(iter(self._waiting))
        queue = self._waiting.pop(user)
        called = queue.popleft()
        if queue:
            self._waiting[user] = queue  # behind the others
        called.set_result(None)
