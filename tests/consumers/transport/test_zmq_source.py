from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack_numpy
import numpy as np
import pytest
import structlog
import zmq
import zmq.auth
from bluesky.callbacks.zmq import ClientCurve, Publisher
from event_model import compose_run

from consumers.transport import Taped, ZmqSection, read_tape, zmq_sink, zmq_source
from consumers.transport.curve_keys_file import curve_client, curve_server
from consumers.transport.zmq_sink import ZmqSink
from consumers.transport.zmq_source import ZmqSource
from consumers.wire import (
    Described,
    Description,
    LogSample,
    RawMessage,
    RawSource,
    RunBegins,
    RunEnds,
    WireError,
    decode,
    encode_log,
)
from tests.consumers.zmq_proxy import ProxyAt, bluesky_proxy
from tests.told import told_in_time


@pytest.fixture(scope="module")
def proxy() -> Iterator[ProxyAt]:
    with bluesky_proxy() as at:
        yield at


def take(source: RawSource, count: int, patience_s: float = 30.0) -> list[RawMessage]:
    found: list[RawMessage] = []
    until = time.monotonic() + patience_s
    while len(found) < count and time.monotonic() < until:
        found += source.poll(0.2)
    return found


def introduced(publish: Any, source: RawSource) -> None:
    """Publish until something arrives: ZMQ connects when it likes."""
    until = time.monotonic() + 30.0
    while time.monotonic() < until:
        publish("stop", {"hello": True})
        if source.poll(0.05):
            while source.poll(0.3):
                pass
            return
    raise AssertionError("nothing came through the proxy")


def run_documents(events: int = 3, **data: Any) -> list[tuple[str, dict[str, Any]]]:
    run = compose_run(metadata={"scan_id": 7})
    keys = {
        name: {"dtype": "array" if np.ndim(v) else "number", "shape": list(np.shape(v)),
               "source": "test"}
        for name, v in data.items()
    }  # fmt: skip
    descriptor = run.compose_descriptor(name="primary", data_keys=keys)
    documents: list[tuple[str, Any]] = [
        ("start", run.start_doc),
        ("descriptor", descriptor.descriptor_doc),
    ]
    for _ in range(events):
        stamps = dict.fromkeys(data, time.time())
        documents.append(("event", descriptor.compose_event(data=data, timestamps=stamps)))
    documents.append(("stop", run.compose_stop()))
    return documents


def test_documents_of_blueskys_publisher_arrive_through_its_proxy(proxy: ProxyAt) -> None:
    with closing(ZmqSource(proxy.outside, prefix=b"ours")) as source:
        publisher = Publisher(proxy.inside, prefix=b"ours", serializer=msgpack_numpy.dumps)
        with closing(publisher):
            introduced(publisher, source)
            documents = run_documents(s1=12.5)
            for name, document in documents:
                publisher(name, document)
            found = take(source, len(documents))
    values = [decode(message) for message in found]
    kinds = [RunBegins, Description, Described, Described, Described, RunEnds]
    assert [type(value) for value in values] == kinds
    assert isinstance(values[2], Described)
    sample = values[2].values[0]
    assert isinstance(sample, LogSample)
    assert (sample.source, sample.value.tolist()) == ("s1", [12.5])
    assert {message.topic for message in found} == {"bluesky"}
    first = found[0].offset
    assert [message.offset for message in found] == list(range(first, first + 6))
    assert all(message.timestamp_ns > 0 and message.partition == 0 for message in found)


def test_another_prefix_is_passed_over(proxy: ProxyAt) -> None:
    with closing(ZmqSource(proxy.outside, prefix=b"raw")) as source:
        ours = Publisher(proxy.inside, prefix=b"raw", serializer=msgpack_numpy.dumps)
        others = Publisher(proxy.inside, prefix=b"rawer", serializer=msgpack_numpy.dumps)
        with closing(ours), closing(others):
            introduced(ours, source)
            for i in range(20):
                others("event", {"n": i})
                ours("start", {"n": i})
            found = take(source, 20)
            found += source.poll(0.3)
    assert [dict(message.headers)["document"] for message in found] == [b"start"] * 20


def test_a_pickle_arrives_unopened_and_is_refused_with_what_to_do(proxy: ProxyAt) -> None:
    with closing(ZmqSource(proxy.outside, prefix=b"pickled")) as source:
        with closing(Publisher(proxy.inside, prefix=b"pickled")) as publisher:
            introduced(publisher, source)
            publisher._serializer = lambda document: pickle.dumps(Bomb())
            with told_in_time():
                publisher("start", {})
                (message,) = take(source, 1)
                with pytest.raises(WireError, match="is a pickle.*serializer=msgpack_numpy.dumps"):
                    decode(message)
    assert not Bomb.exploded


class Bomb(dict):
    exploded = False

    def __reduce__(self):
        return _explode, ()


def _explode() -> dict[str, Any]:
    Bomb.exploded = True
    return {}


def test_a_pickle_is_opened_where_that_is_switched_on_with_a_warning(proxy: ProxyAt) -> None:
    with structlog.testing.capture_logs() as logs:
        source = ZmqSource(proxy.outside, prefix=b"trusted", allow_pickle=True)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("zmq_pickle_allowed", "warning")
    ]
    with closing(source), closing(Publisher(proxy.inside, prefix=b"trusted")) as publisher:
        introduced(publisher, source)
        documents = run_documents(counts=np.arange(5))
        for name, document in documents:
            publisher(name, document)
        publisher("event", {"object": np.array([{}], dtype=object)})
        found = take(source, len(documents) + 1)
    assert isinstance(decode(found[0]), RunBegins)
    event = decode(found[2])
    assert isinstance(event, Described)
    sample = event.values[0]
    assert isinstance(sample, LogSample)
    assert sample.value.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(WireError, match="is a pickle"):
        decode(found[-1])


def test_flatbuffers_travel_in_the_same_frame_with_the_topic_as_name(tmp_path: Path) -> None:
    sample = LogSample(source="s1", time_ns=1_700_000_000 * 10**9, value=np.array([3.5]))
    address = f"ipc://{tmp_path}/socket"
    with closing(ZmqSource(address, pattern="pull", bind=True)) as source:
        with closing(ZmqSink(address, pattern="push")) as sink:
            sink.send("hyspec_motion", encode_log(sample), key=b"run")
            sink.send("hyspec_detector", b"\0 not a flatbuffer  ")
            found = take(source, 2)
    assert [(m.topic, m.offset) for m in found] == [("hyspec_motion", 0), ("hyspec_detector", 0)]
    value = decode(found[0])
    assert isinstance(value, LogSample)
    assert (value.source, value.time_ns, value.value.tolist()) == ("s1", sample.time_ns, [3.5])
    assert found[1].value == b"\0 not a flatbuffer  "
    with pytest.raises(WireError):
        decode(found[1])


@pytest.mark.parametrize(
    "frame",
    [b"", b" ", b"start", b"prefix start", b"  ", b"p \xff\xfe x", b"p start ", os.urandom(3000)],
)
def test_what_is_no_frame_becomes_one_refused_message(tmp_path: Path, frame: bytes) -> None:
    address = f"ipc://{tmp_path}/socket"
    with closing(ZmqSource(address, pattern="pull", bind=True)) as source:
        with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
            socket.connect(address)
            socket.send(frame)
            socket.send_multipart([b"p start", frame, b"x"])
            found = take(source, 2)
    assert len(found) == 2
    for message in found:
        with pytest.raises(WireError):
            decode(message)


class Owner:
    def take(self, partition: int) -> Mapping[str, int]:
        assert partition == 0
        return {"t": 41}

    def release(self, partition: int) -> None:
        raise AssertionError


def test_offsets_go_on_where_the_owner_ended_and_that_is_said(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/socket"
    with closing(ZmqSource(address, pattern="pull", bind=True, owner=Owner())) as source:
        with closing(ZmqSink(address, pattern="push")) as sink:
            sink.send("t", b"1")
            sink.send("u", b"2")
            with structlog.testing.capture_logs() as logs:
                found = take(source, 2)
    assert [(m.topic, m.offset) for m in found] == [("t", 41), ("u", 0)]
    assert [entry["event"] for entry in logs] == ["zmq_cannot_be_replayed"]


def test_a_slow_puller_of_large_messages_loses_nothing(tmp_path: Path) -> None:
    """The sender waits when 4 + 4 messages are on their way; a thread of its own sends."""
    address = f"ipc://{tmp_path}/socket"
    payload = np.random.default_rng(1).bytes(5_000_000)
    sink = ZmqSink(address, pattern="push", high_water=4)

    def push() -> None:
        for i in range(40):
            sink.send("t", i.to_bytes(2, "little") + payload)

    with closing(ZmqSource(address, pattern="pull", bind=True, high_water=4)) as source:
        sender = threading.Thread(target=push)
        sender.start()
        time.sleep(0.3)
        assert sender.is_alive()
        found = []
        for _ in range(400):
            found += [int.from_bytes(m.value[:2], "little") for m in source.poll(0.05)]
            if len(found) == 40:
                break
        sender.join()
        sink.close()
    assert found == list(range(40))


def test_a_publisher_of_ours_waits_for_a_slow_subscriber_instead_of_dropping(
    tmp_path: Path,
) -> None:
    address = f"ipc://{tmp_path}/socket"
    sink = ZmqSink(address, bind=True, high_water=4)
    with closing(ZmqSource(address, high_water=4)) as source:
        sink.wait_for_receiver(30.0)

        def publish() -> None:
            for i in range(200):
                sink.send("t", i.to_bytes(2, "little") + bytes(100_000))

        sender = threading.Thread(target=publish)
        sender.start()
        time.sleep(0.3)
        assert sender.is_alive()
        found = [int.from_bytes(m.value[:2], "little") for m in take(source, 200)]
        sender.join()
        sink.close()
    assert found == list(range(200))


def test_behind_a_tape_a_slow_consumer_of_blueskys_publisher_loses_nothing(
    proxy: ProxyAt, tmp_path: Path
) -> None:
    taped = Taped(ZmqSource(proxy.outside, prefix=b"taped"), tmp_path / "tape")
    image = np.random.default_rng(2).random((800, 800))  # 5 MB
    with closing(Publisher(proxy.inside, prefix=b"taped", serializer=msgpack_numpy.dumps)) as pub:
        introduced(pub, taped)
        documents = run_documents(events=30, image=image)
        for name, document in documents:
            pub(name, document)
        found = take(taped, len(documents))
    taped.close()
    assert [dict(m.headers)["document"].decode() for m in found] == [n for n, _ in documents]
    again = list(read_tape(tmp_path / "tape"))
    assert [m.value for m in again[-len(found) :]] == [m.value for m in found]
    assert msgpack_numpy.loads(found[5].value)["data"]["image"].tobytes() == image.tobytes()


def test_a_lost_connection_is_told(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/socket"
    sink = ZmqSink(address, bind=True)
    with closing(ZmqSource(address)) as source:
        sink.wait_for_receiver(30.0)
        assert source.disconnections == 0
        sink.close()
        with structlog.testing.capture_logs() as logs:
            until = time.monotonic() + 30
            while not source.disconnections and time.monotonic() < until:
                source.poll(0.05)
        assert source.disconnections == 1
        assert "zmq_disconnected" in [line["event"] for line in logs]


FROZEN = """
import sys
from consumers.transport.zmq_sink import ZmqSink
sink = ZmqSink(sys.argv[1], bind=True)
sink.wait_for_receiver(60.0)
sink.send("t", b"hello")
sys.stdin.read()
"""


def watch(source: ZmqSource, connected: bool, patience_s: float = 30.0) -> float:
    """Poll until the source says so; seconds that it took."""
    began = time.monotonic()
    while source.connected is not connected and time.monotonic() - began < patience_s:
        source.poll(0.05)
    assert source.connected is connected
    return time.monotonic() - began


def test_a_publisher_that_dies_or_freezes_is_missed_within_ten_seconds(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/socket"
    command = [sys.executable, "-c", FROZEN, address]
    with closing(ZmqSource(address)) as source:
        assert not source.connected
        for end in (signal.SIGSTOP, signal.SIGKILL):  # the first as a cable that is pulled
            with subprocess.Popen(command, stdin=subprocess.PIPE) as publisher:
                watch(source, True)
                publisher.send_signal(end)
                assert watch(source, False) < 10
                publisher.kill()
        assert source.disconnections == 2


def test_a_silent_sender_counts_as_lost_where_a_time_is_stated(tmp_path: Path) -> None:
    address, clock = f"ipc://{tmp_path}/socket", [0.0]
    sink = ZmqSink(address, bind=True)
    with closing(sink), closing(ZmqSource(address, silence_s=60, monotonic=lambda: clock[0])) as it:
        sink.wait_for_receiver(30.0)
        watch(it, True)
        clock[0] = 61.0
        assert not it.connected
        sink.send("t", b"hello")
        take(it, 1)
        assert it.connected


# -- keys -----------------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    (folder / "clients").mkdir(parents=True)
    for name in ("server", "client", "stranger"):
        zmq.auth.create_certificates(folder, name)
        (folder / f"{name}.key_secret").chmod(0o600)
    (folder / "client.key").rename(folder / "clients" / "client.key")
    return folder


def test_blueskys_proxy_and_our_source_speak_curve(keys: Path) -> None:
    secret, server = keys / "client.key_secret", keys / "server.key"
    with bluesky_proxy("out_curve", str(keys / "server.key_secret"), str(keys / "clients")) as at:
        source = ZmqSource(at.outside, prefix=b"c", curve=curve_client(secret, server))
        publisher = Publisher(at.inside, prefix=b"c", serializer=msgpack_numpy.dumps)
        with closing(source), closing(publisher):
            introduced(publisher, source)
            publisher("start", {"n": 1})
            (message,) = take(source, 1)
    assert msgpack_numpy.loads(message.value) == {"n": 1}


def test_blueskys_publisher_with_keys_reaches_a_source_of_ours_that_binds(keys: Path) -> None:
    curve = curve_server(keys / "server.key_secret", keys / "clients")
    with closing(ZmqSource("tcp://127.0.0.1:*", bind=True, prefix=b"c", curve=curve)) as source:
        publisher = Publisher(
            source.address,
            prefix=b"c",
            serializer=msgpack_numpy.dumps,
            curve_config=ClientCurve(keys / "client.key_secret", keys / "server.key"),
        )
        with closing(publisher):
            introduced(publisher, source)
            publisher("start", {"n": 1})
            (message,) = take(source, 1)
    assert msgpack_numpy.loads(message.value) == {"n": 1}


@pytest.mark.parametrize("who", ["client", "stranger", "nobody"])
def test_only_known_clients_get_through(keys: Path, who: str) -> None:
    curve = curve_server(keys / "server.key_secret", keys / "clients")
    with closing(ZmqSource("tcp://127.0.0.1:*", pattern="pull", bind=True, curve=curve)) as source:
        theirs = None
        if who != "nobody":
            theirs = curve_client(keys / f"{who}.key_secret", keys / "server.key")
        sink = ZmqSink(source.address, pattern="push", curve=theirs, send_timeout_s=2.0)
        with closing(sink):
            if who == "client":
                sink.send("t", b"hello")
                assert [m.value for m in take(source, 1)] == [b"hello"]
                watch(source, True)
            else:
                try:
                    sink.send("t", b"hello")
                except ConnectionError as error:
                    assert "no receiver took a message" in str(error)  # noqa: PT017
                assert take(source, 1, patience_s=1.0) == []
                assert not source.connected
                sink._connection.close(0)
                sink._closed = True


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.1:5578", "beamline:5578", "tcp://*:5578", "tcp://0.0.0.0:5578"]
)
def test_leaving_the_machine_needs_keys_or_an_explicit_word(address: str) -> None:
    with pytest.raises(ValueError, match="leaves this machine.*CURVE keys.*allow_unencrypted"):
        ZmqSource(address, bind="*" in address)
    with pytest.raises(ValueError, match="leaves this machine"):
        ZmqSink(address)
    if "10.0" in address:
        ZmqSource(address, allow_unencrypted=True).close()


@pytest.mark.parametrize(
    ("address", "options", "words"),
    [
        ("here", {}, "ZMQ address is 'tcp://here'"),
        ("tcp://127.0.0.1", {}, "expected tcp://HOST:PORT"),
        ("127.0.0.1:1", {"pattern": "pair"}, "pattern is 'pair'"),
        ("127.0.0.1:1", {"prefix": b"a b"}, "prefix is b'a b'"),
    ],
)
def test_impossible_options_are_named(address: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ZmqSource(address, **options)


def test_keys_of_the_wrong_end_are_refused(keys: Path) -> None:
    with pytest.raises(ValueError, match="this end connects; expected keys of a client"):
        ZmqSource("127.0.0.1:1", curve=curve_server(keys / "server.key_secret"))


def test_an_address_that_is_taken_is_named() -> None:
    with closing(ZmqSource("tcp://127.0.0.1:*", pattern="pull", bind=True)) as first:
        with pytest.raises(ConnectionError, match="cannot be bound"):
            ZmqSource(first.address, pattern="pull", bind=True)


def test_no_pickle_is_opened_by_default(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/socket"
    with closing(ZmqSource(address, pattern="pull", bind=True)) as source:
        with closing(ZmqSink(address, pattern="push")) as sink:
            sink.send("x", pickle.dumps(Bomb()), headers=(("document", b"start"),))
            (message,) = take(source, 1)
    assert message.value == pickle.dumps(Bomb())
    assert not Bomb.exploded


def test_a_section_of_an_experiment_makes_both_ends_with_its_keys(keys: Path) -> None:
    ours = ZmqSection(
        address="tcp://127.0.0.1:*",
        pattern="pull",
        bind=True,
        secret_certificate=str(keys / "server.key_secret"),
        clients=str(keys / "clients"),
    )
    with closing(zmq_source(ours, environment={})) as source:
        theirs = ZmqSection(
            address=source.address,
            pattern="pull",
            secret_certificate=str(keys / "client.key_secret"),
            server_certificate=str(keys / "server.key"),
        )
        with closing(zmq_sink(theirs, environment={})) as sink:
            sink.send("t", b"hello")
            assert [m.value for m in take(source, 1)] == [b"hello"]
