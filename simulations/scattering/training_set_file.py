"""Training sets on disk: one HDF5 file with spectra, parameters and what they are of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from simulations.errors import InputError
from simulations.progress import Progress
from simulations.scattering.training_set import TrainingPlan, training_blocks

FORMAT = 1


class TrainingSetFileError(InputError):
    """A file holds no training set of this version; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StoredTrainingSet:
    """Contents of a training-set file."""

    names: tuple[str, ...]  # (K,)
    parameters: NDArray[np.float64]  # (sets, K) eV/angstrom^2
    spectra: NDArray[np.float32]  # (sets, Q, E) barn/meV/sr per primitive cell
    Q: NDArray[np.float64]  # (Q, 3) 1/angstrom
    energy_edges_meV: NDArray[np.float64]  # (E + 1,)
    temperature_K: float
    seed: int
    drawn: int


def write_training_set(
    plan: TrainingPlan,
    file: str | Path,
    *,
    sets_per_block: int = 1000,
    progress: Progress | None = None,
) -> None:
    """Compute a training set and write it, a block at a time.

    Parameters
    ----------
    plan : TrainingPlan
    file : str or Path
        Appears when complete; until then ``<file>.part`` grows.
    sets_per_block : int
        Sets in memory at a time.
    progress : callable, optional
        Told how far it is.
    """
    target = Path(file)
    part = target.with_name(target.name + ".part")
    path = plan.path
    with h5py.File(part, "w") as store:
        spectra = store.create_dataset("spectra", (plan.sets, *path.shape), dtype=np.float32)
        parameters = store.create_dataset(
            "parameters", (plan.sets, len(path.model.names)), dtype=float
        )
        spectra.attrs["unit"] = "barn/meV/sr per primitive cell"
        parameters.attrs["unit"] = "eV/angstrom^2"
        parameters.attrs["names"] = list(path.model.names)
        store["Q"] = path.Q
        store["energy_edges_meV"] = path.energy.edges_meV
        store["prior_bounds"] = np.stack([plan.prior.lower, plan.prior.upper])
        drawn = 0
        for block in training_blocks(plan, sets_per_block):
            rows = slice(block.first, block.first + len(block.parameters))
            spectra[rows], parameters[rows] = block.spectra, block.parameters
            drawn += block.drawn
            if progress is not None:
                progress("simulating spectra", rows.stop / plan.sets)
        store.attrs.update(
            format=FORMAT,
            seed=plan.seed,
            drawn=drawn,
            temperature_K=path.temperature_K,
            displacement_error=plan.displacement_error,
        )
    part.replace(target)


def read_training_set(file: str | Path) -> StoredTrainingSet:
    """Read a training set into memory.

    Raises
    ------
    TrainingSetFileError
        If the file is no training set of this version.
    """
    try:
        with h5py.File(file, "r") as store:
            about: dict[str, Any] = dict(store.attrs)
            names: Any = store["parameters"].attrs["names"]
            found = about.get("format")
            if found != FORMAT:
                raise TrainingSetFileError(
                    f"{file}: format is {found}; expected {FORMAT}. Make the training set again."
                )
            return StoredTrainingSet(
                names=tuple(str(n) for n in names),
                parameters=np.asarray(store["parameters"], dtype=np.float64),
                spectra=np.asarray(store["spectra"], dtype=np.float32),
                Q=np.asarray(store["Q"], dtype=np.float64),
                energy_edges_meV=np.asarray(store["energy_edges_meV"], dtype=np.float64),
                temperature_K=float(about["temperature_K"]),
                seed=int(about["seed"]),
                drawn=int(about["drawn"]),
            )
    except (OSError, KeyError) as error:
        raise TrainingSetFileError(
            f"{file}: cannot be read as a training set ({' '.join(str(error).split())}); expected "
            "a file of `write_training_set`"
        ) from error
