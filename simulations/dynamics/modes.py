"""Phonon modes of many q points and many force-constant sets, with gradients.

Single sets go through LAPACK, many at once through `mode_kernels`; plain torch is the oracle of the
latter in the tests.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from simulations.arrays import ComplexArray, FloatArray
from simulations.dynamics.force_constants import ForceConstantModel

_KERNEL_MODES = 18  # larger matrices leave the cache, and LAPACK takes over


def signed_root(squared: FloatArray) -> FloatArray:
    """Energies of eigenvalues of D: the root, negative where the eigenvalue is negative."""
    return np.sign(squared) * np.sqrt(np.abs(squared))


def eigenmodes(matrices: ComplexArray) -> tuple[FloatArray, ComplexArray]:
    """Energies and eigenvectors of dynamical matrices.

    Parameters
    ----------
    matrices : (..., n, n) complex128
        Hermitian, meV^2.

    Returns
    -------
    energies : (..., n) float64
        meV, ascending; negative means imaginary.
    eigenvectors : (..., n, n) complex128
        In columns, phase exp(i q (r_j - r_i)).
    """
    squared, vectors = np.linalg.eigh(matrices)
    return signed_root(squared), vectors


def modes(
    model: ForceConstantModel, q_cart: ArrayLike, phi: ArrayLike | None = None
) -> tuple[FloatArray, ComplexArray]:
    """Phonon energies and eigenvectors.

    Parameters
    ----------
    model : ForceConstantModel
    q_cart : (Q, 3) float64
        1/angstrom.
    phi : (K,) or (sets, K) float64 or None
        Free parameters, eV/angstrom^2; None: the reference.

    Returns
    -------
    energies : (Q, n) or (sets, Q, n) float64
        meV, ascending; negative means imaginary.
    eigenvectors : (Q, n, n) or (sets, Q, n, n) complex128
        In columns.

    Raises
    ------
    ValueError
        If ``phi`` does not have one value per free parameter.
    """
    values = model.values if phi is None else np.asarray(phi, dtype=float)
    if values.ndim not in (1, 2) or values.shape[-1] != len(model.names):
        raise ValueError(
            f"phi has shape {values.shape}; expected (K,) or (sets, K) with K = {len(model.names)}"
        )
    if values.ndim == 1:
        return eigenmodes(model.dynamical_matrices(q_cart, values))
    if model.n_modes <= _KERNEL_MODES:
        from simulations.dynamics.mode_kernels import batched_modes

        return batched_modes(model, q_cart, values)
    fixed, basis = model.matrices(q_cart)
    one_by_one = [eigenmodes(fixed + np.einsum("k,qkij->qij", v, basis)) for v in values]
    return np.array([e for e, _ in one_by_one]), np.array([v for _, v in one_by_one])


def energies_of_sets(model: ForceConstantModel, q_cart: ArrayLike, sets: ArrayLike) -> FloatArray:
    """Energies alone of many sets of force constants, for long paths and large cells.

    Parameters
    ----------
    model : ForceConstantModel
    q_cart : (Q, 3) float64
        1/angstrom.
    sets : (sets, K) float64
        Free parameters, eV/angstrom^2.

    Returns
    -------
    (sets, Q, n) float64
        meV, ascending; negative means imaginary.
    """
    fixed = model.fixed_matrices(q_cart)
    phis = np.asarray(sets, dtype=float).reshape(-1, len(model.names))
    out = np.empty((len(phis), len(fixed), model.n_modes))
    for k, phi in enumerate(phis):
        squared = np.linalg.eigvalsh(fixed + model.free_matrices(q_cart, phi))
        out[k] = signed_root(np.asarray(squared, dtype=float))
    return out


def energy_gradients(
    model: ForceConstantModel, q_cart: ArrayLike, energies: FloatArray, eigenvectors: ComplexArray
) -> FloatArray:
    """Hellmann-Feynman derivative of every energy by every free parameter.

    Inside a degenerate group the single derivatives depend on the choice of eigenvectors; their sum
    over the group does not. Use `spectral_gradient` for anything built from eigenvectors.

    Parameters
    ----------
    model : ForceConstantModel
    q_cart : (Q, 3) float64
        1/angstrom.
    energies : (Q, n) float64
        meV, of `modes`.
    eigenvectors : (Q, n, n) complex128

    Returns
    -------
    (Q, n, K) float64
        meV per eV/angstrom^2; NaN where the energy is zero.
    """
    _, basis = model.matrices(q_cart)
    slope = np.empty((*energies.shape, basis.shape[1]))
    for k in range(basis.shape[1]):
        product = basis[:, k] @ eigenvectors
        slope[:, :, k] = np.einsum("qis,qis->qs", eigenvectors.conj(), product).real
    size = np.abs(energies)[:, :, None]
    return np.divide(slope, 2 * size, out=np.full_like(slope, np.nan), where=size > 1e-9)


def group_velocities(
    model: ForceConstantModel,
    q_cart: ArrayLike,
    energies: FloatArray,
    eigenvectors: ComplexArray,
    phi: ArrayLike | None = None,
) -> FloatArray:
    """Slope of every branch, dE/dq.

    Inside a degenerate group only the sum over the group is meaningful.

    Parameters
    ----------
    model : ForceConstantModel
    q_cart : (Q, 3) float64
        1/angstrom.
    energies : (Q, n) float64
        meV, of `modes`.
    eigenvectors : (Q, n, n) complex128
    phi : (K,) float64 or None
        The parameters that the modes belong to.

    Returns
    -------
    (Q, n, 3) float64
        meV angstrom; divide by hbar for a velocity. NaN where the energy is zero.
    """
    slopes = model.matrix_gradients(q_cart, phi)
    out = np.einsum("qis,qcij,qjs->qsc", eigenvectors.conj(), slopes, eigenvectors, optimize=True)
    size = np.abs(energies)[:, :, None]
    return np.divide(out.real, 2 * size, out=np.full(out.shape, np.nan), where=size > 1e-9)


def divided_differences(
    values: FloatArray, derivatives: FloatArray, arguments: FloatArray, relative_gap: float = 1e-5
) -> FloatArray:
    """First divided differences of a function at pairs of arguments, safe where they coincide.

    Parameters
    ----------
    values, derivatives : (..., n) float64
        Function and its derivative at ``arguments``.
    arguments : (..., n) float64
        Eigenvalues.
    relative_gap : float
        Pairs closer than this, relative to their size, get the mean derivative.

    Returns
    -------
    (..., n, n) float64
        ``(f_i - f_j) / (x_i - x_j)``, and ``f'`` where the arguments coincide.
    """
    a, b = arguments[..., :, None], arguments[..., None, :]
    gap = a - b
    close = np.abs(gap) <= relative_gap * np.maximum(np.abs(a), np.abs(b))
    difference = values[..., :, None] - values[..., None, :]
    mean = 0.5 * (derivatives[..., :, None] + derivatives[..., None, :])
    return np.where(close, mean, difference / np.where(close, 1.0, gap))


def spectral_gradient(
    eigenvalues: FloatArray,
    eigenvectors: ComplexArray,
    values: FloatArray,
    derivatives: FloatArray,
    weight: ComplexArray,
    perturbations: ComplexArray,
) -> FloatArray:
    """Derivative of ``tr[T f(D)]`` by parameters of D, exact at degeneracies.

    Parameters
    ----------
    eigenvalues : (..., n) float64
        Of D, meV^2.
    eigenvectors : (..., n, n) complex128
        In columns.
    values, derivatives : (..., n) float64
        f and df/d(eigenvalue) at the eigenvalues.
    weight : (..., n, n) complex128
        T, Hermitian.
    perturbations : (..., K, n, n) complex128
        dD/dphi_k.

    Returns
    -------
    (..., K) float64

    References
    ----------
    Y. L. Daleckii and S. G. Krein (1965); R. Bhatia, Matrix Analysis (1997), theorem V.3.3.
    """
    adjoint = eigenvectors.conj().swapaxes(-1, -2)
    kernel = divided_differences(values, derivatives, eigenvalues) * (
        adjoint @ weight @ eigenvectors
    ).swapaxes(-1, -2)
    # sum_st F_st B_st T_ts with B in the eigenbasis = tr[B X], X = V (F * T^t)^t V^dagger
    back = eigenvectors @ kernel.swapaxes(-1, -2) @ adjoint
    return np.einsum("...kij,...ji->...k", perturbations, back).real
