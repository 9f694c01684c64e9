"""What travels on the wire: raw bytes with their place, what they say once decoded, and the seams.

A transport (Kafka, ZMQ, tape) hands over `RawMessage`; a codec turns its bytes into one of the
values below; `consumers.state.assembly` makes chunks of them. Times are integer ns since the Unix
epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from simulations.errors import InputError

# Header of a message whose value the transport left out: why, in utf-8. It is a dead letter.
FAULT_HEADER = "beamsteer.fault"
# What becomes of a message that cannot be decoded: kept aside, passed over, or the end.
FaultPolicy = Literal["dead-letter", "skip", "stop"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RawMessage:
    """Bytes as a transport delivered them; (topic, partition, offset) is their place."""

    topic: str
    partition: int  # 0 where the transport has none
    offset: int  # grows by one per message of (topic, partition) on tapes and ZMQ; grows on Kafka
    value: bytes
    key: bytes | None = None  # names the run where it is there
    timestamp_ns: int = 0  # the broker's, else when it was received
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def run(self) -> str | None:
        """Name of the run in the key; None where there is no readable one."""
        if not self.key:
            return None
        try:
            return self.key.decode("utf-8")
        except UnicodeDecodeError:
            return None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunBegins:
    """A dwell begins: `pl72`, or a bluesky start document."""

    job: str  # unique name of this dwell's recording: job_id of pl72, uid of a start document
    chunk: str  # its name for people: run_name of pl72
    source: str  # service that said so
    start_time_ns: int
    instrument_name: str = ""
    structure: Mapping[str, Any] = field(default_factory=dict)  # NeXus template of pl72, parsed
    metadata: Mapping[str, Any] = field(default_factory=dict)
    stop_time_ns: int | None = None  # where the start knows it already


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunEnds:
    """The dwell ended: `6s4t`, or a bluesky stop document."""

    job: str
    source: str
    stop_time_ns: int
    failed: str | None = None  # reason, where the recording was aborted


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LogSample:
    """A value of a log at a time: `f144`, or a scalar in a bluesky event."""

    source: str  # name of the log, e.g. "s1"
    time_ns: int
    value: NDArray[np.float64]  # (values,); one for a scalar
    job: str | None = None  # dwell it belongs to; None: by time


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Events:
    """Neutrons of one or more pulses: `ev44`, or arrays in a bluesky event."""

    source: str  # detector bank or event source
    sequence: int  # message_id of the sender
    reference_time_ns: NDArray[np.int64]  # (pulses,)
    reference_index: NDArray[np.int64]  # (pulses,) first event of every pulse, never falling
    time_of_flight_ns: NDArray[np.int32]  # (events,)
    pixel_id: NDArray[np.int32]  # (events,) negative with the error bit
    job: str | None = None  # dwell they belong to; None: by time of every pulse


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReducedHistogram:
    """Reduced intensity on pixels x energy transfer: `da00`, or arrays in a bluesky event."""

    source: str
    sequence: int
    time_ns: int
    energy_edges_meV: NDArray[np.float64]  # (bins + 1,)
    intensity: NDArray[np.float64]  # (pixels, bins); NaN where masked
    error: NDArray[np.float64]  # (pixels, bins)
    job: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Heartbeat:
    """Somebody is alive: `x5f2`."""

    service: str
    status: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Description:
    """Which dwell the events of a bluesky descriptor belong to."""

    descriptor: str
    job: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Described:
    """Values of bluesky events whose dwell is that of their descriptor."""

    descriptor: str
    values: tuple[LogSample | Events | ReducedHistogram, ...]  # their job is None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Several:
    """All that one message says, e.g. neutrons and charge of an ADARA pulse; perhaps nothing."""

    values: tuple[LogSample | Events, ...] = ()


WireValue = (
    RunBegins
    | RunEnds
    | LogSample
    | Events
    | ReducedHistogram
    | Heartbeat
    | Description
    | Described
    | Several
)


class WireError(InputError):
    """Bytes that cannot be understood; the message names field, value and expectation."""


class PartitionOwner(Protocol):
    """Who keeps the state of partitions; a source asks it where to begin."""

    def take(self, partition: int) -> Mapping[str, int]:
        """Load the state of a partition; next offset by topic, absent: from the beginning."""
        ...

    def release(self, partition: int) -> None:
        """Save the state of a partition and forget it: somebody else gets it next."""
        ...

    def forget(self, partition: int) -> None:
        """Drop the state of a partition unsaved: somebody else may have it already."""
        ...


class RawSource(Protocol):
    """Where raw messages come from: Kafka, ZMQ, a tape, a list in a test."""

    @property
    def connected(self) -> bool | None:
        """Whether who sends is there, as far as ``poll`` has seen; None: nobody sends, all is here.

        A source must say so itself: one that says nothing would pass for connected.
        """
        ...

    def poll(self, timeout_s: float) -> Sequence[RawMessage]:
        """Messages that came, in the order of their partition; none after the time-out."""
        ...

    def acknowledge(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Next offset needed by (topic, partition); all before it is in a saved manifest."""
        ...

    def close(self) -> None:
        """Leave; nothing is acknowledged by it."""
        ...


class UndeliveredError(ConnectionError):
    """Messages for some topics did not arrive, although others do.

    Attributes
    ----------
    topics : frozenset of str
    """

    def __init__(self, message: str, topics: frozenset[str]) -> None:
        super().__init__(message)
        self.topics = topics


class OversizeError(UndeliveredError):
    """A message is larger than its topic takes."""


class Sink(Protocol):
    """Where messages go: Kafka, ZMQ, a tape, a list in a test."""

    def send(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Hand over one message; it may wait in a buffer."""
        ...

    def flush(self, timeout_s: float = 30.0) -> None:
        """Return when everything sent has arrived.

        Raises
        ------
        ConnectionError
            If it has not within the time-out; ``UndeliveredError`` where that is the fault of
            some topics, e.g. because they are not there.
        """
        ...

    def close(self) -> None:
        """Flush and leave."""
        ...
