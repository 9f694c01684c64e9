"""Live streams of SNS beamlines: ADARA packets over TCP.

A server repeats nothing by itself, so `consumers.transport.tape_source.Taped` puts every packet
onto a tape first. A lost connection is made anew, with growing pauses, and asks for what was missed
from a minute before on; what came before comes again then and counts once. Whether the server still
had it, and how much time is missing otherwise, is told.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from consumers.transport.adara_connection import checked_address
from consumers.transport.adara_settings import AdaraSection
from consumers.wire import (
    AdaraStream,
    PartitionOwner,
    RawMessage,
    WireError,
    encode_hello,
    packet_bytes,
)

log = structlog.get_logger()

TOPIC = "adara"
BATCH_BYTES = 4 * 2**20  # of one poll; a longer packet takes several
CONNECT_S = 3.0
SILENT_S, DEAD_S = 8.0, 30.0  # without a byte: not connected; to be connected anew
PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # between attempts to connect
AGAIN_NS = 60 * 10**9  # of what is known is asked for again
GAP_NS = 10**9  # between pulses; less is the beamline's own
AHEAD_NS = 3600 * 10**9  # of the clock here; a pulse of a later time is a fault
BROKEN_FRAMES = 3  # in a row, before history is given up
_SECOND = 1_000_000_000
_HEAD = 16


class AdaraSource:
    """Packets of one server; a ``wire.RawSource`` with the topic ``adara`` and the partition 0.

    Parameters
    ----------
    section : AdaraSection
    owner : PartitionOwner, optional
        Asked for partition 0 before the first message; offsets count on from there.
    clock_ns : callable
        Wall clock, ns since the Unix epoch.
    monotonic, sleep : callable
        Clock in seconds, and waiting.

    Attributes
    ----------
    connected : bool
        Bytes came within the last eight seconds.
    disconnections : int
        Connections lost so far.
    lost_s : float
        Seconds of the stream between pulses that no history filled.

    Raises
    ------
    InputError
        If the address is none, or leaves this machine.
    """

    def __init__(
        self,
        section: AdaraSection,
        owner: PartitionOwner | None = None,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._address = checked_address(
            section.address, allow_unencrypted=section.allow_unencrypted
        )
        self.address = section.address
        self._section, self._owner = section, owner
        self._clock_ns, self._monotonic, self._sleep = clock_ns, monotonic, sleep
        self._stream = AdaraStream(dwell=section.dwell)
        self._next: int | None = None  # offset; None: the owner was not asked yet
        self._socket: socket.socket | None = None
        self._buffer = bytearray()
        self._heard = self._due = monotonic()
        self._pause = PAUSE_S
        self._since_ns = 0  # that the connection asked for
        self._newest_ns = 0  # of all connections
        self._pulses = 0  # of the stream when the connection was made
        self._broken = 0
        self.disconnections = 0
        self.lost_s = 0.0

    def resume(self, newest: RawMessage) -> None:
        """Go on behind a message that was put on a tape."""
        place = dict(newest.headers).get("adara", b"")
        self._stream = AdaraStream(dwell=self._section.dwell, place=place)
        self._newest_ns = newest.timestamp_ns

    @property
    def connected(self) -> bool:
        """Whether bytes came within the last eight seconds."""
        return self._socket is not None and self._monotonic() - self._heard < SILENT_S

    def poll(self, timeout_s: float) -> Sequence[RawMessage]:
        """Messages that came; none after the time-out."""
        if self._next is None:
            self._next = 0 if self._owner is None else self._owner.take(0).get(TOPIC, 0)
        if self._socket is None and not self._connect(timeout_s):
            return []
        self._receive(timeout_s)
        found: list[RawMessage] = []
        first = self._next
        while (packet := self._packet()) is not None:
            found += self._messages(packet)
            if self._wants_history():
                self._next = first
                return []
        return found

    def acknowledge(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Nothing to do: a server counts no messages."""

    def close(self) -> None:
        """Leave."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # -- connection -----------------------------------------------------------------------------

    def _connect(self, timeout_s: float) -> bool:
        wait = self._due - self._monotonic()
        if wait > timeout_s:
            self._sleep(timeout_s)
            return False
        if wait > 0:
            self._sleep(wait)
        now_ns = self._clock_ns()
        since_ns = self._since_ns if self._stream.joined_s else 0
        if self._newest_ns and self._section.history and self._broken < BROKEN_FRAMES:
            since_ns = min(self._newest_ns - AGAIN_NS, now_ns)
        try:
            self._socket = socket.create_connection(self._address, timeout=CONNECT_S)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._socket.sendall(encode_hello(now_ns, since_ns=since_ns, send_paused=True))
        except OSError as error:
            self.close()
            log.warning(
                "adara_not_connected", address=self.address, reason=str(error), pause_s=self._pause
            )
            self._due = self._monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
            return False
        self._since_ns = since_ns
        self._buffer.clear()
        self._heard = self._monotonic()
        self._pulses = self._stream.pulses
        log.info("adara_connected", address=self.address, since_ns=since_ns)
        return True

    def _disconnect(self, reason: str) -> None:
        self.close()
        self.disconnections += 1
        self._due = self._monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
        log.warning(
            "adara_disconnected",
            address=self.address,
            reason=reason,
            newest_ns=self._newest_ns,
            history=self._section.history,
        )

    def _wants_history(self) -> bool:
        """At the first connection: whether it led into a run, which is then asked for anew."""
        joined_s = self._stream.joined_s
        if joined_s is None or self._newest_ns or self._since_ns or not self._section.history:
            return False
        self._since_ns = joined_s * _SECOND
        log.info("adara_run_in_progress", address=self.address, since_ns=self._since_ns)
        self.close()
        fresh = AdaraStream(dwell=self._section.dwell, since_ns=self._since_ns)
        fresh.joined_s = joined_s
        self._stream = fresh
        return True

    def _receive(self, timeout_s: float) -> None:
        """Bytes that came, up to a batch."""
        if self._socket is None:
            return
        try:
            self._socket.settimeout(max(timeout_s, 1e-3))
            until = len(self._buffer) + BATCH_BYTES
            while len(self._buffer) < until:
                chunk = self._socket.recv(1 << 20)
                if not chunk:
                    self._disconnect("the server closed it")
                    return
                self._buffer += chunk
                self._heard = self._monotonic()
                self._socket.settimeout(1e-3)
        except TimeoutError:
            if self._monotonic() - self._heard >= DEAD_S:
                self._disconnect(f"nothing came for {DEAD_S:g} s")
        except OSError as error:
            self._disconnect(str(error))

    # -- packets --------------------------------------------------------------------------------

    def _packet(self) -> bytes | None:
        """The next whole packet; None until more has come."""
        if len(self._buffer) < _HEAD:
            return None
        try:
            size = packet_bytes(bytes(self._buffer[:_HEAD]))
        except WireError as error:
            broken = bytes(self._buffer[: 4 * _HEAD])  # to be set aside with its reason
            self._buffer.clear()
            self._broken += 1
            self._disconnect(str(error))
            return broken
        if len(self._buffer) < size:
            return None
        packet = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return packet

    def _messages(self, packet: bytes) -> list[RawMessage]:
        before = self._stream.pulses
        found = []
        for value, headers in self._stream.take(packet):
            found.append(
                RawMessage(
                    topic=TOPIC,
                    partition=0,
                    offset=self._next or 0,
                    value=value,
                    timestamp_ns=self._stream.time_ns or self._newest_ns or self._clock_ns(),
                    headers=headers,
                )
            )
            self._next = (self._next or 0) + 1
        if self._stream.pulses > before:
            if before == self._pulses:
                self._tell_gap()
            if self._stream.time_ns <= self._clock_ns() + AHEAD_NS:
                self._newest_ns = max(self._newest_ns, self._stream.time_ns)
            self._pause = PAUSE_S
            if self._stream.pulses > self._pulses + 100:
                self._broken = 0
        return found

    def _tell_gap(self) -> None:
        """The first pulse of a connection: what is missing before it, if anything."""
        gap_ns = self._stream.time_ns - self._newest_ns
        if not self._newest_ns:
            return
        if gap_ns > GAP_NS:
            self.lost_s += gap_ns / _SECOND
            log.warning(
                "adara_lost",
                address=self.address,
                seconds=gap_ns / _SECOND,
                from_ns=self._newest_ns,
                to_ns=self._stream.time_ns,
                meaning="pulses in between, if there were any, were not sent again",
            )
        else:
            log.info("adara_resumed", address=self.address, again_s=-gap_ns / _SECOND)
