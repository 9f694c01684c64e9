"""ESS flatbuffers to and from the values of the wire: pl72, 6s4t, f144, ev44, da00, x5f2.

Messages are written by the facility's own library, `streaming_data_types`. They are read here: the
library trusts every offset, and a damaged one makes it read elsewhere, loop over four thousand
million claimed elements, or raise whatever comes. Here every offset and length is checked against
the buffer before it is followed, and arrays are views into the message.

========  ================  ========================================================================
schema    value             mapping
========  ================  ========================================================================
``pl72``  RunBegins         job_id, run_name -> chunk, service_id -> source, instrument_name;
                            start_time and stop_time in ms, stop_time 0: not known;
                            nexus_structure and metadata: JSON objects, or empty
``6s4t``  RunEnds           job_id, service_id -> source, stop_time in ms
``f144``  LogSample         source_name, timestamp in ns, a number or a vector of them as float64
``ev44``  Events            source_name, message_id -> sequence, reference_time in ns,
                            reference_time_index, time_of_flight in ns, pixel_id
``da00``  ReducedHistogram  see below
``x5f2``  Heartbeat         service_id, or software_name where that is empty; status_json: a JSON
                            object
========  ================  ========================================================================

Reduced data in da00: the variable ``signal`` has two axes, pixels first and ``energy_transfer``
second, NaN where masked. ``energy_transfer`` has one axis and holds the bin edges, unit ``meV``,
one more than ``signal`` has bins. ``signal_errors`` (or ``errors``) has the shape of ``signal`` and
holds standard deviations; it may be absent where the unit of ``signal`` is ``counts``, and is the
square root then. ``sequence`` is one integer; where absent, the time stamp serves. Other variables
are not looked at.

Times must lie between 2000 and 2100: a sender whose clock jumped is told so.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json
from streaming_data_types.dataarray_da00 import Variable, serialise_da00
from streaming_data_types.eventdata_ev44 import serialise_ev44
from streaming_data_types.logdata_f144 import serialise_f144
from streaming_data_types.run_start_pl72 import serialise_pl72
from streaming_data_types.run_stop_6s4t import serialise_6s4t
from streaming_data_types.status_x5f2 import serialise_x5f2

from consumers.wire.values import (
    Events,
    Heartbeat,
    LogSample,
    ReducedHistogram,
    RunBegins,
    RunEnds,
    WireError,
    WireValue,
)
from simulations.errors import InputError

MAX_NAME_BYTES = 1024
MAX_STRUCTURE_BYTES = 16 * 2**20  # NeXus template with the IDF inside
MAX_JSON_BYTES = 2**20
MAX_JSON_BRANCHES = 200_000  # opening brackets; a message of brackets alone takes seconds to read
MAX_JSON_ENTRIES = 2_000_000  # commas
MAX_LOG_VALUES = 1_000_000
MAX_VARIABLES = 64
MAX_AXES = 8
MAX_CELLS = 16 * 2**20  # of reduced data: float64 from narrower numbers

EARLIEST_NS = 946_684_800 * 10**9  # 2000-01-01
LATEST_NS = 4_102_444_800 * 10**9  # 2100-01-01

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_NUMBERS: dict[int, np.dtype[Any]] = {
    code: np.dtype(name)
    for code, name in enumerate(
        ("<i1", "<u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f4", "<f8"), start=1
    )
}  # the same codes in f144's union and da00's data types


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DataVariable:
    """One array of a da00 message."""

    name: str
    unit: str | None
    axes: tuple[str, ...]
    values: NDArray[Any]  # as many axes as named; integers or floats


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DataArray:
    """All that a da00 message says."""

    name: str
    time_ns: int
    variables: Mapping[str, DataVariable]


# --- bytes -------------------------------------------------------------------------------------


class _Table:
    """A table whose own place in the buffer has been checked; its fields are when asked for."""

    __slots__ = ("data", "schema", "place", "fields", "n_fields", "size")

    def __init__(self, data: bytes, place: int, schema: str) -> None:
        end = len(data)
        if place + 4 > end:
            raise WireError(f"{schema}: a table begins at byte {place} of {end}; expected inside")
        fields = place - _I32.unpack_from(data, place)[0]
        if not 0 <= fields <= end - 4:
            raise WireError(
                f"{schema}: the field list of a table begins at byte {fields} of {end}; "
                "expected inside"
            )
        length = _U16.unpack_from(data, fields)[0]
        size = _U16.unpack_from(data, fields + 2)[0]
        if length < 4 or length % 2 or fields + length > end or size < 4 or place + size > end:
            raise WireError(
                f"{schema}: a table of {size} bytes with a field list of {length} bytes does not "
                f"fit at byte {place} of {end}"
            )
        self.data, self.schema, self.place = data, schema, place
        self.fields, self.n_fields, self.size = fields, length // 2 - 2, size

    def at(self, slot: int, width: int, name: str) -> int | None:
        """Place of a field's bytes; None where it is absent."""
        if slot >= self.n_fields:
            return None
        inside = _U16.unpack_from(self.data, self.fields + 4 + 2 * slot)[0]
        if inside == 0:
            return None
        if inside < 4 or inside + width > self.size:
            raise WireError(
                f"{self.schema}: {name} lies at byte {inside} of its table of {self.size} bytes; "
                "expected inside"
            )
        return self.place + inside

    def number(self, slot: int, form: str, name: str) -> int:
        """Integer of a struct format; 0 where absent, as flatbuffers leave zeros out."""
        place = self.at(slot, struct.calcsize(form), name)
        return 0 if place is None else struct.unpack_from(form, self.data, place)[0]

    def target(self, slot: int, name: str) -> int | None:
        """Place that an offset field points to, with room for four bytes."""
        place = self.at(slot, 4, name)
        return None if place is None else _follow(self.data, place, f"{self.schema}: {name}")

    def table(self, slot: int, name: str) -> _Table | None:
        """Table that a field points to."""
        place = self.target(slot, name)
        return None if place is None else _Table(self.data, place, self.schema)

    def vector(self, slot: int, dtype: np.dtype[Any], limit: int, name: str) -> NDArray[Any]:
        """Vector of numbers as a view into the message; empty where absent."""
        place = self.target(slot, name)
        if place is None:
            return np.empty(0, dtype)
        count = _length(self.data, place, dtype.itemsize, limit, f"{self.schema}: {name}")
        if count == 0:
            return np.empty(0, dtype)
        array = np.frombuffer(self.data, dtype, count, place + 4)
        return array if array.flags.aligned else array.copy()

    def offsets(self, slot: int, limit: int, name: str) -> list[int]:
        """Places that the entries of a vector of offsets point to."""
        place = self.target(slot, name)
        if place is None:
            return []
        label = f"{self.schema}: {name}"
        count = _length(self.data, place, 4, limit, label)
        return [_follow(self.data, place + 4 + 4 * entry, label) for entry in range(count)]

    def text(self, slot: int, limit: int, name: str) -> str:
        """Text of a field; empty where absent."""
        place = self.target(slot, name)
        label = f"{self.schema}: {name}"
        return "" if place is None else _text(self.data, place, limit, label)

    def name(self, slot: int, name: str, *, needed: bool = True) -> str:
        """Short printable text of a field."""
        text = self.text(slot, MAX_NAME_BYTES, name)
        if needed and not text:
            raise WireError(f"{self.schema}: {name} is empty; expected a name")
        if not text.isprintable():
            raise WireError(
                f"{self.schema}: {name} is {text[:40]!r}; expected printable characters"
            )
        return text


def _follow(data: bytes, place: int, label: str) -> int:
    target = place + _U32.unpack_from(data, place)[0]
    if target == place or target + 4 > len(data):
        raise WireError(f"{label} points to byte {target} of {len(data)}; expected inside")
    return target


def _length(data: bytes, place: int, width: int, limit: int, label: str) -> int:
    count = _U32.unpack_from(data, place)[0]
    if count * width > len(data) - place - 4:
        raise WireError(
            f"{label} claims {count} entries of {width} bytes; expected at most "
            f"{(len(data) - place - 4) // width}, the bytes that follow"
        )
    if count > limit:
        raise WireError(f"{label} has {count} entries; expected at most {limit}")
    return count


def _text(data: bytes, place: int, limit: int, label: str) -> str:
    count = _length(data, place, 1, limit, label)
    content = bytes(data[place + 4 : place + 4 + count])
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WireError(
            f"{label} has byte {content[error.start]:#04x} at {error.start}; expected UTF-8"
        ) from None


# --- values ------------------------------------------------------------------------------------


def plausible_ns(time_ns: int, label: str) -> int:
    """Time itself, if it lies between 2000 and 2100.

    Parameters
    ----------
    time_ns : int
        ns since the Unix epoch.
    label : str
        Schema and field, for the message.

    Returns
    -------
    int

    Raises
    ------
    WireError
        If it lies elsewhere: the clock of the sender jumped, or the unit is another.
    """
    time_ns = int(time_ns)
    if EARLIEST_NS <= time_ns < LATEST_NS:
        return time_ns
    try:
        said = datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        said = "no date"
    raise WireError(
        f"{label} is {time_ns} ns ({said}); expected a time between 2000-01-01 and 2100-01-01. "
        "Check clock and unit of the sender"
    )


def json_object(text: str, label: str) -> Mapping[str, Any]:
    """Object that JSON text describes; empty text is an empty object.

    Parameters
    ----------
    text : str
    label : str
        Schema and field, for the message.

    Returns
    -------
    Mapping

    Raises
    ------
    WireError
        If it is no JSON, no object, nested deeper than 200 levels, has too many entries, or gives a
        key twice.
    """
    if not text.strip():
        return {}
    branches, entries = text.count("{") + text.count("["), text.count(",")
    if branches > MAX_JSON_BRANCHES or entries > MAX_JSON_ENTRIES:
        raise WireError(
            f"{label} has {branches} brackets and {entries} commas; expected at most "
            f"{MAX_JSON_BRANCHES} and {MAX_JSON_ENTRIES}"
        )
    try:
        # Bounds depth and digits whatever the recursion limit is; only then json, which alone
        # shows keys that are given twice.
        from_json(text, allow_inf_nan=False, cache_strings="none")
        content = json.loads(text, object_pairs_hook=_each_once)
    except ValueError as error:
        raise WireError(f"{label} is no JSON: {str(error)[:200]}") from None
    if not isinstance(content, dict):
        raise WireError(f"{label} is a JSON {type(content).__name__}; expected an object")
    return content


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = {}
    for key, entry in pairs:
        if key in content:
            raise InputError(f"key {key[:80]!r} is given twice")
        content[key] = entry
    return content


def events(
    *,
    schema: str,
    source: str,
    sequence: int,
    reference_time_ns: NDArray[np.int64],
    reference_index: NDArray[np.int64],
    time_of_flight_ns: NDArray[np.int32],
    pixel_id: NDArray[np.int32],
) -> Events:
    """Events whose pulses have been checked; the arrays of events are not walked over.

    Raises
    ------
    WireError
        If times and identifiers differ in number, events have no pulse, the index falls or leaves
        the events, or a pulse lies outside 2000 to 2100.
    """
    n_events, n_pulses = len(time_of_flight_ns), len(reference_time_ns)
    if len(pixel_id) != n_events:
        raise WireError(
            f"{schema}: pixel_id has {len(pixel_id)} entries; expected {n_events}, one for every "
            "time_of_flight. Keep monitors without pixels on a topic of their own"
        )
    if len(reference_index) != n_pulses:
        raise WireError(
            f"{schema}: reference_time_index has {len(reference_index)} entries; expected "
            f"{n_pulses}, one for every reference_time"
        )
    if n_events and not n_pulses:
        raise WireError(
            f"{schema}: reference_time is empty; expected the pulses of {n_events} events"
        )
    if n_pulses:
        plausible_ns(reference_time_ns.min(), f"{schema}: reference_time")
        plausible_ns(reference_time_ns.max(), f"{schema}: reference_time")
        first, last = int(reference_index[0]), int(reference_index[-1])
        if first != 0 and n_events:
            raise WireError(
                f"{schema}: reference_time_index begins with {first}; expected 0, or events "
                "belong to no pulse"
            )
        if n_pulses > 1:
            falls = np.flatnonzero(reference_index[1:] < reference_index[:-1])
            if len(falls):
                at = int(falls[0])
                raise WireError(
                    f"{schema}: reference_time_index falls from {reference_index[at]} to "
                    f"{reference_index[at + 1]} at entry {at + 1}; expected it never to fall"
                )
        if not 0 <= first <= last <= n_events:
            raise WireError(
                f"{schema}: reference_time_index goes from {first} to {last}; expected within the "
                f"{n_events} events"
            )
    return Events(
        source=source,
        sequence=sequence,
        reference_time_ns=reference_time_ns,
        reference_index=reference_index,
        time_of_flight_ns=time_of_flight_ns,
        pixel_id=pixel_id,
    )


def reduced(
    *,
    schema: str,
    source: str,
    sequence: int,
    time_ns: int,
    energy_edges_meV: NDArray[Any],
    intensity: NDArray[Any],
    error: NDArray[Any],
) -> ReducedHistogram:
    """Reduced data whose shapes and axis have been checked.

    Raises
    ------
    WireError
        If shapes differ, edges do not rise, or a value cannot be one.
    """
    if intensity.ndim != 2 or 0 in intensity.shape:
        raise WireError(
            f"{schema}: signal has the shape {intensity.shape}; expected (pixels, bins) of at "
            "least one each"
        )
    if intensity.size > MAX_CELLS:
        raise WireError(
            f"{schema}: signal has {intensity.size} cells; expected at most {MAX_CELLS}. Rebin it"
        )
    if error.shape != intensity.shape:
        raise WireError(
            f"{schema}: errors have the shape {error.shape}; expected {intensity.shape}, that of "
            "the signal"
        )
    if energy_edges_meV.shape != (intensity.shape[1] + 1,):
        raise WireError(
            f"{schema}: energy_transfer has the shape {energy_edges_meV.shape}; expected "
            f"{(intensity.shape[1] + 1,)}, the edges of {intensity.shape[1]} bins"
        )
    edges = energy_edges_meV.astype(np.float64)
    if not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
        raise WireError(f"{schema}: energy_transfer does not rise; expected finite rising edges")
    intensity = intensity.astype(np.float64, copy=False)
    error = error.astype(np.float64, copy=False)
    if np.isinf(intensity).any():
        raise WireError(f"{schema}: signal is infinite somewhere; expected NaN where masked")
    if np.isinf(error).any() or (error < 0).any():
        raise WireError(
            f"{schema}: errors are infinite or negative somewhere; expected standard deviations, "
            "NaN where masked"
        )
    return ReducedHistogram(
        source=source,
        sequence=sequence,
        time_ns=plausible_ns(time_ns, f"{schema}: timestamp"),
        energy_edges_meV=edges,
        intensity=intensity,
        error=error,
    )


# --- decoding ----------------------------------------------------------------------------------


def decode_flatbuffer(data: bytes) -> WireValue:
    """Value of an ESS flatbuffer of a known schema.

    Parameters
    ----------
    data : bytes
        One message.

    Returns
    -------
    WireValue
        Arrays may be read-only views into ``data``.

    Raises
    ------
    WireError
        If the schema is unknown, or the message damaged or implausible.
    """
    root, schema = _root(data)
    return SCHEMAS[schema](root)


def decode_data_array(data: bytes) -> DataArray:
    """All variables of a da00 message, also of one that is no reduced data.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    DataArray
        Values are read-only views; text variables are left out.

    Raises
    ------
    WireError
        If it is no da00, or damaged.
    """
    root, schema = _root(data)
    if schema != b"da00":
        raise WireError(f"schema is {schema.decode()!r}; expected 'da00'")
    return _data_array(root, None)


def _root(data: bytes) -> tuple[_Table, bytes]:
    if len(data) < 8:
        raise WireError(
            f"flatbuffer: has {len(data)} bytes; expected at least 8, with a schema's name"
        )
    schema = bytes(data[4:8])
    known = ", ".join(sorted(name.decode() for name in SCHEMAS))
    if schema not in SCHEMAS:
        raise WireError(
            f"unknown schema {repr(schema)[1:]}; expected one of {known}, or a bluesky document"
        )
    name = schema.decode()
    place = _U32.unpack_from(data, 0)[0]
    if place < 8:
        raise WireError(f"{name}: its root lies at byte {place}; expected after the schema's name")
    return _Table(data, place, name), schema


def _run_begins(table: _Table) -> RunBegins:
    start = plausible_ns(table.number(0, "<Q", "start_time") * 10**6, "pl72: start_time")
    stop_ms = table.number(1, "<Q", "stop_time")
    stop = plausible_ns(stop_ms * 10**6, "pl72: stop_time") if stop_ms else None
    if stop is not None and stop <= start:
        raise WireError(
            f"pl72: stop_time is {stop} ns; expected after start_time, {start} ns, or 0 where it "
            "is not known"
        )
    return RunBegins(
        job=table.name(5, "job_id"),
        chunk=table.name(2, "run_name"),
        source=table.name(7, "service_id", needed=False),
        start_time_ns=start,
        instrument_name=table.name(3, "instrument_name", needed=False),
        structure=json_object(
            table.text(4, MAX_STRUCTURE_BYTES, "nexus_structure"), "pl72: nexus_structure"
        ),
        metadata=json_object(table.text(11, MAX_JSON_BYTES, "metadata"), "pl72: metadata"),
        stop_time_ns=stop,
    )


def _run_ends(table: _Table) -> RunEnds:
    return RunEnds(
        job=table.name(2, "job_id"),
        source=table.name(3, "service_id", needed=False),
        stop_time_ns=plausible_ns(table.number(0, "<Q", "stop_time") * 10**6, "6s4t: stop_time"),
    )


def _log_sample(table: _Table) -> LogSample:
    source = table.name(0, "source_name")
    time_ns = plausible_ns(table.number(1, "<q", "timestamp"), "f144: timestamp")
    kind = table.number(2, "<B", "value_type")
    if not 1 <= kind <= 20:
        raise WireError(
            f"f144: value_type of {source!r} is {kind}; expected 1 to 20, a number or a vector of "
            "numbers. Text is no log that folds"
        )
    holder = table.table(3, "value")
    if holder is None:
        raise WireError(f"f144: value of {source!r} is missing; expected a number")
    if kind > 10:
        value = holder.vector(0, _NUMBERS[kind - 10], MAX_LOG_VALUES, "value")
        if not len(value):
            raise WireError(f"f144: value of {source!r} is an empty vector; expected numbers")
    else:
        dtype = _NUMBERS[kind]
        place = holder.at(0, dtype.itemsize, "value")
        # Flatbuffers leave a zero out.
        value = np.zeros(1, dtype) if place is None else np.frombuffer(table.data, dtype, 1, place)
    return LogSample(source=source, time_ns=time_ns, value=value.astype(np.float64))


def _events(table: _Table) -> Events:
    limit = len(table.data)  # no limit of its own: a vector that fits is welcome
    return events(
        schema="ev44",
        source=table.name(0, "source_name"),
        sequence=table.number(1, "<q", "message_id"),
        reference_time_ns=table.vector(2, _NUMBERS[7], limit, "reference_time"),
        reference_index=table.vector(3, _NUMBERS[5], limit, "reference_time_index").astype(
            np.int64
        ),
        time_of_flight_ns=table.vector(4, _NUMBERS[5], limit, "time_of_flight"),
        pixel_id=table.vector(5, _NUMBERS[5], limit, "pixel_id"),
    )


_REDUCED = frozenset({"signal", "signal_errors", "errors", "energy_transfer", "sequence"})


def _reduced(table: _Table) -> ReducedHistogram:
    array = _data_array(table, _REDUCED)
    signal = _variable(array, "signal", 2)
    if signal.axes[1] != "energy_transfer":
        raise WireError(
            f"da00: signal has the axes {signal.axes}; expected pixels first and "
            "'energy_transfer' second"
        )
    edges = _variable(array, "energy_transfer", 1)
    if edges.unit != "meV":
        raise WireError(f"da00: energy_transfer has the unit {edges.unit!r}; expected 'meV'")
    errors = array.variables.get("signal_errors", array.variables.get("errors"))
    if errors is not None:
        error = errors.values
    elif signal.unit == "counts":
        if signal.values.size > MAX_CELLS or (signal.values < 0).any():
            raise WireError(
                f"da00: signal is negative somewhere or has more than {MAX_CELLS} cells; "
                "expected counts"
            )
        error = np.sqrt(signal.values, dtype=np.float64)
    else:
        raise WireError(
            f"da00: signal_errors is missing; expected standard deviations, since signal has the "
            f"unit {signal.unit!r} and not 'counts'"
        )
    sequence = array.variables.get("sequence")
    if sequence is not None and (
        sequence.values.size != 1 or sequence.values.dtype.kind not in "iu"
    ):
        raise WireError(
            f"da00: sequence has the shape {sequence.values.shape} and type "
            f"{sequence.values.dtype}; expected one integer"
        )
    return reduced(
        schema="da00",
        source=array.name,
        sequence=array.time_ns if sequence is None else int(sequence.values.reshape(-1)[0]),
        time_ns=array.time_ns,
        energy_edges_meV=edges.values,
        intensity=signal.values,
        error=error,
    )


def _variable(array: DataArray, name: str, n_axes: int) -> DataVariable:
    variable = array.variables.get(name)
    if variable is None:
        found = ", ".join(sorted(array.variables)) or "none"
        raise WireError(
            f"da00: variable {name!r} is missing in {array.name!r} (found: {found}); expected "
            "'signal' and 'energy_transfer'"
        )
    if len(variable.axes) != n_axes:
        raise WireError(f"da00: {name} has the axes {variable.axes}; expected {n_axes}")
    return variable


def _data_array(table: _Table, wanted: frozenset[str] | None) -> DataArray:
    source = table.name(0, "source_name")
    time_ns = plausible_ns(table.number(1, "<q", "timestamp"), "da00: timestamp")
    variables: dict[str, DataVariable] = {}
    for place in table.offsets(2, MAX_VARIABLES, "data"):
        entry = _Table(table.data, place, "da00")
        name = entry.name(0, "variable name")
        if wanted is not None and name not in wanted:
            continue
        if name in variables:
            raise WireError(f"da00: variable {name!r} is given twice; expected it once")
        variable = _read_variable(entry, name, wanted is not None)
        if variable is not None:
            variables[name] = variable
    return DataArray(name=source, time_ns=time_ns, variables=variables)


def _read_variable(entry: _Table, name: str, numeric: bool) -> DataVariable | None:
    kind = entry.number(4, "<b", f"data_type of {name}")
    if kind not in _NUMBERS:
        if kind == 11 and not numeric:
            return None
        raise WireError(f"da00: {name} has the data type {kind}; expected 1 to 10, numbers")
    dtype = _NUMBERS[kind]
    axes = tuple(
        _text(entry.data, place, MAX_NAME_BYTES, f"da00: axes of {name}")
        for place in entry.offsets(5, MAX_AXES, f"axes of {name}")
    )
    # Without axes the shape is that of the bytes, by the library's custom; it is not needed.
    shape: Sequence[int] = ()
    if axes:
        shape = entry.vector(6, _NUMBERS[7], MAX_AXES, f"shape of {name}").tolist()
        if len(shape) != len(axes) or min(shape) < 0:
            raise WireError(
                f"da00: {name} has the shape {shape} for the axes {axes}; expected as many "
                "lengths of 0 or more"
            )
    content = entry.vector(7, _NUMBERS[2], len(entry.data), f"data of {name}")
    # Python's integers do not overflow: absurd lengths cannot multiply to the right size.
    if math.prod(shape) * dtype.itemsize != len(content):
        raise WireError(
            f"da00: {name} has {len(content)} bytes of data; expected "
            f"{math.prod(shape) * dtype.itemsize} for the shape {list(shape)} of {dtype.name}"
        )
    if len(content) == 0:
        values = np.empty(shape, dtype)
    else:
        values = np.frombuffer(content, dtype).reshape(shape)
        values = values if values.flags.aligned else values.copy()
    unit = entry.name(1, f"unit of {name}", needed=False)
    return DataVariable(name=name, unit=unit or None, axes=axes, values=values)


def _heartbeat(table: _Table) -> Heartbeat:
    service = table.name(2, "service_id", needed=False) or table.name(
        0, "software_name", needed=False
    )
    if not service:
        raise WireError("x5f2: service_id and software_name are empty; expected a name")
    return Heartbeat(
        service=service,
        status=json_object(table.text(6, MAX_JSON_BYTES, "status_json"), "x5f2: status_json"),
    )


SCHEMAS: Mapping[bytes, Callable[[_Table], WireValue]] = {
    b"pl72": _run_begins,
    b"6s4t": _run_ends,
    b"f144": _log_sample,
    b"ev44": _events,
    b"da00": _reduced,
    b"x5f2": _heartbeat,
}


# --- encoding ----------------------------------------------------------------------------------


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(dict(content), allow_nan=False)


def encode_run_begins(value: RunBegins, *, filename: str = "", broker: str = "") -> bytes:
    """pl72 of a beginning run; the start is rounded down and the stop up to ms.

    Parameters
    ----------
    value : RunBegins
    filename, broker : str
        What the file writer of a facility wants to know besides.

    Returns
    -------
    bytes
    """
    return serialise_pl72(
        job_id=value.job,
        filename=filename,
        start_time=value.start_time_ns // 10**6,
        stop_time=None if value.stop_time_ns is None else -(-value.stop_time_ns // 10**6),
        run_name=value.chunk,
        nexus_structure=_json(value.structure),
        service_id=value.source,
        instrument_name=value.instrument_name,
        broker=broker,
        metadata=_json(value.metadata),
    )


def encode_run_ends(value: RunEnds, *, run_name: str = "") -> bytes:
    """6s4t of an ended run; the stop is rounded up to ms.

    Parameters
    ----------
    value : RunEnds
    run_name : str
        Name for people; readers link by job.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If the run failed: 6s4t has no place for a reason.
    """
    if value.failed is not None:
        raise InputError(
            f"failed is {value.failed!r}; 6s4t has no place for it. Send a bluesky stop document"
        )
    return serialise_6s4t(
        job_id=value.job,
        run_name=run_name,
        service_id=value.source,
        stop_time=-(-value.stop_time_ns // 10**6),
    )


def encode_log(value: LogSample) -> bytes:
    """f144 of a log value: a number where there is one, else a vector; float64.

    Parameters
    ----------
    value : LogSample

    Returns
    -------
    bytes
    """
    numbers = np.asarray(value.value, np.float64)
    content = numbers[0] if numbers.shape == (1,) else numbers
    return serialise_f144(value.source, content, value.time_ns)


def encode_events(value: Events) -> bytes:
    """ev44 of neutrons.

    Parameters
    ----------
    value : Events
        At most 2^31 - 1 of them; all is written as it is.

    Returns
    -------
    bytes
    """
    return serialise_ev44(
        value.source,
        value.sequence,
        value.reference_time_ns,
        value.reference_index,
        value.time_of_flight_ns,
        value.pixel_id,
    )


def encode_reduced(value: ReducedHistogram, *, unit: str = "") -> bytes:
    """da00 of reduced data, in the layout that the head of this module describes.

    Parameters
    ----------
    value : ReducedHistogram
    unit : str
        Of intensity and error.

    Returns
    -------
    bytes
    """
    axes = ("pixel", "energy_transfer")
    return encode_data_array(
        value.source,
        value.time_ns,
        (
            DataVariable(name="signal", unit=unit, axes=axes, values=value.intensity),
            DataVariable(name="signal_errors", unit=unit, axes=axes, values=value.error),
            DataVariable(
                name="energy_transfer",
                unit="meV",
                axes=("energy_transfer",),
                values=value.energy_edges_meV,
            ),
            DataVariable(
                name="sequence", unit=None, axes=(), values=np.array(value.sequence, np.int64)
            ),
        ),
    )


def encode_data_array(name: str, time_ns: int, variables: Sequence[DataVariable]) -> bytes:
    """da00 of any arrays, such as folded sums.

    Parameters
    ----------
    name : str
        Source name of the message.
    time_ns : int
        Wire time.
    variables : sequence of DataVariable
        At least one.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If axes and shape of a variable differ in number, or it holds no numbers.
    """
    packed = []
    for variable in variables:
        # ascontiguousarray would give a number an axis.
        values = np.asarray(variable.values, order="C")
        native = values.astype(values.dtype.newbyteorder("="), copy=False)
        if native.ndim != len(variable.axes):
            raise InputError(
                f"{variable.name} has the shape {native.shape}; expected the axes {variable.axes}"
            )
        if native.dtype.newbyteorder("<") not in _NUMBERS.values():
            raise InputError(
                f"{variable.name} holds {native.dtype}; expected integers or floats of at most "
                "8 bytes"
            )
        packed.append(
            Variable(
                name=variable.name,
                data=native,
                axes=list(variable.axes),
                unit=variable.unit,
            )
        )
    if not packed:
        raise InputError("variables is empty; expected at least one")
    return serialise_da00(name, time_ns, packed)


def encode_heartbeat(
    value: Heartbeat,
    *,
    software_name: str = "beamsteer",
    software_version: str = "",
    host_name: str = "",
    process_id: int = 0,
    update_interval_ms: int = 0,
) -> bytes:
    """x5f2 of a living service.

    Parameters
    ----------
    value : Heartbeat
        Its status must be JSON.
    software_name, software_version, host_name : str
    process_id : int
    update_interval_ms : int
        How often it comes; 0 where not known.

    Returns
    -------
    bytes
    """
    return serialise_x5f2(
        software_name,
        software_version,
        value.service,
        host_name,
        process_id,
        update_interval_ms,
        _json(value.status),
    )
