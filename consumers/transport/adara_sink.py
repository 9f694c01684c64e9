"""A small server of ADARA packets, so that recorded files can play an SNS beamline.

It does what a client relies on: wait for its hello, send what describes the instrument and the run
that is on, then what was sent before if the hello asks for it, then what comes. One client or
several; it keeps a bounded past.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import structlog

from consumers.transport.adara_connection import checked_address
from consumers.wire import (
    AdaraKind,
    AdaraPacket,
    AdaraStatus,
    WireError,
    packet_bytes,
    read_hello,
    read_packet,
    read_run_status,
    variable_of,
)
from simulations.errors import InputError

log = structlog.get_logger()

KEPT_BYTES = 256 * 2**20  # of the past
HELLO_S = 30.0  # for a client to say hello
SEND_S = 30.0  # for a client to take a packet; then it is left
LONGEST_HELLO = 1024
_HEAD = 16
_PULSES = frozenset({AdaraKind.BANKED_EVENTS, AdaraKind.BANKED_EVENTS_WITH_STATES})
_VALUES = frozenset({AdaraKind.VARIABLE_U32, AdaraKind.VARIABLE_DOUBLE})
_STATE = frozenset({AdaraKind.GEOMETRY, AdaraKind.BEAMLINE_INFO, AdaraKind.DEVICE_DESCRIPTOR})


class _Client:
    """A connection that has not said hello yet, or listens."""

    def __init__(self, connection: socket.socket, name: str, until: float) -> None:
        self.socket, self.name, self.until = connection, name, until
        self.heard = b""
        self.listens = False


class AdaraSink:
    """Sends ADARA packets to whoever connects; a ``wire.Sink``.

    Nothing is sent while nobody listens: ``send`` waits for a client, and raises after a while. A
    client that was cut off finds what it missed when it comes again and asks for it.

    Parameters
    ----------
    address : str
        ``HOST:PORT`` to listen at; port 0 takes a free one.
    allow_unencrypted : bool
        Listen beyond this machine.
    kept_bytes : int
        How much of the past is kept.
    patience_s : float
        How long ``send`` waits for a client.
    monotonic : callable
        Clock in seconds.

    Attributes
    ----------
    address : str
        As bound.

    Raises
    ------
    InputError
        If the address is none, or leaves this machine.
    ConnectionError
        If it cannot be bound.
    """

    def __init__(
        self,
        address: str,
        *,
        allow_unencrypted: bool = False,
        kept_bytes: int = KEPT_BYTES,
        patience_s: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        host, port = checked_address(address, allow_unencrypted=allow_unencrypted)
        self._kept_bytes, self._patience_s, self._monotonic = kept_bytes, patience_s, monotonic
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise ConnectionError(
                f"{address}: cannot be listened at ({error}). Check address and port"
            ) from error
        self._listener.setblocking(False)
        bound = self._listener.getsockname()
        self.address = f"[{bound[0]}]:{bound[1]}" if ":" in host else f"{bound[0]}:{bound[1]}"
        self._clients: list[_Client] = []
        self._past: deque[tuple[int, bytes]] = deque()  # time of the stream, packet
        self._past_bytes = 0
        self._time_ns = 0  # of the stream
        self._state: dict[tuple[int, ...], bytes] = {}  # kind, device, variable: newest
        self._status: bytes | None = None

    def send(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Send the packets in ``value``, the first alone where a dwell begins with it again.

        Raises
        ------
        InputError
            If it is no ADARA packet.
        ConnectionError
            If nobody listened for ``patience_s``.
        """
        if any(name == "begins" for name, _ in headers):
            return  # said and described already, by the packets themselves
        try:
            packet = read_packet(value)
        except WireError as error:
            raise InputError(
                f"topic {topic!r}: {error}. Only ADARA packets, or recorded event files, can be "
                "sent as ADARA"
            ) from None
        self._greet()
        if not any(client.listens for client in self._clients):
            self.wait_for_receiver(self._patience_s)
        self._keep(packet, value)
        for client in [c for c in self._clients if c.listens]:
            self._send(client, value)

    def wait_for_receiver(self, timeout_s: float) -> None:
        """Return when somebody has said hello.

        Raises
        ------
        ConnectionError
            If nobody has within the time-out.
        """
        until = self._monotonic() + timeout_s
        while not any(client.listens for client in self._clients):
            left = until - self._monotonic()
            if left <= 0:
                raise ConnectionError(
                    f"{self.address}: no client came within {timeout_s:g} s. Start "
                    f"`beamsteer consume --adara {self.address}`"
                )
            self._greet(min(left, 0.2))

    def flush(self, timeout_s: float = 30.0) -> None:
        """Nothing to wait for: ``close`` lets what is under way arrive."""

    def close(self) -> None:
        """Send what is under way, for 5 s at most, and leave."""
        self._listener.close()
        until = self._monotonic() + 5.0
        for client in self._clients:
            try:
                client.socket.shutdown(socket.SHUT_WR)
                client.socket.settimeout(max(until - self._monotonic(), 0.01))
                while client.socket.recv(4096):
                    pass
            except OSError:
                pass
            client.socket.close()
        self._clients.clear()

    # -- clients --------------------------------------------------------------------------------

    def _greet(self, timeout_s: float = 0.0) -> None:
        """Take new connections, read hellos, and see who has gone."""
        ready, _, _ = select.select(
            [self._listener, *(c.socket for c in self._clients)], [], [], timeout_s
        )
        if self._listener in ready:
            connection, peer = self._listener.accept()
            connection.settimeout(SEND_S)
            until = self._monotonic() + HELLO_S
            self._clients.append(_Client(connection, f"{peer[0]}:{peer[1]}", until))
        for client in tuple(self._clients):
            if client.socket in ready:
                self._hear(client)
            elif not client.listens and self._monotonic() > client.until:
                self._leave(client, "said no hello")

    def _hear(self, client: _Client) -> None:
        try:
            heard = client.socket.recv(LONGEST_HELLO)
        except OSError as error:
            self._leave(client, str(error))
            return
        client.heard += heard
        if not heard:
            self._leave(client, "it closed the connection")
        elif client.listens or len(client.heard) > LONGEST_HELLO:
            self._leave(client, "it said more than a hello")
        elif len(client.heard) >= _HEAD:
            try:
                if len(client.heard) < packet_bytes(client.heard[:_HEAD]):
                    return
                since_ns = read_hello(read_packet(client.heard))
            except WireError as error:
                self._leave(client, str(error))
                return
            client.listens = True
            log.info("adara_client", client=client.name, since_ns=since_ns)
            for packet in tuple(self._opening(since_ns)):
                if client.listens:
                    self._send(client, packet)

    def _send(self, client: _Client, packet: bytes) -> None:
        try:
            client.socket.sendall(packet)
        except OSError as error:
            self._leave(client, str(error) or "it took nothing")

    def _leave(self, client: _Client, reason: str) -> None:
        client.socket.close()
        client.listens = False
        self._clients.remove(client)
        log.warning("adara_client_left", client=client.name, reason=reason)

    # -- past -----------------------------------------------------------------------------------

    def _keep(self, packet: AdaraPacket, value: bytes) -> None:
        if packet.kind in _PULSES or packet.kind is AdaraKind.RUN_STATUS:
            self._time_ns = packet.time_ns
        if packet.kind in _STATE:
            device = int(packet.words[0]) if packet.kind is AdaraKind.DEVICE_DESCRIPTOR else 0
            self._state[packet.kind, device] = value
        elif packet.kind in _VALUES:
            self._state[packet.kind, *variable_of(packet)] = value
        elif packet.kind is AdaraKind.RUN_STATUS:
            self._status = value
        self._past.append((self._time_ns, value))
        self._past_bytes += len(value)
        while self._past_bytes > self._kept_bytes:
            self._past_bytes -= len(self._past.popleft()[1])

    def _opening(self, since_ns: int) -> Iterator[bytes]:
        """What a client gets first."""
        yield from (self._state[place] for place in sorted(self._state))
        past = [value for time_ns, value in self._past if since_ns and time_ns >= since_ns]
        if self._status is not None and self._status not in past:
            said = read_run_status(read_packet(self._status))
            if said.status in (AdaraStatus.NEW_RUN, AdaraStatus.STATE):
                yield _as_state(self._status)
        yield from past


def _as_state(status: bytes) -> bytes:
    """The same run status, saying that the run goes on."""
    place = _HEAD + 11  # the byte of the status
    return status[:place] + bytes([AdaraStatus.STATE]) + status[place + 1 :]
