"""The page of networks in a real Chromium: what is kept of one, and a run among its spectra."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from steering.run import RunStore
from steering.study import keep_analysis
from steering.web import Models, create_app, serving
from tests.model_server.networks.small_bundle import trained
from tests.steering.germanium_bundle import analysed
from tests.steering.web.conftest import keep, table_of
from tests.steering.web.test_model_routes import fold_arrays, run, view

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    keep_analysis(folder / "small", analysed(folder))
    trained().save(folder / "other")
    runs = RunStore()
    runs.publish(run("mine", view(fold_arrays(folder))))
    with serving(create_app(runs, models=Models([folder]))) as found:
        yield found


def drawn(page, plot: str) -> list[dict]:
    return page.evaluate(
        f"""() => document.getElementById("{plot}").data.map((one) => (
            {{name: one.name ?? null, x: [...one.x], rows: one.z ? one.z.length : 0}}))"""
    )


def test_a_run_is_shown_among_the_spectra_of_a_network(page, url):
    page.goto(f"{url}models?model=small&run=mine")
    expect(page.locator("#latent")).to_be_visible()
    expect(page.locator("#reading-place")).to_contain_text("latent distance")
    assert page.input_value("#model") == "small"
    places = drawn(page, "places")
    assert [one["name"] for one in places] == ["simulated", "mine"]
    assert len(places[0]["x"]) == 64
    assert len(places[1]["x"]) == 1
    assert drawn(page, "sensitivity")[0]["rows"] == 4
    assert [one["name"] for one in drawn(page, "psi")] == ["1NN xx", "1NN xy", "2NN xx"]
    assert len(drawn(page, "distance")) == 3
    read = table_of(page, "reading")
    assert [row[0] for row in read] == ["1NN xx", "1NN xy", "2NN xx"]
    assert float(read[0][1].replace("\u2212", "-"))
    expect(page.locator("#facts")).to_contain_text("variational-encoder")
    keep(page, "models")

    before = page.inner_text("#places-note")
    page.select_option("#parameter", label="2NN xx")
    assert page.inner_text("#places-note") != before
    page.select_option("#run", "")
    expect(page.locator("#reading-card")).to_be_hidden()
    assert [one["name"] for one in drawn(page, "places")] == ["simulated"]


def test_a_network_without_an_analysis_and_a_run_of_another_experiment_say_so(page, url):
    page.goto(f"{url}models?model=other&run=mine")
    expect(page.locator("#no-latent")).to_contain_text("beamsteer latent")
    expect(page.locator("#fault")).to_contain_text("trained for another experiment")
    expect(page.locator("#latent")).to_be_hidden()
    page.select_option("#model", "small")
    expect(page.locator("#latent")).to_be_visible()
    expect(page.locator("#fault")).to_be_hidden()
