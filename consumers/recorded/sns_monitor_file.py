"""Beam monitors of SNS event files: when the neutrons passed them, and how far from the source.

A monitor's group ``entry/monitorN`` holds event times after the pulse, or a histogram of them; its
place stands in the embedded instrument definition, often as a formula of a log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import h5py
import numpy as np

from consumers.recorded.hdf5_file import (
    child_array,
    child_number,
    child_text,
    group_of_class,
    open_hdf5,
)
from simulations.arrays import FloatArray
from simulations.instrument import evaluate_formula

MOST_EVENTS = 5_000_000
FEWEST_EVENTS = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class MonitorPulse:
    """The pulse of neutrons as one monitor saw it."""

    name: str
    distance_m: float | None  # from the source; None where the file does not say
    time_us: float  # mean arrival after the proton pulse, modulo the frame
    error_us: float  # standard error of the mean
    width_us: float  # standard deviation
    events: int  # in the pulse
    frame_us: float | None  # time between pulses


def read_monitors(path: Path | str) -> tuple[tuple[MonitorPulse, ...], tuple[str, ...]]:
    """Pulses of all monitors with enough counts, and the names of those without.

    Raises
    ------
    UnreadableError
        If the file is no HDF5 file or damaged.
    """
    path = Path(path)
    pulses, silent = [], []
    with open_hdf5(path) as file:
        entries = group_of_class(file, "NXentry")
        if not entries:
            return (), ()
        entry = entries[0]
        places = _places(entry)
        frequency = _log(entry, "frequency")
        frame = 1e6 / frequency if frequency is not None and frequency > 0 else None
        for group in group_of_class(entry, "NXmonitor"):
            name = str(group.name).rsplit("/", 1)[-1]
            found = _pulse(*_times(group))
            if found is None:
                silent.append(name)
                continue
            distance = child_number(group, "distance")
            z = places.get(name, distance if np.isfinite(distance) else None)
            source = places.get("source")
            pulses.append(
                MonitorPulse(
                    name=name,
                    distance_m=None if z is None or source is None else z - source,
                    time_us=found[0],
                    error_us=found[1],
                    width_us=found[2],
                    events=found[3],
                    frame_us=frame,
                )
            )
    return tuple(pulses), tuple(silent)


def _times(group: h5py.Group) -> tuple[FloatArray, FloatArray]:
    """Times and how often each was counted."""
    events = child_array(group, "event_time_offset")
    if events is not None and events.size:
        times = np.asarray(events[:MOST_EVENTS], dtype=float).ravel()
        return times, np.ones(len(times))
    edges, data = child_array(group, "time_of_flight"), child_array(group, "data")
    if edges is None or data is None or edges.ndim != 1 or data.size == 0:
        return np.zeros(0), np.zeros(0)
    counts = np.asarray(data, dtype=float).reshape(-1, data.shape[-1]).sum(axis=0)
    edges = np.asarray(edges, dtype=float)
    if len(edges) == len(counts) + 1:
        edges = 0.5 * (edges[1:] + edges[:-1])
    return (edges, counts) if len(edges) == len(counts) else (np.zeros(0), np.zeros(0))


def _pulse(times: FloatArray, counts: FloatArray) -> tuple[float, float, float, int] | None:
    """Mean, its error, width and counts of the strongest pulse in a narrowing window."""
    good = np.isfinite(times) & np.isfinite(counts) & (counts > 0)
    times, counts = times[good], counts[good]
    if counts.sum() < FEWEST_EVENTS:
        return None
    edges = np.arange(times.min() - 50, times.max() + 100, 50.0)
    shown = np.convolve(np.histogram(times, edges, weights=counts)[0], np.ones(3), mode="same")
    k = int(np.argmax(shown))
    centre, reach = 0.5 * (edges[k] + edges[k + 1]), 250.0
    for _ in range(20):
        near = np.abs(times - centre) < reach
        centre = float(np.average(times[near], weights=counts[near]))
        width = float(np.sqrt(np.average((times[near] - centre) ** 2, weights=counts[near])))
        reach = max(3.0 * width, 5.0)
    total = float(counts[near].sum())
    if total < FEWEST_EVENTS:
        return None
    return centre, width / np.sqrt(total), width, round(total)


def _log(entry: h5py.Group, name: str) -> float | None:
    logs = entry.get("DASlogs")
    log = logs.get(name) if isinstance(logs, h5py.Group) else None
    if not isinstance(log, h5py.Group):
        return None
    value = child_number(log, "average_value")
    if not np.isfinite(value):
        values = child_array(log, "value")
        usable = values is not None and values.size and values.dtype.kind in "fiu"
        value = float(np.mean(values)) if usable and values is not None else float("nan")
    return value if np.isfinite(value) else None


def _places(entry: h5py.Group) -> Mapping[str, float]:
    """Z along the beam, sample at zero, of the source and the monitors that the IDF names."""
    text = child_text(entry, "instrument/instrument_xml/data")
    if not text or "<!ENTITY" in text:
        return {}
    try:
        root = ET.fromstring(text)  # noqa: S314 - refused above: entities
    except ET.ParseError:
        return {}
    for node in root.iter():
        node.tag = node.tag.rsplit("}", 1)[-1]
    kinds = {kind.get("name"): kind for kind in root.iter("type")}
    found: dict[str, float] = {}
    for component in root.iter("component"):
        kind = kinds.get(component.get("type"))
        for location in component.findall("location"):
            z = _along(entry, location)
            if z is None or kind is None:
                continue
            if kind.get("is", "").lower() == "source":
                found["source"] = z
            elif kind.get("is", "").lower() == "monitor":
                found[location.get("name") or component.get("name") or ""] = z
    return found


def _along(entry: h5py.Group, location: ET.Element) -> float | None:
    """Z of a location; None where a log that it needs is missing."""
    try:
        for parameter in location.findall("parameter"):
            if parameter.get("name") != "z":
                continue
            log, value = parameter.find("logfile"), parameter.find("value")
            if log is not None:
                logged = _log(entry, log.get("id", ""))
                return None if logged is None else evaluate_formula(log.get("eq", "value"), logged)
            if value is not None:
                return float(value.get("val", "nan"))
        return float(location.get("z", "0"))
    except ValueError:
        return None
