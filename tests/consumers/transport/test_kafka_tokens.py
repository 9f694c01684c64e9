"""OAUTHBEARER at a real broker, with tokens given and tokens fetched over real HTTP."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from pydantic import ValidationError

from consumers.transport import KafkaSection, KafkaSink
from consumers.transport.kafka_settings import client_arguments
from tests.consumers.transport.test_kafka_source import section_of


def unsigned_token(user: str, *, life_s: float = 600.0) -> str:
    """As the local broker takes them."""
    now = time.time()
    parts = ({"alg": "none"}, {"sub": user, "iat": int(now) - 60, "exp": int(now + life_s)})
    coded = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts)
    return ".".join(part.rstrip("=") for part in coded) + "."


@contextmanager
def endpoint(*, life_s: float, status: int = 200) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Address of a token endpoint, and what it was asked: login and body."""
    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            login = base64.b64decode(self.headers["Authorization"].removeprefix("Basic "))
            asked.append((login.decode(), body))
            told = {"access_token": unsigned_token(f"t{len(asked)}"), "expires_in": life_s}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/token", asked
        server.shutdown()
        thread.join()


def token_section(kafka, **settings) -> KafkaSection:
    if kafka.sasl is None:
        pytest.skip("the broker of BEAMSTEER_TEST_KAFKA has no listener that takes our tokens")
    return section_of(
        kafka,
        ["x"],
        bootstrap_servers=kafka.sasl,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="OAUTHBEARER",
        connect_timeout_s=5.0,
        **settings,
    )


@pytest.mark.kafka
def test_a_given_token_is_let_in_until_it_expires(kafka):
    section = token_section(kafka)
    KafkaSink(section, environment={"BEAMSTEER_KAFKA_PASSWORD": unsigned_token("reader")}).close()
    old = unsigned_token("reader", life_s=-300.0)
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="OAUTHBEARER and the token or secret") as told:
        KafkaSink(section, environment={"BEAMSTEER_KAFKA_PASSWORD": old})
    assert old not in str(told.value)
    assert time.monotonic() - began < 10.0


@pytest.mark.kafka
def test_tokens_are_fetched_with_the_secret_of_the_environment(kafka):
    with endpoint(life_s=600.0) as (url, asked):
        section = token_section(kafka, **{"token_url": url, "user": "a b", "token_scope": "kafka"})
        KafkaSink(section, environment={"BEAMSTEER_KAFKA_PASSWORD": "hid:den"}).close()
    assert asked == [("a%20b:hid%3Aden", "grant_type=client_credentials&scope=kafka")]


def section(**settings) -> KafkaSection:
    return KafkaSection.model_validate(
        {"topics": {"prefix": "x"}, "security_protocol": "SASL_SSL", **settings}
    )


def test_a_token_is_renewed_before_it_ends_and_a_refusal_is_named():
    environment = {"BEAMSTEER_KAFKA_PASSWORD": "hidden"}
    settings = {"sasl_mechanism": "OAUTHBEARER", "user": "me"}
    with endpoint(life_s=0.0) as (url, asked):
        arguments = client_arguments(section(**settings, token_url=url), environment)
        provider = arguments["sasl_oauth_token_provider"]
        assert provider.token() != provider.token()
        assert len(asked) == 3
    with endpoint(life_s=600.0) as (url, asked):
        arguments = client_arguments(section(**settings, token_url=url), environment)
        provider = arguments["sasl_oauth_token_provider"]
        assert provider.token() == provider.token()
        assert len(asked) == 1
    with (
        endpoint(life_s=600.0, status=401) as (url, _),
        pytest.raises(ConnectionError, match=r"kafka.token_url is .*gives no token .*401"),
    ):
        client_arguments(section(**settings, token_url=url), environment)


def test_secrets_go_over_https_only_and_kerberos_says_what_it_needs():
    bearer = {"sasl_mechanism": "OAUTHBEARER"}
    with pytest.raises(ValidationError, match="https://"):
        section(**bearer, **{"user": "me", "token_url": "http://id.example.org/t"})
    with pytest.raises(ValidationError, match="sasl_mechanism and user"):
        section(**bearer, **{"token_url": "https://id.example.org/t"})
    kerberos = section(sasl_mechanism="GSSAPI", kerberos_service="broker")
    try:
        import gssapi  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        with pytest.raises(ValueError, match="pip install gssapi"):
            client_arguments(kerberos, {})
    else:
        assert client_arguments(kerberos, {})["sasl_kerberos_service_name"] == "broker"
