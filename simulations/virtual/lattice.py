"""Phonon lines of a virtual crystal: exact at any Q, and tabulated where only a bound is needed.

Arrays only: no instrument, no orientation. The exact part sums the crystal's own real-space
couplings, which are read off the force-constant model on a coarse mesh, and the dipoles of a polar
crystal; the tables bound it so that a sampler evaluates it only where a neutron may come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulations.arrays import ComplexArray, FloatArray, IntArray
from simulations.constants import NOISE_MEV
from simulations.crystal import Crystal, laue_rotations, space_group_operations
from simulations.errors import InputError
from simulations.kernels import njit
from simulations.scattering import (
    POCKET_DEPTH,
    POCKET_SHARE,
    Pockets,
    converged_displacements,
)
from simulations.virtual.dipole import VirtualDipoles, virtual_dipoles

if TYPE_CHECKING:
    from simulations.dynamics import ForceConstantModel


HBAR2_PER_2U = 2.0900765  # hbar^2 / 2u, meV angstrom^2
KELVIN_PER_MEV = 11.604518

UNSTABLE_BELOW_meV = -0.1
"""Lowest energy (imaginary modes shown negative) that still counts as rounding."""
UNSTABLE_AT_GAMMA_meV = -1.0
"""The same within ``GAMMA_RADIUS``: forces that break rotational invariance (those of wurtzite from
a small supercell, for one) bend a sound branch below 0 there, under the elastic line."""
GAMMA_RADIUS = 0.1  # 1/angstrom
MORE = 2.0  # times what the reference's pocket may hold: another truth may have another one

TABLE_SPACING = 0.04
"""Wanted spacing of the energy table, 1/angstrom; ``ENERGY_TABLE_VALUES`` may widen it."""
ENERGY_TABLE_VALUES = 16_000_000
VECTOR_TABLE_VALUES = 6_000_000
BATCH = 8192
DEGENERATE_meV = 1e-3
"""Modes closer than this at a node count as one group, whose eigenvectors are arbitrary."""


NEAR_GAMMA = 2
"""Cells of the energy table on either side of Gamma whose bound a polar crystal needs sampled."""
CUT_CORNER = 0.4
"""How deep a step of the walk may cut into a cell of the energy table, in cells."""
TOWARDS_GAMMA = 1e-4
"""How close to Gamma the limit along a direction is taken, 1/angstrom."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VirtualForces:
    """What moves the atoms of a virtual crystal: couplings of finite range, and dipoles."""

    translations: IntArray  # (R, 3) lattice vectors that couple, primitive coordinates
    couplings: ComplexArray  # (R, n * n) mass-weighted, meV^2; phase exp(2 pi i q R)
    dipoles: VirtualDipoles | None  # None: the crystal is not polar

    def matrices(self, fraction: FloatArray) -> ComplexArray:
        """Periodic dynamical matrices (points, n, n), meV^2, at fractional q (points, 3).

        Periodic: the phase of a coupling is that of its lattice vector, so eigenvectors here are
        those of the phase with true positions times ``exp(+i q r_k)``.
        """
        reach = np.abs(self.translations).max(initial=0)
        steps = np.arange(-reach, reach + 1)
        phase = np.ones((len(fraction), len(self.translations)), dtype=complex)
        for axis in range(3):
            power = np.exp(2j * np.pi * fraction[:, axis, None] * steps)
            phase *= power[:, self.translations[:, axis] + reach]
        n = int(round(self.couplings.shape[1] ** 0.5))
        D = (phase @ self.couplings).reshape(-1, n, n)
        if self.dipoles is not None:
            D += self.dipoles.matrices(fraction)
        return 0.5 * (D + D.conj().transpose(0, 2, 1))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VirtualLattice:
    """A crystal that vibrates, at one temperature. ``n = 3 atoms``; tables are periodic.

    Tables are indexed by fractional coordinates of the primitive reciprocal cell. Energies of a
    polar crystal depend on the direction in which Gamma is approached; its table holds the middle
    of their range there, and the slack around it covers the rest.
    """

    crystal: Crystal
    temperature_K: float
    forces: VirtualForces
    mean_square: FloatArray  # (atoms, 3, 3) <u u>, angstrom^2
    energies: NDArray[np.float32]  # (n0, n1, n2, n) meV at the table's nodes
    slack: NDArray[np.float32]  # (n0, n1, n2, n) bound of the trilinear error in the cell above
    steepest: FloatArray  # (n,) meV angstrom, bound of every mode's slope in the table
    vectors: NDArray[np.complex64]  # (m0, m1, m2, n, n) eigenvectors in rows, coarser nodes
    group: NDArray[np.int16]  # (m0, m1, m2, n) first mode of equal energy at the coarser nodes
    margin: FloatArray  # (m0, m1, m2) share of all strength that a mode may gain off its node
    pockets: Pockets | None = None  # of imaginary modes, which are negative in `energies` then

    @property
    def highest_meV(self) -> float:
        """Energy above which there is no line."""
        return float(self.energies.max() + self.slack.max())

    @property
    def amplitude(self) -> FloatArray:
        """Scattering length over root mass of every atom, sqrt(barn / u)."""
        return self.crystal.scattering_length / np.sqrt(self.crystal.masses_u)


def build_lattice(
    model: ForceConstantModel,
    phi: ArrayLike,
    temperature_K: float,
    *,
    table_spacing: float = TABLE_SPACING,
    pockets: Pockets | None = None,
    mean_square: FloatArray | None = None,
) -> VirtualLattice:
    """Read the couplings off the model, check stability, make the tables.

    Parameters
    ----------
    model : ForceConstantModel
        ``D(q; phi) = fixed + sum_k phi_k basis_k``.
    phi : (K,)
        The true force constants, eV/angstrom^2.
    temperature_K : float
        Zero or more.
    table_spacing : float
        Wanted spacing of the energy table, 1/angstrom.
    pockets : Pockets or None
        How imaginary modes count; None: there must be none.
    mean_square : (atoms, 3, 3) or None
        <u u> of every atom, angstrom^2; None: computed here.

    Returns
    -------
    VirtualLattice

    Raises
    ------
    ValueError
        If ``phi`` has the wrong length, the crystal is unstable, or couplings beyond the dipoles'
        reach too far to be summed in real space.
    """
    values = np.asarray(phi, dtype=float)
    if values.shape != (len(model.names),):
        raise ValueError(
            f"phi has shape {values.shape}; expected ({len(model.names)},), one value for each of "
            f"{', '.join(model.names)}"
        )
    if not np.isfinite(temperature_K) or temperature_K < 0:
        raise InputError(f"temperature_K is {temperature_K}; expected zero or more kelvin")
    crystal = model.crystal
    n = 3 * crystal.n_atoms
    forces = _forces(model, values)
    polar = forces.dipoles is not None
    symmetric = _is_symmetric(crystal, forces)
    rotations = laue_rotations(crystal)[0] if symmetric else -np.eye(3, dtype=np.int64)[None]

    wanted = np.linalg.norm(crystal.reciprocal, axis=1) / table_spacing
    limit = ENERGY_TABLE_VALUES / (8 * n)
    shape = _divisions(wanted * min(1.0, (limit / np.prod(wanted)) ** (1 / 3)), rotations)
    fine = _energy_table(forces, n, 2 * shape, rotations)
    if polar:
        limits = _limits_at_gamma(crystal, forces)
        fine[0, 0, 0] = 0.5 * (limits.min(axis=0) + limits.max(axis=0))
    if pockets is None:
        _refuse_unstable(crystal, fine[..., 0])
        fine = np.where(fine > DEGENERATE_meV, fine, np.float32(0))  # rounding at Gamma
    else:
        _refuse_more_than_pockets(fine)
    energies = np.ascontiguousarray(fine[::2, ::2, ::2])
    slack = 1.5 * _cell_error(energies, fine) + 2e-3
    if polar:
        _widen_at_gamma(slack, energies, crystal, forces, signed=pockets is not None)

    limit = VECTOR_TABLE_VALUES / n**2
    coarse = _divisions(wanted * min(0.7, (limit / np.prod(wanted)) ** (1 / 3)), rotations)
    half = _grid_fractions(coarse, 0.0)
    vectors, group = _table_of_vectors(forces, n, half)
    margin = np.full(coarse, 0.6 / n)
    if polar:  # eigenvectors turn with the direction of q there, whatever the node's are
        margin[np.ix_(*[[-1, 0, 1]] * 3)] = 1.0
    if mean_square is None and pockets is None:
        mean_square = _mean_square(crystal, forces, temperature_K, symmetric)
    elif mean_square is None:
        found = converged_displacements(model, temperature_K, values, pockets=pockets)
        mean_square = found.tensors
    return VirtualLattice(
        crystal=crystal,
        temperature_K=float(temperature_K),
        forces=forces,
        mean_square=mean_square,
        energies=energies,
        slack=slack.astype(np.float32),
        steepest=_steepest(crystal, energies),
        vectors=vectors.reshape(*coarse, n, n),
        group=group.reshape(*coarse, n),
        margin=margin,
        pockets=pockets,
    )


def occupied(line_meV: ArrayLike, temperature_K: float) -> FloatArray:
    """Weight ``(n + 1) / E`` of a line at ``+E`` and ``n / E`` of one at ``-E``, 1/meV.

    Both are ``1 / (x (1 - exp(-x / kT)))`` with the signed energy ``x``.
    """
    x = np.asarray(line_meV, dtype=float)
    if temperature_K == 0:
        return np.where(x > 0, 1 / np.where(x == 0, np.inf, x), 0.0)
    beta = KELVIN_PER_MEV / temperature_K
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return 1 / (x * -np.expm1(-x * beta))


def exact_lines(lattice: VirtualLattice, Q: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Energies and strengths of all one-phonon lines at each Q.

    Parameters
    ----------
    lattice : VirtualLattice
    Q : (points, 3)
        Momentum transfer, Cartesian, crystal frame, 1/angstrom.

    Returns
    -------
    energies : (points, n) float64
        meV, ascending; imaginary modes at 0, in a crystal with pockets negative.
    strengths : (points, n) float64
        ``|sum_k b_k / sqrt(m_k) exp(-W_k) (Q . e_k) exp(-i Q r_k)|^2``, barn / (angstrom^2 u):
        ``S = hbar^2 / 2E * strength * (n + 1)``, barn/meV/sr per primitive cell.

    References
    ----------
    G. L. Squires, Introduction to the Theory of Thermal Neutron Scattering (CUP, 1978), eq. 3.120.
    """
    n = 3 * lattice.crystal.n_atoms
    energies = np.empty((len(Q), n))
    strengths = np.empty((len(Q), n))
    to_fraction = np.linalg.inv(lattice.crystal.reciprocal)
    amplitude = lattice.amplitude
    for start in range(0, len(Q), BATCH):
        q = Q[start : start + BATCH]
        fraction = q @ to_fraction
        squares, vectors = np.linalg.eigh(lattice.forces.matrices(fraction))
        phase = np.exp(-2j * np.pi * (fraction @ lattice.crystal.positions.T))
        W = 0.5 * np.einsum("qa,kab,qb->qk", q, lattice.mean_square, q, optimize=True)
        f = ((amplitude * np.exp(-W) * phase)[:, :, None] * q[:, None, :]).reshape(len(q), n)
        energies[start : start + BATCH] = (
            np.sqrt(np.maximum(squares, 0)) if lattice.pockets is None else _signed_roots(squares)
        )
        strengths[start : start + BATCH] = np.abs(np.matmul(f[:, None, :], vectors)[:, 0]) ** 2
    return energies, strengths


def _forces(model: ForceConstantModel, phi: FloatArray) -> VirtualForces:
    """Real-space couplings by a discrete Fourier transform, on the smallest mesh that suffices."""
    crystal = model.crystal
    n = 3 * crystal.n_atoms
    dipoles = virtual_dipoles(model.reference)
    rng = np.random.default_rng(7)
    test = rng.uniform(-0.5, 0.5, (24, 3))
    if dipoles is not None:
        test = np.concatenate([test, 0.02 * test[:8], 1e-4 * test[8:16]])
    expected = _periodic_from_model(model, phi, test)
    scale = np.abs(expected).max()
    for side in (6, 8, 10, 12, 16):
        mesh = _grid_fractions(np.full(3, side), 0.0)
        D = _periodic_from_model(model, phi, mesh)
        if dipoles is not None:
            D = D - dipoles.matrices(mesh)
        D = D.reshape(side, side, side, n * n)
        transform = np.fft.fftn(D, axes=(0, 1, 2)).reshape(-1, n * n) / side**3
        # exp(-2 pi i q R) is numpy's forward transform: row index is R modulo the mesh.
        index = np.indices((side, side, side)).reshape(3, -1).T
        translations = (index + side // 2) % side - side // 2
        keep = np.abs(transform).max(axis=1) > 1e-13 * scale
        forces = VirtualForces(
            translations=translations[keep], couplings=transform[keep], dipoles=dipoles
        )
        if np.abs(forces.matrices(test) - expected).max() < 1e-9 * scale:
            return forces
    raise InputError(
        "model couples atoms beyond 8 cells; expected forces of finite range beside the dipoles' "
        "that its Born charges make. Use force constants of a smaller supercell."
    )


def _periodic_from_model(
    model: ForceConstantModel, phi: FloatArray, fraction: FloatArray
) -> ComplexArray:
    """D of the model (points, n, n) with the phases of the atoms' positions taken off."""
    q = fraction @ model.crystal.reciprocal
    parts = []
    for start in range(0, len(q), 512):
        parts.append(model.dynamical_matrices(q[start : start + 512], phi))
    D = np.concatenate(parts)
    phase = np.repeat(np.exp(2j * np.pi * fraction @ model.crystal.positions.T), 3, axis=1)
    return phase[:, :, None] * D * phase[:, None, :].conj()


def _is_symmetric(crystal: Crystal, forces: VirtualForces) -> bool:
    """Whether the energies obey the crystal's Laue group."""
    rotations, _ = laue_rotations(crystal)
    q = np.random.default_rng(11).uniform(-0.5, 0.5, (8, 3))
    squares = [np.linalg.eigvalsh(forces.matrices(q @ W)) for W in rotations]
    return bool(np.ptp(squares, axis=0).max() < 1e-6 * np.abs(squares[0]).max())


def _divisions(wanted: FloatArray, rotations: IntArray) -> IntArray:
    """Even numbers of divisions, at least 4, equal on axes that a rotation mixes."""
    n = np.maximum(2 * np.ceil(wanted / 2 - 1e-9).astype(np.int64), 4)  # whatever rounding says
    some = np.any(rotations != 0, axis=0)
    mixed = np.logical_or(some, some.T)
    for _ in range(3):
        n = np.where(mixed, n, 0).max(axis=1)
    return n


def _grid_fractions(shape: IntArray, shift: float) -> FloatArray:
    """Points of a uniform grid of fractional coordinates, (points, 3), last axis fastest."""
    axes = [(np.arange(k) + shift) / k for k in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


@njit(cache=True)
def _orbits(shape, rotations):
    """Representative of every grid point (flat index) under integer rotations and inversion."""
    n0, n1, n2 = shape
    owner = np.full(n0 * n1 * n2, -1, dtype=np.int64)
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                here = (i * n1 + j) * n2 + k
                if owner[here] >= 0:
                    continue
                owner[here] = here
                for o in range(len(rotations)):
                    W = rotations[o]
                    # Axes that mix have equal divisions, so integers transform as fractions do.
                    a = (i * W[0, 0] + j * W[1, 0] + k * W[2, 0]) % n0
                    b = (i * W[0, 1] + j * W[1, 1] + k * W[2, 1]) % n1
                    c = (i * W[0, 2] + j * W[1, 2] + k * W[2, 2]) % n2
                    owner[(a * n1 + b) * n2 + c] = here
                    owner[(((-a) % n0) * n1 + (-b) % n1) * n2 + (-c) % n2] = here
    return owner


def _refuse_unstable(crystal: Crystal, lowest: NDArray[np.float32]) -> None:
    """Raise ValueError where the lowest energies (n0, n1, n2) are imaginary beyond doubt."""
    fraction = _grid_fractions(np.array(lowest.shape), 0.0)
    q = (fraction - np.rint(fraction)) @ crystal.reciprocal
    near = (np.linalg.norm(q, axis=1) < GAMMA_RADIUS).reshape(lowest.shape)
    for place, least, where in (
        (~near, UNSTABLE_BELOW_meV, ""),
        (near, UNSTABLE_AT_GAMMA_meV, f" within {GAMMA_RADIUS} 1/angstrom of Gamma"),
    ):
        found = float(np.min(lowest, where=place, initial=np.inf))
        if found < least:
            raise InputError(
                f"phi makes the crystal unstable: its lowest mode{where} is {found:.2f} meV "
                f"(negative means imaginary); expected at least {least}. Use other force constants."
            )


def _refuse_more_than_pockets(energies: NDArray[np.float32]) -> None:
    """Raise InputError where a table (n0, n1, n2, n) holds far more than a small pocket."""
    share, lowest = float(np.mean(energies < -NOISE_MEV)), float(energies.min())
    deepest = POCKET_DEPTH * float(energies.max())
    if share > MORE * POCKET_SHARE or -lowest > MORE * deepest:
        raise InputError(
            f"phi makes the crystal unstable: {share:.2%} of its modes are imaginary, down to "
            f"{-lowest:.3g}i meV; expected a small pocket, about {POCKET_SHARE:.0%} of the modes "
            f"and no deeper than about {deepest:.3g} meV. Use other force constants."
        )


def _energy_table(
    forces: VirtualForces, n: int, shape: IntArray, rotations: IntArray
) -> NDArray[np.float32]:
    """Energies on a grid (n0, n1, n2, n), meV, imaginary ones negative; one per orbit computed."""
    owner = _orbits(shape, rotations)
    unique, inverse = np.unique(owner, return_inverse=True)
    index = np.stack(np.unravel_index(unique, tuple(shape)), axis=1)
    found = np.empty((len(unique), n), dtype=np.float32)
    for start in range(0, len(unique), BATCH):
        part = index[start : start + BATCH] / shape
        found[start : start + BATCH] = _signed_energies(forces, part)
    return found[inverse].reshape(*shape, n)


def _signed_energies(forces: VirtualForces, fraction: FloatArray) -> FloatArray:
    """Energies (points, n), meV, ascending; imaginary ones negative."""
    squares: FloatArray = np.linalg.eigvalsh(forces.matrices(fraction)).astype(np.float64)
    return _signed_roots(squares)


def _signed_roots(squares: FloatArray) -> FloatArray:
    return np.sign(squares) * np.sqrt(np.abs(squares))


def _limits_at_gamma(crystal: Crystal, forces: VirtualForces) -> FloatArray:
    """Energies (directions, n) of a polar crystal just beside Gamma, in directions all around."""
    turns = np.arange(400) + 0.5  # of a golden spiral: evenly over the half sphere
    z, angle = 1 - turns / len(turns), turns * np.pi * (3 - 5**0.5)
    side = np.sqrt(1 - z**2)
    direction = np.stack([side * np.cos(angle), side * np.sin(angle), z], axis=1)
    direction = np.concatenate([direction, crystal.lattice, crystal.reciprocal])
    direction *= TOWARDS_GAMMA / np.linalg.norm(direction, axis=1)[:, None]
    return _signed_energies(forces, direction @ np.linalg.inv(crystal.reciprocal))


def _widen_at_gamma(
    slack: NDArray[np.float32],
    energies: NDArray[np.float32],
    crystal: Crystal,
    forces: VirtualForces,
    *,
    signed: bool,
) -> None:
    """Make the slack around Gamma cover energies that depend on the direction of q; in place.

    Trilinear energies are compared with exact ones on a finer grid and on shells that close in on
    Gamma, in the cells next to it. Every error counts for the cells that are close by, too: a step
    of the walk along a trajectory may cut the corner of a cell at neither of its ends.
    """
    parts, r = 4, NEAR_GAMMA
    shape = np.array(energies.shape[:3])
    place = np.arange(-r * parts, r * parts + 1) / parts
    points = np.stack(np.meshgrid(place, place, place, indexing="ij"), axis=-1).reshape(-1, 3)
    points = points[np.any(points != 0, axis=1)]
    shell = points[np.abs(points).max(axis=1) == 1.0]
    points = np.concatenate([points, *(shell * radius for radius in (0.002, 0.02, 0.06, 0.12))])
    exact = _signed_energies(forces, points / shape)
    if not signed:
        exact = np.maximum(exact, 0)
    error = (1.5 * np.abs(exact - _trilinear(energies, points)) + 2e-3).astype(np.float32)
    for offset in product((-CUT_CORNER, CUT_CORNER), repeat=3):
        cell = np.floor(points + offset).astype(int) % shape
        np.maximum.at(slack, tuple(cell.T), error)


def _trilinear(energies: NDArray[np.float32], points: FloatArray) -> FloatArray:
    """Table at points (points, 3) given in its cells, (points, n)."""
    low = np.floor(points).astype(int)
    above = points - low
    total = np.zeros((len(points), energies.shape[3]))
    for corner in np.indices((2, 2, 2)).reshape(3, -1).T:
        weight = np.prod(np.where(corner, above, 1 - above), axis=1)
        node = (low + corner) % np.array(energies.shape[:3])
        total += weight[:, None] * energies[tuple(node.T)]
    return total


def _cell_error(nodes: NDArray[np.float32], fine: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest trilinear error at the 27 fine points of every cell, (n0, n1, n2, n)."""
    guess = nodes
    for axis in range(3):
        middle = 0.5 * (guess + np.roll(guess, -1, axis=axis))
        both = np.stack([guess, middle], axis=axis + 1)
        shape = list(guess.shape)
        shape[axis] *= 2
        guess = both.reshape(shape)
    error = np.abs(guess - fine)
    for axis in range(3):
        even = np.take(error, range(0, error.shape[axis], 2), axis=axis)
        odd = np.take(error, range(1, error.shape[axis], 2), axis=axis)
        error = np.maximum(np.maximum(even, odd), np.roll(even, -1, axis=axis))
    return error


def _steepest(crystal: Crystal, energies: NDArray[np.float32]) -> FloatArray:
    """Largest slope of the trilinear energies of each mode, (n,), meV angstrom."""
    slopes = np.stack(
        [
            (np.roll(energies, -1, axis=a) - energies) * (energies.shape[a] / (2 * np.pi))
            for a in range(3)
        ],
        axis=-1,
    )
    # Derivatives by fractional coordinates become Cartesian through the lattice vectors.
    return np.array(
        [
            np.linalg.norm(slopes[..., s, :] @ crystal.lattice, axis=-1).max()
            for s in range(slopes.shape[-2])
        ]
    )


def _table_of_vectors(
    forces: VirtualForces, n: int, fraction: FloatArray
) -> tuple[NDArray[np.complex64], NDArray[np.int16]]:
    """Eigenvectors in rows, (points, n, n), and groups of modes of equal energy, (points, n).

    The phase with true positions is left out (periodic). A mode's group is the number of the first
    mode in it.
    """
    vectors = np.empty((len(fraction), n, n), dtype=np.complex64)
    group = np.zeros((len(fraction), n), dtype=np.int16)
    for start in range(0, len(fraction), BATCH):
        part = slice(start, start + BATCH)
        squares, columns = np.linalg.eigh(forces.matrices(fraction[part]))
        vectors[part] = columns.transpose(0, 2, 1)
        energies = np.sqrt(np.maximum(squares, 0))
        first = np.diff(energies, axis=1) > DEGENERATE_meV
        group[part, 1:] = np.maximum.accumulate(first * np.arange(1, n), axis=1)
    return vectors, group


def _mean_square(
    crystal: Crystal,
    forces: VirtualForces,
    temperature_K: float,
    symmetric: bool,
    points: int = 8000,
) -> FloatArray:
    """<u u> of every atom (atoms, 3, 3), angstrom^2, on two meshes shifted off Gamma.

    ``sum over modes of hbar^2 / (2 m E) coth(E / 2kT) e e^dagger``, averaged over each mesh. Long
    sound waves make the error proportional to the step (1 % at 300 K), so twice the finer mesh less
    the coarser one is free of it.
    """
    lengths = np.linalg.norm(crystal.reciprocal, axis=1)
    wanted = 0.5 * lengths * (points / np.prod(lengths)) ** (1 / 3)
    shape = np.maximum(np.rint(wanted), 2).astype(np.int64)
    coarse, fine = (_mesh_mean(crystal, forces, temperature_K, k * shape) for k in (1, 2))
    total = 2 * fine - coarse
    if symmetric:  # the shifted mesh need not be
        group = space_group_operations(crystal)
        carried = np.einsum("gab,kbc,gdc->gkad", group.cartesian, total, group.cartesian)
        total = np.zeros_like(total)
        for permutation, tensors in zip(group.permutation, carried, strict=True):
            total[permutation] += tensors / len(group)
    return total


def _mesh_mean(
    crystal: Crystal, forces: VirtualForces, temperature_K: float, shape: IntArray
) -> FloatArray:
    fraction = _grid_fractions(shape, 0.5)
    n = 3 * crystal.n_atoms
    total = np.zeros((crystal.n_atoms, 3, 3))
    for start in range(0, len(fraction), BATCH):
        squares, e = np.linalg.eigh(forces.matrices(fraction[start : start + BATCH]))
        energy = np.sqrt(np.where(squares > 1e-4, squares, np.inf))
        both = occupied(energy, temperature_K) + occupied(-energy, temperature_K)
        e = e.reshape(-1, crystal.n_atoms, 3, n)
        total += np.einsum("qs,qkas,qkbs->kab", both, e, e.conj(), optimize=True).real
    return total * (HBAR2_PER_2U / len(fraction) / crystal.masses_u[:, None, None])
