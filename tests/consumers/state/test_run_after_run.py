"""One run ends, another begins: what came behind the first is not kept for ever."""

from consumers.wire import RawMessage
from tests.consumers.state.test_assembly import (
    BEGIN,
    DWELL,
    SECOND,
    Disk,
    begins,
    ends,
    events,
)

LATENESS = 60 * SECOND


class Stream:
    """One partition with runs by key, and the clock here going with it."""

    def __init__(self):
        self.disk = Disk()
        self.assembler = self.disk.assembler()
        self.offsets = {}
        self.now = BEGIN

    def send(self, run, topic, value):
        offset = self.offsets[topic] = self.offsets.get(topic, -1) + 1
        raw = RawMessage(topic=topic, partition=0, offset=offset, key=run, value=b"")
        self.assembler.accept(raw, value, self.now)

    def dwell(self, run, start, pulses_s, *, job, start_comes=True):
        """A dwell with pulses up to long after its stop."""
        if start_comes:
            self.send(run, "bounds", begins(job, start))
        for k in range(pulses_s):
            t = start + k * SECOND + 1
            self.send(run, "events", events("bank", self.offsets.get("events", -1) + 1, [t]))
            self.now += SECOND
            if start + k * SECOND == start + DWELL:
                self.send(run, "bounds", ends(job, start + DWELL))
            self.disk.turn(self.assembler, self.now)

    def settled(self, topic):
        return self.disk.manifest.positions[topic].next


def test_pulses_behind_the_last_stop_of_a_run_settle_when_the_next_run_has_passed_them():
    stream = Stream()
    stream.dwell(b"one", BEGIN, 30, job="first")
    assert stream.settled("events") <= 20  # ten pulses of no dwell, as far as is known
    stream.dwell(b"two", BEGIN + 40 * SECOND, 200, job="second")
    assert stream.settled("events") >= 50
    # all ten behind the first stop, and of the second run those that it has passed by a minute
    assert stream.assembler.counters["events_between_chunks"] >= 3 * (10 + 100)
    jobs = {job for _, job in stream.assembler.needed()}
    assert "first" not in jobs
    assert len(stream.disk.final()["first"].events) == 20


def test_a_silent_stream_drops_nothing():
    """A broker that is away is silent in every run; a start may still come."""
    stream = Stream()
    stream.dwell(b"one", BEGIN, 30, job="first")
    stream.dwell(b"two", BEGIN + 31 * SECOND, 25, job="second", start_comes=False)
    stream.now += 20 * LATENESS
    stream.disk.turn(stream.assembler, stream.now)
    assert stream.assembler.counters["events_between_chunks"] == 0
    stream.send(b"two", "bounds", begins("second", BEGIN + 31 * SECOND))
    stream.send(b"two", "bounds", ends("second", BEGIN + 31 * SECOND + DWELL))
    stream.now += 20 * SECOND
    stream.disk.turn(stream.assembler, stream.now)
    assert len(stream.disk.final()["second"].events) == 20
