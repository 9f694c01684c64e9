"""S(E) of an indirect-geometry vibrational spectrometer such as TOSCA or VISION.

Analysers accept one final energy at fixed scattering angles, so every energy transfer has its own
momentum transfer in each bank. Approximations are those of `incoherent`: atoms scatter by
themselves, with their total cross section once they exchange phonons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from simulations.arrays import FloatArray
from simulations.constants import NEUTRON_MEV_A2
from simulations.crystal import Crystal
from simulations.dynamics import PhononDos
from simulations.errors import InputError
from simulations.scattering.incoherent import APPROXIMATION, elements_of
from simulations.scattering.one_phonon import gaussian_bins
from simulations.scattering.powder import SigmaOfEnergy, sigma_function
from simulations.scattering.site_motion import (
    MAX_ORDER,
    atom_motions,
    beyond_orders,
    energy_grid,
    grid_smearing,
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IndirectInstrument:
    """Banks of analysers that accept one final energy."""

    name: str
    final_energy_meV: float
    banks: tuple[str, ...]
    two_theta_deg: tuple[float, ...]  # scattering angle of each bank
    sigma_meV: SigmaOfEnergy  # of the energy resolution, by energy transfer
    source: str


def fractional_resolution(fwhm_share: float = 0.0124, floor_meV: float = 0.1) -> SigmaOfEnergy:
    """Gaussian resolution whose full width at half maximum is a share of the energy transfer.

    Parameters
    ----------
    fwhm_share : float
        Full width over energy transfer.
    floor_meV : float
        Smallest full width, meV: the elastic line is not infinitely narrow.

    Returns
    -------
    callable
        Standard deviation in meV of energy transfers in meV.
    """
    if not (fwhm_share >= 0 and floor_meV > 0):
        raise InputError(
            f"resolution has share {fwhm_share} and floor {floor_meV} meV; expected >= 0 and > 0"
        )

    def sigma(energy_meV: FloatArray) -> FloatArray:
        return np.maximum(fwhm_share * np.abs(energy_meV), floor_meV) / 2.354820045

    return sigma


_MEV_PER_WAVENUMBER = 0.1239841984
_MOST_BINS = 4000


def _tosca_sigma(energy_meV: FloatArray) -> FloatArray:
    """2.5 + 0.005 w + 1e-7 w^2 with all in 1/cm."""
    wave = np.abs(np.asarray(energy_meV, dtype=float)) / _MEV_PER_WAVENUMBER
    return _MEV_PER_WAVENUMBER * (2.5 + 0.005 * wave + 1e-7 * wave**2)


INDIRECT_INSTRUMENTS = {
    "TOSCA": IndirectInstrument(
        name="TOSCA",
        final_energy_meV=32 * _MEV_PER_WAVENUMBER,
        banks=("forward", "backward"),
        two_theta_deg=(45.0, 134.98885653),
        sigma_meV=_tosca_sigma,
        source="geometry and polynomial width as Mantid's Abins states them for TOSCA",
    ),
    "VISION": IndirectInstrument(
        name="VISION",
        final_energy_meV=3.5,
        banks=("forward", "backward"),
        two_theta_deg=(45.0, 135.0),
        sigma_meV=fractional_resolution(),
        source="nominal: final energy near 3.5 meV, angles 45 and 135 degrees, full width 1.24 % "
        "of the energy transfer and at least 0.1 meV; no calibration of the instrument",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VibrationalSpectrum:
    """S(E) of every bank per primitive cell, by element and by the number of phonons."""

    instrument: str
    banks: tuple[str, ...]
    energy_edges_meV: FloatArray  # (E + 1,)
    momentum: FloatArray  # (banks, E) |Q| at the bins' centres, 1/angstrom; NaN: out of reach
    elements: tuple[str, ...]  # chemical symbols
    partials: FloatArray  # (elements, banks, order, E) barn/meV/sr; order 0 is the elastic line
    approximation: str

    @property
    def orders(self) -> FloatArray:
        """Elastic line, fundamentals, then overtones and combinations, (banks, order, E)."""
        return self.partials.sum(axis=0)

    @property
    def total(self) -> FloatArray:
        """All orders, (banks, E)."""
        return self.partials.sum(axis=(0, 2))


def resolved_edges(
    top_meV: float,
    instrument: IndirectInstrument | str = "VISION",
    resolution: Callable[[FloatArray], FloatArray] | float | None = None,
) -> FloatArray:
    """Energy edges from zero to above ``top_meV`` that show what a resolution leaves.

    A bin is a third of the full width at half maximum, and no less than a share of 4000 of the
    whole.

    Parameters
    ----------
    top_meV : float
    instrument, resolution
        As for `vibrational_spectrum`.

    Returns
    -------
    (E + 1,) float64
    """
    own = _instrument(instrument).sigma_meV if resolution is None else resolution
    sigma_of, least = sigma_function(own, None), top_meV / _MOST_BINS
    edges = [0.0]
    while edges[-1] < top_meV:
        full_width = 2.354820045 * float(np.asarray(sigma_of(np.array(edges[-1:])))[0])
        edges.append(edges[-1] + max(full_width / 3, least))
    return np.array(edges)


def bank_momentum(
    energy_meV: ArrayLike, final_energy_meV: float, two_theta_deg: float
) -> FloatArray:
    """|Q| that belongs to an energy transfer at a fixed final energy and angle.

    Parameters
    ----------
    energy_meV : (...) float64
        Positive when the neutron loses energy.
    final_energy_meV : float
    two_theta_deg : float
        Scattering angle.

    Returns
    -------
    (...) float64
        1/angstrom; NaN where the incident energy would not be positive.
    """
    if not final_energy_meV > 0:
        raise InputError(f"final_energy_meV is {final_energy_meV}; expected a positive energy")
    incident = np.asarray(energy_meV, dtype=float) + final_energy_meV
    incident = np.where(incident > 0, incident, np.nan)
    cross = 2 * np.sqrt(incident * final_energy_meV) * np.cos(np.deg2rad(two_theta_deg))
    return np.sqrt(np.maximum(incident + final_energy_meV - cross, 0.0) / NEUTRON_MEV_A2)


def vibrational_spectrum(
    crystal: Crystal,
    dos: PhononDos,
    energy_edges_meV: ArrayLike,
    *,
    temperature_K: float,
    instrument: IndirectInstrument | str = "VISION",
    resolution: Callable[[FloatArray], FloatArray] | float | None = None,
    max_order: int = MAX_ORDER,
    displacement: FloatArray | None = None,
    beyond: bool = False,
) -> VibrationalSpectrum:
    """S(E) along the trajectory of every bank: fundamentals, overtones and combinations.

    Parameters
    ----------
    crystal : Crystal
    dos : PhononDos
        Of the crystal; without tensors its motion counts as isotropic.
    energy_edges_meV : (E + 1,) float64
        Energy transfer; both signs allowed, nothing is seen below minus the final energy.
    temperature_K : float
    instrument : IndirectInstrument or str
        A name of `INDIRECT_INSTRUMENTS`.
    resolution : callable, float or None
        Standard deviation in meV, in place of the instrument's.
    max_order : int
        Highest number of phonons, 1 to 10.
    displacement : (atoms, 3, 3) float64 or None
        Debye-Waller tensors; None: what the density of states itself gives.
    beyond : bool
        Let the last order have what more phonons scatter, see `beyond_orders`.

    Returns
    -------
    VibrationalSpectrum
        Phonons scatter with the total cross section (coherent + incoherent), the elastic line with
        the incoherent one; Bragg lines are left out. S(Q,E), so no k_f/k_i.

    Raises
    ------
    ValueError
        If the instrument is unknown, edges do not increase, or ``max_order`` is out of range.

    References
    ----------
    P. C. H. Mitchell, S. F. Parker, A. J. Ramirez-Cuesta and J. Tomkinson, Vibrational Spectroscopy
    with Neutrons (World Scientific, 2005), chapters 2 and 3.
    """
    instrument = _instrument(instrument)
    edges = np.asarray(energy_edges_meV, dtype=float)
    if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0):
        raise InputError("energy_edges_meV: expected at least two increasing edges")
    sigma_of = sigma_function(instrument.sigma_meV if resolution is None else resolution, None)
    grid = energy_grid(dos, edges, max_order, sigma_of)
    seen, smear = grid_smearing(grid, edges, sigma_of)
    elastic = gaussian_bins(edges, np.zeros(1), np.atleast_1d(sigma_of(np.zeros(1))))[0]
    angles = instrument.two_theta_deg
    # |Q|^2 on the grid: the neutron's momentum follows its true energy, then comes resolution
    squared = np.array(
        [bank_momentum(grid[seen], instrument.final_energy_meV, angle) ** 2 for angle in angles]
    )
    reached = np.isfinite(squared)
    squared = np.where(reached, squared, 0.0)
    at_rest = np.array(
        [bank_momentum(0.0, instrument.final_energy_meV, angle) ** 2 for angle in angles]
    )
    centres = 0.5 * (edges[1:] + edges[:-1])
    momentum = np.array(
        [bank_momentum(centres, instrument.final_energy_meV, angle) for angle in angles]
    )
    elements, element_of = elements_of(crystal)
    partials = np.zeros((len(elements), len(angles), max_order + 1, len(edges) - 1))
    for motion in atom_motions(
        crystal, dos, temperature_K, grid, max_order, displacement=displacement
    ):
        a = motion.atom
        incoherent = motion.share * crystal.incoherent_barn[a] / (4 * np.pi)
        total = incoherent + motion.share * crystal.scattering_length[a] ** 2
        orders = partials[element_of[a]]
        decay = np.exp(-at_rest * motion.mean_square)
        orders[:, 0] += incoherent * decay[:, None] * elastic
        x = squared * motion.mean_square
        factor = np.where(reached, total * np.exp(-x), 0.0)
        for p, spectrum in enumerate(motion.orders[:, seen], start=1):
            factor = factor * x / p
            orders[:, p] += (factor * spectrum) @ smear
        for b in range(len(angles) if beyond else 0):
            orders[b, -1] += total * beyond_orders(
                motion, grid, np.nan_to_num(momentum[b] ** 2), edges, sigma_of, along=True
            )
    return VibrationalSpectrum(
        instrument=instrument.name,
        banks=instrument.banks,
        energy_edges_meV=edges,
        momentum=momentum,
        elements=elements,
        partials=partials,
        approximation=f"{APPROXIMATION}; total cross section for phonons; harmonic",
    )


def _instrument(instrument: IndirectInstrument | str) -> IndirectInstrument:
    if not isinstance(instrument, str):
        return instrument
    if instrument not in INDIRECT_INSTRUMENTS:
        raise InputError(
            f"instrument is {instrument!r}; expected one of "
            f"{', '.join(sorted(INDIRECT_INSTRUMENTS))}"
        )
    return INDIRECT_INSTRUMENTS[instrument]
