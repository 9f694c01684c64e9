"""Figures for Prometheus, parsed again by its own parser."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from steering.service import service_registry
from steering.service.health import WorkerStatus
from steering.service.metrics import LABELS, StatusCollector, Timings
from steering.web import create_app
from tests.steering.fabricated import store

SECOND = 1_000_000_000
NOW = 1_763_716_248 * SECOND
STATUS = WorkerStatus(
    service="consume",
    last_loop_ns=NOW - 2 * SECOND,
    connected=True,
    partitions=(0, 1),
    last_commit_ns=NOW - 30 * SECOND,
    open_chunks=1,
    held_bytes={"memory": 1000, "disk": 0},
    lag={("ge_detector", 0): 12, ("ge_detector", 1): 0},
    generation={0: 5, 1: 2},
    chunks={"ge": 4},
    counters={
        "messages.ge_detector": 50,
        "bytes.ge_detector": 1_000_000,
        "events.folded": 900,
        "events.outside_path": 100,
        "dead_letters.message": 2,
        "duplicates": 5,
        "late": 1,
        "clock_steps.back": 2,
        "removed.recordings": 3,
        "published.ge_beamsteer_folded": 4,
        "clock_jumps": 3,
    },
)


def figures(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


def collected(status: WorkerStatus) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(lambda: status, clock=lambda: NOW))
    return figures(registry)


def test_every_figure_of_a_stream_is_told():
    found = collected(STATUS)
    expected = {
        ("beamsteer_stream_messages_total", "ge_detector"): 50,
        ("beamsteer_stream_bytes_total", "ge_detector"): 1_000_000,
        ("beamsteer_stream_events_total", "folded"): 900,
        ("beamsteer_stream_events_total", "outside_path"): 100,
        ("beamsteer_stream_dead_letters_total", "message"): 2,
        ("beamsteer_stream_duplicates_total",): 5,
        ("beamsteer_stream_late_total",): 1,
        ("beamsteer_published_total", "ge_beamsteer_folded"): 4,
        ("beamsteer_stream_other_total", "clock_jumps"): 3,
        ("beamsteer_stream_lag_messages", "0", "ge_detector"): 12,
        ("beamsteer_stream_lag_messages", "1", "ge_detector"): 0,
        ("beamsteer_state_generation", "0"): 5,
        ("beamsteer_state_age_seconds",): 30,
        ("beamsteer_loop_age_seconds",): 2,
        ("beamsteer_stream_open_chunks",): 1,
        ("beamsteer_stream_partitions",): 2,
        ("beamsteer_stream_connected",): 1,
        ("beamsteer_stream_chunks", "ge"): 4,
        ("beamsteer_failing",): 0,
    }
    assert {name: found.get(name) for name in expected} == expected


def test_what_is_not_known_is_not_told_as_a_number():
    found = collected(replace(STATUS, last_commit_ns=None, connected=None))
    assert ("beamsteer_state_age_seconds",) not in found
    assert ("beamsteer_stream_connected",) not in found


def test_a_sender_of_many_names_cannot_grow_the_figures():
    counters = {f"messages.topic{i:04d}": 1 for i in range(1000)}
    found = collected(replace(STATUS, counters=counters))
    told = {name[1]: n for name, n in found.items() if name[0] == "beamsteer_stream_messages_total"}
    assert len(told) == LABELS + 1
    assert told["other"] == 1000 - LABELS
    assert sum(told.values()) == 1000


def test_the_figures_are_those_of_the_moment_of_the_scrape():
    status = [STATUS]
    registry, _ = service_registry(lambda: status[0], clock=lambda: NOW)
    assert figures(registry)["beamsteer_stream_duplicates_total",] == 5
    status[0] = replace(STATUS, counters={"duplicates": 6})
    assert figures(registry)["beamsteer_stream_duplicates_total",] == 6


def test_timings_count_successes_and_failures_alike():
    registry = CollectorRegistry(auto_describe=False)
    timings = Timings(registry)
    timings.observe("estimate", 2.0)
    with timings.timed("fold"):
        pass
    with pytest.raises(ZeroDivisionError), timings.timed("fold"):
        _ = 1 / 0
    found = figures(registry)
    assert found["beamsteer_fold_duration_seconds_count",] == 2
    assert found["beamsteer_estimate_duration_seconds_sum",] == 2.0
    assert found["beamsteer_estimate_duration_seconds_bucket", "1.0"] == 0
    assert found["beamsteer_estimate_duration_seconds_bucket", "3.0"] == 1


def test_two_services_of_one_process_share_nothing_and_no_name_means_two_things():
    first, _ = service_registry(lambda: STATUS)
    second, _ = service_registry(lambda: replace(STATUS, counters={}))
    assert figures(second).get(("beamsteer_stream_messages_total", "ge_detector")) is None
    ours = {family.name for family in first.collect()}
    page = {family.name for family in create_app(store()).state.registry.collect()}
    assert ours & page == set()
