"""How the neutrons of every path cell move within their tube when the set-up is off.

A cell holds neutrons of many ``Q``, each carried into one tube by an operation R of the Laue group.
With the set-up off by ``x_g`` a neutron comes from ``Q + sum_g x_g D_g`` (see `missetting`), in the
tube from ``q + R sum_g x_g D_g``. Mean and spread of that over a cell are sums of ``R D_g`` and of
their products, which add over orientations: a model that keeps no trajectories can know of the
set-up by them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from simulations.arrays import FloatArray, IntArray
from simulations.fold import PAIRS, Exposure, VoxelMap, grid_index
from simulations.instrument import wave_vector
from simulations.kernels import njit
from simulations.likelihood.missetting import Missetting
from simulations.likelihood.trajectories import Trajectories

MOST_STRETCHES = 60_000  # of one orientation that are looked at


@dataclass(frozen=True, kw_only=True, eq=False)
class Drift:
    """Sums over neutrons of every path cell, weighted by exposure. S is G (G + 1) / 2."""

    weight: FloatArray  # (path_bins, energy_bins)
    first: FloatArray  # (path_bins, energy_bins, G, 3) sum w R D_g, 1/angstrom per unit
    second: FloatArray  # (S, path_bins, energy_bins, 6) of products of g <= h, packed as ``PAIRS``
    shift: FloatArray  # (energy_bins, G) of the measured energy, meV per unit

    def __add__(self, other: Drift) -> Drift:
        """Of both together."""
        return replace(
            self,
            weight=self.weight + other.weight,
            first=self.first + other.first,
            second=self.second + other.second,
        )

    @cached_property
    def mean(self) -> FloatArray:
        """Mean move of every cell, (path_bins, energy_bins, G, 3), 1/angstrom per unit."""
        return self.first * self._per_weight[..., None, None]

    @cached_property
    def _covariance(self) -> FloatArray:
        """Of the moves by g and by h in every cell, as ``second``; g < h count twice."""
        found = np.empty_like(self.second)
        pairs = zip(*np.triu_indices(self.first.shape[2]), strict=True)
        for place, (g, h) in enumerate(pairs):
            one, other = self.mean[..., g, :], self.mean[..., h, :]
            for i, (a, b) in enumerate(PAIRS):
                product = 0.5 * (one[..., a] * other[..., b] + one[..., b] * other[..., a])
                found[place, ..., i] = self.second[place, ..., i] * self._per_weight - product
            found[place] *= 1.0 if g == h else 2.0
        return found

    @cached_property
    def _per_weight(self) -> FloatArray:
        return 1 / np.where(self.weight > 0, self.weight, np.inf)

    def spread(self, off: FloatArray) -> FloatArray:
        """Covariance of the move for a set-up that is off by (G,), (path_bins, energy_bins, 6).

        In 1/angstrom^2, packed as ``PAIRS``.
        """
        g, h = np.triu_indices(len(off))
        shape = self._covariance.shape
        return ((off[g] * off[h]) @ self._covariance.reshape(shape[0], -1)).reshape(shape[1:])

    def moved(self, moments: Exposure, off: FloatArray, path_bin: IntArray) -> Exposure:
        """Moments of voxels (V, E) with the mean move of their path bin's cells, and its spread."""
        n_energy = moments.weight.shape[1]
        mean = np.einsum("pega,g->pea", self.mean[:, :n_energy], off)[path_bin]
        spread = self.spread(off)[path_bin, :n_energy]
        first, weight, second = moments.first, moments.weight, moments.second.copy()
        for i, (a, b) in enumerate(PAIRS):
            second[..., i] += mean[..., a] * first[..., b] + mean[..., b] * first[..., a]
            second[..., i] += weight * (mean[..., a] * mean[..., b] + spread[..., i])
        return replace(moments, first=first + weight[..., None] * mean, second=second)


def drift_of(
    trajectories: Trajectories,
    missetting: Missetting,
    voxels: VoxelMap,
    *,
    reciprocal: FloatArray,
    energy_centres_meV: FloatArray,
    ei_meV: float,
) -> Drift:
    """Sums over the stretches of one orientation, or over evenly many of very many.

    Parameters
    ----------
    trajectories : Trajectories
    missetting : Missetting
        Of G ways.
    voxels : VoxelMap
        That the trajectories were cut by.
    reciprocal : (3, 3) float64
        Primitive, rows, 1/angstrom.
    energy_centres_meV : (energy_bins,) float64
    ei_meV : float
    """
    highest = 0.998 * ei_meV
    edges = trajectories.step_edges_meV
    middle = np.minimum(0.5 * (edges[1:] + edges[:-1]), highest)
    moves = missetting.moves(middle, ei_meV)
    ways, cells = len(missetting), (voxels.n_path_bins, len(energy_centres_meV))
    sums = _sums(
        trajectories.direction,
        trajectories.weight,
        trajectories.beam,
        trajectories.pixel,
        trajectories.first_step,
        trajectories.start,
        trajectories.cell,
        max(1, len(trajectories.pixel) // MOST_STRETCHES),
        np.diff(edges),
        wave_vector(ei_meV - middle),
        moves.linear,
        moves.beam,
        moves.final,
        np.linalg.inv(reciprocal),
        voxels.divisions,
        voxels.operation,
        voxels.operation_cartesian,
        cells[0] * cells[1],
    )
    first = 1 + 3 * ways
    at_centres = missetting.moves(np.minimum(energy_centres_meV, highest), ei_meV)
    return Drift(
        weight=sums[:, 0].reshape(cells),
        first=sums[:, 1:first].reshape(*cells, ways, 3),
        second=np.ascontiguousarray(np.moveaxis(sums[:, first:].reshape(*cells, -1, 6), 2, 0)),
        shift=at_centres.shift.T,
    )


@njit(cache=True)
def _sums(
    direction, weight, beam, pixel, first_step, start, cell, stride, width, kf, linear, by_beam,
    by_final, to_fractional, divisions, operation, cartesian, cells,
):  # fmt: skip
    """w, w R D_g and w of the products of R D_g and R D_h (g <= h), (cells, 1 + 3 G + 6 S)."""
    ways = len(linear)
    out = np.zeros((cells, 1 + 3 * ways + 3 * ways * (ways + 1)))
    q, here = np.empty(3), np.empty(3)
    moved = np.empty((ways, 3))
    for stretch in range(0, len(pixel), stride):
        row = pixel[stretch]
        for place in range(start[stretch], start[stretch + 1]):
            at = cell[place]
            if at < 0:
                continue
            step = first_step[stretch] + place - start[stretch]
            w = weight[row] * width[step] * kf[step]
            for a in range(3):
                q[a] = beam[a] - kf[step] * direction[row, a]
            o = operation[
                grid_index(
                    q[0] * to_fractional[0, 0]
                    + q[1] * to_fractional[1, 0]
                    + q[2] * to_fractional[2, 0],
                    divisions[0],
                ),
                grid_index(
                    q[0] * to_fractional[0, 1]
                    + q[1] * to_fractional[1, 1]
                    + q[2] * to_fractional[2, 1],
                    divisions[1],
                ),
                grid_index(
                    q[0] * to_fractional[0, 2]
                    + q[1] * to_fractional[1, 2]
                    + q[2] * to_fractional[2, 2],
                    divisions[2],
                ),
            ]
            out[at, 0] += w
            for g in range(ways):
                for a in range(3):
                    here[a] = by_beam[g] * beam[a] - by_final[g, step] * direction[row, a]
                    for b in range(3):
                        here[a] += linear[g, a, b] * q[b]
                for a in range(3):
                    moved[g, a] = (
                        cartesian[o, a, 0] * here[0]
                        + cartesian[o, a, 1] * here[1]
                        + cartesian[o, a, 2] * here[2]
                    )
                    out[at, 1 + 3 * g + a] += w * moved[g, a]
            to = 1 + 3 * ways
            for g in range(ways):
                for h in range(g, ways):
                    for a in range(3):
                        out[at, to + a] += w * moved[g, a] * moved[h, a]
                    for i in range(3):
                        a, b = (1, 2) if i == 0 else ((0, 2) if i == 1 else (0, 1))
                        across = moved[g, a] * moved[h, b] + moved[g, b] * moved[h, a]
                        out[at, to + 3 + i] += 0.5 * w * across
                    to += 6
    return out
