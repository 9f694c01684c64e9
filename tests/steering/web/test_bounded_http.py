"""Connections that say nothing, over real sockets and in a process with few descriptors."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

import httpx
import pytest

from steering.run import RunStore
from steering.web import bounded_http, create_app, serving
from steering.web.api import _page_files

PROGRAM = """
import resource, sys, threading, time, json
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
from prometheus_client import CollectorRegistry
from steering.service import operations_app
from steering.service.health import WorkerStatus
from steering.web import serving

app = operations_app(
    lambda: WorkerStatus(service="consume", last_loop_ns=time.time_ns()), CollectorRegistry()
)
with serving(app) as url:
    print(json.dumps(url), flush=True)
    refused = 0
    for line in sys.stdin:  # the worker's own files, all the while
        try:
            for _ in range(20):
                open(__import__("os").devnull).close()
        except OSError:
            refused += 1
        print(json.dumps(refused), flush=True)
"""


@pytest.fixture
def room():
    """As many descriptors as this test needs itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip(f"this process may open {hard} files; the test needs 2000")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), 60)


def ended_within(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


def test_eleven_hundred_idle_connections_leave_the_worker_its_files(room):
    with (
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as worker,
        contextlib.ExitStack() as held,
    ):
        held.callback(worker.kill)
        assert worker.stdin is not None
        assert worker.stdout is not None
        url = json.loads(worker.stdout.readline())
        for i in range(1100):
            if i % 100 == 0:  # as many as wait are then there to be taken in one go
                worker.send_signal(signal.SIGSTOP)
            held.enter_context(connect(url))
            if i % 100 == 99:
                worker.send_signal(signal.SIGCONT)
                # answered in order: all before it were taken, so the next hundred find room
                assert httpx.get(url + "health", timeout=60).status_code == 200
                print(file=worker.stdin, flush=True)
                assert json.loads(worker.stdout.readline()) == 0
        assert httpx.get(url + "health", timeout=20).json()["status"] == "ok"
        print(file=worker.stdin, flush=True)
        assert json.loads(worker.stdout.readline()) == 0
        worker.stdin.close()
        assert worker.wait(20) == 0


def test_a_connection_that_says_nothing_or_trickles_is_closed(monkeypatch):
    monkeypatch.setattr(bounded_http, "HEADER_SECONDS", 0.4)
    with serving(create_app(RunStore())) as url:
        silent, trickling, after = connect(url), connect(url), connect(url)
        with silent, trickling, after:
            host = urlsplit(url).netloc
            after.sendall(f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\nGET".encode())
            trickling.sendall(b"GET /health HTTP/1.1\r\n")
            for connection in (silent, trickling, after):
                assert ended_within(connection, 10)


def test_headers_without_end_are_refused():
    with serving(create_app(RunStore())) as url, connect(url) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\n" + b"X-Long: " + b"y" * 2**20)
        assert ended_within(connection, 10)
        assert httpx.get(url + "health").status_code == 200


def reader(url: str, path: str) -> socket.socket:
    """Somebody with room for little who has asked for a file."""
    parts = urlsplit(url)
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
    one.settimeout(20)
    one.connect((parts.hostname, parts.port))
    one.sendall(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
    return one


def test_a_long_answer_may_be_read_slowly_but_not_left(monkeypatch):
    monkeypatch.setattr(bounded_http, "HEADER_SECONDS", 1.5)
    monkeypatch.setattr(bounded_http, "STALLED_SECONDS", 1.5)
    length = _page_files()["plotly.min.js"].stat().st_size
    with serving(create_app(RunStore())) as url:
        gone = reader(url, "/assets/plotly.min.js")
        slow = reader(url, "/assets/plotly.min.js")
        with slow, gone:
            began, taken = time.monotonic(), 0
            while taken < length and (piece := slow.recv(2**16)):
                taken += len(piece)
                time.sleep(0.05)
            assert taken >= length
            assert time.monotonic() - began > 2.0
            time.sleep(max(0.0, 5.0 - (time.monotonic() - began)))
            total = 0
            with contextlib.suppress(ConnectionError):
                while piece := gone.recv(2**18):
                    total += len(piece)
            assert total < length
