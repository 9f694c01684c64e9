"""Mounts that a search looks at beside the one it found.

How far a crystal is tilted changes every line of a scan at once, and few counts know it to a few
hundredths of a degree. Between the mount that a search ends at and the true one may lie others that
no step leads out of; from within a tenth or two of a degree of the true one steps lead there.
"""

from __future__ import annotations

import numpy as np

from simulations.arrays import FloatArray
from simulations.likelihood import Missetting

STEP_DEG = 0.25  # between mounts: germanium on ARCS, steps find the way over 0.15
REACH_SIGMAS = 2.5
MOST_ACROSS = 7  # of one tilt: a mount that is hardly known is looked at in wider steps


def mounts(missetting: Missetting) -> tuple[list[int], FloatArray]:
    """Tilts to begin at, on a grid within what may be, the nearest to what is believed first.

    Parameters
    ----------
    missetting : Missetting
        Of what is fitted.

    Returns
    -------
    tilts : list of int
        Which ways they are, T of them.
    places : (n, T) float64
        Degrees. One place alone where the tilts are known as well as steps find the way over.
    """
    tilts = missetting.tilts
    if not tilts:
        return [], np.empty((1, 0))
    sigma = missetting.sigma[tilts]
    reach = REACH_SIGMAS * sigma
    steps = np.maximum(STEP_DEG, 2 * reach / (MOST_ACROSS - 1))
    lines = [
        step * np.arange(-int(most / step), int(most / step) + 1)
        for step, most in zip(steps, reach, strict=True)
    ]
    grid = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, len(tilts))
    far = np.linalg.norm(grid / sigma, axis=1)
    order = np.argsort(far, kind="stable")
    return tilts, grid[order[far[order] <= REACH_SIGMAS]]
