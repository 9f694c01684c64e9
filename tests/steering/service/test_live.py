"""A live experiment against a real Kafka: killed, restarted and rebalanced, to the same bits."""

from __future__ import annotations

import shutil
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from consumers.state import partition_folders, read_manifest
from consumers.transport import KafkaSection, KafkaSink, KafkaTopics, TapeWriter
from steering.experiment import build_measurement, load_experiment
from steering.service import LiveOptions, open_live
from steering.service.consuming import consume
from steering.service.fold_worker import FoldWorker
from tests.consumers.disturbed_stream import disturb
from tests.kafka_broker import Topics
from tests.steering.live_stream import (
    ListSource,
    as_raw,
    contents,
    live_experiment,
    live_measurement,
    live_scan,
)
from tests.steering.virtual_scan import EXAMPLES
from tests.steering.worker_host import Host
from tests.told import told_in_time

TOPICS = ("detector", "runInfo", "motion", "sampleEnv")


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    found = Host(tmp_path_factory.mktemp("host") / "log.txt")
    yield found
    found.close()


@pytest.fixture(scope="module")
def scan():
    return live_scan()


@pytest.fixture(scope="module")
def undisturbed(scan, tmp_path_factory):
    return folded_alone(scan, tmp_path_factory.mktemp("plain"))


def folded_alone(messages, state):
    """The same messages in order, folded by one worker without a broker."""
    worker = FoldWorker(live_measurement(), state=state, default_run="unnamed")
    consume(ListSource(as_raw(messages), worker), worker, stop=lambda: False, until_idle_s=0.0)
    worker.close()
    return contents(state)


@contextmanager
def sending(bootstrap, prefix):
    """A function that sends messages of a scan and waits until they have arrived."""
    section = KafkaSection(bootstrap_servers=bootstrap, topics=KafkaTopics(prefix=prefix))
    sink = KafkaSink(section)

    def send(messages):
        for topic, key, value in messages:
            sink.send(f"{prefix}_{topic}", value, key=key)
        sink.flush()

    yield send
    sink.close()


def topics_of(broker, partitions=1):
    topics = Topics(broker=broker)
    ours = ("folded", "estimates", "advice", "heartbeat", "dead_letters")
    topics(*TOPICS, *(f"beamsteer_{name}" for name in ours), partitions=partitions)
    return topics


def portions(messages, n):
    bounds = np.linspace(0, len(messages), n + 1).astype(int)
    return [messages[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def kill_many(host, broker, scan, state, *, kills, seed, partitions=1):
    """Send a disturbed scan piece by piece; kill the worker once in every piece.

    A third of the kills strikes at once when a file is half written, the others at random instants.
    Returns where the kills struck.
    """
    rng = np.random.default_rng(seed)
    topics = topics_of(broker, partitions)
    control = {"bootstrap": broker.bootstrap, "prefix": topics.prefix, "group": topics.prefix}
    messages = disturb(scan, seed=seed)
    struck = {"writing": 0, "random": 0, "beginning": 0}
    with sending(broker.bootstrap, topics.prefix) as send:
        for n, piece in enumerate(portions(messages, kills)):
            pid = host.start(state, idle_s=None, **control)
            send(piece)
            if n % 10 == 9:  # joining the group, finding its state
                time.sleep(rng.uniform(0.0, 2.0))
                where = "beginning"
            else:
                assert _owned(state, seconds=60.0)
                if n % 3 == 0 and _half_written(state, seconds=3.0):
                    where = "writing"
                else:
                    time.sleep(rng.uniform(0.0, 2.0))
                    where = "random"
            struck[where] += 1
            host.kill(pid)
        last = host.start(state, idle_s=4.0, **control)
        assert host.wait(last) == 0
    topics.remove()
    return struck


def _owned(state, seconds):
    """Wait until a worker has a partition's lock."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        inodes = {f":{p.stat().st_ino} " for p in state.glob("partition-*/lock")}
        if any(i in line for line in Path("/proc/locks").read_text().splitlines() for i in inodes):
            return True
        time.sleep(0.02)
    return False


def _half_written(state, seconds):
    """Wait until some file is being written; False when none was for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for folder in (state, *partition_folders(state)):
            if any(folder.rglob("*.partial")):
                return True
    return False


@pytest.mark.kafka
def test_a_killed_worker_leaves_the_same_bits(host, kafka, scan, undisturbed, tmp_path):
    struck = kill_many(host, kafka, scan, tmp_path, kills=4, seed=5)
    assert sum(struck.values()) == 4
    assert contents(tmp_path) == undisturbed
    sent = disturb(scan, seed=5)
    (folder,) = partition_folders(tmp_path)
    counters = read_manifest(folder).counters
    assert counters["duplicates"] == len(sent) - len(set(sent))  # restarts make none


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", [20261121])
def test_a_hundred_kills_leave_the_same_bits(host, kafka, tmp_path, seed):
    scan = live_scan(psis=tuple(np.arange(5.0, 65.0, 3.0)))
    alone = folded_alone(scan, tmp_path / "plain")
    began = time.monotonic()
    struck = kill_many(host, kafka, scan, tmp_path / "state", kills=100, seed=seed)
    found = contents(tmp_path / "state")
    (folder,) = partition_folders(tmp_path / "state")
    manifest = read_manifest(folder)
    sys.stdout.write(
        f"\nseed {seed}: {sum(struck.values())} SIGKILLs ({struck}), "
        f"{sum(v for k, v in manifest.counters.items() if k.startswith('messages.'))} messages, "
        f"{manifest.counters.get('duplicates', 0)} duplicates, "
        f"{manifest.counters.get('reopened', 0)} reopenings, {manifest.generation} manifests, "
        f"{len(found)} chunks, {time.monotonic() - began:.0f} s; equal to the undisturbed run: "
        f"{found == alone}\n"
    )
    assert found == alone


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.timeout(1200)
def test_a_broker_that_dies_and_comes_back_changes_nothing(
    host, own_kafka, scan, undisturbed, tmp_path
):
    topics = topics_of(own_kafka.broker)
    control = {
        "bootstrap": own_kafka.bootstrap,
        "prefix": topics.prefix,
        "group": topics.prefix,
        "session_s": 3.0,
    }
    pieces = portions(disturb(scan, seed=8), 4)
    pid = host.start(tmp_path, idle_s=None, **control)
    for n, piece in enumerate(pieces):
        with sending(own_kafka.bootstrap, topics.prefix) as send:
            send(piece)
        time.sleep(2.0)
        if n < 3:
            own_kafka.kill()
            time.sleep(1.0)
            own_kafka.start()
    time.sleep(10.0)
    host.kill(pid)
    assert host.wait(host.start(tmp_path, idle_s=5.0, **control)) == 0
    assert contents(tmp_path) == undisturbed


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.timeout(1200)
def test_two_workers_that_share_runs_and_are_killed_leave_the_same_bits(host, kafka, tmp_path):
    topics = topics_of(kafka, partitions=2)
    runs = [live_scan(run=name, seed=n) for n, name in enumerate(("one", "four", "seven", "ten"))]
    alone = {}
    for n, run in enumerate(runs):
        alone |= folded_alone(run, tmp_path / f"plain{n}")
    mixed = [m for group in zip(*runs, strict=True) for m in group]
    state = tmp_path / "state"
    control = {"bootstrap": kafka.bootstrap, "prefix": topics.prefix, "group": topics.prefix}
    rng = np.random.default_rng(17)
    workers = [host.start(state, idle_s=None, **control) for _ in range(2)]
    owners = set()
    with sending(kafka.bootstrap, topics.prefix) as send:
        for n, piece in enumerate(portions(disturb(mixed, seed=4), 8)):
            send(piece)
            time.sleep(rng.uniform(0.5, 3.0))
            host.kill(workers[n % 2])
            owners.add(n % 2)
            workers[n % 2] = host.start(state, idle_s=None, **control)
    time.sleep(5.0)
    for pid in workers:
        host.kill(pid)
    assert host.wait(host.start(state, idle_s=5.0, **control)) == 0
    assert {f.name for f in partition_folders(state)} == {"partition-0", "partition-1"}
    assert contents(state) == alone
    assert owners == {0, 1}


@contextmanager
def folding_a_tape(experiment, tmp_path, scan, **options):
    """A live experiment on a tape of a scan, which is written where it is not there."""
    tape = tmp_path / "tape"
    if not tape.exists():
        with TapeWriter(tape) as writer:
            writer.append(as_raw(scan))
    with open_live(
        experiment,
        experiment_dir=EXAMPLES,
        state=tmp_path / "state",
        options=LiveOptions(**({"run": "r", "tape": tape} | options)),
        measurement=build_measurement(experiment, EXAMPLES),
    ) as live:
        yield live


def everything_in(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def other_experiment(section, **changes):
    experiment = live_experiment()
    changed = getattr(experiment, section).model_copy(update=changes)
    return experiment.model_copy(update={section: changed})


@pytest.mark.parametrize(
    ("section", "changes", "options", "told"),
    [
        ("source", {"t0_us": 12.5}, {}, "source.t0_us was 0.0 and is 12.5"),
        ("source", {"psi_log": "s2"}, {}, 'source.psi_log was "s1" and is "s2"'),
        ("sample", {"psi_offset_deg": 3.0}, {}, "sample.psi_offset_deg was 0.0 and is 3.0"),
        ("parameters", {"cutoff_A": 4.35}, {}, "parameters.cutoff_A was"),
        ("title", None, {"psi_deg": 4.0}, "psi_deg was null and is 4.0"),
    ],
)
def test_a_state_of_another_experiment_is_refused_and_says_which_key(
    section, changes, options, told, scan, tmp_path
):
    """Also a correction that only the source section has: half a dwell would be folded with it."""
    with folding_a_tape(live_experiment(), tmp_path, scan[:200]) as live:
        live.consume(lambda: False, until_idle_s=0.0)
    assert load_experiment(tmp_path / "state" / "experiment.yaml").path == live_experiment().path
    before = everything_in(tmp_path / "state")
    other = live_experiment() if changes is None else other_experiment(section, **changes)
    with (
        told_in_time(),
        pytest.raises(ValueError, match="Expected the experiment that it was folded") as refused,
        folding_a_tape(other, tmp_path, scan, **options),
    ):
        pass
    assert told in str(refused.value)
    assert everything_in(tmp_path / "state") == before
    with folding_a_tape(other_experiment("source", lateness_s=7.0), tmp_path, scan) as live:
        live.consume(lambda: False, until_idle_s=0.0)  # it changes no fold


def test_a_file_that_changed_is_another_experiment_and_one_that_moved_is_not(scan, tmp_path):
    masks = [tmp_path / name for name in ("mask.txt", "moved.txt", "changed.txt")]
    ids = live_measurement().instrument.detector_id[:3]
    for mask, n in zip(masks, (2, 2, 3), strict=True):
        mask.write_text(" ".join(str(i) for i in ids[:n]))
    experiments = [other_experiment("instrument", mask=str(mask)) for mask in masks]
    for experiment in experiments[:2]:
        with folding_a_tape(experiment, tmp_path, scan[:200]) as live:
            live.consume(lambda: False, until_idle_s=0.0)
    with (
        told_in_time(),
        pytest.raises(ValueError, match=r"instrument.mask was sha256:\w+... and is sha256:"),
        folding_a_tape(experiments[2], tmp_path, scan),
    ):
        pass


def test_nothing_is_written_into_a_folder_that_another_worker_holds(scan, tmp_path):
    other = other_experiment("source", lateness_s=7.0)
    with folding_a_tape(live_experiment(), tmp_path, scan) as live:
        assert live.source.poll(0)
        before = everything_in(tmp_path / "state")
        with (
            told_in_time(),
            pytest.raises(BlockingIOError, match="another process owns this partition"),
            folding_a_tape(other, tmp_path, scan) as second,
        ):
            second.consume(lambda: False, until_idle_s=0.0)
        assert everything_in(tmp_path / "state") == before


def test_a_partition_from_another_state_is_refused(scan, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with folding_a_tape(live_experiment(), tmp_path / name, scan[:200]) as live:
            live.consume(lambda: False, until_idle_s=0.0)
    ours, theirs = (tmp_path / name / "state" / "partition-0" for name in ("a", "b"))
    shutil.rmtree(ours)
    shutil.copytree(theirs, ours)
    with (
        told_in_time(),
        pytest.raises(ValueError, match=r"state_id is \w+; expected \w+, that of state.json"),
        folding_a_tape(live_experiment(), tmp_path / "a", scan) as live,
    ):
        live.consume(lambda: False, until_idle_s=0.0)


def test_an_experiment_without_a_live_source_says_how_to_name_one(tmp_path):
    with (
        pytest.raises(ValueError, match="Give --kafka HOST:PORT"),
        open_live(
            live_experiment(),
            experiment_dir=EXAMPLES,
            state=tmp_path,
            options=LiveOptions(run=str(uuid.uuid4())),
            measurement=live_measurement(),
        ),
    ):
        pass
