"""``folded.npz``: a run's fold as arrays for other programs."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from simulations.crystal import species_words
from simulations.errors import InputError
from simulations.fold import (
    CellSums,
    Form,
    VoxelExposure,
    exposure_of_arrays,  # pyright: ignore[reportUnknownVariableType]
)
from simulations.saved_file import in_one_step
from steering.experiment import Measurement
from steering.run.answer import SCHEMA_VERSION
from steering.run.can_terms import CanTerms, can_alone
from steering.run.ledger import ChunkLedger

EXPOSURE_NAMES = {
    "weight": "voxel_D",
    "flat": "voxel_flat_exposure",
    "q_squared": "q_squared",
    "tensor": "T",
    "first": "q_first",
    "second": "q_second",
    "slope": "q_slope",
    "slope_second": "q_slope_second",
    "start": "image_start",
    "image": "image",
    "sums": "image_sums",
    "reciprocal": "image_G",
    "displacement": "displacement",
}
"""Names in the file by those of an exposure's arrays."""
_SUMS = ("S", "V", "N", "D", "flat_exposure")
_SETTING_MAY_DIFFER = {"ei_meV": 0.01, "temperature_K": 0.02}  # of it


def write_folded(
    path: Path,
    measurement: Measurement,
    ledger: ChunkLedger,
    can: CanTerms,
    can_scale: float | None,
) -> None:
    """Write ``folded.npz``: S, V, N, D, T or its images, moments and axes with their units.

    Parameters
    ----------
    path : Path
    measurement : Measurement
    ledger : ChunkLedger
    can : CanTerms
    can_scale : float, optional
        Of a predicted can, from the newest estimate.
    """
    total, exposure = ledger.sums, ledger.pooled_exposure()
    net, voxels = can.net(ledger.chunks, total, can_scale), measurement.voxels
    arrays: dict[str, Any] = {
        "schema_version": np.int64(SCHEMA_VERSION),
        "S": total.signal,
        "V": total.variance,
        "N": total.counts,
        "D": total.exposure,
        "flat_exposure": total.flat,
        "intensity": net.intensity,
        "sigma": net.sigma,
        "gaussian": np.bool_(total.gaussian),
        "energy_edges_meV": measurement.energy.edges_meV,
        "path_hkl_rlu": measurement.path.centres_hkl(),
        "path_position_inverse_angstrom": measurement.path.position(
            measurement.crystal.conventional_reciprocal
        )[0],
        "voxel_path_bin": voxels.path_bin,
        "voxel_q_inverse_angstrom": voxels.centre_cartesian,
        "parameter_names": np.array(measurement.targeted, dtype=np.str_),
        "isotopes": np.array(species_words(measurement.crystal), dtype=np.str_),
        "instrument": np.str_(measurement.experiment.instrument.name),
        "ei_meV": np.float64(measurement.ei_meV),
        "temperature_K": np.float64(measurement.experiment.sample.temperature_K),
        "units": json.dumps(
            {
                "S": "counts (reduced input: intensity x sr meV)",
                "D": "C sr meV",
                "intensity": "S/D less the can; NaN where D is 0",
                "sigma": "of intensity",
                "can_S": "as S, of the can alone at D; intensity = (S - can_scale can_S) / D",
                "can_D": "C sr meV, D where the can is known",
                "flat_exposure": "C sr ms",
                "T": "C sr meV barn / (angstrom^2 u), packed 6 N^2 reals",
                "image_start": "rows of image and image_sums of each voxel and energy bin",
                "image": "rows of image_G",
                "image_sums": "C sr meV; then with Q Q, xx yy zz yz xz xy, / angstrom^2",
                "image_G": "reciprocal vectors, primitive coordinates",
                "displacement": "angstrom^2, mean square of each atom",
                "q_first": "C sr meV / angstrom",
                "q_second": "C sr meV / angstrom^2",
                "q_slope": "C sr / angstrom",
                "q_slope_second": "C sr / (angstrom^2 meV)",
                "q_squared": "C sr meV / angstrom^2",
            }
        ),
    }
    arrays |= {EXPOSURE_NAMES[name]: array for name, array in exposure.arrays().items()}
    alone, scale = can_alone(ledger.chunks), can.scale(can_scale)
    if alone is not None:
        arrays |= {
            "can_S": alone.signal,
            "can_V": alone.variance,
            "can_N": alone.counts,
            "can_D": alone.exposure,
            "can_scale": np.float64(np.nan if scale is None else scale),
        }
    with in_one_step(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


def read_folded(path: Path, measurement: Measurement) -> tuple[CellSums, VoxelExposure]:
    """Sums and exposure of a ``folded.npz``.

    Raises
    ------
    InputError
        If it cannot be read, was folded with other axes or of another setting, holds a can, or
        numbers that no fold has.
    """
    if path.exists() and not path.is_file():  # a pipe that nobody feeds would be waited for
        raise InputError(
            f"{path} is no plain file; expected the folded.npz of `beamsteer fold` or `beamsteer "
            "replay`. Correct the path."
        )
    arrays = _arrays_of(path)
    lacking = [k for k in ("S", "V", "N", "D", "path_hkl_rlu", "voxel_D") if k not in arrays]
    if lacking:
        raise InputError(
            f"{path} has no {', '.join(lacking)}; expected the folded.npz of `beamsteer fold`. For "
            "a powder take `beamsteer invert-powder`."
        )
    if "can_S" in arrays:
        raise InputError(
            f"{path} holds an empty can, whose strength is fitted with the recorded files alone. "
            "Take `beamsteer replay`."
        )
    for name, expected in (
        ("path_hkl_rlu", measurement.path.centres_hkl()),
        ("energy_edges_meV", measurement.energy.edges_meV),
        ("voxel_path_bin", measurement.voxels.path_bin),
    ):
        found = arrays.get(name)
        if found is None or found.shape != expected.shape or not np.allclose(found, expected):
            raise InputError(
                f"{path}: {name} is not that of the experiment; expected a fold with the same path "
                "and energy axis. Fold again with this experiment."
            )
    _refuse_other_setting(path, arrays, measurement)
    _refuse_unreal(path, arrays, (measurement.path.n_bins, measurement.energy.n_bins))
    own = {field: arrays[name] for field, name in EXPOSURE_NAMES.items() if name in arrays}
    form: Form = "tensor" if "start" not in own else "images"
    sums = CellSums(
        signal=arrays["S"],
        variance=arrays["V"],
        counts=arrays["N"],
        exposure=arrays["D"],
        flat=arrays["flat_exposure"],
        gaussian=bool(arrays["gaussian"]),
    )
    return sums, exposure_of_arrays(form, own)


def _arrays_of(path: Path) -> dict[str, Any]:
    """All arrays of an NPZ, by name."""
    try:
        with path.open("rb") as file:
            content: Any = np.load(file, allow_pickle=False)
            if not hasattr(content, "files"):
                raise ValueError("a single array")
            with content:
                names: list[str] = content.files
                return {name: np.asarray(content[name]) for name in names}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        why = f" ({type(error).__name__}: {error})"
        if "pickle" in str(error):  # which nobody should be talked into
            why = ": it is no archive of plain arrays"
        raise InputError(
            f"{path} cannot be read as NPZ{why}; expected the folded.npz of `beamsteer fold` or "
            "`beamsteer replay`, whole. Correct the path."
        ) from error


def _refuse_other_setting(path: Path, arrays: dict[str, Any], measurement: Measurement) -> None:
    """Raise for a fold of another instrument, Ei or temperature; older folds do not say."""
    own = measurement.experiment
    same = {
        "instrument": own.instrument.name.partition("/")[0].upper(),
        "ei_meV": float(measurement.ei_meV),
        "temperature_K": float(own.sample.temperature_K),
    }
    for name, expected in same.items():
        if name not in arrays:
            continue
        found = arrays[name].item()
        if isinstance(expected, str):
            agrees = str(found).partition("/")[0].upper() == expected
        else:
            agrees = abs(float(found) - expected) <= _SETTING_MAY_DIFFER[name] * expected
        if not agrees:
            raise InputError(
                f"{path}: {name} is {found}, and {expected} in the experiment; expected a fold of "
                "the same setting. Fold again with this experiment, or name that of the fold."
            )


def _refuse_unreal(path: Path, arrays: dict[str, Any], shape: tuple[int, int]) -> None:
    """Raise for sums of another shape, and for numbers that no fold has."""
    gaussian = bool(arrays.get("gaussian", False))
    for name, array in arrays.items():
        if name in _SUMS and array.shape != shape:
            raise InputError(
                f"{path}: {name} has shape {array.shape}; expected {shape}, path and energy bins. "
                "Fold again with this experiment."
            )
        if name not in _SUMS and name not in EXPOSURE_NAMES.values():
            continue
        if array.dtype.kind not in "iuf" or not np.all(np.isfinite(array)):
            raise InputError(
                f"{path}: {name} holds what is no finite number; expected the sums as `beamsteer "
                "fold` wrote them. Fold again."
            )
        positive = name in ("V", "N", "D", "flat_exposure") or (name == "S" and not gaussian)
        if positive and array.size and array.min() < 0:
            raise InputError(
                f"{path}: {name} is as low as {array.min():g}; expected no negative number. Fold "
                "again."
            )
