"""Events per second from a real Kafka through decode, assembly, recording and fold, on two cores.

Two dwells of a minute on ARCS with all pixels, 40 M events each in `ev44` messages of 5 MB, wait in
the broker; the worker of `beamsteer consume` takes them from the first poll to the last commit.
What an orientation costs whatever its events are (exposure, trajectories: `test_fold` prints it) is
in it. No peer does the same, so figures are printed and none is compared.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from consumers.state import read_manifest
from consumers.transport import KafkaSection, KafkaSink, KafkaTopics
from consumers.wire import (
    Events,
    LogSample,
    RunBegins,
    RunEnds,
    encode_events,
    encode_log,
    encode_run_begins,
    encode_run_ends,
)
from simulations.constants import METRE_PER_SECOND_PER_SQRT_MEV
from simulations.instrument import flight_time_us
from steering.experiment import build_measurement, load_experiment
from steering.service import LiveOptions, open_live
from tests.kafka_broker import Topics
from tests.steering.virtual_scan import EXAMPLES

SECOND = 1_000_000_000
BEGIN = 1_700_000_000 * SECOND
PER_MESSAGE = 625_000  # events, 5 MB
MESSAGES = 64  # in each of two dwells, one per second
PULSES = 60  # in a message


def events_of(instrument, ei_meV, sequence, start_ns):
    rng = np.random.default_rng(sequence)
    pixel = rng.integers(0, instrument.n_pixels, PER_MESSAGE)
    speed = METRE_PER_SECOND_PER_SQRT_MEV * np.sqrt(
        ei_meV - rng.uniform(-2, 0.98 * ei_meV, PER_MESSAGE)
    )
    tof_us = (
        flight_time_us(instrument.source_to_sample_m, ei_meV)
        + instrument.distance_m[pixel] / speed * 1e6
    )
    return Events(
        source="arcs_events",
        sequence=sequence,
        reference_time_ns=start_ns + np.arange(PULSES) * (SECOND // 60),
        reference_index=np.linspace(0, PER_MESSAGE, PULSES, endpoint=False).astype(np.int64),
        time_of_flight_ns=np.rint(tof_us * 1000).astype(np.int32),
        pixel_id=instrument.detector_id[pixel].astype(np.int32),
    )


def send(section, instrument, ei_meV):
    """Two dwells of 64 s; returns the events sent."""
    sink, name = KafkaSink(section), section.topics.name

    def put(topic, value):
        sink.send(name(topic), value, key=b"bench")

    for k, psi in enumerate((10.0, 40.0)):
        start = BEGIN + k * 2 * MESSAGES * SECOND
        job = f"job-{k}"
        begins = RunBegins(
            job=job, chunk=str(k), source="b", start_time_ns=start, instrument_name="ARCS"
        )
        put("run_info", encode_run_begins(begins))
        log = LogSample(source="s1", time_ns=start, value=np.array([psi]))
        put("motion", encode_log(log))
        for n in range(MESSAGES):
            message = events_of(instrument, ei_meV, k * MESSAGES + n, start + n * SECOND)
            for pulse in message.reference_time_ns:
                charge = LogSample(
                    source="proton_charge", time_ns=int(pulse), value=np.array([1e7])
                )
                put("sample_environment", encode_log(charge))
            put("detector", encode_events(message))
        stop = RunEnds(job=job, source="b", stop_time_ns=start + MESSAGES * SECOND)
        put("run_info", encode_run_ends(stop))
    sink.flush(120.0)
    sink.close()
    return 2 * MESSAGES * PER_MESSAGE


@pytest.mark.kafka
def test_stream(kafka, tmp_path):
    topics = Topics(broker=kafka)
    ours = ("folded", "estimates", "advice", "heartbeat", "dead_letters")
    topics("detector", "runInfo", "motion", "sampleEnv", *(f"beamsteer_{n}" for n in ours))
    section = KafkaSection(
        bootstrap_servers=kafka.bootstrap,
        topics=KafkaTopics(prefix=topics.prefix, reduced=None, bluesky=None),
        group=topics.prefix,
    )
    experiment = load_experiment(EXAMPLES / "ge-arcs.yaml")
    source = experiment.source.model_copy(update={"kind": "kafka", "kafka": section, "t0_us": 0.0})
    experiment = experiment.model_copy(update={"source": source})
    measurement = build_measurement(experiment, EXAMPLES)
    sent = send(section, measurement.instrument, experiment.instrument.ei_meV)
    first: list[float] = []

    def each():
        if not first and live.worker.status().counters:
            first.extend([time.perf_counter(), time.process_time()])

    with open_live(
        experiment,
        experiment_dir=EXAMPLES,
        state=tmp_path,
        options=LiveOptions(run="r"),
        measurement=measurement,
    ) as live:
        measurement.exposure(5.0)  # compiled before the clock runs
        measurement.trajectories(5.0)
        live.consume(lambda: done(tmp_path), each=each)
        seconds, processor = time.perf_counter() - first[0], time.process_time() - first[1]
        counters = live.worker.status().counters
    topics.remove()
    counted = sum(n for name, n in counters.items() if name.startswith("events."))
    sys.stdout.write(
        f"\nstream: {sent / 1e6:.0f} M events in messages of 5 MB, two dwells, in {seconds:.1f} s: "
        f"{sent / seconds / 1e6:.1f} M events/s from Kafka to the committed fold; "
        f"{processor:.1f} s of processor time\n"
    )
    assert counted == sent
    assert not counters.get("dead_letters.message")


def done(state):
    """Whether both dwells are committed."""
    folder = state / "partition-0"
    manifest = read_manifest(folder) if folder.exists() else None
    return manifest is not None and sum(len(r.chunks) for r in manifest.runs.values()) == 2
