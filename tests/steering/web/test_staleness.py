"""What the page says, and when, of a server, a worker, a publisher that is gone, and of clocks.

Every process here is a real one, and dies by SIGKILL. Screenshots lie in the folder of each test.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from consumers.transport import TapeSink
from steering.experiment import dump_experiment, with_absolute_files
from steering.run import now_ns, result_document, save_snapshot
from steering.service.consuming import consume
from steering.service.fold_worker import FoldWorker
from tests.steering.fabricated import snapshot
from tests.steering.live_stream import (
    ListSource,
    as_raw,
    live_experiment,
    live_measurement,
    live_scan,
)
from tests.steering.service.test_pulse import started
from tests.steering.stepping_clock import NoCompilerError, build_stepping_clock
from tests.steering.virtual_scan import EXAMPLES
from tests.steering.web.conftest import keep

pytestmark = pytest.mark.browser
TOLD_S = 10.0  # of a loss, until the page says so
WAIT_MS = 60_000  # of what has no bound
ZONE = re.compile(r"as of \d\d:\d\d CES?T")
PUBLISHER = """
import sys, time
from consumers.transport.zmq_sink import ZmqSink
from tests.steering.live_stream import live_scan
sink = ZmqSink(sys.argv[1], bind=True)
topic, key, value = next(m for m in live_scan() if m[0] == "motion")
print("ready", flush=True)
while True:
    sink.send(topic, value)
    time.sleep(0.2)
"""


def folded(state: Path, psis: tuple[float, ...]) -> None:
    """Fold so many orientations of one scan into a state folder; what is there stays."""
    worker = FoldWorker(live_measurement(), state=state, default_run="live")
    source = ListSource(as_raw(live_scan(psis=psis)), worker)
    consume(source, worker, stop=lambda: False, until_idle_s=0.0)
    worker.close()


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> Path:
    """A state folder with the run ``night`` of one chunk, and the experiment of it."""
    root = tmp_path_factory.mktemp("once")
    experiment = with_absolute_files(live_experiment(), EXAMPLES)
    dump_experiment(experiment, root / "live.yaml")
    folded(root / "state", (5.0,))
    dump_experiment(experiment, root / "state" / "experiment.yaml")
    return root


@pytest.fixture
def root(once, tmp_path) -> Path:
    """The same for one test, with an answer that was fabricated."""
    shutil.copytree(once, tmp_path / "root")
    estimate = tmp_path / "root" / "state" / "partition-0" / "night" / "estimate"
    estimate.mkdir(parents=True)
    shown = snapshot("night", updated_ns=now_ns(), estimated_ns=now_ns())
    assert shown.result is not None
    result = result_document(shown.result.document() | {"state_id": "abc"})
    shown = snapshot("night", updated_ns=now_ns(), estimated_ns=now_ns(), result=result)
    save_snapshot(shown, estimate / "snapshot.npz")
    return tmp_path / "root"


def quiet_tape(folder: Path) -> str:
    """A tape of which everything is folded already: a stream that is there, and silent."""
    sink = TapeSink(folder / "quiet")
    topic, key, value = live_scan()[0]
    sink.send(topic, value, key=key)
    sink.close()
    return str(folder / "quiet")


@pytest.fixture
def start():
    """Start ``beamsteer`` with a verb; what is left is killed in the end."""
    with contextlib.ExitStack() as stack:

        def run(*arguments: str, **environment: str):
            process, told = started(*arguments, environment=environment)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process, told

        yield run


def worker_of(start, root: Path, *arguments: str, **environment: str):
    command = ["consume", str(root / "live.yaml"), "-o", str(root / "state")]
    return start(*command, "--run", "live", "--health-port", "0", *arguments, **environment)[0]


def shown(page, root: Path, start, **environment: str):
    """Serve the state folder and open its page; returns the server."""
    server, told = start("serve", str(root / "state"), "--port", "0", **environment)
    page.goto(told["url"])
    page.wait_for_selector("#map .heatmaplayer image", timeout=WAIT_MS)
    return server


def live(page) -> None:
    """Wait until the page is in full colour."""
    expect(page.locator("#link")).to_contain_text("live", timeout=WAIT_MS)
    expect(page.locator("#stale")).to_be_hidden()
    assert not grey(page)
    assert "as of" not in page.inner_text("main")


def grey(page) -> bool:
    filters = page.evaluate("() => getComputedStyle(document.querySelector('main')).filter")
    return filters == "grayscale(1)"


def figure(name: str, seconds: float) -> None:
    """Tell a figure to who runs with ``-s``."""
    sys.stdout.write(f"{name}: told after {seconds:.1f} s\n")


def told_in(page, text: str, tmp_path: Path, name: str, since: float) -> float:
    """Seconds until the page says it: above all in words, in grey, and as of when on every card."""
    left = TOLD_S - (time.monotonic() - since)
    expect(page.locator("#stale")).to_contain_text(text, timeout=1000 * max(left, 0.001))
    seconds = time.monotonic() - since
    assert grey(page)
    cards = page.evaluate(
        """() => [...document.querySelectorAll(".verdict .as-of")].filter(
            (one) => one.checkVisibility()).map((one) => one.innerText)"""
    )
    assert cards
    assert all(ZONE.fullmatch(card) for card in cards), cards
    assert ZONE.search(page.inner_text("#link"))
    page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
    keep(page, name)
    figure(name, seconds)
    return seconds


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_server_that_is_gone_is_told_in_seconds(page, root, start, tmp_path, number):
    worker_of(start, root, "--tape", quiet_tape(tmp_path))
    server = shown(page, root, start)
    live(page)
    server.send_signal(number)
    since = time.monotonic()
    told_in(page, "has not answered since", tmp_path, f"server-{number.name}", since)
    assert "server gone" in page.inner_text("#link")
    if number is signal.SIGSTOP:  # and all is well once it is back
        server.send_signal(signal.SIGCONT)
        live(page)


def test_a_worker_that_is_killed_is_told_in_seconds(page, root, start, tmp_path):
    worker = worker_of(start, root, "--tape", quiet_tape(tmp_path))
    shown(page, root, start)
    live(page)
    worker.send_signal(signal.SIGKILL)
    told_in(page, "fold worker is gone: silent for", tmp_path, "worker-killed", time.monotonic())
    worker_of(start, root, "--tape", str(tmp_path / "quiet"))
    live(page)


def test_a_worker_that_was_stopped_is_told_in_seconds(page, root, start, tmp_path):
    worker = worker_of(start, root, "--tape", quiet_tape(tmp_path))
    shown(page, root, start)
    live(page)
    since = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    told_in(page, "The fold worker was stopped", tmp_path, "worker-stopped", since)


def test_a_publisher_that_is_gone_is_told_in_seconds(page, root, start, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"

    def publish() -> subprocess.Popen[str]:
        publisher = subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, address],
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3],
        )  # fmt: skip
        assert publisher.stdout is not None
        assert publisher.stdout.readline() == "ready\n"
        return publisher

    publishers = [publish()]
    try:
        worker_of(start, root, "--zmq", address)
        shown(page, root, start)
        live(page)
        publishers[0].kill()
        told_in(page, "The stream is lost: no sender", tmp_path, "publisher", time.monotonic())
        publishers.append(publish())
        live(page)
    finally:
        for one in publishers:
            one.kill()
            one.communicate()


def test_an_estimate_that_is_late_is_told_in_seconds(page, once, start, tmp_path):
    """It compiles its kernels anew, which takes it much longer than the page may take."""
    root = tmp_path / "root"
    shutil.copytree(once, root)
    command = [sys.executable, "-m", "steering.cli", "model-server", str(root / "state"), "--once"]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    folded(root / "state", (5.0, 17.0, 29.0))
    worker_of(start, root, "--tape", quiet_tape(tmp_path))
    shown(page, root, start)
    (tmp_path / "numba").mkdir()
    state = str(root / "state")
    start("model-server", state, "--port", "0", NUMBA_CACHE_DIR=str(tmp_path / "numba"))
    since = time.monotonic()
    late = "The estimate is behind: folded 3, estimated 1, computing since"
    told_in(page, late, tmp_path, "estimate-late", since)
    assert page.locator("#chunks tbody tr").count() == 1


@pytest.fixture
def stepped(tmp_path) -> Callable[[int], dict[str, str]]:
    """Environment of a process whose wall clock is so many seconds off."""
    try:
        library = build_stepping_clock(tmp_path)
    except NoCompilerError as reason:
        pytest.skip(str(reason))

    def environment(seconds: int) -> dict[str, str]:
        (tmp_path / "step").write_text(str(seconds))
        return {"LD_PRELOAD": str(library), "STEP_FILE": str(tmp_path / "step")}

    return environment


@pytest.mark.parametrize("hours", [2, -2])
def test_a_worker_whose_clock_is_off_is_told_lives_and_dies(
    page, root, start, tmp_path, stepped, hours
):
    shown(page, root, start)
    worker = worker_of(start, root, "--tape", quiet_tape(tmp_path), **stepped(3600 * hours))
    began = time.monotonic()
    way = "ahead of" if hours > 0 else "behind"
    text = f"The clock of the fold worker is 2 h {way} that of this server"
    expect(page.locator("#odd")).to_contain_text(text, timeout=1000 * TOLD_S)
    figure("skew", time.monotonic() - began)
    live(page)
    page.screenshot(path=tmp_path / "worker-clock.png", full_page=True)
    keep(page, f"worker-clock{hours}")
    worker.send_signal(signal.SIGKILL)
    told_in(page, "fold worker is gone: silent for", tmp_path, "skewed-gone", time.monotonic())


@pytest.mark.parametrize("minutes", [10, -10])
def test_a_browser_whose_clock_is_off_tells_ages_by_the_server_s(
    page, root, start, tmp_path, stepped, minutes
):
    since = time.monotonic()
    path = root / "state" / "partition-0" / "night" / "estimate" / "snapshot.npz"
    made = now_ns() + 60 * minutes * 1_000_000_000
    save_snapshot(snapshot("night", updated_ns=made, estimated_ns=made), path)
    shown(page, root, start, **stepped(60 * minutes))
    way = "behind" if minutes > 0 else "ahead of"
    odd = page.locator("#odd")
    expect(odd).to_contain_text(f"The clock of this browser is 10 min {way} that of the server")
    assert time.monotonic() - since < 30  # with the start of the server
    assert re.search(r"live, estimate of \d\d:\d\d CES?T, \d+ s old", page.inner_text("#link"))
    assert not grey(page)
    page.screenshot(path=tmp_path / "browser-clock.png", full_page=True)
    keep(page, f"browser-clock{minutes}")
