"""Reduced powder spectra from files: I(|Q|, E) in HDF5 histograms and in ``powder.npz`` of a fold.

Recorded runs (NXSPE, events) are folded first.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import h5py
import numpy as np

from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.scattering import SHIPPED, MeasuredSpectrum, read_powder_spectra

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")


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
        If no cell is left, or steps are not equal.
    """
    for label, edges in (("|Q|", momentum_edges), ("E", energy_edges_meV)):
        steps = np.diff(edges)
        if len(steps) < 3 or steps.min() <= 0 or np.ptp(steps) > 1e-3 * steps.max():
            raise InputError(f"spectrum {name}: bins of {label} do not ascend in equal steps")
    energy = 0.5 * (energy_edges_meV[1:] + energy_edges_meV[:-1])
    low, high = window_meV
    kept = (energy >= low) & (energy <= high)
    valid = (np.isfinite(intensity) & np.isfinite(sigma) & (sigma > 0)).T[kept]
    if valid.sum() < 50:
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
        As in `reduced_spectrum`, of the experiment; the first layout brings its own.

    Raises
    ------
    InputError
        If the file cannot be read; the message says what is missing.
    """
    if str(path_or_name) in ("aluminium", SHIPPED):
        return read_powder_spectra(SHIPPED)
    path = Path(path_or_name)
    if not path.is_file():
        raise InputError(
            f"spectrum {path} is not a file; expected `aluminium`, NPZ, NXSPE, or a reduced "
            "I(|Q|,E) in HDF5"
        )
    about = {"temperature_K": temperature_K, "ei_meV": ei_meV, "window_meV": window_meV}
    if path.suffix.lower() in HDF5_SUFFIXES:
        return (reduced_spectrum(path.stem, *_histogram(path), **about),)
    folded = _folded(path)
    if folded is not None:
        return (reduced_spectrum(path.stem, *folded, **about),)
    return read_powder_spectra(path)


def _folded(path: Path) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray] | None:
    """Intensity, sigma and edges of a ``powder.npz``; None: the file is none."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            if "momentum_edges_inverse_angstrom" not in content.files:
                return None
            S, V, D = (np.asarray(content[key], dtype=float) for key in "SVD")
            q = np.asarray(content["momentum_edges_inverse_angstrom"], dtype=float)
            energy = np.asarray(content["energy_edges_meV"], dtype=float)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"spectrum {path} cannot be read as NPZ ({type(error).__name__}: {error}); "
            "expected NXSPE, or an NPZ of a powder spectrum. Correct the path."
        ) from error
    return (*intensity_of(S, V, D), q, energy)


def intensity_of(
    signal: FloatArray, variance: FloatArray, exposure: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """S/D and its standard deviation, NaN where D = 0; cells without a count get the mean error.

    Parameters
    ----------
    signal, variance, exposure : (Q, E) float64
    """
    known = exposure > 0
    D = np.where(known, exposure, 1.0)
    sigma = np.sqrt(variance) / D
    counted = known & (variance > 0)
    if counted.any():
        # one count more: its weight as the counted cells have it
        weight = float(np.median(variance[counted] / np.maximum(signal[counted], 1e-300)))
        sigma = np.where(counted, sigma, abs(weight) / D)
    return np.where(known, signal / D, np.nan), np.where(known, sigma, np.nan)


def _histogram(path: Path) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    try:
        with h5py.File(path, "r") as file:
            for entry in file.values():
                if isinstance(entry, h5py.Group) and {"data", "errors", "grid"} <= set(entry):
                    return _read_histogram(path, entry)
    except OSError as error:
        raise InputError(f"spectrum {path} cannot be read as HDF5 ({error})") from error
    raise InputError(
        f"spectrum {path} has no group with data, errors and grid; expected a histogram I(|Q|,E)"
    )


def _read_histogram(
    path: Path, entry: h5py.Group
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    def array(name: str) -> FloatArray:
        found = entry.get(name)
        if not isinstance(found, h5py.Dataset):
            raise InputError(f"spectrum {path} has no {entry.name}/{name}; expected an array there")
        return np.asarray(found[()], dtype=float)

    q = array("grid/Q/bin boundaries")
    energy = array(f"grid/{'E' if 'grid/E' in entry else 'energy'}/bin boundaries")
    data, squared = array("data"), array("errors")
    expected = (len(q) - 1, len(energy) - 1)
    if data.shape != expected or squared.shape != expected:
        raise InputError(
            f"spectrum {path}: data has shape {data.shape} and errors {squared.shape}; expected "
            f"{expected} from the axes"
        )
    return data, np.sqrt(np.maximum(squared, 0.0)), q, energy
