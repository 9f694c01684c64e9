"""How a crystal sits on the goniometer, read from a few orientations without a single scan of one.

``align`` needs no clean spots (``mount_fit`` does). Three things are fitted together: which plane
is horizontal, in which sense the logged angle turns the crystal, and the offset of that angle. What
is matched is not one peak but all intensity near reciprocal points where the crystal must scatter,
against what even scattering would give: peaks cut by the wrong part of a broad mosaic then do not
decide alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.instrument.elastic_peaks import OrientedEvents
from simulations.instrument.goniometer import Orientation, crystal_to_lab
from simulations.instrument.kinematics import momentum_transfer

ANTIFERROMAGNETIC_FCC = (0.5, 0.5, 0.5)  # all (h/2 k/2 l/2) with h, k, l odd
ENERGY_WINDOWS_MEV = ((-1.0, 1.0), (1.5, 4.0), (4.0, 7.0), (7.0, 10.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """One way to mount the crystal: psi = sense * logged angle + offset."""

    u: tuple[float, float, float]
    v: tuple[float, float, float]
    sense: int  # +1: the logged angle is right-handed about +y
    psi_offset_deg: float
    score: float  # sum over energy windows of ln(intensity at the points / even scattering)


@dataclass(frozen=True, kw_only=True, slots=True)
class Alignment:
    """Best mount, its uncertainty and what else comes near."""

    best: Mount
    psi_offset_sigma_deg: float  # jackknife over runs and windows
    alternatives: tuple[Mount, ...]  # inequivalent by symmetry, best first
    exclusive: bool  # no alternative within 0.7 (a factor of two), or ahead without a run or window


def cubic_rotations() -> FloatArray:
    """The 24 proper rotations of a cube, (24, 3, 3)."""
    found = []
    for i in range(3):
        for j in range(3):
            for si in (1, -1):
                for sj in (1, -1):
                    if i != j:
                        x, y = np.zeros(3), np.zeros(3)
                        x[i], y[j] = si, sj
                        found.append(np.stack([x, y, np.cross(x, y)]))
    return np.array(found)


def align(
    runs: Sequence[OrientedEvents],
    reciprocal: FloatArray,
    *,
    planes: Sequence[tuple[tuple[float, float, float], tuple[float, float, float]]] = (
        ((0, 0, 1), (1, 1, 0)),
        ((1, 0, 0), (0, 1, 0)),
        ((1, -1, 0), (1, 1, -2)),
        ((1, 1, 1), (1, -1, 0)),
    ),
    points: tuple[float, float, float] = ANTIFERROMAGNETIC_FCC,
    windows_meV: Sequence[tuple[float, float]] = ENERGY_WINDOWS_MEV,
    width: float = 0.15,
    symmetry: FloatArray | None = None,
    seed: int = 0,
) -> Alignment:
    """Find the mount under which the scattering gathers round the given reciprocal points.

    Parameters
    ----------
    runs : sequence of OrientedEvents
        A few orientations of one crystal.
    reciprocal : (3, 3)
        Conventional reciprocal vectors in rows, 1/angstrom; orthogonal and equal (cubic).
    planes : sequence of (u, v)
        Candidates for the horizontal plane.
    points : (3,)
        Points are this plus all whole hkl: (1/2 1/2 1/2) for an fcc antiferromagnet.
    windows_meV : sequence of (low, high)
        Energy windows that vote with equal weight; where excitations of the points are soft.
    width : float
        Gaussian reach round a point, 1/angstrom.
    symmetry : (n, 3, 3), optional
        Proper rotations that carry the crystal into itself; default: of a cube.
    seed : int
        Of the subsets drawn to save time.

    Returns
    -------
    Alignment

    Raises
    ------
    ValueError
        If there are no runs or no events in the windows.
    """
    if not runs:
        raise InputError("runs is empty; expected at least one orientation")
    rotations = cubic_rotations() if symmetry is None else symmetry
    samples = _samples(runs, windows_meV, seed)
    events = np.array([[len(hit) for hit, _ in per_run] for per_run in samples], dtype=float)
    if not events.any():
        raise InputError(f"no event lies in the windows {tuple(windows_meV)} meV; widen them")
    angles = [run.angle_deg for run in runs]

    def sums(mount: Mount, most: int = 2000) -> tuple[FloatArray, FloatArray]:
        """Events that match and events expected to, (runs, windows) each."""
        matched, even = np.zeros(events.shape), np.zeros(events.shape)
        for i, angle in enumerate(angles):
            R = _rotation(mount, reciprocal, angle)
            for w, (hit, flat) in enumerate(samples[i]):
                if len(hit):
                    n = len(hit)
                    matched[i, w] = _near(hit[:most] @ R, reciprocal, points, width).mean() * n
                    even[i, w] = _near(flat[:most] @ R, reciprocal, points, width).mean() * n
        return matched, even

    coarse = [
        Mount(u=u, v=v, sense=sense, psi_offset_deg=float(offset), score=0.0)
        for u, v in planes
        for sense in (1, -1)
        for offset in np.arange(-180.0, 180.0, 4.0)
    ]
    coarse = [replace(mount, score=_score(*sums(mount, 400), events)) for mount in coarse]
    refined: list[Mount] = []
    for mount in sorted(coarse, key=lambda mount: -mount.score):
        known = (_same(mount, other, reciprocal, angles, rotations) for other in refined)
        if len(refined) < 6 and not any(known):
            trials = _offsets_round(mount, 6.0)
            scores = [_score(*sums(trial), events) for trial in trials]
            k = int(np.argmax(scores))
            found = replace(trials[k], score=scores[k])
            if not any(_same(found, other, reciprocal, angles, rotations) for other in refined):
                refined.append(found)
    refined.sort(key=lambda mount: -mount.score)
    best = refined[0]
    trials = _offsets_round(best, 10.0)
    tables = [sums(trial) for trial in trials]
    others = [sums(other) for other in refined[1:]]
    votes, ahead = [], True  # of the others, whichever run or window is left out
    for axis in (0, 1):
        for k in range(events.shape[axis] if events.shape[axis] > 1 else 0):
            fewer, rivals = (
                [
                    _score(*(np.delete(t, k, axis) for t in (matched, even, events)))
                    for matched, even in some
                ]
                for some in (tables, others)
            )
            votes.append(trials[int(np.argmax(fewer))].psi_offset_deg)
            ahead &= max(fewer) > max(rivals, default=-np.inf)
    sigma = np.sqrt((len(votes) - 1) * np.var(votes)) if votes else 10.0
    for turned in (-180.0, 180.0):
        other = replace(best, psi_offset_deg=best.psi_offset_deg + turned)
        if abs(other.psi_offset_deg) < abs(best.psi_offset_deg) and _same(
            best, other, reciprocal, angles, rotations, 0.1
        ):
            best = other
    return Alignment(
        best=best,
        psi_offset_sigma_deg=max(float(sigma), 0.5),
        alternatives=tuple(refined[1:]),
        exclusive=len(refined) < 2 or (ahead and best.score - refined[1].score > 0.7),
    )


def _samples(
    runs: Sequence[OrientedEvents], windows_meV: Sequence[tuple[float, float]], seed: int
) -> list[list[tuple[FloatArray, FloatArray]]]:
    """Q of events, and Q of even scattering into all open pixels, per run and window."""
    rng = np.random.default_rng(seed)
    samples = []
    for run in runs:
        ins = run.instrument
        open_pixels = np.flatnonzero(~ins.masked)
        share = ins.solid_angle_sr[open_pixels] / ins.solid_angle_sr[open_pixels].sum()
        per_run = []
        for low, high in windows_meV:
            energy = run.energy_transfer_meV
            chosen = np.flatnonzero((energy > low) & (energy < high) & ~ins.masked[run.pixel])
            chosen = rng.permutation(chosen)[:2000]
            hit = momentum_transfer(ins.direction[run.pixel[chosen]], energy[chosen], run.ei_meV)
            flat = momentum_transfer(
                ins.direction[rng.choice(open_pixels, 2000, p=share)],
                rng.uniform(min(low, run.ei_meV), min(high, run.ei_meV), 2000),
                run.ei_meV,
            )
            per_run.append((hit, flat))
        samples.append(per_run)
    return samples


def _score(matched: FloatArray, even: FloatArray, events: FloatArray) -> float:
    """Sum over windows of ln(matched / expected); sums over runs come first."""
    total = events.sum(axis=0)
    floor = 0.002 * total  # a window that cannot see any point has no vote
    seen = total > 0
    return float(
        np.log((matched.sum(axis=0) + floor)[seen] / (even.sum(axis=0) + floor)[seen]).sum()
    )


def _near(
    Q: FloatArray, reciprocal: FloatArray, points: tuple[float, float, float], width: float
) -> FloatArray:
    """Gaussian closeness of every Q (crystal frame) to the nearest point."""
    shift = np.asarray(points)
    hkl = Q @ np.linalg.inv(reciprocal) - shift
    away = (hkl - np.round(hkl)) @ reciprocal
    return np.exp(-0.5 * (away**2).sum(axis=1) / width**2)


def _rotation(mount: Mount, reciprocal: FloatArray, angle_deg: float) -> FloatArray:
    """Crystal to laboratory at a logged angle."""
    psi = mount.sense * angle_deg + mount.psi_offset_deg
    return crystal_to_lab(Orientation(u=mount.u, v=mount.v), reciprocal, psi)


def _offsets_round(mount: Mount, reach_deg: float) -> list[Mount]:
    steps = np.arange(-reach_deg, reach_deg + 0.01, 0.5)
    return [replace(mount, psi_offset_deg=mount.psi_offset_deg + float(s)) for s in steps]


def _same(
    a: Mount,
    b: Mount,
    reciprocal: FloatArray,
    angles: Sequence[float],
    rotations: FloatArray,
    within_deg: float = 12.0,
) -> bool:
    """Whether two mounts put the crystal alike at all angles, up to its symmetry."""
    for angle in (min(angles), max(angles)):
        turn = _rotation(a, reciprocal, angle).T @ _rotation(b, reciprocal, angle)
        cosine = (np.einsum("nij,ij->n", rotations, turn).max() - 1) / 2
        if np.degrees(np.arccos(np.clip(cosine, -1, 1))) > within_deg:
            return False
    return True
