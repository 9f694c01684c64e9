"""Data that came and wait: for their dwell to close, or until the stream is far beyond them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consumers.state.dwells import Dwell
from consumers.state.event_spill_file import EventSpill, bytes_of
from consumers.state.offset_ledger import Place, place_of
from consumers.state.pulses import Identity, identity
from consumers.wire import Events, RawMessage, ReducedHistogram
from simulations.arrays import BoolArray


@dataclass(slots=True, eq=False)
class Held:
    """One message of data, whose pulses may belong to several dwells."""

    value: Events | ReducedHistogram
    place: Place
    times: NDArray[np.int64]  # (pulses,)
    left: BoolArray  # (pulses,) in no chunk yet
    since_ns: int  # by the clock here
    used: bool = False  # some of it is in a chunk
    late: RawMessage | None = None  # as it came, where a closed dwell may have it already
    memory_bytes: int = 0  # counted by the spill
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

    def identity_of(self, pulses: BoolArray) -> Identity:
        """What tells some of its pulses, (pulses,), apart as a message."""
        return (self.value.source, self.value.sequence, int(self.times[pulses][0]))

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
        place=place_of(raw),
        times=times,
        left=np.ones(len(times), np.bool_),
        since_ns=since_ns,
    )


def held_of_recording(events: Events, beyond: BoolArray, place: Place, since_ns: int) -> Held:
    """Some pulses of a recording, ``beyond`` (pulses,), that may belong to another dwell."""
    return Held(
        value=events,
        place=place,
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
    """Messages of data of a run that are not used up.

    Parameters
    ----------
    spill : EventSpill, optional
        Takes events beyond its bound of memory; absent: all stay in memory.
    """

    def __init__(self, spill: EventSpill | None = None) -> None:
        self._spill = spill
        self._held: list[Held] = []
        self._by_identity: dict[Identity, Held] = {}

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held)

    def known(self, own: Identity) -> Held | None:
        """The held message of this identity."""
        return self._by_identity.get(own)

    def add(self, held: Held) -> None:
        """Hold a message that came."""
        self._by_identity[identity(held.value)] = held
        self._held.append(held)
        if self._spill is None or not isinstance(held.value, Events):
            return
        if not self._spill.has_room(held.value):
            try:
                _put_out(held, held.value, self._spill)
                return
            except OSError:
                pass  # it is in memory, and ``relieve`` tries again
        held.memory_bytes = bytes_of(held.value)
        self._spill.count(held.memory_bytes)

    def relieve(self) -> None:
        """Bring what could not be written then out of memory now.

        Raises
        ------
        OSError
            If it still cannot be written.
        """
        if self._spill is None or not self._spill.overfull:
            return
        for held in reversed(self._held):
            if held.memory_bytes and isinstance(held.value, Events):
                _put_out(held, held.value, self._spill)
                self._forget(held)
                if not self._spill.overfull:
                    return

    def give_back(self, held: Held) -> None:
        """Hold a part of a recording; a message sent again is not compared with it."""
        self._held.append(held)

    def of_message(self, raw: RawMessage) -> Held | None:
        """What is held of a message."""
        place = place_of(raw)
        return next((h for h in self._held if h.place == place), None)

    def remove(self, held: Held) -> None:
        """Forget a message."""
        self._held.remove(held)
        self._by_identity.pop(identity(held.value), None)
        self._forget(held)

    def used_up(self) -> list[Held]:
        """Messages of which nothing is left; they are forgotten here."""
        done = [h for h in self._held if not h.left.any()]
        for held in done:
            self._by_identity.pop(identity(held.value), None)
            self._forget(held)
        if done:
            self._held = [h for h in self._held if h.left.any()]
            if not self._held and self._spill is not None:
                self._spill.empty()
        return done

    def _forget(self, held: Held) -> None:
        if self._spill is not None:
            self._spill.count(-held.memory_bytes)
            held.memory_bytes = 0

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


def _put_out(held: Held, events: Events, spill: EventSpill) -> None:
    held.value = spill.spill(events)
    held.times = held.value.reference_time_ns
