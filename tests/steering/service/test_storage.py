"""A state folder on a real file system that is full: nothing is settled, nothing is lost."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from consumers.state import HeldBound, read_manifest
from consumers.transport import (
    DeadLetters,
    KafkaSection,
    KafkaTopics,
    Taped,
    TapeReader,
    TapeSink,
    TapeWriter,
)
from consumers.wire import RawMessage
from simulations.errors import StorageError
from steering.cli import run as beamsteer
from steering.experiment import dump_experiment, with_absolute_files
from steering.service import LiveOptions, open_live, service_registry
from steering.service.consuming import consume
from steering.service.fold_worker import FoldWorker, Patience
from steering.service.health import Verdict as Health
from steering.service.health import judge_readiness, status_json
from steering.service.storage import DiskWatch, WriteTrouble
from tests.steering.live_stream import (
    ListSource,
    as_raw,
    contents,
    live_experiment,
    live_measurement,
    live_scan,
)
from tests.steering.service.test_live import sending, topics_of
from tests.steering.virtual_scan import EXAMPLES
from tests.told import TOLD_S, told_in_time

PATIENCE = Patience(settle_s=2.0, lateness_s=300.0, turn_s=0.0, commit_s=0.0)
PSI = (5.0, 17.0, 29.0)
BAD = ("detector", b"night", b"rubbish")


@pytest.fixture(scope="module")
def messages():
    scan = live_scan(psis=PSI)
    return [*scan[:60], BAD, *scan[60:]]


@pytest.fixture(scope="module")
def undisturbed(messages, tmp_path_factory):
    state = tmp_path_factory.mktemp("plain")
    worker = worker_on(state)
    consume(ListSource(as_raw(messages), worker), worker, stop=lambda: False, until_idle_s=0.0)
    worker.close()
    return contents(state)


class Worker(FoldWorker):
    """A fold worker that closes the tape of its dead letters."""

    def close(self):
        try:
            super().close()
        finally:
            self._dead_letters.sink.close()

    def abandon(self):
        super().abandon()
        self._dead_letters.sink.close()


def worker_on(state, held=None, **patience):
    return Worker(
        live_measurement(),
        state=state,
        default_run="unnamed",
        patience=replace(PATIENCE, **patience),
        held=held,
        dead_letters=DeadLetters(TapeSink(state / "dead_letters"), "dead"),
    )


def buried(state):
    """Values on the tape of dead letters."""
    found = []
    with TapeReader(state / "dead_letters") as reader:
        while (message := reader.read()) is not None:
            found.append(message[0].value)
    return found


def until(done, seconds=20.0):
    """Try until something is done."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("left_bytes", "file"),
    [
        (0, "manifest.json"),
        (60_000, "nxs.h5"),
        (200_000, "safetensors"),
    ],
)
def test_a_disk_that_is_full_at_any_write_loses_nothing(
    left_bytes, file, messages, undisturbed, small_disk
):
    state = small_disk.folder / "state"
    worker = worker_on(state)
    source = ListSource(as_raw(messages), worker)
    small_disk.fill(left_bytes)
    since = time.monotonic()
    while not worker.stuck():
        for raw in source.poll(0):
            worker.accept(raw)
        worker.turn()
    assert time.monotonic() - since < TOLD_S
    assert worker.stuck() == {0}
    manifest = read_manifest(state / "partition-0")
    before = worker.settled()
    verdict = judge_readiness(worker.status(), Health())
    assert not verdict.ok
    assert "partition 0 is paused" in verdict.reasons[0]
    assert f"{file} cannot be written (" in verdict.reasons[0]
    assert "No space left on device" in verdict.reasons[0]
    for _ in range(2):  # it is tried again, in vain
        until(lambda: not worker._partitions[0].trouble.waits)
        assert not worker.turn()
    assert read_manifest(state / "partition-0") == manifest
    assert worker.settled() == before
    assert not list(state.rglob("*.partial"))
    small_disk.make_room()
    until(lambda: worker.turn() or not worker.stuck())
    assert judge_readiness(worker.status(), Health()).ok
    consume(source, worker, stop=lambda: False, until_idle_s=0.0)
    worker.close()
    assert contents(state) == undisturbed
    assert buried(state) == [BAD[2]]


def test_open_dwells_that_find_no_room_hold_everything_back(messages, undisturbed, small_disk):
    """Events beyond memory wait on disk; a full one is waited for, like at any other write."""
    small_disk.grow(128 * 2**20)
    state = small_disk.folder / "state"
    worker = worker_on(state, held=HeldBound(limit_bytes=0))
    source = ListSource(as_raw(messages), worker)
    small_disk.fill(50_000_000)  # for chunks, not for the file that open dwells take
    with told_in_time():
        for raw in source.poll(0):
            worker.accept(raw)
        assert not worker.turn()
    assert "events of open dwells cannot be written (" in worker.status().error
    assert worker.stuck() == {0}
    small_disk.make_room()
    until(lambda: worker.turn() or not worker.stuck())
    consume(source, worker, stop=lambda: False, until_idle_s=0.0)
    worker.close()
    assert contents(state) == undisturbed
    assert buried(state) == [BAD[2]]


def test_dead_letters_that_find_no_room_hold_everything_back(messages, undisturbed, small_disk):
    state = small_disk.folder / "state"
    raws = as_raw(messages)
    worker = worker_on(state)
    source = ListSource(raws, worker, batch=61)
    small_disk.fill()
    with told_in_time():
        for raw in source.poll(0):
            worker.accept(raw)
        assert not worker.turn()
    assert "the tape of dead letters cannot be written" in worker.status().error
    assert read_manifest(state / "partition-0") is None
    small_disk.make_room()
    until(worker.turn)
    assert buried(state) == [BAD[2]]
    consume(source, worker, stop=lambda: False, until_idle_s=0.0)
    worker.close()
    assert contents(state) == undisturbed


def test_a_stream_waits_while_the_disk_is_full_and_goes_on_by_itself(
    messages, undisturbed, small_disk
):
    """The disk fills again and again while the worker runs; each time somebody makes room."""
    state = small_disk.folder / "state"
    worker = worker_on(state)
    source = ListSource(as_raw(messages), worker)
    stuck, since = [], None

    def trouble():
        nonlocal since
        if len(stuck) < 3 and not worker.stuck():
            small_disk.fill(100_000 * (1 + len(stuck)))
            since = since or time.monotonic()
        elif worker.stuck():
            assert since is None or time.monotonic() - since < TOLD_S
            since = None
            rest = len(source.rest)
            if not stuck or stuck[-1] != rest:
                stuck.append(rest)
            small_disk.make_room()

    consume(source, worker, stop=lambda: False, until_idle_s=0.2, each=trouble)
    worker.close()
    assert stuck
    assert contents(state) == undisturbed


def test_a_worker_that_dies_on_a_full_disk_leaves_the_manifest_before(
    messages, undisturbed, small_disk
):
    state = small_disk.folder / "state"
    for left in (0, 80_000, 400_000):
        worker = worker_on(state, storage_s=0.0)
        small_disk.fill(left)
        with (
            told_in_time(),
            pytest.raises(
                StorageError,
                match=r"nothing could be written for 0 s|state\.json cannot be written",
            ),
        ):
            consume(
                ListSource(as_raw(messages), worker),
                worker,
                stop=lambda: False,
                until_idle_s=0.0,
            )
        worker.abandon()
        small_disk.make_room()
    worker = worker_on(state)
    consume(ListSource(as_raw(messages), worker), worker, stop=lambda: False, until_idle_s=0.0)
    worker.close()
    assert contents(state) == undisturbed


def test_a_partition_that_goes_while_the_disk_is_full_is_read_again(
    messages, undisturbed, small_disk
):
    state = small_disk.folder / "state"
    first = worker_on(state)
    source = ListSource(as_raw(messages), first)
    small_disk.fill(200_000)
    while not first.stuck():
        for raw in source.poll(0):
            first.accept(raw)
        first.turn()
    manifest = read_manifest(state / "partition-0")
    with (
        told_in_time(),
        pytest.raises(StorageError, match="what came last was not written: .* start again"),
    ):
        first.close()
    assert read_manifest(state / "partition-0") == manifest
    small_disk.make_room()
    second = worker_on(state)
    consume(ListSource(as_raw(messages), second), second, stop=lambda: False, until_idle_s=0.0)
    second.close()
    assert contents(state) == undisturbed


@pytest.mark.parametrize("inside", [".", "night/recorded", "night/chunks"])
def test_a_folder_that_becomes_read_only_while_a_worker_runs_holds_everything_back(
    inside, messages, undisturbed, small_disk
):
    state = small_disk.folder / "state"
    worker = worker_on(state)
    source = ListSource(as_raw(messages), worker, batch=len(messages) // 2)
    for raw in source.poll(0):
        worker.accept(raw)
    until(lambda: worker.turn() and worker.status().chunks)
    before = read_manifest(state / "partition-0")
    assert before is not None
    for raw in source.poll(0):
        worker.accept(raw)
    with small_disk.read_only_folder(state / "partition-0" / inside):
        since = time.monotonic()
        until(lambda: worker.turn() or worker.stuck())
        assert time.monotonic() - since < TOLD_S
        verdict = judge_readiness(worker.status(), Health())
        assert "partition 0 is paused" in verdict.reasons[0]
        assert "Read-only file system" in verdict.reasons[0]
        assert read_manifest(state / "partition-0").runs == before.runs
    until(lambda: worker.turn() or not worker.stuck())
    assert judge_readiness(worker.status(), Health()).ok
    consume(source, worker, stop=lambda: False, until_idle_s=0.0)
    worker.close()
    assert contents(state) == undisturbed
    assert buried(state) == [BAD[2]]


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_the_command_ends_with_75_when_nothing_can_be_written_for_long(
    trouble, messages, undisturbed, small_disk, tmp_path, capsys
):
    experiment = live_experiment(storage_s=0.5, lateness_s=300.0)
    file = tmp_path / "experiment.yaml"
    dump_experiment(with_absolute_files(experiment, EXAMPLES), file)
    with TapeWriter(tmp_path / "tape") as tape:
        tape.append(as_raw(messages))
    state = small_disk.folder / "state"
    command = ["consume", str(file), "--tape", str(tmp_path / "tape"), "-o", str(state)]
    command += ["--until-idle", "0.5", "--health-port", "0"]
    if trouble == "full":
        small_disk.fill(200_000)
    else:
        small_disk.read_only()
    with told_in_time():
        assert beamsteer(command) == 75
    told = " ".join(capsys.readouterr().err.split())
    assert ("No space left" if trouble == "full" else "Read-only file system") in told
    assert "Traceback" not in told
    small_disk.make_room() if trouble == "full" else small_disk.read_only(False)
    assert beamsteer(command) == 0
    assert contents(state) == undisturbed


def test_a_disk_that_is_nearly_full_is_told_before_anything_fails(small_disk):
    state = small_disk.folder / "state"
    worker = worker_on(state)
    worker.take(0)
    with capture_logs() as logs:
        worker.turn()
    status = worker.status()
    assert status.free_bytes == small_disk.free_bytes < status.reserve_bytes
    verdict = judge_readiness(status, Health())
    assert verdict.ok
    assert "MB free; expected at least" in verdict.warnings[0]
    assert status_json(status)["warnings"] == list(verdict.warnings)
    assert "disk_nearly_full" in [line["event"] for line in logs]
    registry, _ = service_registry(lambda: status)
    assert registry.get_sample_value("beamsteer_state_free_bytes") == status.free_bytes
    assert registry.get_sample_value("beamsteer_state_reserve_bytes") == status.reserve_bytes
    worker.close()


def test_a_disk_that_fills_while_a_worker_runs_is_told_within_ten_seconds(small_disk):
    small_disk.grow(128 * 2**20)
    worker = worker_on(small_disk.folder / "state")
    worker.take(0)
    worker.turn()
    assert not judge_readiness(worker.status(), Health()).warnings
    small_disk.fill(30 * 2**20)
    since = time.monotonic()
    until(lambda: worker.turn() or judge_readiness(worker.status(), Health()).warnings)
    assert time.monotonic() - since < TOLD_S
    small_disk.make_room()
    until(lambda: worker.turn() or not judge_readiness(worker.status(), Health()).warnings)
    worker.close()


def test_the_reserve_grows_with_what_was_written(tmp_path):
    now = [0.0]
    watch = DiskWatch(tmp_path, monotonic=lambda: now[0])
    watch.look()
    least = watch.reserve_bytes
    for name, size in (("a.h5", 60_000_000), ("b.h5", 10), ("c.safetensors", 50_000_000)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
        watch.wrote(tmp_path / name)
    watch.look()
    assert watch.reserve_bytes == least  # looked just now
    now[0] = 60.0
    watch.look(lambda: 7)
    assert watch.reserve_bytes == 4 * 110_000_000 + 7


def test_trouble_is_tried_again_at_growing_intervals_until_patience_ends():
    now, pauses = [0.0], []
    trouble = WriteTrouble("partition 3", patience_s=60.0, monotonic=lambda: now[0])
    full = OSError(28, "No space left on device")
    while now[0] < 60.0:
        trouble.failed(full)
        began = now[0]
        while trouble.waits:
            now[0] += 0.25
        pauses.append(now[0] - began)
    assert pauses[:6] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    with pytest.raises(StorageError, match="partition 3: nothing could be written for 6"):
        trouble.failed(full)
    trouble.over()
    assert trouble.reason is None


def test_a_stream_over_zmq_waits_for_room_on_its_tape(small_disk):
    """What came before and while the disk was full is on the tape, once and in order."""
    values = [bytes([n]) * 40_000 for n in range(200)]

    class Endless:
        connected = True

        def __init__(self):
            self.rest = [RawMessage(topic="t", partition=0, offset=0, value=v) for v in values]

        def poll(self, timeout_s):
            batch, self.rest = self.rest[:5], self.rest[5:]
            if not batch:
                time.sleep(0.01)
            return batch

        def close(self):
            pass

    small_disk.fill(1_000_000)
    tape = TapeWriter(small_disk.folder / "tape", segment_bytes=300_000)
    taped = Taped(Endless(), tape)
    got = []
    since = time.monotonic()
    until(lambda: got.extend(taped.poll(0.0)) or taped.trouble)
    assert time.monotonic() - since < TOLD_S
    assert "No space left" in taped.trouble
    assert len(got) < 30
    small_disk.make_room()
    until(lambda: got.extend(taped.poll(0.0)) or len(got) == len(values))
    assert taped.trouble is None
    taped.close()
    assert [m.value for m in got] == values
    assert [m.offset for m in got] == list(range(len(values)))


@pytest.mark.kafka
def test_a_partition_of_a_broker_is_paused_and_resumed(messages, undisturbed, kafka, small_disk):
    """The worker stays in its group, reads nothing more, and goes on by itself."""
    topics = topics_of(kafka)
    names = KafkaTopics(prefix=topics.prefix, reduced=None, bluesky=None)
    section = KafkaSection(bootstrap_servers=kafka.bootstrap, topics=names, group=topics.prefix)
    experiment = live_experiment(kind="kafka", lateness_s=300.0)
    source = experiment.source.model_copy(update={"kafka": section})
    experiment = experiment.model_copy(update={"source": source})
    state = small_disk.folder / "state"
    with (
        open_live(
            experiment,
            experiment_dir=EXAMPLES,
            state=state,
            options=LiveOptions(run="unnamed"),
            measurement=live_measurement(),
        ) as live,
        sending(kafka.bootstrap, topics.prefix) as send,
    ):
        stop = threading.Event()
        loop = threading.Thread(target=live.consume, args=(stop.is_set,))
        loop.start()
        try:
            until(lambda: live.worker_status().partitions == (0,), 60)
            small_disk.fill(400_000)
            half = len(messages) // 2
            send(messages[:half])
            since = time.monotonic()
            until(lambda: live.worker.stuck() == {0}, 60)
            assert time.monotonic() - since < TOLD_S
            until(lambda: live.source._paused == {0})
            send(messages[half:])
            until(lambda: sum(live.worker_status().lag.values()) > 0, 60)
            status = live.worker_status()
            assert "partition 0 is paused" in judge_readiness(status, Health()).reasons[0]
            assert status.connected
            small_disk.make_room()
            until(lambda: not live.worker.stuck(), 60)
            until(lambda: sum(live.worker_status().chunks.values()) == len(PSI), 60)
        finally:
            stop.set()
            loop.join()
    topics.remove()
    assert contents(state) == undisturbed
