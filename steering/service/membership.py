"""The name of a worker in its consumer group, by which a restart is known again."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from consumers.state import PartitionLock


@contextmanager
def group_member(state: Path) -> Iterator[str]:
    """Name in the group that a restart on this host has again; workers beside it have others."""
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:200] or "host"
    digest = hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:12]
    for number in count():
        try:
            lock = PartitionLock(state / "members" / f"{host}-{number}")
        except BlockingIOError:
            continue  # its worker lives
        try:
            yield f"{host}-{digest}-{number}"
        finally:
            lock.release()
        return
