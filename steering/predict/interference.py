"""Coherent scattering of a powder from springs of bonds and a density of states.

Which atoms move together, and so what interferes, is read from the modes of predicted springs;
at which energy, from the density of states: the modes, in their order, are moved to where it has
them. So a branch keeps its structure factor and gets its energy from the better source. Springs are
no more than likely: in cells of more than a few atoms, half of what they change is believed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from simulations.arrays import FloatArray
from simulations.constants import HBAR2_OVER_U
from simulations.crystal import Crystal, atomic_numbers, compact_cell
from simulations.dynamics import (
    ForceConstantModel,
    PairForceConstants,
    PhononDos,
    force_constant_model,
    modes,
    neighbour_bonds,
)
from simulations.errors import InputError
from simulations.reciprocal import irreducible_mesh, mesh_divisions
from simulations.scattering import Pockets, SigmaOfEnergy, bose, powder_spectrum, thermal_weights
from steering.predict.incoherent_powder import INCOHERENT, IncoherentPowder, incoherent_powder
from steering.predict.vibrations import Vibrations

if TYPE_CHECKING:
    from model_server.direct import SpringBundle

MOST_ATOMS = 40
"""Springs of larger cells are not solved: their modes take too long."""
STEP_INVERSE_A = 0.3
"""Of the mesh that the powder average is taken on, in cells of 20 atoms and more."""
FINEST_INVERSE_A = 0.1
"""The same in cells of 4 atoms and less."""
_BELIEVED = 0.5  # of what springs change: less wrong than all or none of it
_ALL_UP_TO = 4  # atoms, in whose few modes symmetry leaves little to mistake

INTERFERING = (
    "coherent: one phonon; which atoms move together is read from predicted springs of bonds, the "
    f"energies from the density of states; on a mesh of {FINEST_INVERSE_A} to {STEP_INVERSE_A} "
    f"1/angstrom; in cells of more than {_ALL_UP_TO} atoms {_BELIEVED:.0%} of the interference is "
    "believed"
)

_FINE = 300  # bins up to the highest mode of the springs
_PARTS = 4  # of such a bin
_SOUND_MEV = 4.0  # below, energies are proportional: densities are smeared there
_SOUND_SHARE = 0.005  # of the modes
_FLOOR = 0.02  # of the highest mode: softer ones count as if there
_ROUNDS, _CALM = 40, 0.35
_HELD = 0.1  # of its stiffness: a site that springs hold less is not described by them


def spring_model(
    crystal: Crystal, stiffness: FloatArray, bundle: SpringBundle
) -> ForceConstantModel | None:
    """Predicted springs as force constants, scaled so that each site is as stiff as it should be.

    None where they do not hold every site, as happens with elements that training never saw and
    with atoms that lie far apart.

    Parameters
    ----------
    crystal : Crystal
        Of at most `MOST_ATOMS` atoms.
    stiffness : (atoms,) float64
        A third of the trace of on-site constants, eV/angstrom^2.
    bundle : SpringBundle
    """
    from model_server.direct import SPRING_REACH_A, Bonds

    try:
        listed = neighbour_bonds(crystal, SPRING_REACH_A)
    except InputError:  # atoms farther apart than any bond
        return None
    bonds = Bonds(
        numbers=atomic_numbers(crystal),
        first=listed.first,
        second=listed.second,
        length_A=listed.lengths,
    )
    along, across = bundle.ask(bonds, stiffness).T
    scale = _balanced(listed, along + 2 * across, stiffness)
    if scale is None:
        return None
    way = listed.vectors / listed.lengths[:, None]
    tensors = across[:, None, None] * np.eye(3)
    tensors = tensors + (along - across)[:, None, None] * way[:, :, None] * way[:, None, :]
    factor = scale[listed.first] * scale[listed.second]
    constants = replace(listed, tensors=tensors * factor[:, None, None])
    return force_constant_model(crystal, constants, None)


def _balanced(
    bonds: PairForceConstants, traces: FloatArray, stiffness: FloatArray
) -> FloatArray | None:
    """A factor for every site, so that its bonds together are as stiff as it should be."""
    scale, wanted = np.ones(len(stiffness)), 3 * stiffness
    for _ in range(_ROUNDS):
        held = -np.bincount(
            bonds.first,
            traces * scale[bonds.first] * scale[bonds.second],
            minlength=len(stiffness),
        )
        if (held < _HELD * wanted).any():
            return None
        scale *= np.clip(wanted / held, 0.25, 4.0) ** _CALM
    return scale


def powder_parts(
    vibrations: Vibrations,
    momentum_edges: FloatArray,
    energy_edges_meV: FloatArray,
    *,
    temperature_K: float,
    sigma_of: SigmaOfEnergy,
    ei_meV: float,
    max_order: int,
    beyond: bool = False,
    momentum_sigma: float = 0.0,
    bundle: SpringBundle | None = None,
) -> tuple[IncoherentPowder, str]:
    """Parts of a powder's S(|Q|,E) where the route has no force constants.

    Where sites have no stiffness, or are many, all scattering counts as incoherent.

    Parameters
    ----------
    vibrations : Vibrations
    momentum_edges, energy_edges_meV, temperature_K, ei_meV, max_order, beyond
        As `incoherent_powder`.
    sigma_of, momentum_sigma
        As `interfering_powder`.
    bundle : SpringBundle or None
        None: what ships.

    Returns
    -------
    IncoherentPowder
    str
        What is approximate about the coherent part.
    """
    parts = incoherent_powder(
        vibrations.crystal,
        vibrations.dos,
        momentum_edges,
        energy_edges_meV,
        temperature_K=temperature_K,
        resolution=sigma_of,
        ei_meV=ei_meV,
        max_order=max_order,
        beyond=beyond,
    )
    crystal, stiffness = vibrations.crystal, vibrations.stiffness
    if stiffness is None or crystal.n_atoms > MOST_ATOMS:
        return parts, INCOHERENT
    from model_server.direct import SpringBundleError, load_spring_bundle

    try:
        bundle = bundle or load_spring_bundle()
    except SpringBundleError as error:
        return parts, f"{INCOHERENT}; {error}"
    crystal = compact_cell(crystal)
    model = spring_model(crystal, stiffness, bundle)
    if model is None:
        return parts, f"{INCOHERENT}; predicted springs do not hold every site"
    coherent = interfering_powder(
        model,
        vibrations.dos,
        momentum_edges,
        energy_edges_meV,
        temperature_K=temperature_K,
        sigma_of=sigma_of,
        momentum_sigma=momentum_sigma,
    )
    share = 1.0 if crystal.n_atoms <= _ALL_UP_TO else _BELIEVED
    believed = share * coherent + (1 - share) * parts.coherent
    return replace(parts, coherent=believed), INTERFERING


def interfering_powder(
    model: ForceConstantModel,
    dos: PhononDos,
    momentum_edges: FloatArray,
    energy_edges_meV: FloatArray,
    *,
    temperature_K: float,
    sigma_of: SigmaOfEnergy,
    momentum_sigma: float = 0.0,
    step_inverse_A: float | None = None,
) -> FloatArray:
    """Coherent one-phonon S(|Q|,E) of a powder.

    Parameters
    ----------
    model : ForceConstantModel
        From `spring_model`. Its imaginary modes are left out.
    dos : PhononDos
    momentum_edges : (Q + 1,) float64
        1/angstrom.
    energy_edges_meV : (E + 1,) float64
    temperature_K : float
    sigma_of : callable
        Resolution, meV, of energy transfers.
    momentum_sigma : float
        1/angstrom.
    step_inverse_A : float or None
        Of the mesh of the zone; None: finer in small cells, so that all take about as long.

    Returns
    -------
    (Q, E) float64
        Barn/meV/sr per primitive cell.
    """
    crystal = model.crystal
    if step_inverse_A is None:
        step = STEP_INVERSE_A * (crystal.n_atoms / 20) ** (2 / 3)
        step_inverse_A = float(np.clip(step, FINEST_INVERSE_A, STEP_INVERSE_A))
    divisions = np.maximum(2, mesh_divisions(crystal, step_inverse_A))
    mesh = irreducible_mesh(crystal, divisions, shifted=True)
    energies = modes(model, mesh.q_cart)[0]
    weights = np.repeat(mesh.weights / mesh.weights.sum(), energies.shape[1])
    top = float(energies.max())
    own = np.linspace(0.0, 1.02 * top, _FINE + 1)
    powder = powder_spectrum(
        model,
        momentum_edges,
        own,
        temperature_K=0.0,
        resolution=0.25 * own[1],
        momentum_sigma=momentum_sigma,
        displacement=_isotropic(crystal, dos, temperature_K),
        zone=mesh,
        pockets=Pockets(floor_meV=_FLOOR * top, damped=False),
    )
    within = (np.arange(_PARTS) + 0.5) / _PARTS
    at = (own[:-1, None] + within * own[1]).ravel()
    moved = _placed(at, energies.ravel(), weights, dos)
    counted = np.maximum(at, _FLOOR * top)  # by what their intensity was divided
    table = np.zeros((len(at), len(energy_edges_meV) - 1))
    occupied = bose(moved, temperature_K)
    for sign, strength in ((1.0, occupied + 1.0), (-1.0, occupied)):
        centre = sign * moved[:, None]
        inside = np.diff(ndtr((energy_edges_meV - centre) / sigma_of(centre)), axis=1)
        table += inside * (strength * counted / moved)[:, None]
    table = table.reshape(_FINE, _PARTS, -1).mean(axis=1)
    return powder.intensity * own[1] @ table / np.diff(energy_edges_meV)


def _isotropic(crystal: Crystal, dos: PhononDos, temperature_K: float) -> FloatArray:
    """Debye-Waller tensors of a density of states, (atoms, 3, 3), angstrom^2."""
    gain, loss = thermal_weights(dos.energy_edges_meV, temperature_K)
    along = dos.partial / 3 @ (np.diff(dos.energy_edges_meV) * (gain + loss))
    squares = 0.5 * HBAR2_OVER_U / crystal.masses_u * along
    return np.asarray(squares[:, None, None] * np.eye(3))


def _placed(
    at: FloatArray, energies: FloatArray, weights: FloatArray, dos: PhononDos
) -> FloatArray:
    """Where the density of states has the modes that springs have at these energies, meV."""
    real = energies > 0
    order = np.argsort(energies[real])
    sorted_meV = energies[real][order]
    share = np.cumsum(weights[real][order])
    share = (share - 0.5 * weights[real][order]) / share[-1]
    below = np.concatenate([[0.0], np.cumsum(dos.total * np.diff(dos.energy_edges_meV))])
    below = below / below[-1] + 1e-9 * np.arange(len(below))  # bins without modes are crossed

    def moved(where: FloatArray) -> FloatArray:
        of_modes = np.interp(where, sorted_meV, share, left=0.0, right=1.0)
        return np.interp(of_modes, below, dos.energy_edges_meV)

    first = max(
        float(np.interp(_SOUND_SHARE, share, sorted_meV)),
        float(np.interp(np.interp(_SOUND_MEV, dos.energy_edges_meV, below), share, sorted_meV)),
    )
    slope = float(moved(np.array([first]))[0]) / first
    return np.where(at < first, slope * at, np.maximum(moved(at), 1e-3 * slope * first))
