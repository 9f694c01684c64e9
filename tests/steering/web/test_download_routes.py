from __future__ import annotations

import csv
import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import expect

from steering.run.force_constants_file import PhonopyTexts
from steering.web import create_app, serving
from tests.steering.fabricated import snapshot, store
from tests.steering.virtual_scan import small_measurement
from tests.steering.web.conftest import keep

NAMES = {
    "map.npz": b"PK",
    "map.csv": b"# germanium",
    "map.png": b"\x89PNG",
    "map.pdf": b"%PDF",
    "map.svg": b"<?xml",
}


def reader(*snapshots) -> TestClient:
    return TestClient(create_app(store(*snapshots)), base_url="http://127.0.0.1:8080")


def test_a_map_is_given_in_every_format_with_a_name_to_save_it_under():
    client = reader()
    for name, begins in NAMES.items():
        answer = client.get(f"/runs/ge-demo/downloads/{name}")
        assert answer.status_code == 200, name
        assert answer.content.startswith(begins), name
        assert answer.headers["content-disposition"] == f'attachment; filename="ge-demo-{name}"'
        again = client.get(f"/runs/ge-demo/downloads/{name}")
        assert again.content == answer.content, name


def test_the_table_holds_every_cell_that_was_seen_and_no_other():
    view = snapshot().spectrum
    assert view is not None
    text = reader().get("/runs/ge-demo/downloads/map.csv").text
    lines = text.splitlines()
    notes = [line for line in lines if line.startswith("# ")]
    assert any("run ge-demo" in line for line in notes)
    assert any("model: trusted" in line for line in notes)
    rows = list(csv.DictReader(lines[len(notes) :]))
    seen = np.isfinite(view.intensity)
    assert len(rows) == seen.sum()
    for name, array in (("counts", view.counts), ("exposure", view.exposure)):
        assert [float(row[name]) for row in rows] == pytest.approx(array[seen], rel=1e-5), name
    i, j = np.argwhere(seen)[77]
    assert float(rows[77]["energy_meV"]) == view.energy_edges_meV[j] + 0.25
    assert float(rows[77]["k_rlu"]) == pytest.approx(view.hkl[i, 1])
    assert rows[77]["fitted"] == str(int(view.fitted[i, j]))


def test_arrays_hold_what_the_map_shows():
    view = snapshot().spectrum
    assert view is not None
    content = reader().get("/runs/ge-demo/downloads/map.npz").content
    with np.load(io.BytesIO(content)) as arrays:
        np.testing.assert_array_equal(arrays["counts"], view.counts)
        np.testing.assert_array_equal(arrays["hkl_rlu"], view.hkl)
        np.testing.assert_array_equal(arrays["branches_p95_meV"], view.branches_high)


def test_force_constants_are_the_posterior_mean_as_phonopy_reads_it(tmp_path):
    import phonopy

    model = small_measurement().quick_forward.model
    values = 1.03 * np.array(model.values)
    files = PhonopyTexts(model).of(values)
    answer = reader(snapshot(force_constants=files)).get(
        "/runs/ge-demo/downloads/force-constants.zip"
    )
    assert answer.status_code == 200
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert set(archive.namelist()) == {"phonopy.yaml", "FORCE_CONSTANTS", "README.txt"}
        assert b"run ge-demo" in archive.read("README.txt")
        archive.extractall(tmp_path)
    read = phonopy.load(
        tmp_path / "phonopy.yaml",
        force_constants_filename=tmp_path / "FORCE_CONSTANTS",
        is_compact_fc=True,
        log_level=0,
    )
    read.run_qpoints([[0.0, 0.5, 0.5]])
    found = np.sort(read.qpoints.frequencies[0]) * 4.135667696
    ours = small_measurement().quick_forward.branches(np.array([[1.0, 0.0, 0.0]]), values)[0]
    assert found == pytest.approx(ours, abs=0.01)


def test_what_there_is_not_says_why():
    early = snapshot("early", result=None, spectrum=None, history=())
    client = reader(snapshot(), early)
    told = {
        one["name"]: one["why_not"]
        for one in client.get("/runs/ge-demo/downloads").json()["downloads"]
    }
    assert told["map.csv"] is None
    assert "one orientation" in told["map.nxspe"]
    assert "older version" in told["force-constants.zip"]
    for name in ("map.nxspe", "force-constants.zip"):
        answer = client.get(f"/runs/ge-demo/downloads/{name}")
        assert answer.status_code == 404
        assert told[name] in answer.json()["detail"]
    assert "no spectrum yet" in client.get("/runs/early/downloads/map.png").json()["detail"]
    assert "no estimate yet" in client.get("/runs/early/downloads/force-constants.zip").text
    assert client.get("/runs/nobody/downloads").status_code == 404
    assert client.get("/runs/ge-demo/downloads/map.exe").status_code == 422


def test_a_table_of_an_untrusted_run_says_that_its_model_claims_nothing():
    before = snapshot()
    assert before.result is not None
    result = before.result.model_copy(update={"trusted": False, "trust": "not explained"})
    odd = replace(before, result=result, title="=cmd|x\r\n# not a note")
    text = reader(odd).get("/runs/ge-demo/downloads/map.csv").text
    assert text.startswith("# =cmd|x # not a note, run ge-demo\n")
    assert "# model: not explained; figures of the model claim nothing" in text


@pytest.mark.browser
def test_the_page_offers_them(page):
    with serving(create_app(store())) as url:
        page.goto(url)
        page.wait_for_selector("#map .heatmaplayer image")
        page.click("#downloads summary")
        expect(page.locator("#downloads a")).to_have_count(5)
        assert "one orientation" in page.inner_text("#downloads-list")
        with page.expect_download() as given:
            page.click("#downloads a:has-text('map.csv')")
        assert given.value.suggested_filename == "ge-demo-map.csv"
        keep(page, "page-downloads")
