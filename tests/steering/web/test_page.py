from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import expect

from steering.run import RunStore, now_ns, result_document
from steering.web import create_app, serving
from steering.web.answers import WorkerAnswer
from tests.steering.fabricated import NAMES, snapshot, store

pytestmark = pytest.mark.browser
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SCREENSHOTS = os.environ.get("BEAMSTEER_SCREENSHOTS")


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(chromium), args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def page(browser):
    """A fresh tab that fails the test on any script error or request to another host."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    tab = context.new_page()
    faults: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("http://127.0.0.1:", "data:", "blob:"))
            else faults.append(f"left this machine: {request.url}")
        ),
    )
    yield tab
    context.close()
    assert faults == []


def keep(page, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=str(Path(SCREENSHOTS) / f"{name}.png"), full_page=True)


def test_the_page_shows_map_parameters_and_ranking(page):
    runs = store(snapshot(updated_ns=now_ns()))
    with serving(create_app(runs)) as url:
        page.goto(url)
        page.wait_for_selector("#map .heatmaplayer image")
        figure = page.evaluate(
            """() => { const [heat, ...lines] = document.getElementById("map").data;
                return {rows: heat.z.length, columns: heat.z[0].length,
                        known: heat.z.flat().filter((v) => v !== null).length,
                        branches: lines.length, gap: lines[0].x.indexOf(null),
                        highest: Math.max(...lines.flatMap((line) => line.y))} }"""
        )
        assert (figure["rows"], figure["columns"]) == (140, 140)
        assert 0.3 < figure["known"] / 140**2 < 0.7
        assert figure["branches"] == 6
        assert figure["gap"] == 50  # the branches break where the path does
        assert figure["highest"] == pytest.approx(37, abs=0.1)
        ticks = page.locator("#map .xtick text").all_text_contents()
        assert ticks == ["Γ", "X", "U|K", "Γ", "L", "W", "X"]
        assert "energy transfer (meV)" in page.inner_text("#map")

        bars = page.evaluate(
            """() => document.getElementById("history").data.map(
                (t) => [t.name, t.x.length, t.error_y.array.every((e) => e > 0)])"""
        )
        assert bars == [[name, 8, True] for name, _ in NAMES]
        assert page.locator("#history .errorbars").count() >= 8
        assert page.locator("#parameters tbody tr").count() == 8
        first = page.locator("#parameters tbody tr").first.inner_text()
        assert "1NN xx" in first
        assert "±" in first

        assert page.locator("#ranking tbody tr").count() == 5
        best = page.locator("#ranking tbody tr").first.inner_text()
        assert "48°" in best
        assert "0.412" in best
        assert page.locator("#strip path").count() == 5

        assert "Trusted" in page.inner_text("#trust-badge")
        assert "chi-square" in page.inner_text("#trust-reasons")
        assert "12 min" in page.inner_text("#stop-word")
        assert "psi is NaN" in page.inner_text("#chunks")
        assert "168,280 read, all accounted for" in page.inner_text("#events-check")
        assert "live" in page.inner_text("#link")
        keep(page, "page-wide")


def test_a_new_chunk_reaches_the_open_page_by_itself(page):
    runs = store(snapshot(updated_ns=now_ns()))
    with serving(create_app(runs)) as url:
        page.goto(url)
        page.wait_for_selector("#ranking tbody tr")
        before = runs.list()[0]
        assert before.result is not None
        result = result_document(
            before.result.document()
            | {
                "trusted": False,
                "policy": "falsification",
                "reasons": ["chi-square per cell is 4.31 <b>not bold</b>"],
                "stop": {"stop": True, "reason": "targets met", "minutes_to_target": 0.0},
            }
        )
        runs.publish(replace(before, result=result, title="after", status="finished"))
        expect(page.locator("#title")).to_have_text("after")
        assert "Not trusted" in page.inner_text("#trust-badge")
        assert "<b>not bold</b>" in page.inner_text("#trust-reasons")  # text, never markup
        assert "falsification" in page.inner_text("#policy")
        assert page.inner_text("#status") == "finished"
        assert page.inner_text("#stop-word") == "Stop now"


def test_the_map_switches_to_model_and_residual(page):
    with serving(create_app(store())) as url:
        page.goto(url)
        page.wait_for_selector("#map .heatmaplayer image")
        page.click("text=Residual")
        span = page.evaluate(
            "() => { const [heat] = document.getElementById('map').data;"
            " return [heat.zmin, heat.zmax] }"
        )
        assert span == [-5, 5]
        page.click("#branches")
        assert page.evaluate("() => document.getElementById('map').data.length") == 1


def test_an_empty_store_says_how_to_start(page):
    runs = RunStore()
    with serving(create_app(runs)) as url:
        page.goto(url)
        page.wait_for_selector("#empty:not([hidden])")
        assert "beamsteer replay" in page.inner_text("#empty")
        runs.publish(snapshot(result=None, spectrum=None, history=(), chunks=()))
        page.wait_for_selector("#live:not([hidden])")
        assert "Waiting" in page.inner_text("#stop-word")
        assert "first estimate" in page.inner_text("#parameters")
        runs.publish(snapshot())
        page.wait_for_selector("#map .heatmaplayer image")
        assert page.locator("#ranking tbody tr").count() == 5


def test_a_failed_run_and_a_lost_connection_are_told(page):
    runs = store(snapshot(status="failed", error="run.nxspe: truncated"))
    with serving(create_app(runs)) as url:
        page.goto(url)
        page.wait_for_selector("#failure:not([hidden])")
        assert "run.nxspe: truncated" in page.inner_text("#failure")
    expect(page.locator("#link")).to_contain_text("lost")


def test_the_page_fits_a_narrow_screen(page):
    page.set_viewport_size({"width": 420, "height": 900})
    with serving(create_app(store())) as url:
        page.goto(url)
        page.wait_for_selector("#map .heatmaplayer image")
        assert page.evaluate("document.documentElement.scrollWidth") <= 420
        keep(page, "page-narrow")


def test_a_target_is_met_where_the_run_says_so_and_only_there(page):
    """The experiment's relative targets are no rule of the page."""
    shown = snapshot(updated_ns=now_ns())
    assert shown.result is not None
    document = shown.result.document()
    document["targets"] = [
        {"name": p["name"], "sigma": p["sigma"] * (2.0 if i else 0.5)}
        for i, p in enumerate(document["parameters"])
    ]
    document["targets"][-1]["met"] = False
    runs = store(replace(shown, result=result_document(document)))
    with serving(create_app(runs)) as url:
        page.goto(url)
        page.wait_for_selector("#parameters tbody tr:nth-child(8)")
        told = page.locator("#parameters tbody .gauge span").all_text_contents()
        assert told == ["2×", *6 * ["✓ met"], "0.5×"]
        page.wait_for_selector("#history .plot-container")
        half = page.evaluate(
            """() => { const {y0, y1} = document.getElementById("history").layout.shapes[0];
                return (y1 - y0) / 2 }"""
        )
        assert half == pytest.approx(1.6449 * document["targets"][0]["sigma"])


def test_a_dead_worker_is_told_above_all_and_forgotten_when_it_is_back(page):
    heard = now_ns()
    worker = WorkerAnswer(
        service="consume",
        partitions=[0],
        state="dead",
        reasons=["consume of partition 0 has been silent for 9 s. <b>Look</b>"],
        heard_ns=heard,
    )
    workers = [worker]
    with serving(create_app(store(snapshot()), workers=lambda: workers)) as url:
        page.goto(url)
        told = page.locator("#workers")
        expect(told).to_contain_text("Dead since")
        expect(told).to_contain_text("silent for 9 s. <b>Look</b>")
        keep(page, "dead-worker")
        workers[0] = worker.model_copy(update={"state": "ready", "reasons": []})
        expect(told).to_be_hidden(timeout=20_000)
