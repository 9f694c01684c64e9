"""Every disturbance at once, and a hundred kills: the sums are those of the undisturbed night.

The truth is one worker that reads the same messages (all that were not lost on their way) once each
and in the order of time, without a broker. ``BEAMSTEER_KILL_SEEDS`` says how many nights there are,
one by default; ``BEAMSTEER_KILLS`` how many kills in each.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaConsumer, TopicPartition

from consumers.state import partition_folders, read_manifest
from consumers.transport import (
    DeadLetters,
    KafkaSection,
    KafkaSink,
    KafkaTopics,
    TapeReader,
    TapeSink,
)
from steering.experiment import dump_experiment, with_absolute_files
from steering.service.consuming import consume
from steering.service.fold_worker import FoldWorker, Patience
from tests.kafka_broker import OwnBroker
from tests.small_disk import SmallDisk
from tests.steering.disturbed_night import Folded, Night, counters, disturbed_night
from tests.steering.live_stream import ListSource, as_raw, live_experiment, live_measurement
from tests.steering.service.test_live import TOPICS, portions, topics_of
from tests.steering.stepping_clock import NoCompilerError, build_stepping_clock
from tests.steering.virtual_scan import EXAMPLES
from tests.steering.worker_host import ROOT, Host

WORKERS = PARTITIONS = 3
DISK_BYTES = 512 * 2**20  # open dwells take 64 MiB of each partition
FULL_S = 20.0
TOLD_S = 10.0  # of a fault, until somebody is told
SETTLE_S, LATENESS_S, SESSION_S, STORAGE_S = 0.5, 300.0, 3.0, 600.0
CLOCK_STEPS_S = (-7200, -600, -3, 0, 3, 45, 3600, 86400)
KILLS = int(os.environ.get("BEAMSTEER_KILLS", "100"))
SEEDS = range(20261201, 20261201 + int(os.environ.get("BEAMSTEER_KILL_SEEDS", "1")))


@pytest.fixture(scope="module")
def stepped(tmp_path_factory):
    """Host of workers whose wall clock the test steps, and the file that says by how much."""
    folder = tmp_path_factory.mktemp("stepped")
    try:
        library = build_stepping_clock(folder)
    except NoCompilerError as reason:
        pytest.skip(str(reason))
    environment = {"LD_PRELOAD": str(library), "STEP_FILE": str(folder / "step")}
    host = Host(folder / "host.txt", environment)
    yield host, environment
    host.close()


@dataclass(kw_only=True)
class Chaos:
    """Three workers, and all that happens to them."""

    host: Host
    broker: OwnBroker
    disk: SmallDisk
    command: list[str]
    state: Path
    log: Path
    prefix: str
    step_file: Path
    rng: np.random.Generator
    struck: Counter[str] = field(default_factory=Counter)
    ended: Counter[int] = field(default_factory=Counter)  # by themselves
    pids: dict[int, int] = field(default_factory=dict)  # by place, of those that live
    due: dict[int, float] = field(default_factory=dict)  # by place, of those that do not
    began: dict[int, float] = field(default_factory=dict)
    clock_steps: int = 0
    broker_kills: int = 0
    told_s: float = float("inf")  # after the disk was full
    sink: KafkaSink | None = None

    # -- workers ------------------------------------------------------------------------------

    def tend(self) -> None:
        """Start again whoever is due, as a unit would."""
        now = time.monotonic()
        for place, pid in tuple(self.pids.items()):
            code = self.host.ended(pid)
            if code is not None:
                assert code == 75, f"a worker ended with {code}:\n{self.told()[-6000:]}"
                self.ended[code] += 1
                del self.pids[place]
                self.due[place] = now + 0.5
        for place in range(WORKERS):
            if place not in self.pids and now >= self.due.get(place, 0.0):
                self.pids[place] = self.host.command(self.log, self.command)
                self.began[place] = now

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.tend()
            time.sleep(min(left, 0.1))

    def kill(self, place: int, where: str) -> None:
        """SIGKILL; most are started again at once, the others when the group has noticed."""
        pid = self.pids.pop(place)
        os.kill(pid, signal.SIGKILL)
        code = self.host.wait(pid)
        if code != -signal.SIGKILL:  # it ended by itself just before
            assert code == 75, f"a worker ended with {code}:\n{self.told()[-6000:]}"
            self.ended[code] += 1
            self.due[place] = 0.0
            self.kill(self.any_place(owning=False), where)
            return
        self.struck[where] += 1
        at_once = self.rng.random() < 0.7
        self.due[place] = time.monotonic() + (0.0 if at_once else self.rng.uniform(0.0, 5.0))

    def owners(self) -> list[int]:
        """Places of workers that hold a partition."""
        locks = Path("/proc/locks").read_text().splitlines()
        inodes = [f":{p.stat().st_ino} " for p in self.state.glob("partition-*/lock")]
        pids = {int(line.split()[4]) for line in locks if any(i in line for i in inodes)}
        return [place for place, pid in self.pids.items() if pid in pids]

    def any_place(self, *, owning: bool) -> int:
        """Place of a worker that lives; of one that owns a partition, if that comes about."""
        end = time.monotonic() + (20.0 if owning else 0.0)
        while owning and time.monotonic() < end:
            self.tend()
            found = self.owners()
            if found:
                return int(self.rng.choice(found))
            time.sleep(0.05)
        self.due = dict.fromkeys(self.due, 0.0)
        self.tend()
        return int(self.rng.choice(sorted(self.pids)))

    def writer(self, seconds: float) -> int | None:
        """Place of a worker that has written half a file; None if none does."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for place, pid in self.pids.items():
                with suppress(OSError):
                    for fd in os.listdir(f"/proc/{pid}/fd"):
                        with suppress(OSError):
                            name = os.readlink(f"/proc/{pid}/fd/{fd}")
                            if re.search(r"partition-.*\.partial$", name):
                                return place
            time.sleep(0.001)
        return None

    def told(self) -> str:
        """What the workers logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    # -- disturbances -------------------------------------------------------------------------

    def send(self, messages) -> None:
        """Send, and wait until all have arrived."""
        if self.sink is None:
            topics = KafkaTopics(prefix=self.prefix)
            self.sink = KafkaSink(
                KafkaSection(bootstrap_servers=self.broker.bootstrap, topics=topics)
            )
        for topic, key, value in messages:
            self.sink.send(f"{self.prefix}_{topic}", value, key=key)
        self.sink.flush()

    def close_sink(self) -> None:
        """Another one is made when it is needed."""
        if self.sink is not None:
            self.sink.close()
            self.sink = None

    def step_clock(self) -> None:
        """Set the workers' wall clock forward or back."""
        self.step_file.write_text(str(self.rng.choice(CLOCK_STEPS_S)))
        self.clock_steps += 1

    def strike(self, n: int) -> None:
        """One kill, somewhere."""
        if n % 10 == 9:  # joining the group, finding its state
            self.wait(self.rng.uniform(0.0, 1.0))
            self.any_place(owning=False)
            self.kill(max(self.pids, key=lambda place: self.began[place]), "beginning")
        elif n % 10 == 4:  # frozen until the group has gone on without it
            place = self.any_place(owning=True)
            os.kill(self.pids[place], signal.SIGSTOP)
            time.sleep(SESSION_S + 2.0)
            if self.rng.random() < 0.5:
                os.kill(self.pids[place], signal.SIGCONT)
                self.wait(self.rng.uniform(0.0, 1.0))
            if place in self.pids:
                self.kill(place, "frozen")
            else:
                self.kill(self.any_place(owning=True), "random")
        elif n % 3 == 0:
            self.any_place(owning=True)
            place = self.writer(3.0)
            self.kill(
                self.any_place(owning=True) if place is None else place,
                "random" if place is None else "writing",
            )
        else:
            place = self.any_place(owning=True)
            self.wait(self.rng.uniform(0.0, 2.0))
            self.kill(place if place in self.pids else self.any_place(owning=True), "random")

    def lose_the_broker(self) -> None:
        """Kill the broker, a worker meanwhile, and start the broker again."""
        self.close_sink()
        self.broker.kill()
        self.broker_kills += 1
        self.wait(self.rng.uniform(0.0, 3.0))
        self.kill(self.any_place(owning=False), "broker away")
        self.wait(self.rng.uniform(0.0, 3.0))
        self.broker.start()

    def fill_the_disk(self, pieces: list) -> None:
        """Full for 20 s, whatever is removed meanwhile; a kill after each piece."""
        began = time.monotonic()
        before = self.told().count("No space left")
        for n, piece in enumerate(pieces):
            share = (n + 1) / len(pieces)
            self.send(piece)
            while time.monotonic() < began + FULL_S * share:
                with suppress(OSError):  # a worker was quicker
                    self.disk.fill(int(self.rng.choice([0, 0, 100_000, 2_000_000])))
                self.tend()
                if self.told_s == float("inf") and self.told().count("No space left") > before:
                    self.told_s = time.monotonic() - began
                time.sleep(0.1)
            self.kill(self.any_place(owning=False), "disk full")
        self.disk.make_room()

    def run(self, messages: list, kills: int) -> None:
        """Send everything piece by piece, with a kill in each."""
        pieces = portions(messages, kills)
        try:
            self._run(pieces, kills)
        finally:
            self.close_sink()

    def _run(self, pieces: list, kills: int) -> None:
        away = {kills // 5, kills * 7 // 10}
        full = range(kills * 45 // 100, kills * 45 // 100 + 5)
        n = 0
        while n < kills:
            self.tend()
            if self.rng.random() < 0.3:
                self.step_clock()
            if n in full:
                part = pieces[full.start : full.stop]
                self.fill_the_disk(part)
                n += len(part)
                continue
            self.send(pieces[n])
            if n in away:
                self.lose_the_broker()
            else:
                self.strike(n)
            n += 1
        self.wait(5.0)
        for place in tuple(self.pids):
            self.kill(place, "at the end")


def folded_alone(night: Night, state: Path) -> tuple[Folded, set[bytes]]:
    """The truth: each message once, in order, one worker; and what could not be used."""
    sink = TapeSink(state / "dead_letters")
    worker = FoldWorker(
        live_measurement(),
        state=state,
        default_run="unnamed",
        patience=Patience(settle_s=SETTLE_S, lateness_s=LATENESS_S),
        dead_letters=DeadLetters(sink, "dead"),
    )
    consume(ListSource(as_raw(night.whole), worker), worker, stop=lambda: False, until_idle_s=0.0)
    worker.close()
    sink.close()
    dead: set[bytes] = set()
    with TapeReader(state / "dead_letters") as reader:
        while (found := reader.read()) is not None:
            dead.add(found[0].value)
    return Folded.of(state), dead


def described(bootstrap: str, prefix: str, file: Path) -> Path:
    """The experiment as a file."""
    section = KafkaSection(
        bootstrap_servers=bootstrap,
        topics=KafkaTopics(prefix=prefix, reduced=None, bluesky=None),
        group=prefix,
        session_timeout_s=SESSION_S,
        connect_timeout_s=60.0,
    )
    experiment = live_experiment(
        kind="kafka",
        lateness_s=LATENESS_S,
        settle_s=SETTLE_S,
        storage_s=STORAGE_S,
        memory_bytes=20_000,  # open dwells wait on disk
    )
    source = experiment.source.model_copy(update={"kafka": section})
    experiment = experiment.model_copy(update={"source": source})
    dump_experiment(with_absolute_files(experiment, EXAMPLES), file)
    return file


def held_by_the_broker(bootstrap: str, topics: list[str]) -> dict[str, dict[int, int]]:
    """Next offset of every partition of topics."""
    with KafkaConsumer(bootstrap_servers=bootstrap) as client:
        return {
            topic: {
                place.partition: end
                for place, end in client.end_offsets(
                    [TopicPartition(topic, p) for p in range(PARTITIONS)]
                ).items()
            }
            for topic in topics
        }


def read_all(bootstrap: str, topic: str) -> list[bytes]:
    """Values of all messages of a topic."""
    found: list[bytes] = []
    ends = held_by_the_broker(bootstrap, [topic])[topic]
    with KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as client:
        places = [TopicPartition(topic, p) for p in ends]
        client.assign(places)
        client.seek_to_beginning(*places)
        while any(client.position(place) < ends[place.partition] for place in places):
            for records in client.poll(timeout_ms=500).values():
                found += [record.value for record in records]
    return found


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_hundred_kills_and_everything_else_at_once_leave_the_same_bits(
    stepped, own_kafka, small_disk, tmp_path, seed
):
    host, environment = stepped
    night = disturbed_night(seed)
    truth, dead = folded_alone(night, tmp_path / "plain")
    shutil.rmtree(tmp_path / "plain")
    assert len(truth.chunks) > 20
    assert "set aside" in {dwell[4] for dwell in truth.dwells.values()}
    small_disk.grow(DISK_BYTES)
    topics = topics_of(own_kafka.broker, PARTITIONS)
    file = described(own_kafka.bootstrap, topics.prefix, tmp_path / "experiment.yaml")
    state = small_disk.folder / "state"
    command = ["consume", str(file), "-o", str(state), "--health-port", "0", "--log", "json"]
    chaos = Chaos(
        host=host,
        broker=own_kafka,
        disk=small_disk,
        command=command,
        state=state,
        log=tmp_path / "workers.log",
        prefix=topics.prefix,
        step_file=Path(environment["STEP_FILE"]),
        rng=np.random.default_rng(seed),
    )
    began = time.monotonic()
    chaos.run(night.sent, KILLS)
    with chaos.log.open("ab") as log:
        last = subprocess.run(
            [sys.executable, "-m", "steering.cli", *command, "--until-idle", "10"],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
            timeout=300,
        )
    assert last.returncode == 0, chaos.told()[-6000:]
    took_s = time.monotonic() - began

    found, counted = Folded.of(state), counters(state)
    names = [f"{topics.prefix}_{name}" for name in TOPICS]
    ends = held_by_the_broker(own_kafka.bootstrap, names)
    buried = read_all(own_kafka.bootstrap, f"{topics.prefix}_beamsteer_dead_letters")
    manifests = {int(f.name.rpartition("-")[2]): read_manifest(f) for f in partition_folders(state)}
    lines = Counter(re.findall(r'"event": "(\w+)"', chaos.told()))
    sys.stdout.write(
        f"\nseed {seed}: {chaos.struck.total()} SIGKILLs {dict(chaos.struck)}; {night.told}; "
        f"{chaos.broker_kills} broker restarts, disk full {FULL_S:.0f} s (told after "
        f"{chaos.told_s:.1f} s), {chaos.clock_steps} clock steps, "
        f"{chaos.ended[75]} ends with 75; {counted['duplicates']} duplicates counted, "
        f"{counted['reopened']} reopenings, "
        f"{sum(m.generation for m in manifests.values())} manifests, {len(found.dwells)} dwells, "
        f"{len(found.chunks)} chunks folded, {took_s:.0f} s; logged: {dict(lines)}\n"
    )
    assert found.differences(truth) == []
    assert found == truth
    # every message: settled, counted once, and nothing waits
    assert set(manifests) == set(range(PARTITIONS))
    for topic, by_partition in ends.items():
        for partition, end in by_partition.items():
            position = manifests[partition].positions.get(topic)
            assert (
                (0, ()) == (end, ())
                if position is None
                else (position.next, position.done)
                == (
                    end,
                    (),
                )
            )
        assert counted[f"messages.{topic}"] == sum(by_partition.values())
    assert sum(sum(p.values()) for p in ends.values()) >= len(night.sent)
    assert set(buried) == dead
    assert chaos.struck.total() >= KILLS
    assert chaos.broker_kills == 2
    assert chaos.told_s < TOLD_S
    assert lines["wall_clock_stepped"] > 0
    assert lines["write_failed"] > 0
