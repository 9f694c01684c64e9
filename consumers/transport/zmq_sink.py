"""Messages out over ZMQ in bluesky's frame: ``prefix SP name SP payload``.

The name is that of the document where a message has the header ``document``, so that bluesky's
`RemoteDispatcher` understands it; otherwise it is the topic. Keys and other headers do not fit into
the frame and are left out. A dispatcher without a prefix stops at names that it does not know:
give documents for bluesky a prefix of their own, or an address.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import zmq

from consumers.transport.curve_keys_file import Curve
from consumers.transport.zmq_connection import DOCUMENT_NAMES, Connection, checked_address, curve_of
from consumers.transport.zmq_settings import ZmqSection
from consumers.wire import DOCUMENT_HEADER
from simulations.errors import InputError

HIGH_WATER = 1000  # messages that wait for each receiver
SEND_TIMEOUT_S = 30.0
LINGER_S = 5.0


class ZmqSink:
    """Sends to a proxy, or to whoever connects; a ``wire.Sink``.

    Nothing is dropped for a slow receiver: when ``high_water`` messages wait for it, ``send``
    waits too, and raises after ``send_timeout_s``. But ZMQ gives no receipts, and a publisher's
    messages go nowhere while nobody listens: see ``wait_for_receiver``.

    Parameters
    ----------
    address : str
        ``tcp://HOST:PORT``, ``ipc://PATH`` or ``HOST:PORT``, e.g. of the input of a proxy.
    pattern : {"pub", "push"}
        Publish to all, or push to one of the receivers.
    bind : bool
        Bind the address instead of connecting to it.
    prefix : bytes
        First word of every message; no space in it.
    curve : CurveClient or CurveServer, optional
        Keys; a server binds, a client connects.
    allow_unencrypted : bool
        Leave this machine without keys.
    high_water : int
        Messages that may wait for a receiver.
    send_timeout_s : float
        How long ``send`` waits for one that is slow.
    monotonic : callable
        Clock in seconds.

    Raises
    ------
    ValueError
        If address, prefix or keys are not safe or not sound.
    ConnectionError
        If the address cannot be bound.
    """

    def __init__(
        self,
        address: str,
        *,
        pattern: Literal["pub", "push"] = "pub",
        bind: bool = False,
        prefix: bytes = b"",
        curve: Curve | None = None,
        allow_unencrypted: bool = False,
        high_water: int = HIGH_WATER,
        send_timeout_s: float = SEND_TIMEOUT_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if pattern not in ("pub", "push"):
            raise InputError(f"pattern is {pattern!r}; expected 'pub' or 'push'")
        if b" " in prefix:
            raise InputError(f"prefix is {prefix!r}; expected no space in it")
        address = checked_address(
            address, curve=curve, bind=bind, allow_unencrypted=allow_unencrypted
        )
        self._prefix, self._pattern, self._monotonic = prefix, pattern, monotonic
        # XPUB is PUB that can see who subscribes, and that waits instead of dropping
        kind = zmq.XPUB if pattern == "pub" else zmq.PUSH
        self._connection = Connection(kind, address, bind=bind, curve=curve)
        self._socket = self._connection.socket
        self._socket.setsockopt(zmq.SNDHWM, high_water)
        self._socket.setsockopt(zmq.SNDTIMEO, round(1000 * send_timeout_s))
        if pattern == "pub":
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)
        self._timeout_s = send_timeout_s
        self._subscribers = 0
        self._closed = False
        self.address = self._connection.open()

    def send(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Hand over one message; ``key`` is left out.

        Raises
        ------
        ConnectionError
            If a receiver took nothing for ``send_timeout_s``, or nobody is there to be pushed to.
        ValueError
            If the topic has a space in it or is empty, or names a document without being one.
        """
        name = next((content for key_, content in headers if key_ == DOCUMENT_HEADER), None)
        if name is None:
            name = topic.encode()
            if topic in DOCUMENT_NAMES:
                raise InputError(f"topic is {topic!r}, the name of a document; expected another")
        if not name or b" " in name:
            raise InputError(f"topic is {name.decode(errors='replace')!r}; expected one word")
        self._see_subscribers(0)
        try:
            self._socket.send(b" ".join([self._prefix, name, value]))
        except zmq.Again:
            raise ConnectionError(
                f"{self.address}: no receiver took a message for {self._timeout_s:g} s. Start or "
                "restart the receivers"
            ) from None

    def wait_for_receiver(self, timeout_s: float) -> None:
        """Return when somebody, e.g. a proxy, has subscribed; pushing waits by itself.

        Raises
        ------
        ConnectionError
            If nobody has within the time-out.
        """
        until = self._monotonic() + timeout_s
        while self._pattern == "pub" and self._subscribers <= 0:
            left = until - self._monotonic()
            if left <= 0:
                raise ConnectionError(
                    f"{self.address}: nobody subscribed within {timeout_s:g} s. Start the proxy or "
                    "the receivers first, and check address and keys"
                )
            self._see_subscribers(left)

    def _see_subscribers(self, timeout_s: float) -> None:
        if self._pattern != "pub":
            return
        wait_ms = round(1000 * timeout_s)
        while self._socket.poll(wait_ms, zmq.POLLIN):
            self._subscribers += 1 if self._socket.recv()[:1] == b"\x01" else -1
            wait_ms = 0

    def flush(self, timeout_s: float = 30.0) -> None:
        """Nothing to wait for: ZMQ gives no receipts; ``close`` lets waiting messages go."""

    def close(self) -> None:
        """Let waiting messages go, for 5 s at most, and leave."""
        if not self._closed:
            self._closed = True
            self._connection.close(round(1000 * LINGER_S))


def zmq_sink(section: ZmqSection, *, environment: Mapping[str, str] = os.environ) -> ZmqSink:
    """Sink at the other end of what a section describes: `sub` is published to, `pull` pushed to.

    Parameters
    ----------
    section : ZmqSection
    environment : mapping
        Where keys are that the section does not name.

    Raises
    ------
    ValueError, ConnectionError
        As ``ZmqSink``.
    """
    return ZmqSink(
        section.address,
        pattern="pub" if section.pattern == "sub" else "push",
        bind=section.bind,
        prefix=section.prefix.encode(),
        allow_unencrypted=section.allow_unencrypted,
        curve=curve_of(section, environment),
    )
