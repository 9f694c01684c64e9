"""The sink against a real Apache Kafka, and with bluesky-kafka's own consumer and publisher."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from kafka import KafkaConsumer
from kafka.errors import KafkaError

from consumers.transport import DeadLetters, KafkaSink, KafkaSource
from consumers.transport.dead_letters import LONGEST_REASON
from consumers.transport.kafka_connection import explain
from consumers.wire import Described, LogSample, RawMessage, RunBegins, RunEnds, decode, pack
from consumers.wire.bluesky_documents import documents_of
from tests.consumers.transport.test_kafka_source import (
    Owner,
    partition_of,
    read,
    sasl_of,
    section_of,
)
from tests.kafka_broker import PASSWORDS, Topics
from tests.steering.stepping_clock import NoCompilerError, build_stepping_clock
from tests.steering.worker_host import ROOT
from tests.told import TOLD_S, told_in_time

pytestmark = pytest.mark.kafka


def test_messages_of_one_key_share_a_partition_and_keep_their_order(kafka, kafka_topics):
    events, logs = kafka_topics("detector", "motion", partitions=3)
    sink = KafkaSink(section_of(kafka, [events]))
    for n in range(60):
        sink.send(events, b"%d" % n, key=b"run-%d" % (n % 5))
        sink.send(logs, b"%d" % n, key=b"run-%d" % (n % 5))
    sink.close()
    source = KafkaSource(section_of(kafka, [events, logs]), Owner())
    found = read(source, 120)
    source.close()
    for run in {m.run for m in found}:
        ours = [m for m in found if m.run == run]
        assert len({m.partition for m in ours}) == 1  # in both topics: the run is one consumer's
        for topic in (events, logs):
            numbers = [int(m.value) for m in ours if m.topic == topic]
            assert numbers == sorted(numbers)
            assert len(numbers) == 12
    assert len({m.partition for m in found}) > 1


def test_a_dead_letter_keeps_key_and_value_and_tells_place_and_reason(kafka, kafka_topics):
    bad, dead = kafka_topics("detector", "dead_letters")
    sink = KafkaSink(section_of(kafka, [bad]))
    letters = DeadLetters(sink, dead)
    message = RawMessage(
        topic=bad,
        partition=3,
        offset=77,
        value=b"\0\xff",
        key=b"run",
        headers=(("document", b"x"),),
    )
    letters.put(message, "psi is NaN; ångström")
    letters.put(RawMessage(topic=bad, partition=0, offset=0, value=b""), "é" * 5000)
    sink.close()
    source = KafkaSource(section_of(kafka, [dead]), Owner())
    first, second = read(source, 2)
    source.close()
    assert (first.key, first.value) == (b"run", b"\0\xff")
    assert dict(first.headers) == {
        "reason": "psi is NaN; ångström".encode(),
        "topic": bad.encode(),
        "partition": b"3",
        "offset": b"77",
        "original.document": b"x",
    }
    assert second.key is None
    assert second.value == b""
    assert dict(second.headers)["reason"] == b"\xc3\xa9" * (LONGEST_REASON // 2)
    assert letters.count == 2


def test_a_dead_letter_that_its_topic_does_not_take_goes_without_most_of_its_value(
    kafka, kafka_topics
):
    bad, dead = kafka_topics("bad", "dead", max_message_bytes="4096")
    sink = KafkaSink(section_of(kafka, [bad]))
    letters = DeadLetters(sink, dead)
    large = RawMessage(topic=bad, partition=0, offset=7, value=b"x" * 50_000, key=b"night")
    small = replace(large, offset=8, value=b"small")
    with told_in_time():
        letters.deliver([(large, "cannot be decoded"), (small, "neither can this")])
    sink.close()
    consumer = KafkaConsumer(
        dead, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest",
        consumer_timeout_ms=10_000,
    )  # fmt: skip
    found = {}
    while len(found) < 2:
        record = next(consumer)
        found[dict(record.headers)["offset"]] = record
    consumer.close()
    cut, whole = found[b"7"], found[b"8"]
    assert (cut.value, cut.key) == (b"x" * 512, b"night")
    told = dict(cut.headers)
    assert told["original_size"] == b"50000"
    assert (told["topic"], told["partition"]) == (bad.encode(), b"0")
    assert told["reason"] == b"cannot be decoded"
    assert whole.value == b"small"
    assert "original_size" not in dict(whole.headers)


def test_a_topic_that_is_not_there_is_named(kafka):
    sink = KafkaSink(section_of(kafka, ["nowhere"], connect_timeout_s=2.0))
    with pytest.raises(ConnectionError, match="Topic nowhere-at-all is not there"):
        sink.send("nowhere-at-all", b"x")
    sink.close()


def test_messages_above_our_limit_or_the_broker_s_are_told(kafka, kafka_topics):
    (topic,) = kafka_topics("small", max_message_bytes="20000")
    sink = KafkaSink(section_of(kafka, [topic], max_message_bytes=100_000))
    with pytest.raises(ValueError, match="max_message_bytes is 100000, .* has 100001 bytes"):
        sink.send(topic, bytes(100_001))
    sink.send(topic, b"fits")
    sink.send(topic, bytes(50_000))
    with pytest.raises(ConnectionError, match=r"^1 messages did not arrive.*message.max.bytes"):
        sink.flush()
    sink.close()


def test_a_full_buffer_blocks_and_after_the_patience_raises(own_kafka):
    (topic,) = Topics(broker=own_kafka.broker)("detector")
    section = section_of(
        own_kafka.broker,
        [topic],
        buffer_bytes=2**20,
        max_message_bytes=2**20,
        patience_s=3.0,
        connect_timeout_s=20.0,
    )
    sink = KafkaSink(section)
    sink.send(topic, b"first")
    sink.flush()
    own_kafka.kill()
    for _ in range(2):
        sink.send(topic, bytes(400_000))
    with pytest.raises(ConnectionError, match=r"filled by 2 messages .* 3 s"):
        sink.send(topic, bytes(400_000))
    with pytest.raises(ConnectionError, match=r"2 messages \(800000 bytes\) wait for"):
        sink.flush(0.5)
    own_kafka.start()
    sink.flush(90)  # what was taken is not dropped
    source = KafkaSource(section, Owner())
    assert [len(m.value) for m in read(source, 3)] == [5, 400_000, 400_000]
    source.close()
    sink.close()


def test_a_stranger_may_not_write_and_hears_who_can_change_that(kafka, kafka_topics):
    topics = kafka_topics("detector")
    section = sasl_of(kafka, topics, "stranger")
    sink = KafkaSink(section, environment={section.password_variable: PASSWORDS["stranger"]})
    with told_in_time(), pytest.raises(ConnectionError, match="kafka.user is stranger"):
        _send_and_flush(sink, topics[0])
    sink._producer.close(timeout=1.0)
    with pytest.raises(ConnectionError, match="does not let in"):
        KafkaSink(
            sasl_of(kafka, topics, "stranger", connect_timeout_s=5.0),
            environment={section.password_variable: "wrong"},
        )


def _send_and_flush(sink: KafkaSink, topic: str) -> None:
    sink.send(topic, b"x")
    sink.flush()


def test_an_unknown_error_names_the_broker_and_itself(kafka):
    section = section_of(kafka, ["x"])
    told = explain(KafkaError("something new"), section)
    assert kafka.bootstrap in str(told)
    assert "something new" in str(told)


BEGINS = RunBegins(
    job="6d1e8f2c-1f0e-4a5e-9f2e-0a1b2c3d4e5f", chunk="run_1", source="test", start_time_ns=10**18
)
VALUES = [LogSample(source="s1", time_ns=10**18 + n, value=np.array([1.5 * n])) for n in range(3)]
ENDS = RunEnds(job=BEGINS.job, source="test", stop_time_ns=10**18 + 10**9)


def test_bluesky_kafka_s_consumer_reads_our_documents(kafka, kafka_topics):
    bluesky_kafka = pytest.importorskip("bluesky_kafka")
    (topic,) = kafka_topics("bluesky")
    documents = list(documents_of(BEGINS, VALUES, ENDS))
    sink = KafkaSink(section_of(kafka, [topic]))
    for name, document in documents:
        sink.send(topic, pack([name, document]), key=b"run")
    sink.close()
    found = []
    end = time.monotonic() + 60

    def remember(consumer, topic, name, document):
        found.append((name, document))

    reader = bluesky_kafka.BlueskyConsumer(
        topics=[topic],
        bootstrap_servers=kafka.bootstrap,
        group_id=f"{topic}-bluesky",
        consumer_config={"auto.offset.reset": "earliest"},
        process_document=remember,
    )
    reader.start(continue_polling=lambda: len(found) < len(documents) and time.monotonic() < end)
    assert [name for name, _ in found] == [name for name, _ in documents]
    assert found[0][1]["uid"] == BEGINS.job
    assert found[0][1] == documents[0][1]
    assert found[-1][1] == documents[-1][1]


def test_what_bluesky_kafka_publishes_is_what_we_read(kafka, kafka_topics):
    bluesky_kafka = pytest.importorskip("bluesky_kafka")
    (topic,) = kafka_topics("bluesky")
    publisher = bluesky_kafka.Publisher(
        topic=topic,
        bootstrap_servers=kafka.bootstrap,
        key="run",
        producer_config={"enable.idempotence": True},
        flush_on_stop_doc=True,
    )
    documents = list(documents_of(BEGINS, VALUES, ENDS))
    for name, document in documents:
        publisher(name, document)
    source = KafkaSource(section_of(kafka, [topic]), Owner())
    values = [decode(m) for m in read(source, len(documents))]
    source.close()
    begins, ends = values[0], values[-1]
    assert isinstance(begins, RunBegins)
    assert isinstance(ends, RunEnds)
    assert (begins.job, ends.job) == (BEGINS.job, BEGINS.job)
    logs = [log for value in values if isinstance(value, Described) for log in value.values]
    assert [float(log.value[0]) for log in logs if isinstance(log, LogSample)] == [0.0, 1.5, 3.0]


def test_a_producer_faster_than_the_consumer_makes_lag_and_loses_nothing(kafka, kafka_topics):
    (topic,) = kafka_topics("detector")
    sink = KafkaSink(section_of(kafka, [topic]))
    source = KafkaSource(section_of(kafka, [topic], max_poll_records=50), Owner())
    partition_of(kafka, topic, 0, [b"0"])
    found = read(source, 1)
    for n in range(1, 2001):
        sink.send(topic, b"%d" % n)
    sink.flush()
    for _ in range(4):
        found += source.poll(10.0)
    assert len(found) < 300
    assert source.lag()[(topic, 0)] > 1000
    found += read(source, 2001 - len(found))
    assert [int(m.value) for m in found] == list(range(2001))
    assert source.lag() == {(topic, 0): 0}
    source.close()
    sink.close()


SEND_A_DAY_AHEAD = """
import sys, time

from consumers.transport import KafkaSection, KafkaSink, KafkaTopics

bootstrap, topic, then = sys.argv[1], sys.argv[2], float(sys.argv[3])
assert time.time() > then + 80_000, "the library is not in front"
sink = KafkaSink(
    KafkaSection(bootstrap_servers=bootstrap, topics=KafkaTopics(prefix="p")), environment={}
)
since = time.monotonic()
for n in range(5):
    sink.send(topic, b"%d" % n, key=b"run")
sink.flush()
assert time.monotonic() - since < float(sys.argv[4])
sink.send(topic, b"5", key=b"run")
sink.close()
"""


def test_a_clock_a_day_ahead_of_the_brokers_holds_nothing_back(kafka, kafka_topics, tmp_path):
    """The broker refuses the time stamps; dead letters held back would hold every commit back."""
    (dead,) = kafka_topics("dead_letters")
    try:
        library = build_stepping_clock(tmp_path)
    except NoCompilerError as reason:
        pytest.skip(str(reason))
    (tmp_path / "step").write_text("86400")
    done = subprocess.run(
        [sys.executable, "-c", SEND_A_DAY_AHEAD, kafka.bootstrap, dead]
        + [str(time.time()), str(TOLD_S)],
        env={**os.environ, "LD_PRELOAD": str(library), "STEP_FILE": str(tmp_path / "step")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    source = KafkaSource(section_of(kafka, [dead]), Owner())
    found = read(source, 6)
    source.close()
    assert [m.value for m in found] == [b"%d" % n for n in range(6)]
    assert "time_stamps_refused" in done.stdout + done.stderr
