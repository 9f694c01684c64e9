from __future__ import annotations

from pathlib import Path

import pytest
import zmq
import zmq.auth

from consumers.transport.curve_keys_file import (
    PUBLIC,
    SECRET,
    SERVER,
    curve_client,
    curve_client_of_environment,
    curve_server,
    curve_server_of_environment,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("server", "client"):
        zmq.auth.create_certificates(tmp_path, name)
        (tmp_path / f"{name}.key_secret").chmod(0o600)
    return tmp_path


def test_a_client_is_its_pair_and_the_servers_public_key(folder: Path) -> None:
    client = curve_client(folder / "client.key_secret", folder / "server.key")
    assert (client.public, client.secret) == zmq.auth.load_certificate(folder / "client.key_secret")
    assert client.server == zmq.auth.load_certificate(folder / "server.key")[0]


def test_a_server_knows_its_clients_or_takes_any(folder: Path) -> None:
    server = curve_server(folder / "server.key_secret", folder)
    assert server.clients == {
        zmq.auth.load_certificate(folder / f"{name}.key")[0] for name in ("server", "client")
    }
    assert curve_server(folder / "server.key_secret").clients is None


def test_secrets_are_not_shown(folder: Path) -> None:
    client = curve_client(folder / "client.key_secret", folder / "server.key")
    server = curve_server(folder / "server.key_secret")
    assert client.secret.decode() not in repr(client)
    assert server.secret.decode() not in repr(server)


def test_a_secret_that_everybody_can_read_is_refused(folder: Path) -> None:
    (folder / "client.key_secret").chmod(0o604)
    with pytest.raises(ValueError, match="everybody can read.*chmod 600"):
        curve_client(folder / "client.key_secret", folder / "server.key")


def test_files_that_are_no_certificates_are_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.key: no such certificate"):
        curve_client(folder / "client.key_secret", folder / "nowhere.key")
    with pytest.raises(ValueError, match=r"client\.key: holds no secret key"):
        curve_server(folder / "client.key")
    (folder / "text.key").write_text("nothing of the kind")
    with pytest.raises(ValueError, match=r"text\.key: no certificate"):
        curve_client(folder / "client.key_secret", folder / "text.key")
    (folder / "none").mkdir()
    with pytest.raises(ValueError, match="holds no .key file"):
        curve_server(folder / "server.key_secret", folder / "none")


def test_keys_come_from_the_environment_all_or_none() -> None:
    assert curve_client_of_environment({}) is None
    assert curve_server_of_environment({}) is None
    public, secret = (key.decode() for key in zmq.curve_keypair())
    server = curve_server_of_environment({PUBLIC: public, SECRET: secret})
    assert server is not None
    assert server.clients is None
    client = curve_client_of_environment({PUBLIC: public, SECRET: secret, SERVER: public})
    assert client is not None
    assert client.server == public.encode()
    with pytest.raises(ValueError, match=f"{SERVER}: not set, though {PUBLIC}, {SECRET} is"):
        curve_client_of_environment({PUBLIC: public, SECRET: secret})
    with pytest.raises(ValueError, match=f"{SECRET}: not set"):
        curve_server_of_environment({PUBLIC: public})


@pytest.mark.parametrize("bad", ["short", "x" * 41, '"' * 40, "\u00e4" * 20])
def test_what_is_no_key_is_refused_without_being_repeated(bad: str) -> None:
    public = zmq.curve_keypair()[0].decode()
    with pytest.raises(ValueError, match=f"{SECRET}: is no key; expected 40 char") as caught:
        curve_server_of_environment({PUBLIC: public, SECRET: bad})
    assert bad not in str(caught.value)
