"""What Linux tells of, and is told about, this process in ``/proc``; elsewhere: nothing."""

from __future__ import annotations

import resource
from pathlib import Path

_STATM = Path("/proc/self/statm")
_OOM = Path("/proc/self/oom_score_adj")


def address_space_bytes() -> int | None:
    """Address space of this process; None where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return None


def be_killed_first() -> None:
    """Ask the system to end this process before others where memory runs out."""
    try:
        _OOM.write_text("1000")
    except OSError:
        return  # only a wish
