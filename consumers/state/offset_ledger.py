"""Which messages of a partition are still needed, and what became of the others.

A message has a place, topic and offset, and may hold several parts. It is needed until all its
parts are settled: in a closed chunk, known already, or of no use. The source is read again from the
oldest place that is still needed; what is settled beyond it is passed over then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from consumers.state.manifest_store import Position
from consumers.wire import RawMessage

Place = tuple[str, int]  # topic and offset
NOWHERE: Place = ("", -1)  # of what is settled already; so is what came from (recording, -1)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DeadLetter:
    """A message that can be used nowhere, and why."""

    raw: RawMessage
    reason: str


def place_of(raw: RawMessage) -> Place:
    """Topic and offset."""
    return raw.topic, raw.offset


class OffsetLedger:
    """Account of the messages of one partition.

    Attributes
    ----------
    counters : Counter
        Messages by what became of them, and ``messages.TOPIC`` by topic.
    dead : list of DeadLetter
        Messages that can be used nowhere; who passes them on clears it.
    """

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.dead: list[DeadLetter] = []
        self._needed: dict[str, Counter[int]] = {}  # topic -> offset -> parts still needed
        self._newest: dict[str, int] = {}  # topic -> largest offset
        self._restored: dict[str, Position] = {}
        self._settled: dict[str, set[int]] = {}  # topic -> settled since ``_restored``
        self._seen: dict[str, int] = {}  # topic -> offset beyond all that a process before us read

    def restore(self, positions: Mapping[str, Position], counters: Mapping[str, int]) -> None:
        """Begin where a manifest ended."""
        self.counters = Counter(counters)
        self._restored = dict(positions)
        self._seen = {topic: position.seen for topic, position in positions.items()}

    def admit(self, raw: RawMessage) -> bool:
        """Whether a message is new, and needed from now on; not so if settled or still held."""
        before = self._restored.get(raw.topic)
        if before is not None and before.has(raw.offset):
            return False
        if raw.offset in self._settled.get(raw.topic, ()):
            return False
        if raw.offset in self._needed.get(raw.topic, ()):
            return False
        self._newest[raw.topic] = max(self._newest.get(raw.topic, -1), raw.offset)
        self.need(raw)
        return True

    def need(self, raw: RawMessage) -> None:
        """One part of a message more is needed."""
        self._needed.setdefault(raw.topic, Counter())[raw.offset] += 1

    def settle(self, place: Place, outcome: str, *, again: str | None = None) -> None:
        """One part of the message there is done with; its last part counts as ``outcome``.

        Parameters
        ----------
        place : Place
        outcome : str
        again : str, optional
            Counts instead where a process before this one read the message already: what it says
            is known from itself then, which makes it no duplicate.
        """
        topic, offset = place
        if again is not None and offset < self._seen.get(topic, 0):
            outcome = again
        needed = self._needed.get(topic)
        if needed is None or offset not in needed:
            return  # data given back by a recording: counted when they first came
        needed[offset] -= 1
        if needed[offset] <= 0:
            del needed[offset]
            self._settled.setdefault(topic, set()).add(offset)
            self.counters[f"messages.{topic}"] += 1
            self.counters[outcome] += 1

    def bury(self, raw: RawMessage, reason: str) -> None:
        """A message, or one part of it, can be used nowhere."""
        if not any(d.raw is raw for d in self.dead[-64:]):  # its parts come one after the other
            self.dead.append(DeadLetter(raw=raw, reason=reason))
        self.settle(place_of(raw), "dead_letters")

    def positions(self) -> dict[str, Position]:
        """By topic: first offset still needed, and what is settled beyond it."""
        found: dict[str, Position] = {}
        for topic in {*self._newest, *self._restored}:
            before = self._restored.get(topic, Position(next=0))
            newest = self._newest.get(topic, before.next - 1)
            needed = self._needed.get(topic)
            settled = _ranges(sorted(self._settled.get(topic, ())))
            done = _merged([*before.done, *settled])
            first = min(needed) if needed else max(newest + 1, before.next)
            for a, b in () if needed else done:
                if a <= first <= b:
                    first = b + 1
            found[topic] = Position(
                next=first,
                done=tuple(r for r in done if r[0] > first),
                seen=max(newest + 1, before.seen),
            )
            self._settled[topic] = set()
            self._restored[topic] = found[topic]
        return found


def _ranges(offsets: list[int]) -> tuple[tuple[int, int], ...]:
    """Rising offsets as closed ranges."""
    found: list[tuple[int, int]] = []
    for offset in offsets:
        if found and found[-1][1] == offset - 1:
            found[-1] = (found[-1][0], offset)
        else:
            found.append((offset, offset))
    return tuple(found)


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Closed ranges in order, those that touch as one."""
    found: list[tuple[int, int]] = []
    for a, b in sorted(ranges):
        if found and a <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], b))
        else:
            found.append((a, b))
    return found
