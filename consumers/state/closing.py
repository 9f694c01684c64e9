"""When and where an open dwell closes: by its stop, by the next start, by silence, at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from consumers.state.dwells import Dwell
from consumers.state.stream_clock import StreamClock


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long to wait for what may still come."""

    settle_ns: int  # beyond its stop before a dwell closes
    lateness_ns: int  # beyond data of no dwell before they are dropped
    timeout_ns: int  # of silence before a dwell without a stop closes


@dataclass(frozen=True, kw_only=True, slots=True)
class Closing:
    """Where and why a dwell closes."""

    stop_ns: int
    explicit: bool  # a message said so
    note: str | None


def closing_of(
    dwell: Dwell,
    *,
    end_ns: int | None,
    after: Dwell | None,
    newest_ns: Callable[[], int | None],
    clock: StreamClock,
    patience: Patience,
    now_ns: int,
    finish: bool,
) -> Closing | None:
    """How an open dwell closes now; None while it stays open.

    Parameters
    ----------
    dwell : Dwell
    end_ns : int, optional
        Where it ends as far as is known; None while it may go on.
    after : Dwell, optional
        The next one.
    newest_ns : callable
        Time of the newest data that it would hold if it had no end; None without any.
    clock : StreamClock
        Of its run.
    patience : Patience
    now_ns : int
        Clock here.
    finish : bool
        The stream has ended.
    """
    if end_ns is None:
        # a sender whose clock was set back goes on, but not in this dwell
        heard_ns = dwell.heard_ns or clock.heard_ns
        if not (finish or now_ns - heard_ns >= patience.timeout_ns):
            return None
        newest = newest_ns()
        why = "the stream ended" if finish else "no stop came in time"
        return Closing(
            stop_ns=(dwell.start_ns if newest is None else newest) + 1,
            explicit=False,
            note=f"{why}; closed after the last event",
        )
    passed = clock.newest_ns >= end_ns + patience.settle_ns
    if dwell.ends is None:  # the stop may be late, and so may a start in between
        # a restored dwell came long ago, but this one was read again when we began
        waited = (
            after is not None
            and now_ns - max(after.since_ns, dwell.since_ns) >= patience.lateness_ns
        )
        if not (finish or (passed and waited)):
            return None
        note = "no stop came; closed where the next dwell starts"
        return Closing(stop_ns=end_ns, explicit=False, note=note)
    silence_ns = now_ns - max(clock.heard_ns, dwell.ends_since_ns)
    if not (finish or passed or silence_ns >= patience.settle_ns):
        return None
    cut = end_ns < dwell.ends.stop_time_ns
    note = "the next dwell starts before its stop; closed there" if cut else None
    return Closing(stop_ns=end_ns, explicit=True, note=note)
