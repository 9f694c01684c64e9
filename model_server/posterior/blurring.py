"""Counts blurred in energy: what a search looks at before it looks at lines.

Neighbours that were blurred together are not independent. A likelihood that took them to be would
know far more than the counts do, and push a set-up that is off past all that was thought possible
of it. So its prior counts for more beside blurred cells.
"""

from __future__ import annotations

import numpy as np

from model_server.posterior._scipy import SparseMatrix, block_diagonal
from simulations.arrays import BoolArray, FloatArray


class Blurring:
    """Gaussians in energy within each path bin, over the usable cells.

    Parameters
    ----------
    energy_centres_meV : (energy_bins,)
    """

    def __init__(self, energy_centres_meV: FloatArray) -> None:
        self._energy = energy_centres_meV
        self._kernel: dict[float, FloatArray] = {}
        self._last: tuple[tuple[float, bytes], SparseMatrix] | None = None

    def spread(self, use: BoolArray, blur_meV: float) -> SparseMatrix:
        """Of the cells of ``use`` (path_bins, energy_bins), by rows."""
        key = (blur_meV, use.tobytes())
        if self._last is None or self._last[0] != key:
            kernel = self.kernel(blur_meV)
            blocks: list[FloatArray] = []
            for row in use:
                at = np.flatnonzero(row)
                blocks.append(kernel[np.ix_(at, at)])
            self._last = (key, block_diagonal(blocks))
        return self._last[1]

    def kernel(self, blur_meV: float) -> FloatArray:
        """Between all energy bins, (energy_bins, energy_bins)."""
        if blur_meV not in self._kernel:
            self._kernel[blur_meV] = blur_kernel(self._energy, blur_meV)
        return self._kernel[blur_meV]

    def together(self, blur_meV: float) -> float:
        """How many blurred cells are as good as one that is independent; 1 or more."""
        return max(1.0, 2 * np.sqrt(np.pi) * blur_meV / energy_step(self._energy))


def energy_step(energy_centres_meV: FloatArray) -> float:
    """Width of an energy bin, meV."""
    return float(energy_centres_meV[1] - energy_centres_meV[0])


def blur_kernel(energy_centres_meV: FloatArray, blur_meV: float) -> FloatArray:
    """Gaussian of a standard deviation between all energy bins, (energy_bins, energy_bins)."""
    gap = energy_centres_meV[:, None] - energy_centres_meV[None, :]
    height = energy_step(energy_centres_meV) / (blur_meV * np.sqrt(2 * np.pi))
    return np.exp(-0.5 * (gap / blur_meV) ** 2) * height
