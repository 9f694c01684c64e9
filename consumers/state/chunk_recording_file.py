"""A live dwell as a raw event NeXus file: what the facility would have written, to be replayed.

The layout is that of ``consumers.recorded.sns_event_file``, whose reader turns the file into
neutrons; so live data take the very path of recorded ones. What the layout lacks (which message
brought which pulse, times in ns, reduced histograms) lies beside it, in the group ``beamsteer``, so
that a late message can be added.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumers.recorded import (
    EPOCH_1990_S,
    UnreadableError,
    child_group,
    create_hdf5,
    format_time_ns,
    open_hdf5,
    text_of,
)
from consumers.state.assembled_chunk import AssembledChunk
from consumers.state.event_spill_file import forget_pages
from consumers.state.log_series import LogSeries
from consumers.state.nexus_template import entry_value, instrument_xml
from consumers.state.pulses import in_order, reduced_in_order
from consumers.wire import Events, ReducedHistogram
from simulations.errors import InputError
from simulations.saved_file import in_one_step

VERSION = 1
GROUP = "beamsteer"
BLOCK_EVENTS = 1_000_000  # that are in memory at once while a dwell is written
_HEADER = (
    "run", "job", "chunk", "generation", "instrument_name", "structure", "start_time_ns",
    "stop_time_ns", "explicit_stop", "note", "descriptors",
)  # fmt: skip


def write_recording(path: Path, chunk: AssembledChunk) -> None:
    """Write a dwell in one step (temporary name, flush, rename).

    Parameters
    ----------
    path : Path
        File to write; replaced if it exists.
    chunk : AssembledChunk

    Raises
    ------
    ValueError
        If a time lies before 1990, which the layout cannot say.
    StorageError
        If it cannot be written; nothing is left behind.
    """
    if chunk.start_time_ns < EPOCH_1990_S * 1_000_000_000:
        raise InputError(
            f"start_time_ns is {chunk.start_time_ns}; expected a time after 1990. Check the "
            "clock of the sender"
        )
    with in_one_step(path) as temporary, create_hdf5(temporary) as file:
        entry = _group(file, "entry", "NXentry")
        for key, text in {
            "definition": "NXsnsevent",
            "run_number": chunk.chunk,
            "entry_identifier": chunk.chunk,
            "title": f"run {chunk.run}, recorded live",
            "start_time": format_time_ns(chunk.start_time_ns),
            "end_time": format_time_ns(chunk.stop_time_ns),
        }.items():
            entry.create_dataset(key, data=np.array([text.encode()]))
        duration = (chunk.stop_time_ns - chunk.start_time_ns) * 1e-9
        said = _number(chunk, "duration") if chunk.explicit_stop else None
        # the times of starts and stops are whole milliseconds: a sender may know better
        if said is not None and said[1].lower() in ("second", "s") and said[0] <= duration:
            duration = said[0]
        _numbers(entry, "duration", np.array([duration]), "second")
        charge = _number(chunk, "proton_charge")
        if charge is not None:
            _numbers(entry, "proton_charge", np.array([charge[0]]), charge[1])
        machine = _group(entry, "instrument", "NXinstrument")
        machine.create_dataset("name", data=np.array([chunk.instrument_name.encode()]))
        xml = instrument_xml(chunk.structure)
        if xml is not None:
            note = _group(machine, "instrument_xml", "NXnote")
            note.create_dataset("data", data=np.array([xml.encode()]))
        logs = _group(entry, "DASlogs", "NXcollection")
        for name, series in chunk.logs.items():
            log = _group(logs, name.replace("/", "_"), "NXlog")
            log.attrs["name"] = name
            _numbers(log, "value", series.value, series.unit)
            _times(log, "time", series.time_ns, chunk.start_time_ns)
            log.create_dataset("time_ns", data=series.time_ns)
            average = series.average(chunk.start_time_ns, chunk.stop_time_ns)
            _numbers(log, "average_value", np.array([average]), series.unit)
        ours = _group(file, GROUP, "NXcollection")
        header = {name: getattr(chunk, name) for name in _HEADER}
        ours.attrs["version"] = VERSION
        ours.create_dataset("header", data=json.dumps(header))
        sources = sorted({e.source for e in chunk.events}) or ["none"]
        for number, source in enumerate(sources):
            events = [e for e in chunk.events if e.source == source]
            _bank(entry, ours, number, source, events, chunk.start_time_ns)
        for number, reduced in enumerate(chunk.reduced):
            group = ours.create_group(f"reduced_{number}")
            group.attrs["source"] = reduced.source
            group.attrs["sequence"] = reduced.sequence
            group.attrs["time_ns"] = reduced.time_ns
            for key in ("energy_edges_meV", "intensity", "error"):
                group.create_dataset(key, data=getattr(reduced, key))


def read_recording(path: Path) -> AssembledChunk:
    """The dwell that ``write_recording`` wrote.

    Its events are views of the file: they take memory while they are looked at.

    Raises
    ------
    UnreadableError
        If the file is absent, damaged, foreign or of another version.
    StorageError
        If the system is short of handles or memory.
    """
    try:
        return _read(path)
    except UnreadableError:
        raise
    except (ValueError, IndexError, AttributeError) as error:
        raise UnreadableError(
            f"{path}: its parts do not fit together ({error}); the file is damaged"
        ) from error


def _read(path: Path) -> AssembledChunk:
    with open_hdf5(path) as opened:
        file: Any = opened
        ours = child_group(opened, GROUP)
        if ours is None or "header" not in ours:
            raise UnreadableError(f"{path}: no group {GROUP!r}; expected a chunk recorded live")
        version = int(ours.attrs.get("version", 0))
        if version != VERSION:
            raise UnreadableError(f"{path}: version is {version}; expected {VERSION}")
        header: dict[str, Any] = json.loads(text_of(ours["header"][()]))
        header["descriptors"] = tuple(header["descriptors"])
        logs: dict[str, LogSeries] = {}
        for log in file["entry/DASlogs"].values():
            logs[text_of(log.attrs["name"])] = LogSeries(
                time_ns=np.asarray(log["time_ns"][()], np.int64),
                value=np.asarray(log["value"][()], float),
                unit=text_of(log["value"].attrs["units"]),
            )
        with path.open("rb") as plain:
            mapped = mmap.mmap(plain.fileno(), 0, access=mmap.ACCESS_READ)
        events: list[Events] = []
        reduced: list[ReducedHistogram] = []
        for name, group in ours.items():
            if name.startswith("bank_"):
                events.extend(_messages(file, group, mapped))
            elif name.startswith("reduced_"):
                reduced.append(
                    ReducedHistogram(
                        source=text_of(group.attrs["source"]),
                        sequence=int(group.attrs["sequence"]),
                        time_ns=int(group.attrs["time_ns"]),
                        energy_edges_meV=group["energy_edges_meV"][()],
                        intensity=group["intensity"][()],
                        error=group["error"][()],
                    )
                )
    return AssembledChunk(
        **header,
        logs=dict(sorted(logs.items())),
        events=in_order(events),
        reduced=reduced_in_order(reduced),
    )


def _number(chunk: AssembledChunk, name: str) -> tuple[float, str] | None:
    """A positive number that the start message gives for the whole dwell."""
    found = entry_value(chunk.structure, name)
    if found is None or isinstance(found[0], bool) or not isinstance(found[0], int | float):
        return None
    return (float(found[0]), found[1]) if found[0] > 0 else None


def _bank(
    entry: Any,
    ours: Any,
    number: int,
    source: str,
    events: list[Events],
    start_ns: int,
) -> None:
    """One source of events as a bank, its messages one after the other."""
    clean = "".join(c if c.isalnum() or c in "-_." else "_" for c in source)
    name = clean if clean.endswith("_events") else f"{clean}_events"
    name = name if name not in entry else f"bank{number}_{name}"
    group = _group(entry, name, "NXevent_data")
    first = np.cumsum([0, *(len(e.time_of_flight_ns) for e in events)])
    index = [e.reference_index + n for e, n in zip(events, first, strict=False)]
    total = int(first[-1])
    ids = group.create_dataset("event_id", shape=(total,), dtype=np.uint32)
    offset = group.create_dataset("event_time_offset", shape=(total,), dtype=np.float32)
    offset.attrs["units"] = "microsecond"
    group.create_dataset("event_index", data=_joined(index, np.int64).astype(np.uint64))
    times = _joined([e.reference_time_ns for e in events], np.int64)
    _times(group, "event_time_zero", times, start_ns)
    group.create_dataset("total_counts", data=np.array([total], np.uint64))
    kept = ours.create_group(f"bank_{number}")
    kept.attrs["source"] = source
    kept.attrs["bank"] = name
    kept.create_dataset("sequence", data=np.array([e.sequence for e in events], np.int64))
    kept.create_dataset(
        "pulses", data=np.array([len(e.reference_time_ns) for e in events], np.int64)
    )
    kept.create_dataset("reference_time_ns", data=times)
    exact = kept.create_dataset("time_of_flight_ns", shape=(total,), dtype=np.int32)
    start = 0
    for block in _blocks(events):
        tof = _joined([e.time_of_flight_ns for e in block], np.int32)
        part = slice(start, start + len(tof))
        ids[part] = _joined([e.pixel_id for e in block], np.int32).view(np.uint32)
        offset[part] = (tof / 1000.0).astype(np.float32)
        exact[part] = tof
        start = part.stop
        forget_pages(e.time_of_flight_ns for e in block)
        forget_pages(e.pixel_id for e in block)


def _blocks(events: list[Events]) -> Iterator[list[Events]]:
    """Messages in order, so many at a time that their events fill a block."""
    block: list[Events] = []
    size = 0
    for one in events:
        block.append(one)
        size += len(one.time_of_flight_ns)
        if size >= BLOCK_EVENTS:
            yield block
            block, size = [], 0
    if block:
        yield block


def _messages(file: Any, kept: Any, mapped: mmap.mmap) -> list[Events]:
    bank = file[f"entry/{text_of(kept.attrs['bank'])}"]
    source = text_of(kept.attrs["source"])
    ids = _view(bank["event_id"], mapped).view(np.int32)
    index = np.asarray(bank["event_index"][()]).astype(np.int64)
    tof = _view(kept["time_of_flight_ns"], mapped)
    times = np.asarray(kept["reference_time_ns"][()])
    ends = np.append(index, len(tof))
    found: list[Events] = []
    pulse = 0
    sequences, pulses = kept["sequence"][()], kept["pulses"][()]
    for sequence, n in zip(sequences, pulses, strict=True):
        last = pulse + int(n)
        a, b = int(ends[pulse]), int(ends[last])
        found.append(
            Events(
                source=source,
                sequence=int(sequence),
                reference_time_ns=times[pulse:last],
                reference_index=index[pulse:last] - a,
                time_of_flight_ns=tof[a:b],
                pixel_id=ids[a:b],
            )
        )
        pulse = last
    return found


def _view(dataset: Any, mapped: mmap.mmap) -> NDArray[Any]:
    """A dataset as it lies in its file; read into memory where it lies in pieces."""
    place = dataset.id.get_offset()
    if place is None:
        return np.asarray(dataset[()])
    return np.frombuffer(mapped, dataset.dtype, dataset.size, place)


def _joined(parts: Sequence[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    return np.concatenate(parts).astype(kind, copy=False) if parts else np.empty(0, kind)


def _group(parent: Any, name: str, nx_class: str) -> Any:
    group = parent.create_group(name)
    group.attrs["NX_class"] = np.bytes_(nx_class)
    return group


def _numbers(parent: Any, name: str, values: NDArray[Any], unit: str) -> None:
    parent.create_dataset(name, data=np.asarray(values, np.float64)).attrs["units"] = unit


def _times(parent: Any, name: str, time_ns: NDArray[np.int64], start_ns: int) -> None:
    node = parent.create_dataset(name, data=(time_ns - start_ns) * 1e-9)
    node.attrs["units"] = "second"
    node.attrs["offset"] = format_time_ns(start_ns)
    node.attrs["offset_seconds"] = np.uint32(start_ns // 1_000_000_000 - EPOCH_1990_S)
    node.attrs["offset_nanoseconds"] = np.uint32(start_ns % 1_000_000_000)
