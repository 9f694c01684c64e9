"""Spectra of runs whose set-up is off: what a posterior that is to be honest is trained on.

The rates are those of neutrons that came from elsewhere than believed (orientation, lattice,
incident energy and time zero drawn from their priors, the width of the resolution from its own),
while D and F are those of the set-up that is believed. Approximate: the move of a cell's neutrons
is that of `simulations.likelihood.Drift`, to first order, and orientations are summed before rates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model_server.networks import CoarseGrid
from model_server.training.spectra import TrainingSpectra, end_to_end
from simulations.arrays import FloatArray, SingleArray
from simulations.errors import InputError
from simulations.fold import VoxelExposure
from simulations.likelihood import Drift, FoldedPhonons
from simulations.progress import Progress

DWELL = (0.3, 1.7)  # of one orientation, over the mean


def simulate_off_set_up(
    forward: FoldedPhonons,
    exposures: Sequence[VoxelExposure],
    drifts: Sequence[Drift],
    off_sigma: FloatArray,
    parameters: FloatArray,
    grid: CoarseGrid,
    rng: np.random.Generator,
    *,
    width_sigma: float = 0.05,
    per_coverage: int = 100,
    progress: Progress | None = None,
) -> TrainingSpectra:
    """Simulate every set of force constants once, with a set-up of its own.

    Parameters
    ----------
    forward : FoldedPhonons
    exposures : sequence of VoxelExposure
        One per orientation, on the voxels of ``forward``.
    drifts : sequence of Drift
        Of the same orientations.
    off_sigma : (G,) float64
        Standard deviations of the ways of ``drifts``; set-ups are drawn as normal.
    parameters : (sets, K) float64
        Dynamically stable force constants, eV/angstrom^2.
    grid : CoarseGrid
        What a network sees.
    rng : numpy.random.Generator
    width_sigma : float
        Standard deviation of the logarithm of the resolution's width.
    per_coverage : int
        Sets under one coverage: one to all orientations, evenly by the logarithm of their number,
        each with a random dwell time.
    progress : callable, optional

    Returns
    -------
    TrainingSpectra
        As many as sets, those of a coverage beside each other.
    """
    if len(drifts) != len(exposures):
        raise InputError(
            f"drifts are of {len(drifts)} orientations; expected {len(exposures)}, as exposures"
        )
    shape = (forward.voxels.n_path_bins, forward.energy.n_bins)
    fine = grid.path_group * grid.energy_group
    parts: list[TrainingSpectra] = []
    for first in range(0, len(parameters), per_coverage):
        some = parameters[first : first + per_coverage]
        size = int(np.rint(len(exposures) ** rng.uniform()))
        chosen = rng.choice(len(exposures), size=size, replace=False)
        total, drift = None, None
        for which, dwell in zip(chosen, rng.uniform(*DWELL, size), strict=True):
            one = exposures[which].scaled(float(dwell))
            moved = scaled_drift(drifts[which], float(dwell))
            total = one if total is None else total + one
            drift = moved if drift is None else drift + moved
        assert total is not None  # noqa: S101 - at least one is chosen
        assert drift is not None  # noqa: S101
        D, F = np.zeros((2, *shape))
        for padded, sums in zip((D, F), total.path_sums(forward.voxels), strict=True):
            padded[:, : sums.shape[1]] = sums
        rates: list[FloatArray] = []
        for phi in some:
            off = off_sigma * rng.standard_normal(len(off_sigma))
            rate, _ = forward.rates(
                total,
                forward.prepare(phi),
                log_width=float(width_sigma * rng.standard_normal()),
                gradient=False,
                drift=drift,
                off=off,
            )
            rates.append(grid.sums(rate))

        def repeated(sums: FloatArray, n: int = len(some)) -> SingleArray:
            return np.repeat(sums[None].astype(np.float32), n, axis=0)

        parts.append(
            TrainingSpectra(
                parameters=some,
                rate=np.array(rates, dtype=np.float32),
                exposure=repeated(grid.sums(D)),
                flat=repeated(grid.sums(np.where(D > 0, F, 0.0))),
                coverage=repeated(grid.sums(D > 0) / fine),
            )
        )
        if progress is not None:
            progress("simulating spectra", (first + len(some)) / len(parameters))
    return end_to_end(parts)


def scaled_drift(drift: Drift, dwell: float) -> Drift:
    """Drift of the same neutrons for another time."""
    return Drift(
        weight=dwell * drift.weight,
        first=dwell * drift.first,
        second=dwell * drift.second,
        shift=drift.shift,
    )
