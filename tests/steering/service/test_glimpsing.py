"""Glimpses of a dwell that is open: what they count is what the closed chunk has."""

from dataclasses import replace

import numpy as np
import pytest
from structlog.testing import capture_logs

from consumers.state import PartitionLock, read_chunk, read_manifest
from consumers.wire import LogSample, RunEnds, decode, encode_log
from steering.run import OpenDwellFile, OpenDwellView, open_dwell_path, read_open_dwell
from steering.service import glimpsing
from steering.service.fold_worker import FoldWorker, Patience
from tests.steering.live_stream import BEGIN, DWELL, SECOND, as_raw, live_measurement, live_scan

PATIENCE = Patience(settle_s=2.0, lateness_s=300.0, turn_s=0.0, commit_s=0.0)


class Clock:
    """Steps far enough for every look."""

    def __init__(self):
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += 6 * SECOND
        return self.now_ns


@pytest.fixture(scope="module")
def measurement():
    return live_measurement()


@pytest.fixture
def worker(measurement, tmp_path):
    clock = Clock()
    made = FoldWorker(
        measurement, state=tmp_path, default_run="unnamed", patience=PATIENCE, clock=clock
    )
    made.take(0)
    yield made
    made.close()


def parted(psis=(5.0, 17.0)):
    """Messages up to the stop of the last dwell, and that stop with what follows."""
    raws = as_raw(live_scan(psis=psis))
    stop_ns = BEGIN + (len(psis) - 1) * (DWELL + 4 * SECOND) + DWELL
    cut = next(
        i
        for i, raw in enumerate(raws)
        if isinstance(told := decode(raw), RunEnds) and told.stop_time_ns == stop_ns
    )
    return raws[:cut], raws[cut:]


def seen(tmp_path, run="night"):
    return read_open_dwell(open_dwell_path(tmp_path, 0, run))


def test_an_open_dwell_counts_what_its_chunk_will_have(worker, tmp_path):
    before, after = parted()
    for raw in before:
        worker.accept(raw)
    worker.turn()
    view = seen(tmp_path)
    assert (view.chunk, view.psi_deg, view.note, view.waiting) == ("night-101", 17.0, None, 0)
    assert view.read == 3 * 120 * 20
    assert view.folded == int(view.counts.sum()) > 0
    assert view.charge_coulomb == pytest.approx(40 * 1.001e9 * 1e-12)
    assert view.start_ns == BEGIN + DWELL + 4 * SECOND
    assert view.newest_ns - view.start_ns == pytest.approx(19.5 * SECOND, abs=1000)
    for raw in after:
        worker.accept(raw)
    worker.turn()
    worker.turn(finish=True)
    record = read_manifest(tmp_path / "partition-0").runs["night"].chunks[1]
    closed = read_chunk(tmp_path / "partition-0" / record.file)
    assert closed.account.folded == view.folded
    assert np.array_equal(closed.sums.counts, view.counts)
    worker.turn()
    assert seen(tmp_path) is None


def test_what_comes_between_looks_is_added_and_rates_are_of_the_last_seconds(worker, tmp_path):
    before, _ = parted((5.0,))
    half = len(before) // 2
    for raw in before[:half]:
        worker.accept(raw)
    worker.turn()
    first = seen(tmp_path)
    assert first.rate_per_s is None
    for raw in before[half:]:
        worker.accept(raw)
    worker.turn()
    second = seen(tmp_path)
    assert first.read < second.read == 3 * 120 * 20
    assert np.all(second.counts >= first.counts)
    assert second.rate_per_s == pytest.approx(3 * 120, rel=0.1)
    assert second.beam_current_microampere == pytest.approx(2 * 1e9 * 1e-12 * 1e6, rel=0.1)


def test_a_look_folds_no_more_than_it_may_and_the_rest_in_the_next(worker, tmp_path, monkeypatch):
    monkeypatch.setattr(glimpsing, "MOST_EVENTS", 3000)
    before, _ = parted((5.0,))
    for raw in before:
        worker.accept(raw)
    worker.turn()
    first = seen(tmp_path)
    assert first.read == 3000
    assert first.waiting == 3 * 120 * 20 - 3000
    for _ in range(2):
        worker.turn()
    last = seen(tmp_path)
    assert (last.read, last.waiting) == (3 * 120 * 20, 0)
    assert last.folded == int(last.counts.sum())


def test_without_psi_nothing_is_folded_and_it_says_why(worker, tmp_path):
    before, _ = parted((5.0,))
    for raw in before:
        if raw.topic != "motion":
            worker.accept(raw)
    worker.turn()
    view = seen(tmp_path)
    assert view.psi_deg is None
    assert "no value yet" in view.note
    assert view.read == 3 * 120 * 20
    assert not view.counts.any()
    for raw in before:
        if raw.topic == "motion":
            worker.accept(raw)
    worker.turn()
    view = seen(tmp_path)
    assert view.note is None
    assert view.read == 3 * 120 * 20
    assert view.folded == int(view.counts.sum()) > 0


def test_an_orientation_that_still_moves_is_folded_anew_where_it_came_to_rest(worker, tmp_path):
    before, _ = parted((5.0,))
    late = [raw for raw in before if raw.topic == "motion"]
    rest = [raw for raw in before if raw.topic != "motion"]
    for raw in [*late, *rest]:
        worker.accept(raw)
    worker.turn()
    first = seen(tmp_path)
    moved = LogSample(source="s1", time_ns=BEGIN + SECOND // 10, value=np.array([5.3]))
    worker.accept(replace(late[-1], offset=len(late), value=encode_log(moved)))
    worker.turn()
    second = seen(tmp_path)
    assert second.psi_deg == pytest.approx(5.3)
    assert (second.read, second.note) == (first.read, None)
    assert second.folded == int(second.counts.sum())
    assert not np.array_equal(first.counts, second.counts)


def test_the_next_owner_and_a_killed_one_leave_nothing_behind(worker, tmp_path):
    before, _ = parted((5.0,))
    for raw in before:
        worker.accept(raw)
    worker.turn()
    assert seen(tmp_path) is not None
    worker.release(0)
    assert seen(tmp_path) is None
    PartitionLock(tmp_path / "partition-0").release()


def test_a_full_disk_leaves_the_file_before_and_is_told_once(small_disk):
    state = small_disk.folder
    file = OpenDwellFile(open_dwell_path(state, 0, "night"))
    file.write(_view())
    small_disk.fill()
    with capture_logs() as told:
        for _ in range(3):
            file.write(replace(_view(), read=9))
        assert seen(state).read == _view().read
        assert [path.suffix for path in (state / "open-dwells").iterdir()] == [".safetensors"]
        small_disk.make_room()
        file.write(replace(_view(), read=9))
    assert seen(state).read == 9
    assert [one["event"] for one in told] == ["open_dwell_not_written"]
    assert "space" in told[0]["reason"]


@pytest.mark.parametrize("content", [b"", b"{}", b"\x08\0\0\0\0\0\0\0{}      ", b"\xff" * 100])
def test_what_is_no_open_dwell_is_none(tmp_path, content):
    path = open_dwell_path(tmp_path, 0, "night")
    path.parent.mkdir()
    path.write_bytes(content)
    assert read_open_dwell(path) is None


def _view():
    return OpenDwellView(
        job="j",
        chunk="c",
        psi_deg=1.0,
        start_ns=1,
        newest_ns=2,
        looked_ns=3,
        read=4,
        folded=1,
        waiting=0,
        rate_per_s=None,
        charge_coulomb=None,
        beam_current_microampere=None,
        temperature_K=5.0,
        note=None,
        counts=np.ones((3, 4), np.uint32),
    )
