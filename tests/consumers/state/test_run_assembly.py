"""One run of the stream: what came behind its end, and what several of its dwells share."""

from consumers.state import Assembler
from consumers.wire import RawMessage
from tests.consumers.state.test_assembly import (
    BEGIN,
    DWELL,
    SECOND,
    Disk,
    begins,
    ends,
    events,
    sample,
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


def positions_of(disk: Disk) -> dict[str, int]:
    return {topic: p.next for topic, p in disk.manifest.positions.items()}


def fed(disk: Disk, messages, now: int) -> Assembler:
    """A new life of the worker: what is not settled is read again."""
    assembler = disk.assembler()
    for raw, value in messages:
        position = disk.manifest.positions.get(raw.topic)
        if position is None or (
            raw.offset >= position.next and not any(a <= raw.offset <= b for a, b in position.done)
        ):
            assembler.accept(raw, value, now)
    return assembler


def test_an_open_dwell_keeps_the_step_of_psi_that_the_next_one_carries():
    offsets: dict[str, int] = {}

    def sent(topic, value):
        offset = offsets[topic] = offsets.get(topic, -1) + 1
        return RawMessage(topic=topic, partition=0, offset=offset, key=None, value=b""), value

    first, second = BEGIN, BEGIN + 30 * SECOND
    step = BEGIN + 10 * SECOND  # inside the first dwell, whose stop is late
    messages = [
        sent("bounds", begins("first", first)),
        sent("log", sample("s1", first - SECOND, 0.0)),
        sent("events", events("bank", 0, [first + SECOND])),
        sent("log", sample("s1", step, 5.0)),
        sent("bounds", begins("second", second)),
        sent("events", events("bank", 1, [second + SECOND])),
        sent("bounds", ends("second", second + 20 * SECOND)),
        sent("events", events("bank", 2, [second + 23 * SECOND])),
    ]
    disk, now = Disk(), BEGIN + 60 * SECOND
    for _ in range(4):  # killed three times while the stop of the first dwell is on its way
        assembler = fed(disk, messages, now)
        for _ in range(3):
            now += 3 * SECOND
            disk.turn(assembler, now)
    assert list(disk.final()) == ["second"]
    assert disk.final()["second"].logs["s1"].value.tolist() == [5.0]
    messages.append(sent("bounds", ends("first", first + 20 * SECOND)))
    assembler = fed(disk, messages, now)
    for _ in range(3):
        now += 3 * SECOND
        disk.turn(assembler, now)
    log = disk.final()["first"].logs["s1"]
    assert log.value.tolist() == [0.0, 5.0]
    disk.turn(assembler, now + 400 * SECOND, finish=True)
    assert assembler.counters["logs"] == 2
    assert assembler.counters["duplicates"] == 0
    assert positions_of(disk) == {"bounds": 4, "log": 2, "events": 3}
