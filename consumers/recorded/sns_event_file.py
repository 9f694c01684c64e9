"""Raw event NeXus files of the SNS: one file per crystal orientation.

Layout, as the files show it: ``entry/bankN_events`` hold ``event_id``, ``event_time_offset``
(microseconds after the pulse) and ``event_index`` (first event of every pulse);
``entry/DASlogs`` holds what was logged, ``entry/instrument/instrument_xml`` the geometry. Wall
times count from 1990-01-01 UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from consumers.recorded.elastic_line import T0_GOOD_ENOUGH_US, default_t0_us, t0_of_banks
from consumers.recorded.event_reduction import (
    EventSlice,
    reduce_events,
)
from consumers.recorded.hdf5_file import (
    UnreadableError,
    child_text,
    open_hdf5,
)
from consumers.recorded.sns_event_layout import (
    EI_LOGS,
    EMISSION_LOG,
    TEMPERATURE_LOGS,
    Bank,
    PulseStates,
    angle_logs,
    event_banks,
    event_entry,
    log_groups,
    log_values,
    mean_of_log,
    pulse_states,
    pulses_of,
    recorded_start_ns,
)
from simulations.errors import InputError
from simulations.instrument import (
    Instrument,
    load_instrument,
    parse_idf,
    required_logs,
)

PSI_MAY_MOVE_DEG = 0.5  # a dwell is one orientation


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
    clean_meV: tuple[float, float] | None = None  # where no other incident energy mixes in
    period: int | None = None  # of an ISIS file: the one that counts


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
        entry = event_entry(path, file)
        problems: list[str] = []
        logs = log_groups(entry)
        energy = _incident_energy(path, logs, ei_meV)
        psi = psi_of_logs(path, logs, psi_log, psi_deg)
        geometry = _geometry(path, entry, logs, instrument)
        pulses = pulses_of(path, entry)
        problems += pulses.problems
        start_ns = recorded_start_ns(entry)
        if start_ns is None:
            start_ns = 0
            problems.append("start_time is missing; the run is dated 1970")
        banks = event_banks(path, entry)
        emission, source = t0_us, "given"
        if emission is None:
            emission, source = mean_of_log(logs, EMISSION_LOG), f"log {EMISSION_LOG}"
        if emission is None:
            emission, error, used = t0_of_banks(banks, geometry, energy)
            source = f"elastic line of {used} events, +- {error:.1f} us"
            if not error < T0_GOOD_ENOUGH_US:
                emission, source = default_t0_us(geometry.name, energy), "usual formula"
        if emission is None:
            emission, source = 0.0, "assumed"
            problems.append("T0 is unknown and the elastic line too weak; taken as 0 us")
        temperature = next(
            (t for name in TEMPERATURE_LOGS if (t := mean_of_log(logs, name)) is not None), None
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
        raise InputError(f"block is {block}; expected at least one event")
    with open_hdf5(run.path) as file:
        entry = event_entry(run.path, file)
        pulses = pulses_of(run.path, entry)
        banks = event_banks(run.path, entry)
        yield from reduce_banks(
            run, ((bank, pulse_states(run.path, bank, pulses)) for bank in banks), block
        )


def reduce_banks(
    run: EventRun, banks: Iterable[tuple[Bank, PulseStates]], block: int
) -> Iterator[EventSlice]:
    """Events of open banks in slices of at most ``block``, every pulse judged already."""
    held: list[EventSlice] = []
    for bank, states in banks:
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


def check_events(run: EventRun, *, block: int = 1_000_000) -> None:
    """Read every bank to its end without keeping anything.

    Raises
    ------
    UnreadableError
        If a bank is cut or contradicts itself.
    """
    with open_hdf5(run.path) as file:
        entry = event_entry(run.path, file)
        pulses = pulses_of(run.path, entry)
        for bank in event_banks(run.path, entry):
            pulse_states(run.path, bank, pulses)
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
        entry = event_entry(path, file)
        logs = log_groups(entry)
        values: dict[str, object] = {
            "title": child_text(entry, "title") or None,
            "run_number": child_text(entry, "run_number") or None,
            "start_time_ns": recorded_start_ns(entry),
            "angle_logs": angle_logs(logs),
            "instrument": child_text(entry, "instrument/name") or None,
            "temperature_K": next(
                (t for name in TEMPERATURE_LOGS if (t := mean_of_log(logs, name)) is not None), None
            ),
        }
        steps = (
            ("ei_meV", lambda: _incident_energy(path, logs, None)),
            ("psi_deg", lambda: psi_of_logs(path, logs, psi_log, psi_deg)),
            ("geometry", lambda: _geometry(path, entry, logs)),
            ("pulses", lambda: pulses_of(path, entry)),
            ("banks", lambda: event_banks(path, entry)),
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
        t0 = mean_of_log(logs, EMISSION_LOG)
        if t0 is None and found["geometry"] is not None and found["ei_meV"] and found["banks"]:
            t0, error, _ = t0_of_banks(found["banks"], found["geometry"], found["ei_meV"])
            t0 = t0 if error < T0_GOOD_ENOUGH_US else None
        if t0 is None and found["geometry"] is not None and found["ei_meV"] is not None:
            t0 = default_t0_us(found["geometry"].name, found["ei_meV"])
        values["t0_us"] = t0
    return values, problems


def estimate_t0_of_run(run: EventRun) -> tuple[float, float, int]:
    """``estimate_t0`` of the events in a file; the run's own T0 plays no part.

    Raises
    ------
    UnreadableError
        If the file cannot be read.
    """
    with open_hdf5(run.path) as file:
        entry = event_entry(run.path, file)
        banks = event_banks(run.path, entry)
        return t0_of_banks(banks, run.instrument, run.ei_meV)


def _incident_energy(path: Path, logs: Mapping[str, h5py.Group], given: float | None) -> float:
    recorded = next(
        (
            value
            for name in EI_LOGS
            if (value := mean_of_log(logs, name)) is not None and np.isfinite(value) and value > 0
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


def psi_of_logs(
    path: Path, logs: Mapping[str, h5py.Group], psi_log: str, given: float | None
) -> float:
    """Given psi, else the mean of its log, which must not have moved."""
    if given is not None:
        if not np.isfinite(given):
            raise UnreadableError(f"{path}: psi_deg is {given}; expected a finite angle")
        return float(given)
    values = log_values(logs, psi_log)
    if values is None:
        angles = ", ".join(angle_logs(logs)) or "none"
        raise UnreadableError(
            f"{path}: no log {psi_log!r} for psi; logs in degrees: {angles}. "
            "Name one (source.psi_log, --psi-log), or give --psi"
        )
    finite = values[np.isfinite(values)]
    psi = mean_of_log(logs, psi_log)
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
                value = mean_of_log(logs, log)
                if value is not None:
                    values.append((log, value))
            return _parsed(xml, tuple(values))
        if not name:
            raise InputError("neither instrument_xml nor an instrument name")
        return load_instrument(name, mean_of_log(logs, "s2") if name.upper() == "HYSPEC" else None)
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
