"""Files that are whole or not there, on a disk that is really full."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from simulations.errors import StorageError
from simulations.saved_file import in_one_step, sync_folder, write_whole


def test_a_full_disk_leaves_what_was_there(small_disk):
    old, new = small_disk.folder / "old.yaml", small_disk.folder / "new.yaml"
    write_whole(old, "old\n")
    small_disk.fill(leave_bytes=8192)
    for path in (old, new):
        with pytest.raises(StorageError, match="No space left"):
            write_whole(path, "x" * 100_000)
    small_disk.make_room()
    assert old.read_text() == "old\n"
    assert list(small_disk.folder.iterdir()) == [old]


def test_a_link_stays_one_and_what_it_points_to_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "file.txt", tmp_path / "link.txt"
    target.write_text("before")
    link.symlink_to(target)
    write_whole(link, b"after")
    assert link.is_symlink()
    assert target.read_text() == "after"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_a_pipe_is_written_to(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_whole(pipe, "through\n")
    reader.join(10)
    assert read == ["through\n"]
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_block_that_fails_leaves_nothing(tmp_path):
    path = tmp_path / "file.txt"

    def fails() -> None:
        with in_one_step(path) as partial:
            partial.write_text("half")
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        fails()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no file system here without a flush")
def test_a_file_system_that_cannot_flush_a_folder_is_no_failure():
    handle = os.open("/proc", os.O_RDONLY)
    with pytest.raises(OSError, match="Invalid argument"):
        os.fsync(handle)
    os.close(handle)
    sync_folder(Path("/proc"))
