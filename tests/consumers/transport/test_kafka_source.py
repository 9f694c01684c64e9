"""The source against a real Apache Kafka; every broker error is provoked, none imitated."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import confluent_kafka
import numpy as np
import pytest
from kafka import KafkaProducer
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from kafka.structs import TopicPartition

from consumers.transport import KafkaSection, KafkaSink, KafkaSource
from consumers.wire import RawMessage, WireError, decode
from simulations.errors import InputError
from tests.kafka_broker import PASSWORDS, Topics, admin
from tests.told import TOLD_S, told_in_time

pytestmark = pytest.mark.kafka


@dataclass
class Owner:
    """Remembers what it is told; ``held`` is shared by the owners of one group."""

    positions: dict[int, dict[str, int]] = field(default_factory=dict)
    held: dict[int, Owner] = field(default_factory=dict)
    calls: list[tuple[str, int]] = field(default_factory=list)

    def take(self, partition: int) -> Mapping[str, int]:
        assert partition not in self.held, "two owners at once"
        self.held[partition] = self
        self.calls.append(("take", partition))
        return dict(self.positions.get(partition, {}))

    def release(self, partition: int) -> None:
        assert self.held.pop(partition) is self
        self.calls.append(("release", partition))

    def forget(self, partition: int) -> None:
        if self.held.get(partition) is self:
            del self.held[partition]
        self.calls.append(("forget", partition))

    def fold(self, messages: Sequence[RawMessage]) -> None:
        """Advance the positions that the next owner begins from."""
        for message in messages:
            places = self.positions.setdefault(message.partition, {})
            places[message.topic] = message.offset + 1


def section_of(kafka, topics: Sequence[str], **settings) -> KafkaSection:
    """Settings that read these topics."""
    fields = ("detector", "run_info", "motion", "sample_environment", "reduced", "bluesky")
    names: dict[str, str | None] = dict.fromkeys(fields)
    names |= dict(zip(fields, topics, strict=False))
    given = {
        "bootstrap_servers": kafka.bootstrap,
        "group": f"{topics[0]}-group",
        "connect_timeout_s": 20.0,
    }
    return KafkaSection.model_validate(
        {**given, **settings, "topics": {"prefix": topics[0], **names}}
    )


def read(source: KafkaSource, count: int, *, owner: Owner | None = None) -> list[RawMessage]:
    """Poll until so many have come."""
    found: list[RawMessage] = []
    end = time.monotonic() + 120
    while len(found) < count:
        assert time.monotonic() < end, f"{len(found)} of {count} messages came"
        messages = source.poll(1.0)
        if owner is not None:
            owner.fold(messages)
        found += messages
    return found


def in_turn(*sources: KafkaSource) -> None:
    for _ in range(100):
        for source in sources:
            source.poll(0.2)


def send(kafka, messages: Sequence[tuple[str, bytes, bytes | None]]) -> None:
    sink = KafkaSink(section_of(kafka, ["sink"]))
    for topic, value, key in messages:
        sink.send(topic, value, key=key)
    sink.close()


def partition_of(kafka, topic: str, partition: int, values: Sequence[bytes]) -> None:
    """Put messages into one partition."""
    with KafkaProducer(bootstrap_servers=kafka.bootstrap, acks="all") as producer:
        futures = [producer.send(topic, value, partition=partition) for value in values]
        for future in futures:
            future.get(timeout=30)


def test_messages_of_5_megabytes_come_whole_and_in_order(kafka, kafka_topics):
    (topic,) = kafka_topics("detector")
    sink = KafkaSink(section_of(kafka, [topic]))
    sent = [bytes([n]) * 5_000_000 for n in range(12)]
    before = time.time_ns()
    for n, value in enumerate(sent):
        sink.send(topic, value, key=b"run", headers=[("n", str(n).encode())])
    sink.close()
    source = KafkaSource(section_of(kafka, [topic], buffer_bytes=32 * 2**20), Owner())
    found = read(source, 12)
    source.close()
    assert [m.value for m in found] == sent
    assert [m.offset for m in found] == list(range(12))
    assert {m.run for m in found} == {"run"}
    assert [m.headers for m in found] == [(("n", str(n).encode()),) for n in range(12)]
    assert all(abs(m.timestamp_ns - before) < 600e9 for m in found)


def test_a_join_that_ends_between_two_short_readings_is_not_lost(kafka, kafka_topics):
    """The library forgets it then, keeps its heartbeats off and waits for ever."""
    topics = kafka_topics("detector", "motion")
    for _ in range(4):
        owner = Owner()
        source = KafkaSource(section_of(kafka, topics), owner)
        end = time.monotonic() + 60
        while not source.partitions and time.monotonic() < end:
            source.poll(0.001)
        assert source.partitions == (0,)
        source.close()


def test_it_begins_where_the_owner_says_and_else_at_the_beginning(kafka, kafka_topics):
    events, logs = kafka_topics("detector", "motion")
    partition_of(kafka, events, 0, [b"%d" % n for n in range(10)])
    partition_of(kafka, logs, 0, [b"log"])
    owner = Owner(positions={0: {events: 7}})
    source = KafkaSource(section_of(kafka, [events, logs]), owner)
    found = read(source, 4)
    assert sorted((m.topic, m.offset) for m in found) == sorted(
        [(events, 7), (events, 8), (events, 9), (logs, 0)]
    )
    # What is committed is for others to see, and not where the next one begins.
    source.acknowledge({(events, 0): 10, (logs, 0): 1, (events, 99): 3})
    source.close()
    assert owner.calls == [("take", 0), ("release", 0)]
    again = KafkaSource(section_of(kafka, [events, logs]), Owner(positions={0: {events: 9}}))
    assert sorted((m.topic, m.offset) for m in read(again, 2)) == [(events, 9), (logs, 0)]
    again.close()
    with admin(kafka) as client:
        committed = client.list_group_offsets([f"{events}-group"])
    offsets = {place.topic: state.offset for place, state in committed[f"{events}-group"].items()}
    assert offsets == {events: 10, logs: 1}


def test_messages_that_are_gone_are_counted_and_not_skipped(kafka, kafka_topics):
    (topic,) = kafka_topics("detector")
    partition_of(kafka, topic, 0, [b"x"] * 10)
    with admin(kafka) as client:
        client.delete_records({TopicPartition(topic, 0): 6})
    source = KafkaSource(section_of(kafka, [topic]), Owner(positions={0: {topic: 2}}))
    with pytest.raises(ValueError, match=r"begins at offset 6.* needs 2: 4 messages are gone"):
        read(source, 1)
    with pytest.raises(ValueError, match="4 messages are gone"):  # and not the committed offset
        source.poll(0.1)
    source.close()


def test_a_topic_that_ends_before_the_saved_position_was_made_anew(kafka, kafka_topics):
    (topic,) = kafka_topics("detector")
    partition_of(kafka, topic, 0, [b"x"] * 3)
    source = KafkaSource(section_of(kafka, [topic]), Owner(positions={0: {topic: 8}}))
    with (
        told_in_time(),
        pytest.raises(ValueError, match=r"ends at offset 3.* needs 8: 5 messages are gone"),
    ):
        read(source, 1)
    source.close()


def test_a_topic_of_which_messages_vanish_while_it_is_read_is_an_error(kafka, kafka_topics):
    (topic,) = kafka_topics("detector")
    partition_of(kafka, topic, 0, [b"x"] * 3)
    source = KafkaSource(section_of(kafka, [topic]), Owner())
    read(source, 3)
    source.pause(0)
    partition_of(kafka, topic, 0, [b"x"] * 20)
    with admin(kafka) as client:
        client.delete_records({TopicPartition(topic, 0): 20})
    source.resume(0)
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"begins at offset 20.* needs \d+: \d+ messages are gone"):
        read(source, 100)
    assert time.monotonic() - began < TOLD_S
    source.close()


def test_two_consumers_share_and_hand_over_without_two_owners_of_a_partition(kafka, kafka_topics):
    events, logs = kafka_topics("detector", "motion", partitions=4)
    for partition in range(4):
        partition_of(kafka, events, partition, [b"a"] * 5)
        partition_of(kafka, logs, partition, [b"a"] * 2)
    held: dict[int, Owner] = {}
    positions: dict[int, dict[str, int]] = {}
    one, two = Owner(positions, held), Owner(positions, held)
    section = section_of(kafka, [events, logs])
    first = KafkaSource(section, one)
    found = read(first, 28, owner=one)
    assert first.partitions == (0, 1, 2, 3)
    second = KafkaSource(section, two)
    sources = ((first, one), (second, two))
    end = time.monotonic() + 60
    while len(second.partitions) != 2 or len(first.partitions) != 2:
        assert time.monotonic() < end
        for source, owner in sources:
            messages = source.poll(0.3)
            owner.fold(messages)
            found += messages
    assert one.calls[:8] == [(verb, p) for verb in ("take", "release") for p in range(4)]
    assert set(first.partitions) | set(second.partitions) == {0, 1, 2, 3}
    for partition in range(4):
        partition_of(kafka, events, partition, [b"b"] * 3)
    while len(found) < 40:
        assert time.monotonic() < end
        for source, owner in sources:
            messages = source.poll(0.3)
            assert {m.partition for m in messages} <= set(source.partitions)
            owner.fold(messages)
            found += messages
    second.close()
    while len(first.partitions) != 4:
        assert time.monotonic() < end
        one.fold(first.poll(0.3))
    first.close()
    assert held == {}
    places = [(m.topic, m.partition, m.offset) for m in found]
    assert len(set(places)) == len(places) == 40


def test_what_the_owner_raises_comes_out_of_poll_and_nothing_goes_on(kafka, kafka_topics):
    (topic,) = kafka_topics("detector")
    partition_of(kafka, topic, 0, [b"x"])

    class Broken(Owner):
        def take(self, partition):
            raise OSError("the disk is full")

    source = KafkaSource(section_of(kafka, [topic]), Broken())
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is full"):
            read(source, 1)
    source.close()

    class Unsaved(Owner):
        def release(self, partition):
            raise OSError("cannot save")

    first = KafkaSource(section_of(kafka, [topic], group="unsaved"), Unsaved())
    read(first, 1)
    second = KafkaSource(section_of(kafka, [topic], group="unsaved"), Owner())
    with pytest.raises(OSError, match="cannot save"):
        in_turn(first, second)
    first.close()
    assert [m.offset for m in read(second, 1)] == [0]
    second.close()


def test_a_paused_partition_lags_while_others_go_on_and_nothing_is_lost(kafka, kafka_topics):
    (topic,) = kafka_topics("detector", partitions=2)
    source = KafkaSource(section_of(kafka, [topic], buffer_bytes=32 * 2**20), Owner())
    partition_of(kafka, topic, 0, [b"first"])
    found = read(source, 1)
    source.pause(0)
    with KafkaProducer(
        bootstrap_servers=kafka.bootstrap, max_request_size=2**23, acks="all"
    ) as producer:
        for n in range(60):
            producer.send(topic, b"%d" % n + bytes(2_000_000), partition=0)
            producer.send(topic, b"%d" % n, partition=1)
        producer.flush(60)
    others = read(source, 60)
    assert {m.partition for m in others} == {1}
    end = time.monotonic() + 60
    while source.lag()[(topic, 0)] != 60:  # learnt within seconds, though nothing is read
        assert time.monotonic() < end, source.lag()
        assert source.poll(0.5) == []
    source.resume(0)
    found += read(source, 60)
    assert [m.offset for m in found] == list(range(61))
    assert [int(m.value.rstrip(b"\0")) for m in found[1:]] == list(range(60))
    assert source.lag() == {(topic, 0): 0, (topic, 1): 0}
    source.close()


def test_one_reading_returns_no_more_than_its_buffer(kafka, kafka_topics):
    (topic,) = kafka_topics("detector")
    sink = KafkaSink(section_of(kafka, [topic]))
    for _ in range(40):
        sink.send(topic, bytes(2_000_000))
    sink.close()
    section = section_of(kafka, [topic], buffer_bytes=2**23, max_message_bytes=2**22)
    source = KafkaSource(section, Owner())
    came = 0
    while came < 40:
        messages = source.poll(5.0)
        assert sum(len(m.value) for m in messages) <= section.buffer_bytes
        came += len(messages)
    source.close()


def test_long_work_between_two_readings_keeps_the_partitions(kafka, kafka_topics):
    (topic,) = kafka_topics("detector")
    partition_of(kafka, topic, 0, [b"x"])
    owner = Owner()
    source = KafkaSource(section_of(kafka, [topic], session_timeout_s=1.5), owner)
    read(source, 1)
    time.sleep(4)
    partition_of(kafka, topic, 0, [b"y"])
    assert [m.value for m in read(source, 1)] == [b"y"]
    assert owner.calls == [("take", 0)]
    source.close()


def test_work_beyond_the_longest_interval_forgets_and_takes_again(kafka, kafka_topics):
    (topic,) = kafka_topics("detector")
    partition_of(kafka, topic, 0, [b"x"])
    section = section_of(kafka, [topic], session_timeout_s=2.0, max_poll_interval_s=2.0)
    owner = Owner()
    source = KafkaSource(section, owner)
    read(source, 1)
    time.sleep(5)
    again = read(source, 1)
    assert [m.offset for m in again] == [0]  # its state was lost with the partition
    assert owner.calls == [("take", 0), ("forget", 0), ("take", 0)]
    source.close()


@pytest.mark.parametrize("there", ["nobody", "somebody silent"])
def test_no_broker_is_told_within_ten_seconds(there):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = "{}:{}".format(*listener.getsockname()) if there != "nobody" else "127.0.0.1:1"
        section = KafkaSection.model_validate(
            {"bootstrap_servers": address, "topics": {"prefix": "p"}}
        )
        began = time.monotonic()
        with pytest.raises(
            ConnectionError, match=rf"kafka.bootstrap_servers is {address}, .*make kafka"
        ):
            KafkaSource(section, Owner())
        assert time.monotonic() - began < TOLD_S


def test_missing_topics_are_named(kafka, kafka_topics):
    (topic,) = kafka_topics("detector")
    section = section_of(kafka, [topic, f"{topic}-nowhere"])
    with (
        told_in_time(),
        pytest.raises(ValueError, match=rf"names {topic}-nowhere, which .* does not have"),
    ):
        KafkaSource(section, Owner())


def test_unequal_numbers_of_partitions_are_refused(kafka, kafka_topics):
    (events,) = kafka_topics("detector", partitions=2)
    (logs,) = kafka_topics("motion", partitions=3)
    with (
        told_in_time(),
        pytest.raises(ValueError, match=rf"{events}: 2, {logs}: 3\); expected equal"),
    ):
        KafkaSource(section_of(kafka, [events, logs]), Owner())


def sasl_of(kafka, topics, user: str, **settings) -> KafkaSection:
    if kafka.sasl is None:
        pytest.skip("the broker of BEAMSTEER_TEST_KAFKA has no listener with names that we know")
    return section_of(
        kafka,
        topics,
        bootstrap_servers=kafka.sasl,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        user=user,
        **settings,
    )


def test_a_wrong_password_is_told_with_its_variable_and_without_the_password(kafka, kafka_topics):
    topics = kafka_topics("detector")
    section = sasl_of(kafka, topics, "reader", connect_timeout_s=5.0)
    environment = {"BEAMSTEER_KAFKA_PASSWORD": "not_the_secret"}
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="kafka.user is reader.*PLAIN.*KAFKA_PASS") as told:
        KafkaSource(section, Owner(), environment=environment)
    assert time.monotonic() - began < TOLD_S
    assert "not_the_secret" not in str(told.value)


def test_rights_are_asked_for_by_name_and_with_them_messages_come(kafka, kafka_topics):
    topics = kafka_topics("detector")
    partition_of(kafka, topics[0], 0, [b"x"])
    section = sasl_of(kafka, topics, "reader")
    environment = {"BEAMSTEER_KAFKA_PASSWORD": PASSWORDS["reader"]}

    def allow(kind, name):
        rule = ACL(
            principal="User:reader",
            host="*",
            operation=ACLOperation.READ,
            permission_type=ACLPermissionType.ALLOW,
            resource_pattern=ResourcePattern(kind, name),
        )
        with admin(kafka) as client:
            client.create_acls([rule])
            until = time.monotonic() + TOLD_S
            while not client.describe_acls(rule)[0]:  # the controller has it, the broker not yet
                assert time.monotonic() < until
                time.sleep(0.05)

    with (
        told_in_time(),
        pytest.raises(
            ConnectionError, match=f"kafka.user is reader, which may not use {topics[0]}"
        ),
    ):
        KafkaSource(section, Owner(), environment=environment)
    allow(ResourceType.TOPIC, topics[0])
    source = KafkaSource(section, Owner(), environment=environment)
    assert any("does not show reader the configuration" in w for w in source.warnings)
    with told_in_time(), pytest.raises(ConnectionError, match=f"kafka.group is {section.group}"):
        read(source, 1)
    source.close()
    allow(ResourceType.GROUP, section.group)
    source = KafkaSource(section, Owner(), environment=environment)
    assert [m.value for m in read(source, 1)] == [b"x"]
    source.close()


def test_a_message_above_the_limit_comes_as_a_fault_and_the_rest_as_it_is(kafka, kafka_topics):
    (topic,) = kafka_topics("detector")
    send(kafka, [(topic, b"small", None), (topic, bytes(100_000), None), (topic, b"next", None)])
    source = KafkaSource(section_of(kafka, [topic], max_message_bytes=50_000), Owner())
    with told_in_time():
        small, large, after = read(source, 3)
    assert [m.value for m in (small, large, after)] == [b"small", b"", b"next"]
    assert [m.offset for m in (small, large, after)] == [0, 1, 2]
    with pytest.raises(
        WireError, match=r"max_message_bytes is 50000, and .*\[0\] offset 1 has 100000 bytes"
    ):
        decode(large)
    source.close()


def test_a_batch_too_large_for_an_answer_is_a_fault_with_its_size_and_the_rest_comes(
    kafka, kafka_topics
):
    """The client closes its connection on such an answer, again and again; the broker keeps it."""
    (topic,) = kafka_topics("detector", partitions=2)
    section = section_of(
        kafka, [topic], buffer_bytes=2**20, max_message_bytes=2**12, patience_s=60.0
    )
    with KafkaProducer(
        bootstrap_servers=kafka.bootstrap, max_request_size=2**24, acks="all"
    ) as producer:
        for partition in (0, 1):
            producer.send(topic, b"before", partition=partition).get(30)
        for _ in range(2):
            producer.send(topic, bytes(5_000_000), partition=1).get(30)
        for partition in (0, 1):
            producer.send(topic, b"after", partition=partition).get(30)
    source = KafkaSource(section, Owner())
    started = time.monotonic()
    found = sorted(read(source, 6), key=lambda m: (m.partition, m.offset))
    assert time.monotonic() - started < TOLD_S
    assert [m.value for m in found] == [b"before", b"after", b"before", b"", b"", b"after"]
    assert [m.offset for m in found] == [0, 1, 0, 1, 2, 3]
    for message in found[3:5]:
        with pytest.raises(WireError, match=rf"offset {message.offset} has about 5000\d\d\d bytes"):
            decode(message)
    assert source.lag() == {(topic, 0): 0, (topic, 1): 0}
    source.close()


def test_a_topic_that_goes_is_told_by_its_name(kafka, kafka_topics):
    (topic,) = kafka_topics("detector")
    partition_of(kafka, topic, 0, [b"x"])
    source = KafkaSource(section_of(kafka, [topic]), Owner())
    read(source, 1)
    with admin(kafka) as client:
        client.delete_topics([topic])
    began = time.monotonic()
    with pytest.raises(InputError, match=f"names {topic}, which .* does not have"):
        source.poll(TOLD_S)
    assert time.monotonic() - began < TOLD_S
    source.close()
    with admin(kafka) as client:
        client.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}})


def test_partitions_that_come_while_a_run_goes_on_are_told(kafka, kafka_topics):
    """Keys choose other partitions since, so the run would fall apart."""
    (topic,) = kafka_topics("detector")
    partition_of(kafka, topic, 0, [b"x"])
    source = KafkaSource(section_of(kafka, [topic]), Owner())
    read(source, 1)
    assert not any("had 1 when" in warning for warning in source.warnings)
    with admin(kafka) as client:
        client.create_partitions({topic: 2})
    end = time.monotonic() + 10
    while not any("has 2 partitions, and had 1 when" in w for w in source.warnings):
        assert time.monotonic() < end
        source.poll(0.5)
    assert source.partitions == (0, 1)
    source.close()


@pytest.mark.parametrize("codec", ["none", "gzip", "lz4", "snappy", "zstd"])
def test_batches_of_every_codec_are_read(codec, kafka, kafka_topics):
    """Compressed by another client (librdkafka), several megabytes in a batch."""
    (topic,) = kafka_topics("detector")
    rng = np.random.default_rng(3)
    values = [bytes(n) + rng.bytes(3_000) + b"abc" * 3_000 for n in range(300)]
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "compression.type": codec,
            "linger.ms": 200,
            "batch.size": 4_000_000,
        }
    )
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(30) == 0
    source = KafkaSource(section_of(kafka, [topic]), Owner())
    assert [m.value for m in read(source, len(values))] == values
    source.close()


def test_the_marks_of_transactions_are_no_lag_and_what_was_aborted_never_comes(kafka, kafka_topics):
    (topic,) = kafka_topics("detector")
    with KafkaProducer(
        bootstrap_servers=kafka.bootstrap, acks="all", transactional_id=topic
    ) as producer:
        producer.init_transactions()
        for value, end in ((b"kept", "commit"), (b"dropped", "abort"), (b"also", "commit")):
            producer.begin_transaction()
            producer.send(topic, value)
            getattr(producer, f"{end}_transaction")()
    source = KafkaSource(section_of(kafka, [topic]), Owner())
    assert [m.value for m in read(source, 2)] == [b"kept", b"also"]
    end = time.monotonic() + 60
    while source.lag() != {(topic, 0): 0}:
        assert time.monotonic() < end, source.lag()
        assert source.poll(0.5) == []
    source.close()


def test_a_broker_that_is_killed_and_comes_back_loses_nothing(own_kafka):
    broker = own_kafka.broker
    (topic,) = Topics(broker=broker)("detector")
    section = section_of(broker, [topic], patience_s=100.0)
    sink = KafkaSink(section)
    source = KafkaSource(section, Owner())
    for n in range(50):
        sink.send(topic, b"%d" % n)
    sink.flush()
    found = read(source, 20)
    own_kafka.kill()
    assert source.poll(1.0) is not None  # waits for the broker, is no error yet
    for n in range(50, 100):
        sink.send(topic, b"%d" % n)
    own_kafka.start()
    sink.flush(90)
    found += read(source, 100 - len(found))
    assert [int(m.value) for m in found] == list(range(100))
    source.close()
    sink.close()


def test_a_broker_that_stays_away_is_told_after_the_patience(own_kafka):
    broker = own_kafka.broker
    (topic,) = Topics(broker=broker)("detector")
    source = KafkaSource(
        section_of(broker, [topic], patience_s=8.0, connect_timeout_s=2.0), Owner()
    )
    send(broker, [(topic, b"x", None)])
    read(source, 1)
    own_kafka.kill()
    with pytest.raises(ConnectionError, match="has not answered for kafka.patience_s = 8 s"):
        read(source, 1)
    source.close()


@pytest.mark.slow
@pytest.mark.parametrize(("size", "count"), [(5_000_000, 60), (3_000, 40_000)])
def test_reading_is_fast_enough_for_5_million_events_a_second(kafka, kafka_topics, size, count):
    """40 MB of messages take less than a second of processor time; wall time is printed too."""
    (topic,) = kafka_topics("detector")
    sink = KafkaSink(section_of(kafka, [topic]))
    for _ in range(count):
        sink.send(topic, bytes(size))
    sink.close()
    source = KafkaSource(section_of(kafka, [topic]), Owner())
    while not source.partitions:
        source.poll(0.0)
    wall, processor = time.perf_counter(), time.process_time()
    came = 0
    while came < count:
        came += len(source.poll(1.0))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    source.close()
    megabytes = size * count / 1e6
    print(  # noqa: T201
        f"\n{size} bytes: {megabytes / wall:.0f} MB/s and {count / wall:.0f} messages/s of wall "
        f"time, {megabytes / processor:.0f} MB/s and {count / processor:.0f}/s of processor time"
    )
    assert megabytes / processor > 40
