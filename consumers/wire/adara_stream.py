"""What ADARA packets mean in their stream: names of logs, and where dwells begin and end.

Every packet becomes one message that can be understood alone (see `consumers.wire.adara_codec`).
Where a dwell begins there is one message more: the packet that says so once again, and behind it
the packets that describe the instrument, which come after it in the stream.

A server sends again what it sent before: at the beginning of every file, and after a connection
was lost. The same packet always becomes the same message, by which those who assemble dwells know
it, so that nothing counts twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from consumers.wire.adara_codec import (
    ADARA_HEADER,
    BEGINS_HEADER,
    ENDS_HEADER,
    JOB,
    LOG_HEADER,
    AdaraKind,
    AdaraMarker,
    AdaraPacket,
    AdaraStatus,
    Variable,
    read_annotation,
    read_beamline,
    read_descriptor,
    read_geometry,
    read_packet,
    read_run_status,
    variable_of,
)
from consumers.wire.values import WireError

Headers = tuple[tuple[str, bytes], ...]
DwellBy = Literal["run", "scan"]

MAX_DEVICES = 20_000
MAX_DEVICE_BYTES = 64 * 2**20  # of all descriptors together
MAX_DESCRIPTION_BYTES = 12 * 2**20  # of what follows a begin
_VALUES = frozenset({AdaraKind.VARIABLE_U32, AdaraKind.VARIABLE_DOUBLE})
_DESCRIBING = frozenset(  # what may come between the begin of a run and its first data
    {
        AdaraKind.SYNC,
        AdaraKind.RUN_STATUS,
        AdaraKind.RUN_INFO,
        AdaraKind.GEOMETRY,
        AdaraKind.BEAMLINE_INFO,
        AdaraKind.BEAM_MONITOR_CONFIG,
        AdaraKind.DETECTOR_BANK_SETS,
        AdaraKind.PIXEL_MAPPING,
        AdaraKind.PIXEL_MAPPING_ALT,
        AdaraKind.DEVICE_DESCRIPTOR,
        AdaraKind.VARIABLE_STRING,
        AdaraKind.VARIABLE_U32,
        AdaraKind.VARIABLE_DOUBLE,
        AdaraKind.ANNOTATION,
        AdaraKind.SOURCE_LIST,
    }
)
_GOES_ON = frozenset({AdaraStatus.STATE, AdaraStatus.FILE_BEGINS, AdaraStatus.PROLOGUE})


class AdaraStream:
    """Follows one stream, packet by packet.

    Parameters
    ----------
    dwell : {"run", "scan"}
        What a dwell is: a run, or a scan (scan start to scan stop) inside a run.
    place : bytes
        Where it was, as ``place`` said.
    since_ns : int
        Runs that went on before are not taken up: their part that is sent is history.

    Attributes
    ----------
    time_ns : int
        Of the stream; 0 at first.
    pulses : int
        Packets of pulses so far.
    joined_s : int or None
        Start of a run, since the Unix epoch, into the middle of which the stream led.
    """

    def __init__(self, *, dwell: DwellBy = "run", place: bytes = b"", since_ns: int = 0) -> None:
        self._by: DwellBy = dwell
        self._open, _, self._ended = place.decode("utf-8", "replace").partition("|")
        self.since_ns = since_ns
        self._run = 0
        self._pending: tuple[bytes, str] | None = None  # the packet, and its job
        self._geometry = self._beamline = b""
        self._descriptors: dict[int, bytes] = {}
        self._described_bytes = 0
        self._variables: dict[tuple[int, int], Variable] = {}
        self.time_ns = 0
        self.pulses = 0
        self.joined_s: int | None = None

    @property
    def place(self) -> bytes:
        """Which dwell is open and which was the last, to go on from there after a restart."""
        return f"{self._open}|{self._ended}".encode()

    def take(self, content: bytes) -> Iterator[tuple[bytes, Headers]]:
        """Messages that a packet becomes: value and headers.

        Nothing is judged here: a damaged packet becomes a message that its codec refuses.
        """
        try:
            packet = read_packet(content)
        except WireError:
            yield content, self._headers()
            return
        if packet.kind not in _DESCRIBING:
            yield from self._begin()
        try:
            before, headers = self._follow(packet, content)
        except WireError:
            yield content, self._headers()
            return
        yield from before
        yield content, self._headers(*headers)

    def _headers(self, *more: tuple[str, bytes]) -> Headers:
        return ((ADARA_HEADER, self.place), *more)

    def _follow(
        self, packet: AdaraPacket, content: bytes
    ) -> tuple[Sequence[tuple[bytes, Headers]], Headers]:
        """Messages before that of the packet, and its own headers."""
        if packet.kind in _VALUES:
            variable = self._variables.get(variable_of(packet))
            return (), () if variable is None else ((LOG_HEADER, variable.name.encode()),)
        if packet.kind is AdaraKind.DEVICE_DESCRIPTOR:
            self._describe(packet, content)
        elif packet.kind is AdaraKind.GEOMETRY:
            read_geometry(packet)
            self._geometry = content
        elif packet.kind is AdaraKind.BEAMLINE_INFO:
            read_beamline(packet)
            self._beamline = content
        elif packet.kind is AdaraKind.RUN_STATUS:
            self.time_ns = packet.time_ns
            return self._status(packet, content)
        elif packet.kind is AdaraKind.ANNOTATION:
            self.time_ns = packet.time_ns
            return self._annotated(packet, content)
        elif packet.kind in (AdaraKind.BANKED_EVENTS, AdaraKind.BANKED_EVENTS_WITH_STATES):
            self.time_ns = packet.time_ns
            self.pulses += 1
        return (), ()

    def _describe(self, packet: AdaraPacket, content: bytes) -> None:
        device, variables = read_descriptor(packet)
        size = self._described_bytes + len(content) - len(self._descriptors.get(device, b""))
        many = device not in self._descriptors and len(self._descriptors) >= MAX_DEVICES
        if many or size > MAX_DEVICE_BYTES:
            raise WireError(
                f"{packet.label}: device {device} is beyond {MAX_DEVICES} devices, or "
                f"{MAX_DEVICE_BYTES} bytes, that are kept"
            )
        self._described_bytes = size
        self._descriptors[device] = content
        for number, variable in variables.items():
            self._variables[device, number] = variable

    # -- bounds ---------------------------------------------------------------------------------

    def _status(
        self, packet: AdaraPacket, content: bytes
    ) -> tuple[Sequence[tuple[bytes, Headers]], Headers]:
        said = read_run_status(packet)
        job = f"{JOB}{said.run}"
        if said.status is AdaraStatus.END_RUN:
            return self._end_of_run(job)
        self._run = said.run
        if self._by == "scan" or not said.run or job in (self._open, self._ended):
            return (), ()
        if said.status is AdaraStatus.NEW_RUN:
            self._pending, self.joined_s = (content, job), None
        elif said.status in _GOES_ON and self._pending is None and packet.time_ns >= self.since_ns:
            self.joined_s = said.start_s
            self._pending = (content, job)
        return (), ()

    def _end_of_run(self, job: str) -> tuple[Sequence[tuple[bytes, Headers]], Headers]:
        before = list(self._begin())
        if self._open == job or self._open.startswith(f"{job}-scan-"):
            return before, self._close()
        return before, ()

    def _annotated(
        self, packet: AdaraPacket, content: bytes
    ) -> tuple[Sequence[tuple[bytes, Headers]], Headers]:
        said = read_annotation(packet)
        if self._by == "run":
            return (), ()
        scan = f"{JOB}{self._run}-scan-{said.scan}"
        mine = self._open == scan or self._open.startswith(f"{scan}-")
        if said.marker is AdaraMarker.SCAN_START and not mine and packet.time_ns >= self.since_ns:
            self._pending = (content, f"{scan}-{packet.seconds}")
        elif said.marker is AdaraMarker.SCAN_STOP:
            before = list(self._begin())
            mine = self._open == scan or self._open.startswith(f"{scan}-")
            return before, self._close() if mine else ()
        return (), ()

    def _close(self) -> Headers:
        """The open dwell ends with this packet."""
        job, self._open = self._open, ""
        self._ended = job
        return ((ENDS_HEADER, job.encode()),)

    def _begin(self) -> Iterator[tuple[bytes, Headers]]:
        """The dwell that was announced begins, with all that describes the instrument."""
        if self._pending is None:
            return
        (content, job), self._pending = self._pending, None
        self._open = job
        parts = [content]
        room = MAX_DESCRIPTION_BYTES
        for part in (self._beamline, self._geometry, *self._descriptors.values()):
            if len(part) <= room:
                parts.append(part)
                room -= len(part)
        yield b"".join(parts), self._headers((BEGINS_HEADER, job.encode()))
