"""The book of alarms: what was raised, told, acknowledged and is over; a function of what it was.

Each condition is told once, again at most every ``repeat_minutes`` and ``repeats`` times, and once
more when it is over. What was told is in the book before it is sent anew, so that a restart sends
nothing twice that a receiver took.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field

from steering.alarms.rules import PASSING, Condition
from steering.experiment import AlarmKind, AlarmsSection

SCHEMA_VERSION = 1
GONE_S = 30.0  # that a condition must be gone before it is over: what comes and goes is one alarm
KEPT_S = 24 * 3600.0  # that what is over stays in the book
TRIED_S = 6 * 3600.0  # that a message is tried before it is given up
FIRST_RETRY_S, LONGEST_RETRY_S = 10.0, 600.0

Word = Literal["raised", "again", "over"]
Attempt = Literal["sent", "not sent", "given up"]


class Part(BaseModel):
    """A part of the book: immutable, and without unknown keys; times since the Unix epoch, ns."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Acknowledgement(Part):
    """Somebody knows."""

    id: str = Field(description="of the alarm")
    by: str = Field(description="who")
    note: str = Field(default="", description="what they say")
    at_ns: int = Field(description="when, since the Unix epoch")
    level: int = Field(default=1, description="of the alarm at that time; more is news")


class Alarm(Part):
    """A condition that is, or was a while ago."""

    id: str = Field(description="of this raising; another one has another")
    kind: AlarmKind
    subject: str = Field(description="run, worker or disk")
    text: str = Field(description="what holds, and what to do")
    level: int = Field(description="grows when there is more to say")
    hold_s: float = Field(description="seconds it must last before it is told")
    since_ns: int = Field(description="when it was seen first")
    seen_ns: int = Field(description="when it was seen last")
    raised: bool = Field(default=False, description="it lasted long enough to be told")
    over_ns: int | None = Field(default=None, description="when it was over")
    sent_ns: int | None = Field(default=None, description="when it was told last")
    sent_level: int = Field(default=0, description="that was told")
    sends: int = Field(default=0, description="how often it was told")
    told: list[str] = Field(default=[], description="receivers that took it")
    acknowledged: Acknowledgement | None = None

    @property
    def key(self) -> str:
        """Of its condition."""
        return f"{self.kind}: {self.subject}"


class Notice(Part):
    """A message and the receivers that have not taken it yet."""

    alarm: str  # id
    word: Word
    title: str
    body: str
    made_ns: int
    waiting: dict[str, int] = {}  # receiver, when it is tried next
    tries: int = 0


class Book(Part):
    """All that an evaluation leaves to the next one, on disk."""

    schema_version: Literal[1] = SCHEMA_VERSION
    alarms: tuple[Alarm, ...] = ()
    outbox: tuple[Notice, ...] = ()
    taken_bytes: int = -1  # of the stream
    taken_ns: int | None = None  # when they last grew


class Event(Part):
    """A line of the log of alarms."""

    at_ns: int
    what: Literal["raised", "over", "made", "sent", "not sent", "given up", "acknowledged"]
    alarm: str
    kind: AlarmKind | None = None
    subject: str = ""
    text: str = ""
    receiver: str | None = None
    by: str | None = None


def alarm_id(key: str, since_ns: int) -> str:
    """Short name of one raising of a condition."""
    return hashlib.sha256(f"{key} {since_ns}".encode()).hexdigest()[:8]


def advanced(
    book: Book,
    found: Iterable[Condition],
    section: AlarmsSection,
    *,
    now_ns: int,
    receivers: Iterable[str] = (),
    acknowledgements: Mapping[str, Acknowledgement] | None = None,
) -> tuple[Book, tuple[Event, ...]]:
    """Bring the book to a moment: raise, repeat, end, and lay out what is to be sent.

    Parameters
    ----------
    book : Book
    found : iterable of Condition
        All that hold now.
    section : AlarmsSection
    now_ns : int
        Unix time.
    receivers : iterable of str
        Names of those who are told.
    acknowledgements : mapping, optional
        The newest by id of the alarm.

    Returns
    -------
    Book
    tuple of Event
        What is new in it, for the log.
    """
    turn = _Turn(section, now_ns, tuple(receivers), acknowledgements or {})
    alarms = {one.key: one for one in map(turn.not_of_the_future, book.alarms)}
    there: set[str] = set()
    for condition in found:
        there.add(condition.key)
        alarms[condition.key] = turn.held(alarms.get(condition.key), condition)
    for key, alarm in list(alarms.items()):
        if key not in there:
            ended = turn.gone(alarm)
            if ended is None:
                del alarms[key]
            else:
                alarms[key] = ended
        if key in alarms:
            alarms[key] = turn.told(alarms[key])
    outbox = [*turn.still_news(book.outbox, alarms.values()), *turn.notices]
    outbox = outbox[-section.most_waiting :]
    return (
        book.model_copy(update={"alarms": tuple(alarms.values()), "outbox": tuple(outbox)}),
        tuple(turn.events),
    )


def due(book: Book, now_ns: int) -> Iterator[tuple[Notice, str]]:
    """Messages and receivers whose turn it is."""
    for notice in book.outbox:
        for receiver, next_ns in notice.waiting.items():
            # A clock that was set back does not hold a message for longer than a retry.
            if next_ns <= now_ns or next_ns > now_ns + LONGEST_RETRY_S * 1e9:
                yield notice, receiver


def delivered(
    book: Book, notice: Notice, receiver: str, *, taken: bool, now_ns: int
) -> tuple[Book, Attempt]:
    """The book after one attempt, and what to call it in the log."""
    waiting = dict(notice.waiting)
    del waiting[receiver]
    alarms: tuple[Alarm, ...] = book.alarms
    word: Attempt = "sent"
    if taken:
        alarms = tuple(
            one.model_copy(update={"told": sorted({*one.told, receiver})})
            if one.id == notice.alarm and notice.word != "over"
            else one
            for one in alarms
        )
    elif now_ns - notice.made_ns > TRIED_S * 1e9:
        word = "given up"
    else:
        word = "not sent"
        pause = min(FIRST_RETRY_S * 2.0 ** min(notice.tries, 16), LONGEST_RETRY_S)
        waiting[receiver] = now_ns + round(pause * 1e9)
    tries = notice.tries + (not taken)
    changed = notice.model_copy(update={"waiting": waiting, "tries": tries})
    outbox = tuple(
        changed if one is notice else one for one in book.outbox if one is not notice or waiting
    )
    return book.model_copy(update={"alarms": alarms, "outbox": outbox}), word


def written_time(at_ns: int, zone: str) -> str:
    """A moment with its zone, as people read it: ``2026-03-02 03:12 CET``."""
    return datetime.fromtimestamp(at_ns / 1e9, ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M %Z")


class _Turn:
    """One evaluation: collects messages and lines of the log."""

    def __init__(
        self,
        section: AlarmsSection,
        now_ns: int,
        receivers: tuple[str, ...],
        acknowledgements: Mapping[str, Acknowledgement],
    ) -> None:
        self._section, self._now, self._receivers = section, now_ns, receivers
        self._acknowledgements = acknowledgements
        self.notices: list[Notice] = []
        self.events: list[Event] = []

    def not_of_the_future(self, alarm: Alarm) -> Alarm:
        """Times that lie ahead since the clock was set back count as now."""
        late = {
            name: self._now
            for name in ("since_ns", "seen_ns", "over_ns", "sent_ns")
            if (getattr(alarm, name) or 0) > self._now
        }
        return alarm.model_copy(update=late) if late else alarm

    def held(self, alarm: Alarm | None, condition: Condition) -> Alarm:
        """An alarm whose condition holds."""
        hold = condition.hold_s
        if hold is None:
            hold = self._section.hold_s if condition.kind in PASSING else 0.0
        if alarm is None or alarm.over_ns is not None:
            before = alarm
            alarm = Alarm(
                id=alarm_id(condition.key, self._now),
                kind=condition.kind,
                subject=condition.subject,
                text=condition.text,
                level=condition.level,
                hold_s=hold,
                since_ns=self._now,
                seen_ns=self._now,
                # What comes again soon after it was told waits its time.
                sent_ns=None if before is None else before.sent_ns,
            )
        changed = {
            "text": condition.text,
            "level": condition.level,
            "hold_s": hold,
            "seen_ns": self._now,
        }
        if not alarm.raised and self._now - alarm.since_ns >= hold * 1e9:
            changed["raised"] = True
            self._log("raised", alarm, condition.text)
        known = self._acknowledgements.get(alarm.id)
        if known is not None:
            changed["acknowledged"] = known
        return alarm.model_copy(update=changed)

    def still_news(self, outbox: Iterable[Notice], alarms: Iterable[Alarm]) -> Iterator[Notice]:
        """Messages that wait and that a receiver who comes back should still get.

        A newer message of an alarm takes the place of an older one, and what is over before it was
        taken is not told.
        """
        active = {one.id for one in alarms if one.over_ns is None}
        newer = {one.alarm for one in self.notices}
        for notice in outbox:
            if notice.alarm in newer or (notice.word != "over" and notice.alarm not in active):
                continue
            waiting = {r: at for r, at in notice.waiting.items() if r in self._receivers}
            if waiting:
                yield notice.model_copy(update={"waiting": waiting})

    def gone(self, alarm: Alarm) -> Alarm | None:
        """An alarm whose condition does not hold; None: forgotten."""
        if alarm.over_ns is not None:
            return alarm if self._now - alarm.over_ns < KEPT_S * 1e9 else None
        if not alarm.raised:
            return None
        if self._now - alarm.seen_ns < GONE_S * 1e9:
            return alarm
        self._log("over", alarm, alarm.text)
        if alarm.told:
            self._notice(alarm, "over", alarm.told)
        return alarm.model_copy(update={"over_ns": self._now})

    def told(self, alarm: Alarm) -> Alarm:
        """Lay out a message where one is due."""
        if alarm.over_ns is not None or not alarm.raised or not self._due(alarm):
            return alarm
        if self._quiet(alarm.kind):
            return alarm
        self._notice(alarm, "again" if alarm.sends else "raised", self._receivers)
        return alarm.model_copy(
            update={
                "sends": alarm.sends + 1,
                "sent_ns": self._now,
                "sent_level": alarm.level,
            }
        )

    def _due(self, alarm: Alarm) -> bool:
        if not self._receivers:
            return False
        waited = (
            alarm.sent_ns is None
            or self._now - alarm.sent_ns >= 60e9 * self._section.repeat_minutes
        )
        known = 0 if alarm.acknowledged is None else alarm.acknowledged.level
        news = alarm.level > max(alarm.sent_level, known)
        if alarm.sends == 0:
            return waited and news
        again = alarm.acknowledged is None and alarm.sends <= self._section.repeats
        return waited and (news or again)

    def _quiet(self, kind: AlarmKind) -> bool:
        quiet = self._section.quiet
        if quiet is None:
            return False
        wall = datetime.fromtimestamp(self._now / 1e9, ZoneInfo(self._section.zone))
        return quiet.hold(kind, wall.time())

    def _notice(self, alarm: Alarm, word: Word, receivers: Iterable[str]) -> None:
        zone = self._section.zone
        told = {"raised": "", "again": "still: ", "over": "over: "}[word]
        began = written_time(alarm.since_ns, zone)
        lines = [alarm.text, f"Since {began}."]
        if word == "over":
            lines = [f"Was: {alarm.text}", f"From {began} to {written_time(self._now, zone)}."]
        else:
            lines.append(f"Acknowledge: beamsteer alarms STATE --acknowledge {alarm.id} --by NAME")
        notice = Notice(
            alarm=alarm.id,
            word=word,
            title=f"Beamsteer {told}{alarm.kind} ({alarm.subject})",
            body="\n".join(lines),
            made_ns=self._now,
            waiting=dict.fromkeys(receivers, self._now),
        )
        self.notices.append(notice)
        self._log("made", alarm, f"{word}: {notice.title}")

    def _log(self, what: Literal["raised", "over", "made"], alarm: Alarm, text: str) -> None:
        self.events.append(
            Event(
                at_ns=self._now,
                what=what,
                alarm=alarm.id,
                kind=alarm.kind,
                subject=alarm.subject,
                text=text,
            )
        )
