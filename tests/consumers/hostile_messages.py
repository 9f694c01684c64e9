"""Good messages of every kind, hostile ones with the words of their refusal, and a mutator.

Shared by the tests of codecs, transports and assembly. As a program it throws mutated messages at
`decode` in a process of its own, under a limit of memory, and writes what happened as JSON:
``python -m tests.consumers.hostile_messages SEED COUNT``.
"""

from __future__ import annotations

import faulthandler
import json
import pickle
import random
import resource
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import msgpack
import msgpack_numpy
import numpy as np
from streaming_data_types.dataarray_da00 import Variable, serialise_da00
from streaming_data_types.eventdata_ev44 import serialise_ev44
from streaming_data_types.logdata_f144 import serialise_f144
from streaming_data_types.run_start_pl72 import serialise_pl72
from streaming_data_types.run_stop_6s4t import serialise_6s4t
from streaming_data_types.status_x5f2 import serialise_x5f2

from consumers.wire import RawMessage, WireError, decode

NOW_NS = 1_700_000_000_123_456_789
NOW_MS = NOW_NS // 10**6
PULSES = NOW_NS + np.arange(3) * 16_666_667
UID = "4d4b6e4c-5b0c-4a0e-9a43-7d2f3a9b1c11"
DESCRIPTOR = "9b2f8f0e-20a1-4c6b-8a57-0c6a7f1d2e22"


def raw(value: bytes, document: str | None = None) -> RawMessage:
    """Message with these bytes, or a document's bytes beside its name."""
    headers = () if document is None else (("document", document.encode()),)
    return RawMessage(topic="stream", partition=0, offset=0, value=value, headers=headers)


# --- good ones ---------------------------------------------------------------------------------


def pl72(**changes: Any) -> bytes:
    """Beginning of a run, as the facility's library writes it."""
    fields: dict[str, Any] = {
        "job_id": "job-17",
        "filename": "17.nxs",
        "start_time": NOW_MS,
        "run_name": "run 17",
        "nexus_structure": json.dumps({"children": [{"type": "group", "name": "entry"}]}),
        "service_id": "filewriter",
        "instrument_name": "HYSPEC",
        "broker": "localhost:9092",
        "metadata": json.dumps({"title": "germanium"}),
    }
    return serialise_pl72(**{**fields, **changes})


def ev44(**changes: Any) -> bytes:
    """Neutrons of three pulses."""
    fields: dict[str, Any] = {
        "source_name": "bank1",
        "message_id": 7,
        "reference_time": PULSES,
        "reference_time_index": [0, 4, 4],
        "time_of_flight": np.arange(10) * 1000 + 5_000_000,
        "pixel_id": np.arange(10) + 100,
    }
    return serialise_ev44(**{**fields, **changes})


def da00(drop: str = "", time_ns: int = NOW_NS, **changes: Any) -> bytes:
    """Reduced data on two pixels and three bins; ``signal_unit="counts"`` and so on change it."""
    axes = ["pixel", "energy_transfer"]
    fields: dict[str, dict[str, Any]] = {
        "signal": {"data": np.arange(6.0).reshape(2, 3), "axes": axes, "unit": "barn/meV/sr"},
        "signal_errors": {"data": np.ones((2, 3)), "axes": axes, "unit": "barn/meV/sr"},
        "energy_transfer": {
            "data": np.linspace(-5.0, 20.0, 4),
            "axes": ["energy_transfer"],
            "unit": "meV",
        },
        "note": {"data": "text that nobody reads", "axes": []},
    }
    for change, value in changes.items():
        name, _, field = change.rpartition("_")
        fields.setdefault(name, {"axes": []})[field] = value
    return serialise_da00(
        "bank1",
        time_ns,
        [Variable(name=name, **field) for name, field in fields.items() if name != drop],
    )


def x5f2(**changes: Any) -> bytes:
    """Sign of life of a service."""
    fields: dict[str, Any] = {
        "software_name": "beamsteer",
        "software_version": "1",
        "service_id": "fold-1",
        "host_name": "localhost",
        "process_id": 5,
        "update_interval": 1000,
        "status_json": '{"state": "folding"}',
    }
    return serialise_x5f2(**{**fields, **changes})


def start(**changes: Any) -> dict[str, Any]:
    """Start document that says all we can read."""
    return {
        "uid": UID,
        "time": NOW_NS / 1e9,
        "scan_id": 17,
        "plan_name": "count",
        "beamsteer": {
            "run": "germanium",
            "chunk": "dwell 17",
            "instrument_name": "HYSPEC",
            "structure": {"children": []},
        },
        **changes,
    }


def descriptor(**changes: Any) -> dict[str, Any]:
    """Descriptor of the primary stream."""
    key = {"dtype": "number", "shape": [], "source": "motor"}
    return {
        "uid": DESCRIPTOR,
        "run_start": UID,
        "time": NOW_NS / 1e9,
        "name": "primary",
        "data_keys": {"s1": key, "proton_charge": key},
        **changes,
    }


def neutrons(**changes: Any) -> dict[str, Any]:
    """Data keys of neutrons."""
    return {
        "bank1_pixel_id": np.arange(10, dtype=np.int32),
        "bank1_time_of_flight_ns": np.arange(10, dtype=np.int32) + 5_000_000,
        "bank1_reference_time_ns": PULSES,
        "bank1_reference_index": np.array([0, 4, 4]),
        **changes,
    }


def histogram(**changes: Any) -> dict[str, Any]:
    """Data keys of reduced data."""
    return {
        "bank1_intensity": np.arange(6.0).reshape(2, 3),
        "bank1_error": np.ones((2, 3)),
        "bank1_energy_edges_meV": np.linspace(-5.0, 20.0, 4),
        **changes,
    }


def event(data: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Event with two logs, unless other data are given."""
    data = {"s1": 12.5, "proton_charge": 3} if data is None else data
    return {
        "uid": "e-1",
        "descriptor": DESCRIPTOR,
        "time": NOW_NS / 1e9,
        "seq_num": 4,
        "data": data,
        "timestamps": dict.fromkeys(data, NOW_NS / 1e9),
        "filled": {},
        **changes,
    }


def page(**changes: Any) -> dict[str, Any]:
    """Two rows of a log and of neutrons."""
    data = {"s1": [12.5, 13.0], **{key: [value, value] for key, value in neutrons().items()}}
    return {
        "uid": ["e-1", "e-2"],
        "descriptor": DESCRIPTOR,
        "time": [NOW_NS / 1e9, NOW_NS / 1e9 + 1],
        "seq_num": [4, 5],
        "data": data,
        "timestamps": dict.fromkeys(data, [NOW_NS / 1e9, NOW_NS / 1e9 + 1]),
        "filled": {},
        **changes,
    }


def stop(**changes: Any) -> dict[str, Any]:
    """Stop document of a dwell that went well."""
    return {
        "uid": "s-1",
        "run_start": UID,
        "time": NOW_NS / 1e9 + 60,
        "exit_status": "success",
        "reason": "",
        "num_events": {"primary": 4},
        **changes,
    }


DOCUMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "start document": ("start", start()),
    "descriptor document": ("descriptor", descriptor()),
    "event with logs": ("event", event()),
    "event with neutrons": ("event", event(neutrons())),
    "event with reduced data": ("event", event(histogram())),
    "event page": ("event_page", page()),
    "stop document": ("stop", stop()),
}


def sent(name: str, document: object) -> bytes:
    """Bytes of a document as bluesky-kafka sends it."""
    return msgpack_numpy.packb((name, document))


@cache
def good_messages() -> dict[str, RawMessage]:
    """A message of every kind, written by the libraries of facility and bluesky."""
    return {
        "pl72": raw(pl72()),
        "6s4t": raw(serialise_6s4t("job-17", "run 17", "filewriter", "", NOW_MS + 60_000)),
        "f144 number": raw(serialise_f144("s1", 12.5, NOW_NS)),
        "f144 vector": raw(serialise_f144("s1", np.arange(5, dtype=np.int16), NOW_NS)),
        "ev44": raw(ev44()),
        "da00": raw(da00()),
        "x5f2": raw(x5f2()),
        **{name: raw(sent(*pair)) for name, pair in DOCUMENTS.items()},
        **{
            f"{name} beside its name": raw(msgpack_numpy.packb(document), kind)
            for name, (kind, document) in DOCUMENTS.items()
        },
    }


# --- places in flatbuffers, found without the codec --------------------------------------------


def root_place(data: bytes) -> int:
    """Byte at which the root table begins."""
    return struct.unpack_from("<I", data, 0)[0]


def slots_place(data: bytes, table: int) -> int:
    """Byte at which the list of a table's fields begins."""
    return table - struct.unpack_from("<i", data, table)[0]


def field_place(data: bytes, slot: int, table: int | None = None) -> int:
    """Byte at which a field of a table lies; the root's, unless another is given."""
    table = root_place(data) if table is None else table
    return table + struct.unpack_from("<H", data, slots_place(data, table) + 4 + 2 * slot)[0]


def target_place(data: bytes, place: int) -> int:
    """Byte that the offset at ``place`` points to."""
    return place + struct.unpack_from("<I", data, place)[0]


def put(data: bytes, place: int, form: str, value: int | float) -> bytes:
    """Same bytes with one number replaced."""
    changed = bytearray(data)
    struct.pack_into(form, changed, place, value)
    return bytes(changed)


def claiming(data: bytes, slot: int, count: int = 2**32 - 1) -> bytes:
    """Same message, one vector or text of which claims another length."""
    return put(data, target_place(data, field_place(data, slot)), "<I", count)


def pointing(data: bytes, slot: int, offset: int) -> bytes:
    """Same message, one offset of which points elsewhere."""
    return put(data, field_place(data, slot), "<I", offset)


def swapped(data: bytes, one: int, other: int) -> bytes:
    """Same message with the fields of two slots exchanged."""
    places = [slots_place(data, root_place(data)) + 4 + 2 * slot for slot in (one, other)]
    first, second = (struct.unpack_from("<H", data, place)[0] for place in places)
    return put(put(data, places[0], "<H", second), places[1], "<H", first)


def variable_place(data: bytes, name: str) -> int:
    """Byte at which the table of a da00 variable begins."""
    vector = target_place(data, field_place(data, 2))
    for entry in range(struct.unpack_from("<I", data, vector)[0]):
        table = target_place(data, vector + 4 + 4 * entry)
        text = target_place(data, field_place(data, 0, table))
        size = struct.unpack_from("<I", data, text)[0]
        if data[text + 4 : text + 4 + size] == name.encode():
            return table
    raise KeyError(name)


def shaped(data: bytes, name: str, axis: int, length: int) -> bytes:
    """Same da00 with one length of a variable's shape replaced."""
    shape = target_place(data, field_place(data, 6, variable_place(data, name)))
    return put(data, shape + 4 + 8 * axis, "<q", length)


# --- hostile ones ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class HostileMessage:
    """A message that must be refused, and a pattern that its reason must match."""

    name: str
    make: Callable[[], RawMessage]
    words: str


def _bytes(name: str, words: str, make: Callable[[], bytes]) -> HostileMessage:
    return HostileMessage(name=name, make=lambda: raw(make()), words=words)


def _document(name: str, words: str, kind: str, make: Callable[[], object]) -> HostileMessage:
    return HostileMessage(name=f"{kind}: {name}", make=lambda: raw(sent(kind, make())), words=words)


def _packed(name: str, words: str, make: Callable[[], bytes]) -> HostileMessage:
    """Hostile msgpack where a start document's content should be."""
    return HostileMessage(name=f"msgpack: {name}", make=lambda: raw(make(), "start"), words=words)


def _array(**changes: Any) -> bytes:
    content = {b"nd": True, b"type": "<f8", b"kind": b"", b"shape": [1], b"data": bytes(8)}
    content.update({key.encode(): value for key, value in changes.items()})
    return msgpack.Packer().pack({"beamsteer": content})


def _nested(depth: int) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for _ in range(depth):
        content = {"a": content}
    return content


class _Trap:
    """A pickle of this calls a function when read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (SystemExit, ("a pickle was opened",))


_DEEP = "[" * 100_000 + "]" * 100_000

HOSTILE: tuple[HostileMessage, ...] = (
    # no message at all
    _bytes("empty", "has 0 bytes; expected at least 8", lambda: b""),
    _bytes("seven bytes", "has 7 bytes; expected at least 8", lambda: b"\x04\x00\x00\x00ev4"),
    _bytes("abcd", "unknown schema 'abcd'; expected one of 6s4t, da00", lambda: bytes(4) + b"abcd"),
    _bytes("old events", "unknown schema 'ev42'", lambda: ev44().replace(b"ev44", b"ev42")),
    _bytes("words", "unknown schema 'o, w'", lambda: b"hello, world"),
    _bytes("JSON", "unknown schema", lambda: b'{"uid": "1", "time": 5}'),
    _bytes("binary dirt", r"unknown schema '\\xcc", lambda: bytes(range(200, 256))),
    _bytes("too large", "has 33554433 bytes; expected at most", lambda: bytes(2**25 + 1)),
    _bytes("pickle", "is a pickle; expected msgpack", lambda: pickle.dumps(("start", start()))),
    _bytes("old pickle", "is a pickle", lambda: pickle.dumps(["start"], protocol=0)),
    _bytes("armed pickle", "is a pickle", lambda: pickle.dumps(_Trap())),
    HostileMessage(
        name="pickle beside a name",
        make=lambda: raw(pickle.dumps(start()), "start"),
        words="is a pickle; expected msgpack",
    ),
    # flatbuffers whose structure is wrong
    *(
        _bytes(
            f"ev44 cut at {size}",
            "ev44: .*(claims|points to|begins at|does not fit)",
            lambda size=size: ev44()[:size],
        )
        for size in (8, 12, 20, 40, 60, 100, 140, 180)
    ),
    _bytes("root outside", "a table begins at byte", lambda: put(ev44(), 0, "<I", 2**32 - 1)),
    _bytes("root in the header", "root lies at byte 4", lambda: put(ev44(), 0, "<I", 4)),
    _bytes(
        "fields before the message",
        "field list of a table begins at byte -",
        lambda: put(ev44(), root_place(ev44()), "<i", 2**31 - 1),
    ),
    _bytes(
        "fields behind the message",
        "field list of a table begins at byte",
        lambda: put(ev44(), root_place(ev44()), "<i", -(2**31)),
    ),
    _bytes(
        "endless field list",
        "field list of 65534 bytes does not fit",
        lambda: put(ev44(), slots_place(ev44(), root_place(ev44())), "<H", 65534),
    ),
    _bytes(
        "odd field list",
        "does not fit",
        lambda: put(ev44(), slots_place(ev44(), root_place(ev44())), "<H", 7),
    ),
    _bytes(
        "field outside its table",
        "reference_time lies at byte 60000",
        lambda: put(ev44(), slots_place(ev44(), root_place(ev44())) + 4 + 4, "<H", 60000),
    ),
    *(
        _bytes(f"ev44 {name} huge", f"{name} claims 4294967295", lambda s=s: claiming(ev44(), s))
        for s, name in (
            (0, "source_name"),
            (2, "reference_time"),
            (3, "reference_time_index"),
            (4, "time_of_flight"),
            (5, "pixel_id"),
        )
    ),
    *(
        _bytes(
            f"ev44 {name} points {offset} on",
            f"{name} points to byte",
            lambda s=s, offset=offset: pointing(ev44(), s, offset),
        )
        for s, name in ((0, "source_name"), (4, "time_of_flight"))
        for offset in (0, 10**6, 2**32 - 1)
    ),
    _bytes("ev44 swapped", "source_name is .* expected printable", lambda: swapped(ev44(), 0, 5)),
    _bytes("ev44 is a pl72", "pl72: ", lambda: ev44().replace(b"ev44", b"pl72")),
    _bytes("pl72 is an ev44", "ev44: ", lambda: pl72().replace(b"pl72", b"ev44")),
    # events
    _bytes("ev44 lengths", "pixel_id has 9 entries; expected 10", lambda: ev44(pixel_id=range(9))),
    _bytes("ev44 monitor", "pixel_id has 0 .*monitors", lambda: ev44(pixel_id=[])),
    _bytes(
        "ev44 no pulse",
        "reference_time is empty; expected the pulses of 10",
        lambda: ev44(reference_time=[], reference_time_index=[]),
    ),
    _bytes(
        "ev44 index short",
        "reference_time_index has 1 entries; expected 3",
        lambda: ev44(reference_time_index=[0]),
    ),
    _bytes(
        "ev44 index falls",
        "falls from 5 to 4 at entry 2",
        lambda: ev44(reference_time_index=[0, 5, 4]),
    ),
    _bytes(
        "ev44 index beyond",
        "goes from 0 to 11; expected within the 10 events",
        lambda: ev44(reference_time_index=[0, 5, 11]),
    ),
    _bytes("ev44 index negative", "begins with -1", lambda: ev44(reference_time_index=[-1, 0, 4])),
    _bytes(
        "ev44 events before pulses", "begins with 2", lambda: ev44(reference_time_index=[2, 3, 4])
    ),
    _bytes(
        "ev44 pulses without events beyond",
        "goes from 0 to 3; expected within the 0 events",
        lambda: ev44(reference_time_index=[0, 0, 3], time_of_flight=[], pixel_id=[]),
    ),
    _bytes(
        "ev44 clock in 1970",
        r"reference_time is 5 ns \(1970-01-01\).*Check clock",
        lambda: ev44(reference_time=[5, *PULSES[1:]]),
    ),
    _bytes(
        "ev44 clock in 2200",
        r"reference_time is .*\(2199",
        lambda: ev44(reference_time=[*PULSES[1:], 7_257_000_000 * 10**9]),
    ),
    _bytes("ev44 clock before 1970", "is -9", lambda: ev44(reference_time=[-(2**63), *PULSES[1:]])),
    _bytes("ev44 clock in ms", "1970", lambda: ev44(reference_time=PULSES // 10**6)),
    _bytes("ev44 no source", "source_name is empty", lambda: ev44(source_name="")),
    _bytes("ev44 source with a line", "expected printable", lambda: ev44(source_name="a\nb")),
    _bytes("ev44 source with NUL", "expected printable", lambda: ev44(source_name="a\0b")),
    _bytes("ev44 source no UTF-8", "expected UTF-8", lambda: ev44().replace(b"bank1", b"b\xffnk1")),
    _bytes("ev44 source endless", "has 5000 entries", lambda: ev44(source_name="a" * 5000)),
    # runs
    _bytes("pl72 no job", "job_id is empty", lambda: pl72(job_id="")),
    _bytes("pl72 no name", "run_name is empty", lambda: pl72(run_name="")),
    _bytes("pl72 no start", "start_time is 0 ns", lambda: pl72(start_time=0)),
    _bytes("pl72 start in ns", "Check clock and unit", lambda: pl72(start_time=NOW_NS)),
    _bytes("pl72 start in s", "1970", lambda: pl72(start_time=NOW_NS // 10**9)),
    _bytes("pl72 endless start", "no date", lambda: pl72(start_time=2**64 - 1)),
    _bytes("pl72 stops first", "expected after start_time", lambda: pl72(stop_time=NOW_MS - 1)),
    _bytes("pl72 no JSON", "nexus_structure is no JSON", lambda: pl72(nexus_structure="{'a': 1}")),
    _bytes("pl72 JSON list", "is a JSON list", lambda: pl72(nexus_structure="[1]")),
    _bytes("pl72 deep JSON", "recursion limit", lambda: pl72(nexus_structure=_DEEP)),
    _bytes(
        "pl72 deep object",
        "recursion limit",
        lambda: pl72(nexus_structure='{"a":' * 50_000 + "1" + "}" * 50_000),
    ),
    _bytes(
        "pl72 key twice",
        "key 'a' is given twice",
        lambda: pl72(nexus_structure='{"a": 1, "b": {}, "a": 2}'),
    ),
    _bytes("pl72 NaN", "is no JSON", lambda: pl72(nexus_structure='{"a": NaN}')),
    _bytes(
        "pl72 endless digits",
        "is no JSON",
        lambda: pl72(nexus_structure='{"a": ' + "9" * 10**6 + "}"),
    ),
    _bytes(
        "pl72 many brackets",
        "has 200002 brackets and 200000 commas",
        lambda: pl72(nexus_structure='{"a": [' + "[]," * 200_000 + "1]}"),
    ),
    _bytes("pl72 metadata text", "metadata is a JSON str", lambda: pl72(metadata='"title"')),
    _bytes(
        "pl72 metadata huge",
        "metadata has .* expected at most 1048576",
        lambda: pl72(metadata=json.dumps({"a": "b" * 2**20})),
    ),
    _bytes("pl72 structure claims", "claims 4294967295", lambda: claiming(pl72(), 4)),
    _bytes("6s4t no job", "job_id is empty", lambda: serialise_6s4t("", stop_time=NOW_MS)),
    _bytes("6s4t no time", "stop_time is 0 ns", lambda: serialise_6s4t("job-17")),
    # logs
    _bytes("f144 no source", "source_name is empty", lambda: serialise_f144("", 1.0, NOW_NS)),
    _bytes("f144 no time", "timestamp is 0 ns", lambda: serialise_f144("s1", 1.0)),
    *(
        _bytes(
            f"f144 type {kind}",
            f"value_type of 's1' is {kind}; expected 1 to 20",
            lambda kind=kind: put(
                serialise_f144("s1", 12.5, NOW_NS),
                field_place(serialise_f144("s1", 12.5, NOW_NS), 2),
                "<B",
                kind,
            ),
        )
        for kind in (0, 21, 255)
    ),
    _bytes(
        "f144 empty vector",
        "is an empty vector",
        lambda: serialise_f144("s1", np.empty(0), NOW_NS),
    ),
    _bytes(
        "f144 huge vector",
        "value claims 4294967295",
        lambda: put(
            (data := serialise_f144("s1", np.arange(5), NOW_NS)),
            target_place(data, field_place(data, 0, target_place(data, field_place(data, 3)))),
            "<I",
            2**32 - 1,
        ),
    ),
    _bytes(
        "f144 million",
        "value has 1000001 entries",
        lambda: serialise_f144("s1", np.zeros(1_000_001, np.int8), NOW_NS),
    ),
    # reduced data
    _bytes("da00 no signal", "variable 'signal' is missing", lambda: da00(drop="signal")),
    _bytes("da00 no edges", "'energy_transfer' is missing", lambda: da00(drop="energy_transfer")),
    _bytes("da00 no errors", "signal_errors is missing", lambda: da00(drop="signal_errors")),
    _bytes(
        "da00 negative counts",
        "signal is negative",
        lambda: da00(drop="signal_errors", signal_unit="counts", signal_data=-np.ones((2, 3))),
    ),
    _bytes(
        "da00 one axis",
        "signal has the axes",
        lambda: da00(signal_data=np.ones(3), signal_axes=["energy_transfer"]),
    ),
    _bytes(
        "da00 axes turned",
        "expected pixels first",
        lambda: da00(signal_axes=["energy_transfer", "pixel"]),
    ),
    _bytes(
        "da00 unit", "has the unit 'µeV'; expected 'meV'", lambda: da00(energy_transfer_unit="µeV")
    ),
    _bytes("da00 no unit", "has the unit None", lambda: da00(energy_transfer_unit=None)),
    _bytes(
        "da00 centres", "the edges of 3 bins", lambda: da00(energy_transfer_data=np.arange(3.0))
    ),
    _bytes(
        "da00 NaN edge",
        "does not rise",
        lambda: da00(energy_transfer_data=np.array([0, 1, np.nan, 3])),
    ),
    _bytes(
        "da00 falling edges",
        "does not rise",
        lambda: da00(energy_transfer_data=np.array([3.0, 2, 1, 0])),
    ),
    _bytes(
        "da00 negative error",
        "errors are infinite or negative",
        lambda: da00(signal_errors_data=-np.ones((2, 3))),
    ),
    _bytes(
        "da00 errors of other shape",
        r"errors have the shape \(3, 2\)",
        lambda: da00(signal_errors_data=np.ones((3, 2))),
    ),
    _bytes(
        "da00 infinite",
        "signal is infinite",
        lambda: da00(signal_data=np.full((2, 3), np.inf)),
    ),
    _bytes("da00 signal is text", "data type 11", lambda: da00(signal_data="many", signal_axes=[])),
    _bytes(
        "da00 unknown type",
        "signal has the data type 12",
        lambda: put(da00(), field_place(da00(), 4, variable_place(da00(), "signal")), "<b", 12),
    ),
    _bytes("da00 negative shape", "has the shape", lambda: shaped(da00(), "signal", 0, -2)),
    _bytes("da00 absurd shape", "has 48 bytes", lambda: shaped(da00(), "signal", 0, 2**62)),
    _bytes(
        "da00 overflowing shape",
        "has 48 bytes",
        lambda: shaped(shaped(da00(), "signal", 0, 2**32 + 2), "signal", 1, 2**32 + 3),
    ),
    _bytes("da00 empty", "at least one each", lambda: da00(signal_data=np.empty((0, 3)))),
    _bytes(
        "da00 many cells",
        "expected at most 16777216",
        lambda: da00(signal_data=np.zeros((2, 2**23 + 1), np.int8)),
    ),
    _bytes(
        "da00 variable twice",
        "'signal' is given twice",
        lambda: serialise_da00(
            "bank1", NOW_NS, [Variable(name="signal", data=np.ones(2), axes=["pixel"])] * 2
        ),
    ),
    _bytes(
        "da00 many variables",
        "data has 65 entries; expected at most 64",
        lambda: serialise_da00("bank1", NOW_NS, [Variable(name="a", data=np.ones(1))] * 65),
    ),
    _bytes("da00 huge list", "data claims 4294967295", lambda: claiming(da00(), 2)),
    _bytes("da00 clock", "timestamp is 5 ns", lambda: da00(time_ns=5)),
    _bytes(
        "da00 sequence", "expected one integer", lambda: da00(sequence_data=1.5, sequence_axes=[])
    ),
    # heartbeats
    _bytes(
        "x5f2 nobody",
        "service_id and software_name are empty",
        lambda: x5f2(service_id="", software_name=""),
    ),
    _bytes("x5f2 no JSON", "status_json is no JSON", lambda: x5f2(status_json="well")),
    _bytes("x5f2 JSON number", "is a JSON int", lambda: x5f2(status_json="5")),
    _bytes("x5f2 deep JSON", "recursion limit", lambda: x5f2(status_json=_DEEP)),
    # msgpack
    _packed("empty", "is empty", lambda: b""),
    _packed("huge list", "ends inside a value", lambda: b"\xdd\xff\xff\xff\xff"),
    _packed("huge map", "map entries", lambda: b"\xdf\xff\xff\xff\xff"),
    _packed("huge bytes", "ends inside a value", lambda: b"\xc6\xff\xff\xff\xffabc"),
    _packed("huge text", "ends inside a value", lambda: b"\xdb\xff\xff\xff\xffabc"),
    _packed(
        "huge lists in lists", "nests deeper|ends inside", lambda: b"\xdd\x00\x00\x10\x00" * 900
    ),
    _packed("deep", "nests deeper than 48", lambda: b"\x91" * 10_000 + b"\xc0"),
    _packed("many", "more than 2000000 single values", lambda: msgpack.packb([0] * 2_000_001)),
    _packed(
        "wide",
        "more than 20000 map entries",
        lambda: msgpack.packb({str(i): 0 for i in range(20_001)}),
    ),
    _packed("cut", "ends inside", lambda: msgpack_numpy.packb(start())[:-3]),
    _packed("trailing", "bytes after its value", lambda: msgpack_numpy.packb(start()) + b"\x01"),
    _packed("reserved", "reserved byte c1", lambda: b"\x91\xc1"),
    _packed("extension", "extension type", lambda: msgpack.packb(msgpack.ExtType(5, b"abc"))),
    _packed("time stamp", "extension type", lambda: msgpack.packb(msgpack.Timestamp(5))),
    _packed("no UTF-8", "utf-8", lambda: b"\x81\xa2\xff\xfe\x01"),
    _packed("key twice", "'a' is given twice", lambda: b"\x82\xa1a\x01\xa1a\x02"),
    _packed("key is a number", "map key", lambda: msgpack.packb({1: 2})),
    _packed("key is a list", "map key|unhashable", lambda: b"\x81\x91\x01\x02"),
    _packed("key is bytes", "key b'a' is bytes", lambda: msgpack.packb({b"a": 2})),
    _packed(
        "objects",
        "array of objects, which travels as a pickle",
        lambda: msgpack_numpy.packb({"a": np.array([1, "a", None], object)}),
    ),
    _packed(
        "armed objects",
        "array of objects",
        lambda: _array(kind=b"O", data=pickle.dumps(_Trap())),
    ),
    _packed("objects by type", "array of objects", lambda: _array(type="|O")),
    _packed("objects with a size", "array of objects", lambda: _array(type="|O8")),
    _packed(
        "structured",
        "kind is b'V'",
        lambda: msgpack_numpy.packb(np.zeros(2, [("a", "<f8"), ("b", "O")])),
    ),
    _packed("structured type", "expected the numpy name", lambda: _array(type=[["a", "<f8"]])),
    _packed("text array", "type is '<U1'", lambda: msgpack_numpy.packb(np.array(["a"]))),
    _packed("times array", "type is '<M8", lambda: _array(type="<M8[ns]")),
    _packed("long type", "expected the numpy name", lambda: _array(type="<f8" * 10**5)),
    _packed("type of commas", "expected the numpy name", lambda: _array(type="f8,f8")),
    _packed("type nobody knows", "type is '<f7'", lambda: _array(type="<f7")),
    _packed("long double", "type is '<f16'", lambda: _array(type="<f16", data=bytes(16))),
    _packed("negative shape", r"shape is \[-1, -8\]", lambda: _array(shape=[-1, -8])),
    _packed("absurd shape", "does not fit 8 bytes", lambda: _array(shape=[2**63])),
    _packed("overflowing shape", "does not fit", lambda: _array(shape=[2**32, 2**32, 1])),
    _packed("absurd empty shape", "does not fit", lambda: _array(shape=[0, 2**62], data=b"")),
    _packed("shape of many axes", "at most 4 lengths", lambda: _array(shape=[1] * 60)),
    _packed("shape is a number", "shape is 1", lambda: _array(shape=1)),
    _packed("shape of truths", "shape is", lambda: _array(shape=[True])),
    _packed("short data", "does not fit 7 bytes", lambda: _array(data=bytes(7))),
    _packed("data is text", "data is str", lambda: _array(data="12345678")),
    _packed("nd is text", "nd is x", lambda: _array(nd="x")),
    _packed("scalar too long", "expected 8 for", lambda: _array(nd=False, data=bytes(9))),
    _packed("unknown key in an array", "unknown key", lambda: _array(more=1)),
    # documents: framing
    _bytes("one of a pair", "unknown schema|has .* bytes", lambda: msgpack.packb(["start"])),
    _bytes("number and document", "is no pair", lambda: msgpack.packb([1, start()])),
    _document("called so", "document is called 'begin'", "begin", start),
    _document("outside of the stream", "names data outside of the stream", "resource", dict),
    _document("outside of the stream", "names data outside", "stream_datum", dict),
    _document("out of use", "out of use", "bulk_events", dict),
    _document("is a list", "is list; expected a mapping", "start", list),
    _document("is an array", "is ndarray; expected a mapping", "event_page", lambda: np.ones(3)),
    HostileMessage(
        name="name of a document is no text",
        make=lambda: raw(msgpack.packb({}), "stärt"),
        words="header document: is b'st",
    ),
    # documents: content
    _document("no uid", "'uid' is a required property", "start", lambda: {"time": 5.0}),
    _document("time is text", "time: 'now' is not of type", "start", lambda: start(time="now")),
    _document("time is NaN", "time is nan", "start", lambda: start(time=float("nan"))),
    _document("time is endless", "time is inf", "start", lambda: start(time=float("inf"))),
    _document("time is huge", "expected seconds", "start", lambda: start(time=2**63)),
    _document("clock in 1970", r"\(1970-01-01\)", "start", lambda: start(time=5.0)),
    _document("time in ns", "expected seconds", "start", lambda: start(time=NOW_NS)),
    _document("uid is an array", "uid: ", "start", lambda: start(uid=np.ones(3))),
    _document("uid is empty", "uid is ''; expected", "start", lambda: start(uid="")),
    _document("uid is endless", "uid has 5000", "start", lambda: start(uid="a" * 5000)),
    _document("deep", "nests deeper", "start", lambda: start(sample=_nested(60))),
    _document("ours is a list", "beamsteer is list", "start", lambda: start(beamsteer=[1])),
    _document(
        "structure is a list",
        "beamsteer.structure is list",
        "start",
        lambda: start(beamsteer={"structure": [1]}),
    ),
    _document(
        "structure is no JSON",
        "beamsteer.structure is no JSON",
        "start",
        lambda: start(beamsteer={"structure": "{"}),
    ),
    _document(
        "structure is deep JSON",
        "recursion limit",
        "start",
        lambda: start(beamsteer={"structure": _DEEP}),
    ),
    *(
        _document(
            f"{key} is an array",
            f"beamsteer.{key}",
            "start",
            lambda key=key: start(beamsteer={key: np.ones(2)}),
        )
        for key in ("chunk", "run", "source", "instrument_name", "structure", "metadata")
    ),
    _document(
        "start_time_ns is an array",
        "expected integer ns",
        "start",
        lambda: start(beamsteer={"start_time_ns": PULSES}),
    ),
    _document("chunk is a number", "chunk is '5'", "start", lambda: start(beamsteer={"chunk": 5})),
    _document(
        "start_time_ns is a float",
        "expected integer ns",
        "start",
        lambda: start(beamsteer={"start_time_ns": 1.7e18}),
    ),
    _document("no keys", "'data_keys' is a required", "descriptor", lambda: {"uid": "a"}),
    _document(
        "run_start is a number",
        "run_start: 5 is not",
        "descriptor",
        lambda: descriptor(run_start=5),
    ),
    _document("unknown status", "exit_status", "stop", lambda: stop(exit_status="well")),
    _document("status is an array", "exit_status|schema", "stop", lambda: stop(exit_status=PULSES)),
    _document("no run", "run_start: 5 is not of type", "stop", lambda: stop(run_start=5)),
    _document(
        "no time",
        "'time' is a required",
        "event",
        lambda: {key: value for key, value in event().items() if key != "time"},
    ),
    _document("more keys", "[Uu]nevaluated", "event", lambda: event(more=1)),
    _document("negative number", "seq_num is -1", "event", lambda: event(seq_num=-1)),
    _document("huge number", "seq_num is", "event", lambda: event(seq_num=2**63)),
    _document(
        "time stamp is text",
        "s1 time is now; expected seconds",
        "event",
        lambda: event(timestamps={"s1": "now"}),
    ),
    _document(
        "exact time is text",
        "s1_time_ns is now; expected integer ns",
        "event",
        lambda: event({"s1": 5.0, "s1_time_ns": "now"}),
    ),
    _document(
        "neutrons without pixels",
        "bank1_pixel_id is missing; expected all of",
        "event",
        lambda: event({k: v for k, v in neutrons().items() if k != "bank1_pixel_id"}),
    ),
    _document(
        "neutrons elsewhere",
        "bank1_pixel_id is str; expected a list of integers inside the event",
        "event",
        lambda: event(neutrons(bank1_pixel_id="file-7/3")),
    ),
    _document(
        "neutrons in floats",
        "expected a list of integers",
        "event",
        lambda: event(neutrons(bank1_time_of_flight_ns=np.arange(10.0))),
    ),
    _document(
        "neutrons in rows",
        r"is int64 of \(5, 2\)",
        "event",
        lambda: event(neutrons(bank1_pixel_id=np.arange(10).reshape(5, 2))),
    ),
    _document(
        "neutrons in text",
        "is list; expected a list of integers",
        "event",
        lambda: event(neutrons(bank1_pixel_id=["a"] * 10)),
    ),
    _document(
        "neutrons too large",
        "expected int32",
        "event",
        lambda: event(neutrons(bank1_pixel_id=[2**31] * 10)),
    ),
    _document(
        "neutrons beyond 64 bits",
        "expected a list of integers",
        "event",
        lambda: event(neutrons(bank1_pixel_id=[2**64 - 1, -1] * 5)),
    ),
    _document(
        "neutrons of unequal lengths",
        "pixel_id has 9 entries; expected 10",
        "event",
        lambda: event(neutrons(bank1_pixel_id=np.arange(9))),
    ),
    _document(
        "falling index",
        "falls from 5 to 4",
        "event",
        lambda: event(neutrons(bank1_reference_index=[0, 5, 4])),
    ),
    _document(
        "clock jumps",
        "reference_time is 5 ns",
        "event",
        lambda: event(neutrons(bank1_reference_time_ns=[5, 6, 7])),
    ),
    _document(
        "reduced data without errors",
        "bank1_error is missing",
        "event",
        lambda: event({k: v for k, v in histogram().items() if k != "bank1_error"}),
    ),
    _document(
        "ragged intensity",
        "bank1_intensity is list; expected an array",
        "event",
        lambda: event(histogram(bank1_intensity=[[1.0, 2.0, 3.0], [1.0]])),
    ),
    _document(
        "intensity in too many lists",
        "bank1_intensity is list; expected an array",
        "event",
        lambda: event(histogram(bank1_intensity=[[1.0]] * 200_001)),
    ),
    _document(
        "edges of other bins",
        "the edges of 3 bins",
        "event",
        lambda: event(histogram(bank1_energy_edges_meV=[1.0, 2.0])),
    ),
    _document(
        "unequal rows", "time has 1 rows; expected 2", "event_page", lambda: page(time=[5.0])
    ),
    _document("column is a number", "time is float", "event_page", lambda: page(time=5.0)),
    _document("column is absent", "uid is NoneType", "event_page", lambda: page(uid=None)),
    _document(
        "column without rows",
        "data.s1 is ndarray; expected a list",
        "event_page",
        lambda: page(data={"s1": np.array(5.0)}),
    ),
    _document(
        "many rows",
        "expected at most 50000 entries",
        "event_page",
        lambda: page(
            uid=["a"] * 20_000,
            time=[5.0] * 20_000,
            seq_num=[1] * 20_000,
            data={},
            timestamps={},
        ),
    ),
)


# --- mutations ---------------------------------------------------------------------------------

_NUMBERS = (0, 1, 2, 4, 7, 8, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1)
_LEAVES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 5, 2**31, 2**63, -(2**63), 2**64 - 1, 0.0, -0.0, 1e300,
    float("nan"), float("inf"), "", "a", "a" * 300, "\0", "\u202e", b"", b"abc", [], {}, [[]],
    [1, "a"], [1.5, None], [[1], [1, 2]], {"a": {}}, NOW_NS, NOW_NS / 1e9, -1.7e9,
    np.empty(0), np.zeros(3), np.ones((2, 2)), np.array(5.0), np.array([np.nan]),
    np.arange(10, dtype=np.int32), np.arange(10, dtype=np.uint64), np.array([True]),
    np.array(["a"]), np.array([1, None], object), np.zeros(2, [("a", "<f8")]), 1j,
)  # fmt: skip


def mutants(seed: int) -> Iterator[tuple[str, RawMessage]]:
    """Endless mutated messages with the name of the good one they come from."""
    chance = random.Random(seed)  # noqa: S311
    good = list(good_messages().items())
    flatbuffers = [pair for pair in good if "document" not in pair[0] and "event" not in pair[0]]
    packed = [pair for pair in good if pair not in flatbuffers]
    documents = list(DOCUMENTS.items())
    values = [message.value for _, message in good]
    while True:
        share = chance.random()
        if share < 0.3:  # of what is sent, before it is packed
            name, (kind, document) = chance.choice(documents)
            document = _mutated_document(document, chance)
            if chance.random() < 0.1:
                kind = chance.choice([*(pair[0] for _, pair in documents), "resource", "x", ""])
            try:
                value = sent(kind, document)
                beside = msgpack_numpy.packb(document) if chance.random() < 0.5 else None
            except (OverflowError, ValueError, TypeError, UnicodeEncodeError):
                continue  # what msgpack cannot write does not travel
            message = raw(value) if beside is None else raw(beside, kind)
            if chance.random() < 0.1:
                message = replace(message, value=_mutated(message.value, values, chance))
        else:  # of bytes
            name, message = chance.choice(flatbuffers if share < 0.8 else packed)
            value = message.value
            for _ in range(1 if chance.random() < 0.7 else chance.randint(2, 6)):
                value = _mutated(value, values, chance)
            message = replace(message, value=value)
        yield name, message


def _mutated(value: bytes, others: list[bytes], chance: random.Random) -> bytes:
    data = bytearray(value)
    size = len(data)
    way = chance.randrange(10)
    if way == 0 or size < 12:  # splice
        other = chance.choice(others)
        return bytes(data[: chance.randint(0, size)]) + other[chance.randint(0, len(other)) :]
    place = chance.randrange(size)
    if way == 1:  # bits
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(size)] ^= 1 << chance.randrange(8)
    elif way == 2:  # bytes
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(size)] = chance.randrange(256)
    elif way == 3:  # truncation
        del data[place:]
    elif way == 4:  # insertion
        data[place:place] = chance.randbytes(chance.randint(1, 20))
    elif way == 5:  # loss
        del data[place : place + chance.randint(1, 20)]
    elif way == 6:  # repetition, moves everything behind it
        data[place:place] = data[place : place + chance.randint(1, 40)]
    elif way == 7:  # a number that matters, anywhere
        _put_number(data, place, chance)
    elif bytes(data[4:8]) in (b"pl72", b"6s4t", b"f144", b"ev44", b"da00", b"x5f2"):
        _mutate_flatbuffer(data, chance)
    else:  # the head of a msgpack value
        data[place] = chance.choice(b"\x80\x8f\x90\x9f\xa0\xbf\xc0\xc4\xc6\xc7\xca\xcb\xcf\xd3\xd9")
    return bytes(data)


def _put_number(data: bytearray, place: int, chance: random.Random) -> None:
    width = chance.choice((1, 2, 4, 8))
    number = chance.choice((*_NUMBERS, len(data), len(data) - 4, place, chance.randrange(2**32)))
    data[place : place + width] = (number & (256**width - 1)).to_bytes(width, "little")


def _mutate_flatbuffer(data: bytearray, chance: random.Random) -> None:
    """Change an offset, a length or a value of the root table or of a table below it."""
    try:
        table = root_place(data)
        if chance.random() < 0.4:
            table = target_place(data, field_place(data, chance.randrange(4), table))
            if chance.random() < 0.5:
                table = target_place(data, table + 4 * chance.randint(1, 4))
        slots = slots_place(data, table)
        slot = slots + 4 + 2 * chance.randrange(13)
        field = table + struct.unpack_from("<H", data, slot)[0]
        way = chance.randrange(5)
        if way == 0:
            struct.pack_into("<H", data, slot, chance.choice((0, 2, 4, 6, 8, 40, 65535)))
        elif way == 1:
            other = slots + 4 + 2 * chance.randrange(8)
            data[slot : slot + 2], data[other : other + 2] = (
                data[other : other + 2],
                data[slot : slot + 2],
            )
        elif way == 2:
            _put_number(data, field, chance)
        elif way == 3:
            _put_number(data, target_place(data, field), chance)
        else:
            _put_number(data, target_place(data, field) + 4 + 4 * chance.randrange(4), chance)
    except (struct.error, IndexError):
        data[chance.randrange(len(data))] ^= 0xFF


def _mutated_document(document: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Copy with one or two entries replaced, dropped, renamed or added, at any depth."""
    for _ in range(chance.choice((1, 1, 2))):
        document = _mutated_branch(document, chance)
    return document


def _mutated_branch(branch: Any, chance: random.Random) -> Any:
    if isinstance(branch, dict) and branch:
        copy = dict(branch)
        key = chance.choice(list(copy))
        way = chance.random()
        if way < 0.1:
            del copy[key]
        elif way < 0.2:
            copy[chance.choice((*copy, "a", "", "a.b", "x_pixel_id"))] = chance.choice(_LEAVES)
        elif way < 0.6:
            copy[key] = _mutated_branch(copy[key], chance)
        else:
            copy[key] = chance.choice(_LEAVES)
        return copy
    if isinstance(branch, list) and branch and chance.random() < 0.5:
        copy = list(branch)
        place = chance.randrange(len(copy))
        copy[place] = _mutated_branch(copy[place], chance)
        return copy
    if isinstance(branch, np.ndarray) and branch.dtype.kind in "iuf" and branch.size:
        copy = branch.copy()
        copy.flat[chance.randrange(copy.size)] = chance.choice((0, 1, 3, 7, 11, 2**31 - 1))
        return copy if chance.random() < 0.6 else chance.choice((*_LEAVES, -copy, copy.ravel()[1:]))
    return chance.choice(_LEAVES)


# --- the throw ---------------------------------------------------------------------------------


def memory_mb(name: str) -> float:
    """Memory of this process: VmRSS resident, VmHWM the most of it so far, VmSize mapped."""
    with open("/proc/self/status", encoding="ascii") as file:
        found = next(line for line in file if line.startswith(f"{name}:"))
    return int(found.split()[1]) / 1024


def throw(seed: int, count: int) -> dict[str, Any]:
    """Throw mutated messages at `decode`; every one is counted as decoded or refused.

    Anything but a value or a `WireError` leaves this function. A `WireError` with a cause is a hole
    in a codec that only the net under all of them caught, and is counted apart. If a thousand
    messages take more than a minute of this process's own time, a signal writes the stack of where
    it hangs and ends the process.
    """
    faulthandler.register(signal.SIGVTALRM, chain=True)
    kinds: dict[str, Counter[str]] = {}
    holes: Counter[str] = Counter()
    resident: list[float] = []
    slowest = (0.0, "")
    began = time.process_time()
    decoding = 0.0
    stream = mutants(seed)
    for number in range(count):
        if number % 1000 == 0:
            signal.setitimer(signal.ITIMER_VIRTUAL, 60.0)
        if number % max(count // 20, 1) == 0:
            resident.append(memory_mb("VmRSS"))
        name, message = next(stream)
        before = time.process_time()
        try:
            decode(message)
            outcome = "decoded"
        except WireError as error:
            outcome = "refused"
            if error.__cause__ is not None:
                holes[f"{name}: {error!s:.120}"] += 1
        took = time.process_time() - before
        decoding += took
        if took > slowest[0]:
            slowest = (took, f"{name}, number {number}, {len(message.value)} bytes")
        kinds.setdefault(name, Counter())[outcome] += 1
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
    resident.append(memory_mb("VmRSS"))
    return {
        "seed": seed,
        "count": count,
        "decoded": sum(kind["decoded"] for kind in kinds.values()),
        "refused": sum(kind["refused"] for kind in kinds.values()),
        "kinds": {name: dict(kind) for name, kind in sorted(kinds.items())},
        "holes": dict(holes.most_common(20)),
        "seconds": time.process_time() - began,
        "decoding_seconds": decoding,
        "slowest_ms": slowest[0] * 1e3,
        "slowest": slowest[1],
        "resident_MB": resident,
        "peak_MB": memory_mb("VmHWM"),
    }


def main() -> None:
    """Warm up, take away the memory for more than a gigabyte on top, and throw."""
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    throw(seed ^ 0x5EED, 2000)
    limit = int(memory_mb("VmSize")) * 2**20 + 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.stdout.write(json.dumps(throw(seed, count)) + "\n")


if __name__ == "__main__":
    main()
