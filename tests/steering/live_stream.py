"""A short live scan as wire messages, and what a state folder holds, for tests of live folding."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import safe_open

from consumers.state import partition_folders, read_manifest
from consumers.wire import (
    Events,
    LogSample,
    RawMessage,
    RunBegins,
    RunEnds,
    encode_events,
    encode_log,
    encode_run_begins,
    encode_run_ends,
)
from simulations.constants import METRE_PER_SECOND_PER_SQRT_MEV
from simulations.instrument import flight_time_us
from simulations.reciprocal import EnergySection
from steering.experiment import Experiment, Measurement, build_measurement
from tests.steering.virtual_scan import EXAMPLES, known_set_up, small_experiment

SECOND = 1_000_000_000
BEGIN = 1_700_000_000 * SECOND
DWELL, PAUSE = 20 * SECOND, 4 * SECOND
PULSES_PER_S = 2
PSI = (5.0, 17.0, 29.0, 41.0)


@cache
def live_experiment(**source) -> Experiment:
    """The small experiment made smaller, with a live source; T0 is known."""
    experiment = known_set_up(small_experiment())
    axis = EnergySection(min_meV=0, max_meV=39, bins=26, substeps=4)
    path = experiment.path.model_copy(update={"bins": (5, 4), "voxel_rlu": 0.05, "energy": axis})
    return experiment.model_copy(
        update={
            "source": experiment.source.model_copy(update={"t0_us": 0.0, **source}),
            "path": path,
            "instrument": experiment.instrument.model_copy(update={"coarsen": 16}),
        }
    )


@cache
def live_measurement() -> Measurement:
    """The same made concrete."""
    return build_measurement(live_experiment(), EXAMPLES)


def live_scan(
    run: str = "night",
    psis=PSI,
    seed: int = 1,
    events_per_pulse: int = 60,
    psi_lead_ns: int = SECOND,
):
    """(topic, key, value) of a rotation scan in the order of time; topics without prefix.

    Psi is logged ``psi_lead_ns`` before the dwell begins.
    """
    rng = np.random.default_rng(seed)
    instrument = live_measurement().instrument
    ei = live_experiment().instrument.ei_meV
    found, start, number = [], BEGIN, 0

    def add(time_ns, topic, value):
        found.append((time_ns, len(found), topic, value))

    def log(time_ns, topic, source, value):
        sample = LogSample(source=source, time_ns=time_ns, value=np.array([float(value)]))
        add(time_ns, topic, encode_log(sample))

    for k, psi in enumerate(psis):
        stop = start + DWELL
        job = f"{run}-{k}"
        begins = RunBegins(job=job, chunk=f"{run}-{100 + k}", source="t", start_time_ns=start)
        add(start, "runInfo", encode_run_begins(begins))
        add(stop, "runInfo", encode_run_ends(RunEnds(job=job, source="t", stop_time_ns=stop)))
        log(start - psi_lead_ns, "motion", "s1", psi)
        step = SECOND // PULSES_PER_S
        for t in range(start, stop + PAUSE, 2 * step):
            pulses = np.array([t + 7, t + step + 7], np.int64)
            for pulse in pulses:
                log(int(pulse), "sampleEnv", "proton_charge", 1e9 + 1e6 * k)
            for bank in range(3):
                n = 2 * events_per_pulse
                pixel = rng.integers(bank, instrument.n_pixels, n)
                transfer = rng.uniform(-2, 0.9 * ei, n)
                speed = METRE_PER_SECOND_PER_SQRT_MEV * np.sqrt(ei - transfer)
                tof_us = (
                    flight_time_us(instrument.source_to_sample_m, ei)
                    + instrument.distance_m[pixel] / speed * 1e6
                )
                events = Events(
                    source=f"bank{bank}_events",
                    sequence=number,
                    reference_time_ns=pulses,
                    reference_index=np.array([0, events_per_pulse], np.int64),
                    time_of_flight_ns=np.rint(tof_us * 1000).astype(np.int32),
                    pixel_id=instrument.detector_id[pixel].astype(np.int32),
                )
                add(int(pulses[-1]), "detector", encode_events(events))
            number += 1
        start = stop + PAUSE
    key = run.encode()
    return [(topic, key, value) for _, _, topic, value in sorted(found, key=lambda f: f[:2])]


def as_raw(messages, partition: int = 0, prefix: str = "") -> list[RawMessage]:
    """Messages with the offsets that a broker would give them."""
    counts: dict[str, int] = {}
    found = []
    for topic, key, value in messages:
        name = prefix + topic
        offset = counts.get(name, 0)
        counts[name] = offset + 1
        found.append(
            RawMessage(topic=name, partition=partition, offset=offset, key=key, value=value)
        )
    return found


class ListSource:
    """Messages that are there already; a ``RawSource`` that may be made anew after a crash."""

    connected = None

    def __init__(self, messages, owner, batch: int = 40):
        wanted = owner.take(0)
        self.rest = [m for m in messages if m.offset >= wanted.get(m.topic, 0)]
        self.batch = batch
        self.acknowledged = {}

    def poll(self, timeout_s):
        batch, self.rest = self.rest[: self.batch], self.rest[self.batch :]
        return batch

    def acknowledge(self, positions):
        self.acknowledged |= positions

    def close(self):
        pass


def contents(state: Path, *, whole: bool = True):
    """Every tensor of every folded chunk, by run and chunk, to the last bit.

    With ``whole`` every chunk must have been folded.
    """
    found = {}
    for folder in partition_folders(state):
        manifest = read_manifest(folder)
        for run, record in manifest.runs.items():
            for chunk in record.chunks:
                if chunk.status != "folded":
                    assert not whole, chunk.reason
                    continue
                with safe_open(str(folder / chunk.file), framework="numpy") as file:
                    header = json.loads(file.metadata()["beamsteer"])
                    header.pop("generation")
                    tensors = {k: file.get_tensor(k).tobytes() for k in file.keys()}  # noqa: SIM118
                assert (run, chunk.chunk) not in found
                found[run, chunk.chunk] = (json.dumps(header, sort_keys=True), tensors)
    return found
