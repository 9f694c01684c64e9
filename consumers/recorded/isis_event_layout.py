"""Groups of ISIS event files, open already: frames, spectra, logs and choppers as arrays.

``raw_data_1/detector_1_events`` holds ``event_id`` (spectrum numbers), ``event_time_offset``
(microseconds after the frame), ``event_index`` and ``event_time_zero`` (of every frame);
``isis_vms_compat`` tells which detectors make a spectrum (``UDET``, ``SPEC``) and where they are
(``LEN2``, ``TTHE``, ``UT01``); ``framelog`` judges every frame; ``runlog`` and ``selog`` hold what
was logged.

References
----------
ISIS, documentation of the instrument control program, "NeXus files"; Mantid documentation,
LoadISISNexus and LoadEventNexus.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from consumers.recorded.event_reduction import KEEP, NO_CHARGE, PAUSED
from consumers.recorded.hdf5_file import (
    UnreadableError,
    child_array,
    child_number,
    child_text,
    group_of_class,
)
from consumers.recorded.sns_event_layout import (
    Bank,
    PulseStates,
    epoch_ns,
    event_banks,
    pulse_times,
)
from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.instrument import (
    UNKNOWN_RESOLUTION,
    Instrument,
    parse_idf,
    required_logs,
)

COULOMB_PER_UAH = 3.6e-3
NOWHERE = 2**31 - 1  # identifier of events whose spectrum has no detector
ANY_SOLID_ANGLE_SR = 1e-4  # of every detector, where the file does not tell sizes
FRAME_S = 5e-3  # a frame of the events and one of the log belong together within this
REASONS = {"pulse without charge": "vetoed frame", "pause": "another period"}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpectrumBank(Bank):
    """Events of an ISIS file; what is loaded are identifiers of detectors."""

    detector_of: NDArray[np.int64]  # (spectra,) by spectrum number; NOWHERE: none

    def load(self, start: int, stop: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Identifiers of detectors and times of flight in microseconds, (stop - start,) each."""
        spectra = np.asarray(self.group["event_id"][start:stop]).astype(np.int64)  # pyright: ignore[reportIndexIssue]
        tof = self.group["event_time_offset"][start:stop]  # pyright: ignore[reportIndexIssue]
        known = (spectra >= 0) & (spectra < len(self.detector_of))
        found = self.detector_of[np.where(known, spectra, 0)]
        return np.where(known, found, NOWHERE), np.asarray(tof)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Frames:
    """Frames of a run by the frame log, or what can be said without one."""

    time_s: FloatArray  # (frames,) after the start; empty without a log
    state: NDArray[np.int8]  # (frames,) keep, vetoed (NO_CHARGE), another period (PAUSED)
    charge: float  # coulomb of the frames that count
    seconds: float
    problems: tuple[str, ...] = ()


def is_isis(entry: h5py.Group) -> bool:
    """Whether an entry is that of an ISIS event file."""
    return "detector_1_events" in entry


def isis_entry(path: Path, file: h5py.File) -> h5py.Group:
    """Entry with events; a file without one raises ``UnreadableError``."""
    for entry in group_of_class(file, "NXentry"):
        if is_isis(entry):
            return entry
    raise UnreadableError(f"{path}: no detector_1_events; expected an ISIS event file")


def isis_logs(entry: h5py.Group) -> Mapping[str, h5py.Group]:
    """Groups with ``value`` and ``time`` by name; what is in both logs is taken from ``selog``."""
    found: dict[str, h5py.Group] = {}
    for where in ("runlog", "selog"):
        logs = entry.get(where)
        if not isinstance(logs, h5py.Group):
            continue
        for name in logs:
            group = logs.get(name)
            inner = group.get("value_log") if isinstance(group, h5py.Group) else None
            log = inner if isinstance(inner, h5py.Group) else group
            if isinstance(log, h5py.Group) and isinstance(log.get("value"), h5py.Dataset):
                found[str(name)] = log
    return found


def isis_banks(path: Path, entry: h5py.Group, instrument: Instrument) -> list[Bank]:
    """Banks with events, identifiers translated; a damaged one raises ``UnreadableError``."""
    table = _spectra(path, entry)
    if table is None:
        return event_banks(path, entry)  # spectra are detectors, as in files without the tables
    detector, spectrum = table
    known = np.isin(detector, instrument.detector_id)
    detector_of = np.full(int(spectrum.max(initial=0)) + 1, NOWHERE, np.int64)
    detector_of[spectrum[known][::-1]] = detector[known][::-1]  # the first of a spectrum stays
    return [
        SpectrumBank(
            path=bank.path,
            name=bank.name,
            group=bank.group,
            events=bank.events,
            detector_of=detector_of,
        )
        for bank in event_banks(path, entry)
    ]


def _spectra(path: Path, entry: h5py.Group) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Detector and spectrum numbers, (detectors,) each; None where the tables are absent."""
    detector = child_array(entry, "isis_vms_compat/UDET")
    spectrum = child_array(entry, "isis_vms_compat/SPEC")
    if detector is None and spectrum is None:
        return None
    if (
        detector is None
        or spectrum is None
        or detector.shape != spectrum.shape
        or detector.ndim != 1
        or {detector.dtype.kind, spectrum.dtype.kind} - set("iu")
    ):
        shapes = [None if x is None else x.shape for x in (detector, spectrum)]
        raise UnreadableError(
            f"{path}: UDET and SPEC have shapes {shapes[0]} and {shapes[1]}; expected as many "
            "whole numbers of each. The file is damaged"
        )
    detector, spectrum = detector.astype(np.int64), spectrum.astype(np.int64)
    most = 100 * len(spectrum) + 1_000_000
    if len(spectrum) and not (0 <= spectrum.min() and spectrum.max() < most):
        raise UnreadableError(
            f"{path}: SPEC runs from {spectrum.min()} to {spectrum.max()}; expected spectrum "
            f"numbers of {len(spectrum)} detectors. The file is damaged"
        )
    return detector, spectrum


def isis_geometry(
    path: Path, entry: h5py.Group, logs: Mapping[str, h5py.Group], problems: list[str]
) -> Instrument:
    """Pixels: of an embedded definition, else of the detector tables."""
    xml = child_text(entry, "instrument/instrument_xml/data")
    if xml:
        try:
            motors = {
                name: child_number(logs[name], "value")
                for name in required_logs(xml)
                if name in logs
            }
            return _grouped(path, entry, parse_idf(xml, motors), problems)
        except UnreadableError:
            raise
        except InputError as error:
            raise UnreadableError(f"{path}: geometry: {error}") from error
    table = _spectra(path, entry)
    columns = [child_array(entry, f"isis_vms_compat/{name}") for name in ("LEN2", "TTHE", "UT01")]
    if table is None or any(column is None for column in columns):
        raise UnreadableError(
            f"{path}: neither instrument_xml nor the tables UDET, SPEC, LEN2, TTHE and UT01; "
            "expected where the detectors are. Reduce it to NXSPE first"
        )
    detector, _ = table
    distance, polar, azimuth = (np.asarray(column, float).ravel() for column in columns)
    if not len(detector) == len(distance) == len(polar) == len(azimuth):
        raise UnreadableError(
            f"{path}: UDET lists {len(detector)} detectors, LEN2 {len(distance)}, TTHE "
            f"{len(polar)}, UT01 {len(azimuth)}; expected as many. The file is damaged"
        )
    monitors = child_array(entry, "isis_vms_compat/MDET")
    kept = np.ones(len(detector), np.bool_)
    if monitors is not None:
        kept &= ~np.isin(detector, monitors)
    good = np.isfinite(distance) & (distance > 0) & np.isfinite(polar) & np.isfinite(azimuth)
    if (kept & ~good).any():
        problems.append(f"{int((kept & ~good).sum())} detectors have no place; masked")
    _, first = np.unique(detector, return_index=True)
    once = np.zeros(len(detector), np.bool_)
    once[first] = True
    kept &= once
    if not (kept & good).any():
        raise UnreadableError(f"{path}: LEN2, TTHE and UT01 place no detector; expected some")
    distance = np.where(good, distance, 1.0)[kept]
    theta, phi = (np.radians(np.where(good, x, 0.0)[kept]) for x in (polar, azimuth))
    across = [np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)]
    problems.append("sizes of the detectors are not recorded; taken as equal")
    length = abs(child_number(entry, "instrument/moderator/distance"))
    if not length > 0:
        raise UnreadableError(
            f"{path}: instrument/moderator/distance is missing; expected metres from moderator to "
            "sample. Write it into the file, or reduce it to NXSPE first"
        )
    instrument = Instrument(
        name=isis_name(entry) or "unknown",
        position_m=distance[:, None] * np.stack(across, axis=1),
        solid_angle_sr=np.full(int(kept.sum()), ANY_SOLID_ANGLE_SR),
        detector_id=detector[kept],
        masked=~good[kept],
        source_to_sample_m=float(length),
        resolution=UNKNOWN_RESOLUTION,
    )
    return _grouped(path, entry, instrument, problems)


def isis_name(entry: h5py.Group) -> str:
    """Name of the instrument, empty where the file has none."""
    return child_text(entry, "name") or child_text(entry, "instrument/name")


def _grouped(
    path: Path, entry: h5py.Group, instrument: Instrument, problems: list[str]
) -> Instrument:
    """Detectors that share a spectrum become one pixel at their middle, named by the first."""
    table = _spectra(path, entry)
    if table is None:
        return instrument
    detector, spectrum = table
    pixel = instrument.pixel_of_id(detector)
    spectrum, pixel = spectrum[pixel >= 0], pixel[pixel >= 0]
    numbers, group, members = np.unique(spectrum, return_inverse=True, return_counts=True)
    lost = instrument.n_pixels - len(np.unique(pixel))
    if lost:
        problems.append(f"{lost} detectors belong to no spectrum; left out")
    first = np.full(len(numbers), len(pixel), np.int64)
    np.minimum.at(first, group, np.arange(len(pixel)))
    if len(numbers) == instrument.n_pixels and (members == 1).all():
        return instrument
    if (members > 1).any():
        several = int((members > 1).sum())
        problems.append(f"{several} spectra join several detectors; one pixel each")
    position = np.zeros((len(numbers), 3))
    np.add.at(position, group, instrument.position_m[pixel])
    solid = np.bincount(group, instrument.solid_angle_sr[pixel], len(numbers))
    masked = np.bincount(group, instrument.masked[pixel], len(numbers)) > 0
    return Instrument(
        name=instrument.name,
        position_m=position / members[:, None],
        solid_angle_sr=np.asarray(solid, np.float64),
        detector_id=instrument.detector_id[pixel[first]],
        masked=masked,
        source_to_sample_m=instrument.source_to_sample_m,
        resolution=instrument.resolution,
        tube=None if instrument.tube is None else instrument.tube[pixel[first]],
    )


def isis_frames(path: Path, entry: h5py.Group, period: int | None) -> Frames:
    """Judge every frame: vetoed ones and those of other periods do not count.

    Parameters
    ----------
    path : Path
    entry : h5py.Group
    period : int, optional
        The period that counts; needed where good frames are of several.

    Raises
    ------
    UnreadableError
        If the log contradicts itself, no frame counts, or a period must be chosen.
    """
    problems: list[str] = []
    total = child_number(entry, "proton_charge") * COULOMB_PER_UAH
    seconds = child_number(entry, "collection_time")
    if not seconds > 0:
        seconds = child_number(entry, "duration")
    if not seconds > 0:
        seconds = 0.0
        problems.append("duration is missing; counted as 0 minutes")
    good = _frame_log(entry, "good_frame_log")
    charge, number = _frame_log(entry, "proton_charge"), _frame_log(entry, "period_log")
    time = child_array(entry, "framelog/good_frame_log/time")
    if good is None or time is None:
        problems.append("framelog is missing; vetoed frames and periods cannot be told")
        declared = child_number(entry, "periods/number")
        if declared > 1:
            raise UnreadableError(
                f"{path}: periods/number is {declared:g} and framelog is missing; expected one "
                "period, or a log that tells them apart. Reduce it to NXSPE first"
            )
        if not total > 0:
            total = 1.0
            problems.append("proton charge is missing; counted as 1 C")
        none = np.empty(0)
        return Frames(
            time_s=none,
            state=none.astype(np.int8),
            charge=total,
            seconds=seconds,
            problems=tuple(problems),
        )
    for name, log in (("time", time), ("proton_charge", charge), ("period_log", number)):
        if log is not None and len(log) != len(good):
            raise UnreadableError(
                f"{path}: framelog: {name} has {len(log)} values, good_frame_log {len(good)}; "
                "expected one of each per frame. The file is damaged"
            )
    state = np.where(good > 0, KEEP, NO_CHARGE).astype(np.int8)
    if charge is not None:
        state[~(charge > 0)] = NO_CHARGE
    if number is not None:
        there = good_periods(entry)
        if period is None and len(there) > 1:
            raise UnreadableError(
                f"{path}: good frames are of the periods {', '.join(map(str, there))}; expected "
                "one. Choose one (source.period)"
            )
        if period is not None and period not in there:
            raise UnreadableError(
                f"{path}: period {period} has no good frame; periods with some: "
                f"{', '.join(map(str, there)) or 'none'}. Correct source.period"
            )
        if period is not None:
            state[(state == KEEP) & (number != period)] = PAUSED
    if not (state == KEEP).any():
        raise UnreadableError(f"{path}: no good frame; expected beam. Leave the file out")
    declared = child_number(entry, "good_frames")
    if declared >= 0 and declared != (good > 0).sum():
        problems.append(f"good_frames is {declared:g}, the frame log has {int((good > 0).sum())}")
    if charge is not None:
        kept = float(charge[state == KEEP].sum()) * COULOMB_PER_UAH
        everything = float(charge[good > 0].sum()) * COULOMB_PER_UAH
        if total > 0 and abs(everything - total) > 0.01 * total:
            problems.append(
                f"proton_charge is {total:.4g} C, that of the good frames {everything:.4g} C"
            )
    else:
        kept = (total if total > 0 else 1.0) * float((state == KEEP).sum() / (good > 0).sum())
    share = float((state != PAUSED).mean())
    return Frames(
        time_s=np.asarray(time, float).ravel(),
        state=state,
        charge=kept,
        seconds=seconds * share,
        problems=tuple(problems),
    )


def good_periods(entry: h5py.Group) -> list[int]:
    """Periods of good frames with charge; empty where no log tells."""
    good, number = _frame_log(entry, "good_frame_log"), _frame_log(entry, "period_log")
    charge = _frame_log(entry, "proton_charge")
    if good is None or number is None or len(good) != len(number):
        return []
    keep = (good > 0) & np.isfinite(number)
    if charge is not None and len(charge) == len(keep):
        keep &= charge > 0
    return [int(p) for p in np.unique(number[keep])]


def _frame_log(entry: h5py.Group, name: str) -> FloatArray | None:
    value = child_array(entry, f"framelog/{name}/value")
    if value is None or value.dtype.kind not in "fiub":
        return None
    return value.astype(np.float64).ravel()


def isis_frame_states(path: Path, bank: Bank, frames: Frames) -> PulseStates:
    """Frames of a bank, judged by the frame log: by their place in it, else by time."""
    index, time_ns = pulse_times(path, bank)
    if len(frames.state) == 0:
        return PulseStates(index=index, state=np.full(len(index), KEEP, np.int8))
    if len(frames.state) == len(index):
        return PulseStates(index=index, state=frames.state)
    zero = bank.group.get("event_time_zero")
    origin = epoch_ns(zero) if isinstance(zero, h5py.Dataset) else 0
    after_s = (time_ns - origin) * 1e-9
    order = np.argsort(frames.time_s, kind="stable")
    logged = frames.time_s[order]
    place = np.searchsorted(logged, after_s)
    left, right = np.maximum(place - 1, 0), np.minimum(place, len(logged) - 1)
    nearer = np.abs(logged[right] - after_s) < np.abs(logged[left] - after_s)
    nearest = np.where(nearer, right, left)
    state = frames.state[order][nearest].copy()
    state[~(np.abs(logged[nearest] - after_s) <= FRAME_S)] = NO_CHARGE
    return PulseStates(index=index, state=state)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chopper:
    """A chopper that lets several energies of a pulse pass."""

    frequency_Hz: float  # openings per second
    distance_m: float  # from the moderator


def isis_chopper(entry: h5py.Group, source_to_sample_m: float) -> Chopper | None:
    """The fastest chopper whose place and speed are recorded (NXfermi_chopper, NXdisk_chopper)."""
    machine = entry.get("instrument")
    found: list[Chopper] = []
    if isinstance(machine, h5py.Group):
        for nx_class in ("NXfermi_chopper", "NXdisk_chopper"):
            for group in group_of_class(machine, nx_class):
                speed = abs(child_number(group, "rotation_speed"))
                place = source_to_sample_m - abs(child_number(group, "distance"))
                if speed > 0 and 0 < place < source_to_sample_m:
                    found.append(Chopper(frequency_Hz=speed, distance_m=place))
    return max(found, key=lambda chopper: chopper.frequency_Hz, default=None)
