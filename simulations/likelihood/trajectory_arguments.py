"""What the compiled walk takes, in groups."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import FloatArray, IntArray


class Stretches(NamedTuple):
    """Stretches of trajectories inside the tubes."""

    exposure: FloatArray  # (stretches,) of the pixel
    first_step: NDArray[np.int32]  # (stretches,)
    start: IntArray  # (stretches,) first of its steps in ``cell``
    length: IntArray  # (stretches,) steps
    cell: NDArray[np.int32]
    pixel: NDArray[np.int32]  # (stretches,) row of the pixels


class Rays(NamedTuple):
    """Where pixels look, a ray for each."""

    direction: FloatArray  # (pixels, 3)
    fractional: FloatArray  # (pixels, 3), directions in units of the reciprocal lattice
    beam: FloatArray  # (3,)
    beam_fractional: FloatArray  # (3,)


class TrueAxis(NamedTuple):
    """Steps of true energy, and what of each is counted in which measured step."""

    measured_edges: FloatArray  # (steps + 1,)
    true: FloatArray  # (true steps,) as all below
    kf: FloatArray
    weight: FloatArray
    found: FloatArray  # standard deviation that the walk itself gives a line, meV
    slope_of_step: FloatArray
    spread_first: IntArray
    spread_last: IntArray
    spread: FloatArray  # (true steps, most measured steps)
    by_width: FloatArray  # the same, by the logarithm of the width
    by_shift: FloatArray  # the same, by the energy it is measured at
    reach: float  # meV


class Moves(NamedTuple):
    """How Q, k_f and measured energy move by each thing that may be mis-set."""

    linear: FloatArray  # (G, 3, 3) of Q
    beam: FloatArray  # (G,) of k_i, relative
    final: FloatArray  # (G, true steps) of k_f at a true energy, 1/angstrom
    shift: FloatArray  # (G, true steps) of the measured energy at a true one, meV
    blur: FloatArray  # (G,) of the spread of q, relative


class Grid(NamedTuple):
    """Which reference point is nearest, as ``ZoneMap`` has it."""

    divisions: IntArray
    index: NDArray[np.int32]
    operation: NDArray[np.int16]
    fine_divisions: IntArray
    fine_radius: float
    fine_index: NDArray[np.int32]
    fine_operation: NDArray[np.int16]
    core_divisions: IntArray
    core_radius: float
    core_index: NDArray[np.int32]
    core_operation: NDArray[np.int16]
    operation_fractional: FloatArray
    operation_cartesian: FloatArray
    point: FloatArray
    reciprocal: FloatArray


class Continued(NamedTuple):
    """Modes at the reference points and how they are continued, as ``ZoneState`` has them."""

    off_axis: FloatArray  # (3,) 1/angstrom
    reach: float  # of a cell of the grid, 1/angstrom: what ``bend`` holds for
    square: FloatArray
    gradient: FloatArray  # (points, 3, n), unlike there
    curvature: FloatArray
    bend: FloatArray
    vectors: NDArray[np.float32]
    columns: NDArray[np.float32]  # (points, n, P, n), the same with components before modes
    block_of: NDArray[np.int8]
    mixing: NDArray[np.float32]
    coupling: NDArray[np.float32]  # by the parameters, then by q


class Scatterers(NamedTuple):
    """The atoms, or what stands for them in the coordinates of an ``Inversion``."""

    positions: FloatArray  # (atoms, 3) fractional
    amplitude: FloatArray  # (atoms,) b / sqrt(m), times the scale of these
    displacement: FloatArray  # (atoms, 6) angstrom^2, packed xx yy zz yz xz xy


class QBlur(NamedTuple):
    """What blurs Q, standard deviations in radian; all zero: nothing."""

    mosaic: float  # about each axis of the crystal
    divergence: float  # of k_i in each of the two directions across
    width: float  # of a pixel as the sample sees it, across
    height: float
    up: FloatArray  # (3,) unit vector along the tubes, crystal frame

    def widened(self, factor: float) -> QBlur:
        """All of it so many times as wide."""
        wide = {name: factor * getattr(self, name) for name in self._fields[:4]}
        return self._replace(**wide)


class Over(NamedTuple):
    """What rates are averaged over, approximately; empty: nothing."""

    root: FloatArray  # (G, G) lower root of the covariance of what is mis-set
    along: FloatArray  # (points, n, G) what E^2 moves with these by way of parameters, meV^2
    rest: FloatArray  # (points, n) variance of E^2 by parameters alone, meV^4
    uncertain: FloatArray  # (points, n) standard deviation of E^2 at most, meV^2


class Line(NamedTuple):
    """Occupation and form of a line, all in meV."""

    thermal: float  # k_B T
    own_width: float
    lowest: float
