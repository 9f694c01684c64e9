"""The value that assembly gives: all that belongs to one dwell, whatever order it came in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from consumers.state.log_series import LogSeries
from consumers.state.pulses import Identity, identity
from consumers.wire import Events, ReducedHistogram


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AssembledChunk:
    """All that belongs to one dwell, in an order that does not depend on how it came."""

    run: str
    job: str
    chunk: str
    generation: int
    instrument_name: str
    structure: Mapping[str, Any]
    start_time_ns: int
    stop_time_ns: int
    explicit_stop: bool
    note: str | None
    descriptors: tuple[str, ...]
    logs: Mapping[str, LogSeries]  # by name in a file
    events: tuple[Events, ...]  # by first reference time, source, sequence
    reduced: tuple[ReducedHistogram, ...]  # by time, source, sequence

    @property
    def identities(self) -> frozenset[Identity]:
        """What tells its messages of data apart."""
        return frozenset(identity(e) for e in (*self.events, *self.reduced))
