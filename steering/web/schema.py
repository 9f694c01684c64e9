"""The API's schema beyond what its routes say: problems, tags, tokens, 304, and examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from steering.web.api_examples import EXAMPLES
from steering.web.problems import PROBLEM_JSON, title_of

TAGS = [
    {"name": "runs", "description": "Runs, what is known of them, and who works on them."},
    {"name": "events", "description": "Server-sent events: one for every new snapshot."},
    {"name": "actions", "description": "What people ask of a run, and what became of it."},
    {"name": "people", "description": "Who asks, and what that may do."},
    {"name": "alarms", "description": "What is wrong or done, who was told, and who knows."},
    {"name": "downloads", "description": "Files of a run to take away."},
    {"name": "predictions", "description": "Expected spectra of a crystal."},
    {"name": "models", "description": "Frozen networks, and what they read off folded spectra."},
    {"name": "operations", "description": "For supervisors and Prometheus; without a version."},
]
PROBLEM = {"$ref": "#/components/schemas/Problem"}
UNTYPED = "HTTPValidationError"  # FastAPI's own, which nothing here answers with


def add_schema(app: FastAPI) -> None:
    """Let the app's schema say all that its answers do."""
    plain: Callable[[], dict[str, Any]] = app.openapi
    told: dict[int, dict[str, Any]] = {}

    def described() -> dict[str, Any]:
        schema = plain()
        if id(schema) not in told:  # made anew after a route was added
            told.clear()
            told[id(schema)] = schema
            _describe(schema)
        return schema

    app.openapi = described


def _describe(schema: dict[str, Any]) -> None:
    components = schema.setdefault("components", {})
    components["securitySchemes"] = {
        "token": {
            "type": "http",
            "scheme": "bearer",
            "description": "of a person, or the one for all; on loopback none is asked for",
        }
    }
    schema["security"] = [{}, {"token": []}]
    for name in (UNTYPED, "ValidationError"):
        components["schemas"].pop(name, None)
    problems = {
        f"#/components/schemas/{name}"
        for name, model in components["schemas"].items()
        if {"type", "title", "status", "detail"} <= set(model.get("properties", ()))
    }
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            _of_operation(path, method, operation, problems)


def _of_operation(path: str, method: str, operation: dict[str, Any], problems: set[str]) -> None:
    responses = operation["responses"]
    for status, response in responses.items():
        content = response.get("content", {})
        told = content.get("application/json", {}).get("schema", {}).get("$ref", "")
        if told.endswith(f"/{UNTYPED}"):
            response["description"] = "A field makes no sense"
            content.pop("application/json")
            content[PROBLEM_JSON] = {"schema": PROBLEM}
        elif told in problems:
            content[PROBLEM_JSON] = content.pop("application/json")
        if PROBLEM_JSON in content:
            content[PROBLEM_JSON]["example"] = _problem(path, int(status))
    responses["default"] = {
        "description": "Any other refusal: 401, 403, 405, 408, 413, 421, 429 or 500",
        "content": {PROBLEM_JSON: {"schema": PROBLEM, "example": _problem(path, 401)}},
    }
    found = next((responses[code] for code in ("200", "201") if code in responses), {})
    content = found.get("content", {})
    if method == "get" and "text/event-stream" not in content:
        found["headers"] = {
            "ETag": {"description": "of the answer", "schema": {"type": "string"}},
        }
        responses["304"] = {"description": "Nothing changed since the tag of `If-None-Match`"}
    example = EXAMPLES.get(f"{method.upper()} {path}")
    if example is not None and "application/json" in content:
        content["application/json"]["example"] = example.get("answer")
    if example is not None and "asked" in example:
        for asked in operation["requestBody"]["content"].values():
            asked["example"] = example["asked"]


_DETAILS = {
    401: "token is missing or wrong; send Authorization: Bearer, or log in at /login.",
    404: "run is 'none'; expected one of: ge-demo.",
    422: "query.limit is '0'; expected otherwise: Input should be greater than or equal to 1.",
}


def _problem(path: str, status: int) -> dict[str, Any]:
    """A refusal as it looks."""
    told: dict[str, Any] = {
        "type": "about:blank",
        "title": title_of(status),
        "status": status,
        "detail": _DETAILS.get(status, f"{path.rpartition('/')[2]}: what is wrong, in words."),
    }
    if status == 409 and path.endswith("/actions"):
        told |= {"type": "tag:beamsteer,2026:conflict", "version": 3, "actions": []}
    return told
