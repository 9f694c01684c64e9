"""Bands of the density of states of routes that have force constants: what ships.

``density_bands.yaml`` was measured against known densities; it names the command.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from scipy.special import ndtri

from simulations.arrays import FloatArray
from simulations.dynamics import PhononDos
from steering.predict.vibrations import DosBand

if TYPE_CHECKING:  # torch comes with it
    from model_server.direct import Bands

_COPIES = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class DensityBands:
    """How far a route's density of states was found to be off, bin by bin."""

    route: str
    stretch: float  # standard deviation of the route's mean energy over the true one
    factor: float
    relative: float
    floor: float
    counted: int  # crystals that the factor was counted on
    held: float  # share of the intensities of crystals inside bands that the others count
    against: str  # what counts as true

    @property
    def bands(self) -> Bands:
        """Factors, as the networks of route direct have them."""
        from model_server.direct import Bands

        return Bands(factor=self.factor, relative=self.relative, floor=self.floor)


def bands_of(route: str) -> DensityBands | None:
    """What was measured of a route or a force field; None where nothing was."""
    return _known().get(route)


def density_band(dos: PhononDos, known: DensityBands) -> DosBand:
    """The band of a density of states.

    Parameters
    ----------
    dos : PhononDos
    known : DensityBands

    Returns
    -------
    DosBand
        In bins of 20 cm^-1 to 1000 cm^-1, wider above.
    """
    from model_server.direct import LEVEL, band_edges_meV

    total, totals = stretched_shares(dos, known.stretch)
    low, high = known.bands.around(total, totals)
    edges = band_edges_meV()
    modes = float(dos.total @ np.diff(dos.energy_edges_meV))
    scale = modes / np.diff(edges)
    return DosBand(
        energy_edges_meV=edges,
        low=low * scale,
        high=high * scale,
        level=LEVEL,
        words=f"split-conformal band of the density, counted on {known.counted} crystals against "
        f"{known.against}; {known.held:.1%} of the intensities of crystals that did not count lay "
        "inside",
    )


def stretched_shares(dos: PhononDos, stretch: float) -> tuple[FloatArray, FloatArray]:
    """Shares of the modes as the networks of route direct bin them, and with energies stretched.

    Returns
    -------
    (BINS,) float64
    (copies, BINS) float64
        Of a normal distribution of the stretch.
    """
    factors = 1 + stretch * ndtri((np.arange(_COPIES) + 0.5) / _COPIES)
    return _shares(dos, 1.0), np.array([_shares(dos, float(one)) for one in factors])


def _shares(dos: PhononDos, factor: float) -> FloatArray:
    from model_server.direct import energy_edges_meV

    whole = np.concatenate([[0.0], np.cumsum(dos.total * np.diff(dos.energy_edges_meV))])
    edges = energy_edges_meV().copy()
    edges[-1] = np.inf  # what lies above counts in the last bin
    return np.diff(np.interp(edges / factor, dos.energy_edges_meV, whole / whole[-1]))


@cache
def _known() -> dict[str, DensityBands]:
    text = resources.files("steering.predict").joinpath("density_bands.yaml").read_text("utf-8")
    rows: dict[str, Any] = yaml.safe_load(text) or {}
    return {route: DensityBands(route=route, **row) for route, row in rows.items()}
