from __future__ import annotations

import kafka
import pytest
from pydantic import ValidationError

from consumers.transport import KafkaSection, KafkaTopics, consumer_arguments
from consumers.transport.kafka_settings import client_arguments, producer_arguments

TOPICS = {"prefix": "hyspec"}


def test_topics_are_the_facility_s_from_the_instrument_s_prefix():
    topics = KafkaTopics.model_validate(TOPICS)
    assert topics.read == (
        "hyspec_detector",
        "hyspec_runInfo",
        "hyspec_motion",
        "hyspec_sampleEnv",
        "hyspec_reduced",
        "hyspec_bluesky",
    )
    assert topics.name("dead_letters") == "hyspec_beamsteer_dead_letters"
    some = KafkaTopics.model_validate({**TOPICS, "bluesky": None, "motion": "{prefix}.motors"})
    assert "hyspec_bluesky" not in some.read
    assert some.name("bluesky") is None
    assert some.name("motion") == "hyspec.motors"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"topics": {"prefix": "a b"}}, "a topic of letters"),
        ({"topics": {**TOPICS, "motion": "{prefix}_detector"}}, "a name of its own"),
        ({"topics": {**TOPICS, "typo": "x"}}, "Extra inputs"),
        ({"bootstrap_servers": "kafka"}, "host:port"),
        ({"bootstrap_servers": "kafka:99999"}, "host:port"),
        ({"user": "me"}, "security_protocol SASL_SSL"),
        ({"security_protocol": "SASL_SSL"}, "sasl_mechanism and user"),
        ({"ca_file": "ca.pem"}, "security_protocol SSL"),
        ({"security_protocol": "SSL", "key_file": "key.pem"}, "together"),
        ({"buffer_bytes": 2**20}, "at least max_message_bytes"),
        ({"session_timeout_s": 400.0}, "session_timeout_s <= max_poll_interval_s"),
        ({"password": "secret"}, "Extra inputs"),
        ({"connect_timeout_s": float("inf")}, "finite"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(settings, said):
    with pytest.raises(ValidationError, match=said):
        KafkaSection.model_validate({"topics": TOPICS, **settings})


def test_a_password_comes_from_the_environment_alone(tmp_path):
    (tmp_path / "ca.pem").write_text("")
    section = KafkaSection.model_validate(
        {
            "topics": TOPICS,
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "user": "me",
            "password_variable": "MY_PASSWORD",
            "ca_file": str(tmp_path / "ca.pem"),
        }
    )
    with pytest.raises(ValueError, match="MY_PASSWORD, which is empty or not set"):
        client_arguments(section, {})
    arguments = client_arguments(section, {"MY_PASSWORD": "hidden"})
    assert "hidden" in arguments.values()
    assert arguments["ssl_cafile"] == str(tmp_path / "ca.pem")
    assert "hidden" not in repr(section)
    (tmp_path / "ca.pem").unlink()
    with pytest.raises(ValueError, match=r"kafka.ca_file is .*expected a PEM file"):
        client_arguments(section, {"MY_PASSWORD": "hidden"})


def test_the_client_library_knows_every_argument():
    section = KafkaSection.model_validate({"topics": TOPICS})
    consumer = consumer_arguments(section)
    assert set(consumer) <= set(kafka.KafkaConsumer.DEFAULT_CONFIG)
    assert set(producer_arguments(section)) <= set(kafka.KafkaProducer.DEFAULT_CONFIG)
    assert consumer["auto_offset_reset"] == "none"
    assert consumer["enable_auto_commit"] is False
    assert consumer["fetch_max_bytes"] >= section.max_message_bytes == 32 * 2**20
