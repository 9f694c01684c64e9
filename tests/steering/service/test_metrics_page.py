from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from steering.service import service_registry
from steering.service.metrics import SERVICE_METRICS
from steering.service.metrics_page import metrics_page
from steering.web import ESTIMATE_METRICS, STORE_METRICS, create_app
from tests.steering.fabricated import store
from tests.steering.service.test_metrics import STATUS

COMMITTED = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"


def test_the_committed_list_is_that_of_the_code():
    assert COMMITTED.read_text(encoding="utf-8") == metrics_page(), "run: make contracts"


def test_the_list_is_what_a_scrape_gets():
    """Names, kinds, texts and labels, where everything is known."""
    counters = STATUS.counters | {"publish_failures.ge_beamsteer_folded": 1}
    disk = {"free_bytes": 10**9, "reserve_bytes": 10**8}
    service, timings = service_registry(lambda: replace(STATUS, counters=counters, **disk))
    for kind in ("fold", "commit", "estimate"):
        timings.observe(kind, 1.0)
    page = create_app(store()).state.registry
    for registry, listed in (
        (service, SERVICE_METRICS.values()),
        (page, (*STORE_METRICS, *ESTIMATE_METRICS)),
    ):
        found = {
            family.name: (
                family.type,
                family.documentation,
                {name for sample in family.samples for name in sample.labels} - {"le"},
            )
            for family in registry.collect()
        }
        assert found == {
            f"beamsteer_{one.name}": (one.kind, one.text, set(one.labels)) for one in listed
        }
