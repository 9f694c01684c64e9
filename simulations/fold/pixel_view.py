"""What an instrument's pixels look at at one orientation, in steps of energy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import FloatArray
from simulations.crystal import Crystal
from simulations.errors import InputError
from simulations.instrument import (
    Instrument,
    wave_vector,
)
from simulations.kernels import njit
from simulations.reciprocal import EnergyAxis


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PixelView:
    """What the pixels look at in one orientation: the common ground of counts and exposure.

    ``Q = beam - kf * direction`` in the crystal's Cartesian frame and
    ``beam_fractional - kf * fractional`` in primitive reciprocal coordinates.
    """

    direction: FloatArray  # (pixels, 3) crystal frame
    fractional: FloatArray  # (pixels, 3)
    beam: FloatArray  # (3,) k_i in the crystal frame, 1/angstrom
    beam_fractional: FloatArray  # (3,)
    masked: NDArray[np.bool_]  # (pixels,)
    step_edges_meV: FloatArray  # (steps + 1,)
    kf: FloatArray  # (steps,) 1/angstrom at the step centres
    bin_of_step: NDArray[np.int64]  # (steps,) energy bin


def view_pixels(
    *,
    crystal: Crystal,
    instrument: Instrument,
    energy: EnergyAxis,
    ei_meV: float,
    crystal_to_lab: FloatArray,
    histogram_edges_meV: FloatArray | None = None,
) -> PixelView:
    """Turn the pixels into the crystal's frame for one orientation.

    ``histogram_edges_meV`` replaces the sub-steps by the bins of histogram input; those whose
    centre lies on the reachable part of the axis are kept (``histogram_range``).

    Raises
    ------
    ValueError
        If no energy bin can be reached with ``ei_meV``.
    """
    n_e = energy.reachable_bins(ei_meV)
    if n_e == 0:
        raise InputError(
            f"instrument.ei_meV is {ei_meV}; expected above the lowest energy bin "
            f"{energy.edges_meV[0]}..{energy.edges_meV[1]} meV of the path"
        )
    if histogram_edges_meV is None:
        edges = energy.substep_edges_meV[: n_e * energy.substeps + 1]
        bin_of_step = np.arange(n_e * energy.substeps) // energy.substeps
    else:
        kept = histogram_range(histogram_edges_meV, energy, ei_meV)
        edges = np.asarray(histogram_edges_meV)[kept.start : kept.stop + 1]
        middle = 0.5 * (edges[1:] + edges[:-1])
        bin_of_step = ((middle - energy.edges_meV[0]) / energy.step_meV).astype(np.int64)
    direction = instrument.direction @ crystal_to_lab
    beam = crystal_to_lab.T @ np.array([0.0, 0.0, float(wave_vector(ei_meV))])
    to_fractional = np.linalg.inv(crystal.reciprocal)
    return PixelView(
        direction=direction,
        fractional=direction @ to_fractional,
        beam=beam,
        beam_fractional=beam @ to_fractional,
        masked=instrument.masked,
        step_edges_meV=edges,
        kf=wave_vector(ei_meV - 0.5 * (edges[1:] + edges[:-1])),
        bin_of_step=bin_of_step,
    )


def histogram_range(histogram_edges_meV: FloatArray, energy: EnergyAxis, ei_meV: float) -> slice:
    """Bins of a histogram whose centre lies on the reachable part of the path's energy axis.

    Raises
    ------
    ValueError
        If there is none.
    """
    edges = np.asarray(histogram_edges_meV, dtype=float)
    middle = 0.5 * (edges[1:] + edges[:-1])
    top = energy.edges_meV[energy.reachable_bins(ei_meV)]
    inside = np.flatnonzero((middle >= energy.edges_meV[0]) & (middle < top - 1e-9))
    if len(inside) == 0:
        raise InputError(
            f"energy bins of the histogram span {edges[0]:g}..{edges[-1]:g} meV; expected some "
            f"within the path's {energy.edges_meV[0]:g}..{top:g} meV"
        )
    return slice(int(inside[0]), int(inside[-1]) + 1)


@njit(cache=True, inline="always")
def grid_index(fractional, divisions):
    """Nearest grid point of a coordinate, 0 <= index < divisions."""
    i = int((fractional - np.floor(fractional)) * divisions + 0.5)
    return 0 if i >= divisions else i
