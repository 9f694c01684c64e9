"""What a fit takes to be right, marginalised to first order, and what speaks against it.

A fit of force constants believes orientation, lattice, Ei and time zero. Walked rates know how
cells change with each of them, so a small error ``x`` of the set-up is one more linear nuisance
with a prior: constants move by what it explains better, and their covariance grows by what is left
unknown of it. A slope of background and intensity along energy is treated likewise, and so is the
scale of every orientation, which its charge does not tell exactly. To first order only:
``Aside.bend`` says how much the second order would change, and where that matters the fit is not
moved and not to be trusted.

The same derivatives make score tests (Rao 1948): whether what is taken to be known is not, and
whether one orientation was taken at a turned crystal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model_server.posterior._scipy import chi_square_tail, solve_positive
from model_server.posterior.linear import Linear
from simulations.arrays import BoolArray, FloatArray

SHAPES = ("background slope", "intensity slope")
"""From the least to the largest energy transfer: relative changes of one to either side."""
SHAPE_SIGMA = (0.3, 0.05)
MOST_BEND = 0.5  # of chi-square
FLOORS = {"deg": 0.02, "%": 0.02, "us": 0.1, "relative": 0.02}
"""Errors of walked rates in terms of the set-up: less than this is never told."""
CHUNK_FLOOR_DEG = 0.1
CONTRAST_FLOOR = 0.05
SPREAD_FLOOR = 0.03  # of a typical spread of q
SCATTER_BETWEEN_CHUNKS = 0.05
"""How well the scale of an orientation is known: its charge, and how it shields itself."""
SCALE_SIGMAS = 4.0  # beyond which a scale is not off by chance
MOUNT = ("psi offset", "tilt gl", "tilt gs")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Piece:
    """One orientation about the answer of a fit, cells flattened to those that count."""

    linear: Linear
    use: BoolArray  # (path_bins, energy_bins) which cells those are
    phonon: FloatArray  # (cells,) the model's part of the expected counts
    ways: FloatArray  # (cells, H) derivatives of the expected counts by every way to be off
    mount: FloatArray  # (cells, M) those by the turns of the crystal
    contrast: FloatArray  # (cells,) by the power of the expected intensity; none: zeros
    wider: FloatArray  # (cells,) what a typical spread of q would change; none: zeros

    @property
    def variance(self) -> FloatArray:
        """Of the counts, (cells,)."""
        linear = self.linear
        return linear.rate if linear.variance is None else linear.variance

    def weighted(self, columns: FloatArray) -> FloatArray:
        """Columns (cells, C) by the inverse covariance of the cells.

        Its own scale, which may be off by ``SCATTER_BETWEEN_CHUNKS``, is marginalised.
        """
        alone = columns / self.variance[:, None]
        share = self.linear.rate / self.variance
        return alone - np.outer(share, self._kept() * (self.linear.rate @ alone))

    def scale(self, left: FloatArray) -> tuple[float, float]:
        """How far its scale is off, relative, by what is left (cells,) of its counts; and sigma."""
        kept = self._kept()
        return float(kept * (left @ (self.linear.rate / self.variance))), float(np.sqrt(kept))

    def _kept(self) -> float:
        """Variance of the scale once its counts are known."""
        rate = self.linear.rate
        return 1 / (SCATTER_BETWEEN_CHUNKS**-2 + float(rate @ (rate / self.variance)))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChunkTest:
    """Whether the counts of one orientation lie where they are expected."""

    turned_deg: FloatArray  # (M,) against the others, as ``MOUNT`` where they are known
    turned_sigma_deg: FloatArray  # (M,)
    turned_p: float
    contrast: float  # relative; -1: counts know nothing of the expected intensity
    contrast_sigma: float
    contrast_p: float
    scale: float = 0.0  # relative: how many more counts it has than its charge says
    scale_sigma: float = 0.0
    chi_square: float = 0.0  # of its groups of cells, its scale free
    freedom: float = 0.0  # degrees of it; 0: no counts to tell by


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Aside:
    """What was marginalised beside a fit, and what was tested."""

    names: tuple[str, ...]  # (H,)
    units: tuple[str, ...]
    known: FloatArray  # (H,) standard deviations before any data; 0: taken to be right
    value: FloatArray  # (H,) most probable; 0 where taken to be right
    sigma: FloatArray  # (H,)
    held_value: FloatArray  # (H,) what counts say of what is taken to be right; else nan
    held_sigma: FloatArray  # (H,)
    held_p: float  # of all that is taken to be right
    gain: float  # of minus log posterior: what the ways explain beyond the fit, to first order
    bend: float  # chi-square that the second order might add
    chunks: tuple[ChunkTest, ...]
    spread: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """How much of a typical spread of q the counts ask for that was left out, its sigma, and p."""

    @property
    def far(self) -> bool:
        """Whether the set-up is off by more than can be carried to first order."""
        return self.bend > MOST_BEND

    @property
    def scattered(self) -> dict[int, float]:
        """Scales of orientations, by number, that are off by more than they may and than chance."""
        off = ((k, one.scale, one.scale_sigma) for k, one in enumerate(self.chunks))
        return {
            k: scale
            for k, scale, sigma in off
            if abs(scale) > max(SCATTER_BETWEEN_CHUNKS, SCALE_SIGMAS * sigma)
        }


def marginalised(
    prior: FloatArray, pieces: Sequence[Piece], known: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, float]:
    """Fit the ways to be off with all of theta, to first order about the best theta.

    The best of a fit that takes the scales of orientations to be right: they are marginalised, too.

    Parameters
    ----------
    prior : (P, P) float64
        Precision of theta before any data.
    pieces : sequence of Piece
        At the best theta.
    known : (H,) float64
        Standard deviations of the ways before any data; 0: held.

    Returns
    -------
    step : (P + H,) float64
        Of theta and of the ways.
    joint : (P + H, P + H) float64
        Precision of both; held ways have rows of the unit matrix.
    score, information : (H,) and (H, H) float64
        Of the ways with all that is not held at its best: what they are tested by.
    gain : float
        Of minus log posterior by the step.
    """
    size, ways = len(prior), len(known)
    free = known > 0
    joint = np.zeros((size + ways, size + ways))
    joint[:size, :size] = prior
    gradient, gain = np.zeros(size + ways), 0.0
    for one in pieces:
        left = one.linear.data - one.linear.rate
        columns = np.column_stack([one.linear.slope, one.ways])
        weighted = one.weighted(columns)
        joint += columns.T @ weighted
        gradient += weighted.T @ left
        gradient[:size] -= one.linear.score()  # what the prior pulls by at the best
        scale, sigma = one.scale(left)
        gain += 0.5 * (scale / sigma) ** 2
    of = np.concatenate([np.ones(size, dtype=bool), free])
    kept = joint[np.ix_(of, of)].copy()
    kept[size:, size:] += np.diag(known[free] ** -2.0)
    across = joint[np.ix_(of, ~of)]
    solved = solve_positive(kept, np.column_stack([gradient[of], across]))
    step = np.zeros(size + ways)
    step[of] = solved[:, 0]
    score, information = np.zeros(ways), np.zeros((ways, ways))
    score[~free] = gradient[~of] - across.T @ solved[:, 0]
    information[np.ix_(~free, ~free)] = joint[np.ix_(~of, ~of)] - across.T @ solved[:, 1:]
    whole = np.eye(size + ways)
    whole[np.ix_(of, of)] = kept
    return step, whole, score, information, gain + 0.5 * float(gradient @ step)


def score_test(score: FloatArray, information: FloatArray, floor: FloatArray) -> tuple[
    FloatArray, FloatArray, float
]:  # fmt: skip
    """What a score says of ways that were held: values, their sigma alone, and p of all.

    Parameters
    ----------
    score : (n,) float64
    information : (n, n) float64
    floor : (n,) float64
        Systematic errors of the values.
    """
    alone = np.maximum(np.diag(information), 1e-300)
    value, sigma = score / alone, np.sqrt(1 / alone + floor**2)
    # In the space of the score, so that ways that nothing is known of add nothing.
    spread = information + information @ np.diag(floor**2) @ information
    size = np.sqrt(np.maximum(np.diag(spread), 1e-300))
    scaled = spread / np.outer(size, size)
    chi_square = float((score / size) @ np.linalg.pinv(scaled, rcond=1e-9) @ (score / size))
    rank = int(np.linalg.matrix_rank(scaled, tol=1e-9))
    return value, sigma, chi_square_tail(chi_square, rank) if rank else 1.0


def chunk_tests(
    joint: FloatArray, step: FloatArray, pieces: Sequence[Piece], known: FloatArray
) -> tuple[ChunkTest, ...]:
    """Test every orientation against what all say together.

    Parameters
    ----------
    joint, step
        As of ``marginalised``.
    pieces : sequence of Piece
    known : (H,) float64
        As for ``marginalised``.
    """
    tests: list[ChunkTest] = []
    for one in pieces:
        extended = np.column_stack([one.linear.slope, one.ways * (known > 0)])
        columns = np.column_stack([one.mount, one.contrast])
        weighted = one.weighted(columns)
        across = weighted.T @ extended
        left = one.linear.data - one.linear.rate - extended @ step
        score = weighted.T @ left
        information = columns.T @ weighted - across @ solve_positive(joint, across.T)
        scale, scale_sigma = one.scale(left)
        turns = slice(0, one.mount.shape[1])
        last = slice(one.mount.shape[1], None)
        turned, turned_sigma, turned_p = score_test(
            score[turns],
            information[turns, turns],
            CHUNK_FLOOR_DEG * np.ones(one.mount.shape[1]),
        )
        contrast, contrast_sigma, contrast_p = score_test(
            score[last], information[last, last], np.array([CONTRAST_FLOOR])
        )
        tests.append(
            ChunkTest(
                turned_deg=turned,
                turned_sigma_deg=turned_sigma,
                turned_p=turned_p,
                contrast=float(contrast[0]),
                contrast_sigma=float(contrast_sigma[0]),
                contrast_p=contrast_p if contrast[0] < 0 else 1.0,
                scale=scale,
                scale_sigma=scale_sigma,
            )
        )
    return tuple(tests)


def spread_test(
    joint: FloatArray, step: FloatArray, pieces: Sequence[Piece], known: FloatArray
) -> tuple[float, float, float]:
    """Test pixels that are points, a parallel beam and a perfect crystal against typical ones.

    Parameters
    ----------
    joint, step
        As of ``marginalised``.
    pieces : sequence of Piece
    known : (H,) float64
        As for ``marginalised``.

    Returns
    -------
    share, sigma : float
        Of a typical spread that counts ask for.
    p : float
        1 where they ask for none.
    """
    score, information, across = 0.0, 0.0, np.zeros(len(joint))
    for one in pieces:
        extended = np.column_stack([one.linear.slope, one.ways * (known > 0)])
        weighted = one.weighted(one.wider[:, None])[:, 0]
        score += float(weighted @ (one.linear.data - one.linear.rate - extended @ step))
        information += float(weighted @ one.wider)
        across += weighted @ extended
    information -= float(across @ solve_positive(joint, across))
    if information <= 0:
        return 0.0, 0.0, 1.0
    value, sigma, p = score_test(
        np.array([score]), np.array([[information]]), np.array([SPREAD_FLOOR])
    )
    return float(value[0]), float(sigma[0]), p if value[0] > 0 else 1.0


def floors_of(units: Sequence[str]) -> FloatArray:
    """``FLOORS`` of ways in these units."""
    return np.array([FLOORS[unit] for unit in units])


def steepness(energy_meV: FloatArray, use: BoolArray) -> FloatArray:
    """From -1 at the least energy in use to 1 at the largest, as ``SHAPES`` have it.

    Parameters
    ----------
    energy_meV : (energy_bins,) float64
    use : (energy_bins,) bool
    """
    some = energy_meV[use] if use.any() else energy_meV
    low, high = float(some.min()), float(some.max())
    return np.clip(2 * (energy_meV - low) / max(high - low, 1e-12) - 1, -1, 1)


def contrast_of(rate: FloatArray, exposure: FloatArray) -> FloatArray:
    """Derivative of expected counts (cells,) by the power of their intensity, exposure known."""
    logarithm = np.log(np.maximum(rate / exposure, 1e-9 * rate.sum() / exposure.sum()))
    return rate * (logarithm - np.average(logarithm, weights=rate))
