"""The planner's page in a real Chromium, with the real process behind it."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from steering.run import RunStore
from steering.web import BoundedPredictor, create_app, serving
from tests.steering.web.conftest import keep

pytestmark = pytest.mark.browser
LONG_MS = 240_000  # a first prediction, where the processor is not free


@pytest.fixture(scope="module")
def url():
    with serving(create_app(RunStore(), BoundedPredictor())) as found:
        yield found


def test_a_crystal_is_asked_for_and_shown_and_looked_at(page, url, tmp_path):
    page.goto(f"{url}predict")
    expect(page.locator("#instrument option")).to_have_count(7)
    expect(page.locator("#reach")).to_contain_text("resolution")
    assert page.locator("#structures option").count() >= 3
    page.click("#go")
    expect(page.locator("#fault")).to_contain_text("No structure is named")

    page.fill("#structure", "germanium")
    page.press("#structure", "Enter")  # by keyboard alone
    expect(page.locator("#results")).to_be_visible(timeout=LONG_MS)
    expect(page.locator("#status")).to_have_text("done", timeout=LONG_MS)
    assert page.inner_text("#formula") == "Ge2"
    page.wait_for_selector("#map .heatmaplayer image")
    drawn = page.evaluate(
        """() => { const [heat] = document.getElementById("map").data;
            return {columns: heat.x.length, rows: heat.y.length,
                    known: heat.customdata.flat().filter((v) => v !== null).length,
                    lines: document.getElementById("phonons").data.length,
                    top: Math.max(...document.getElementById("phonons").data
                        .slice(0, 6).flatMap((line) => line.y.filter((y) => y !== null)))} }"""
    )
    assert (drawn["columns"], drawn["rows"]) == (101, 121)
    assert 0.1 < drawn["known"] / 12_000 < 0.9
    assert drawn["lines"] == 7  # six branches and the total density
    assert drawn["top"] == pytest.approx(37.4, abs=0.5)
    expect(page.locator("#crystal-note")).to_contain_text("a, b, c = 5.646, 5.646, 5.646")
    turned = page.evaluate("() => planner.turned()")
    assert (turned["atoms"], turned["bonds"]) == (17, 16)  # 13 on edges and in the middle, 4 inside
    keep(page, "planner")

    page.focus("#crystal")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("() => planner.turned().yaw") > turned["yaw"]

    page.select_option("#unit", "THz")
    title = page.evaluate("() => document.getElementById('phonons').layout.yaxis.title.text")
    assert title == "energy (THz)"
    top = page.evaluate("() => Math.max(...document.getElementById('phonons').data[5].y)")
    assert top == pytest.approx(drawn["top"] / 4.1357, rel=0.02)
    page.select_option("#unit", "meV")

    page.fill("#cut-q", "3")
    cut = page.evaluate(
        """() => { const map = document.getElementById("map");
            const [cut] = document.getElementById("cut-at-q").data;
            const k = map.data[0].x.findIndex((edge) => edge > 3) - 1;
            return [cut.y, map.data[0].customdata.map((row) => row[k])] }"""
    )
    assert cut[0] == cut[1]
    box = page.locator("#map .plot-container").bounding_box()
    before = page.input_value("#cut-e")
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.6 * box["height"])
    page.wait_for_function(f"() => document.getElementById('cut-e').value !== '{before}'")

    far = page.evaluate("() => Math.max(...document.getElementById('map').data[1].x)")
    page.focus("#ei-slider")
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    assert float(page.input_value("#ei")) > 45
    page.wait_for_function(
        f"() => Math.max(...document.getElementById('map').data[1].x) > 1.05 * {far}"
    )

    with page.expect_download() as begun:
        page.click("#downloads a:has-text('NPZ')")
    begun.value.save_as(tmp_path / "got.npz")
    assert (tmp_path / "got.npz").read_bytes()[:2] == b"PK"
    names = page.locator("#downloads a").all_text_contents()
    assert names[:3] == ["PNG", "NPZ", "JSON"]
    assert "CSV dispersion" in names


def test_a_line_of_a_single_crystal_is_shown_as_far_as_detectors_reach(page, url):
    page.goto(f"{url}predict")
    expect(page.locator("#instrument option")).to_have_count(7)
    page.fill("#structure", "germanium")
    expect(page.locator("#line-choice")).to_be_hidden()
    page.select_option("#quantity", "line")
    page.fill("#line", "2,2,0; 9,9,0")
    page.click("#go")
    expect(page.locator("#cut-card")).to_be_visible(timeout=LONG_MS)
    page.wait_for_selector("#cut .heatmaplayer image")
    expect(page.locator("#map-card")).to_be_hidden()
    drawn = page.evaluate(
        """() => { const [heat] = document.getElementById("cut").data;
            const seen = (k) => heat.z.some((row) => row[k] !== null);
            return [heat.z.length, heat.z[0].length, seen(0), seen(149), heat.text[0][0]] }"""
    )
    assert drawn[:4] == [160, 150, True, False]
    assert "r.l.u." in drawn[4]
    keep(page, "planner-line")


def test_files_that_are_no_structure_are_told_in_words(page, url):
    page.goto(f"{url}predict")
    expect(page.locator("#instrument option")).to_have_count(7)
    hostile = "<img src=x onerror=alert(1)>"
    page.set_input_files(
        "#files", {"name": f"{hostile}.cif", "mimeType": "text/plain", "buffer": b"\0\1\2" * 99}
    )
    page.click("#go")
    expect(page.locator("#fault")).to_be_visible(timeout=LONG_MS)
    assert "binary" in page.inner_text("#fault")
    assert page.locator("#fault img").count() == 0
    expect(page.locator("#go")).to_be_enabled()


def test_every_control_has_a_label_and_is_reached_by_keyboard(page, url):
    page.goto(f"{url}predict")
    expect(page.locator("#instrument option")).to_have_count(7)
    unlabelled = page.evaluate(
        """() => [...document.querySelectorAll("input, select, button, progress")]
            .filter((node) => !node.labels?.length && !node.ariaLabel && !node.textContent.trim())
            .map((node) => node.id)"""
    )
    assert unlabelled == []
    wanted = page.evaluate(
        """() => [...document.querySelectorAll("form input, form select, form button")]
            .filter((node) => node.offsetParent !== null && !node.disabled)
            .map((node) => node.id)"""
    )
    seen = set()
    page.focus("#unit")
    for _ in range(len(wanted) + 8):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("() => document.activeElement.id"))
    assert set(wanted) <= seen


@pytest.mark.parametrize("width", [1400, 420])
def test_the_page_fits_its_window(page, url, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{url}predict")
    expect(page.locator("#instrument option")).to_have_count(7)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.select_option("#instrument", "VISION")
    expect(page.locator("#direct")).to_be_hidden()
    keep(page, f"planner-empty-{width}")
