"""Crystal orientation: from the laboratory frame to hkl.

At zero angles ``u`` lies along the beam (z) and ``v`` in the horizontal plane on the side of +x,
for Horace and for Mantid's SetUB alike. Angles and their order follow Horace (``x, y, z`` there are
``z, x, y`` here): psi turns the crystal about the vertical, right-handed about +y; omega, dpsi, gl
and gs correct misalignment. In Mantid the same rotation is a UB matrix and up to six axes, the
first outermost; ``mantid_goniometer`` turns axes into a rotation, ``orientation_of`` a rotation
into our angles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulations.arrays import FloatArray
from simulations.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Orientation:
    """How the crystal is mounted; ``u`` and ``v`` in r.l.u. of the conventional cell."""

    u: tuple[float, float, float]
    v: tuple[float, float, float]
    omega_deg: float = 0.0
    dpsi_deg: float = 0.0
    gl_deg: float = 0.0
    gs_deg: float = 0.0


def _turn(axis: int, angle_deg: float) -> FloatArray:
    """Right-handed rotation about a laboratory axis (0 = x, 1 = y up, 2 = z beam)."""
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    R = np.eye(3)
    R[i, i] = R[j, j] = c
    R[i, j], R[j, i] = -s, s
    return R


def crystal_to_lab(orientation: Orientation, reciprocal: FloatArray, psi_deg: float) -> FloatArray:
    """Rotation that takes the crystal's Cartesian frame to the laboratory frame.

    Parameters
    ----------
    orientation : Orientation
        Mount of the crystal.
    reciprocal : (3, 3)
        Conventional reciprocal vectors in rows, 1/angstrom.
    psi_deg : float
        Right-handed about +y (up).

    Returns
    -------
    (3, 3) float64
        ``Q_lab = R @ Q_crystal``.

    Raises
    ------
    ValueError
        If psi is not finite or u and v are parallel.

    References
    ----------
    R. A. Ewings et al., Nucl. Instrum. Methods A 834, 132 (2016), on Horace's conventions.
    """
    if not np.isfinite(psi_deg):
        raise InputError(f"psi is {psi_deg}; expected a finite angle in degrees. Give the psi.")
    qu = np.asarray(orientation.u, dtype=float) @ reciprocal
    qv = np.asarray(orientation.v, dtype=float) @ reciprocal
    normal = np.cross(qu, qv)
    if np.linalg.norm(normal) < 1e-9 * np.linalg.norm(qu) * np.linalg.norm(qv):
        raise InputError(
            f"u = {orientation.u} and v = {orientation.v} are parallel; expected two directions"
        )
    z = qu / np.linalg.norm(qu)
    y = normal / np.linalg.norm(normal)
    mount = np.stack([np.cross(y, z), y, z])
    omega = _turn(1, orientation.omega_deg)
    arcs = (
        _turn(1, orientation.dpsi_deg) @ _turn(0, orientation.gl_deg) @ _turn(2, orientation.gs_deg)
    )
    return _turn(1, psi_deg) @ omega @ arcs @ omega.T @ mount


def hkl_of(Q: FloatArray, rotation: FloatArray, reciprocal: FloatArray) -> FloatArray:
    """Hkl of laboratory momentum transfers.

    Parameters
    ----------
    Q : (..., 3)
        Laboratory frame, 1/angstrom.
    rotation : (3, 3)
        Of ``crystal_to_lab``.
    reciprocal : (3, 3)
        Conventional reciprocal vectors in rows, 1/angstrom.

    Returns
    -------
    (..., 3) float64
    """
    return np.asarray(Q, dtype=float) @ rotation @ np.linalg.inv(reciprocal)


def mantid_goniometer(axes: Sequence[tuple[float, float, float, float, int]]) -> FloatArray:
    """Rotation of Mantid's SetGoniometer.

    Parameters
    ----------
    axes : sequence of (angle in degrees, x, y, z, sense)
        As in ``Axis0="psi,0,1,0,1"``: direction in the laboratory frame (NeXus, ours), sense 1
        counter-clockwise (right-handed) or -1; the first axis is the outermost.

    Returns
    -------
    (3, 3) float64
        ``Q_lab = 2 pi R UB hkl``.

    Raises
    ------
    ValueError
        If an axis has no direction, a sense is neither 1 nor -1, or an angle is not finite.

    References
    ----------
    Mantid documentation, SetGoniometer v1 and "Lattice" (docs.mantidproject.org).
    """
    R = np.eye(3)
    for k, (angle, x, y, z, sense) in enumerate(axes):
        n = np.array([x, y, z], dtype=float)
        length = np.linalg.norm(n)
        if not (np.isfinite(angle) and np.isfinite(length) and length > 0 and sense in (1, -1)):
            raise InputError(
                f"axis {k} is ({angle}, {x}, {y}, {z}, {sense}); expected a finite angle, a "
                "direction, and the sense 1 or -1"
            )
        n /= length
        a = np.radians(angle) * sense
        K = np.array([[0, -n[2], n[1]], [n[2], 0, -n[0]], [-n[1], n[0], 0]])
        R = R @ (np.eye(3) + np.sin(a) * K + (1 - np.cos(a)) * K @ K)
    return R


def ub_matrix(orientation: Orientation, reciprocal: FloatArray) -> FloatArray:
    """UB of Mantid at psi = 0, misalignment included: ``Q_lab = 2 pi R(psi) UB hkl``.

    Returns
    -------
    (3, 3) float64
        1/angstrom, without the 2 pi.
    """
    return crystal_to_lab(orientation, reciprocal, 0.0) @ np.asarray(reciprocal).T / (2 * np.pi)


def orientation_of(UB: FloatArray, rotation: FloatArray | None = None) -> Orientation:
    """Orientation that a UB matrix means, after a goniometer's rotation if there is one.

    What the rotation adds beyond psi goes into ``u`` and ``v``: with it, psi starts at 0.

    Parameters
    ----------
    UB : (3, 3)
        Mantid's, rows first, 1/angstrom without the 2 pi.
    rotation : (3, 3), optional
        ``mantid_goniometer`` of the axes at psi = 0.

    Returns
    -------
    Orientation
        u and v alone; its lattice is that of the UB, so use it with the same structure.

    Raises
    ------
    ValueError
        If UB is no regular matrix.
    """
    matrix = np.asarray(UB, dtype=float)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-9:
        raise InputError("UB is no regular 3 x 3 matrix, rows first, 1/angstrom. Correct UB")
    inverse = np.linalg.inv(matrix if rotation is None else rotation @ matrix)
    u, v = (tuple(float(x) for x in inverse[:, k]) for k in (2, 0))
    return Orientation(u=(u[0], u[1], u[2]), v=(v[0], v[1], v[2]))
