"""A beamline that sends in real time: starts, psi, pulses of events and their charge, stops.

For scripts and tests that measure a live worker as a whole; what was sent is counted here, so that
it can be accounted for there. The events are drawn once and sent again and again.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from consumers.transport import KafkaSection, KafkaSink
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
from simulations.instrument import Instrument, flight_time_us

SECOND = 1_000_000_000
PULSE_HZ = 60
POOL = 16  # different pulses


@dataclass(frozen=True, kw_only=True, slots=True)
class SentDwell:
    """One dwell that was sent."""

    run: str
    chunk: str
    psi_deg: float
    events: int
    stop_ns: int  # by the clock of the beamline


class Beamline:
    """Sends dwells one after the other, in real time as far as the broker keeps up.

    Parameters
    ----------
    section : KafkaSection
    instrument : Instrument
        Whose pixels see something.
    ei_meV : float
    most_per_s : float
        Largest rate of events that will be asked for.
    """

    def __init__(
        self, section: KafkaSection, instrument: Instrument, ei_meV: float, *, most_per_s: float
    ) -> None:
        self._sink, self._name = KafkaSink(section), section.topics.name
        rng = np.random.default_rng(20261122)
        size = int(most_per_s / PULSE_HZ) + 1
        self._pool = []
        for _ in range(POOL):
            pixel = rng.integers(0, instrument.n_pixels, size)
            transfer = rng.uniform(-2, 0.98 * ei_meV, size)
            speed = METRE_PER_SECOND_PER_SQRT_MEV * np.sqrt(ei_meV - transfer)
            tof_us = (
                flight_time_us(instrument.source_to_sample_m, ei_meV)
                + instrument.distance_m[pixel] / speed * 1e6
            )
            tof_ns = np.rint(tof_us * 1000).astype(np.int32)
            self._pool.append((tof_ns, instrument.detector_id[pixel].astype(np.int32)))
        self.messages: Counter[str] = Counter()  # by topic
        self.events = 0
        self.behind_s = 0.0  # largest delay of a pulse
        self._pulse = 0
        self._began_ns = time.time_ns()

    @property
    def now_ns(self) -> int:
        """Time of the next pulse."""
        return self._began_ns + self._pulse * SECOND // PULSE_HZ

    def _put(self, topic: str, value: bytes, run: str) -> None:
        name = self._name(topic)
        assert name is not None
        self._sink.send(name, value, key=run.encode())
        self.messages[name] += 1

    def dwell(self, run: str, chunk: str, psi_deg: float, rates_per_s: list[float]) -> SentDwell:
        """One dwell, of as many seconds as there are rates; returns when its stop is out."""
        start_ns, before = self.now_ns, self.events
        job = f"{run}-{chunk}"
        begins = RunBegins(
            job=job, chunk=chunk, source="beamline", start_time_ns=start_ns, instrument_name="ARCS"
        )
        self._put("run_info", encode_run_begins(begins), run)
        log = LogSample(source="s1", time_ns=start_ns, value=np.array([psi_deg]))
        self._put("motion", encode_log(log), run)
        for rate in rates_per_s:
            self.pulses(run, PULSE_HZ, rate)
        stop_ns = self.now_ns
        ends = RunEnds(job=job, source="beamline", stop_time_ns=stop_ns)
        self._put("run_info", encode_run_ends(ends), run)
        return SentDwell(
            run=run, chunk=chunk, psi_deg=psi_deg, events=self.events - before, stop_ns=stop_ns
        )

    def pulses(self, run: str, n: int, rate_per_s: float) -> None:
        """So many pulses, at their times."""
        size = int(rate_per_s / PULSE_HZ)
        for _ in range(n):
            t = self.now_ns
            early_s = (t - time.time_ns()) / SECOND
            if early_s > 0:
                time.sleep(early_s)
            else:
                self.behind_s = max(self.behind_s, -early_s)
            charge = LogSample(source="proton_charge", time_ns=t, value=np.array([1e7]))
            self._put("sample_environment", encode_log(charge), run)
            tof_ns, pixel = self._pool[self._pulse % POOL]
            events = Events(
                source="arcs_events",
                sequence=self._pulse,
                reference_time_ns=np.array([t]),
                reference_index=np.zeros(1, np.int64),
                time_of_flight_ns=tof_ns[:size],
                pixel_id=pixel[:size],
            )
            self._put("detector", encode_events(events), run)
            self.events += size
            self._pulse += 1

    def flush(self) -> None:
        """Return when all that was sent has arrived."""
        self._sink.flush(120.0)

    def close(self) -> None:
        """Flush and leave."""
        self._sink.close()
