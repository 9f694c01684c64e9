"""The page for those who look from afar, listen, use no pointer, or have it read to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from steering.alarms import AlarmFolder, alarm_router
from steering.alarms.book import Alarm, Book
from steering.run import RunStore, now_ns
from steering.web import create_app, serving
from tests.steering.fabricated import snapshot, spectrum, store
from tests.steering.web.conftest import keep, table_of

pytestmark = pytest.mark.browser

SIZES = {"desk": (1920, 1080), "laptop": (1280, 800), "phone": (390, 844)}
LETTER = 90  # pixels that a capital must be high on the wall


def trusted():
    return snapshot(updated_ns=now_ns())


def untrusted():
    before = trusted()
    assert before.result is not None
    told = before.result.document() | {
        "trusted": False,
        "trust": "not explained",
        "reasons": ["chi-square per cell is 4.31, and more than two lines of reasons follow"] * 4,
    }
    return replace(before, result=type(before.result).model_validate(told))


def short():
    return replace(trusted(), status="finished")


def waiting():
    return snapshot(result=None, spectrum=None, history=(), chunks=(), updated_ns=now_ns())


def faults(page) -> list[str]:
    """What axe-core finds, each rule with the nodes that break it."""
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {[node['target'] for node in one['nodes']]}" for one in found]


@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing_whatever_is_open(page, size):
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    with serving(create_app(store(trusted()))) as url:
        page.goto(url)
        page.wait_for_selector("#map .heatmaplayer image")
        for box in ("cuts", "downloads"):
            page.evaluate("(id) => { document.getElementById(id).open = true; }", box)
        page.wait_for_selector("#cut-of-q .errorbars")
        page.wait_for_selector("#downloads a")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        keep(page, f"page-open-{size}")
        assert faults(page) == []


def test_axe_finds_nothing_in_other_states(page):
    runs = RunStore()
    with serving(create_app(runs)) as url:
        page.goto(url)
        page.wait_for_selector("#empty:not([hidden])")
        assert faults(page) == []
        for made in (waiting(), untrusted(), replace(short(), status="failed", error="x.nxspe")):
            runs.publish(made)
            expect(page.locator("#status")).to_have_text(made.status)
            page.wait_for_timeout(300)
            assert faults(page) == [], made.status
        page.goto(f"{url}?wall")
        page.wait_for_selector("body.wall #stop-word:not(:empty)")
        assert faults(page) == []


@pytest.mark.parametrize("made", [trusted, untrusted, short, waiting])
def test_the_wall_is_read_from_five_metres(page, made):
    page.set_viewport_size({"width": 1920, "height": 1080})
    with serving(create_app(store(made()))) as url:
        page.goto(f"{url}?wall")
        page.wait_for_selector("body.wall #stop-word:not(:empty)")
        page.wait_for_timeout(200)
        words = page.evaluate(
            """() => [...document.querySelectorAll(".verdict:not([hidden]) .big")].map((word) => {
                const style = getComputedStyle(word), pen = document.createElement("canvas");
                const context = pen.getContext("2d"), at = word.getBoundingClientRect();
                context.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
                const box = word.parentElement.getBoundingClientRect();
                return {text: word.textContent,
                        capital: context.measureText("T").actualBoundingBoxAscent,
                        inside: at.left >= box.left && at.right <= box.right
                                && at.top >= box.top - 1 && at.bottom <= box.bottom + 1} })"""
        )
        keep(page, f"wall-{made.__name__}")
        assert 3 <= len(words) <= 4
        for word in words:
            assert word["text"]
            assert word["capital"] >= LETTER, word
            assert word["inside"], word
        tall, wide = page.evaluate(
            "() => [document.documentElement.scrollHeight, document.documentElement.scrollWidth]"
        )
        assert (tall, wide) == (1080, 1920)
        assert page.inner_text("#wall-clock").split()[-1] in {"CET", "CEST"}
        assert not page.locator("#map").is_visible()


def beam_off() -> Alarm:
    return Alarm(
        id="a1",
        kind="beam off",
        subject="178900",
        text="No beam for 6 min.",
        level=1,
        hold_s=0,
        since_ns=now_ns(),
        seen_ns=now_ns(),
        raised=True,
    )


def test_an_alarm_is_told_sounds_and_is_acknowledged_on_the_page(page, tmp_path):
    from tests.steering.alarms.live_state import LiveState

    state = LiveState(tmp_path / "state")
    state.commit()
    folder = AlarmFolder(state.folder)
    app = create_app(store(trusted()), folders=[state.folder])
    app.include_router(alarm_router([state.folder]))
    with serving(app) as url:
        page.goto(url)
        page.wait_for_selector("#map .heatmaplayer image")
        page.click("#sound")
        assert page.get_attribute("#sound", "data-rung") == "1"  # how it sounds
        with folder.alone() as mine:
            assert mine
            folder.write(Book(alarms=(beam_off(),)))
        expect(page.locator("#alarms p")).to_contain_text("No beam for 6 min.", timeout=10000)
        expect(page.locator("#sound")).to_have_attribute("data-rung", "4")
        assert page.title().startswith("⚠ ")
        keep(page, "page-alarm")
        page.click("#alarms button")
        expect(page.locator("#alarms p")).to_contain_text("knows")
        assert page.locator("#alarms button").count() == 0
        assert folder.alarms()[0].acknowledged is not None
        page.wait_for_timeout(2500)
        assert page.get_attribute("#sound", "data-rung") == "4"  # it rings no more
        with folder.alone() as mine:
            assert mine
            folder.write(Book())
        expect(page.locator("#alarms")).to_be_hidden(timeout=10000)
    # The server is gone now, and who listens hears it.
    expect(page.locator("#sound")).to_have_attribute("data-rung", "7", timeout=15000)


def test_two_runs_are_laid_beside_each_other(page):
    one, two = trusted(), snapshot("other", updated_ns=now_ns(), spectrum=spectrum(seed=5))
    assert one.result is not None
    assert two.result is not None
    moved = list(two.result.parameters)
    moved[1] = moved[1].model_copy(update={"value": moved[1].value + 6 * moved[1].sigma})
    two = replace(two, result=two.result.model_copy(update={"parameters": tuple(moved)}))
    a, b = one.spectrum, two.spectrum
    with serving(create_app(store(two, one))) as url:
        page.goto(f"{url}#run=ge-demo")
        page.wait_for_selector("#map .heatmaplayer image")
        assert not page.locator("#compared").is_visible()
        page.select_option("#compare-with", "other")
        page.wait_for_selector("#compare-map .heatmaplayer image")
        lines = table_of(page, "compare-rows")
        assert len(lines) == 8
        assert lines[0][-1].endswith("0.0 σ")
        assert lines[1][-1].endswith(f"⚠ −{6 / np.sqrt(2):.1f} σ")
        assert "8 chunks have the same name" in page.inner_text("#compare-note")
        drawn = page.evaluate("() => document.getElementById('compare-map').data[0].z")
        drawn = np.array(drawn, dtype=float).T
        seen = np.isfinite(a.intensity) & np.isfinite(b.intensity)
        assert np.array_equal(np.isfinite(drawn), seen)
        errors = [
            np.where(v.counts[seen] > 0, v.sigma[seen], 1.15 / v.exposure[seen]) for v in (a, b)
        ]
        wanted = (a.intensity[seen] - b.intensity[seen]) / np.hypot(*errors)
        assert drawn[seen] == pytest.approx(wanted, abs=0.05)
        keep(page, "page-compare")
        assert faults(page) == []


def test_maps_on_other_axes_have_no_difference_and_it_is_said_why(page):
    coarse = snapshot("coarse", spectrum=spectrum(energy_bins=70), updated_ns=now_ns())
    before = snapshot("old", updated_ns=now_ns())
    old = replace(before, spectrum=replace(before.spectrum, hkl=None))
    with serving(create_app(store(coarse, old, trusted()))) as url:
        page.goto(f"{url}#run=ge-demo")
        page.wait_for_selector("#map .heatmaplayer image")
        for name, why in (("coarse", "70 bins from 0 to 70 meV there"), ("old", "older version")):
            page.select_option("#compare-with", name)
            expect(page.locator("#compare-map-note")).to_contain_text(why)
            assert not page.locator("#compare-map").is_visible()
