"""What blurs Q in a measurement: mosaic of the crystal, divergence of the beam, size of the pixels.

A neutron of a pixel came in along its own direction, met its own block of the crystal and ended
somewhere in the pixel. Its q is off from the pixel's by a Gaussian of covariance ``C`` and the
energy of a branch by ``dE/dq . dq``, to first order: a line along a trajectory is wider by
``sqrt(g^T C g)`` with g the gradient of the branch, before the resolution of the energy.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
from pydantic import Field

from simulations.arrays import FloatArray
from simulations.crystal import Crystal
from simulations.fold import Exposure
from simulations.instrument import (
    Instrument,
    Orientation,
    crystal_to_lab,
    split_name,
    wave_vector,
)
from simulations.likelihood.trajectory_arguments import QBlur
from simulations.section import NotNegative, PixelLength, Section, SpreadAngle

PixelSize: TypeAlias = tuple[PixelLength, PixelLength] | Literal["instrument"]


class QSpreadSection(Section):
    """What blurs Q, as rates of the fit have it; all zero: pixels are points."""

    mosaic_deg: SpreadAngle = Field(
        default=0.0,
        description="mosaic of the sample, standard deviation about each axis, 0 to 5 degrees",
    )
    divergence_deg: SpreadAngle = Field(
        default=0.0,
        description="of the incident beam, standard deviation in each direction, 0 to 5 degrees",
    )
    pixel_m: PixelSize = Field(
        default=(0.0, 0.0),
        description="width and height of an unmerged pixel, metre, or instrument: as it is there",
    )
    known_percent: NotNegative = Field(
        default=30.0, description="how well all of it is known, standard deviation, %, 0 or more"
    )

    @property
    def active(self) -> bool:
        """Whether anything blurs Q."""
        return self.mosaic_deg > 0 or self.divergence_deg > 0 or self.pixel_m != (0.0, 0.0)


TYPICAL = QSpreadSection(mosaic_deg=0.2, divergence_deg=0.2, pixel_m="instrument")
NO_SPREAD = QBlur(mosaic=0.0, divergence=0.0, width=0.0, height=0.0, up=np.array([0.0, 1.0, 0.0]))


def q_blur(
    crystal: Crystal, instrument: Instrument, orientation: Orientation, section: QSpreadSection
) -> QBlur:
    """Standard deviations of what blurs Q, radian.

    Parameters
    ----------
    crystal : Crystal
    instrument : Instrument
        Pixels are taken to be at their mean distance from the sample.
    orientation : Orientation
        Tubes stand upright; the vertical in the crystal's frame is that without tilts.
    section : QSpreadSection
    """
    distance_m = float(np.mean(np.linalg.norm(instrument.position_m, axis=1)))
    width_m, height_m = size_of_pixels(instrument, section.pixel_m)
    lab = crystal_to_lab(orientation, crystal.conventional_reciprocal, 0.0)
    flat = np.sqrt(12) * distance_m  # of a box, its standard deviation
    return QBlur(
        mosaic=float(np.radians(section.mosaic_deg)),
        divergence=float(np.radians(section.divergence_deg)),
        width=width_m / flat,
        height=height_m / flat,
        up=np.ascontiguousarray(lab[1]),
    )


def size_of_pixels(instrument: Instrument, told: PixelSize = "instrument") -> tuple[float, float]:
    """Width and height of pixels, merged ones as a whole, as a sample sees them, metre.

    Those told, else medians: from solid angles, and from how far pixels of a tube are apart; square
    where tubes are unknown.
    """
    if told != "instrument":
        return told[0], told[1] * split_name(instrument.name)[1]
    distance = np.linalg.norm(instrument.position_m, axis=1)
    area = float(np.median(instrument.solid_angle_sr * distance**2))
    if instrument.tube is None:
        return float(np.sqrt(area)), float(np.sqrt(area))
    same = np.diff(instrument.tube) == 0
    apart = np.linalg.norm(np.diff(instrument.position_m, axis=0), axis=1)[same]
    height = float(np.median(apart)) if len(apart) else float(np.sqrt(area))
    return area / height, height


class BlurredMoments:
    """Moments of an exposure with a spread of q added to the width of its voxels; keeps the last.

    Approximate: the spread is taken to be the same in all directions, of the mean Q of a cell.

    Parameters
    ----------
    q_blur : QBlur
    ei_meV : float
    energy_meV : (E,) float64
        Centres of the bins that can be reached.
    """

    def __init__(self, q_blur: QBlur, ei_meV: float, energy_meV: FloatArray) -> None:
        self._mosaic = 2 * q_blur.mosaic**2 / 3
        k_i, k_f = wave_vector(np.array([ei_meV])), wave_vector(ei_meV - energy_meV)
        pixel = k_f**2 * (q_blur.width**2 + q_blur.height**2)
        self._constant = (2 * (q_blur.divergence * k_i) ** 2 + pixel) / 3
        self._kept: tuple[Exposure, Exposure] | None = None

    def __call__(self, moments: Exposure) -> Exposure:
        """The same where nothing blurs."""
        if self._mosaic == 0 and not np.any(self._constant):
            return moments
        if self._kept is None or self._kept[0] is not moments:
            second = moments.second.copy()
            more = self._mosaic * moments.q_squared + self._constant * moments.weight
            second[..., :3] += more[..., None]
            self._kept = moments, replace(moments, second=second)
        return self._kept[1]
