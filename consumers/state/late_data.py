"""Closed dwells and what comes late: whether it changes them, and both together as one chunk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from consumers.recorded import UnreadableError
from consumers.state.assembled_chunk import AssembledChunk
from consumers.state.log_series import CHARGE_LOG, STALE_NS, LogSeries
from consumers.state.nexus_template import LogName, log_names
from consumers.state.pulses import identity, in_order, reduced_in_order, select_pulses
from consumers.wire import Events, RawMessage, ReducedHistogram

Effect = Literal["known", "none", "changes"]


class LateSample(NamedTuple):
    """A sample of a time at which a closed dwell may have one already."""

    source: str
    time_ns: int
    raw: RawMessage


def log_name(names: Mapping[str, LogName], source: str) -> LogName:
    """Name in a file and unit of a source; one without an entry keeps its own name."""
    return names.get(source, LogName(name=source, unit=""))


def effect_of_sample(known: AssembledChunk, source: str, time_ns: int) -> Effect:
    """What a sample from before the end of a closed dwell, or from before it, does to it.

    Parameters
    ----------
    known : AssembledChunk
        As it was recorded.
    source : str
    time_ns : int
        Of the sample.

    Returns
    -------
    str
        ``known``: the dwell has this sample; ``none``: it would not be in the dwell.
    """
    name = log_name(log_names(known.structure), source).name
    series, start_ns = known.logs.get(name), known.start_time_ns
    if series is not None and np.any(series.time_ns == time_ns):
        return "known"
    if time_ns >= start_ns:
        return "changes"
    if name == CHARGE_LOG:
        return "none"
    if series is not None and len(series.time_ns):
        first = int(series.time_ns[0])
        if start_ns <= first <= start_ns + STALE_NS or time_ns < first < start_ns:
            return "none"
    return "changes"


def reopened(
    known: AssembledChunk,
    *,
    generation: int,
    stop_time_ns: int,
    explicit_stop: bool,
    note: str | None,
    descriptors: tuple[str, ...],
    logs: Mapping[str, LogSeries],
    events: Iterable[Events],
    reduced: Iterable[ReducedHistogram],
) -> AssembledChunk:
    """The next generation of a chunk: what was recorded, cut to its end, and what came late.

    Parameters
    ----------
    known : AssembledChunk
        As it was recorded.
    generation, stop_time_ns, explicit_stop, note, descriptors, logs
        As they are from now on.
    events, reduced : iterable
        What came late; messages that are known already count once.
    """
    kept = [
        select_pulses(e, e.reference_time_ns < stop_time_ns)
        for e in known.events
        if np.any(e.reference_time_ns < stop_time_ns)
    ]
    there = {identity(e) for e in kept}
    return replace(
        known,
        generation=generation,
        stop_time_ns=stop_time_ns,
        explicit_stop=explicit_stop,
        note=note,
        descriptors=descriptors,
        logs=dict(sorted((k, v) for k, v in logs.items() if len(v.time_ns))),
        events=in_order([*kept, *(e for e in events if identity(e) not in there)]),
        reduced=reduced_in_order({identity(r): r for r in [*known.reduced, *reduced]}.values()),
    )


def why_unreadable(error: UnreadableError) -> str:
    """Why what came for a dwell whose recording was deleted or damaged is of no use."""
    return (
        f"it belongs to a closed dwell, whose recording cannot be read ({error}); expected the "
        "recording as it was written. The dwell stays as it was folded"
    )
