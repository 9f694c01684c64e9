"""Plain directions for a mount: which simple hkl lie along the beam and across it."""

from __future__ import annotations

import numpy as np

from simulations.arrays import FloatArray
from simulations.crystal import Crystal, laue_rotations

IN_PLANE_DEG = 3.0  # how far a simple direction may lie from the horizontal plane
HIGHEST = 3  # index that is tried
DEGREES_PER_INDEX = 10.0  # nearer to the beam by so much is worth a higher index

Vector = tuple[float, float, float]


def plain_axes(rotation: FloatArray, crystal: Crystal) -> tuple[FloatArray, Vector, Vector]:
    """Simple hkl that span the horizontal plane of a mount.

    Parameters
    ----------
    rotation : (3, 3)
        Crystal frame to laboratory at a logged angle of zero.
    crystal : Crystal
        Its symmetry makes several mounts alike; the one with the simplest directions is taken.

    Returns
    -------
    rotation : (3, 3)
        The same mount as those directions name it.
    u : (3,)
        hkl near the beam.
    v : (3,)
        hkl across it, on the side of laboratory +x. Where the plane holds no simple directions
        both are those of the mount itself, to four digits.
    """
    _, laue = laue_rotations(crystal)
    proper = laue[np.linalg.det(laue) > 0]
    axis = np.arange(-HIGHEST, HIGHEST + 1)
    hkl = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    hkl = hkl[np.any(hkl != 0, axis=1) & (np.gcd.reduce(hkl, axis=1) == 1)]
    G = hkl @ crystal.conventional_reciprocal
    G /= np.linalg.norm(G, axis=1, keepdims=True)
    size = DEGREES_PER_INDEX * np.abs(hkl).sum(axis=1)
    found = []
    for operation in proper:
        turned = rotation @ operation
        lab = G @ turned.T
        flat = np.degrees(np.arcsin(np.clip(np.abs(lab[:, 1]), 0, 1))) < IN_PLANE_DEG
        if flat.sum() < 4:  # two directions and their opposites
            continue
        at = np.flatnonzero(flat)
        first = at[np.argmin(_angle(lab[at], np.array([0.0, 0.0, 1.0])) + size[at])]
        across = np.cross([0.0, 1.0, 0.0], lab[first])
        second = at[np.argmin(_angle(lab[at], across / np.linalg.norm(across)) + size[at])]
        u, v = hkl[first], hkl[second]
        if abs(lab[first] @ lab[second]) > 0.9:
            continue
        cost = float(_angle(lab[[first]], np.array([0.0, 0.0, 1.0]))[0] + size[first])
        signs = int(np.sum(np.r_[u, v] < 0))
        found.append(
            (round(cost, 3), signs, *(-u).tolist(), *(-v).tolist(), len(found), turned, u, v)
        )
    if not found:
        u, v = (rotation[k] @ np.linalg.inv(crystal.conventional_reciprocal) for k in (2, 0))
        return rotation, _rounded(u / np.abs(u).max()), _rounded(v / np.abs(v).max())
    *_, turned, u, v = min(found, key=lambda one: one[:9])
    return turned, _rounded(u), _rounded(v)


def _angle(directions: FloatArray, to: FloatArray) -> FloatArray:
    return np.degrees(np.arccos(np.clip(directions @ to, -1, 1)))


def _rounded(hkl: FloatArray) -> Vector:
    x, y, z = (round(float(x), 4) + 0.0 for x in hkl)
    return x, y, z
