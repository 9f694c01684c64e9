"""The time of a stream, told by its messages: it goes on with them but never jumps on one alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from consumers.wire import RawMessage

SECOND = 1_000_000_000
JUMP_NS = 3600 * SECOND  # a clock that runs ahead by more must be confirmed by a second message


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Suspect:
    """A message that jumped ahead of the stream and has no witness yet."""

    raw: RawMessage
    time_ns: int
    since_ns: int  # by the clock here


@dataclass(slots=True, eq=False)
class StreamClock:
    """How far the stream of one run has come, and when it was last heard."""

    newest_ns: int = 0  # of the stream; 0: nothing is known yet
    heard_ns: int = 0  # by the clock here
    suspects: list[Suspect] = field(default_factory=list[Suspect])

    def bound(self, time_ns: int) -> None:
        """A start or stop moves the stream's time on, but never makes it jump."""
        if self.newest_ns and time_ns <= self.newest_ns + JUMP_NS:
            self.newest_ns = max(self.newest_ns, time_ns)

    def advance(self, raw: RawMessage, time_ns: int, now_ns: int) -> None:
        """Move the stream's time on; a jump ahead, or the first time, wants a second witness."""
        if self.newest_ns and time_ns <= self.newest_ns + JUMP_NS:
            self.newest_ns = max(self.newest_ns, time_ns)
        elif any(s.raw is not raw and abs(time_ns - s.time_ns) <= JUMP_NS for s in self.suspects):
            self.suspects = [s for s in self.suspects if abs(time_ns - s.time_ns) > JUMP_NS]
            self.newest_ns = time_ns
        else:
            self.suspects.append(Suspect(raw=raw, time_ns=time_ns, since_ns=now_ns))

    def without_witness(self, before_ns: int | None) -> list[Suspect]:
        """Suspects since ``before_ns`` or earlier, None: all; they are forgotten here."""
        overdue: list[Suspect] = []
        waiting: list[Suspect] = []
        for suspect in self.suspects:
            if self.newest_ns and suspect.time_ns <= self.newest_ns + JUMP_NS:
                continue  # the stream has come that far: what came first was only old
            late = before_ns is None or suspect.since_ns <= before_ns
            (overdue if late else waiting).append(suspect)
        self.suspects = waiting
        return overdue
