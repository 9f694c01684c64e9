"""Force constants as named tensor elements, and the dynamical matrix that is linear in them.

``D(q; phi) = D0(q) + sum_k phi_k B_k(q)``. The ``phi_k`` are tensor elements of a fixed
representative bond that the space group leaves independent, for example ``1NN xx``. The acoustic
sum rule lives inside ``B_k``; ``D0`` carries far shells, elements held fixed and the dipole-dipole
term.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from simulations.arrays import ComplexArray, FloatArray, IntArray
from simulations.constants import MEV2_PER_FORCE_CONSTANT
from simulations.crystal import Crystal
from simulations.dynamics.bond_sums import (
    BondSums,
    bond_sums,
    summed,
    summed_gradients,
    summed_with_derivatives,
)
from simulations.dynamics.bonds import (
    LENGTH_TOLERANCE_A,
    PairForceConstants,
    neighbour_bonds,
    supercell_bonds,
)
from simulations.dynamics.dipole import DipoleSum
from simulations.dynamics.symmetry_elements import independent_elements, project
from simulations.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class ForceConstantModel:
    """Dynamical matrices linear in named force constants; build it by `force_constant_model`.

    ``elements`` are all independent elements up to the cutoff, ``names`` the free ones among them.
    """

    crystal: Crystal
    cutoff_A: float
    elements: tuple[str, ...]
    element_values: FloatArray  # (elements,) eV/angstrom^2, of the reference
    names: tuple[str, ...]  # free parameters
    reference: PairForceConstants  # symmetrised; includes far shells and dipoles
    spread: sparse.csc_matrix  # (bonds * 9, elements): change of bond tensors per element
    element_bonds: FloatArray  # (elements, 3) representative bond vectors, Cartesian, angstrom
    symmetry_residual: float  # largest change that symmetrisation made, eV/angstrom^2

    @cached_property
    def _free(self) -> IntArray:
        place = {name: k for k, name in enumerate(self.elements)}
        return np.array([place[name] for name in self.names], dtype=np.int64)

    @property
    def values(self) -> FloatArray:
        """Reference values of the free parameters, (K,), eV/angstrom^2."""
        return self.element_values[self._free]

    @property
    def n_modes(self) -> int:
        """Number of modes, three times the number of atoms."""
        return 3 * self.crystal.n_atoms

    def _change(self, step: FloatArray) -> FloatArray:
        """Change of the bond tensors for a change of the free parameters, (bonds, 3, 3)."""
        return (self.spread[:, self._free] @ step).reshape(-1, 3, 3)

    @cached_property
    def _columns(self) -> FloatArray:
        """Bond tensors per unit of each free parameter, (bonds, 9, K)."""
        dense = self.spread[:, self._free].toarray()
        return dense.reshape(len(self.reference.first), 9, len(self.names))

    @cached_property
    def _basis(self) -> BondSums:
        return bond_sums(self.reference, self._columns)

    @cached_property
    def _fixed(self) -> BondSums:
        tensors = (self.reference.tensors - self._change(self.values)).reshape(-1, 9)
        scale = np.abs(self.reference.tensors).max(initial=1e-300)
        tensors[np.abs(tensors) < 1e-15 * scale] = 0.0
        return bond_sums(self.reference, tensors[:, :, None])

    @cached_property
    def _dipole(self) -> tuple[DipoleSum, BondSums] | None:
        """Ewald sum, and the part of it that the supercell's constants hold already."""
        bonds = self.reference
        if bonds.dipole is None or bonds.supercell is None:
            return None
        ewald = DipoleSum(self.crystal, bonds.dipole)
        listed, multiplicity = supercell_bonds(self.crystal, bonds.supercell)
        shared = ewald.supercell_constants(
            bonds.supercell, listed.first, listed.second, listed.cell
        )
        tensors = (shared / multiplicity[:, None, None]).reshape(-1, 9, 1)
        return ewald, bond_sums(listed, tensors)

    def with_free(self, names: Iterable[str]) -> ForceConstantModel:
        """Same reference, other free parameters, in the order given.

        Raises
        ------
        ValueError
            If a name is unknown or given twice.
        """
        names = tuple(names)
        unknown = [name for name in names if name not in set(self.elements)]
        if unknown:
            raise InputError(
                f"parameters.free holds {unknown}; expected names among {list(self.elements)}"
            )
        if len(set(names)) != len(names):
            raise InputError(f"parameters.free is {list(names)}; expected each name once")
        return replace(self, names=names)

    def with_elements(self, values: ArrayLike) -> ForceConstantModel:
        """Same model around other reference values of all elements, (elements,), eV/angstrom^2."""
        values = np.asarray(values, dtype=float)
        if values.shape != self.element_values.shape:
            raise ValueError(
                f"values has shape {values.shape}; expected {self.element_values.shape}, "
                "one value per entry of `elements`"
            )
        change = (self.spread @ (values - self.element_values)).reshape(-1, 3, 3)
        return replace(
            self,
            element_values=values,
            reference=replace(self.reference, tensors=self.reference.tensors + change),
        )

    def matrices(self, q_cart: ArrayLike) -> tuple[ComplexArray, ComplexArray]:
        """Fixed part and basis of the dynamical matrix, ``D = fixed + sum_k phi_k basis_k``.

        Parameters
        ----------
        q_cart : (Q, 3) float64
            1/angstrom, any zone.

        Returns
        -------
        fixed : (Q, n, n) complex128
            meV^2, mass weighted, Hermitian, n = 3 atoms, phase exp(i q (r_j - r_i)). In polar
            crystals the non-analytic term is left out at reciprocal-lattice vectors.
        basis : (Q, K, n, n) complex128
            meV^2 per eV/angstrom^2; a view with the parameter axis slowest in memory.
        """
        return self.fixed_matrices(q_cart), self.basis_matrices(q_cart)

    def basis_matrices(self, q_cart: ArrayLike) -> ComplexArray:
        """Derivatives of the dynamical matrix by the free parameters, as ``matrices`` has them."""
        q = checked_q(q_cart)
        return summed(self._basis, q).transpose(1, 0, 2, 3)

    def fixed_matrices(self, q_cart: ArrayLike) -> ComplexArray:
        """The part that no free parameter changes, (Q, n, n) complex128, meV^2."""
        q = checked_q(q_cart)
        return self._with_dipoles(summed(self._fixed, q)[0], q)

    def _with_dipoles(self, matrices: ComplexArray, q: FloatArray) -> ComplexArray:
        if self._dipole is None:
            return matrices
        ewald, listed = self._dipole
        matrices = matrices - summed(listed, q)[0]
        return matrices + self._weighted(ewald.matrices(q))

    def _weighted(self, blocks: ComplexArray) -> ComplexArray:
        """Mass weighting of (..., atoms, atoms, 3, 3) eV/angstrom^2 to (..., n, n) meV^2."""
        mass = self.crystal.masses_u
        weight = MEV2_PER_FORCE_CONSTANT / np.sqrt(mass[:, None] * mass[None, :])
        out = np.moveaxis(blocks * weight[:, :, None, None], -2, -3)
        return out.reshape(*blocks.shape[:-4], self.n_modes, self.n_modes)

    def dynamical_matrices(self, q_cart: ArrayLike, phi: ArrayLike | None = None) -> ComplexArray:
        """Dynamical matrices at given parameters (default: the reference), (Q, n, n), meV^2."""
        q = checked_q(q_cart)
        tensors = self.force_constants(phi).tensors.reshape(-1, 9, 1)
        compiled = bond_sums(self.reference, tensors)
        return self._with_dipoles(summed(compiled, q)[0], q)

    def matrix_gradients(self, q_cart: ArrayLike, phi: ArrayLike | None = None) -> ComplexArray:
        """Derivatives of the dynamical matrix by q, (Q, 3, n, n) complex128, meV^2 angstrom."""
        q = checked_q(q_cart)
        tensors = self.force_constants(phi).tensors.reshape(-1, 9, 1)
        out = summed_gradients(bond_sums(self.reference, tensors), q)[0]
        if self._dipole is not None:
            ewald, listed = self._dipole
            out = out - summed_gradients(listed, q)[0]
            out = out + self._weighted(ewald.gradients(q))
        return out

    def free_matrices(self, q_cart: ArrayLike, phi: ArrayLike) -> ComplexArray:
        """The share of the free parameters in the dynamical matrices, (Q, n, n), meV^2.

        ``dynamical_matrices(q, phi) = fixed_matrices(q) + free_matrices(q, phi)``: far shells and
        dipoles need be summed once for many sets.
        """
        q = checked_q(q_cart)
        columns = self._columns @ np.asarray(phi, dtype=float)[:, None]
        return summed(bond_sums(self.reference, columns), q)[0]

    def free_expansion(
        self, q_cart: ArrayLike, phi: ArrayLike
    ) -> tuple[ComplexArray, NDArray[np.complex64]]:
        """:meth:`free_matrices` with their first and second derivatives by q, linear in ``phi``.

        Few bonds carry free parameters, and the rest (far shells, dipoles) need be summed once:
        ``matrix_gradients(q, phi) = matrix_gradients(q, 0 * phi)`` and the first ones of these.
        In the form of ``bond_sums.summed_with_derivatives``.
        """
        q = checked_q(q_cart)
        columns = self._columns @ np.asarray(phi, dtype=float)[:, None]
        return summed_with_derivatives(bond_sums(self.reference, columns), q)

    def force_constants(self, phi: ArrayLike | None = None) -> PairForceConstants:
        """Force constants of all bonds at given parameters (default: the reference)."""
        if phi is None:
            return self.reference
        phi = np.asarray(phi, dtype=float)
        if phi.shape != (len(self.names),):
            raise ValueError(
                f"phi has shape {phi.shape}; expected ({len(self.names)},), one value per free name"
            )
        change = self._change(phi - self.values)
        return replace(self.reference, tensors=self.reference.tensors + change)

    def beyond_elements(self) -> float:
        """Largest force constant that no named element carries, eV/angstrom^2.

        It belongs to shells beyond the cutoff, which stay as they are. At 0 the elements are all
        there is, and force constants survive the way through them.
        """
        rest = self.with_elements(np.zeros(len(self.elements))).reference.tensors
        return float(np.abs(rest).max(initial=0.0))

    def onsite(self, phi: ArrayLike | None = None) -> FloatArray:
        """On-site constants, (atoms, 3, 3), eV/angstrom^2: derived by the acoustic sum rule."""
        return self.force_constants(phi).onsite()

    def onsite_gradient(self) -> FloatArray:
        """Derivative of the on-site constants by the free parameters, (K, atoms, 3, 3)."""
        out = np.zeros((self.crystal.n_atoms, 9, len(self.names)))
        np.subtract.at(out, self.reference.first, self._columns)
        return out.reshape(self.crystal.n_atoms, 3, 3, -1).transpose(3, 0, 1, 2)

    def read_elements(self, force_constants: PairForceConstants) -> FloatArray:
        """Values of this model's elements in other force constants of the same crystal.

        Parameters
        ----------
        force_constants : PairForceConstants
            Symmetrised on the way; bonds are found by their vector.

        Returns
        -------
        (elements,) float64
            eV/angstrom^2.

        Raises
        ------
        ValueError
            If a representative bond is missing, for example in a smaller supercell.
        """
        other = force_constant_model(force_constants.crystal, force_constants, self.cutoff_A)
        found = dict(zip(other.elements, other.element_values, strict=True))
        missing = [name for name in self.elements if name not in found]
        if missing:
            raise InputError(
                f"force constants ({force_constants.source or 'given'}) lack {missing[:4]}; "
                "expected the same crystal and a supercell that holds the cutoff "
                f"{self.cutoff_A:.3f} angstrom"
            )
        return np.array([found[name] for name in self.elements])


def checked_q(q_cart: ArrayLike) -> FloatArray:
    """Wave vectors as (points, 3) float64; ValueError where they are something else."""
    q = np.asarray(q_cart, dtype=float)
    if q.ndim != 2 or q.shape[1] != 3:
        raise ValueError(f"q_cart has shape {q.shape}; expected (Q, 3)")
    if not np.isfinite(q).all():
        raise InputError("q_cart holds NaN or infinity; expected finite vectors in 1/angstrom")
    return q


def force_constant_model(
    crystal: Crystal,
    force_constants: PairForceConstants | None,
    cutoff_A: float | None,
    free: Sequence[str] | None = None,
) -> ForceConstantModel:
    """Name the independent force constants of a crystal up to a cutoff.

    Parameters
    ----------
    crystal : Crystal
    force_constants : PairForceConstants or None
        Reference; symmetrised here. None: all constants start at zero and nothing lies beyond the
        cutoff. Operations that do not keep the supercell's lattice are left out.
    cutoff_A : float or None
        Longest bond whose elements get names, angstrom. None: all bonds of the reference.
    free : sequence of str or None
        Names of the free parameters; None frees all elements.

    Raises
    ------
    ValueError
        If the cutoff exceeds what the reference holds (says the largest allowed), a name is
        unknown, or the reference belongs to another crystal.
    """
    if force_constants is None:
        if cutoff_A is None:
            raise InputError(
                "cutoff_A is None; expected a length when no force constants are given"
            )
        force_constants = neighbour_bonds(crystal, cutoff_A)
        generated = True
    else:
        generated = False
        _check_same_crystal(crystal, force_constants.crystal)
    lengths = force_constants.lengths
    longest = float(lengths.max(initial=0.0))
    if cutoff_A is None:
        cutoff_A = longest
    elif cutoff_A > longest + LENGTH_TOLERANCE_A and not generated:
        raise InputError(
            f"parameters.cutoff_A is {cutoff_A} angstrom; the force constants "
            f"({force_constants.source or 'given'}) reach {longest:.4f} angstrom, the largest "
            "allowed. Lower the cutoff or use a larger supercell."
        )
    every = independent_elements(force_constants)
    values = project(force_constants, every)
    tensors = (every.spread @ values).reshape(-1, 3, 3)
    residual = float(np.abs(tensors - force_constants.tensors).max(initial=0.0))
    reference = replace(force_constants, crystal=crystal, tensors=tensors)

    near = np.flatnonzero(every.lengths_A <= cutoff_A + LENGTH_TOLERANCE_A)
    keep, dependent, follow = _resolve_constraint(every.constraint[:, near])
    spread = every.spread[:, near]
    if len(dependent):
        spread = spread[:, keep] + spread[:, dependent] @ sparse.csc_matrix(follow)
    else:
        spread = spread[:, keep]
    names = tuple(every.names[near[k]] for k in keep)
    vectors = reference.vectors
    bonds = np.array(
        [vectors[every.orbits[every.orbit_of[near[k]]].representative] for k in keep]
    ).reshape(-1, 3)
    model = ForceConstantModel(
        crystal=crystal,
        cutoff_A=float(cutoff_A),
        elements=names,
        element_values=values[near[keep]],
        names=names,
        reference=reference,
        spread=sparse.csc_matrix(spread),
        element_bonds=bonds,
        symmetry_residual=residual,
    )
    return model if free is None else model.with_free(free)


def _resolve_constraint(A: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
    """Split elements into independent ones and ones that follow, so that ``A x = 0``.

    Far elements are made dependent first: names of near shells then never change with the cutoff
    unless they must.

    Returns
    -------
    keep, dependent : int arrays
    follow : (dependent, keep) float64
        ``x[dependent] = follow @ x[keep]``.
    """
    count = A.shape[1]
    if len(A) == 0 or count == 0:
        return np.arange(count), np.zeros(0, dtype=np.int64), np.zeros((0, count))
    scale = np.linalg.norm(A, axis=0).max()
    rank = int(np.sum(np.linalg.svd(A, compute_uv=False) > 1e-9 * max(scale, 1e-300)))
    dependent: list[int] = []
    frame = np.zeros((0, len(A)))
    threshold = 0.2
    while len(dependent) < rank:
        for column in range(count - 1, -1, -1):
            if len(dependent) == rank or column in dependent:
                continue
            rest = A[:, column] - (A[:, column] @ frame.T) @ frame
            size = np.linalg.norm(rest)
            if size > threshold * scale:
                dependent.append(column)
                frame = np.vstack([frame, rest / size])
        threshold *= 0.5
    chosen = np.array(sorted(dependent), dtype=np.int64)
    keep = np.setdiff1d(np.arange(count), chosen)
    follow: FloatArray = -np.asarray(
        np.linalg.lstsq(A[:, chosen], A[:, keep], rcond=None)[0], dtype=np.float64
    )
    follow[np.abs(follow) < 1e-13] = 0.0
    return keep, chosen, follow


def _check_same_crystal(crystal: Crystal, other: Crystal) -> None:
    if crystal is other:
        return
    same = (
        crystal.elements == other.elements
        and np.allclose(crystal.lattice, other.lattice, atol=1e-4)
        and np.allclose(
            (crystal.positions - other.positions) - np.rint(crystal.positions - other.positions),
            0,
            atol=1e-4,
        )
    )
    if not same:
        raise InputError(
            "force constants belong to another crystal (lattice, species or positions differ); "
            "expected the crystal of the model. Read both from the same file."
        )
    if not np.allclose(crystal.positions, other.positions, atol=1e-3):
        raise InputError(
            "force constants list the same atoms in other cells; expected equal positions"
        )
