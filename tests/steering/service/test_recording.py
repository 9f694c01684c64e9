from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from consumers.transport import TapeWriter, read_tape
from consumers.transport.zmq_source import ZmqSource
from consumers.wire import Events, RawMessage, encode_events
from steering import cli
from steering.service import (
    StreamCount,
    fold_to_the_end,
    kafka_section,
    live_source,
    publish,
    record,
    stream_of_recorded,
)
from steering.service.fold_worker import FoldWorker, Patience, consume
from steering.service.recording import AlongTape
from tests.consumers.hostile_files import good_events
from tests.kafka_broker import Broker, Topics
from tests.steering.live_stream import ListSource, as_raw, contents, live_measurement, live_scan

SECOND = 10**9


def ev44(source: str, sequence: int, events: int = 3) -> bytes:
    return encode_events(
        Events(
            source=source,
            sequence=sequence,
            reference_time_ns=np.array([1_700_000_000 * SECOND]),
            reference_index=np.array([0]),
            time_of_flight_ns=np.arange(events, dtype=np.int32),
            pixel_id=np.arange(events, dtype=np.int32),
        )
    )


def raws(values: Sequence[bytes], *, topic: str = "d", step_s: float = 1.0) -> list[RawMessage]:
    return [
        RawMessage(
            topic=topic,
            partition=0,
            offset=i,
            value=value,
            key=b"run",
            timestamp_ns=round(i * step_s * SECOND),
        )
        for i, value in enumerate(values)
    ]


class Listed:
    """A source that hands over a list."""

    def __init__(self, content: Sequence[RawMessage], batch: int = 4) -> None:
        self.content, self.batch = list(content), batch

    def poll(self, timeout_s: float) -> Sequence[RawMessage]:
        found, self.content = self.content[: self.batch], self.content[self.batch :]
        return found

    def acknowledge(self, positions: Mapping[tuple[str, int], int]) -> None:
        raise AssertionError("nothing is acknowledged: others read too")

    def close(self) -> None:
        """Nothing to close."""


class Kept:
    """A sink that keeps what it is sent, and when."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.sent: list[tuple[float, str, bytes, bytes | None]] = []
        self.flushed = 0

    def send(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        self.sent.append((self.clock.now, topic, value, key))

    def flush(self, timeout_s: float = 30.0) -> None:
        self.flushed += 1

    def close(self) -> None:
        raise AssertionError("whoever opened it closes it")


class Clock:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def test_a_stream_is_counted_with_what_its_sequence_numbers_miss() -> None:
    count = StreamCount()
    sequences = [5, 6, 6, 9, 0, 1, 4]  # from the middle; a copy; 2 missing; a new dwell; 2 missing
    for raw in raws([ev44("bank1", n) for n in sequences]):
        count.add(raw)
    for raw in raws([ev44("bank2", 0), b"no schema", ev44("bank2", 1)], topic="e"):
        count.add(raw)
    assert count.summary() == {
        "messages": 10,
        "bytes": 7 * len(ev44("bank1", 0)) + 2 * len(ev44("bank2", 0)) + len(b"no schema"),
        "events": 27,
        "gaps": 4,
        "unreadable": 1,
        "topics": {"d": 7, "e": 3},
    }


def test_recording_ends_with_so_many_messages_and_goes_on_behind_them(tmp_path: Path) -> None:
    content = raws([ev44("b", n) for n in range(20)])
    with TapeWriter(tmp_path) as tape:
        assert record(Listed(content), tape, messages=10).messages == 10
        assert AlongTape(tape).take(0) == {"d": 10}
        assert AlongTape(tape).take(1) == {}
    with TapeWriter(tmp_path) as tape:
        start = AlongTape(tape).take(0)["d"]
        record(Listed(content[start:]), tape, messages=10)
    assert [m.value for m in read_tape(tmp_path)] == [m.value for m in content]


def test_recording_ends_after_so_many_seconds(tmp_path: Path) -> None:
    clock = Clock()

    class Slow(Listed):
        def poll(self, timeout_s: float) -> Sequence[RawMessage]:
            clock.sleep(max(timeout_s, 1e-3))
            return super().poll(timeout_s)

    with TapeWriter(tmp_path) as tape:
        count = record(Slow(raws([b"x"] * 1000)), tape, seconds=1.9, monotonic=clock)
    assert clock.now == pytest.approx(1.9)
    assert count.messages == len(list(read_tape(tmp_path))) == 40


@pytest.mark.parametrize("speed", [None, 1.0, 5.0])
def test_a_stream_is_sent_at_a_multiple_of_its_pace(speed: float | None) -> None:
    clock = Clock()
    sink = Kept(clock)
    content = raws([b"a", b"b", b"c"], step_s=10.0)
    count = publish(content, sink, speed=speed, monotonic=clock, sleep=clock.sleep)
    assert [(value, key) for _, _, value, key in sink.sent] == [
        (b"a", b"run"),
        (b"b", b"run"),
        (b"c", b"run"),
    ]
    due = [0.0, 0.0, 0.0] if speed is None else [0.0, 10.0 / speed, 20.0 / speed]
    assert [at for at, _, _, _ in sink.sent] == pytest.approx(due)
    assert (count.messages, sink.flushed) == (3, 1)
    with pytest.raises(ValueError, match="speed is -1"):
        publish(content, sink, speed=-1)


def test_recorded_files_become_messages_with_places_and_times(tmp_path: Path) -> None:
    good_events(tmp_path / "a.nxs.h5", n=200)
    stream = list(stream_of_recorded([tmp_path / "a.nxs.h5"], run="r", prefix="p"))
    assert {m.run for m in stream} == {"r"}
    for topic in {m.topic for m in stream}:
        offsets = [m.offset for m in stream if m.topic == topic]
        assert offsets == list(range(len(offsets)))
    assert stream[-1].timestamp_ns - stream[0].timestamp_ns == 30_001_000_000


def test_topics_are_those_of_a_prefix_or_those_named() -> None:
    assert kafka_section("h:1", prefix="hyspec").topics.read[0] == "hyspec_detector"
    assert kafka_section("h:1", topics=["a", "b"]).topics.read == ("a", "b")
    with pytest.raises(ValueError, match="the topics are unknown"):
        kafka_section("h:1")
    with pytest.raises(ValueError, match="--topics names 7"):
        kafka_section("h:1", topics=list("abcdefg"))


def test_a_recording_needs_one_source(tmp_path: Path) -> None:
    with TapeWriter(tmp_path) as tape:
        with pytest.raises(ValueError, match="expected Kafka or ZMQ"):
            live_source(tape)


# -- the commands ---------------------------------------------------------------------------------


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert cli.run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def free_port() -> int:
    with closing(ZmqSource("tcp://127.0.0.1:*", pattern="pull", bind=True)) as source:
        return int(source.address.rpartition(":")[2])


def test_a_tape_goes_over_zmq_and_comes_back_as_a_tape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good_events(tmp_path / "a.nxs.h5", n=500)
    stream = list(stream_of_recorded([tmp_path / "a.nxs.h5"], run="r", prefix="p"))
    with TapeWriter(tmp_path / "first") as tape:
        tape.append(stream)
    address = f"tcp://127.0.0.1:{free_port()}"
    replay = ["replay", str(tmp_path / "first"), "--to", "zmq", "--address", address, "--bind"]
    with subprocess.Popen([sys.executable, "-m", "steering.cli", *replay]) as sender:
        try:
            told = run_json(
                capsys,
                *("record", "--zmq", address, "-o", str(tmp_path / "second")),
                *("--messages", str(len(stream)), "--seconds", "60"),
            )
            assert sender.wait(60) == 0
        finally:
            sender.kill()
    assert (told["messages"], told["events"], told["gaps"]) == (len(stream), 500, 0)
    again = list(read_tape(tmp_path / "second"))
    assert [(m.topic, m.value) for m in again] == [(m.topic, m.value) for m in stream]
    assert [m.offset for m in again if m.topic == "p_detector"] == list(
        range(sum(m.topic == "p_detector" for m in stream))
    )


@pytest.mark.kafka
def test_files_go_to_kafka_and_come_back_as_a_tape_twice_without_a_copy(
    kafka: Broker, kafka_topics: Topics, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good_events(tmp_path / "a.nxs.h5", n=500)
    kafka_topics("detector", "runInfo", "motion", "sampleEnv", "reduced", "bluesky")
    there = ("--kafka", kafka.bootstrap, "--prefix", kafka_topics.prefix)
    sent = run_json(
        capsys,
        *("replay", str(tmp_path / "a.nxs.h5"), "--to", "kafka", "--address", kafka.bootstrap),
        *("--prefix", kafka_topics.prefix, "--run-id", "night"),
    )
    expected = list(
        stream_of_recorded([tmp_path / "a.nxs.h5"], run="night", prefix=kafka_topics.prefix)
    )
    assert sent["messages"] == len(expected)
    tape = str(tmp_path / "tape")
    first = run_json(capsys, "record", *there, "-o", tape, "--messages", "1000")
    assert first["messages"] == 1000
    rest = run_json(capsys, "record", *there, "-o", tape, "--messages", str(len(expected) - 1000))
    assert rest["events"] + first["events"] == sent["events"] == 500
    nothing = run_json(capsys, "record", *there, "-o", tape, "--seconds", "8")
    assert nothing["messages"] == 0

    def by_place(messages: Sequence[RawMessage]) -> list[tuple[str, int, bytes | None, bytes]]:
        return sorted((m.topic, m.offset, m.key, m.value) for m in messages)

    assert by_place(list(read_tape(tape))) == by_place(expected)


def test_a_tape_folds_as_the_stream_it_recorded(tmp_path: Path) -> None:
    raws = as_raw(live_scan())
    states = []
    for name in ("stream", "tape"):
        worker = FoldWorker(
            live_measurement(),
            state=tmp_path / name,
            default_run="unnamed",
            patience=Patience(settle_s=2.0, lateness_s=300.0, turn_s=0.0, commit_s=0.0),
        )
        if name == "stream":
            consume(ListSource(raws, worker), worker, stop=lambda: False, until_idle_s=0.0)
        else:
            with TapeWriter(tmp_path / "recorded", segment_bytes=200_000) as tape:
                record(Listed(raws, batch=100), tape, messages=len(raws))
            fold_to_the_end(tmp_path / "recorded", worker)
        worker.close()
        states.append(contents(tmp_path / name))
    assert states[0] == states[1]
    assert len(states[0]) > 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["record", "-o", "t"], "no live source is given"),
        (["record", "-o", "t", "--kafka", "h:1", "--zmq", "h:1"], "--kafka and --zmq are given"),
        (["record", "-o", "t", "--kafka", "h:1"], "the topics are unknown"),
        (["record", "-o", "t", "--zmq", "10.0.0.1:5577"], "leaves this machine"),
        (["replay", "none.nxs.h5", "--to", "zmq", "--prefix", "p"], "none.nxs.h5: is no file"),
        (["replay", ".", "--to", "kafka"], "holds no .tape file"),
        (["replay", "none.nxs.h5"], "--experiment is missing"),
    ],
)
def test_commands_name_what_is_wrong(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(arguments) == cli.BAD_INPUT
    assert words in " ".join(capsys.readouterr().err.split())
