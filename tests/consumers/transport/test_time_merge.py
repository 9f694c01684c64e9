import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.transport.time_merge import TimeMerge
from consumers.wire import RawMessage


def message(topic, offset, time_ns, partition=0, size=1):
    return RawMessage(
        topic=topic, partition=partition, offset=offset, value=b"x" * size, timestamp_ns=time_ns
    )


def test_topics_read_one_after_the_other_come_out_in_the_order_of_time():
    events = [message("events", n, 10 * n) for n in range(6)]
    bounds = [message("bounds", 0, 15), message("bounds", 1, 42)]
    merge = TimeMerge()
    merge.put(events)
    assert merge.take({("bounds", 0)}) == []  # an older start may still come
    merge.put(bounds[:1])
    assert [m.timestamp_ns for m in merge.take({("bounds", 0)})] == [0, 10, 15]
    assert merge.waiting("events", 0) == 4
    merge.put(bounds[1:])
    assert [m.timestamp_ns for m in merge.take(())] == [20, 30, 40, 42, 50]


def test_a_topic_that_was_read_to_its_end_holds_nobody_back():
    merge = TimeMerge()
    merge.put([message("events", 0, 5)])
    assert len(merge.take(())) == 1


def test_partitions_do_not_wait_for_each_other_and_can_be_dropped():
    merge = TimeMerge()
    merge.put([message("events", 0, 5), message("events", 0, 6, partition=1)])
    assert [m.partition for m in merge.take({("bounds", 0)})] == [1]
    merge.drop(0)
    assert merge.take(()) == []


def test_who_is_far_ahead_is_named():
    merge = TimeMerge()
    merge.put([message("events", 0, 5, size=300), message("logs", 0, 5, size=20)])
    assert merge.ahead(100) == {("events", 0)}
    merge.take(())
    assert merge.ahead(100) == set()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_whatever_is_read_when_all_comes_once_in_order_of_its_topic_and_of_time(seed):
    rng = np.random.default_rng(seed)
    topics = {
        t: [message(t, n, int(time)) for n, time in enumerate(np.sort(rng.integers(0, 50, 12)))]
        for t in ("a", "b", "c")
    }
    merge, read, out = TimeMerge(), dict.fromkeys(topics, 0), []
    while any(read[t] < 12 for t in topics):
        topic = rng.choice([t for t in topics if read[t] < 12])
        n = int(rng.integers(1, 6))
        merge.put(topics[topic][read[topic] : read[topic] + n])
        read[topic] = min(12, read[topic] + n)
        out += merge.take({(t, 0) for t in topics if read[t] < 12})
    out += merge.take(())
    assert len(out) == 36
    times = [m.timestamp_ns for m in out]
    assert times == sorted(times)
    for topic in topics:
        assert [m.offset for m in out if m.topic == topic] == list(range(12))
