from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from consumers.transport import AdaraSink
from consumers.wire import encode_hello
from simulations.errors import InputError
from tests.consumers.hostile_packets import (
    BEGINS,
    NOW_NSEC,
    NOW_S,
    banked,
    beamline,
    descriptor,
    double,
    geometry,
    packet,
    run_status,
)

NOW_NS = (NOW_S + 631_152_000) * 10**9 + NOW_NSEC
DESCRIPTION = [geometry(), beamline(), descriptor()]


@pytest.fixture
def sink() -> Iterator[AdaraSink]:
    with closing(AdaraSink("127.0.0.1:0", patience_s=0.3)) as found:
        yield found


@contextmanager
def client(sink: AdaraSink, hello: bytes) -> Iterator[socket.socket]:
    host, _, port = sink.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10.0) as connection:
        connection.sendall(hello)
        yield connection


def hello(since_ns: int = 0) -> bytes:
    return encode_hello(NOW_NS, since_ns=since_ns, send_paused=True)


def heard(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        chunk = connection.recv(size - len(found))
        assert chunk
        found += chunk
    return found


def pulse(n: int) -> bytes:
    content = bytearray(banked((3, [(n, n)])))
    content[8:12] = (NOW_S + n).to_bytes(4, "little")
    return bytes(content)


def test_a_client_gets_the_state_then_the_past_that_it_asks_for_then_what_comes(
    sink: AdaraSink,
) -> None:
    past = [run_status(1), *DESCRIPTION, double(19.0), *map(pulse, range(5))]
    with client(sink, hello()) as first:
        for content in past:
            sink.send("adara", content)
        assert heard(first, sum(map(len, past))) == b"".join(past)
        state = b"".join([*DESCRIPTION, double(19.0), run_status(5)])
        for since_s, expected in (
            (0, [state]),
            (3, [state, pulse(3), pulse(4)]),
            (-1, [b"".join([*DESCRIPTION, double(19.0)]), *past]),
        ):
            since_ns = NOW_NS + since_s * 10**9 if since_s else 0
            with client(sink, hello(since_ns)) as late:
                until = time.monotonic() + 10.0
                while not any(c.listens and c.heard == hello(since_ns) for c in sink._clients[1:]):
                    assert time.monotonic() < until
                    sink._greet(0.05)
                sink.send("adara", packet(0x4009))
                whole = b"".join([*expected, packet(0x4009)])
                assert heard(late, len(whole)) == whole
                heard(first, 16)
            sink._past.pop()  # the heartbeat is not asked for below
            while len(sink._clients) > 1:
                sink._greet(0.05)


@pytest.mark.parametrize(
    "speech", [packet(0x4009), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", packet(0x4006, bytes(2000))]
)
def test_who_says_no_hello_gets_nothing(sink: AdaraSink, speech: bytes) -> None:
    with client(sink, speech) as rude:
        with pytest.raises(ConnectionError, match="no client came within 0.3 s"):
            sink.send("adara", pulse(1))
        try:
            assert rude.recv(16) == b""
        except ConnectionResetError:
            pass


def test_who_keeps_silent_is_left_after_a_while() -> None:
    now = [0.0]
    with closing(AdaraSink("127.0.0.1:0", monotonic=lambda: now[0])) as sink:
        with client(sink, b""):
            while not sink._clients:
                sink._greet(0.05)
            now[0] = 31.0
            sink._greet(0.0)
            assert not sink._clients


def test_sending_waits_for_a_client_that_went(sink: AdaraSink) -> None:
    with client(sink, hello()) as first:
        sink.send("adara", pulse(1))
        assert heard(first, len(pulse(1))) == pulse(1)
    with closing(AdaraSink("127.0.0.1:0", patience_s=10.0)) as patient:
        done: list[bytes] = []

        def listen() -> None:
            with client(patient, hello()) as later:
                done.append(heard(later, len(pulse(2))))

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        patient.send("adara", pulse(2))
        thread.join(10.0)
    assert done == [pulse(2)]


def test_only_packets_of_adara_are_sent_and_a_begin_not_twice(sink: AdaraSink) -> None:
    with pytest.raises(InputError, match="Only ADARA packets, or recorded event files"):
        sink.send("hyspec_detector", b"\x18\x00\x00\x00ev44 and so on")
    sink.send("adara", run_status(1) + geometry(), headers=BEGINS)  # nobody has to listen


def test_an_address_that_is_taken_or_foreign_is_told(sink: AdaraSink) -> None:
    with pytest.raises(ConnectionError, match="cannot be listened at"):
        AdaraSink(sink.address)
    with pytest.raises(InputError, match="leaves this machine"):
        AdaraSink("0.0.0.0:31415")  # noqa: S104
