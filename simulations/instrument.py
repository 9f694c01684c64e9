"""A direct-geometry time-of-flight spectrometer as plain arrays, and its energy resolution."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolution:
    """Gaussian energy resolution, a polynomial in the fraction ``x = E / Ei``.

    ``FWHM(E) = Ei * sum_k coefficients[k] * x**k`` in meV. A Gaussian is an approximation: real
    chopper line shapes have a moderator tail.
    """

    coefficients: tuple[float, ...]

    def sigma_meV(self, energy_transfer_meV: FloatArray, ei_meV: float) -> FloatArray:
        """Standard deviation in meV at every energy transfer; never below 1e-3 Ei."""
        x = np.asarray(energy_transfer_meV, dtype=float) / ei_meV
        fwhm = ei_meV * np.polynomial.polynomial.polyval(x, np.asarray(self.coefficients))
        return np.maximum(fwhm / 2.354820045, 1e-3 * ei_meV)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Instrument:
    """Pixels of a spectrometer in the laboratory frame: z along the beam, y up, right-handed.

    The sample is at the origin.
    """

    name: str
    position_m: FloatArray  # (pixels, 3) pixel centres
    solid_angle_sr: FloatArray  # (pixels,)
    detector_id: NDArray[np.int64]  # (pixels,) as recorded files name them
    masked: NDArray[np.bool_]  # (pixels,) True: the pixel counts nowhere
    source_to_sample_m: float
    resolution: Resolution

    @property
    def n_pixels(self) -> int:
        """Number of pixels, masked ones included."""
        return len(self.detector_id)

    @property
    def distance_m(self) -> FloatArray:
        """Sample to pixel, (pixels,)."""
        return np.linalg.norm(self.position_m, axis=1)

    @property
    def direction(self) -> FloatArray:
        """Unit vectors from the sample to the pixels, (pixels, 3)."""
        return self.position_m / self.distance_m[:, None]

    def with_mask(self, masked: NDArray[np.bool_]) -> Instrument:
        """Same instrument with ``masked`` added to what is masked already."""
        return replace(self, masked=self.masked | masked)
