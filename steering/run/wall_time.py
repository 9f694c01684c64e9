"""Times and durations as people read them: a clock with its zone, an age in one unit."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo

DAY_S = 86_400.0


def wall_time(time_ns: int, *, now_ns: int | None = None, zone: tzinfo | None = None) -> str:
    """A time as a clock shows it: ``03:12 CET``, of another day ``22 Nov 03:12 CET``.

    Parameters
    ----------
    time_ns : int
        Since the Unix epoch.
    now_ns : int, optional
        Whose day needs no date; absent: the date is told.
    zone : tzinfo, optional
        That of this machine by default.
    """
    then = _local(time_ns, zone)
    clock = f"{then:%H:%M} {then.tzname()}"
    if now_ns is not None and _local(now_ns, zone).date() == then.date():
        return clock
    return f"{then.day} {then:%b} {clock}"


def age_text(seconds: float) -> str:
    """A duration in one unit: ``9 s``, ``3 min``, ``2 h``, ``4 days``."""
    if seconds < 99.5:
        return f"{max(seconds, 0.0):.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * DAY_S:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / DAY_S:.0f} days"


def _local(time_ns: int, zone: tzinfo | None) -> datetime:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).astimezone(zone)
