"""CURVE keys of ZMQ connections: from certificate files or the environment, never from arguments.

Files are those of `zmq.auth.create_certificates` (and of bluesky): a secret one with both keys of
its owner, and public ones to give away. In the environment keys are 40 characters of z85.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import zmq.auth
from zmq.utils import z85

from simulations.errors import InputError

PUBLIC = "BEAMSTEER_ZMQ_PUBLIC_KEY"
SECRET = "BEAMSTEER_ZMQ_SECRET_KEY"  # noqa: S105  the name of a variable
SERVER = "BEAMSTEER_ZMQ_SERVER_KEY"


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveClient:
    """Who connects: our own pair of keys and the public key of the server."""

    public: bytes  # z85
    secret: bytes = field(repr=False)  # z85
    server: bytes  # z85


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveServer:
    """Who binds: our own pair of keys and the clients that may come."""

    public: bytes  # z85
    secret: bytes = field(repr=False)  # z85
    clients: frozenset[bytes] | None  # public keys, z85; None: whoever knows ours


Curve = CurveClient | CurveServer


def curve_client(secret: Path | str, server: Path | str) -> CurveClient:
    """Keys of a client from its secret certificate and the server's public one.

    Raises
    ------
    ValueError
        If a file is missing, holds no key, or everybody on the machine can read the secret one.
    """
    public, own = _pair(Path(secret))
    theirs, _ = _certificate(Path(server))
    return CurveClient(public=public, secret=own, server=theirs)


def curve_server(secret: Path | str, clients: Path | str | None = None) -> CurveServer:
    """Keys of a server from its secret certificate and a folder of its clients' public ones.

    Parameters
    ----------
    secret : Path
        Certificate with the secret key.
    clients : Path, optional
        Folder of ``.key`` files; absent: any client that knows our public key may come.

    Raises
    ------
    ValueError
        If a file is missing or holds no key, the folder holds none, or everybody on the machine
        can read the secret one.
    """
    public, own = _pair(Path(secret))
    if clients is None:
        return CurveServer(public=public, secret=own, clients=None)
    found = frozenset(_certificate(path)[0] for path in sorted(Path(clients).glob("*.key")))
    if not found:
        raise InputError(
            f"{clients}: holds no .key file; expected the clients' public certificates"
        )
    return CurveServer(public=public, secret=own, clients=found)


def curve_client_of_environment(
    environment: Mapping[str, str] = os.environ,
) -> CurveClient | None:
    """Keys of a client from the environment; None where none of the variables is set.

    ``BEAMSTEER_ZMQ_PUBLIC_KEY`` and ``BEAMSTEER_ZMQ_SECRET_KEY`` are ours,
    ``BEAMSTEER_ZMQ_SERVER_KEY`` is the server's public one; z85 each.

    Raises
    ------
    ValueError
        If only some are set, or one is no key.
    """
    names = (PUBLIC, SECRET, SERVER)
    given = {name: environment[name] for name in names if environment.get(name)}
    if not given:
        return None
    missing = [name for name in names if name not in given]
    if missing:
        raise InputError(f"{', '.join(missing)}: not set, though {', '.join(given)} is; set all")
    public, secret, server = (_key(name, given[name].encode()) for name in names)
    return CurveClient(public=public, secret=secret, server=server)


def curve_server_of_environment(
    environment: Mapping[str, str] = os.environ,
) -> CurveServer | None:
    """Keys of a server from the environment, any client allowed; None where none is set.

    Raises
    ------
    ValueError
        If only one of the two is set, or one is no key.
    """
    names = (PUBLIC, SECRET)
    given = {name: environment[name] for name in names if environment.get(name)}
    if not given:
        return None
    missing = [name for name in names if name not in given]
    if missing:
        raise InputError(f"{', '.join(missing)}: not set, though {', '.join(given)} is; set both")
    public, secret = (_key(name, given[name].encode()) for name in names)
    return CurveServer(public=public, secret=secret, clients=None)


def _pair(path: Path) -> tuple[bytes, bytes]:
    public, secret = _certificate(path)
    if secret is None:
        raise InputError(f"{path}: holds no secret key; expected the secret certificate")
    if path.stat().st_mode & 0o007:
        raise InputError(f"{path}: everybody can read this secret key. Run: chmod 600 {path}")
    return public, secret


def _certificate(path: Path) -> tuple[bytes, bytes | None]:
    if not path.is_file():
        raise InputError(f"{path}: no such certificate. Make one with zmq.auth.create_certificates")
    try:
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no certificate of CURVE ({error})") from error
    return _key(str(path), public), None if secret is None else _key(str(path), secret)


def _key(name: str, text: bytes) -> bytes:
    """A key as it was given, judged; its content is never repeated in an error."""
    try:
        good = len(text) == 40 and len(z85.decode(text)) == 32
    except (KeyError, ValueError):
        good = False
    if not good:
        raise InputError(f"{name}: is no key; expected 40 characters of z85")
    return text
