"""Status API, live page and the server they run in."""

from steering.web.api import create_app
from steering.web.guards import add_guards
from steering.web.metrics import STORE_METRICS, MetricName
from steering.web.prediction_process import BoundedPredictor
from steering.web.serving import (
    check_binding,
    serving,
    stopped_by_signals,
    wait_for_signal,
)

__all__ = [
    "BoundedPredictor",
    "MetricName",
    "STORE_METRICS",
    "add_guards",
    "check_binding",
    "create_app",
    "serving",
    "stopped_by_signals",
    "wait_for_signal",
]
