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
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from simulations.arrays import ComplexArray, FloatArray, IntArray
from simulations.crystal import Crystal, space_group_operations
from simulations.dynamics.force_constants import ForceConstantModel
from simulations.errors import InputError
from simulations.kernels import njit

LANES = 64
"""Force-constant sets that are diagonalised together."""

_EPSILON = 2.0**-52
_MAX_STEPS = 60
_REAL_TOLERANCE = 1e-10


# ------------------------------------------------------------------------------------ real form


def inversion_partners(crystal: Crystal) -> IntArray | None:
    """Atom (atoms,) that an inversion puts in the place of each; None where there is none."""
    group = space_group_operations(crystal)
    inversions = np.flatnonzero((group.rotations == -np.eye(3, dtype=int)).all(axis=(1, 2)))
    return None if len(inversions) == 0 else group.permutation[inversions[0]]


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
    partner = inversion_partners(crystal)
    if partner is None:
        return None
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


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def diagonalise_block(real, imag, phi, squared, rows):
    """Diagonalise one block of sets at all q; see `diagonalised_blocks`, which calls it.

    ``phi`` is (K, lanes); ``squared`` (Q, n, lanes) takes the eigenvalues, unsorted; ``rows``
    (Q, m, n, lanes) is multiplied by the eigenvectors. Returns False if one does not converge.
    """
    n_q, n, lanes = squared.shape
    a = np.empty((real.shape[1], lanes))
    b = np.empty((imag.shape[1], lanes))
    e = np.empty((n, lanes))
    work = np.empty((4 * n + 8, lanes))
    x, w, t = work[:n], work[n : 2 * n], work[4 * n :]
    y, u = work[2 * n : 3 * n], work[3 * n : 4 * n]
    good = True
    for q in range(n_q):
        _combine(real[q], phi, a)
        if imag.shape[1] == 0:
            _tridiagonal_real(a, rows[q], squared[q], e, x, w, t)
        else:
            _combine(imag[q], phi, b)
            _tridiagonal_complex(a, b, rows[q], squared[q], e, x, y, w, u, t)
        good &= _implicit_ql(squared[q], e, rows[q])
    return good


def diagonalised_blocks(
    matrices: LinearMatrices, phi: FloatArray, rows: FloatArray
) -> Iterator[tuple[slice, FloatArray, FloatArray]]:
    """Diagonalise matrices block by block.

    Parameters
    ----------
    matrices : LinearMatrices
    phi : (sets, K) float64
        eV/angstrom^2, finite.
    rows : (1 or sets, 1 or Q, m, n) float64
        What to multiply by the eigenvectors from the left; of complex matrices the first half of
        the m rows are real parts, the second half imaginary parts.

    Yields
    ------
    part : slice
        Sets of this block.
    squared : (Q, n, LANES) float64
        Eigenvalues, meV^2, in no order. Beyond the last set it is repeated.
    rows : (Q, m, n, LANES) float64
        Times the eigenvectors. Both arrays are used again for the next block.

    Raises
    ------
    ValueError
        If an eigenvalue does not converge.
    """
    n_q, n = matrices.n_q, matrices.n
    squared = np.empty((n_q, n, LANES))
    turned = np.empty((n_q, rows.shape[2], n, LANES))
    for start in range(0, len(phi), LANES):
        part = slice(start, min(start + LANES, len(phi)))
        lanes = np.minimum(np.arange(start, start + LANES), len(phi) - 1)
        own = rows[lanes] if len(rows) > 1 else rows
        turned[:] = np.moveaxis(own, 0, -1)
        block = np.ascontiguousarray(phi[lanes].T)
        if not diagonalise_block(matrices.real, matrices.imag, block, squared, turned):
            raise InputError(
                f"phi: an eigenvalue of sets {part.start} to {part.stop - 1} did not converge; "
                "expected force constants of ordinary size"
            )
        yield part, squared, turned


def matrix_modes(
    matrices: LinearMatrices, phi: FloatArray, *, vectors: bool = True
) -> tuple[FloatArray, FloatArray | ComplexArray]:
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
    """
    n, n_q, sets = matrices.n, matrices.n_q, len(phi)
    parts = 0 if not vectors else 1 if matrices.is_real else 2
    squared = np.empty((sets, n_q, n))
    out = np.empty((sets if vectors else 0, n_q, n, n), dtype=float if parts < 2 else complex)
    unit = unit_rows(matrices) if vectors else np.empty((1, 1, 0, n))
    for part, values, rows in diagonalised_blocks(matrices, phi, unit):
        count = part.stop - part.start
        order = np.argsort(values, axis=1)
        squared[part] = np.take_along_axis(values, order, axis=1)[..., :count].transpose(2, 0, 1)
        if vectors:
            rows = np.take_along_axis(rows, order[:, None], axis=2)[..., :count]
            rows = rows.transpose(3, 0, 1, 2)
            out[part] = rows if parts == 1 else rows[:, :, :n] + 1j * rows[:, :, n:]
    return squared, out


def unit_rows(matrices: LinearMatrices) -> FloatArray:
    """Rows that `diagonalised_blocks` turns into eigenvectors, (1, 1, n or 2 n, n)."""
    n = matrices.n
    return np.concatenate([np.eye(n), np.zeros((n, n))])[
        None, None, : n if matrices.is_real else None
    ]


def lowest_eigenvalues(matrices: LinearMatrices, phi: FloatArray) -> FloatArray:
    """Smallest eigenvalue of every set over all q, (sets,), meV^2."""
    out = np.empty(len(phi))
    none = np.empty((1, 1, 0, matrices.n))
    for part, squared, _ in diagonalised_blocks(matrices, phi, none):
        out[part] = squared.min(axis=(0, 1))[: part.stop - part.start]
    return out


def batched_modes(
    model: ForceConstantModel, q_cart: ArrayLike, phi: ArrayLike
) -> tuple[FloatArray, ComplexArray]:
    """Energies and eigenvectors of many force-constant sets; `modes` of one set, many times.

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
        raise InputError("phi holds NaN or infinity; expected finite force constants")
    fixed, basis = model.matrices(q_cart)
    matrices = linear_matrices(fixed, basis, real_form(model.crystal))
    squared, vectors = matrix_modes(matrices, values)
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
def spectra_of_block(squared, rows, thermal, half_hbar2, stable, first, step, table, out):
    """One-phonon spectra of a block of `diagonalised_blocks`; see `path_spectra`, which calls it.

    ``rows`` (Q, 1 or 2, n, lanes) are real and imaginary parts of the conjugate amplitudes times
    the eigenvectors; ``out`` is (sets <= lanes, Q, E).
    """
    n_q, n, lanes = squared.shape
    n_bins = out.shape[2]
    width = table.shape[3]
    energy = np.empty((n, lanes))
    up = np.empty((n, lanes))
    down = np.empty((n, lanes))
    faint = np.empty(lanes)  # lines of less weight are left out
    row = np.zeros(n_bins + 2 * width)
    per_step = 1.0 / step
    per_thermal = 1.0 / thermal if thermal > 0.0 else 0.0
    for q in range(n_q):
        faint[:] = 0.0
        for s in range(n):
            for v in range(lanes):
                energy[s, v] = math.sqrt(max(squared[q, s, v], stable * stable))
                up[s, v] = rows[q, 0, s, v] * rows[q, 0, s, v]
            if rows.shape[1] == 2:
                for v in range(lanes):
                    up[s, v] += rows[q, 1, s, v] * rows[q, 1, s, v]
            for v in range(lanes):
                up[s, v] *= half_hbar2 / energy[s, v] if energy[s, v] > stable else 0.0
                faint[v] += 1e-15 * up[s, v]
            if thermal > 0.0:
                for v in range(lanes):
                    u = _boltzmann(min(energy[s, v] * per_thermal, 40.0))
                    down[s, v] = up[s, v] * u / (1.0 - u)
                for v in range(lanes):
                    up[s, v] += down[s, v]
        for v in range(out.shape[0]):
            for s in range(n):
                if up[s, v] > faint[v]:
                    position = (energy[s, v] - first) * per_step
                    _add_line(row, position, up[s, v], n_bins, table)
                    if thermal > 0.0 and down[s, v] > faint[v]:
                        position = (-energy[s, v] - first) * per_step
                        _add_line(row, position, down[s, v], n_bins, table)
            target = out[v, q]
            for w in range(n_bins):
                target[w] = row[width + w]
            row[width : width + n_bins] = 0.0


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
def projector_sums(squared, rows, weights, thermal, stable, out):
    """Real part of ``sum_q w_q sum_s coth(E / 2 thermal) / E e_s e_s^dagger`` of a block.

    ``rows`` (Q, n or 2 n, n, lanes) are the eigenvectors as of `matrix_modes`; ``out`` is
    (n, n, lanes). Acoustic modes at Gamma are left out.
    """
    n_q, n, lanes = squared.shape
    factor = np.empty(lanes)
    out[:] = 0.0
    for q in range(n_q):
        weight = weights[q]
        for s in range(n):
            for v in range(lanes):
                energy = math.sqrt(max(squared[q, s, v], stable * stable))
                factor[v] = weight / energy if energy > stable else 0.0
                if thermal > 0.0:
                    u = _boltzmann(min(energy / thermal, 40.0))
                    factor[v] *= (1.0 + u) / (1.0 - u)
            for i in range(n):
                for j in range(i + 1):
                    for v in range(lanes):
                        out[i, j, v] += factor[v] * rows[q, i, s, v] * rows[q, j, s, v]
            for i in range(n, rows.shape[1]):
                for j in range(n, i + 1):
                    for v in range(lanes):
                        product = rows[q, i, s, v] * rows[q, j, s, v]
                        out[i - n, j - n, v] += factor[v] * product
    for i in range(n):
        for j in range(i):
            out[j, i] = out[i, j]
