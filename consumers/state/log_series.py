"""Samples of logs: those of a run as they come, those of a dwell once it closes.

A dwell has the samples inside it, and the last one before its start unless a new value comes so
soon that the old one describes the move and not the dwell.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.state.offset_ledger import Place
from consumers.state.stream_clock import SECOND
from simulations.arrays import FloatArray

CHARGE_LOG = "proton_charge"  # one sample per pulse: the last one before the start is not ours
STALE_NS = 5 * SECOND  # a sample from before the start gives way to one this soon after it


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LogSeries:
    """Samples of one log of a dwell, rising in time."""

    time_ns: NDArray[np.int64]  # (samples,); the first may be from before the start
    value: FloatArray  # (samples,)
    unit: str = ""

    def average(self, start_ns: int, stop_ns: int) -> float:
        """Mean weighted by how long every value held within the dwell; NaN without samples."""
        if len(self.value) == 0:
            return float("nan")
        times = np.clip(self.time_ns, start_ns, stop_ns)
        held = np.diff(np.append(times, stop_ns)).astype(float)
        if len(self.value) == 1 or not held.sum() > 0:
            return float(self.value[-1])
        if np.all(self.value == self.value[0]):
            return float(self.value[0])
        return float((self.value * held).sum() / held.sum())


def joined(known: LogSeries | None, new: LogSeries, start_ns: int, stop_ns: int) -> LogSeries:
    """Both together, cut to the dwell and the one sample before it; the known one counts first."""
    if known is None:
        return new
    pairs = dict(zip(known.time_ns.tolist(), known.value.tolist(), strict=True))
    for t, v in zip(new.time_ns.tolist(), new.value.tolist(), strict=True):
        pairs.setdefault(t, v)
    inside = sorted(p for p in pairs.items() if start_ns <= p[0] < stop_ns)
    before = sorted(p for p in pairs.items() if p[0] < start_ns)
    if before and not (inside and inside[0][0] - start_ns <= STALE_NS):
        inside.insert(0, before[-1])
    return _series(inside, known.unit or new.unit)


def _series(pairs: Iterable[tuple[int, float]], unit: str) -> LogSeries:
    kept = list(pairs)
    return LogSeries(
        time_ns=np.array([t for t, _ in kept], np.int64),
        value=np.array([v for _, v in kept], np.float64),
        unit=unit,
    )


class Sample(NamedTuple):
    """One sample as it came."""

    time_ns: int
    value: float
    place: Place
    since_ns: int  # by the clock here
    known: bool = False  # a closed dwell has it


@dataclass(slots=True, eq=False)
class LogBook:
    """Samples of a run that a dwell may still need, and the newest one that none needs.

    Attributes
    ----------
    samples : dict
        By source, rising in time.
    carried : dict
        By source: time and value of the newest settled sample, with which a dwell may begin.
    """

    samples: dict[str, list[Sample]] = field(default_factory=dict[str, list[Sample]])
    carried: dict[str, tuple[int, tuple[float, ...]]] = field(
        default_factory=dict[str, tuple[int, tuple[float, ...]]]
    )

    @property
    def sources(self) -> list[str]:
        """Of all samples, in order."""
        return sorted({*self.samples, *self.carried})

    def at(self, source: str, time_ns: int) -> Sample | None:
        """The sample of exactly this time."""
        series = self.samples.get(source, [])
        i = bisect_right(series, time_ns, key=_time)
        return series[i - 1] if i and series[i - 1].time_ns == time_ns else None

    def add(self, source: str, sample: Sample) -> None:
        """Put a sample in its place."""
        series = self.samples.setdefault(source, [])
        series.insert(bisect_right(series, sample.time_ns, key=_time), sample)

    def mark_known(self, source: str, time_ns: int) -> None:
        """A closed dwell has the sample of this time; others may need it all the same."""
        series = self.samples.get(source, [])
        i = bisect_right(series, time_ns, key=_time) - 1
        if i >= 0 and series[i].time_ns == time_ns:
            series[i] = series[i]._replace(known=True)

    def remove(self, source: str, place: Place) -> None:
        """Forget the sample that came there."""
        self.samples[source] = [s for s in self.samples[source] if s.place != place]

    def source_of(self, place: Place) -> str | None:
        """Source of the sample that came there; None if none is kept."""
        return next(
            (k for k, series in self.samples.items() if any(s.place == place for s in series)), None
        )

    def give_back(
        self, source: str, series: LogSeries, from_ns: int, place: Place, now_ns: int
    ) -> None:
        """Take in samples of a recording that may belong to another dwell."""
        known = self.samples.setdefault(source, [])
        for t, value in zip(series.time_ns.tolist(), series.value.tolist(), strict=True):
            i = bisect_right(known, t, key=_time)
            if t >= from_ns and not (i and known[i - 1].time_ns == t):
                known.insert(i, Sample(t, value, place, now_ns))

    def oldest_given_back(self) -> dict[str, int]:
        """By recording: time of the oldest of its samples that were given back and are kept."""
        oldest: dict[str, int] = {}
        for series in self.samples.values():
            for sample in series:
                recording, offset = sample.place
                if offset < 0:
                    oldest[recording] = min(sample.time_ns, oldest.get(recording, sample.time_ns))
        return oldest

    def series(
        self, source: str, start_ns: int, end_ns: int, *, carry: bool, unit: str
    ) -> LogSeries:
        """Samples of a dwell.

        Parameters
        ----------
        source : str
        start_ns, end_ns : int
            Of the dwell; the end is beyond it.
        carry : bool
            Whether the last sample before the start counts.
        unit : str
        """
        samples = self.samples.get(source, [])
        i = bisect_right(samples, start_ns - 1, key=_time)
        j = bisect_right(samples, end_ns - 1, key=_time)
        inside = [(s.time_ns, s.value) for s in samples[i:j]]
        soon = bool(inside) and inside[0][0] - start_ns <= STALE_NS
        if carry and not soon:
            if i:
                inside.insert(0, (samples[i - 1].time_ns, samples[i - 1].value))
            elif source in self.carried and self.carried[source][0] < start_ns:
                t, v = self.carried[source]
                inside.insert(0, (t, v[0]))
        return _series(inside, unit)

    @property
    def beyond_ns(self) -> int:
        """A time after all samples; 0 without any."""
        return max((s[-1].time_ns + 1 for s in self.samples.values() if s), default=0)

    def settle(self, limit_ns: int, since_ns: int | None) -> list[Sample]:
        """Carry the newest sample before a time, forget it and the older ones, which come back.

        Parameters
        ----------
        limit_ns : int
            Time of the stream.
        since_ns : int, optional
            By the clock here: a sample that came later keeps itself and all after it.
        """
        done: list[Sample] = []
        for source, samples in self.samples.items():
            n = bisect_right(samples, limit_ns - 1, key=_time)
            if since_ns is not None:
                n = next((i for i, s in enumerate(samples[:n]) if s.since_ns > since_ns), n)
            if not n:
                continue
            newest = samples[n - 1]
            if source not in self.carried or self.carried[source][0] <= newest.time_ns:
                self.carried[source] = (newest.time_ns, (newest.value,))
            done += samples[:n]
            del samples[:n]
        return done


def _time(sample: Sample) -> int:
    return sample.time_ns
