"""Elastic constants of force constants, by the method of long waves.

The three acoustic coordinates of a small wave vector are kept and the optic ones relaxed, so that
atoms of a basis move within the cell as they do under strain. What is left is Christoffel's matrix,
``Gamma_ac(n) = sum_bd C_abcd n_b n_d``, linear in the elastic constants.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from simulations.arrays import ComplexArray, FloatArray
from simulations.constants import EV_A3_IN_GPA, MEV2_PER_FORCE_CONSTANT
from simulations.crystal import Crystal
from simulations.dynamics.force_constants import ForceConstantModel
from simulations.dynamics.phonon_dos import VOIGT
from simulations.errors import InputError

_STEP = 0.01  # of the shortest reciprocal vector; a second one of twice that is extrapolated with
_DIRECTIONS = np.array(
    [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (0, 1, -1), (1, 0, 1), (1, 0, -1), (1, 1, 0),
     (1, -1, 0), (1, 1, 1), (1, 1, -1), (1, -1, 1), (-1, 1, 1)],
    dtype=np.float64,
)  # fmt: skip
_PAIRS = [(i, j) for i in range(6) for j in range(i, 6)]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ElasticConstants:
    """Elastic constants at constant volume in the Cartesian frame of the crystal's lattice."""

    voigt_GPa: FloatArray  # (..., 6, 6) symmetric; order xx yy zz yz xz xy
    misfit: FloatArray  # (...,) rms of what no elastic tensor explains, over rms of Gamma

    @property
    def bulk_modulus_GPa(self) -> FloatArray:
        """Voigt's average of the bulk modulus, exact in cubic crystals, (...,)."""
        return np.asarray(self.voigt_GPa[..., :3, :3].sum(axis=(-1, -2)) / 9)


def elastic_constants(model: ForceConstantModel, phi: ArrayLike | None = None) -> ElasticConstants:
    """Elastic constants from the slopes of acoustic waves.

    Parameters
    ----------
    model : ForceConstantModel
    phi : (K,) or (sets, K) float64 or None
        Free parameters, eV/angstrom^2; None: the reference.

    Returns
    -------
    ElasticConstants
        Of every set.

    Raises
    ------
    InputError
        If optic modes at the zone centre have no restoring force.

    Notes
    -----
    Force constants without rotational sum rules need not agree with any elastic tensor (Huang's
    conditions of a crystal free of stress); ``misfit`` tells by how much. Waves of a piezoelectric
    crystal are stiffened by their own field, and so are the constants.

    References
    ----------
    M. Born and K. Huang, Dynamical Theory of Crystal Lattices (OUP, 1954), sections 26 and 27.
    """
    values = model.values if phi is None else np.asarray(phi, dtype=float)
    sets = values.reshape(-1, len(model.names))
    crystal = model.crystal
    step = _STEP * float(np.linalg.norm(crystal.reciprocal, axis=1).min())
    along = _DIRECTIONS / np.linalg.norm(_DIRECTIONS, axis=1)[:, None]
    near, far = step * along, 2 * step * along
    fixed = model.fixed_matrices(np.concatenate([near, far]))
    design = _design(along)
    weight = crystal.masses_u.sum() / abs(np.linalg.det(crystal.lattice))
    weight *= EV_A3_IN_GPA / MEV2_PER_FORCE_CONSTANT
    found, misfit = np.empty((len(sets), 6, 6)), np.empty(len(sets))
    for k, one in enumerate(sets):
        matrices = fixed + model.free_matrices(np.concatenate([near, far]), one)
        sound = _acoustic(crystal, matrices).reshape(2, len(along), 3, 3)
        sound[0] /= step**2
        sound[1] /= (2 * step) ** 2
        slopes = weight * (4 * sound[0] - sound[1]) / 3  # the next power of q taken out
        wanted = np.stack([slopes[:, a, b] for a, b in VOIGT], axis=-1).ravel()
        solution = np.linalg.lstsq(design, wanted, rcond=None)[0]
        for (i, j), c in zip(_PAIRS, solution, strict=True):
            found[k, i, j] = found[k, j, i] = c
        rest = wanted - design @ solution
        misfit[k] = np.linalg.norm(rest) / max(float(np.linalg.norm(wanted)), 1e-300)
    shape = values.shape[:-1]
    return ElasticConstants(voigt_GPa=found.reshape(*shape, 6, 6), misfit=misfit.reshape(shape))


def _design(along: FloatArray) -> FloatArray:
    """Christoffel's matrices, (directions * 6), of each of the 21 constants."""
    out = np.zeros((len(along), 6, len(_PAIRS)))
    for column, (i, j) in enumerate(_PAIRS):
        tensor = np.zeros((3, 3, 3, 3))
        for p, q in {(i, j), (j, i)}:
            for a, b in {VOIGT[p], VOIGT[p][::-1]}:
                for c, d in {VOIGT[q], VOIGT[q][::-1]}:
                    tensor[a, b, c, d] = 1.0
        gamma = np.einsum("abcd,nb,nd->nac", tensor, along, along)
        out[:, :, column] = np.stack([gamma[:, a, b] for a, b in VOIGT], axis=-1)
    return out.reshape(-1, len(_PAIRS))


def _acoustic(crystal: Crystal, matrices: ComplexArray) -> FloatArray:
    """Dynamical matrices of the acoustic coordinates, optic ones relaxed, (Q, 3, 3)."""
    share = np.sqrt(crystal.masses_u / crystal.masses_u.sum())
    first = np.kron(share[:, None], np.eye(3))  # (n, 3) rigid translations
    whole, _ = np.linalg.qr(np.concatenate([first, np.eye(len(first))], axis=1))
    rest = whole[:, 3:]  # orthonormal, across the translations
    kept = first.T @ matrices @ first
    if rest.shape[1]:
        mixed = rest.T @ matrices @ first
        optic = rest.T @ matrices @ rest
        try:
            answer = np.linalg.solve(optic, mixed)
        except np.linalg.LinAlgError as error:
            raise InputError(
                "elastic constants: an optic mode at the zone centre has no restoring force; "
                "expected a stable crystal. Look at its modes with `beamsteer phonons`"
            ) from error
        kept = kept - mixed.conj().swapaxes(-1, -2) @ answer
    return np.asarray(0.5 * (kept + kept.conj().swapaxes(-1, -2)).real)
