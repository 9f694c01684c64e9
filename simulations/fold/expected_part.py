"""Smooth scattering that is expected beside one coherent phonon, on the cells of an orientation.

Incoherent and multiphonon scattering of the sample, and whatever else depends on |Q| and E alone
and grows with the exposure of the sample, is predicted once as S(|Q|,E); every orientation reads
its rate off that at the |Q| of its own voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulations.arrays import FloatArray
from simulations.fold.exposure import VoxelExposure, sum_voxels
from simulations.fold.voxel_map import MergedVoxels, VoxelMap


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ExpectedPart:
    """A predicted part of the scattering whose strength a fit finds, about that predicted."""

    name: str
    relative_sigma: float  # standard deviation of ln strength, about 0
    momentum_step: float  # 1/angstrom
    intensity: FloatArray  # (Q, E) barn/meV/sr per primitive cell at (i + 1/2) momentum_step

    def rate(self, exposure: VoxelExposure, voxels: VoxelMap | MergedVoxels) -> FloatArray:
        """Expected counts at strength 1 and the scale of one count per unit of D times intensity.

        Every voxel counts with its root mean square |Q| at each energy: exact for what grows with
        Q^2, and low by the spread of Q^2 within a voxel for what grows faster.

        Parameters
        ----------
        exposure : VoxelExposure
        voxels : VoxelMap or MergedVoxels
            Those of the exposure.

        Returns
        -------
        (path_bins, energy_bins) float64
        """
        weight = exposure.weight
        seen = weight > 0
        mean = np.where(seen, exposure.q_squared / np.where(seen, weight, 1.0), 0.0)
        place = np.maximum(np.sqrt(np.maximum(mean, 0.0)) / self.momentum_step - 0.5, 0.0)
        below = np.minimum(place.astype(np.int64), len(self.intensity) - 2)
        above = np.minimum(place - below, 1.0)
        at = np.arange(weight.shape[1])[None, :]
        value = (1 - above) * self.intensity[below, at] + above * self.intensity[below + 1, at]
        rates = np.zeros((voxels.n_path_bins, self.intensity.shape[1]))
        rates[:, : weight.shape[1]] = sum_voxels(weight * value, voxels)
        return rates
