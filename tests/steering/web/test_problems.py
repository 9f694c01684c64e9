from __future__ import annotations

import http.client
import socket
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from steering.run import RunStore
from steering.web import create_app, serving
from steering.web.answers import Problem
from steering.web.guards import BodyLimit
from tests.steering.fabricated import store

TOKEN = "a-token-of-good-length"  # noqa: S105
APP = create_app(store())


class BrokenStore(RunStore):
    """Fails as no store should."""

    def list(self):  # noqa: D102
        raise RuntimeError("the secret of the machine")


def problem_of(answer) -> Problem:
    assert answer.headers["content-type"] == "application/problem+json"
    found = Problem.model_validate(answer.json())
    assert found.status == answer.status_code
    assert found.detail
    assert found.title
    return found


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "says"),
    [
        ("GET", "/v1/runs/none", {}, 404, "expected one of: ge-demo"),
        ("GET", "/v1/nothing", {}, 404, "openapi.json"),
        ("GET", "/nothing/at/all", {}, 404, "openapi.json"),
        ("GET", "/v2/runs", {}, 404, "openapi.json"),
        ("GET", "/v1/runs/" + "%2e%2e%2f" * 3 + "etc/passwd", {}, 404, "expected one of"),
        ("DELETE", "/v1/runs", {}, 405, "header Allow"),
        ("POST", "/v1/me", {}, 405, "header Allow"),
        ("GET", "/v1/runs?limit=0", {}, 422, "query.limit is '0'"),
        ("GET", "/v1/runs?limit=1e3", {}, 422, "query.limit"),
        ("GET", "/v1/runs?offset=-1", {}, 422, "query.offset"),
        ("GET", "/v1/runs/ge-demo/history?limit=1001", {}, 422, "query.limit"),
        ("GET", "/v1/runs/ge-demo/spectrum?format=exe", {}, 422, "query.format"),
        ("GET", "/v1/runs/ge-demo/actions?before=x", {}, 422, "query.before"),
        ("POST", "/v1/runs/ge-demo/actions", {"content": b"{"}, 422, "body"),
        ("POST", "/v1/runs/ge-demo/actions", {"json": []}, 422, "body"),
        ("POST", "/predict", {"content": b"x" * 2_000_001}, 413, "2000000 bytes"),
        ("GET", "/v1/runs", {"headers": {"Host": "evil.example"}}, 421, "this machine"),
        ("POST", "/v1/predict", {"headers": {"Origin": "https://evil.example"}}, 403, "sites"),
        ("POST", "/v1/predict", {"json": {}}, 503, "beamsteer predict"),
    ],
)
def test_every_refusal_is_a_problem(method, path, options, status, says):
    client = TestClient(APP, base_url="http://127.0.0.1")
    answer = client.request(method, path, **options)
    assert answer.status_code == status
    assert says in problem_of(answer).detail


def test_bad_fields_are_told_one_by_one():
    client = TestClient(APP, base_url="http://127.0.0.1")
    found = problem_of(client.get("/v1/runs?limit=0&offset=x"))
    assert found.type == "tag:beamsteer,2026:bad-fields"
    assert {one.field: one.value for one in found.errors} == {
        "query.limit": "'0'",
        "query.offset": "'x'",
    }


def test_wrong_tokens_and_too_many_of_them_are_problems():
    client = TestClient(create_app(store(), token=TOKEN), base_url="http://127.0.0.1")
    assert problem_of(client.get("/v1/runs")).status == 401
    wrong = {"Authorization": "Bearer wrong-but-of-some-length"}
    seen = {problem_of(client.get("/v1/runs", headers=wrong)).status for _ in range(6)}
    assert 429 in seen


def test_a_fault_of_ours_is_500_tells_nothing_of_itself_and_is_in_the_log(capsys):
    client = TestClient(create_app(BrokenStore()), base_url="http://127.0.0.1")
    answer = client.get("/v1/runs")
    assert problem_of(answer).status == 500
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    logged = "".join(capsys.readouterr())
    assert "request_failed" in logged
    assert "the secret of the machine" in logged


def test_a_slow_body_is_408(monkeypatch):
    monkeypatch.setattr(BodyLimit.__init__, "__kwdefaults__", {"piece_s": 0.2, "whole_s": 0.5})
    with serving(create_app(store())) as url:
        place = urlsplit(url)
        with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
            connection.sendall(
                b"POST /v1/runs/ge-demo/actions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                b"Content-Type: application/json\r\nContent-Length: 20\r\n\r\n{"
            )
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.status == 408
            assert answer.headers["content-type"] == "application/problem+json"
            assert b"too slowly" in answer.read()
