"""How a crystal sits on the goniometer, from the spots of a rotation scan.

Finds the rotation that puts reflections of the known lattice onto the spots, and fits mount,
lattice and drift with error bars.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from simulations.arrays import FloatArray
from simulations.crystal import Crystal, laue_rotations
from simulations.instrument.elastic_peaks import ElasticPeak
from simulations.instrument.kinematics import wave_vector


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpotsOfRun:
    """Spots of one orientation and when it was measured."""

    angle_deg: float  # as logged
    hours: float  # middle of the dwell, from any origin
    ei_meV: float
    peaks: tuple[ElasticPeak, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimated:
    """A value with its standard error."""

    value: float
    sigma: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MountFit:
    """How the crystal sits, with error bars; what is None was not determined by the spots."""

    rotation: FloatArray  # (3, 3) crystal frame to laboratory at a logged angle of zero
    sense: int  # +1: the logged angle is right-handed about +y, as documented
    turn: tuple[Estimated, Estimated, Estimated]  # psi offset, gl, gs from the reference, degrees
    lattice: tuple[Estimated, ...] | None  # a, b, c in angstrom, alpha, beta, gamma in degrees
    drift_deg_per_hour: Estimated | None  # of the offset
    reciprocal: FloatArray  # (3, 3) fitted conventional reciprocal vectors in rows, 1/angstrom
    spots: int  # that the fit explains
    unexplained: int  # spots that no reflection explains: another grain, the can, a wrong lattice
    reflections: int  # different ones
    chi_square_per_degree: float  # before errors were widened by its root
    axis_sigma_deg: float  # mean standard error about the two horizontal axes
    misfit: FloatArray  # (all spots,) squared residuals in their errors before those were widened
    rival: float | None = None  # chi-square of the next best mount less this one's; errors widened


ASSIGN = 0.25  # 1/angstrom: how far a spot may lie from its reflection when first indexed
RIM = 0.25  # spots cut further than this at a gap or an edge are left out
FINEST = 0.001  # 1/angstrom, error of a spot's place however many counts it has
RIVALS = 12  # mounts fitted beside the best one, to see whether the spots tell them apart
APART_DEG = 5.0  # mounts nearer to each other than this are one
OUTLIER = 6.0  # sigma; what lies further off costs no more, and stays out of the fit
SHAPE_SCALE = 2.0  # what a mosaic and a divergence may be, in widths of a reflection without them
ABSENT = 1e-3  # share of the strongest |F|^2 below which a reflection is taken as absent


def reflections(
    crystal: Crystal, longest: float, *, extra: tuple[float, float, float] | None = None
) -> FloatArray:
    """Points up to ``longest`` 1/angstrom where the crystal scatters elastically, (n, 3).

    Conventional r.l.u.; absent reflections are left out. ``extra`` adds all points that differ by
    it from a whole hkl of the conventional cell, e.g. (1/2, 1/2, 1/2) for an antiferromagnet.
    """
    conventional = crystal.conventional_reciprocal
    reach = np.ceil(longest * np.linalg.norm(np.linalg.inv(conventional), axis=0)).astype(int) + 1
    grid = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), axis=-1)
    whole = grid.reshape(-1, 3).astype(float)
    length = np.linalg.norm(whole @ conventional, axis=1)
    whole = whole[(length > 1e-6) & (length <= longest)]
    primitive = whole @ conventional @ np.linalg.inv(crystal.reciprocal)
    whole = whole[np.abs(primitive - np.rint(primitive)).max(axis=1) < 1e-6]
    primitive = np.rint(whole @ conventional @ np.linalg.inv(crystal.reciprocal))
    F = np.exp(2j * np.pi * primitive @ crystal.positions.T) @ crystal.scattering_length
    strength = np.abs(F) ** 2
    found = whole[strength > ABSENT * np.abs(crystal.scattering_length).sum() ** 2]
    if extra is not None:
        more = grid.reshape(-1, 3) + np.asarray(extra, dtype=float)
        length = np.linalg.norm(more @ conventional, axis=1)
        found = np.concatenate([found, more[(length > 1e-6) & (length <= longest)]])
    return found


def fit_mount(
    runs: Sequence[SpotsOfRun],
    crystal: Crystal,
    *,
    reference: FloatArray | None = None,
    extra: tuple[float, float, float] | None = None,
) -> MountFit | None:
    """Index the spots of a scan by the crystal's reflections and fit mount, lattice and drift.

    A spot on the detectors is a cut through a reflection by the Ewald sphere: across the sphere its
    place is known to ``spread / sqrt(counts)``, along the scattered beam only to its width. Of a
    mosaic, or a divergent beam, a reflection is not round, and a cut beside its middle is off in
    the scattering plane, too, by a share of how far it is beside. How far both stretch a reflection
    is fitted along. Errors are widened by the root of chi-square per degree of freedom where that
    exceeds one.

    Parameters
    ----------
    runs : sequence of SpotsOfRun
    crystal : Crystal
        The lattice to start from, right within some 2 %.
    reference : (3, 3), optional
        Mount that the result is compared with, crystal frame to laboratory at psi = 0 without any
        offset. Of all mounts that the crystal's symmetry makes alike, the one nearest to it is
        reported; without one, whichever was found first.
    extra : (3,), optional
        See ``reflections``.

    Returns
    -------
    MountFit or None
        None where fewer than three spots of two directions agree with one mount.
    """
    spots = [
        (i, peak)
        for i, run in enumerate(runs)
        for peak in run.peaks
        if peak.cut < RIM and peak.spread > 0
    ]
    if len(spots) < 3:
        return None
    which = np.array([i for i, _ in spots])
    Q = np.array([peak.Q for _, peak in spots])
    counts = np.array([peak.counts for _, peak in spots], dtype=float)
    angle = np.array([run.angle_deg for run in runs])[which]
    hkl = reflections(crystal, 1.1 * float(np.linalg.norm(Q, axis=1).max()), extra=extra)
    tried: list[tuple[float, int, FloatArray]] = []
    for sense in (1, -1):
        g = _turned(Q, -sense * angle)
        for rotation in _candidates(g, counts, hkl @ crystal.conventional_reciprocal, reference):
            away = _nearest(g @ rotation, hkl @ crystal.conventional_reciprocal)[1]
            score = float(np.sqrt(counts) @ np.exp(-0.5 * (away / 0.08) ** 2))
            score *= 1.0 if sense > 0 else 0.98  # the documented sense wins a tie
            tried.append((round(score, 6), sense, rotation))
    if not tried:
        return None
    tried.sort(key=lambda one: -one[0])  # stable: of equals the first
    _, sense, rotation = tried[0]
    _, laue = laue_rotations(crystal)
    proper = laue[np.linalg.det(laue) > 0]
    if reference is not None:
        trace = np.einsum("ij,njk,ik->n", rotation, proper, reference)
        rotation = rotation @ proper[int(np.argmax(trace))]
    best = _fit(runs, spots, crystal, hkl, sense, rotation, reference)
    if best is None:
        return None
    known = [(sense, best.rotation)]
    misfits = []
    for _, sense, rotation in tried[1:]:
        if len(known) > RIVALS:
            break
        if any(_alike(known_one, (sense, rotation), angle, proper) for known_one in known):
            continue
        known.append((sense, rotation))
        other = _fit(runs, spots, crystal, hkl, sense, rotation, reference)
        if other is None or _alike(known[0], (sense, other.rotation), angle, proper):
            continue
        misfits.append(other.misfit)
    if not misfits:
        return best
    widened = max(best.chi_square_per_degree, 1.0)
    own, *others = (np.minimum(m / widened, OUTLIER**2).sum() for m in (best.misfit, *misfits))
    return replace(best, rival=float(min(others) - own))


def _alike(
    a: tuple[int, FloatArray], b: tuple[int, FloatArray], angle_deg: FloatArray, proper: FloatArray
) -> bool:
    """Whether two mounts (sense, rotation) put the crystal alike, also at other logged angles.

    Of one orientation both senses look alike; a third angle, of no symmetry, keeps them two.
    """
    turned = b[1][None]
    if a[0] != b[0]:
        angles = np.array([[angle_deg.min()], [angle_deg.max()], [angle_deg.min() + 37.0]])
        between = Rotation.from_euler("y", (b[0] - a[0]) * angles, degrees=True)
        turned = between.as_matrix() @ b[1]
    trace = ((a[1].T @ turned).reshape(-1, 9) @ proper.reshape(-1, 9).T).max(axis=1)
    return bool(trace.min() > 1 + 2 * np.cos(np.radians(APART_DEG)))


def _turned(vectors: FloatArray, angle_deg: FloatArray) -> FloatArray:
    """Vectors (n, 3) turned about +y by an angle each."""
    return Rotation.from_euler("y", angle_deg[:, None], degrees=True).apply(vectors)


def _nearest(Q: FloatArray, G: FloatArray) -> tuple[NDArray[np.intp], FloatArray]:
    """Nearest reflection of every Q and its distance."""
    away = np.linalg.norm(Q[:, None] - G[None], axis=2)
    k = away.argmin(axis=1)
    return k, away[np.arange(len(Q)), k]


def _candidates(
    g: FloatArray, counts: FloatArray, G: FloatArray, reference: FloatArray | None
) -> FloatArray:
    """Rotations (n, 3, 3) that carry two reflections onto two of the strongest spots."""
    found = [] if reference is None else [reference]
    strongest = []
    for k in np.argsort(-counts):
        if all(np.linalg.norm(g[k] - g[j]) > 0.2 for j in strongest):
            strongest.append(k)
        if len(strongest) == 8:
            break
    length = np.linalg.norm(G, axis=1)
    for at, first in enumerate(strongest):
        for second in strongest[at + 1 :]:
            a, b = g[first], g[second]
            cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
            if abs(cosine) > 0.97:
                continue
            near_a = np.flatnonzero(np.abs(length - np.linalg.norm(a)) < 0.12)
            near_b = np.flatnonzero(np.abs(length - np.linalg.norm(b)) < 0.12)
            between = (G[near_a] @ G[near_b].T) / length[near_a][:, None] / length[near_b]
            i, j = np.nonzero((np.abs(between - cosine) < 0.06) & (np.abs(between) < 0.999))
            found.extend(_frame(a, b) @ _frame(G[near_a[i]], G[near_b[j]]).swapaxes(1, 2))
            if len(found) > 4000:
                return np.array(found)
    return np.array(found).reshape(-1, 3, 3)


def _frame(a: FloatArray, b: FloatArray) -> FloatArray:
    """Orthonormal columns (..., 3, 3) of two vectors (..., 3): bisector, normal, their product."""
    x, z = _unit(_unit(a) + _unit(b)), _unit(np.cross(a, b))
    return np.stack([x, np.cross(z, x), z], axis=-1)


def _unit(vectors: FloatArray) -> FloatArray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _strains(crystal: Crystal) -> FloatArray:
    """Independent strains (k, 3, 3) that keep the crystal's symmetry."""
    _, laue = laue_rotations(crystal)
    basis = np.zeros((6, 3, 3))
    for n, (i, j) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        basis[n, i, j] = basis[n, j, i] = 1.0
    mean = np.einsum("oij,njk,olk->nil", laue, basis, laue) / len(laue)
    _, values, rows = np.linalg.svd(mean.reshape(6, 9))
    return rows[: int(np.sum(values > 1e-8 * values[0]))].reshape(-1, 3, 3)


def _cell(lattice: FloatArray) -> FloatArray:
    """a, b, c, alpha, beta, gamma of lattice vectors in rows."""
    a = np.linalg.norm(lattice, axis=1)
    pairs = ((1, 2), (0, 2), (0, 1))
    cosines = [lattice[i] @ lattice[j] / (a[i] * a[j]) for i, j in pairs]
    return np.asarray(np.r_[a, np.degrees(np.arccos(np.clip(cosines, -1, 1)))], np.float64)


def _fit(
    runs: Sequence[SpotsOfRun],
    spots: Sequence[tuple[int, ElasticPeak]],
    crystal: Crystal,
    hkl: FloatArray,
    sense: int,
    start: FloatArray,
    reference: FloatArray | None,
) -> MountFit | None:
    """Least squares over turn, strain and drift; see ``fit_mount``."""
    which = np.array([i for i, _ in spots])
    Q = np.array([peak.Q for _, peak in spots])
    counts = np.array([peak.counts for _, peak in spots], dtype=float)
    spread = np.array([peak.spread for _, peak in spots])
    angle = sense * np.array([run.angle_deg for run in runs])[which]
    hours = np.array([run.hours for run in runs])[which]
    ki = wave_vector(np.array([run.ei_meV for run in runs])[which])
    beam = np.stack([np.zeros_like(ki), np.zeros_like(ki), ki], axis=1)
    along = (beam - Q) / ki[:, None]  # of the scattered beam
    across = np.sqrt(spread**2 / counts + FINEST**2)
    side = Q - np.einsum("ij,ij->i", Q, along)[:, None] * along
    side /= np.linalg.norm(side, axis=1)[:, None]
    normal = np.cross(along, side)
    # In the plane of ``along`` and ``side``: mosaic acts across Q, divergence across the beam.
    ahead = np.einsum("ij,ij->i", Q, along), np.einsum("ij,ij->i", Q, side)
    forward = np.stack([along[:, 2], side[:, 2]])
    mean_square = float(np.mean(np.einsum("ij,ij->i", Q, Q)))
    lattice, strains = crystal.conventional_lattice, _strains(crystal)

    def reciprocal_of(strain: FloatArray) -> FloatArray:
        bent = lattice @ (np.eye(3) + np.tensordot(strain, strains, 1))
        return np.asarray(2 * np.pi * np.linalg.inv(bent).T, dtype=np.float64)

    def unpack(x: FloatArray) -> tuple[FloatArray, FloatArray, float]:
        strain = np.zeros(len(strains))
        strain[:straining] = x[3 : 3 + straining]
        rotation = Rotation.from_rotvec(x[:3]).as_matrix() @ start
        return rotation, strain, float(x[-1]) if drifting else 0.0

    def calculated(x: FloatArray, index: FloatArray) -> FloatArray:
        rotation, strain, rate = unpack(x)
        G = index @ reciprocal_of(strain) @ rotation.T
        return _turned(G, angle + rate * (hours - hours.mean()))

    def skew_of(x: FloatArray) -> FloatArray:
        """How far off in the plane a cut is, of how far it is beside the middle, (spots,)."""
        if not shaped:
            return np.zeros(len(Q))
        mosaic, divergence = x[3 + straining : 5 + straining] ** 2
        deep = 1 + mosaic * ahead[1] ** 2 / mean_square + divergence * (1 - forward[0] ** 2)
        mixed = mosaic * ahead[0] * ahead[1] / mean_square + divergence * forward[0] * forward[1]
        return np.asarray(-mixed / deep, dtype=np.float64)

    def residuals(x: FloatArray, index: FloatArray, use: NDArray[np.bool_]) -> FloatArray:
        off = calculated(x, index) - Q
        beside = np.einsum("ij,ij->i", off, along)
        scaled = [
            np.einsum("ij,ij->i", off, normal) / across,
            (np.einsum("ij,ij->i", off, side) - skew_of(x) * beside) / across,
            beside / (2 * spread),
        ]
        shape = x[3 + straining : 3 + straining + shaped] / SHAPE_SCALE
        return np.concatenate([np.stack(scaled, axis=1)[use].ravel(), shape])

    def of_spots(r: FloatArray) -> FloatArray:
        return r[: len(r) - shaped].reshape(-1, 3)

    straining, shaped, drifting, x, tolerance = 0, 0, 0, np.zeros(3), ASSIGN
    index, use = hkl[:1], np.zeros(len(spots), bool)
    for turn in range(7):
        strain = unpack(x)[1]
        back = _turned(Q, -(angle + (x[-1] * (hours - hours.mean()) if drifting else 0.0)))
        k, away = _nearest(back @ unpack(x)[0], hkl @ reciprocal_of(strain))
        index = hkl[k]
        use = away < np.minimum(tolerance, np.maximum(6 * spread, 0.06))
        different = len(np.unique(np.round(index[use], 3), axis=0))
        if use.sum() < 3 or np.linalg.matrix_rank(index[use]) < 2:
            return None
        if turn >= 2:  # a rough turn first, then what the number of spots can carry
            # Diffuse scattering shifts the few spots of a short scan alike: no strain from those.
            free = len(strains) if different >= 4 + 2 * len(strains) else 0
            spans = len(np.unique(which[use])) >= 4 and np.ptp(hours[use]) > 0
            now = int(spans)
            if (free, 2, now) != (straining, shaped, drifting):
                x = np.concatenate([x[:3], np.zeros(free), np.full(2, 0.3), np.zeros(now)])
            straining, shaped, drifting = free, 2, now
        if turn >= 4:  # what lies far off beside the others is another grain or badly cut
            r = of_spots(residuals(x, index, np.ones(len(spots), bool)))
            size = np.linalg.norm(r[:, :2], axis=1)
            use &= size < OUTLIER * max(1.0, float(np.median(size[use])))
        x = least_squares(residuals, x, args=(index, use), x_scale="jac").x
        tolerance = max(0.6 * tolerance, 0.1)
    found = least_squares(residuals, x, args=(index, use))
    x = found.x
    r = of_spots(found.fun)
    degrees = 2 * len(r) - len(x)
    if degrees < 1:
        return None
    chi = float((r[:, :2] ** 2).sum() / degrees)
    covariance = np.linalg.pinv(found.jac.T @ found.jac) * max(chi, 1.0)
    rotation, strain, rate = unpack(x)
    nearest = hkl[_nearest(_turned(Q, -angle) @ rotation, hkl @ reciprocal_of(strain))[0]]
    every = of_spots(residuals(x, nearest, np.ones(len(spots), bool)))

    def with_errors(values, scale: float = 1.0) -> list[Estimated]:
        """Values that follow from x, by numerical derivatives."""
        at, step = values(x), 1e-6
        slope = np.array([(values(x + step * e) - at) / step for e in np.eye(len(x))])
        sigma = np.sqrt(np.maximum(np.einsum("ia,ij,ja->a", slope, covariance, slope), 0))
        return [
            Estimated(value=float(v) * scale, sigma=float(s) * scale)
            for v, s in zip(at, sigma, strict=True)
        ]

    against = start if reference is None else reference
    turns = with_errors(
        lambda x: Rotation.from_matrix(unpack(x)[0] @ against.T).as_euler("YXZ", degrees=True)
    )
    cell = None
    if straining:
        cell = tuple(
            with_errors(
                lambda x: _cell(lattice @ (np.eye(3) + np.tensordot(unpack(x)[1], strains, 1)))
            )
        )
    rates = with_errors(lambda x: x[-1:]) if drifting else [None]
    return MountFit(
        rotation=rotation,
        sense=sense,
        turn=(turns[0], turns[1], turns[2]),
        lattice=cell,
        drift_deg_per_hour=rates[0],
        reciprocal=reciprocal_of(strain),
        spots=int(use.sum()),
        unexplained=int((~use).sum()),
        reflections=len(np.unique(np.round(index[use], 3), axis=0)),
        chi_square_per_degree=chi,
        axis_sigma_deg=float(np.degrees(np.sqrt(0.5 * (covariance[0, 0] + covariance[2, 2])))),
        misfit=np.asarray((every[:, :2] ** 2).sum(axis=1), dtype=np.float64),
    )
