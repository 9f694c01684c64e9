"""Training sets: path spectra of thousands of stable force-constant sets, drawn from a prior's box.

Every set has a stream of random numbers of its own, made from the seed and its number. A training
set is therefore the same whatever its blocks are, in whichever order and on whichever machine they
are computed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import FloatArray, SingleArray
from simulations.dynamics import lowest_eigenvalues
from simulations.errors import InputError
from simulations.prior import BoxPrior, PriorRejectsAllError
from simulations.progress import Progress
from simulations.reciprocal import irreducible_mesh, mesh_divisions
from simulations.scattering.one_phonon import converged_displacements
from simulations.scattering.path_spectra import (
    IMAGINARY_TOLERANCE_MEV,
    PathModel,
    ZoneModel,
    path_spectra,
    set_displacements,
    zone_model,
)

log = logging.getLogger(__name__)

_STABILITY_STEP = 0.4
_MOST_DRAWS = 1000


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingPlan:
    """What a training set holds; see `training_plan`."""

    path: PathModel
    prior: BoxPrior
    sets: int
    seed: int
    zone: ZoneModel  # where modes must not be imaginary, beside the path
    own_displacements: bool  # Debye-Waller tensors of every set, or those of ``path`` for all
    displacement_error: float  # of every set's own tensors, at the reference; NaN where not known


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingBlock:
    """Some consecutive sets of a training set."""

    first: int  # number of the first set
    parameters: FloatArray  # (sets, K) eV/angstrom^2
    spectra: SingleArray  # (sets, Q, E) barn/meV/sr per primitive cell
    drawn: int  # sets drawn for them, the unstable ones included

    @property
    def acceptance(self) -> float:
        """Share of the drawn sets that were stable."""
        return len(self.parameters) / self.drawn


def training_plan(
    path: PathModel,
    prior: BoxPrior,
    sets: int,
    seed: int,
    *,
    own_displacements: bool = False,
) -> TrainingPlan:
    """Plan a training set.

    Parameters
    ----------
    path : PathModel
        Path, axis, widths, temperature.
    prior : BoxPrior
        Box of the path's free parameters, in their order.
    sets : int
        Spectra wanted.
    seed : int
        Same seed, same training set.
    own_displacements : bool
        Whether every set gets its own Debye-Waller tensors, at some five times the cost. They are
        approximate: on one fixed mesh for all sets, whose error `TrainingPlan.displacement_error`
        tells (1e-3 in most crystals, more in soft ones).

    Raises
    ------
    ValueError
        If the prior is for other parameters, or sets or seed are out of range.
    """
    model = path.model
    if prior.names != tuple(model.names):
        raise InputError(
            f"prior is for {', '.join(prior.names)} but the model frees {', '.join(model.names)}; "
            "restrict the prior to the model's names"
        )
    if sets < 1 or seed < 0:
        raise InputError(f"sets is {sets}, seed is {seed}; expected sets >= 1 and seed >= 0")
    mesh = None  # the zone of Debye-Waller tensors, which must then be stable
    if not own_displacements:
        divisions = mesh_divisions(model.crystal, _STABILITY_STEP)
        mesh = irreducible_mesh(model.crystal, divisions, shifted=True)
    zone = zone_model(model, mesh)
    return TrainingPlan(
        path=path,
        prior=prior,
        sets=int(sets),
        seed=int(seed),
        zone=zone,
        own_displacements=own_displacements,
        displacement_error=_mesh_error(path, zone) if own_displacements else float("nan"),
    )


def _mesh_error(path: PathModel, zone: ZoneModel) -> float:
    """Estimated error of the reference's tensors on the fixed mesh, of the largest component."""
    model = path.model
    try:
        converged = converged_displacements(model, path.temperature_K)
        fixed = set_displacements(zone, path.temperature_K, model.values[None])[0]
    except InputError:  # the reference need not be stable, sets are
        return float("nan")
    exact = converged.tensors
    error = max(converged.error, float(np.abs(fixed - exact).max() / np.abs(exact).max()))
    log.info("training_displacements_approximate error=%.2g", error)
    return error


def draw_sets(plan: TrainingPlan, start: int, stop: int) -> tuple[FloatArray, int]:
    """Parameters of sets start to stop: the first stable draw of every set's own stream.

    Returns
    -------
    values : (stop - start, K) float64
        eV/angstrom^2.
    drawn : int
        Draws made for them.

    Raises
    ------
    PriorRejectsAllError
        If the first 1,000 draws of a set are all unstable.
    """
    streams = [
        np.random.Generator(np.random.PCG64(np.random.SeedSequence(plan.seed, spawn_key=(k,))))
        for k in range(start, stop)
    ]
    values = np.empty((len(streams), len(plan.prior.names)))
    waiting = np.arange(len(streams))
    drawn = 0
    for _ in range(_MOST_DRAWS):
        tried = np.array([streams[k].uniform(plan.prior.lower, plan.prior.upper) for k in waiting])
        drawn += len(tried)
        good = _are_stable(plan, tried)
        values[waiting[good]] = tried[good]
        waiting = waiting[~good]
        if len(waiting) == 0:
            return values, drawn
    raise PriorRejectsAllError(
        f"set {start + waiting[0]}: none of {_MOST_DRAWS} sets drawn from the prior is dynamically "
        "stable; narrow the box or free fewer parameters"
    )


def _are_stable(plan: TrainingPlan, values: FloatArray) -> NDArray[np.bool_]:
    """Which sets have no imaginary modes, in the zone nor on the path."""
    good = np.ones(len(values), dtype=bool)
    checks = ((plan.zone.matrices, 0.0), (plan.path.matrices, IMAGINARY_TOLERANCE_MEV))
    for matrices, tolerance in checks:
        left = np.flatnonzero(good)
        if len(left):
            good[left] = lowest_eigenvalues(matrices, values[left]) > -(tolerance**2)
    return good


def training_block(plan: TrainingPlan, start: int, stop: int) -> TrainingBlock:
    """Sets start to stop of a training set, whatever else is computed.

    Raises
    ------
    ValueError
        If the range is empty or reaches beyond the plan.
    """
    if not 0 <= start < stop <= plan.sets:
        raise InputError(f"block is {start} to {stop}; expected sets between 0 and {plan.sets}")
    values, drawn = draw_sets(plan, start, stop)
    displacements = None
    if plan.own_displacements:
        displacements = set_displacements(plan.zone, plan.path.temperature_K, values)
    out = np.empty((len(values), *plan.path.shape), dtype=np.float32)
    path_spectra(plan.path, values, displacements=displacements, out=out)
    return TrainingBlock(first=start, parameters=values, spectra=out, drawn=drawn)


def block_ranges(plan: TrainingPlan, sets_per_block: int) -> list[tuple[int, int]]:
    """First and last set (exclusive) of every block."""
    if sets_per_block < 1:
        raise InputError(f"sets_per_block is {sets_per_block}; expected at least 1")
    return [
        (start, min(start + sets_per_block, plan.sets))
        for start in range(0, plan.sets, sets_per_block)
    ]


def training_blocks(plan: TrainingPlan, sets_per_block: int = 1000) -> Iterator[TrainingBlock]:
    """The training set block by block, in order; memory holds one block."""
    for start, stop in block_ranges(plan, sets_per_block):
        yield training_block(plan, start, stop)


def training_set(
    plan: TrainingPlan, sets_per_block: int = 1000, progress: Progress | None = None
) -> TrainingBlock:
    """The whole training set in memory: 4 bytes per set, Q and energy bin."""
    parameters = np.empty((plan.sets, len(plan.prior.names)))
    spectra = np.empty((plan.sets, *plan.path.shape), dtype=np.float32)
    drawn = 0
    for block in training_blocks(plan, sets_per_block):
        part = slice(block.first, block.first + len(block.parameters))
        parameters[part], spectra[part] = block.parameters, block.spectra
        drawn += block.drawn
        if progress is not None:
            progress("simulating spectra", part.stop / plan.sets)
    return TrainingBlock(first=0, parameters=parameters, spectra=spectra, drawn=drawn)


def delayed_blocks(plan: TrainingPlan, sets_per_block: int = 1000) -> list[Any]:
    """Every block as one Dask task, for more threads or more machines.

    Returns
    -------
    list of dask.delayed.Delayed
        Each computes to a `TrainingBlock`, the same as without Dask.

    Raises
    ------
    ModuleNotFoundError
        Without the extra ``dask``.
    """
    from dask.delayed import delayed

    shared = delayed(plan)  # sent once, not with every block
    task = delayed(training_block)
    return [task(shared, a, b) for a, b in block_ranges(plan, sets_per_block)]


def delayed_arrays(plan: TrainingPlan, sets_per_block: int = 1000) -> tuple[Any, Any]:
    """Parameters (sets, K) float64 and spectra (sets, Q, E) float32 as Dask arrays.

    Compute them together (``dask.compute(parameters, spectra)``): a block then runs once for both.
    """
    import dask.array as da

    blocks = delayed_blocks(plan, sets_per_block)
    counts = [b - a for a, b in block_ranges(plan, sets_per_block)]
    n_k = len(plan.prior.names)
    parameters = [
        da.from_delayed(block.parameters, (count, n_k), np.float64)
        for block, count in zip(blocks, counts, strict=True)
    ]
    spectra = [
        da.from_delayed(block.spectra, (count, *plan.path.shape), np.float32)
        for block, count in zip(blocks, counts, strict=True)
    ]
    return da.concatenate(parameters), da.concatenate(spectra)
