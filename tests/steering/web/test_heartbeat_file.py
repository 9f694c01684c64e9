from __future__ import annotations

import json

import pytest
from fastapi.testclient import TestClient

from steering.run import RunStore
from steering.web import HeartbeatFile, Heartbeats, create_app, read_heartbeats
from steering.web.heartbeat_file import DEAD_SECONDS, FOLDER, LARGEST_BYTES

SECOND = 1_000_000_000


@pytest.fixture
def clock():
    return [1_763_716_248 * SECOND]


def heart(state, clock, service="consume"):
    return HeartbeatFile(state, service, clock=lambda: clock[0])


def read(clock, *folders):
    found = read_heartbeats(folders, clock=lambda: clock[0])
    return [(one.service, one.partitions, one.state) for one in found]


def test_silence_is_death_and_a_word_is_life_again(tmp_path, clock):
    file = heart(tmp_path, clock)
    file.write(partitions=(0, 2), reasons=())
    assert read(clock, tmp_path) == [("consume", [0, 2], "ready")]
    clock[0] += round(DEAD_SECONDS + 1) * SECOND
    (dead,) = read_heartbeats([tmp_path], clock=lambda: clock[0])
    assert dead.state == "dead"
    assert "consume of partition 0, 2 has been silent for 8 s" in dead.reasons[0]
    file.write(partitions=(0, 2), reasons=("the source is not connected.",))
    assert read(clock, tmp_path) == [("consume", [0, 2], "not ready")]


def test_who_ended_in_peace_is_never_dead(tmp_path, clock):
    heart(tmp_path, clock).write(partitions=(0,), reasons=(), stopped=True)
    clock[0] += 10**6 * SECOND
    assert read(clock, tmp_path) == [("consume", [0], "stopped")]


def test_a_successor_speaks_for_the_dead_as_far_as_it_owns_their_partitions(tmp_path, clock):
    heart(tmp_path, clock).write(partitions=(0, 1), reasons=())
    heart(tmp_path, clock, "model-server").write(partitions=(), reasons=())
    clock[0] += 60 * SECOND
    second, third = heart(tmp_path, clock), heart(tmp_path, clock)
    second.write(partitions=(0,), reasons=())
    dead = [("consume", [0, 1], "dead"), ("model-server", [], "dead")]
    assert read(clock, tmp_path) == [("consume", [0], "ready"), *dead]
    third.write(partitions=(1,), reasons=())
    heart(tmp_path, clock, "model-server").write(partitions=(0, 1), reasons=())
    alive = [("consume", [0], "ready"), ("consume", [1], "ready")]
    assert read(clock, tmp_path) == [*alive, ("model-server", [0, 1], "ready")]
    assert len(list((tmp_path / FOLDER).iterdir())) == 3  # files of the dead do not pile up


def test_state_folders_are_found_below_the_folder_that_is_served(tmp_path, clock):
    heart(tmp_path / "live" / "a", clock).write(partitions=(0,), reasons=())
    assert read(clock, tmp_path, tmp_path / "nowhere") == [("consume", [0], "ready")]


def test_what_is_no_heartbeat_is_passed_over(tmp_path, clock):
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "a.json").write_text("{")
    (folder / "b.json").write_text('{"service": 3}')
    (folder / "c.json").write_bytes(b" " * (LARGEST_BYTES + 1))
    (folder / "d.json").mkdir()
    assert read(clock, tmp_path) == []


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path, clock):
    (tmp_path / FOLDER).write_text("in the way")
    file = heart(tmp_path, clock)
    file.write(partitions=(0,), reasons=())
    (tmp_path / FOLDER).unlink()
    file.write(partitions=(0,), reasons=())
    assert read(clock, tmp_path) == [("consume", [0], "ready")]


def test_the_page_is_not_ready_while_a_worker_is_dead(tmp_path, clock):
    heart(tmp_path, clock).write(partitions=(0,), reasons=())
    app = create_app(
        RunStore(), workers=lambda: read_heartbeats([tmp_path], clock=lambda: clock[0])
    )
    client = TestClient(app, base_url="http://127.0.0.1")
    assert client.get("/ready").json() == {"status": "ready", "runs": 0, "reasons": []}
    assert 'beamsteer_workers{state="dead"} 0.0' in client.get("/metrics").text
    clock[0] += 60 * SECOND
    answer = client.get("/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "not ready")
    assert "silent for 60 s" in answer.json()["reasons"][0]
    (worker,) = client.get("/workers").json()["workers"]
    assert worker["heard_ns"] == clock[0] - 60 * SECOND
    assert 'beamsteer_workers{state="dead"} 1.0' in client.get("/metrics").text
    assert client.get("/health").status_code == 200  # restarting the page would help nobody


@pytest.mark.parametrize("ahead_s", [7200, 20, -20, -7200])
def test_a_worker_whose_clock_is_off_neither_looks_dead_nor_lives_for_ever(
    tmp_path, clock, ahead_s
):
    theirs, passed = [clock[0] + ahead_s * SECOND], [0.0]
    look = Heartbeats([tmp_path], clock=lambda: clock[0], monotonic=lambda: passed[0])
    file = heart(tmp_path, theirs)

    def after(seconds: int):
        for one in (clock, theirs):
            one[0] += seconds * SECOND
        passed[0] += seconds
        (found,) = look()
        return found

    file.write(partitions=(0,), reasons=())
    assert after(1).skew_s is None  # it may have come at any time
    for _ in range(5):
        file.write(partitions=(0,), reasons=())
        found = after(2)
        assert (found.state, found.silent_s) == ("ready", 0.0)
        assert found.skew_s == pytest.approx(ahead_s - 2)
    assert [after(2).state for _ in range(4)] == ["ready", "ready", "ready", "dead"]
    successor = heart(tmp_path, clock)  # its clock is right, so it seems older, or much newer
    successor.write(partitions=(0,), reasons=())
    assert after(1).state == "ready"
    assert after(1).skew_s is None


def test_what_was_not_looked_at_for_long_is_believed(tmp_path, clock):
    passed = [0.0]
    look = Heartbeats([tmp_path], clock=lambda: clock[0], monotonic=lambda: passed[0])
    file = heart(tmp_path, clock)
    file.write(partitions=(0,), reasons=())
    look()
    clock[0] += 20 * SECOND
    file.write(partitions=(0,), reasons=())  # the last word before its death
    clock[0] += 40 * SECOND
    passed[0] += 60
    (found,) = look()
    assert (found.state, found.silent_s, found.skew_s) == ("dead", 40.0, None)


def test_a_heartbeat_of_before_still_counts(tmp_path, clock):
    """A worker of an earlier version beats beside a page of this one."""
    (tmp_path / FOLDER).mkdir()
    beat = {"service": "consume", "partitions": [0], "state": "ready", "reasons": []}
    text = json.dumps(beat | {"heard_ns": clock[0]})
    (tmp_path / FOLDER / "consume-1.json").write_text(text)
    assert read(clock, tmp_path) == [("consume", [0], "ready")]
