"""Who is let in, over real sockets."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from steering.run import RunStore
from steering.service import operations_app
from steering.service.health import WorkerStatus
from steering.web import create_app, serving
from steering.web.guards import BodyLimit
from tests.steering.fabricated import store
from tests.told import TOLD_S

TOKEN = "a-token-of-good-length"  # noqa: S105
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def operations(token=None):
    return operations_app(
        lambda: WorkerStatus(service="consume", last_loop_ns=time.time_ns()),
        CollectorRegistry(),
        token=token,
    )


def exchange(url: str, request: bytes) -> bytes:
    """What a server answers to these bytes, whatever a client library thinks of them."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), 20) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


@pytest.mark.parametrize("app", [create_app(store()), operations()], ids=["page", "health"])
def test_every_answer_of_every_app_carries_the_headers(app):
    with serving(app) as url:
        for path in ("health", "metrics", "nowhere"):
            answer = httpx.get(url + path)
            assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        refused = httpx.get(url + "health", headers={"Host": "elsewhere.example"})
        assert {name: refused.headers.get(name) for name in HEADERS} == HEADERS


@pytest.mark.parametrize("app", [create_app(store()), operations()], ids=["page", "health"])
def test_only_names_of_this_machine_reach_it_without_a_token(app):
    with serving(app) as url:
        port = urlsplit(url).port
        for host in (f"127.0.0.1:{port}", "localhost", f"LOCALHOST:{port}", "[::1]:9000"):
            assert httpx.get(url + "health", headers={"Host": host}).status_code == 200, host
        for host in (
            f"rebound.example:{port}",
            "127.0.0.1.nip.io",
            "localhost.evil.example",
            "localhost@evil.example",
            "127.0.0.1:x",
            "10.0.0.1",
            "",
        ):
            answer = httpx.get(url + "health", headers={"Host": host})
            assert answer.elapsed.total_seconds() < TOLD_S
            assert answer.status_code == 421, host
            assert "expected this machine" in answer.json()["detail"]
        both = f"GET /health HTTP/1.1\r\nHost: localhost:{port}\r\nHost: evil.example\r\n\r\n"
        assert b" 200 " not in exchange(url, both.encode())[:20]


def test_under_a_token_any_name_will_do():
    with serving(create_app(store(), token=TOKEN)) as url:
        headers = {"Host": "beamline.example", "Authorization": f"Bearer {TOKEN}"}
        assert httpx.get(url + "runs", headers=headers).status_code == 200


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_foreign_page_may_ask_nothing(token):
    with serving(create_app(RunStore(), token=token)) as url:
        own = url.rstrip("/")
        port = urlsplit(url).port
        allowed = {} if token is None else {"Authorization": f"Bearer {token}"}
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": f"http://127.0.0.1:{port + 1}"},
            {"Origin": f"http://localhost:{port}"},
            {"Origin": f"file://127.0.0.1:{port}"},
            {"Origin": own, "Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            answer = httpx.post(url + "predict", json={}, headers=headers | allowed)
            assert answer.elapsed.total_seconds() < TOLD_S
            assert answer.status_code == 403, headers
            assert "other sites may not ask" in answer.json()["detail"]
        form = {"content-type": "text/plain", "Origin": "https://evil.example"}
        assert httpx.post(url + "predict", content="x", headers=form).status_code == 403
        for headers in ({}, {"Origin": own}, {"Origin": own, "Sec-Fetch-Site": "same-origin"}):
            answer = httpx.post(url + "predict", json={}, headers=headers | allowed)
            assert answer.status_code == 503  # passed: this server makes none
        stranger = {"Origin": "https://evil.example"} | allowed
        assert httpx.get(url + "runs", headers=stranger).status_code == 403


def test_wrong_tokens_are_logged_and_slowed_and_the_right_one_is_not():
    right = {"Authorization": f"Bearer {TOKEN}"}
    app = create_app(store(), token=TOKEN)
    with capture_logs() as logs, serving(app) as url, httpx.Client(base_url=url) as client:
        took = []
        for i in range(4):
            began = time.monotonic()
            wrong = {"Authorization": f"Bearer wrong-{i}"}
            assert client.get("/runs", headers=wrong).status_code == 401
            took.append(time.monotonic() - began)
        assert 10 > took[3] >= 0.8 > 0.1 <= took[0]
        quickest = []  # a busy machine may delay one, but what is held is held always
        for headers, expected in (({}, 401), (right, 200)):  # no token is not a wrong one
            took = []
            for _ in range(4):
                began = time.monotonic()
                assert client.get("/runs", headers=headers).status_code == expected
                took.append(time.monotonic() - began)
            quickest.append(min(took))
        assert max(quickest) < 0.8
    refused = [log for log in logs if log["event"] == "token_refused"]
    assert [log["times"] for log in refused] == [1, 2, 3, 4]
    assert {log["address"] for log in refused} == {"127.0.0.1"}
    assert "wrong-0" not in str(logs)


def test_many_wrong_tokens_at_once_are_turned_away():
    with (
        serving(create_app(store(), token=TOKEN)) as url,
        httpx.Client(base_url=url, timeout=30) as client,
        ThreadPoolExecutor(14) as beside,
    ):

        def guess(_: int) -> httpx.Response:
            return client.get("/", params={"token": "guess"})

        answers = list(beside.map(guess, range(14)))
        assert {answer.status_code for answer in answers} == {401, 429}
        late = next(answer for answer in answers if answer.status_code == 429)
        assert late.elapsed.total_seconds() < TOLD_S
        assert int(late.headers["retry-after"]) >= 1


class Unasked:
    def predict(self, asked):
        raise AssertionError(asked)

    def close(self):
        """Nothing to end."""


def test_a_body_that_trickles_is_answered_and_ends():
    app = create_app(RunStore(), Unasked())
    app.add_middleware(BodyLimit, limit=1000, piece_s=0.2, whole_s=1.0)
    with serving(app) as url:
        host = urlsplit(url).netloc
        began = time.monotonic()
        answer = exchange(
            url,
            f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            "Content-Length: 100\r\n\r\n{".encode(),
        )
    assert b" 408 " in answer[:20]
    assert b"too slowly" in answer
    assert time.monotonic() - began < 10
