"""What a broker says of its topics, and what of it would lose messages sooner or later."""

from __future__ import annotations

import ipaddress
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from kafka import KafkaAdminClient, errors
from kafka.admin import (
    ConfigResource,
    ConfigResourceType,
    OffsetSpec,  # pyright: ignore[reportAttributeAccessIssue]
)
from kafka.structs import TopicPartition

from consumers.transport.kafka_connection import (
    MISSING_TOPIC,
    creation,
    describe_topics,
    explain,
    open_client,
)
from consumers.transport.kafka_settings import FRAME_BYTES, KafkaSection, consumer_arguments
from simulations.errors import InputError

log = structlog.get_logger()
LOOK_S = 5.0  # how often the broker is asked again, for some 10 ms of processor
CLOSE_S = 1.0  # that a look may take to end
CONFIGS = ("cleanup.policy", "retention.ms", "retention.bytes", "max.message.bytes")


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicFacts:
    """One topic that is there."""

    partitions: int
    replicas: int  # of the partition that has fewest
    config: Mapping[str, str]  # of ``CONFIGS``; empty where this user may not read it


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What a broker keeps of one partition."""

    first: int  # offset of the oldest message
    end: int  # offset of the next one
    needed: int  # oldest offset that nothing saved covers


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokerFacts:
    """What matters of a broker to one experiment; topics that it does not have are absent."""

    topics: Mapping[str, TopicFacts]
    kept: Mapping[tuple[str, int], Kept] = field(default_factory=dict)


def ask_broker(
    section: KafkaSection,
    arguments: Mapping[str, Any],
    needed: Mapping[tuple[str, int], int],
) -> BrokerFacts:
    """Describe the topics that are read and ours.

    Parameters
    ----------
    section : KafkaSection
    arguments : mapping
        Of the client library.
    needed : mapping
        Oldest offset still needed by (topic, partition).

    Raises
    ------
    ConnectionError
        If there is no broker, or it lets nobody in.
    """
    names = [*section.topics.read, *section.topics.ours]
    known = {key: arguments[key] for key in arguments if key in KafkaAdminClient.DEFAULT_CONFIG}
    client: Any = open_client(KafkaAdminClient, section, known)
    try:
        described = {t["name"]: t for t in client.describe_topics(names)}
        # What cannot be described for want of rights is there, and is told elsewhere.
        there = [name for name in names if described[name]["error_code"] == 0]
        every: dict[str, str] = dict.fromkeys(CONFIGS, "")  # of which the names are looked at
        asked = [ConfigResource(ConfigResourceType.TOPIC, n, every) for n in there]
        found = client.describe_configs(asked, config_filter="all").get("topic", {})
        places = [TopicPartition(*place) for place in needed]
        first = client.list_partition_offsets(dict.fromkeys(places, OffsetSpec.EARLIEST))
        end = client.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST))
    except errors.KafkaError as error:
        raise explain(error, section) from error
    finally:
        client.close()
    topics = {
        name: TopicFacts(
            partitions=len(described[name]["partitions"]),
            replicas=min(len(p["replica_nodes"]) for p in described[name]["partitions"]),
            config={
                key: str(config["value"])
                for key, config in found.get(name, {}).items()
                if key in CONFIGS
            },
        )
        for name in there
    }
    unknown = {
        name: TopicFacts(partitions=0, replicas=0, config={})
        for name in names
        if described[name]["error_code"] not in (0, MISSING_TOPIC)
    }
    kept = {
        (p.topic, p.partition): Kept(
            first=first[p].offset, end=end[p].offset, needed=needed[p.topic, p.partition]
        )
        for p in places
    }
    return BrokerFacts(topics=topics | unknown, kept=kept)


def describe_broker(
    section: KafkaSection, *, needed_s: float, environment: Mapping[str, str] = os.environ
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a broker says of the topics, a line each, and what somebody should change.

    Raises
    ------
    ConnectionError
        If there is no broker, or it lets nobody in.
    ValueError
        If a topic is compacted, the numbers of partitions differ, or a topic that is read is not
        there.
    """
    arguments = consumer_arguments(section, environment)
    describe_topics(section, arguments, section.topics.read)
    facts = ask_broker(section, arguments, {})
    lines = tuple(
        f"{name}: {topic.partitions} partitions, {topic.replicas} replicas"
        + "".join(f", {key} {topic.config[key]}" for key in CONFIGS if key in topic.config)
        for name, topic in facts.topics.items()
    )
    return lines, judge_broker(facts, section, needed_s=needed_s)


def judge_broker(facts: BrokerFacts, section: KafkaSection, *, needed_s: float) -> tuple[str, ...]:
    """What somebody should change before messages are lost; nothing where all is well.

    Parameters
    ----------
    facts : BrokerFacts
    section : KafkaSection
    needed_s : float
        How long messages are needed: the longest dwell and the silence that ends it, s.

    Raises
    ------
    ValueError
        If a topic that is read is compacted.
    """
    read = {name: facts.topics[name] for name in section.topics.read if name in facts.topics}
    _refuse_compaction(read)
    ours = section.topics.ours
    found = []
    for name, topic in read.items():
        found += _too_short(name, topic.config, needed_s)
        largest = int(topic.config.get("max.message.bytes", 0))
        if largest > section.max_message_bytes + FRAME_BYTES:
            found.append(
                f"max.message.bytes of {name} is {largest}, and kafka.max_message_bytes is "
                f"{section.max_message_bytes}; messages between the two become dead letters. "
                "Raise kafka.max_message_bytes (and kafka.buffer_bytes), or lower the topic's."
            )
    for (name, partition), kept in facts.kept.items():
        if kept.first > 0 and kept.needed - kept.first < kept.end - kept.needed:
            found.append(
                f"{name}[{partition}] deletes old messages and begins at offset {kept.first}, "
                f"while {kept.end - kept.needed} messages from {kept.needed} on are still needed; "
                "expected at least as many kept before those. Raise retention.ms and "
                f"retention.bytes of {name}, or relieve this worker."
            )
    if missing := [name for name in ours if name not in facts.topics]:
        found.append(
            f"{', '.join(missing)} not there, where results and dead letters go; a dead letter "
            f"would hold the stream up. {creation(section, missing, 1)}"
        )
    for name in ours:
        topic = facts.topics.get(name)
        if topic is not None and "max.message.bytes" in topic.config:
            largest = int(topic.config["max.message.bytes"])
            if largest < section.max_message_bytes:
                found.append(
                    f"max.message.bytes of {name} is {largest}, less than kafka.max_message_bytes "
                    f"({section.max_message_bytes}); what is larger cannot be sent. Raise the "
                    "topic's."
                )
    alone = [name for name, topic in facts.topics.items() if topic.replicas == 1]
    if alone and not _on_loopback(section):
        found.append(
            f"{', '.join(sorted(alone))} have one replica; a broker's disk that fails takes them "
            "along. Expected two or three. Ask who runs the broker (kafka-reassign-partitions.sh)."
        )
    if hidden := [name for name, topic in read.items() if not topic.config]:
        found.append(
            f"The broker does not show {section.user or 'this client'} the configuration of "
            f"{', '.join(hidden)}; expected DESCRIBE_CONFIGS rights. Ask for them, or make sure "
            f"that cleanup.policy is delete and retention.ms at least {round(1000 * needed_s)}."
        )
    return tuple(found)


def _refuse_compaction(topics: Mapping[str, TopicFacts]) -> None:
    for name, topic in topics.items():
        policy = topic.config.get("cleanup.policy", "")
        if "compact" in policy:
            raise InputError(
                f"cleanup.policy of {name} is {policy}; expected delete, because messages are "
                "keyed by run and compaction keeps the last one of each key. Set it: "
                f"kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config "
                "cleanup.policy=delete. What was compacted away must be replayed from its source."
            )


def _too_short(name: str, config: Mapping[str, str], needed_s: float) -> list[str]:
    kept_ms = int(config.get("retention.ms", -1))
    if 0 <= kept_ms < 1000 * needed_s:
        return [
            f"retention.ms of {name} is {kept_ms}, and messages are needed for "
            f"{round(1000 * needed_s)} ms (source.longest_dwell_s and timeout_s); what a restart "
            "reads again may be gone. Raise retention.ms."
        ]
    return []


def _on_loopback(section: KafkaSection) -> bool:
    for server in section.bootstrap_servers.split(","):
        host = server.strip().rpartition(":")[0].strip("[]")
        try:
            if not ipaddress.ip_address(host).is_loopback:
                return False
        except ValueError:
            if host != "localhost":
                return False
    return True


class BrokerWatch:
    """Asks the broker at once and, from ``start`` on, every few seconds in a thread of its own.

    Parameters
    ----------
    section : KafkaSection
    arguments : mapping
        Of the client library.
    needed_s : float
        As in :func:`judge_broker`.
    needed : callable
        Oldest offsets still needed by (topic, partition).
    every_s : float
        Time between two looks.

    Attributes
    ----------
    warnings : tuple of str
        As of the last look.
    fault : InputError or None
        Why nothing more may be read.

    Raises
    ------
    ConnectionError, ValueError
        What the first look finds.
    """

    def __init__(
        self,
        section: KafkaSection,
        arguments: Mapping[str, Any],
        *,
        needed_s: float,
        needed: Callable[[], Mapping[tuple[str, int], int]],
        every_s: float = LOOK_S,
    ) -> None:
        self._section, self._arguments = section, arguments
        self._needed_s, self._needed, self._every_s = needed_s, needed, every_s
        self.warnings: tuple[str, ...] = ()
        self.fault: InputError | None = None
        self._look()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="broker-facts", daemon=True)

    def start(self) -> None:
        """Look again every so often, until ``close``."""
        self._thread.start()

    def _look(self) -> None:
        facts = ask_broker(self._section, self._arguments, self._needed())
        found = judge_broker(facts, self._section, needed_s=self._needed_s)
        for warning in set(found) - set(self.warnings):
            log.warning("broker_warning", reason=warning)
        self.warnings = found

    def _watch(self) -> None:
        told = False
        while not self._over.wait(self._every_s):
            try:
                self._look()
                told = False
            except InputError as error:
                self.fault = error
                return
            except Exception as error:  # a broker that is away is the source's to tell
                if not told:
                    log.warning("broker_not_described", reason=str(error))
                told = True

    def close(self) -> None:
        """End the thread; a look that waits for a broker that is away ends by itself."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)
