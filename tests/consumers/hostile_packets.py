"""Good ADARA packets, a mutator, and a slow reader that shares no code with the codec.

As a program it throws mutated packets at `decode` in a process of its own, under a limit of memory,
compares every answer with the slow reader's, and writes what happened as JSON:
``python -m tests.consumers.hostile_packets SEED COUNT``.
"""

from __future__ import annotations

import faulthandler
import json
import math
import random
import resource
import signal
import struct
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

from consumers.wire import (
    Events,
    Heartbeat,
    LogSample,
    RawMessage,
    RunBegins,
    RunEnds,
    Several,
    WireError,
    decode,
)
from tests.consumers.hostile_messages import memory_mb

NOW_S, NOW_NSEC = 878_435_278, 543_570_666  # since 1990: November 2017
EPOCH_S = 631_152_000
XML = '<?xml version="1.0"?><instrument name="TOY"><component type="bank"/></instrument>'
DEVICE_XML = (
    '<device xmlns="http://public.sns.gov/schema/device.xsd"><device_name>motors</device_name>'
    "<process_variables><process_variable><pv_name>s1</pv_name><pv_id>3</pv_id>"
    "<pv_type>double</pv_type><pv_units>deg</pv_units></process_variable>"
    "<process_variable><pv_name>BL14B:SE:T</pv_name><pv_id>4</pv_id><pv_type>unsigned</pv_type>"
    "</process_variable></process_variables></device>"
)
Headers = tuple[tuple[str, bytes], ...]


def packet(
    kind: int, body: bytes = b"", *, version: int = 0, s: int = NOW_S, nsec: int = NOW_NSEC
) -> bytes:
    """A packet by the words of the protocol."""
    body += bytes(-len(body) % 4)
    return struct.pack("<IIII", len(body), kind << 8 | version, s, nsec) + body


def words(*numbers: int) -> bytes:
    """Little-endian words."""
    return struct.pack(f"<{len(numbers)}I", *numbers)


def sized(text: str, *before: int) -> bytes:
    """Words, the length of a text, and the text."""
    content = text.encode()
    return words(*before, len(content)) + content


def banked(*banks: tuple[int, list[tuple[int, int]]], charge: int = 1_426_846) -> bytes:
    """A pulse of one source."""
    body = words(charge, 0, 7, 0x200, 5, 0, 1 << 31, len(banks))
    for bank, events in banks:
        body += words(bank, len(events), *(n for event in events for n in event))
    return packet(0x4000, body, version=1)


def run_status(status: int, run: int = 178_921, *, start_s: int = NOW_S, **head: int) -> bytes:
    """A run status of version 1."""
    return packet(0x4003, words(run, start_s, status << 24, 0, 0), version=1, **head)


def geometry(xml: str = XML) -> bytes:
    """A geometry packet."""
    return packet(0x400A, sized(xml))


def beamline(name: str = "TOY") -> bytes:
    """Identifier, short and long name."""
    n = len(name)
    return packet(
        0x400B, words(1 << 24 | 2 << 16 | 2 << 8 | n) + b"BLTT" + name.encode(), version=1
    )


def descriptor(xml: str = DEVICE_XML, device: int = 9) -> bytes:
    """A device descriptor."""
    return packet(0x8000, sized(xml, device))


def double(
    value: float, *, device: int = 9, variable: int = 3, status: int = 0, **head: int
) -> bytes:
    """A value of a variable."""
    return packet(0x8002, words(device, variable, status) + struct.pack("<d", value), **head)


def annotation(marker: int, scan: int = 0, comment: str = "", **head: int) -> bytes:
    """A stream annotation."""
    text = comment.encode()
    return packet(0x4007, words(marker << 16 | len(text), scan) + text, **head)


ADARA: Headers = (("adara", b"|"),)
LOG: Headers = (*ADARA, ("log", b"s1"))
BEGINS: Headers = (*ADARA, ("begins", b"adara-run-178921"))
ENDS: Headers = (*ADARA, ("ends", b"adara-run-178921"))


@cache
def good_packets() -> dict[str, tuple[bytes, Headers]]:
    """A packet of every kind that says something, and some that do not."""
    events = [(120_000 + 7 * i, 1000 + i) for i in range(6)]
    return {
        "pulse": (banked((3, events), (4, events[:2])), ADARA),
        "empty pulse": (packet(0x4000, words(5, 0, 0, 0), version=1), ADARA),
        "pulse of two sources": (
            packet(
                0x4000,
                words(5, 0, 0, 0, 1, 0, 0, 1, 2, 1, 77, 88, 2, 0, 0, 0),
                version=1,
            ),
            ADARA,
        ),
        "pulse with states": (
            packet(0x4100, words(5, 0, 0, 0, 1, 0, 0, 1, 2, 1, 2, 77, 88, 99, 0x80000007)),
            ADARA,
        ),
        "doubted events": (banked((0xFFFFFFFE, [(9, 0x80000003), (2**32 - 1, 5)])), ADARA),
        "number": (double(12.5), LOG),
        "whole number": (packet(0x8001, words(9, 4, 0, 42)), LOG),
        "invalid number": (double(0.0, status=0xFFFE << 16 | 3), LOG),
        "nameless number": (double(1.0), ADARA),
        "text value": (packet(0x8003, sized("open", 9, 5, 0)), ADARA),
        "new run": (run_status(1) + beamline() + geometry() + descriptor(), BEGINS),
        "end of run": (run_status(4), ENDS),
        "state": (run_status(5), ADARA),
        "old status": (packet(0x4003, words(178_921, NOW_S, 2 << 24)), ADARA),
        "scan start": (annotation(1, 3, "scan 3"), BEGINS),
        "pause": (annotation(3, comment="shutter"), ADARA),
        "resume": (annotation(4), ADARA),
        "comment": (annotation(0, comment="nice"), ADARA),
        "geometry": (geometry(), ADARA),
        "beamline": (beamline(), ADARA),
        "descriptor": (descriptor(), ADARA),
        "run info": (packet(0x4004, sized("<runinfo><title>x</title></runinfo>")), ADARA),
        "heartbeat": (packet(0x4009), ADARA),
        "sync": (packet(0x4008, bytes(16) + words(0, 0) + sized("")), ADARA),
        "timing": (packet(0x0001, words(0, 0, 0, 0, 4 << 24) + bytes(100), version=1), ADARA),
        "monitors": (packet(0x4001, words(5, 0, 0, 0, 1 << 22 | 2, 0, 0, 7, 8), version=1), ADARA),
        "sources": (packet(0x0002, words(1, 2, 3)), ADARA),
    }


# --- the slow reader: what the protocol says, byte by byte -------------------------------------

KINDS = {
    0x0000, 0x0001, 0x0002, 0x0003, *range(0x4000, 0x400F), 0x4100, 0x4102,
    *range(0x8000, 0x8006), *range(0x8101, 0x8106),
}  # fmt: skip


class RefusedError(Exception):
    """The slow reader does not understand it."""


def need(condition: bool) -> None:
    if not condition:
        raise RefusedError


def reading(value: bytes, headers: dict[str, bytes]) -> tuple[Any, ...]:
    """What a packet says, as plain numbers and texts."""
    kind, version, s, nsec, body = _split(value, 0)
    rest = value[16 + len(body) :]
    begins, ends = headers.get("begins"), headers.get("ends")
    need(begins is not None or not rest)
    bound = kind in (0x4003, 0x4007)
    need(bound or (begins is None and ends is None))
    time_ns = (s + EPOCH_S) * 10**9 + nsec
    if bound:
        pause = _status(body, version) if kind == 0x4003 else _annotation(body, version)
        if begins is not None:
            job = _job(begins)
            return ("begins", job, _time(time_ns), *_instrument(rest))
        if ends is not None:
            return ("ends", _job(ends), _time(time_ns))
        return ("nothing",) if pause is None else ("log", "pause", _time(time_ns), pause)
    if kind in (0x4000, 0x4100):
        need(version <= (kind == 0x4000))
        return ("pulse", _time(time_ns), *_pulse(body, 2 if kind == 0x4000 else 3))
    if kind in (0x8001, 0x8002):
        need(version == 0 and len(body) == (16 if kind == 0x8001 else 20))
        word = struct.unpack_from("<I", body, 8)[0]
        need(word >> 16 in {*range(22), 0xFFFE, 0xFFFF} and word & 0xFFFF in {0, 1, 2, 3, 0xFFFF})
        need("log" in headers)
        if word >> 16 == 0xFFFE or word & 0xFFFF == 3:
            return ("nothing",)
        number = struct.unpack_from("<I" if kind == 0x8001 else "<d", body, 12)[0]
        earliest = 946_684_800 * 10**9
        t = earliest if time_ns < earliest else _time(time_ns)
        return ("log", headers["log"].decode(), t, float(number))
    if kind == 0x4009:
        need(version == 0 and not body)
        return ("alive",)
    _unused(kind, version, body)
    return ("nothing",)


def _split(value: bytes, at: int) -> tuple[int, int, int, int, bytes]:
    need(len(value) - at >= 16)
    length, form, s, nsec = struct.unpack_from("<IIII", value, at)
    need(length % 4 == 0 and length + 16 <= 16 * 2**20 and len(value) - at >= 16 + length)
    need(form >> 8 in KINDS and nsec < 10**9)
    return form >> 8, form & 255, s, nsec, value[at + 16 : at + 16 + length]


def _time(time_ns: int) -> int:
    need(946_684_800 * 10**9 <= time_ns < 4_102_444_800 * 10**9)
    return time_ns


def _job(content: bytes) -> str:
    job = content.decode()
    need(job.startswith("adara-run-") and len(job) > 10)
    return job


def _status(body: bytes, version: int) -> None:
    need((version, len(body)) in ((0, 12), (1, 20)))
    need(body[11] <= 6)


def _annotation(body: bytes, version: int) -> float | None:
    need(version == 0 and len(body) >= 8)
    size, marker = struct.unpack_from("<HH", body)
    need(marker & 0x7FFF <= 6)
    _text(body, 8, size)
    return {3: 1.0, 4: 0.0}.get(marker & 0x7FFF)


def _text(body: bytes, at: int, size: int) -> str:
    need(0 <= len(body) - at - size <= 7 and size <= 8 * 2**20)
    try:
        return body[at : at + size].rstrip(b"\0").decode()
    except UnicodeDecodeError:
        raise RefusedError from None


def _xml(text: str) -> ET.Element:
    need("<!DOCTYPE" not in text and "<!ENTITY" not in text)
    try:
        return ET.fromstring(text.strip())  # noqa: S314, entities are refused above
    except (ET.ParseError, ValueError):
        raise RefusedError from None


def _number(body: bytes, at: int) -> int:
    need(len(body) >= at + 4)
    return int.from_bytes(body[at : at + 4], "little")


def _pulse(body: bytes, head: int) -> tuple[float, tuple[tuple[int, int], ...]]:
    need(len(body) >= 16)
    events, at = [], 16
    while at < len(body):
        banks = _number(body, at + 12)
        at += 16
        for _ in range(banks):
            count = _number(body, at + 4 * head - 4)
            at += 4 * head
            need(len(body) - at >= 8 * count)
            for _ in range(count):
                tof, pixel = _number(body, at), _number(body, at + 4)
                at += 8
                ns = 100 * tof if 100 * tof < 2**31 else -1
                events.append((ns, pixel - 2**32 if pixel >= 2**31 else pixel))
    return 10.0 * _number(body, 0), tuple(events)


def _instrument(rest: bytes) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    name, xml, units = "", "", {"proton_charge": "picoCoulombs"}
    at = 0
    while at < len(rest):
        kind, version, _, _, body = _split(rest, at)
        at += 16 + len(body)
        if kind == 0x400B:
            name = _beamline(body, version)
        elif kind == 0x400A:
            need(version == 0)
            xml = _text(body, 4, _number(body, 0))
            _xml(xml)
        else:
            need(kind == 0x8000)
            units |= _device(body, version)
    return name, xml, tuple(sorted(units.items()))


def _beamline(body: bytes, version: int) -> str:
    need(version <= 1)
    sizes = _number(body, 0)
    long, short, own = sizes & 255, sizes >> 8 & 255, sizes >> 16 & 255
    need(0 <= len(body) - 4 - long - short - own <= 7)
    try:
        texts = [
            body[4 + own + short : 4 + own + short + long].rstrip(b"\0").decode(),
            body[4 + own : 4 + own + short].rstrip(b"\0").decode(),
        ]
    except UnicodeDecodeError:
        raise RefusedError from None
    return texts[0] or texts[1]


def _device(body: bytes, version: int) -> dict[str, str]:
    need(version == 0)
    root = _xml(_text(body, 8, _number(body, 4)))
    found = {}
    for node in root.iter():
        if not isinstance(node.tag, str) or node.tag.split("}")[-1] != "process_variable":
            continue
        texts = {
            child.tag.split("}")[-1]: (child.text or "").strip()
            for child in node
            if isinstance(child.tag, str)
        }
        name, number = texts.get("pv_name", ""), texts.get("pv_id", "")
        if name and number.isascii() and number.isdigit() and name != "proton_charge":
            found[int(number[:12])] = (name, texts.get("pv_units", ""))
    return dict(found.values())


def _unused(kind: int, version: int, body: bytes) -> None:
    if kind == 0x0001:
        need(version <= 1 and len(body) == 120 and body[19] == 4)
    elif kind == 0x4001:
        need(version <= 1 and len(body) >= 16)
        at = 16
        while at < len(body):
            at += 12 + 4 * (_number(body, at) & 0x3FFFFF)
        need(at == len(body))
    elif kind == 0x8003:
        need(version == 0)
        need(0 <= len(body) - 16 - _number(body, 12) <= 7)
    elif kind == 0x4008:
        need(version == 0 and len(body) >= 28)
        need(0 <= len(body) - 28 - _number(body, 24) <= 7)
    elif kind == 0x4004:
        need(version == 0)
        _xml(_text(body, 4, _number(body, 0)))
    elif kind == 0x400A:
        need(version == 0)
        _xml(_text(body, 4, _number(body, 0)))
    elif kind == 0x400B:
        _beamline(body, version)
    elif kind == 0x8000:
        _device(body, version)


def plain(value: object) -> tuple[Any, ...]:
    """A decoded value as the slow reader says it."""
    if isinstance(value, LogSample) and value.source != "proton_charge":
        return ("log", value.source, value.time_ns, float(value.value[0]))
    if isinstance(value, LogSample):
        return ("pulse", value.time_ns, float(value.value[0]), ())
    if isinstance(value, Several) and value.values:
        charge, events = value.values
        assert isinstance(charge, LogSample)
        assert isinstance(events, Events)
        assert events.reference_time_ns.tolist() == [charge.time_ns]
        assert events.reference_index.tolist() == [0]
        pairs = zip(events.time_of_flight_ns.tolist(), events.pixel_id.tolist(), strict=True)
        return ("pulse", charge.time_ns, float(charge.value[0]), tuple(pairs))
    if isinstance(value, Several):
        return ("nothing",)
    if isinstance(value, Heartbeat):
        return ("alive",)
    if isinstance(value, RunEnds):
        return ("ends", value.job, value.stop_time_ns)
    assert isinstance(value, RunBegins)
    children = value.structure["children"][0]["children"]
    notes = children[0]["children"][1:]
    xml = notes[0]["children"][0]["config"]["values"] if notes else ""
    units = {log["name"]: log["children"][0]["config"]["units"] for log in children[1]["children"]}
    name = value.instrument_name
    return ("begins", value.job, value.start_time_ns, name, xml, tuple(sorted(units.items())))


def equal(one: tuple[Any, ...], two: tuple[Any, ...]) -> bool:
    """The same, NaN being NaN."""
    if len(one) != len(two):
        return False
    return all(
        a == b
        or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))
        for a, b in zip(one, two, strict=True)
    )


# --- mutants -----------------------------------------------------------------------------------

_WORDS = (0, 1, 2, 3, 4, 7, 8, 2**16 - 1, 2**22, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A packet with one to three places spoilt."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 3))):
        if len(data) < 4:
            return bytes(data)
        way = chance.randrange(9)
        word = 4 * chance.randrange(len(data) // 4)
        if way == 0:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif way == 1:
            data[chance.randrange(len(data))] = chance.randrange(256)
        elif way in (2, 3):
            number = chance.choice((*_WORDS, len(data), len(data) - 16, chance.randrange(2**32)))
            data[word : word + 4] = (number & 0xFFFFFFFF).to_bytes(4, "little")
        elif way == 4:
            del data[chance.randrange(len(data)) :]
        elif way == 5:
            data += chance.randbytes(chance.choice((1, 4, 8, 64)))
        elif way == 6:
            del data[word : word + 4 * chance.randrange(1, 4)]
        elif way == 7:  # another kind or version over the same body
            kind = chance.choice(sorted(KINDS))
            data[4:8] = (kind << 8 | chance.choice((0, 0, 1, 2))).to_bytes(4, "little")
        else:  # a length that fits again
            data[0:4] = (len(data) - 16 & 0xFFFFFFFC).to_bytes(4, "little")
    return bytes(data)


def mutants(seed: int) -> Iterator[tuple[str, bytes, Headers]]:
    """Mutated packets without end: name of what it was, value, headers."""
    chance = random.Random(seed)  # noqa: S311
    good = good_packets()
    names = sorted(good)
    while True:
        name = chance.choice(names)
        content, headers = good[name]
        if chance.random() < 0.05:
            headers = chance.choice((ADARA, LOG, BEGINS, ENDS))
        yield name, mutated(content, chance), headers


def raw(value: bytes, headers: Headers = ADARA, offset: int = 0) -> RawMessage:
    """A message as the source makes it."""
    return RawMessage(topic="adara", partition=0, offset=offset, value=value, headers=headers)


def throw(seed: int, count: int) -> dict[str, Any]:
    """Throw mutants at `decode`, and hold every answer against the slow reader's."""
    faulthandler.register(signal.SIGVTALRM, chain=True)
    kinds: dict[str, Counter[str]] = {}
    wrong: list[str] = []
    resident: list[float] = []
    began, decoding, slowest = time.process_time(), 0.0, 0.0
    stream = mutants(seed)
    for number in range(count):
        if number % 1000 == 0:
            signal.setitimer(signal.ITIMER_VIRTUAL, 60.0)
        if number % max(count // 20, 1) == 0:
            resident.append(memory_mb("VmRSS"))
        name, content, headers = next(stream)
        before = time.process_time()
        found: tuple[Any, ...] | None
        try:
            value = decode(raw(content, headers))
            took = time.process_time() - before
            found = plain(value)
        except WireError as error:
            took = time.process_time() - before
            found = None
            if error.__cause__ is not None:
                wrong.append(f"{name}, number {number}: a hole, {error!s:.120}")
        decoding, slowest = decoding + took, max(slowest, took)
        expected: tuple[Any, ...] | None
        try:
            expected = reading(content, dict(headers))
        except RefusedError:
            expected = None
        if (found is None) != (expected is None) or (
            found is not None and expected is not None and not equal(found, expected)
        ):
            wrong.append(f"{name}, number {number}: {found!s:.200}; expected {expected!s:.200}")
        kinds.setdefault(name, Counter())["refused" if found is None else "decoded"] += 1
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
    resident.append(memory_mb("VmRSS"))
    return {
        "seed": seed,
        "count": count,
        "decoded": sum(kind["decoded"] for kind in kinds.values()),
        "refused": sum(kind["refused"] for kind in kinds.values()),
        "kinds": {name: dict(kind) for name, kind in sorted(kinds.items())},
        "wrong": wrong[:20],
        "seconds": time.process_time() - began,
        "decoding_seconds": decoding,
        "slowest_ms": slowest * 1e3,
        "resident_MB": resident,
    }


def main() -> None:
    """Warm up, take away the memory for more than half a gigabyte on top, and throw."""
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    throw(seed ^ 0x5EED, 2000)
    limit = int(memory_mb("VmSize")) * 2**20 + 2**29
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.stdout.write(json.dumps(throw(seed, count)) + "\n")


if __name__ == "__main__":
    main()
