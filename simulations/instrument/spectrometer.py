"""A direct-geometry time-of-flight spectrometer as plain arrays, and its energy resolution."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import FloatArray
from simulations.errors import InputError


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


NAMELESS = frozenset({"", "UNKNOWN", "UNNAMED", "NXSPE"})  # what stands where no name is known
UNKNOWN_RESOLUTION = Resolution(coefficients=(0.04, -0.03, 0.01))  # typical direct geometry


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
    tube: NDArray[np.int32] | None = None  # (pixels,) tube of a pixel; None: unknown

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

    def pixel_of_id(self, ids: NDArray[np.integer]) -> NDArray[np.int32]:
        """Pixel index of recorded identifiers, (events,); -1 where an identifier is unknown."""
        ids = np.asarray(ids, dtype=np.int64)
        if len(ids) == 0 or self.n_pixels == 0:
            return np.full(ids.shape, -1, np.int32)
        low, high = int(self.detector_id.min()), int(self.detector_id.max())
        inside = (ids >= low) & (ids <= high)
        place = np.where(inside, ids - low, 0)
        if high - low < 8 * self.n_pixels + 1024:
            table = np.full(high - low + 1, -1, np.int32)
            table[self.detector_id - low] = np.arange(self.n_pixels, dtype=np.int32)
            return np.where(inside, table[place], -1).astype(np.int32)
        order = np.argsort(self.detector_id, kind="stable")
        known = self.detector_id[order]
        place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.where(known[place] == ids, order[place], -1).astype(np.int32)


def coarse_index(instrument: Instrument, n: int) -> NDArray[np.int32]:
    """Merged pixel that each pixel belongs to when ``n`` neighbours along a tube become one.

    Parameters
    ----------
    instrument : Instrument
        Its pixels follow each other along the tubes.
    n : int
        How many neighbours are merged; must divide the number of pixels of every tube.

    Returns
    -------
    (pixels,) int32
        Index into the pixels of ``coarsen(instrument, n)``.

    Raises
    ------
    ValueError
        If tubes are unknown or interleaved, or ``n`` does not divide their length.
    """
    if n < 1:
        raise InputError(f"coarsen is {n}; expected a whole number of pixels, 1 or more")
    if n == 1:
        return np.arange(instrument.n_pixels, dtype=np.int32)
    if instrument.tube is None:
        raise InputError(f"{instrument.name} has no tubes; pixels cannot be merged. Set coarsen: 1")
    starts = np.flatnonzero(np.r_[True, np.diff(instrument.tube) != 0])
    lengths = np.diff(np.r_[starts, instrument.n_pixels])
    if len(np.unique(instrument.tube)) != len(starts):
        raise InputError(f"pixels of {instrument.name} do not follow each other along its tubes")
    if np.any(lengths % n):
        bad = int(lengths[lengths % n != 0][0])
        raise InputError(
            f"coarsen is {n}; a tube of {instrument.name} has {bad} pixels. Choose a divisor of it"
        )
    return (np.arange(instrument.n_pixels) // n).astype(np.int32)


def coarsen(instrument: Instrument, n: int) -> Instrument:
    """Merge ``n`` neighbouring pixels along each tube into one and say so in the name.

    The merged pixel lies at the mean position, sums the solid angles, keeps the identifier of its
    first member and is masked if any member is.

    Parameters
    ----------
    instrument : Instrument
        Full instrument.
    n : int
        Pixels to merge; 1 returns the instrument itself.

    Returns
    -------
    Instrument
        Named e.g. ``ARCS/4``.

    Raises
    ------
    ValueError
        As ``coarse_index``.
    """
    coarse_index(instrument, n)
    if n == 1:
        return instrument
    base, already = split_name(instrument.name)
    return replace(
        instrument,
        name=f"{base}/{already * n}",
        position_m=instrument.position_m.reshape(-1, n, 3).mean(axis=1),
        solid_angle_sr=instrument.solid_angle_sr.reshape(-1, n).sum(axis=1),
        detector_id=instrument.detector_id[::n].copy(),
        masked=instrument.masked.reshape(-1, n).any(axis=1),
        tube=None if instrument.tube is None else instrument.tube[::n].copy(),
    )


def same_instrument(recorded: str, expected: str) -> bool:
    """Whether a file of one name may be of the instrument of the other.

    Case and merging do not matter, and a file that names no instrument may be of any.
    """
    names = {name.partition("/")[0].strip().upper() for name in (recorded, expected)}
    return len(names) == 1 or not names.isdisjoint(NAMELESS)


def split_name(name: str) -> tuple[str, int]:
    """Instrument and coarsening that a name states: ``ARCS/4`` is ``("ARCS", 4)``.

    Raises
    ------
    ValueError
        If what follows the slash is no positive whole number.
    """
    base, slash, factor = name.partition("/")
    if not slash:
        return base, 1
    if not factor.isdigit() or int(factor) < 1:
        raise InputError(f"instrument name is {name!r}; expected e.g. ARCS or ARCS/4")
    return base, int(factor)
