"""Values of the wire drawn at random, and what it means that two say the same."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from consumers.wire import EARLIEST_NS, Events, LogSample, ReducedHistogram
from consumers.wire.flatbuffers_codec import LATEST_NS

TIMES = st.integers(EARLIEST_NS, LATEST_NS - 1)
NAMES = st.text(
    st.characters(categories=["L", "N", "P"], include_characters=" "), min_size=1, max_size=20
)
SEQUENCES = st.integers(0, 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)


@st.composite
def any_events(draw: st.DrawFn) -> Events:
    """Neutrons of some pulses; without neutrons perhaps without pulses."""
    n_events = draw(st.integers(0, 20))
    n_pulses = draw(st.integers(1 if n_events else 0, 5))
    index = sorted(draw(st.lists(st.integers(0, n_events), min_size=n_pulses, max_size=n_pulses)))
    arrays = hnp.arrays(np.int32, n_events, elements=INT32)
    return Events(
        source=draw(NAMES),
        sequence=draw(SEQUENCES),
        reference_time_ns=draw(hnp.arrays(np.int64, n_pulses, elements=TIMES)),
        reference_index=np.array([0, *index[1:]] if index else [], np.int64),
        time_of_flight_ns=draw(arrays),
        pixel_id=draw(arrays),
    )


@st.composite
def any_logs(draw: st.DrawFn) -> LogSample:
    """Numbers and vectors of them, NaN and infinite ones too."""
    return LogSample(
        source=draw(NAMES | st.sampled_from(["s1", "BL14:Mot/s1.RBV", "x_time_ns", "50%2E"])),
        time_ns=draw(TIMES),
        value=draw(hnp.arrays(np.float64, st.integers(1, 8), elements=st.floats())),
    )


@st.composite
def any_reduced(draw: st.DrawFn) -> ReducedHistogram:
    """Intensities on a few pixels and bins, some of them masked."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 5)))
    intensity = draw(hnp.arrays(np.float64, shape, elements=st.floats(allow_infinity=False)))
    return ReducedHistogram(
        source=draw(NAMES),
        sequence=draw(SEQUENCES),
        time_ns=draw(TIMES),
        energy_edges_meV=np.linspace(-5, 20, shape[1] + 1),
        intensity=intensity,
        error=np.abs(intensity),
    )


def assert_same(one: Any, other: Any) -> None:
    """Both are of one class and say the same, to the last bit."""
    assert type(one) is type(other)
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        else:
            assert a == b, field.name
