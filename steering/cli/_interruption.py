"""Ending a long command between two steps: Ctrl-C and SIGTERM as an event."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set until the block ends."""
    event = threading.Event()

    def ask(*_: object) -> None:
        # in a thread: the interrupted one may be inside the event and hold its lock
        threading.Thread(target=event.set, name="asked-to-stop", daemon=True).start()

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
