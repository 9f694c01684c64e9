"""Raw messages over ZMQ in bluesky's frame: ``prefix SP name SP payload``.

A name that is one of event-model's is a document: its message has the header ``document`` and the
topic of documents. Any other name is the topic itself, e.g. of an ESS flatbuffer.

ZMQ keeps nothing: what is sent while nobody listens is gone, and a PUB socket, that of bluesky's
proxy too, drops what a slow subscriber does not take (PUSH waits instead). So this source takes
messages off the socket as fast as it is polled, keeps up to ``high_water`` of them in memory, and
says when a connection was lost; `consumers.transport.tape_source.Taped` makes it repeatable.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import structlog
import zmq
from zmq.utils.monitor import recv_monitor_message

from consumers.transport.curve_keys_file import Curve
from consumers.transport.zmq_connection import DOCUMENT_NAMES, Connection, checked_address, curve_of
from consumers.transport.zmq_settings import ZmqSection
from consumers.wire import (
    DOCUMENT_HEADER,
    MAX_MESSAGE_BYTES,
    PartitionOwner,
    RawMessage,
    WireError,
    pack,
    refuse_pickle,
)
from simulations.errors import InputError

log = structlog.get_logger()

BATCH_MESSAGES, BATCH_BYTES = 1000, 64 * 2**20  # of one poll
HIGH_WATER = 10_000  # messages that wait in memory before a sender is held up
GONE_S = 6.0  # without a sign of life of the other end
_HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
# A connection that sends more is cut by ZMQ; what is between this and the codecs' limit is set
# aside message by message.
MAX_FRAME_BYTES = 8 * MAX_MESSAGE_BYTES


class ZmqSource:
    """Messages of a ZMQ socket; a ``wire.RawSource`` with the partition 0.

    Offsets count by topic, from where the owner's state ends: what came before cannot come again.

    Parameters
    ----------
    address : str
        ``tcp://HOST:PORT``, ``ipc://PATH`` or ``HOST:PORT``, e.g. of the output of a proxy.
    pattern : {"sub", "pull"}
        Subscribe to publishers, or take from pushers.
    bind : bool
        Bind the address instead of connecting to it.
    prefix : bytes
        Messages with another prefix are passed over; empty: none is.
    document_topic : str
        Topic that bluesky's documents get.
    allow_pickle : bool
        Unpickle documents. **Whoever can send to the address can then run any code here**: only
        for senders that cannot be changed, on a network of theirs and yours alone.
    curve : CurveClient or CurveServer, optional
        Keys; a server binds, a client connects.
    allow_unencrypted : bool
        Leave this machine without keys.
    high_water : int
        Messages that may wait in memory.
    silence_s : float, optional
        Without a message for so long the sender counts as lost: behind a proxy nothing else tells.
    owner : PartitionOwner, optional
        Asked for partition 0 before the first message.
    clock_ns : callable
        Wall clock, ns since the Unix epoch.
    monotonic : callable
        Clock in seconds.

    Attributes
    ----------
    address : str
        As bound or connected.
    disconnections : int
        Connections lost so far; with PUB, messages may have been lost with each.
    connected : bool
        Whether a sender, or a proxy before it, is there; one whose machine or cable is gone is
        missed after ``GONE_S``.

    Raises
    ------
    ValueError
        If address or keys are not safe or not sound.
    ConnectionError
        If the address cannot be bound.
    """

    def __init__(
        self,
        address: str,
        *,
        pattern: Literal["sub", "pull"] = "sub",
        bind: bool = False,
        prefix: bytes = b"",
        document_topic: str = "bluesky",
        allow_pickle: bool = False,
        curve: Curve | None = None,
        allow_unencrypted: bool = False,
        high_water: int = HIGH_WATER,
        silence_s: float | None = None,
        owner: PartitionOwner | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if pattern not in ("sub", "pull"):
            raise InputError(f"pattern is {pattern!r}; expected 'sub' or 'pull'")
        if b" " in prefix:
            raise InputError(f"prefix is {prefix!r}; expected no space in it")
        address = checked_address(
            address, curve=curve, bind=bind, allow_unencrypted=allow_unencrypted
        )
        self._prefix, self._document_topic = prefix, document_topic
        self._allow_pickle, self._owner, self._clock_ns = allow_pickle, owner, clock_ns
        self._next: dict[str, int] | None = None  # offsets; None: the owner was not asked yet
        self.disconnections = 0
        self._silence_s, self._monotonic, self._heard_s = silence_s, monotonic, monotonic()
        self._senders = self._failing = 0  # connections that stand, and that failed to come about
        if allow_pickle:
            log.warning(
                "zmq_pickle_allowed",
                address=address,
                meaning="whoever can send to this address can run any code in this process",
            )
        kind = zmq.SUB if pattern == "sub" else zmq.PULL
        self._connection = Connection(kind, address, bind=bind, curve=curve)
        socket = self._connection.socket
        socket.setsockopt(zmq.RCVHWM, high_water)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        if pattern == "sub":
            socket.setsockopt(zmq.SUBSCRIBE, prefix + b" " if prefix else b"")
        socket.setsockopt(zmq.HEARTBEAT_IVL, round(1000 * GONE_S / 3))
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, round(1000 * GONE_S))
        self._monitor = socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | _HANDSHAKE_FAILED
        )
        self.address = self._connection.open()
        self._socket = socket

    @property
    def connected(self) -> bool:
        """Whether a sender is there and not silent for too long, as far as ``poll`` has seen."""
        silent = self._monotonic() - self._heard_s
        return self._senders > 0 and (self._silence_s is None or silent <= self._silence_s)

    def poll(self, timeout_s: float) -> Sequence[RawMessage]:
        """Messages that came; none after the time-out."""
        if self._next is None:
            self._next = dict(self._owner.take(0)) if self._owner is not None else {}
            if self._next:
                log.warning("zmq_cannot_be_replayed", address=self.address, positions=self._next)
        self._watch()
        batch: list[RawMessage] = []
        size = 0
        if not self._socket.poll(round(1000 * max(timeout_s, 0.0))):
            return batch
        while len(batch) < BATCH_MESSAGES and size < BATCH_BYTES:
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._heard_s = self._monotonic()
            message = self._message(parts[0] if len(parts) == 1 else b"".join(parts), self._next)
            if message is not None:
                batch.append(message)
                size += len(message.value)
        return batch

    def _message(self, frame: bytes, next_offset: dict[str, int]) -> RawMessage | None:
        """Message of a frame; what is no frame of bluesky's is passed on whole, to be set aside."""
        parts = frame.split(b" ", 2)
        topic, value, headers = self._document_topic, frame, ()
        if len(parts) == 3:
            prefix, name, payload = parts
            if self._prefix and prefix != self._prefix:
                return None
            try:
                text = name.decode()
            except UnicodeDecodeError:
                text = ""
            if text in DOCUMENT_NAMES:
                value, headers = self._payload(payload), ((DOCUMENT_HEADER, name),)
            elif text:
                topic, value = text, payload
        offset = next_offset.get(topic, 0)
        next_offset[topic] = offset + 1
        return RawMessage(
            topic=topic,
            partition=0,
            offset=offset,
            value=value,
            timestamp_ns=self._clock_ns(),
            headers=headers,
        )

    def _payload(self, payload: bytes) -> bytes:
        """Msgpack of a document; a pickle is only opened where that is allowed."""
        if not self._allow_pickle:
            return payload
        try:
            refuse_pickle(payload)
        except WireError:
            try:
                return pack(pickle.loads(payload))  # noqa: S301  the operator trusts the sender
            except Exception as error:
                # nothing that a sender pickles may end the run; the codec sets the pickle aside
                log.warning("zmq_pickle_unreadable", reason=f"{type(error).__name__}: {error}")
        return payload

    def _watch(self) -> None:
        """Count senders, lost connections and refused keys, and say so."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            address = event["endpoint"].decode("utf-8", "replace")
            if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._senders += 1
                log.info("zmq_connected", address=address)
            elif event["event"] & _HANDSHAKE_FAILED:
                self._failing += 1  # its end is told too
                refused = event["event"] == zmq.EVENT_HANDSHAKE_FAILED_AUTH
                log.error("zmq_keys_refused" if refused else "zmq_no_handshake", address=address)
            elif self._failing:
                self._failing -= 1
            else:
                self._senders = max(self._senders - 1, 0)
                self.disconnections += 1
                log.warning("zmq_disconnected", address=address, lost="perhaps some messages")

    def acknowledge(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Nothing to do: ZMQ keeps nothing."""

    def close(self) -> None:
        """Close the socket; what waits in it is gone."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._connection.close(0)


def zmq_source(
    section: ZmqSection,
    owner: PartitionOwner | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
) -> ZmqSource:
    """Source that a section of an experiment file describes.

    Parameters
    ----------
    section : ZmqSection
    owner : PartitionOwner, optional
    environment : mapping
        Where keys are that the section does not name.

    Raises
    ------
    ValueError, ConnectionError
        As ``ZmqSource``.
    """
    return ZmqSource(
        section.address,
        pattern=section.pattern,
        bind=section.bind,
        prefix=section.prefix.encode(),
        allow_pickle=section.allow_pickle,
        allow_unencrypted=section.allow_unencrypted,
        silence_s=section.silence_s,
        curve=curve_of(section, environment),
        owner=owner,
    )
