"""Life and death as supervisor and page see them: real sockets, real processes, real kills."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from consumers.transport import KafkaSection, KafkaTopics
from consumers.transport.zmq_sink import ZmqSink
from steering.experiment import dump_experiment, with_absolute_files
from steering.service import pulse
from steering.service.health import LOOP_SECONDS, READY_SECONDS, WorkerStatus
from steering.web import read_heartbeats
from tests.steering.live_stream import contents, live_experiment, live_scan
from tests.steering.service.test_live import folded_alone, sending, topics_of
from tests.steering.virtual_scan import EXAMPLES

SECOND = 1_000_000_000


class Supervisor:
    """The end of systemd's socket."""

    def __init__(self, path: Path):
        self.environment = {"NOTIFY_SOCKET": str(path)}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def heard(self, word: str, seconds: float) -> bool:
        """Whether a word comes within a time."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                if word in self._socket.recv(4096).decode().split("\n"):
                    return True
        return False

    def forget(self) -> None:
        """Pass over what waits."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(4096):
                pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def supervisor(tmp_path):
    found = Supervisor(tmp_path / "notify")
    yield found
    found.close()


def test_the_watchdog_is_fed_by_a_loop_that_turns_and_by_no_other(tmp_path, supervisor):
    status = WorkerStatus(
        service="consume", last_loop_ns=time.time_ns(), partitions=(0,), state=tmp_path
    )
    now = [status]
    with pulse(lambda: now[0], every_s=0.05, environment=supervisor.environment):
        assert supervisor.heard("READY=1", 10)
        assert supervisor.heard("WATCHDOG=1", 10)
        assert supervisor.heard("STATUS=working", 10)
        now[0] = replace(status, last_loop_ns=time.time_ns() - round(LOOP_SECONDS + 5) * SECOND)
        assert supervisor.heard("STATUS=" + _stuck(), 10)
        supervisor.forget()
        silent_since = read_heartbeats([tmp_path])[0].heard_ns
        assert not supervisor.heard("WATCHDOG=1", 0.5)
        assert read_heartbeats([tmp_path])[0].heard_ns == silent_since
        now[0] = replace(status, last_loop_ns=time.time_ns(), error="the disk is full.")
        assert supervisor.heard("WATCHDOG=1", 10)
        assert read_heartbeats([tmp_path])[0].state == "not ready"
    assert supervisor.heard("STOPPING=1", 10)
    assert read_heartbeats([tmp_path])[0].state == "stopped"


def _stuck() -> str:
    return (
        f"the loop turned {LOOP_SECONDS + 5:.0f} s ago; expected at most {READY_SECONDS:g} s. "
        "Restart the service: it goes on from its state folder."
    )


def test_a_fault_leaves_the_heartbeat_to_grow_old_and_a_stop_does_not(tmp_path, supervisor):
    status = WorkerStatus(service="consume", last_loop_ns=time.time_ns(), state=tmp_path)
    for fault, state in ((ValueError, "ready"), (KeyboardInterrupt, "stopped")):

        def work(fault: type[BaseException] = fault) -> None:
            with pulse(lambda: status, environment=supervisor.environment):
                assert supervisor.heard("READY=1", 10)
                raise fault

        with pytest.raises(fault):
            work()
        assert read_heartbeats([tmp_path])[-1].state == state


def started(*arguments: str, environment: dict[str, str]) -> tuple[subprocess.Popen[str], dict]:
    process = subprocess.Popen(
        [sys.executable, "-m", "steering.cli", *arguments, "--json"],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line == "}\n":
            return process, json.loads(text)
    raise AssertionError(f"{arguments[0]} ended with {process.wait()}: {text}")


def waited(ask, expected, seconds: float) -> float:
    """Seconds until an answer is as expected."""
    began = time.monotonic()
    while (found := ask()) != expected:
        assert time.monotonic() - began < seconds, found
        time.sleep(0.1)
    return time.monotonic() - began


def test_a_killed_worker_and_a_lost_publisher_are_told_within_ten_seconds(tmp_path, supervisor):
    address = f"ipc://{tmp_path}/stream"
    experiment = with_absolute_files(live_experiment(), EXAMPLES)
    dump_experiment(experiment, tmp_path / "live.yaml")
    arguments = ["consume", str(tmp_path / "live.yaml"), "--zmq", address, "--health-port", "0"]
    with contextlib.ExitStack() as stack:
        publisher = ZmqSink(address, bind=True)
        stack.callback(publisher.close)
        worker, told = started(
            *arguments, "-o", str(tmp_path / "state"), environment=supervisor.environment
        )
        stack.callback(worker.communicate)
        stack.callback(worker.kill)
        assert supervisor.heard("READY=1", 30)
        page, shown = started("serve", str(tmp_path), "--port", "0", environment={})
        stack.callback(page.communicate)
        stack.callback(page.kill)

        def states() -> list[str]:
            return [one["state"] for one in httpx.get(shown["url"] + "workers").json()["workers"]]

        def ready(url: str) -> int:
            return httpx.get(url + "ready").status_code

        waited(lambda: ready(told["health"]), 200, 30)
        waited(states, ["ready"], 10)
        publisher.close()
        assert waited(lambda: ready(told["health"]), 503, 20) < 10
        assert waited(states, ["not ready"], 20) < 10
        assert ready(shown["url"]) == 200
        worker.send_signal(signal.SIGKILL)
        assert waited(lambda: ready(shown["url"]), 503, 20) < 10
        assert states() == ["dead"]
        page.send_signal(signal.SIGTERM)
        assert page.wait(20) == 0


@pytest.mark.kafka
def test_a_broker_that_freezes_or_dies_is_told_within_ten_seconds_and_found_again(
    own_kafka, supervisor, tmp_path
):
    """Half of a scan is sent before, half after; nothing of it is missing."""
    topics = topics_of(own_kafka.broker)
    names = KafkaTopics(prefix=topics.prefix, reduced=None, bluesky=None)
    section = KafkaSection(bootstrap_servers=own_kafka.bootstrap, topics=names)
    experiment = live_experiment(kind="kafka", lateness_s=300.0)
    source = experiment.source.model_copy(update={"kafka": section})
    experiment = experiment.model_copy(update={"source": source})
    dump_experiment(with_absolute_files(experiment, EXAMPLES), tmp_path / "live.yaml")
    scan = live_scan(psis=(5.0, 17.0))
    alone = folded_alone(scan, tmp_path / "plain")
    state = tmp_path / "state"
    with contextlib.ExitStack() as stack:
        worker, told = started(
            *("consume", str(tmp_path / "live.yaml"), "--health-port", "0", "-o", str(state)),
            environment=supervisor.environment,
        )
        stack.callback(worker.communicate)
        stack.callback(worker.kill)

        def ready() -> int:
            return httpx.get(told["health"] + "ready").status_code

        def reasons() -> str:
            return " ".join(httpx.get(told["health"] + "ready").json()["reasons"])

        with sending(own_kafka.bootstrap, topics.prefix) as send:
            send(scan[: len(scan) // 2])
        waited(ready, 200, 60)
        pid = own_kafka.broker.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        assert waited(ready, 503, 20) < 10
        assert "the source is not connected" in reasons()
        os.kill(pid, signal.SIGCONT)
        waited(ready, 200, 60)
        own_kafka.kill()
        assert waited(ready, 503, 20) < 10
        assert httpx.get(told["health"] + "health").status_code == 200
        own_kafka.start()
        waited(ready, 200, 60)
        with sending(own_kafka.bootstrap, topics.prefix) as send:
            send(scan[len(scan) // 2 :])
        waited(lambda: httpx.get(told["health"] + "status").json()["runs"], {"night": 2}, 60)
        # on a busy machine the last events may come after the dwell settled, and reopen it
        waited(lambda: contents(state, whole=False) == alone, True, 60)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    assert contents(state) == alone
