"""A real Apache Kafka for the tests: the one that is there, else a local one started for the run.

``tests/conftest.py`` makes fixtures of it: ``kafka`` (the run's broker), ``kafka_topics`` (topics
of one test's own) and ``own_kafka`` (a broker that one test may kill and start again).
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from kafka import KafkaAdminClient

PROGRAM = Path(__file__).resolve().parents[1] / "deploy" / "kafka" / "broker.py"
# Of the second listener; `reader` gets rights from the test that needs them, `stranger` none.
PASSWORDS = {"reader": "reader_secret", "stranger": "stranger_secret"}


class NoKafkaError(Exception):
    """Why there is no broker: no java, no mvn, no jars, or it would not start."""


@dataclass(frozen=True, kw_only=True)
class Broker:
    """A broker that listens."""

    bootstrap: str
    sasl: str | None = None  # second listener: SASL/PLAIN, names of PASSWORDS, access rules apply
    pid: int | None = None  # of its Java runtime; None where somebody else runs it


def _launch(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    users = ",".join(f"{name}:{password}" for name, password in PASSWORDS.items())
    with (folder / "launch.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(PROGRAM), "start", "--address-file", str(folder / "address.json")]
            + ["--data", str(folder / "data"), *options],
            env={**os.environ, "BEAMSTEER_KAFKA_USERS": users},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _wait_for_address(folder: Path, launched: subprocess.Popen[bytes]) -> Broker:
    """Broker that was launched; the first time on a machine Maven copies its jars meanwhile."""
    file = folder / "address.json"
    end = time.monotonic() + 240
    while not file.exists():
        if launched.poll() is not None or time.monotonic() > end:
            launched.kill()
            launched.wait()
            raise NoKafkaError(
                (folder / "launch.log").read_text().strip() or "Kafka did not start."
            )
        time.sleep(0.05)
    return Broker(**json.loads(file.read_text()))


def _alive(broker: Broker) -> bool:
    host, _, port = broker.bootstrap.rpartition(":")
    try:
        os.kill(broker.pid or 0, 0)
    except ProcessLookupError:
        return False
    with socket.socket() as caller:
        caller.settimeout(2.0)
        return caller.connect_ex((host, int(port))) == 0


class SharedBroker:
    """One local broker for all workers of a test run; it ends when the last of them has.

    Every worker holds a shared lock on ``users`` in the run's folder; the broker's program stops
    when nobody does, also when workers were killed. Under pytest-xdist this is one broker (320 MB)
    and not one for each worker.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._users = os.open(folder / "users", os.O_RDWR | os.O_CREAT)
        starting = os.open(folder / "starting", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(starting, fcntl.LOCK_EX)
            fcntl.flock(self._users, fcntl.LOCK_SH)  # waits for one that is stopping
            self.broker = self._running(folder) or self._start(folder)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(starting)

    @staticmethod
    def _running(folder: Path) -> Broker | None:
        file = folder / "address.json"
        if not file.exists():
            return None
        broker = Broker(**json.loads(file.read_text()))
        return broker if _alive(broker) else None

    @staticmethod
    def _start(folder: Path) -> Broker:
        (folder / "address.json").unlink(missing_ok=True)
        (folder / "launch.log").unlink(missing_ok=True)
        free = ["--port", "0", "--controller-port", "0", "--sasl-port", "0"]
        launched = _launch(folder, *free, "--while-locked", str(folder / "users"), "--remove-data")
        launched.returncode = None
        broker = _wait_for_address(folder, launched)
        launched.returncode = 0  # it outlives this process where other workers need it
        return broker

    def close(self) -> None:
        """Need it no longer."""
        os.close(self._users)


class OwnBroker:
    """A broker of one test, on ports that stay the same while the test kills and restarts it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._launched: subprocess.Popen[bytes] | None = None
        self._ports = ("0", "0")
        self.broker: Broker
        self.start()

    @property
    def bootstrap(self) -> str:
        """Its address, alive or not."""
        return self.broker.bootstrap

    def start(self) -> None:
        """Start it (again), with the messages it had."""
        (self._folder / "address.json").unlink(missing_ok=True)
        port, controller = self._ports
        self._launched = _launch(self._folder, "--port", port, "--controller-port", controller)
        self.broker = _wait_for_address(self._folder, self._launched)
        port = self.broker.bootstrap.rpartition(":")[2]
        text = (self._folder / "data" / "server.properties").read_text()
        controller = text.partition("CONTROLLER://127.0.0.1:")[2].partition("\n")[0]
        self._ports = (port, controller)

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Let it stop in an orderly way."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self._launched is None:
            return
        if self.broker.pid is not None and number == signal.SIGKILL:
            os.kill(self.broker.pid, number)
        elif self._launched.poll() is None:
            self._launched.send_signal(number)
        try:
            self._launched.wait(timeout=60)
        finally:
            self._launched.kill()
            self._launched = None

    def close(self) -> None:
        """Kill it if it runs."""
        if self._launched is not None and self._launched.poll() is None:
            self.kill()


def admin(broker: Broker) -> KafkaAdminClient:
    """Client that makes and removes topics; a context manager."""
    return KafkaAdminClient(bootstrap_servers=broker.bootstrap)


def given_broker() -> Broker | None:
    """The broker that BEAMSTEER_TEST_KAFKA names; None where it names none."""
    named = os.environ.get("BEAMSTEER_TEST_KAFKA")
    return Broker(bootstrap=named) if named else None


@dataclass(kw_only=True)
class Topics:
    """Makes topics that no other test has, and removes them at the end."""

    broker: Broker
    prefix: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:12]}")
    made: list[str] = field(default_factory=list)

    def __call__(self, *names: str, partitions: int = 1, **settings: str) -> list[str]:
        """Full names of topics that were made; ``settings`` with _ for the dots of Kafka's."""
        topics = [f"{self.prefix}_{name}" for name in names]
        configs = {key.replace("_", "."): value for key, value in settings.items()}
        wanted = {"num_partitions": partitions, "replication_factor": 1, "configs": configs}
        with admin(self.broker) as client:
            client.create_topics(dict.fromkeys(topics, wanted), wait_for_metadata=True)
        self.made += topics
        return topics

    def remove(self, *topics: str) -> None:
        """Remove these topics, or all that were made."""
        gone = list(topics) or self.made
        if gone:
            with admin(self.broker) as client:
                client.delete_topics(gone)
        self.made = [topic for topic in self.made if topic not in gone]
