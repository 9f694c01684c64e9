"""S(|Q|,E) of a powder where there are no force constants: all scattering as if incoherent."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from simulations.arrays import FloatArray
from simulations.crystal import Crystal
from simulations.dynamics import PhononDos
from simulations.instrument import Resolution
from simulations.scattering import SigmaOfEnergy, incoherent_spectrum

INCOHERENT = (
    "coherent: one phonon in the incoherent approximation, since the route has no force constants; "
    "its intensity is right on average over |Q|, what interferes (acoustic branches at low |Q|, "
    "Bragg-like structure along |Q|) is missing"
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IncoherentPowder:
    """Parts of S(|Q|,E), (Q, E) each, barn/meV/sr per primitive cell."""

    coherent: FloatArray
    incoherent: FloatArray
    multiphonon: FloatArray


def incoherent_powder(
    crystal: Crystal,
    dos: PhononDos,
    momentum_edges: FloatArray,
    energy_edges_meV: FloatArray,
    *,
    temperature_K: float,
    resolution: Resolution | SigmaOfEnergy | float,
    ei_meV: float | None,
    max_order: int,
    beyond: bool = False,
) -> IncoherentPowder:
    """One phonon with both cross sections, and multiphonon scattering, from a density of states.

    Parameters
    ----------
    crystal, dos, momentum_edges, energy_edges_meV, temperature_K, resolution, ei_meV, max_order
        As `incoherent_spectrum`.
    beyond : bool
        Likewise.
    """
    own = 4 * np.pi * crystal.scattering_length**2
    together = replace(
        crystal,
        incoherent_barn=crystal.incoherent_barn + own,
        scattering_length=np.zeros(crystal.n_atoms),
    )
    found = incoherent_spectrum(
        together,
        dos,
        momentum_edges,
        energy_edges_meV,
        temperature_K=temperature_K,
        resolution=resolution,
        ei_meV=ei_meV,
        max_order=max_order,
        beyond=beyond,
    )
    first = [crystal.symbols.index(symbol) for symbol in found.elements]
    share = own[first] / np.maximum(together.incoherent_barn[first], 1e-300)
    one = found.partials[:, 1]
    coherent = np.einsum("l,lqe->qe", share, one)
    return IncoherentPowder(
        coherent=coherent,
        incoherent=np.maximum(one.sum(axis=0) - coherent, 0.0),
        multiphonon=found.multiphonon,
    )
