from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steering.alarms.book import (
    GONE_S,
    Acknowledgement,
    Book,
    advanced,
    delivered,
    due,
    written_time,
)
from steering.alarms.rules import Condition
from steering.experiment import AlarmsSection
from tests.steering.alarms.live_state import BEGIN_NS, MINUTE, SECOND

SECTION = AlarmsSection(repeat_minutes=10, repeats=2, hold_s=20)
LOST = Condition(kind="stream lost", subject="consume", text="the source is not connected.")
ASIDE = Condition(kind="chunk set aside", subject="night", text="Set aside: 2: psi is NaN")


class Night:
    """A book that is turned, sent from, and put to disk and read again at every step."""

    def __init__(self, section: AlarmsSection = SECTION, receivers: tuple[str, ...] = ("a",)):
        self.section, self.receivers = section, receivers
        self.book, self.now_ns = Book(), BEGIN_NS
        self.sent: list[tuple[str, str, str]] = []  # receiver, word, kind
        self.known: dict[str, Acknowledgement] = {}
        self.away: set[str] = set()

    def turn(self, *conditions: Condition, after_s: float = 0.0) -> list[tuple[str, str, str]]:
        self.now_ns += round(after_s * SECOND)
        before = len(self.sent)
        self.book, _ = advanced(
            self.book,
            conditions,
            self.section,
            now_ns=self.now_ns,
            receivers=self.receivers,
            acknowledgements=self.known,
        )
        self.restart()
        while (turn := next(due(self.book, self.now_ns), None)) is not None:
            notice, receiver = turn
            taken = receiver not in self.away
            if taken:
                kind = next((a.kind for a in self.book.alarms if a.id == notice.alarm), "")
                self.sent.append((receiver, notice.word, kind))
            self.book, _ = delivered(self.book, notice, receiver, taken=taken, now_ns=self.now_ns)
            self.restart()
        return self.sent[before:]

    def restart(self) -> None:
        self.book = Book.model_validate_json(self.book.model_dump_json())

    def acknowledge(self) -> None:
        (alarm,) = [one for one in self.book.alarms if one.over_ns is None]
        self.known[alarm.id] = Acknowledgement(
            id=alarm.id, by="Ada", at_ns=self.now_ns, level=alarm.level
        )


def test_a_fault_is_told_once_again_at_intervals_and_when_it_is_over():
    night = Night()
    assert night.turn(LOST) == []  # it may pass
    assert night.turn(LOST, after_s=20) == [("a", "raised", "stream lost")]
    for _ in range(9):
        assert night.turn(LOST, after_s=60) == []
    assert night.turn(LOST, after_s=60) == [("a", "again", "stream lost")]
    assert night.turn(LOST, after_s=600) == [("a", "again", "stream lost")]
    assert night.turn(LOST, after_s=6000) == []  # repeats are bounded
    assert night.turn(after_s=10) == []
    assert night.turn(after_s=GONE_S) == [("a", "over", "stream lost")]
    assert night.turn(after_s=10) == []


def test_what_passes_within_the_hold_is_never_told():
    night = Night()
    for _ in range(50):
        assert night.turn(LOST, after_s=15) == []
        assert night.turn(after_s=GONE_S + 1) == []


@given(steps=st.lists(st.tuples(st.booleans(), st.floats(0.5, 900.0)), min_size=1, max_size=120))
def test_however_it_comes_and_goes_messages_are_bounded(steps):
    """Of one condition at most one message of its being, and one of its end, an interval."""
    night = Night()
    for there, after_s in steps:
        night.turn(*((LOST,) if there else ()), after_s=after_s)
    hours = sum(after_s for _, after_s in steps) / 600
    told = [word for _, word, _ in night.sent if word != "over"]
    over = [word for _, word, _ in night.sent if word == "over"]
    assert len(told) <= hours + 1
    assert len(over) <= len(told)


def test_what_comes_and_goes_every_minute_is_told_once_an_interval():
    night = Night()
    for _ in range(40):  # 40 minutes, 10 between two messages
        for _ in range(5):
            night.turn(LOST, after_s=5)
        for _ in range(7):
            night.turn(after_s=5)
    words = [word for _, word, _ in night.sent]
    assert 3 <= words.count("raised") <= 4
    assert words.count("over") <= words.count("raised")


def test_acknowledged_is_told_no_more_until_there_is_more_to_say():
    night = Night()
    assert night.turn(ASIDE) == [("a", "raised", "chunk set aside")]  # needs no hold
    night.acknowledge()
    for _ in range(20):
        assert night.turn(ASIDE, after_s=300) == []
    more = Condition(kind="chunk set aside", subject="night", text="2 chunks", level=2)
    assert night.turn(more, after_s=1) == [("a", "again", "chunk set aside")]
    night.acknowledge()
    assert night.turn(more, after_s=3000) == []


def test_growing_trouble_is_told_at_most_once_an_interval():
    night = Night()
    for level in range(1, 101):  # a bad file every half minute
        one = Condition(kind="chunk set aside", subject="night", text="...", level=level)
        night.turn(one, after_s=30)
    assert len(night.sent) == 5  # 50 minutes at 10


QUIET = AlarmsSection.model_validate(
    {
        "zone": "Europe/Berlin",
        "quiet": {"start": "22:00", "end": "07:00", "despite": ["disk filling"]},
        "hold_s": 0,
        "repeat_minutes": 60,
    }
)


def test_quiet_hours_hold_back_what_is_not_urgent_until_the_morning():
    night = Night(QUIET)  # it is 03:00 in Berlin
    full = Condition(kind="disk filling", subject="state folder", text="12 MB are free")
    assert night.turn(LOST, full) == [("a", "raised", "disk filling")]
    for _ in range(3):
        night.turn(LOST, after_s=3600)
    assert {kind for _, _, kind in night.sent} == {"disk filling"}
    assert ("a", "raised", "stream lost") in night.turn(LOST, after_s=3600)  # 07:00


def test_what_came_and_went_in_quiet_hours_wakes_nobody():
    night = Night(QUIET)
    night.turn(LOST)
    night.turn(after_s=GONE_S + 1)
    assert night.turn(after_s=5 * 3600) == []
    assert night.sent == []


def test_what_was_acknowledged_in_quiet_hours_is_not_told_in_the_morning():
    night = Night(QUIET)
    night.turn(LOST)
    night.acknowledge()
    assert night.turn(LOST, after_s=5 * 3600) == []


@pytest.mark.parametrize(
    ("utc_s", "held"),
    [
        (1_774_745_940, True),  # 2026-03-29 01:59 CET, an hour before clocks go forward
        (1_774_760_340, True),  # 06:59 CEST: one hour less of night
        (1_774_760_400, False),  # 07:00 CEST
        (1_774_814_340, False),  # 21:59 CEST
        (1_774_814_400, True),  # 22:00 CEST
    ],
)
def test_quiet_hours_follow_the_zone_through_summer_time(utc_s, held):
    night = Night(QUIET)
    night.now_ns = utc_s * SECOND
    assert (night.turn(LOST) == []) is held


def test_times_are_told_with_their_zone():
    assert written_time(BEGIN_NS, "Europe/Berlin") == "2026-03-02 03:00 CET"
    assert written_time(1_774_814_400 * SECOND, "Europe/Berlin") == "2026-03-29 22:00 CEST"


def test_a_receiver_who_is_away_is_tried_again_and_doubles_nothing_for_others():
    night = Night(receivers=("a", "b"))
    night.away = {"b"}
    night.turn(LOST)
    assert night.turn(LOST, after_s=20) == [("a", "raised", "stream lost")]
    tries = 0
    for _ in range(60):
        assert night.turn(LOST, after_s=5) == []
    tries = night.book.outbox[0].tries
    assert 4 <= tries <= 6  # 10, 20, 40, 80, 160 s: not one every look
    night.away = set()
    assert night.turn(LOST, after_s=170) == [("b", "raised", "stream lost")]
    assert night.turn(LOST, after_s=5) == []


def test_who_comes_back_late_gets_the_newest_word_alone():
    night = Night()
    night.away = {"a"}
    night.turn(LOST)
    for _ in range(30):
        night.turn(LOST, after_s=60)
    night.away = set()
    assert night.turn(LOST, after_s=600) == [("a", "again", "stream lost")]
    night.away = {"a"}
    other = Night()
    other.away = {"a"}
    other.turn(LOST)
    other.turn(LOST, after_s=20)
    other.turn(after_s=GONE_S + 20)
    other.away = set()
    assert other.turn(after_s=600) == []  # over before anybody was told


def test_a_message_nobody_takes_for_hours_is_given_up():
    night = Night(AlarmsSection(repeat_minutes=10_000, hold_s=0))
    night.away = {"a"}
    for _ in range(50):
        night.turn(LOST, after_s=600)
    assert night.book.outbox == ()


def test_a_receiver_that_was_taken_out_of_the_file_is_forgotten():
    night = Night(receivers=("a", "gone"))
    night.away = {"gone"}
    night.turn(LOST)
    night.turn(LOST, after_s=20)
    assert [set(one.waiting) for one in night.book.outbox] == [{"gone"}]
    night.receivers = ("a",)
    night.turn(LOST, after_s=1)
    assert night.book.outbox == ()


def test_a_clock_that_is_set_back_delays_no_alarm_beyond_the_interval():
    night = Night()
    night.turn(LOST)
    night.turn(LOST, after_s=20)
    night.now_ns -= 30 * 24 * 60 * MINUTE
    assert night.turn(LOST) == []
    assert night.turn(LOST, after_s=600) == [("a", "again", "stream lost")]


def test_without_receivers_alarms_are_kept_and_nothing_is_sent():
    night = Night(receivers=())
    night.turn(LOST)
    night.turn(LOST, after_s=20)
    assert [one.raised for one in night.book.alarms] == [True]
    night.receivers = ("a",)  # named later: they are told then
    assert night.turn(LOST, after_s=1) == [("a", "raised", "stream lost")]
