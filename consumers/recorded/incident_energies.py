"""Which incident energies a pulse holds, and where their neutrons do not mix.

A fast chopper opens more than once per pulse: every opening lets another energy pass. Each shows
as an elastic line of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from consumers.recorded.isis_event_layout import Chopper
from consumers.recorded.sns_event_layout import Bank
from simulations.arrays import FloatArray
from simulations.constants import METRE_PER_SECOND_PER_SQRT_MEV
from simulations.instrument import Instrument, flight_time_us

SAME = 0.03  # energies that differ by less are one
LOWEST_MEV, HIGHEST_MEV = 0.5, 3000.0
STEP = 0.005  # of the grid of trial energies, relative
EVENTS = 2_000_000
SIGMAS, FEWEST = 8.0, 50  # of an elastic line over what is around it
SLOWEST, FASTEST = 0.1, 1.15  # final energies that are expected, in shares of the incident one


@dataclass(frozen=True, kw_only=True, slots=True)
class IncidentEnergy:
    """One incident energy of a pulse."""

    ei_meV: float
    elastic_counts: int  # of its line over what is around it; 0: no line is seen
    opening: int | None  # of the chopper, counted from the chosen energy; None: not known


def energies_of_chopper(
    chopper: Chopper, ei_meV: float, frame_Hz: float
) -> list[tuple[int, float]]:
    """(opening, meV) of all energies that a chopper lets pass with a given one.

    It opens ``frequency_Hz`` times a second; what passes lies within the frame, and within the
    energies that spectrometers use.
    """
    passed = float(flight_time_us(chopper.distance_m, ei_meV)) * 1e-6
    period = 1.0 / chopper.frequency_Hz
    first = -int(passed / period)
    last = int((1.0 / frame_Hz - passed) / period)
    found = []
    for k in range(max(first, -100), min(last, 100) + 1):
        time = passed + k * period
        if time > 0:
            energy = (chopper.distance_m / time / METRE_PER_SECOND_PER_SQRT_MEV) ** 2
            if LOWEST_MEV <= energy <= HIGHEST_MEV:
                found.append((k, float(energy)))
    return found


def elastic_energies(banks: Sequence[Bank], instrument: Instrument) -> list[tuple[float, int]]:
    """(meV, counts over what is around) of the elastic lines in the first events of banks.

    With the right incident energy all pixels have their elastic line at the same place, so that a
    histogram of ``(path / time)^2`` peaks there. T0 is not taken off: energies are good to a few
    per cent where it is long.
    """
    width = np.log1p(STEP)
    bins = int(np.log(HIGHEST_MEV / LOWEST_MEV) / width)
    counts = np.zeros(bins)
    path_m = instrument.source_to_sample_m + instrument.distance_m
    left = EVENTS
    for bank in banks:
        ids, tof = bank.load(0, min(bank.events, left))
        left -= len(ids)
        pixel = instrument.pixel_of_id(ids)
        good = (pixel >= 0) & np.isfinite(tof) & (tof > 0)
        good &= ~instrument.masked[np.maximum(pixel, 0)]
        speed = path_m[pixel[good]] / (tof[good].astype(np.float64) * 1e-6)
        energy = (speed / METRE_PER_SECOND_PER_SQRT_MEV) ** 2
        inside = (energy > LOWEST_MEV) & (energy < HIGHEST_MEV)
        place = (np.log(energy[inside] / LOWEST_MEV) / width).astype(int)
        counts += np.bincount(np.minimum(place, bins - 1), minlength=bins)
    near = np.convolve(counts, np.ones(7), mode="same")
    wide = np.convolve(counts, np.ones(61), mode="same")
    around = (wide - np.convolve(counts, np.ones(21), mode="same")) / 40 * 7
    excess = near - around
    seen = (excess > SIGMAS * np.sqrt(near + around * 7 / 40 + 1)) & (excess > FEWEST)
    seen &= near > 2.5 * around
    found: list[tuple[float, int]] = []
    while seen.any():
        k = int(np.argmax(np.where(seen, excess, -np.inf)))
        low, high = max(k - 5, 0), min(k + 6, bins)
        centre = np.average(np.arange(low, high), weights=counts[low:high] + 1e-9)
        found.append((float(LOWEST_MEV * np.exp((centre + 0.5) * width)), int(excess[k])))
        reach = int(3 * SAME / STEP)
        seen[max(k - reach, 0) : k + reach + 1] = False
    return sorted(found, reverse=True)


def incident_energies(
    banks: Sequence[Bank],
    instrument: Instrument,
    *,
    ei_meV: float | None,
    chopper: Chopper | None,
    frame_Hz: float,
) -> list[IncidentEnergy]:
    """All that the chopper allows or an elastic line shows, highest first.

    Parameters
    ----------
    banks : sequence of Bank
    instrument : Instrument
    ei_meV : float, optional
        The chosen one; without it the strongest line is taken to count openings from.
    chopper : Chopper, optional
    frame_Hz : float
        Frames per second.
    """
    lines = elastic_energies(banks, instrument)
    chosen = ei_meV
    if chosen is None and lines:
        chosen = max(lines, key=lambda line: line[1])[0]
    allowed: list[tuple[int, float]] = []
    if chopper is not None and chosen is not None:
        allowed = energies_of_chopper(chopper, chosen, frame_Hz)
    elif chosen is not None:
        allowed = [(0, chosen)]
    found = []
    for opening, energy in allowed:
        counts = [n for line, n in lines if abs(line - energy) <= SAME * energy]
        found.append(
            IncidentEnergy(ei_meV=energy, elastic_counts=max(counts, default=0), opening=opening)
        )
    for line, counts in lines:
        if not any(abs(line - energy) <= SAME * energy for _, energy in allowed):
            found.append(IncidentEnergy(ei_meV=line, elastic_counts=counts, opening=None))
    return sorted(found, key=lambda one: -one.ei_meV)


def clean_range_meV(
    ei_meV: float, others_meV: Sequence[float], instrument: Instrument, top_meV: float
) -> tuple[float, float]:
    """Energy transfers at which no neutron of another incident energy is expected.

    Neutrons of another one count as expected with final energies from a tenth of it to 1.15 of it.

    Parameters
    ----------
    ei_meV : float
    others_meV : sequence of float
        Incident energies that are seen beside it.
    instrument : Instrument
    top_meV : float
        What the upper end is without others.
    """
    live = ~instrument.masked if (~instrument.masked).any() else np.ones(1, np.bool_)
    distance = instrument.distance_m[live]
    at_sample = float(flight_time_us(instrument.source_to_sample_m, ei_meV))
    low, high = -np.inf, top_meV
    for other in others_meV:
        there = float(flight_time_us(instrument.source_to_sample_m, other))
        if other > ei_meV:  # came before: its slow neutrons lie on the side of energy gain
            after = there + flight_time_us(distance, SLOWEST * other) - at_sample
            low = max(low, float(np.max(ei_meV - _final(distance, after))))
        else:
            after = there + flight_time_us(distance, FASTEST * other) - at_sample
            high = min(high, float(np.min(ei_meV - _final(distance, after))))
    return low, high


def _final(distance_m: FloatArray, after_us: FloatArray) -> FloatArray:
    """Final energy of neutrons that take so long from the sample; infinite for no time at all."""
    late = np.maximum(after_us, 1e-9)
    return (distance_m / (late * 1e-6) / METRE_PER_SECOND_PER_SQRT_MEV) ** 2
