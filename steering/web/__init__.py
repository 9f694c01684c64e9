"""Status API, live page and the server they run in."""

from steering.web.api import LazyPredictor, create_app
from steering.web.metrics import STORE_METRICS, MetricName
from steering.web.serving import (
    TokenGuard,
    check_binding,
    serving,
    stopped_by_signals,
    wait_for_signal,
)

__all__ = [
    "LazyPredictor",
    "MetricName",
    "STORE_METRICS",
    "TokenGuard",
    "check_binding",
    "create_app",
    "serving",
    "stopped_by_signals",
    "wait_for_signal",
]
