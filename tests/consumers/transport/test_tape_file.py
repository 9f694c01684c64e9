from __future__ import annotations

import math
import os
import re
import resource
import signal
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.transport import TapeReader, TapeWriter, read_tape
from consumers.transport.tape_record import TapeError
from consumers.wire import RawMessage
from tests.told import told_in_time

INT64 = st.integers(-(2**63), 2**63 - 1)
MESSAGES = st.builds(
    RawMessage,
    topic=st.text(max_size=20),
    partition=st.integers(0, 2**31 - 1),
    offset=INT64,
    value=st.binary(max_size=200),
    key=st.none() | st.binary(max_size=20),
    timestamp_ns=INT64,
    headers=st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=8)), max_size=3).map(tuple),
)


def messages(n: int, *, size: int = 40, topic: str = "t", first: int = 0) -> list[RawMessage]:
    return [
        RawMessage(
            topic=topic,
            partition=0,
            offset=i,
            value=bytes([i % 256]) * size,
            key=b"run",
            timestamp_ns=1_000 * i,
            headers=(("document", b"event"),),
        )
        for i in range(first, first + n)
    ]


def write(folder: Path, content: list[RawMessage], *, segment_bytes: int = 1 << 30) -> None:
    with TapeWriter(folder, segment_bytes=segment_bytes) as tape:
        tape.append(content)


def same(one: list[RawMessage], two: list[RawMessage]) -> bool:
    return [astuple(m) for m in one] == [astuple(m) for m in two]


@given(content=st.lists(MESSAGES, max_size=12), segment_bytes=st.sampled_from([1, 300, 1 << 20]))
def test_what_was_written_is_read_to_the_last_bit(tmp_path_factory, content, segment_bytes):
    folder = tmp_path_factory.mktemp("tape")
    write(folder, content, segment_bytes=segment_bytes)
    assert same(list(read_tape(folder)), content)


def test_a_tape_goes_on_where_it_ended(tmp_path: Path) -> None:
    write(tmp_path, messages(10))
    with TapeWriter(tmp_path) as tape:
        assert tape.positions == {("t", 0): 10}
        tape.append(messages(5, first=10))
        tape.append(messages(2, topic="other"))
        assert tape.positions == {("t", 0): 15, ("other", 0): 2}
    assert len(list(read_tape(tmp_path))) == 17


def test_segments_keep_to_their_size_and_a_large_record_gets_one_of_its_own(tmp_path: Path) -> None:
    content = messages(40, size=100) + messages(1, size=5000, first=40) + messages(5, first=41)
    write(tmp_path, content, segment_bytes=1000)
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("*.tape"))]
    assert len(sizes) > 5
    assert sum(size > 1000 for size in sizes) == 1
    assert same(list(read_tape(tmp_path)), content)


def test_offsets_are_known_after_a_rotation_without_reading_older_segments(tmp_path: Path) -> None:
    write(tmp_path, messages(50, size=100) + messages(3, topic="z"), segment_bytes=1000)
    (tmp_path / "00000001.tape").write_bytes(b"spoilt")
    with TapeWriter(tmp_path) as tape:
        assert tape.positions == {("t", 0): 50, ("z", 0): 3}


@pytest.mark.parametrize("cut", range(1, 120, 7))
def test_a_torn_tail_is_left_out_by_readers_and_cut_off_by_the_next_writer(
    tmp_path: Path, cut: int
) -> None:
    path = tmp_path / "00000000.tape"
    write(tmp_path, messages(3))
    three = path.stat().st_size
    write(tmp_path, messages(1, first=3))
    whole = path.stat().st_size
    os.truncate(path, whole - cut)
    with TapeReader(tmp_path) as reader:
        found = []
        while (one := reader.read()) is not None:
            found.append(one[0])
        assert same(found, messages(len(found)))
        assert len(found) == 4 - math.ceil(cut / (whole - three))
        assert reader.torn_bytes == path.stat().st_size - reader.place.byte
        torn = reader.torn_bytes
    with TapeWriter(tmp_path) as tape:
        assert (tape.note is not None) == (torn > 0)
        if torn:
            assert f"{torn} bytes" in str(tape.note)
        tape.append(messages(2, first=len(found)))
    assert same(list(read_tape(tmp_path)), messages(len(found) + 2))


@pytest.mark.parametrize("tail", [b"\0" * 5000, b"\xb5rec", b"\xb5rec" + b"\xff" * 40])
def test_space_that_was_never_filled_is_a_torn_tail(tmp_path: Path, tail: bytes) -> None:
    write(tmp_path, messages(3))
    with (tmp_path / "00000000.tape").open("ab") as file:
        file.write(tail)
    assert same(list(read_tape(tmp_path)), messages(3))
    with told_in_time():
        tape = TapeWriter(tmp_path)
    with tape:
        assert f"{len(tail)} bytes" in str(tape.note)
        tape.append(messages(1, first=3))
    assert same(list(read_tape(tmp_path)), messages(4))


def test_a_tail_that_was_not_written_to_its_end_is_torn_though_its_length_is_right(
    tmp_path: Path,
) -> None:
    write(tmp_path, messages(3))
    path = tmp_path / "00000000.tape"
    content = bytearray(path.read_bytes())
    content[-10:] = bytes(10)
    path.write_bytes(content)
    assert same(list(read_tape(tmp_path)), messages(2))


@pytest.mark.parametrize("flip", [0x01, 0xFF])
def test_damage_before_the_end_is_an_error_that_names_file_and_byte(
    tmp_path: Path, flip: int
) -> None:
    write(tmp_path, messages(3))
    path = tmp_path / "00000000.tape"
    good = path.read_bytes()
    for byte in range(good.rfind(b"\xb5rec")):
        spoilt = bytearray(good)
        spoilt[byte] ^= flip
        path.write_bytes(spoilt)
        for use in (lambda: list(read_tape(tmp_path)), lambda: TapeWriter(tmp_path)):
            with (
                told_in_time(),
                pytest.raises(TapeError, match=r"00000000\.tape: .*(byte \d+|version)") as caught,
            ):
                use()
            kept = re.search(r"head -c (\d+)", str(caught.value))
            assert kept is None or int(kept[1]) <= byte
        assert path.read_bytes() == spoilt


def test_damage_at_the_end_of_a_segment_that_others_follow_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, messages(30), segment_bytes=600)
    path = tmp_path / "00000001.tape"
    os.truncate(path, path.stat().st_size - 3)
    with pytest.raises(TapeError, match=r"00000001\.tape: byte \d+ is damaged and a segment follo"):
        list(read_tape(tmp_path))


def test_a_missing_segment_is_named(tmp_path: Path) -> None:
    write(tmp_path, messages(30), segment_bytes=600)
    (tmp_path / "00000001.tape").unlink()
    with pytest.raises(TapeError, match=r"00000001\.tape: this segment is missing"):
        TapeReader(tmp_path)


def test_segments_of_two_tapes_do_not_mix(tmp_path: Path) -> None:
    write(tmp_path / "a", messages(30), segment_bytes=600)
    write(tmp_path / "b", messages(30), segment_bytes=600)
    (tmp_path / "b/00000001.tape").replace(tmp_path / "a/00000001.tape")
    with pytest.raises(TapeError, match="belongs to tape"):
        list(read_tape(tmp_path / "a"))


def test_a_newer_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write(tmp_path, messages(1))
    path = tmp_path / "00000000.tape"
    content = bytearray(path.read_bytes())
    content[8] = 2
    path.write_bytes(content)
    for use in (lambda: list(read_tape(tmp_path)), lambda: TapeWriter(tmp_path)):
        with pytest.raises(TapeError, match=r"version 2; this Beamsteer reads up to 1"):
            use()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such tape"),
        (b"", "holds no .tape"),
        (b"PK\3\4 and more of it", "expected a tape"),
    ],
)
def test_what_is_no_tape_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    folder = tmp_path / "x"
    if content is not None:
        folder.mkdir()
        if content:
            (folder / "00000000.tape").write_bytes(content)
    with pytest.raises(TapeError, match=words):
        list(read_tape(folder))


def test_one_tape_has_one_writer(tmp_path: Path) -> None:
    with TapeWriter(tmp_path):
        with pytest.raises(BlockingIOError, match="another process is writing"):
            TapeWriter(tmp_path)
    TapeWriter(tmp_path).close()


def test_messages_beyond_the_limits_are_refused_and_nothing_of_the_call_is_written(
    tmp_path: Path,
) -> None:
    with TapeWriter(tmp_path) as tape:
        for bad in (
            RawMessage(topic="t" * 2000, partition=0, offset=0, value=b""),
            RawMessage(topic="t", partition=0, offset=0, value=b"", key=b"k" * 70_000),
            RawMessage(topic="t", partition=2**40, offset=0, value=b""),
        ):
            with pytest.raises(TapeError, match="expected at most|no tape can hold"):
                tape.append([*messages(1), bad])
        with pytest.raises(TapeError, match="its value has"):
            tape.append(messages(1, size=300 * 2**20))
    assert list(read_tape(tmp_path)) == []


def test_a_reader_sees_what_a_writer_adds_and_nothing_half_written(tmp_path: Path) -> None:
    with TapeWriter(tmp_path, segment_bytes=500) as tape, TapeReader(tmp_path) as reader:
        for i in range(30):
            assert reader.read() is None
            tape.append(messages(1, first=i))
            found = reader.read()
            assert found is not None
            assert found[0].offset == i


def test_messages_can_be_passed_over_unread(tmp_path: Path) -> None:
    write(tmp_path, messages(20) + messages(20, topic="u"), segment_bytes=700)
    with TapeReader(tmp_path) as reader:
        found = []
        while (one := reader.read(lambda t, p, o: t == "u" and o >= 15)) is not None:
            found.append(one[0])
    assert same(found, messages(5, topic="u", first=15))


SOURCE = """
import sys
from consumers.transport import TapeWriter
from tests.consumers.transport.test_tape_file import messages
tape = TapeWriter(sys.argv[1], segment_bytes=20_000)
for i in range(10_000_000):
    tape.append(messages(3, size=500, first=3 * i))
    print(3 * i + 3, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 40, 333])
def test_a_killed_writer_loses_nothing_that_it_had_confirmed(tmp_path: Path, lines: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SOURCE, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        confirmed = [int(process.stdout.readline()) for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
    with told_in_time():
        tape = TapeWriter(tmp_path)
    with tape:
        there = tape.positions["t", 0]
        tape.append(messages(1, size=500, first=there))
    assert there >= confirmed[-1]
    assert same(list(read_tape(tmp_path)), messages(there + 1, size=500))


FULL = """
import resource, signal, sys
from consumers.transport import TapeWriter
from tests.consumers.transport.test_tape_file import messages
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
tape = TapeWriter(sys.argv[1])
tape.append(messages(10))
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
try:
    tape.append(messages(100, size=100, first=10))
except OSError:
    print(tape.positions["t", 0])
"""


def test_a_disk_that_takes_no_more_leaves_whole_records_and_true_offsets(tmp_path: Path) -> None:
    assert hasattr(resource, "RLIMIT_FSIZE")
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    count = int(done.stdout)
    assert 10 < count < 60
    found = list(read_tape(tmp_path))
    assert same(found, messages(10) + messages(count - 10, size=100, first=10))
    with TapeWriter(tmp_path) as tape:
        assert tape.note is None
