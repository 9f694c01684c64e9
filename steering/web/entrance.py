"""The door: a token is asked for, a page to log in is shown, and what a role may not do is refused.

People show a token as ``Authorization: Bearer``, or log in once with it, which sets a cookie that
no script can read and no other site can send. Wrong ones are slowed: see ``attempts``.
"""

from __future__ import annotations

import asyncio
import math
from urllib.parse import parse_qs

import structlog
from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from steering.web.attempts import Attempts
from steering.web.login_file import login_page
from steering.web.people_file import LOCAL, People, Somebody
from steering.web.problems import problem

log = structlog.get_logger()

COOKIE = "beamsteer_token"
OPEN_PATHS = ("/health", "/ready", "/assets/favicon.svg")
LOGIN, LOGOUT = "/login", "/logout"
READING = ("GET", "HEAD", "OPTIONS")
FOR_ALL = ("/predict", "/v1/predict", "/v1/estimate")  # changes nothing
FOR_ALL_BELOW = "/v1/jobs/"  # whoever knows a job may end it
LOGIN_BYTES = 20_000
MISSING = "token is missing or wrong; send Authorization: Bearer, or log in at /login."


class Entrance:
    """Lets in who may, and says who it is: ``request.state.somebody``.

    Parameters
    ----------
    app : ASGI application
    people : People
        Who there is. Where they ask for no token, everybody is an admin named ``local``.
    attempts : Attempts, optional
    """

    def __init__(self, app: ASGIApp, people: People, *, attempts: Attempts | None = None) -> None:
        self._app, self._people = app, people
        self._attempts = attempts or Attempts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may pass; answer the rest with 401, 403 or 429, or a page to log in."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        answer = await self._answered(request)
        await (self._app if answer is None else answer)(scope, receive, send)

    async def _answered(self, request: Request) -> Response | None:
        """What the door itself answers; None: somebody may pass."""
        path = request.url.path
        if path in OPEN_PATHS:
            return None
        if not self._people.guards:
            request.state.somebody = LOCAL
            return RedirectResponse("/", 303) if path in (LOGIN, LOGOUT) else None
        if path == LOGOUT:
            return self._logged_out(request)
        if path == LOGIN:
            return await self._logged_in(request)
        shown = _shown(request)
        offered = request.query_params.get("token") if path == "/" else None
        if offered is not None:
            found = await self._who(request, offered)
            return _welcomed(request, offered) if isinstance(found, Somebody) else found
        refused: Response | None = None
        for token in shown:
            found = await self._who(request, token)
            if isinstance(found, Somebody):
                request.state.somebody = found
                return _forbidden(request, found)
            refused = found
        return refused or _unknown(request, 401)

    async def _who(self, request: Request, token: str) -> Somebody | Response:
        """Who shows a token, or how that is refused."""
        attempts = self._attempts
        address = request.client.host if request.client is not None else "unknown"
        left = 0.0 if attempts.known(token) else attempts.wait_s(address)
        if left > 0:
            return _unknown(request, 429, wait_s=left)
        found = await self._asked(token)
        if found is not None:
            attempts.right(token)
            return found
        times, hold_s = attempts.wrong(address)
        log.warning("token_refused", address=address, path=request.url.path[:100], times=times)
        attempts.holding(address, +1)
        try:
            await asyncio.sleep(hold_s)
        finally:
            attempts.holding(address, -1)
        return _unknown(request, 401, wrong=True)

    async def _asked(self, token: str) -> Somebody | None:
        if self._people.openid and token.count(".") == 2:  # which may wait for the issuer
            return await run_in_threadpool(self._people.who, token)
        return self._people.who(token)

    async def _logged_in(self, request: Request) -> Response:
        if request.method in ("GET", "HEAD"):
            return _page(200)
        if request.method != "POST":
            return problem(405, "expected GET or POST.", headers={"Allow": "GET, POST"})
        form = parse_qs((await request.body())[:LOGIN_BYTES].decode("utf-8", "replace"))
        token = next(iter(form.get("token", [])), "").strip()
        if not token:
            return _page(401, "No token was given.")
        found = await self._who(request, token)
        return _welcomed(request, token) if isinstance(found, Somebody) else found

    @staticmethod
    def _logged_out(request: Request) -> Response:
        if request.method != "POST":  # a link or picture of another page must not log anybody out
            return problem(405, "expected POST.", headers={"Allow": "POST"})
        gone = RedirectResponse(LOGIN, 303)
        gone.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=_secure(request))
        return gone


def _shown(request: Request) -> list[str]:
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    cookie = request.cookies.get(COOKIE)
    found = [bearer.strip() if scheme.lower() == "bearer" else None, cookie]
    return [token for token in found if token]


def _forbidden(request: Request, somebody: Somebody) -> Response | None:
    path = request.url.path
    free = path in FOR_ALL or path.startswith(FOR_ALL_BELOW)
    if request.method in READING or free or somebody.acts:
        return None
    return problem(
        403,
        f"{somebody.name} has the role viewer, which reads; expected operator or admin. Ask "
        "whoever keeps the file of people.",
    )


def _welcomed(request: Request, token: str) -> Response:
    moved = RedirectResponse("/", 303)
    moved.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=_secure(request))
    return moved


def _secure(request: Request) -> bool:
    """Whether the reader came by TLS, here or to the proxy before us."""
    told = request.headers.get("x-forwarded-proto", "").split(",")[0].strip()
    return request.url.scheme == "https" or told == "https"


def _unknown(
    request: Request, status: int, *, wait_s: float = 0.0, wrong: bool = False
) -> Response:
    seconds = max(math.ceil(wait_s), 1)
    headers = {"Retry-After": str(seconds)} if status == 429 else {"WWW-Authenticate": "Bearer"}
    late = f"Too many wrong tokens came from this address. Wait {seconds} s, and try again."
    if "text/html" in request.headers.get("accept", ""):
        said = late if status == 429 else "This token is not known, or no longer." if wrong else ""
        return _page(status, said, headers)
    return problem(status, late if status == 429 else MISSING, headers=headers)


def _page(status: int, said: str = "", headers: dict[str, str] | None = None) -> Response:
    """The page to log in; ``said`` is one of ours, never what somebody sent."""
    told = f'<p class="failure" role="alert">{said}</p>' if said else ""
    more = {"Cache-Control": "no-store", **(headers or {})}
    return HTMLResponse(login_page().replace("<!-- said -->", told), status, more)
