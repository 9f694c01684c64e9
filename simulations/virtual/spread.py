"""What blurs Q in a virtual experiment: mosaic of the crystal, divergence of the beam, pixel size.

Every neutron meets its own crystal block, comes in along its own direction and ends somewhere in
its pixel. The recorded pixel and time of flight stay those of the pixel's centre. Shares no code
with fold or likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from simulations.arrays import FloatArray
from simulations.errors import InputError

CUT = 3.5  # standard deviations at which a Gaussian spread ends
UNIT = 1.0030699  # makes the standard deviation of a normal variate cut there 1 again


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Widths of what blurs Q; all zero means none. Gaussians are cut at 3.5 standard deviations."""

    mosaic_deg: float = 0.0  # standard deviation of the rotation about each axis
    divergence_deg: float = 0.0  # standard deviation of k_i in each of the two directions across
    pixel_m: tuple[float, float] = (0.0, 0.0)  # full width (horizontal) and height (vertical)

    def __post_init__(self) -> None:
        """Refuse impossible widths."""
        for name in ("mosaic_deg", "divergence_deg"):
            value = getattr(self, name)
            if not (np.isfinite(value) and 0 <= value <= 5):
                raise InputError(f"{name} is {value}; expected 0 to 5 degrees")
        if len(self.pixel_m) != 2 or not all(0 <= size < 0.5 for size in self.pixel_m):
            raise InputError(
                f"pixel_m is {list(self.pixel_m)}; expected width and height, 0 to 0.5 m"
            )

    @property
    def active(self) -> bool:
        """Whether anything blurs Q."""
        return self.mosaic_deg > 0 or self.divergence_deg > 0 or max(self.pixel_m) > 0

    @property
    def mosaic(self) -> float:
        """Radian."""
        return float(np.radians(self.mosaic_deg))

    @property
    def divergence(self) -> float:
        """Radian."""
        return float(np.radians(self.divergence_deg))


def across(away: FloatArray) -> FloatArray:
    """Horizontal unit vectors (pixels, 3) across the line of sight; tubes stand upright."""
    side = np.stack([away[:, 2], np.zeros(len(away)), -away[:, 0]], axis=1)
    length = np.linalg.norm(side, axis=1)
    return np.where(
        length[:, None] > 1e-9, side / np.maximum(length, 1e-9)[:, None], np.array([1.0, 0.0, 0.0])
    )


def blurred(
    spread: Spread, away: FloatArray, distance: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, Rotation]:
    """One neutron for every line of sight.

    Parameters
    ----------
    spread : Spread
    away : (neutrons, 3)
        Unit vectors from the sample to the pixels' centres, laboratory.
    distance : (neutrons,)
        Sample to pixel, metre.
    rng : Generator

    Returns
    -------
    final, beam : (neutrons, 3) float64
        Unit vectors along k_f and k_i, laboratory.
    block : Rotation
        Of the neutron's crystal block: it takes Q of the mean crystal's frame to its own.
    """
    n = len(away)
    size = np.array(spread.pixel_m) / distance[:, None] * (rng.random((n, 2)) - 0.5)
    final = away + size[:, :1] * across(away)
    final[:, 1] += size[:, 1]
    final /= np.linalg.norm(final, axis=1)[:, None]
    beam = np.ones((n, 3))
    beam[:, :2] = spread.divergence * _cut_normal(rng, (n, 2))
    beam /= np.linalg.norm(beam, axis=1)[:, None]
    return final, beam, Rotation.from_rotvec(spread.mosaic * _cut_normal(rng, (n, 3)))


def _cut_normal(rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
    """Normal variates that end at ``CUT``, of unit standard deviation."""
    out = rng.standard_normal(shape)
    while np.any(far := np.abs(out) > CUT):
        out[far] = rng.standard_normal(int(far.sum()))
    return out * UNIT
