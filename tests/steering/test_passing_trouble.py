"""What passes by itself, or concerns one message, never ends a worker for good."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from consumers.state import PartitionLock, read_manifest
from consumers.transport import (
    DeadLetters,
    KafkaSection,
    KafkaTopics,
    TapeReader,
    TapeSink,
    TapeWriter,
)
from steering.cli import run as beamsteer
from steering.experiment import dump_experiment, with_absolute_files
from steering.service import LiveOptions, open_live
from steering.service.consuming import consume
from steering.service.fold_worker import FoldWorker, Patience
from steering.service.health import Verdict as Health
from steering.service.health import judge_readiness
from tests.steering.live_stream import (
    ListSource,
    as_raw,
    contents,
    live_experiment,
    live_measurement,
    live_scan,
)
from tests.steering.service.test_live import sending, topics_of
from tests.steering.service.test_publishing import kept
from tests.steering.virtual_scan import EXAMPLES
from tests.told import TOLD_S, told_in_time

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = Patience(settle_s=2.0, lateness_s=300.0, turn_s=0.0, commit_s=0.0)
PSI = (5.0, 17.0, 29.0)


@pytest.fixture(scope="module")
def messages():
    return live_scan(psis=PSI)


@pytest.fixture(scope="module")
def undisturbed(messages, tmp_path_factory):
    state = tmp_path_factory.mktemp("plain")
    fold(state, as_raw(messages))
    return contents(state)


def fold(state, raws):
    worker = FoldWorker(
        live_measurement(),
        state=state,
        default_run="unnamed",
        patience=PATIENCE,
    )
    consume(ListSource(raws, worker), worker, stop=lambda: False, until_idle_s=0.0)
    worker.close()
    return worker


def buried(state):
    """Messages on the tape of dead letters."""
    found = []
    if not any((state / "dead_letters").glob("*.tape")):
        return found
    with TapeReader(state / "dead_letters") as reader:
        while (message := reader.read()) is not None:
            found.append(message[0])
    return found


def until(done, seconds=90.0):
    """Wait until something is done."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def breathe():
    """What waiting for messages would do."""
    time.sleep(0.02)


SHORT_OF_HANDLES = """
import json, os, resource, sys, time
from pathlib import Path
from consumers.recorded import open_hdf5
from consumers.state import read_recording
from simulations.errors import StorageError
from steering.service.consuming import consume
from steering.service.fold_worker import FoldWorker
from tests.steering.live_stream import ListSource, as_raw, live_measurement, live_scan
from tests.steering.test_passing_trouble import PATIENCE, PSI, fold

state = Path(sys.argv[1])
raws = as_raw(live_scan(psis=PSI))
fold(state / "warm", raws)  # everything is compiled and loaded
recording = next((state / "warm").rglob("*.nxs.h5"))
limit = resource.getrlimit(resource.RLIMIT_NOFILE)
reasons, read, took_s = [], [], []


def shut():
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limit[1]))


def open_again():
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)


worker = FoldWorker(
    live_measurement(), state=state / "state", default_run="unnamed", patience=PATIENCE
)
source = ListSource(raws, worker)


def trouble():
    global since
    if worker.stuck():
        took_s.append(time.monotonic() - since)
        reasons.append(worker.status().error)
        open_again()
    elif not reasons and resource.getrlimit(resource.RLIMIT_NOFILE) == limit:
        with worker._busy:  # between two turns, when none of their handles is open
            shut()
            since = time.monotonic()


consume(source, worker, stop=lambda: False, until_idle_s=0.1, each=trouble)
worker.close()
shut()
for attempt in (lambda: read_recording(recording), lambda: open_hdf5(recording).__enter__()):
    try:
        attempt()
    except StorageError as error:
        read.append(str(error))
open_again()
print(json.dumps({"reasons": reasons, "read": read, "took_s": took_s}))
"""


def test_too_many_open_files_pause_the_worker_and_set_nothing_aside(
    messages, undisturbed, tmp_path
):
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_HANDLES, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["reasons"]
    assert "Too many open files" in told["reasons"][0]
    assert max(told["took_s"]) < TOLD_S
    assert len(told["read"]) == 2
    assert all("cannot be read now (Too many open files)" in text for text in told["read"])
    assert contents(tmp_path / "state") == undisturbed


def test_file_handles_that_stay_away_end_the_worker_with_75_and_a_restart_goes_on(
    messages, undisturbed, tmp_path
):
    file, state = tmp_path / "experiment.yaml", tmp_path / "state"
    experiment = live_experiment(lateness_s=300.0, settle_s=0.2, storage_s=0.5)
    dump_experiment(with_absolute_files(experiment, EXAMPLES), file)
    raws, half = as_raw(messages), len(messages) // 2
    command = ["consume", str(file), "--tape", str(tmp_path / "tape"), "-o", str(state)]
    command += ["--health-port", "0"]
    with TapeWriter(tmp_path / "tape") as tape:
        tape.append(raws[:half])
        worker = subprocess.Popen(
            [sys.executable, "-m", "steering.cli", *command],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            until(lambda: (found := read_manifest(state / "partition-0")) and found.runs, 60.0)
            _, most = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (3, most))  # those it has stay
            since = time.monotonic()
            tape.append(raws[half:])
            _, told = worker.communicate(timeout=60)
        finally:
            worker.kill()
            worker.wait()
    assert worker.returncode == 75, told
    assert time.monotonic() - since < TOLD_S
    assert "Too many open files" in " ".join(told.split())
    assert "Traceback" not in told
    assert beamsteer([*command, "--until-idle", "0.5"]) == 0
    assert contents(state) == undisturbed


@pytest.mark.parametrize("fate", ["deleted", "cut", "foreign"])
def test_a_late_log_to_a_dwell_whose_recording_is_gone_is_a_dead_letter(
    fate, messages, undisturbed, tmp_path
):
    """The recording of the second dwell; its psi comes after it has closed."""
    late = [m for m in messages if m[0] == "motion"][1]
    early = [m for m in messages if m is not late]
    folded_once = tmp_path / "state"
    fold(folded_once, as_raw(early))
    folder = folded_once / "partition-0"
    before = read_manifest(folder)
    (recording,) = folder.rglob("night-101.*.nxs.h5")
    if fate == "deleted":
        recording.unlink()
    elif fate == "cut":
        os.truncate(recording, recording.stat().st_size // 2)
    else:
        recording.write_bytes(b"not HDF5 at all")
    more = [(topic, b"day", value) for topic, _, value in live_scan("day", (41.0,), seed=2)]
    with closing(TapeSink(folded_once / "dead_letters")) as letters:
        worker = FoldWorker(
            live_measurement(),
            state=folded_once,
            default_run="unnamed",
            patience=Patience(lateness_s=300.0),
            dead_letters=DeadLetters(letters, "dead"),
        )
        source = ListSource(as_raw([*early, late, *more]), worker)
        since = time.monotonic()
        consume(source, worker, stop=lambda: bool(buried(folded_once)), each=breathe)
        assert time.monotonic() - since < TOLD_S
        consume(source, worker, stop=lambda: False, until_idle_s=0.0)
        worker.close()
    (letter,) = buried(folded_once)
    assert letter.value == late[2]
    assert "whose recording cannot be read" in dict(letter.headers)["reason"].decode()
    after = read_manifest(folder)
    assert after.runs["night"] == before.runs["night"]
    assert [c.status for c in after.runs["day"].chunks] == ["folded"]


@pytest.mark.parametrize("policy", ["dead-letter", "skip", "stop"])
def test_what_becomes_of_a_message_that_cannot_be_decoded_is_the_experiment_s_to_say(
    policy, messages, undisturbed, tmp_path, capsys
):
    bad = ("detector", b"night", b"rubbish")
    file, state = tmp_path / "experiment.yaml", tmp_path / "state"
    experiment = live_experiment(lateness_s=300.0, undecodable=policy)
    dump_experiment(with_absolute_files(experiment, EXAMPLES), file)
    with TapeWriter(tmp_path / "tape") as tape:
        tape.append(as_raw([*messages[:100], bad, *messages[100:]]))
    command = ["consume", str(file), "--tape", str(tmp_path / "tape"), "-o", str(state)]
    command += ["--until-idle", "0.2", "--health-port", "0", "--json"]
    with told_in_time():
        ended = beamsteer(command)
    told = capsys.readouterr()
    if policy == "stop":
        assert ended == 2
        assert "cannot be used" in " ".join(told.err.split())
        file.write_text(file.read_text().replace("undecodable: stop", "undecodable: skip"))
        assert beamsteer(command) == 0  # somebody has edited it
        told = capsys.readouterr()
    else:
        assert ended == 0
    skipped = policy != "dead-letter"
    assert ("message_skipped" if skipped else "message_set_aside") in told.err
    counters = json.loads(told.out[told.out.rindex("\n{\n") :])["counters"]
    assert counters.get("dead_letters.message", 0) == (not skipped)
    assert counters.get("skipped", 0) == skipped
    assert [letter.value for letter in buried(state)] == ([] if skipped else [bad[2]])
    assert contents(state) == undisturbed


def test_a_dead_letter_is_told_within_ten_seconds_while_no_chunk_closes(messages, tmp_path):
    """By the times that a worker has unless told otherwise."""
    bad = ("detector", b"night", b"rubbish")
    with closing(TapeSink(tmp_path / "dead_letters")) as letters:
        worker = FoldWorker(
            live_measurement(),
            state=tmp_path,
            default_run="unnamed",
            dead_letters=DeadLetters(letters, "dead"),
        )
        source = ListSource(as_raw(messages[:60]), worker)
        consume(source, worker, stop=lambda: not source.rest, each=breathe)
        (raw,) = as_raw([bad])
        worker.accept(replace(raw, offset=1000))
        since = time.monotonic()
        assert worker.status().counters["dead_letters.message"] == 1
        consume(source, worker, stop=lambda: bool(buried(tmp_path)), each=breathe)
        assert time.monotonic() - since < TOLD_S
        worker.close()


def test_a_state_folder_that_is_locked_ends_with_75(messages, undisturbed, tmp_path, capsys):
    file = tmp_path / "experiment.yaml"
    dump_experiment(with_absolute_files(live_experiment(lateness_s=300.0), EXAMPLES), file)
    with TapeWriter(tmp_path / "tape") as tape:
        tape.append(as_raw(messages))
    state = tmp_path / "state"
    command = ["consume", str(file), "--tape", str(tmp_path / "tape"), "-o", str(state)]
    command += ["--until-idle", "0.2", "--health-port", "0"]
    lock = PartitionLock(state / "partition-0")
    since = time.monotonic()
    assert beamsteer(command) == 75
    assert time.monotonic() - since < TOLD_S
    assert "another process owns this partition" in " ".join(capsys.readouterr().err.split())
    lock.release()
    assert beamsteer(command) == 0
    assert contents(state) == undisturbed
    assert beamsteer([*command, "--psi", "3"]) == 2
    assert "psi_deg was null and is 3.0" in " ".join(capsys.readouterr().err.split())


@pytest.mark.kafka
def test_a_message_larger_than_allowed_is_a_dead_letter_and_the_rest_goes_on(
    messages, undisturbed, kafka, tmp_path
):
    topics = topics_of(kafka)
    names = KafkaTopics(prefix=topics.prefix, reduced=None, bluesky=None)
    section = KafkaSection(
        bootstrap_servers=kafka.bootstrap,
        topics=names,
        group=topics.prefix,
        max_message_bytes=50_000,
    )
    experiment = live_experiment(kind="kafka", lateness_s=300.0, settle_s=0.5)
    source = experiment.source.model_copy(update={"kafka": section})
    experiment = experiment.model_copy(update={"source": source})
    with sending(kafka.bootstrap, topics.prefix) as send:
        send([*messages[:200], ("detector", b"night", bytes(80_000)), *messages[200:]])
    with open_live(
        experiment,
        experiment_dir=EXAMPLES,
        state=tmp_path,
        options=LiveOptions(run="unnamed"),
        measurement=live_measurement(),
    ) as live:
        live.consume(lambda: False, until_idle_s=4.0)
        counters = live.worker_status().counters
    topics.remove()
    assert counters["dead_letters.message"] == 1
    assert contents(tmp_path) == undisturbed


@pytest.mark.kafka
def test_a_topic_of_dead_letters_that_goes_is_told_and_nothing_is_committed_until_it_is_back(
    messages, undisturbed, kafka, tmp_path
):
    topics = topics_of(kafka)
    names = KafkaTopics(prefix=topics.prefix, reduced=None, bluesky=None)
    dead = str(names.name("dead_letters"))
    section = KafkaSection(
        bootstrap_servers=kafka.bootstrap,
        topics=names,
        group=topics.prefix,
        connect_timeout_s=2.0,
    )
    experiment = live_experiment(kind="kafka", lateness_s=300.0, settle_s=0.5)
    source = experiment.source.model_copy(update={"kafka": section})
    experiment = experiment.model_copy(update={"source": source})
    half = len(messages) // 2
    rubbish = [("detector", b"night", b"rubbish")]
    rubbish += [("detector", b"night", bytes([n]) * 5_000_000) for n in range(15)]
    with (
        open_live(
            experiment,
            experiment_dir=EXAMPLES,
            state=tmp_path,
            options=LiveOptions(run="unnamed"),
            measurement=live_measurement(),
        ) as live,
        sending(kafka.bootstrap, topics.prefix) as send,
    ):
        stop = threading.Event()
        loop = threading.Thread(target=live.consume, args=(stop.is_set,))
        loop.start()
        try:
            send(messages[:half])
            until(lambda: sum(live.worker_status().chunks.values()) > 0)
            topics.remove(dead)
            since = time.monotonic()
            until(lambda: any(dead in warning for warning in live.worker_status().warnings))
            assert time.monotonic() - since < TOLD_S
            send([*rubbish[:1], *messages[half:]])
            until(lambda: live.worker_status().counters.get("dead_letters.message"))
            before = read_manifest(tmp_path / "partition-0")
            until(lambda: "dead letters could not be sent" in (live.worker_status().error or ""))
            assert read_manifest(tmp_path / "partition-0") == before
            send(rubbish[1:])
            since = time.monotonic()
            until(lambda: live.worker.stuck() == {0})
            assert time.monotonic() - since < TOLD_S
            told = judge_readiness(live.worker_status(), Health()).reasons[0]
            assert re.search(r"1\d dead letters \(\d+ MB\) of partition-0 cannot be sent", told)
            topics(dead.removeprefix(f"{topics.prefix}_"))
            until(lambda: live.worker_status().chunks.get("night") == len(PSI))
            until(
                lambda: read_manifest(tmp_path / "partition-0").counters.get("dead_letters") == 16
            )
            until(lambda: not live.worker_status().error)
        finally:
            stop.set()
            loop.join()
    assert {value for _, value in kept(kafka.bootstrap, dead, 16)} == {m[2] for m in rubbish}
    topics.remove()
    assert contents(tmp_path) == undisturbed
