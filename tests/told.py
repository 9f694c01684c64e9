"""How soon somebody must be told of a fault."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

TOLD_S = 10.0  # longest time until a fault is told


@contextmanager
def told_in_time() -> Iterator[None]:
    """Hold what is inside, which ends when a fault is told, to ``TOLD_S``."""
    since = time.monotonic()
    yield
    assert time.monotonic() - since < TOLD_S
