from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import structlog

from consumers.recorded import recorded_source
from consumers.state import ClosedChunk, partition_folders, read_chunk, read_manifest
from consumers.transport import AdaraSink, TapeWriter, read_tape
from consumers.transport.zmq_source import ZmqSource
from consumers.wire import Events, Heartbeat, RawMessage, encode_events, encode_heartbeat
from simulations.errors import InputError
from steering import cli
from steering.experiment import Measurement, build_measurement, load_experiment
from steering.run import Run
from steering.service import (
    LiveOptions,
    StreamCount,
    adara_of_stream,
    fold_to_the_end,
    kafka_section,
    open_live,
    publish,
    record,
    stream_of_recorded,
)
from steering.service.consuming import consume
from steering.service.fold_worker import FoldWorker, Patience
from steering.service.metrics import service_registry
from steering.service.recording import AlongTape
from tests.consumers.adara_traffic import OPENING, playing, pulse
from tests.consumers.hostile_files import good_events
from tests.kafka_broker import Broker, Topics
from tests.steering.live_stream import ListSource, as_raw, contents, live_measurement, live_scan
from tests.steering.virtual_scan import EXAMPLES
from tests.told import TOLD_S, told_in_time

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

    connected = None

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


# -- ADARA ----------------------------------------------------------------------------------------

SUMS = ("signal", "variance", "counts", "exposure", "flat")


def folded_from_files(files: Sequence[Path], folder: Path) -> list[tuple]:
    """Account, charge and sums of every file, by the route of recorded files."""
    run = Run(hyspec(), run_id="file", folder=folder, estimate=False)
    for message in recorded_source(list(files), run="file", psi_log="s1").messages():
        run.accept(message)
    return [what_counts(chunk) for chunk in run.chunks]


@cache
def hyspec() -> Measurement:
    return build_measurement(load_experiment(EXAMPLES / "mno-hyspec.yaml"), EXAMPLES)


def what_counts(chunk: ClosedChunk) -> tuple:
    sums = tuple(getattr(chunk.sums, name).tobytes() for name in SUMS)
    return (chunk.chunk, chunk.psi_deg, chunk.proton_charge, chunk.account, sums)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "first", [pytest.param(1, id="one"), pytest.param(3, id="three", marks=pytest.mark.slow)]
)
def test_files_as_adara_over_tcp_fold_to_the_bits_of_the_files(
    first: int, shared_data: Path, tmp_path: Path
) -> None:
    files = sorted((shared_data / "hyspec-mno").glob("*.nxs.h5"))[:first]
    experiment = load_experiment(EXAMPLES / "mno-hyspec.yaml")
    with closing(AdaraSink("127.0.0.1:0")) as beamline:
        stream = adara_of_stream(stream_of_recorded(files, run="mno", prefix="hyspec"))
        sender = threading.Thread(target=publish, args=(stream, beamline), daemon=True)
        options = LiveOptions(run="mno", adara=beamline.address)
        with open_live(
            experiment,
            experiment_dir=EXAMPLES,
            state=tmp_path / "state",
            options=options,
            measurement=hyspec(),
        ) as live:
            sender.start()
            live.consume(lambda: False, until_idle_s=3.0)
            assert not sender.is_alive()
            status = live.worker_status()
            assert status.counters["dead_letters.message"] == 0
            assert status.counters["events.between_chunks"] == 0
            found = [what_counts(c) for c in live.worker.runs[(0, "mno")].chunks]
    assert found == folded_from_files(files, tmp_path)
    assert len(found) == first
    assert all(account.folded > 5000 for *_, account, _ in found)


def test_seconds_that_no_beamline_has_any_more_are_a_metric(tmp_path: Path) -> None:
    """A connection breaks for half a minute, and the beamline keeps no history."""
    experiment = load_experiment(EXAMPLES / "mno-hyspec.yaml")
    with closing(AdaraSink("127.0.0.1:0", kept_bytes=0)) as beamline:
        options = LiveOptions(run="mno", adara=beamline.address)
        with open_live(
            experiment,
            experiment_dir=EXAMPLES,
            state=tmp_path,
            options=options,
            measurement=hyspec(),
        ) as live:

            def lost() -> float | None:
                registry, _ = service_registry(live.worker_status)
                return registry.get_sample_value("beamsteer_stream_lost_seconds_total")

            with playing(beamline, [*OPENING, pulse(0), pulse(1)]):
                live.consume(lambda: False, until_idle_s=1.0)
            assert lost() == 0.0
            for client in tuple(beamline._clients):
                client.socket.shutdown(socket.SHUT_RDWR)
            with told_in_time(), playing(beamline, [pulse(31), pulse(32)]):
                live.consume(lambda: lost() == 30.0, until_idle_s=TOLD_S)
            assert lost() == 30.0


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.timeout(900)
def test_a_killed_consumer_of_adara_leaves_the_same_bits(shared_data: Path, tmp_path: Path) -> None:
    """SIGKILL again and again while a beamline sends: the tape and what is asked for again."""
    files = sorted((shared_data / "hyspec-mno").glob("*.nxs.h5"))
    state, kills = tmp_path / "state", 6
    with closing(AdaraSink("127.0.0.1:0", patience_s=120.0)) as beamline:
        stream = adara_of_stream(stream_of_recorded(files, run="mno", prefix="hyspec"))
        sender = threading.Thread(
            target=publish, args=(stream, beamline), kwargs={"speed": 15.0}, daemon=True
        )
        sender.start()
        command = [sys.executable, "-m", "steering.cli", "consume", "-o", str(state), "--json"]
        command += [str(EXAMPLES / "mno-hyspec.yaml"), "--adara", beamline.address]
        command += ["--health-port", "0", "--until-idle", "45"]  # a gap of 32 s
        chance = random.Random(12)  # noqa: S311
        struck = 0
        while struck < kills and sender.is_alive():
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as worker:
                tape = state / "tape" / "00000000.tape"
                size = tape.stat().st_size if tape.exists() else 0
                while not (tape.exists() and tape.stat().st_size > size + 50_000):
                    if not sender.is_alive():
                        break
                    time.sleep(0.05)
                time.sleep(chance.uniform(0.0, 2.0))
                worker.kill()
                struck += 1
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        sender.join(60.0)
    assert not sender.is_alive()
    assert '"mno-hyspec": 3' in done.stdout
    (folder,) = partition_folders(state)
    manifest = read_manifest(folder)
    assert manifest is not None
    records = manifest.runs["mno-hyspec"].chunks
    found = [what_counts(read_chunk(folder / str(record.file))) for record in records]
    assert found == folded_from_files(files, tmp_path)
    sys.stdout.write(
        f"\n{struck} SIGKILLs, {manifest.counters.get('duplicates', 0)} duplicates, "
        f"{manifest.counters.get('dead_letters', 0)} dead letters, "
        f"{manifest.generation} manifests\n"
    )
    assert manifest.counters.get("dead_letters", 0) == 0


def test_a_tape_of_adara_packets_plays_the_beamline_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good_events(tmp_path / "a.nxs.h5", n=500)
    recorded = stream_of_recorded([tmp_path / "a.nxs.h5"], run="r", prefix="p")
    with structlog.testing.capture_logs() as logs:
        stream = list(adara_of_stream(recorded))
    assert [log["what"] for log in logs] == ["proton_charge", "times of flight"]  # told once
    assert [m.offset for m in stream] == list(range(len(stream)))
    with TapeWriter(tmp_path / "first") as tape:
        tape.append(stream)
    address = f"127.0.0.1:{free_port()}"
    replay = ["replay", str(tmp_path / "first"), "--to", "adara", "--listen", address]
    sending = subprocess.Popen([sys.executable, "-m", "steering.cli", *replay])
    with sending as sender, structlog.testing.capture_logs():
        try:
            told = run_json(
                capsys,
                *("record", "--adara", address, "-o", str(tmp_path / "second")),
                *("--messages", str(len(stream)), "--seconds", "60"),
            )
            assert sender.wait(60) == 0
        finally:
            sender.kill()
    assert (told["messages"], told["events"], told["unreadable"]) == (len(stream), 500, 0)
    again = list(read_tape(tmp_path / "second"))
    assert [(m.value, m.headers) for m in again] == [(m.value, m.headers) for m in stream]


def test_what_is_not_raw_events_cannot_go_as_adara() -> None:
    with pytest.raises(InputError, match="holds a Heartbeat, which ADARA cannot carry"):
        list(adara_of_stream(raws([encode_heartbeat(Heartbeat(service="a", status={}))])))


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
        (["record", "-o", "t", "--adara", "h:1", "--zmq", "h:1"], "--zmq and --adara are given"),
        (["record", "-o", "t", "--adara", "bl17:31415"], "allow_unencrypted: true"),
        (["consume", str(EXAMPLES / "mno-hyspec.yaml"), "-o", "s", "--adara", "::"], "HOST:PORT"),
        (["replay", "none.nxs.h5", "--to", "adara", "--address", "h:1"], "Give --listen"),
        (["replay", "none.nxs.h5", "--to", "zmq", "--listen", "h:1"], "with --to adara alone"),
        (["replay", "none.nxs.h5", "--to", "adara"], "none.nxs.h5: is no file"),
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
