from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import numpy as np
import pytest

from steering.run import RunSnapshot, RunStore, SnapshotFolders, load_snapshot, save_snapshot
from tests.steering.fabricated import snapshot, spectrum


def plain(run_id: str = "a", **changes) -> RunSnapshot:
    values = {"title": "t", "status": "running", "experiment": {}, "updated_ns": 1}
    return RunSnapshot(run_id=run_id, **(values | changes))


def test_the_newest_snapshot_replaces_the_older_and_versions_grow():
    store = RunStore()
    first = store.publish(plain())
    second = store.publish(plain(title="later"))
    assert second.version > first.version
    assert store.get("a") is second
    assert store.get("none") is None
    assert store.list() == (second,)


def test_runs_are_listed_last_updated_first():
    store = RunStore()
    for name in "abca":
        store.publish(plain(name))
    assert [run.run_id for run in store.list()] == ["a", "c", "b"]


def test_a_full_store_drops_ended_runs_before_running_ones():
    store = RunStore(max_runs=2)
    store.publish(plain("old but running"))
    store.publish(plain("ended", status="finished"))
    store.publish(plain("new"))
    assert {run.run_id for run in store.list()} == {"old but running", "new"}


def test_a_slow_reader_gets_the_newest_and_never_delays_the_run():
    store = RunStore()
    with store.subscribe("a") as reader:
        for i in range(10_000):
            store.publish(plain(title=str(i)))
            store.publish(plain("other"))
        seen = reader.take()
        assert seen is not None
        assert seen.title == "9999"
        assert reader.take() is None


def test_a_new_reader_starts_with_what_is_known():
    store = RunStore()
    store.publish(plain("a"))
    store.publish(plain("b"))
    with store.subscribe() as reader:
        assert [reader.take().run_id, reader.take().run_id] == ["a", "b"]  # type: ignore[union-attr]


def test_a_waiting_reader_wakes_on_publication_and_on_close():
    store = RunStore()
    reader = store.subscribe()
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.extend(s.title for s in reader))
    thread.start()
    store.publish(plain(title="hello"))
    while not seen:
        thread.join(0.005)
    reader.close()
    thread.join(5)
    assert not thread.is_alive()
    assert seen == ["hello"]
    store.publish(plain(title="after"))
    assert reader.take() is None


def test_a_reader_in_an_event_loop_is_woken_from_another_thread():
    store = RunStore()

    async def read() -> str:
        woken = asyncio.Event()
        loop = asyncio.get_running_loop()
        reader = store.subscribe(wake=lambda: loop.call_soon_threadsafe(woken.set))
        threading.Thread(target=store.publish, args=(plain(title="x"),)).start()
        await asyncio.wait_for(woken.wait(), 5)
        found = reader.take()
        assert found is not None
        return found.title

    assert asyncio.run(read()) == "x"
    store.publish(plain())  # its loop is closed now; the run goes on


def test_many_writers_leave_every_run_with_its_last_snapshot():
    store = RunStore()

    def write(name: str) -> None:
        for i in range(500):
            store.publish(plain(name, title=str(i)))

    threads = [threading.Thread(target=write, args=(f"run {k}",)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {run.title for run in store.list()} == {"499"}
    assert max(run.version for run in store.list()) == 4000


def test_a_snapshot_survives_the_disk(tmp_path):
    original = snapshot(status="finished")
    save_snapshot(original, tmp_path / "snapshot.npz")
    again = load_snapshot(tmp_path / "snapshot.npz")
    assert again.result == original.result
    assert again.chunks == original.chunks
    assert again.history == original.history
    assert again.spectrum is not None
    assert original.spectrum is not None
    np.testing.assert_array_equal(again.spectrum.intensity, original.spectrum.intensity)
    assert again.spectrum.tick_labels == original.spectrum.tick_labels
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot.npz"]


def test_a_snapshot_without_a_spectrum_survives_the_disk(tmp_path):
    save_snapshot(plain(error="no chunk"), tmp_path / "s.npz")
    again = load_snapshot(tmp_path / "s.npz")
    assert again.spectrum is None
    assert again.error == "no chunk"


@pytest.mark.parametrize("damage", ["truncated", "text", "pickle", "other"])
def test_a_damaged_snapshot_is_refused(tmp_path, damage):
    path = tmp_path / "s.npz"
    save_snapshot(snapshot(), path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "text":
        path.write_text("hello")
    elif damage == "pickle":
        np.savez(path, schema_version=np.array([object()], dtype=object))
    else:
        np.savez(path, schema_version=np.array(99))
    with pytest.raises(ValueError, match="is no snapshot of a run"):
        load_snapshot(path)


def test_folders_publish_what_is_new_once_and_name_what_is_damaged(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_snapshot(plain(name), tmp_path / name / "snapshot.npz")
    (tmp_path / "snapshot.npz").write_text("nothing")
    store, folders = RunStore(), SnapshotFolders([tmp_path])
    (fault,) = folders.publish_new(store)
    assert "is no snapshot" in fault
    assert {run.run_id for run in store.list()} == {"a", "b"}
    before = store.list()
    assert folders.publish_new(store) == []
    assert store.list() == before
    save_snapshot(plain("a", title="longer than before"), tmp_path / "a" / "snapshot.npz")
    folders.publish_new(store)
    assert store.list()[0].title == "longer than before"


def test_a_spectrum_with_arrays_that_do_not_match_is_refused():
    view = spectrum()
    with pytest.raises(ValueError, match=r"sigma has shape \(140, 3\); expected \(140, 140\)"):
        replace(view, sigma=view.sigma[:, :3])
    with pytest.raises(ValueError, match="branches"):
        replace(view, branches=view.branches[:5])
