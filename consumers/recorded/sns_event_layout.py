"""Groups of SNS event files, open already: banks, pulses, logs and times as arrays.

``entry/bankN_events`` hold ``event_id``, ``event_time_offset`` (microseconds after the pulse) and
``event_index`` (first event of every pulse); ``entry/DASlogs`` holds what was logged. Wall times
count from 1990-01-01 UTC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from consumers.recorded.event_reduction import (
    KEEP,
    NO_CHARGE,
    PAUSED,
)
from consumers.recorded.hdf5_file import (
    UnreadableError,
    child_array,
    child_number,
    child_text,
    group_of_class,
    text_of,
)

EPOCH_1990_S = 631_152_000  # 1990-01-01 in seconds since the Unix epoch
EI_LOGS = ("Ei", "EnergyRequest", "BL14B:CS:Energy:Ei", "BL14B:CS:Energy:EiReq")
TEMPERATURE_LOGS = ("sampletemp", "SampleTemp", "temperature", "BL18:SE:SampleTemp")
EMISSION_LOG = "emission_time"  # ours: T0 in microseconds
CHARGE_UNITS_COULOMB = {
    "picocoulombs": 1e-12,
    "picocoulomb": 1e-12,
    "pc": 1e-12,
    "uah": 3.6e-3,
    "microamp*hour": 3.6e-3,
    "coulomb": 1.0,
    "c": 1.0,
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bank:
    """Events of one bank of an open file."""

    path: Path
    name: str
    group: h5py.Group
    events: int

    def load(self, start: int, stop: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Identifiers as recorded and times of flight in microseconds, (stop - start,) each."""
        ids = self.group["event_id"][start:stop]  # pyright: ignore[reportIndexIssue]
        tof = self.group["event_time_offset"][start:stop]  # pyright: ignore[reportIndexIssue]
        return np.asarray(ids), np.asarray(tof)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pulses:
    """Pulses of the accelerator during a run: which count, and how much charge they carry."""

    time_ns: NDArray[np.int64]  # (pulses,) since the Unix epoch, of the charge log
    state: NDArray[np.int8]  # (pulses,) keep, no charge, paused
    charge: float
    seconds: float
    pauses: tuple[NDArray[np.int64], NDArray[np.bool_]]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PulseStates:
    """Pulses of one bank: where their events begin, and whether these count."""

    index: NDArray[np.int64]  # (pulses,) first event of every pulse, never falling
    state: NDArray[np.int8] = field(repr=False)  # (pulses,)


def event_entry(path: Path, file: h5py.File) -> h5py.Group:
    """First entry with events; a file without one raises ``UnreadableError``."""
    entries = [g for g in group_of_class(file, "NXentry") if _bank_groups(g)]
    if not entries:
        raise UnreadableError(
            f"{path}: no NXentry with bank events; expected an SNS event file. "
            "Give an event file, or an .nxspe"
        )
    return entries[0]


def _bank_groups(entry: h5py.Group) -> list[h5py.Group]:
    """Event groups of detectors, ``bank2`` before ``bank10``; monitors left out."""
    groups = [
        g
        for g in group_of_class(entry, "NXevent_data")
        if "monitor" not in str(g.name).rpartition("/")[2].lower()
    ]

    def order(group: h5py.Group) -> tuple[int, str]:
        name = str(group.name).rpartition("/")[2]
        number = re.search(r"\d+", name)
        return (int(number.group()) if number else 1 << 30, name)

    return sorted(groups, key=order)


def event_banks(path: Path, entry: h5py.Group) -> list[Bank]:
    """Banks that hold events, in order; a damaged one raises ``UnreadableError``."""
    banks = []
    for group in _bank_groups(entry):
        name = str(group.name)
        ids, tof = group.get("event_id"), group.get("event_time_offset")
        total = child_number(group, "total_counts")
        if total == 0 or (ids is None and tof is None):
            continue  # an empty bank, which some files fill with one dummy event
        if not isinstance(ids, h5py.Dataset) or not isinstance(tof, h5py.Dataset):
            raise UnreadableError(
                f"{path}: {name} has event_id or event_time_offset only; needs both"
            )
        if ids.shape != tof.shape or ids.ndim != 1:
            raise UnreadableError(
                f"{path}: {name} has {ids.shape} identifiers and {tof.shape} times; expected as "
                "many of each. The file is damaged"
            )
        if ids.dtype.kind not in "iu" or tof.dtype.kind != "f":
            raise UnreadableError(
                f"{path}: {name} holds {ids.dtype} identifiers and {tof.dtype} times; expected "
                "integers and floats"
            )
        unit = text_of(tof.attrs.get("units")) or "microsecond"
        if not unit.lower().startswith(("microsec", "us")):
            raise UnreadableError(f"{path}: times of {name} are in {unit!r}; expected microsecond")
        if np.isfinite(total) and total > len(ids):
            raise UnreadableError(
                f"{path}: {name} announces {total:.0f} events and holds {len(ids)}; the file is cut"
            )
        if len(ids):
            banks.append(Bank(path=path, name=name, group=group, events=len(ids)))
    return banks


def pulse_times(path: Path, bank: Bank) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First event of every pulse, never falling, and its time in ns since the Unix epoch."""
    index = child_array(bank.group, "event_index")
    zero = bank.group.get("event_time_zero")
    if index is None or not isinstance(zero, h5py.Dataset):
        raise UnreadableError(
            f"{path}: {bank.name} has no event_index or event_time_zero; needs both"
        )
    index = index.astype(np.int64).ravel()
    times = np.asarray(zero[()], dtype=np.float64).ravel()
    if len(index) != len(times):
        raise UnreadableError(
            f"{path}: {bank.name} has {len(index)} pulse indices and {len(times)} pulse times; "
            "expected as many of each"
        )
    if len(index) and index[-1] == 0 and index.max() > 0:  # some files stop counting at the end
        last = int(np.flatnonzero(index)[-1]) + 1
        index, times = index[:last], times[:last]
    if np.any(np.diff(index) < 0) or (len(index) and index[-1] > bank.events):
        raise UnreadableError(
            f"{path}: event_index of {bank.name} falls or passes its {bank.events} events; "
            "the file is damaged"
        )
    return index, epoch_ns(zero) + np.round(times * 1e9).astype(np.int64)


def pulse_states(path: Path, bank: Bank, pulses: Pulses) -> PulseStates:
    """Pulses of a bank, each judged by the nearest pulse of the charge log."""
    index, time_ns = pulse_times(path, bank)
    if len(pulses.time_ns):
        place = np.searchsorted(pulses.time_ns, time_ns)
        left = np.maximum(place - 1, 0)
        right = np.minimum(place, len(pulses.time_ns) - 1)
        nearer = np.abs(pulses.time_ns[right] - time_ns) < np.abs(pulses.time_ns[left] - time_ns)
        nearest = np.where(nearer, right, left)
        state = pulses.state[nearest].copy()
        state[np.abs(pulses.time_ns[nearest] - time_ns) > 1_000_000] = NO_CHARGE
    else:
        state = np.where(_paused(pulses.pauses, time_ns), PAUSED, KEEP).astype(np.int8)
    return PulseStates(index=index, state=state)


def pulses_of(path: Path, entry: h5py.Group) -> Pulses:
    """Pulses by the charge log, or what can be said without one."""
    logs = log_groups(entry)
    problems: list[str] = []
    pauses = _pause_log(logs)
    seconds = child_number(entry, "duration")
    total = child_number(entry, "proton_charge")
    unit = _charge_unit(path, entry.get("proton_charge"))
    log = logs.get("proton_charge")
    value = child_array(log, "value") if isinstance(log, h5py.Group) else None
    time = log.get("time") if isinstance(log, h5py.Group) else None
    if (
        log is None
        or value is None
        or not isinstance(time, h5py.Dataset)
        or len(value) != len(time)
    ):
        problems.append("charge per pulse is missing; vetoed pulses cannot be told")
        charge = total * unit if total > 0 else 1.0
        if not total > 0:
            problems.append("proton charge is missing; counted as 1 C")
        if not np.isfinite(seconds):
            seconds = 0.0
            problems.append("duration is missing; counted as 0 minutes")
        none = np.empty(0, np.int64)
        return Pulses(
            time_ns=none,
            state=none.astype(np.int8),
            charge=charge,
            seconds=max(seconds, 0.0),
            pauses=pauses,
            problems=tuple(problems),
        )
    seconds_of_pulse = np.asarray(time[()], dtype=np.float64).ravel()
    time_ns = epoch_ns(time) + np.round(seconds_of_pulse * 1e9).astype(np.int64)
    order = np.argsort(time_ns, kind="stable")
    time_ns, value = time_ns[order], np.asarray(value, dtype=np.float64).ravel()[order]
    state = np.full(len(value), KEEP, np.int8)
    state[~(value > 0)] = NO_CHARGE
    paused = _paused(pauses, time_ns)
    state[paused] = PAUSED
    span = float(time_ns[-1] - time_ns[0]) * 1e-9 if len(time_ns) else 0.0
    if not seconds > 0:
        seconds = span
    if len(paused):
        seconds *= 1.0 - float(paused.mean())
    charge = float(value[state == KEEP].sum()) * _charge_unit(path, log.get("value"))
    if not charge > 0:
        raise UnreadableError(f"{path}: no pulse carries charge; expected beam. Leave the file out")
    return Pulses(
        time_ns=time_ns,
        state=state,
        charge=charge,
        seconds=seconds,
        pauses=pauses,
        problems=tuple(problems),
    )


def _charge_unit(path: Path, node: object) -> float:
    unit = text_of(node.attrs.get("units")) if isinstance(node, h5py.Dataset) else ""
    if unit and unit.lower() not in CHARGE_UNITS_COULOMB:
        raise UnreadableError(f"{path}: proton_charge is in {unit!r}; expected picoCoulombs")
    return CHARGE_UNITS_COULOMB[unit.lower()] if unit else 1e-12


def _pause_log(logs: Mapping[str, h5py.Group]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    log = logs.get("pause")
    time = log.get("time") if isinstance(log, h5py.Group) else None
    value = child_array(log, "value") if isinstance(log, h5py.Group) else None
    if not isinstance(time, h5py.Dataset) or value is None or len(value) != len(time):
        return np.empty(0, np.int64), np.empty(0, np.bool_)
    t = epoch_ns(time) + np.round(np.asarray(time[()], float).ravel() * 1e9).astype(np.int64)
    return t, np.asarray(value).ravel() != 0


def _paused(
    pauses: tuple[NDArray[np.int64], NDArray[np.bool_]], time_ns: NDArray[np.int64]
) -> NDArray[np.bool_]:
    t, on = pauses
    if len(t) == 0:
        return np.zeros(len(time_ns), np.bool_)
    place = np.searchsorted(t, time_ns, side="right") - 1
    return np.where(place >= 0, on[np.maximum(place, 0)], False)


def log_groups(entry: h5py.Group) -> Mapping[str, h5py.Group]:
    """What was logged, by name; empty when nothing was."""
    logs = entry.get("DASlogs")
    return logs if isinstance(logs, h5py.Group) else {}


def log_values(logs: Mapping[str, h5py.Group], name: str) -> NDArray[np.float64] | None:
    """Samples of a numeric log; None if absent."""
    log = logs.get(name) if name else None
    if not isinstance(log, h5py.Group):
        return None
    value = child_array(log, "value")
    if value is None or value.size == 0 or value.dtype.kind not in "fiu":
        return None
    return value.astype(np.float64).ravel()


def mean_of_log(logs: Mapping[str, h5py.Group], name: str) -> float | None:
    """Mean of a log over the run: the file's own where it gives one; None if absent."""
    log = logs.get(name) if name else None
    if not isinstance(log, h5py.Group):
        return None
    average = child_number(log, "average_value")
    if np.isfinite(average):
        return average
    values = log_values(logs, name)
    if values is None or not np.isfinite(values).any():
        return None
    return float(values[np.isfinite(values)].mean())


def angle_logs(logs: Mapping[str, h5py.Group]) -> list[str]:
    """Logs recorded in degrees, sorted; candidates for psi."""
    found = []
    for name in logs:
        log = logs.get(name)
        value = log.get("value") if isinstance(log, h5py.Group) else None
        if isinstance(value, h5py.Dataset):
            unit = text_of(value.attrs.get("units")).lower()
            if unit.startswith("deg"):
                found.append(name)
    return sorted(found)


def epoch_ns(node: h5py.Dataset) -> int:
    """Wall time of a time axis' zero, ns since the Unix epoch; 0 when the file does not say."""
    seconds, nanoseconds = node.attrs.get("offset_seconds"), node.attrs.get("offset_nanoseconds")
    if seconds is not None:
        return (int(seconds) + EPOCH_1990_S) * 1_000_000_000 + int(nanoseconds or 0)
    for key in ("offset", "start"):
        moment = parse_time_ns(text_of(node.attrs.get(key)))
        if moment is not None:
            return moment
    return 0


def recorded_start_ns(entry: h5py.Group) -> int | None:
    """Start of the run, ns since the Unix epoch; None when the file does not say."""
    return parse_time_ns(child_text(entry, "start_time"))


def parse_time_ns(text: str) -> int | None:
    """Nanoseconds since the Unix epoch of an ISO 8601 time; None if it is none.

    A time without zone counts as UTC. Up to nine decimals are kept.
    """
    match = re.fullmatch(
        r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:?\d\d)?", text.strip()
    )
    if match is None:
        return None
    zone = match.group(3) or "Z"
    try:
        moment = datetime.fromisoformat(match.group(1) + ("+00:00" if zone == "Z" else zone))
    except ValueError:
        return None
    return int(moment.timestamp()) * 1_000_000_000 + int((match.group(2) or "0").ljust(9, "0"))


def format_time_ns(time_ns: int) -> str:
    """ISO 8601 in UTC with nine decimals."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:09d}+00:00"
