"""Where the API is served: under ``/v1``, and for now at the paths that had no version.

The old paths say in every answer that they are old and what came in their place (RFC 9745); the
schema has the new ones alone. ``/health``, ``/ready``, ``/metrics`` and ``/openapi.json`` are for
supervisors and tools, which expect them where they are, and have no version.
"""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter, FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

VERSION = "/v1"
OLD = ("/alarms", "/events", "/me", "/predict", "/runs", "/workers")
OLD_SINCE = 1795478400  # 2026-11-24, seconds since the Unix epoch


def mount(app: FastAPI, *routers: APIRouter) -> None:
    """Serve routers whose paths name no version.

    Parameters
    ----------
    app : FastAPI
    *routers : APIRouter
        Those that were served before there was a version stay at their old paths as well.
    """
    for router in routers:
        app.include_router(router, prefix=VERSION)
        app.include_router(router, include_in_schema=False)


def is_old(path: str) -> bool:
    """Whether a path is one of the API without its version."""
    return any(path == one or path.startswith(one + "/") for one in OLD)


class OldPaths:
    """Say of old paths that they are, and which is the new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on."""
        if scope["type"] != "http" or not is_old(scope["path"]) or _is_page(scope):
            await self._app(scope, receive, send)
            return
        place = quote(scope["path"])

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message["headers"]))
                headers.append("deprecation", f"@{OLD_SINCE}")
                headers.append("link", f'<{VERSION}{place}>; rel="successor-version"')
                message = {**message, "headers": headers.raw}
            await send(message)

        await self._app(scope, receive, marked)


def _is_page(scope: Scope) -> bool:
    """Whether the planner's page is asked for, which has the path of an old endpoint."""
    return scope["path"] == "/predict" and scope["method"] in ("GET", "HEAD")
