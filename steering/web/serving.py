"""Run the status API on an address: bound to loopback unless a token guards it."""

from __future__ import annotations

import http.client
import ipaddress
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from simulations.errors import InputError
from steering.web.bounded_http import HEADER_BYTES, TAKEN_AT_ONCE, WAITING, BoundedProtocol

START_SECONDS = 20.0
_ASKED_AGAIN_S = 0.05


def check_binding(host: str, token: str | None, *, people: bool = False) -> None:
    """Refuse an address that others can reach, unless readers must present a token.

    Parameters
    ----------
    host : str
    token : str, optional
    people : bool
        Whether there is a file of people.

    Raises
    ------
    ValueError
        If ``host`` is not loopback and there is no token, or the token is short.
    """
    if token is not None and len(token) < 16:
        raise InputError(
            f"token has {len(token)} characters; expected 16 or more. "
            "Make one: python3 -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    if token is None and not people and not is_loopback(host):
        raise InputError(
            f"host is {host}, which others can reach; expected loopback, or a token. "
            "Set BEAMSTEER_TOKEN or BEAMSTEER_PEOPLE, or leave --host away."
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def serving(app: Any, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve an ASGI app in a thread; yields its URL and stops it at the end.

    Parameters
    ----------
    app : ASGI application
    host, port
        Address; port 0 takes a free one.

    Raises
    ------
    ValueError
        If the address cannot be taken.
    """
    bound = _bind(host, port)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
        lifespan="on",
        http=BoundedProtocol,
        ws="none",
        backlog=TAKEN_AT_ONCE,
        h11_max_incomplete_event_size=HEADER_BYTES,
        server_header=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [bound]}, name="beamsteer-api", daemon=True
    )
    thread.start()
    waited = threading.Event()
    for _ in range(int(START_SECONDS / 0.02)):
        if server.started or not thread.is_alive():
            break
        waited.wait(0.02)
    try:
        if not server.started:
            raise RuntimeError(f"the API did not start within {START_SECONDS:.0f} s")
        bound.listen(WAITING)
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{bound.getsockname()[1]}/"
    finally:
        close_streams = getattr(getattr(app, "state", None), "close_streams", None)
        if close_streams is not None:
            close_streams()
        server.should_exit = True
        thread.join(10)
        bound.close()


def answers(url: str, timeout_s: float = 5.0) -> bool:
    """Whether a server of this process answers at ``/health``."""
    parts = urlsplit(url)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(parts.hostname or "", parts.hostname or "")  # noqa: S104
    connection = http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise InputError(
            f"port is {port} on {host}, which cannot be taken ({error.strerror}); expected a free "
            "one. Choose another with --port, or --port 0 for any."
        ) from error
    return bound


class AskedToStopError(BaseException):
    """The process got SIGTERM or SIGINT; passes handlers of ordinary errors."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM end a block at once, also in the middle of a long computation.

    What the block writes must be written in one step, since it may be left anywhere. A library
    that is left amid the making of an object may complain when that is removed: from a signal
    on, finalisers complain to nobody, since the process is to end. A finaliser that was itself
    interrupted swallows what it is told, so the block is asked again.
    """
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True
        raise AskedToStopError

    def complain(told: sys.UnraisableHookArgs) -> None:
        if isinstance(told.exc_value, AskedToStopError):
            signal.setitimer(signal.ITIMER_REAL, _ASKED_AGAIN_S)
        elif not asked:
            complain_before(told)

    complain_before, sys.unraisablehook = sys.unraisablehook, complain
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    previous = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield
    except AskedToStopError:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)
        if not asked:  # else what was left half made goes later still, when its frames do
            sys.unraisablehook = complain_before
