"""Figures of streams for Prometheus: read from a service's status at every scrape, and timings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import Metric

from steering.service.clocks import Clock, steady_ns
from steering.service.health import WorkerStatus
from steering.web import MetricName

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
LABELS = 40  # of one family, beyond which the rest is told together
REST = "other"
FAMILIES = {  # first part of a counter's name: metric, text, label of its second part
    "messages": ("stream_messages", "Messages taken", "topic"),
    "bytes": ("stream_bytes", "Bytes of the messages taken", "topic"),
    "events": ("stream_events", "Events of closed chunks, by what became of them", "outcome"),
    "dead_letters": ("stream_dead_letters", "Messages that cannot be used", "reason"),
    "duplicates": ("stream_duplicates", "Messages that had come before", None),
    "clock_steps": ("clock_steps", "Steps of the wall clock of this machine", "direction"),
    "removed": ("retention_removed", "What source.retention let go", "kind"),
    "lost_seconds": ("stream_lost_seconds", "Time of the stream that the sender had no more", None),
    "late": ("stream_late", "Messages that came after their chunk had closed", None),
    "published": ("published", "Messages sent out", "topic"),
    "publish_failures": ("publish_failures", "Messages that could not be sent out", "topic"),
}


GAUGES = {  # name: text, labels
    "stream_lag_messages": ("Messages of a partition not taken yet", ("topic", "partition")),
    "state_generation": ("Commits of a partition's state", ("partition",)),
    "stream_chunks": ("Closed chunks", ("run",)),
    "stream_open_chunks": ("Chunks between their start and their stop", ()),
    "stream_held_bytes": ("Events that wait for their dwell to close", ("place",)),
    "stream_partitions": ("Partitions owned", ()),
    "loop_age_seconds": ("Time since the loop turned", ()),
    "failing": ("1 if the last commit or estimate failed", ()),
    "stream_connected": ("1 if the source answers", ()),
    "state_age_seconds": ("Time since the last commit or estimate", ()),
    "state_free_bytes": ("Free space on the disk of the state folder", ()),
    "state_reserve_bytes": ("Free space that the next commits may need", ()),
}
TIMINGS = {  # of a dwell, from its last message to the advice
    "close": "Time from the stop of a dwell to its closing",
    "fold": "Time to fold a closed chunk",
    "commit": "Time to write chunk files and manifest",
    "estimate": "Time of an estimate with trust and advice",
    "advice": "Time from the stop of the newest dwell to its estimate and advice",
}
SERVICE_METRICS = {
    metric.name: metric
    for metric in (
        *(
            MetricName(
                name=name, kind="counter", text=text, labels=() if label is None else (label,)
            )
            for name, text, label in FAMILIES.values()
        ),
        MetricName(name="stream_other", kind="counter", text="Other counts", labels=("name",)),
        *(
            MetricName(name=name, kind="gauge", text=text, labels=labels)
            for name, (text, labels) in GAUGES.items()
        ),
        *(
            MetricName(name=f"{kind}_duration_seconds", kind="histogram", text=text)
            for kind, text in TIMINGS.items()
        ),
    )
}


class StatusCollector:
    """Reads the status at every scrape: no hooks in the loop, and never behind what it knows.

    Parameters
    ----------
    status : callable
        Newest status.
    clock : callable
        That of the status, ns.
    """

    def __init__(self, status: Callable[[], WorkerStatus], *, clock: Clock = steady_ns) -> None:
        self._status, self._clock = status, clock

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics; the number of labels is bounded."""
        status, now = self._status(), self._clock()
        yield from _counters(status.counters)
        figures: dict[str, dict[tuple[str, ...], float]] = {
            "stream_lag_messages": {
                (topic, str(partition)): behind
                for (topic, partition), behind in sorted(status.lag.items())
            },
            "state_generation": {
                (str(partition),): number for partition, number in sorted(status.generation.items())
            },
            "stream_chunks": _labelled(status.chunks),
            "stream_open_chunks": {(): status.open_chunks},
            "stream_held_bytes": _labelled(status.held_bytes),
            "stream_partitions": {(): len(status.partitions)},
            "loop_age_seconds": {(): _age(status.last_loop_ns, now)},
            "failing": {(): float(status.error is not None)},
        }
        if status.connected is not None:
            figures["stream_connected"] = {(): float(status.connected)}
        if status.last_commit_ns is not None:
            figures["state_age_seconds"] = {(): _age(status.last_commit_ns, now)}
        for name, size in (
            ("state_free_bytes", status.free_bytes),
            ("state_reserve_bytes", status.reserve_bytes),
        ):
            if size is not None:
                figures[name] = {(): float(size)}
        for name, told in figures.items():
            yield SERVICE_METRICS[name].filled(told)


def _age(then_ns: int, now_ns: int) -> float:
    return max((now_ns - then_ns) / 1e9, 0.0)


def _counters(counters: Mapping[str, int]) -> Iterable[Metric]:
    of: dict[str, dict[str, int]] = {family: {} for family in FAMILIES}
    others: dict[str, int] = {}
    for name, count in counters.items():
        family, _, label = name.partition(".")
        if family in of and bool(label) == (FAMILIES[family][2] is not None):
            of[family][label] = count
        else:
            others[name] = count
    for family, (metric, _, label) in FAMILIES.items():
        told = {(): of[family].get("", 0)} if label is None else _labelled(of[family])
        yield SERVICE_METRICS[metric].filled(told)
    yield SERVICE_METRICS["stream_other"].filled(_labelled(others))


def _labelled(counts: Mapping[str, int]) -> dict[tuple[str, ...], float]:
    return {(name,): count for name, count in _bounded(counts).items()}


def _bounded(counts: Mapping[str, int]) -> dict[str, int]:
    """The first labels by name, and the sum of all others: senders must not grow our memory."""
    names = sorted(counts)
    kept = {name: counts[name] for name in names[:LABELS]}
    if len(names) > LABELS:
        kept[REST] = kept.get(REST, 0) + sum(counts[name] for name in names[LABELS:])
    return kept


class Timings:
    """How long folds and estimates take.

    Parameters
    ----------
    registry : CollectorRegistry
        Where the histograms are registered; one registry holds them once.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._of = {
            kind: Histogram(
                SERVICE_METRICS[f"{kind}_duration_seconds"].full_name,
                text,
                buckets=SECONDS,
                registry=registry,
            )
            for kind, text in TIMINGS.items()
        }

    def observe(self, kind: str, seconds: float) -> None:
        """Add one duration of a stage, a key of ``TIMINGS``."""
        self._of[kind].observe(seconds)

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Add the duration of a block, whether it succeeds or not."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.observe(kind, time.perf_counter() - began)


def service_registry(
    status: Callable[[], WorkerStatus], *, clock: Clock = steady_ns
) -> tuple[CollectorRegistry, Timings]:
    """Make a registry of its own for one service, and its timings."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(status, clock=clock))
    return registry, Timings(registry)
