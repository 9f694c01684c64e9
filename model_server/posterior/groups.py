"""Neighbouring cells joined until enough counts are expected in each group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model_server.posterior.aside import Piece
from simulations.arrays import BoolArray, FloatArray, IntArray

GROUP_COUNTS = 10.0  # cells along energy are joined until this many counts are expected
MODEL_ERROR = 0.02  # relative error the one-phonon model of a tube may have in a group of cells
LINE_SHIFT_BINS = 0.03  # error of a line's place in a tube, in energy bins


def groups_of(expected: FloatArray, use: BoolArray, *, gaussian: bool) -> IntArray:
    """Number of every cell's group, (path_bins, energy_bins); -1: it is in none.

    Neighbouring energies of a path bin are joined until ``GROUP_COUNTS`` are expected; a rest too
    small to stand alone is left out. Cells of reduced data stand alone.
    """
    label = np.full(expected.shape, -1)
    count = 0
    for b in range(use.shape[0]):
        cells = np.flatnonzero(use[b])
        numbers: list[int] = []  # of the cells that are in a group
        together, waiting = 0.0, 0
        for one in expected[b, cells].tolist():  # plain numbers: a tenth of the time
            waiting += 1
            together += one
            if gaussian or together >= GROUP_COUNTS:
                numbers.extend([count] * waiting)
                count, together, waiting = count + 1, 0.0, 0
        label[b, cells[: len(numbers)]] = numbers
    return label


def summed(values: FloatArray, groups: IntArray) -> FloatArray:
    """Sums of cells (path_bins, energy_bins) over their groups, (groups,)."""
    some = groups >= 0
    return np.bincount(groups[some], weights=values[some]).astype(np.float64)


def excused(expected: FloatArray, groups: IntArray) -> FloatArray:
    """Variance of groups by what the model of a tube may be wrong by, (groups,).

    ``MODEL_ERROR`` of the rate and a shift of ``LINE_SHIFT_BINS`` of the lines.
    """
    slope = np.zeros_like(expected)
    slope[:, 1:] = np.abs(np.diff(expected, axis=1))
    slope[:, :-1] = np.maximum(slope[:, :-1], slope[:, 1:])
    shift = LINE_SHIFT_BINS * summed(slope, groups)
    return (MODEL_ERROR * summed(expected, groups)) ** 2 + shift**2


def chi_square_alone(
    piece: Piece, expected: FloatArray, covariance: FloatArray, free: BoolArray
) -> tuple[float, float]:
    """Chi-square of one orientation's groups with its scale free, and its degrees of freedom.

    What one orientation has too much of and another too little is nothing of all together. Of
    counts alone: cells of reduced data have errors that go with their own fluctuations.

    Parameters
    ----------
    piece : Piece
    expected : (cells,) float64
        Of the piece's cells, at the answer.
    covariance : (P + H, P + H) float64
        Of theta and of the ways to be off.
    free : (H,) bool
        Ways that are marginalised.
    """
    linear, use = piece.linear, piece.use
    if linear.variance is not None:
        return 0.0, 0.0
    model, data = np.zeros(use.shape), np.zeros(use.shape)
    model[use], data[use] = expected, linear.data
    groups = groups_of(model, use, gaussian=False)
    label = groups[use]
    some = label >= 0
    if np.count_nonzero(some) == 0 or label.max() < 1:
        return 0.0, 0.0
    counts, rate = summed(data, groups), summed(model, groups)
    scale = float(counts.sum() / rate.sum())
    rate *= scale
    variance = rate + scale**2 * excused(model, groups)
    columns = np.column_stack([linear.slope, piece.ways * free])[some]
    slope = np.add.reduceat(columns, np.flatnonzero(np.diff(label[some], prepend=-1)))
    told = float(np.sum((slope @ covariance) * slope / variance[:, None]))
    return float(np.sum((counts - rate) ** 2 / variance)), max(len(rate) - 1.0 - told, 1.0)


def told_by_groups(
    pieces: Sequence[Piece], expected: FloatArray, joint: FloatArray, free: BoolArray
) -> float:
    """Degrees of freedom that a fit takes from groups of its cells.

    That is the trace of A covariance A^T / variance, A the derivatives of the groups' expected
    counts. Below the number of parameters where the prior tells some of them, and where cells tell
    what their groups do not: of few counts, most of it.

    Parameters
    ----------
    pieces : sequence of Piece
        Of every orientation, at the answer.
    expected : (path_bins, energy_bins) float64
        Of all together.
    joint : (P + H, P + H) float64
        Precision of theta and of the ways to be off.
    free : (H,) bool
        Ways that are marginalised; the others are held, and take nothing.
    """
    gaussian = any(one.linear.variance is not None for one in pieces)
    use = np.any([one.use for one in pieces], axis=0)
    groups = groups_of(expected, use, gaussian=gaussian)
    count = int(groups.max()) + 1
    if count == 0:
        return 0.0
    cells, counting = np.zeros((*use.shape, len(joint))), np.zeros(use.shape)
    for one in pieces:
        cells[one.use] += np.column_stack([one.linear.slope, one.ways * free])
        counting[one.use] += one.variance
    slope, variance = np.zeros((count, len(joint))), summed(counting, groups)
    np.add.at(slope, groups[groups >= 0], cells[groups >= 0])
    covariance = np.asarray(np.linalg.inv(joint), dtype=np.float64)
    return float(np.sum((slope @ covariance) * slope / variance[:, None]))
