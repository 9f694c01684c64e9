"""Where the phonon energies along the path lie, given the force constants and their errors.

Draws from the posterior, not a first order: branches cross and are degenerate, and an energy of
zero has no derivative. Energies alone are computed, of so many draws and bins as take about a
second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulations.arrays import BoolArray, FloatArray, IntArray
from simulations.constants import NOISE_MEV
from simulations.dynamics import ForceConstantModel, energies_of_sets

QUANTILES = (0.05, 0.95)
PAIRS = 50  # of draws, on both sides of the mean
FEWEST = 20  # stable draws that a band is made of
MOST_WORK = 6e7  # draws times bins times (modes cubed + 500): about a second
_LEAST_PAIRS = 16
_SEED = 20261


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BranchBands:
    """Where 90 % of the stable draws have the energies of the branches."""

    low_meV: FloatArray  # (bins, modes) 5 %; NaN where too few draws are stable
    high_meV: FloatArray  # (bins, modes) 95 %


def branch_bands(
    model: ForceConstantModel,
    hkl: FloatArray,
    first_bin: IntArray,
    values: FloatArray,
    covariance: FloatArray,
) -> BranchBands:
    """Where 90 % of the posterior has the phonon energies of every path bin.

    Parameters
    ----------
    model : ForceConstantModel
        With the parameters free.
    hkl : (bins, 3) float64
        Centres of the path bins, r.l.u. of the conventional cell.
    first_bin : (segments,) int
        At which segments of the path begin; between few bins a band is interpolated.
    values : (K,) float64
        Posterior mean, eV/angstrom^2.
    covariance : (K, K) float64
    """
    cost = float(model.n_modes) ** 3 + 500.0
    pairs = int(np.clip(MOST_WORK / (2 * len(hkl) * cost), _LEAST_PAIRS, PAIRS))
    most = max(int(MOST_WORK / (2 * pairs * cost)), 2)
    looked = _thinned(len(hkl), first_bin, most)
    squared, axes = np.linalg.eigh(0.5 * (covariance + covariance.T))
    steps = np.random.default_rng(_SEED).normal(size=(pairs, len(squared)))
    steps = (steps * np.sqrt(np.maximum(squared, 0.0))) @ axes.T
    sets = np.concatenate([values[None], values + steps, values - steps])
    energies = energies_of_sets(model, hkl[looked] @ model.crystal.conventional_reciprocal, sets)
    stable: BoolArray = energies.min(axis=(1, 2)) >= -NOISE_MEV
    draws = energies[1:][stable[1:]]
    if len(draws) < FEWEST:
        unknown = np.full((len(hkl), model.n_modes), np.nan)
        return BranchBands(low_meV=unknown, high_meV=unknown)
    low, high = np.quantile(draws, QUANTILES, axis=0)
    if len(looked) == len(hkl):
        return BranchBands(low_meV=low, high_meV=high)
    mean = energies_of_sets(model, hkl @ model.crystal.conventional_reciprocal, values[None])[0]
    return BranchBands(
        low_meV=mean + _between(looked, low - energies[0], len(hkl)),
        high_meV=mean + _between(looked, high - energies[0], len(hkl)),
    )


def _thinned(bins: int, first_bin: IntArray, most: int) -> IntArray:
    """Bins to look at: all, or evenly spaced ones of every segment with its ends."""
    if bins <= most:
        return np.arange(bins)
    ends = [*[int(b) for b in first_bin], bins]
    share = most / bins
    chosen = [
        np.linspace(a, b - 1, max(2, round(share * (b - a)))).round().astype(int)
        for a, b in zip(ends, ends[1:], strict=False)
    ]
    return np.unique(np.concatenate(chosen))


def _between(looked: IntArray, offsets: FloatArray, bins: int) -> FloatArray:
    found = np.empty((bins, offsets.shape[1]))
    for mode in range(offsets.shape[1]):
        found[:, mode] = np.interp(np.arange(bins), looked, offsets[:, mode])
    return found
