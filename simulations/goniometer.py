"""Crystal orientation: from the laboratory frame to hkl.

At zero angles ``u`` lies along the beam (z) and ``v`` in the horizontal plane on the side of +x.
Angles and their order follow Horace (``x, y, z`` there are ``z, x, y`` here): psi turns the
crystal about the vertical, right-handed about +y; omega, dpsi, gl and gs correct misalignment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


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
        raise ValueError(f"psi is {psi_deg}; expected a finite angle in degrees. Give the psi.")
    qu = np.asarray(orientation.u, dtype=float) @ reciprocal
    qv = np.asarray(orientation.v, dtype=float) @ reciprocal
    normal = np.cross(qu, qv)
    if np.linalg.norm(normal) < 1e-9 * np.linalg.norm(qu) * np.linalg.norm(qv):
        raise ValueError(
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
