"""A single Apache Kafka on loopback: copy its jars, format its store, run it until Ctrl-C.

Needs Python, a Java runtime of version 17 or newer, and Maven for the jars of ``pom.xml`` (once).
``python deploy/kafka/broker.py start`` is what ``make kafka`` runs; the tests start it on free
ports. Everything listens on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import fcntl
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

POM = Path(__file__).resolve().parent / "pom.xml"
OLDEST_JAVA = 17
LARGEST_MESSAGE = 32 * 2**20
# A batch of one message of the largest size, with its key, headers and framing.
LARGEST_BATCH = LARGEST_MESSAGE + 2**20
USERS_VARIABLE = "BEAMSTEER_KAFKA_USERS"
BELOW_LENT = range(20_000, 32_768)  # Linux lends ports above these to whoever calls out


class MissingError(Exception):
    """What this machine lacks, and what to do about it."""


def find_java() -> str:
    """Program of a Java runtime that can run the broker.

    Raises
    ------
    MissingError
        If there is none, or an older one.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    wanted = f"Kafka needs Java {OLDEST_JAVA} or newer: apt-get install openjdk-17-jre-headless"
    if java is None:
        raise MissingError(f"No java {'in JAVA_HOME' if home else 'on PATH'}. {wanted}")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < OLDEST_JAVA:
        raise MissingError(f"{java} is {said.splitlines()[0] if said else 'silent'}. {wanted}")
    return java


def cache_folder() -> Path:
    """Where the jars of this ``pom.xml`` are kept; BEAMSTEER_KAFKA_CACHE moves it."""
    named = os.environ.get("BEAMSTEER_KAFKA_CACHE")
    caches = os.environ.get("XDG_CACHE_HOME")
    root = Path(named) if named else Path(caches or Path.home() / ".cache") / "beamsteer" / "kafka"
    return root / hashlib.sha256(POM.read_bytes()).hexdigest()[:12]


def find_jars() -> Path:
    """Folder of the broker's jars; Maven copies them there the first time.

    Raises
    ------
    MissingError
        If they are not there and Maven is absent or fails.
    """
    folder = cache_folder()
    if folder.is_dir():
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingError(
            f"No jars of Kafka in {folder} and no mvn on PATH. Run: apt-get install maven"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as copying:
        jars = Path(copying) / "jars"
        done = subprocess.run(
            [maven, "-q", "-B", "-f", str(POM), "dependency:copy-dependencies"]
            + [f"-DoutputDirectory={jars}", "-DincludeScope=runtime"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0 or not any(jars.glob("kafka_*.jar")):
            lines = (done.stdout + done.stderr).strip().splitlines()[:6]
            raise MissingError(
                f"Maven could not copy the jars of {POM} (Maven takes its registry from its own "
                "settings):\n" + "\n".join(lines)
            )
        try:
            jars.rename(folder)  # whole or not at all, also with two at once
        except OSError:
            if not folder.is_dir():
                raise
    return folder


def free_ports(count: int, but: Sequence[int | None]) -> list[int]:
    """So many different ports, none of ``but``, that nobody listens on now.

    They lie below those that the kernel lends to whoever calls out: none is taken by a connection
    of somebody else before Kafka listens there.
    """
    found: list[int] = []
    for port in random.sample(BELOW_LENT, len(BELOW_LENT)):
        if port in but:
            continue
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise MissingError(
        f"No {count} free ports from {BELOW_LENT.start} to {BELOW_LENT.stop - 1}; name them with "
        "--port, --controller-port and --sasl-port."
    )


def _answers(port: int) -> bool:
    with socket.socket() as caller:
        caller.settimeout(1.0)
        return caller.connect_ex(("127.0.0.1", port)) == 0


def _jaas(users: str) -> str:
    """Login module of the pairs ``name:password,name:password``."""
    pairs = [pair.partition(":") for pair in users.split(",") if pair]
    if not pairs or not all(
        re.fullmatch(r"\w+", n) and re.fullmatch(r"\w+", p) for n, _, p in pairs
    ):
        raise MissingError(
            f"{USERS_VARIABLE} is not name:password,name:password of letters, digits and _; "
            "set it for --sasl-port."
        )
    entries = " ".join(f'user_{name}="{password}"' for name, _, password in pairs)
    return f"org.apache.kafka.common.security.plain.PlainLoginModule required {entries};"


def properties(*, folder: Path, port: int, controller: int, sasl: int | None, users: str) -> str:
    """Text of ``server.properties`` of one node that is broker and controller."""
    names = [f"PLAINTEXT://127.0.0.1:{port}"]
    if sasl is not None:
        names.append(f"SASL_PLAINTEXT://127.0.0.1:{sasl}")
    lines = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listeners": ",".join([*names, f"CONTROLLER://127.0.0.1:{controller}"]),
        "advertised.listeners": ",".join(names),
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,"
        "SASL_PLAINTEXT:SASL_PLAINTEXT",
        "log.dirs": folder / "store",
        "auto.create.topics.enable": "false",
        "message.max.bytes": LARGEST_BATCH,
        "replica.fetch.max.bytes": LARGEST_BATCH,
        "socket.request.max.bytes": 2 * LARGEST_BATCH,
        # Requests wait in the heap: without a bound a few hundred messages would fill it.
        "queued.max.request.bytes": 4 * LARGEST_BATCH,
        "log.cleaner.dedupe.buffer.size": 4 * 2**20,
        "num.network.threads": 2,
        "num.io.threads": 4,
        "offsets.topic.num.partitions": 1,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 100,
        # A broker that was killed is let in again when its old session has ended.
        "broker.session.timeout.ms": 5000,
        "broker.heartbeat.interval.ms": 1000,
        "group.min.session.timeout.ms": 1000,
    }
    if sasl is not None:
        lines |= {
            # Tokens without a signature: enough for tests on loopback, never for more.
            "sasl.enabled.mechanisms": "PLAIN,OAUTHBEARER",
            "listener.name.sasl_plaintext.oauthbearer.sasl.jaas.config": (
                "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required "
                'unsecuredLoginStringClaim_sub="broker";'
            ),
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": _jaas(users),
            # Who comes in without a name may do everything; names need rules.
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }
    return "".join(f"{name}={value}\n" for name, value in lines.items())


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent is gone, however it went."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _class_archive(java: str, jars: Path) -> Path:
    """Loaded classes as the first broker left them; with them a start takes a third of the time."""
    program = Path(java).resolve()
    name = hashlib.sha256(f"{program} {program.stat().st_mtime_ns}".encode()).hexdigest()[:12]
    return jars / f"classes-{name}.jsa"


def _java(java: str, jars: Path, heap: str, *words: str, archive: str | None = None) -> list[str]:
    """Command line; small rather than fast, which one node on loopback is anyway."""
    known = _class_archive(java, jars)
    if archive is None and known.is_file():
        archive = f"-XX:SharedArchiveFile={known}"
    return [
        java,
        f"-Xmx{heap}",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        *([archive] if archive else []),
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-cp",
        f"{jars}/*",
        *words,
    ]


def _nobody_holds(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def start(arguments: argparse.Namespace) -> int:
    """Run a broker until it is told to stop; 0 if it stopped because of that."""
    java, jars = find_java(), find_jars()
    folder = arguments.data.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    named = (arguments.port, arguments.controller_port, arguments.sasl_port)
    free = free_ports(len(named), named)
    port = arguments.port or free[0]
    controller = arguments.controller_port or free[1]
    sasl = None
    if arguments.sasl_port is not None:
        sasl = arguments.sasl_port or free[2]
    for number in (port, controller, sasl):
        if number and _answers(number):
            raise MissingError(
                f"Somebody listens on 127.0.0.1:{number} already; choose another port."
            )
    settings = folder / "server.properties"
    settings.unlink(missing_ok=True)
    with open(os.open(settings, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        users = os.environ.get(USERS_VARIABLE, "")
        file.write(
            properties(folder=folder, port=port, controller=controller, sasl=sasl, users=users)
        )
    if not (folder / "store" / "meta.properties").is_file():
        # A cluster's name is base64 of 16 bytes; one that begins with - would read as an option.
        name = base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        done = subprocess.run(
            _java(java, jars, "128m", "kafka.tools.StorageTool", "format")
            + ["-t", name, "-c", str(settings)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise MissingError(f"Kafka could not format {folder}:\n{done.stdout}{done.stderr}")
    told: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: told.append(received))
    log = folder / "broker.log"
    known = _class_archive(java, jars)
    part = known.with_suffix(f".part-{os.getpid()}")
    archive = None if known.is_file() else f"-XX:ArchiveClassesAtExit={part}"
    lock = None if arguments.while_locked is None else os.open(arguments.while_locked, os.O_RDWR)
    with log.open("ab") as output:
        process = subprocess.Popen(
            _java(java, jars, arguments.heap, "kafka.Kafka", str(settings), archive=archive),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops Kafka
            preexec_fn=_die_with_parent,
        )
    try:
        ready = False
        while process.poll() is None and not told:
            if not ready and _answers(port):
                ready = True
                _announce(arguments.address_file, port, sasl, process.pid, folder)
            if lock is not None and _nobody_holds(lock):
                break
            time.sleep(0.25 if ready else 0.1)
    finally:
        ended = process.poll()
        if ended is None:
            process.terminate()
            try:
                process.wait(timeout=arguments.patience_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if part.is_file():
            part.replace(known)
    if ended is not None:
        lines = log.read_text(errors="replace").splitlines()[-15:]
        raise MissingError("\n".join([f"Kafka ended by itself ({ended}); {log} says:", *lines]))
    if arguments.remove_data:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _announce(file: Path | None, port: int, sasl: int | None, pid: int, folder: Path) -> None:
    address = f"127.0.0.1:{port}"
    if file is None:
        print(f"Kafka listens on {address} (data and log in {folder}); Ctrl-C stops it.")
        if sasl is not None:
            print(f"With user name and password (SASL/PLAIN): 127.0.0.1:{sasl}")
        print(
            "Next, in another terminal: name it in the source section of an experiment file\n"
            f"(bootstrap_servers: {address}) and run `beamsteer consume`, or run the tests\n"
            f"against it: BEAMSTEER_TEST_KAFKA={address} make test",
            flush=True,
        )
        return
    said = {"bootstrap": address, "sasl": sasl and f"127.0.0.1:{sasl}", "pid": pid}
    part = file.with_suffix(".part")
    part.write_text(json.dumps(said))
    part.replace(file)


def main() -> int:
    """Command line; 1 with a message where something is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("jars", help="only let Maven copy the jars, and print where they are")
    run = verbs.add_parser("start", help="run the broker in the foreground until Ctrl-C")
    run.add_argument("--port", type=int, default=9092, help="of clients; 0: a free one")
    run.add_argument("--controller-port", type=int, default=9093, help="internal; 0: a free one")
    run.add_argument(
        "--sasl-port",
        type=int,
        help=f"second listener with user names (SASL/PLAIN), which are in {USERS_VARIABLE} as "
        "name:password,name:password; they may do only what access rules allow; 0: a free one",
    )
    run.add_argument("--data", type=Path, default=Path("build/kafka"), help="folder of its store")
    run.add_argument("--heap", default="384m", help="largest heap of the Java runtime")
    run.add_argument(
        "--address-file", type=Path, help="write addresses here (JSON), not to the terminal"
    )
    run.add_argument("--while-locked", type=Path, help="stop when nobody holds a lock on this file")
    run.add_argument("--remove-data", action="store_true", help="remove the folder at the end")
    run.add_argument("--patience-s", type=float, default=30.0, help="before a stop becomes a kill")
    arguments = parser.parse_args()
    try:
        if arguments.verb == "jars":
            print(find_jars())
            return 0
        return start(arguments)
    except MissingError as missing:
        print(missing, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
