"""``/v1/models`` over HTTP: cards, latents, and what networks read off the runs that are shown."""

from __future__ import annotations

import numpy as np
import pytest
from fastapi.testclient import TestClient

from model_server.networks import BundleRegistry, FoldedSpectrum, read_spectra
from steering.run import RunSnapshot, RunStore, SpectrumView
from steering.study import keep_analysis
from steering.web import Models, create_app
from tests.model_server.networks.small_bundle import trained
from tests.steering.germanium_bundle import analysed, measurement, write_fold

KEPT = {"simulated": (64, 2), "parameters": (64, 3)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle with an analysis of its latent, and one without."""
    found = tmp_path_factory.mktemp("models")
    keep_analysis(found / "small", analysed(found))
    trained().save(found / "other")
    return found


def view(arrays, **more) -> SpectrumView:
    """A fold as a run shows it: what is not known is NaN, and intensities have a scale."""
    shape, scale = arrays["S"].shape, 4.0
    unknown = arrays["D"] == 0
    intensity = np.where(unknown, np.nan, arrays["S"] / np.where(unknown, 1, arrays["D"])) / scale
    none = np.full(shape, np.nan)
    told = {
        "path_position": np.arange(float(shape[0])), "segment_breaks": (), "tick_positions": (),
        "tick_labels": (), "energy_edges_meV": arrays["energy_edges_meV"], "intensity": intensity,
        "sigma": none, "model_intensity": none, "residual_sigma": none,
        "branches": np.zeros((shape[0], 1)), "exposure": np.where(unknown, np.nan, arrays["D"]),
        "hkl": arrays["path_hkl_rlu"], "counts": arrays["N"], "scale": np.array(scale),
    }  # fmt: skip
    return SpectrumView(**(told | more))


def fold_arrays(folder) -> dict[str, np.ndarray]:
    """A fold of germanium with a hole."""
    with np.load(write_fold(folder / "folded.npz")) as kept:
        found = {name: kept[name] for name in kept.files}
    for name in ("S", "D", "N"):
        found[name][3] = 0.0
    return found


@pytest.fixture(scope="module")
def arrays(folder):
    return fold_arrays(folder)


@pytest.fixture(scope="module")
def client(folder, arrays):
    runs = RunStore()
    runs.publish(run("germanium run", view(arrays)))
    runs.publish(run("before", view(arrays, hkl=None)))
    runs.publish(run("none yet", None))
    with TestClient(
        create_app(runs, models=Models([folder])), base_url="http://127.0.0.1"
    ) as found:
        yield found


def run(name: str, spectrum: SpectrumView | None) -> RunSnapshot:
    return RunSnapshot(
        run_id=name, title=name, status="finished", experiment={}, updated_ns=1, spectrum=spectrum
    )  # fmt: skip


def test_a_card_is_for_programs_or_for_people(client):
    card = client.get("/v1/models/germanium/card").json()
    assert card["experiment"]["hash"] == "5ae488e3e18715a2"
    told = client.get("/v1/models/germanium/card", params={"format": "markdown"})
    assert told.headers["content-type"].startswith("text/markdown")
    assert "What it is not" in told.text


def test_a_latent_is_served_as_it_was_kept(client, folder):
    found = analysed(folder)
    told = client.get("/v1/models/small/latent").json()
    for key, shape in KEPT.items():
        kept = np.array(told["map"][key])
        assert kept.shape == shape
        np.testing.assert_allclose(kept, found["map"][key], rtol=1e-4)
    np.testing.assert_allclose(told["sensitivity"], found["sensitivity"]["over_spread"], rtol=1e-4)
    assert told["psi"]["psi_deg"] == [0.0, 60.0, 120.0]
    assert "simulated" not in told["distance"]
    assert told["experiment"] == client.get("/v1/models/small/card").json()["experiment"]["hash"]


def test_the_shipped_network_has_a_latent_with_a_map(client):
    told = client.get("/v1/models/germanium/latent").json()
    assert len(told["map"]["simulated"]) == told["spectra"] == 960
    assert all(told["activity"]["active"])
    kept = client.get("/v1/models/germanium/card").json()["latent map"]
    assert told["map"]["shares"] == kept["shares"]
    spread = np.std(told["map"]["simulated"], axis=0)
    assert (spread > 0.5).all()


def test_a_model_without_an_analysis_says_what_makes_one(client):
    answer = client.get("/v1/models/other/latent")
    assert answer.status_code == 404
    assert "beamsteer latent" in answer.json()["detail"]
    assert client.get("/v1/models/no/latent").status_code == 404


def test_a_damaged_analysis_is_503(client, folder):
    (folder / "other" / "latent.json").write_text('{"map": [1, 2')
    answer = client.get("/v1/models/other/latent")
    (folder / "other" / "latent.json").unlink()
    assert answer.status_code == 503
    assert "its analysis cannot be read" in answer.json()["detail"]


def test_a_run_is_read_as_its_sums_are(client, folder, arrays):
    told = client.get("/v1/models/small/reading", params={"run": "germanium run"}).json()
    spectrum = FoldedSpectrum.of_sums(
        name="x", signal=arrays["S"], exposure=arrays["D"], counts=arrays["N"],
        path_hkl=arrays["path_hkl_rlu"], energy_edges_meV=arrays["energy_edges_meV"],
    )  # fmt: skip
    read = read_spectra(BundleRegistry([folder]).get("small"), [spectrum])[0]
    one = told["estimates"][0]
    found = [each["value"] for each in one["parameters"]]
    np.testing.assert_allclose(found, read.values, rtol=1e-5)
    assert one["counts"] == read.counts
    np.testing.assert_allclose(one["latent_place"], read.latent_place, atol=1e-3)
    assert len(measurement().path.centres_hkl()) == len(arrays["D"])


@pytest.mark.parametrize(
    ("model", "name", "status", "words"),
    [
        ("small", "nobody", 404, "run is 'nobody'"),
        ("small", "none yet", 404, "no chunk yet"),
        ("small", "before", 404, "older version"),
        ("nothing", "germanium run", 404, "model is 'nothing'"),
        ("other", "germanium run", 422, "trained for another experiment"),
    ],
)
def test_a_run_that_cannot_be_read_says_why(client, model, name, status, words):
    answer = client.get(f"/v1/models/{model}/reading", params={"run": name})
    assert answer.status_code == status
    assert words in answer.json()["detail"]


def test_the_page_of_networks_is_served(client):
    answer = client.get("/models")
    assert answer.headers["content-type"].startswith("text/html")
    assert "/assets/models/main.js" in answer.text
    assert client.get("/assets/models/main.js").status_code == 200
