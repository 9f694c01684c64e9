"""Measured powder spectra: the shipped aluminium set, and files in its layout."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import BoolArray, FloatArray
from simulations.errors import InputError

SHIPPED = "aluminium_arcs"


class MeasuredFileError(InputError):
    """A spectrum file lacks something or contradicts itself; the message says what."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MeasuredSpectrum:
    """One measured powder spectrum at one temperature."""

    name: str
    intensity: FloatArray  # (energy bins, |Q| bins), NaN where not valid
    valid: BoolArray  # (energy bins, |Q| bins)
    energy_meV: FloatArray  # (energy bins,) centres, equal steps
    q_inverse_A: FloatArray  # (|Q| bins,) centres, equal steps
    temperature_K: float
    ei_meV: float
    sigma: FloatArray | None = None  # standard deviations where the file has them
    susceptibility: bool = True  # chi'' rather than S(|Q|, E)


def read_powder_spectra(path_or_name: str | Path = SHIPPED) -> tuple[MeasuredSpectrum, ...]:
    """Read powder spectra, one per temperature.

    Parameters
    ----------
    path_or_name : str or Path
        ``"aluminium_arcs"`` for the shipped measurement (Su and Li 2024, Apache-2.0), or an NPZ
        file with ``chi`` (T, E, Q) or (E, Q), ``mask`` (E, Q), ``T_K`` or ``temperature_K``,
        ``E_meV`` or ``energy_meV``, ``Q_invA_left`` or ``q_left_inverse_A``, ``Ei_meV`` or
        ``ei_meV``; optionally ``sigma`` like ``chi``.

    Returns
    -------
    tuple of MeasuredSpectrum
        In the order of the file.

    Raises
    ------
    MeasuredFileError
        If the file cannot be read, lacks an array, or shapes disagree.
    """
    if str(path_or_name) == SHIPPED:
        source = resources.files("simulations") / "data" / f"{SHIPPED}.npz"
        with resources.as_file(source) as path:
            return _read(path, SHIPPED)
    path = Path(path_or_name)
    if not path.is_file():
        raise MeasuredFileError(
            f"spectrum {path} is not a file; give an NPZ file, or {SHIPPED!r} for the shipped one"
        )
    return _read(path, path.stem)


def _read(path: Path, name: str) -> tuple[MeasuredSpectrum, ...]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {key: np.asarray(content[key]) for key in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise MeasuredFileError(
            f"spectrum {path} cannot be read as NPZ ({type(error).__name__}: {error}); "
            "expected an NPZ of a powder spectrum. Correct the path."
        ) from error

    def take(*keys: str) -> NDArray[np.float64]:
        for key in keys:
            if key in arrays:
                return np.asarray(arrays[key], dtype=float)
        raise MeasuredFileError(
            f"spectrum {path} has no array {' or '.join(keys)}; it has {', '.join(sorted(arrays))}"
        )

    chi = take("chi")
    chi = chi[None] if chi.ndim == 2 else chi
    temperature = np.atleast_1d(take("temperature_K", "T_K"))
    energy = take("energy_meV", "E_meV")
    q_left = take("q_left_inverse_A", "Q_invA_left")
    ei = float(take("ei_meV", "Ei_meV"))
    expected = (len(temperature), len(energy), len(q_left))
    if chi.shape != expected:
        raise MeasuredFileError(
            f"spectrum {path}: chi has shape {chi.shape}; expected {expected} from the lengths of "
            "temperature, energy and Q"
        )
    for label, axis in (("energy_meV", energy), ("q_left_inverse_A", q_left)):
        steps = np.diff(axis)
        if len(steps) == 0 or steps.min() <= 0 or np.ptp(steps) > 1e-6 * steps.max():
            raise MeasuredFileError(f"spectrum {path}: {label} does not ascend in equal steps")
    mask = (
        np.asarray(arrays["mask"], dtype=bool) if "mask" in arrays else np.ones(chi.shape[1:], bool)
    )
    if mask.shape != chi.shape[1:]:
        raise MeasuredFileError(
            f"spectrum {path}: mask has shape {mask.shape}; expected {chi.shape[1:]}"
        )
    sigma = (
        np.asarray(arrays["sigma"], dtype=float).reshape(chi.shape) if "sigma" in arrays else None
    )
    spectra = []
    for k, value in enumerate(temperature):
        valid = mask & np.isfinite(chi[k])
        if not valid.any():
            raise MeasuredFileError(f"spectrum {path}: no valid cell at {value:g} K")
        spectra.append(
            MeasuredSpectrum(
                name=f"{name} {value:g} K",
                intensity=np.where(valid, chi[k], np.nan),
                valid=valid,
                energy_meV=energy,
                q_inverse_A=q_left,
                temperature_K=float(value),
                ei_meV=ei,
                sigma=None if sigma is None else sigma[k],
            )
        )
    return tuple(spectra)
