"""Opening a connection to Kafka, and what the errors of its library mean to the reader."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from uuid import UUID

from kafka import KafkaAdminClient, errors
from kafka.admin import MemberToRemove  # pyright: ignore[reportAttributeAccessIssue]
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket

from consumers.transport.kafka_settings import KafkaSection
from simulations.errors import InputError

Client = TypeVar("Client")
REFUSALS = (
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.AuthorizationError,
)
ALERT_S = 0.3  # that a broker has to refuse a client's certificate
PROOFS = {"OAUTHBEARER": "the token or secret"}
_ISSUER = (
    "was signed by nobody known here",
    "Name the CA of the broker in kafka.ca_file; ask who runs the broker for it",
)
_NAME = (
    "is for another host name",
    "Take the name that the certificate has for kafka.bootstrap_servers, or ask for another one",
)
CERTIFICATE_FAULTS = {  # by OpenSSL's code: what it is, what to do
    9: ("is not valid yet", "Set the clock of this machine, or ask who runs the broker"),
    10: ("has expired", "Ask who runs the broker to renew it (and see this machine's clock)"),
    **dict.fromkeys((2, 18, 19, 20, 21), _ISSUER),
    **dict.fromkeys((62, 64), _NAME),
}
MISSING_TOPIC, FORBIDDEN_TOPIC = 3, 29  # error codes of Kafka's protocol


def explain(error: Exception, section: KafkaSection) -> Exception:
    """Error for the reader: which setting, its value, what was expected, what to do."""
    servers = section.bootstrap_servers
    if isinstance(error, errors.TopicAuthorizationFailedError):
        topics = ", ".join(sorted(map(str, error.args[0]))) if error.args else "a topic"
        return ConnectionError(
            f"kafka.user is {section.user}, which may not use {topics} at {servers}; expected READ "
            "rights on topics that are read and WRITE on ours. Ask who runs the broker for them."
        )
    if isinstance(error, errors.GroupAuthorizationFailedError):
        return ConnectionError(
            f"kafka.group is {section.group}, which user {section.user} may not join at {servers}; "
            "expected READ rights on it. Ask who runs the broker, or take the group they gave you."
        )
    if isinstance(error, errors.AuthorizationError):
        return ConnectionError(
            f"kafka.user is {section.user}, which lacks rights at {servers} ({error}); expected "
            "IDEMPOTENT_WRITE and topic rights. Ask who runs the broker for them."
        )
    if isinstance(
        error, (errors.SaslAuthenticationFailedError, errors.UnsupportedSaslMechanismError)
    ):
        proof = PROOFS.get(str(section.sasl_mechanism), "the password")
        return ConnectionError(
            f"kafka.user is {section.user}, whom {servers} does not let in with "
            f"{section.sasl_mechanism} and {proof} "
            f"of {section.password_variable}; expected a known name, password and sasl_mechanism, "
            f"and a listener for {section.security_protocol}. Correct them."
            if section.sasl_mechanism != "GSSAPI"
            else f"kafka.sasl_mechanism is GSSAPI, with which {servers} does not let us in; "
            "expected a ticket of Kerberos (klist shows it, kinit gets one), a principal that the "
            f"broker knows and kafka.kerberos_service ({section.kerberos_service}) as its own."
        )
    if isinstance(error, errors.FencedInstanceIdError):
        return InputError(
            f"kafka.member is {section.member}, which another worker of kafka.group "
            f"{section.group} calls itself too; expected a name of its own for each. Change it, "
            "or remove it."
        )
    if isinstance(error, errors.UnsupportedCodecError):
        return ConnectionError(
            f"A message is compressed in a way that this installation cannot undo ({error}); "
            "expected gzip, lz4, snappy, zstd or none. Install what pyproject.toml lists (lz4, "
            "python-snappy, zstandard), or set compression.type of the topic."
        )
    if isinstance(error, errors.CorruptRecordError):
        return ConnectionError(
            f"A message from {servers} fails its checksum ({error}); expected what was sent. It "
            "will be read again; where it stays so, the broker's disk is damaged."
        )
    if isinstance(error, (errors.KafkaTimeoutError, errors.KafkaConnectionError)):
        also = ", kafka.user and its password" if section.sasl_mechanism else ""
        return ConnectionError(
            f"kafka.bootstrap_servers is {servers}, where nobody answers as Kafka with "
            f"{section.security_protocol} within {section.connect_timeout_s:g} s; expected a "
            f"broker. Start it (`make kafka`), or correct address, kafka.security_protocol{also}."
        )
    return ConnectionError(f"kafka.bootstrap_servers is {servers}, which answers: {error}")


def _tls(section: KafkaSection, arguments: Mapping[str, Any]) -> ssl.SSLContext | None:
    """What the library will demand of a broker; None where nothing is encrypted."""
    if "SSL" not in section.security_protocol:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if section.ca_file is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(section.ca_file)
    except OSError as error:
        raise InputError(
            f"kafka.ca_file is {section.ca_file}, which cannot be read as certificates ({error}); "
            "expected a PEM file. Ask who runs the broker for it."
        ) from error
    if section.certificate_file is not None:
        try:
            context.load_cert_chain(
                section.certificate_file, section.key_file, arguments.get("ssl_password", "")
            )
        except OSError as error:
            raise InputError(
                f"kafka.certificate_file is {section.certificate_file}, kafka.key_file "
                f"{section.key_file}, which do not go together ({error}); expected PEM files of "
                "one key, and its password in kafka.key_password_variable. Correct them."
            ) from error
    return context


def _greet(connection: socket.socket, host: str, context: ssl.SSLContext) -> None:
    """Shake hands, and wait a moment for what the broker thinks of our certificate."""
    with context.wrap_socket(connection, server_hostname=host) as secure:
        secure.settimeout(ALERT_S)
        with suppress(TimeoutError):
            secure.recv(1)  # TLS 1.3 refuses a client after the handshake only


def explain_tls(error: ssl.SSLError, server: str, section: KafkaSection) -> Exception:
    """Which certificate is at fault, and what to do about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        fault = CERTIFICATE_FAULTS.get(error.verify_code)
        what, remedy = fault or (error.verify_message, "Ask who runs the broker")
        return ConnectionError(
            f"The certificate of {server} {what} ({error.verify_message}); expected one that "
            f"kafka.ca_file ({section.ca_file or 'the CAs of this machine'}) vouches for, for this "
            f"host name and this day. {remedy}."
        )
    reason = str(error.reason or error)
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return ConnectionError(
            f"kafka.certificate_file is {section.certificate_file or 'null'}, which {server} does "
            f"not take ({reason}); expected a certificate of this client that the broker's CA "
            "signed and that has not expired. Ask who runs the broker for one."
        )
    return ConnectionError(
        f"kafka.security_protocol is {section.security_protocol}, and {server} does not speak TLS "
        f"as we do ({reason}); expected a listener for it. Correct the port of "
        "kafka.bootstrap_servers, or kafka.security_protocol."
    )


def reach(section: KafkaSection, arguments: Mapping[str, Any]) -> None:
    """Wait until one of the brokers takes a connection; the library would leave sockets open.

    Raises
    ------
    ConnectionError
        If nobody does within ``connect_timeout_s``, or a certificate is at fault.
    ValueError
        If files of certificates cannot be read.
    """
    tls = _tls(section, arguments)
    servers = [server.strip().rpartition(":") for server in section.bootstrap_servers.split(",")]
    end = time.monotonic() + section.connect_timeout_s
    reason = OSError("no address")
    while True:
        for host, _, port in servers:
            left = max(0.1, end - time.monotonic())
            try:
                name = host.strip("[]")
                with socket.create_connection((name, int(port)), timeout=left) as connection:
                    if tls is not None:
                        _greet(connection, name, tls)
            except ssl.SSLEOFError as error:
                reason = error  # as a broker that starts does
            except ssl.SSLError as error:
                raise explain_tls(error, f"{name}:{port}", section) from error
            except OSError as error:
                reason = error
            else:
                return
        if time.monotonic() >= end:
            raise explain(errors.KafkaConnectionError(str(reason)), section) from reason
        time.sleep(min(0.2, section.connect_timeout_s))


def refuse_certificates(section: KafkaSection, arguments: Mapping[str, Any]) -> None:
    """Say it where a broker is silent because a certificate is at fault.

    Raises
    ------
    ConnectionError
        If one is.
    """
    if "SSL" in section.security_protocol:
        try:
            reach(section, arguments)
        except ConnectionError as error:
            if isinstance(error.__cause__, ssl.SSLError):
                raise


class _Refusals(logging.Handler):
    """Why a broker refused: the library reports it, and raises only that time is up."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last: Exception | None = None
        self.hung_up = False

    def emit(self, record: logging.LogRecord) -> None:
        for value in record.args if isinstance(record.args, tuple) else ():
            if isinstance(value, REFUSALS):
                self.last = value
            elif isinstance(value, errors.KafkaConnectionError):
                self.hung_up = True


class _Direct(KafkaNetSocket):
    """A connection without a proxy; the library leaves sockets that could not connect open."""

    SCHEMES = ("direct",)

    async def sock_connect(
        self, net: Any, sock: socket.socket, sockaddr: Any, timeout_at: float | None = None
    ) -> socket.socket:
        try:
            return await super().sock_connect(net, sock, sockaddr, timeout_at=timeout_at)
        except BaseException:
            sock.close()
            raise


class _Client(KafkaNetClient):
    """The library's, with nothing left open when it closes.

    The library would leave a connection open on which a request is still to be written, e.g.
    because its broker has died.
    """

    def __init__(self, **configs: Any) -> None:
        super().__init__(**configs | {"proxy_url": f"{_Direct.SCHEMES[0]}://"})

    def close(self, node_id: Any = None) -> None:
        connections = list(self._manager._conns.values()) if node_id is None else []
        transports = [c.transport for c in connections if c.transport is not None]
        super().close(node_id)
        for transport in transports:
            if transport._sock is not None:
                transport._sock.close()


def open_client(
    make: Callable[..., Client], section: KafkaSection, arguments: Mapping[str, Any]
) -> Client:
    """Consumer, producer or admin client that has reached its broker.

    Raises
    ------
    ConnectionError
        If nobody answers within ``connect_timeout_s``, or the broker lets nobody in.
    """
    reach(section, arguments)
    made: list[_Client] = []

    def remember(**configs: Any) -> _Client:
        made.append(_Client(**configs))
        return made[-1]

    refusals = _Refusals()
    reports = logging.getLogger("kafka.net.manager")
    reports.addHandler(refusals)
    try:
        return make(**arguments, kafka_client=remember)
    except errors.KafkaError as error:
        for client in made:
            client.close()  # its thread would go on trying
        cause = refusals.last or error
        if section.sasl_mechanism and refusals.hung_up and refusals.last is None:
            # Brokers answer and hang up at once; the library may see the latter only.
            cause = errors.SaslAuthenticationFailedError()
        raise explain(cause, section) from error
    finally:
        reports.removeHandler(refusals)


def describe_topics(
    section: KafkaSection, arguments: Mapping[str, Any], topics: tuple[str, ...]
) -> dict[str, tuple[int, UUID | None]]:
    """Number of partitions and identity of every topic.

    Raises
    ------
    ConnectionError
        If there is no broker, or it lets nobody in.
    ValueError
        If a topic is not there, or the numbers of partitions differ.
    """
    known = {key: arguments[key] for key in arguments if key in KafkaAdminClient.DEFAULT_CONFIG}
    client = open_client(KafkaAdminClient, section, known)
    try:
        found = client.describe_topics(list(topics))
    except errors.KafkaError as error:
        raise explain(error, section) from error
    finally:
        client.close()
    codes = {topic["name"]: topic["error_code"] for topic in found}
    if forbidden := [name for name in topics if codes.get(name) == FORBIDDEN_TOPIC]:
        raise explain(errors.TopicAuthorizationFailedError(forbidden), section)
    if missing := [name for name in topics if codes.get(name, MISSING_TOPIC) != 0]:
        others = max((len(t["partitions"]) for t in found if t["error_code"] == 0), default=1)
        raise InputError(
            f"kafka.topics names {', '.join(missing)}, which {section.bootstrap_servers} does not "
            "have; expected topics that are there. Correct kafka.topics.prefix or the names, "
            "set those that this instrument does not have to null, or create the topics. "
            f"{creation(section, missing, others)}"
        )
    partitions = {topic["name"]: len(topic["partitions"]) for topic in found}
    if len(set(partitions.values())) > 1:
        counts = ", ".join(f"{name}: {partitions[name]}" for name in topics)
        raise InputError(
            f"kafka.topics have different numbers of partitions ({counts}); expected equal ones, "
            "because partition p of all of them holds the same runs. Recreate the topics that "
            "differ, or add partitions where there are too few before a run begins."
        )
    return {
        topic["name"]: (
            partitions[topic["name"]],
            None if topic["topic_id"] is None else UUID(str(topic["topic_id"])),
        )
        for topic in found
    }


def leave_group(section: KafkaSection, arguments: Mapping[str, Any]) -> None:
    """Let others have the partitions of a member with a name of its own, which has closed.

    The library leaves only groups in which it has no name.

    Raises
    ------
    ConnectionError
        If there is no broker, or it lets nobody in.
    """
    known = {key: arguments[key] for key in arguments if key in KafkaAdminClient.DEFAULT_CONFIG}
    client: Any = open_client(KafkaAdminClient, section, known)
    try:
        client.remove_group_members(
            section.group, [MemberToRemove(group_instance_id=section.member)]
        )
    except errors.KafkaError as error:
        raise explain(error, section) from error
    finally:
        client.close()


def creation(section: KafkaSection, missing: Sequence[str], partitions: int) -> str:
    """How topics that are not there can be made."""
    return (
        f"`beamsteer consume ... --create-topics {partitions}` makes all that are missing; so does "
        f"`kafka-topics.sh --bootstrap-server {section.bootstrap_servers} --create --topic NAME "
        f"--partitions {partitions}` for each of {', '.join(missing)}."
    )


def create_topics(
    section: KafkaSection, arguments: Mapping[str, Any], partitions: int
) -> tuple[str, ...]:
    """Make the topics of an instrument that are not there, ours included; returns their names.

    Parameters
    ----------
    section : KafkaSection
    arguments : mapping
        Of the client library.
    partitions : int
        Of the topics that are read; ours get one.

    Raises
    ------
    ConnectionError
        If there is no broker, or it lets nobody in.
    """
    wanted = dict.fromkeys(section.topics.read, partitions)
    wanted |= dict.fromkeys(section.topics.ours, 1)
    known = {key: arguments[key] for key in arguments if key in KafkaAdminClient.DEFAULT_CONFIG}
    client = open_client(KafkaAdminClient, section, known)
    try:
        there = {
            topic["name"]
            for topic in client.describe_topics(list(wanted))
            if topic["error_code"] == 0
        }
        missing = {name: n for name, n in wanted.items() if name not in there}
        if missing:
            client.create_topics(
                {n: {"num_partitions": p, "replication_factor": 1} for n, p in missing.items()},
                wait_for_metadata=True,  # pyright: ignore[reportCallIssue]
            )
    except errors.KafkaError as error:
        raise explain(error, section) from error
    finally:
        client.close()
    return tuple(missing)
