import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.state.pulses import select_pulses
from consumers.wire import Events


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_selected_pulses_are_those_of_a_loop(keep, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, len(keep))
    whole = Events(
        source="b",
        sequence=1,
        reference_time_ns=np.arange(len(keep), dtype=np.int64),
        reference_index=np.concatenate([[0], np.cumsum(lengths)[:-1]]),
        time_of_flight_ns=np.arange(lengths.sum(), dtype=np.int32),
        pixel_id=rng.integers(0, 9, lengths.sum()).astype(np.int32),
    )
    part = select_pulses(whole, np.array(keep))
    expected, ends = [], np.cumsum(lengths)
    for k, kept in enumerate(keep):
        if kept:
            expected.append(list(range(ends[k] - lengths[k], ends[k])))
    found = np.split(part.time_of_flight_ns, part.reference_index[1:]) if any(keep) else []
    assert [f.tolist() for f in found] == expected
