"""A night of several runs as a bad facility sends it, and what a state folder makes of it.

Starts and stops are lost or come very late, data are delayed beyond the end of their dwell, some
messages are rubbish; then all of it is sent twice and out of order, as ``disturbed_stream`` does.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from consumers.state import partition_folders, read_manifest
from consumers.wire import RunBegins, RunEnds, decode
from tests.consumers.disturbed_stream import disturb
from tests.steering.live_stream import SECOND, as_raw, contents, live_scan

RUNS = ("one", "three", "five", "four", "six")  # in three of three partitions
DWELLS = 6  # of each run
MOVING = 2  # runs, the first, that log psi before a dwell begins
LOST_STARTS, LATE_STARTS, LOST_STOPS, LATE_STOPS = 2, 5, 4, 6  # of all dwells
DELAYED = 0.02  # of the data
RUBBISH = 5
Wire = tuple[str, bytes, bytes]  # topic without prefix, key, value


@dataclass(frozen=True, kw_only=True, eq=False)
class Night:
    """What was sent, in the order of time and as it comes."""

    whole: list[Wire]  # each once, in order; what was lost is not in it
    sent: list[Wire]
    told: dict[str, int]  # how much of what was done to it


def disturbed_night(seed: int) -> Night:
    """A night; equal seeds give equal nights.

    The first runs log psi a second before a dwell begins, so that one without a stop sees psi move
    and is set aside; the others as it begins: such a dwell ends where the next one begins.
    """
    chance = np.random.default_rng(seed)
    runs = [
        live_scan(
            run=name,
            psis=tuple(5.0 + 3.0 * k + n for k in range(DWELLS)),
            seed=100 * seed + n,
            psi_lead_ns=SECOND if n < MOVING else 0,
        )
        for n, name in enumerate(RUNS)
    ]
    messages = [m for group in zip(*runs, strict=True) for m in group]
    starts, stops = _bounds(messages)
    inside = [n for n in stops if n % len(RUNS) < MOVING and n < stops[-len(RUNS)]]
    moving = int(chance.choice(inside))  # a lost stop after which psi moves
    starts = chance.permutation(starts)
    stops = np.array([moving, *chance.permutation([n for n in stops if n != moving])])
    lost = {*starts[:LOST_STARTS], *stops[:LOST_STOPS]}
    late = {
        *starts[LOST_STARTS : LOST_STARTS + LATE_STARTS],
        *stops[LOST_STOPS : LOST_STOPS + LATE_STOPS],
    }
    whole: list[Wire] = []
    placed: list[tuple[float, int, Wire]] = []
    delayed = 0
    for n, message in enumerate(messages):
        if n in lost:
            continue
        place = float(n)
        if n in late:
            place += chance.uniform(0.05, 0.4) * len(messages)
        elif message[0] != "runInfo" and chance.random() < DELAYED:
            place += chance.uniform(0.05, 0.4) * len(messages)
            delayed += 1
        whole.append(message)
        placed.append((place, n, message))
    for n in range(RUBBISH):
        rubbish = ("detector", RUNS[n % len(RUNS)].encode(), f"rubbish {n}".encode())
        whole.append(rubbish)
        placed.append((chance.uniform(0, len(messages)), len(messages) + n, rubbish))
    in_time = [message for _, _, message in sorted(placed, key=lambda one: one[:2])]
    sent = disturb(in_time, seed=seed)
    told = {
        "messages": len(whole),
        "duplicates": len(sent) - len(whole),
        "delayed far": delayed,
        "late starts": LATE_STARTS,
        "late stops": LATE_STOPS,
        "lost starts": LOST_STARTS,
        "lost stops": LOST_STOPS,
        "rubbish": RUBBISH,
    }
    return Night(whole=whole, sent=sent, told=told)


def _bounds(messages: list[Wire]) -> tuple[list[int], list[int]]:
    """Places of starts and of stops."""
    starts: list[int] = []
    stops: list[int] = []
    for n, raw in enumerate(as_raw(messages)):
        if raw.topic == "runInfo":
            value = decode(raw)
            assert isinstance(value, RunBegins | RunEnds)
            (starts if isinstance(value, RunBegins) else stops).append(n)
    return starts, stops


@dataclass(frozen=True, kw_only=True)
class Folded:
    """All that a night became, free of how often it was begun again."""

    chunks: dict[tuple[str, str], tuple[str, dict[str, bytes]]]  # tensors to the last bit
    dwells: dict[tuple[str, str], tuple[object, ...]]  # also those set aside
    events_between: int

    @classmethod
    def of(cls, state: Path) -> Folded:
        """What a state folder holds."""
        dwells: dict[tuple[str, str], tuple[object, ...]] = {}
        for folder in partition_folders(state):
            for run, record in read_manifest(folder).runs.items():
                for c in record.chunks:
                    bounds = (c.job, c.start_time_ns, c.stop_time_ns, c.explicit_stop)
                    assert (run, c.chunk) not in dwells
                    dwells[run, c.chunk] = (*bounds, c.status, c.note, c.reason)
        return cls(
            chunks=contents(state, whole=False),
            dwells=dwells,
            events_between=counters(state)["events_between_chunks"],
        )

    def differences(self, other: Folded) -> list[str]:
        """In words, where two differ; short even if they differ in much."""
        found = [
            f"{key}: {self.dwells.get(key)} and {other.dwells.get(key)}"
            for key in sorted({*self.dwells, *other.dwells})
            if self.dwells.get(key) != other.dwells.get(key)
        ]
        for key in sorted({*self.chunks, *other.chunks}):
            one, two = self.chunks.get(key), other.chunks.get(key)
            if one is None or two is None:
                found.append(f"{key}: folded in one of the two only")
            elif one != two:
                names = [k for k in one[1] if one[1][k] != two[1].get(k)]
                a, b = json.loads(one[0]), json.loads(two[0])
                header = {k: (a[k], b.get(k)) for k in a if a[k] != b.get(k)}
                found.append(f"{key}: other {', '.join(names)}; header {header}")
        if self.events_between != other.events_between:
            found.append(f"events between: {self.events_between} and {other.events_between}")
        return found


def counters(state: Path) -> Counter[str]:
    """Counters of all partitions together."""
    found: Counter[str] = Counter()
    for folder in partition_folders(state):
        found.update(read_manifest(folder).counters)
    return found
