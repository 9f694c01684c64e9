"""Starts inside a dwell: whether they end it, or belong to somebody else's measurement.

A topic of starts may be shared. What a start of another service, topic or instrument says must not
cut a measurement that its own service knows to go on.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from consumers.state.dwells import Dwell, Origin

Verdict = Literal["begins", "foreign", "open"]


def judge_start(
    rival: Dwell, new: Dwell, *, instrument: str, established: Collection[Origin]
) -> Verdict:
    """Whether a dwell may begin inside another one.

    Parameters
    ----------
    rival : Dwell
        The dwell before it.
    new : Dwell
        The one in question.
    instrument : str
        Name of the instrument that is folded; empty where it is not known.
    established : collection of Origin
        Whose dwells of this run have come to their stop.

    Returns
    -------
    str
        ``begins``: it ends the dwell before; ``foreign``: it is somebody else's; ``open``: the stop
        of the dwell before will tell.
    """
    if rival.origin is None or new.origin is None or rival.origin == new.origin:
        return "begins"
    stop_ns = rival.stop_ns
    if stop_ns is None and rival.record is not None:
        return "begins"  # it was over, as far as is known
    if stop_ns is not None and stop_ns <= new.start_ns:
        return "begins"
    ours = names_agree(instrument, new.origin.instrument)
    theirs = names_agree(instrument, rival.origin.instrument)
    if ours is not None and theirs is not None and ours != theirs:
        return "begins" if ours else "foreign"
    if (new.origin in established) != (rival.origin in established):
        return "begins" if new.origin in established else "foreign"
    return "open" if stop_ns is None else "foreign"


def names_agree(one: str, two: str) -> bool | None:
    """Whether two names may be those of one instrument; None if one of them is not known."""
    short = sorted((_plain(one), _plain(two)), key=len)
    return short[1].startswith(short[0]) if short[0] else None


def _plain(name: str) -> str:
    return "".join(c for c in name.partition("/")[0].casefold() if c.isalnum())
