"""Dead letters: messages that can be used nowhere, kept with their reason."""

from __future__ import annotations

from collections.abc import Collection

import structlog

from consumers.wire import OversizeError, RawMessage, Sink

log = structlog.get_logger()
LONGEST_REASON = 4096  # bytes of a dead letter's header
CUT_BYTES = 512  # what stays of value, key and reason of one that its topic does not take


class DeadLetters:
    """Puts what could not be read aside: original key and value, and why, in a topic of its own.

    Headers: ``reason``, ``topic``, ``partition``, ``offset`` (utf-8), then the original's with
    ``original.`` before their names. One that the topic does not take goes with its first bytes
    only, without headers of its own, and with ``original_size`` (bytes of the value).
    """

    def __init__(self, sink: Sink, topic: str) -> None:
        self.sink = sink
        self._topic = topic
        self.count = 0

    def deliver(self, letters: Collection[tuple[RawMessage, str]]) -> None:
        """Send messages with their reasons; they have arrived when this returns.

        Raises
        ------
        ConnectionError
            If they have not; some may have.
        """
        try:
            for message, reason in letters:
                self.put(message, reason)
            if letters:
                self.sink.flush()
        except OversizeError:
            for message, reason in letters:
                self._deliver_one(message, reason)

    def _deliver_one(self, message: RawMessage, reason: str) -> None:
        try:
            self.put(message, reason)
            self.sink.flush()
        except OversizeError as error:
            log.warning("dead_letter_cut", bytes=len(message.value), reason=str(error))
            self.put(message, reason, cut=True)
            self.sink.flush()

    def put(self, message: RawMessage, reason: str, *, cut: bool = False) -> None:
        """Send one; it has arrived when ``flush`` of the sink returns.

        Parameters
        ----------
        message : RawMessage
        reason : str
        cut : bool
            Leave all but its first bytes away.
        """
        most = CUT_BYTES if cut else None
        told = reason.encode("utf-8", "replace")[: most or LONGEST_REASON]
        short = told.decode("utf-8", "ignore")
        headers = [
            ("reason", short.encode("utf-8")),
            ("topic", message.topic.encode("utf-8")),
            ("partition", str(message.partition).encode("ascii")),
            ("offset", str(message.offset).encode("ascii")),
        ]
        if cut:
            headers.append(("original_size", str(len(message.value)).encode("ascii")))
        else:
            headers += [(f"original.{name}", value or b"") for name, value in message.headers]
        key = None if message.key is None else message.key[:most]
        self.sink.send(self._topic, message.value[:most], key=key, headers=headers)
        self.count += 1
        log.warning(
            "message_set_aside",
            reason=short,
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
        )
