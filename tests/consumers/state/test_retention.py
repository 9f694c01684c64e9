from dataclasses import replace

import pytest

from consumers.state import (
    SECOND,
    Bounds,
    ChunkRecord,
    RunRecord,
    recordings_to_remove,
    runs_to_remove,
)
from consumers.state.retention import DAY_NS

BEGIN = 1_700_000_000 * SECOND


def run_of(name, days):
    """One dwell for each day that is named."""
    return RunRecord(
        chunks=tuple(
            ChunkRecord(
                chunk=f"{name}{day}",
                job=f"{name}{day}",
                generation=0,
                start_time_ns=BEGIN + day * DAY_NS - 60 * SECOND,
                stop_time_ns=BEGIN + day * DAY_NS,
                status="folded",
                file=f"{name}{day}.chunk",
                recording=f"{name}{day}.rec",
            )
            for day in days
        )
    )


RUNS = {"old": run_of("old", range(6)), "new": run_of("new", range(6, 12))}


def remove(runs=RUNS, needed=(), **bounds):
    found = recordings_to_remove(
        runs,
        bounds=Bounds(**bounds),
        needed=needed,
        lateness_ns=60 * SECOND,
        size_of=lambda name: 100,
    )
    return [job for _, job in found]


def test_everything_is_kept_unless_asked_for():
    assert remove() == []
    assert runs_to_remove(RUNS, bounds=Bounds(), needed=(), size_of=lambda name: 10**9) == []


def test_recordings_go_by_age_oldest_first_and_the_last_of_every_run_stay():
    assert remove(days=4.5) == ["old0", "old1", "old2", "old3", "new6"]


def test_recordings_go_by_size_until_they_fit():
    assert remove(size_bytes=1000) == ["old0", "old1"]
    assert remove(size_bytes=950) == ["old0", "old1", "old2"]
    assert len(remove(size_bytes=1)) == 12 - 2 * 2


@pytest.mark.parametrize("bounds", [{"days": 0.1}, {"size_bytes": 1}])
def test_what_is_needed_stays_whatever_the_bounds(bounds):
    chunks = list(RUNS["new"].chunks)
    chunks[1] = replace(chunks[1], status="set aside", file=None)
    runs = {**RUNS, "new": RunRecord(chunks=tuple(chunks))}
    gone = remove(runs, needed={("old", "old1")}, **bounds)
    assert "old1" not in gone  # something late waits for it
    assert chunks[1].job not in gone  # the only copy, in a run that goes on
    assert not {"old4", "old5", "new10", "new11"} & set(gone)
    assert {"old0", "old2", "old3", "new6"} <= set(gone)
    # once its run is over, what could not be folded goes with the others
    assert chunks[1].job in remove({**runs, "next": run_of("next", [20])}, **bounds)


def test_a_run_goes_only_when_it_is_over_and_nothing_of_it_waits():
    runs = {**RUNS, "older": run_of("older", [-9])}

    def gone(needed=(), **bounds):
        return runs_to_remove(
            runs, bounds=Bounds(**bounds), needed=needed, size_of=lambda name: 100
        )

    assert gone(days=10.0) == ["older"]
    assert gone(days=0.01) == ["older", "old"]
    assert gone(size_bytes=1) == ["older", "old"]
    assert gone(size_bytes=2400) == ["older"]
    assert gone(days=0.01, needed={("old", "old5")}) == ["older"]
