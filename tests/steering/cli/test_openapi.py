from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fastapi.testclient import TestClient

from steering.cli._openapi import openapi_text
from steering.cli._served_app import served_app
from steering.run import RunSnapshot, result_document
from tests.steering.fabricated import snapshot, store

COMMITTED = Path(__file__).resolve().parents[3] / "docs" / "openapi.json"


def schema() -> dict[str, Any]:
    return json.loads(openapi_text())


def test_the_committed_schema_is_that_of_the_app():
    assert COMMITTED.read_text(encoding="utf-8") == openapi_text(), "run: make contracts"


def test_every_get_says_what_it_answers():
    for path, methods in schema()["paths"].items():
        if "get" not in methods:
            continue
        content = methods["get"]["responses"]["200"]["content"]
        for kind, answer in content.items():
            told = answer.get("schema")
            assert told, f"{path}: {kind}"
            assert kind != "application/json" or "$ref" in told, path
        assert methods["get"]["tags"], path
        assert methods["get"]["summary"], path


def unknown_figures() -> RunSnapshot:
    """A run whose estimate went wrong: figures that are not finite."""
    before = snapshot()
    assert before.result is not None
    document = before.result.document()
    document["parameters"][0]["sigma"] = float("nan")
    document["covariance"][0][0] = float("inf")
    document["goodness_of_fit"]["p_value"] = float("nan")
    return snapshot(result=result_document(document))


@pytest.mark.parametrize(
    "shown",
    [snapshot(), snapshot(result=None, spectrum=None, history=(), chunks=()), unknown_figures()],
    ids=["whole", "begun", "not finite"],
)
def test_answers_are_as_the_schema_says(shown):
    told = schema()
    client = TestClient(served_app(store(shown), folders=()), base_url="http://127.0.0.1")
    for path, methods in told["paths"].items():
        if "get" not in methods or path.endswith("/events"):
            continue
        answer = client.get(path.replace("{run_id}", shown.run_id))
        content = methods["get"]["responses"][str(answer.status_code)]["content"]
        assert answer.headers["content-type"].partition(";")[0] in content, path
        if answer.headers["content-type"] == "application/json":
            expected = content["application/json"]["schema"] | {"components": told["components"]}
            jsonschema.validate(answer.json(), expected)


def test_the_schema_has_all_that_is_served():
    assert {
        "/v1/runs",
        "/v1/runs/{run_id}/actions",
        "/v1/predict",
        "/v1/me",
        "/v1/alarms",
        "/ready",
    } <= set(schema()["paths"])


def test_streams_pictures_and_arrays_declare_what_they_are():
    paths = schema()["paths"]
    for path in ("/v1/events", "/v1/runs/{run_id}/events"):
        assert set(paths[path]["get"]["responses"]["200"]["content"]) == {"text/event-stream"}
    content = paths["/v1/runs/{run_id}/spectrum"]["get"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", "image/png", "application/octet-stream"}


def test_examples_are_as_the_schema_says_and_every_read_has_one():
    told = schema()
    parts = {"components": told["components"]}
    shown = 0
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            asked = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if asked is not None and "example" in asked:
                jsonschema.validate(asked["example"], asked["schema"] | parts)
            for status, answer in operation["responses"].items():
                for kind, content in answer.get("content", {}).items():
                    if "example" in content:
                        shown += 1
                        about = content.get("schema", {}) | parts
                        jsonschema.validate(content["example"], about)
                    elif kind == "application/json" and method == "get" and status == "200":
                        assert path in WITHOUT_EXAMPLE, path
    assert shown > 40


WITHOUT_EXAMPLE = {"/v1/alarms/log"}


def test_every_refusal_is_a_problem_in_the_schema_too():
    told = schema()
    assert "HTTPValidationError" not in json.dumps(told)
    for path, methods in told["paths"].items():
        for operation in methods.values():
            assert "application/problem+json" in operation["responses"]["default"]["content"]
            for status, answer in operation["responses"].items():
                if status.startswith("4"):
                    assert set(answer["content"]) == {"application/problem+json"}, (path, status)
            assert set(operation["tags"]) <= {one["name"] for one in told["tags"]}, path
