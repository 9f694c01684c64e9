"""Records and openings of tape segments: messages to bytes and back, and what is torn.

Little endian throughout. Body: ``<HiqqiHI`` topic length, partition, offset, timestamp in ns, key
length or -1, headers, value length; then topic, key, headers (``<HI`` name and content lengths,
name, content) and value.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from crc32c import crc32c

from consumers.wire import RawMessage
from simulations.errors import InputError

VERSION = 1
MAGIC = b"BMSTTAPE"
MARKER = b"\xb5rec"
MAX_VALUE_BYTES = 256 * 2**20
MAX_TOPIC_BYTES = 1 << 10
MAX_KEY_BYTES = 1 << 16
MAX_HEADER_BYTES = 1 << 20  # of all headers of a message
MAX_OPENING_BYTES = 1 << 24  # of the JSON that opens a segment
_OPENING = struct.Struct("<8sHII")  # magic, version, length and CRC32C of the JSON that follows
HEAD = struct.Struct("<4sIII")  # marker, length and CRC32C of the body, CRC32C of the twelve bytes
_HEAD_START = struct.Struct("<4sII")
_CRC = struct.Struct("<I")
BODY = struct.Struct("<HiqqiHI")
_HEADER = struct.Struct("<HI")
_MAX_BODY = (
    BODY.size + MAX_TOPIC_BYTES + MAX_KEY_BYTES + MAX_HEADER_BYTES + MAX_VALUE_BYTES + (1 << 16)
)


class TapeError(InputError):
    """A tape that cannot be read or written; the message names file, byte and next step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TapePlace:
    """Where a record begins."""

    segment: int
    byte: int


class TornError(Exception):
    """Nothing that is whole begins here, and nothing whole follows: the end, for now."""

    def __init__(self, byte: int, left: int) -> None:
        super().__init__(byte, left)
        self.byte, self.left = byte, left


# -- one record ---------------------------------------------------------------------------------


def encoded(message: RawMessage) -> list[bytes]:
    """Head and body of a record, to be written one after the other.

    Raises
    ------
    TapeError
        If the message is larger than a tape takes.
    """
    topic = message.topic.encode()
    headers = [(name.encode(), content) for name, content in message.headers]
    sizes = (
        ("topic", len(topic), MAX_TOPIC_BYTES),
        ("key", len(message.key or b""), MAX_KEY_BYTES),
        ("headers", sum(len(n) + len(c) + _HEADER.size for n, c in headers), MAX_HEADER_BYTES),
        ("value", len(message.value), MAX_VALUE_BYTES),
    )
    for name, size, limit in sizes:
        if size > limit:
            raise TapeError(
                f"message of {message.topic[:80]!r}: its {name} has {size} bytes; expected at most "
                f"{limit}. Split it at the sender"
            )
    try:
        fixed = BODY.pack(
            len(topic),
            message.partition,
            message.offset,
            message.timestamp_ns,
            -1 if message.key is None else len(message.key),
            len(headers),
            len(message.value),
        )
        parts = [fixed, topic, message.key or b""]
        for name, content in headers:
            parts += [_HEADER.pack(len(name), len(content)), name, content]
    except struct.error as error:
        raise TapeError(
            f"message of {message.topic[:80]!r}: {error}; no tape can hold it"
        ) from None
    small = b"".join(parts)
    value = bytes(message.value)
    head = _HEAD_START.pack(MARKER, len(small) + len(value), crc32c(value, crc32c(small)))
    return [head + _CRC.pack(crc32c(head)) + small, value]


def decoded(body: bytes) -> RawMessage:
    """Message of a body whose check sum holds; ``struct.error`` or ``ValueError`` if it lies."""
    topic_size, partition, offset, timestamp_ns, key_size, headers, value_size = BODY.unpack_from(
        body
    )
    place = BODY.size
    topic = body[place : place + topic_size].decode()
    place += topic_size
    key = None
    if key_size >= 0:
        key = body[place : place + key_size]
        place += key_size
    found = []
    for _ in range(headers):
        name_size, content_size = _HEADER.unpack_from(body, place)
        place += _HEADER.size
        name = body[place : place + name_size].decode()
        place += name_size
        found.append((name, body[place : place + content_size]))
        place += content_size
    if place + value_size != len(body):
        raise InputError(f"value has {value_size} bytes of {len(body) - place}")
    return RawMessage(
        topic=topic,
        partition=partition,
        offset=offset,
        value=body[place:],
        key=key,
        timestamp_ns=timestamp_ns,
        headers=tuple(found),
    )


def head_at(path: Path, file: BinaryIO, byte: int, end: int) -> tuple[int, int]:
    """Length and check sum of the body whose head begins at a byte.

    Raises
    ------
    TornError
        If this is the torn end.
    TapeError
        If it is damaged and something whole follows.
    """
    file.seek(byte)
    head = file.read(HEAD.size)
    if len(head) == HEAD.size:
        marker, length, body_crc, head_crc = HEAD.unpack(head)
        if marker == MARKER and head_crc == crc32c(head[:12]) and length <= _MAX_BODY:
            if byte + HEAD.size + length > end:
                raise TornError(byte, end - byte)
            return length, body_crc
    torn_or_damaged(path, file, byte, byte + 1, end)


def torn_or_damaged(path: Path, file: BinaryIO, byte: int, search: int, end: int) -> NoReturn:
    """Judge bytes that are no record by what follows them; never returns."""
    following = _next_whole(file, search, end)
    if following is None:
        raise TornError(byte, end - byte)
    raise TapeError(
        f"{path}: byte {byte} is damaged, and whole records follow at byte {following}; expected "
        "an intact record. Restore the file from a copy; "
        f"`head -c {byte} {path.name}` keeps what comes before"
    )


def _next_whole(file: BinaryIO, byte: int, end: int) -> int | None:
    """First byte from which a whole record can be read, None to the end."""
    step = 1 << 20
    while byte < end:
        file.seek(byte)
        window = file.read(min(step + len(MARKER), end - byte))
        at = window.find(MARKER)
        while at >= 0:
            start = byte + at
            file.seek(start)
            head = file.read(HEAD.size)
            if len(head) == HEAD.size:
                _, length, body_crc, head_crc = HEAD.unpack(head)
                whole = head_crc == crc32c(head[:12]) and start + HEAD.size + length <= end
                if whole and crc32c(file.read(length)) == body_crc:
                    return start
            at = window.find(MARKER, at + 1)
        byte += step
    return None


# -- segments -----------------------------------------------------------------------------------


def segment_path(folder: Path, number: int) -> Path:
    """Path of a segment of a tape."""
    return folder / f"{number:08d}.tape"


def segments_of(folder: Path) -> list[int]:
    """Numbers of the segments of a tape, without a gap; the first may have been let go.

    Raises
    ------
    TapeError
        If the folder is no tape or a segment is missing.
    """
    if not folder.is_dir():
        raise TapeError(f"{folder}: no such tape; expected a folder of .tape files. Check the path")
    numbers = sorted(int(p.stem) for p in folder.glob("*.tape") if p.stem.isdigit())
    for expected, number in enumerate(numbers, start=numbers[0] if numbers else 0):
        if number != expected:
            raise TapeError(
                f"{segment_path(folder, expected)}: this segment is missing, {number:08d}.tape is "
                "there; expected all of them. Copy the tape again"
            )
    return numbers


def opening_of(tape: str, segment: int, positions: Mapping[tuple[str, int], int]) -> bytes:
    """Header of a segment: which tape, which segment, and what was written before it."""
    content = {
        "tape": tape,
        "segment": segment,
        "created_ns": time.time_ns(),
        "next": [[topic, partition, n] for (topic, partition), n in sorted(positions.items())],
    }
    text = json.dumps(content, ensure_ascii=False).encode()
    return _OPENING.pack(MAGIC, VERSION, len(text), crc32c(text)) + text


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """What the header of a segment says."""

    tape: str
    first_byte: int  # of the first record
    positions: dict[tuple[str, int], int]  # next offsets when the segment was begun


def read_opening(path: Path, file: BinaryIO, segment: int) -> Opening | None:
    """What a segment's header says; None where it was never written to its end.

    Raises
    ------
    TapeError
        If it is no tape, of a newer version, damaged or out of place.
    """
    file.seek(0)
    fixed = file.read(_OPENING.size)
    if len(fixed) >= len(MAGIC) and not fixed.startswith(MAGIC) and fixed.strip(b"\0"):
        raise TapeError(f"{path}: byte 0 is {fixed[:8]!r}; expected a tape ({MAGIC!r})")
    size = os.fstat(file.fileno()).st_size
    magic, version, length, check = (
        _OPENING.unpack(fixed) if len(fixed) == _OPENING.size else (b"", 0, 0, 0)
    )
    if magic == MAGIC and version > VERSION:
        raise TapeError(
            f"{path}: tape of version {version}; this Beamsteer reads up to {VERSION}. "
            "Replay it with the Beamsteer that wrote it, or a newer one"
        )
    text = file.read(min(length, MAX_OPENING_BYTES + 1))
    content = None
    if magic != MAGIC or len(text) < length:
        # cut short by a crash, or space that was never filled; but then nothing can follow
        if _next_whole(file, 0, size) is None and size <= _OPENING.size + MAX_OPENING_BYTES:
            return None
    elif version == VERSION and crc32c(text) == check:
        content = json.loads(text)
    if content is None:
        raise TapeError(f"{path}: byte 0, the header is damaged. Restore the file from a copy")
    if content["segment"] != segment:
        raise TapeError(
            f"{path}: holds segment {content['segment']}; expected {segment}. Undo the renaming"
        )
    return Opening(
        tape=content["tape"],
        first_byte=_OPENING.size + length,
        positions={(topic, partition): n for topic, partition, n in content["next"]},
    )


# -- reading ------------------------------------------------------------------------------------
