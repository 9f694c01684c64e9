"""The alarms section of an experiment file: what to tell people who are away, when, and how often.

Where messages go is a secret and stands elsewhere: see :mod:`steering.alarms.urls_file`.
"""

from __future__ import annotations

import re
from datetime import time
from typing import Annotated, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, field_validator

from simulations.section import Count, NotNegative, Positive, Section, Text, expected

AlarmKind = Literal[
    "stop",
    "target met",
    "untrusted",
    "stream lost",
    "state stale",
    "chunk set aside",
    "beam off",
    "disk filling",
]
ALARM_KINDS: tuple[AlarmKind, ...] = get_args(AlarmKind)


def _no_url(value: str) -> str:
    if "://" in value:
        raise expected(
            "the name of a file or variable that holds the URLs, not a URL: those are secrets. "
            "Move it there, and change it where it was sent to if this file was shared."
        )
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise expected("a time zone such as Europe/Berlin, America/New_York or UTC.") from None
    return value


def _clock_time(value: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
        raise expected('a time of the day, such as "22:00".')
    return value


Flag = Annotated[bool, Field(strict=True)]
ClockTime = Annotated[Text, AfterValidator(_clock_time)]


class QuietHours(Section):
    """Hours of every night in which nobody is told but of what is urgent."""

    start: ClockTime = Field(description='a time of the day, such as "22:00"')
    end: ClockTime = Field(description='a time of the day, such as "07:00"')
    despite: tuple[AlarmKind, ...] = Field(
        default=(), description="kinds of alarm that are told in these hours too"
    )

    @field_validator("end")
    @classmethod
    def _some_time(cls, value: str, info: object) -> str:
        if getattr(info, "data", {}).get("start") == value:
            raise expected("another time than `start`. Leave `quiet` away for no quiet hours.")
        return value

    def hold(self, kind: AlarmKind, wall: time) -> bool:
        """Whether an alarm of this kind waits at this time of the day (in the section's zone)."""
        if kind in self.despite:
            return False
        start, end = time.fromisoformat(self.start), time.fromisoformat(self.end)
        now = wall.replace(tzinfo=None)
        return start <= now < end if start < end else now >= start or now < end


class AlarmsSection(Section):
    """What is told of a live run to people who do not look at the page."""

    enabled: Flag = Field(default=True, description="true or false")
    urls_file: Annotated[Text, AfterValidator(_no_url)] | None = Field(
        default=None,
        description="file with a name and a URL of apprise on each line; the variable "
        "BEAMSTEER_ALARM_URLS adds more",
    )
    zone: Annotated[Text, AfterValidator(_zone)] = Field(
        default="UTC", description="time zone of messages and quiet hours, such as Europe/Berlin"
    )
    quiet: QuietHours | None = Field(
        default=None, description="a section with start, end, despite; or null"
    )
    kinds: tuple[AlarmKind, ...] = Field(
        default=ALARM_KINDS, min_length=1, description=f"some of {', '.join(ALARM_KINDS)}"
    )
    repeat_minutes: Positive = Field(
        default=60.0, description="minutes between two messages of one alarm, above 0"
    )
    repeats: Annotated[int, Field(strict=True, ge=0, le=100)] = Field(
        default=3, description="how often an alarm that nobody acknowledges is told again, 0 to 100"
    )
    hold_s: NotNegative = Field(
        default=20.0, description="seconds that a fault must last before it is told, zero or more"
    )
    stale_minutes: Positive = Field(
        default=30.0, description="minutes without news of a running run before it is stale"
    )
    late_minutes: Positive = Field(
        default=15.0, description="minutes that the newest chunk may wait for its estimate"
    )
    beam_off_below: Annotated[float, Field(strict=True, gt=0, lt=1)] = Field(
        default=0.2, description="share of the run's usual count rate, between 0 and 1"
    )
    disk_free_MB: Positive = Field(
        default=2000.0, description="free space in MB below which the disk is filling, above 0"
    )
    most_waiting: Count = Field(
        default=100, description="messages that may wait for a receiver that is away"
    )
