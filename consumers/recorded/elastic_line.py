"""When neutrons left the moderator after the pulse: told by the elastic line, or usual."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from consumers.recorded.sns_event_layout import (
    Bank,
)
from simulations.instrument import (
    Instrument,
    flight_time_us,
    split_name,
)

T0_GOOD_ENOUGH_US = 3.0  # standard error below which the elastic line decides


def default_t0_us(instrument_name: str, ei_meV: float) -> float | None:
    """Usual emission time after the pulse in microseconds; None where no formula is known.

    References
    ----------
    The formula of HYSPEC is that of the facility's public data reduction (Mantid, DgsReduction).
    """
    if split_name(instrument_name)[0].upper() == "HYSPEC":
        return 4.0 + 107.0 / (1.0 + (ei_meV / 31.0) ** 3)
    return None


def estimate_t0(
    tof_us: NDArray,
    pixel: NDArray[np.int32],
    instrument: Instrument,
    ei_meV: float,
    *,
    half_width_us: float = 400.0,
) -> tuple[float, float, int]:
    """Emission time from the elastic line: the delay of the line behind ``(L1 + L2) / v_i``.

    Bragg peaks are kept out: pixels that count far more than their peers in the window do not
    vote. The centre is the mean of the line, found by narrowing a window round it.

    Parameters
    ----------
    tof_us : (events,)
        Times of flight from the pulse.
    pixel : (events,) int32
        Pixel of every event, all known.
    instrument : Instrument
        Geometry.
    ei_meV : float
        Incident energy; an error of 1 % moves the result by half a percent of the flight time.
    half_width_us : float
        Search window round zero delay.

    Returns
    -------
    t0_us : float
        NaN when fewer than 50 events vote.
    error_us : float
        Standard error of the mean.
    events : int
        Events that voted.
    """
    path_m = instrument.source_to_sample_m + instrument.distance_m
    delay = np.asarray(tof_us, dtype=float) - flight_time_us(path_m, ei_meV)[pixel]
    vote = (np.abs(delay) < half_width_us) & ~instrument.masked[pixel]
    counts = np.bincount(pixel[vote], minlength=instrument.n_pixels)
    if not vote.any():
        return float("nan"), float("nan"), 0
    usual = np.median(counts[counts > 0])
    vote &= counts[pixel] <= usual + 5 * np.sqrt(usual) + 3
    delay = np.sort(delay[vote])  # so that the mean does not depend on how banks are kept apart
    if len(delay) < 50:
        return float("nan"), float("nan"), len(delay)
    width = 20.0
    edges = np.arange(-half_width_us, half_width_us + width, width / 4)
    kernel = np.ones(8)
    smooth = np.convolve(np.histogram(delay, edges)[0], kernel, mode="same")
    centre = float(edges[int(np.argmax(smooth))] + width / 8)
    spread = half_width_us / 3
    for _ in range(20):
        near = delay[np.abs(delay - centre) < 2 * spread]
        if len(near) < 20:
            break
        centre = float(near.mean())
        spread = max(1.2 * float(near.std()), 10.0)
    near = delay[np.abs(delay - centre) < 2 * spread]
    return centre, float(near.std() / np.sqrt(max(len(near), 1))), len(near)


def t0_of_banks(
    banks: list[Bank], instrument: Instrument, ei_meV: float
) -> tuple[float, float, int]:
    """``estimate_t0`` of the first events of banks."""
    tofs, pixels = [], []
    budget = 2_000_000  # enough for the mean of a line
    for bank in banks:
        ids, tof = bank.load(0, min(bank.events, budget))
        budget -= len(ids)
        pixel = instrument.pixel_of_id(ids)
        good = (pixel >= 0) & np.isfinite(tof)
        tofs.append(tof[good])
        pixels.append(pixel[good])
    if not tofs:
        return float("nan"), float("nan"), 0
    return estimate_t0(np.concatenate(tofs), np.concatenate(pixels), instrument, ei_meV)
