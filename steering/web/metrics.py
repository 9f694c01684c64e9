"""Figures of runs for Prometheus, read from the store at every scrape."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client.core import Metric

from steering.run import RunSnapshot, RunStore, now_ns
from steering.web.answers import WORKER_STATES, WorkerAnswer

PREFIX = "beamsteer_"


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricName:
    """What Prometheus is told under one name."""

    name: str  # without prefix, and of a counter without `_total`
    kind: Literal["gauge", "counter", "histogram"]
    text: str
    labels: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """As it is asked for: `beamsteer_...`, of a counter with `_total`."""
        return f"{PREFIX}{self.name}{'_total' if self.kind == 'counter' else ''}"

    def filled(self, figures: Mapping[tuple[str, ...], float]) -> Metric:
        """Make the family of one scrape: a figure for every set of labels.

        Raises
        ------
        ValueError
            If a figure has not as many labels as the metric.
        """
        family = Metric(f"{PREFIX}{self.name}", self.text, self.kind)
        for labels, figure in figures.items():
            family.add_sample(
                self.full_name, dict(zip(self.labels, labels, strict=True)), float(figure)
            )
        return family


def _of_run(name: str, text: str, *labels: str) -> MetricName:
    return MetricName(name=name, kind="gauge", text=text, labels=("run", *labels))


STORE_METRICS = (
    MetricName(name="runs", kind="gauge", text="Runs known, by status", labels=("status",)),
    MetricName(
        name="workers", kind="gauge", text="Workers of live streams, by state", labels=("state",)
    ),
    _of_run("chunks", "Chunks of a run, by status", "status"),
    _of_run("events", "Events of a run, by what became of them", "kind"),
    _of_run("estimate_seconds", "Computing time of the newest estimate"),
    _of_run("lag_seconds", "Age of the newest chunk when its estimate was ready"),
    _of_run("update_age_seconds", "Time since the run's last update"),
    _of_run("beam_time_used_seconds", "Beam time of the folded chunks"),
    _of_run("beam_time_to_target_seconds", "Forecast beam time until every target is met"),
    _of_run("coverage_fraction", "Share of path cells with exposure"),
    _of_run("trusted", "1 if the model explains the data and they could have told if not"),
    _of_run("stop", "1 if the advice is to stop"),
    _of_run("parameter_relative_sigma", "Standard deviation over size of a parameter", "parameter"),
)


class StoreCollector:
    """Reads the store at every scrape, so that figures never lag behind what the page shows."""

    def __init__(self, store: RunStore, workers: Callable[[], list[WorkerAnswer]] = list) -> None:
        self._store, self._workers = store, workers

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics; labels are bounded by the runs that the store keeps."""
        runs = self._store.list()
        told: dict[str, dict[tuple[str, ...], float]] = {m.name: {} for m in STORE_METRICS}
        for status in ("running", "finished", "failed"):
            told["runs"][status,] = sum(run.status == status for run in runs)
        states = [one.state for one in self._workers()]
        for state in WORKER_STATES:
            told["workers"][state.replace(" ", "_"),] = states.count(state)
        for run in runs:
            for status in ("folded", "set aside", "withdrawn"):
                number = sum(chunk.status == status for chunk in run.chunks)
                told["chunks"][run.run_id, status.replace(" ", "_")] = number
            for name, figure in _figures(run).items():
                if figure is not None and math.isfinite(figure):
                    told[name][run.run_id,] = figure
            if run.result is None:
                continue
            for kind, number in run.result.events.document().items():
                told["events"][run.run_id, kind] = number
            for one in run.result.parameters:
                if one.value and math.isfinite(one.sigma / one.value):
                    share = abs(one.sigma / one.value)
                    told["parameter_relative_sigma"][run.run_id, one.name] = share
        for metric in STORE_METRICS:
            yield metric.filled(told[metric.name])


def _figures(run: RunSnapshot) -> dict[str, float | None]:
    """Figures that a run has once."""
    figures: dict[str, float | None] = {
        "estimate_seconds": run.estimate_seconds,
        "lag_seconds": run.lag_seconds,
        "update_age_seconds": (now_ns() - run.updated_ns) / 1e9,
    }
    if run.result is not None:
        figures |= {
            "beam_time_used_seconds": _seconds(run.result.minutes_used),
            "beam_time_to_target_seconds": _seconds(run.result.stop.minutes_to_target),
            "coverage_fraction": run.result.coverage_fraction,
            "trusted": run.result.trusted,
            "stop": run.result.stop.stop,
        }
    return figures


def _seconds(minutes: float | None) -> float | None:
    return None if minutes is None else 60.0 * minutes
