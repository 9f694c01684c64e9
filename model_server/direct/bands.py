"""Split-conformal bands of a density of states: where the true intensities lie.

What share of the errors over their expected size stays below a factor is counted on crystals that
the prediction has not learned from, so the stated level holds for crystals like them, whatever
predicts.

References
----------
A. N. Angelopoulos and S. Bates, arXiv:2107.07511 (2021), sections 1 and 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from model_server.direct.bins import BINS, energy_edges_meV
from simulations.arrays import FloatArray

LEVEL = 0.9
_PAIRED = 2  # bins of a band
_REACH = 0.995  # bands end where this share of the predicted modes lies, and one band more


@dataclass(frozen=True, kw_only=True, slots=True)
class Bands:
    """How wide bands are, in sizes that errors are expected to have."""

    factor: float  # of the expected size of an error
    relative: float  # expected error per predicted density
    floor: float  # expected error per highest predicted density

    def around(self, total: FloatArray, totals: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest share per band at `LEVEL`, each (BINS / 2,).

        Parameters
        ----------
        total : (BINS,) float64
            Predicted shares.
        totals : (members, BINS) float64
            Predictions that differ as far as the route is not sure.
        """
        share = banded(total)
        reach = self.factor * _sizes(total, totals, self.relative, self.floor)
        return np.maximum(share - reach, 0.0), share + reach


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BandCase:
    """A crystal whose density is known, and what was predicted; shares (BINS,)."""

    total: FloatArray
    totals: FloatArray  # (members, BINS)
    true: FloatArray


def band_edges_meV() -> FloatArray:
    """Edges of the bands, (BINS / 2 + 1,)."""
    return energy_edges_meV()[::_PAIRED]


def banded(shares: FloatArray) -> FloatArray:
    """Shares of bins summed to bands, (..., BINS / 2)."""
    return np.asarray(shares.reshape(*shares.shape[:-1], BINS // _PAIRED, _PAIRED).sum(axis=-1))


def judged_bands(total: FloatArray) -> int:
    """How many bands are judged: up to where modes are predicted at all.

    Parameters
    ----------
    total : (BINS,) float64
        Predicted shares.
    """
    whole = np.cumsum(banded(total))
    return int(min(len(whole), np.searchsorted(whole, _REACH) + 2))


def held(bands: Bands, case: BandCase) -> float:
    """Share of the judged bands of a crystal whose true intensity lies in its band."""
    low, high = bands.around(case.total, case.totals)
    true, count = banded(case.true), judged_bands(case.total)
    return float(np.mean((true >= low - 1e-12)[:count] & (true <= high + 1e-12)[:count]))


def conformal_bands(cases: Sequence[BandCase]) -> Bands:
    """The narrowest bands of those tried that hold `LEVEL` of the intensities of the cases.

    Every crystal counts as one.
    """
    count = [judged_bands(one.total) for one in cases]
    weights = np.concatenate([np.full(n, 1.0 / n) for n in count])
    best: tuple[float, Bands] | None = None
    for relative, floor in product((0.1, 0.2, 0.3, 0.5), (0.02, 0.05, 0.1)):
        sizes = [_sizes(one.total, one.totals, relative, floor) for one in cases]
        scores = np.concatenate(
            [
                (np.abs(banded(one.true) - banded(one.total)) / size)[:n]
                for one, size, n in zip(cases, sizes, count, strict=True)
            ]
        )
        factor = _quantile(scores, weights, min(1.0, LEVEL * (1 + 1 / len(cases))))
        width = float(
            np.mean([factor * size[:n].mean() for size, n in zip(sizes, count, strict=True)])
        )
        if best is None or width < best[0]:
            best = width, Bands(factor=factor, relative=relative, floor=floor)
    assert best is not None  # noqa: S101 - several were tried
    return best[1]


def _sizes(total: FloatArray, totals: FloatArray, relative: float, floor: float) -> FloatArray:
    """Expected size of the error of every band, in shares."""
    share = banded(total)
    spread = banded(totals).std(axis=0)
    width = np.diff(band_edges_meV())
    highest = float((share / width).max())
    return np.asarray(np.sqrt(spread**2 + (relative * share) ** 2 + (floor * highest * width) ** 2))


def _quantile(values: FloatArray, weights: FloatArray, level: float) -> float:
    order = np.argsort(values)
    whole = np.cumsum(weights[order])
    return float(values[order][min(len(order) - 1, np.searchsorted(whole, level * whole[-1]))])
