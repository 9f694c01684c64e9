"""Imaginary modes: small pockets of them are counted in a stated way, unstable crystals refused.

A pocket is an artefact as often as physics: a supercell too small for the flattest branch, residual
forces, a structure relaxed for another functional. Spectra of the other modes are right without it
as long as few modes are concerned and their negative force constants are within the error of all
the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, pi, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from simulations.arrays import FloatArray
from simulations.constants import NOISE_MEV
from simulations.crystal import Treatment
from simulations.dynamics import ForceConstantModel, PhononDos, phonon_dos
from simulations.errors import InputError
from simulations.kernels import njit
from simulations.reciprocal import irreducible_mesh, mesh_divisions

STABLE_MEV = 1e-3
"""Modes below this energy carry no one-phonon line."""

POCKET_SHARE = 0.01
"""Largest share of all modes that a pocket holds: without it, sums over modes lose a percent."""

POCKET_DEPTH = 0.1
"""Largest modulus over the highest energy. Force constants go with the square: no deeper than one
percent of the stiffest, about what supercells and residual forces leave uncertain.

Of 45 crystals drawn from phonondb, 7 have pockets of 0.03 to 0.2 % of the modes, at most 8 % deep;
5 have 2 to 5 % imaginary modes, 12 % deep and more, and in solid nitrogen molecules turn (4 %).
"""

MEND = (
    "relax it, or compute them in a larger supercell, or, if it is stable only when warm, take "
    "constants of that temperature (anharmonic, renormalised)"
)
"""What would make a crystal stable."""

_FLOOR = 0.2  # of the depth: there energies are as good as unknown
_LOOKED_STEP = 0.05  # 1/angstrom, of the mesh that tells whether a crystal has any


@dataclass(frozen=True, kw_only=True, slots=True)
class Pockets:
    """How spectra count the modes of a crystal that has small pockets of imaginary ones."""

    floor_meV: float  # real modes below are counted as if they were here
    damped: bool  # imaginary modes count by their modulus, as wide as that; else they are left out

    @property
    def depth_meV(self) -> float:
        """How far below zero the modes lie that these were made for."""
        return self.floor_meV / _FLOOR


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
    size, width = np.empty(energies.shape), np.empty(energies.shape)
    _count(
        np.ravel(energies), pockets.floor_meV, pockets.damped,
        live.reshape(-1), size.reshape(-1), width.reshape(-1),
    )  # fmt: skip
    return live, size, width


@njit(cache=True)
def count_mode(energy, floor, damped):
    """Whether a mode counts, by which energy, and its own width, meV: the rule of `Pockets`."""
    if energy > STABLE_MEV:
        return True, max(energy, floor), 0.0
    if damped and energy < -NOISE_MEV:
        size = max(-energy, floor)
        return True, size, size
    return False, 1.0, 0.0


@njit(cache=True)
def _count(energies, floor, damped, live, size, width):
    for k in range(len(energies)):
        live[k], size[k], width[k] = count_mode(energies[k], floor, damped)


@njit(cache=True, error_model="numpy")
def damped_line(energy, size, spread, thermal):
    """Line of an imaginary mode at an energy transfer, and its derivative by ``size``.

    Creation and annihilation, as wide as their energy ``size`` besides ``spread``:
    ``((n + 1) G(energy - size) + n G(energy + size)) / size``, 1/meV^2.
    """
    n = 0.0
    if thermal > 0.0:
        x = min(size / thermal, 700.0)
        n = 1.0 / np.expm1(x)
    square = size * size + spread * spread
    value, slope = 0.0, 0.0
    for sign in (1.0, -1.0):
        away = energy - sign * size
        occupied, by_size = n + 1.0, 0.0
        if sign < 0.0:
            occupied = n
        if thermal > 0.0:
            by_size = -n * (n + 1.0) / thermal
        form = exp(-0.5 * away * away / square) / sqrt(2.0 * pi * square) / size
        value += occupied * form
        slope += form * (
            by_size
            + occupied
            * (sign * away / square + (away * away / square - 1.0) * size / square - 1.0 / size)
        )
    return value, slope


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
    top = float(dos.energy_edges_meV[-1]) / 1.05
    return _judged(dos.imaginary_share, -dos.imaginary.lowest_meV, top, treatment)


def _judged(share: float, depth: float, top: float, treatment: Treatment) -> Pockets:
    if treatment == "refuse":
        raise InputError("imaginary modes are refused, as asked")
    if share > POCKET_SHARE or depth > POCKET_DEPTH * top:
        raise InputError(
            f"that is no small pocket: expected at most {POCKET_SHARE:.0%} of the modes, no deeper "
            f"than {POCKET_DEPTH:.0%} of the highest energy ({POCKET_DEPTH * top:.3g} meV)"
        )
    return Pockets(floor_meV=max(_FLOOR * depth, NOISE_MEV), damped=treatment == "damped")


def imaginary_words(share: float, lowest_meV: float, hkl: FloatArray) -> str:
    """How many modes are imaginary, where the lowest one is, and what would mend the crystal.

    Parameters
    ----------
    share : float
        Of all modes of the zone.
    lowest_meV : float
        Negative.
    hkl : (3,) float64
        r.l.u.
    """
    return (
        f"{100 * share:.2g} % of the modes are imaginary; the lowest, {-lowest_meV:.3g}i meV, is "
        f"at q = {_place(hkl)} r.l.u. The structure is not stable with these force constants: "
        f"{MEND}."
    )


def pocket_words(pockets: Pockets, share: float, lowest_meV: float, hkl: FloatArray) -> str:
    """A small pocket: how many modes, where, and what becomes of them; as `imaginary_words`."""
    done = "counted by their modulus, as wide as that" if pockets.damped else "left out"
    return (
        f"{100 * share:.2g} % of the modes are imaginary, a small pocket down to "
        f"{-lowest_meV:.3g}i meV at q = {_place(hkl)} r.l.u.; they are {done}, and real modes "
        f"below {pockets.floor_meV:.2g} meV count as if there. To be rid of it: {MEND}."
    )


def _place(hkl: FloatArray) -> str:
    h, k, l = (round(float(x), 3) + 0.0 for x in hkl)  # noqa: E741
    return f"({h:g}, {k:g}, {l:g})"


def look_for_pockets(model: ForceConstantModel, treatment: Treatment) -> tuple[Pockets | None, str]:
    """How the imaginary modes of a crystal count, and that in words; None where there are none.

    A density of states is made only where a mesh of 0.05 1/angstrom finds some.

    Parameters
    ----------
    model : ForceConstantModel
        At its reference.
    treatment : "left_out", "damped" or "refuse"

    Raises
    ------
    InputError
        As `pockets_of`, with how many there are and what would mend the crystal.
    """
    crystal = model.crystal
    divisions = 2 * np.ceil(0.5 * np.array(mesh_divisions(crystal, _LOOKED_STEP))).astype(int)
    mesh = irreducible_mesh(crystal, divisions, shifted=False)
    energies = np.concatenate(
        [
            np.linalg.eigvalsh(model.dynamical_matrices(q))
            for q in np.array_split(mesh.q_cart, 1 + len(mesh.q_cart) // 500)
        ]
    )
    energies = np.sign(energies) * np.sqrt(np.abs(energies))
    worst = int(np.argmin(energies[:, 0]))
    if energies[worst, 0] >= -NOISE_MEV:
        return None, ""
    dos = phonon_dos(model)
    if dos.imaginary is None:  # a pocket between the points of its mesh
        share = float(mesh.weights @ (energies < -NOISE_MEV).mean(axis=1) / mesh.weights.sum())
        lowest, q = float(energies[worst, 0]), mesh.q_cart[worst]
    else:
        share, lowest, q = dos.imaginary_share, dos.imaginary.lowest_meV, dos.imaginary.q_cart
    found = (share, lowest, q @ np.linalg.inv(crystal.conventional_reciprocal))
    try:
        pockets = _judged(share, -lowest, float(dos.energy_edges_meV[-1]) / 1.05, treatment)
    except InputError as reason:
        raise InputError(
            f"structure: {imaginary_words(*found)} No spectrum is made of them: {reason}. Look at "
            "them with `beamsteer phonons`."
        ) from None
    return pockets, pocket_words(pockets, *found)


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
