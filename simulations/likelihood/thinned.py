"""Trajectories of which some are walked for their neighbours, too.

Neighbouring pixels of a detector tube see nearly the same. Of many to a cell every few are walked,
in every other tube those between, and what a cell then lacks of its exposure is made up by a
factor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import BoolArray, FloatArray, IntArray, SingleArray
from simulations.errors import InputError
from simulations.kernels import njit
from simulations.likelihood.missetting import Missetting
from simulations.likelihood.trajectories import Trajectories
from simulations.likelihood.trajectory_arguments import QBlur
from simulations.likelihood.trajectory_phonons import TrajectoryPhonons
from simulations.likelihood.zone_state import ZoneState

STEPS_OF_A_CELL = 90  # kept, on average, to look around with
MOST = 16  # trajectories for which one is walked
TUBE_ENDS = 5.0  # usual distances between neighbours: farther apart they are of two tubes
ROWS_APART = 3.5  # standard deviations of the spread of q that rows of walked pixels are apart
ALIKE = 2.3  # of these: from there on rows differ
STEEPEST = 0.01  # of the trajectories: these are all walked, once they are known
STEPS_BESIDE_STEEP = 45  # of the others then serve
MISSED = 0.45  # chi-square of rates that is missed where rows are alike, of counts over steps
MISSED_SHARE = 0.005  # of the cells: what may be missed


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ThinnedTrajectories(Trajectories):
    """Some of the trajectories of an orientation, in place of all."""

    every: int  # one for so many
    factor: FloatArray  # (cells,) exposure of all over that of these; 0 where there is none

    def of_all(self, rate: FloatArray) -> FloatArray:
        """Rates along these, (cells,) or (cells, columns), made up for all that they stand for."""
        return rate * self.factor.reshape(-1, *[1] * (rate.ndim - 1))


class ThinnedPhonons:
    """A ``RoughModel``: one trajectory of so many, each for its neighbours, too.

    Of germanium on ARCS (366 steps to a cell), 92 of them are off by a chi-square of 24 in 7,800
    cells of ten minutes, and the force constants that fit best by 0.3 standard deviations at most;
    183 by 7, and by 0.1. Of magnesium oxide with many counts they are not enough to fit by.

    Where pixels are points, few trajectories run along a branch, and these have most of what
    constants change: of RuS2 one of ten thousand has 86 % of the squares of all derivatives. Once
    somebody says which are steep, these are walked beside one of so many of the others.

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
        steepness: SingleArray | None = None,
        steep: IntArray | None = None,
        over: FloatArray | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """As ``TrajectoryPhonons.rates``, approximately; of ``steep`` stretches as they are.

        ``steepness`` is only to be had of all trajectories, from ``TrajectoryPhonons``.
        """
        if steepness is not None:
            raise InputError("steepness is asked of thinned rates; expected None")
        n_cells = self._walked.n_path_bins * self._walked.energy.n_bins
        wanted = STEPS_OF_A_CELL if steep is None else STEPS_BESIDE_STEEP
        every = _every(trajectories, n_cells, wanted)

        def walked(some: Trajectories) -> tuple[FloatArray, FloatArray]:
            return self._walked.rates(
                some, state, log_width=log_width, off=off, gradient=gradient, over=over
            )

        if steep is None or every <= 1:
            return walked(thinned(trajectories, n_cells, every))
        apart = np.zeros(len(trajectories.pixel), dtype=np.bool_)
        apart[steep] = True
        rest = thinned(_part(trajectories, ~apart, n_cells), n_cells, every)
        of_steep, of_rest = walked(_part(trajectories, apart, n_cells)), walked(rest)
        return of_steep[0] + of_rest[0], of_steep[1] + of_rest[1]


def _every(trajectories: Trajectories, n_cells: int, wanted: float) -> int:
    """One of how many is walked, so that so many steps of a cell are."""
    whole = trajectories.every if isinstance(trajectories, ThinnedTrajectories) else 1
    steps, _ = steps_of_a_cell(trajectories, n_cells)
    return min(int(np.rint(steps / wanted)), MOST // whole)


def times_as_many(trajectories: Trajectories, n_cells: int) -> float:
    """Steps of exact rates over those of rough ones that know which trajectories are steep."""
    every = max(1, _every(trajectories, n_cells, STEPS_BESIDE_STEEP))
    return 1.0 if every == 1 else 1 / (STEEPEST + (1 - STEEPEST) / every)


def steepest(steepness: SingleArray) -> IntArray:
    """Those of (stretches,) that add most to derivatives, a share of ``STEEPEST``."""
    few = int(np.ceil(STEEPEST * len(steepness)))
    return np.sort(np.argsort(steepness)[len(steepness) - few :])


def steps_of_a_cell(trajectories: Trajectories, n_cells: int) -> tuple[float, int]:
    """How often a cell is counted in, on average over those that are, and how many are."""
    seen = np.zeros(n_cells, dtype=np.int64)
    _count(trajectories.cell, seen)
    cells = max(1, int(np.count_nonzero(seen)))
    return float(np.sum(seen)) / cells, cells


def every_that_serves(
    trajectories: Trajectories, n_cells: int, q_blur: QBlur, counts: float
) -> int:
    """For how many neighbours one trajectory can be walked where a spread of q makes them alike.

    Rows of walked pixels are not much farther apart than the spread reaches, and the chi-square
    that thinning misses of the rates stays below a share of the cells. Found for germanium, MgO,
    RuS2 and Ti3Al on ARCS, blurred by 0.15 to 0.2 degrees: 0.3 to 0.45 times counts over steps of a
    cell where rows are ``ALIKE``, and 0.03 to 0.2 of the constants, 1.1 to 1.8 at twice as far, and
    0.3 to 1.1; slopes miss 0.5 to 1 % and 2 to 3 % of their chi-square. Without a spread all are
    walked: rates of single pixels have edges that no neighbour tells of.

    Parameters
    ----------
    trajectories : Trajectories
        All of one orientation.
    n_cells : int
        Path bins times energy bins.
    q_blur : QBlur
        The least that may be: searches along few trajectories end in wrong answers where q is
        blurred by less (MgO, points in truth, one of four: 240 of 14, and trusted).
    counts : float
        Of the orientation, inside the tubes.
    """
    sigma = float(np.sqrt(q_blur.mosaic**2 + q_blur.divergence**2 + q_blur.height**2))
    if sigma == 0 or len(trajectories.direction) < 2:
        return 1
    apart = np.linalg.norm(np.diff(trajectories.direction, axis=0), axis=1)
    row = float(np.median(apart))
    steps, cells = steps_of_a_cell(trajectories, n_cells)
    for every in range(MOST, 1, -1):
        far = every * row / sigma
        missed = MISSED * max(1.0, far / ALIKE) ** 2 * counts * every / steps
        if far <= ROWS_APART and missed <= MISSED_SHARE * cells:
            return every
    return 1


def thinned(trajectories: Trajectories, n_cells: int, every: int) -> Trajectories:
    """One trajectory for so many, spread evenly; as they are where that is one.

    Parameters
    ----------
    trajectories : Trajectories
        Of one orientation, pixels in the order of the detector; thinned ones are thinned further.
    n_cells : int
        Path bins times energy bins.
    every : int
    """
    if every <= 1:
        return trajectories
    before, factor = _stands_for(trajectories, n_cells)
    tube, row = _places(trajectories.direction)
    at = row
    for one in (before, every):
        at = at + tube * (one // 2)
        kept = at % one == one // 2
        at = at // one
    kept = kept[trajectories.pixel]
    whole = _exposure_of(trajectories, n_cells) * factor
    some = _of(trajectories, kept, before * every, factor)
    lost = (whole > 0) & (_exposure_of(some, n_cells) == 0)
    if lost.any():  # what crosses such a cell is walked, too
        steps = lost[trajectories.cell] & (trajectories.cell >= 0)
        kept |= np.logical_or.reduceat(steps, trajectories.start[:-1])
        some = _of(trajectories, kept, before * every, factor)
    here = _exposure_of(some, n_cells)
    return replace(some, factor=np.divide(whole, here, out=np.zeros(n_cells), where=here > 0))


def _stands_for(trajectories: Trajectories, n_cells: int) -> tuple[int, FloatArray]:
    """Of how many these are one, and by what factor their cells count."""
    if isinstance(trajectories, ThinnedTrajectories):
        return trajectories.every, trajectories.factor
    return 1, np.ones(n_cells)


def _part(trajectories: Trajectories, kept: BoolArray, n_cells: int) -> ThinnedTrajectories:
    """Those stretches alone, that count as they did."""
    return _of(trajectories, kept, *_stands_for(trajectories, n_cells))


def _of(
    trajectories: Trajectories, kept: BoolArray, every: int, factor: FloatArray
) -> ThinnedTrajectories:
    """Those stretches that are kept (stretches,)."""
    length = np.diff(trajectories.start)
    given = {name: getattr(trajectories, name) for name in Trajectories.__dataclass_fields__}
    given |= {
        "pixel": trajectories.pixel[kept],
        "first_step": trajectories.first_step[kept],
        "start": np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(length[kept])]),
        "cell": trajectories.cell[np.repeat(kept, length)],
    }
    return ThinnedTrajectories(**given, every=every, factor=factor)


def _places(direction: FloatArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of the tube and place in it of every pixel, of those that cross a tube of the path."""
    apart = np.linalg.norm(np.diff(direction, axis=0, prepend=direction[:1]), axis=1)
    first = apart > TUBE_ENDS * np.median(apart)
    tube = np.cumsum(first)
    number = np.arange(len(direction))
    return tube, number - np.maximum.accumulate(np.where(first, number, 0))


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
def _count(cell: NDArray[np.int32], out: NDArray[np.int64]) -> None:
    for where in cell:
        if where >= 0:
            out[where] += 1


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
