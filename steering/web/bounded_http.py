"""HTTP connections of bounded number, size and patience, for servers beside work that must go on.

Every connection is a file of this process. One that says nothing is closed after a while, and where
all places are taken, the one that has been idle longest gives way; so neither a forgotten reader
nor a thousand of them takes the files that the work beside needs.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 200
TAKEN_AT_ONCE = 8  # connections; a place that gives way is a file again a few turns later
WAITING = 128  # connections that the kernel holds until they are taken
HEADER_BYTES = 32 * 2**10
HEADER_SECONDS = 10.0  # from the connection, or the last answer, to a request's last header
STALLED_SECONDS = 60.0  # in which a reader takes nothing of its answer


class BoundedProtocol(H11Protocol):
    """A connection that ends when nothing comes of it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle_since: float | None = time.monotonic()  # None while a request is answered
        self._patience: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    # Names below are uvicorn's and asyncio's.
    def connection_made(self, transport: Any) -> None:
        """Take a place; where there is none, that of the longest idle connection."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            bounded = [one for one in self.connections if isinstance(one, BoundedProtocol)]
            idle = [one for one in bounded if one is not self and one._idle_since is not None]
            longest = min(idle, key=lambda one: one._idle_since or 0.0, default=self)
            longest.transport.abort()
            self.connections.discard(longest)
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Read on; a request that is complete ends the wait for it."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._idle_since = None
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._wait_for_request()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The reader is slow; it has so long to take something."""
        super().pause_writing()
        if self._stalled is None:
            self._watch_reader(None)

    def resume_writing(self) -> None:
        """The reader took what there was."""
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def _watch_reader(self, before: int | None) -> None:
        left = self.transport.get_write_buffer_size()
        if before is not None and left >= before:
            self.transport.abort()
            return
        self._stalled = self.loop.call_later(STALLED_SECONDS, self._watch_reader, left)

    def _wait_for_request(self) -> None:
        self._stop_waiting()
        self._idle_since = time.monotonic()
        self._patience = self.loop.call_later(HEADER_SECONDS, self._give_up, None)

    def _give_up(self, before: int | None) -> None:
        """End an idle connection, unless its reader still takes the last answer."""
        left = self.transport.get_write_buffer_size()
        if left == 0 or (before is not None and left >= before):
            self.transport.abort()
            return
        self._patience = self.loop.call_later(HEADER_SECONDS, self._give_up, left)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
