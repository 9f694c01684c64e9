from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from steering.cli._served_app import served_app
from steering.web.versions import OLD, is_old
from tests.steering.fabricated import store

CLIENT = TestClient(served_app(store(), folders=()), base_url="http://127.0.0.1")
READS = ["/runs", "/runs/ge-demo", "/runs/ge-demo/estimate", "/workers", "/me", "/alarms"]


@pytest.mark.parametrize("path", READS)
def test_what_is_under_v1_is_at_its_old_path_too_and_says_that_it_is_old(path):
    new, old = CLIENT.get(f"/v1{path}"), CLIENT.get(path)
    assert (old.status_code, old.json()) == (new.status_code, new.json())
    assert old.headers["deprecation"] == "@1795478400"
    assert f'</v1{path}>; rel="successor-version"' in old.headers["link"]
    assert "deprecation" not in new.headers


def test_every_old_path_and_no_other_is_told_to_be_old():
    described = CLIENT.get("/openapi.json").json()["paths"]
    versioned = {"/" + path.split("/")[2] for path in described if path.startswith("/v1/")}
    assert set(OLD) <= versioned
    for path in described:
        assert not is_old(path), "the schema has the new paths alone"


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/openapi.json"])
def test_what_supervisors_ask_has_no_version(path):
    answer = CLIENT.get(path)
    assert answer.status_code == 200
    assert "deprecation" not in answer.headers
    assert CLIENT.get(f"/v1{path}").status_code == 404
