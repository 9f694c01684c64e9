"""All metrics as committed: ``python -m steering.service.metrics_page > docs/metrics.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from steering.service.metrics import SERVICE_METRICS
from steering.web import ESTIMATE_METRICS, STORE_METRICS, MetricName

_HEAD = """# Metrics

What `/metrics` tells Prometheus. `make contracts` writes this list from the code, and a test holds
the two together. A histogram is asked for as `_bucket`, `_sum` and `_count`.
"""


def metrics_page() -> str:
    """Text of ``docs/metrics.md``."""
    return (
        "\n".join(
            (
                _HEAD,
                "## Of the page (`serve`, and any command with `--serve`)\n",
                _table((*STORE_METRICS, *ESTIMATE_METRICS)),
                "## Of the services (`consume`, `model-server`)\n",
                _table(SERVICE_METRICS.values()),
            )
        ).rstrip("\n")
        + "\n"
    )


def _table(metrics: Iterable[MetricName]) -> str:
    rows = ["| name | type | labels | what it says |", "|---|---|---|---|"]
    for one in sorted(metrics, key=lambda m: m.full_name):
        labels = ", ".join(f"`{label}`" for label in one.labels)
        rows.append(f"| `{one.full_name}` | {one.kind} | {labels} | {one.text} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(metrics_page())
