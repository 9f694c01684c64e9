"""Imaginary modes: small pockets of them are counted in a stated way, unstable crystals refused.

A pocket is an artefact as often as physics: a supercell too small for the flattest branch, residual
forces, a structure relaxed for another functional. Spectra of the other modes are right without it
as long as few modes are concerned and their negative force constants are within the error of all
the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from simulations.arrays import FloatArray
from simulations.dynamics import NOISE_MEV, PhononDos
from simulations.errors import InputError

STABLE_MEV = 1e-3
"""Modes below this energy carry no one-phonon line."""

POCKET_SHARE = 0.01
"""Largest share of all modes that a pocket holds: without it, sums over modes lose a percent."""

POCKET_DEPTH = 0.1
"""Largest modulus over the highest energy. Force constants go with the square: no deeper than one
percent of the stiffest, about what supercells and residual forces leave uncertain.

Of 45 crystals drawn from phonondb, 8 have pockets of 0.03 to 0.2 % of the modes, at most 8 % deep;
5 have 2 to 5 % imaginary modes, 12 % deep and more, and in solid nitrogen molecules turn (4 %).
"""

_FLOOR = 0.2  # of the depth: there energies are as good as unknown
Treatment = Literal["left_out", "damped", "refuse"]
"""What to do with the modes of a pocket."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pockets:
    """How spectra count the modes of a crystal that has small pockets of imaginary ones."""

    floor_meV: float  # real modes below are counted as if they were here
    damped: bool  # imaginary modes count by their modulus, as wide as that; else they are left out


def counted(
    energies: FloatArray, q_cart: FloatArray, pockets: Pockets | None
) -> tuple[NDArray[np.bool_], FloatArray, FloatArray]:
    """Which modes count, by which energies, and how much wider than the resolution they are.

    Parameters
    ----------
    energies : (Q, n) float64
        meV, negative where imaginary.
    q_cart : (Q, 3) float64
    pockets : Pockets or None
        None: imaginary modes are refused.

    Returns
    -------
    live : (Q, n) bool
    size : (Q, n) float64
        meV; 1 where not live.
    width : (Q, n) float64
        Standard deviation, meV.
    """
    live = energies > STABLE_MEV
    if pockets is None:
        refuse_imaginary(energies, q_cart)
        real: FloatArray = np.where(live, energies, 1.0)
        return live, real, np.zeros_like(energies)
    imaginary = energies < -NOISE_MEV
    if pockets.damped:
        live = live | imaginary
    size: FloatArray = np.where(live, np.maximum(np.abs(energies), pockets.floor_meV), 1.0)
    width: FloatArray = np.where(imaginary & live, size, 0.0)
    return live, size, width


def pockets_of(dos: PhononDos, treatment: Treatment) -> Pockets | None:
    """How the imaginary modes of a crystal count; None where there are none.

    Parameters
    ----------
    dos : PhononDos
        On a converged mesh.
    treatment : "left_out", "damped" or "refuse"

    Raises
    ------
    InputError
        If there are too many of them, they are too deep, or they are to be refused; the text says
        by how much.
    """
    if dos.imaginary_share == 0 or dos.imaginary is None:
        return None
    depth = -dos.imaginary.lowest_meV
    top = float(dos.energy_edges_meV[-1]) / 1.05
    if treatment == "refuse":
        raise InputError("imaginary modes are refused, as asked")
    if dos.imaginary_share > POCKET_SHARE or depth > POCKET_DEPTH * top:
        raise InputError(
            f"that is no small pocket: expected at most {POCKET_SHARE:.0%} of the modes, no deeper "
            f"than {POCKET_DEPTH:.0%} of the highest energy ({POCKET_DEPTH * top:.3g} meV)"
        )
    return Pockets(floor_meV=max(_FLOOR * depth, NOISE_MEV), damped=treatment == "damped")


def pocketed(dos: PhononDos, pockets: Pockets) -> PhononDos:
    """The density of states as spectra count it: by `counted`, mode for mode."""
    if dos.tensors is None or dos.imaginary is None:
        raise ValueError("the density of states has no tensors; expected one of `phonon_dos`")
    edges = dos.energy_edges_meV
    width = np.diff(edges)
    counts = dos.tensors * width
    floor = min(int(np.searchsorted(edges, pockets.floor_meV, side="right")) - 1, len(width) - 1)
    counts[..., floor] += counts[..., :floor].sum(axis=-1)
    counts[..., :floor] = 0.0
    if pockets.damped:
        below = dos.imaginary
        centre = -0.5 * (below.energy_edges_meV[1:] + below.energy_edges_meV[:-1])
        centre = np.maximum(centre, pockets.floor_meV)[:, None]
        folded = ndtr((edges - centre) / centre) + ndtr((edges + centre) / centre)
        shape = below.density @ np.diff(folded, axis=1)
        counts = counts + below.tensors[..., None] * (shape / shape.sum())
    tensors = counts / width
    return replace(dos, tensors=tensors, partial=tensors[:, :3].sum(axis=1))


def refuse_imaginary(
    energies: FloatArray, q_cart: FloatArray, tolerance_meV: float = NOISE_MEV
) -> None:
    """Raise ValueError where energies are imaginary beyond numerical noise at Gamma."""
    lowest = float(energies.min())
    if lowest < -tolerance_meV:
        q = q_cart[int(np.argmin(energies.min(axis=1)))]
        share = float(np.mean(energies < -tolerance_meV))
        raise InputError(
            f"force constants: {100 * share:.1f} % of the modes are imaginary, the lowest "
            f"{lowest:.3f} meV at q = {np.round(q, 4).tolist()} 1/angstrom; expected a dynamically "
            "stable crystal. Relax the structure or change the force constants."
        )
