"""Data that came and wait: for their dwell to close, or until the stream is far beyond them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consumers.state.dwells import Dwell
from consumers.state.offset_ledger import NOWHERE
from consumers.state.pulses import Identity, identity
from consumers.wire import Events, RawMessage, ReducedHistogram
from simulations.arrays import BoolArray


@dataclass(slots=True, eq=False)
class Held:
    """One message of data, whose pulses may belong to several dwells."""

    value: Events | ReducedHistogram
    raw: RawMessage
    times: NDArray[np.int64]  # (pulses,)
    left: BoolArray  # (pulses,) in no chunk yet
    since_ns: int  # by the clock here
    used: bool = False  # some of it is in a chunk
    first_ns: int = 0
    last_ns: int = 0

    def __post_init__(self) -> None:
        self.first_ns, self.last_ns = int(self.times.min()), int(self.times.max())

    def inside(self, start_ns: int, end_ns: int | None) -> bool:
        """Whether all of it lies in a stretch of time, by which it finds its dwell."""
        return (
            self.value.job is None
            and start_ns <= self.first_ns
            and (end_ns is None or self.last_ns < end_ns)
        )

    def pulses_of(self, dwell: Dwell, end_ns: int | None) -> BoolArray:
        """Which pulses belong to a dwell; (pulses,).

        Parameters
        ----------
        dwell : Dwell
        end_ns : int, optional
            Where the dwell ends; None while it may go on.
        """
        if self.value.job is not None:
            return self.left if self.value.job == dwell.job else np.zeros_like(self.left)
        mine = self.left & (self.times >= dwell.start_ns)
        return mine if end_ns is None else mine & (self.times < end_ns)


def held_data(value: Events | ReducedHistogram, raw: RawMessage, since_ns: int) -> Held:
    """All pulses of a message that has some."""
    times = times_of(value)
    return Held(
        value=value,
        raw=raw,
        times=times,
        left=np.ones(len(times), np.bool_),
        since_ns=since_ns,
    )


def held_of_recording(events: Events, beyond: BoolArray, since_ns: int) -> Held:
    """Some pulses of a recording, ``beyond`` (pulses,), that may belong to another dwell."""
    return Held(
        value=events,
        raw=RawMessage(topic=NOWHERE[0], partition=0, offset=NOWHERE[1], value=b""),
        times=events.reference_time_ns,
        left=beyond,
        since_ns=since_ns,
        used=True,
    )


def times_of(value: Events | ReducedHistogram) -> NDArray[np.int64]:
    """Time of every pulse; a histogram is one."""
    if isinstance(value, Events):
        return value.reference_time_ns
    return np.array([value.time_ns], np.int64)


class HeldData:
    """Messages of data of a run that are not used up."""

    def __init__(self) -> None:
        self._held: list[Held] = []
        self._by_identity: dict[Identity, Held] = {}

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held)

    def known(self, own: Identity) -> Held | None:
        """The held message of this identity."""
        return self._by_identity.get(own)

    def add(self, held: Held) -> None:
        """Hold a message that came."""
        self._held.append(held)
        self._by_identity[identity(held.value)] = held

    def give_back(self, held: Held) -> None:
        """Hold a part of a recording; a message sent again is not compared with it."""
        self._held.append(held)

    def of_message(self, raw: RawMessage) -> Held | None:
        """What is held of a message."""
        return next((h for h in self._held if h.raw is raw), None)

    def remove(self, held: Held) -> None:
        """Forget a message."""
        self._held.remove(held)
        self._by_identity.pop(identity(held.value), None)

    def used_up(self) -> list[Held]:
        """Messages of which nothing is left; they are forgotten here."""
        done = [h for h in self._held if not h.left.any()]
        for held in done:
            self._by_identity.pop(identity(held.value), None)
        self._held = [h for h in self._held if h.left.any()]
        return done

    def newest_of(self, dwell: Dwell) -> int | None:
        """Newest time that a dwell without end would hold; None without data."""
        return max(
            (
                h.last_ns
                for h in self._held
                if h.value.job in (None, dwell.job) and h.last_ns >= dwell.start_ns
            ),
            default=None,
        )
