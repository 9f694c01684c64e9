import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from consumers.state import EventSpill, HeldBound
from consumers.state.event_spill_file import bytes_of, forget_pages
from consumers.wire import Events


def events(n, seed=0):
    rng = np.random.default_rng([n, seed])
    return Events(
        source="b",
        sequence=seed,
        reference_time_ns=np.array([7, 9], np.int64),
        reference_index=np.array([0, n // 2], np.int64),
        time_of_flight_ns=rng.integers(0, 2**31 - 1, n).astype(np.int32),
        pixel_id=rng.integers(0, 1000, n).astype(np.int32),
    )


def same(one, two):
    return all(
        np.array_equal(getattr(one, name), getattr(two, name))
        for name in ("reference_time_ns", "reference_index", "time_of_flight_ns", "pixel_id")
    )


def test_what_is_spilled_comes_back_and_leaves_no_name(tmp_path):
    spill = EventSpill(tmp_path, segment_bytes=4096)
    sizes = [0, 1, 5, 100, 3000, 7, 500, 500]  # 3000 events are more than a file takes
    kept = [spill.spill(events(n, k)) for k, n in enumerate(sizes)]
    forget_pages([e.pixel_id for e in kept])
    assert all(same(e, events(n, k)) for k, (n, e) in enumerate(zip(sizes, kept, strict=True)))
    assert not list(tmp_path.iterdir())


def test_space_comes_back_once_events_are_used_up(tmp_path):
    spill = EventSpill(tmp_path, segment_bytes=4096)
    kept = [spill.spill(events(400, k)) for k in range(6)]
    assert spill.disk_bytes == 6 * 4096
    del kept[:5]
    gc.collect()
    assert spill.disk_bytes == 4096
    kept.clear()
    spill.empty()
    gc.collect()
    assert spill.disk_bytes == 0


def test_the_bound_is_shared_by_the_partitions_of_a_worker(tmp_path):
    bound = HeldBound(limit_bytes=3 * bytes_of(events(100)))
    one, two = EventSpill(tmp_path, bound), EventSpill(tmp_path, bound)
    one.count(2 * bytes_of(events(100)))
    assert two.has_room(events(100))
    two.count(bytes_of(events(100)))
    assert not one.has_room(events(1))
    one.close()
    assert two.has_room(events(100))


def test_a_killed_process_leaves_nothing_behind(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from consumers.state import EventSpill\n"
        "from tests.consumers.state.test_event_spill_file import events\n"
        "kept = EventSpill(Path(sys.argv[1])).spill(events(1000))\n"
        "print('there', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=Path(__file__).resolve().parents[3],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        process.kill()
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        os.getuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)],
            capture_output=True,
            check=False,
        ).returncode
    )
    if not mounted:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_before_anything_is_lost(small_disk):
    spill = EventSpill(small_disk, segment_bytes=512 * 1024)
    first = spill.spill(events(60_000))
    second = spill.spill(events(60_000, 1))
    with pytest.raises(OSError, match="No space left"):
        spill.spill(events(60_000, 2))
    assert same(first, events(60_000))
    del second
    gc.collect()
    with pytest.raises(OSError, match="No space left"):
        spill.spill(events(200_000, 2))
    del first
    spill.empty()
    gc.collect()
    assert same(spill.spill(events(60_000, 2)), events(60_000, 2))
