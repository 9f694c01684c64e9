"""The wall clock steps for real, by a library in front of the C library, while a worker folds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from steering.service.clocks import ClockWatch, steady_ns
from tests.steering.stepping_clock import NoCompilerError, build_stepping_clock

ROOT = Path(__file__).resolve().parents[3]
SECOND = 1_000_000_000
FOLD_WHILE_IT_STEPS = """
import json, os, sys, time
from pathlib import Path

from steering.service.fold_worker import FoldWorker, Patience
from steering.service.health import judge_health, judge_readiness
from steering.service.clocks import steady_ns
from tests.steering.live_stream import as_raw, live_measurement, live_scan

state, file = Path(sys.argv[1]), Path(os.environ["STEP_FILE"])
worker = FoldWorker(
    live_measurement(), state=state, default_run="x",
    patience=Patience(settle_s=0.2, lateness_s=300.0, turn_s=0.01, commit_s=0.1),
)
worker.take(0)
raws = as_raw(live_scan(psis=(5.0, 17.0, 29.0)))
third = len(raws) // 3
told = []


def steps():
    counters = worker.status().counters
    return counters["clock_steps.back"] + counters["clock_steps.forward"]


for part, step_s in enumerate((-7200, 86400, -600)):
    before = time.time()
    file.write_text(str(step_s))
    since = time.monotonic()
    assert abs(time.time() - before) > 500, "the library is not in front"
    for raw in raws[part * third : (part + 1) * third if part < 2 else None]:
        worker.accept(raw)
    while steps() == part:
        worker.turn()
    told_s = time.monotonic() - since
    end = time.monotonic() + 20
    while time.monotonic() < end:
        worker.turn()
        closed = sum(worker.status().chunks.values())
        if closed > part:
            break
        time.sleep(0.01)
    status = worker.status()
    health = judge_health(status, steady_ns())
    told.append({
        "told_s": told_s,
        "chunks": sum(status.chunks.values()),
        "healthy": judge_readiness(status, health).reasons,
        "steps": {k: v for k, v in status.counters.items() if k.startswith("clock_steps")},
    })
worker.close()
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def stepping_clock(tmp_path_factory) -> Path:
    try:
        return build_stepping_clock(tmp_path_factory.mktemp("clock"))
    except NoCompilerError as reason:
        pytest.skip(str(reason))


def test_a_wall_clock_that_steps_back_and_forward_stalls_nothing_and_is_told(
    stepping_clock, tmp_path
):
    done = subprocess.run(
        [sys.executable, "-c", FOLD_WHILE_IT_STEPS, str(tmp_path)],
        cwd=ROOT,
        env={
            **os.environ,
            "LD_PRELOAD": str(stepping_clock),
            "STEP_FILE": str(tmp_path / "step"),
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert [t["chunks"] for t in told] == [1, 2, 3]
    assert all(not t["healthy"] for t in told)
    assert max(t["told_s"] for t in told) < 10
    assert told[-1]["steps"] == {"clock_steps.forward": 1, "clock_steps.back": 2}
    assert (done.stdout + done.stderr).count("wall_clock_stepped") == 3


def test_steps_are_told_and_slow_corrections_are_not():
    now = {"unix": 10**18, "steady": 0}
    watch = ClockWatch(unix=lambda: now["unix"], steady=lambda: now["steady"])

    def passed(unix_s: float, steady_s: float) -> float | None:
        now["unix"] += round(unix_s * SECOND)
        now["steady"] += round(steady_s * SECOND)
        return watch.look()

    assert [passed(10.005, 10) for _ in range(300)] == [None] * 300  # 500 ppm
    assert passed(-3590, 10) == pytest.approx(-3600)
    assert passed(10, 10) is None
    assert passed(3610, 10) == pytest.approx(3600)
    assert watch.steps == {"forward": 1, "back": 1}


def test_the_steady_clock_begins_at_unix_time_and_never_falls():
    first = steady_ns()
    assert first > 1_600_000_000 * SECOND
    assert steady_ns() >= first
