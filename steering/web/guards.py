"""What stands before every app: limits of a request, own host and origin, token, headers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steering.web.entrance import Entrance
from steering.web.people_file import People
from steering.web.problems import Refusal, problem
from steering.web.serving import is_loopback

BODY_SECONDS = 20.0  # between two pieces of a body
BODY_WHOLE_SECONDS = 120.0
LARGER_BODIES = {"/v1/predict": 16 * 2**20, "/v1/estimate": 128 * 2**20}
"""Bytes that a path takes where that is more than the others."""

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        b"object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
)


def add_guards(
    app: FastAPI, *, people: People, max_body_bytes: int, names: Sequence[str] = ()
) -> None:
    """Put every guard before an app.

    Parameters
    ----------
    app : FastAPI
    people : People
        Who is let in. Where they ask for no token, the app is one for this machine alone, and
        answers to the names of this machine alone.
    max_body_bytes : int
        Of a request.
    names : sequence of str
        Further names that the app answers to; where a token is asked for and none are given, any.
    """
    app.add_middleware(Entrance, people=people)
    app.add_middleware(BodyLimit, limit=max_body_bytes)
    app.add_middleware(OwnOrigin, any_name=people.guards and not names, names=tuple(names))
    app.add_middleware(SecurityHeaders)


class SecurityHeaders:
    """Keep a page to its own scripts, out of other pages, and what is read here from them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers to every answer."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        await self._app(scope, receive, with_headers)


class OwnOrigin:
    """Refuse what another site's page sends through a reader's browser.

    A browser says which page asks (``Origin``) and by which name it came here (``Host``). A page of
    another site is told by the first, and one whose name was pointed at this machine by the second.
    Programs that are no browsers send no ``Origin``.

    Parameters
    ----------
    app : ASGI application
    any_name : bool
        Whether ``Host`` may be any; then a token guards the app, which browsers keep from other
        names.
    names : sequence of str
        That ``Host`` may be, beside those of this machine.
    """

    def __init__(self, app: ASGIApp, *, any_name: bool, names: Sequence[str] = ()) -> None:
        self._app, self._any_name = app, any_name
        self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what comes from here."""
        fault = self._fault(scope) if scope["type"] == "http" else None
        if fault is None:
            await self._app(scope, receive, send)
            return
        status, text = fault
        await problem(status, text)(scope, receive, send)

    def _fault(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        host = hosts[0].strip().lower() if len(hosts) == 1 else ""
        if not self._any_name and not _is_own_name(host, self._names):
            return 421, (
                f"Host is {host[:100]!r}; expected this machine (localhost, 127.0.0.1, [::1]) or "
                f"{', '.join(sorted(self._names)) or 'no other'}. To serve under another name, set "
                "BEAMSTEER_TOKEN or BEAMSTEER_PEOPLE, and name it with --name."
            )
        foreign = [one for one in origins if not _is_same(one, host)]
        site = headers.get("sec-fetch-site", "none").lower()
        changes = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if foreign or (changes and site not in ("none", "same-origin")):
            whose = foreign[0][:100] if foreign else f"of a {site[:40]} page"
            return 403, (
                f"Origin is {whose!r}; expected the page of this server. Pages of other sites may "
                "not ask it."
            )
        return None


def _is_own_name(host: str, names: frozenset[str]) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname
        urlsplit(f"//{host}").port  # noqa: B018  says whether it is one
    except ValueError:
        return False
    return name is not None and "@" not in host and (is_loopback(name) or name in names)


def _is_same(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin.strip().lower())
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(host) and parts.netloc == host


class _RefusedBodyError(Refusal):
    """A body passed a limit while it was read."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class BodyLimit:
    """Answer 413 to bodies beyond the limit, whatever their headers say, and 408 to slow ones."""

    def __init__(
        self,
        app: ASGIApp,
        limit: int,
        *,
        piece_s: float = BODY_SECONDS,
        whole_s: float = BODY_WHOLE_SECONDS,
    ) -> None:
        self._app, self._limit = app, limit
        self._piece_s, self._whole_s = piece_s, whole_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on bodies within the limits."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        limit = max(self._limit, LARGER_BODIES.get(scope["path"], 0))
        if not declared.isdigit() or len(declared) > 18 or int(declared) > limit:
            await _refuse(_too_large(limit), scope, receive, send)
            return
        taken = 0
        complete = answered = False
        refusal: _RefusedBodyError | None = None
        until = time.monotonic() + self._whole_s

        async def counted() -> Message:
            nonlocal taken, complete, refusal
            if complete:
                return await receive()  # until the reader leaves
            try:
                wait = max(min(self._piece_s, until - time.monotonic()), 0.0)
                message = await asyncio.wait_for(receive(), wait)
            except TimeoutError:
                text = "body came too slowly; expected it at once. Send it again."
                refusal = _RefusedBodyError(408, text)
                raise refusal from None
            taken += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if taken > limit:
                refusal = _too_large(limit)
                raise refusal
            return message

        async def noted(message: Message) -> None:
            nonlocal answered
            if refusal is None or answered:  # else it makes a fault of its own of ours
                answered = True
                await send(message)

        try:
            await self._app(scope, counted, noted)
        except _RefusedBodyError:
            if answered:
                raise
        if refusal is not None and not answered:
            await _refuse(refusal, scope, receive, send)


def _too_large(limit: int) -> _RefusedBodyError:
    text = f"body is too large; expected at most {limit} bytes. Send a smaller file."
    return _RefusedBodyError(413, text)


async def _refuse(refused: _RefusedBodyError, scope: Scope, receive: Receive, send: Send) -> None:
    answer = problem(refused.status, refused.text, headers={"Connection": "close"})
    await answer(scope, receive, send)
