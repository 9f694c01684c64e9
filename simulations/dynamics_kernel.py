"""Compiled lattice dynamics of many force-constant sets: energies, eigenvectors and spectra.

A block of force-constant sets is diagonalised at once at one q: every arithmetic step runs over the
block as the innermost loop, which the compiler turns into vector instructions, and everything that
it touches stays in the first cache. Matrices are brought to tridiagonal form by Householder
reflections and diagonalised by implicit QL steps; what belongs to the eigenvectors is carried along
as rows, the scattering amplitude alone where a spectrum is wanted.

All compiled code is in this one module: a cached kernel is renewed when its own file changes, not
when a file that it imports does.

References
----------
B. N. Parlett, The Symmetric Eigenvalue Problem (SIAM, 1998), chapters 7 and 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from simulations.crystal import Crystal
from simulations.force_constants import ForceConstantModel
from simulations.symmetry import space_group_operations

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

LANES = 64
"""Force-constant sets that are diagonalised together."""

_EPSILON = 2.0**-52
_MAX_STEPS = 60
_REAL_TOLERANCE = 1e-10


# ------------------------------------------------------------------------------------ real form


def real_form(crystal: Crystal) -> ComplexArray | None:
    """Constant unitary matrix that makes all dynamical matrices of a crystal real.

    Where an inversion maps atom k onto atom k', D(q) in the phase ``exp(i q (r_j - r_i))`` goes
    into its complex conjugate when k and k' are swapped. It is therefore real between
    ``(k + k') / sqrt(2)`` and ``i (k - k') / sqrt(2)``, at every q.

    Parameters
    ----------
    crystal : Crystal

    Returns
    -------
    (n, n) complex128 or None
        U with ``U^dagger D(q) U`` real; None without an inversion.
    """
    group = space_group_operations(crystal)
    inversions = np.flatnonzero((group.rotations == -np.eye(3, dtype=int)).all(axis=(1, 2)))
    if len(inversions) == 0:
        return None
    partner = group.permutation[inversions[0]]
    atoms = np.zeros((crystal.n_atoms, crystal.n_atoms), dtype=np.complex128)
    for k, other in enumerate(partner):
        if k == other:
            atoms[k, k] = 1.0
        elif k < other:
            atoms[[k, other], k] = np.sqrt(0.5)
            atoms[[k, other], other] = 1j * np.sqrt(0.5), -1j * np.sqrt(0.5)
    return np.kron(atoms, np.eye(3)).astype(np.complex128)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LinearMatrices:
    """Lower triangles of ``D(q; phi) = fixed + sum_k phi_k basis_k``, ready for the kernels.

    ``real`` and ``imag`` hold the fixed part in column 0 and the basis in the others;
    P = n (n + 1) / 2. ``imag`` has no rows (P = 0) where the matrices are real.
    """

    n: int
    real: FloatArray  # (Q, P, 1 + K) meV^2, and meV^2 per eV/angstrom^2
    imag: FloatArray  # (Q, P or 0, 1 + K)
    transform: ComplexArray  # (n, n) unitary: eigenvectors are transform @ the kernel's

    @property
    def is_real(self) -> bool:
        """Whether the matrices are real and symmetric."""
        return self.imag.shape[1] == 0

    @property
    def n_q(self) -> int:
        """Number of q points."""
        return self.real.shape[0]

    @property
    def n_parameters(self) -> int:
        """Number of free parameters."""
        return self.real.shape[2] - 1


def linear_matrices(
    fixed: ComplexArray, basis: ComplexArray, transform: ComplexArray | None
) -> LinearMatrices:
    """Pack dynamical matrices for the kernels, as real ones where the transform makes them so.

    Parameters
    ----------
    fixed : (Q, n, n) complex128
        Of `ForceConstantModel.matrices`, meV^2.
    basis : (Q, K, n, n) complex128
    transform : (n, n) complex128 or None
        Of `real_form`; complex matrices stay as they are when it does not make all of them real.
    """
    n = fixed.shape[-1]
    stack = np.concatenate([fixed[:, None], basis], axis=1)
    row, column = np.tril_indices(n)
    if transform is not None:
        turned = transform.conj().T @ stack @ transform
        size = np.abs(turned).max(initial=1e-300)
        if np.abs(turned.imag).max(initial=0.0) <= _REAL_TOLERANCE * size:
            real = np.ascontiguousarray(turned.real[:, :, row, column].transpose(0, 2, 1))
            return LinearMatrices(
                n=n, real=real, imag=np.zeros((len(fixed), 0, real.shape[2])), transform=transform
            )
    packed = stack[:, :, row, column].transpose(0, 2, 1)
    return LinearMatrices(
        n=n,
        real=np.ascontiguousarray(packed.real),
        imag=np.ascontiguousarray(packed.imag),
        transform=np.eye(n, dtype=np.complex128),
    )


# ------------------------------------------------------------------------- eigenvalues of blocks
# Arrays end with the block: (..., LANES). Row r of `rows` becomes row r times the eigenvectors.


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _combine(packed, phi, out):
    """Lower triangle of the matrices: out[p] = packed[p, 0] + sum_k packed[p, 1 + k] phi[k]."""
    lanes = out.shape[1]
    for p in range(packed.shape[0]):
        first = packed[p, 0]
        for v in range(lanes):
            out[p, v] = first
        for k in range(phi.shape[0]):
            factor = packed[p, 1 + k]
            if factor != 0.0:
                for v in range(lanes):
                    out[p, v] += factor * phi[k, v]


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _tridiagonal_real(a, rows, d, e, x, w, t):
    """Householder reduction of packed lower triangles a (P, lanes); rows (m, n, lanes)."""
    n, lanes = d.shape
    for k in range(n - 2):
        top = (k + 1) * (k + 2) // 2 + k  # element (k + 1, k)
        for v in range(lanes):
            t[0, v] = 0.0
            d[k, v] = a[(k + 1) * (k + 2) // 2 - 1, v]
        for i in range(k + 2, n):
            at = i * (i + 1) // 2 + k
            for v in range(lanes):
                x[i, v] = a[at, v]
                t[0, v] += a[at, v] * a[at, v]
        for v in range(lanes):
            head = a[top, v]
            tail = t[0, v]
            norm = math.sqrt(head * head + tail)
            bent = tail > 0.0
            e[k, v] = -math.copysign(norm, head) if bent else head
            x[k + 1, v] = head + math.copysign(norm, head)
            t[1, v] = 1.0 / (norm * (norm + abs(head))) if bent else 0.0  # beta
            t[2, v] = 0.0
        for i in range(k + 1, n):
            for v in range(lanes):
                w[i, v] = 0.0
        for i in range(k + 1, n):
            for j in range(k + 1, i):
                at = i * (i + 1) // 2 + j
                for v in range(lanes):
                    w[i, v] += a[at, v] * x[j, v]
                for v in range(lanes):
                    w[j, v] += a[at, v] * x[i, v]
            at = i * (i + 3) // 2
            for v in range(lanes):
                w[i, v] += a[at, v] * x[i, v]
        for i in range(k + 1, n):
            for v in range(lanes):
                w[i, v] *= t[1, v]
                t[2, v] += w[i, v] * x[i, v]
        for v in range(lanes):
            t[2, v] *= 0.5 * t[1, v]
        for i in range(k + 1, n):
            for v in range(lanes):
                w[i, v] -= t[2, v] * x[i, v]
        for i in range(k + 1, n):
            for j in range(k + 1, i + 1):
                at = i * (i + 1) // 2 + j
                for v in range(lanes):
                    a[at, v] -= x[i, v] * w[j, v] + w[i, v] * x[j, v]
        for r in range(rows.shape[0]):
            for v in range(lanes):
                t[0, v] = 0.0
            for j in range(k + 1, n):
                for v in range(lanes):
                    t[0, v] += rows[r, j, v] * x[j, v]
            for v in range(lanes):
                t[0, v] *= t[1, v]
            for j in range(k + 1, n):
                for v in range(lanes):
                    rows[r, j, v] -= t[0, v] * x[j, v]
    last = n * (n + 1) // 2 - 1
    for v in range(lanes):
        d[n - 1, v] = a[last, v]
        e[n - 1, v] = 0.0
    if n > 1:
        for v in range(lanes):
            d[n - 2, v] = a[last - n, v]
            e[n - 2, v] = a[last - 1, v]


# Rows of the scratch array of `_implicit_ql`. One array with constant rows lets the compiler prove
# that rows do not overlap; with rows of many arrays it gives up and turns one matrix at a time.
_SINE, _COSINE, _PUSH, _CARRY, _SHIFT, _LEAST, _END = 0, 1, 2, 3, 4, 5, 6
_UPPER, _LOWER, _OFF, _OFF_BELOW = 7, 8, 9, 10


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _implicit_ql(d, e, rows):
    """Eigenvalues d of tridiagonal matrices, unsorted; False if one does not converge.

    Every matrix of the block splits where its own off-diagonal vanishes and rests with the identity
    while others still turn.
    """
    n = d.shape[0]
    s = np.empty((11, LANES))
    for v in range(LANES):
        s[_LEAST, v] = 0.0
    for i in range(n):
        for v in range(LANES):
            s[_LEAST, v] = max(abs(d[i, v]) + abs(e[i, v]), s[_LEAST, v])
    for v in range(LANES):
        s[_LEAST, v] = 1e-18 * s[_LEAST, v] + 1e-280
    for first in range(n - 1):
        step = 0
        while True:
            for v in range(LANES):
                s[_END, v] = n - 1.0
            for i in range(n - 2, first - 1, -1):
                here = float(i)
                for v in range(LANES):
                    small = _EPSILON * (abs(d[i, v]) + abs(d[i + 1, v])) + s[_LEAST, v]
                    s[_END, v] = here if abs(e[i, v]) <= small else s[_END, v]
            furthest = float(first)
            for v in range(LANES):
                furthest = max(furthest, s[_END, v])
            if furthest == first:
                break
            if step == _MAX_STEPS:
                return False
            step += 1
            for v in range(LANES):
                s[_LOWER, v] = d[first, v]
                s[_UPPER, v] = d[first + 1, v]
                s[_OFF, v] = e[first, v]
            for v in range(LANES):  # Wilkinson's shift
                g = (s[_UPPER, v] - s[_LOWER, v]) / (2.0 * s[_OFF, v])
                r = math.sqrt(g * g + 1.0)
                s[_SHIFT, v] = s[_LOWER, v] - s[_OFF, v] / (g + math.copysign(r, g))
            for v in range(LANES):
                s[_SINE, v] = 1.0
                s[_COSINE, v] = 1.0
                s[_PUSH, v] = 0.0
                s[_CARRY, v] = 0.0
            for i in range(int(furthest) - 1, first - 1, -1):
                here = float(i)
                for v in range(LANES):
                    s[_UPPER, v] = d[i + 1, v]
                    s[_LOWER, v] = d[i, v]
                for v in range(LANES):
                    s[_OFF, v] = e[i, v]
                    s[_OFF_BELOW, v] = e[i + 1, v]
                for v in range(LANES):
                    turns = here < s[_END, v]
                    starts = here == s[_END, v] - 1.0
                    g = s[_UPPER, v] - s[_SHIFT, v] if starts else s[_CARRY, v]
                    sine = 1.0 if starts else s[_SINE, v]
                    cosine = 1.0 if starts else s[_COSINE, v]
                    p = 0.0 if starts else s[_PUSH, v]
                    f = sine * s[_OFF, v]
                    b = cosine * s[_OFF, v]
                    r = math.sqrt(f * f + g * g)
                    inverse = 1.0 / r
                    sine = f * inverse if r > 0.0 else 0.0
                    cosine = g * inverse if r > 0.0 else 1.0
                    g = s[_UPPER, v] - p
                    r2 = (s[_LOWER, v] - g) * sine + 2.0 * cosine * b
                    p = sine * r2
                    above = 0.0 if starts else r
                    s[_OFF_BELOW, v] = above if turns else s[_OFF_BELOW, v]
                    s[_UPPER, v] = g + p if turns else s[_UPPER, v]
                    s[_CARRY, v] = cosine * r2 - b
                    s[_PUSH, v] = p
                    s[_SINE, v] = sine if turns else 0.0
                    s[_COSINE, v] = cosine if turns else 1.0
                for v in range(LANES):
                    e[i + 1, v] = s[_OFF_BELOW, v]
                    d[i + 1, v] = s[_UPPER, v]
                for k in range(rows.shape[0]):
                    for v in range(LANES):
                        z = rows[k, i + 1, v]
                        y = rows[k, i, v]
                        rows[k, i + 1, v] = s[_SINE, v] * y + s[_COSINE, v] * z
                        rows[k, i, v] = s[_COSINE, v] * y - s[_SINE, v] * z
            for v in range(LANES):
                turned = s[_END, v] > first
                d[first, v] = d[first, v] - s[_PUSH, v] if turned else d[first, v]
                e[first, v] = s[_CARRY, v] if turned else e[first, v]
    return True


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _tridiagonal_complex(a, b, rows, d, e, x, y, w, u, t):
    """Householder reduction of Hermitian matrices a + i b, packed lower triangles (P, lanes).

    The first half of ``rows`` (2 m, n, lanes) are real parts, the second half imaginary parts.
    """
    n, lanes = d.shape
    half = rows.shape[0] // 2
    for v in range(lanes):  # phase of the tridiagonal basis, t[4] + i t[5]
        t[4, v] = 1.0
        t[5, v] = 0.0
    for k in range(n - 1):
        top = (k + 1) * (k + 2) // 2 + k  # element (k + 1, k)
        for v in range(lanes):
            t[0, v] = 0.0
            d[k, v] = a[(k + 1) * (k + 2) // 2 - 1, v]
        for i in range(k + 2, n):
            at = i * (i + 1) // 2 + k
            for v in range(lanes):
                x[i, v] = a[at, v]
                y[i, v] = b[at, v]
                t[0, v] += a[at, v] * a[at, v] + b[at, v] * b[at, v]
        for v in range(lanes):  # the head becomes minus its phase times the norm of the column
            head = math.sqrt(a[top, v] * a[top, v] + b[top, v] * b[top, v])
            tail = t[0, v]
            norm = math.sqrt(head * head + tail)
            cosine = a[top, v] / head if head > 0.0 else 1.0
            sine = b[top, v] / head if head > 0.0 else 0.0
            bent = tail > 0.0
            x[k + 1, v] = cosine * (head + norm)
            y[k + 1, v] = sine * (head + norm)
            t[1, v] = 1.0 / (norm * (norm + head)) if bent else 0.0  # beta
            t[2, v] = 0.0
            sign = -1.0 if bent else 1.0
            e[k, v] = norm
            t[6, v] = sign * (t[4, v] * cosine - t[5, v] * sine)
            t[7, v] = sign * (t[4, v] * sine + t[5, v] * cosine)
        for v in range(lanes):
            t[4, v] = t[6, v]
            t[5, v] = t[7, v]
        for i in range(k + 1, n):
            for v in range(lanes):
                w[i, v] = 0.0
                u[i, v] = 0.0
        for i in range(k + 1, n):
            for j in range(k + 1, i):
                at = i * (i + 1) // 2 + j
                for v in range(lanes):
                    w[i, v] += a[at, v] * x[j, v] - b[at, v] * y[j, v]
                    u[i, v] += a[at, v] * y[j, v] + b[at, v] * x[j, v]
                for v in range(lanes):
                    w[j, v] += a[at, v] * x[i, v] + b[at, v] * y[i, v]
                    u[j, v] += a[at, v] * y[i, v] - b[at, v] * x[i, v]
            at = i * (i + 3) // 2
            for v in range(lanes):
                w[i, v] += a[at, v] * x[i, v]
                u[i, v] += a[at, v] * y[i, v]
        for i in range(k + 1, n):
            for v in range(lanes):
                w[i, v] *= t[1, v]
                u[i, v] *= t[1, v]
                t[2, v] += w[i, v] * x[i, v] + u[i, v] * y[i, v]
        for v in range(lanes):
            t[2, v] *= 0.5 * t[1, v]
        for i in range(k + 1, n):
            for v in range(lanes):
                w[i, v] -= t[2, v] * x[i, v]
                u[i, v] -= t[2, v] * y[i, v]
        for i in range(k + 1, n):
            for j in range(k + 1, i + 1):
                at = i * (i + 1) // 2 + j
                for v in range(lanes):
                    a[at, v] -= x[i, v] * w[j, v] + y[i, v] * u[j, v]
                    a[at, v] -= w[i, v] * x[j, v] + u[i, v] * y[j, v]
                for v in range(lanes):
                    b[at, v] -= y[i, v] * w[j, v] - x[i, v] * u[j, v]
                    b[at, v] -= u[i, v] * x[j, v] - w[i, v] * y[j, v]
        for r in range(half):
            for v in range(lanes):
                t[2, v] = 0.0
                t[3, v] = 0.0
            for j in range(k + 1, n):
                for v in range(lanes):
                    t[2, v] += rows[r, j, v] * x[j, v] - rows[half + r, j, v] * y[j, v]
                    t[3, v] += rows[r, j, v] * y[j, v] + rows[half + r, j, v] * x[j, v]
            for j in range(k + 1, n):
                for v in range(lanes):
                    rows[r, j, v] -= t[1, v] * (t[2, v] * x[j, v] + t[3, v] * y[j, v])
                    rows[half + r, j, v] -= t[1, v] * (t[3, v] * x[j, v] - t[2, v] * y[j, v])
            for v in range(lanes):  # column k + 1 is final: the later reflections leave it alone
                real = rows[r, k + 1, v]
                imag = rows[half + r, k + 1, v]
                rows[r, k + 1, v] = real * t[4, v] - imag * t[5, v]
                rows[half + r, k + 1, v] = real * t[5, v] + imag * t[4, v]
    for v in range(lanes):
        d[n - 1, v] = a[n * (n + 1) // 2 - 1, v]
        e[n - 1, v] = 0.0


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _diagonalise(real, imag, phi, a, b, rows, d, e, work):
    """Eigenvalues d of one q and one block of sets; rows times eigenvectors; False if it fails."""
    n = d.shape[0]
    _combine(real, phi, a)
    x, w, t = work[:n], work[n : 2 * n], work[4 * n :]
    if imag.shape[0] == 0:
        _tridiagonal_real(a, rows, d, e, x, w, t)
    else:
        _combine(imag, phi, b)
        y, u = work[2 * n : 3 * n], work[3 * n : 4 * n]
        _tridiagonal_complex(a, b, rows, d, e, x, y, w, u, t)
    return _implicit_ql(d, e, rows)


@njit(cache=True)
def _lanes_of(phi, start, out):
    """Parameters of a block, the last set repeated to fill it; return how many are real."""
    count = min(LANES, phi.shape[0] - start)
    for v in range(LANES):
        row = start + min(v, count - 1)
        for k in range(phi.shape[1]):
            out[k, v] = phi[row, k]
    return count


@njit(cache=True, nogil=True)
def modes_of_sets(real, imag, phi, squared, vectors_real, vectors_imag):
    """Eigenvalues and eigenvectors, ascending; see `batched_modes`, which calls it.

    ``squared`` is (sets, Q, n), the vectors are (sets, Q, n, n) in columns; no vectors are wanted
    where those have no sets. Returns False if an eigenvalue did not converge.
    """
    n = squared.shape[2]
    wanted = n if vectors_real.shape[0] else 0
    parts = 1 if imag.shape[1] == 0 else 2
    a = np.empty((real.shape[1], LANES))
    b = np.empty((imag.shape[1], LANES))
    rows = np.empty((parts * wanted, n, LANES))
    d = np.empty((n, LANES))
    e = np.empty((n, LANES))
    work = np.empty((4 * n + 8, LANES))
    block = np.empty((phi.shape[1], LANES))
    good = True
    for start in range(0, phi.shape[0], LANES):
        count = _lanes_of(phi, start, block)
        for q in range(real.shape[0]):
            rows[:] = 0.0
            for i in range(wanted):
                rows[i, i, :] = 1.0
            good &= _diagonalise(real[q], imag[q], block, a, b, rows, d, e, work)
            for v in range(count):
                order = np.argsort(d[:, v])
                for s in range(n):
                    from_s = order[s]
                    squared[start + v, q, s] = d[from_s, v]
                    for i in range(wanted):
                        vectors_real[start + v, q, i, s] = rows[i, from_s, v]
                    if parts == 2:
                        for i in range(wanted):
                            vectors_imag[start + v, q, i, s] = rows[wanted + i, from_s, v]
    return good


def matrix_modes(
    matrices: LinearMatrices, phi: FloatArray, *, vectors: bool = True
) -> tuple[FloatArray, FloatArray | ComplexArray, bool]:
    """Diagonalise packed matrices; eigenvectors stay in the kernel's basis.

    Parameters
    ----------
    matrices : LinearMatrices
    phi : (sets, K) float64
        eV/angstrom^2.
    vectors : bool
        Whether eigenvectors are wanted.

    Returns
    -------
    squared : (sets, Q, n) float64
        Eigenvalues, meV^2, ascending.
    vectors : (sets or 0, Q, n, n) float64 or complex128
        In columns.
    converged : bool
    """
    n, sets = matrices.n, len(phi)
    squared = np.empty((sets, matrices.n_q, n))
    shape = (sets if vectors else 0, matrices.n_q, n, n)
    real = np.empty(shape)
    imag = np.empty(shape if not matrices.is_real else (0, 0, 0, 0))
    values = np.ascontiguousarray(phi, dtype=float)
    good = modes_of_sets(matrices.real, matrices.imag, values, squared, real, imag)
    return squared, real if matrices.is_real else real + 1j * imag, bool(good)


def batched_modes(
    model: ForceConstantModel, q_cart: ArrayLike, phi: ArrayLike
) -> tuple[FloatArray, ComplexArray]:
    """Energies and eigenvectors of many force-constant sets; `simulations.dynamics.modes` of sets.

    Parameters
    ----------
    model : ForceConstantModel
    q_cart : (Q, 3) float64
        1/angstrom.
    phi : (sets, K) float64
        Free parameters, eV/angstrom^2.

    Returns
    -------
    energies : (sets, Q, n) float64
        meV, ascending; negative means imaginary.
    eigenvectors : (sets, Q, n, n) complex128
        In columns, phase exp(i q (r_j - r_i)).

    Raises
    ------
    ValueError
        If ``phi`` has another shape or is not finite.
    """
    values = np.asarray(phi, dtype=float)
    if values.ndim != 2 or values.shape[1] != len(model.names):
        raise ValueError(
            f"phi has shape {values.shape}; expected (sets, K) with K = {len(model.names)}"
        )
    if not np.isfinite(values).all():
        raise ValueError("phi holds NaN or infinity; expected finite force constants")
    fixed, basis = model.matrices(q_cart)
    matrices = linear_matrices(fixed, basis, real_form(model.crystal))
    squared, vectors, converged = matrix_modes(matrices, values)
    if not converged:
        raise ValueError("dynamical matrices: an eigenvalue did not converge; report the crystal")
    energies = np.sign(squared) * np.sqrt(np.abs(squared))
    return energies, np.asarray(matrices.transform @ vectors, dtype=np.complex128)


def unpacked_basis(matrices: LinearMatrices) -> FloatArray | ComplexArray:
    """Full matrices (Q, K, n, n) of the basis, float64 or complex128."""
    row, column = np.tril_indices(matrices.n)
    shape = (matrices.n_q, matrices.n_parameters, matrices.n, matrices.n)
    real = np.zeros(shape)
    lower = matrices.real[:, :, 1:].transpose(0, 2, 1)
    real[:, :, row, column] = lower
    real[:, :, column, row] = lower
    if matrices.is_real:
        return real
    imag = np.zeros(shape)
    lower = matrices.imag[:, :, 1:].transpose(0, 2, 1)
    imag[:, :, column, row] = -lower
    imag[:, :, row, column] = lower
    return real + 1j * imag


# ------------------------------------------------------------------------------------- spectra


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LineTable:
    """Normalised Gaussian lines averaged over energy bins, tabulated by the energy of the line.

    A line in sub-step k of bin b is read from ``rows[b, k]`` and ``rows[b, k + 1]`` by cubic
    Hermite interpolation; column w is bin ``b - W // 2 + w``. Bins go on past both ends of the
    axis, since lines beyond reach into it. Where the width does not vary, one bin serves for all.
    """

    first_meV: float  # lower edge of bin 0 of the axis
    step_meV: float  # width of a bin
    n_bins: int
    rows: FloatArray  # (1 or bins + W, substeps + 1, 2, W): line, and its slope per sub-step


@njit(inline="always")
def _boltzmann(x):
    """exp(-x) of 0 <= x <= 40 to 1e-13: a series and eight squarings, which vectorise."""
    y = x * (-1.0 / 256.0)
    u = 1.0 + y * (1.0 / 10.0)
    u = 1.0 + u * y * (1.0 / 9.0)
    u = 1.0 + u * y * (1.0 / 8.0)
    u = 1.0 + u * y * (1.0 / 7.0)
    u = 1.0 + u * y * (1.0 / 6.0)
    u = 1.0 + u * y * (1.0 / 5.0)
    u = 1.0 + u * y * (1.0 / 4.0)
    u = 1.0 + u * y * (1.0 / 3.0)
    u = 1.0 + u * y * (1.0 / 2.0)
    u = 1.0 + u * y
    u = u * u * u * u
    u = u * u * u * u
    u = u * u * u * u
    u = u * u * u * u
    return u


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _add_line(row, position, weight, n_bins, table):
    """Add a line at a position in bins to a spectrum that is padded by W bins at both ends."""
    width = table.shape[3]
    if not (position > 1.0 - 0.5 * width and position < n_bins + 0.5 * width - 1.0):
        return
    b = int(math.floor(position))
    fine = (position - b) * (table.shape[1] - 1)
    k = min(int(fine), table.shape[1] - 2)
    t = fine - k
    t1 = 1.0 - t
    value0 = weight * (1.0 + 2.0 * t) * t1 * t1
    slope0 = weight * t * t1 * t1
    value1 = weight * t * t * (3.0 - 2.0 * t)
    slope1 = -weight * t * t * t1
    # unsigned: the compiler need not provide for indices that count from the end, and vectorises
    which = np.uint64(0 if table.shape[0] == 1 else b + width // 2)
    near, far = np.uint64(k), np.uint64(k + 1)
    line, slope = np.uint64(0), np.uint64(1)
    at = np.uint64(width + b - width // 2)
    for w in range(np.uint64(width)):
        row[at + w] += (
            value0 * table[which, near, line, w]
            + slope0 * table[which, near, slope, w]
            + value1 * table[which, far, line, w]
            + slope1 * table[which, far, slope, w]
        )


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def spectra_of_sets(
    real, imag, amplitudes, phi, thermal, half_hbar2, stable, first, step, table, out, lowest
):
    """One-phonon spectra; see `path_spectra`, which calls it.

    ``amplitudes`` is (1 or sets, Q, 1 or 2, n), real and imaginary parts of the conjugate; ``out``
    is (sets, Q, E) and ``lowest`` (sets,) takes the smallest eigenvalue. Returns False if an
    eigenvalue did not converge.
    """
    n = amplitudes.shape[3]
    parts = amplitudes.shape[2]
    n_bins = out.shape[2]
    width = table.shape[3]
    a = np.empty((real.shape[1], LANES))
    b = np.empty((imag.shape[1], LANES))
    rows = np.empty((parts, n, LANES))
    d = np.empty((n, LANES))
    e = np.empty((n, LANES))
    work = np.empty((4 * n + 8, LANES))
    block = np.empty((phi.shape[1], LANES))
    least = np.empty(LANES)
    faint = np.empty(LANES)  # lines of less weight are left out
    up = np.empty((n, LANES))
    down = np.empty((n, LANES))
    row = np.zeros(n_bins + 2 * width)
    per_step = 1.0 / step
    per_thermal = 1.0 / thermal if thermal > 0.0 else 0.0
    good = True
    for start in range(0, phi.shape[0], LANES):
        count = _lanes_of(phi, start, block)
        least[:] = np.inf
        for q in range(real.shape[0]):
            for v in range(LANES):
                one = start + min(v, count - 1) if amplitudes.shape[0] > 1 else 0
                for p in range(parts):
                    for i in range(n):
                        rows[p, i, v] = amplitudes[one, q, p, i]
            good &= _diagonalise(real[q], imag[q], block, a, b, rows, d, e, work)
            faint[:] = 0.0
            for s in range(n):
                for v in range(LANES):
                    least[v] = min(least[v], d[s, v])
                    e[s, v] = math.sqrt(max(d[s, v], stable * stable))
                    up[s, v] = rows[0, s, v] * rows[0, s, v]
                if parts == 2:
                    for v in range(LANES):
                        up[s, v] += rows[1, s, v] * rows[1, s, v]
                for v in range(LANES):
                    up[s, v] *= half_hbar2 / e[s, v] if e[s, v] > stable else 0.0
                    faint[v] += 1e-15 * up[s, v]
                if thermal > 0.0:
                    for v in range(LANES):
                        u = _boltzmann(min(e[s, v] * per_thermal, 40.0))
                        down[s, v] = up[s, v] * u / (1.0 - u)
                    for v in range(LANES):
                        up[s, v] += down[s, v]
            for v in range(count):
                for s in range(n):
                    if up[s, v] > faint[v]:
                        position = (e[s, v] - first) * per_step
                        _add_line(row, position, up[s, v], n_bins, table)
                        if thermal > 0.0 and down[s, v] > faint[v]:
                            position = (-e[s, v] - first) * per_step
                            _add_line(row, position, down[s, v], n_bins, table)
                target = out[start + v, q]
                for w in range(n_bins):
                    target[w] = row[width + w]
                row[width : width + n_bins] = 0.0
        lowest[start : start + count] = least[:count]
    return good


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _add_gaussian(energy, sigma, slope, by_value, by_energy, first, step, reach, line, spectra):
    """Add a line times by_value[k], and its derivative by energy times by_energy[k], to spectra[k].

    ``line`` (2, E) is scratch. Exact up to ``reach`` standard deviations from the centre.
    """
    n_bins = line.shape[1]
    low = max(0, int(math.floor((energy - reach * sigma - first) / step)))
    high = min(n_bins, int(math.ceil((energy + reach * sigma - first) / step)))
    if high <= low:
        return
    root = 1.0 / math.sqrt(2.0)
    area = 1.0 / math.sqrt(2.0 * math.pi)
    before = 0.0
    before_slope = 0.0
    for i in range(low, high + 1):
        z = (first + i * step - energy) / sigma
        below = 0.5 * math.erfc(-z * root)
        below_slope = -area * math.exp(-0.5 * z * z) * (1.0 + z * slope) / sigma
        if i > low:
            line[0, i - 1] = (below - before) / step
            line[1, i - 1] = (below_slope - before_slope) / step
        before, before_slope = below, below_slope
    for k in range(spectra.shape[0]):
        value, derivative = by_value[k], by_energy[k]
        for i in range(low, high):
            spectra[k, i] += value * line[0, i] + derivative * line[1, i]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def gradients_of_sets(
    squared, vectors, basis, amplitudes, slopes, lines, weights, stable, gap, axis, reach, out
):
    """Spectra and their derivatives by Daleckii-Krein; see `path_spectra_gradients`.

    Parameters
    ----------
    squared : (sets, Q, n) float64
    vectors : (sets, Q, n, n) float64 or complex128
    basis : (Q, K, n, n), type of ``vectors``
        dD/dphi_k.
    amplitudes : (1 or sets, Q, n) complex128
        Conjugate of f.
    slopes : (0 or sets, K, Q, n) complex128
        Derivative of ``amplitudes`` by the parameters.
    lines : (sets, Q, n, 2, 2) float64
        Standard deviation and its slope, for creation and annihilation.
    weights : (sets, Q, n, 2, 2) float64
        Factor of |e f|^2 and its derivative by energy, for creation and annihilation.
    stable, gap : float
        Energy below which modes have no line; relative gap below which eigenvalues coincide.
    axis : (2,) float64
        First edge and bin width.
    reach : float
        Standard deviations to either side.
    out : (sets, 1 + K, Q, E) float64
        The spectrum, then its derivatives.
    """
    n_sets, n_q, n = squared.shape
    n_k = basis.shape[1]
    turned = np.empty((n, n), vectors.dtype)
    overlap = np.empty(n, np.complex128)
    change = np.empty((n_k, n), np.complex128)
    by_value = np.empty((n, n_k))
    by_square = np.empty((n, n_k))
    value = np.empty(1 + n_k)
    slope = np.empty(1 + n_k)
    line = np.empty((2, out.shape[3]))
    for one in range(n_sets):
        f_set = one if amplitudes.shape[0] > 1 else 0
        for q in range(n_q):
            V = vectors[one, q]
            for s in range(n):
                overlap[s] = 0.0
                for i in range(n):
                    overlap[s] += amplitudes[f_set, q, i] * V[i, s]
            for k in range(n_k):
                for s in range(n):
                    change[k, s] = 0.0
                    if slopes.shape[0]:
                        for i in range(n):
                            change[k, s] += slopes[one, k, q, i] * V[i, s]
            for k in range(n_k):
                turned[:] = 0.0
                for i in range(n):
                    for j in range(n):
                        b = basis[q, k, i, j]
                        if b != 0.0:
                            for t in range(n):
                                turned[i, t] += b * V[j, t]
                for s in range(n):
                    by_value[s, k] = 2.0 * (overlap[s].conjugate() * change[k, s]).real
                    by_square[s, k] = 0.0
                for s in range(n):
                    for t in range(s, n):
                        element = turned[0, t] * 0.0
                        for i in range(n):
                            element += np.conj(V[i, s]) * turned[i, t]
                        g = (element * overlap[s] * overlap[t].conjugate()).real
                        x, y = squared[one, q, s], squared[one, q, t]
                        if s == t:
                            by_square[s, k] += g
                        elif abs(x - y) <= gap * max(abs(x), abs(y)):
                            by_square[s, k] += g
                            by_square[t, k] += g
                        else:
                            by_value[s, k] += 2.0 * g / (x - y)
                            by_value[t, k] += 2.0 * g / (y - x)
            spectra = out[one, :, q]
            for s in range(n):
                if squared[one, q, s] <= stable * stable:
                    continue
                energy = math.sqrt(squared[one, q, s])
                size = overlap[s].real ** 2 + overlap[s].imag ** 2
                for side in range(2):
                    factor, factor_slope = weights[one, q, s, side, 0], weights[one, q, s, side, 1]
                    if factor == 0.0:
                        continue
                    sign = 1.0 - 2.0 * side
                    value[0] = factor * size
                    slope[0] = 0.0
                    for k in range(n_k):
                        rate = by_square[s, k] / (2.0 * energy)
                        value[1 + k] = factor * by_value[s, k] + factor_slope * rate
                        slope[1 + k] = sign * factor * rate
                    _add_gaussian(
                        sign * energy,
                        lines[one, q, s, side, 0],
                        lines[one, q, s, side, 1],
                        value,
                        slope,
                        axis[0],
                        axis[1],
                        reach,
                        line,
                        spectra,
                    )


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def projector_sums(squared, vectors, weights, thermal, stable, out):
    """``sum_q w_q sum_s coth(E / 2 thermal) / E e_s e_s^dagger`` per set, into out (sets, n, n).

    ``squared`` is (sets, Q, n), ``vectors`` (sets, Q, n, n); acoustic modes at Gamma are left out.
    """
    n = squared.shape[2]
    for one in range(squared.shape[0]):
        out[one] = 0.0
        for q in range(squared.shape[1]):
            for s in range(n):
                if squared[one, q, s] <= stable * stable:
                    continue
                energy = math.sqrt(squared[one, q, s])
                factor = weights[q] / energy
                if thermal > 0.0:
                    factor *= 1.0 + 2.0 / math.expm1(min(energy / thermal, 700.0))
                for i in range(n):
                    left = factor * vectors[one, q, i, s]
                    for j in range(n):
                        out[one, i, j] += left * np.conj(vectors[one, q, j, s])
