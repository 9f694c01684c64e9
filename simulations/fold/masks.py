"""What is under the phonons: (pixel, sub-step) pairs that elastic scattering spoils.

Masks come from geometry, not from boxes set by hand. A pair is told by how many standard
deviations it is away from E = 0 (the elastic band) and from the nearest Bragg reflection that its
pixel reflects at E = 0 (Bragg tails): energy resolution, mosaic and width of a reflection count
together. A masked pair loses signal and exposure alike, so it becomes unknown, never empty.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import BoolArray, FloatArray
from simulations.crystal import Crystal
from simulations.errors import InputError
from simulations.fold.pixel_view import PixelView
from simulations.instrument import Resolution

ELASTIC_REACH = 4.0
"""Standard deviations at which a line of incoherent strength is below 1e-3 of the phonons."""
BRAGG_REACH = 6.0
"""The same of a Bragg reflection, a million times stronger than phonons at its peak."""
FAINT = 1e-6  # share of the largest possible |F|^2 below which a reflection counts as absent


def bragg_distance(
    view: PixelView, crystal: Crystal, *, mosaic_deg: float = 0.3, width: float = 0.03
) -> FloatArray:
    """How far the elastic Q of every pixel is from a Bragg reflection, in standard deviations.

    Parameters
    ----------
    view : PixelView
        Of one orientation.
    crystal : Crystal
        Reflections without structure factor, and the direct beam, do not count.
    mosaic_deg : float
        Standard deviation of the crystal's mosaic about each axis.
    width : float
        Standard deviation of a reflection in all directions, 1/angstrom: beam divergence, pixel
        and strain together.

    Returns
    -------
    (pixels,) float64

    Raises
    ------
    ValueError
        If ``width`` is not positive or ``mosaic_deg`` is negative.
    """
    if not width > 0 or not mosaic_deg >= 0:
        raise InputError(
            f"width is {width} and mosaic_deg is {mosaic_deg}; expected above 0, and 0 or more"
        )
    ki = float(np.linalg.norm(view.beam))
    Q = view.beam - ki * view.direction
    below = np.floor(Q @ np.linalg.inv(crystal.reciprocal))
    across = np.radians(mosaic_deg) ** 2
    strongest = float(np.sum(np.abs(crystal.scattering_length))) ** 2
    nearest = np.full(len(Q), np.inf)
    for corner in product((0, 1), repeat=3):
        hkl = below + corner
        G = hkl @ crystal.reciprocal
        F = np.exp(2j * np.pi * hkl @ crystal.positions.T) @ crystal.scattering_length
        off = Q - G
        length = np.maximum(np.einsum("pa,pa->p", G, G), 1e-12)
        along = np.einsum("pa,pa->p", off, G) ** 2 / length
        rest = np.maximum(np.einsum("pa,pa->p", off, off) - along, 0.0)
        distance = np.sqrt(along / width**2 + rest / (width**2 + across * length))
        real = (np.abs(F) ** 2 > FAINT * strongest) & np.any(hkl != 0, axis=1)
        nearest = np.where(real, np.minimum(nearest, distance), nearest)
    return nearest


def spoilt_pairs(
    view: PixelView,
    *,
    crystal: Crystal,
    resolution: Resolution,
    ei_meV: float,
    mosaic_deg: float = 0.3,
    width: float = 0.03,
    elastic_reach: float = ELASTIC_REACH,
    bragg_reach: float = BRAGG_REACH,
) -> BoolArray:
    """(pixel, step) pairs of one orientation that elastic scattering spoils.

    The finest mask there is, and the one that a run uses: a pair left out of the counts, of the
    exposure and of the trajectories alike leaves the support of all of them equal. A pixel loses
    whole energy bins of the path, never a part of one.

    Parameters
    ----------
    view, crystal, mosaic_deg, width
        As in ``bragg_distance``.
    resolution, ei_meV
        Width of the elastic line.
    elastic_reach, bragg_reach : float
        Standard deviations within which a pair is masked; 0 masks nothing.

    Returns
    -------
    (pixels, steps) bool
        True: leave the pair out.
    """
    least = np.full(int(view.bin_of_step.max()) + 1, np.inf)
    np.minimum.at(least, view.bin_of_step, _apart(view.step_edges_meV, resolution, ei_meV))
    z = least[view.bin_of_step]
    out = np.broadcast_to(z < elastic_reach, (len(view.masked), len(z))).copy()
    if bragg_reach > 0:
        pixel = bragg_distance(view, crystal, mosaic_deg=mosaic_deg, width=width)
        near = np.flatnonzero(pixel < bragg_reach)
        out[near] |= pixel[near, None] ** 2 + z**2 < bragg_reach**2
    return out


def without_spoilt(
    pixel: NDArray[np.int32], energy_transfer_meV: FloatArray, view: PixelView, skip: BoolArray
) -> NDArray[np.int32]:
    """Pixels of events, -1 where the event's (pixel, step) pair is in ``skip``.

    Parameters
    ----------
    pixel, energy_transfer_meV : (events,)
        As in ``EventBlock``.
    view : PixelView
    skip : (pixels, steps) bool
        Steps as in the view; an event falls into the step that the fold finds for it.
    """
    pixel = np.asarray(pixel)
    low, n_steps = view.step_edges_meV[0], len(view.kf)
    x = (energy_transfer_meV - low) * (n_steps / (view.step_edges_meV[-1] - low))
    inside = (x >= 0) & (x < n_steps) & (pixel >= 0) & (pixel < len(skip))
    step = np.where(inside, x, 0.0).astype(np.int64)
    return np.where(inside & skip[np.where(inside, pixel, 0), step], -1, pixel)


def _apart(edges_meV: FloatArray, resolution: Resolution, ei_meV: float) -> FloatArray:
    """Distance of each bin from E = 0, standard deviations of the elastic line, (bins,)."""
    sigma = float(resolution.sigma_meV(np.zeros(1), ei_meV)[0])
    low, high = np.asarray(edges_meV)[:-1], np.asarray(edges_meV)[1:]
    return np.maximum(np.maximum(low, -high), 0.0) / sigma
