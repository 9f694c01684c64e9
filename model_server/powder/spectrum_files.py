"""Reduced powder spectra from files: I(|Q|, E) in HDF5 histograms and in ``powder.npz`` of a fold.

Recorded runs (NXSPE, events) are folded first.
"""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from simulations.arrays import BoolArray, FloatArray
from simulations.errors import InputError
from simulations.scattering import (
    LEAST_CELLS,
    SHIPPED,
    MeasuredSpectrum,
    npz_arrays,
    numbers,
    read_powder_spectra,
    refuse_no_numbers,
)

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
JOULE_PER_MEV = 1.602177e-22
UNIT = re.compile(r"([0-9.]+(?:e[+-]?[0-9]+)?)\*(.+)", re.IGNORECASE)  # as DANSE writes them
KNOWN_UNITS = {
    "E": ("mev", "millielectronvolt", "millielectronvolts"),
    "Q": (
        "1/angstrom",
        "1/angstroms",
        "angstrom^-1",
        "angstrom**-1",
        "inverseangstrom",
        "1/a",
        "a^-1",
        "a**-1",
        "1/\u00e5",
        "\u00e5^-1",
        "\u00e5**-1",
    ),
}


def reduced_spectrum(
    name: str,
    intensity: FloatArray,
    sigma: FloatArray,
    momentum_edges: FloatArray,
    energy_edges_meV: FloatArray,
    *,
    temperature_K: float,
    ei_meV: float,
    window_meV: tuple[float, float],
) -> MeasuredSpectrum:
    """Make a spectrum of S(|Q|, E) with errors.

    Parameters
    ----------
    name : str
    intensity, sigma : (Q, E) float64
        Any unit; NaN or no error: not valid.
    momentum_edges : (Q + 1,) float64
        1/angstrom, equal steps.
    energy_edges_meV : (E + 1,) float64
        Equal steps.
    temperature_K, ei_meV : float
    window_meV : (float, float)
        Energy transfers that count; the elastic line lies outside.

    Raises
    ------
    InputError
        If no cell is left, steps are not equal, |Q| is negative, or errors are missing.
    """
    for label, edges in (("|Q|", momentum_edges), ("E", energy_edges_meV)):
        steps = np.diff(edges)
        if not (len(steps) >= 3 and np.isfinite(edges).all() and steps.min() > 0) or (
            np.ptp(steps) > 1e-3 * steps.max()
        ):
            raise InputError(
                f"spectrum {name}: bins of {label} do not ascend in equal steps, or are fewer than "
                "3; expected finite edges of equal bins. Correct the axis."
            )
    if momentum_edges[0] + momentum_edges[1] < -1e-6 * (momentum_edges[1] - momentum_edges[0]):
        raise InputError(
            f"spectrum {name}: |Q| begins at {momentum_edges[0]:g} 1/angstrom; expected 0 or more. "
            "Correct the axis."
        )
    energy = 0.5 * (energy_edges_meV[1:] + energy_edges_meV[:-1])
    low, high = window_meV
    kept = (energy >= low) & (energy <= high) & ~(energy >= ei_meV)
    known, certain = np.isfinite(intensity), np.isfinite(sigma) & (sigma > 0)
    valid = (known & certain).T[kept]
    if valid.sum() < LEAST_CELLS:
        _check_values(name, known, certain, known.T[kept])
        raise InputError(
            f"spectrum {name}: {int(valid.sum())} cells with a value and an error between {low:g} "
            f"and {high:g} meV; expected at least 50. Widen path.energy of the experiment."
        )
    return MeasuredSpectrum(
        name=name,
        intensity=np.where(valid, intensity.T[kept], np.nan),
        valid=valid,
        energy_meV=energy[kept],
        q_inverse_A=0.5 * (momentum_edges[1:] + momentum_edges[:-1]),
        temperature_K=temperature_K,
        ei_meV=ei_meV,
        sigma=np.where(valid, sigma.T[kept], np.nan),
        susceptibility=False,
    )


def _check_values(name: str, known: BoolArray, certain: BoolArray, inside: BoolArray) -> None:
    """Refuse a spectrum without values or errors anywhere, which no window can mend."""
    if known.sum() < LEAST_CELLS <= known.size:
        raise InputError(
            f"spectrum {name}: {int(known.sum())} of {known.size} cells have a finite value; "
            f"expected at least {LEAST_CELLS}. The data are not finite, their errors are missing "
            "or not positive, or no exposure is: check the file."
        )
    if (known & certain).sum() < LEAST_CELLS <= inside.sum():
        raise InputError(
            f"spectrum {name}: errors are missing or not positive in "
            f"{int((known & ~certain).sum())} of {int(known.sum())} cells with a value; expected "
            f"positive errors in at least {LEAST_CELLS}. Write the file with its errors."
        )


def read_reduced(
    path_or_name: str | Path,
    *,
    temperature_K: float,
    ei_meV: float,
    window_meV: tuple[float, float],
) -> tuple[MeasuredSpectrum, ...]:
    """Read spectra that need no fold, one per temperature.

    Parameters
    ----------
    path_or_name : str or Path
        ``"aluminium"`` for the shipped measurement; an NPZ file in its layout, or as written by
        ``beamsteer fold --powder``; an HDF5 file with a histogram: a group with ``data`` and
        ``errors`` (squared, as DANSE writes them), both (Q, E), and ``grid/Q`` and ``grid/E`` (or
        ``energy``) with ``bin boundaries``.
    temperature_K, ei_meV, window_meV
        As in `reduced_spectrum`, of the experiment; the first layout brings its own temperature
        and Ei, and the window holds there too.

    Raises
    ------
    InputError
        If the file cannot be read; the message says what is missing.
    """
    if str(path_or_name) in ("aluminium", SHIPPED):
        return read_powder_spectra(SHIPPED, window_meV=window_meV)
    path = Path(path_or_name)
    if not path.is_file():
        raise InputError(
            f"spectrum {path} is not a file; expected `aluminium`, NPZ, NXSPE, or a reduced "
            "I(|Q|,E) in HDF5"
        )
    about = {"temperature_K": temperature_K, "ei_meV": ei_meV, "window_meV": window_meV}
    if path.suffix.lower() in HDF5_SUFFIXES:
        return (reduced_spectrum(path.stem, *_histogram(path), **about),)
    if path.suffix.lower() == ".nxspe":
        if not h5py.is_hdf5(path):
            raise InputError(
                f"spectrum {path} is no NXSPE: it is not HDF5 at all; expected a recorded run. "
                "Correct the path."
            )
        raise InputError(
            f"spectrum {path} is a recorded run, which does not say its crystal; expected an "
            "experiment with it. Give --experiment."
        )
    arrays = npz_arrays(path)
    if "momentum_edges_inverse_angstrom" in arrays:
        # what a fold says of itself, which those of older versions do not
        own = {
            name: float(numbers(path, name, arrays[name]))
            for name in ("temperature_K", "ei_meV")
            if name in arrays
        }
        return (reduced_spectrum(path.stem, *_folded(path, arrays), **{**about, **own}),)
    return read_powder_spectra(path, window_meV=window_meV)


def holds_spectrum(path: Path) -> bool:
    """Whether a file is HDF5 with a histogram that `read_reduced` looks for."""
    if path.suffix.lower() not in HDF5_SUFFIXES or not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            entry = _entry(file)
            return entry is not None and "grid/Q" in entry
    except (OSError, RuntimeError):
        return False


def _folded(
    path: Path, arrays: dict[str, NDArray]
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Intensity, sigma and edges of a ``powder.npz``."""
    names = ("S", "V", "D", "momentum_edges_inverse_angstrom", "energy_edges_meV")
    lacking = [name for name in names if name not in arrays]
    if lacking:
        raise InputError(
            f"spectrum {path} has no array {' and '.join(lacking)}; expected {', '.join(names)}, "
            "as `fold --powder` writes them. Fold again."
        )
    S, V, D, q, energy = (numbers(path, name, arrays[name]) for name in names)
    _check_edges(path, q, energy)
    expected = (len(q) - 1, len(energy) - 1)
    for name, values in (("S", S), ("V", V), ("D", D)):
        if values.shape != expected:
            raise InputError(
                f"spectrum {path}: {name} has shape {values.shape}; expected {expected} from the "
                "edges of |Q| and energy. Fold again."
            )
    if not np.isfinite(S).any():
        raise InputError(
            f"spectrum {path}: S has no finite value; expected summed intensity. Fold again."
        )
    for name, values, meaning in (("D", D, "exposure"), ("V", V, "variance: its errors")):
        if not (np.isfinite(values) & (values > 0)).any():
            raise InputError(
                f"spectrum {path}: {name} is missing or not positive in every cell; expected the "
                f"summed {meaning}. Fold again."
            )
    return (*intensity_of(S, V, D), q, energy)


def _check_edges(path: Path, q: FloatArray, energy: FloatArray) -> None:
    for label, edges in (("|Q|", q), ("E", energy)):
        if edges.ndim != 1 or len(edges) < 2:
            raise InputError(
                f"spectrum {path}: edges of {label} have shape {edges.shape}; expected one axis of "
                "two or more. Correct the axis."
            )


def intensity_of(
    signal: FloatArray, variance: FloatArray, exposure: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """S/D and its standard deviation, NaN where D = 0; cells without a count get the mean error.

    A variance that is negative or NaN gives none.

    Parameters
    ----------
    signal, variance, exposure : (Q, E) float64
    """
    known = exposure > 0
    D = np.where(known, exposure, 1.0)
    sigma = np.sqrt(np.where(variance >= 0, variance, np.nan)) / D
    counted = known & (variance > 0)
    if counted.any():
        # one count more: its weight as the counted cells have it
        weight = float(np.median(variance[counted] / np.maximum(signal[counted], 1e-300)))
        sigma = np.where(known & (variance == 0), abs(weight) / D, sigma)
    return np.where(known, signal / D, np.nan), np.where(known, sigma, np.nan)


def _histogram(path: Path) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    try:
        with h5py.File(path, "r") as file:
            entry = _entry(file)
            if entry is not None:
                return _read_histogram(path, entry)
    except (OSError, KeyError, RuntimeError) as error:
        raise InputError(
            f"spectrum {path} cannot be read as HDF5 ({error}); expected a histogram I(|Q|,E). "
            "Correct the path, or write the file again."
        ) from error
    raise InputError(
        f"spectrum {path} has no group with data, errors and grid; expected a histogram I(|Q|,E)"
    )


def _entry(file: h5py.File) -> h5py.Group | None:
    """The histogram of a file."""
    for name in file:
        entry = file.get(name)
        if isinstance(entry, h5py.Group) and {"data", "errors", "grid"} <= set(entry):
            return entry
    return None


def _read_histogram(
    path: Path, entry: h5py.Group
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    def dataset(name: str) -> h5py.Dataset:
        found = entry.get(name)
        if not isinstance(found, h5py.Dataset):
            raise InputError(f"spectrum {path} has no {entry.name}/{name}; expected an array there")
        # before anything is read: a shape can promise more than memory holds
        refuse_no_numbers(path, f"{entry.name}/{name}", found.dtype)
        return found

    def array(name: str) -> FloatArray:
        return np.asarray(dataset(name)[()], dtype=float)

    along = f"grid/{'E' if 'grid/E' in entry else 'energy'}"
    for group, kind in (("grid/Q", "Q"), (along, "E")):
        for place in (group, f"{group}/bin boundaries"):
            _check_unit(path, entry, place, kind)
    q, energy = array("grid/Q/bin boundaries"), array(f"{along}/bin boundaries")
    _check_edges(path, q, energy)
    expected = (len(q) - 1, len(energy) - 1)
    shapes = dataset("data").shape, dataset("errors").shape
    if shapes != (expected, expected):
        raise InputError(
            f"spectrum {path}: data has shape {shapes[0]} and errors {shapes[1]}; expected "
            f"{expected} from the axes"
        )
    data, squared = array("data"), array("errors")
    return data, np.sqrt(np.maximum(squared, 0.0)), q, energy


def _check_unit(path: Path, entry: h5py.Group, place: str, kind: str) -> None:
    """Refuse an axis whose unit is told and is another than meV or 1/angstrom."""
    node = entry.get(place)
    if not isinstance(node, h5py.Group | h5py.Dataset):
        return
    for key in ("unit", "units"):
        value = node.attrs.get(key)
        if isinstance(value, np.ndarray):
            value = value.ravel()[0] if value.size else None
        unit = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if unit is not None and not _is_unit(str(unit), kind):
            raise InputError(
                f"spectrum {path}: {entry.name}/{place} is in {str(unit)!r}; expected "
                f"{'meV' if kind == 'E' else '1/angstrom'}. Convert the axis, or correct its unit."
            )


def _is_unit(text: str, kind: str) -> bool:
    """Whether a unit is meV ("E") or 1/angstrom ("Q"); without a unit it counts as such."""
    plain = "".join(text.split()).lower()
    if plain in ("", "1", *KNOWN_UNITS[kind]):
        return True
    product = UNIT.fullmatch(plain)
    if product is None:
        return False
    factor, rest = float(product[1]), sorted(product[2].replace("**", "^").split("*"))
    size, bases = {
        "E": (JOULE_PER_MEV, (["kg", "m^2", "s^-2"], ["j"], ["joule"])),
        "Q": (1e10, (["m^-1"],)),
    }[kind]
    return bool(abs(factor / size - 1) < 1e-3) and rest in bases
