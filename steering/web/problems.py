"""Refusals as problem details (RFC 9457): what is wrong, by field where there is one, what to do.

``type`` is ``about:blank``, so that ``title`` is the phrase of the status, but where a problem has
members of its own.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PROBLEM_JSON = "application/problem+json"
BAD_FIELDS = "tag:beamsteer,2026:bad-fields"
CONFLICT = "tag:beamsteer,2026:conflict"
MOST_FIELDS = 5  # that are told of one request

log = structlog.get_logger()


def title_of(status: int) -> str:
    """Phrase of a status, for people."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Refused"


def problem(
    status: int,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    kind: str = "about:blank",
    **members: Any,
) -> Response:
    """An answer that refuses.

    Parameters
    ----------
    status : int
        Of HTTP, 400 or more.
    detail : str
        What is wrong, what was expected, and what to do.
    headers : mapping, optional
    kind : str
        The ``type`` of a problem that has members of its own.
    **members
        Those.
    """
    told = {"type": kind, "title": title_of(status), "status": status, "detail": detail}
    return JSONResponse(told | members, status, headers=headers, media_type=PROBLEM_JSON)


def add_problems(app: FastAPI) -> None:
    """Let every refusal of an app be a problem: its own, unknown paths, bad fields and faults."""
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _unfit)
    app.add_middleware(Faults)


def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  the handler is asked for no other
    detail = str(error.detail)
    if detail == title_of(error.status_code):  # starlette's own word says no more than the status
        detail = _USUAL.get(error.status_code, detail)
    return problem(error.status_code, detail, headers=error.headers)


_USUAL = {
    404: "nothing is at this path; expected one of /openapi.json, which lists what there is.",
    405: "the method is not that of this path; expected one of the header Allow.",
}


def _unfit(_: Request, error: Exception) -> Response:
    """Say in words what of a request makes no sense."""
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    fields = [
        {
            "field": ".".join(str(part) for part in fault["loc"])[:200],
            "value": repr(fault.get("input"))[:80],
            "expected": str(fault["msg"]),
        }
        for fault in faults[:MOST_FIELDS]
    ]
    told = [
        f"{one['field']} is {one['value']}; expected otherwise: {one['expected']}" for one in fields
    ]
    return problem(422, ". ".join(told) + ".", kind=BAD_FIELDS, errors=fields)


class Faults:
    """Answer 500 where the app fails, and write why into the log; nothing of it goes out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; a fault after an answer has begun ends the connection."""
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Refusal:
            raise
        except Exception as error:
            if begun or scope["type"] != "http":
                raise
            log.error(
                "request_failed",
                method=scope["method"],
                path=scope["path"][:200],
                traceback="".join(traceback.format_exception(error)),  # without local values
            )
            answer = problem(
                500,
                "the server met a fault of its own, which its log tells; expected an answer. Ask "
                "again, and report it if it stays.",
                headers={"Cache-Control": "no-store"},
            )
            await answer(scope, receive, send)


class Refusal(Exception):  # noqa: N818  no fault: a guard answers it
    """Raised by a guard while the app reads the request; the guard itself answers."""
