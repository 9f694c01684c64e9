"""Status API, live page and the server they run in."""

from steering.web.acting import ActionAnswer, ActionList, Me, name_of, somebody_of
from steering.web.answers import (
    AdviceAnswer,
    EstimateAnswer,
    HistoryAnswer,
    Problem,
    RunDetails,
    RunList,
    RunSummary,
    WorkerAnswer,
    WorkerList,
    snapshot_of,
)
from steering.web.api import create_app
from steering.web.estimate_routes import ESTIMATE_METRICS
from steering.web.guards import add_guards
from steering.web.heartbeat_file import HeartbeatFile, Heartbeats, read_heartbeats
from steering.web.metrics import STORE_METRICS, MetricName
from steering.web.model_routes import Models
from steering.web.people_file import People, add_person
from steering.web.prediction_process import BoundedPredictor
from steering.web.serving import (
    answers,
    check_binding,
    serving,
    stopped_by_signals,
)
from steering.web.supervisor import notify
from steering.web.versions import mount

__all__ = [
    "ActionAnswer",
    "ActionList",
    "AdviceAnswer",
    "BoundedPredictor",
    "ESTIMATE_METRICS",
    "EstimateAnswer",
    "HeartbeatFile",
    "Heartbeats",
    "HistoryAnswer",
    "Me",
    "MetricName",
    "Models",
    "People",
    "Problem",
    "RunDetails",
    "RunList",
    "RunSummary",
    "STORE_METRICS",
    "WorkerAnswer",
    "WorkerList",
    "add_guards",
    "add_person",
    "answers",
    "check_binding",
    "create_app",
    "mount",
    "name_of",
    "notify",
    "read_heartbeats",
    "serving",
    "snapshot_of",
    "somebody_of",
    "stopped_by_signals",
]
