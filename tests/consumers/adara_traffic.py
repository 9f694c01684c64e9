"""A beamline that sends ADARA packets: what opens a stream, and a pulse every second."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from consumers.transport import AdaraSink
from tests.consumers.hostile_packets import (
    NOW_S,
    banked,
    beamline,
    descriptor,
    geometry,
    run_status,
)

OPENING = [run_status(1), beamline(), geometry(), descriptor()]


def pulse(n: int) -> bytes:
    """One pulse a second."""
    content = bytearray(banked((3, [(n, n)])))
    content[8:12] = (NOW_S + n).to_bytes(4, "little")
    return bytes(content)


@contextmanager
def playing(sink: AdaraSink, packets: list[bytes]) -> Iterator[threading.Thread]:
    """A thread that sends packets as soon as somebody listens."""

    def play() -> None:
        for content in packets:
            sink.send("adara", content)

    thread = threading.Thread(target=play, daemon=True)
    thread.start()
    yield thread
    thread.join(20.0)
    assert not thread.is_alive()
