"""Elastic spots of one orientation: where its events gather, and how far they spread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_closing, binary_dilation, label, uniform_filter

from simulations.arrays import FloatArray
from simulations.instrument.kinematics import momentum_transfer, wave_vector
from simulations.instrument.spectrometer import Instrument


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OrientedEvents:
    """Events of one orientation."""

    angle_deg: float  # as logged
    instrument: Instrument
    ei_meV: float
    pixel: NDArray[np.int32]  # (events,)
    energy_transfer_meV: FloatArray  # (events,)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ElasticPeak:
    """A spot of elastic scattering on the detectors."""

    Q: FloatArray  # (3,) laboratory, 1/angstrom, for the nominal beam direction
    modulus: float  # |Q|, 1/angstrom
    counts: int  # above the median of its horizontal angle (powder rings)
    energy_meV: float  # median energy transfer
    azimuth_deg: float  # of Q in the horizontal plane, from +z towards +x
    elevation_deg: float  # of Q above the horizontal plane
    spread: float = 0.0  # standard deviation across the spot in one direction, 1/angstrom
    cut: float = 0.0  # share of its rim where no detector looks


def elastic_peaks(
    events: OrientedEvents, *, window_meV: float = 1.0, min_counts: int = 100
) -> list[ElasticPeak]:
    """Spots of elastic scattering, strongest first.

    Parameters
    ----------
    events : OrientedEvents
        One orientation.
    window_meV : float
        Half-width of what counts as elastic.
    min_counts : int
        Spots with fewer counts above their surroundings are left out.

    Returns
    -------
    list of ElasticPeak
    """
    ins = events.instrument
    elastic = np.abs(events.energy_transfer_meV) < window_meV
    elastic &= ~ins.masked[events.pixel]
    pixel, energy = events.pixel[elastic], events.energy_transfer_meV[elastic]
    if len(pixel) == 0:
        return []
    d = ins.direction
    across = np.degrees(np.arctan2(d[:, 0], d[:, 2]))
    up = np.degrees(np.arcsin(np.clip(d[:, 1], -1, 1)))
    step = 0.4
    column = np.floor((across - across.min()) / step).astype(int)
    row = np.floor((up - up.min()) / step).astype(int)
    shape = (column.max() + 1, row.max() + 1)
    counts = np.zeros(shape)
    np.add.at(counts, (column[pixel], row[pixel]), 1.0)
    seen = np.zeros(shape, bool)
    seen[column[~ins.masked], row[~ins.masked]] = True
    covered = np.asarray(
        binary_closing(seen, np.ones((3, 3))), bool
    )  # tubes may stand further apart than a cell
    ring = np.array(
        [np.median(c[s]) if s.any() else 0.0 for c, s in zip(counts, seen, strict=True)]
    )
    above = np.where(seen, counts - ring[:, None], 0.0)
    smooth = uniform_filter(above, size=5) * 25
    spots = np.zeros(shape, np.int32)
    n = int(label(smooth > max(10.0, 0.2 * min_counts), output=spots))  # pyright: ignore
    peaks = []
    for number in range(1, n + 1):
        weight = np.where(spots == number, np.maximum(above, 0.0), 0.0)
        total = weight.sum()
        if total < min_counts:
            continue
        inside = spots[column[pixel], row[pixel]] == number
        share = weight[column[pixel], row[pixel]][inside]
        share = share / np.maximum(counts[column[pixel], row[pixel]][inside], 1.0)
        direction = (d[pixel[inside]] * share[:, None]).sum(axis=0)
        direction /= np.linalg.norm(direction)
        away = np.sum((d[pixel[inside]] - direction) ** 2, axis=1) @ share / (2 * share.sum())
        rim = binary_dilation(spots == number) & (spots != number)
        Q = momentum_transfer(direction, np.array(0.0), events.ei_meV)
        peaks.append(
            ElasticPeak(
                Q=Q,
                modulus=float(np.linalg.norm(Q)),
                counts=round(float(total)),
                energy_meV=float(np.median(energy[inside])),
                azimuth_deg=float(np.degrees(np.arctan2(Q[0], Q[2]))),
                elevation_deg=float(np.degrees(np.arcsin(Q[1] / np.linalg.norm(Q)))),
                spread=float(np.sqrt(away) * wave_vector(events.ei_meV)),
                cut=float(np.mean(~covered[rim])) if rim.any() else 0.0,
            )
        )
    return sorted(peaks, key=lambda peak: -peak.counts)
