import itertools
import os
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from consumers.recorded import recorded_source
from consumers.recorded.stream import stream_of_files
from consumers.state import Bounds, HeldBound, read_manifest
from consumers.transport import DeadLetters
from consumers.wire import (
    Events,
    LogSample,
    RawMessage,
    RunBegins,
    RunEnds,
    decode,
    encode_events,
    encode_log,
    encode_run_begins,
    encode_run_ends,
)
from simulations.errors import InputError, StorageError
from steering.experiment import build_measurement, load_experiment
from steering.run import Run
from steering.service.consuming import consume
from steering.service.fold_worker import FoldWorker, Patience
from steering.service.retaining import Kept
from tests.consumers.disturbed_stream import disturb
from tests.consumers.hostile_messages import mutants
from tests.steering.live_stream import (
    BEGIN,
    PSI,
    ListSource,
    as_raw,
    contents,
    live_measurement,
    live_scan,
)
from tests.steering.virtual_scan import EXAMPLES
from tests.told import told_in_time


@pytest.fixture(scope="module")
def measurement():
    return live_measurement()


@pytest.fixture(scope="module")
def messages():
    return live_scan()


PATIENCE = Patience(settle_s=2.0, lateness_s=300.0, turn_s=0.0, commit_s=0.0)


class Letters:
    """A sink that keeps what it gets, or fails."""

    def __init__(self):
        self.got, self.broken = [], False

    def send(self, topic, value, *, key=None, headers=()):
        self.got.append((topic, value, key, dict(headers)))

    def flush(self, timeout_s=30.0):
        if self.broken:
            self.got.clear()
            raise ConnectionError("no broker answers")

    def close(self):
        pass


def worker_of(measurement, state, **more):
    options = {"default_run": "unnamed", "patience": PATIENCE} | more
    return FoldWorker(measurement, state=state, **options)


def fold(measurement, state, raws, **more):
    """Everything to its end by one worker; returns it."""
    worker = worker_of(measurement, state, **more)
    source = ListSource(raws, worker)
    consume(source, worker, stop=lambda: False, until_idle_s=0.0)
    worker.close()
    return worker, source


@pytest.fixture(scope="module")
def undisturbed(measurement, messages, tmp_path_factory):
    state = tmp_path_factory.mktemp("plain")
    fold(measurement, state, as_raw(messages))
    return contents(state)


def test_a_live_scan_becomes_one_chunk_for_every_dwell(measurement, messages, tmp_path):
    worker, source = fold(measurement, tmp_path, as_raw(messages))
    manifest = read_manifest(tmp_path / "partition-0")
    chunks = manifest.runs["night"].chunks
    assert [c.chunk for c in chunks] == [f"night-{100 + k}" for k in range(len(PSI))]
    assert all(c.status == "folded" and c.generation == 0 for c in chunks)
    counts: dict[str, int] = {}
    for topic, _, _ in messages:
        counts[topic] = counts.get(topic, 0) + 1
    assert {t: p.next for t, p in manifest.positions.items()} == counts
    assert source.acknowledged == {(t, 0): n for t, n in counts.items()}
    assert sum(v for k, v in manifest.counters.items() if k.startswith("messages.")) == len(
        messages
    )
    found = contents(tmp_path)
    assert len(found) == len(PSI)
    del worker


def test_every_event_is_accounted_for(measurement, messages, tmp_path):
    worker = worker_of(measurement, tmp_path)
    source = ListSource(as_raw(messages), worker)
    consume(source, worker, stop=lambda: False, until_idle_s=0.0)
    counters = worker.status().counters
    sent = 3 * 120 * 24 * len(PSI)
    assert sum(v for k, v in counters.items() if k.startswith("events.")) == sent
    assert counters["events.folded"] > 0
    assert counters["events.between_chunks"] == 3 * 120 * 4 * len(PSI)
    chunk = worker.runs[(0, "night")].chunks[2]
    assert chunk.psi_deg == PSI[2]
    assert chunk.proton_charge == pytest.approx(40 * 1.002e9 * 1e-12)
    assert chunk.minutes == pytest.approx(20 / 60)
    worker.close()


@pytest.mark.parametrize("seed", range(3))
def test_duplicates_and_order_change_nothing(seed, measurement, messages, undisturbed, tmp_path):
    sent = disturb(messages, seed=seed)
    with told_in_time():
        fold(measurement, tmp_path, as_raw(sent))
    counters = read_manifest(tmp_path / "partition-0").counters
    assert counters["duplicates"] == len(sent) - len(set(sent)) > 0
    assert contents(tmp_path) == undisturbed


def test_events_that_wait_on_disk_fold_to_the_same_bits(
    measurement, messages, undisturbed, tmp_path
):
    worker, _ = fold(
        measurement, tmp_path, as_raw(disturb(messages, seed=9)), held=HeldBound(limit_bytes=0)
    )
    assert contents(tmp_path) == undisturbed
    assert worker.status().held_bytes == {"memory": 0, "disk": 0}


def test_recordings_and_runs_beyond_their_bounds_go_and_the_sums_stay(
    measurement, messages, undisturbed, tmp_path
):
    patience = replace(PATIENCE, lateness_s=5.0)
    kept = Kept(recordings=Bounds(size_bytes=1))
    fold(measurement, tmp_path, as_raw(messages), kept=kept, patience=patience)
    assert contents(tmp_path) == undisturbed
    manifest = read_manifest(tmp_path / "partition-0")
    chunks = manifest.runs["night"].chunks
    assert [c.recording is not None for c in chunks] == [False, False, True, True]
    recorded = {str(p.relative_to(tmp_path / "partition-0")) for p in tmp_path.rglob("*.nxs.h5")}
    assert recorded == {c.recording for c in chunks if c.recording is not None}
    assert manifest.counters["removed.recordings"] == 2
    # a second run makes the first one a thing of the past
    later = as_raw(shifted(live_scan(run="day", psis=PSI[:2]), 10 * 3600 * 10**9))
    later = [replace(raw, offset=raw.offset + 10_000) for raw in later]
    fold(measurement, tmp_path, later, kept=Kept(runs=Bounds(days=0.1)), patience=patience)
    manifest = read_manifest(tmp_path / "partition-0")
    assert set(manifest.runs) == {"day"}
    assert manifest.counters["removed.runs"] == 1
    assert not list((tmp_path / "partition-0" / "night").rglob("*.safetensors"))
    assert len(contents(tmp_path)) == 2


def shifted(messages, by_ns):
    """The same messages, so much later."""
    found = []
    for raw in as_raw(messages):
        value = decode(raw)
        if isinstance(value, RunBegins):
            data = encode_run_begins(replace(value, start_time_ns=value.start_time_ns + by_ns))
        elif isinstance(value, RunEnds):
            data = encode_run_ends(replace(value, stop_time_ns=value.stop_time_ns + by_ns))
        elif isinstance(value, Events):
            moved = replace(value, reference_time_ns=value.reference_time_ns + by_ns)
            data = encode_events(moved)
        else:
            data = encode_log(replace(value, time_ns=value.time_ns + by_ns))
        found.append((raw.topic, raw.key, data))
    return found


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", [1, 6, 23])
def test_a_crash_at_any_step_of_writing_changes_nothing(
    step, measurement, messages, undisturbed, tmp_path, monkeypatch
):
    """Before and after every flush and every rename, a crash and a new worker."""
    calls = {"n": 0, "at": step}
    replace, fsync = Path.replace, os.fsync

    def count():
        calls["n"] += 1
        if calls["n"] == calls["at"]:
            raise Killed

    def dying_replace(self, target):
        count()
        done = replace(self, target)
        count()
        return done

    def dying_fsync(handle):
        count()
        fsync(handle)

    monkeypatch.setattr(Path, "replace", dying_replace)
    monkeypatch.setattr(os, "fsync", dying_fsync)
    raws = as_raw(disturb(messages, seed=11))
    crashes = 0
    for _ in range(30):
        worker = worker_of(measurement, tmp_path)
        try:
            source = ListSource(raws, worker)
            consume(source, worker, stop=lambda: False, until_idle_s=0.0)
            worker.close()
            break
        except Killed:
            crashes += 1
            worker.abandon()
            calls["n"] = 0
            calls["at"] = step + 5 * crashes  # a later life dies elsewhere
    assert crashes >= 1 or step == 0
    assert contents(tmp_path) == undisturbed
    left = sorted(p.name for p in tmp_path.rglob("*") if p.is_file())
    assert not [name for name in left if name.endswith(".partial") and "manifest" not in name]


def test_a_second_worker_cannot_take_a_partition_and_gets_it_after_release(
    measurement, messages, undisturbed, tmp_path
):
    raws = as_raw(messages)
    first, second = worker_of(measurement, tmp_path), worker_of(measurement, tmp_path)
    source = ListSource(raws, first)
    for raw in source.poll(0) + source.poll(0) + source.poll(0):
        first.accept(raw)
    first.turn()
    with pytest.raises(BlockingIOError, match="another process owns this partition"):
        second.take(0)
    first.release(0)
    consume(ListSource(raws, second), second, stop=lambda: False, until_idle_s=0.0)
    second.close()
    assert contents(tmp_path) == undisturbed


def test_a_worker_that_lost_its_partition_cannot_commit(measurement, messages, tmp_path):
    raws = as_raw(messages)
    first = worker_of(measurement, tmp_path)
    source = ListSource(raws, first)
    for raw in source.poll(0):
        first.accept(raw)
    first.turn()
    first._partitions[0].lock.release()  # as if its lease had ended
    second = worker_of(measurement, tmp_path)
    consume(ListSource(raws, second), second, stop=lambda: False, until_idle_s=0.0)
    for raw in source.rest:
        first.accept(raw)
    with pytest.raises(RuntimeError, match="Another process owns this partition"):
        first.turn(finish=True)
    first.abandon()
    second.close()


def test_dead_letters_arrive_before_anything_is_committed(measurement, messages, tmp_path):
    letters = Letters()
    bad = [("detector", b"night", b"rubbish"), ("runInfo", b"night", b"....abcd")]
    raws = as_raw([*messages[:50], *bad, *messages[50:]])
    worker = worker_of(measurement, tmp_path, dead_letters=DeadLetters(letters, "dead"))
    letters.broken = True
    source = ListSource(raws, worker, batch=52)
    for raw in source.poll(0):
        worker.accept(raw)
    assert not worker.turn()
    assert read_manifest(tmp_path / "partition-0") is None
    assert "dead letters could not be sent" in worker.status().error
    letters.broken = False
    assert worker.turn()
    assert worker.status().error is None
    assert [(t, v, k) for t, v, k, _ in letters.got] == [
        ("dead", b"rubbish", b"night"),
        ("dead", b"....abcd", b"night"),
    ]
    assert b"abcd" in letters.got[1][3]["reason"]
    assert letters.got[1][3]["topic"] == b"runInfo"
    worker.close()


def test_dead_letters_that_cannot_be_sent_at_the_end_are_told_by_an_error(
    measurement, messages, tmp_path
):
    letters = Letters()
    letters.broken = True
    worker = worker_of(measurement, tmp_path, dead_letters=DeadLetters(letters, "dead"))
    raws = as_raw([*messages[:50], ("detector", b"night", b"rubbish")])
    for raw in ListSource(raws, worker, batch=70).poll(0):
        worker.accept(raw)
    with pytest.raises(StorageError, match="was not written: dead letters of partition-0 could"):
        worker.close()


def test_what_a_settling_dwell_looks_at_is_computed_ahead_and_changes_no_bit(
    measurement, messages, undisturbed, tmp_path
):
    """Also where psi is another one in the end, because a sample came late."""
    for late in (False, True):
        state = tmp_path / str(late)
        worker = worker_of(measurement, state)
        raws = as_raw(messages)
        _, stop, *_ = (n for n, m in enumerate(messages) if m[0] == "runInfo")
        psi = next(n for n, m in enumerate(messages) if m[0] == "motion")
        order = [*raws[: stop + 1]]
        if late:
            order.remove(raws[psi])
            order.append(raws[psi])
        source = ListSource([*order, *raws[stop + 1 :]], worker, batch=stop)
        for raw in source.poll(0):
            worker.accept(raw)
        if not late:
            worker.accept(source.rest.pop(0))
        worker.turn()
        if late:
            assert worker.foresight.at_hand is None
        else:
            assert worker.foresight.at_hand.sight.psi_deg == PSI[0]
        consume(source, worker, stop=lambda: False, until_idle_s=0.0)
        assert worker.foresight.at_hand is None
        worker.close()
        assert contents(state) == undisturbed


def test_a_message_that_cannot_be_decoded_stops_the_worker_or_is_skipped_where_that_is_asked(
    measurement, messages, undisturbed, tmp_path
):
    bad = ("detector", b"night", b"rubbish")
    raws = as_raw([*messages[:50], bad, *messages[50:]])
    letters = DeadLetters(Letters(), "dead")
    first = worker_of(measurement, tmp_path, dead_letters=letters, undecodable="stop")
    with pytest.raises(InputError, match=rf"detector\[0\] offset {raws[50].offset} cannot be used"):
        consume(ListSource(raws, first), first, stop=lambda: False, until_idle_s=0.0)
    first.abandon()
    second = worker_of(measurement, tmp_path, dead_letters=letters, undecodable="skip")
    consume(ListSource(raws, second), second, stop=lambda: False, until_idle_s=0.0)
    assert second.status().counters["skipped"] == 1
    assert letters.count == 0
    second.close()
    assert contents(tmp_path) == undisturbed
    # What was settled before does not stop a later worker.
    third = worker_of(measurement, tmp_path, undecodable="stop")
    consume(ListSource(raws, third), third, stop=lambda: False, until_idle_s=0.0)
    third.close()


def test_a_dwell_without_psi_is_set_aside_with_its_reason_and_a_late_psi_mends_it(
    measurement, messages, undisturbed, tmp_path
):
    first = next(m for m in messages if m[0] == "motion")
    rest = [m for m in messages if m is not first]
    worker, _ = fold(measurement, tmp_path / "a", as_raw(rest))
    chunks = read_manifest(tmp_path / "a" / "partition-0").runs["night"].chunks
    assert [c.status for c in chunks] == ["set aside"] + ["folded"] * (len(PSI) - 1)
    assert "psi" in chunks[0].reason
    fold(measurement, tmp_path / "b", as_raw([*rest, first]))
    assert contents(tmp_path / "b") == undisturbed
    del worker


@pytest.mark.parametrize("doubled", [0, 3])
def test_restarts_make_no_duplicates_of_what_is_read_again(
    measurement, messages, tmp_path, doubled
):
    """Messages count as what became of them, however often a worker dies."""
    raws = as_raw([*messages[:400], *messages[100 : 100 + doubled], *messages[400:]])

    def counted(state: Path, deaths: tuple[int, ...]) -> dict[str, int]:
        clock, left = [1_800_000_000 * 10**9], list(deaths)
        patience = Patience(commit_s=0.0, turn_s=0.0)
        options = {"patience": patience, "clock": lambda: clock[0]}
        worker = worker_of(measurement, state, **options)
        wanted, i = worker.take(0), 0
        while i < len(raws):
            if raws[i].offset >= wanted.get(raws[i].topic, 0):
                worker.accept(raws[i])
            i += 1
            clock[0] += 10**9 // 20
            if i % 7 == 0:
                worker.turn()
            if left and i == left[0]:
                left.pop(0)
                worker.abandon()
                worker = worker_of(measurement, state, **options)
                wanted, i = worker.take(0), 0
        worker.turn(finish=True)
        worker.close()
        return read_manifest(state / "partition-0").counters

    undisturbed = counted(tmp_path / "plain", ())
    assert undisturbed.get("duplicates", 0) == doubled
    assert counted(tmp_path / "killed", (150, 260, 390, 470)) == undisturbed


def test_neither_dead_letters_nor_reopened_dwells_make_the_manifest_grow(measurement, tmp_path):
    """A thousand messages that nobody can use, and a dwell that is written ten times."""
    worker = worker_of(measurement, tmp_path)
    raws = as_raw(live_scan(psis=PSI[:1]))
    for raw in ListSource(raws, worker, batch=len(raws)).poll(0):
        worker.accept(raw)
    worker.turn(finish=True)
    sizes = []
    for n in range(10):
        sample = LogSample(source="s9", time_ns=BEGIN + n, value=np.array([1.5]))
        late = encode_log(sample)
        worker.accept(RawMessage(topic="late", partition=0, offset=n, key=b"night", value=late))
        for k in range(100):
            bad = RawMessage(topic="bad", partition=0, offset=100 * n + k, value=b"rubbish")
            worker.accept(bad)
        worker.turn(finish=True)
        sizes.append((tmp_path / "partition-0" / "manifest.json").stat().st_size)
    counters = worker.status().counters
    assert (counters["dead_letters.message"], counters["late"]) == (1000, 10)
    assert max(sizes) - sizes[0] < 100  # digits of numbers
    worker.close()


def test_a_message_of_a_foreign_partition_is_refused(measurement, tmp_path):
    worker = worker_of(measurement, tmp_path)
    with pytest.raises(ValueError, match="partition 3, which was not taken"):
        worker.accept(RawMessage(topic="t", partition=3, offset=0, value=b""))


def test_runs_with_the_names_of_folders_stay_inside_the_state(measurement, messages, tmp_path):
    state = tmp_path / "deep" / "state"
    hostile = [(topic, b"../../escape", value) for topic, _, value in messages[:400]]
    fold(measurement, state, as_raw(hostile))
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and not p.is_relative_to(state)]
    assert not outside
    assert "../../escape" in read_manifest(state / "partition-0").runs


def test_a_damaged_manifest_is_refused_with_what_to_do(measurement, messages, tmp_path):
    fold(measurement, tmp_path, as_raw(messages[:400]))
    path = tmp_path / "partition-0" / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace('"generation": ', '"generation": 1', 1))
    with told_in_time(), pytest.raises(ValueError, match="checksum"):
        worker_of(measurement, tmp_path).take(0)
    path.write_text(text.replace('"schema_version": 1', '"schema_version": 9'))
    with told_in_time(), pytest.raises(ValueError, match="schema_version is 9; expected 1"):
        worker_of(measurement, tmp_path).take(0)
    path.write_text(text)
    worker = worker_of(measurement, tmp_path)
    assert worker.take(0)
    worker.close()


@pytest.mark.shared_data
def test_a_real_run_as_a_stream_folds_to_the_arrays_of_its_file(shared_data, tmp_path):
    """One HYSPEC orientation as pl72, f144, ev44 and 6s4t: the same bits as read from the file."""
    file = shared_data / "hyspec-mno" / "HYS_178921.nxs.h5"
    experiment = load_experiment(EXAMPLES / "mno-hyspec.yaml")
    measurement = build_measurement(experiment, EXAMPLES)
    stream = list(stream_of_files([file], run="mno", prefix="hyspec", pulses_per_message=600))
    worker = worker_of(measurement, tmp_path / "state")
    source = ListSource(as_raw(stream), worker, batch=5000)
    consume(source, worker, stop=lambda: False, until_idle_s=0.0)
    (live,) = worker.runs[(0, "mno")].chunks
    recorded = Run(measurement, run_id="file", folder=tmp_path, estimate=False)
    for message in recorded_source([file], run="file", psi_log="s1").messages():
        recorded.accept(message)
    (still,) = recorded.chunks
    assert live.account == still.account
    assert live.account.folded > 5000
    assert (live.psi_deg, live.proton_charge) == (still.psi_deg, still.proton_charge)
    assert live.minutes == pytest.approx(still.minutes, rel=1e-12)
    for name in ("signal", "variance", "counts", "exposure", "flat"):
        assert np.array_equal(getattr(live.sums, name), getattr(still.sums, name)), name
    for part in ("exposure", "trajectories"):
        one, two = getattr(live, part)(), getattr(still, part)()
        for field in fields(one):
            assert np.array_equal(getattr(one, field.name), getattr(two, field.name)), field.name
    worker.close()


def test_mutated_messages_are_all_settled_and_the_run_goes_on(
    measurement, messages, undisturbed, tmp_path
):
    """Rubbish beside a scan: every message is counted once, and the scan folds as without it."""
    letters = Letters()
    rubbish = [m for _, m in itertools.islice(mutants(5), 1500)]
    rng = np.random.default_rng(5)
    places = sorted(rng.integers(0, len(messages), len(rubbish)).tolist(), reverse=True)
    mixed: list[RawMessage | tuple] = list(messages)
    for place, raw in zip(places, rubbish, strict=True):
        mixed.insert(place, raw)
    raws = [
        replace(m, topic="all", partition=0, offset=n, key=b"rubbish")
        if isinstance(m, RawMessage)
        else RawMessage(topic="all", partition=0, offset=n, key=m[1], value=m[2])
        for n, m in enumerate(mixed)
    ]
    worker = worker_of(measurement, tmp_path, dead_letters=DeadLetters(letters, "d"))
    source = ListSource(raws, worker)
    consume(source, worker, stop=lambda: False, until_idle_s=0.0)
    counters = worker.status().counters
    assert counters["messages.all"] == len(raws)
    assert worker.settled() == {("all", 0): len(raws)}
    assert counters["dead_letters.message"] > 1000
    assert len(letters.got) >= counters["dead_letters.message"]
    worker.close()
    night = {k: v for k, v in contents(tmp_path, whole=False).items() if k[0] == "night"}
    assert night == undisturbed
