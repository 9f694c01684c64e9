"""What a real broker says of its topics, and what follows from it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.structs import TopicPartition

from consumers.transport import KafkaSection, KafkaSource, KafkaTopics, describe_broker
from consumers.transport.kafka_facts import BrokerFacts, TopicFacts, judge_broker
from tests.consumers.transport.test_kafka_source import Owner, partition_of, section_of
from tests.kafka_broker import Broker, admin
from tests.told import TOLD_S, told_in_time


def set_config(broker: Broker, topic: str, **settings: str) -> None:
    """Change a topic; ``settings`` with _ for the dots of Kafka's."""
    configs = {key.replace("_", "."): value for key, value in settings.items()}
    with admin(broker) as client:
        client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])


def poll_until(source: KafkaSource, done: Callable[[], bool]) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < 60
        source.poll(0.1)
    return time.monotonic() - began


@pytest.mark.kafka
def test_a_compacted_topic_is_refused_at_start_and_while_it_is_read(kafka, kafka_topics):
    events, logs = kafka_topics("detector", "motion")
    section = section_of(kafka, [events, logs])
    source = KafkaSource(section, Owner())
    poll_until(source, lambda: source.joined)
    set_config(kafka, logs, cleanup_policy="compact,delete")
    changed = time.monotonic()
    with pytest.raises(ValueError, match=rf"cleanup.policy of {logs} is compact,delete; .*=delete"):
        poll_until(source, lambda: False)
    assert time.monotonic() - changed < TOLD_S
    source.close()
    with pytest.raises(ValueError, match=rf"cleanup.policy of {logs} is compact,delete"):
        KafkaSource(section, Owner())
    set_config(kafka, logs, cleanup_policy="delete")
    KafkaSource(section, Owner()).close()


@pytest.mark.kafka
def test_short_retention_and_what_our_topics_lack_are_warnings_that_go_when_mended(
    kafka, kafka_topics
):
    (events,) = kafka_topics("detector", retention_ms="60000", max_message_bytes="50000000")
    section = section_of(kafka, [events])
    with told_in_time():
        source = KafkaSource(section, Owner(), needed_s=4200.0, look_s=0.2)
    said = " | ".join(source.warnings)
    assert f"retention.ms of {events} is 60000, and messages are needed for 4200000 ms" in said
    assert f"max.message.bytes of {events} is 50000000" in said
    missing = section.topics.ours
    assert f"--create --topic NAME --partitions 1` for each of {', '.join(missing)}" in said
    assert "one replica" not in said  # on loopback
    kafka_topics(*(name.removeprefix(f"{kafka_topics.prefix}_") for name in missing))
    set_config(kafka, events, retention_ms="4200000", max_message_bytes="1000000")
    poll_until(source, lambda: not source.warnings)
    source.close()


@pytest.mark.kafka
def test_a_broker_that_deletes_close_behind_what_is_needed_is_told_before_it_is_an_error(
    kafka, kafka_topics
):
    (events,) = kafka_topics("detector")
    partition_of(kafka, events, 0, [b"%d" % n for n in range(100)])
    with admin(kafka) as client:
        client.delete_records({TopicPartition(events, 0): 40})
    owner = Owner(positions={0: {events: 50}})
    source = KafkaSource(section_of(kafka, [events]), owner)
    poll_until(source, lambda: source.joined)
    told = poll_until(source, lambda: any("begins at offset 40" in w for w in source.warnings))
    assert told < TOLD_S
    assert "50 messages from 50 on are still needed" in " ".join(source.warnings)
    source.acknowledge({(events, 0): 100})
    poll_until(source, lambda: not any("begins at offset" in w for w in source.warnings))
    source.close()


@pytest.mark.kafka
def test_retention_that_becomes_short_while_a_topic_is_read_is_told_within_ten_seconds(
    kafka, kafka_topics
):
    (events,) = kafka_topics("detector")
    source = KafkaSource(section_of(kafka, [events]), Owner(), needed_s=4200.0)
    assert not any("retention.ms of" in w for w in source.warnings)
    set_config(kafka, events, retention_ms="60000")
    told = poll_until(source, lambda: any("retention.ms of" in w for w in source.warnings))
    assert told < TOLD_S
    source.close()


def test_one_replica_is_told_unless_the_broker_is_on_this_machine():
    section = section_of(Broker(bootstrap="127.0.0.1:9092,[::1]:9092"), ["x"])
    whole = {"cleanup.policy": "delete", "retention.ms": "-1", "max.message.bytes": str(2**25)}
    names = (*section.topics.read, *section.topics.ours)
    facts = BrokerFacts(
        topics={n: TopicFacts(partitions=1, replicas=1, config=whole) for n in names}
    )
    assert judge_broker(facts, section, needed_s=1.0) == ()
    far = section.model_copy(update={"bootstrap_servers": "127.0.0.1:9092,kafka.example.org:9092"})
    (said,) = judge_broker(facts, far, needed_s=1.0)
    assert "have one replica" in said


@pytest.mark.kafka
def test_what_is_looked_at_is_described_a_line_a_topic(kafka, kafka_topics):
    topics = kafka_topics("detector", retention_ms="60000")
    names = {"run_info": None, "motion": None, "sample_environment": None}
    section = KafkaSection(
        bootstrap_servers=kafka.bootstrap,
        topics=KafkaTopics(prefix=kafka_topics.prefix, reduced=None, bluesky=None, **names),
    )
    (line,), warnings = describe_broker(section, needed_s=4200.0)
    assert line.startswith(f"{topics[0]}: 1 partitions, 1 replicas, cleanup.policy delete")
    assert "retention.ms 60000" in line
    assert any("messages are needed for 4200000 ms" in warning for warning in warnings)
