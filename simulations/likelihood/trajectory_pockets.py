"""Lines of the modes of a crystal with small imaginary pockets, compiled."""

from __future__ import annotations

from math import exp, pi, sqrt

from simulations.kernels import njit
from simulations.scattering import count_mode, damped_line


@njit(cache=True)
def signed_root(square):
    """Energy of a mode, negative where it is imaginary."""
    return sqrt(square) if square > 0.0 else -sqrt(-square)


@njit(cache=True, error_model="numpy")
def pocket_shape(level, energy, width, own_width, lowest, rise, pockets):
    """Line of one mode of a crystal with pockets, as ``_meet`` has it; see `count_mode`.

    A damped mode is weighed by its own energy: what ``walk`` weighs it with is taken off.
    """
    floor, damped, thermal = pockets
    live, size, wide = count_mode(level, floor, damped)
    if not live:
        return 0.0, 0.0
    flat = size != abs(level)  # the energy moves with nothing
    if wide > 0.0:
        value, by_size = damped_line(energy, size, sqrt(width * width + own_width**2), thermal)
        back = energy * (1.0 - exp(-energy / thermal)) if thermal > 0.0 else energy
        return value * back, 0.0 if flat else -0.5 * by_size * back / size
    if size < lowest:
        size, flat = lowest, True
    jac = 1.0 if flat else 1.0 - 0.5 / size * rise
    spread = sqrt(width * width * jac * jac + own_width * own_width)
    x = (energy - size) / spread
    if abs(x) >= 4.0:
        return 0.0, 0.0
    shape = exp(-0.5 * x * x) / (spread * sqrt(2.0 * pi))
    return shape, 0.0 if flat else shape * x / spread / (2.0 * size)


@njit(cache=True)
def pocket_is_near(square, reach, energy, spread, lowest, pockets):
    """Whether a mode that does not lie where it counts may have a line at ``energy``.

    ``square`` is its E^2 within ``reach``, ``spread`` the width that a line is found by.
    """
    floor, damped, _ = pockets
    if damped and square - reach < 0.0:
        return True
    floor = max(floor, lowest)
    inside = square - reach < floor * floor and square + reach > 0.0
    return inside and abs(energy - floor) < 4.0 * spread
