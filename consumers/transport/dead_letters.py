"""Dead letters: messages that can be used nowhere, kept with their reason."""

from __future__ import annotations

import structlog

from consumers.wire import RawMessage, Sink

log = structlog.get_logger()
LONGEST_REASON = 4096  # bytes of a dead letter's header


class DeadLetters:
    """Puts what could not be read aside: original key and value, and why, in a topic of its own.

    Headers: ``reason``, ``topic``, ``partition``, ``offset`` (utf-8), then the original's with
    ``original.`` before their names.
    """

    def __init__(self, sink: Sink, topic: str) -> None:
        self.sink = sink
        self._topic = topic
        self.count = 0

    def put(self, message: RawMessage, reason: str) -> None:
        """Send one; it has arrived when ``flush`` of the sink returns."""
        short = reason.encode("utf-8", "replace")[:LONGEST_REASON].decode("utf-8", "ignore")
        headers = [
            ("reason", short.encode("utf-8")),
            ("topic", message.topic.encode("utf-8")),
            ("partition", str(message.partition).encode("ascii")),
            ("offset", str(message.offset).encode("ascii")),
            *((f"original.{name}", value or b"") for name, value in message.headers),
        ]
        self.sink.send(self._topic, message.value, key=message.key, headers=headers)
        self.count += 1
        log.warning(
            "message_set_aside",
            reason=short,
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
        )
