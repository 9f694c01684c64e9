"""Messages of data: what tells them apart, how they are ordered, and parts of them by pulse."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from consumers.wire import Events, ReducedHistogram
from simulations.arrays import BoolArray

Identity = tuple[str, int, int]  # source, sequence, first reference time


def identity(data: Events | ReducedHistogram) -> Identity:
    """Source, sequence and first reference time: equal for a message sent twice."""
    if isinstance(data, ReducedHistogram):
        return (data.source, data.sequence, data.time_ns)
    first = int(data.reference_time_ns[0]) if len(data.reference_time_ns) else 0
    return (data.source, data.sequence, first)


def same_data(one: Events | ReducedHistogram, two: Events | ReducedHistogram) -> bool:
    """Whether two messages of one identity say the same."""
    if isinstance(one, Events) and isinstance(two, Events):
        return (
            np.array_equal(one.reference_time_ns, two.reference_time_ns)
            and np.array_equal(one.time_of_flight_ns, two.time_of_flight_ns)
            and np.array_equal(one.pixel_id, two.pixel_id)
        )
    if isinstance(one, ReducedHistogram) and isinstance(two, ReducedHistogram):
        return np.array_equal(one.intensity, two.intensity, equal_nan=True)
    return False


def select_pulses(events: Events, keep: BoolArray) -> Events:
    """The events of some pulses of a message.

    Parameters
    ----------
    events : Events
    keep : (pulses,) bool
    """
    if keep.all():
        return events
    ends = np.append(events.reference_index[1:], len(events.time_of_flight_ns))
    lengths = ends - events.reference_index
    first = int(events.reference_index[0]) if len(lengths) else 0
    chosen = np.zeros(len(events.time_of_flight_ns), np.bool_)
    chosen[first:] = np.repeat(keep, lengths)
    return replace(
        events,
        reference_time_ns=events.reference_time_ns[keep],
        reference_index=np.concatenate([[0], np.cumsum(lengths[keep])[:-1]]).astype(np.int64)
        if keep.any()
        else np.empty(0, np.int64),
        time_of_flight_ns=events.time_of_flight_ns[chosen],
        pixel_id=events.pixel_id[chosen],
    )


def in_order(events: Iterable[Events]) -> tuple[Events, ...]:
    """Canonical order: by first reference time, source, sequence."""
    return tuple(sorted(events, key=lambda e: (int(e.reference_time_ns[0]), e.source, e.sequence)))


def reduced_in_order(reduced: Iterable[ReducedHistogram]) -> tuple[ReducedHistogram, ...]:
    """Canonical order: by time, source, sequence."""
    return tuple(sorted(reduced, key=lambda r: (r.time_ns, r.source, r.sequence)))
