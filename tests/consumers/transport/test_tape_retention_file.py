"""Segments go when they are acknowledged and beyond the bounds, and never before."""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path

import pytest

from consumers.transport import Keep, Taped, TapeSource, TapeWriter, read_tape
from consumers.transport.tape_record import TapeError, segments_of
from tests.consumers.transport.test_tape_file import messages, same
from tests.consumers.transport.test_tape_source import Listed, Owner


def everything(source, count: int) -> list:
    found, end = [], time.monotonic() + 60
    while len(found) < count and time.monotonic() < end:
        found += source.poll(0.5)
    assert len(found) == count
    return found


def ends(found) -> dict[tuple[str, int], int]:
    return {(m.topic, m.partition): m.offset + 1 for m in found}


def taped(folder: Path, content, owner=None, keep: Keep | None = None) -> Taped:
    return Taped(
        Listed(content), TapeWriter(folder, segment_bytes=2000), owner or Owner(), keep=keep
    )


def test_acknowledged_segments_beyond_the_bound_go_and_a_restart_goes_on(tmp_path):
    with closing(taped(tmp_path, messages(200), keep=Keep(bytes=6000))) as source:
        found = everything(source, 200)
        assert len(found) == 200
        before = segments_of(tmp_path)
        source.acknowledge({})  # nothing is saved yet
        assert segments_of(tmp_path) == before
        half = found[:100]
        source.acknowledge(ends(half))
        kept = segments_of(tmp_path)
        assert before[-1] == kept[-1]
        assert source.removed_segments == len(before) - len(kept) > 0
        state = Owner({0: {t: n for (t, _), n in ends(half).items()}})
        with closing(TapeSource(tmp_path, state)) as again:
            assert same(everything(again, 100), found[100:])
        source.acknowledge(ends(found))
        assert sum(p.stat().st_size for p in tmp_path.glob("*.tape")) <= 6000
    positions = {t: n for (t, _), n in ends(found).items()}
    with closing(taped(tmp_path, messages(30), Owner({0: positions}))) as source:
        assert len(everything(source, 30)) == 30


def test_old_segments_go_by_age_and_never_the_last(tmp_path):
    with closing(taped(tmp_path, messages(100), keep=Keep(days=1))) as source:
        found = everything(source, 100)
        numbers = segments_of(tmp_path)
        for number in numbers[:3]:
            path = tmp_path / f"{number:08d}.tape"
            old = path.stat().st_mtime - 2 * 86_400
            os.utime(path, (old, old))
        source.acknowledge(ends(found))
        assert segments_of(tmp_path) == numbers[3:]


def test_a_state_that_needs_what_is_gone_is_told_how_much(tmp_path):
    with closing(taped(tmp_path, messages(200), keep=Keep(bytes=1))) as source:
        source.acknowledge(ends(everything(source, 200)))
    assert len(segments_of(tmp_path)) == 1
    with (
        closing(TapeSource(tmp_path, Owner())) as source,
        pytest.raises(TapeError, match="which the state still needs"),
    ):
        source.poll(0.1)
    assert list(read_tape(tmp_path))  # without a state what is left can be read
