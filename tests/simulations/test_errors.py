from __future__ import annotations

import pytest

from simulations.errors import StorageError, storing


def test_a_full_disk_says_what_to_do_and_nothing_that_a_command_does_not(small_disk):
    small_disk.fill()
    path = small_disk.folder / "set.yaml"
    with pytest.raises(StorageError, match="set.yaml cannot be written .*No space") as told:
        with storing(path):
            path.write_bytes(b"x" * 100_000)
    assert "a command is to be run again" in str(told.value)
    assert "it is tried again" not in str(told.value)
