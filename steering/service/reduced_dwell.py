"""A dwell that came as a reduced histogram: no charge, and psi from its log."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from consumers.fold import ChunkStart, ChunkStop, HistogramBlock, Payload
from consumers.recorded import EI_LOGS, PSI_MAY_MOVE_DEG, TEMPERATURE_LOGS, UnreadableError
from consumers.state import SECOND, AssembledChunk
from steering.experiment import Measurement


def reduced_payloads(
    chunk: AssembledChunk, measurement: Measurement, psi_deg: float | None
) -> Iterator[Payload]:
    """Start, block and stop of a dwell that came reduced.

    Parameters
    ----------
    chunk : AssembledChunk
    measurement : Measurement
    psi_deg : float, optional
        Operator's; absent: the mean of the log of psi.

    Raises
    ------
    UnreadableError
        If it is not one histogram, or psi is unknown or moved.
    """
    name = measurement.experiment.source.psi_log
    if chunk.events or len(chunk.reduced) > 1:
        raise UnreadableError(
            f"chunk {chunk.chunk!r} has {len(chunk.reduced)} histograms and "
            f"{len(chunk.events)} messages of events; expected one histogram or events"
        )
    psi = _mean(chunk, name) if psi_deg is None else psi_deg
    if psi is None:
        raise UnreadableError(
            f"chunk {chunk.chunk!r} has no log {name!r} of psi; expected degrees. Name the log "
            "as source.psi_log, or give psi"
        )
    series = chunk.logs.get(name)
    span = 0.0 if series is None else float(np.ptp(series.value))
    if psi_deg is None and span > PSI_MAY_MOVE_DEG:
        raise UnreadableError(
            f"psi (log {name!r}) moved by {span:.3f} degrees; a chunk is one orientation, "
            f"within {PSI_MAY_MOVE_DEG} degrees. Give psi to fold it as one"
        )
    ei = next((e for n in EI_LOGS if (e := _mean(chunk, n)) is not None), measurement.ei_meV)
    temperature = (_mean(chunk, n) for n in TEMPERATURE_LOGS)
    reduced = next(iter(chunk.reduced))
    yield ChunkStart(
        chunk=chunk.chunk,
        instrument_name=chunk.instrument_name,
        ei_meV=ei,
        psi_deg=psi,
        start_time_ns=chunk.start_time_ns,
        temperature_K=next((t for t in temperature if t is not None), None),
    )
    yield HistogramBlock(
        chunk=chunk.chunk,
        energy_edges_meV=reduced.energy_edges_meV,
        intensity=reduced.intensity,
        error=reduced.error,
    )
    yield ChunkStop(
        chunk=chunk.chunk,
        proton_charge=1.0,
        minutes=(chunk.stop_time_ns - chunk.start_time_ns) / (60 * SECOND),
        read=0,
        filtered=0,
    )


def _mean(chunk: AssembledChunk, name: str) -> float | None:
    series = chunk.logs.get(name)
    if series is None or not np.isfinite(series.value).all():
        return None
    return series.average(chunk.start_time_ns, chunk.stop_time_ns)
