"""Measured powder spectra: the shipped aluminium set, and files in its layout."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import BoolArray, FloatArray
from simulations.errors import InputError

SHIPPED = "aluminium_arcs"
LEAST_CELLS = 50  # with a value, below which nothing is fitted
LEAST_BINS = 3  # of energy and of |Q| that hold such cells
MOST_EI_MEV = 1e5
ELASTIC_SHARE = 0.06  # of Ei: three standard deviations of an elastic line 5 % of Ei wide


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


def read_powder_spectra(
    path_or_name: str | Path = SHIPPED, *, window_meV: tuple[float, float] | None = None
) -> tuple[MeasuredSpectrum, ...]:
    """Read powder spectra, one per temperature.

    Parameters
    ----------
    path_or_name : str or Path
        ``"aluminium_arcs"`` for the shipped measurement (Su and Li 2024, Apache-2.0), or an NPZ
        file with ``chi`` (T, E, Q) or (E, Q), ``mask`` (E, Q), ``T_K`` or ``temperature_K``,
        ``E_meV`` or ``energy_meV``, ``Q_invA_left`` or ``q_left_inverse_A``, ``Ei_meV`` or
        ``ei_meV``; optionally ``sigma`` like ``chi``.
    window_meV : (float, float), optional
        Energy transfers that count. The elastic line is left out in any case: what lies below
        ``ELASTIC_SHARE`` of Ei.

    Returns
    -------
    tuple of MeasuredSpectrum
        In the order of the file.

    Raises
    ------
    MeasuredFileError
        If the file cannot be read, lacks an array, holds text for numbers, shapes disagree, an
        energy transfer reaches Ei, or too few cells are left.
    """
    if str(path_or_name) == SHIPPED:
        source = resources.files("simulations") / "data" / f"{SHIPPED}.npz"
        with resources.as_file(source) as path:
            return _read(path, SHIPPED, window_meV)
    path = Path(path_or_name)
    if not path.is_file():
        raise MeasuredFileError(
            f"spectrum {path} is not a file; give an NPZ file, or {SHIPPED!r} for the shipped one"
        )
    return _read(path, path.stem, window_meV)


def npz_arrays(path: Path) -> dict[str, NDArray]:
    """Read all arrays of an NPZ file.

    Raises
    ------
    MeasuredFileError
        If the file is no NPZ, is damaged, or an array holds objects.
    """
    try:
        with path.open("rb") as file:
            zipped = zipfile.is_zipfile(file)
    except OSError as error:
        raise MeasuredFileError(
            f"spectrum {path} cannot be read ({error.strerror}); expected a readable file. Correct "
            "the path or the permissions."
        ) from error
    if not zipped:
        raise MeasuredFileError(
            f"spectrum {path} cannot be read as NPZ: it is no NPZ file, or is cut short; "
            "expected NXSPE, or an NPZ of a powder spectrum. Correct the path."
        )
    key = "the list of arrays"
    arrays: dict[str, NDArray] = {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            for key in content.files:
                arrays[key] = np.asarray(content[key])
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        NotImplementedError,
        RuntimeError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        # numpy's own words advise to unpickle, which a foreign file must never get
        raise MeasuredFileError(
            f"spectrum {path} cannot be read as NPZ: {key} is damaged, too large, or holds "
            f"objects ({type(error).__name__}); expected arrays of numbers. Write the file again."
        ) from error
    return arrays


def numbers(path: Path, name: str, values: NDArray) -> FloatArray:
    """Real numbers as float64.

    Parameters
    ----------
    path : Path
        Of the file, for the message.
    name : str
        Of the array.
    values : NDArray
        What the file holds.

    Raises
    ------
    MeasuredFileError
        If it holds text, complex numbers or records.
    """
    refuse_no_numbers(path, name, values.dtype)
    return np.asarray(values, dtype=float)


def refuse_no_numbers(path: Path, name: str, dtype: np.dtype) -> None:
    """Raise unless a type is that of real numbers; see `numbers`."""
    if dtype.kind not in "iuf":
        kind = {"S": "text", "U": "text", "O": "text or objects", "c": "complex numbers"}
        raise MeasuredFileError(
            f"spectrum {path}: {name} holds {kind.get(dtype.kind, str(dtype))}; expected real "
            "numbers. Write the array as numbers."
        )


def _read(
    path: Path, name: str, window_meV: tuple[float, float] | None
) -> tuple[MeasuredSpectrum, ...]:
    arrays = npz_arrays(path)

    def take(*keys: str) -> FloatArray:
        for key in keys:
            if key in arrays:
                return numbers(path, key, arrays[key])
        raise MeasuredFileError(
            f"spectrum {path} has no array {' or '.join(keys)}; it has {', '.join(sorted(arrays))}"
        )

    chi = take("chi")
    chi = chi[None] if chi.ndim == 2 else chi
    temperature = np.atleast_1d(take("temperature_K", "T_K"))
    energy = take("energy_meV", "E_meV")
    q_left = take("q_left_inverse_A", "Q_invA_left")
    ei = _incident(path, take("ei_meV", "Ei_meV"))
    for label, axis in (("temperature", temperature), ("energy_meV", energy), ("Q", q_left)):
        if axis.ndim != 1:
            raise MeasuredFileError(
                f"spectrum {path}: {label} has shape {axis.shape}; expected one axis"
            )
    expected = (len(temperature), len(energy), len(q_left))
    if chi.shape != expected:
        raise MeasuredFileError(
            f"spectrum {path}: chi has shape {chi.shape}; expected {expected} from the lengths of "
            "temperature, energy and Q"
        )
    _check_axes(path, temperature, energy, q_left)
    mask = _mask(path, arrays, chi.shape[1:])
    sigma = None
    if "sigma" in arrays:
        sigma = take("sigma")
        sigma = sigma[None] if sigma.ndim == 2 else sigma
        if sigma.shape != chi.shape:
            raise MeasuredFileError(
                f"spectrum {path}: sigma has shape {sigma.shape}; expected {chi.shape}, that of chi"
            )
    low, high = (0.0, np.inf) if window_meV is None else window_meV
    low = max(low, ELASTIC_SHARE * ei)
    kept = (energy >= low) & (energy <= high)
    spectra = []
    for k, value in enumerate(temperature):
        valid = mask & np.isfinite(chi[k])
        if not valid.any():
            raise MeasuredFileError(f"spectrum {path}: no valid cell at {value:g} K")
        highest = float(energy[valid.any(axis=1)][-1])
        if highest >= ei:
            raise MeasuredFileError(
                f"spectrum {path}: energy_meV reaches {highest:g} at Ei = {ei:g} meV; expected "
                "less, for a neutron cannot lose more than it has. Correct Ei_meV, or the unit of "
                "the energies."
            )
        valid = valid[kept]
        if not enough_cells(valid):
            raise MeasuredFileError(
                f"spectrum {path}: {int(valid.sum())} cells with a value at {value:g} K between "
                f"{low:g} and {min(high, ei):g} meV; expected at least {LEAST_CELLS} over at least "
                f"{LEAST_BINS} energies and {LEAST_BINS} |Q|. Give more of the spectrum."
            )
        error = None if sigma is None else sigma[k][kept]
        if error is not None and not np.all(np.isfinite(error[valid]) & (error[valid] > 0)):
            lacking = int((~(np.isfinite(error[valid]) & (error[valid] > 0))).sum())
            raise MeasuredFileError(
                f"spectrum {path}: sigma is missing or not positive in {lacking} of "
                f"{int(valid.sum())} valid cells at {value:g} K; expected standard deviations "
                "above zero. Mask these cells, or leave sigma out."
            )
        spectra.append(
            MeasuredSpectrum(
                name=f"{name} {value:g} K",
                intensity=np.where(valid, chi[k][kept], np.nan),
                valid=valid,
                energy_meV=energy[kept],
                q_inverse_A=q_left,
                temperature_K=float(value),
                ei_meV=ei,
                sigma=error,
            )
        )
    return tuple(spectra)


def _incident(path: Path, values: FloatArray) -> float:
    if values.size != 1:
        raise MeasuredFileError(
            f"spectrum {path}: Ei_meV holds {values.size} values; expected one. Write a file for "
            "each incident energy."
        )
    ei = float(values.ravel()[0])
    if not 0 < ei <= MOST_EI_MEV:
        raise MeasuredFileError(
            f"spectrum {path}: Ei_meV is {ei:g}; expected the incident energy, above 0 and at most "
            f"{MOST_EI_MEV:g} meV. Correct it."
        )
    return ei


def _check_axes(
    path: Path, temperature: FloatArray, energy: FloatArray, q_left: FloatArray
) -> None:
    for value in temperature:
        if not 0 <= value < np.inf:
            raise MeasuredFileError(
                f"spectrum {path}: temperature is {value:g} K; expected a finite one, 0 or more. "
                "Correct T_K."
            )
    for label, axis in (("energy_meV", energy), ("q_left_inverse_A", q_left)):
        steps = np.diff(axis)
        if not (np.isfinite(axis).all() and len(steps) > 0 and steps.min() > 0) or (
            np.ptp(steps) > 1e-6 * steps.max()
        ):
            raise MeasuredFileError(f"spectrum {path}: {label} does not ascend in equal steps")
    if q_left[0] < -1e-6 * (q_left[1] - q_left[0]):
        raise MeasuredFileError(
            f"spectrum {path}: q_left_inverse_A begins at {q_left[0]:g}; expected |Q|, 0 or more. "
            "Correct the axis."
        )


def _mask(path: Path, arrays: dict[str, NDArray], shape: tuple[int, ...]) -> BoolArray:
    if "mask" not in arrays:
        return np.ones(shape, dtype=bool)
    mask = arrays["mask"]
    if mask.shape != shape:
        raise MeasuredFileError(f"spectrum {path}: mask has shape {mask.shape}; expected {shape}")
    if mask.dtype.kind not in "biuf" or not np.isin(mask, (0, 1)).all():
        raise MeasuredFileError(
            f"spectrum {path}: mask holds other than true and false ({mask.dtype}); expected "
            "booleans, true where a cell counts"
        )
    return mask.astype(bool)


def enough_cells(valid: BoolArray) -> bool:
    """Whether cells are left that a fit can be made to."""
    return bool(
        valid.sum() >= LEAST_CELLS
        and all(valid.any(axis=a).sum() >= LEAST_BINS for a in range(valid.ndim))
    )
