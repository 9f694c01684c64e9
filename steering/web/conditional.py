"""Reads that say whether anything changed: ETag, If-None-Match and 304.

The tag is made of the answer itself, so it is right for whatever is read, also after the server
began anew. It is a weak one: the same answer may go out compressed or not.
"""

from __future__ import annotations

import hashlib

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

KEPT = ("cache-control", "content-location", "date", "etag", "expires", "link", "vary")
"""Headers of an answer that its 304 has as well."""


def tag_of(content: bytes) -> str:
    """ETag of an answer."""
    return f'W/"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'


def is_known(asked: str | None, tag: str) -> bool:
    """Whether ``If-None-Match`` names a tag, compared weakly."""
    if asked is None:
        return False
    known = [one.strip().removeprefix("W/") for one in asked.split(",")]
    return "*" in known or tag.removeprefix("W/") in known


class ConditionalReads:
    """Give every whole answer to GET a tag, and answer 304 to who has it already.

    Streams pass as they are; an answer that has a tag keeps it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is no read."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("if-none-match")
        begun: Message | None = None  # held until there is a body to make a tag of
        unchanged = False

        async def tagged(message: Message) -> None:
            nonlocal begun, unchanged
            if message["type"] == "http.response.start" and message["status"] == 200:
                begun = message
                return
            if begun is not None and message["type"] == "http.response.body":
                started, begun = begun, None
                headers = MutableHeaders(raw=list(started["headers"]))
                tag = headers.get("etag")
                if tag is None and not message.get("more_body", False):
                    tag = headers["etag"] = tag_of(message.get("body", b""))
                if tag is not None and is_known(asked, tag):
                    unchanged = True
                    kept = [(name, value) for name, value in headers.raw if _is_kept(name)]
                    await send({"type": "http.response.start", "status": 304, "headers": kept})
                    await send({"type": "http.response.body", "body": b""})
                    return
                await send({**started, "headers": headers.raw})
            if not unchanged:
                await send(message)

        await self._app(scope, receive, tagged)


def _is_kept(name: bytes) -> bool:
    return name.decode("latin-1").lower() in KEPT
