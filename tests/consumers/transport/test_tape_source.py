from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from consumers.transport import Taped, TapeSource, TapeWriter, read_tape
from consumers.wire import RawMessage, RawSource
from tests.consumers.transport.test_tape_file import messages, same, write


class Owner:
    """Remembers where partitions go on."""

    def __init__(self, positions: Mapping[int, Mapping[str, int]] | None = None) -> None:
        self.positions = dict(positions or {})
        self.asked: list[int] = []

    def take(self, partition: int) -> Mapping[str, int]:
        self.asked.append(partition)
        return self.positions.get(partition, {})

    def release(self, partition: int) -> None:
        raise AssertionError("nobody else has it")


class Clock:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


class Listed:
    """A source without memory: what was taken from it is gone."""

    connected = None

    def __init__(self, content: Sequence[RawMessage], batch: int = 7) -> None:
        self.content = list(content)
        self.batch = batch
        self.closed = False

    def poll(self, timeout_s: float) -> Sequence[RawMessage]:
        if not self.content:
            time.sleep(min(timeout_s, 0.01))
        found, self.content = self.content[: self.batch], self.content[self.batch :]
        return found

    def acknowledge(self, positions: Mapping[tuple[str, int], int]) -> None:
        raise AssertionError("a source behind a tape is never acknowledged")

    def close(self) -> None:
        self.closed = True


def drain(source: RawSource, count: int) -> list[RawMessage]:
    found: list[RawMessage] = []
    for _ in range(2000):
        found += source.poll(0.1)
        if len(found) >= count:
            return found
    raise AssertionError(f"{len(found)} of {count} messages came")


def test_a_tape_replays_every_message_as_it_was_and_ends(tmp_path: Path) -> None:
    content = messages(2500) + messages(30, topic="u")
    write(tmp_path, content, segment_bytes=20_000)
    source = TapeSource(tmp_path)
    found: list[RawMessage] = []
    while not source.exhausted:
        found += source.poll(0.0)
    assert same(found, content)
    assert source.poll(5.0) == []
    source.acknowledge({("t", 0): 3})
    source.close()


def test_a_tape_goes_on_where_the_owner_of_a_partition_says(tmp_path: Path) -> None:
    second = [
        RawMessage(topic="t", partition=1, offset=i, value=b"", timestamp_ns=i) for i in range(10)
    ]
    write(tmp_path, messages(20) + messages(20, topic="u") + second)
    owner = Owner({0: {"t": 17}, 1: {"t": 8}})
    with closing(TapeSource(tmp_path, owner)) as source:
        found = drain(source, 3 + 20 + 2)
    assert sorted(owner.asked) == [0, 1]
    assert [(m.topic, m.partition, m.offset) for m in found if m.topic == "t"] == [
        ("t", 0, 17),
        ("t", 0, 18),
        ("t", 0, 19),
        ("t", 1, 8),
        ("t", 1, 9),
    ]


def test_topics_can_be_chosen(tmp_path: Path) -> None:
    write(tmp_path, messages(5) + messages(5, topic="u"))
    with closing(TapeSource(tmp_path, topics=["u"])) as source:
        assert {m.topic for m in drain(source, 5)} == {"u"}


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_speed_is_a_multiple_of_the_recorded_pace(tmp_path: Path, speed: float) -> None:
    times_s = [0.0, 1.0, 1.0, 0.5, 8.0]
    content = [
        RawMessage(topic="t", partition=0, offset=i, value=b"", timestamp_ns=round(t * 1e9) + 77)
        for i, t in enumerate(times_s)
    ]
    write(tmp_path, content)
    clock = Clock()
    source = TapeSource(tmp_path, speed=speed, monotonic=clock, sleep=clock.sleep)
    came: list[tuple[int, float]] = []
    while not source.exhausted:
        came += [(m.offset, clock.now - 100.0) for m in source.poll(0.3)]
    source.close()
    due = [0.0, 1.0, 1.0, 1.0, 8.0]
    assert [offset for offset, _ in came] == [0, 1, 2, 3, 4]
    assert [at for _, at in came] == pytest.approx([t / speed for t in due])


def test_a_speed_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="speed is 0"):
        TapeSource(tmp_path, speed=0)


def test_following_waits_for_what_is_still_written(tmp_path: Path) -> None:
    with TapeWriter(tmp_path, segment_bytes=300) as tape:
        source = TapeSource(tmp_path, follow=True)
        assert source.poll(0.01) == []
        for i in range(10):
            tape.append(messages(3, first=3 * i))
            assert [m.offset for m in source.poll(1.0)] == [3 * i, 3 * i + 1, 3 * i + 2]
        assert not source.exhausted
        source.close()


def test_a_stream_is_on_the_tape_before_anybody_gets_it(tmp_path: Path) -> None:
    content = messages(100) + messages(50, topic="u", first=900)
    taped = Taped(Listed(content), tmp_path)
    given = list(taped.poll(5.0))
    there = list(read_tape(tmp_path))
    assert len(there) >= len(given) > 0
    assert same(given, there[: len(given)])
    taped.close()


def test_offsets_count_along_the_tape_by_topic(tmp_path: Path) -> None:
    source = Listed(messages(10, first=77) + messages(5, topic="u", first=3))
    taped = Taped(source, tmp_path)
    found = drain(taped, 15)
    taped.close()
    assert source.closed
    assert [m.offset for m in found if m.topic == "t"] == list(range(10))
    assert [m.offset for m in found if m.topic == "u"] == list(range(5))


def test_after_a_restart_the_tape_is_read_from_the_saved_position_then_comes_what_is_new(
    tmp_path: Path,
) -> None:
    first = Taped(Listed(messages(40)), tmp_path)
    drain(first, 40)
    first.close()
    owner = Owner({0: {"t": 25}})
    second = Taped(Listed(messages(10, first=40)), tmp_path, owner)
    found = drain(second, 25)
    second.close()
    assert owner.asked == [0]
    assert [m.offset for m in found] == list(range(25, 50))
    assert same(found, messages(25, first=25))


def test_a_consumer_that_never_polls_keeps_nothing_from_being_taped(tmp_path: Path) -> None:
    source = Listed(messages(3000, size=1000))
    taped = Taped(source, tmp_path)
    taped.poll(0.0)
    done = threading.Event()
    for _ in range(3000):
        if not source.content:
            break
        done.wait(0.01)
    assert source.content == []
    taped.close()
    assert len(list(read_tape(tmp_path))) == 3000


def test_offsets_never_fall_behind_a_saved_position_that_the_tape_has_lost(tmp_path: Path) -> None:
    owner = Owner({0: {"t": 500}})
    taped = Taped(Listed(messages(5)), tmp_path, owner)
    assert [m.offset for m in drain(taped, 5)] == [500, 501, 502, 503, 504]
    taped.close()


def test_a_tape_that_cannot_be_written_is_told_to_the_consumer(tmp_path: Path) -> None:
    writer = TapeWriter(tmp_path)
    taped = Taped(Listed([RawMessage(topic="t" * 5000, partition=0, offset=0, value=b"")]), writer)
    with pytest.raises(ValueError, match="its topic has 5000 bytes"):
        drain(taped, 1)
    taped.close()


KILLED = """
import sys
from consumers.transport import Taped
from tests.consumers.transport.test_tape_file import messages
from tests.consumers.transport.test_tape_source import Listed
taped = Taped(Listed(messages(20_000), batch=3), sys.argv[1])
n = 0
while True:
    for message in taped.poll(1.0):
        print(message.offset, flush=True)
"""


def test_a_killed_consumer_finds_all_that_it_had_been_given_on_the_tape(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        given = [int(process.stdout.readline()) for _ in range(500)]
        process.kill()
    taped = Taped(Listed([]), tmp_path, Owner())
    found = drain(taped, 500)
    taped.close()
    assert given == list(range(500))
    assert same(found, messages(len(found)))
