from __future__ import annotations

import gzip

import pytest
from fastapi.testclient import TestClient

from steering.run import RunStore
from steering.web import create_app, serving
from steering.web.conditional import is_known
from tests.steering.fabricated import snapshot, store
from tests.steering.web.test_api import local

RUNS = store()
CLIENT: TestClient = local(create_app(RUNS))
READS = ["/v1/runs", "/v1/runs/ge-demo", "/v1/runs/ge-demo/estimate", "/v1/runs/ge-demo/spectrum"]


@pytest.mark.parametrize("path", [*READS, "/runs", "/", "/assets/main.js", "/openapi.json"])
def test_what_did_not_change_is_304_without_a_body(path):
    first = CLIENT.get(path)
    tag = first.headers["etag"]
    again = CLIENT.get(path, headers={"If-None-Match": f'"other", {tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == tag
    assert again.headers["x-content-type-options"] == "nosniff"
    assert CLIENT.get(path, headers={"If-None-Match": '"other"'}).content == first.content


def test_a_new_snapshot_has_another_tag():
    runs = store()
    client = local(create_app(runs))
    for path in READS:
        before = client.get(path).headers["etag"]
        runs.publish(snapshot(title=f"after {path}"))
        after = client.get(path, headers={"If-None-Match": before})
        assert after.status_code == (304 if path.endswith("estimate") else 200), path


def test_a_picture_is_not_drawn_for_who_has_it(monkeypatch):
    tag = CLIENT.get("/v1/runs/ge-demo/spectrum?format=png").headers["etag"]
    monkeypatch.setattr("steering.web.api.folded_map_png", None)
    again = CLIENT.get("/v1/runs/ge-demo/spectrum?format=png", headers={"If-None-Match": tag})
    assert again.status_code == 304
    as_json = CLIENT.get("/v1/runs/ge-demo/spectrum", headers={"If-None-Match": tag})
    assert as_json.status_code == 200


def test_a_server_that_begins_anew_has_other_tags_for_other_spectra():
    other = local(create_app(store(snapshot(title="another"))))
    path = "/v1/runs/ge-demo/spectrum"
    assert CLIENT.get(path).headers["etag"] != other.get(path).headers["etag"]


def test_refusals_and_actions_have_no_tag():
    assert "etag" not in CLIENT.get("/v1/runs/none").headers
    assert "etag" not in CLIENT.post("/v1/predict", json={}).headers


@pytest.mark.parametrize(
    ("asked", "known"),
    [(None, False), ("*", True), ('W/"a"', True), ('"b", "a"', True), ('"b"', False), ("", False)],
)
def test_tags_are_compared_weakly(asked, known):
    assert is_known(asked, 'W/"a"') is known


def test_long_answers_are_compressed_and_streams_and_pictures_are_not():
    with serving(create_app(RUNS)) as url:
        import httpx

        with httpx.Client(base_url=url, headers={"Accept-Encoding": "gzip"}, timeout=60) as client:
            long = client.get("/v1/runs/ge-demo/spectrum")
            assert long.headers["content-encoding"] == "gzip"
            assert "Accept-Encoding" in long.headers["vary"]
            sent = int(long.headers["content-length"])
            assert sent < 150_000 < len(long.content)
            assert len(gzip.compress(long.content)) == pytest.approx(sent, rel=0.2)
            assert "content-encoding" not in client.get("/health").headers
            picture = client.get("/v1/runs/ge-demo/spectrum?format=png")
            assert "content-encoding" not in picture.headers
            with client.stream("GET", "/v1/events") as news:
                assert "content-encoding" not in news.headers
                assert next(news.iter_lines()).startswith(("id: ", "event: "))


def test_lists_come_in_pages():
    runs = RunStore()
    for number in range(5):
        runs.publish(snapshot(run_id=f"ge-{number}"))
    client = local(create_app(runs))
    whole = client.get("/v1/runs").json()
    assert (whole["total"], whole["next"], len(whole["runs"])) == (5, None, 5)
    seen, following = [], "/v1/runs?limit=2"
    while following is not None:
        answer = client.get(following)
        seen += answer.json()["runs"]
        following = answer.json()["next"]
        assert ("link" in answer.headers) == (following is not None)
    assert seen == whole["runs"]
    assert client.get("/v1/runs?limit=2&offset=9").json()["runs"] == []
    part = client.get("/v1/runs/ge-0/history?limit=3&offset=6").json()
    assert (len(part["history"]), part["total"], part["next"]) == (2, 8, None)
