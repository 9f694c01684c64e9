"""ADARA packets written; their layouts are those of ``adara_codec.py``."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from consumers.wire.adara_codec import (
    EPOCH_1990_S,
    HEAD_BYTES,
    MAX_PACKET_BYTES,
    AdaraKind,
    AdaraMarker,
    AdaraStatus,
    Variable,
)
from simulations.errors import InputError

_SECOND = 1_000_000_000
_HEAD = struct.Struct("<IIII")
_WORD = struct.Struct("<I")


def encode_packet(kind: AdaraKind, version: int, time_ns: int, body: bytes = b"") -> bytes:
    """A packet; the body is filled up to whole words.

    Raises
    ------
    InputError
        If the time lies before 1990, or the packet is larger than a receiver takes.
    """
    seconds, nanoseconds = divmod(time_ns - EPOCH_1990_S * _SECOND, _SECOND)
    if not 0 <= seconds < 2**32:
        raise InputError(f"time is {time_ns} ns; expected one between 1990 and 2126")
    body += bytes(-len(body) % 4)
    if len(body) + HEAD_BYTES > MAX_PACKET_BYTES:
        raise InputError(
            f"an ADARA packet has {len(body)} bytes; expected at most "
            f"{MAX_PACKET_BYTES - HEAD_BYTES}"
        )
    return _HEAD.pack(len(body), kind << 8 | version, seconds, nanoseconds) + body


def encode_hello(time_ns: int, *, since_ns: int, send_paused: bool) -> bytes:
    """What a client says first.

    Parameters
    ----------
    time_ns : int
        Now, ns since the Unix epoch.
    since_ns : int
        Where the stream shall begin, as far back as the server keeps it; 0: now.
    send_paused : bool
        Whether what comes during a pause shall be sent too.
    """
    since_s = max(since_ns // _SECOND - EPOCH_1990_S, 1) if since_ns else 0
    flags = 2 if send_paused else 1
    return encode_packet(AdaraKind.CLIENT_HELLO, 1, time_ns, struct.pack("<II", since_s, flags))


def encode_run_status(time_ns: int, status: AdaraStatus, *, run: int, start_s: int) -> bytes:
    """A run begins, ends, or goes on; ``start_s`` since the Unix epoch."""
    body = struct.pack("<IIIII", run, max(start_s - EPOCH_1990_S, 0), status << 24, 0, 0)
    return encode_packet(AdaraKind.RUN_STATUS, 1, time_ns, body)


def encode_annotation(
    time_ns: int, marker: AdaraMarker, *, scan: int = 0, comment: str = ""
) -> bytes:
    """A mark in the stream."""
    text = comment.encode()[:0xFFFF]
    body = struct.pack("<II", marker << 16 | len(text), scan) + text
    return encode_packet(AdaraKind.ANNOTATION, 0, time_ns, body)


def encode_geometry(time_ns: int, xml: str) -> bytes:
    """The instrument definition."""
    text = xml.encode()
    return encode_packet(AdaraKind.GEOMETRY, 0, time_ns, _WORD.pack(len(text)) + text)


def encode_beamline(time_ns: int, name: str) -> bytes:
    """Name of the instrument, which is identifier, short and long name at once."""
    text = name.encode()[:255]
    sizes = 1 << 24 | len(text) << 16 | len(text) << 8 | len(text)
    return encode_packet(AdaraKind.BEAMLINE_INFO, 1, time_ns, _WORD.pack(sizes) + 3 * text)


def encode_descriptor(time_ns: int, device: int, variables: Sequence[Variable]) -> bytes:
    """A device, its variables counted from 1, all doubles."""
    root = ET.Element("device")
    ET.SubElement(root, "device_name").text = f"device{device}"
    parent = ET.SubElement(root, "process_variables")
    for number, variable in enumerate(variables, 1):
        node = ET.SubElement(parent, "process_variable")
        texts = {"name": variable.name, "id": str(number), "type": "double", "units": variable.unit}
        for key, text in texts.items():
            ET.SubElement(node, f"pv_{key}").text = text
    text = ET.tostring(root, encoding="utf-8")
    body = struct.pack("<II", device, len(text)) + text
    return encode_packet(AdaraKind.DEVICE_DESCRIPTOR, 0, time_ns, body)


def encode_double(time_ns: int, device: int, variable: int, value: float) -> bytes:
    """A value of a variable."""
    body = struct.pack("<IIId", device, variable, 0, value)
    return encode_packet(AdaraKind.VARIABLE_DOUBLE, 0, time_ns, body)


def encode_pulse(
    time_ns: int,
    charge: int,
    banks: Mapping[int, tuple[NDArray[np.uint32], NDArray[np.uint32]]],
) -> bytes:
    """Neutrons of one pulse.

    Parameters
    ----------
    time_ns : int
        Of the pulse.
    charge : int
        Proton charge in 10 pC.
    banks : mapping
        By number of the bank: times of flight in 0.1 us and identifiers, (events,) each.
    """
    parts = [struct.pack("<IIII", charge, 0, 0, 0x200)]
    if banks:
        parts.append(struct.pack("<IIII", 0, 0, 1 << 31, len(banks)))
        for bank, (tof, pixel) in banks.items():
            parts.append(struct.pack("<II", bank, len(tof)))
            parts.append(np.column_stack([tof, pixel]).astype("<u4").tobytes())
    return encode_packet(AdaraKind.BANKED_EVENTS, 1, time_ns, b"".join(parts))
