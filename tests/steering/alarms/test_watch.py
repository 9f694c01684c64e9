"""The watch with real receivers and real processes: what is told is told once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from simulations.errors import InputError, StorageError
from steering import cli
from steering.alarms import AlarmFolder, Watch, alarm_router
from steering.alarms.watch import Watches
from steering.experiment import AlarmsSection, dump_experiment, with_absolute_files
from steering.web import HeartbeatFile
from tests.steering.alarms.live_state import AWAY, MINUTE, SECOND, LiveState
from tests.steering.alarms.receivers import Webhook, mail_server, webhook
from tests.steering.virtual_scan import EXAMPLES, small_experiment

VARIABLE = "BEAMSTEER_ALARM_URLS"


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as taken:
        yield taken


@pytest.fixture
def state(tmp_path) -> LiveState:
    made = LiveState(tmp_path / "state", zone="Europe/Berlin", hold_s=5, stale_minutes=1e5)
    made.commit()
    made.answer()
    made.beat("consume")
    made.beat("model-server")
    return made


def watch(state: LiveState, hook: Webhook, **more: Any) -> Watch:
    urls = {VARIABLE: f"hook {hook.url()}", **more}
    return Watch(state.folder, clock=state.clock, environment=urls)


def later(state: LiveState, seconds: float, *lost: str) -> None:
    state.now_ns += round(seconds * SECOND)
    state.beat("consume", *lost)
    state.beat("model-server")


def test_a_lost_stream_is_told_to_a_webhook_and_its_end_too(state, hook):
    watching = watch(state, hook)
    watching.look()
    later(state, 2, AWAY)
    watching.look()
    assert hook.titles == []
    later(state, 6, AWAY)
    watching.look()
    assert hook.titles == ["Beamsteer stream lost (consume)"]
    text = hook.messages[0]["message"]
    assert AWAY in text
    assert "Since 2026-03-02 03:00 CET." in text
    for _ in range(5):
        later(state, 60, AWAY)
        watching.look()
    later(state, 31)
    watching.look()
    assert hook.titles[1:] == ["Beamsteer over: stream lost (consume)"]


def test_a_new_process_goes_on_from_the_book_and_sends_nothing_twice(state, hook):
    for _ in range(20):  # every look is another process's first
        later(state, 6, AWAY)
        watch(state, hook).look()
    assert hook.titles == ["Beamsteer stream lost (consume)"]


def test_a_receiver_that_is_away_gets_it_when_it_is_back(state, hook):
    hook.status = 503
    watching = watch(state, hook)
    for _ in range(4):
        later(state, 6, AWAY)
        watching.look()
    assert hook.titles == []
    hook.status = 200
    later(state, 60, AWAY)
    watch(state, hook).look()
    assert hook.titles == ["Beamsteer stream lost (consume)"]
    words = [one.what for one in watching.folder.events()]
    assert words[:3] == ["raised", "made", "not sent"]
    assert words[-1] == "sent"


def test_one_of_two_processes_evaluates(state, hook):
    first, second = watch(state, hook), watch(state, hook)
    with first.folder.alone() as ours:
        assert ours
        assert second.look() is None
    assert second.look() is not None


def test_a_mail_and_a_webhook_are_both_told_and_named_by_a_file(state, hook, tmp_path):
    with mail_server() as (port, mails):
        file = tmp_path / "urls"
        file.write_text(
            f"hook {hook.url()}\n"
            f"mail mailto://127.0.0.1:{port}/?from=b@example.org&to=n@example.org&mode=insecure\n"
        )
        file.chmod(0o600)
        state.describe(urls_file=str(file), hold_s=0)
        state.commit([("1", None), ("2", "psi is NaN; expected degrees. Give --psi.")])
        Watch(state.folder, clock=state.clock, environment={}).look()
        (alarm,) = AlarmFolder(state.folder).alarms()
        assert alarm.told == ["hook", "mail"]
    assert hook.titles == ["Beamsteer chunk set aside (night)"]
    assert "chunk set aside" in mails[0]["Subject"]


def test_urls_may_change_while_it_watches(state, hook, tmp_path):
    file = tmp_path / "urls"
    file.write_text("broken\n")
    file.chmod(0o600)
    state.describe(urls_file=str(file), hold_s=0)
    state.answer(stop=True)
    watching = Watch(state.folder, clock=state.clock, environment={})
    watching.look()
    assert "line 1 is not shown" in (watching.trouble or "")
    file.write_text(f"hook {hook.url()}\n")
    later(state, 2)
    watching.look()
    assert hook.titles == ["Beamsteer stop (night)"]
    assert watching.trouble is None


def test_a_full_disk_is_told_and_nothing_is_sent_twice(small_disk, hook):
    state = LiveState(small_disk.folder / "state", hold_s=0, disk_free_MB=1.0, stale_minutes=1e5)
    state.commit()
    state.answer()
    state.beat("consume")
    watching = watch(state, hook)
    watching.look()
    small_disk.fill(leave_bytes=200_000)
    state.now_ns += SECOND
    state.beat("consume")
    watching.look()
    assert hook.titles == ["Beamsteer disk filling (state folder)"]
    small_disk.fill()  # to the last byte: the book cannot be written
    state.now_ns += 70 * MINUTE
    with pytest.raises(StorageError, match="cannot be written"):
        watching.look()
    assert len(hook.titles) == 1  # nothing is told that the book does not know
    small_disk.make_room()
    later(state, 2)
    watching.look()
    later(state, 60)
    watching.look()
    assert hook.titles[-1] == "Beamsteer over: disk filling (state folder)"
    assert len(set(hook.titles)) == len(hook.titles)


def test_a_fault_in_one_state_keeps_no_other_from_its_turn(tmp_path, hook):
    bad, good = LiveState(tmp_path / "a"), LiveState(tmp_path / "b")
    AlarmFolder(bad.folder).log([])
    (bad.folder / "alarms").mkdir()
    (bad.folder / "alarms" / "book.json").write_text("{")
    for one in (bad, good):
        one.commit()
        one.answer(stop=True)
        one.beat("consume")
    Watches([tmp_path], environment={VARIABLE: f"h {hook.url()}"}, clock=good.clock).look()
    assert hook.titles == ["Beamsteer stop (night)"]
    with pytest.raises(InputError, match="Move it away"):
        AlarmFolder(bad.folder).book()


# --- acknowledgement -----------------------------------------------------------------------------


def told_of_stop(state: LiveState, hook: Webhook) -> str:
    state.answer(stop=True)
    watch(state, hook).look()
    (alarm,) = AlarmFolder(state.folder).alarms()
    return alarm.id


def test_an_acknowledged_alarm_is_not_told_again_after_a_restart_either(state, hook):
    alarm = told_of_stop(state, hook)
    assert f"--acknowledge {alarm} --by NAME" in hook.messages[0]["message"]
    later(state, 3600)
    watch(state, hook).look()
    assert hook.titles == ["Beamsteer stop (night)", "Beamsteer still: stop (night)"]
    assert (
        cli.run(
            [
                "alarms",
                str(state.folder),
                "--acknowledge",
                alarm,
                "--by",
                "Ada",
                "--note",
                "on my way",
            ]
        )
        == 0
    )
    for _ in range(5):
        later(state, 3600)
        watch(state, hook).look()
    assert len(hook.titles) == 2
    event = AlarmFolder(state.folder).events()[-1]
    assert (event.what, event.by, event.text) == ("acknowledged", "Ada", "on my way")


def test_the_api_lists_and_acknowledges(state, hook):
    alarm = told_of_stop(state, hook)
    app = FastAPI()
    app.include_router(alarm_router([state.folder.parent], clock=state.clock))
    client = TestClient(app)
    (told,) = client.get("/alarms").json()["alarms"]
    assert (told["id"], told["kind"], told["acknowledged"]) == (alarm, "stop", None)
    assert told["told"] == ["hook"]
    answer = client.post(f"/alarms/{alarm}/acknowledge", json={"by": "Grace", "note": "seen"})
    assert answer.status_code == 200
    (told,) = client.get("/alarms").json()["alarms"]
    assert (told["acknowledged"]["by"], told["acknowledged"]["at_ns"]) == (
        "Grace (local)",
        state.now_ns,
    )
    assert client.get("/alarms/log").json()["events"][-1]["by"] == "Grace (local)"
    assert hook.url() not in client.get("/alarms/log").text


@pytest.mark.parametrize(
    ("alarm", "body", "status"),
    [
        ("0" * 8, {"by": "Ada"}, 404),
        (None, {"by": ""}, 422),
        (None, {"by": "   "}, 422),
        (None, {"by": "a\u0000b"}, 422),
        (None, {"by": "x" * 81}, 422),
        (None, {"by": "Ada", "note": "x" * 501}, 422),
        (None, {"by": "Ada", "more": 1}, 422),
        ("../../x", {"by": "Ada"}, 404),
        ("%2e%2e%2fx", {"by": "Ada"}, 404),
    ],
)
def test_a_bad_acknowledgement_is_refused(state, hook, alarm, body, status):
    there = told_of_stop(state, hook)
    app = FastAPI()
    app.include_router(alarm_router([state.folder]))
    answer = TestClient(app).post(f"/alarms/{alarm or there}/acknowledge", json=body)
    assert answer.status_code == status
    assert AlarmFolder(state.folder).acknowledgements() == {}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--acknowledge", "nosuch", "--by", "Ada"], "expected one that holds"),
        (["--acknowledge", "{}"], "--by is missing"),
        (["--acknowledge", "{}", "--by", "A\nB"], "expected one line"),
        (["--test", "--watch"], "expected one of"),
        (["--test"], "nobody is told"),
    ],
)
def test_the_verb_says_what_to_do(state, hook, capsys, monkeypatch, arguments, told):
    monkeypatch.delenv(VARIABLE, raising=False)
    alarm = told_of_stop(state, hook)
    assert cli.run(["alarms", str(state.folder), *(a.format(alarm) for a in arguments)]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_the_verb_refuses_what_is_no_live_run(tmp_path, capsys):
    assert cli.run(["alarms", str(tmp_path)]) == 2
    assert "no state folder" in capsys.readouterr().err


def test_the_verb_lists_alarms_for_people_and_machines(state, hook, capsys):
    alarm = told_of_stop(state, hook)
    assert cli.run(["alarms", str(state.folder)]) == 0
    shown = capsys.readouterr().out
    assert alarm in shown
    assert "stop (night)" in shown
    assert "nobody" in shown
    assert cli.run(["alarms", str(state.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["alarms"][0]["id"] == alarm


def test_a_test_message_tells_who_takes_it(state, hook, capsys, monkeypatch):
    monkeypatch.setenv(VARIABLE, f"good {hook.url()};bad json://127.0.0.1:1/secretpath")
    assert cli.run(["alarms", str(state.folder), "--test"]) == 2
    shown = capsys.readouterr()
    assert "good: taken" in shown.out
    assert "bad: NOT TAKEN" in shown.out
    assert "secretpath" not in shown.out + shown.err
    assert hook.titles == ["Beamsteer test"]


def test_a_line_that_a_crash_cut_short_spoils_no_other(state, hook):
    alarm = told_of_stop(state, hook)
    path = state.folder / "alarms" / "acknowledged.jsonl"
    path.write_text('{"id": "x", "by')
    folder = AlarmFolder(state.folder)
    folder.acknowledge(alarm, by="Ada", at_ns=state.now_ns)
    assert set(folder.acknowledgements()) == {alarm}


# --- the processes -------------------------------------------------------------------------------


@contextmanager
def served(folder: Path, hook: Webhook, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A real `beamsteer serve` that is killed in the end; with its address."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "steering.cli", "serve", str(folder), "--port", "0", "--json"],
        env=os.environ | {VARIABLE: f"hook {hook.url('secretpath')}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        told = ""
        while not told.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            told += line
        yield process, json.loads(told)["url"]
    finally:
        process.kill()
        _, said = process.communicate()
        assert "secretpath" not in said


def until(done: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


@contextmanager
def beating(state: LiveState) -> Iterator[None]:
    """A fold worker that lives on beside what is done here, however long that takes."""
    heart = HeartbeatFile(state.folder, "consume")
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.is_set():
            heart.write(partitions=(0,), reasons=())
            stopped.wait(1.0)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def test_a_server_that_is_killed_and_started_again_sends_nothing_twice(tmp_path, hook):
    state = LiveState(tmp_path / "state", hold_s=0)
    state.now_ns = time.time_ns()
    state.commit()
    state.answer(stop=True)
    with beating(state):
        killed_and_started_again(state, tmp_path, hook)
    assert len(hook.titles) == 2


def killed_and_started_again(state: LiveState, tmp_path: Path, hook: Webhook) -> None:
    with served(tmp_path, hook) as (process, _):
        until(lambda: hook.titles == ["Beamsteer stop (night)"])
        folder = AlarmFolder(state.folder)
        until(lambda: [one.told for one in folder.alarms()] == [["hook"]])
        process.send_signal(signal.SIGKILL)
        process.wait()
    with served(tmp_path, hook) as (process, url):
        state.commit([("1", None), ("2", "psi is NaN")])  # something new is told, the old is not
        until(lambda: len(hook.titles) == 2)
        assert hook.titles[1] == "Beamsteer chunk set aside (night)"
        (stop,) = [
            one for one in httpx.get(f"{url}alarms").json()["alarms"] if one["kind"] == "stop"
        ]
        body = {"by": "Ada"}
        place = f"{url}alarms/{stop['id']}/acknowledge"
        foreign = httpx.post(place, json=body, headers={"Origin": "http://elsewhere.example"})
        assert foreign.status_code == 403
        assert httpx.post(place, json=body).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_real_worker_without_its_stream_is_told_and_its_death_too(tmp_path, hook):
    alarms = AlarmsSection(hold_s=0, kinds=("stream lost", "state stale"))
    experiment = with_absolute_files(small_experiment(), EXAMPLES)
    path = tmp_path / "experiment.yaml"
    dump_experiment(experiment.model_copy(update={"alarms": alarms}), path)
    state = tmp_path / "state"
    with socket.socket() as taken:  # a port where nobody publishes
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        options = ["--zmq", address, "-o", str(state), "--health-port", "0"]
        worker = subprocess.Popen(
            [sys.executable, "-m", "steering.cli", "consume", str(path), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with served(tmp_path, hook):
                until(lambda: "Beamsteer stream lost (consume)" in hook.titles, 60)
                worker.kill()
                worker.wait()
                since = time.monotonic()
                until(lambda: "Beamsteer state stale (consume)" in hook.titles, 20)
                assert time.monotonic() - since < 12  # silent for 7 s, looked at every 2 s
        finally:
            worker.kill()
            worker.wait()
    dead = hook.messages[hook.titles.index("Beamsteer state stale (consume)")]["message"]
    assert "has been silent" in dead
    assert len(hook.titles) == len(set(hook.titles))
