"""Events near the elastic line of a rotation scan, file by file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from consumers.fold import ChunkStart, ChunkStop, EventBlock, HistogramBlock, SetAside
from consumers.recorded import recorded_source
from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.instrument import OrientedEvents
from simulations.progress import Progress
from steering.experiment import Experiment

MOST_EVENTS = 2_000_000  # per file, of those near the elastic line
LOW_ENERGY = 0.45  # share of Ei up to which events are kept for a mount without clean spots


def read_oriented_events(
    files: Sequence[Path],
    psi_log: str,
    psi_deg: float | None,
    experiment: Experiment | None,
    say: Progress,
) -> tuple[list[OrientedEvents], list[float], list[str], list[tuple[str, str]]]:
    """Events near the elastic line of every file, and the middle of its dwell in hours."""
    source = recorded_source(
        files,
        run="align",
        psi_log=psi_log,
        psi_deg=psi_deg,
        ei_meV=None if experiment is None else experiment.source.ei_meV,
        nominal_ei_meV=None if experiment is None else experiment.instrument.ei_meV,
        t0_us=None if experiment is None else experiment.source.t0_us,
        period=None if experiment is None else experiment.source.period,
    )
    runs: list[OrientedEvents] = []
    hours: list[float] = []
    names: list[str] = []
    aside: list[tuple[str, str]] = []
    start: ChunkStart | None = None
    pixel: list[NDArray[np.int32]] = []
    energy: list[FloatArray] = []
    for message in source.messages():
        payload = message.payload
        if isinstance(payload, SetAside):
            aside.append((payload.origin, payload.reason))
        elif isinstance(payload, ChunkStart):
            start, pixel, energy = payload, [], []
        elif isinstance(payload, EventBlock) and start is not None:
            near = np.abs(payload.energy_transfer_meV) < LOW_ENERGY * start.ei_meV
            near &= payload.pixel >= 0
            if sum(map(len, pixel)) < MOST_EVENTS:
                pixel.append(payload.pixel[near])
                energy.append(payload.energy_transfer_meV[near])
        elif isinstance(payload, HistogramBlock) and start is not None:
            p, e = _as_events(payload, LOW_ENERGY * start.ei_meV)
            pixel.append(p)
            energy.append(e)
        elif isinstance(payload, ChunkStop) and start is not None:
            if start.geometry is None:
                aside.append((payload.chunk, "the file has no geometry"))
                continue
            runs.append(
                OrientedEvents(
                    angle_deg=start.psi_deg,
                    instrument=start.geometry,
                    ei_meV=start.ei_meV,
                    pixel=np.concatenate([*pixel, np.zeros(0, np.int32)]),
                    energy_transfer_meV=np.concatenate([*energy, np.zeros(0)]),
                )
            )
            hours.append(start.start_time_ns / 3.6e12 + payload.minutes / 120)
            names.append(payload.chunk)
            say(f"read {payload.chunk}", 0.6 * len(runs) / max(len(files), 1))
    if not runs:
        reasons = "\n".join(f"{origin}: {reason}" for origin, reason in aside)
        raise InputError(f"no file could be read:\n{reasons}" if reasons else "no files were given")
    first = min(hours)
    return runs, [hour - first for hour in hours], names, aside


def _as_events(block: HistogramBlock, reach: float) -> tuple[NDArray[np.int32], FloatArray]:
    """Counts of a histogram as events at the middle of their bins; reduced: effective counts."""
    edges = np.asarray(block.energy_edges_meV, dtype=float)
    middle = 0.5 * (edges[1:] + edges[:-1])
    columns = np.flatnonzero(np.abs(middle) < reach)
    if block.counts is not None:
        counts = block.counts[:, columns]
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            counts = (block.intensity[:, columns] / block.error[:, columns]) ** 2
        counts = np.where(np.isfinite(counts) & (block.intensity[:, columns] > 0), counts, 0.0)
    counts = np.rint(counts).astype(np.int64)
    counts //= max(1, int(counts.sum() // MOST_EVENTS))
    rows, place = np.nonzero(counts > 0)
    times = counts[rows, place]
    return np.repeat(rows, times).astype(np.int32), np.repeat(middle[columns[place]], times)
