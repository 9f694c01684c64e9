"""A fold worker obeys people: what they withdraw leaves, and a closed run takes no more."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from consumers.state import Manifest, read_manifest
from steering.run import ActionLog, LiveRun, live_run
from steering.run.actions import Asked, ConflictError
from steering.service.consuming import consume
from tests.steering.live_stream import PSI, ListSource, as_raw, live_measurement, live_scan
from tests.steering.service.test_fold_worker import worker_of


@pytest.fixture(scope="module")
def measurement():
    return live_measurement()


def night(state: Path) -> LiveRun:
    return live_run([state], "night")


def ask(state: Path, what: str, **fields):
    run = night(state)
    return run.ask(
        TypeAdapter(Asked).validate_python({"what": what, **fields}),
        by="Ada", role="admin", way="cli", why="because", at_ns=time.time_ns(),
        number=run.log.read().number,
    )  # fmt: skip


def manifest_of(state: Path) -> Manifest:
    found = read_manifest(state / "partition-0")
    assert found is not None
    return found


def statuses(state: Path) -> list[str]:
    return [one.status for one in manifest_of(state).runs["night"].chunks]


def pooled(worker) -> bytes:
    """All sums of the fold, to the last bit."""
    (run,) = worker.runs.values()
    sums = run.sums
    parts = (sums.signal, sums.variance, sums.counts, sums.exposure, run.pooled_exposure().weight)
    return b"".join(part.tobytes() for part in parts)


def reading(measurement, state: Path, psis):
    """A worker of the state folder that has read a scan to its end."""
    worker = worker_of(measurement, state)
    source = ListSource(as_raw(live_scan(psis=psis)), worker)
    consume(source, worker, stop=lambda: False, until_idle_s=0.0)
    return worker


def test_a_withdrawn_chunk_leaves_the_fold_to_the_bit_through_restarts_and_comes_back(
    measurement, tmp_path
):
    worker = reading(measurement, tmp_path, PSI[:3])
    whole = pooled(worker)
    ask(tmp_path, "withdraw", chunk="night-101")
    assert worker.turn()
    without = pooled(worker)
    assert without != whole
    assert statuses(tmp_path) == ["folded", "withdrawn", "folded"]
    assert manifest_of(tmp_path).runs["night"].chunks[1].reason == "because (Ada)"
    assert worker.status().chunks == {"night": 2}
    worker.turn()
    assert night(tmp_path).log.read().applied_up_to("consume") == 1
    worker.abandon()  # as if it had been killed

    again = reading(measurement, tmp_path, PSI[:3])
    assert pooled(again) == without
    ask(tmp_path, "restore", chunk="night-101")
    assert again.turn()
    assert pooled(again) == whole
    assert statuses(tmp_path) == ["folded"] * 3
    again.close()

    other = worker_of(measurement, tmp_path)  # asked while nobody worked
    other.close()
    ask(tmp_path, "withdraw", chunk="night-101")
    last = reading(measurement, tmp_path, PSI[:3])
    assert pooled(last) == without
    assert statuses(tmp_path) == ["folded", "withdrawn", "folded"]
    last.close()


def test_what_comes_late_to_a_withdrawn_chunk_does_not_bring_it_back(measurement, tmp_path):
    scan = live_scan(psis=PSI[:2])
    of_first = next(one for one in scan if one[0] == "detector")
    *rest, late = as_raw([*(one for one in scan if one is not of_first), of_first])
    worker = worker_of(measurement, tmp_path)
    consume(ListSource(rest, worker), worker, stop=lambda: False, until_idle_s=0.0)
    ask(tmp_path, "withdraw", chunk="night-100")
    worker.turn()
    worker.accept(late)
    until = time.monotonic() + 20
    while manifest_of(tmp_path).runs["night"].chunks[0].generation == 0:
        assert time.monotonic() < until
        worker.turn()
        time.sleep(0.1)
    (first, _) = manifest_of(tmp_path).runs["night"].chunks
    assert (first.status, first.generation) == ("withdrawn", 1)
    assert worker.status().chunks == {"night": 1}
    ask(tmp_path, "restore", chunk="night-100")
    worker.turn()
    whole = pooled(worker)
    worker.close()
    undisturbed = reading(measurement, tmp_path / "plain", PSI[:2])
    assert pooled(undisturbed) == whole
    undisturbed.close()


def test_a_closed_run_takes_no_chunk_and_no_late_data_until_it_is_opened_again(
    measurement, tmp_path
):
    worker = reading(measurement, tmp_path, PSI[:2])
    before = pooled(worker)
    ask(tmp_path, "close")
    with pytest.raises(ConflictError, match="closed"):
        ask(tmp_path, "withdraw", chunk="night-100")
    assert worker.turn()
    assert manifest_of(tmp_path).runs["night"].closed
    worker.close()

    worker = reading(measurement, tmp_path, PSI[:3])
    (*_, third) = manifest_of(tmp_path).runs["night"].chunks
    assert (third.chunk, third.status) == ("night-102", "set aside")
    assert third.reason == "the run is closed: because (Ada)"
    assert third.recording is not None  # nothing is lost
    assert pooled(worker) == before
    ask(tmp_path, "reopen")
    assert worker.turn()
    worker.close()
    assert not manifest_of(tmp_path).runs["night"].closed

    worker = reading(measurement, tmp_path, PSI)
    assert statuses(tmp_path) == ["folded", "folded", "set aside", "folded"]
    worker.close()


def test_a_damaged_log_is_told_and_the_fold_goes_on_as_it_was(measurement, tmp_path):
    worker = reading(measurement, tmp_path, PSI[:2])
    ask(tmp_path, "withdraw", chunk="night-100")
    worker.turn()
    without = pooled(worker)
    worker.close()
    path = night(tmp_path).folder / "actions.jsonl"
    kept = path.read_text()
    path.write_text("?\n" + kept)
    worker = reading(measurement, tmp_path, PSI[:3])
    assert "Restore it from a backup" in str(worker.status().error)
    assert statuses(tmp_path) == ["withdrawn", "folded", "folded"]
    assert manifest_of(tmp_path).runs["night"].actions == 1
    path.write_text(kept)
    worker.turn()
    assert worker.status().error is None
    worker.close()
    again = reading(measurement, tmp_path, PSI[:2])
    assert len(pooled(again)) == len(without)
    again.close()


def test_a_manifest_of_before_there_were_actions_is_read(measurement, tmp_path):
    worker = reading(measurement, tmp_path, PSI[:1])
    worker.close()
    path = tmp_path / "partition-0" / "manifest.json"
    document = json.loads(path.read_text())
    del document["state"]["runs"]["night"]["actions"]
    body = json.dumps(document["state"], sort_keys=True)
    document["sha256"] = hashlib.sha256(body.encode()).hexdigest()
    path.write_text(json.dumps(document))
    assert manifest_of(tmp_path).runs["night"].actions == 0
    assert ActionLog(night(tmp_path).folder).read().number == 0
