"""Which zones, tubes and points of the horizontal plane an orientation reaches; for pictures.

A coarse look: every few pixels and one step per energy bin are enough to see where the exposure
comes from. The exposure itself is ``simulations.fold.exposure``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.spatial import KDTree

from simulations.arrays import FloatArray, IntArray
from simulations.constants import NEUTRON_MEV_A2 as MEV_PER_K2
from simulations.crystal import Crystal
from simulations.fold.pixel_view import PixelView
from simulations.fold.voxel_map import VoxelMap
from simulations.instrument import Instrument

PIXELS = 12_000  # looked at, spread over the open ones
AT_ONCE = 400_000  # points


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ZoneReach:
    """Exposure that every zone gives every path bin."""

    hkl: IntArray  # (zones, 3) centre of the zone, r.l.u. of the conventional cell
    exposure: FloatArray  # (zones, path_bins) steradian meV per orientation, most exposed first


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PlaneReach:
    """The horizontal plane through the origin, on a square grid."""

    along: FloatArray  # (n,) 1/angstrom, towards u
    across: FloatArray  # (n,) 1/angstrom, towards v
    zone: IntArray  # (n, n) number of the zone, [across, along]; changes at zone boundaries
    path_bin: IntArray  # (n, n) -1 outside every tube
    orientations: IntArray  # (n, n) how many of them reach the point
    energy_meV: FloatArray  # (n, n) energy transfer at which the first one does; NaN where none


def nearest_zone(Q: FloatArray, crystal: Crystal) -> IntArray:
    """Primitive coordinates (points, 3) of the reciprocal vector nearest to Q (points, 3)."""
    start = np.floor(Q @ np.linalg.inv(crystal.reciprocal)).astype(np.int64)
    best = np.full(len(Q), np.inf)
    nearest = start.copy()
    for step in product((-1, 0, 1, 2), repeat=3):
        trial = start + np.array(step)
        away = np.sum((Q - trial @ crystal.reciprocal) ** 2, axis=1)
        closer = away < best - 1e-12
        best[closer], nearest[closer] = away[closer], trial[closer]
    return nearest


def path_bin_at(Q: FloatArray, crystal: Crystal, voxels: VoxelMap) -> IntArray:
    """Path bin of every Q (points, 3) in the crystal's frame; -1 outside every tube."""
    fractional = Q @ np.linalg.inv(crystal.reciprocal)
    n = voxels.divisions
    index = np.floor((fractional - np.floor(fractional)) * n + 0.5).astype(np.int64) % n
    voxel = voxels.voxel[tuple(index.T)]
    return np.where(voxel >= 0, voxels.path_bin[np.maximum(voxel, 0)], -1)


def zones_reached(
    looks: Sequence[tuple[PixelView, Instrument]], crystal: Crystal, voxels: VoxelMap
) -> ZoneReach:
    """Sum over orientations of what every zone gives to every path bin.

    Parameters
    ----------
    looks : sequence of (PixelView, Instrument)
        One per orientation; the first from ``exposure.view_pixels`` of the second.
    crystal, voxels
        As for the exposure.
    """
    table: dict[tuple[int, ...], FloatArray] = {}
    for view, instrument in looks:
        for zone, row in _zones_of(view, instrument, crystal, voxels):
            table[zone] = table[zone] + row if zone in table else row
    keys = sorted(table, key=lambda key: (-table[key].sum(), key))
    to_hkl = crystal.reciprocal @ np.linalg.inv(crystal.conventional_reciprocal)
    return ZoneReach(
        hkl=np.rint(np.array(keys, dtype=float).reshape(-1, 3) @ to_hkl).astype(np.int64),
        exposure=np.array([table[k] for k in keys]).reshape(-1, voxels.n_path_bins),
    )


def _zones_of(
    view: PixelView, instrument: Instrument, crystal: Crystal, voxels: VoxelMap
) -> Iterator[tuple[tuple[int, ...], FloatArray]]:
    """Zones that one orientation reaches, in parts, with their exposure per path bin."""
    open_pixels = np.flatnonzero(~instrument.masked)
    every = max(1, len(open_pixels) // PIXELS)
    chosen = open_pixels[::every]
    share = instrument.solid_angle_sr[open_pixels].sum()
    share /= max(instrument.solid_angle_sr[chosen].sum(), 1e-30)
    first = np.flatnonzero(np.diff(view.bin_of_step, prepend=-1))
    per_bin = np.add.reduceat(np.diff(view.step_edges_meV), first)
    middle = first + np.diff(first, append=len(view.kf)) // 2
    kf = view.kf[middle]
    rows = max(1, AT_ONCE // len(kf))
    for start in range(0, len(chosen), rows):
        some = chosen[start : start + rows]
        Q = (view.beam - kf[None, :, None] * view.direction[some][:, None]).reshape(-1, 3)
        bins = path_bin_at(Q, crystal, voxels)
        hit = np.flatnonzero(bins >= 0)
        if len(hit) == 0:
            continue
        weight = (instrument.solid_angle_sr[some][:, None] * per_bin).ravel()[hit] * share
        zones, number = np.unique(nearest_zone(Q[hit], crystal), axis=0, return_inverse=True)
        sums = np.zeros((len(zones), voxels.n_path_bins))
        np.add.at(sums, (number.ravel(), bins[hit]), weight)
        for zone, row in zip(zones, sums, strict=True):
            yield tuple(int(z) for z in zone), row


def plane_reached(
    looks: Sequence[tuple[FloatArray, Instrument]],
    crystal: Crystal,
    voxels: VoxelMap,
    *,
    axes: FloatArray,
    ei_meV: float,
    energies_meV: tuple[float, float],
    points: int = 480,
) -> PlaneReach:
    """Tubes, zones and reach in the plane through the origin that ``axes`` spans.

    Parameters
    ----------
    looks : sequence of ((3, 3), Instrument)
        Crystal frame to laboratory and the pixels there, one per orientation.
    axes : (2, 3)
        Orthonormal, crystal frame.
    ei_meV : float
        Incident energy.
    energies_meV : (low, high)
        Energy transfers that count as reached.
    points : int
        Grid points per axis.
    """
    ki = np.sqrt(ei_meV / MEV_PER_K2)
    kf = np.sqrt((ei_meV - np.asarray(energies_meV)) / MEV_PER_K2)
    furthest = min(float(ins.direction[~ins.masked, 2].min()) for _, ins in looks)
    longest = float(np.sqrt((ki**2 + kf**2 - 2 * ki * kf * furthest).max()))
    line = np.linspace(-1.03, 1.03, points) * longest
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    Q = grid @ np.asarray(axes, dtype=float)
    zones = nearest_zone(Q, crystal)
    _, zone = np.unique(zones, axis=0, return_inverse=True)
    count = np.zeros(len(Q), dtype=np.int64)
    energy = np.full(len(Q), np.nan)
    trees: dict[int, tuple[KDTree, float]] = {}  # files of a scan share their pixels
    for rotation, instrument in looks:
        if id(instrument) not in trees:
            directions = instrument.direction[~instrument.masked]
            made = KDTree(directions)
            trees[id(instrument)] = made, 0.9 * _pitch(made, directions)
        tree, near = trees[id(instrument)]
        final = np.array([0.0, 0.0, ki]) - Q @ np.asarray(rotation).T
        length = np.linalg.norm(final, axis=1)
        transfer = ei_meV - MEV_PER_K2 * length**2
        some = np.flatnonzero((transfer >= energies_meV[0]) & (transfer < energies_meV[1]))
        away, _ = tree.query(final[some] / length[some][:, None], distance_upper_bound=2 * near)
        hit = some[away < near]
        energy[hit] = np.where(np.isnan(energy[hit]), transfer[hit], energy[hit])
        count[hit] += 1
    shape = (points, points)
    return PlaneReach(
        along=line,
        across=line,
        zone=zone.reshape(shape),
        path_bin=path_bin_at(Q, crystal, voxels).reshape(shape),
        orientations=count.reshape(shape),
        energy_meV=energy.reshape(shape),
    )


def _pitch(tree: KDTree, directions: FloatArray) -> float:
    """Usual distance between neighbouring tubes, as unit vectors."""
    some = directions[:: max(1, len(directions) // 500)]
    away, other = tree.query(some, k=min(32, len(directions)))
    beside = np.abs(directions[other][..., 1] - some[:, None, 1]) < 0.5 * away
    nearest = np.where(beside & (away > 0), away, np.inf).min(axis=1)
    found = nearest[np.isfinite(nearest)]
    return float(np.median(found)) if len(found) else float(np.median(away[:, -1]))
