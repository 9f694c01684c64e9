"""Raw events of a pulsed source to (pixel, energy transfer): one compiled pass, nothing lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from simulations.constants import METRE_PER_SECOND_PER_SQRT_MEV
from simulations.instrument import Instrument, flight_time_us
from simulations.kernels import njit

ERROR_BIT = 1 << 31  # set in the identifiers of events that the electronics doubts
KEEP, NO_PULSE, NO_CHARGE, PAUSED = 0, 1, 2, 3  # states of a pulse
REASONS = (  # the first that applies counts
    "error bit",
    "unknown identifier",
    "no pulse",
    "pulse without charge",
    "pause",
    "time not finite",
    "too early",
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EventSlice:
    """Some events of a run as (pixel, energy transfer), and what was dropped on the way."""

    pixel: NDArray[np.int32]  # (events,)
    energy_transfer_meV: NDArray[np.float64]  # (events,)
    read: int
    filtered: Mapping[str, int]  # reason -> events; read = len(pixel) + sum


@njit(cache=True, error_model="numpy", nogil=True)
def _reduce(
    ids, tof, pixels, low, table, distance, t0_us, flight_us, ei, first, index, state,
    pixel_out, energy_out, filtered,
):  # fmt: skip
    """Fill the outputs, return how many events are kept; ``pixels`` is used where not empty."""
    kept = 0
    pulse = -1
    n_pulses = len(index)
    for i in range(len(ids)):
        identifier = np.int64(ids[i])
        while pulse + 1 < n_pulses and index[pulse + 1] <= first + i:
            pulse += 1
        if identifier & 2147483648:
            filtered[0] += 1
            continue
        if len(pixels):
            pixel = pixels[i]
        else:
            place = identifier - low
            pixel = table[place] if 0 <= place < len(table) else np.int32(-1)
        if pixel < 0:
            filtered[1] += 1
            continue
        if pulse < 0 or state[pulse] == 1:
            filtered[2] += 1
            continue
        if state[pulse] != 0:
            filtered[1 + state[pulse]] += 1
            continue
        t = np.float64(tof[i])
        if not np.isfinite(t):
            filtered[5] += 1
            continue
        after = t - t0_us - flight_us
        speed = distance[pixel] / (after * 1e-6)
        speed = speed / METRE_PER_SECOND_PER_SQRT_MEV
        energy = ei - speed * speed
        if not after > 0 or not np.isfinite(energy):
            filtered[6] += 1
            continue
        pixel_out[kept] = pixel
        energy_out[kept] = energy
        kept += 1
    return kept


@lru_cache(maxsize=4)
def _pixels_of(instrument: Instrument) -> tuple[int, NDArray[np.int32] | None, NDArray[np.float64]]:
    """Smallest identifier, pixel of every one from there (None where they lie far apart), m."""
    ids = instrument.detector_id
    distance = np.ascontiguousarray(instrument.distance_m, dtype=np.float64)
    if not len(ids):
        return 0, np.empty(0, np.int32), distance
    low, high = int(ids.min()), int(ids.max())
    if high - low >= 8 * len(ids) + 1024:
        return low, None, distance
    table = np.full(high - low + 1, -1, np.int32)
    table[ids - low] = np.arange(len(ids), dtype=np.int32)
    return low, table, distance


def reduce_events(
    ids: NDArray[np.integer],
    tof_us: NDArray[np.floating],
    *,
    first: int,
    pulse_index: NDArray[np.int64],
    pulse_state: NDArray[np.int8],
    instrument: Instrument,
    ei_meV: float,
    t0_us: float,
) -> EventSlice:
    """Judge events, the first reason that applies counts, and turn the rest to energy.

    Parameters
    ----------
    ids : (events,) integer
        Identifiers of a bank's events, in the order of their pulses.
    tof_us : (events,) float
        Microseconds after the pulse.
    first : int
        Place of the first of these events in its bank.
    pulse_index : (pulses,)
        Place in the bank of every pulse's first event; never falls.
    pulse_state : (pulses,)
        ``KEEP``, ``NO_PULSE``, ``NO_CHARGE`` or ``PAUSED``.
    instrument : Instrument
    ei_meV : float
    t0_us : float
        Emission time after the pulse.

    Returns
    -------
    EventSlice
    """
    low, table, distance = _pixels_of(instrument)
    pixels = np.empty(0, np.int32)
    if table is None:
        table, pixels = pixels, instrument.pixel_of_id(ids)
    pixel = np.empty(len(ids), np.int32)
    energy = np.empty(len(ids), np.float64)
    filtered = np.zeros(len(REASONS), np.int64)
    kept = _reduce(
        np.ascontiguousarray(ids),
        np.ascontiguousarray(tof_us),
        pixels,
        low,
        table,
        distance,
        float(t0_us),
        float(flight_time_us(instrument.source_to_sample_m, ei_meV)),
        float(ei_meV),
        first,
        pulse_index,
        pulse_state,
        pixel,
        energy,
        filtered,
    )
    return EventSlice(
        pixel=pixel[:kept],
        energy_transfer_meV=energy[:kept],
        read=len(ids),
        filtered={r: int(n) for r, n in zip(REASONS, filtered, strict=True) if n},
    )
