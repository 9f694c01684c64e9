"""Batches that are too large to be read at all: where they are and how large, without reading them.

Kafka hands out at least one batch of a partition, however large. The client refuses an answer above
``receive_message_max_bytes`` by closing the connection, and would ask for the same batch for ever.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from typing import Any

from kafka import KafkaConsumer, errors
from kafka.structs import TopicPartition

from consumers.transport.kafka_connection import explain, open_client
from consumers.transport.kafka_settings import FRAME_BYTES, KafkaSection

_LOOKER = "beamsteer-look"  # client id by which reports about our own looking are told apart


class RefusedAnswers(logging.Handler):
    """Sizes of answers that the client refused to read: the library only reports them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._sizes: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Note the size of the answer that a report of the library is about."""
        if not isinstance(record.args, tuple) or len(record.args) != 2:
            return
        connection, error = record.args
        length = re.search(r"(\d+)$", str(error))
        if isinstance(error, errors.InvalidReceiveError) and length is not None:
            client = getattr(connection, "config", {}).get("client_id", "")
            self._sizes[_LOOKER if client == _LOOKER else ""] = int(length[1])

    def take(self, client_id: str = "") -> int | None:
        """Bytes of the answer refused last, since this was asked; None if there was none."""
        return self._sizes.pop(_LOOKER if client_id == _LOOKER else "", None)


REFUSED = RefusedAnswers()
logging.getLogger("kafka.net.connection").addHandler(REFUSED)


def oversize_batches(
    section: KafkaSection,
    arguments: Mapping[str, Any],
    place: TopicPartition,
    offset: int,
    end: int,
    most: int = 64,
) -> dict[int, int]:
    """Offsets from one on whose batches the client cannot read.

    Nothing of them is kept in memory: the connection is closed once their size is known.

    Parameters
    ----------
    section : KafkaSection
    arguments : mapping
        Of the client library's consumer.
    place : TopicPartition
    offset : int
        The first that is asked for.
    end : int
        The offset after the last.
    most : int
        Offsets that are asked for at once.

    Returns
    -------
    dict
        Bytes of its batch by offset, without a gap; empty where the first one can be read.

    Raises
    ------
    ConnectionError
        If there is no broker, or it lets nobody in.
    """
    # A sum of partitions in one answer may go a little beyond what one of them alone does.
    limit = int(arguments["receive_message_max_bytes"]) - FRAME_BYTES // 2
    alone = {key: arguments[key] for key in arguments if key in KafkaConsumer.DEFAULT_CONFIG} | {
        "client_id": _LOOKER,
        "group_id": None,
        "group_instance_id": None,
        "fetch_max_bytes": 1,
        "max_partition_fetch_bytes": 1,
        "receive_message_max_bytes": limit,
    }
    consumer: Any = open_client(KafkaConsumer, section, alone)
    sizes: dict[int, int] = {}
    try:
        consumer.assign([place])
        while offset < min(end, offset + most - len(sizes)):
            size = _refused(consumer, place, offset, section.connect_timeout_s)
            if size is None:
                break
            sizes[offset] = size
            offset += 1
    except errors.KafkaError as error:
        raise explain(error, section) from error
    finally:
        consumer.close(autocommit=False)
    return sizes


def _refused(consumer: Any, place: TopicPartition, offset: int, patience_s: float) -> int | None:
    """Bytes of the answer that holds one offset, if it was refused; None if it was read."""
    consumer.seek(place, offset)
    REFUSED.take(_LOOKER)
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if consumer.poll(timeout_ms=50):
            return None
        size = REFUSED.take(_LOOKER)
        if size is not None:
            return size
    return None
