"""A dwell that is open, as a browser shows it: real workers, a stream that stops in its middle."""

from __future__ import annotations

import contextlib
import time

import httpx
import pytest
from playwright.sync_api import expect

from consumers.state import read_manifest
from consumers.transport import TapeSink
from steering.experiment import dump_experiment, with_absolute_files
from tests.steering.live_stream import live_experiment, live_scan
from tests.steering.service.test_glimpsing import parted
from tests.steering.service.test_pulse import started
from tests.steering.virtual_scan import EXAMPLES
from tests.steering.web.conftest import keep

pytestmark = pytest.mark.browser
WAIT_MS = 120_000  # of workers that fit
TOLD_MS = 20_000  # a worker looks every five seconds, and so does the page


def test_an_open_dwell_is_told_drawn_and_gone_when_it_closes(page, tmp_path):
    experiment = with_absolute_files(live_experiment(), EXAMPLES)
    dump_experiment(experiment, tmp_path / "live.yaml")
    state, tape = tmp_path / "state", tmp_path / "tape"
    before, after = parted((5.0, 17.0))
    first = len(live_scan(psis=(5.0,)))
    sink = TapeSink(tape)

    def send(raws):
        for raw in raws:
            sink.send(raw.topic, raw.value, key=raw.key)
        sink.flush()

    with contextlib.ExitStack() as stack:

        def start(*arguments: str):
            process, told = started(*arguments, environment={})
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return told

        stack.callback(sink.close)
        send(before[: first + 20])  # the second begins: the first is over
        consume = ("consume", str(tmp_path / "live.yaml"), "-o", str(state), "--run", "live")
        start(*consume, "--tape", str(tape), "--health-port", "0")
        start("model-server", str(state), "--port", "0")
        url = start("serve", str(state), "--port", "0")["url"]
        page.goto(url)
        page.wait_for_selector("#map .heatmaplayer image", timeout=WAIT_MS)
        line = page.locator("#open-dwell")
        expect(line).to_contain_text("Open now: night-101 at psi 17.0°", timeout=TOLD_MS)
        send(before[first + 20 :])
        expect(line).to_contain_text("7,200 neutrons", timeout=TOLD_MS)
        expect(line).to_contain_text("per second")
        expect(line).to_contain_text("not in the answer yet")
        page.click("text=Open dwell")
        expect(page.locator("#map-note")).to_contain_text("provisional", timeout=TOLD_MS)
        told = httpx.get(f"{url}v1/runs/night/open-dwell").json()
        assert sum(map(sum, told["counts"])) == told["folded"] > 0
        assert httpx.get(f"{url}v1/runs/night/open-dwell?counts=false").json()["counts"] is None
        page.locator("#map .heatmaplayer image").wait_for()
        page.screenshot(path=tmp_path / "open.png", full_page=True)
        keep(page, "open-dwell")
        send(after)
        until = time.monotonic() + TOLD_MS / 1000
        while len(read_manifest(state / "partition-0").runs["night"].chunks) < 2:
            assert time.monotonic() < until
            time.sleep(0.2)
        expect(line).to_be_hidden(timeout=TOLD_MS)
        assert httpx.get(f"{url}v1/runs/night/open-dwell").status_code == 404
        expect(page.locator("#map-note")).to_contain_text("No dwell is open")
        until = time.monotonic() + TOLD_MS / 1000
        while list((state / "open-dwells").iterdir()):  # until the worker looks again
            assert time.monotonic() < until
            time.sleep(0.2)
