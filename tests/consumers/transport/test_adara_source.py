from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import structlog

from consumers.transport import AdaraSection, AdaraSink, AdaraSource, Taped, TapeWriter, read_tape
from consumers.transport import adara_source as module
from consumers.wire import RawMessage, RawSource, RunBegins, WireError, decode, read_packet
from simulations.errors import InputError
from tests.consumers.adara_traffic import OPENING, playing, pulse
from tests.consumers.hostile_packets import (
    ADARA,
    NOW_S,
    double,
    packet,
    raw,
    run_status,
)
from tests.told import told_in_time


def take(source: RawSource, count: int, patience_s: float = 20.0) -> list[RawMessage]:
    found: list[RawMessage] = []
    until = time.monotonic() + patience_s
    while len(found) < count and time.monotonic() < until:
        found += source.poll(0.05)
    return found


def bodies(messages: list[RawMessage]) -> list[bytes]:
    """Packets as they were sent, without begins, which are said twice, and states."""
    return [
        m.value
        for m in messages
        if "begins" not in dict(m.headers) and m.value[:28] != run_status(5)[:28]
    ]


@pytest.fixture
def sink() -> Iterator[AdaraSink]:
    with closing(AdaraSink("127.0.0.1:0")) as found:
        yield found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.02)


def source_of(sink: AdaraSink | str, **fields: object) -> AdaraSource:
    address = sink if isinstance(sink, str) else sink.address
    return AdaraSource(AdaraSection.model_validate({"address": address, **fields}))


def test_packets_come_as_they_were_sent_with_what_is_needed_to_read_them(sink: AdaraSink) -> None:
    packets = [*OPENING, double(19.0), *map(pulse, range(300)), run_status(4, s=NOW_S + 400)]
    with closing(source_of(sink)) as source, playing(sink, packets):
        found = take(source, len(packets) + 1)
        assert source.connected
    assert bodies(found) == packets
    assert [m.offset for m in found] == list(range(len(packets) + 1))
    assert {(m.topic, m.partition) for m in found} == {("adara", 0)}
    (begin,) = [m for m in found if "begins" in dict(m.headers)]
    value = decode(begin)
    assert isinstance(value, RunBegins)
    assert value.instrument_name == "TOY"
    times = [m.timestamp_ns for m in found if m.timestamp_ns]
    assert times == sorted(times)


def test_a_connection_that_is_cut_is_made_anew_and_nothing_is_missing(
    sink: AdaraSink, tmp_path: Path
) -> None:
    first, rest = [*OPENING, *map(pulse, range(50))], list(map(pulse, range(50, 90)))
    with closing(Taped(source_of(sink), tmp_path)) as source:
        with playing(sink, first):
            before = take(source, len(first) + 1)
        with told_in_time(), structlog.testing.capture_logs() as logs:
            for client in tuple(sink._clients):  # the cable is pulled
                client.socket.shutdown(socket.SHUT_RDWR)
            with playing(sink, rest):
                after = take(source, 10**6, patience_s=3.0)
    assert "adara_disconnected" in [entry["event"] for entry in logs]
    assert bodies(before) == first
    again = bodies(after)
    assert set(rest) <= set(again)
    assert [p for p in again if p not in first] == rest  # each once, in order
    assert {read_packet(p).kind for p in again} <= {read_packet(p).kind for p in first}
    assert [m for m in after if "begins" in dict(m.headers)] == []  # the run goes on
    offsets = [m.offset for m in [*before, *after]]
    assert offsets == list(range(len(offsets)))
    assert bodies(list(read_tape(tmp_path))) == [*first, *again]


def test_a_restarted_process_asks_for_what_it_missed(sink: AdaraSink, tmp_path: Path) -> None:
    first, rest = [*OPENING, *map(pulse, range(100))], list(map(pulse, range(100, 120)))
    with closing(Taped(source_of(sink), tmp_path)) as source, playing(sink, first):
        take(source, len(first) + 1)
    with playing(sink, rest), closing(Taped(source_of(sink), tmp_path)) as source:
        take(source, 10**6, patience_s=2.0)
    found = bodies(list(read_tape(tmp_path)))
    assert [p for n, p in enumerate(found) if p not in found[:n]] == [*first, *rest]
    assert pulse(38) not in found[len(first) :]  # a minute is asked for again, not all
    assert pulse(39) in found[len(first) :]


def test_what_no_history_fills_is_told(tmp_path: Path) -> None:
    with closing(AdaraSink("127.0.0.1:0", kept_bytes=0)) as sink:
        with closing(source_of(sink)) as source, structlog.testing.capture_logs() as logs:
            with playing(sink, [*OPENING, pulse(0), pulse(1)]):
                take(source, 7)
            for client in tuple(sink._clients):
                client.socket.shutdown(socket.SHUT_RDWR)
            with told_in_time(), playing(sink, [pulse(31), pulse(32)]):
                take(source, 5)
    (lost,) = [entry for entry in logs if entry["event"] == "adara_lost"]
    assert lost["seconds"] == source.lost_s == 30.0
    assert source.disconnections == 1


def test_a_run_in_progress_is_had_from_its_start(sink: AdaraSink) -> None:
    first = [*OPENING, double(19.0), *map(pulse, range(30))]
    with closing(source_of(sink)) as watcher, playing(sink, first):
        take(watcher, len(first) + 1)  # somebody else listened from the beginning
        with closing(source_of(sink)) as source:
            taken: list[RawMessage] = []
            until = time.monotonic() + 20.0
            while not any(m.value == pulse(29) for m in taken):
                assert time.monotonic() < until
                taken += source.poll(0.05)
                sink.send("adara", pulse(30))
    found = bodies(taken)
    assert [p for p in found if read_packet(p).kind == 0x4000][:30] == list(map(pulse, range(30)))
    (begin,) = [decode(m) for m in taken if "begins" in dict(m.headers)]
    begun = decode(raw(run_status(1), (*ADARA, ("begins", b"adara-run-1"))))
    assert isinstance(begin, RunBegins)
    assert isinstance(begun, RunBegins)
    assert begin.start_time_ns == begun.start_time_ns


SERVER = """
import time
from consumers.transport import AdaraSink
from tests.consumers.adara_traffic import OPENING, pulse

sink = AdaraSink("127.0.0.1:0")
print(sink.address, flush=True)
for packet in OPENING:
    sink.send("adara", packet)
for n in range(1000):
    sink.send("adara", pulse(n))
    time.sleep(0.1)
"""


@contextmanager
def rude_server(*speeches: bytes) -> Iterator[str]:
    """Says something to one client after the other, and hangs up or keeps silent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10.0)
        held = []

        def serve() -> None:
            for speech in speeches:
                client, _ = listener.accept()
                client.recv(1024)
                client.sendall(speech)
                if speech:
                    client.close()
                held.append(client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10.0)
        for client in held:
            client.close()


def test_a_lost_frame_is_set_aside_and_the_connection_made_anew() -> None:
    garbage = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n and so on"
    good = [*OPENING, pulse(1)]
    with rude_server(b"".join(good) + garbage, b"".join([pulse(1), pulse(2)])) as address:
        with closing(source_of(address)) as source, told_in_time():
            found = take(source, 9)
    assert source.disconnections >= 1
    refused = [m for m in found if m.value == garbage[:64]]
    assert len(refused) == 1
    with pytest.raises(WireError, match="lost its frame, or is no ADARA"):
        decode(refused[0])
    assert [p for p in bodies(found) if p != garbage[:64]] == [*good, pulse(1), pulse(2)]


def test_a_packet_in_pieces_is_put_together_and_a_half_one_is_forgotten() -> None:
    content = b"".join([*OPENING, pulse(1), pulse(2)])
    with rude_server(content[:-5], content[-5:] and pulse(2)) as address:
        with closing(source_of(address)) as source:
            found = take(source, 7)
    assert bodies(found) == [*OPENING, pulse(1), pulse(2)]


def test_a_silent_server_is_not_connected_and_then_called_again() -> None:
    now = [0.0]
    with rude_server(b"", packet(0x4009)) as address:
        section = AdaraSection(address=address)
        with closing(
            AdaraSource(section, monotonic=lambda: now[0], sleep=lambda s: None)
        ) as source:
            assert list(source.poll(0.01)) == []
            assert source.connected
            now[0] += 11.0
            assert not source.connected
            now[0] += 20.0
            assert list(source.poll(0.01)) == []
            assert source.disconnections == 1
            now[0] += 60.0
            assert [m.value for m in take(source, 1)] == [packet(0x4009)]


@pytest.mark.parametrize("fate", ["frozen", "dead"])
def test_a_server_that_freezes_or_dies_is_missed_within_ten_seconds(fate: str) -> None:
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        with closing(source_of(server.stdout.readline().strip())) as source:
            assert take(source, 1)
            assert source.connected
            server.send_signal(signal.SIGSTOP if fate == "frozen" else signal.SIGKILL)
            began = time.monotonic()
            while source.connected:
                assert time.monotonic() - began < 10
                source.poll(0.05)
            if fate == "frozen":
                server.send_signal(signal.SIGCONT)
                assert take(source, 1)
                assert source.connected
        server.kill()


def test_nobody_there_is_tried_again_with_growing_pauses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    slept: list[float] = []
    section = AdaraSection(address=f"127.0.0.1:{port}")
    now = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    with closing(AdaraSource(section, monotonic=lambda: now[0], sleep=sleep)) as source:
        with structlog.testing.capture_logs() as logs:
            while now[0] < 200.0:
                assert list(source.poll(100.0)) == []
                assert not source.connected
    pauses = [entry["pause_s"] for entry in logs]
    assert pauses[0] < 1.0
    assert pauses == sorted(pauses)
    assert pauses[-1] == 30.0


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("10.1.2.3:31415", "leaves this machine"),
        ("bl17-dassrv1", "allow_unencrypted: true"),
        ("tcp://127.0.0.1:5", "expected HOST:PORT"),
        ("127.0.0.1:99999", "expected HOST:PORT"),
    ],
)
def test_an_address_is_one_and_stays_here_unless_allowed(address: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        source_of(address)
    if "leaves" in words:
        source_of(address, allow_unencrypted=True).close()


def test_a_tape_knows_its_last_message_also_behind_a_segment_just_begun(tmp_path: Path) -> None:
    messages = [raw(pulse(n), offset=n) for n in range(3)]
    with TapeWriter(tmp_path, segment_bytes=1) as tape:
        assert tape.newest is None
        tape.append(messages)
        assert tape.newest is messages[-1]
    path = sorted(tmp_path.glob("*.tape"))[-1]
    with TapeWriter(tmp_path) as tape:
        assert tape.newest is not None
        assert tape.newest.value == pulse(2)
    opening = (tmp_path / "00000000.tape").read_bytes()
    assert len(opening) > 0
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 16 - len(_record(messages[-1]))])
    with TapeWriter(tmp_path) as tape:
        assert tape.newest is not None
        assert tape.newest.value == pulse(1)


def _record(message: RawMessage) -> bytes:
    from consumers.transport.tape_record import encoded

    return b"".join(encoded(message))[16:]
