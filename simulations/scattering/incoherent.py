"""Incoherent one-phonon and multiphonon scattering, and the expected background of a sample can.

Every atom of the powder scatters by itself, with its own tensor of motion in every direction of Q
(Sjolander 1958): exact for incoherent scattering of a harmonic crystal. Orders 2 and up of coherent
scatterers are taken the same way (incoherent approximation), good to some ten percent where |Q| is
large; correlations that they keep at small |Q| are lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulations.arrays import FloatArray
from simulations.constants import BOLTZMANN_MEV_PER_K, HBAR2_OVER_U
from simulations.crystal import Crystal, neutron_data
from simulations.dynamics import (
    VOIGT,
    ForceConstantModel,
    PhononDos,
    default_dos_zone,
    modes,
)
from simulations.errors import InputError
from simulations.instrument import Resolution
from simulations.reciprocal import ZonePoints, symmetrised_site_tensors
from simulations.scattering.one_phonon import (
    bose,
    converged_displacements,
    gaussian_bins,
)
from simulations.scattering.pockets import Pockets, counted
from simulations.scattering.powder import SigmaOfEnergy, sigma_function, spread_lines
from simulations.scattering.site_motion import (
    MAX_ORDER,
    atom_motions,
    beyond_orders,
    energy_grid,
    grid_smearing,
    thermal_weights,
)

APPROXIMATION = (
    "incoherent approximation: Gaussian motion of single atoms, averaged over directions"
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IncoherentSpectrum:
    """S(|Q|, E) per primitive cell (or per atom of a can), by the number of phonons.

    Where ``beyond`` was asked for, the last order holds all higher ones, too.
    """

    momentum_edges: FloatArray  # (Q + 1,) 1/angstrom
    energy_edges_meV: FloatArray  # (E + 1,)
    orders: FloatArray  # (order, Q, E) barn/meV/sr; order 0 is the elastic line
    approximation: str
    elements: tuple[str, ...]  # chemical symbols
    partials: FloatArray  # (elements, order, Q, E) barn/meV/sr, what the atoms of each scatter

    @property
    def one_phonon(self) -> FloatArray:
        """Incoherent one-phonon part, (Q, E)."""
        return self.orders[1]

    @property
    def multiphonon(self) -> FloatArray:
        """Two and more phonons, (Q, E)."""
        return self.orders[2:].sum(axis=0)

    @property
    def inelastic(self) -> FloatArray:
        """All but the elastic line, (Q, E)."""
        return self.orders[1:].sum(axis=0)


def elements_of(crystal: Crystal) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Distinct symbols in the order of their first atoms, and the element of every atom."""
    elements = tuple(dict.fromkeys(crystal.symbols))
    return elements, np.array([elements.index(s) for s in crystal.symbols], dtype=np.int64)


def incoherent_spectrum(
    crystal: Crystal,
    dos: PhononDos,
    momentum_edges: ArrayLike,
    energy_edges_meV: ArrayLike,
    *,
    temperature_K: float,
    resolution: Resolution | SigmaOfEnergy | float,
    ei_meV: float | None = None,
    max_order: int = MAX_ORDER,
    coherent_multiphonon: bool = True,
    displacement: FloatArray | None = None,
    beyond: bool = False,
) -> IncoherentSpectrum:
    """Elastic, incoherent one-phonon and multiphonon S(|Q|, E) of a powder.

    Parameters
    ----------
    crystal : Crystal
    dos : PhononDos
        Of the crystal; without tensors its motion counts as isotropic.
    momentum_edges : (Q + 1,) float64
        1/angstrom; evaluated at the bins' mean Q^2.
    energy_edges_meV : (E + 1,) float64
    temperature_K : float
    resolution : Resolution, callable or float
        As in `powder_spectrum`.
    ei_meV : float or None
        Needed by a `Resolution`.
    max_order : int
        Highest number of phonons, 1 to 10.
    coherent_multiphonon : bool
        Let orders 2 and up scatter with the total cross section (coherent + incoherent), the usual
        estimate; orders 0 and 1 always use the incoherent one alone.
    displacement : (atoms, 3, 3) float64 or None
        Debye-Waller tensors; None: what the density of states itself gives.
    beyond : bool
        Let the last order have what more phonons scatter, see `beyond_orders`.

    Returns
    -------
    IncoherentSpectrum

    Raises
    ------
    ValueError
        If ``max_order`` is out of range.

    References
    ----------
    A. Sjolander, Arkiv Fysik 14, 315 (1958); G. L. Squires, Introduction to the Theory of Thermal
    Neutron Scattering (1978), section 3.10.
    """
    momentum_edges = np.asarray(momentum_edges, dtype=float)
    edges = np.asarray(energy_edges_meV, dtype=float)
    sigma_of = sigma_function(resolution, ei_meV)
    grid = energy_grid(dos, edges, max_order, sigma_of)
    mean_square_momentum = np.diff(momentum_edges**3) / 3 / np.diff(momentum_edges)
    seen, smear = grid_smearing(grid, edges, sigma_of)
    elastic = gaussian_bins(edges, np.zeros(1), np.atleast_1d(sigma_of(np.zeros(1))))[0]

    elements, element_of = elements_of(crystal)
    partials = np.zeros(
        (len(elements), max_order + 1, len(mean_square_momentum), len(edges) - 1), dtype=np.float64
    )
    for motion in atom_motions(
        crystal, dos, temperature_K, grid, max_order, displacement=displacement
    ):
        a = motion.atom
        incoherent = motion.share * crystal.incoherent_barn[a] / (4 * np.pi)
        total = incoherent + motion.share * crystal.scattering_length[a] ** 2
        many = total if coherent_multiphonon else incoherent
        orders = partials[element_of[a]]
        x = mean_square_momentum * motion.mean_square
        factor = np.exp(-x)
        orders[0] += incoherent * factor[:, None] * elastic
        for p, spectrum in enumerate(motion.orders[:, seen] @ smear, start=1):
            factor = factor * x / p
            strength = incoherent if p == 1 else many
            orders[p] += strength * factor[:, None] * spectrum
        if beyond:
            orders[-1] += many * beyond_orders(motion, grid, mean_square_momentum, edges, sigma_of)
    return IncoherentSpectrum(
        momentum_edges=momentum_edges,
        energy_edges_meV=edges,
        orders=partials.sum(axis=0),
        approximation=APPROXIMATION,
        elements=elements,
        partials=partials,
    )


def incoherent_lines(
    model: ForceConstantModel,
    Q: ArrayLike,
    energy_edges_meV: ArrayLike,
    *,
    temperature_K: float,
    resolution: Resolution | SigmaOfEnergy | float,
    ei_meV: float | None = None,
    phi: ArrayLike | None = None,
    zone: ZonePoints | None = None,
    displacement: FloatArray | None = None,
    pockets: Pockets | None = None,
    dos: PhononDos | None = None,
) -> FloatArray:
    """Incoherent one-phonon S(Q,E) at single vectors Q, with anisotropic motion of every site.

    Unlike `incoherent_spectrum` this is no approximation for a harmonic crystal.

    Parameters
    ----------
    model : ForceConstantModel
    Q : (Q, 3) float64
        1/angstrom.
    energy_edges_meV : (E + 1,) float64
        Both signs allowed.
    temperature_K : float
    resolution, ei_meV
        As in `powder_spectrum`.
    phi : (K,) float64 or None
        Free parameters, eV/angstrom^2; None: the reference.
    zone : ZonePoints or None
        Points up to the Laue group; None: `default_dos_zone`.
    displacement : (atoms, 3, 3) float64 or None
        Debye-Waller tensors; None: computed from the model at this temperature.
    pockets : Pockets or None
        How imaginary modes count; None: they are refused.
    dos : PhononDos or None
        On a converged mesh, with tensors: then no modes are computed, and each site's one-phonon
        function is scaled to its Debye-Waller tensor.

    Returns
    -------
    (elements, Q, E) float64
        barn/meV/sr per primitive cell, for the elements in the order of their first atoms.

    Raises
    ------
    ValueError
        If modes are imaginary.

    References
    ----------
    G. L. Squires, Introduction to the Theory of Thermal Neutron Scattering (1978), section 3.10.
    """
    crystal = model.crystal
    Q = np.asarray(Q, dtype=float)
    edges = np.asarray(energy_edges_meV, dtype=float)
    sigma_of = sigma_function(resolution, ei_meV)
    if displacement is None:
        displacement = converged_displacements(model, temperature_K, phi, pockets=pockets).tensors
    if dos is not None and dos.tensors is not None:
        site = _binned_motion(crystal, dos, displacement, temperature_K, sigma_of, edges)
    else:
        site = _sampled_motion(model, phi, zone, pockets, temperature_K, sigma_of, edges)
    decay = np.exp(-np.einsum("qa,iab,qb->qi", Q, displacement, Q, optimize=True))
    strength = decay * crystal.incoherent_barn / (4 * np.pi) / crystal.masses_u
    elements, element_of = elements_of(crystal)
    member = (element_of == np.arange(len(elements))[:, None]).astype(float)
    return np.einsum("qi,li,qa,qb,eiab->lqe", strength, member, Q, Q, site, optimize=True)


def _sampled_motion(
    model: ForceConstantModel,
    phi: ArrayLike | None,
    zone: ZonePoints | None,
    pockets: Pockets | None,
    temperature_K: float,
    sigma_of: SigmaOfEnergy,
    edges: FloatArray,
) -> FloatArray:
    """One-phonon function of every site times its mass, from modes at points, (E, atoms, 3, 3)."""
    crystal = model.crystal
    zone = default_dos_zone(crystal) if zone is None else zone
    n = crystal.n_atoms
    tensors = np.zeros((len(edges) - 1, 9 * n))
    step = max(1, 2_000_000 // (27 * n * n))
    for start in range(0, len(zone.q_cart), step):
        q, weight = zone.q_cart[start : start + step], zone.weights[start : start + step]
        energies, vectors = modes(model, q, phi)
        live, size, width = counted(energies, q, pockets)
        e = vectors.reshape(len(q), n, 3, -1)
        products = np.einsum("q,qias,qibs->qsiab", weight, e, e.conj(), optimize=True).real
        factor = np.where(live, 0.5 * HBAR2_OVER_U / size, 0.0)
        occupation = bose(size, temperature_K)
        for sign, thermal in ((1.0, occupation + 1), (-1.0, occupation)):
            spread_lines(
                np.ascontiguousarray(products).reshape(-1, 9 * n), (factor * thermal).ravel(),
                (sign * size).ravel(), np.hypot(sigma_of(sign * size), width).ravel(),
                edges, tensors,
            )  # fmt: skip
    return symmetrised_site_tensors(crystal, tensors.reshape(-1, n, 3, 3))


def _binned_motion(
    crystal: Crystal,
    dos: PhononDos,
    displacement: FloatArray,
    temperature_K: float,
    sigma_of: SigmaOfEnergy,
    edges: FloatArray,
) -> FloatArray:
    """One-phonon function of every site times its mass, from its density, (E, atoms, 3, 3)."""
    if dos.tensors is None:
        raise ValueError("the density of states has no tensors; expected one of a converged mesh")
    n = crystal.n_atoms
    gain, loss = thermal_weights(dos.energy_edges_meV, temperature_K)
    width = np.diff(dos.energy_edges_meV)
    weights = np.ascontiguousarray((dos.tensors * width).reshape(6 * n, -1).T)
    scale = 0.5 * HBAR2_OVER_U
    own = scale * ((gain + loss) @ weights).reshape(n, 6)[:, :3].sum(axis=1) / crystal.masses_u
    weights = weights * np.repeat(np.trace(displacement, axis1=1, axis2=2) / own, 6)
    packed = np.zeros((len(edges) - 1, 6 * n))
    for sign, thermal in ((1.0, loss), (-1.0, gain)):
        place = sign * dos.energies_meV
        sigma = np.asarray(sigma_of(place), dtype=float)
        spread_lines(weights, scale * thermal, place, sigma, edges, packed)
    out = np.empty((len(edges) - 1, n, 3, 3))
    for k, (a, b) in enumerate(VOIGT):
        out[..., a, b] = out[..., b, a] = packed.reshape(-1, n, 6)[..., k]
    return out


# ----------------------------------------------------------------------------------------- cans


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CanMaterial:
    """A sample-can metal, described well enough for an expected background."""

    symbol: str  # of the metal, or of what an alloy has most of
    debye_meV: float  # cut-off energy k_B Theta_D
    source: str
    composition: tuple[tuple[str, float], ...] = ()  # of an alloy: element and share of the atoms

    @property
    def atom(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mass (u), coherent length (sqrt(barn)) and incoherent barn of a mean atom, (1,) each.

        Sites of an alloy are taken at random, so that what their lengths differ by is incoherent.

        References
        ----------
        G. L. Squires, Introduction to the Theory of Thermal Neutron Scattering (1978), section 2.3.
        """
        elements, shares = zip(*(self.composition or ((self.symbol, 1.0),)), strict=True)
        mass, length, incoherent = neutron_data(elements)
        if not self.composition:
            return mass, length, incoherent
        share = np.array(shares)
        mean = float(share @ length)
        spread = 4 * np.pi * float(share @ length**2 - mean**2)
        own = float(share @ incoherent) + spread
        return np.array([float(share @ mass)]), np.array([mean]), np.array([own])


CAN_MATERIALS = {
    "aluminium": CanMaterial(
        symbol="Al",
        debye_meV=BOLTZMANN_MEV_PER_K * 390.0,
        source="Debye temperature near 390 K at room temperature (textbook value)",
    ),
    "vanadium": CanMaterial(
        symbol="V",
        debye_meV=BOLTZMANN_MEV_PER_K * 380.0,
        source="Debye temperature near 380 K (textbook value)",
    ),
    "stainless steel": CanMaterial(
        symbol="Fe",
        debye_meV=BOLTZMANN_MEV_PER_K * 470.0,
        source="18 % Cr and 8 % Ni by weight (type 304); Debye temperature of iron, 470 K (textbook"
        " value)",
        composition=(("Fe", 0.733), ("Cr", 0.192), ("Ni", 0.075)),
    ),
}


def debye_dos(debye_meV: float, n_bins: int = 200) -> PhononDos:
    """Debye density of states of one atom, 3 modes up to the cut-off.

    Parameters
    ----------
    debye_meV : float
        Cut-off energy.
    n_bins : int
    """
    if not debye_meV > 0:
        raise InputError(f"debye_meV is {debye_meV}; expected a positive energy")
    edges = np.linspace(0.0, debye_meV, n_bins + 1)
    partial = 3 * np.diff(edges**3) / debye_meV**3 / np.diff(edges)
    return PhononDos(energy_edges_meV=edges, partial=partial[None], imaginary_share=0.0)


def can_background(
    material: str,
    momentum_edges: ArrayLike,
    energy_edges_meV: ArrayLike,
    *,
    temperature_K: float,
    resolution: Resolution | SigmaOfEnergy | float,
    ei_meV: float | None = None,
    dos: PhononDos | None = None,
    max_order: int = MAX_ORDER,
    beyond: bool = False,
) -> IncoherentSpectrum:
    """Expected inelastic background of a can, per atom of the can.

    Scale it by the can's atoms in the beam per primitive cell of the sample. One-phonon scattering
    of a coherent metal (aluminium) is taken in the incoherent approximation with its total cross
    section, so its structure in |Q| is missing; Bragg lines and multiple scattering are too.

    Parameters
    ----------
    material : str
        "aluminium", "vanadium" or "stainless steel".
    momentum_edges, energy_edges_meV, temperature_K, resolution, ei_meV, max_order, beyond
        As in `incoherent_spectrum`.
    dos : PhononDos or None
        Density of states of one atom; None: a Debye model.

    Raises
    ------
    ValueError
        If the material is unknown.
    """
    known = CAN_MATERIALS.get(material)
    if known is None:
        raise InputError(
            f"can material is {material!r}; expected one of {', '.join(sorted(CAN_MATERIALS))}"
        )
    mass, length, incoherent = known.atom
    atom = Crystal(
        lattice=np.eye(3),
        positions=np.zeros((1, 3)),
        symbols=(known.symbol,),
        masses_u=mass,
        scattering_length=np.zeros(1),
        incoherent_barn=incoherent + 4 * np.pi * length**2,
        conventional_lattice=np.eye(3),
    )
    model = debye_dos(known.debye_meV) if dos is None else dos
    spectrum = incoherent_spectrum(
        atom,
        model,
        momentum_edges,
        energy_edges_meV,
        temperature_K=temperature_K,
        resolution=resolution,
        ei_meV=ei_meV,
        max_order=max_order,
        beyond=beyond,
    )
    kind = "Debye density of states" if dos is None else "given density of states"
    return IncoherentSpectrum(
        momentum_edges=spectrum.momentum_edges,
        energy_edges_meV=spectrum.energy_edges_meV,
        orders=spectrum.orders,
        approximation=f"{APPROXIMATION}; {kind}; all scattering counted as incoherent; {material}",
        elements=spectrum.elements,
        partials=spectrum.partials,
    )
