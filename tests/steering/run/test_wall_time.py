from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from steering.run.wall_time import age_text, wall_time

BERLIN = ZoneInfo("Europe/Berlin")


def ns(*moment: int) -> int:
    return round(datetime(*moment, tzinfo=BERLIN).timestamp()) * 10**9


def test_a_time_has_its_zone_and_of_another_day_its_date():
    night = ns(2026, 11, 23, 3, 12)
    assert wall_time(night, now_ns=ns(2026, 11, 23, 23, 59), zone=BERLIN) == "03:12 CET"
    assert wall_time(night, now_ns=ns(2026, 11, 24, 0, 1), zone=BERLIN) == "23 Nov 03:12 CET"
    assert wall_time(ns(2026, 7, 3, 3, 12), zone=BERLIN) == "3 Jul 03:12 CEST"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (99, "99 s"), (100, "2 min"), (5400, "90 min"), (7200, "2 h"), (1e6, "12 days")],
)
def test_an_age_has_one_unit(seconds, text):
    assert age_text(seconds) == text
