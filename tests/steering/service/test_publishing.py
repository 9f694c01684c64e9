"""Published messages, read again by the facility's own library and by their schemas."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import jsonschema
import numpy as np
import pytest
from kafka import KafkaConsumer, TopicPartition
from streaming_data_types import deserialise_da00, deserialise_x5f2

from consumers.transport import KafkaSection, KafkaSink, KafkaTopics
from consumers.wire.flatbuffers_codec import decode_data_array
from simulations.fold import CellSums
from steering.run import RunResult, result_document
from steering.service import LateSink, OutputTopics, Publisher, message_schemas
from steering.service.health import WorkerStatus
from steering.service.publishing import (
    FoldedSpectrum,
    advice_message,
    estimate_message,
    folded_message,
    heartbeat_message,
)
from tests.kafka_broker import Broker, OwnBroker, Topics
from tests.steering.fabricated import snapshot

NOW = 1_763_716_248_000_000_000
TOPICS = OutputTopics.of(KafkaTopics(prefix="ge"))


def result(**parameter: float) -> RunResult:
    """A whole result; what is given changes its first parameter."""
    made = snapshot().result
    assert made is not None
    document = made.document()
    document["parameters"][0] |= parameter
    document["chunks"] = [
        {
            "psi_deg": 1.0,
            "minutes": 0.0,
            "events": {},
            "reason": None,
            "chunk": name,
            "status": told,
        }
        for name, told in (("1", "folded"), ("2", "set aside"), ("3", "folded"))
    ]
    return result_document(document)


def folded(generation: int = 4) -> FoldedSpectrum:
    rng = np.random.default_rng(1)
    counts = rng.poisson(3.0, (6, 5)).astype(float)
    exposure = rng.uniform(0.5, 2.0, (6, 5))
    exposure[2, 3], counts[2, 3] = 0.0, 0.0
    sums = CellSums(signal=counts, variance=counts, counts=counts, exposure=exposure, flat=exposure)
    return FoldedSpectrum(
        run="ge",
        state_generation=generation,
        sums=sums,
        path_position=np.linspace(0, 1, 6),
        path_hkl=np.linspace(0, 1, 18).reshape(6, 3),
        energy_edges_meV=np.linspace(0, 40, 6),
        chunks=2,
    )


@dataclass
class Wire:
    """A sink in memory whose broker can go away."""

    sent: list[tuple[str, bytes, bytes | None]] = field(default_factory=list)
    away: bool = False
    refused: frozenset[str] = frozenset()
    flushed: threading.Event = field(default_factory=threading.Event)
    attempts: int = 0

    def send(self, topic: str, value: bytes, *, key: bytes | None = None, headers: Sequence = ()):
        self.attempts += 1
        if topic in self.refused:
            raise ValueError(f"{topic}: message is too large")
        if not self.away:
            self.sent.append((topic, value, key))

    def flush(self, timeout_s: float = 30.0) -> None:
        if self.away:
            raise ConnectionError("the broker is away")
        self.flushed.set()

    def close(self) -> None:
        pass


def publisher(wire: Wire, **how) -> Publisher:
    return Publisher(wire, topics=TOPICS, service_id="model-server", clock=lambda: NOW, **how)


def test_a_folded_spectrum_is_read_again_by_the_facilitys_library():
    spectrum = folded()
    read = deserialise_da00(folded_message(spectrum, time_ns=NOW))
    assert read.source_name == "beamsteer.folded/ge"
    assert read.timestamp_ns == NOW
    found = {variable.name: variable for variable in read.data}
    for name in ("signal", "variance", "counts", "exposure", "intensity", "error"):
        assert found[name].axes == ["path_bin", "energy_transfer"]
        assert found[name].data.shape == (6, 5)
    np.testing.assert_array_equal(found["signal"].data, spectrum.sums.signal)
    np.testing.assert_array_equal(found["exposure"].data, spectrum.sums.exposure)
    unknown = spectrum.sums.exposure == 0
    np.testing.assert_array_equal(np.isnan(found["intensity"].data), unknown)
    np.testing.assert_array_equal(np.isnan(found["error"].data), unknown)
    known = ~unknown
    np.testing.assert_allclose(
        found["intensity"].data[known] * found["exposure"].data[known],
        found["signal"].data[known],
    )
    assert found["energy_transfer"].unit == "meV"
    assert found["energy_transfer"].data.shape == (6,)
    assert found["exposure"].unit == "C*sr*meV"
    assert found["state_generation"].data == 4
    assert set(found) == set(message_schemas()["beamsteer.folded"]["variables"])


def test_our_own_codec_reads_it_too():
    read = decode_data_array(folded_message(folded(), time_ns=NOW))
    assert read.name == "beamsteer.folded/ge"
    assert int(read.variables["chunks"].values) == 2


def test_estimate_and_advice_satisfy_the_schemas_that_readers_can_get():
    schemas = message_schemas()
    estimate = json.loads(estimate_message("ge", result(), generation=7, time_ns=NOW))
    advice = json.loads(advice_message("ge", result(), generation=7, time_ns=NOW))
    for message in (estimate, advice):
        schema = schemas[message["schema_name"]]
        jsonschema.validate(message, schema)
        assert message["schema_version"] == 1
        assert (message["run"], message["state_generation"]) == ("ge", 7)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(message | {"unheard_of": 1}, schema)
    assert estimate["chunks"] == ["1", "3"]
    assert estimate["parameters"][0]["name"] == "1NN xx"
    assert advice["advice"][0]["psi_deg"] == 48.0
    assert advice["stop"]["stop"] is False


def test_a_number_that_is_none_is_refused_instead_of_sent():
    with pytest.raises(ValueError, match="sigma"):
        estimate_message("ge", result(sigma=float("nan")), generation=1, time_ns=NOW)


def test_a_heartbeat_names_the_service_and_no_machine():
    read = deserialise_x5f2(heartbeat_message("model-server", {"runs": {"ge": 2}}, interval_s=2))
    assert (read.software_name, read.service_id) == ("beamsteer", "model-server")
    assert read.software_version
    assert (read.host_name, read.process_id) == ("", 0)
    assert read.update_interval == 2000
    assert json.loads(read.status_json) == {"runs": {"ge": 2}}


def test_the_newest_state_of_every_run_is_sent_under_its_key():
    wire = Wire()
    one = publisher(wire)
    for generation in (1, 2, 3):
        one.folded(folded(generation))
    one.result("ge", result(), generation=3)
    one.result("nb", result(), generation=1)
    assert one.pump()
    places = [(topic, key) for topic, _, key in wire.sent]
    assert sorted(places) == [
        ("ge_beamsteer_advice", b"ge"),
        ("ge_beamsteer_advice", b"nb"),
        ("ge_beamsteer_estimates", b"ge"),
        ("ge_beamsteer_estimates", b"nb"),
        ("ge_beamsteer_folded", b"ge"),
    ]
    value = next(v for topic, v, _ in wire.sent if topic == TOPICS.folded)
    assert int(decode_data_array(value).variables["state_generation"].values) == 3
    assert one.pump()
    assert len(wire.sent) == 5


def test_a_broker_that_is_away_stops_nothing_and_gets_the_newest_state_when_it_is_back():
    wire = Wire(away=True)
    one = publisher(wire)
    one.folded(folded(1))
    assert not one.pump()
    one.folded(folded(2))
    assert not one.pump()
    assert one.counters == {f"publish_failures.{TOPICS.folded}": 2}
    wire.away = False
    assert one.pump()
    (sent,) = wire.sent
    assert int(decode_data_array(sent[1]).variables["state_generation"].values) == 2
    assert one.counters[f"published.{TOPICS.folded}"] == 1


def test_a_message_that_cannot_be_made_or_sent_does_not_keep_others_back():
    wire = Wire(refused=frozenset({TOPICS.folded}))
    one = publisher(wire)
    one.result("bad", result(value=float("inf")), generation=1)
    one.folded(folded())
    one.result("ge", result(), generation=1)
    assert not one.pump()
    assert {(topic, key) for topic, _, key in wire.sent} == {
        (TOPICS.estimates, b"ge"),
        (TOPICS.advice, b"ge"),
        (TOPICS.advice, b"bad"),
    }
    assert one.counters[f"publish_failures.{TOPICS.estimates}"] == 1
    assert one.counters[f"publish_failures.{TOPICS.folded}"] == 1


def test_a_thread_sends_what_is_new_with_signs_of_life_and_ends_when_asked():
    wire = Wire()
    status = WorkerStatus(service="model-server", last_loop_ns=NOW, chunks={"ge": 3})
    one = publisher(wire, heartbeat=lambda: status, interval_s=0.05).start()
    one.folded(folded())
    assert wire.flushed.wait(20)
    one.close()
    topics = [topic for topic, _, _ in wire.sent]
    assert TOPICS.folded in topics
    beat = next(value for topic, value, _ in wire.sent if topic == TOPICS.heartbeat)
    assert json.loads(deserialise_x5f2(beat).status_json)["runs"] == {"ge": 3}


def test_a_sink_is_opened_when_it_is_needed_and_again_after_a_failure():
    wire, tries = Wire(), []

    def open_sink() -> Wire:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("no broker yet")
        return wire

    one = publisher(LateSink(open_sink))  # type: ignore[arg-type]
    assert tries == []
    one.result("ge", result(), generation=1)
    assert not one.pump()
    assert len(tries) == 1  # not once for each message that waits
    assert one.pump()
    assert len(wire.sent) == 2
    assert len(tries) == 2


def kept(bootstrap: str, topic: str, number: int) -> list[tuple[bytes | None, bytes]]:
    """Keys and values of the messages in a topic of one partition, at least so many."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=30_000
    )
    place = TopicPartition(topic, 0)
    consumer.assign([place])
    consumer.seek_to_beginning(place)
    found = []
    for message in consumer:
        found.append((message.key, message.value))
        if len(found) >= number and message.offset + 1 >= consumer.end_offsets([place])[place]:
            break
    consumer.close()
    return found


@pytest.mark.kafka
def test_a_real_broker_gets_the_newest_state_though_it_was_killed_meanwhile(own_kafka: OwnBroker):
    topics = Topics(broker=own_kafka.broker)
    topics("beamsteer_folded", "beamsteer_estimates", "beamsteer_advice", "beamsteer_heartbeat")
    names = KafkaTopics(prefix=topics.prefix)
    section = KafkaSection(
        bootstrap_servers=own_kafka.bootstrap, topics=names, connect_timeout_s=5.0
    )
    ours = OutputTopics.of(names)
    sink = LateSink(lambda: KafkaSink(section))
    one = Publisher(sink, topics=ours, service_id="model-server", clock=lambda: NOW)
    one.folded(folded(1))
    one.result("ge", result(), generation=1)
    assert one.pump()
    own_kafka.kill()
    one.folded(folded(2))
    assert not one.pump(1.0)
    one.folded(folded(3))
    one.result("ge", result(), generation=3)
    own_kafka.start()
    while not one.pump(5.0):
        pass
    sink.close()
    spectra = kept(own_kafka.bootstrap, ours.folded, 2)
    numbers = [int(decode_data_array(v).variables["state_generation"].values) for _, v in spectra]
    assert numbers == sorted(numbers)
    assert (numbers[0], numbers[-1]) == (1, 3)
    assert {key for key, _ in spectra} == {b"ge"}
    for topic in (ours.estimates, ours.advice):
        *_, (key, value) = kept(own_kafka.bootstrap, topic, 2)
        assert (key, json.loads(value)["state_generation"]) == (b"ge", 3)


@pytest.mark.kafka
def test_a_topic_that_is_missing_holds_no_other_back_and_is_told(
    kafka: Broker, kafka_topics: Topics
):
    kafka_topics("beamsteer_folded", "beamsteer_advice", "beamsteer_heartbeat")
    names = KafkaTopics(prefix=kafka_topics.prefix)
    section = KafkaSection(bootstrap_servers=kafka.bootstrap, topics=names)
    ours = OutputTopics.of(names)
    sink = KafkaSink(section)
    one = Publisher(sink, topics=ours, service_id="model-server", clock=lambda: NOW)
    one.result("ge", result(), generation=1)
    since = time.monotonic()
    assert not one.pump()
    assert time.monotonic() - since < 10.0
    assert one.counters == {f"published.{ours.advice}": 1, f"publish_failures.{ours.estimates}": 1}
    assert one.trouble is not None
    assert f"nothing can be published to {ours.estimates}" in one.trouble
    one.folded(folded(1))
    began = time.monotonic()
    assert not one.pump(again=False)
    assert time.monotonic() - began < 2.0
    assert one.counters[f"published.{ours.folded}"] == 1
    kafka_topics("beamsteer_estimates")
    while not one.pump():
        assert time.monotonic() - began < 30.0
    sink.close()
    assert one.trouble is None
    assert len(kept(kafka.bootstrap, ours.estimates, 1)) == 1
    assert len(kept(kafka.bootstrap, ours.advice, 1)) == 1
