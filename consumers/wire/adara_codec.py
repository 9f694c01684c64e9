"""ADARA packets, as beamlines of the SNS stream them over TCP, to and from values of the wire.

A packet is a head of four words (bytes behind the head, kind and version, seconds since 1990 UTC,
nanoseconds) and a body of whole words; a word is an unsigned little-endian number of 32 bits.

======================  ========================================================================
packet                  value
======================  ========================================================================
banked events           Events of source ``detector``: reference time is that of the head, times of
                        flight are in 0.1 us; and LogSample ``proton_charge`` in pC (on the wire in
                        10 pC). Banks are not kept apart: identifiers are those of the instrument
run status              RunBegins and RunEnds where the stream says so, see below; else nothing
stream annotation       the same for scans; pause and resume are samples 1 and 0 of ``pause``
variable, u32, double   LogSample of the name that the device's descriptor gives it, unless it was
                        disconnected or invalid
heartbeat               Heartbeat
the others              nothing; their form is checked
======================  ========================================================================

One packet alone does not say all: names come from descriptors, geometry from another packet, and
which status begins a dwell depends on those before. So `consumers.wire.adara_stream` puts beside
a packet what it knew, as headers: ``adara`` (with every packet), ``log`` (name of a variable),
``begins`` or ``ends`` (job of the dwell). A packet with ``begins`` is followed by the packets that
describe the instrument, so that every message can be understood alone, also after a crash.

Times of flight are passed on as the facility writes them into files: its correction for the
electronics' offset is in them or not, and T0 refers to that. The layouts are those of
github.com/ADARA-Neutrons/adara (ADARA.h, ADARAPackets.h), protocol version 1.10.
"""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from consumers.wire.flatbuffers_codec import EARLIEST_NS, plausible_ns
from consumers.wire.msgpack_codec import MAX_MESSAGE_BYTES
from consumers.wire.values import (
    Events,
    Heartbeat,
    LogSample,
    RunBegins,
    RunEnds,
    Several,
    WireError,
    WireValue,
)

ADARA_HEADER, LOG_HEADER, BEGINS_HEADER, ENDS_HEADER = "adara", "log", "begins", "ends"
HEAD_BYTES = 16
MAX_PACKET_BYTES = MAX_MESSAGE_BYTES // 2  # so that a begin has room for the instrument behind it
MAX_TEXT_BYTES = 8 * 2**20  # geometry of a large instrument
MAX_TREE_NODES = 200_000
JOB = "adara-run-"  # begins the job of every dwell
DETECTOR = "detector"  # source of all events
CHARGE_LOG, CHARGE_UNIT = "proton_charge", "picoCoulombs"

EPOCH_1990_S = 631_152_000
_SECOND = 1_000_000_000
_HEAD = struct.Struct("<IIII")
_DOUBLE = struct.Struct("<d")
_LONGEST_TOF = (2**31 - 1) // 100  # 0.1 us that int32 ns can say
_LONGEST_NAME = 1024
_RTDL_BYTES, _RING_PERIOD_FRAME = 120, 4


class AdaraKind(IntEnum):
    """Kinds of packets."""

    RAW_EVENTS = 0x0000
    RTDL = 0x0001
    SOURCE_LIST = 0x0002
    MAPPED_EVENTS = 0x0003
    BANKED_EVENTS = 0x4000
    BEAM_MONITOR_EVENTS = 0x4001
    PIXEL_MAPPING = 0x4002
    RUN_STATUS = 0x4003
    RUN_INFO = 0x4004
    TRANSLATION_COMPLETE = 0x4005
    CLIENT_HELLO = 0x4006
    ANNOTATION = 0x4007
    SYNC = 0x4008
    HEARTBEAT = 0x4009
    GEOMETRY = 0x400A
    BEAMLINE_INFO = 0x400B
    DATA_DONE = 0x400C
    BEAM_MONITOR_CONFIG = 0x400D
    DETECTOR_BANK_SETS = 0x400E
    BANKED_EVENTS_WITH_STATES = 0x4100
    PIXEL_MAPPING_ALT = 0x4102
    DEVICE_DESCRIPTOR = 0x8000
    VARIABLE_U32 = 0x8001
    VARIABLE_DOUBLE = 0x8002
    VARIABLE_STRING = 0x8003
    VARIABLE_U32_ARRAY = 0x8004
    VARIABLE_DOUBLE_ARRAY = 0x8005
    VARIABLES_U32 = 0x8101
    VARIABLES_DOUBLE = 0x8102
    VARIABLES_STRING = 0x8103
    VARIABLES_U32_ARRAY = 0x8104
    VARIABLES_DOUBLE_ARRAY = 0x8105


class AdaraStatus(IntEnum):
    """What a run status packet says."""

    NO_RUN = 0
    NEW_RUN = 1
    FILE_ENDS = 2
    FILE_BEGINS = 3
    END_RUN = 4
    STATE = 5
    PROLOGUE = 6


class AdaraMarker(IntEnum):
    """What a stream annotation marks."""

    GENERIC = 0
    SCAN_START = 1
    SCAN_STOP = 2
    PAUSE = 3
    RESUME = 4
    RUN_COMMENT = 5
    SYSTEM = 6


_NEWEST_VERSION = {
    AdaraKind.RAW_EVENTS: 1,
    AdaraKind.RTDL: 1,
    AdaraKind.MAPPED_EVENTS: 1,
    AdaraKind.BANKED_EVENTS: 1,
    AdaraKind.BEAM_MONITOR_EVENTS: 1,
    AdaraKind.PIXEL_MAPPING_ALT: 1,
    AdaraKind.RUN_STATUS: 1,
    AdaraKind.CLIENT_HELLO: 1,
    AdaraKind.BEAMLINE_INFO: 1,
    AdaraKind.BEAM_MONITOR_CONFIG: 1,
}  # of the others: 0
_STATUSES = frozenset({*range(22), 0xFFFE, 0xFFFF})  # of variables, as EPICS counts them
_SEVERITIES = frozenset({0, 1, 2, 3, 0xFFFF})
_INVALID_SEVERITY, _DISCONNECTED = 3, 0xFFFE


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AdaraPacket:
    """One packet, its head read and its body not yet."""

    kind: AdaraKind
    version: int
    seconds: int  # since 1990-01-01 UTC
    nanoseconds: int
    body: bytes

    @property
    def label(self) -> str:
        """Name of the kind, for messages."""
        return f"ADARA {self.kind.name.lower().replace('_', ' ')}"

    @property
    def time_ns(self) -> int:
        """Time of the head, ns since the Unix epoch.

        Raises
        ------
        WireError
            If it lies outside 2000 to 2100.
        """
        time_ns = (self.seconds + EPOCH_1990_S) * _SECOND + self.nanoseconds
        return plausible_ns(time_ns, f"{self.label}: time")

    @property
    def words(self) -> NDArray[np.uint32]:
        """The body; (words,)."""
        return np.frombuffer(self.body, "<u4")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """Content of a run status packet."""

    status: AdaraStatus
    run: int
    start_s: int  # of the run, since the Unix epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """Content of a stream annotation."""

    marker: AdaraMarker
    scan: int
    comment: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Variable:
    """A variable as its device's descriptor describes it."""

    name: str
    unit: str


# -- packets ---------------------------------------------------------------------------


def packet_bytes(head: bytes | bytearray | memoryview) -> int:
    """Length of the packet that begins with these 16 bytes, head included.

    Raises
    ------
    WireError
        If no packet of ours begins so: what comes next on a connection cannot be told then.
    """
    length = int.from_bytes(head[:4], "little")
    if length % 4 or length + HEAD_BYTES > MAX_PACKET_BYTES:
        raise WireError(
            f"ADARA: a packet announces {length} bytes; expected a multiple of 4 up to "
            f"{MAX_PACKET_BYTES - HEAD_BYTES}. The connection lost its frame, or is no ADARA"
        )
    return HEAD_BYTES + length


def read_packet(value: bytes, place: int = 0) -> AdaraPacket:
    """The packet that begins at a byte.

    Raises
    ------
    WireError
        If it is cut, or its kind is unknown.
    """
    if len(value) - place < HEAD_BYTES:
        raise WireError(f"ADARA: has {len(value) - place} bytes; expected a head of {HEAD_BYTES}")
    size = packet_bytes(value[place : place + HEAD_BYTES])
    if len(value) - place < size:
        raise WireError(
            f"ADARA: a packet announces {size - HEAD_BYTES} bytes and has "
            f"{len(value) - place - HEAD_BYTES}; expected all of them"
        )
    _, form, seconds, nanoseconds = _HEAD.unpack_from(value, place)
    try:
        kind = AdaraKind(form >> 8)
    except ValueError:
        raise WireError(
            f"ADARA: kind is {form >> 8:#06x}; expected one of protocol version 1.10"
        ) from None
    if nanoseconds >= _SECOND:
        raise WireError(f"ADARA: {nanoseconds} nanoseconds; expected less than a second")
    return AdaraPacket(
        kind=kind,
        version=form & 0xFF,
        seconds=seconds,
        nanoseconds=nanoseconds,
        body=bytes(value[place + HEAD_BYTES : place + size]),
    )


def read_run_status(packet: AdaraPacket) -> RunStatus:
    """Content of a run status.

    Raises
    ------
    WireError
        If its length or its status is none.
    """
    _known(packet, 20 if packet.version else 12)
    run, start_s, word = (int(w) for w in packet.words[:3])
    try:
        status = AdaraStatus(word >> 24)
    except ValueError:
        raise WireError(
            f"{packet.label}: status is {word >> 24}; expected one of "
            f"{[int(s) for s in AdaraStatus]}"
        ) from None
    return RunStatus(status=status, run=run, start_s=start_s + EPOCH_1990_S)


def read_annotation(packet: AdaraPacket) -> Annotation:
    """Content of a stream annotation.

    Raises
    ------
    WireError
        If it is cut, or its marker or comment is none.
    """
    _known(packet, 8, exact=False)
    word, scan = (int(w) for w in packet.words[:2])
    try:
        marker = AdaraMarker((word >> 16) & 0x7FFF)
    except ValueError:
        raise WireError(
            f"{packet.label}: marker is {(word >> 16) & 0x7FFF}; expected one of "
            f"{[int(m) for m in AdaraMarker]}"
        ) from None
    return Annotation(marker=marker, scan=scan, comment=_text(packet, 8, word & 0xFFFF))


def read_geometry(packet: AdaraPacket) -> str:
    """Instrument definition.

    Raises
    ------
    WireError
        If it is cut or no XML.
    """
    _known(packet, 4, exact=False)
    text = _text(packet, 4, int(packet.words[0]))
    _tree(packet, text)
    return text


def read_beamline(packet: AdaraPacket) -> str:
    """Name of the instrument: the long one, as files have it, else the short one.

    Raises
    ------
    WireError
        If it is cut.
    """
    _known(packet, 4, exact=False)
    sizes = int(packet.words[0])
    identifier, short, long = (sizes >> 16) & 0xFF, (sizes >> 8) & 0xFF, sizes & 0xFF
    text = _raw(packet, 4, identifier + short + long)
    brief = _utf8(packet, text[identifier : identifier + short])
    return _utf8(packet, text[identifier + short :]) or brief


def read_descriptor(packet: AdaraPacket) -> tuple[int, dict[int, Variable]]:
    """Number of a device, and its variables by their numbers.

    Raises
    ------
    WireError
        If it is cut or no XML.
    """
    _known(packet, 8, exact=False)
    device, size = (int(w) for w in packet.words[:2])
    found: dict[int, Variable] = {}
    for node in _tree(packet, _text(packet, 8, size)).iter():
        if _plain(node.tag) != "process_variable":
            continue
        texts = {_plain(child.tag): (child.text or "").strip() for child in node}
        name, number = texts.get("pv_name", ""), texts.get("pv_id", "")
        if name and len(name.encode()) <= _LONGEST_NAME and number.isascii() and number.isdigit():
            found[int(number[:12])] = Variable(name=name, unit=texts.get("pv_units", ""))
    return device, found


def variable_of(packet: AdaraPacket) -> tuple[int, int]:
    """Device and variable of a packet with a value.

    Raises
    ------
    WireError
        If it is cut.
    """
    if len(packet.body) < 8:
        raise WireError(f"{packet.label}: has {len(packet.body)} bytes; expected at least 8")
    device, variable = (int(w) for w in packet.words[:2])
    return device, variable


def read_hello(packet: AdaraPacket) -> int:
    """Since when a client wants the stream, ns since the Unix epoch; 0: from now on.

    Raises
    ------
    WireError
        If it is no hello.
    """
    if packet.kind is not AdaraKind.CLIENT_HELLO:
        raise WireError(f"{packet.label}: came from a client; expected its hello")
    _known(packet, 8 if packet.version else 4)
    since_s = int(packet.words[0])
    return (since_s + EPOCH_1990_S) * _SECOND if since_s else 0


# -- values ----------------------------------------------------------------------------


def decode_adara(value: bytes, headers: Mapping[str, bytes]) -> WireValue:
    """What a packet says.

    Parameters
    ----------
    value : bytes
        The packet; with the header ``begins`` followed by packets that describe the instrument.
    headers : mapping
        What `consumers.wire.adara_stream` put beside it.

    Returns
    -------
    WireValue

    Raises
    ------
    WireError
        If the packet is damaged, of an unknown kind, or of a version whose layout is unknown here.
    """
    packet = read_packet(value)
    end = HEAD_BYTES + len(packet.body)
    begins, ends = headers.get(BEGINS_HEADER), headers.get(ENDS_HEADER)
    if end != len(value) and begins is None:
        raise WireError(
            f"{packet.label}: announces {end - HEAD_BYTES} bytes and has "
            f"{len(value) - HEAD_BYTES}; expected as many"
        )
    if packet.kind in (AdaraKind.RUN_STATUS, AdaraKind.ANNOTATION):
        return _bound(packet, value, end, begins, ends)
    if begins is not None or ends is not None:
        raise WireError(f"{packet.label}: begins or ends a dwell; expected a status or annotation")
    return _READERS.get(packet.kind, _unused)(packet, headers)


def _bound(
    packet: AdaraPacket, value: bytes, end: int, begins: bytes | None, ends: bytes | None
) -> WireValue:
    """What a status or an annotation says."""
    if packet.kind is AdaraKind.RUN_STATUS:
        source = f"run status {read_run_status(packet).status.name}"
        pause = None
    else:
        annotation = read_annotation(packet)
        source = f"annotation {annotation.marker.name}"
        pause = {AdaraMarker.PAUSE: 1.0, AdaraMarker.RESUME: 0.0}.get(annotation.marker)
    if begins is not None:
        job = _job(packet, begins)
        instrument, structure = _described(value, end)
        return RunBegins(
            job=job,
            chunk=job.removeprefix(JOB),
            source=source,
            start_time_ns=packet.time_ns,
            instrument_name=instrument,
            structure=structure,
        )
    if ends is not None:
        return RunEnds(job=_job(packet, ends), source=source, stop_time_ns=packet.time_ns)
    if pause is not None:
        return LogSample(source="pause", time_ns=packet.time_ns, value=np.array([pause]))
    return Several()


def _job(packet: AdaraPacket, content: bytes) -> str:
    job = _utf8(packet, content)
    if not job.startswith(JOB) or len(job) == len(JOB) or len(job) > _LONGEST_NAME:
        raise WireError(f"{packet.label}: job is {job[:80]!r}; expected {JOB}NUMBER")
    return job


def _described(value: bytes, place: int) -> tuple[str, dict[str, Any]]:
    """Instrument's name, and a NeXus template, of the packets behind a begin."""
    name, geometry = "", ""
    units = {CHARGE_LOG: CHARGE_UNIT}
    while place < len(value):
        packet = read_packet(value, place)
        place += HEAD_BYTES + len(packet.body)
        if packet.kind is AdaraKind.BEAMLINE_INFO:
            name = read_beamline(packet)
        elif packet.kind is AdaraKind.GEOMETRY:
            geometry = read_geometry(packet)
        elif packet.kind is AdaraKind.DEVICE_DESCRIPTOR:
            _, variables = read_descriptor(packet)
            units |= {v.name: v.unit for v in variables.values() if v.name != CHARGE_LOG}
        else:
            raise WireError(f"{packet.label} behind a begin; expected what describes an instrument")
    instrument: list[dict[str, Any]] = [_dataset("name", name)]
    if geometry:
        note = [_dataset("data", geometry), _dataset("type", "text/xml")]
        instrument.append(_group("instrument_xml", "NXnote", note))
    logs = [
        _group(log, "NXlog", [{"module": "f144", "config": {"source": log, "units": unit}}])
        for log, unit in units.items()
    ]
    entry = [
        _group("instrument", "NXinstrument", instrument),
        _group("DASlogs", "NXcollection", logs),
    ]
    return name, {"children": [_group("entry", "NXentry", entry)]}


def _group(name: str, nx_class: str, children: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    attributes = [{"name": "NX_class", "dtype": "string", "values": nx_class}]
    return {"type": "group", "name": name, "attributes": attributes, "children": list(children)}


def _dataset(name: str, text: str) -> dict[str, Any]:
    return {"module": "dataset", "config": {"name": name, "dtype": "string", "values": text}}


def _pulse(packet: AdaraPacket, headers: Mapping[str, bytes]) -> WireValue:
    """Neutrons and charge of one pulse."""
    _known(packet, 16, exact=False)
    time_ns, words = packet.time_ns, packet.words
    head = 3 if packet.kind is AdaraKind.BANKED_EVENTS_WITH_STATES else 2
    banks = list(_banks(packet, words, head))
    charge = LogSample(source=CHARGE_LOG, time_ns=time_ns, value=np.array([10.0 * float(words[0])]))
    found = np.concatenate(banks) if banks else np.empty((0, 2), np.uint32)
    if not len(found):
        return charge
    tof = found[:, 0]
    # a time that nobody can mean counts as before the pulse, which no reader folds
    ns = np.where(tof <= _LONGEST_TOF, tof.astype(np.int64) * 100, -1).astype(np.int32)
    events = Events(
        source=DETECTOR,
        sequence=crc32c(packet.body),  # so that a packet sent again is the same message
        reference_time_ns=np.array([time_ns], np.int64),
        reference_index=np.zeros(1, np.int64),
        time_of_flight_ns=ns,
        pixel_id=np.ascontiguousarray(found[:, 1]).view(np.int32),
    )
    return Several(values=(charge, events))


def _banks(
    packet: AdaraPacket, words: NDArray[np.uint32], head: int
) -> Iterator[NDArray[np.uint32]]:
    """(time of flight, identifier) of the events of every bank; (events, 2)."""
    place, end = 4, len(words)
    while place < end:
        if end - place < 4:
            raise WireError(f"{packet.label}: is cut in the head of a source, at word {place}")
        banks = int(words[place + 3])
        place += 4
        for _ in range(banks):
            if end - place < head:
                raise WireError(f"{packet.label}: is cut in the head of a bank, at word {place}")
            events = int(words[place + head - 1])
            place += head
            if 2 * events > end - place:
                raise WireError(
                    f"{packet.label}: a bank announces {events} events and has "
                    f"{(end - place) // 2}; expected all of them"
                )
            if events:
                yield words[place : place + 2 * events].reshape(-1, 2)
            place += 2 * events


def _value(packet: AdaraPacket, headers: Mapping[str, bytes]) -> WireValue:
    """A number that a device measured."""
    double = packet.kind is AdaraKind.VARIABLE_DOUBLE
    _known(packet, 20 if double else 16)
    device, variable, word = (int(w) for w in packet.words[:3])
    status, severity = word >> 16, word & 0xFFFF
    if status not in _STATUSES or severity not in _SEVERITIES:
        raise WireError(
            f"{packet.label}: status is {status} and severity {severity}; expected ones of EPICS"
        )
    if LOG_HEADER not in headers:
        raise WireError(
            f"{packet.label}: variable {variable} of device {device} has no descriptor; expected "
            "one before its first value"
        )
    value = _DOUBLE.unpack_from(packet.body, 12)[0] if double else float(packet.words[3])
    if severity == _INVALID_SEVERITY or status == _DISCONNECTED:
        return Several()
    time_ns = (packet.seconds + EPOCH_1990_S) * _SECOND + packet.nanoseconds
    return LogSample(
        source=_utf8(packet, headers[LOG_HEADER]),
        # a clock that was never set says 1990; the value holds all the same
        time_ns=EARLIEST_NS if time_ns < EARLIEST_NS else packet.time_ns,
        value=np.array([value], np.float64),
    )


def _heartbeat(packet: AdaraPacket, headers: Mapping[str, bytes]) -> WireValue:
    _known(packet, 0)
    return Heartbeat(service="ADARA", status={})


def _timing(packet: AdaraPacket, headers: Mapping[str, bytes]) -> WireValue:
    _known(packet, _RTDL_BYTES)
    if int(packet.words[4]) >> 24 != _RING_PERIOD_FRAME:
        raise WireError(f"{packet.label}: word 4 holds no ring period; expected frame 4 of RTDL")
    return Several()


def _monitors(packet: AdaraPacket, headers: Mapping[str, bytes]) -> WireValue:
    _known(packet, 16, exact=False)
    words, place = packet.words, 4
    while place < len(words):
        events = int(words[place]) & 0x3FFFFF
        place += 3 + events
    if place != len(words):
        raise WireError(f"{packet.label}: a section ends at word {place} of {len(words)}")
    return Several()


def _text_packet(packet: AdaraPacket, headers: Mapping[str, bytes]) -> WireValue:
    """Run info, geometry, descriptor, beamline: read where a dwell begins, checked here."""
    if packet.kind is AdaraKind.GEOMETRY:
        read_geometry(packet)
    elif packet.kind is AdaraKind.DEVICE_DESCRIPTOR:
        read_descriptor(packet)
    elif packet.kind is AdaraKind.BEAMLINE_INFO:
        read_beamline(packet)
    else:
        _known(packet, 4, exact=False)
        _tree(packet, _text(packet, 4, int(packet.words[0])))
    return Several()


def _text_value(packet: AdaraPacket, headers: Mapping[str, bytes]) -> WireValue:
    _known(packet, 16, exact=False)
    _raw(packet, 16, int(packet.words[3]))
    return Several()


def _sync(packet: AdaraPacket, headers: Mapping[str, bytes]) -> WireValue:
    _known(packet, 28, exact=False)
    _raw(packet, 28, int(packet.words[6]))
    return Several()


def _unused(packet: AdaraPacket, headers: Mapping[str, bytes]) -> WireValue:
    """Nothing is needed of it, whatever its version."""
    return Several()


_READERS: dict[AdaraKind, Callable[[AdaraPacket, Mapping[str, bytes]], WireValue]] = {
    AdaraKind.BANKED_EVENTS: _pulse,
    AdaraKind.BANKED_EVENTS_WITH_STATES: _pulse,
    AdaraKind.VARIABLE_U32: _value,
    AdaraKind.VARIABLE_DOUBLE: _value,
    AdaraKind.VARIABLE_STRING: _text_value,
    AdaraKind.HEARTBEAT: _heartbeat,
    AdaraKind.RTDL: _timing,
    AdaraKind.BEAM_MONITOR_EVENTS: _monitors,
    AdaraKind.RUN_INFO: _text_packet,
    AdaraKind.GEOMETRY: _text_packet,
    AdaraKind.BEAMLINE_INFO: _text_packet,
    AdaraKind.DEVICE_DESCRIPTOR: _text_packet,
    AdaraKind.SYNC: _sync,
}


# -- parts -----------------------------------------------------------------------------


def _known(packet: AdaraPacket, size: int, *, exact: bool = True) -> None:
    """A version whose layout is known, and room for it."""
    newest = _NEWEST_VERSION.get(packet.kind, 0)
    if packet.version > newest:
        raise WireError(
            f"{packet.label}: version is {packet.version}; expected at most {newest}. "
            "Update Beamsteer"
        )
    there = len(packet.body)
    if there < size or (exact and there != size):
        least = "" if exact else "at least "
        raise WireError(f"{packet.label}: has {there} bytes; expected {least}{size}")


def _raw(packet: AdaraPacket, place: int, size: int) -> bytes:
    """Bytes of a text, which fill the body to its last word."""
    there = len(packet.body) - place
    if size > there or size > MAX_TEXT_BYTES or there - size > 7:
        raise WireError(
            f"{packet.label}: a text announces {size} bytes where {there} are; expected them, "
            f"filled up to whole words, and at most {MAX_TEXT_BYTES}"
        )
    return packet.body[place : place + size]


def _text(packet: AdaraPacket, place: int, size: int) -> str:
    return _utf8(packet, _raw(packet, place, size))


def _utf8(packet: AdaraPacket, content: bytes) -> str:
    try:
        return content.rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError:
        raise WireError(f"{packet.label}: a text is no UTF-8: {content[:40]!r}") from None


def _tree(packet: AdaraPacket, text: str) -> ET.Element:
    """XML without entities, which could grow without end."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise WireError(f"{packet.label}: declares entities; expected plain XML")
    if text.count("<") > MAX_TREE_NODES:
        raise WireError(f"{packet.label}: has more than {MAX_TREE_NODES} tags")
    try:
        return ET.fromstring(text.strip())  # noqa: S314, entities are refused above
    except (ET.ParseError, ValueError) as error:
        raise WireError(f"{packet.label}: is no XML ({error})") from None


def _plain(tag: object) -> str:
    """Name of an element without its namespace."""
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""
