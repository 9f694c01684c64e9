"""Faulty certificates at a real TLS listener, and sockets that nobody may leave open."""

from __future__ import annotations

import functools
import gc
import re
import socket
import ssl
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer

from consumers.transport import KafkaSection, KafkaSink, KafkaTopics, consumer_arguments
from consumers.transport.kafka_connection import open_client


def certificate(folder: Path, name: str, *, host: str = "127.0.0.1", expired: bool = False) -> Path:
    """PEM file of a self-signed certificate and its key."""
    key, asked, cert, whole = (folder / f"{name}.{end}" for end in ("key", "csr", "crt", "pem"))
    openssl = functools.partial(subprocess.run, check=True, capture_output=True)
    openssl(
        ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"]
        + ["-keyout", str(key), "-out", str(asked), "-addext", f"subjectAltName=IP:{host}"]
    )
    openssl(
        ["openssl", "x509", "-req", "-in", str(asked), "-signkey", str(key), "-out", str(cert)]
        + ["-copy_extensions", "copyall", "-days", "-1" if expired else "2"]
    )
    whole.write_text(key.read_text() + cert.read_text())
    return whole


@contextmanager
def tls_listener(pem: Path, *, demands: Path | None = None) -> Iterator[str]:
    """Address of a listener that shakes hands with everybody who trusts it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    if demands is not None:
        context.load_verify_locations(demands)
        context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    caller, _ = listener.accept()
                except OSError:
                    return
                with suppress(OSError), context.wrap_socket(caller, server_side=True) as secure:
                    secure.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield "{}:{}".format(*listener.getsockname())
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def refused(address: str, **files: Path) -> str:
    """What a client is told there."""
    section = KafkaSection.model_validate(
        {
            "bootstrap_servers": address,
            "topics": {"prefix": "x"},
            "security_protocol": "SSL",
            **{name: str(file) for name, file in files.items()},
        }
    )
    began = time.monotonic()
    with pytest.raises(ConnectionError) as refusal:
        KafkaSink(section)
    assert time.monotonic() - began < 10.0
    return str(refusal.value)


def test_every_fault_of_a_certificate_is_named_with_what_to_do(tmp_path):
    good = certificate(tmp_path, "good")
    expired = certificate(tmp_path, "expired", expired=True)
    other = certificate(tmp_path, "other", host="127.0.0.2")
    with tls_listener(good) as address:
        said = refused(address, ca_file=other)
        assert re.search(rf"certificate of {address} was signed by nobody known .*ca_file", said)
    with tls_listener(expired) as address:
        assert "has expired" in refused(address, ca_file=expired)
    with tls_listener(other) as address:
        said = refused(address, ca_file=other)
        assert "is for another host name" in said
        assert "kafka.bootstrap_servers" in said
    with tls_listener(good, demands=good) as address:
        said = refused(address, ca_file=good)
        assert "kafka.certificate_file is null" in said
        said = refused(address, ca_file=good, certificate_file=other, key_file=other)
        assert f"kafka.certificate_file is {other}" in said


def test_a_listener_without_tls_and_a_file_without_certificates_are_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as caller:
                caller.recv(4096)
                caller.sendall(b"HTTP/1.1 400 no\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        said = refused("{}:{}".format(*listener.getsockname()))
        thread.join()
    assert "does not speak TLS" in said
    (tmp_path / "empty.pem").write_text("")
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(ValueError, match=r"kafka.ca_file is .*empty.pem"),
    ):
        refused("{}:{}".format(*listener.getsockname()), ca_file=tmp_path / "empty.pem")


def left_open() -> list[str]:
    """Sockets that are left to the collector."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        gc.collect()
    return [str(one.message) for one in said if issubclass(one.category, ResourceWarning)]


def test_a_broker_that_goes_while_a_client_connects_leaves_no_socket_open():
    """It takes one connection, and refuses those that follow."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        section = KafkaSection(
            bootstrap_servers="{}:{}".format(*listener.getsockname()),
            topics=KafkaTopics(prefix="x"),
            connect_timeout_s=1.0,
        )

        def take_one() -> None:
            listener.accept()[0].close()
            listener.close()

        thread = threading.Thread(target=take_one)
        thread.start()
        arguments = consumer_arguments(section)
        known = {key: arguments[key] for key in arguments if key in KafkaAdminClient.DEFAULT_CONFIG}
        with pytest.raises(ConnectionError, match="nobody answers as Kafka"):
            open_client(KafkaAdminClient, section, known)
        thread.join()
    assert left_open() == []


@pytest.mark.kafka
def test_a_client_that_closes_with_a_request_to_write_leaves_no_socket_open(kafka):
    section = KafkaSection(bootstrap_servers=kafka.bootstrap, topics=KafkaTopics(prefix="x"))

    def play() -> None:
        consumer = open_client(KafkaConsumer, section, {"bootstrap_servers": kafka.bootstrap})
        consumer.topics()
        (connection,) = [c for c in consumer._client._manager._conns.values() if c.connected]
        large = (2**26).to_bytes(4) + bytes(2**26)  # more than the kernel takes at once
        consumer._client._net.call_soon_threadsafe(lambda: connection.transport.write(large))
        consumer.close()

    play()
    assert left_open() == []
