import numpy as np
import pytest

from consumers.state import SECOND
from consumers.state.log_series import LogBook, LogSeries, Sample, joined


def test_average_of_a_log_is_weighted_by_time():
    series = LogSeries(time_ns=np.array([0, 6, 8]), value=np.array([1.0, 2.0, 4.0]))
    assert series.average(2, 12) == pytest.approx((1 * 4 + 2 * 2 + 4 * 4) / 10)
    constant = LogSeries(time_ns=np.array([0, 6]), value=np.array([0.1, 0.1]))
    assert constant.average(0, 7) == 0.1
    assert np.isnan(LogSeries(time_ns=np.empty(0), value=np.empty(0)).average(0, 1))


def book(*samples):
    found = LogBook()
    for n, (t, value) in enumerate(samples):
        found.add("s", Sample(t * SECOND, value, ("log", n), 0))
    return found


def values(series):
    return series.value.tolist()


def test_a_dwell_begins_with_the_last_sample_before_it_unless_a_new_one_comes_soon():
    def of_dwell(found, carry=True):
        return values(found.series("s", 10 * SECOND, 30 * SECOND, carry=carry, unit=""))

    assert of_dwell(book((8, 1.0), (20, 2.0))) == [1.0, 2.0]
    assert of_dwell(book((8, 1.0), (20, 2.0)), carry=False) == [2.0]
    assert of_dwell(book((8, 1.0), (15, 2.0))) == [2.0]
    assert of_dwell(book((8, 1.0), (30, 2.0))) == [1.0]


def test_settled_samples_are_forgotten_but_the_newest_is_carried():
    found = book((1, 1.0), (2, 2.0), (9, 3.0))
    assert [s.place for s in found.settle(5 * SECOND, None)] == [("log", 0), ("log", 1)]
    assert found.carried == {"s": (2 * SECOND, (2.0,))}
    assert values(found.series("s", 5 * SECOND, 8 * SECOND, carry=True, unit="")) == [2.0]


def test_joined_series_keep_what_is_known_and_end_with_the_dwell():
    known = LogSeries(time_ns=np.array([1, 5]) * SECOND, value=np.array([1.0, 2.0]), unit="deg")
    late = LogSeries(time_ns=np.array([5, 20, 40]) * SECOND, value=np.array([9.0, 3.0, 4.0]))
    both = joined(known, late, 4 * SECOND, 30 * SECOND)
    assert values(both) == [2.0, 3.0]
    assert both.unit == "deg"
