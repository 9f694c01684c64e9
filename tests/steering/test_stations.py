"""The way of an event, as docs/architecture.md lists it: walked call by call."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType

from tests.steering.live_stream import as_raw, live_measurement, live_scan
from tests.steering.service.test_fold_worker import fold

ROOT = Path(__file__).resolve().parents[2]
FLOORS = {"steering": 3, "consumers": 2, "model_server": 2, "simulations": 1}


def module_of(frame: FrameType | None) -> str | None:
    name = None if frame is None else frame.f_globals.get("__name__", "")
    return name if name and name.partition(".")[0] in FLOORS else None


def stations_of_the_page() -> list[str]:
    text = (ROOT / "docs" / "architecture.md").read_text()
    part = text[text.index("## The way of an event") :].partition("\n## ")
    part = (part[0] + part[1] + part[2]).split("\n## ")[0]
    return re.findall(r"^\d+\. `([\w.]+)`", part, flags=re.MULTILINE)


def test_an_event_goes_down_through_the_stations_of_the_architecture(tmp_path):
    measurement, raws = live_measurement(), as_raw(live_scan())
    first: dict[str, int] = {}
    climbs: set[tuple[str, str]] = set()

    def look(frame: FrameType, event: str, _: object) -> None:
        here = module_of(frame) if event == "call" else None
        if here is None:
            return
        first.setdefault(f"{here}.{frame.f_code.co_qualname}", len(first))
        caller = module_of(frame.f_back)
        above = 0 if caller is None else FLOORS[caller.partition(".")[0]]
        if caller is not None and FLOORS[here.partition(".")[0]] > above:
            climbs.add((caller, here))

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        fold(measurement, tmp_path, raws)
    finally:
        sys.setprofile(before)
    stations = stations_of_the_page()
    assert len(stations) == 12
    # The test's own source stands in for a transport.
    assert stations[0] == "consumers.transport"
    assert set(stations[1:]) <= set(first)
    seen = [first[name] for name in stations[1:]]
    assert seen == sorted(seen), dict(zip(stations[1:], seen, strict=True))
    assert climbs == set()
