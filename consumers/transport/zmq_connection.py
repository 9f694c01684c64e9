"""What a ZMQ source and a ZMQ sink share: addresses that are safe, keys, names in frames."""

from __future__ import annotations

import re
from collections.abc import Mapping

import structlog
import zmq
from zmq.auth.thread import ThreadAuthenticator

from consumers.transport.curve_keys_file import (
    Curve,
    CurveClient,
    CurveServer,
    curve_client,
    curve_client_of_environment,
    curve_server,
    curve_server_of_environment,
)
from consumers.transport.zmq_settings import ZmqSection
from simulations.errors import InputError

log = structlog.get_logger()

# event-model's names of documents: with one of them, a frame is a document of bluesky's
DOCUMENT_NAMES = frozenset(
    "start stop descriptor event event_page datum datum_page resource stream_resource "
    "stream_datum bulk_events bulk_datum".split()
)
_LOOPBACK = re.compile(r"tcp://(localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\]):")


def checked_address(
    address: str, *, curve: Curve | None, bind: bool, allow_unencrypted: bool
) -> str:
    """Address in ZMQ's form, if what goes over it is safe from strangers.

    Parameters
    ----------
    address : str
        ``tcp://HOST:PORT``, ``ipc://PATH`` or ``HOST:PORT``.
    curve : CurveClient or CurveServer, optional
        Keys; who binds is the server.
    bind : bool
        Whether this end binds.
    allow_unencrypted : bool
        Go beyond loopback without keys.

    Raises
    ------
    ValueError
        If the address is none, leaves this machine without keys, or the keys are those of the
        other end.
    """
    if "://" not in address:
        address = f"tcp://{address}"
    if not re.fullmatch(r"tcp://[^\s/]+:(\d{1,5}|\*)|(ipc|inproc)://\S+", address):
        raise InputError(
            f"ZMQ address is {address!r}; expected tcp://HOST:PORT, ipc://PATH or HOST:PORT"
        )
    if curve is not None and isinstance(curve, CurveServer) != bind:
        ours, theirs = ("server", "client") if bind else ("client", "server")
        raise InputError(
            f"{address}: this end {'binds' if bind else 'connects'}; expected keys of a {ours}, "
            f"not of a {theirs}"
        )
    local = address.startswith(("ipc://", "inproc://")) or _LOOPBACK.match(address)
    if not local and curve is None and not allow_unencrypted:
        raise InputError(
            f"{address}: leaves this machine, and anybody could read or forge messages; expected "
            "a loopback address, or CURVE keys. On a network that you trust, allow it explicitly "
            "(allow_unencrypted)"
        )
    return address


def curve_of(section: ZmqSection, environment: Mapping[str, str]) -> Curve | None:
    """Keys that a section names, else those of the environment; None where there are none.

    Raises
    ------
    ValueError
        If a certificate or a variable is no key.
    """
    if section.secret_certificate is None:
        of = curve_server_of_environment if section.bind else curve_client_of_environment
        return of(environment)
    if section.bind:
        return curve_server(section.secret_certificate, section.clients)
    return curve_client(section.secret_certificate, str(section.server_certificate))


class Connection:
    """One socket with its keys; made, used and closed by one thread."""

    def __init__(self, kind: int, address: str, *, bind: bool, curve: Curve | None) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(kind)
        self._authenticator: ThreadAuthenticator | None = None
        self._address, self._bind, self._curve = address, bind, curve

    def open(self) -> str:
        """Set the keys, bind or connect; returns the address, the port of ``*`` filled in.

        Raises
        ------
        ConnectionError
            If the address cannot be bound or reached by its form.
        """
        if isinstance(self._curve, CurveServer):
            self._authenticator = ThreadAuthenticator(self.context)
            self._authenticator.start()
            self._authenticator.configure_curve_callback(
                domain="*", credentials_provider=_Allowed(self._curve.clients)
            )
            self.socket.curve_publickey = self._curve.public
            self.socket.curve_secretkey = self._curve.secret
            self.socket.curve_server = True
        elif isinstance(self._curve, CurveClient):
            self.socket.curve_publickey = self._curve.public
            self.socket.curve_secretkey = self._curve.secret
            self.socket.curve_serverkey = self._curve.server
        try:
            if self._bind:
                self.socket.bind(self._address)
            else:
                self.socket.connect(self._address)
        except zmq.ZMQError as error:
            self.close(0)
            raise ConnectionError(
                f"{self._address}: cannot be {'bound' if self._bind else 'connected to'} "
                f"({error}). Check address and port"
            ) from error
        end = self.socket.getsockopt(zmq.LAST_ENDPOINT)
        return end.rstrip(b"\0").decode() if isinstance(end, bytes) else self._address

    def close(self, linger_ms: int) -> None:
        """Let waiting messages go for so long, then close."""
        self.socket.close(linger=linger_ms)
        if self._authenticator is not None:
            self._authenticator.stop()
            self._authenticator = None
        self.context.destroy()  # and whatever was opened beside the socket


class _Allowed:
    """Which clients may come, for the authenticator."""

    def __init__(self, clients: frozenset[bytes] | None) -> None:
        self._clients = clients

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether a client with this public key (z85) may come."""
        allowed = self._clients is None or key in self._clients
        if not allowed:
            log.warning("zmq_client_refused", key=key.decode("ascii", "replace"))
        return allowed
