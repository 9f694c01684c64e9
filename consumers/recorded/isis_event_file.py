"""Raw event NeXus files of ISIS: one file per crystal orientation, several energies per pulse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from consumers.recorded.elastic_line import T0_GOOD_ENOUGH_US, t0_of_banks
from consumers.recorded.event_reduction import EventSlice
from consumers.recorded.hdf5_file import UnreadableError, child_number, child_text, open_hdf5
from consumers.recorded.incident_energies import (
    SAME,
    IncidentEnergy,
    clean_range_meV,
    incident_energies,
)
from consumers.recorded.isis_event_layout import (
    REASONS,
    good_periods,
    isis_banks,
    isis_chopper,
    isis_entry,
    isis_frame_states,
    isis_frames,
    isis_geometry,
    isis_logs,
    isis_name,
)
from consumers.recorded.sns_event_file import EventRun, psi_of_logs, reduce_banks
from consumers.recorded.sns_event_layout import (
    EI_LOGS,
    EMISSION_LOG,
    TEMPERATURE_LOGS,
    Bank,
    angle_logs,
    mean_of_log,
    recorded_start_ns,
)
from simulations.errors import InputError
from simulations.instrument import Instrument

FRAME_HZ = 50.0  # of the first target station, where the file does not say
TEMPERATURES = (*TEMPERATURE_LOGS, "Sample_temp", "Temp_Sample", "sample_temp", "Temp")


def read_isis_run(
    path: Path | str,
    *,
    psi_log: str = "s1",
    psi_deg: float | None = None,
    ei_meV: float | None = None,
    t0_us: float | None = None,
    period: int | None = None,
) -> EventRun:
    """Read everything but the events.

    Parameters
    ----------
    path : Path
        ISIS event file.
    psi_log : str
        Log (``selog`` or ``runlog``) that holds psi in degrees.
    psi_deg : float, optional
        Operator's psi; the log is not read then.
    ei_meV : float, optional
        The incident energy that counts. Without it the file must hold one alone.
    t0_us : float, optional
        Operator's emission time. Otherwise: the file's, the position of the elastic line, or 0.
    period : int, optional
        The period that counts; needed where good frames are of several.

    Returns
    -------
    EventRun
        With ``clean_meV`` where the pulse holds other incident energies too.

    Raises
    ------
    UnreadableError
        If the file cannot be read or lacks psi, geometry, a good frame or the energy asked for.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        entry = isis_entry(path, file)
        logs = isis_logs(entry)
        problems: list[str] = []
        psi = psi_of_logs(path, logs, psi_log, psi_deg)
        geometry = isis_geometry(path, entry, logs, problems)
        frames = isis_frames(path, entry, period)
        problems += frames.problems
        banks = isis_banks(path, entry, geometry)
        energies = _energies(entry, logs, geometry, banks, ei_meV)
        energy = _chosen(path, energies, logs, ei_meV)
        others = [one.ei_meV for one in energies if _is_other(one, energy)]
        if others:
            told = ", ".join(f"{other:.4g}" for other in others)
            problems.append(f"the pulse holds other incident energies too: {told} meV")
        start_ns = recorded_start_ns(entry)
        if start_ns is None:
            start_ns = 0
            problems.append("start_time is missing; the run is dated 1970")
        emission, source = t0_us, "given"
        if emission is None:
            emission, source = mean_of_log(logs, EMISSION_LOG), f"log {EMISSION_LOG}"
        if emission is None:
            emission, error, used = t0_of_banks(banks, geometry, energy)
            source = f"elastic line of {used} events, +- {error:.1f} us"
            if not error < T0_GOOD_ENOUGH_US:
                emission, source = 0.0, "assumed"
                problems.append("T0 is unknown and the elastic line too weak; taken as 0 us")
        return EventRun(
            path=path,
            run_number=child_text(entry, "run_number") or path.name.split(".")[0],
            title=child_text(entry, "title"),
            instrument=geometry,
            ei_meV=energy,
            psi_deg=psi,
            t0_us=float(emission),
            t0_source=source,
            start_time_ns=start_ns,
            minutes=frames.seconds / 60,
            proton_charge=frames.charge,
            temperature_K=_temperature(logs),
            total_events=sum(bank.events for bank in banks),
            problems=tuple(problems),
            clean_meV=clean_range_meV(energy, others, geometry, energy) if others else None,
            period=period,
        )


def _temperature(logs: Mapping[str, h5py.Group]) -> float | None:
    return next((t for name in TEMPERATURES if (t := mean_of_log(logs, name)) is not None), None)


def _is_other(one: IncidentEnergy, energy: float) -> bool:
    return one.elastic_counts > 0 and abs(one.ei_meV - energy) > SAME * energy


def _energies(
    entry: h5py.Group,
    logs: Mapping[str, h5py.Group],
    geometry: Instrument,
    banks: Sequence[Bank],
    ei_meV: float | None,
) -> list[IncidentEnergy]:
    frame = child_number(entry, "instrument/source/frequency")
    chosen = ei_meV if ei_meV is not None else _logged_energy(logs)
    return incident_energies(
        banks,
        geometry,
        ei_meV=chosen,
        chopper=isis_chopper(entry, geometry.source_to_sample_m),
        frame_Hz=frame if np.isfinite(frame) and frame > 0 else FRAME_HZ,
    )


def _logged_energy(logs: Mapping[str, h5py.Group]) -> float | None:
    found = (mean_of_log(logs, name) for name in EI_LOGS)
    return next((value for value in found if value is not None and value > 0), None)


def _chosen(
    path: Path,
    energies: Sequence[IncidentEnergy],
    logs: Mapping[str, h5py.Group],
    given: float | None,
) -> float:
    """The operator's, if the file may hold it; else the file's only one."""
    seen = [one for one in energies if one.elastic_counts]
    told = ", ".join(f"{one.ei_meV:.4g}" for one in seen) or "none"
    if given is not None:
        if not (np.isfinite(given) and given > 0):
            raise UnreadableError(f"{path}: ei_meV is {given}; expected a positive energy")
        if seen and not any(abs(one.ei_meV - given) <= 0.05 * given for one in seen):
            raise UnreadableError(
                f"{path}: ei_meV is {given:g}, elastic lines are seen at {told} meV; expected one "
                "of them within 5 %. Correct instrument.ei_meV or leave the file out"
            )
        return float(given)
    logged = _logged_energy(logs)
    if len(seen) > 1:
        raise UnreadableError(
            f"{path}: the pulse holds {len(seen)} incident energies, {told} meV; expected one to "
            "be chosen. Give --ei to init, instrument.ei_meV to a fold"
        )
    if logged is not None:
        return logged
    if len(seen) == 1:
        return seen[0].ei_meV
    raise UnreadableError(
        f"{path}: no log of the incident energy ({', '.join(EI_LOGS)}) and no elastic line; "
        "expected one. Give --ei to init, instrument.ei_meV to a fold"
    )


def iterate_isis_events(run: EventRun, *, block: int = 1_000_000) -> Iterator[EventSlice]:
    """Events of a run in slices of at most ``block`` events.

    Dropped and counted: spectra that have no detector, events of vetoed frames, of other periods
    or of no frame, and times that are not finite or too early for a neutron of this energy.

    Raises
    ------
    UnreadableError
        If the file is cut or contradicts itself.
    """
    if block < 1:
        raise InputError(f"block is {block}; expected at least one event")
    with open_hdf5(run.path) as file:
        entry = isis_entry(run.path, file)
        frames = isis_frames(run.path, entry, run.period)
        banks = isis_banks(run.path, entry, run.instrument)
        states = ((bank, isis_frame_states(run.path, bank, frames)) for bank in banks)
        for part in reduce_banks(run, states, block):
            yield EventSlice(
                pixel=part.pixel,
                energy_transfer_meV=part.energy_transfer_meV,
                read=part.read,
                filtered={REASONS.get(name, name): n for name, n in part.filtered.items()},
            )


def check_isis_events(run: EventRun, *, block: int = 1_000_000) -> None:
    """Read every event without keeping anything.

    Raises
    ------
    UnreadableError
        If the file is cut or contradicts itself.
    """
    with open_hdf5(run.path) as file:
        entry = isis_entry(run.path, file)
        frames = isis_frames(run.path, entry, run.period)
        for bank in isis_banks(run.path, entry, run.instrument):
            isis_frame_states(run.path, bank, frames)
            for start in range(0, bank.events, block):
                bank.load(start, min(start + block, bank.events))


def inspect_isis(
    path: Path,
    *,
    psi_log: str = "s1",
    psi_deg: float | None = None,
    ei_meV: float | None = None,
) -> tuple[dict[str, object], list[str]]:
    """Values that an ISIS event file can give, None where it cannot, and what is wrong with it.

    Parameters
    ----------
    path, psi_log, psi_deg, ei_meV
        As for ``read_isis_run``.

    Returns
    -------
    values : dict
        As of ``inspect_file``, with ``incident_energies`` (dicts of ``IncidentEnergy``) and
        ``geometry``, the instrument.
    problems : list of str

    Raises
    ------
    UnreadableError
        If it is no ISIS event file at all, or cannot be read to its end.
    """
    problems: list[str] = []
    with open_hdf5(path) as file:
        entry = isis_entry(path, file)
        logs = isis_logs(entry)
        values: dict[str, Any] = {
            "instrument": isis_name(entry) or None,
            "title": child_text(entry, "title") or None,
            "run_number": child_text(entry, "run_number") or None,
            "start_time_ns": recorded_start_ns(entry),
            "temperature_K": _temperature(logs),
            "angle_logs": angle_logs(logs),
            "geometry": None,
        }
        try:
            values["psi_deg"] = psi_of_logs(path, logs, psi_log, psi_deg)
        except UnreadableError as error:
            problems.append(str(error))
        geometry = isis_geometry(path, entry, logs, problems)
        banks = isis_banks(path, entry, geometry)
        energies = _energies(entry, logs, geometry, banks, ei_meV)
        periods = good_periods(entry)
        if len(periods) > 1:
            told = ", ".join(map(str, periods))
            problems.append(f"frames are of the periods {told}; choose one (source.period)")
        values |= {
            "geometry": geometry,
            "pixels": geometry.n_pixels,
            "events": sum(bank.events for bank in banks),
            "incident_energies": [asdict(one) for one in energies],
        }
        values["ei_meV"] = ei_meV
        try:
            values["ei_meV"] = _chosen(path, energies, logs, ei_meV)
        except UnreadableError as error:
            problems.append(str(error))
            values["ei_meV"] = None
    energy = values["ei_meV"]
    strongest = max(energies, key=lambda one: one.elastic_counts, default=None)
    trial = energy or (strongest.ei_meV if strongest is not None else None)
    if trial is None:
        return values, problems
    run = read_isis_run(
        path,
        psi_log=psi_log,
        psi_deg=values.get("psi_deg", 0.0),
        ei_meV=trial,
        period=periods[0] if len(periods) > 1 else None,
    )
    problems += run.problems
    values |= {
        "minutes": run.minutes,
        "proton_charge": run.proton_charge,
        "t0_us": run.t0_us,
        "clean_meV": None
        if run.clean_meV is None
        else (max(run.clean_meV[0], -run.ei_meV), run.clean_meV[1]),
    }
    filtered: dict[str, int] = {}
    low, high = np.inf, -np.inf
    for part in iterate_isis_events(run):
        for reason, n in part.filtered.items():
            filtered[reason] = filtered.get(reason, 0) + n
        kept = part.energy_transfer_meV[part.energy_transfer_meV >= -run.ei_meV]
        if len(kept):
            low, high = min(low, float(kept.min())), max(high, float(kept.max()))
    values["filtered"] = filtered
    if run.clean_meV is not None:
        low, high = max(low, run.clean_meV[0]), min(high, run.clean_meV[1])
    if low <= high and energy is not None:
        values["energy_meV"] = (low, high)
    return values, problems
