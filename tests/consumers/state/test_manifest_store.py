import pytest

from consumers.state import (
    ChunkRecord,
    Cut,
    Manifest,
    PartitionLock,
    RunRecord,
    file_name,
    partition_folders,
    read_manifest,
    remove_unnamed,
    run_folder,
    write_manifest,
)
from consumers.state.manifest_store import Position

CHUNK = ChunkRecord(
    chunk="178921",
    job="j",
    generation=2,
    start_time_ns=5,
    stop_time_ns=9,
    status="folded",
    file="run/chunks/a",
    recording="run/recorded/b",
    descriptors=("d", "e"),
    cut=(Cut(recording="run/recorded/c", left=((3, 4), (6, 6)), logs_from_ns=3),),
)
MANIFEST = Manifest(
    partition=3,
    positions={"events": Position(next=7, done=((9, 11), (15, 15)))},
    counters={"messages.events": 11},
    runs={"run": RunRecord(chunks=(CHUNK,), logs={"s1": (4, (1.5,))})},
)


def test_what_is_written_is_read_and_every_commit_counts(tmp_path):
    assert read_manifest(tmp_path) is None
    written = write_manifest(tmp_path, MANIFEST)
    assert written.generation == 1
    assert read_manifest(tmp_path) == written
    assert write_manifest(tmp_path, written).generation == 2
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_positions_know_what_is_settled():
    position = MANIFEST.positions["events"]
    assert [n for n in range(18) if not position.has(n)] == [7, 8, 12, 13, 14, 16, 17]


def test_who_fell_behind_cannot_write(tmp_path):
    first = write_manifest(tmp_path, MANIFEST)
    write_manifest(tmp_path, first)
    with pytest.raises(RuntimeError, match="generation is 2; expected 1"):
        write_manifest(tmp_path, first)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[: len(text) // 2], "not a manifest"),
        (lambda text: "[]", "not a manifest"),
        (lambda text: text.replace('"next": 7', '"next": 8'), "checksum"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 2'), "expected 1"),
    ],
)
def test_a_damaged_or_newer_manifest_is_refused(change, reason, tmp_path):
    write_manifest(tmp_path, MANIFEST)
    path = tmp_path / "manifest.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=reason):
        read_manifest(tmp_path)


def test_files_without_a_name_in_the_manifest_are_removed(tmp_path):
    for name in ("chunks/a", "chunks/old", "recorded/b", "recorded/c", "recorded/c.partial"):
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "run" / "estimate").mkdir()
    (tmp_path / "run" / "estimate" / "result.json").touch()
    assert remove_unnamed(tmp_path, MANIFEST) == 2
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    kept = ["chunks/a", "estimate/result.json", "recorded/b", "recorded/c"]  # c: what was cut off
    assert left == [f"run/{name}" for name in kept]


def test_one_process_owns_a_partition(tmp_path):
    lock = PartitionLock(tmp_path / "p")
    with pytest.raises(BlockingIOError, match="expected one at a time"):
        PartitionLock(tmp_path / "p")
    lock.release()
    PartitionLock(tmp_path / "p").release()


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "a b", "ä", ".hidden", "x" * 200, "\x00"])
def test_any_name_of_a_run_becomes_one_file_name(name):
    safe = file_name(name)
    assert safe not in ("", ".", "..")
    assert "/" not in safe
    assert not safe.startswith(".")
    assert len(safe) < 100
    assert safe.isprintable()


def test_names_that_differ_stay_apart(tmp_path):
    names = ["a/b", "a_b", "a b", "a_b_3", "..", "."]
    assert len({run_folder(tmp_path, name) for name in names}) == len(names)
    assert file_name("178921") == "178921"


def test_folders_without_a_manifest_are_no_partitions(tmp_path):
    (tmp_path / "partition-1").mkdir()
    (tmp_path / "partition-0").mkdir()
    write_manifest(tmp_path / "partition-0", MANIFEST)
    assert [p.name for p in partition_folders(tmp_path)] == ["partition-0"]
