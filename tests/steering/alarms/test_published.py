from __future__ import annotations

import pytest

from steering.alarms import published, watch
from steering.alarms.published import observe
from steering.alarms.rules import conditions
from steering.experiment import AlarmsSection
from steering.service import live, model_service
from steering.service.health import WorkerStatus, judge_health, judge_readiness
from tests.steering.alarms.live_state import MINUTE, SECOND, LiveState

SECTION = AlarmsSection(disk_free_MB=0.001)


@pytest.fixture
def state(tmp_path):
    made = LiveState(tmp_path / "state")
    made.beat("consume")
    made.beat("model-server")
    return made


def found(state: LiveState, section: AlarmsSection = SECTION, **more) -> dict[str, str]:
    seen = observe(state.folder, clock=state.clock)
    return {one.key: one.text for one in conditions(seen, section, **more)}


def test_a_quiet_good_run_raises_nothing(state):
    state.commit()
    state.answer()
    assert found(state) == {}


def test_stop_and_targets_are_told_of_a_trusted_run_alone(state):
    state.commit()
    state.answer(stop=True, met=True)
    assert set(found(state)) == {"stop: night", "target met: night"}
    state.answer(stop=True, met=True, trusted=False)
    told = found(state)
    assert set(told) == {"untrusted: night"}
    assert "chi-square per cell 4.1" in told["untrusted: night"]


def test_a_run_without_an_estimate_is_not_untrusted(state):
    state.commit()
    assert set(found(state)) == {"state stale: estimate of night"}


def test_a_lost_stream_is_known_by_what_the_worker_itself_says(state):
    now = WorkerStatus(service="consume", last_loop_ns=0, connected=False)
    reasons = judge_readiness(now, judge_health(now, 0)).reasons
    state.beat("consume", *reasons)
    assert list(found(state)) == ["stream lost: consume"]
    state.beat("consume")
    assert found(state) == {}


def test_another_reason_is_no_lost_stream(state):
    state.beat("model-server", "state folder x cannot be written; expected a folder of this user.")
    assert list(found(state)) == ["state stale: model-server"]


def test_a_worker_that_falls_silent_is_told_and_one_that_stops_is_not(state):
    state.now_ns += 8 * SECOND
    assert set(found(state)) == {"state stale: consume", "state stale: model-server"}
    state.beat("model-server", stopped=True)
    assert list(found(state)) == ["state stale: consume"]
    state.beat("consume", stopped=True)
    assert found(state) == {}


def test_a_worker_that_died_days_ago_is_no_news(state):
    state.commit([("1", "psi is NaN")])
    state.now_ns += 25 * 60 * MINUTE
    assert found(state) == {}


def test_chunks_set_aside_are_one_condition_that_grows(state):
    state.commit([("1", None), ("2", "psi is NaN; expected degrees. Give --psi.")])
    state.answer()
    seen = observe(state.folder, clock=state.clock)
    (one,) = conditions(seen, SECTION)
    assert (one.key, one.level) == ("chunk set aside: night", 1)
    assert one.text == "Set aside: 2: psi is NaN; expected degrees. Give --psi."
    state.commit([("1", None), ("2", "psi is NaN"), ("3", "no events")])
    (one,) = conditions(observe(state.folder, clock=state.clock), SECTION)
    assert (one.level, one.text) == (2, "2 chunks are set aside, the newest is 3: no events")


def test_no_data_for_long_is_stale_and_a_long_dwell_that_counts_is_not(state):
    state.commit()
    state.answer()
    state.now_ns += 31 * MINUTE
    state.beat("consume")
    state.beat("model-server")
    assert list(found(state)) == ["state stale: night"]
    assert "No data came for 31 min" in found(state)["state stale: night"]
    assert found(state, bytes_since_ns=state.now_ns - MINUTE) == {}


def test_a_closed_run_raises_nothing(state):
    state.commit([("1", "psi is NaN")], closed=True)
    state.answer(stop=True)
    assert found(state) == {}


def test_a_dwell_without_beam_is_seen_by_its_count_rate(state):
    names = ["1", "2", "3", "4"]
    state.commit([(name, None) for name in names])
    state.answer(names, events=[20_000, 18_000, 30_000, 500])
    (text,) = found(state).values()
    assert "counted 250 events a minute, 2% of the usual 1e+04" in text
    state.answer(names, events=[20_000, 18_000, 30_000, 12_000])  # another psi sees less
    assert found(state) == {}
    state.answer(names[:3], events=[20_000, 18_000, 50])  # too few to know what is usual
    assert "beam off: night" not in found(state)


def test_a_damaged_manifest_is_told(state):
    state.commit()
    next(state.folder.glob("partition-*/manifest.json")).write_text("{")
    assert list(found(state)) == ["state stale: manifest 0"]


def test_a_disk_that_fills_is_told_on_a_real_small_disk(small_disk, tmp_path):
    state = LiveState(small_disk.folder / "state")
    state.beat()
    section = AlarmsSection(disk_free_MB=2.0)
    small_disk.fill(leave_bytes=3_000_000)
    assert found(state, section) == {}
    small_disk.fill(leave_bytes=1_000_000)
    assert list(found(state, section)) == ["disk filling: state folder"]
    small_disk.make_room()
    assert found(state, section) == {}


def test_only_kinds_that_are_asked_for_are_told(state):
    state.commit([("1", None), ("2", "psi is NaN")])
    state.answer(stop=True)
    assert set(found(state, AlarmsSection(kinds=("stop",)))) == {"stop: night"}


def test_answers_are_looked_for_where_the_services_leave_them():
    assert published.ESTIMATE == f"{model_service.ESTIMATE}/result.json"
    assert watch.EXPERIMENT == live.EXPERIMENT
