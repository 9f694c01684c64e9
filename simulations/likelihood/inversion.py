"""Coordinates in which all dynamical matrices of a crystal with a centre of inversion are real."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import ComplexArray, FloatArray, IntArray
from simulations.crystal import Crystal
from simulations.dynamics import inversion_partners
from simulations.kernels import njit

REAL_TO = 1e-5  # of the largest element: what may be imaginary, as files round positions


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Inversion:
    """For atoms k and k' that the inversion swaps ``(k + k') / sqrt(2)``, ``i (k - k') / sqrt(2)``.

    In these coordinates D(q) is real at every q, see ``real_form``, and so is what an atom scatters
    by ``exp(i G r)``, r from the centre: a cosine in the first, a sine in the second.
    """

    partner: IntArray  # (atoms,) that the inversion puts in the place of each
    source: IntArray  # (n, 2) components that each coordinate is made of
    share: ComplexArray  # (n, 2) of these
    place: FloatArray  # (atoms, 3) fractional, from the centre, of the first atom of each's pair
    scale: FloatArray  # (atoms,) what an amplitude is multiplied by
    phase: FloatArray  # (atoms,) added to the angle of which the cosine counts

    @classmethod
    def of(cls, crystal: Crystal, matrices: ComplexArray) -> Inversion | None:
        """That of a crystal; None where there is none, or matrices (..., n, n) of it lack it."""
        partner = inversion_partners(crystal)
        if partner is None:
            return None
        number = np.arange(crystal.n_atoms)
        first, alone = np.minimum(number, partner), partner == number
        odd = number > partner
        share = np.where(odd[:, None], [1j, -1j], [1.0, 1.0]) * np.sqrt(0.5)
        share[alone] = 1.0, 0.0
        both = np.stack([first, np.maximum(number, partner)], axis=1)
        made = cls(
            partner=partner,
            source=(3 * both[:, None] + np.arange(3)[:, None]).reshape(-1, 2),
            share=np.repeat(share, 3, axis=0),
            place=crystal.positions[first]
            - 0.5 * (crystal.positions[0] + crystal.positions[partner[0]]),
            scale=np.where(alone, 1.0, np.sqrt(2.0)),
            phase=np.where(odd, -0.5 * np.pi, 0.0),
        )
        real, imaginary = made.real(matrices), made.real(-1j * matrices)
        if np.abs(imaginary).max(initial=0.0) > REAL_TO * np.abs(real).max(initial=0.0):
            return None
        return made

    def amplitudes(self, crystal: Crystal, reciprocal: NDArray[np.integer]) -> FloatArray:
        """What these coordinates scatter at G (images, 3), without the phase that all have.

        (images, atoms) float64, b exp(i G r) / sqrt(m) in sqrt(barn / u).
        """
        turns = 2 * np.pi * reciprocal @ self.place.T
        amplitude = self.scale * crystal.scattering_length / np.sqrt(crystal.masses_u)
        return amplitude * np.cos(turns + self.phase)

    def mean(self, displacement: FloatArray) -> FloatArray:
        """Mean-square tensors (atoms, ...) of each atom and its partner."""
        return 0.5 * (displacement + displacement[self.partner])

    def tensors(self, packed: FloatArray, cells: IntArray) -> FloatArray:
        """Coverage tensors in these coordinates, of some cells.

        Parameters
        ----------
        packed : (..., 6 N^2) float64
            T as `simulations.fold` packs it, of every cell.
        cells : (M,) int64
            Which of the flattened ones to turn; the others are left at zero.

        Returns
        -------
        (..., 3 N (N + 1)) float64
            The six products xx yy zz yz xz xy of every pair of coordinates k <= l, row-major.
        """
        start, source, share = self._packed_turn()
        given = np.ascontiguousarray(packed).reshape(-1, packed.shape[-1])
        out = np.zeros((len(given), 6 * (len(start) - 1)))
        _turn_packed(given, cells, start, source, share, out)
        return out.reshape(*packed.shape[:-1], -1)

    def _packed_turn(self) -> tuple[IntArray, IntArray, FloatArray]:
        """What each pair of coordinates is made of: its first entry, places in T, shares."""
        n = len(self.partner)
        place, at = np.zeros((n, n), dtype=np.int64), 0
        for k in range(n):
            for m in range(k, n):
                place[k, m] = place[m, k] = at
                at += 6 if m == k else 12
        start, source, share = [0], [], []
        of, atoms = self.share[::3], self.source[::3] // 3
        for k in range(n):
            for m in range(k, n):
                made: dict[int, float] = {}
                for x, y in np.ndindex(2, 2):
                    one, other = int(atoms[k, x]), int(atoms[m, y])
                    z = of[k, x].conjugate() * of[m, y]
                    here = int(place[one, other])
                    made[here] = made.get(here, 0.0) + z.real
                    if one != other:
                        sign = -1.0 if one < other else 1.0
                        made[here + 6] = made.get(here + 6, 0.0) + sign * z.imag
                found = {here: value for here, value in made.items() if abs(value) > 1e-12}
                source.extend(found)
                share.extend(found.values())
                start.append(len(source))
        return np.array(start), np.array(source, dtype=np.int64), np.array(share)

    def real(self, matrices: NDArray[np.complexfloating]) -> NDArray[np.floating]:
        """Matrices (..., n, n) in these coordinates, without what is left of imaginary parts.

        In the precision that they are given in.
        """
        n = len(self.source)
        given = np.ascontiguousarray(matrices).reshape(-1, n, n)
        single = given.dtype == np.complex64
        out = np.empty(matrices.shape, dtype=np.float32 if single else np.float64)
        _turn(given, self.source, self.share, out.reshape(-1, n, n))
        return out


@njit(cache=True, nogil=True)
def _turn(given: ComplexArray, source: IntArray, share: ComplexArray, out: FloatArray) -> None:
    n = len(source)
    rows = np.empty((n, n), dtype=np.complex128)
    for v in range(len(given)):
        for i in range(n):
            a, b = source[i]
            x, y = np.conj(share[i, 0]), np.conj(share[i, 1])
            for j in range(n):
                rows[i, j] = x * given[v, a, j] + y * given[v, b, j]
        for i in range(n):
            for j in range(n):
                x, y = share[j, 0], share[j, 1]
                one, other = rows[i, source[j, 0]], rows[i, source[j, 1]]
                out[v, i, j] = (
                    x.real * one.real
                    - x.imag * one.imag
                    + y.real * other.real
                    - y.imag * other.imag
                )


@njit(cache=True, nogil=True)
def _turn_packed(
    given: FloatArray,
    cells: IntArray,
    start: IntArray,
    source: IntArray,
    share: FloatArray,
    out: FloatArray,
) -> None:
    for cell in cells:
        for pair in range(len(start) - 1):
            for one in range(start[pair], start[pair + 1]):
                for i in range(6):
                    out[cell, 6 * pair + i] += share[one] * given[cell, source[one] + i]
