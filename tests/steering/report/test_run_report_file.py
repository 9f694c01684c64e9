"""Reports of runs on disk: a real virtual run, a state folder, and what is not there."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from simulations.errors import InputError
from steering import cli
from steering.alarms.book import Event
from steering.alarms.book_store import AlarmFolder
from steering.report import chosen_run, runs_found, write_run_report
from steering.report.run_report import _fitted_alone
from steering.report.run_report_file import _facts
from steering.run import RunStore, replay, save_snapshot
from tests.steering.fabricated import snapshot
from tests.steering.report.test_run_report import Requests, words
from tests.steering.virtual_scan import EXAMPLES, VirtualScan, virtual_scan

__all__ = ["virtual_scan"]


@pytest.fixture(scope="module")
def replayed(virtual_scan: VirtualScan, tmp_path_factory) -> Path:
    """Two orientations and a file that is none, replayed."""
    folder = tmp_path_factory.mktemp("replayed")
    broken = folder / "broken.nxs.h5"
    broken.write_text("no data")
    store = RunStore()
    replay(
        [*virtual_scan.events[:2], broken],
        virtual_scan.experiment,
        experiment_dir=EXAMPLES,
        output=folder,
        store=store,
        run_id="ge",
    )
    run = store.get("ge")
    assert run is not None
    save_snapshot(run, folder / "snapshot.npz")
    return folder


def test_the_report_of_a_virtual_run_says_what_the_result_says(replayed, tmp_path, capsys):
    out = tmp_path / "run.html"
    assert cli.run(["report", str(replayed), "-o", str(out), "--zone", "Europe/Paris"]) == 0
    assert str(out) in capsys.readouterr().out.replace("\n", "")
    html = out.read_text()
    reader = Requests()
    reader.feed(html)
    assert reader.asked == []
    seen = words(html)
    result = json.loads((replayed / "result.json").read_text())
    for one in result["parameters"]:
        assert one["name"] in seen
    first = result["parameters"][0]
    value = f"{first['value']:.3f}".replace("-", "\u2212")[:5]
    assert re.search(rf"{first['name']} {re.escape(value)}", seen)
    assert "\u2013 narrowed" not in seen
    assert re.search(r"1NN xx .* \u00b1 .* \d+ \u00d7", seen)  # the prior is known
    assert f"{result['events']['read']:,} / {result['events']['folded']:,}" in seen
    assert "no HDF5 file" in seen
    assert re.search(r"2026-01-01 01:00:00 CET 5\.00 2\.00 0\.\d+", seen)
    assert "sample.structure" in seen  # of the fingerprint
    assert html.count("data:image/svg+xml") == 4
    assert len(html) < 1_000_000


def test_the_result_file_is_as_good_as_its_folder(replayed, tmp_path):
    for name in ("result.json", "snapshot.npz"):
        (run,) = runs_found(replayed / name)
        assert run.snapshot.run_id == "ge"


def test_the_elastic_band_is_not_held_against_the_model(replayed):
    """With it hardly any pull would be near one: no model of it is fitted."""
    (run,) = runs_found(replayed)
    facts, _ = _facts(run, ())
    view = run.snapshot.spectrum
    assert view is not None
    assert facts.fitted_from_meV is not None
    assert 1 < facts.fitted_from_meV < 5
    shown = _fitted_alone(view, facts.fitted_from_meV)
    assert np.nanmax(abs(view.residual_sigma)) > 20
    assert np.nanmax(abs(shown.residual_sigma)) < 12
    centres = (view.energy_edges_meV[1:] + view.energy_edges_meV[:-1]) / 2
    assert np.isnan(shown.residual_sigma[:, centres < facts.fitted_from_meV]).all()
    assert np.isfinite(shown.residual_sigma).sum() > 800


def test_a_run_of_a_state_folder_finds_its_chunks_and_its_experiment(replayed, tmp_path):
    inside = tmp_path / "partition-0" / "ge"
    shutil.copytree(replayed / "chunks", inside / "chunks")
    (inside / "estimate").mkdir()
    shutil.copy(replayed / "snapshot.npz", inside / "estimate")
    shutil.copy(replayed / "result-experiment.yaml", tmp_path / "experiment.yaml")
    (run,) = runs_found(tmp_path)
    facts, zone = _facts(run, ())
    assert {name: one.start_time_ns > 0 for name, one in facts.chunks.items()} == {
        "1": True,
        "2": True,
    }
    assert set(facts.prior) == {"1NN xx", "1NN xy", "2NN xx"}
    assert (facts.notes, zone) == ([], "UTC")


def test_a_run_without_its_files_says_what_is_left_away(tmp_path):
    save_snapshot(snapshot(), tmp_path / "snapshot.npz")
    (run,) = runs_found(tmp_path)
    seen = words(write_run_report(run, tmp_path / "run.html", made_ns=0).read_text())
    assert "prior and fingerprint are left away" in seen
    assert "files of 8 of 8 folded chunks are not there" in seen


def test_of_several_runs_one_is_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "partition-0" / name / "estimate").mkdir(parents=True)
        place = tmp_path / "partition-0" / name / "estimate" / "snapshot.npz"
        save_snapshot(replace(snapshot(name)), place)
    found = runs_found(tmp_path)
    assert chosen_run(found, "b").snapshot.run_id == "b"
    for wrong in (None, "c"):
        with pytest.raises(InputError, match="expected one of: a, b"):
            chosen_run(found, wrong)


def test_alarms_of_the_run_are_among_the_decisions(tmp_path):
    save_snapshot(snapshot("night"), tmp_path / "snapshot.npz")
    AlarmFolder(tmp_path).log(
        [
            Event(at_ns=10**18, what="raised", alarm="1", kind="stop", subject="night", text="t"),
            Event(at_ns=10**18, what="raised", alarm="2", kind="stop", subject="other", text="no"),
            Event(
                at_ns=10**18,
                what="acknowledged",
                alarm="1",
                kind="stop",
                subject="night",
                text="seen it",
                by="Ada",
            ),
        ]
    )
    out = tmp_path / "run.html"
    assert cli.run(["report", str(tmp_path), "-o", str(out), "--json"]) == 0
    seen = words(out.read_text())
    assert "acknowledged: stop Ada seen it" in seen
    assert seen.count("alarm: stop") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nosuch"], "is not there"),
        (["."], "holds no run"),
        (["snapshot.npz", "-o", "run.docx"], "ends in .html or .pdf"),
        (["snapshot.npz", "--zone", "Mars"], "expected a time zone"),
        (["snapshot.npz", "--run", "x"], "expected one of: ge-demo"),
        (["damaged"], "is no snapshot of a run"),
    ],
)
def test_what_cannot_be_reported_is_told(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    if arguments[0].startswith("snapshot"):
        save_snapshot(snapshot(), tmp_path / "snapshot.npz")
    (tmp_path / "damaged").mkdir()
    if arguments[0] == "damaged":
        (tmp_path / "damaged" / "snapshot.npz").write_bytes(b"PK")
    assert cli.run(["report", *arguments]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run.html").exists()


def test_without_a_browser_a_pdf_is_refused_with_what_to_do(tmp_path, monkeypatch):
    save_snapshot(snapshot(), tmp_path / "snapshot.npz")
    (run,) = runs_found(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"Write \.html"):
        write_run_report(run, tmp_path / "run.pdf", made_ns=0, environment={})
    browser = {"BEAMSTEER_CHROMIUM": "/bin/false"}
    with pytest.raises(InputError, match="did not print"):
        write_run_report(run, tmp_path / "run.pdf", made_ns=0, environment=browser)
    assert not (tmp_path / "run.pdf").exists()


@pytest.mark.browser
def test_a_browser_shows_the_page_without_a_request_and_prints_it(chromium, tmp_path):
    save_snapshot(snapshot(), tmp_path / "snapshot.npz")
    (run,) = runs_found(tmp_path)
    path = write_run_report(run, tmp_path / "run.html", made_ns=0)
    asked: list[str] = []
    said: list[str] = []
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]
        started = playwright.chromium.launch(executable_path=str(chromium), args=flags)
        page = started.new_page(viewport={"width": 400, "height": 800})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert page.locator("img").evaluate_all("all => all.every(one => one.naturalWidth > 100)")
        started.close()
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert said == []
    browser = {"BEAMSTEER_CHROMIUM": str(chromium)}
    printed = write_run_report(run, tmp_path / "run.pdf", made_ns=0, environment=browser)
    content = printed.read_bytes()
    assert content.startswith(b"%PDF-")
    assert len(content) > 50_000
