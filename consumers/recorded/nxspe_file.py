"""NXSPE files: reduced intensity on detectors x energy bins, one crystal orientation per file.

Files of many programs differ; what is read is judged bin by bin. Files that we write carry, beside
the standard content, what reduction normally loses: raw counts, charge, minutes, identifiers and
solid angles (group ``beamsteer``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from consumers.recorded.empty_bins import settle_empty_bins
from consumers.recorded.hdf5_file import (
    UnreadableError,
    child_array,
    child_number,
    child_text,
    group_of_class,
    open_hdf5,
    text_of,
)
from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.instrument import (
    UNKNOWN_RESOLUTION,
    Instrument,
    Resolution,
    known_instruments,
    read_instrument_table,
)

EXTENSION = "beamsteer"
EXTENSION_VERSION = 1
MANTID = "mantid_workspace_1"  # group of a workspace that Mantid's SaveNexus wrote
MASKED_BELOW = -1e29  # NXSPE 1.0 writes -1e30 where there is no data


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReducedRun:
    """Content of one NXSPE or SPE file, or of one run in an SQW file."""

    path: Path
    title: str  # name of the entry
    version: str  # of the NXSPE definition
    instrument: Instrument
    ei_meV: float
    psi_deg: float
    energy_edges_meV: FloatArray  # (bins + 1,)
    intensity: FloatArray  # (pixels, bins), k_i/k_f applied; NaN where masked
    error: FloatArray  # (pixels, bins); NaN where masked
    counts: NDArray[np.int64] | None  # (pixels, bins); only in files that we wrote
    proton_charge: float  # coulomb; 1.0 when the file has none
    minutes: float  # 0.0 when the file has none
    temperature_K: float | None
    run_number: str  # empty when the file has none
    start_time_ns: int  # since the Unix epoch; 0 when the file has none
    problems: tuple[str, ...] = ()
    absent: NDArray[np.bool_] | None = None  # (pixels, bins) pairs that the file does not hold
    recorded: int = 0  # pixels of an SQW file that belong to the run
    left_out: int = 0  # of them, those that are not in intensity: repeated, or above Ei
    ei_from: str = ""  # where Ei was found, if not where the format has it
    empty_bins: int = 0  # bins of reduced data without a count; see ``settle_empty_bins``


def read_nxspe(
    path: Path | str, *, psi_deg: float | None = None, ei_meV: float | None = None
) -> ReducedRun:
    """Read an NXSPE file of any version and program.

    Parameters
    ----------
    path : Path
        The file.
    psi_deg : float, optional
        Operator's psi; wins over the file's and is needed where that is NaN.
    ei_meV : float, optional
        Operator's incident energy, used only where the file has none.

    Returns
    -------
    ReducedRun
        Detectors without a finite angle or without any valid bin are masked pixels; zeros without
        an error are told apart by ``settle_empty_bins``. Pixels lie at
        (polar, azimuthal, distance): polar from the beam, azimuthal from +x (horizontal) to +y
        (up). Solid angles are ``sin(polar) * polar_width * azimuthal_width`` with widths kept
        within a full turn; approximate, where the file is not ours.

    Raises
    ------
    UnreadableError
        If the file cannot be read, or psi, Ei, energies or detectors are unusable.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        entry = _entry(path, file)
        problems: list[str] = []
        data = _child(path, entry, "data")
        info = _child(path, entry, "NXSPE_info")
        ei, ei_from = _ei(path, entry, info, ei_meV)
        psi = _psi(path, info, psi_deg)
        intensity, error = _blocks(path, data)
        edges = _edges(path, data, intensity.shape[1], ei, problems)
        scaling = child_number(info, "ki_over_kf_scaling")
        if not np.isfinite(scaling):
            problems.append("ki_over_kf_scaling is missing; taken as applied")
        elif scaling == 0:
            centre = (edges[1:] + edges[:-1]) / 2
            factor = np.sqrt(ei / np.maximum(ei - centre, 1e-6 * ei))
            intensity, error = intensity * factor, error * factor
            problems.append("data came without k_i/k_f; it was applied at bin centres")
        bad = ~np.isfinite(intensity) | (intensity < MASKED_BELOW) | ~np.isfinite(error)
        bad |= error < 0
        intensity = np.where(bad, np.nan, intensity)
        error = np.where(bad, np.nan, error)
        extension = entry.get(EXTENSION)
        ours = isinstance(extension, h5py.Group)
        counts, charge, minutes, run_number, start_ns = None, 1.0, 0.0, "", 0
        temperature: float | None = None
        if ours:
            _check_extension(path, extension)
            counts = _counts(path, extension, intensity.shape)
        empty_bins = 0
        if counts is None:
            settled = settle_empty_bins(intensity, error)
            intensity, error = settled.intensity, settled.error
            empty_bins = int(settled.empty.sum())
            problems += settled.problems
        empty = np.logical_and.reduce(np.isnan(intensity), axis=1)
        instrument = _instrument(path, entry, data, extension if ours else None, empty, problems)
        if ours:
            charge = child_number(extension, "proton_charge")
            minutes = child_number(extension, "minutes")
            if not (charge > 0 and minutes >= 0 and np.isfinite(charge * minutes)):
                raise UnreadableError(
                    f"{path}: proton_charge is {charge} and minutes {minutes}; expected positive "
                    "numbers. Write the file again"
                )
            run_number = child_text(extension, "run_number")
            start_ns = int(np.nan_to_num(child_number(extension, "start_time_ns")))
            value = child_number(extension, "temperature")
            temperature = value if np.isfinite(value) else None
        else:
            problems.append("no raw counts and no charge: a reduced file of another program")
        bins = int(np.searchsorted(edges[:-1], ei * (1 - 1e-6)))
        if edges[-1] >= ei:
            problems.append(f"energy reaches {edges[-1]:g} meV, Ei is {ei:g} meV; cut below Ei")
            edges = np.minimum(edges[: bins + 1], ei * (1 - 1e-6))
            intensity, error = intensity[:, :bins], error[:, :bins]
            counts = None if counts is None else counts[:, :bins]
        definition = entry.get("definition")
        version = (
            text_of(definition.attrs.get("version"))
            if isinstance(definition, h5py.Dataset)
            else "unknown"
        )
        return ReducedRun(
            path=path,
            title=str(entry.name).strip("/"),
            version=version,
            instrument=instrument,
            ei_meV=ei,
            psi_deg=psi,
            energy_edges_meV=edges,
            intensity=intensity,
            error=error,
            counts=counts,
            proton_charge=charge,
            minutes=minutes,
            temperature_K=temperature,
            run_number=run_number,
            start_time_ns=start_ns,
            problems=tuple(problems),
            empty_bins=empty_bins,
            ei_from=ei_from,
        )


def _entry(path: Path, file: h5py.File) -> h5py.Group:
    entries = group_of_class(file, "NXentry")
    spe = [g for g in entries if "NXSPE_info" in g]
    if not spe and MANTID in file:
        raise UnreadableError(
            f"{path}: a processed workspace of Mantid, not NXSPE, whatever its name; expected "
            f"what SaveNXSPE writes. In Mantid: SaveNXSPE(LoadNexus({path.name!r}), "
            f"'{path.stem}-spe.nxspe', Efixed=Ei in meV, Psi=psi in degrees)"
        )
    if not spe:
        raise UnreadableError(
            f"{path}: no NXentry with NXSPE_info among {len(entries)} entries; expected an NXSPE "
            "file"
        )
    if len(spe) > 1:
        raise UnreadableError(
            f"{path}: {len(spe)} NXSPE entries; expected one orientation per file. Split the file"
        )
    return spe[0]


def _child(path: Path, entry: h5py.Group, name: str) -> h5py.Group:
    group = entry.get(name)
    if not isinstance(group, h5py.Group):
        raise UnreadableError(f"{path}: no group {name!r} in {entry.name}; expected an NXSPE file")
    return group


def _ei(path: Path, entry: h5py.Group, info: h5py.Group, given: float | None) -> tuple[float, str]:
    """Incident energy and, where it is not ``fixed_energy``, what it is."""
    for value, place in (
        (child_number(info, "fixed_energy"), ""),
        (child_number(entry, "instrument/fermi/energy"), "instrument/fermi/energy of the file"),
        (child_number(entry, "instrument/energy"), "instrument/energy of the file"),
        (np.nan if given is None else float(given), "what the operator gave"),
    ):
        if np.isfinite(value) and value > 0:
            return float(value), place
    raise UnreadableError(
        f"{path}: fixed_energy is {child_number(info, 'fixed_energy')}; expected the incident "
        "energy in meV. Give --ei to init, instrument.ei_meV to a fold"
    )


def _psi(path: Path, info: h5py.Group, given: float | None) -> float:
    if given is not None:
        if not np.isfinite(given):
            raise UnreadableError(f"{path}: psi_deg is {given}; expected a finite angle")
        return float(given)
    psi = child_number(info, "psi")
    if not np.isfinite(psi):
        state = "NaN" if "psi" in info else "missing"
        raise UnreadableError(f"{path}: psi is {state}; expected degrees. Give --psi")
    node = info["psi"]
    unit = text_of(node.attrs.get("units")).lower()
    if unit.startswith("rad"):
        psi = float(np.degrees(psi))
    elif unit and not unit.startswith("deg"):
        raise UnreadableError(f"{path}: psi is in {unit!r}; expected degrees")
    return psi


def _numbers(path: Path, group: h5py.Group, name: str) -> NDArray | None:
    """Whole dataset of numbers, None when it is absent."""
    values = child_array(group, name)
    if values is not None and values.dtype.kind not in "biuf":
        kind = "text" if values.dtype.kind in "SUO" else str(values.dtype)
        raise UnreadableError(
            f"{path}: {name} holds {kind}; expected real numbers. Write the file again"
        )
    return values


def _blocks(path: Path, data: h5py.Group) -> tuple[FloatArray, FloatArray]:
    intensity, error = _numbers(path, data, "data"), _numbers(path, data, "error")
    if intensity is None or error is None or intensity.ndim != 2 or intensity.shape != error.shape:
        shapes = [None if a is None else a.shape for a in (intensity, error)]
        raise UnreadableError(
            f"{path}: data and error have shapes {shapes[0]} and {shapes[1]}; expected two equal "
            "(detectors, bins)"
        )
    if intensity.size == 0:
        raise UnreadableError(f"{path}: data has shape {intensity.shape}; expected some bins")
    return intensity.astype(np.float64), error.astype(np.float64)


def _edges(
    path: Path, data: h5py.Group, bins: int, ei_meV: float, problems: list[str]
) -> FloatArray:
    energy = _numbers(path, data, "energy")
    shape = None if energy is None else energy.shape
    if energy is None or energy.ndim != 1 or len(energy) not in (bins, bins + 1):
        raise UnreadableError(
            f"{path}: energy has shape {shape}; expected {bins + 1} bin edges (or {bins} centres)"
        )
    energy = energy.astype(np.float64)
    if not np.all(np.isfinite(energy)) or np.any(np.diff(energy) <= 0):
        raise UnreadableError(f"{path}: energy does not rise from bin to bin; expected it to")
    if len(energy) == bins:
        if bins < 2:
            raise UnreadableError(f"{path}: energy has one centre; expected bin edges")
        half = np.diff(energy) / 2
        energy = np.r_[energy[0] - half[0], energy[:-1] + half, energy[-1] + half[-1]]
        problems.append("energy holds bin centres; edges were put midway")
    if energy[0] >= ei_meV:
        raise UnreadableError(
            f"{path}: energy starts at {energy[0]:g} meV, Ei is {ei_meV:g} meV; expected less"
        )
    return energy


def _instrument(
    path: Path,
    entry: h5py.Group,
    data: h5py.Group,
    extension: h5py.Group | None,
    empty: NDArray[np.bool_],
    problems: list[str],
) -> Instrument:
    n = len(empty)
    columns = {}
    for key in ("polar", "azimuthal", "distance", "polar_width", "azimuthal_width"):
        column = _numbers(path, data, key)
        if column is None and key in ("distance", "azimuthal_width", "polar_width"):
            column = np.full(n, np.nan)
        if column is None or column.shape != (n,):
            shape = None if column is None else column.shape
            raise UnreadableError(f"{path}: {key} has shape {shape}; expected ({n},)")
        columns[key] = column.astype(np.float64)
    polar, azimuthal = np.radians(columns["polar"]), np.radians(columns["azimuthal"])
    distance = columns["distance"]
    lost = ~np.isfinite(polar) | ~np.isfinite(azimuthal)
    if lost.any():
        problems.append(f"{int(lost.sum())} detectors have no finite angle; masked")
    if lost.all():
        raise UnreadableError(f"{path}: no detector has finite angles; expected polar, azimuthal")
    no_distance = ~(np.isfinite(distance) & (distance > 0))
    if no_distance.any():
        problems.append(f"{int(no_distance.sum())} detectors have no distance; taken as 1 m")
    distance = np.where(no_distance, 1.0, distance)
    polar, azimuthal = np.where(lost, 0.0, polar), np.where(lost, 0.0, azimuthal)
    position = distance[:, None] * np.stack(
        [np.sin(polar) * np.cos(azimuthal), np.sin(polar) * np.sin(azimuthal), np.cos(polar)],
        axis=1,
    )
    name = child_text(entry, "instrument/name") or "unnamed"
    solid = _numbers(path, extension, "solid_angle") if extension is not None else None
    if solid is None:
        solid = _solid_angle(polar, columns, problems)
    ids = _numbers(path, extension, "detector_id") if extension is not None else None
    masked = lost.copy()
    stored_mask = _numbers(path, extension, "masked") if extension is not None else None
    if stored_mask is not None and stored_mask.shape == (n,):
        masked |= stored_mask.astype(np.bool_)
    if (empty & ~masked).any():
        problems.append(f"{int((empty & ~masked).sum())} detectors hold no valid bin; masked")
    masked |= empty
    if ids is None:
        ids = np.arange(n)
    if solid.shape != (n,) or ids.shape != (n,):
        raise UnreadableError(
            f"{path}: {EXTENSION} describes {len(ids)} detectors, data has {n}; expected as many"
        )
    length = child_number(extension, "source_to_sample") if extension is not None else np.nan
    base = name.partition("/")[0].upper()
    resolution = UNKNOWN_RESOLUTION
    if base in known_instruments():
        table = read_instrument_table(base)
        resolution = table.resolution
        length = length if np.isfinite(length) else table.source_to_sample_m
    if extension is not None:
        stored = _numbers(path, extension, "resolution")
        if stored is not None and stored.size:
            resolution = Resolution(coefficients=tuple(float(c) for c in stored.ravel()))
    tube = _numbers(path, extension, "tube") if extension is not None else None
    return Instrument(
        name=name,
        position_m=position,
        solid_angle_sr=np.where(masked & ~(solid > 0), 0.0, solid).astype(np.float64),
        detector_id=ids.astype(np.int64),
        masked=masked,
        source_to_sample_m=float(length),
        resolution=resolution,
        tube=None if tube is None or tube.shape != (n,) else tube.astype(np.int32),
    )


def _solid_angle(
    polar: FloatArray, columns: dict[str, FloatArray], problems: list[str]
) -> FloatArray:
    """Solid angle from the widths; widths beyond a full turn or missing are repaired."""
    width = np.radians(np.abs(columns["azimuthal_width"]))
    height = np.radians(np.abs(columns["polar_width"]))
    silly = ~np.isfinite(width) | (width > 2 * np.pi)
    if silly.any():
        problems.append(f"{int(silly.sum())} azimuthal widths exceed a full turn; cut to one")
    width = np.where(silly, 2 * np.pi, width)
    low, high = np.maximum(polar - height / 2, 0.0), np.minimum(polar + height / 2, np.pi)
    solid = width * (np.cos(low) - np.cos(high))
    good = np.isfinite(solid) & (solid > 0)
    if not good.all():
        problems.append(f"{int((~good).sum())} detectors have no width; given the median one")
    usual = float(np.median(solid[good])) if good.any() else 1e-4
    return np.where(good, solid, usual)


def _check_extension(path: Path, extension: h5py.Group) -> None:
    version = child_number(extension, "version")
    if not 1 <= version <= EXTENSION_VERSION:
        raise UnreadableError(
            f"{path}: {EXTENSION} extension has version {version:g}; expected at most "
            f"{EXTENSION_VERSION}. Read it with the Beamsteer that wrote it"
        )


def _counts(path: Path, extension: h5py.Group, shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    index, value = (
        _numbers(path, extension, "count_index"),
        _numbers(path, extension, "count_value"),
    )
    if index is None and value is None:
        return None
    size = shape[0] * shape[1]
    if (
        index is None
        or value is None
        or index.shape != value.shape
        or (index.size and (index.min() < 0 or index.max() >= size or value.min() < 0))
    ):
        raise UnreadableError(
            f"{path}: raw counts in {EXTENSION} do not fit data of shape {shape}; "
            "the file is damaged"
        )
    counts = np.zeros(size, np.int64)
    counts[index.astype(np.int64)] = value
    return counts.reshape(shape)


def write_nxspe(
    path: Path | str,
    *,
    instrument: Instrument,
    ei_meV: float,
    psi_deg: float,
    energy_edges_meV: FloatArray,
    intensity: FloatArray,
    error: FloatArray,
    counts: NDArray[np.integer] | None = None,
    proton_charge: float = 1.0,
    minutes: float = 0.0,
    temperature_K: float | None = None,
    run_number: str = "",
    start_time_ns: int = 0,
    title: str = "w1",
    notes: Sequence[str] = (),
) -> None:
    """Write an NXSPE 1.3 file, float32 and gzip, with our extension.

    Parameters
    ----------
    path : Path
        File to write; replaced if it exists.
    instrument : Instrument
        Pixels; become polar, azimuthal, distance and widths. Masked pixels are written as NaN.
    ei_meV, psi_deg : float
        Incident energy; orientation, right-handed about +y.
    energy_edges_meV : (bins + 1,)
        Rising.
    intensity, error : (pixels, bins)
        k_i/k_f applied; NaN where there is no data.
    counts : (pixels, bins) integer, optional
        Raw counts behind the intensity; kept sparsely. Without them readers treat the data as
        reduced.
    proton_charge, minutes : float
        Coulomb and wall time of the dwell.
    temperature_K, run_number, start_time_ns : optional
        As in the event files.
    title : str
        Name of the entry.
    notes : sequence of str
        Free lines kept in the extension, e.g. how the data were made.

    Raises
    ------
    ValueError
        If shapes disagree or psi, Ei or energies are impossible.
    """
    edges = np.asarray(energy_edges_meV, dtype=np.float64)
    shape = (instrument.n_pixels, len(edges) - 1)
    for name, array in (("intensity", intensity), ("error", error), ("counts", counts)):
        if array is not None and np.shape(array) != shape:
            raise ValueError(f"{name} has shape {np.shape(array)}; expected {shape}")
    if not (np.isfinite(psi_deg) and np.isfinite(ei_meV) and ei_meV > 0):
        raise InputError(f"psi_deg is {psi_deg}, ei_meV {ei_meV}; expected finite, positive energy")
    if len(edges) < 2 or np.any(np.diff(edges) <= 0):
        raise InputError("energy_edges_meV must rise and hold at least two values")
    keep = ~instrument.masked[:, None]
    P, d = instrument.position_m, instrument.distance_m
    polar = np.degrees(np.arctan2(np.hypot(P[:, 0], P[:, 1]), P[:, 2]))
    azimuthal = np.degrees(np.arctan2(P[:, 1], P[:, 0]))
    side = np.degrees(np.sqrt(instrument.solid_angle_sr))
    sine = np.maximum(np.sin(np.radians(polar)), 1e-3)
    with h5py.File(Path(path), "w", libver=("earliest", "v110")) as file:
        entry = _group(file, title, "NXentry")
        definition = entry.create_dataset("definition", data=np.array([b"NXSPE"]))
        definition.attrs["version"] = np.bytes_("1.3")
        entry.create_dataset("program_name", data=np.array([b"beamsteer"]))
        info = _group(entry, "NXSPE_info", "NXcollection")
        for key, value, unit in (("fixed_energy", ei_meV, "meV"), ("psi", psi_deg, "degrees")):
            info.create_dataset(key, data=np.array([value], np.float64)).attrs["units"] = unit
        info.create_dataset("ki_over_kf_scaling", data=np.array([1], np.int32))
        machine = _group(entry, "instrument", "NXinstrument")
        name = machine.create_dataset("name", data=np.array([instrument.name.encode()]))
        name.attrs["short_name"] = np.bytes_(instrument.name)
        fermi = _group(machine, "fermi", "NXfermi_chopper")
        fermi.create_dataset("energy", data=np.array([ei_meV], np.float64))
        _group(entry, "sample", "NXsample")
        data = _group(entry, "data", "NXdata")
        data.create_dataset("energy", data=edges).attrs["units"] = "meV"
        for key, array in (("data", intensity), ("error", error)):
            masked = np.where(keep, np.asarray(array, dtype=np.float64), np.nan)
            _packed(data, key, masked.astype(np.float32))
        data["data"].attrs["signal"] = np.int32(1)
        data["data"].attrs["axes"] = np.bytes_("polar:energy")
        for key, column in (
            ("polar", polar),
            ("polar_width", side),
            ("azimuthal", azimuthal),
            ("azimuthal_width", np.minimum(side / sine, 360.0)),
            ("distance", d),
        ):
            _packed(data, key, column)
        ours = _group(entry, EXTENSION, "NXcollection")
        ours.create_dataset("version", data=np.array([EXTENSION_VERSION], np.int32))
        for key, number in (
            ("proton_charge", proton_charge),
            ("minutes", minutes),
            ("source_to_sample", instrument.source_to_sample_m),
            ("temperature", np.nan if temperature_K is None else temperature_K),
        ):
            ours.create_dataset(key, data=np.array([number], np.float64))
        ours["proton_charge"].attrs["units"] = "coulomb"
        ours.create_dataset("start_time_ns", data=np.array([start_time_ns], np.int64))
        ours.create_dataset("run_number", data=np.array([run_number.encode()]))
        ours.create_dataset("resolution", data=np.array(instrument.resolution.coefficients))
        if notes:
            ours.create_dataset("notes", data=np.array([line.encode() for line in notes]))
        _packed(ours, "detector_id", instrument.detector_id)
        _packed(ours, "solid_angle", instrument.solid_angle_sr)
        _packed(ours, "masked", instrument.masked.astype(np.uint8))
        if instrument.tube is not None:
            _packed(ours, "tube", instrument.tube)
        if counts is not None:
            flat = np.asarray(counts).ravel()
            index = np.flatnonzero(flat)
            _packed(ours, "count_index", index.astype(np.int64))
            _packed(ours, "count_value", flat[index].astype(np.int64))


def _group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = np.bytes_(nx_class)
    return group


def _packed(parent: h5py.Group, name: str, data: NDArray) -> None:
    packing = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if data.size else {}
    parent.create_dataset(name, data=data, **packing)
