"""Time here: one clock that never steps turns the loops, and the wall clock is watched by it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

log = structlog.get_logger()

STEP_S = 1.0  # between two looks; less is how a clock is kept right
SECOND_NS = 1_000_000_000
_ANCHOR_NS = time.time_ns() - time.monotonic_ns()

Clock = Callable[[], int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a worker waits, in seconds."""

    settle_s: float = 2.0  # beyond a stop, for messages that come late
    lateness_s: float = 60.0  # before data of no dwell are dropped
    timeout_s: float = 600.0  # before a dwell without a stop closes
    commit_s: float = 10.0  # between manifests when no chunk closes
    tell_s: float = 3.0  # between them when dead letters wait, which go out before
    turn_s: float = 0.2  # between looks at what is due
    storage_s: float = 600.0  # while nothing can be written, before the worker ends with 75


def steady_ns() -> int:
    """Time in ns that never steps: Unix time when this process began, and what passed since."""
    return _ANCHOR_NS + time.monotonic_ns()


class ClockWatch:
    """Notices that the wall clock stepped, e.g. because somebody set it.

    Parameters
    ----------
    unix, steady : callable
        The wall clock, and one that never steps; ns.

    Attributes
    ----------
    steps : dict
        How often it stepped ``forward`` and ``back``.
    """

    def __init__(self, *, unix: Clock = time.time_ns, steady: Clock = time.monotonic_ns) -> None:
        self._unix, self._steady = unix, steady
        self._offset_ns = unix() - steady()
        self.steps = {"forward": 0, "back": 0}

    def look(self) -> float | None:
        """Seconds that the wall clock stepped since the last look, told; None if it did not."""
        offset_ns = self._unix() - self._steady()
        step_s = (offset_ns - self._offset_ns) / SECOND_NS
        self._offset_ns = offset_ns
        if abs(step_s) < STEP_S:
            return None
        self.steps["forward" if step_s > 0 else "back"] += 1
        log.warning(
            "wall_clock_stepped",
            seconds=round(step_s, 3),
            reason="the clock was set, or the machine slept; nothing here waits for it, but check "
            "the times of those who send",
        )
        return step_s
