"""What stands before every app: limits of a request, own host and origin, token, headers."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steering.web.serving import is_loopback

log = structlog.get_logger()

COOKIE = "beamsteer_token"
OPEN_PATHS = ("/health", "/ready")
BODY_SECONDS = 20.0  # between two pieces of a body
BODY_WHOLE_SECONDS = 120.0

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


def add_guards(app: FastAPI, *, token: str | None, max_body_bytes: int) -> None:
    """Put every guard before an app.

    Parameters
    ----------
    app : FastAPI
    token : str, optional
        Secret that every path but ``OPEN_PATHS`` demands. Without it the app is one for this
        machine alone, and answers to the names of this machine alone.
    max_body_bytes : int
        Of a request.
    """
    app.add_middleware(BodyLimit, limit=max_body_bytes)
    if token is not None:
        app.add_middleware(TokenGuard, token=token)
    app.add_middleware(OwnOrigin, loopback_only=token is None)
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
    loopback_only : bool
        Whether ``Host`` must be a name of this machine; otherwise a token guards the app, which
        browsers keep from other names.
    """

    def __init__(self, app: ASGIApp, *, loopback_only: bool) -> None:
        self._app, self._loopback_only = app, loopback_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what comes from here."""
        fault = self._fault(scope) if scope["type"] == "http" else None
        if fault is None:
            await self._app(scope, receive, send)
            return
        status, text = fault
        await JSONResponse({"detail": text}, status)(scope, receive, send)

    def _fault(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        host = hosts[0].strip().lower() if len(hosts) == 1 else ""
        if self._loopback_only and not _is_own_name(host):
            return 421, (
                f"Host is {host[:100]!r}; expected this machine (localhost, 127.0.0.1, [::1]). To "
                "serve under another name, set BEAMSTEER_TOKEN."
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


def _is_own_name(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname
        urlsplit(f"//{host}").port  # noqa: B018  says whether it is one
    except ValueError:
        return False
    return name is not None and "@" not in host and is_loopback(name)


def _is_same(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin.strip().lower())
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(host) and parts.netloc == host


@dataclass(slots=True)
class _Failures:
    """Wrong tokens of one address."""

    count: int = 0
    last_s: float = 0.0
    pending: int = 0  # refusals that are held back


class TokenGuard:
    """Demand a token of readers, as a bearer header or as the cookie that ``/?token=`` sets.

    A wrong token is logged with its address and answered the later, the more there were; a right
    one is never held up.

    Parameters
    ----------
    app : ASGI application
        What is guarded, but for ``OPEN_PATHS``, which supervisors ask.
    token : str
    slowest_s : float
        Longest time that a refusal is held back.
    monotonic : callable
        Clock in seconds.
    """

    FIRST_S = 0.1
    FORGOTTEN_AFTER_S = 900.0
    PENDING = 8  # refusals of one address that are held back at a time; more are refused at once
    ADDRESSES = 1000

    def __init__(
        self,
        app: ASGIApp,
        token: str,
        *,
        slowest_s: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._token = app, token
        self._slowest_s, self._monotonic = slowest_s, monotonic
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may pass; answer the rest with 401, or 429."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        offered = request.query_params.get("token")
        if scope["path"] == "/" and offered is not None and self._matches(offered):
            moved = RedirectResponse("/", 303)
            moved.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
            await moved(scope, receive, send)
            return
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        cookie = request.cookies.get(COOKIE)
        shown = [bearer if scheme.lower() == "bearer" else None, cookie]
        if any(one is not None and self._matches(one) for one in shown):
            await self._app(scope, receive, send)
            return
        text = "token is missing or wrong; send Authorization: Bearer, or open /?token=... once."
        answer = JSONResponse({"detail": text}, 401, headers={"WWW-Authenticate": "Bearer"})
        if any(one is not None for one in (*shown, offered)):
            answer = await self._slowed(request, answer)
        await answer(scope, receive, send)

    async def _slowed(self, request: Request, refusal: JSONResponse) -> JSONResponse:
        address = request.client.host if request.client is not None else "unknown"
        failures = self._of(address)
        if failures.pending >= self.PENDING:
            text = "too many wrong tokens from this address; wait, and send the right one."
            retry = {"Retry-After": str(round(self._slowest_s) + 1)}
            return JSONResponse({"detail": text}, 429, headers=retry)
        failures.count += 1
        failures.last_s = self._monotonic()
        log.warning(
            "token_refused", address=address, path=request.url.path[:100], times=failures.count
        )
        failures.pending += 1
        try:
            await asyncio.sleep(
                min(self.FIRST_S * 2.0 ** min(failures.count - 1, 16), self._slowest_s)
            )
        finally:
            failures.pending -= 1
        return refusal

    def _of(self, address: str) -> _Failures:
        """Failures of an address; those of long ago, and of too many addresses, are forgotten."""
        failures = self._failures.pop(address, None) or _Failures()
        if self._monotonic() - failures.last_s > self.FORGOTTEN_AFTER_S:
            failures.count = 0
        self._failures[address] = failures
        while len(self._failures) > self.ADDRESSES:
            self._failures.popitem(last=False)
        return failures

    def _matches(self, offered: str) -> bool:
        return secrets.compare_digest(offered.encode(), self._token.encode())


class _RefusedBodyError(Exception):
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
        if not declared.isdigit() or len(declared) > 18 or int(declared) > self._limit:
            await _refuse(self._too_large(), scope, receive, send)
            return
        taken = 0
        complete = answered = False
        until = time.monotonic() + self._whole_s

        async def counted() -> Message:
            nonlocal taken, complete
            if complete:
                return await receive()  # until the reader leaves
            try:
                wait = max(min(self._piece_s, until - time.monotonic()), 0.0)
                message = await asyncio.wait_for(receive(), wait)
            except TimeoutError:
                text = "body came too slowly; expected it at once. Send it again."
                raise _RefusedBodyError(408, text) from None
            taken += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if taken > self._limit:
                raise self._too_large()
            return message

        async def noted(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except _RefusedBodyError as refused:
            if answered:
                raise
            await _refuse(refused, scope, receive, send)

    def _too_large(self) -> _RefusedBodyError:
        text = f"body is too large; expected at most {self._limit} bytes. Send a smaller file."
        return _RefusedBodyError(413, text)


async def _refuse(refused: _RefusedBodyError, scope: Scope, receive: Receive, send: Send) -> None:
    answer = JSONResponse({"detail": refused.text}, refused.status, headers={"Connection": "close"})
    await answer(scope, receive, send)
