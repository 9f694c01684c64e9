"""Approximate rates along a part of the trajectories, for looking around.

Neighbouring pixels of a detector tube see nearly the same. Of many to a cell every few are walked,
on a zone grid that may be wider, and what a cell then lacks of its exposure is made up by a factor.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import FloatArray
from simulations.kernels import njit
from simulations.likelihood.missetting import Missetting
from simulations.likelihood.trajectories import Trajectories, TrajectoryPhonons, ZoneState

STEPS_OF_A_CELL = 90  # kept, on average
MOST = 16  # trajectories for which one is walked


class ThinnedPhonons:
    """Approximate ``ExactModel``: one trajectory of so many, each for its neighbours, too.

    Of germanium on ARCS (366 steps to a cell), 92 of them are off by a chi-square of 24 in 7,800
    cells of ten minutes, and the force constants that fit best by 0.3 standard deviations at most;
    183 by 7, and by 0.1. Of magnesium oxide with many counts they are not enough to fit by.

    Parameters
    ----------
    walked : TrajectoryPhonons
        What walks them.
    """

    def __init__(self, walked: TrajectoryPhonons) -> None:
        self._walked = walked

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Those of the model that walks."""
        return self._walked.parameter_names

    @property
    def missetting(self) -> Missetting:
        """Ways that the set-up may be off that are fitted."""
        return self._walked.missetting

    @property
    def aside(self) -> Missetting:
        """Others, that rates are known along to first order."""
        return self._walked.aside

    def doubting(self) -> ThinnedPhonons:
        """The same with all ways fitted that the set-up may be off."""
        return ThinnedPhonons(self._walked.doubting())

    def typical(self) -> ThinnedPhonons | None:
        """The same with a typical spread of q; None where one was given."""
        walked = self._walked.typical()
        return None if walked is None else ThinnedPhonons(walked)

    def prepare(self, phi: FloatArray) -> ZoneState:
        """What depends on the parameters (K,) alone."""
        return self._walked.prepare(phi)

    def rates(
        self,
        trajectories: Trajectories,
        state: ZoneState,
        *,
        log_width: float = 0.0,
        off: FloatArray | None = None,
        gradient: bool = True,
    ) -> tuple[FloatArray, FloatArray]:
        """As ``TrajectoryPhonons.rates``, approximately; none in a cell that lost all its steps."""
        n_cells = self._walked.n_path_bins * self._walked.energy.n_bins
        some, factor = thinned(trajectories, n_cells)
        rate, slope = self._walked.rates(
            some, state, log_width=log_width, off=off, gradient=gradient
        )
        factor = factor.reshape(rate.shape)
        return rate * factor, slope * factor[..., None]


def thinned(trajectories: Trajectories, n_cells: int) -> tuple[Trajectories, FloatArray]:
    """One of so many trajectories that cells keep ``STEPS_OF_A_CELL``, spread evenly.

    Parameters
    ----------
    trajectories : Trajectories
        Of one orientation, pixels in the order of the detector.
    n_cells : int
        Path bins times energy bins.

    Returns
    -------
    Trajectories
    factor : (cells,) float64
        Exposure of all of them over that of those that were kept; 0 where none is left.
    """
    seen = np.bincount(trajectories.cell[trajectories.cell >= 0], minlength=n_cells)
    of_a_cell = float(np.sum(seen)) / max(1, np.count_nonzero(seen))
    every = int(np.clip(np.rint(of_a_cell / STEPS_OF_A_CELL), 1, MOST))
    if every == 1:
        return trajectories, np.ones(n_cells)
    length = np.diff(trajectories.start)
    kept = trajectories.pixel % every == every // 2
    some = replace(
        trajectories,
        pixel=trajectories.pixel[kept],
        first_step=trajectories.first_step[kept],
        start=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(length[kept])]),
        cell=trajectories.cell[np.repeat(kept, length)],
    )
    here, all_of_it = _exposure_of(some, n_cells), _exposure_of(trajectories, n_cells)
    return some, np.divide(all_of_it, here, out=np.zeros(n_cells), where=here > 0)


def _exposure_of(trajectories: Trajectories, n_cells: int) -> FloatArray:
    """Weight times energy that all trajectories together spend in every cell, (cells,)."""
    out = np.zeros(n_cells)
    _add_exposure(
        trajectories.weight[trajectories.pixel],
        trajectories.first_step,
        trajectories.start,
        trajectories.cell,
        np.diff(trajectories.step_edges_meV),
        out,
    )
    return out


@njit(cache=True, nogil=True)
def _add_exposure(
    weight: FloatArray,
    first_step: NDArray[np.int32],
    start: NDArray[np.int64],
    cell: NDArray[np.int32],
    width: FloatArray,
    out: FloatArray,
) -> None:
    for one in range(len(weight)):
        for at in range(start[one], start[one + 1]):
            if cell[at] >= 0:
                out[cell[at]] += weight[one] * width[first_step[one] + at - start[one]]
