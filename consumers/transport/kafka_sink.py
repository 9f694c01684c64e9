"""Messages into Kafka, confirmed and in order."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from kafka import KafkaProducer, errors

from consumers.transport.kafka_connection import explain, open_client
from consumers.transport.kafka_settings import KafkaSection, producer_arguments
from consumers.wire import OversizeError, UndeliveredError
from simulations.errors import InputError

log = structlog.get_logger()
NO_TIMESTAMP = -1  # of Kafka's protocol; brokers accept it at any time

# The second of every record in a batch of several.
STAMP_REFUSED = (errors.InvalidTimestampError, errors.InvalidRecordError)


@dataclass(frozen=True, slots=True, eq=False)
class _Message:
    topic: str
    value: bytes
    key: bytes | None
    headers: list[tuple[str, bytes]]
    size: int


class KafkaSink:
    """Sends messages, confirmed by all replicas, once and in order; a ``wire.Sink``.

    What is sent waits in ``buffer_bytes`` of memory until the broker has confirmed it; ``send``
    blocks while that is full. A broker refuses time stamps more than an hour ahead of its clock;
    where ours is, messages go without.

    Parameters
    ----------
    section : KafkaSection
        Connection and limits.
    environment : mapping
        Where passwords are.

    Raises
    ------
    ConnectionError
        If no broker answers within ``connect_timeout_s``, or it lets nobody in.
    """

    def __init__(
        self, section: KafkaSection, *, environment: Mapping[str, str] = os.environ
    ) -> None:
        self._section, self._environment = section, environment
        self._producer: Any = self._open()
        self._stale = False  # the producer refuses everything after one that was too large
        self._change = threading.Condition()  # callbacks come in the library's thread
        self._waiting = 0  # messages
        self._waiting_bytes = 0
        self._failed = 0
        self._cause: Exception | None = None
        self._failed_topics: set[str] = set()
        self._refused: list[_Message] = []  # for their time stamp; sent again without one
        self._stamped = True
        self._closed = False

    def _open(self) -> Any:
        arguments = producer_arguments(self._section, self._environment)
        return open_client(KafkaProducer, self._section, arguments)

    def send(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Hand over one message; messages with the same key arrive in order.

        Raises
        ------
        ValueError
            If it is larger than ``max_message_bytes``.
        ConnectionError
            If the buffer stays full for ``patience_s``; ``UndeliveredError`` if the topic is not
            there, or the broker refused an earlier message.
        """
        size = len(value) + len(key or b"") + sum(len(n) + len(v) for n, v in headers)
        if len(value) > self._section.max_message_bytes:
            raise InputError(
                f"kafka.max_message_bytes is {self._section.max_message_bytes}, and a message for "
                f"{topic} has {len(value)} bytes; expected at most that many. Raise it here and "
                "message.max.bytes of the broker, or send fewer events at once."
            )
        if self._stale:
            self._renew()
        with self._change:
            self._raise_failures()
            there_is_room = self._change.wait_for(
                lambda: (
                    self._failed
                    or not self._waiting
                    or self._waiting_bytes + size <= self._section.buffer_bytes
                ),
                timeout=self._section.patience_s,
            )
            self._raise_failures()
            if not there_is_room:
                raise ConnectionError(
                    f"kafka.buffer_bytes is {self._section.buffer_bytes}, filled by "
                    f"{self._waiting} messages that {self._section.bootstrap_servers} has not "
                    f"confirmed within kafka.patience_s = {self._section.patience_s:g} s; "
                    "expected a broker that keeps up. Start it, or relieve it."
                )
        self._send_refused()
        self._send(_Message(topic, value, key, list(headers), size))

    def _send(self, message: _Message) -> None:
        topic, size = message.topic, message.size
        with self._change:
            stamped = self._stamped
            self._waiting += 1
            self._waiting_bytes += size
        try:
            future = self._producer.send(
                topic,
                message.value,
                key=message.key,
                headers=message.headers,
                timestamp_ms=None if stamped else NO_TIMESTAMP,
            )
        except Exception as error:
            self._done(size, topic, None)
            if isinstance(error, errors.KafkaTimeoutError):
                raise UndeliveredError(
                    f"Topic {topic} is not there, or {self._section.bootstrap_servers} is gone: "
                    f"nothing was heard within {self._section.connect_timeout_s:g} s; expected "
                    "the topic. Create it, correct kafka.topics, or start the broker.",
                    frozenset({topic}),
                ) from error
            if isinstance(error, errors.KafkaError):
                why = explain(error, self._section)
                raise UndeliveredError(str(why), frozenset({topic})) from error
            raise
        future.add_callback(lambda _: self._done(size, topic, None))
        future.add_errback(
            lambda error: self._done(size, topic, error, message if stamped else None)
        )

    def _renew(self) -> None:
        """Open another producer, once nothing waits in this one."""
        with self._change:
            self._change.wait_for(lambda: not self._waiting, timeout=self._section.patience_s)
            self._raise_failures()
        self._reopen()

    def _reopen(self) -> None:
        self._producer.close(timeout=1.0)
        self._producer = self._open()
        self._stale = False

    def _send_refused(self) -> None:
        """Send again, without a time stamp, what a broker refused whose clock is another one.

        Through another producer: one that numbers its messages fails for good after a refusal.
        """
        with self._change:
            if not self._refused:
                return
            self._change.wait_for(lambda: not self._waiting, timeout=self._section.patience_s)
            refused, self._refused = self._refused, []
        self._reopen()
        for message in refused:
            self._send(message)

    def _done(
        self, size: int, topic: str, error: Exception | None, again: _Message | None = None
    ) -> None:
        with self._change:
            self._waiting -= 1
            self._waiting_bytes -= size
            if isinstance(error, STAMP_REFUSED) and again is not None:
                if self._stamped:
                    log.warning(
                        "time_stamps_refused",
                        reason=str(error),
                        servers=self._section.bootstrap_servers,
                    )
                self._stamped = False
                self._refused.append(again)
            elif error is not None:
                self._failed += 1
                self._cause = self._cause or error
                self._failed_topics.add(topic)
            self._change.notify_all()

    def _raise_failures(self) -> None:
        """Say once that messages did not arrive; the next call starts to count anew."""
        if not self._failed:
            return
        failed, cause, topics = self._failed, self._cause, frozenset(self._failed_topics)
        self._failed, self._cause, self._failed_topics = 0, None, set()
        why = explain(cause, self._section) if cause is not None else None
        if isinstance(cause, errors.MessageSizeTooLargeError):
            self._stale = True
            raise OversizeError(
                f"{failed} messages did not arrive, {self._waiting} still wait. message.max.bytes "
                f"of {self._section.bootstrap_servers} or of {', '.join(sorted(topics))} is "
                f"smaller than kafka.max_message_bytes ({self._section.max_message_bytes}); "
                "expected at least as much. Raise the broker's.",
                topics,
            ) from cause
        raise UndeliveredError(
            f"{failed} messages did not arrive, {self._waiting} still wait. {why}", topics
        ) from cause

    def flush(self, timeout_s: float = 30.0) -> None:
        """Return when everything sent has been confirmed.

        Raises
        ------
        ConnectionError
            If it has not within the time-out, or the broker refused some of it; with counts.
        """
        end = time.monotonic() + timeout_s
        with self._change:
            self._change.wait_for(lambda: not self._waiting, timeout=max(0.0, timeout_s))
        self._send_refused()
        with self._change:
            left_s = max(0.0, end - time.monotonic())
            self._change.wait_for(lambda: not self._waiting, timeout=left_s)
            self._raise_failures()
            if self._waiting:
                over = time.monotonic() - end + timeout_s
                raise ConnectionError(
                    f"{self._waiting} messages ({self._waiting_bytes} bytes) wait for "
                    f"{self._section.bootstrap_servers} after {over:.1f} s; expected them to be "
                    "confirmed. Start the broker: they are tried again meanwhile."
                )

    def close(self) -> None:
        """Flush and leave.

        Raises
        ------
        ConnectionError
            If not everything sent has arrived; the connection is closed all the same.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
        finally:
            self._producer.close(timeout=1.0)
