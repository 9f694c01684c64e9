"""From the last message of a dwell to its fold in the manifest, on the wire, and to the advice."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaConsumer, TopicPartition

from consumers.state import read_manifest
from consumers.transport import KafkaSection, KafkaTopics
from consumers.wire import RunEnds, decode
from consumers.wire.flatbuffers_codec import decode_data_array
from consumers.wire.values import RawMessage
from steering.experiment import (
    chosen_instrument,
    dump_experiment,
    load_experiment,
    with_absolute_files,
)
from tests.kafka_broker import Topics
from tests.live_traffic import Beamline
from tests.steering.virtual_scan import EXAMPLES

ROOT = Path(__file__).resolve().parents[2]
DWELLS, DWELL_S, PAUSE_S, RATE = 100, 3, 1, 1e6
BAR_S = 2.0
ADVISED = 6  # dwells with a model server beside
ADVICE_S = 400  # which nobody would wait for


class Watch(threading.Thread):
    """Notes when the broker took the stops and the published messages, and when files came."""

    def __init__(self, broker, topics: KafkaTopics, state: Path):
        super().__init__(daemon=True)
        self._names = [topics.name(n) for n in ("run_info", "folded", "estimates", "advice")]
        self._consumer = KafkaConsumer(
            bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest"
        )
        self._consumer.assign([TopicPartition(str(name), 0) for name in self._names])
        self._folder = state / "partition-0"
        self._seen_ns = 0
        self.stops: dict[str, float] = {}  # chunk: seconds
        self.at: dict[str, dict[str, float]] = {"recorded": {}, "folded": {}, "committed": {}}
        self.published: dict[int, float] = {}  # number of chunks: seconds
        self.advised: dict[str, float] = {}  # newest chunk: seconds
        self._estimated: dict[int, str] = {}  # generation: newest chunk
        self.over = threading.Event()

    def run(self):
        while not self.over.is_set():
            self._files()
            for records in self._consumer.poll(timeout_ms=20).values():
                for record in records:
                    self._message(record)
        self._consumer.close()

    def _files(self):
        file = self._folder / "manifest.json"
        if not file.exists() or file.stat().st_mtime_ns == self._seen_ns:
            return
        self._seen_ns = file.stat().st_mtime_ns
        manifest = read_manifest(self._folder)
        for run in manifest.runs.values():
            for chunk in run.chunks:
                if chunk.chunk in self.at["committed"]:
                    continue
                assert chunk.status == "folded", chunk.reason
                self.at["committed"][chunk.chunk] = self._seen_ns / 1e9
                for stage, name in (("recorded", chunk.recording), ("folded", chunk.file)):
                    self.at[stage][chunk.chunk] = (self._folder / name).stat().st_mtime

    def _message(self, record):
        when, which = record.timestamp / 1e3, self._names.index(record.topic)
        if which == 0:
            raw = RawMessage(topic="", partition=0, offset=0, key=None, value=record.value)
            value = decode(raw)
            if isinstance(value, RunEnds):
                self.stops[value.job.rpartition("-")[2]] = when
        elif which == 1:
            chunks = decode_data_array(record.value).variables["chunks"].values
            self.published.setdefault(int(chunks), when)
        elif which == 2:
            told = json.loads(record.value)
            self._estimated[told["state_generation"]] = told["chunks"][-1]
        else:
            newest = self._estimated.get(json.loads(record.value)["state_generation"])
            if newest is not None:
                self.advised.setdefault(newest, when)


@contextmanager
def command(log: Path, *words: str):
    """A command of ours, until the block ends."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "steering.cli", *words, "--log", "json"],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=file, stderr=file,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


def wait_until(true, seconds, what):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def quantiles(seconds) -> str:
    p50, p95, most = np.quantile(seconds, (0.5, 0.95, 1.0))
    return f"p50 {p50:.2f} s, p95 {p95:.2f} s, largest {most:.2f} s"


def experiment_file(folder: Path, section: KafkaSection, **source) -> Path:
    """The reference experiment on a stream, as the verbs read it."""
    experiment = load_experiment(EXAMPLES / "ge-arcs.yaml")
    changes = {"kind": "kafka", "kafka": section, "t0_us": 0.0, **source}
    live = experiment.source.model_copy(update=changes)
    file = folder / "experiment.yaml"
    dump_experiment(
        with_absolute_files(experiment.model_copy(update={"source": live}), EXAMPLES), file
    )
    return file


def measure(broker, tmp_path: Path, dwells: int, advised: int):
    """Dwells as they were sent, and what was seen of them."""
    topics = Topics(broker=broker)
    ours = ("folded", "estimates", "advice", "heartbeat", "dead_letters")
    names = ("detector", "runInfo", "motion", "sampleEnv", *(f"beamsteer_{n}" for n in ours))
    topics(*names, message_timestamp_type="LogAppendTime")
    section = KafkaSection(
        bootstrap_servers=broker.bootstrap,
        topics=KafkaTopics(prefix=topics.prefix, reduced=None, bluesky=None),
        group=topics.prefix,
    )
    file = experiment_file(tmp_path, section)
    experiment, state = load_experiment(file), tmp_path / "state"
    instrument = chosen_instrument(experiment, tmp_path)
    watch = Watch(broker, section.topics, state)
    watch.start()
    with ExitStack() as stack:
        stack.callback(topics.remove)
        worker = stack.enter_context(
            command(
                tmp_path / "consume.log",
                "consume",
                str(file),
                "-o",
                str(state),
                "--health-port",
                "0",
            )
        )
        beamline = Beamline(section, instrument, experiment.instrument.ei_meV, most_per_s=RATE)
        stack.callback(beamline.close)
        psi, number = iter(np.linspace(0, 120, 1 + dwells + advised)), itertools.count()

        def one():
            chunk = f"{next(number)}"
            sent = beamline.dwell("night", chunk, float(next(psi)), DWELL_S * [RATE])
            beamline.pulses("night", PAUSE_S * 60, RATE)
            return sent

        def last_is_in(found, seconds, dwell):
            while dwell.chunk not in found():  # the stream goes on
                beamline.pulses("night", 6, RATE)
                assert watch.is_alive()
                assert (time.time_ns() - dwell.stop_ns) / 1e9 < seconds, worker.poll()

        warm = one()  # compiles what is not compiled yet
        last_is_in(lambda: watch.at["committed"], 180, warm)
        sent = [one() for _ in range(dwells)]
        if sent:
            last_is_in(lambda: watch.at["committed"], 60, sent[-1])
        wait_until(lambda: 1 + dwells in watch.published, 10, "published")
        told = []
        if advised:
            address = tmp_path / "model.log"
            stack.enter_context(command(address, "model-server", str(state), "--port", "0"))
            for _ in range(advised):
                told.append(one())
                last_is_in(lambda: watch.advised, ADVICE_S, told[-1])
        watch.over.set()
        watch.join()
    return sent, told, watch, beamline


def told_of(since, watch, sent):
    """Lines that say how long each stage took."""
    for stage, at in watch.at.items():
        yield f"  {stage:<10} {quantiles([at[d.chunk] - since[d.chunk] for d in sent])}"


def settled(watch, sent, tmp_path) -> dict[str, float]:
    """When the last message of every dwell was there and had settled, seconds."""
    settle_s = load_experiment(tmp_path / "experiment.yaml").source.settle_s
    return {d.chunk: watch.stops[d.chunk] + settle_s for d in sent}


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.timeout(1500)
def test_a_dwell_is_folded_within_two_seconds_of_its_last_message(kafka, tmp_path):
    sent, _, watch, beamline = measure(kafka, tmp_path, DWELLS, 0)
    since = settled(watch, sent, tmp_path)
    order = {chunk: n for n, chunk in enumerate(sorted(watch.stops, key=watch.stops.get), 1)}
    wire = [
        min(t for n, t in watch.published.items() if n >= order[d.chunk]) - since[d.chunk]
        for d in sent
    ]
    lines = [
        f"{len(sent)} dwells of {DWELL_S} s at {RATE / 1e6:g} M events/s in messages of a pulse; "
        "from the last message, without settling:",
        *told_of(since, watch, sent),
        f"  {'published':<10} {quantiles(wire)}",
        f"  the sender was late by {beamline.behind_s:.2f} s at most",
    ]
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert np.quantile(wire, 0.95) < BAR_S


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.timeout(3000)
def test_advice_follows_as_the_estimate_allows(kafka, tmp_path):
    _, told, watch, _ = measure(kafka, tmp_path, 0, ADVISED)
    since = settled(watch, told, tmp_path)
    advice = [watch.advised[d.chunk] - since[d.chunk] for d in told]
    lines = [
        f"{len(told)} dwells, each sent once the one before had its advice:",
        *told_of(since, watch, told),
        f"  {'advised':<10} {quantiles(advice)}",
    ]
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert min(advice) > 0
