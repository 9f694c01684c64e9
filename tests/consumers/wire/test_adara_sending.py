from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from consumers.wire import (
    AdaraSender,
    AdaraStream,
    Events,
    LogSample,
    RunBegins,
    RunEnds,
    Variable,
    decode,
)
from simulations.errors import InputError
from tests.consumers.hostile_packets import XML, plain, raw

SECOND = 10**9
NOW = 1_700_000_000 * SECOND
BEGINS = RunBegins(
    job="a", chunk="HYS_178921", source="t", start_time_ns=NOW, instrument_name="HYSPEC"
)
LOGS = {
    "s1": Variable(name="s1", unit="deg"),
    "proton_charge": Variable(name="proton_charge", unit="picoCoulombs"),
}


def sample(source: str, time_ns: int, value: float) -> LogSample:
    return LogSample(source=source, time_ns=time_ns, value=np.array([value]))


def events(source: str, times: list[int], index: list[int], tof: list[int]) -> Events:
    return Events(
        source=source,
        sequence=0,
        reference_time_ns=np.array(times, np.int64),
        reference_index=np.array(index, np.int64),
        time_of_flight_ns=np.array(tof, np.int32),
        pixel_id=np.arange(len(tof), dtype=np.int32) - 1,
    )


def said(packets: Iterable[bytes], stream: AdaraStream) -> list[tuple[Any, ...]]:
    found = [plain(decode(raw(*m))) for p in packets for m in stream.take(p)]
    return [f for f in found if f != ("nothing",)]


def test_banks_and_charges_come_together_pulse_by_pulse() -> None:
    sender, stream = AdaraSender(), AdaraStream()
    begun = said(sender.begin(BEGINS, geometry=XML, logs=LOGS), stream)
    assert begun == []
    pulses = [NOW + 10, NOW + 20]
    found = []
    for value in (
        sample("s1", NOW + 1, 19.0),
        sample("proton_charge", pulses[0], 14_268_460.0),
        sample("proton_charge", pulses[1], 0.0),
        events("bank3_events", pulses, [0, 2], [1000, 2000, 3000]),
        events("bank4_events", pulses[:1], [0], [4000]),
        sample("proton_charge", NOW + 30, 20.0),
        sample("pause", NOW + 31, 1.0),
        RunEnds(job="a", source="t", stop_time_ns=NOW + SECOND),
    ):
        found += said(sender.take(value), stream)
    assert found == [
        ("log", "s1", NOW + 1, 19.0),
        found[1],
        ("pulse", NOW + 10, 14_268_460.0, ((1000, -1), (2000, 0), (4000, -1))),
        ("pulse", NOW + 20, 0.0, ((3000, 1),)),
        ("log", "pause", NOW + 31, 1.0),
        ("pulse", NOW + 30, 20.0, ()),
        ("ends", "adara-run-178921", NOW + SECOND),
    ]
    assert found[1][:5] == ("begins", "adara-run-178921", NOW, "HYSPEC", XML)


def test_what_adara_cannot_carry_is_refused() -> None:
    sender = AdaraSender()
    list(sender.begin(BEGINS, geometry="", logs=LOGS))
    with pytest.raises(InputError, match="log 's9' is not among those"):
        list(sender.take(sample("s9", NOW, 1.0)))
    list(sender.take(events("bank1", [NOW], [0], [1000])))
    with pytest.raises(InputError, match="without a charge of their pulses"):
        list(sender.take(RunEnds(job="a", source="t", stop_time_ns=NOW + 1)))
