"""Live services: fold worker, model service, publishing, recording, health, metrics."""

from steering.service.health import operations_app, status_json
from steering.service.live import LiveOptions, open_live
from steering.service.metrics import service_registry
from steering.service.model_service import ModelService, serve_estimates
from steering.service.publishing import LateSink, OutputTopics, Publisher, message_schemas
from steering.service.pulse import pulse
from steering.service.recording import (
    StreamCount,
    adara_of_stream,
    fold_to_the_end,
    kafka_section,
    live_source,
    publish,
    record,
    stream_of_recorded,
)

__all__ = [
    "LateSink",
    "LiveOptions",
    "ModelService",
    "OutputTopics",
    "Publisher",
    "StreamCount",
    "adara_of_stream",
    "fold_to_the_end",
    "kafka_section",
    "live_source",
    "message_schemas",
    "open_live",
    "operations_app",
    "publish",
    "pulse",
    "record",
    "serve_estimates",
    "service_registry",
    "status_json",
    "stream_of_recorded",
]
