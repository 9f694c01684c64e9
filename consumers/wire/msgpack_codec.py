"""Msgpack with numpy arrays in the layout of `msgpack_numpy`, safe on bytes of strangers.

An array is the map ``{b"nd": True, b"type": "<f8", b"kind": b"", b"shape": [2, 3], b"data": ...}``,
a numpy scalar ``{b"nd": False, b"type": "<f8", b"data": ...}``. `msgpack_numpy` reads what `pack`
writes, and `unpack` reads what it writes as long as it is numbers: it puts a pickle into ``data``
for arrays of objects (``kind`` ``b"O"``), and those are refused here, as are structured types,
text, times, extension types, a key given twice, keys that are no text, and everything larger than
the limits. Nothing in this module can call pickle.

A compiled walk over the bytes checks nesting, lengths and counts before msgpack sees them, so that
a message of a few bytes cannot claim gigabytes and a truncated one is never half built.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from msgpack.exceptions import UnpackException
from numpy.typing import NDArray

from consumers.wire.values import WireError
from simulations.kernels import njit

# bluesky-kafka replaces the functions of `msgpack` by those of `msgpack_numpy`, which call pickle:
# these are taken from where they are defined.
try:
    from msgpack._cmsgpack import Packer, unpackb  # pyright: ignore[reportMissingImports]
except ImportError:
    from msgpack.fallback import Packer, unpackb

MAX_MESSAGE_BYTES = 32 * 2**20  # what broker and clients are set for
MAX_DEPTH = 48  # of nested lists and maps
MAX_OBJECTS = 2_000_000  # single values; numbers in an array's bytes do not count
MAX_MAP_ENTRIES = 20_000  # of all maps together: every one costs time in the schemas of documents
MAX_AXES = 4

_NUMBERS = re.compile(r"[<>|](b1|[iu][1248]|f[248]|c8|c16)")
_ARRAY_KEYS = {b"nd", b"type", b"kind", b"shape", b"data"}
_PICKLE_OPENINGS = (b"(dp", b"(lp", b"}q", b"]q", b"c", b"(i")

# What the compiled walk found.
_SOUND, _TRUNCATED, _TRAILING, _DEEP, _MANY, _WIDE, _EXTENSION, _RESERVED = range(8)


def pack(content: Any) -> bytes:
    """Msgpack of lists, maps with text keys, numbers, text, bytes and numeric numpy arrays.

    Parameters
    ----------
    content : object
        Arrays keep type and shape and are written in C order.

    Returns
    -------
    bytes
        As `msgpack_numpy` would write it.

    Raises
    ------
    TypeError
        If there is something that `unpack` would refuse: an array of objects, text or times, or a
        class that msgpack does not know.
    """
    return bytes(Packer(default=_as_map).pack(content))  # pyright: ignore[reportArgumentType]


def _as_map(item: Any) -> Any:
    if isinstance(item, np.ndarray):
        _check_packable(item.dtype)
        # One copy less than tobytes: msgpack takes the memory of a contiguous array as it is.
        data = np.ascontiguousarray(item)
        return {
            b"nd": True,
            b"type": item.dtype.str,
            b"kind": b"",
            b"shape": item.shape,
            b"data": data.data if data.size else b"",
        }
    if isinstance(item, (np.number, np.bool_)):
        _check_packable(item.dtype)
        return {b"nd": False, b"type": item.dtype.str, b"data": item.tobytes()}
    if isinstance(item, Mapping):
        return dict(item)
    raise TypeError(
        f"msgpack: {type(item).__name__} cannot be sent; expected numbers, text, bytes, lists, "
        "maps or numeric arrays"
    )


def _check_packable(dtype: np.dtype[Any]) -> None:
    if _NUMBERS.fullmatch(dtype.str) is None:
        raise TypeError(
            f"msgpack: an array of {dtype} cannot be sent; expected booleans, integers or floats"
        )


def unpack(data: bytes) -> Any:
    """Content of msgpack bytes; maps have text keys, arrays are read-only views where they can.

    Parameters
    ----------
    data : bytes
        Exactly one msgpack value.

    Returns
    -------
    object
        None, bool, int, float, complex, str, bytes, list, dict or ``numpy.ndarray`` in native
        byte order.

    Raises
    ------
    WireError
        If the bytes are damaged, beyond the limits of this module, or carry anything else.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(f"msgpack: has {len(data)} bytes; expected at most {MAX_MESSAGE_BYTES}")
    if not data:
        raise WireError("msgpack: is empty; expected one value")
    refuse_pickle(data)
    found, place = _walk(np.frombuffer(data, np.uint8), MAX_DEPTH, MAX_OBJECTS, MAX_MAP_ENTRIES)
    if found != _SOUND:
        raise WireError(f"msgpack: {_complaint(found)} (at byte {place} of {len(data)})")
    try:
        return unpackb(
            data, object_pairs_hook=_read_map, strict_map_key=True, unicode_errors="strict"
        )
    except WireError:
        raise
    except (ValueError, TypeError, UnpackException) as error:
        raise WireError(f"msgpack: {str(error)[:200]}") from None


def refuse_pickle(data: bytes) -> None:
    """Tell a pickle from other bytes and say what to do about it.

    Raises
    ------
    WireError
        If the bytes open and close like a pickle. None of these openings starts sound msgpack.
    """
    binary = len(data) > 2 and data[0] == 0x80 and 1 < data[1] <= 5
    if data[-1:] == b"." and (binary or data.startswith(_PICKLE_OPENINGS)):
        raise WireError(
            "payload: is a pickle; expected msgpack, since a pickle runs code of whoever sent it. "
            "Give bluesky's Publisher serializer=msgpack_numpy.dumps"
        )


def _complaint(found: int) -> str:
    return {
        _TRUNCATED: "ends inside a value; expected a complete message",
        _TRAILING: "has bytes after its value; expected exactly one value",
        _DEEP: f"nests deeper than {MAX_DEPTH} levels",
        _MANY: f"has more than {MAX_OBJECTS} single values; send numbers as numpy arrays",
        _WIDE: f"has more than {MAX_MAP_ENTRIES} map entries",
        _EXTENSION: "has an extension type; expected plain values and numeric arrays",
        _RESERVED: "has the reserved byte c1",
    }[found]


def _read_map(pairs: list[tuple[Any, Any]]) -> Any:
    content: dict[Any, Any] = {}
    for key, entry in pairs:
        if key in content:
            raise WireError(f"msgpack: key {str(key)[:80]!r} is given twice")
        content[key] = entry
    if b"nd" in content:
        return _read_array(content)
    for key in content:
        if not isinstance(key, str):
            raise WireError(f"msgpack: key {key[:40]!r} is bytes; expected text")
    return content


def _read_array(content: dict[Any, Any]) -> Any:
    kind, name, data = content.get(b"kind", b""), content.get(b"type"), content.get(b"data")
    if kind == b"O" or (isinstance(name, str) and "O" in name):
        raise WireError(
            "msgpack array: kind is b'O', an array of objects, which travels as a pickle; "
            "expected numbers. Send lists or numeric arrays"
        )
    if kind != b"":
        raise WireError(f"msgpack array: kind is {str(kind)[:40]}; expected b'' (plain numbers)")
    unknown = set(content) - _ARRAY_KEYS
    if unknown:
        raise WireError(f"msgpack array: has the unknown key {str(min(unknown, key=str))[:40]}")
    if not isinstance(name, str) or _NUMBERS.fullmatch(name) is None:
        raise WireError(
            f"msgpack array: type is {str(name)[:40]!r}; expected the numpy name of a number "
            "of at most 8 bytes, like '<f8'"
        )
    dtype = np.dtype(name)
    if not isinstance(data, bytes):
        raise WireError(f"msgpack array: data is {type(data).__name__}; expected bytes")
    if content.get(b"nd") is False:
        if len(data) != dtype.itemsize:
            raise WireError(
                f"msgpack scalar: data has {len(data)} bytes; expected {dtype.itemsize} "
                f"for {name!r}"
            )
        return np.frombuffer(data, dtype)[0].item()
    if content.get(b"nd") is not True:
        raise WireError(f"msgpack array: nd is {str(content[b'nd'])[:40]}; expected true or false")
    return _array(data, dtype, content.get(b"shape"))


def _array(data: bytes, dtype: np.dtype[Any], shape: Any) -> NDArray[Any]:
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_AXES
        or not all(type(length) is int and length >= 0 for length in shape)
    ):
        raise WireError(
            f"msgpack array: shape is {str(shape)[:60]}; expected at most {MAX_AXES} lengths of 0 "
            "or more"
        )
    # Python's integers do not overflow: absurd lengths cannot multiply to the right size.
    if math.prod(shape) * dtype.itemsize != len(data) or max(shape, default=0) > MAX_MESSAGE_BYTES:
        raise WireError(
            f"msgpack array: shape {shape} of {dtype.str!r} does not fit {len(data)} bytes of data"
        )
    array = np.frombuffer(data, dtype) if data else np.empty(0, dtype)
    return array.reshape(shape).astype(dtype.newbyteorder("="), copy=False)


@njit(cache=True)
def _walk(data, max_depth, max_objects, max_entries):  # pragma: no cover
    """What is wrong with msgpack bytes, and where; every claimed length is checked."""
    end = data.shape[0]
    left = np.zeros(max_depth + 1, np.int64)  # values still to come on every level
    left[0] = 1
    depth = 0
    place = 0
    objects = 0
    entries = 0
    while True:
        while depth >= 0 and left[depth] == 0:
            depth -= 1
        if depth < 0:
            return (_SOUND if place == end else _TRAILING), place
        left[depth] -= 1
        if place >= end:
            return _TRUNCATED, place
        objects += 1
        if objects > max_objects:
            return _MANY, place
        head = data[place]
        size = 0  # bytes after the head, or of the length that follows it
        items = 0
        length_bytes = 0
        is_map = False
        if head < 0x80 or head >= 0xE0:
            pass
        elif head < 0x90:
            items, is_map = head & 0x0F, True
        elif head < 0xA0:
            items = head & 0x0F
        elif head < 0xC0:
            size = head & 0x1F
        elif head == 0xC1:
            return _RESERVED, place
        elif head <= 0xC3:
            pass
        elif head <= 0xC6:
            length_bytes = 1 << (head - 0xC4)
        elif head <= 0xC9:
            return _EXTENSION, place
        elif head <= 0xCB:
            size = 4 << (head - 0xCA)
        elif head <= 0xCF:
            size = 1 << (head - 0xCC)
        elif head <= 0xD3:
            size = 1 << (head - 0xD0)
        elif head <= 0xD8:
            return _EXTENSION, place
        elif head <= 0xDB:
            length_bytes = 1 << (head - 0xD9)
        else:
            length_bytes = 2 << ((head - 0xDC) & 1)
            is_map = head >= 0xDE
        place += 1
        if length_bytes:
            if place + length_bytes > end:
                return _TRUNCATED, place
            length = 0
            for _ in range(length_bytes):
                length = length * 256 + np.int64(data[place])
                place += 1
            if head >= 0xDC:
                items = length
            else:
                size = length
        if size > end - place:
            return _TRUNCATED, place
        place += size
        if items:
            if is_map:
                entries += items
                if entries > max_entries:
                    return _WIDE, place
                items *= 2
            if items > end - place:  # every value takes a byte at least
                return _TRUNCATED, place
            depth += 1
            if depth > max_depth:
                return _DEEP, place
            left[depth] = items
