"""A long soak of one worker: hours of stream with bursts, retention everywhere, all accounted for.

``make soak`` runs it for two hours at 20 MB/s; ``make soak SOAK="--minutes 20"`` for less. A real
broker whose topics keep little, a real ``beamsteer consume`` whose recordings and runs are removed
as the experiment says, and a beamline that sends in real time. In the end the worker is told to
stop, another one takes the rest, and every message and every event that was sent must be counted
in the manifest. Prints a table; 1 where a bound was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from consumers.transport import KafkaSection, KafkaTopics
from consumers.transport.retention_settings import Keep, RetentionSection
from steering.experiment import (
    chosen_instrument,
    dump_experiment,
    load_experiment,
    with_absolute_files,
)
from tests.kafka_broker import OwnBroker, Topics
from tests.live_traffic import Beamline

ROOT = Path(__file__).resolve().parents[1]
EVENT_BYTES = 8  # on the wire: time of flight and pixel
WIRE = 1.1  # of an event's bytes, with frames of messages and batches
DWELL_S, DWELLS_OF_RUN = 20, 9
BURST_EVERY_S, BURST_S, BURST_PER_S = 60, 5, 5e6
SAMPLE_S = 5.0
RECORDINGS, RUNS = 2_000_000_000, 2_000_000_000  # bytes that the experiment lets stay
TOPIC_BYTES, SEGMENT_BYTES = 4_000_000_000, 256 * 2**20  # of the detector's topic
MESSAGES_PER_S = 120  # events and charge of every pulse
STATE_BYTES = RECORDINGS + RUNS + 1_500_000_000  # + dwells in work
RETAINING_S = 390  # Kafka looks every five minutes, and removes what it found a minute later
GROWTH_PER_HOUR = 0.02
SLOPE_MINUTES = 40  # shorter soaks print the slope of memory and judge nothing by it


@dataclass
class Samples:
    """What was seen of the worker and the disk, every few seconds."""

    time_s: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    lag: list[int] = field(default_factory=list)
    state: list[int] = field(default_factory=list)
    broker: list[int] = field(default_factory=list)
    processor_s: float = 0.0

    def slope_per_hour(self) -> float:
        """Growth of resident memory after the first quarter, as a share of its median."""
        t, resident = np.array(self.time_s), np.array(self.resident, float)
        late = t > t[0] + 0.25 * (t[-1] - t[0])
        if late.sum() < 3:
            return float("nan")
        t, resident = t[late] / 3600, resident[late]
        i, j = np.triu_indices(len(t), 1)
        return float(np.median((resident[j] - resident[i]) / (t[j] - t[i])) / np.median(resident))


def bytes_in(folder: Path) -> int:
    """Of all files; what goes meanwhile does not count."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except OSError:
                continue
    return total


class Worker:
    """A real ``beamsteer consume``, started again where it ended."""

    def __init__(self, folder: Path, file: Path) -> None:
        self.state, self._file, self._log = folder / "state", file, folder / "consume.log"
        self.samples, self._table = Samples(), folder / "samples.txt"
        self._began = time.monotonic()
        self._over = threading.Event()
        self._process: subprocess.Popen[str]
        self._health = ""

    def start(self, *words: str) -> None:
        """Start it, and wait until it says where it answers."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "steering.cli", "consume", str(self._file)]
                + ["-o", str(self.state), "--health-port", "0", "--json", "--log", "json", *words],
                cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        text = ""
        assert self._process.stdout is not None
        while not text.rstrip().endswith("}"):
            line = self._process.stdout.readline()
            if not line:
                raise SystemExit(f"the worker ended; see {self._log}")
            text += line
        self._health = json.loads(text)["health"]

    def status(self) -> dict:
        """Its ``/status``."""
        with urllib.request.urlopen(self._health + "status", timeout=30) as answer:  # noqa: S310
            return json.load(answer)

    def watch(self, broker_data: Path) -> None:
        """Sample it from now on."""
        threading.Thread(target=self._sample, args=(broker_data,), daemon=True).start()

    def _sample(self, broker_data: Path) -> None:
        process = psutil.Process(self._process.pid)
        seen = self.samples
        while not self._over.wait(SAMPLE_S):
            try:
                lag = sum(self.status()["lag"].values())
                resident = process.memory_info().rss
            except (OSError, psutil.Error):
                continue
            seen.lag.append(lag)
            seen.resident.append(resident)
            seen.processor_s = sum(process.cpu_times()[:2])
            seen.state.append(bytes_in(self.state))
            seen.broker.append(bytes_in(broker_data))
            seen.time_s.append(time.monotonic() - self._began)
            with self._table.open("a") as file:  # for those who look meanwhile
                file.write(
                    f"{seen.time_s[-1]:.0f} s, {resident / 1e6:.0f} MB resident, lag {lag}, state "
                    f"{seen.state[-1] / 1e9:.2f} GB, broker {seen.broker[-1] / 1e9:.2f} GB\n"
                )

    def stop(self) -> int:
        """SIGTERM; its status."""
        self._over.set()
        self._process.terminate()
        self._process.communicate(timeout=300)
        return self._process.returncode

    def finish(self) -> tuple[dict, int]:
        """Wait until a worker that ends by itself has; what it tells, and its status."""
        told, _ = self._process.communicate(timeout=900)
        return json.loads(told or "{}"), self._process.returncode

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None


def experiment_file(folder: Path, section: KafkaSection, coarsen: int) -> Path:
    """The reference experiment on the stream, with retention of recordings and runs."""
    examples = ROOT / "examples"
    experiment = load_experiment(examples / "ge-arcs.yaml")
    keep = RetentionSection(recordings=Keep(bytes=RECORDINGS), runs=Keep(bytes=RUNS))
    changes = {"kind": "kafka", "kafka": section, "t0_us": 0.0, "retention": keep}
    source = experiment.source.model_copy(update=changes)
    instrument = experiment.instrument.model_copy(update={"coarsen": coarsen})
    live = experiment.model_copy(update={"source": source, "instrument": instrument})
    file = folder / "experiment.yaml"
    dump_experiment(with_absolute_files(live, examples), file)
    return file


def send(beamline: Beamline, worker: Worker, end: float, rate: float) -> int:
    """Dwells until the end; returns how many."""
    dwells, second = 0, 0
    while time.monotonic() < end and worker.alive:
        rates = []
        for _ in range(DWELL_S):
            rates.append(BURST_PER_S if second % BURST_EVERY_S < BURST_S else rate)
            second += 1
        run = f"run-{dwells // DWELLS_OF_RUN:04d}"
        beamline.dwell(run, str(dwells), float(dwells * 7 % 120), rates)
        beamline.pulses(run, 60, rate)
        dwells += 1
    beamline.flush()
    return dwells


def report(
    worker: Worker, beamline: Beamline, dwells: int, lasted_s: float, ended: list[int], told: dict
) -> bool:
    """Print what was measured beside what was asked; whether all of it held."""
    seen, counters = worker.samples, told.get("counters", {})  # none where it ended early
    fate = {k: n for k, n in counters.items() if k.startswith("events.")}
    lost = {
        topic: sent - counters.get(f"messages.{topic}", 0)
        for topic, sent in beamline.messages.items()
    }
    slope, judged = seen.slope_per_hour(), lasted_s >= 60 * SLOPE_MINUTES
    sent_mb = EVENT_BYTES * beamline.events / 1e6
    most_lag = MESSAGES_PER_S * TOPIC_BYTES * lasted_s / (2 * 1e6 * sent_mb)  # half of what is kept
    messages, missing = sum(beamline.messages.values()), sum(map(abs, lost.values()))
    most_broker = TOPIC_BYTES + RETAINING_S * 1e6 * sent_mb / lasted_s * WIRE
    rows = [
        ("worker ended with", f"{ended}", all(code == 0 for code in ended), "0"),
        ("messages sent, missing", f"{messages}, {missing}", not missing, "0 missing"),
        ("events sent, missing", f"{beamline.events}, {beamline.events - sum(fate.values())}",
         sum(fate.values()) == beamline.events, "0 missing"),
        ("dead letters", f"{counters.get('dead_letters.message', 0)}",
         not counters.get("dead_letters.message"), "0"),
        ("largest lag, messages", f"{max(seen.lag)}", max(seen.lag) <= most_lag,
         f"<= {most_lag:.0f}"),
        ("largest state, GB", f"{max(seen.state) / 1e9:.1f}", max(seen.state) <= STATE_BYTES,
         f"<= {STATE_BYTES / 1e9:.1f}"),
        ("largest broker, GB", f"{max(seen.broker) / 1e9:.1f}", max(seen.broker) <= most_broker,
         f"<= {most_broker / 1e9:.1f}"),
        ("resident memory, MB", f"{np.median(seen.resident) / 1e6:.0f}, largest "
         f"{max(seen.resident) / 1e6:.0f}", True, ""),
        ("its growth, %/h", f"{100 * slope:+.2f}", not judged or slope <= GROWTH_PER_HOUR,
         f"<= {100 * GROWTH_PER_HOUR:g}" if judged else f"judged from {SLOPE_MINUTES} minutes on"),
    ]  # fmt: skip
    lines = [
        f"{lasted_s / 60:.1f} minutes, {dwells} dwells of {DWELL_S} s, "
        f"{sent_mb / lasted_s:.1f} MB/s with bursts of {BURST_PER_S / 1e6:g} M events/s; the "
        f"sender was late by {beamline.behind_s:.1f} s at most; "
        f"{seen.processor_s / lasted_s:.2f} processors; removed: "
        f"{counters.get('removed.recordings', 0)} recordings, "
        f"{counters.get('removed.runs', 0)} runs"
    ]
    for name, found, held, asked in rows:
        lines.append(f"  {'ok  ' if held else 'MISS'} {name:<24} {found:<28} {asked}")
    lines.append(f"  events: {json.dumps(fate)}")
    sys.stdout.write("\n".join(lines) + "\n")
    return all(held for _, _, held, _ in rows)


def soak(folder: Path, minutes: float, megabytes_per_s: float, coarsen: int) -> bool:
    """Run it; whether every bound held."""
    rate = megabytes_per_s * 1e6 / EVENT_BYTES
    broker = OwnBroker(folder / "kafka")
    topics = Topics(broker=broker.broker)
    # What compaction of our own topics would leave to somebody else is not measured here.
    limits = {"retention_bytes": str(TOPIC_BYTES), "segment_bytes": str(SEGMENT_BYTES)}
    topics("detector", "runInfo", "motion", "sampleEnv", **limits)
    topics(*(f"beamsteer_{n}" for n in ("folded", "estimates", "advice", "heartbeat")), **limits)
    topics("beamsteer_dead_letters")
    section = KafkaSection(
        bootstrap_servers=broker.bootstrap,
        topics=KafkaTopics(prefix=topics.prefix, reduced=None, bluesky=None),
        group=topics.prefix,
    )
    file = experiment_file(folder, section, coarsen)
    experiment = load_experiment(file)
    worker = Worker(folder, file)
    try:
        worker.start()
        instrument = chosen_instrument(experiment, folder)
        ei_meV = experiment.instrument.ei_meV
        beamline = Beamline(section, instrument, ei_meV, most_per_s=max(rate, BURST_PER_S))
        worker.watch(folder / "kafka" / "data" / "store")
        began = time.monotonic()
        dwells = send(beamline, worker, began + 60 * minutes, rate)
        lasted = time.monotonic() - began
        ended = [worker.stop()]
        worker.start("--until-idle", "20")
        told, code = worker.finish()
        beamline.close()
        return report(worker, beamline, dwells, lasted, [*ended, code], told)
    finally:
        worker.stop()
        broker.close()


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--megabytes-per-s", type=float, default=20.0, help="between bursts")
    parser.add_argument("--coarsen", type=int, default=1, help="pixels of ARCS merged into one")
    parser.add_argument("--folder", type=Path, help="where 15 GB find room; a temporary one")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # worker and broker end with it
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="beamsteer-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    held = soak(folder.resolve(), arguments.minutes, arguments.megabytes_per_s, arguments.coarsen)
    if held and arguments.folder is None:
        shutil.rmtree(folder)
    else:
        sys.stdout.write(f"state, broker and logs: {folder}\n")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
