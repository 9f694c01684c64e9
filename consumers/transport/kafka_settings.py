"""Settings of a Kafka connection and what they are to the client library.

A password never stands in a file: the settings name the environment variable that holds it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from consumers.transport.kafka_tokens import FetchedToken, GivenToken
from simulations.errors import InputError
from simulations.section import Count, Positive, Section, Text, expected

MEBIBYTE = 2**20
# What Kafka adds to one message of the largest size: keys, headers and the frame of its batch.
FRAME_BYTES = MEBIBYTE


def _servers(value: str) -> str:
    for server in value.split(","):
        host, colon, port = server.strip().rpartition(":")
        if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise expected(
                "host:port, or several of them with commas, e.g. 127.0.0.1:9092. Correct it."
            )
    return value


def _topic(value: str) -> str:
    """Legal name of a topic once ``{prefix}`` is filled in."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", value.replace("{prefix}", "p")):
        raise expected(
            "a topic of letters, digits, . _ and - (and {prefix} where the prefix goes). Rename it."
        )
    return value


def _token_url(value: str) -> str:
    """Endpoint to which a secret may be sent."""
    parts = urlsplit(value)
    near = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or not (parts.scheme == "https" or (near and parts.scheme == "http")):
        raise expected("https://..., because a secret is sent there. Correct it.")
    return value


Servers = Annotated[Text, AfterValidator(_servers)]
Topic = Annotated[Text, AfterValidator(_topic)]
Member = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9._-]{3,249}$")]
Variable = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class KafkaTopics(Section):
    """Names of topics; ``{prefix}`` stands for the instrument, null for a topic that is not there.

    The first six are read: they need the same number of partitions, and the key (the run) chooses
    the partition, so that partition p of all of them belongs together.
    """

    prefix: Annotated[Text, AfterValidator(_topic)] = Field(
        description="instrument's part of the names below, e.g. hyspec"
    )
    detector: Topic | None = Field(default="{prefix}_detector", description="events, ev44")
    run_info: Topic | None = Field(default="{prefix}_runInfo", description="pl72 and 6s4t")
    motion: Topic | None = Field(default="{prefix}_motion", description="motors, f144")
    sample_environment: Topic | None = Field(
        default="{prefix}_sampleEnv", description="temperature and others, f144"
    )
    reduced: Topic | None = Field(default="{prefix}_reduced", description="reduced data, da00")
    bluesky: Topic | None = Field(default="{prefix}_bluesky", description="bluesky documents")
    folded: Topic = Field(default="{prefix}_beamsteer_folded", description="ours, da00")
    estimates: Topic = Field(default="{prefix}_beamsteer_estimates", description="ours, JSON")
    advice: Topic = Field(default="{prefix}_beamsteer_advice", description="ours, JSON")
    heartbeat: Topic = Field(default="{prefix}_beamsteer_heartbeat", description="ours, x5f2")
    dead_letters: Topic = Field(
        default="{prefix}_beamsteer_dead_letters", description="ours, what could not be read"
    )

    def name(self, field: str) -> str | None:
        """Topic of a field, e.g. ``name("detector")``; None where there is none."""
        template = getattr(self, field)
        return None if template is None else template.replace("{prefix}", self.prefix)

    @property
    def read(self) -> tuple[str, ...]:
        """Topics that messages are read from."""
        fields = ("detector", "run_info", "motion", "sample_environment", "reduced", "bluesky")
        names = (self.name(field) for field in fields)
        return tuple(name for name in names if name is not None)

    @property
    def ours(self) -> tuple[str, ...]:
        """Topics that this package writes."""
        fields = ("folded", "estimates", "advice", "heartbeat", "dead_letters")
        return tuple(str(self.name(field)) for field in fields)

    @model_validator(mode="after")
    def _distinct(self) -> KafkaTopics:
        names = [self.name(field) for field in type(self).model_fields if field != "prefix"]
        there = [name for name in names if name is not None]
        if not self.read:
            raise expected("at least one topic to read. Name one of detector, ..., bluesky.")
        if len(set(there)) < len(there):
            raise expected("a name of its own for every topic. Rename those that are equal.")
        return self


class KafkaSection(Section):
    """Connection to Kafka."""

    bootstrap_servers: Servers = Field(
        default="127.0.0.1:9092", description="host:port of one or more brokers, with commas"
    )
    topics: KafkaTopics = Field(description="names of the topics; needs the instrument's `prefix`")
    group: Text = Field(
        default="beamsteer", description="consumers with the same group share the runs"
    )
    member: Member | None = Field(
        default=None,
        description="name of one worker in the group, its own, by which a restart is known again; "
        "null: from host and state folder",
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="SASL_* needs `sasl_mechanism`; *SSL encrypts"
    )
    sasl_mechanism: (
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI"] | None
    ) = Field(
        default=None,
        description="how somebody proves who they are; GSSAPI is Kerberos, with the ticket that "
        "`kinit` or KRB5_CLIENT_KTNAME gives",
    )
    user: Text | None = Field(
        default=None, description="user name for SASL, or client id at `token_url`"
    )
    password_variable: Variable = Field(
        default="BEAMSTEER_KAFKA_PASSWORD",
        description="environment variable that holds the password (of OAUTHBEARER the client's "
        "secret, or the token where there is no `token_url`); never the password itself",
    )
    token_url: Annotated[Text, AfterValidator(_token_url)] | None = Field(
        default=None, description="where OAUTHBEARER fetches tokens (client credentials)"
    )
    token_scope: Text | None = Field(default=None, description="scope that is asked for there")
    kerberos_service: Text = Field(
        default="kafka", description="service name of the brokers in Kerberos"
    )
    ca_file: Text | None = Field(default=None, description="PEM file of who signed the brokers")
    certificate_file: Text | None = Field(default=None, description="PEM file of this client")
    key_file: Text | None = Field(default=None, description="PEM file of this client's key")
    key_password_variable: Variable | None = Field(
        default=None, description="environment variable that holds the password of `key_file`"
    )
    max_message_bytes: Annotated[int, Field(strict=True, ge=1024, le=2**30)] = Field(
        default=32 * MEBIBYTE,
        description="largest message read or sent; larger ones are dead letters",
    )
    buffer_bytes: Annotated[int, Field(strict=True, ge=MEBIBYTE, le=2**32)] = Field(
        default=128 * MEBIBYTE, description="most bytes that wait in this process, read or unsent"
    )
    max_poll_records: Count = Field(default=2000, description="most messages read at once")
    connect_timeout_s: Positive = Field(
        default=8.0, description="when a broker or topic counts as not there"
    )
    patience_s: Positive = Field(
        default=120.0, description="how long a broker may be gone before the worker gives up"
    )
    max_poll_interval_s: Positive = Field(
        default=300.0,
        description="longest work between two readings; after that others take the runs over",
    )
    session_timeout_s: Positive = Field(
        default=45.0, description="after that long without a sign of life others take over"
    )

    @model_validator(mode="after")
    def _consistent(self) -> KafkaSection:
        sasl, ssl = self.security_protocol.startswith("SASL"), "SSL" in self.security_protocol
        by_ticket = self.sasl_mechanism == "GSSAPI"
        by_token = self.sasl_mechanism == "OAUTHBEARER" and self.token_url is None
        nameless = self.user is None and not (by_ticket or by_token)
        if sasl and (self.sasl_mechanism is None or nameless):
            raise expected(
                f"sasl_mechanism and user for security_protocol {self.security_protocol}. Add them."
            )
        if self.token_url is not None and self.sasl_mechanism != "OAUTHBEARER":
            raise expected("sasl_mechanism OAUTHBEARER for token_url. Set it, or remove the URL.")
        if not sasl and (self.sasl_mechanism is not None or self.user is not None):
            raise expected(
                "security_protocol SASL_SSL or SASL_PLAINTEXT for sasl_mechanism and user. "
                "Set it, or remove the two."
            )
        if not ssl and (self.ca_file or self.certificate_file or self.key_file):
            raise expected(
                "security_protocol SSL or SASL_SSL for ca_file, certificate_file, key_file. "
                "Set it, or remove them."
            )
        if (self.certificate_file is None) != (self.key_file is None):
            raise expected("certificate_file and key_file together. Add the other one.")
        if self.buffer_bytes < self.max_message_bytes:
            raise expected(
                f"buffer_bytes of at least max_message_bytes ({self.max_message_bytes}). Raise it."
            )
        if self.session_timeout_s > self.max_poll_interval_s:
            raise expected("session_timeout_s <= max_poll_interval_s. Swap or change them.")
        return self


def _secret(variable: str, environment: Mapping[str, str], what: str) -> str:
    secret = environment.get(variable)
    if not secret:
        raise InputError(
            f"{what} names the environment variable {variable}, which is empty or not set; "
            f"expected a password there. Set it: export {variable}=..."
        )
    return secret


def _proof(section: KafkaSection, environment: Mapping[str, str]) -> dict[str, Any]:
    """Arguments by which somebody proves who they are."""
    mechanism = section.sasl_mechanism
    if mechanism is None:
        return {}
    if mechanism == "GSSAPI":
        if find_spec("gssapi") is None:
            raise InputError(
                "kafka.sasl_mechanism is GSSAPI, for which Python lacks the package gssapi; "
                "expected it and the system's Kerberos. Run: apt-get install libkrb5-dev, and "
                "pip install gssapi"
            )
        return {
            "sasl_mechanism": mechanism,
            "sasl_kerberos_service_name": section.kerberos_service,
        }
    secret = _secret(section.password_variable, environment, "kafka.password_variable")
    if mechanism == "OAUTHBEARER":
        provider = (
            GivenToken(secret)
            if section.token_url is None
            else FetchedToken(
                section.token_url, str(section.user), secret, scope=section.token_scope
            )
        )
        return {"sasl_mechanism": mechanism, "sasl_oauth_token_provider": provider}
    return {
        "sasl_mechanism": mechanism,
        "sasl_plain_username": section.user,
        "sasl_plain_password": secret,
    }


def client_arguments(
    section: KafkaSection, environment: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """What consumer, producer and admin client of kafka-python have in common.

    Raises
    ------
    ValueError
        If a password's variable is not set, a certificate's file is not there, or what Kerberos
        needs is not installed.
    ConnectionError
        If ``token_url`` gives no token.
    """
    patience = int(1000 * section.connect_timeout_s)
    arguments: dict[str, Any] = {
        "bootstrap_servers": [server.strip() for server in section.bootstrap_servers.split(",")],
        "client_id": "beamsteer",
        "security_protocol": section.security_protocol,
        "bootstrap_timeout_ms": patience,
        "request_timeout_ms": 30_000,
        # A broker that comes back shall be seen soon, not after half a minute.
        "reconnect_backoff_ms": 50,
        "reconnect_backoff_max_ms": 2_000,
        "metrics_enabled": False,  # ours are in steering; theirs cost time for every message
    }
    arguments |= _proof(section, environment)
    for field, name in (
        ("ca_file", "ssl_cafile"),
        ("certificate_file", "ssl_certfile"),
        ("key_file", "ssl_keyfile"),
    ):
        value = getattr(section, field)
        if value is not None:
            if not os.path.isfile(value):
                raise InputError(
                    f"kafka.{field} is {value}; expected a PEM file. Correct the path."
                )
            arguments[name] = value
    if section.key_password_variable is not None:
        arguments["ssl_password"] = _secret(
            section.key_password_variable, environment, "kafka.key_password_variable"
        )
    return arguments


def consumer_arguments(
    section: KafkaSection, environment: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """Arguments of ``kafka.KafkaConsumer``; nothing is committed or skipped by itself."""
    # One answer of the broker waits while the one before it is handed out.
    fetch = max(section.buffer_bytes // 2, section.max_message_bytes)
    return client_arguments(section, environment) | {
        "group_id": section.group,
        "group_instance_id": section.member,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "allow_auto_create_topics": False,
        "metadata_max_age_ms": 5_000,  # topics that go or grow shall be seen soon
        "check_crcs": True,
        "fetch_max_bytes": fetch,
        "max_partition_fetch_bytes": fetch,
        "fetch_max_wait_ms": 100,
        "max_poll_records": section.max_poll_records,
        "receive_message_max_bytes": 2 * fetch + section.max_message_bytes + FRAME_BYTES,
        "receive_buffer_bytes": 4 * MEBIBYTE,
        "max_poll_interval_ms": int(1000 * section.max_poll_interval_s),
        "session_timeout_ms": int(1000 * section.session_timeout_s),
        "heartbeat_interval_ms": max(1, int(1000 * min(3.0, section.session_timeout_s / 3))),
    }


def producer_arguments(
    section: KafkaSection, environment: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """Arguments of ``kafka.KafkaProducer``; every message is confirmed, once, and in order."""
    return client_arguments(section, environment) | {
        "acks": "all",
        "enable_idempotence": True,
        "allow_auto_create_topics": False,
        "max_request_size": section.max_message_bytes + FRAME_BYTES,
        "max_block_ms": int(1000 * section.connect_timeout_s),
        "delivery_timeout_ms": max(120_000, int(1000 * section.patience_s)),
        "linger_ms": 5,
        "batch_size": 256 * 1024,
        "send_buffer_bytes": 4 * MEBIBYTE,
    }
