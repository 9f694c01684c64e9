"""What travels from a source to the fold: one value per message, and the seam of every source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simulations.instrument import Instrument


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChunkStart:
    """A dwell at one orientation begins."""

    chunk: str  # name of the chunk, unique in its run, e.g. the SNS run number
    instrument_name: str
    ei_meV: float
    psi_deg: float  # never NaN: a source without psi must refuse the chunk
    start_time_ns: int  # since the Unix epoch
    temperature_K: float | None = None
    geometry: Instrument | None = None  # pixels as recorded; None: the experiment's instrument
    clean_meV: tuple[float, float] | None = None  # where no other incident energy mixes in


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EventBlock:
    """Neutrons of one chunk, already reduced to (pixel, energy transfer) by the source's clock."""

    chunk: str
    pixel: NDArray[np.int32]  # (events,) index into the pixels of the instrument; -1 unknown id
    energy_transfer_meV: NDArray[np.float64]  # (events,)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HistogramBlock:
    """Reduced intensity of one chunk on pixels x energy bins (NXSPE, SPE, a run of SQW)."""

    chunk: str
    energy_edges_meV: NDArray[np.float64]  # (bins + 1,)
    intensity: NDArray[np.float64]  # (pixels, bins); NaN where masked
    error: NDArray[np.float64]  # (pixels, bins); NaN where unknown, and 0 unless absent is given
    counts: NDArray[np.int64] | None = None  # (pixels, bins) raw counts when the file carries them
    absent: NDArray[np.bool_] | None = None  # (pixels, bins) cut away before: unknown, not read


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChunkStop:
    """The dwell ended."""

    chunk: str
    proton_charge: float  # coulomb; 1.0 when the file carries none
    minutes: float  # wall time of the dwell
    read: int  # events the source read from its medium, those it filtered included
    filtered: int  # events the source dropped (pauses, error bit, no bank) before any block


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SetAside:
    """Something the source could not turn into a chunk; the run goes on without it."""

    origin: str  # file, topic and offset
    reason: str  # field, value, expectation, next step


Payload = ChunkStart | EventBlock | HistogramBlock | ChunkStop | SetAside


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Message:
    """One payload with its place in the stream: (run, source, sequence) is unique."""

    run: str
    source: str
    sequence: int
    payload: Payload


class Source(Protocol):
    """Where messages come from: recorded files, Kafka, ZMQ, a list in a test."""

    def messages(self) -> Iterator[Message]:
        """Yield in order; a message may come twice after a restart."""
        ...

    def acknowledge(self, message: Message) -> None:
        """All up to here is in a saved snapshot; harmless if repeated."""
        ...
