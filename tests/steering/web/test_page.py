from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from playwright.sync_api import expect

from steering.run import RunStore, now_ns, result_document
from steering.web import create_app, serving
from steering.web.answers import RunProgress, WorkerAnswer
from tests.steering.fabricated import NAMES, snapshot, store
from tests.steering.web.conftest import keep, table_of

pytestmark = pytest.mark.browser


def test_the_page_shows_map_parameters_and_ranking(page):
    runs = store(snapshot(updated_ns=now_ns()))
    with serving(create_app(runs)) as url:
        page.goto(url)
        page.wait_for_selector("#map .heatmaplayer image")
        figure = page.evaluate(
            """() => { const [heat, dark, bands, ...lines] = document.getElementById("map").data;
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
        assert "chi-square" in page.inner_text("#trust-evidence")
        assert "12 min" in page.inner_text("#stop-word")
        assert "psi is NaN" in page.inner_text("#aside")
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
        assert "<b>not bold</b>" in page.inner_text("#trust-evidence")  # text, never markup
        assert "falsification" in page.inner_text("#policy")
        assert page.inner_text("#status") == "finished"
        assert page.inner_text("#stop-word") == "Ended untrusted"  # whatever the rule said


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
        shown = page.evaluate("() => document.getElementById('map').data.map((t) => t.name)")
        assert shown == ["map", "not fitted"]


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
    with serving(create_app(store(snapshot(updated_ns=now_ns())))) as url:
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
        silent_s=9.0,
    )
    workers = [worker]
    with serving(create_app(store(snapshot()), workers=lambda: workers)) as url:
        page.goto(url)
        told = page.locator("#workers")
        expect(told).to_contain_text("Dead for 9 s")
        expect(told).to_contain_text("silent for 9 s. <b>Look</b>")
        keep(page, "dead-worker")
        workers[0] = worker.model_copy(update={"state": "ready", "reasons": []})
        expect(told).to_be_hidden(timeout=20_000)


def test_an_untrusted_run_shows_no_target_as_met_and_no_dwell(page):
    before = snapshot(updated_ns=now_ns())
    assert before.result is not None
    reason = "chunk 178903 has 4210 counts where 6103 are expected (-24 sigma): " + 20 * "look "
    document = before.result.document() | {"trusted": False, "reasons": [reason, "another"]}
    with serving(create_app(store(replace(before, result=result_document(document))))) as url:
        page.goto(url)
        expect(page.locator("#stop-word")).to_have_text("Test the model")
        for panel in ("#parameters", "#ranking", "#verdict-next", "#verdict-stop"):
            said = page.inner_text(panel)
            assert "met" not in said.replace("parameter", "")
            assert " min" not in said.replace("gain per minute", "")
        assert page.locator("#parameters .gauge").count() == 0
        colours = page.evaluate(
            """() => [...document.querySelectorAll("#parameters td, #ranking td")].map(
                (cell) => getComputedStyle(cell).color)"""
        )
        assert set(colours) == {"rgb(131, 146, 161)"}  # grey
        assert page.evaluate("() => document.getElementById('history').layout.shapes") == []
        assert page.locator("#trust-evidence li").count() == 2
        assert not page.locator("#trust-reasons").is_visible()
        page.click("#trust-more")
        assert reason.strip() in page.inner_text("#trust-reasons")
        keep(page, "untrusted")


def test_a_stop_hides_where_to_turn(page):
    before = snapshot(updated_ns=now_ns())
    assert before.result is not None
    stop = {"stop": True, "reason": "every target met", "minutes_to_target": 0.0}
    document = before.result.document() | {"stop": stop}
    with serving(create_app(store(replace(before, result=result_document(document))))) as url:
        page.goto(url)
        expect(page.locator("#stop-word")).to_have_text("Stop now")
        assert not page.locator("#verdict-next").is_visible()
        assert "48°" not in page.inner_text("main")
        assert page.locator("#strip path").count() == 0
        keep(page, "stop")


@pytest.mark.parametrize("width", [1400, 420])
def test_reasons_of_chunks_that_were_set_aside_are_never_clipped(page, width):
    reason = "file /data/" + 40 * "very_long_name_" + " is damaged; " + 30 * "look at it. "
    before = snapshot(updated_ns=now_ns())
    chunks = [one.model_copy(update={"status": "set aside", "reason": reason}) for one in
              before.chunks]  # fmt: skip
    page.set_viewport_size({"width": width, "height": 900})
    with serving(create_app(store(replace(before, chunks=tuple(chunks))))) as url:
        page.goto(url)
        expect(page.locator("#aside li")).to_have_count(len(chunks))
        clipped = page.evaluate(
            """() => [...document.querySelectorAll("#aside, #aside li")].filter((node) =>
                node.scrollWidth > node.clientWidth ||
                node.scrollHeight > node.clientHeight).length"""
        )
        assert clipped == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.inner_text("#aside").count(reason.strip()) == len(chunks)


def test_what_is_not_fitted_is_drawn_so(page):
    view = snapshot().spectrum
    assert view is not None
    assert view.fitted is not None
    left = int((np.isfinite(view.intensity) & ~view.fitted).sum())
    with serving(create_app(store(snapshot()))) as url:
        page.goto(url)
        page.wait_for_selector("#map .heatmaplayer image")
        for layer in ("Measured", "Model", "Residual"):
            page.click(f"text={layer}")
            drawn = page.evaluate(
                """() => { const map = document.getElementById("map"), dark = map.data[1];
                    return [dark.name, dark.z.flat().filter((v) => v === 1).length,
                            map.layout.shapes.filter((s) => s.line.dash).map((s) => s.y0),
                            map.layout.annotations.map((a) => a.text)] }"""
            )
            assert drawn == ["not fitted", left, [2], ["below: elastic band, not fitted"]]
        assert "measured and not fitted" in page.inner_text("#map-note")


def lab(colour: str) -> np.ndarray:
    """CIELAB of an sRGB colour, D65."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ linear / (0.95047, 1.0, 1.08883)
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_residuals_look_as_far_below_as_above_the_model(page):
    """In lightness and in distance from the middle, CIELAB; a difference of 2.3 is seen."""
    with serving(create_app(store(snapshot()))) as url:
        page.goto(url)
        page.wait_for_selector("#map .heatmaplayer image")
        page.click("text=Residual")
        scale = page.evaluate("() => document.getElementById('map').data[0].colorscale")
    colours = [lab(colour) for _, colour in scale]
    middle = colours[len(colours) // 2]
    for below, above in zip(colours, reversed(colours), strict=True):
        assert below[0] == pytest.approx(above[0], abs=2.3)
        sides = [np.linalg.norm(one - middle) for one in (below, above)]
        assert sides[0] == pytest.approx(sides[1], abs=2.3)


def test_a_page_without_runs_says_what_is_folded_and_not_estimated(page):
    worker = WorkerAnswer(
        service="consume",
        partitions=[0],
        state="ready",
        reasons=[],
        heard_ns=now_ns(),
        runs={"night": RunProgress(folded=3)},
    )
    with serving(create_app(RunStore(), workers=lambda: [worker])) as url:
        page.goto(url)
        expect(page.locator("#waiting")).to_contain_text("night: 3 folded, no estimate yet")


def test_branches_have_their_bands_and_cells_tell_what_is_known_of_them(page):
    view = snapshot().spectrum
    assert view is not None
    assert view.hkl is not None
    with serving(create_app(store())) as url:
        page.goto(url)
        page.wait_for_selector("#map .heatmaplayer image")
        bands, texts, line = page.evaluate(
            """() => { const [heat, , bands, line] = document.getElementById("map").data;
                const pieces = bands.x.filter((v) => v === null).length;
                return [{name: bands.name, fill: bands.fill, pieces, high: Math.max(...bands.y)},
                        heat.text, line.text[30]] }"""
        )
        assert (bands["name"], bands["fill"]) == ("90 % bands", "toself")
        assert bands["pieces"] == 6 * 2  # the path has one gap
        assert bands["high"] == pytest.approx(np.max(view.branches_high), abs=1e-3)
        assert line.startswith("<br>90 %: ")
        energy = view.energy_edges_meV[:-1] + 0.25
        apart = np.abs(energy[None, :, None] - view.branches[:, None]).min(axis=2) > 2.5
        apart[:20] = False
        i, j = (int(k) for k in np.argwhere((view.counts > 1) & apart & view.fitted)[0])
        told = texts[j][i]
        hkl = " ".join(f"{x:.3g}" for x in view.hkl[i])
        assert told.startswith(f"({hkl}) E {view.energy_edges_meV[j] + 0.25:.2f} meV")
        assert f"{int(view.counts[i, j])} counts, exposure " in told
        error = float(told.partition("± ")[2].split()[0])
        assert error == pytest.approx(view.sigma[i, j], rel=0.05)
        unknown = np.argwhere(np.isnan(view.intensity))[0]
        assert texts[unknown[1]][unknown[0]] == ""
        # What a person sees who points at a cell that the branches leave free.
        page.mouse.move(*at_cell(page, view, i, j))
        expect(page.locator("#map .hoverlayer")).to_contain_text("counts, exposure")


def at_cell(page, view, i: int, j: int) -> tuple[float, float]:
    """Where on the screen a cell of the map is."""
    return tuple(
        page.evaluate(
            """([x, y]) => { const map = document.getElementById("map");
                const at = map.getBoundingClientRect(), {xaxis, yaxis} = map._fullLayout;
                return [at.x + xaxis._offset + xaxis.l2p(x),
                        at.y + yaxis._offset + yaxis.l2p(y)] }""",
            [float(view.path_position[i]), float(view.energy_edges_meV[j]) + 0.25],
        )
    )


def cut(page, which: str) -> dict:
    """Traces of a cut by name: x, y and error bars."""
    return page.evaluate(
        """(id) => Object.fromEntries(document.getElementById(id).data.map(
            ({name, x, y, error_y: e}) => [name, {x, y, up: e?.array, down: e?.arrayminus}]))""",
        which,
    )


def test_cuts_go_through_the_cell_that_is_clicked_or_reached_by_keys(page):
    view = snapshot().spectrum
    assert view is not None
    i, j = 70, 20
    assert np.isfinite(view.intensity[i, j])
    with serving(create_app(store())) as url:
        page.goto(url)
        page.wait_for_selector("#map .heatmaplayer image")
        assert not page.locator("#cut-of-q").is_visible()
        page.mouse.click(*at_cell(page, view, i, j))
        page.wait_for_selector("#cut-of-q .errorbars")
        column, row = cut(page, "cut-of-q"), cut(page, "cut-of-e")
        known = np.isfinite(view.intensity[i])
        used = known & view.fitted[i]
        assert column["measured"]["y"] == pytest.approx(view.intensity[i, used], rel=1e-3)
        assert column["measured"]["down"] == pytest.approx(view.sigma[i, used], rel=1e-2)
        zero = view.counts[i, used] == 0
        up = np.where(zero, 1.15 / view.exposure[i, used], view.sigma[i, used])
        assert zero.any()
        assert column["measured"]["up"] == pytest.approx(up, rel=2e-2)
        assert len(column["not fitted"]["x"]) == int((known & ~view.fitted[i]).sum()) > 0
        assert column["residual"]["y"] == pytest.approx(view.residual_sigma[i, used], abs=0.06)
        seen = np.isfinite(view.intensity[:, j])
        assert row["measured"]["y"] == pytest.approx(view.intensity[seen, j], rel=1e-3)
        assert row["model"]["y"].index(None) >= 0  # broken where the path is, or nothing is known
        assert "counts" in page.inner_text("#cut-cell")
        keep(page, "page-cuts")

        page.focus("#map")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("Shift+ArrowLeft")
        moved = cut(page, "cut-of-q")["measured"]["y"]
        there = np.isfinite(view.intensity[i - 5]) & view.fitted[i - 5]
        assert moved == pytest.approx(view.intensity[i - 5, there], rel=1e-3)
        assert page.input_value("#cut-e") == str(j + 1)
        page.focus("#cut-q")  # a slider, for whoever has no pointer
        page.keyboard.press("ArrowRight")
        assert page.input_value("#cut-q") == str(i - 4)
        assert page.get_attribute("#cut-q", "aria-valuetext").startswith("(")


def test_the_page_tells_which_parts_of_the_path_each_orientation_reaches(page):
    shown = snapshot()
    assert shown.reach is not None
    with serving(create_app(store(shown))) as url:
        page.goto(url)
        page.wait_for_selector("#reach tbody tr canvas")
        lines = table_of(page, "reach")
        assert [line[0] for line in lines[:5]] == ["48°", "84°", "12°", "102°", "30°"]
        assert [line[-1] for line in lines] == [
            f"{100 * share.mean():.0f} %" for share in np.roll(shown.reach.share, 5, axis=0)
        ]
        told = page.locator("#reach canvas").first.get_attribute("aria-label")
        assert told.startswith("ψ 48° reaches Γ–X ")
        assert told.count("%") == 6
        # The strip is bright where the orientation sees the path and empty where it does not.
        alpha = page.evaluate(
            """() => { const strip = document.querySelector("#reach canvas");
                const {data} = strip.getContext("2d").getImageData(0, 5, strip.width, 1);
                return Array.from({length: 140}, (_, k) => data[4 * (4 * k + 2) + 3] / 255) }"""
        )
        share = shown.reach.share[8]
        away = np.abs(np.subtract.outer(np.arange(140), (0, 40, 50, 80, 100, 120, 140))).min(1) > 1
        wanted = np.where(share > 0, 0.15 + 0.85 * share, 0)
        assert np.array(alpha)[away] == pytest.approx(wanted[away], abs=0.06)
