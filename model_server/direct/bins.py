"""Energy bins that site densities are predicted on: 10 cm^-1 to 124 meV, then 5 % wide each."""

from __future__ import annotations

import numpy as np

from simulations.arrays import FloatArray

MEV_PER_CM1 = 0.1239841984
"""h c: of a wave number of 1 cm^-1."""

_EVEN, _EVEN_TOP_CM1 = 100, 1000.0
_WIDENING, _TOP_CM1 = 28, 4000.0
BINS = _EVEN + _WIDENING


def energy_edges_meV() -> FloatArray:
    """Edges of all bins, (BINS + 1,) meV, 0 to 496: O-H stretches lie inside."""
    even = np.linspace(0.0, _EVEN_TOP_CM1, _EVEN + 1)
    wide = np.geomspace(_EVEN_TOP_CM1, _TOP_CM1, _WIDENING + 1)[1:]
    return np.asarray(np.concatenate([even, wide]) * MEV_PER_CM1, dtype=np.float64)


LITERATURE_CM1 = np.linspace(0.0, 1000.0, 51)
"""Where the literature compares densities of states: 51 points."""


def on_literature_points(shares: FloatArray) -> FloatArray:
    """Densities at the 51 points of the literature, divided by their highest value.

    Parameters
    ----------
    shares : (..., BINS) float64
        Share of the modes in every bin.

    Returns
    -------
    (..., 51) float64
        Mean density within 10 cm^-1 of each point; all zero where no mode lies there.
    """
    whole = np.cumsum(shares[..., :_EVEN], axis=-1)
    whole = np.concatenate([np.zeros((*whole.shape[:-1], 1)), whole], axis=-1)
    edges = np.clip(np.arange(-10.0, 1011.0, 20.0), 0.0, _EVEN_TOP_CM1)
    at = np.rint(edges / 10.0).astype(int)
    density = np.diff(whole[..., at], axis=-1) / np.diff(edges)
    top = density.max(axis=-1, keepdims=True)
    return np.asarray(density / np.where(top > 0, top, 1.0), dtype=np.float64)
