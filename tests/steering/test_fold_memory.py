"""Resident memory of a run does not grow with its chunks, apart from the sums of their cells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MORE_MB = 30.0
FOLD_MANY = """
import json, sys
from pathlib import Path

import numpy as np

from consumers.fold import ChunkStart, ChunkStop, EventBlock, Message
from steering.run import Run
from tests.steering.virtual_scan import small_measurement


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


measurement = small_measurement()
run = Run(measurement, run_id="memory", folder=Path(sys.argv[1]), estimate=False)
rng = np.random.default_rng(0)
events, sequence, after = 200_000, 0, {}
for number in range(1, 41):
    chunk = f"chunk {number}"
    payloads = [
        ChunkStart(
            chunk=chunk, instrument_name="ARCS", ei_meV=measurement.ei_meV,
            psi_deg=3.0 * number, start_time_ns=number,
        ),
        EventBlock(
            chunk=chunk,
            pixel=rng.integers(0, measurement.instrument.n_pixels, events).astype(np.int32),
            energy_transfer_meV=rng.uniform(0, 39, events),
        ),
        ChunkStop(chunk=chunk, proton_charge=1.0, minutes=1.0, read=events, filtered=0),
    ]
    for payload in payloads:
        run.accept(Message(run="memory", source="test", sequence=sequence, payload=payload))
        sequence += 1
    assert len(run.chunks) == number, run.records
    after[number] = resident_mb()
sums = run.chunks[-1].sums
cells = sum(
    getattr(sums, name).nbytes for name in ("signal", "variance", "counts", "exposure", "flat")
)
stored = sum(chunk.path.stat().st_size for chunk in run.chunks)
print(json.dumps({"after": after, "cells": cells / 1e6, "stored": stored / 1e6}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory as Linux tells it")
def test_forty_chunks_need_no_more_memory_than_ten(tmp_path: Path) -> None:
    """In a process of its own, since memory of other tests would hide what grows.

    A chunk's cell sums stay in memory, at most five numbers per cell; its exposure, trajectories
    and crossings must not.
    """
    done = subprocess.run(
        [sys.executable, "-c", FOLD_MANY, str(tmp_path)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    grown = told["after"]["40"] - told["after"]["10"]
    sys.stdout.write(
        f"\nresident after 10 chunks {told['after']['10']:.0f} MB, after 40 "
        f"{told['after']['40']:.0f} MB; {told['stored']:.0f} MB in chunk files, cell sums "
        f"{told['cells']:.3f} MB each\n"
    )
    assert told["stored"] * 30 / 40 > 3 * MORE_MB  # or nothing would be shown
    assert grown < MORE_MB
