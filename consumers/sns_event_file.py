"""Raw event NeXus files of the SNS: one file per crystal orientation.

Layout, as the files show it: ``entry/bankN_events`` hold ``event_id``, ``event_time_offset``
(microseconds after the pulse) and ``event_index`` (first event of every pulse);
``entry/DASlogs`` holds what was logged, ``entry/instrument/instrument_xml`` the geometry. Wall
times count from 1990-01-01 UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from consumers.event_reduction import (
    ERROR_BIT,
    KEEP,
    NO_CHARGE,
    PAUSED,
    EventSlice,
    reduce_events,
)
from consumers.hdf5_file import (
    UnreadableError,
    child_array,
    child_number,
    child_text,
    group_of_class,
    open_hdf5,
    text_of,
)
from simulations.idf import parse_idf, required_logs
from simulations.instrument import Instrument, split_name
from simulations.instruments import load_instrument
from simulations.kinematics import flight_time_us

EPOCH_1990_S = 631_152_000  # 1990-01-01 in seconds since the Unix epoch
EI_LOGS = ("Ei", "EnergyRequest", "BL14B:CS:Energy:Ei", "BL14B:CS:Energy:EiReq")
TEMPERATURE_LOGS = ("sampletemp", "SampleTemp", "temperature", "BL18:SE:SampleTemp")
EMISSION_LOG = "emission_time"  # ours: T0 in microseconds
T0_GOOD_ENOUGH_US = 3.0  # standard error below which the elastic line decides
PSI_MAY_MOVE_DEG = 0.5  # a dwell is one orientation

_COULOMB = {
    "picocoulombs": 1e-12,
    "picocoulomb": 1e-12,
    "pc": 1e-12,
    "uah": 3.6e-3,
    "microamp*hour": 3.6e-3,
    "coulomb": 1.0,
    "c": 1.0,
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EventRun:
    """What an event file says about its run, geometry included; no events yet."""

    path: Path
    run_number: str
    title: str
    instrument: Instrument
    ei_meV: float
    psi_deg: float
    t0_us: float  # emission time of the neutrons after the pulse
    t0_source: str  # where t0_us comes from
    start_time_ns: int  # since the Unix epoch
    minutes: float  # wall time without pauses
    proton_charge: float  # coulomb of the pulses that count; 1.0 when the file has none
    temperature_K: float | None
    total_events: int  # in all banks
    problems: tuple[str, ...] = ()


def default_t0_us(instrument_name: str, ei_meV: float) -> float | None:
    """Usual emission time after the pulse in microseconds; None where no formula is known.

    References
    ----------
    The formula of HYSPEC is that of the facility's public data reduction (Mantid, DgsReduction).
    """
    if split_name(instrument_name)[0].upper() == "HYSPEC":
        return 4.0 + 107.0 / (1.0 + (ei_meV / 31.0) ** 3)
    return None


def read_event_run(
    path: Path | str,
    *,
    psi_log: str = "s1",
    psi_deg: float | None = None,
    ei_meV: float | None = None,
    t0_us: float | None = None,
    instrument: Instrument | None = None,
) -> EventRun:
    """Read everything but the events.

    Parameters
    ----------
    path : Path
        Event file.
    psi_log : str
        Log that holds psi in degrees.
    psi_deg : float, optional
        Operator's psi; the log is not read then.
    ei_meV : float, optional
        Operator's incident energy; must agree with the file's within 5 % if it has one.
    t0_us : float, optional
        Operator's emission time. Otherwise: the file's, the position of the elastic line, or the
        instrument's usual formula, in this order.
    instrument : Instrument, optional
        Geometry of files that hold none and name no instrument known here.

    Returns
    -------
    EventRun

    Raises
    ------
    UnreadableError
        If the file cannot be read or lacks psi, Ei or geometry; the message says which.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        entry = _entry(path, file)
        problems: list[str] = []
        logs = _logs(entry)
        energy = _incident_energy(path, logs, ei_meV)
        psi = _psi(path, logs, psi_log, psi_deg)
        geometry = _geometry(path, entry, logs, instrument)
        pulses = _pulses(path, entry)
        problems += pulses.problems
        start_ns = _start_time_ns(entry)
        if start_ns is None:
            start_ns = 0
            problems.append("start_time is missing; the run is dated 1970")
        banks = _banks(path, entry)
        emission, source = t0_us, "given"
        if emission is None:
            emission, source = _scalar(logs, EMISSION_LOG), f"log {EMISSION_LOG}"
        if emission is None:
            emission, error, used = _t0_of_banks(banks, geometry, energy)
            source = f"elastic line of {used} events, +- {error:.1f} us"
            if not error < T0_GOOD_ENOUGH_US:
                emission, source = default_t0_us(geometry.name, energy), "usual formula"
        if emission is None:
            emission, source = 0.0, "assumed"
            problems.append("T0 is unknown and the elastic line too weak; taken as 0 us")
        temperature = next(
            (t for name in TEMPERATURE_LOGS if (t := _scalar(logs, name)) is not None), None
        )
        return EventRun(
            path=path,
            run_number=child_text(entry, "run_number")
            or child_text(entry, "entry_identifier")
            or path.name.split(".")[0],
            title=child_text(entry, "title"),
            instrument=geometry,
            ei_meV=energy,
            psi_deg=psi,
            t0_us=float(emission),
            t0_source=source,
            start_time_ns=start_ns,
            minutes=pulses.seconds / 60,
            proton_charge=pulses.charge,
            temperature_K=temperature,
            total_events=sum(bank.events for bank in banks),
            problems=tuple(problems),
        )


def iterate_events(run: EventRun, *, block: int = 1_000_000) -> Iterator[EventSlice]:
    """Events of a run, bank by bank, in slices of at most ``block`` events.

    Dropped and counted: identifiers with the error bit, identifiers that the geometry does not
    know, events of pulses without charge (vetoed), during a pause or of no pulse, and times that
    are not finite or too early for a neutron of this incident energy.

    Parameters
    ----------
    run : EventRun
        From ``read_event_run``.
    block : int
        Largest number of events in memory at once.

    Yields
    ------
    EventSlice

    Raises
    ------
    UnreadableError
        If a bank is cut or contradicts itself.
    """
    if block < 1:
        raise ValueError(f"block is {block}; expected at least one event")
    with open_hdf5(run.path) as file:
        entry = _entry(run.path, file)
        pulses = _pulses(run.path, entry)
        held: list[EventSlice] = []
        for bank in _banks(run.path, entry):
            states = _pulse_states(run.path, bank, pulses)
            for start in range(0, bank.events, block):
                stop = min(start + block, bank.events)
                if held and sum(part.read for part in held) + stop - start > block:
                    yield _join(held)
                    held = []
                ids, tof = bank.load(start, stop)
                part = reduce_events(
                    ids,
                    tof,
                    first=start,
                    pulse_index=states.index,
                    pulse_state=states.state,
                    instrument=run.instrument,
                    ei_meV=run.ei_meV,
                    t0_us=run.t0_us,
                )
                held.append(part)
        if held:
            yield _join(held)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RecordedLog:
    """A numeric log as the file holds it."""

    name: str
    unit: str
    time_ns: NDArray[np.int64]  # (samples,) since the Unix epoch
    value: NDArray  # (samples,) in the type of the file
    average: float | None  # the file's own, else the mean of the finite samples; None without any


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RecordedBank:
    """Events of one bank, read in parts while its file is open."""

    name: str  # of the group, e.g. "bank12_events"
    events: int
    pulse_time_ns: NDArray[np.int64]  # (pulses,) since the Unix epoch
    first_event: NDArray[np.int64]  # (pulses,) never falling
    _bank: _Bank = field(repr=False)

    def load(self, start: int, stop: int) -> tuple[NDArray, NDArray]:
        """Identifiers as recorded and times of flight in microseconds, (stop - start,) each."""
        return self._bank.load(start, stop)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EventRecording:
    """An event file as it was recorded: nothing dropped, nothing averaged, nothing judged."""

    path: Path
    run_number: str
    title: str
    instrument_name: str  # empty when the file has none
    idf_xml: str  # empty when the file has none
    start_time_ns: int | None  # since the Unix epoch
    duration_s: float | None
    proton_charge: tuple[float, str] | None  # of the whole dwell and its unit
    logs: Mapping[str, RecordedLog]  # those asked for that are there
    banks: tuple[RecordedBank, ...]


@contextmanager
def open_event_recording(path: Path | str, *, psi_log: str = "s1") -> Iterator[EventRecording]:
    """Open an event file for passing on what it holds.

    Parameters
    ----------
    path : Path
        Event file.
    psi_log : str
        Log that holds psi. With it come the logs that the geometry needs, charge, pauses, emission
        time and whatever may tell the incident energy and the temperature.

    Yields
    ------
    EventRecording
        Its banks can be loaded until the context ends.

    Raises
    ------
    UnreadableError
        If the file cannot be read, is cut or contradicts itself.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        entry = _entry(path, file)
        logs = _logs(entry)
        xml = child_text(entry, "instrument/instrument_xml/data")
        try:
            motors = required_logs(xml) if xml else ("s2",)
        except ValueError as error:
            raise UnreadableError(f"{path}: geometry: {error}") from error
        names = [psi_log, *motors, *EI_LOGS, *TEMPERATURE_LOGS, EMISSION_LOG]
        names += ["proton_charge", "pause"]
        charge, seconds = child_number(entry, "proton_charge"), child_number(entry, "duration")
        node = entry.get("proton_charge")
        unit = text_of(node.attrs.get("units")) if isinstance(node, h5py.Dataset) else ""
        banks = []
        for bank in _banks(path, entry):
            index, time_ns = _pulse_times(path, bank)
            banks.append(
                RecordedBank(
                    name=bank.name.rpartition("/")[2],
                    events=bank.events,
                    pulse_time_ns=time_ns,
                    first_event=index,
                    _bank=bank,
                )
            )
        yield EventRecording(
            path=path,
            run_number=child_text(entry, "run_number")
            or child_text(entry, "entry_identifier")
            or path.name.split(".")[0],
            title=child_text(entry, "title"),
            instrument_name=child_text(entry, "instrument/name"),
            idf_xml=xml,
            start_time_ns=_start_time_ns(entry),
            duration_s=seconds if np.isfinite(seconds) else None,
            proton_charge=(charge, unit or "picoCoulombs") if np.isfinite(charge) else None,
            logs={
                name: log
                for name in dict.fromkeys(names)
                if (log := _recorded_log(logs, name)) is not None
            },
            banks=tuple(banks),
        )


def _recorded_log(logs: Mapping[str, h5py.Group], name: str) -> RecordedLog | None:
    """One log; a value without times of its own is taken as known from the beginning of time."""
    group = logs.get(name) if name else None
    if not isinstance(group, h5py.Group):
        return None
    value, time = child_array(group, "value"), group.get("time")
    if value is None or value.dtype.kind not in "fiu":
        return None
    value = value.ravel()
    if isinstance(time, h5py.Dataset) and time.size == value.size:
        seconds = np.asarray(time[()], dtype=np.float64).ravel()
        time_ns = _epoch_ns(time) + np.round(seconds * 1e9).astype(np.int64)
    else:
        value, time_ns = value[:0], np.empty(0, np.int64)
    node = group.get("value")
    return RecordedLog(
        name=name,
        unit=text_of(node.attrs.get("units")) if isinstance(node, h5py.Dataset) else "",
        time_ns=time_ns,
        value=value,
        average=_scalar(logs, name),
    )


def check_events(run: EventRun, *, block: int = 1_000_000) -> None:
    """Read every bank to its end without keeping anything.

    Raises
    ------
    UnreadableError
        If a bank is cut or contradicts itself.
    """
    with open_hdf5(run.path) as file:
        entry = _entry(run.path, file)
        pulses = _pulses(run.path, entry)
        for bank in _banks(run.path, entry):
            _pulse_states(run.path, bank, pulses)
            for start in range(0, bank.events, block):
                bank.load(start, min(start + block, bank.events))


def _join(parts: list[EventSlice]) -> EventSlice:
    filtered: dict[str, int] = {}
    for part in parts:
        for reason, n in part.filtered.items():
            filtered[reason] = filtered.get(reason, 0) + n
    return EventSlice(
        pixel=np.concatenate([part.pixel for part in parts]),
        energy_transfer_meV=np.concatenate([part.energy_transfer_meV for part in parts]),
        read=sum(part.read for part in parts),
        filtered=filtered,
    )


def inspect_events(
    path: Path | str, *, psi_log: str = "s1", psi_deg: float | None = None
) -> tuple[dict[str, object], list[str]]:
    """Values that an event file can give, None where it cannot, and what is wrong with it.

    Parameters
    ----------
    path : Path
        Event file.
    psi_log, psi_deg
        As for ``read_event_run``.

    Returns
    -------
    values : dict
        ``instrument, ei_meV, psi_deg, temperature_K, title, run_number, start_time_ns, minutes,
        proton_charge, events, pixels, angle_logs, t0_us``; ``geometry``, the instrument; and
        ``orientation``, a recorded UB matrix that could be one.
    problems : list of str

    Raises
    ------
    UnreadableError
        If it is no event file at all.
    """
    path = Path(path)
    problems: list[str] = []
    with open_hdf5(path) as file:
        entry = _entry(path, file)
        logs = _logs(entry)
        values: dict[str, object] = {
            "title": child_text(entry, "title") or None,
            "run_number": child_text(entry, "run_number") or None,
            "start_time_ns": _start_time_ns(entry),
            "angle_logs": angle_logs(logs),
            "instrument": child_text(entry, "instrument/name") or None,
            "temperature_K": next(
                (t for name in TEMPERATURE_LOGS if (t := _scalar(logs, name)) is not None), None
            ),
        }
        steps = (
            ("ei_meV", lambda: _incident_energy(path, logs, None)),
            ("psi_deg", lambda: _psi(path, logs, psi_log, psi_deg)),
            ("geometry", lambda: _geometry(path, entry, logs)),
            ("pulses", lambda: _pulses(path, entry)),
            ("banks", lambda: _banks(path, entry)),
        )
        found: dict[str, Any] = {}
        for key, step in steps:
            try:
                found[key] = step()
            except UnreadableError as error:
                found[key] = None
                problems.append(str(error))
        values |= {"ei_meV": found["ei_meV"], "psi_deg": found["psi_deg"]}
        values["geometry"] = found["geometry"]
        values["orientation"], note = _recorded_ub(logs)
        problems += note
        if found["geometry"] is not None:
            values |= {"instrument": found["geometry"].name, "pixels": found["geometry"].n_pixels}
        if found["pulses"] is not None:
            problems += found["pulses"].problems
            values |= {
                "minutes": found["pulses"].seconds / 60,
                "proton_charge": found["pulses"].charge,
            }
        if found["banks"] is not None:
            values["events"] = sum(bank.events for bank in found["banks"])
        t0 = _scalar(logs, EMISSION_LOG)
        if t0 is None and found["geometry"] is not None and found["ei_meV"] and found["banks"]:
            t0, error, _ = _t0_of_banks(found["banks"], found["geometry"], found["ei_meV"])
            t0 = t0 if error < T0_GOOD_ENOUGH_US else None
        if t0 is None and found["geometry"] is not None and found["ei_meV"] is not None:
            t0 = default_t0_us(found["geometry"].name, found["ei_meV"])
        values["t0_us"] = t0
    return values, problems


def estimate_t0(
    tof_us: NDArray,
    pixel: NDArray[np.int32],
    instrument: Instrument,
    ei_meV: float,
    *,
    half_width_us: float = 400.0,
) -> tuple[float, float, int]:
    """Emission time from the elastic line: the delay of the line behind ``(L1 + L2) / v_i``.

    Bragg peaks are kept out: pixels that count far more than their peers in the window do not
    vote. The centre is the mean of the line, found by narrowing a window round it.

    Parameters
    ----------
    tof_us : (events,)
        Times of flight from the pulse.
    pixel : (events,) int32
        Pixel of every event, all known.
    instrument : Instrument
        Geometry.
    ei_meV : float
        Incident energy; an error of 1 % moves the result by half a percent of the flight time.
    half_width_us : float
        Search window round zero delay.

    Returns
    -------
    t0_us : float
        NaN when fewer than 50 events vote.
    error_us : float
        Standard error of the mean.
    events : int
        Events that voted.
    """
    path_m = instrument.source_to_sample_m + instrument.distance_m
    delay = np.asarray(tof_us, dtype=float) - flight_time_us(path_m, ei_meV)[pixel]
    vote = (np.abs(delay) < half_width_us) & ~instrument.masked[pixel]
    counts = np.bincount(pixel[vote], minlength=instrument.n_pixels)
    if not vote.any():
        return float("nan"), float("nan"), 0
    usual = np.median(counts[counts > 0])
    vote &= counts[pixel] <= usual + 5 * np.sqrt(usual) + 3
    delay = delay[vote]
    if len(delay) < 50:
        return float("nan"), float("nan"), len(delay)
    width = 20.0
    edges = np.arange(-half_width_us, half_width_us + width, width / 4)
    kernel = np.ones(8)
    smooth = np.convolve(np.histogram(delay, edges)[0], kernel, mode="same")
    centre = float(edges[int(np.argmax(smooth))] + width / 8)
    spread = half_width_us / 3
    for _ in range(20):
        near = delay[np.abs(delay - centre) < 2 * spread]
        if len(near) < 20:
            break
        centre = float(near.mean())
        spread = max(1.2 * float(near.std()), 10.0)
    near = delay[np.abs(delay - centre) < 2 * spread]
    return centre, float(near.std() / np.sqrt(max(len(near), 1))), len(near)


def estimate_t0_of_run(run: EventRun) -> tuple[float, float, int]:
    """``estimate_t0`` of the events in a file; the run's own T0 plays no part.

    Raises
    ------
    UnreadableError
        If the file cannot be read.
    """
    with open_hdf5(run.path) as file:
        entry = _entry(run.path, file)
        banks = _banks(run.path, entry)
        return _t0_of_banks(banks, run.instrument, run.ei_meV)


def _t0_of_banks(
    banks: list[_Bank], instrument: Instrument, ei_meV: float
) -> tuple[float, float, int]:
    tofs, pixels = [], []
    budget = 2_000_000  # enough for the mean of a line
    for bank in banks:
        ids, tof = bank.load(0, min(bank.events, budget))
        budget -= len(ids)
        pixel = instrument.pixel_of_id(ids)
        good = (pixel >= 0) & np.isfinite(tof)
        tofs.append(tof[good])
        pixels.append(pixel[good])
    if not tofs:
        return float("nan"), float("nan"), 0
    return estimate_t0(np.concatenate(tofs), np.concatenate(pixels), instrument, ei_meV)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Bank:
    path: Path
    name: str
    group: h5py.Group
    events: int

    def load(self, start: int, stop: int) -> tuple[NDArray, NDArray]:
        ids = self.group["event_id"][start:stop]  # pyright: ignore[reportIndexIssue]
        tof = self.group["event_time_offset"][start:stop]  # pyright: ignore[reportIndexIssue]
        return np.asarray(ids), np.asarray(tof)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pulses:
    time_ns: NDArray[np.int64]  # (pulses,) since the Unix epoch, of the charge log
    state: NDArray[np.int8]  # (pulses,) keep, no charge, paused
    charge: float
    seconds: float
    pauses: tuple[NDArray[np.int64], NDArray[np.bool_]]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _PulseStates:
    index: NDArray[np.int64]  # (pulses,) first event of every pulse, never falling
    state: NDArray[np.int8] = field(repr=False)  # (pulses,)


def _entry(path: Path, file: h5py.File) -> h5py.Group:
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


def _banks(path: Path, entry: h5py.Group) -> list[_Bank]:
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
            banks.append(_Bank(path=path, name=name, group=group, events=len(ids)))
    return banks


def _pulse_times(path: Path, bank: _Bank) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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
    return index, _epoch_ns(zero) + np.round(times * 1e9).astype(np.int64)


def _pulse_states(path: Path, bank: _Bank, pulses: _Pulses) -> _PulseStates:
    index, time_ns = _pulse_times(path, bank)
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
    return _PulseStates(index=index, state=state)


def _pulses(path: Path, entry: h5py.Group) -> _Pulses:
    logs = _logs(entry)
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
        return _Pulses(
            time_ns=none,
            state=none.astype(np.int8),
            charge=charge,
            seconds=max(seconds, 0.0),
            pauses=pauses,
            problems=tuple(problems),
        )
    seconds_of_pulse = np.asarray(time[()], dtype=np.float64).ravel()
    time_ns = _epoch_ns(time) + np.round(seconds_of_pulse * 1e9).astype(np.int64)
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
    return _Pulses(
        time_ns=time_ns,
        state=state,
        charge=charge,
        seconds=seconds,
        pauses=pauses,
        problems=tuple(problems),
    )


def _charge_unit(path: Path, node: object) -> float:
    unit = text_of(node.attrs.get("units")) if isinstance(node, h5py.Dataset) else ""
    if unit and unit.lower() not in _COULOMB:
        raise UnreadableError(f"{path}: proton_charge is in {unit!r}; expected picoCoulombs")
    return _COULOMB[unit.lower()] if unit else 1e-12


def _pause_log(logs: Mapping[str, h5py.Group]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    log = logs.get("pause")
    time = log.get("time") if isinstance(log, h5py.Group) else None
    value = child_array(log, "value") if isinstance(log, h5py.Group) else None
    if not isinstance(time, h5py.Dataset) or value is None or len(value) != len(time):
        return np.empty(0, np.int64), np.empty(0, np.bool_)
    t = _epoch_ns(time) + np.round(np.asarray(time[()], float).ravel() * 1e9).astype(np.int64)
    return t, np.asarray(value).ravel() != 0


def _paused(
    pauses: tuple[NDArray[np.int64], NDArray[np.bool_]], time_ns: NDArray[np.int64]
) -> NDArray[np.bool_]:
    t, on = pauses
    if len(t) == 0:
        return np.zeros(len(time_ns), np.bool_)
    place = np.searchsorted(t, time_ns, side="right") - 1
    return np.where(place >= 0, on[np.maximum(place, 0)], False)


def _logs(entry: h5py.Group) -> Mapping[str, h5py.Group]:
    logs = entry.get("DASlogs")
    return logs if isinstance(logs, h5py.Group) else {}


def _log_values(logs: Mapping[str, h5py.Group], name: str) -> NDArray[np.float64] | None:
    log = logs.get(name) if name else None
    if not isinstance(log, h5py.Group):
        return None
    value = child_array(log, "value")
    if value is None or value.size == 0 or value.dtype.kind not in "fiu":
        return None
    return value.astype(np.float64).ravel()


def _scalar(logs: Mapping[str, h5py.Group], name: str) -> float | None:
    """Mean of a log over the run: the file's own where it gives one; None if absent."""
    log = logs.get(name) if name else None
    if not isinstance(log, h5py.Group):
        return None
    average = child_number(log, "average_value")
    if np.isfinite(average):
        return average
    values = _log_values(logs, name)
    if values is None or not np.isfinite(values).any():
        return None
    return float(values[np.isfinite(values)].mean())


def _incident_energy(path: Path, logs: Mapping[str, h5py.Group], given: float | None) -> float:
    recorded = next(
        (
            value
            for name in EI_LOGS
            if (value := _scalar(logs, name)) is not None and np.isfinite(value) and value > 0
        ),
        None,
    )
    if given is not None:
        if not (np.isfinite(given) and given > 0):
            raise UnreadableError(f"{path}: ei_meV is {given}; expected a positive energy")
        if recorded is not None and abs(given - recorded) > 0.05 * recorded:
            raise UnreadableError(
                f"{path}: Ei in the file is {recorded:g} meV, {given:g} meV was given; "
                "expected agreement within 5 %. Correct ei_meV or leave the file out"
            )
        return float(given)
    if recorded is None:
        raise UnreadableError(
            f"{path}: no log of the incident energy ({', '.join(EI_LOGS)}); expected one. Write "
            "it into the file, or leave the file out"
        )
    return float(recorded)


def _psi(path: Path, logs: Mapping[str, h5py.Group], psi_log: str, given: float | None) -> float:
    if given is not None:
        if not np.isfinite(given):
            raise UnreadableError(f"{path}: psi_deg is {given}; expected a finite angle")
        return float(given)
    values = _log_values(logs, psi_log)
    if values is None:
        angles = ", ".join(angle_logs(logs)) or "none"
        raise UnreadableError(
            f"{path}: no log {psi_log!r} for psi; logs in degrees: {angles}. "
            "Name one (source.psi_log, --psi-log), or give --psi"
        )
    finite = values[np.isfinite(values)]
    psi = _scalar(logs, psi_log)
    if psi is None or len(finite) == 0:
        raise UnreadableError(f"{path}: psi (log {psi_log!r}) is NaN; expected degrees. Give --psi")
    if finite.max() - finite.min() > PSI_MAY_MOVE_DEG:
        raise UnreadableError(
            f"{path}: psi (log {psi_log!r}) moved from {finite.min():.3f} to {finite.max():.3f} "
            f"degrees; a chunk is one orientation, within {PSI_MAY_MOVE_DEG} degrees. "
            "Give --psi to fold it as one"
        )
    return psi


def _recorded_ub(logs: Mapping[str, h5py.Group]) -> tuple[list[list[float]] | None, list[str]]:
    """UB matrix in a text log of nine numbers, rows first, and what is wrong with it."""
    for name in logs:
        if not name.endswith("UBMatrix") or not isinstance(logs[name], h5py.Group):
            continue
        words = child_text(logs[name], "value").replace(",", " ").split()
        try:
            UB = np.array([float(word) for word in words]).reshape(3, 3)
        except ValueError:
            return None, [f"log {name!r} holds no nine numbers; no orientation is taken from it"]
        if not np.isfinite(UB).all() or abs(np.linalg.det(UB)) < 1e-9:
            return None, [f"log {name!r} is no regular matrix (a placeholder?); not an orientation"]
        return UB.tolist(), []
    return None, []


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


def _geometry(
    path: Path,
    entry: h5py.Group,
    logs: Mapping[str, h5py.Group],
    otherwise: Instrument | None = None,
) -> Instrument:
    xml = child_text(entry, "instrument/instrument_xml/data")
    name = child_text(entry, "instrument/name")
    try:
        if xml:
            values = []
            for log in required_logs(xml):
                value = _scalar(logs, log)
                if value is not None:
                    values.append((log, value))
            return _parsed(xml, tuple(values))
        if not name:
            raise ValueError("neither instrument_xml nor an instrument name")
        return load_instrument(name, _scalar(logs, "s2") if name.upper() == "HYSPEC" else None)
    except UnreadableError:
        raise
    except ValueError as error:
        if otherwise is not None and not xml:
            return otherwise
        raise UnreadableError(f"{path}: geometry: {error}") from error


@lru_cache(maxsize=8)
def _parsed(xml: str, logs: tuple[tuple[str, float], ...]) -> Instrument:
    """Geometry shared by the files of a scan."""
    return parse_idf(xml, dict(logs))


def _epoch_ns(node: h5py.Dataset) -> int:
    """Wall time of a time axis' zero, ns since the Unix epoch; 0 when the file does not say."""
    seconds, nanoseconds = node.attrs.get("offset_seconds"), node.attrs.get("offset_nanoseconds")
    if seconds is not None:
        return (int(seconds) + EPOCH_1990_S) * 1_000_000_000 + int(nanoseconds or 0)
    for key in ("offset", "start"):
        moment = parse_time_ns(text_of(node.attrs.get(key)))
        if moment is not None:
            return moment
    return 0


def _start_time_ns(entry: h5py.Group) -> int | None:
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


def write_sns_events(
    path: Path | str,
    *,
    idf_xml: str,
    instrument_name: str,
    detector_id: NDArray[np.integer],
    tof_us: NDArray[np.floating],
    ei_meV: float,
    psi_deg: float,
    proton_charge: float,
    minutes: float,
    run_number: str,
    title: str = "",
    psi_log: str = "s1",
    temperature_K: float | None = None,
    t0_us: float | None = 0.0,
    start_time_ns: int = 0,
    pulse_hz: float = 60.0,
    ids_per_bank: int = 1024,
    logs: Mapping[str, tuple[float, str]] | None = None,
) -> None:
    """Write events in the layout of the SNS, geometry and logs embedded.

    The float32 times of the layout are good to 2 ns below 33 ms, 1e-4 meV at the elastic line of
    the reference run.

    Parameters
    ----------
    path : Path
        File to write; replaced if it exists.
    idf_xml : str
        Geometry, e.g. of ``instrument_idf``.
    instrument_name : str
        Name of the instrument.
    detector_id : (events,) integer
        Identifier of the pixel that counted.
    tof_us : (events,) float
        Time of flight from the pulse, microseconds.
    ei_meV, psi_deg, temperature_K : float
        Logged; kelvin for the temperature, which may be None.
    proton_charge : float
        Coulomb of the whole dwell, spread evenly over its pulses.
    minutes : float
        Wall time of the dwell.
    run_number, title : str
        Names of the run.
    psi_log : str
        Log that receives psi.
    t0_us : float, optional
        Emission time contained in ``tof_us``; logged so that readers need not estimate it.
    start_time_ns : int
        Since the Unix epoch; not before 1990 in the layout, earlier times become 1990.
    pulse_hz : float
        Pulses per second; events are spread over them evenly and reproducibly.
    ids_per_bank : int
        Identifiers per bank.
    logs : mapping of str to (value, unit), optional
        Further constant logs.

    Raises
    ------
    ValueError
        If the arrays differ in length, or an identifier, time, psi, Ei or charge is impossible.
    """
    detector_id, tof_us = np.asarray(detector_id), np.asarray(tof_us)
    if detector_id.shape != tof_us.shape or detector_id.ndim != 1:
        raise ValueError(
            f"detector_id has shape {detector_id.shape}, tof_us {tof_us.shape}; expected (events,)"
        )
    if len(detector_id) and (detector_id.min() < 0 or detector_id.max() >= ERROR_BIT):
        raise ValueError("detector_id must lie between 0 and 2**31 - 1")
    if not np.all(np.isfinite(tof_us)):
        raise ValueError("tof_us holds values that are not finite")
    for name, value, good in (
        ("ei_meV", ei_meV, ei_meV > 0),
        ("psi_deg", psi_deg, True),
        ("proton_charge", proton_charge, proton_charge > 0),
        ("minutes", minutes, minutes > 0),
        ("pulse_hz", pulse_hz, pulse_hz > 0),
    ):
        if not (np.isfinite(value) and good):
            raise ValueError(f"{name} is {value}; expected a finite number, positive but for psi")
    start_ns = max(int(start_time_ns), EPOCH_1990_S * 1_000_000_000)
    pulses = max(1, round(minutes * 60 * pulse_hz))
    pulse_times = np.arange(pulses) / pulse_hz
    n = len(detector_id)
    golden = np.modf(np.arange(n) * 0.6180339887498949)[0]
    pulse = np.minimum((golden * pulses).astype(np.int64), pulses - 1)
    bank = detector_id // ids_per_bank
    order = np.lexsort((pulse, bank))
    with h5py.File(Path(path), "w", libver=("earliest", "v110"), track_order=False) as file:
        entry = _group(file, "entry", "NXentry")
        for key, text in {
            "definition": "NXsnsevent",
            "run_number": run_number,
            "entry_identifier": run_number,
            "title": title,
            "start_time": format_time_ns(start_ns),
            "end_time": format_time_ns(start_ns + round(minutes * 60e9)),
        }.items():
            entry.create_dataset(key, data=np.array([text.encode()]))
        _number_data(entry, "duration", minutes * 60, "second")
        _number_data(entry, "proton_charge", proton_charge * 1e12, "picoCoulombs")
        entry.create_dataset("total_counts", data=np.array([n], np.uint64))
        entry.create_dataset("total_pulses", data=np.array([pulses], np.uint64))
        instrument = _group(entry, "instrument", "NXinstrument")
        instrument.create_dataset("name", data=np.array([instrument_name.encode()]))
        xml = _group(instrument, "instrument_xml", "NXnote")
        xml.create_dataset("data", data=np.array([idf_xml.encode()]))
        xml.create_dataset("type", data=np.array([b"text/xml"]))
        daslogs = _group(entry, "DASlogs", "NXcollection")
        constant = {
            psi_log: (psi_deg, "deg"),
            "EnergyRequest": (ei_meV, "meV"),
            "pause": (0.0, ""),
            **(logs or {}),
        }
        if temperature_K is not None:
            constant["sampletemp"] = (temperature_K, "K")
        if t0_us is not None:
            constant[EMISSION_LOG] = (t0_us, "microsecond")
        for key, (value, unit) in constant.items():
            log = _group(daslogs, key, "NXlog")
            _number_data(log, "value", value, unit)
            _number_data(log, "average_value", value, unit)
            _time_data(log, "time", np.zeros(1), start_ns)
        charge = _group(daslogs, "proton_charge", "NXlog")
        per_pulse = np.full(pulses, proton_charge * 1e12 / pulses)
        _packed(charge, "value", per_pulse).attrs["units"] = "picoCoulombs"
        _time_data(charge, "time", pulse_times, start_ns)
        shared_time = charge["time"]
        for number in np.unique(bank):
            mine = order[np.searchsorted(bank[order], number) :]
            mine = mine[: int(np.searchsorted(bank[mine], number, side="right"))]
            group = _group(entry, f"bank{number + 1}_events", "NXevent_data")
            _packed(group, "event_id", detector_id[mine].astype(np.uint32))
            # whole ns survive the wire, where times of flight are integers of them
            whole_ns = np.rint(tof_us[mine].astype(np.float64) * 1000) / 1000
            tof = _packed(group, "event_time_offset", whole_ns.astype(np.float32))
            tof.attrs["units"] = "microsecond"
            first = np.searchsorted(pulse[mine], np.arange(pulses)).astype(np.uint64)
            _packed(group, "event_index", first)
            group["event_time_zero"] = shared_time
            group.create_dataset("total_counts", data=np.array([len(mine)], np.uint64))


def _group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = np.bytes_(nx_class)
    return group


def _number_data(parent: h5py.Group, name: str, value: float, unit: str) -> None:
    parent.create_dataset(name, data=np.array([value], np.float64)).attrs["units"] = unit


def _packed(parent: h5py.Group, name: str, data: NDArray) -> h5py.Dataset:
    if len(data) == 0:
        return parent.create_dataset(name, data=data)
    return parent.create_dataset(
        name, data=data, compression="gzip", compression_opts=1, shuffle=True
    )


def _time_data(parent: h5py.Group, name: str, seconds: NDArray, start_ns: int) -> None:
    node = _packed(parent, name, seconds)
    node.attrs["units"] = "second"
    node.attrs["offset"] = format_time_ns(start_ns)
    node.attrs["offset_seconds"] = np.uint32(start_ns // 1_000_000_000 - EPOCH_1990_S)
    node.attrs["offset_nanoseconds"] = np.uint32(start_ns % 1_000_000_000)
