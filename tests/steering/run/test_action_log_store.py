"""The log of actions: whole lines, in order, whatever ends the writer."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from simulations.errors import InputError, StorageError
from steering.run import ActionLog
from steering.run.action_log_store import NAME, Logged
from steering.run.actions import ConflictError
from tests.steering.run.test_actions import action

ROOT = Path(__file__).resolve().parents[3]


def pin(psi: float, expected: int | None = None):
    def made(logged: Logged):
        if expected is not None and logged.number != expected:
            raise ConflictError("meanwhile")
        return action(logged.number + 1, "pin", psi_deg=psi)

    return made


def psis(folder: Path) -> list[float]:
    return [one.psi_deg for one in ActionLog(folder).read().orders().pinned]


def test_what_was_written_is_read_in_order_and_only_when_it_changed(tmp_path):
    log = ActionLog(tmp_path)
    assert log.read() == Logged()
    for psi in (1.0, 2.0, 3.0):
        log.append(pin(psi))
    assert [one.number for one in log.read().actions] == [1, 2, 3]
    assert log.read() is log.read()
    log.note_applied(2, "model-server", 77)
    log.note_applied(2, "model-server", 99)  # once is enough
    log.note_applied(1, "consume", 88)
    read = log.read()
    assert read.applied_ns(2, "model-server") == 77
    assert read.applied_ns(1, "model-server") == 77
    assert read.applied_ns(3, "model-server") is None
    assert read.applied_up_to("consume") == 1
    assert len((tmp_path / NAME).read_text().splitlines()) == 5


def test_a_line_cut_anywhere_is_as_if_it_had_never_been_and_the_next_one_follows(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    log = ActionLog(whole)
    log.append(pin(1.0))
    first = (whole / NAME).read_bytes()
    log.append(pin(2.0))
    both = (whole / NAME).read_bytes()
    for cut in (*range(len(first), len(both), 23), len(both) - 1):  # lacking no more than its end
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / NAME).write_bytes(both[:cut])
        assert psis(folder) == [1.0]
        ActionLog(folder).append(pin(3.0))
        assert psis(folder) == [1.0, 3.0]
        assert (folder / NAME).read_bytes().startswith(both[:cut])  # it only ever grows


@pytest.mark.parametrize(
    "damage", [b"{}\n", b"not JSON\n", b'{"action": {}}\n', b"[1]\n", b"\xff\xfe\n"]
)
def test_a_damaged_log_is_refused_and_says_what_to_do(tmp_path, damage):
    ActionLog(tmp_path).append(pin(1.0))
    content = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(damage + content)
    with pytest.raises(InputError, match="damaged.*Restore it from a backup"):
        ActionLog(tmp_path).read()
    (tmp_path / NAME).write_bytes(content + content)
    with pytest.raises(InputError, match="line 2 is action 1, not 2"):
        ActionLog(tmp_path).read()
    with pytest.raises(InputError, match="damaged"):
        ActionLog(tmp_path).append(pin(2.0))


def test_of_many_at_once_none_is_lost_and_all_have_their_number(tmp_path):
    with ThreadPoolExecutor(8) as beside:
        made = list(beside.map(lambda i: ActionLog(tmp_path).append(pin(float(i))), range(40)))
    assert sorted(one.number for one in made) == list(range(1, 41))
    assert sorted(psis(tmp_path)) == [float(i) for i in range(40)]


def test_of_two_who_saw_the_same_one_is_told_of_the_other(tmp_path):
    log = ActionLog(tmp_path)

    def ask(psi: float) -> bool:
        try:
            log.append(pin(psi, expected=0))
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(2) as beside:
        assert sorted(beside.map(ask, (1.0, 2.0))) == [False, True]
    assert len(psis(tmp_path)) == 1


ENDLESS = """
import sys
from pathlib import Path
from steering.run import ActionLog
from tests.steering.run.test_action_log_store import pin
log = ActionLog(Path(sys.argv[1]))
for i in range(100_000):
    print(log.append(pin(i / 1000)).number, flush=True)
"""


def test_what_a_killed_writer_was_told_is_there(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(5)]
    process.kill()
    told += [int(line) for line in process.stdout if line.endswith("\n")]
    process.wait()
    process.stdout.close()
    there = ActionLog(tmp_path).read().number
    assert told[-1] <= there <= told[-1] + 1
    assert ActionLog(tmp_path).append(pin(1.5)).number == there + 1


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="cannot be written"):
        ActionLog(tmp_path).append(pin(1.0))


def test_a_full_disk_is_told_and_leaves_what_there_was(small_disk):
    log = ActionLog(small_disk.folder)
    log.append(pin(1.0))
    small_disk.fill()
    taken = 1
    with pytest.raises(StorageError, match="cannot be written"):
        taken = _fill(log)
    assert log.read().number >= taken
    small_disk.make_room()
    assert log.append(pin(90.0)).number == log.read().number


def _fill(log: ActionLog) -> int:
    """Append until the last block is full."""
    return max(log.append(pin(2.0 + i / 10)).number for i in range(200))
