"""Bluesky event-model documents to and from the values of the wire.

One bluesky run is one chunk, a dwell at one orientation. Every document is held against the schema
of `event_model` first. Arrays may be numpy's (they travel in msgpack) or lists of numbers.

``start`` -> RunBegins
    ``uid`` is the job and ``time`` (s) the start. An optional mapping ``beamsteer`` says more:
    ``chunk`` (its name for people; else ``scan_id``, else ``uid``), ``run``, ``source``,
    ``instrument_name``, ``structure`` (NeXus template as in pl72, a mapping or JSON text),
    ``metadata`` (a mapping or JSON text) and ``start_time_ns`` (exact, where ``time`` is rounded).
    All other entries become metadata, and so does ``run``.
``descriptor`` -> Description
    The dwell (``run_start``) to which the events of this descriptor belong.
``event`` -> Described, with the values that its data keys name:

    * a number, or a list of numbers -> LogSample of the key's name, at ``timestamps[key]`` (s), or
      exactly at the integer ``<key>_time_ns`` where there is such a key;
    * ``<source>_pixel_id``, ``<source>_time_of_flight_ns``, ``<source>_reference_time_ns`` and
      ``<source>_reference_index``, all four lists of integers -> Events with the event's
      ``seq_num`` as sequence; see `consumers.wire.values` for what they mean;
    * ``<source>_intensity``, ``<source>_error``, both (pixels, bins), and
      ``<source>_energy_edges_meV`` -> ReducedHistogram, likewise;
    * text, pictures and other things are passed over.

    The schema forbids dots and slashes in keys; ``%2E``, ``%2F`` and ``%25`` stand for ``.``, ``/``
    and ``%`` of a source's name.
``event_page`` -> Described, one set of values per row.
``stop`` -> RunEnds
    Of the run in ``run_start`` at ``time``, or exactly at ``beamsteer.stop_time_ns``. An
    ``exit_status`` other than ``success`` is a failed dwell with its ``reason``.

Documents that point to files (resource, datum, stream_resource, stream_datum) are refused: what
folds must be in the stream.

Seconds in a float name a time today to a quarter of a microsecond; the keys in ns are for senders
to whom that matters, `documents_of` among them.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from event_model import DocumentNames, schema_validators
from numpy.typing import NDArray

from consumers.wire.flatbuffers_codec import (
    MAX_NAME_BYTES,
    MAX_STRUCTURE_BYTES,
    events,
    json_object,
    plausible_ns,
    reduced,
)
from consumers.wire.values import (
    Described,
    Description,
    Events,
    LogSample,
    ReducedHistogram,
    RunBegins,
    RunEnds,
    WireError,
    WireValue,
)
from simulations.errors import InputError

NAMES = ("start", "descriptor", "event", "event_page", "stop")
MAX_PAGE_ENTRIES = 50_000  # rows times keys
MAX_LOG_VALUES = 4096  # a longer list is a picture or a spectrum, not a log
MAX_LISTS = 200_000  # rows of a list of lists; more take seconds and belong into an array

_EVENT_KEYS = ("_pixel_id", "_time_of_flight_ns", "_reference_time_ns", "_reference_index")
_REDUCED_KEYS = ("_energy_edges_meV", "_intensity", "_error")


def value_of_document(name: str, document: object) -> WireValue:
    """What a document says.

    Parameters
    ----------
    name : str
        Kind of document, e.g. ``event``.
    document : object
        Its content, as `consumers.wire.msgpack_codec.unpack` returns it.

    Returns
    -------
    WireValue
        RunBegins, Description, Described or RunEnds.

    Raises
    ------
    WireError
        If the kind is not read, the schema is not kept, or a value cannot be one.
    """
    if name not in NAMES:
        known = ", ".join(NAMES)
        if name in DocumentNames.__members__:
            raise WireError(
                f"bluesky {name}: names data outside of the stream or is out of use; expected one "
                f"of {known}"
            )
        raise WireError(f"bluesky: document is called {name[:40]!r}; expected one of {known}")
    if not isinstance(document, dict):
        raise WireError(f"bluesky {name}: is {type(document).__name__}; expected a mapping")
    if name == "event_page":
        _check_page(document)
    _check_schema(name, document)
    return {
        "start": _run_begins,
        "descriptor": _description,
        "event": _event,
        "event_page": _event_page,
        "stop": _run_ends,
    }[name](document)


def _check_schema(name: str, document: dict[str, Any]) -> None:
    try:
        with np.printoptions(threshold=8, edgeitems=2):  # schemas write arrays into messages
            fault = next(schema_validators[DocumentNames[name]].iter_errors(document), None)
    except Exception as error:  # an array where the schema compares, for one
        raise WireError(
            f"bluesky {name}: cannot be held against its schema ({str(error)[:120]}); expected "
            "plain values"
        ) from None
    if fault is not None:
        place = ".".join(str(step)[:40] for step in fault.absolute_path) or "document"
        raise WireError(
            f"bluesky {name}: {place}: {fault.message[:200]}; expected as in its schema"
        )


def _check_page(page: dict[str, Any]) -> None:
    """Equal and bounded columns, before the schema looks at every entry of them."""
    columns = {key: page.get(key) for key in ("seq_num", "time", "uid")}
    for key in ("data", "timestamps", "filled"):
        inner = page.get(key, {})
        if isinstance(inner, dict):
            columns.update({f"{key}.{name}": column for name, column in inner.items()})
    rows = None
    for label, column in columns.items():
        if not isinstance(column, list) and not (
            isinstance(column, np.ndarray) and column.ndim > 0
        ):
            raise WireError(
                f"bluesky event_page: {label} is {type(column).__name__}; expected a list"
            )
        if rows is None:
            rows = len(column)
        if len(column) != rows:
            raise WireError(
                f"bluesky event_page: {label} has {len(column)} rows; expected {rows} as seq_num"
            )
    if (rows or 0) * len(columns) > MAX_PAGE_ENTRIES:
        raise WireError(
            f"bluesky event_page: has {rows} rows in {len(columns)} columns; expected at most "
            f"{MAX_PAGE_ENTRIES} entries. Send smaller pages"
        )


# --- single values -----------------------------------------------------------------------------


def _text(value: object, label: str, *, needed: bool = True) -> str:
    if not isinstance(value, str) or (needed and not value) or not value.isprintable():
        raise WireError(f"{label} is {str(value)[:40]!r}; expected printable text")
    if len(value) > MAX_NAME_BYTES:
        raise WireError(f"{label} has {len(value)} characters; expected at most {MAX_NAME_BYTES}")
    return value


def _nanoseconds(seconds: object, label: str) -> int:
    if (
        not isinstance(seconds, (int, float))
        or isinstance(seconds, bool)
        or not abs(seconds) < 1e11  # false for NaN too
    ):
        raise WireError(f"{label} is {str(seconds)[:40]}; expected seconds since 1970")
    whole = math.floor(seconds)
    return plausible_ns(whole * 10**9 + round((seconds - whole) * 1e9), label)


def _exact_or(mapping: Mapping[str, Any], key: str, seconds: object, label: str) -> int:
    """Time in ns of a mapping's key where it is there, else of seconds."""
    if key not in mapping:
        return _nanoseconds(seconds, f"{label} time")
    exact = mapping[key]
    if type(exact) is not int:
        raise WireError(f"{label} {key} is {str(exact)[:40]}; expected integer ns since 1970")
    return plausible_ns(exact, f"{label} {key}")


def _mapping(value: object, label: str) -> Mapping[str, Any]:
    if isinstance(value, str):
        if len(value) > MAX_STRUCTURE_BYTES:
            raise WireError(
                f"{label} has {len(value)} characters; expected at most {MAX_STRUCTURE_BYTES}"
            )
        return json_object(value, label)
    if not isinstance(value, dict):
        raise WireError(f"{label} is {type(value).__name__}; expected a mapping or JSON text")
    return value


def _ours(document: dict[str, Any], name: str) -> dict[str, Any]:
    ours = document.get("beamsteer", {})
    if not isinstance(ours, dict):
        raise WireError(f"bluesky {name}: beamsteer is {type(ours).__name__}; expected a mapping")
    return ours


def _numbers(value: object) -> NDArray[Any] | None:
    """Number, list of numbers or array as an array; None where it is something else."""
    if isinstance(value, np.ndarray):
        return value if value.dtype.kind in "biuf" else None
    if isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
        value = [value]
        shape: tuple[int, ...] = ()
    elif isinstance(value, list):
        shape = (len(value),)
        if value and isinstance(value[0], (list, np.ndarray)):
            if len(value) > MAX_LISTS:
                return None
            rows = [_numbers(row) for row in value]
            first = rows[0]
            if first is None or any(
                row is None or row.shape != first.shape or row.ndim != 1 for row in rows
            ):
                return None
            return np.stack([row for row in rows if row is not None])
    else:
        return None
    # numpy would make text or objects of anything else, as large as it takes.
    if not set(map(type, value)) <= {bool, int, float}:
        return None
    try:
        array = np.array(value) if value else np.empty(0, np.int64)
    except OverflowError:
        return None
    return array.reshape(shape) if array.dtype.kind in "biuf" else None


def _integers(value: object, dtype: type[np.integer[Any]], label: str) -> NDArray[Any]:
    array = _numbers(value)
    if array is None or array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        said = type(value).__name__ if array is None else f"{array.dtype} of {array.shape}"
        raise WireError(f"{label} is {said}; expected a list of integers inside the event")
    if array.dtype == dtype:
        return array
    limits = np.iinfo(dtype)
    if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
        raise WireError(
            f"{label} goes from {array.min()} to {array.max()}; expected {np.dtype(dtype).name}"
        )
    return array.astype(dtype)


# --- documents to values -----------------------------------------------------------------------


def _run_begins(document: dict[str, Any]) -> RunBegins:
    ours = _ours(document, "start")
    job = _text(document["uid"], "bluesky start: uid")
    metadata = {
        key: value for key, value in document.items() if key not in ("uid", "time", "beamsteer")
    }
    metadata.update(_mapping(ours.get("metadata", {}), "bluesky start: beamsteer.metadata"))
    if "run" in ours:
        metadata["run"] = _text(ours["run"], "bluesky start: beamsteer.run")
    return RunBegins(
        job=job,
        chunk=_text(
            ours.get("chunk", str(document.get("scan_id", job))), "bluesky start: beamsteer.chunk"
        ),
        source=_text(ours.get("source", "bluesky"), "bluesky start: beamsteer.source"),
        start_time_ns=_exact_or(ours, "start_time_ns", document["time"], "bluesky start:"),
        instrument_name=_text(
            ours.get("instrument_name", ""),
            "bluesky start: beamsteer.instrument_name",
            needed=False,
        ),
        structure=_mapping(ours.get("structure", {}), "bluesky start: beamsteer.structure"),
        metadata=metadata,
    )


def _run_ends(document: dict[str, Any]) -> RunEnds:
    ours = _ours(document, "stop")
    failed = None
    if document["exit_status"] != "success":
        failed = document.get("reason", "")[:1000] or f"exit_status is {document['exit_status']}"
    return RunEnds(
        job=_text(document["run_start"], "bluesky stop: run_start"),
        source=_text(ours.get("source", "bluesky"), "bluesky stop: beamsteer.source"),
        stop_time_ns=_exact_or(ours, "stop_time_ns", document["time"], "bluesky stop:"),
        failed=failed,
    )


def _description(document: dict[str, Any]) -> Description:
    return Description(
        descriptor=_text(document["uid"], "bluesky descriptor: uid"),
        job=_text(document["run_start"], "bluesky descriptor: run_start"),
    )


def _event(document: dict[str, Any]) -> Described:
    return Described(
        descriptor=_text(document["descriptor"], "bluesky event: descriptor"),
        values=tuple(
            _values(document["data"], document["timestamps"], document["time"], document["seq_num"])
        ),
    )


def _event_page(document: dict[str, Any]) -> Described:
    data, timestamps = document["data"], document["timestamps"]
    values: list[LogSample | Events | ReducedHistogram] = []
    for row, (sequence, seconds) in enumerate(
        zip(document["seq_num"], document["time"], strict=True)
    ):
        values += _values(
            {key: column[row] for key, column in data.items()},
            {key: column[row] for key, column in timestamps.items()},
            seconds,
            sequence,
        )
    return Described(
        descriptor=_text(document["descriptor"], "bluesky event_page: descriptor"),
        values=tuple(values),
    )


def _values(
    data: Mapping[str, Any], timestamps: Mapping[str, Any], seconds: object, seq_num: float
) -> Iterator[LogSample | Events | ReducedHistogram]:
    """Values of one event, in the order of their first keys."""
    if not 0 <= seq_num < 2**63:
        raise WireError(f"bluesky event: seq_num is {seq_num}; expected 0 or more")
    sequence = int(seq_num)
    used: set[str] = set()
    for key in data:
        if key in used:
            continue
        source = _source_of(key, _EVENT_KEYS)
        if source is not None:
            used.update(_complete(data, source, _EVENT_KEYS))
            yield _neutrons(data, source, sequence)
            continue
        source = _source_of(key, _REDUCED_KEYS)
        if source is not None and f"{source}_energy_edges_meV" in data:
            used.update(_complete(data, source, _REDUCED_KEYS))
            yield _histogram(data, source, sequence, seconds)
            continue
        if key.endswith("_time_ns"):
            owner = key.removesuffix("_time_ns")
            if owner in data or f"{owner}_energy_edges_meV" in data:
                continue
        if isinstance(data[key], list) and len(data[key]) > MAX_LOG_VALUES:
            continue
        numbers = _numbers(data[key])
        if numbers is None or numbers.ndim > 1 or not 0 < numbers.size <= MAX_LOG_VALUES:
            continue
        yield LogSample(
            source=_text(_name_of(key), "bluesky event: data key"),
            time_ns=_exact_or(
                data, f"{key}_time_ns", timestamps.get(key, seconds), f"bluesky event: {key}"
            ),
            value=numbers.reshape(-1).astype(np.float64),
        )


def _name_of(key: str) -> str:
    return key.replace("%2E", ".").replace("%2F", "/").replace("%25", "%")


def _key_of(name: str) -> str:
    return name.replace("%", "%25").replace(".", "%2E").replace("/", "%2F")


def _source_of(key: str, endings: tuple[str, ...]) -> str | None:
    for ending in endings:
        if key.endswith(ending) and len(key) > len(ending):
            return key.removesuffix(ending)
    return None


def _complete(data: Mapping[str, Any], source: str, endings: tuple[str, ...]) -> list[str]:
    keys = [source + ending for ending in endings]
    missing = [key for key in keys if key not in data]
    if missing:
        raise WireError(
            f"bluesky event: {', '.join(missing)[:200]} is missing; expected all of "
            f"{', '.join('<source>' + ending for ending in endings)}"
        )
    _text(_name_of(source), "bluesky event: source")
    return keys


def _neutrons(data: Mapping[str, Any], source: str, sequence: int) -> Events:
    pixel_id = data[f"{source}_pixel_id"]
    if isinstance(pixel_id, np.ndarray) and pixel_id.dtype == np.uint32:
        pixel_id = pixel_id.view(np.int32)  # the error bit is the sign
    label = f"bluesky event: {source}"
    return events(
        schema=label,
        source=_name_of(source),
        sequence=sequence,
        reference_time_ns=_integers(
            data[f"{source}_reference_time_ns"], np.int64, f"{label}_reference_time_ns"
        ),
        reference_index=_integers(
            data[f"{source}_reference_index"], np.int64, f"{label}_reference_index"
        ),
        time_of_flight_ns=_integers(
            data[f"{source}_time_of_flight_ns"], np.int32, f"{label}_time_of_flight_ns"
        ),
        pixel_id=_integers(pixel_id, np.int32, f"{label}_pixel_id"),
    )


def _histogram(
    data: Mapping[str, Any], source: str, sequence: int, seconds: object
) -> ReducedHistogram:
    arrays = {}
    for ending in _REDUCED_KEYS:
        array = _numbers(data[source + ending])
        if array is None:
            raise WireError(
                f"bluesky event: {source}{ending} is {type(data[source + ending]).__name__}; "
                "expected an array of numbers inside the event"
            )
        arrays[ending] = array
    return reduced(
        schema=f"bluesky event: {source}",
        source=_name_of(source),
        sequence=sequence,
        time_ns=_exact_or(data, f"{source}_time_ns", seconds, f"bluesky event: {source}"),
        energy_edges_meV=arrays["_energy_edges_meV"],
        intensity=arrays["_intensity"],
        error=arrays["_error"],
    )


# --- values to documents -----------------------------------------------------------------------


def documents_of(
    begins: RunBegins,
    values: Iterable[LogSample | Events | ReducedHistogram],
    ends: RunEnds,
    *,
    run: str | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Valid documents of one chunk: start, descriptors, events, stop.

    Every source has a descriptor of its own, sent before its first event. Read back by
    `value_of_document`, the values are the same, times and numbers to the last bit.

    Parameters
    ----------
    begins : RunBegins
    values : iterable of LogSample, Events and ReducedHistogram
        Taken one by one; ``sequence`` becomes ``seq_num``.
    ends : RunEnds
        Of the same job.
    run : str, optional
        Name of the run, for readers of a stream without keys.

    Yields
    ------
    tuple of str and dict
        Kind and content, for `bluesky`'s dispatcher or `consumers.wire.msgpack_codec.pack`.

    Raises
    ------
    ValueError
        If the two ends belong to different jobs.
    """
    if begins.job != ends.job:
        raise InputError(f"ends.job is {ends.job!r}; expected {begins.job!r} as begins.job")
    job = begins.job
    ours: dict[str, Any] = {
        "chunk": begins.chunk,
        "source": begins.source or "bluesky",
        "instrument_name": begins.instrument_name,
        # As text: the schema forbids dots and slashes in keys.
        "structure": json.dumps(dict(begins.structure), allow_nan=False),
        "metadata": json.dumps(dict(begins.metadata), allow_nan=False),
        "start_time_ns": begins.start_time_ns,
    }
    if run is not None:
        ours["run"] = run
    yield _valid("start", {"uid": job, "time": begins.start_time_ns / 1e9, "beamsteer": ours})
    counts: dict[str, int] = {}
    for value in values:
        stream, time_ns, data = _data_of(value, begins.start_time_ns)
        descriptor = _uid(job, stream)
        if stream not in counts:
            counts[stream] = 0
            yield _valid(
                "descriptor",
                {
                    "uid": descriptor,
                    "run_start": job,
                    "time": time_ns / 1e9,
                    "name": stream,
                    "data_keys": {key: _data_key(key, entry) for key, entry in data.items()},
                },
            )
        counts[stream] += 1
        yield _valid(
            "event",
            {
                "uid": _uid(job, stream, str(counts[stream])),
                "descriptor": descriptor,
                "time": time_ns / 1e9,
                "seq_num": counts[stream] if isinstance(value, LogSample) else value.sequence,
                "data": data,
                "timestamps": dict.fromkeys(data, time_ns / 1e9),
                "filled": {},
            },
        )
    yield _valid(
        "stop",
        {
            "uid": _uid(job, "stop"),
            "run_start": job,
            "time": ends.stop_time_ns / 1e9,
            "exit_status": "success" if ends.failed is None else "fail",
            "reason": ends.failed or "",
            "num_events": counts,
            "beamsteer": {
                "stop_time_ns": ends.stop_time_ns,
                "source": ends.source or "bluesky",
            },
        },
    )


def _valid(name: str, document: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    schema_validators[DocumentNames[name]].validate(document)
    return name, document


def _uid(*parts: str) -> str:
    """Same for the same part of the same job, so that a replay is bit for bit the same."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "/".join(parts)))


def _data_of(
    value: LogSample | Events | ReducedHistogram, otherwise_ns: int
) -> tuple[str, int, dict[str, Any]]:
    """Stream, time in ns and data of the event that carries a value."""
    name = _key_of(value.source)
    if isinstance(value, LogSample):
        numbers = np.asarray(value.value, np.float64)
        content = float(numbers[0]) if numbers.shape == (1,) else numbers
        # A stream keeps its data keys: numbers and vectors of one source are two streams.
        stream = name if numbers.shape == (1,) else f"{name}_vector"
        return stream, value.time_ns, {name: content, f"{name}_time_ns": value.time_ns}
    if isinstance(value, Events):
        pulses = value.reference_time_ns
        time_ns = int(pulses[0]) if len(pulses) else otherwise_ns
        return (
            f"{name}_events",
            time_ns,
            {
                f"{name}_pixel_id": value.pixel_id,
                f"{name}_time_of_flight_ns": value.time_of_flight_ns,
                f"{name}_reference_time_ns": value.reference_time_ns,
                f"{name}_reference_index": value.reference_index,
            },
        )
    return (
        f"{name}_reduced",
        value.time_ns,
        {
            f"{name}_intensity": value.intensity,
            f"{name}_error": value.error,
            f"{name}_energy_edges_meV": value.energy_edges_meV,
            f"{name}_time_ns": value.time_ns,
        },
    )


def _data_key(key: str, entry: object) -> dict[str, Any]:
    if isinstance(entry, np.ndarray):
        return {
            "dtype": "array",
            "shape": [None] * entry.ndim,
            "dtype_numpy": entry.dtype.str,
            "source": "beamsteer",
        }
    if key.endswith("_time_ns"):
        return {"dtype": "integer", "shape": [], "source": "beamsteer", "units": "ns"}
    return {"dtype": "number", "shape": [], "source": "beamsteer"}
