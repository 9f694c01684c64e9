"""How unlike maps of S(|Q|,E) are that densities of sites stand for: a part of what networks learn.

Neutrons see the sites of a crystal by their cross sections over their masses, low energies more
than high ones, and with a resolution. What a density is off by counts here as much as it is seen.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from model_server.direct.bins import energy_edges_meV
from model_server.direct.network import ELEMENTS, Batch, atomic_masses
from simulations.constants import HBAR2_OVER_U
from simulations.crystal import neutron_data
from simulations.errors import InputError

TOP_MEV, BINS, SIGMA_MEV = 150.0, 100, 0.64
MOMENTA_INVERSE_A = np.linspace(1.5, 14.5, 8)
LOWEST_MEV = 1.2  # softer modes count as if there
UNKNOWN_BARN = 5.0  # of an element without neutron data
_PARTS = 4  # of a bin of the densities


def maps_unlike(shares: Tensor, batch: Batch, target: Tensor) -> Tensor:
    """Mean squared difference of the brightened maps of two sets of shares, (crystals,).

    Parameters
    ----------
    shares, target : (atoms, bins) float32
        An atom sums to 1.
    batch : Batch
        What the atoms belong to.
    """
    off = _brightened(incoherent_maps(shares, batch)) - _brightened(incoherent_maps(target, batch))
    return (off**2).mean(dim=(1, 2))


def incoherent_maps(shares: Tensor, batch: Batch) -> Tensor:
    """Maps over their highest value, (crystals, momenta, energies).

    Approximate: one phonon at 0 K, all scattering as if incoherent, motion the same in all
    directions; at `MOMENTA_INVERSE_A`, in bins up to `TOP_MEV`, with a resolution of `SIGMA_MEV`.
    """
    lines, inverse_energy, strength, displacement, square = (
        one.to(shares.device) for one in _tables()
    )
    mean_square = displacement[batch.numbers] * (shares @ inverse_energy)
    seen = strength[batch.numbers, None] * square * torch.exp(-square * mean_square[:, None])
    each = seen[:, :, None] * (shares @ lines)[:, None, :]
    total = each.new_zeros(batch.crystals, *each.shape[1:]).index_add(0, batch.crystal, each)
    return total / total.amax(dim=(1, 2), keepdim=True)


def _brightened(maps: Tensor) -> Tensor:
    return 1 - (1 - maps) ** 3


@cache
def _tables() -> tuple[Tensor, ...]:
    """What a share of each bin adds to energies, (bins, BINS), and to 1/E, (bins,); of elements.

    By atomic number the cross section over the mass, barn/dalton, and half of hbar^2 over the mass,
    meV angstrom^2; the squares of the momenta.
    """
    edges = energy_edges_meV()
    within = (np.arange(_PARTS) + 0.5) / _PARTS
    at = edges[:-1, None] + within * np.diff(edges)[:, None]
    energy = np.maximum(at, LOWEST_MEV)
    bins = np.linspace(0.0, TOP_MEV, BINS + 1)
    inside = np.diff(ndtr((bins - at[..., None]) / SIGMA_MEV), axis=-1)
    masses = np.where(atomic_masses() > 0, atomic_masses(), 1.0)
    found = (
        (inside / energy[..., None]).mean(axis=1),
        (1 / energy).mean(axis=1),
        np.array([_barn(number) for number in range(ELEMENTS + 1)]) / masses,
        0.5 * HBAR2_OVER_U / masses,
        MOMENTA_INVERSE_A**2,
    )
    return tuple(torch.as_tensor(one, dtype=torch.float32) for one in found)


def _barn(number: int) -> float:
    """Coherent and incoherent cross section of an element."""
    from pymatgen.core import Element

    if number == 0:
        return 0.0
    try:
        _, length, incoherent = neutron_data((Element.from_Z(number).symbol,))
    except InputError:
        return UNKNOWN_BARN
    return float(4 * np.pi * length[0] ** 2 + incoherent[0])
