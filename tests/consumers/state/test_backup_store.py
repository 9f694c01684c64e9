"""Backups of real state folders: made while a worker folds, damaged, restored and gone on with."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from consumers.state import (
    back_up,
    backup_name,
    read_backup,
    read_manifest,
    remove_old_backups,
    restore,
    write_manifest,
)
from consumers.state import backup_store as module
from simulations.errors import InputError, StorageError
from steering.service.consuming import consume
from steering.service.fold_worker import FoldWorker, Patience
from tests.steering.live_stream import ListSource, as_raw, contents, live_measurement, live_scan

PATIENCE = Patience(settle_s=2.0, lateness_s=300.0, turn_s=0.0, commit_s=0.0)


def worker_on(state: Path) -> FoldWorker:
    return FoldWorker(live_measurement(), state=state, default_run="unnamed", patience=PATIENCE)


def fold(state: Path, raws) -> None:
    """Take the folder over, go on from where its manifest ends, and come to the end."""
    worker = worker_on(state)
    consume(ListSource(raws, worker), worker, stop=lambda: False, until_idle_s=0.0)
    worker.close()


@pytest.fixture(scope="module")
def raws():
    return as_raw(live_scan())


@pytest.fixture(scope="module")
def whole(raws, tmp_path_factory) -> Path:
    state = tmp_path_factory.mktemp("whole") / "state"
    fold(state, raws)
    return state


@pytest.fixture(scope="module")
def tar(whole, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("backups") / "a.tar"
    back_up(whole, file)
    return file


def test_a_folder_backed_up_while_it_is_folded_goes_on_elsewhere_to_the_same_bits(
    raws, whole, tmp_path
):
    """The backup is made by another thread, in the middle of the stream, while commits go on."""
    state, file = tmp_path / "live", tmp_path / "b.tar"
    worker = worker_on(state)
    source = ListSource(raws, worker, batch=10)
    begun, done = threading.Event(), threading.Event()

    def back_up_soon() -> None:
        begun.wait(60)
        back_up(state, file)
        done.set()

    thread = threading.Thread(target=back_up_soon)
    thread.start()

    def stop() -> bool:
        folder = state / "partition-0"
        if not begun.is_set() and len(list(folder.glob("night/chunks/*"))) >= 2:
            begun.set()
        return False

    consume(source, worker, stop=stop, until_idle_s=0.0)
    worker.close()
    begun.set()
    thread.join(60)
    assert done.is_set()

    made = read_backup(file)
    there = restore(file, tmp_path / "elsewhere" / "state")
    assert there == made
    restored = tmp_path / "elsewhere" / "state"
    manifest = read_manifest(restored / "partition-0")
    assert manifest is not None
    assert made.partitions == {"0": manifest.generation}
    assert 2 <= len(manifest.runs["night"].chunks)
    for name in manifest.files():
        assert (restored / "partition-0" / name).is_file()

    fold(restored, raws)
    assert contents(restored) == contents(whole) == contents(state)


def test_an_unfinished_folder_goes_on_from_its_backup_alone(raws, whole, tmp_path):
    """Killed in the middle of the stream, the folder lost: the backup is all there is."""
    state, file = tmp_path / "lost", tmp_path / "b.tar"
    worker = worker_on(state)
    source = ListSource(raws[: len(raws) * 3 // 5], worker, batch=20)
    until = time.monotonic() + 60
    folder = state / "partition-0"

    def stop() -> bool:
        manifest = read_manifest(folder)
        return time.monotonic() > until or (manifest is not None and "night" in manifest.runs)

    consume(source, worker, stop=stop)
    back_up(state, file)
    worker.abandon()
    shutil.rmtree(state)
    restore(file, state)
    before = read_manifest(state / "partition-0")
    assert before is not None
    assert 1 <= len(before.runs["night"].chunks) < 4
    fold(state, raws)
    assert contents(state) == contents(whole)


def test_what_belongs_to_processes_stays_out_and_what_people_wrote_is_in(whole, tmp_path):
    state = tmp_path / "state"
    shutil.copytree(whole, state)
    run = state / "partition-0" / "night"
    for name in ("heartbeats/a.json", "members/h-1/lock", "alarms/book.json", "tape/1.tape"):
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_text("x")
    (run / "actions.jsonl").write_text('{"a": 1}\n{"b": ')  # in the making
    (run / "estimate").mkdir(exist_ok=True)
    (run / "estimate" / "result.json").write_text("{}")
    (run / "estimate" / ".folded.partial.npz").write_text("half")
    (run / "chunks" / "chunk_unnamed.safetensors").write_text("of a commit that never came")
    (state / "loop").symlink_to(state)
    made = back_up(state, tmp_path / "b.tar")
    names = set(made.files)
    assert {"alarms/book.json", "tape/1.tape", "state.json"} <= names
    assert "partition-0/night/estimate/result.json" in names
    assert not any("lock" in n or "partial" in n or "unnamed" in n for n in names)
    assert not any(n.startswith(("heartbeats", "members", "loop")) for n in names)
    restore(tmp_path / "b.tar", tmp_path / "r")
    assert (tmp_path / "r/partition-0/night/actions.jsonl").read_text() == '{"a": 1}\n'
    assert contents(tmp_path / "r") == contents(whole)


def test_files_that_retention_takes_meanwhile_are_no_part_of_a_torn_backup(
    whole, tmp_path, monkeypatch
):
    """A commit comes between manifest and files, and takes one away: the newer state is copied."""
    state = tmp_path / "state"
    shutil.copytree(whole, state)
    folder = state / "partition-0"
    parsed, calls = module.manifest_of, []

    def then_a_commit(text: str, path: Path):
        found = parsed(text, path)
        if not calls:
            calls.append(found)
            run = found.runs["night"]
            (folder / str(run.chunks[0].recording)).unlink()
            first = replace(run.chunks[0], recording=None)
            kept = replace(run, chunks=(first, *run.chunks[1:]))
            write_manifest(folder, replace(found, runs={"night": kept}))
        return found

    monkeypatch.setattr(module, "manifest_of", then_a_commit)
    made = back_up(state, tmp_path / "b.tar")
    assert made.partitions == {"0": calls[0].generation + 1}
    restore(tmp_path / "b.tar", tmp_path / "r")
    manifest = read_manifest(tmp_path / "r" / "partition-0")
    assert manifest is not None
    assert manifest.runs["night"].chunks[0].recording is None
    there = {
        str(p.relative_to(tmp_path / "r/partition-0"))
        for p in (tmp_path / "r/partition-0").glob("*/*/*")
    }
    assert there == manifest.files()


def test_a_state_of_which_a_file_is_missing_is_not_backed_up_as_whole(whole, tmp_path):
    state = tmp_path / "state"
    shutil.copytree(whole, state)
    next(state.glob("partition-0/night/chunks/*")).unlink()
    with pytest.raises(InputError, match="though the manifest names it"):
        back_up(state, tmp_path / "b.tar")
    assert not (tmp_path / "b.tar").exists()


def test_nothing_is_restored_over_something(tar, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("there", "file", "link"):
        with pytest.raises(InputError, match="expected a new or an empty folder"):
            restore(tar, tmp_path / name)
    assert (tmp_path / "there" / "x").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    restore(tar, tmp_path / "empty")
    assert (tmp_path / "empty" / "state.json").is_file()
    assert [p.name for p in tmp_path.iterdir() if "restoring" in p.name] == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.98])
def test_a_backup_that_was_cut_short_is_refused_and_leaves_nothing(tar, tmp_path, share):
    cut = tmp_path / "cut.tar"
    cut.write_bytes(tar.read_bytes()[: int(share * tar.stat().st_size)])
    with pytest.raises(InputError, match="Take an older one"):
        restore(cut, tmp_path / "r")
    assert [p.name for p in tmp_path.iterdir()] == ["cut.tar"]


def test_every_bit_counts(tar, tmp_path):
    """A byte of every file is turned, one after the other."""
    content = tar.read_bytes()
    with tarfile.open(tar) as file:
        members = [(m.name, m.offset_data, m.size) for m in file if m.size]
    for name, begin, size in members:
        if name == module.INDEX:
            continue
        place = begin + size // 2
        turned = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        (tmp_path / "t.tar").write_bytes(turned)
        with pytest.raises(InputError, match="is not what was backed up"):
            read_backup(tmp_path / "t.tar")


def rewritten(tar: Path, to: Path, change) -> Path:
    """A backup whose index was changed."""
    with tarfile.open(tar) as old, tarfile.open(to, "w") as new:
        for member in old:
            content = old.extractfile(member).read()  # type: ignore[union-attr]
            if member.name == module.INDEX:
                content = json.dumps(change(json.loads(content))).encode()
                member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return to


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda told: told | {"schema_version": 2}, "docs/upgrade.md"),
        (lambda told: [], "index that cannot be read"),
        (lambda told: {k: v for k, v in told.items() if k != "files"}, "cannot be read"),
        (lambda told: told | {"files": {"a": {"bytes": "x", "sha256": 1}}}, "cannot be read"),
        (lambda told: told | {"files": told["files"] | {"b": {"bytes": 1, "sha256": ""}}}, "b is"),
    ],
)
def test_an_index_of_another_version_or_kind_is_refused(tar, tmp_path, change, says):
    with pytest.raises(InputError, match=says):
        read_backup(rewritten(tar, tmp_path / "c.tar", change))


@pytest.mark.parametrize(
    "member", ["/etc/passwd", "state/../../x", "../x", "state/", "other/x", "state//etc/x"]
)
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, member):
    file = tmp_path / "evil.tar"
    with tarfile.open(file, "w") as made:
        info = tarfile.TarInfo(member)
        info.size = 1
        made.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(InputError, match=r"evil.tar: (holds|has no index)"):
        restore(file, tmp_path / "inner" / "r")
    assert not list(tmp_path.glob("inner/*"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_pipes_in_a_backup_are_refused(tmp_path, kind):
    file = tmp_path / "evil.tar"
    with tarfile.open(file, "w") as made:
        info = tarfile.TarInfo("state/a")
        info.type, info.linkname = kind, "/etc/passwd"
        made.addfile(info)
    with pytest.raises(InputError, match="no plain file"):
        restore(file, tmp_path / "r")


def test_where_a_backup_may_not_go(whole, tar, tmp_path):
    with pytest.raises(InputError, match="is there already"):
        back_up(whole, tar)
    with pytest.raises(InputError, match="inside the state folder"):
        back_up(whole, whole / "b.tar")
    with pytest.raises(InputError, match="Make it"):
        back_up(whole, tmp_path / "no" / "b.tar")
    with pytest.raises(InputError, match=r"no state\.json"):
        back_up(tmp_path, tmp_path / "b.tar")


def test_a_disk_that_is_full_leaves_no_half_backup(whole, small_disk):
    small_disk.fill(leave_bytes=100_000)
    with pytest.raises(StorageError, match=r"b\.tar cannot be written"):
        back_up(whole, small_disk.folder / "b.tar")
    assert [p.name for p in small_disk.folder.iterdir()] == ["ballast"]
    back_up(whole, small_disk.folder.parent / "b.tar")
    with pytest.raises(StorageError, match="cannot be written"):
        restore(small_disk.folder.parent / "b.tar", small_disk.folder / "r")
    assert [p.name for p in small_disk.folder.iterdir()] == ["ballast"]


def test_old_backups_of_this_state_go_and_no_others(tmp_path):
    names = [backup_name("abc", datetime(2026, 11, day, tzinfo=UTC)) for day in (1, 2, 3, 4)]
    others = [backup_name("def", datetime(2026, 1, 1, tzinfo=UTC)), "mine.tar", "beamsteer-abc.tar"]
    for name in (*names, *others):
        (tmp_path / name).touch()
    gone = remove_old_backups(tmp_path, "abc", 2)
    assert [p.name for p in gone] == names[:2]
    assert {p.name for p in tmp_path.iterdir()} == {*names[2:], *others}
