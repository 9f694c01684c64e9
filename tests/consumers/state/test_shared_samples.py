"""A log sample that one dwell carries and another holds survives any number of restarts."""

from consumers.state import Assembler
from consumers.wire import RawMessage
from tests.consumers.state.test_assembly import BEGIN, SECOND, Disk, begins, ends, events, sample


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
