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


FOLD_ONE_DWELL = """
import itertools, json, sys, threading, time
from pathlib import Path

import numpy as np

from consumers.state import read_manifest
from consumers.wire import (
    Events, LogSample, RawMessage, RunBegins, RunEnds,
    encode_events, encode_log, encode_run_begins, encode_run_ends,
)
from steering.service.consuming import consume
from steering.service.fold_worker import FoldWorker, Patience
from tests.steering.live_stream import BEGIN, SECOND, live_measurement

state, megabytes, late = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "late"
measurement = live_measurement()
per_message = 50_000
n = megabytes * 1_000_000 // (8 * per_message)
ids = measurement.instrument.detector_id
peak = [0.0]


def watch():
    while True:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        peak[0] = max(peak[0], pages * 4096 / 1e6)
        time.sleep(0.005)


class Made:
    '''A dwell whose messages are made when they are asked for.'''

    def __init__(self, owner):
        owner.take(0)
        self.todo = self.messages()

    def messages(self):
        counts = {}

        def raw(topic, value):
            counts[topic] = counts.get(topic, 0) + 1
            return RawMessage(
                topic=topic, partition=0, offset=counts[topic] - 1, key=b"big", value=value
            )

        def log(source, t, value):
            sample = LogSample(source=source, time_ns=t, value=np.array([float(value)]))
            return raw("log", encode_log(sample))

        begins = RunBegins(job="big", chunk="big", source="t", start_time_ns=BEGIN)
        yield raw("bounds", encode_run_begins(begins))
        yield log("s1", BEGIN - SECOND, 5.0)
        held = None
        for k in range(n):
            rng = np.random.default_rng(k)
            t = BEGIN + k * SECOND // 10
            yield log("proton_charge", t, 1e9)
            one = encode_events(Events(
                source="bank", sequence=k, reference_time_ns=np.array([t], np.int64),
                reference_index=np.array([0], np.int64),
                time_of_flight_ns=rng.integers(5_000_000, 16_000_000, per_message, np.int32),
                pixel_id=rng.choice(ids, per_message).astype(np.int32),
            ))
            if late and k == n // 2:
                held = one
            else:
                yield raw("events", one)
        stop = BEGIN + n * SECOND // 10
        ends = RunEnds(job="big", source="t", stop_time_ns=stop)
        yield raw("bounds", encode_run_ends(ends))
        yield log("s1", stop + 5 * SECOND, 5.0)
        yield log("s1", stop + 6 * SECOND, 5.0)
        if held is not None:
            yield "wait"
            yield raw("events", held)

    def poll(self, timeout_s):
        batch = []
        for one in self.todo:
            if one == "wait":
                if not any(run.chunks for run in worker.runs.values()):
                    self.todo = itertools.chain([one], self.todo)
                break
            batch.append(one)
            if len(batch) == 20:
                break
        if not batch:
            time.sleep(timeout_s)
        return batch

    def acknowledge(self, positions):
        pass


threading.Thread(target=watch, daemon=True).start()
worker = FoldWorker(
    measurement, state=state, default_run="x", patience=Patience(settle_s=0.5, turn_s=0.05)
)
source = Made(worker)
peak[0] = 0.0
began = time.perf_counter()
def folded():
    chunks = [c for run in worker.runs.values() for c in run.chunks]
    if not chunks or chunks[-1].generation != int(late):
        return False
    return worker.settled()["events", 0] == n


consume(source, worker, stop=folded)
seconds = time.perf_counter() - began
worker.close()
(chunk,) = read_manifest(state / "partition-0").runs["big"].chunks
assert chunk.status == "folded", chunk.reason
assert chunk.generation == int(late)
import safetensors
with safetensors.safe_open(str(state / "partition-0" / chunk.file), framework="numpy") as file:
    events = json.loads(file.metadata()["beamsteer"])["events"]
print(json.dumps({
    "peak": peak[0], "seconds": seconds, "messages": n, "events": n * per_message,
    "accounted": events,
}))
"""


def fold_one_dwell(folder: Path, megabytes: int, *, late: bool = False) -> dict[str, float]:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", FOLD_ONE_DWELL, str(folder), str(megabytes), "late" * late or "no"],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory as Linux tells it")
def test_a_dwell_of_a_gigabyte_needs_no_more_memory_than_one_of_a_tenth(tmp_path: Path) -> None:
    """Held on disk, recorded and folded in blocks; a late message does not bring it back."""
    small = fold_one_dwell(tmp_path / "small", 100)
    large = fold_one_dwell(tmp_path / "large", 1000)
    late = fold_one_dwell(tmp_path / "late", 1000, late=True)
    for name, told in (("100 MB", small), ("1 GB", large), ("1 GB, reopened", late)):
        sys.stdout.write(
            f"\ndwell of {name}: resident at most {told['peak']:.0f} MB, {told['events']:,} events "
            f"in {told['messages']} messages, {told['seconds']:.0f} s"
        )
        accounted = told["accounted"]
        assert sum(n for n in accounted.values() if isinstance(n, int)) >= told["events"]
    sys.stdout.write("\n")
    assert late["accounted"] == large["accounted"]
    assert max(large["peak"], late["peak"]) < small["peak"] + 150
