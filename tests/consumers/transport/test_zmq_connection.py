from __future__ import annotations

import pytest
import zmq

from consumers.transport.zmq_connection import Connection, checked_address


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("127.0.0.1:5577", "tcp://127.0.0.1:5577"),
        ("localhost:5577", "tcp://localhost:5577"),
        ("tcp://[::1]:5577", "tcp://[::1]:5577"),
        ("tcp://127.0.0.53:*", "tcp://127.0.0.53:*"),
        ("ipc:///run/beamsteer/socket", "ipc:///run/beamsteer/socket"),
    ],
)
def test_addresses_of_this_machine_need_no_keys(given: str, address: str) -> None:
    assert checked_address(given, curve=None, bind=False, allow_unencrypted=False) == address


@pytest.mark.parametrize("given", ["127.0.0.1.evil.org:80", "localhost.lan:80", "*:80", "[::]:80"])
def test_what_only_looks_like_this_machine_is_another(given: str) -> None:
    with pytest.raises(ValueError, match="leaves this machine"):
        checked_address(given, curve=None, bind=False, allow_unencrypted=False)
    said = checked_address(given, curve=None, bind=False, allow_unencrypted=True)
    assert said == f"tcp://{given}"


@pytest.mark.parametrize("given", ["", "127.0.0.1", "tcp://:80", "udp://127.0.0.1:80", "a b:80"])
def test_what_is_no_address_is_named(given: str) -> None:
    with pytest.raises(ValueError, match="ZMQ address is"):
        checked_address(given, curve=None, bind=False, allow_unencrypted=False)


def test_a_port_that_the_system_chose_is_told() -> None:
    connection = Connection(zmq.PULL, "tcp://127.0.0.1:*", bind=True, curve=None)
    try:
        assert int(connection.open().rpartition(":")[2]) > 1000
    finally:
        connection.close(0)


def test_an_address_that_cannot_be_bound_leaves_nothing_open() -> None:
    connection = Connection(zmq.PULL, "tcp://192.0.2.1:5577", bind=True, curve=None)
    with pytest.raises(ConnectionError, match="cannot be bound.*Check address and port"):
        connection.open()
    assert connection.context.closed
