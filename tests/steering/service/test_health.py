"""What supervisors are told: the truth, with reasons, over real HTTP."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from steering.service import operations_app, service_registry, status_json
from steering.service.fold_worker import FoldWorker
from steering.service.health import WorkerStatus, judge_health, judge_readiness
from steering.web import serving
from tests.steering.live_stream import live_measurement

SECOND = 1_000_000_000
NOW = 1_763_716_248 * SECOND
GOOD = WorkerStatus(
    service="consume",
    last_loop_ns=NOW - SECOND,
    connected=True,
    partitions=(0, 2),
    last_commit_ns=NOW - 5 * SECOND,
    lag={("ge_detector", 0): 7},
    generation={0: 3, 2: 1},
    chunks={"ge": 4},
    counters={"messages.ge_detector": 100},
)


def test_a_loop_that_turns_is_healthy_and_one_that_stands_is_not():
    assert judge_health(GOOD, NOW).ok
    late = judge_health(GOOD, NOW + 60 * SECOND)
    assert not late.ok
    assert "61 s ago; expected at most 30 s" in late.reasons[0]


def test_a_long_step_is_healthy_until_it_takes_too_long():
    busy = replace(GOOD, busy_since_ns=NOW - SECOND)
    assert judge_health(busy, NOW + 600 * SECOND).ok
    assert not judge_health(busy, NOW + 600 * SECOND, busy_seconds=300).ok


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"connected": False}, "not connected"),
        ({"joined": False}, "no partitions are assigned"),
        ({"error": "manifest.json: disk is full."}, "disk is full"),
        ({"state": Path("/nowhere/at/all")}, "state folder all cannot be written"),
    ],
)
def test_each_thing_that_is_missing_makes_it_not_ready_and_is_named(changes, reason):
    verdict = judge_readiness(replace(GOOD, **changes), judge_health(GOOD, NOW))
    assert not verdict.ok
    assert reason in " ".join(verdict.reasons)


def test_what_the_source_warns_of_is_told_and_does_not_make_it_unready(tmp_path):
    warned = replace(GOOD, state=tmp_path, warnings=("retention.ms of x is 1.",))
    verdict = judge_readiness(warned, judge_health(GOOD, NOW))
    assert verdict.ok
    assert verdict.warnings == ("retention.ms of x is 1.",)


def test_a_worker_without_partitions_that_stands_by_is_ready(tmp_path):
    status = replace(GOOD, partitions=(), state=tmp_path)
    assert judge_readiness(status, judge_health(status, NOW)).ok


def test_what_is_told_names_no_machine_and_no_path(tmp_path):
    told = status_json(replace(GOOD, state=tmp_path))
    assert told["lag"] == {"ge_detector/0": 7}
    assert told["runs"] == {"ge": 4}
    assert str(tmp_path) not in str(told)


def test_supervisors_are_answered_over_http_and_see_a_change_at_once():
    status = [GOOD]
    app = operations_app(lambda: status[0], CollectorRegistry(), clock=lambda: NOW)
    with serving(app) as url:
        for path, good in (("health", "ok"), ("ready", "ready")):
            answer = httpx.get(url + path)
            assert (answer.status_code, answer.json()) == (200, {"status": good, "reasons": []})
        status[0] = replace(GOOD, connected=False, error="the last commit failed.")
        assert httpx.get(url + "health").status_code == 200
        answer = httpx.get(url + "ready")
        assert answer.status_code == 503
        assert len(answer.json()["reasons"]) == 2
        assert httpx.get(url + "status").json()["error"] == "the last commit failed."
        status[0] = replace(GOOD, last_loop_ns=NOW - 100 * SECOND)
        assert httpx.get(url + "health").status_code == 503
        assert httpx.get(url + "ready").json()["status"] == "not ready"


def test_a_loop_that_stands_still_is_told_within_ten_seconds(tmp_path):
    worker = FoldWorker(live_measurement(), state=tmp_path, default_run="x")
    worker.take(0)
    worker.turn()
    registry, _ = service_registry(worker.status)
    with serving(operations_app(worker.status, registry)) as url:
        assert httpx.get(url + "ready").status_code == 200
        since = time.monotonic()
        while httpx.get(url + "ready").status_code == 200:
            assert time.monotonic() - since < 10
            time.sleep(0.2)
        assert "the loop turned" in httpx.get(url + "ready").json()["reasons"][0]
        assert httpx.get(url + "health").status_code == 200  # a restart may be too early
        worker.turn()
        assert httpx.get(url + "ready").status_code == 200
    worker.close()


def test_a_token_guards_figures_but_not_the_answers_to_supervisors():
    registry, _ = service_registry(lambda: GOOD, clock=lambda: NOW)
    app = operations_app(lambda: GOOD, registry, token="x" * 20, clock=lambda: NOW)
    with serving(app) as url:
        assert httpx.get(url + "ready").status_code == 200
        assert httpx.get(url + "metrics").status_code == 401
        assert httpx.get(url + "status").status_code == 401
        bearer = {"Authorization": "Bearer " + "x" * 20}
        text = httpx.get(url + "metrics", headers=bearer).text
    assert 'beamsteer_stream_messages_total{topic="ge_detector"} 100.0' in text
