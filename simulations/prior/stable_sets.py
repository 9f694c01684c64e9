"""Dynamically stable sets of force constants: whether, which is nearest, and draws among them.

Dynamical matrices are linear in the parameters, so the stable sets are a convex region: no
eigenvalue of any D(q; phi) below a bound. That makes the nearest stable set a small quadratic
programme, and lets a walk draw from a box of which hardly anything is stable.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import nnls

from simulations.arrays import ComplexArray, FloatArray
from simulations.dynamics import ForceConstantModel

_ROUNDS = 60  # of cutting planes
_CUTS_A_ROUND = 40  # of wave vectors where the lattice is most unstable
_ABOVE_meV2 = 1e-4  # cuts aim a little above the bound, or the rounds only creep towards it
_CHORD_TRIES = 200  # halvings of a chord, more than any region needs


def is_stable(
    fixed: ComplexArray, basis: ComplexArray, phi: FloatArray, tolerance_meV: float
) -> bool:
    """Whether no eigenvalue of any D(q; phi) lies below -tolerance^2.

    Parameters
    ----------
    fixed, basis
        As `ForceConstantModel.matrices`.
    phi : (parameters,) float64
        eV/angstrom^2.
    tolerance_meV : float
        How far below zero a mode may come out (imaginary, counted negative).
    """
    matrices = fixed + np.tensordot(phi, basis, axes=(0, 1))
    shifted = matrices + tolerance_meV**2 * np.eye(matrices.shape[-1])
    try:
        np.linalg.cholesky(shifted)
    except np.linalg.LinAlgError:
        return False
    return True


def nearest_stable(
    model: ForceConstantModel,
    q_cart: ArrayLike,
    centre: ArrayLike,
    scale: ArrayLike,
    *,
    tolerance_meV: float = 0.25,
    within: tuple[FloatArray, FloatArray] | None = None,
) -> FloatArray | None:
    """The dynamically stable set that is nearest to a given one.

    Parameters
    ----------
    model : ForceConstantModel
        Whose free parameters are meant.
    q_cart : (Q, 3) array_like
        Where stability is looked at, 1/angstrom.
    centre : (parameters,) array_like
        eV/angstrom^2.
    scale : (parameters,) array_like
        Distance is counted in these, eV/angstrom^2.
    tolerance_meV : float
        How far below zero a mode may come out (imaginary, counted negative).
    within : (lower, upper), optional
        Bounds that the set must keep as well, (parameters,) each.

    Returns
    -------
    (parameters,) float64 or None
        None where no set is stable, or none was found in 60 rounds.

    Notes
    -----
    Every eigenvector e of an eigenvalue below the bound gives a half-space,
    ``e^T (D0(q) + sum_k phi_k B_k(q)) e >= bound``, that all stable sets lie in. The nearest point
    of all half-spaces found so far is a least-distance problem (Lawson & Hanson 1974, chapter 23).
    """
    q = np.asarray(q_cart, dtype=float)
    start, unit = np.asarray(centre, dtype=float), np.asarray(scale, dtype=float)
    bound = -0.5 * tolerance_meV**2
    normals: list[FloatArray] = []
    offsets: list[float] = []
    if within is not None:
        sides = np.eye(len(start))
        normals += [*sides, *-sides]
        offsets += [*(within[0] - start) / unit, *(start - within[1]) / unit]
    x = np.zeros(len(start))
    for _ in range(_ROUNDS):
        phi = start + unit * x
        lowest = np.linalg.eigvalsh(model.dynamical_matrices(q, phi))[:, 0]
        if lowest.min() >= -(tolerance_meV**2):
            return phi
        worst = np.argsort(lowest)[:_CUTS_A_ROUND]
        worst = worst[lowest[worst] < bound]
        fixed, basis = model.matrices(q[worst])
        values, vectors = np.linalg.eigh(fixed + np.tensordot(phi, basis, axes=(0, 1)))
        for k in range(len(worst)):
            for m in np.flatnonzero(values[k] < bound):
                e = vectors[k, :, m]
                slope = np.einsum("i,kij,j->k", e.conj(), basis[k], e).real * unit
                rest = float(np.real(e.conj() @ fixed[k] @ e))
                at_start = rest + float(slope / unit @ start)
                size = float(np.linalg.norm(slope))
                if size == 0.0:
                    return None  # no parameter moves this mode
                normals.append(slope / size)
                offsets.append((0.5 * bound + _ABOVE_meV2 - at_start) / size)
        found = _least_distance(np.array(normals), np.array(offsets))
        if found is None:
            return None
        x = found
    return None


def _least_distance(normals: FloatArray, offsets: FloatArray) -> FloatArray | None:
    """Shortest x with ``normals @ x >= offsets``; None where there is none."""
    system = np.vstack([normals.T, offsets])
    target = np.zeros(len(system))
    target[-1] = 1.0
    weights, _ = nnls(system, target, maxiter=50 * system.shape[1])
    residual = system @ weights - target
    if abs(residual[-1]) < 1e-9:
        return None
    return np.asarray(-residual[:-1] / residual[-1], dtype=np.float64)


def walk(
    start: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    fixed: ComplexArray,
    basis: ComplexArray,
    n: int,
    rng: np.random.Generator,
    *,
    tolerance_meV: float,
) -> FloatArray:
    """Draw stable sets of a box by a random walk that never leaves them (hit and run).

    Every step takes a random direction and a uniform point of the chord through the region, which
    is convex; its stationary density is uniform. Sets are kept after as many steps as there are
    parameters (at least ten), and ten times that is discarded first, so neighbours remain a little
    correlated: rejection is exact, this is for boxes of which hardly anything is stable.

    Parameters
    ----------
    start : (parameters,) float64
        A stable set of the box, eV/angstrom^2.
    lower, upper : (parameters,) float64
        The box.
    fixed, basis
        As `ForceConstantModel.matrices`, where stability is looked at.
    n : int
        Sets wanted.
    rng : numpy.random.Generator
    tolerance_meV : float
        As `is_stable`.

    Returns
    -------
    (n, parameters) float64

    References
    ----------
    Smith (1984), Oper. Res. 32, 1296; the chord is found by shrinkage as Neal (2003), Ann. Stat.
    31, 705.
    """
    thin = max(10, len(start))
    width = upper - lower
    phi = start.copy()
    kept = np.empty((n, len(start)))
    for step in range(-10 * thin, n * thin):
        direction = width * rng.standard_normal(len(phi))
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.stack([(lower - phi) / direction, (upper - phi) / direction])
        low, high = float(np.nanmax(ends.min(axis=0))), float(np.nanmin(ends.max(axis=0)))
        for _ in range(_CHORD_TRIES):
            t = rng.uniform(min(low, 0.0), max(high, 0.0))
            trial = np.clip(phi + t * direction, lower, upper)
            if is_stable(fixed, basis, trial, tolerance_meV):
                phi = trial
                break
            low, high = (t, high) if t < 0 else (low, t)
        if step >= 0 and (step + 1) % thin == 0:
            kept[step // thin] = phi
    return kept
