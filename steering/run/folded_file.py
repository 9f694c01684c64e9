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
        If it cannot be read, was folded with other axes, or holds a can.
    """
    if path.exists() and not path.is_file():  # a pipe that nobody feeds would be waited for
        raise InputError(
            f"{path} is no plain file; expected the folded.npz of `beamsteer fold` or `beamsteer "
            "replay`. Correct the path."
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {key: np.asarray(content[key]) for key in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} cannot be read as NPZ ({type(error).__name__}: {error}); "
            "expected the folded.npz of `beamsteer fold` or `beamsteer replay`. Correct the path."
        ) from error
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
