"""Recorded files in, estimate and advice out; bad chunks are set aside and the run goes on."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from fastapi.testclient import TestClient

from consumers.fold import ChunkStart, ChunkStop, EventBlock, HistogramBlock, Message, SetAside
from consumers.recorded import recorded_source
from consumers.state import close_chunk, read_chunk
from simulations.fold import CellSums
from simulations.fold.exposure import Exposure
from simulations.likelihood import MissettingSection, QSpreadSection
from steering.experiment import (
    Measurement,
    build_measurement,
    load_experiment,
    with_absolute_files,
)
from steering.report import fold
from steering.run import RESULT_EXPERIMENT, Adviser, Run, RunStore, replay
from steering.web import create_app
from tests.steering.rutile_scan import rutile_measurement, rutile_messages
from tests.steering.virtual_scan import (
    EXAMPLES,
    FREE,
    PSI_DEG,
    VirtualScan,
    known_measurement,
    small_measurement,
    virtual_scan,
)

__all__ = ["virtual_scan"]
ACCOUNT = ("folded", "outside_path", "outside_energy", "masked", "filtered")


@dataclass(frozen=True, slots=True)
class Replayed:
    """A finished replay with what it left behind."""

    result: dict[str, Any]
    folder: Path
    store: RunStore


@pytest.fixture(scope="module")
def replayed(virtual_scan: VirtualScan, tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    folder, store = tmp_path_factory.mktemp("replayed"), RunStore()
    result = replay(
        virtual_scan.events,
        virtual_scan.experiment,
        experiment_dir=EXAMPLES,
        output=folder,
        store=store,
        run_id="good",
    )
    return Replayed(result, folder, store)


@pytest.fixture(scope="module")
def messages(virtual_scan: VirtualScan) -> tuple[Message, ...]:
    """All messages of the first two event files."""
    return tuple(recorded_source(virtual_scan.events[:2], run="r").messages())


def folding_run(folder: Path) -> Run:
    return Run(small_measurement(), run_id="r", folder=folder, estimate=False)


def feed(run: Run, messages) -> Run:
    for message in messages:
        run.accept(message)
    return run


def renumbered(payloads) -> list[Message]:
    return [Message(run="r", source="test", sequence=i, payload=p) for i, p in enumerate(payloads)]


def changed(messages, kind: type, **changes: Any) -> list[Message]:
    """The messages with fields of the first payload of one kind changed."""
    payloads, done = [], False
    for message in messages:
        payload = message.payload
        if isinstance(payload, kind) and not done:
            payload, done = replace(payload, **changes), True
        payloads.append(payload)
    return renumbered(payloads)


def is_complete(events: dict[str, int]) -> bool:
    return events["read"] == sum(events[name] for name in ACCOUNT)


def test_others_and_the_set_up_are_fitted_where_the_experiment_says_so(
    virtual_scan: VirtualScan, tmp_path
):
    experiment = virtual_scan.experiment
    experiment = experiment.model_copy(
        update={
            "parameters": experiment.parameters.model_copy(update={"others": "fitted"}),
            "missetting": MissettingSection(
                psi_offset_deg=0.1,
                tilt_deg=0,
                lattice_percent=0.1,
                ei_percent=0,
                t0_us=0,
                fitted=True,
            ),
            "q_spread": QSpreadSection(),  # none, and it is known
        }
    )
    measurement = build_measurement(experiment, EXAMPLES)
    assert measurement.targeted == measurement.model.names[: len(FREE)]
    assert not measurement.held
    run = Run(measurement, run_id="r", folder=tmp_path)
    feed(run, list(recorded_source(virtual_scan.events[:2], run="r").messages()))
    result = run.result()
    names = [p["name"] for p in result["parameters"]]
    assert set(names) == set(measurement.model.elements)
    assert tuple(names[: len(FREE)]) == measurement.targeted == tuple(FREE)
    assert [t["name"] for t in result["targets"]] == list(FREE)
    assert np.shape(result["covariance"]) == (len(names), len(names))
    assert not result["parameters"][-1]["informed"]  # a far shell, after four minutes
    assert [(s["name"], s["unit"], s["prior_sigma"]) for s in result["set_up"]] == [
        ("psi offset", "deg", 0.1),
        ("lattice abc", "%", 0.1),
        ("background slope", "relative", 0.3),
        ("intensity slope", "relative", 0.05),
    ]
    for one in result["set_up"][:2]:
        assert one["sigma"] < 0.1
        assert abs(one["value"]) < 0.3  # merged pixels of the simulation, as above
    assert run.posterior is not None
    assert run.posterior.converged
    assert measurement.beliefs == ()


def test_a_result_says_what_its_error_bars_do_not_know(replayed: Replayed):
    held, set_up, spread = replayed.result["notes"][-3:]
    assert held.startswith(f"{len(FREE)} of 21 force constants are fitted")
    assert "error bars do not know" in held
    assert set_up.startswith("the set-up is taken to be known to 0.3 degrees (psi)")
    assert spread.startswith("pixels are taken to be points")


def test_every_event_read_is_accounted_for_exactly(replayed: Replayed, virtual_scan: VirtualScan):
    written = [sum(c["events"].values()) for c in virtual_scan.truth["chunks"]]
    assert replayed.result["events"]["read"] == sum(written)
    assert is_complete(replayed.result["events"])
    assert [c["events"]["read"] for c in replayed.result["chunks"]] == written
    assert all(is_complete(c["events"]) for c in replayed.result["chunks"])
    assert all(replayed.result["events"][n] > 0 for n in ACCOUNT[:3])


def test_a_good_scan_is_trusted_and_finds_the_truth(replayed: Replayed, virtual_scan: VirtualScan):
    result = replayed.result
    assert result["trusted"], result["reasons"]
    assert result["reasons"] == []
    for found, truth in zip(result["parameters"], virtual_scan.truth["parameters"], strict=True):
        assert found["name"] == truth["name"]
        # Merged pixels and coarse voxels bias by a few sigma; the reference run bounds that.
        assert abs(found["value"] - truth["value"]) < 4 * found["sigma"] + 0.03 * abs(
            truth["value"]
        )
        low, high = found["interval90"]
        assert low < found["value"] < high
        assert (high - low) / 2 == pytest.approx(1.645 * found["sigma"], rel=1e-3)
    snapshot = replayed.store.get("good")
    assert snapshot is not None
    trusted = [h.trusted for h in snapshot.history]
    assert trusted == [False] + [True] * (len(PSI_DEG) - 1)  # one orientation cannot tell yet
    assert result["stop"]["stop"]
    assert result["policy"] == "information"


def test_result_json_has_every_key_and_no_timing(replayed: Replayed):
    text = (replayed.folder / "result.json").read_text()
    result = json.loads(text)
    assert result == replayed.result
    assert set(result) >= {
        "parameters", "derived", "trusted", "reasons", "advice", "stop", "minutes_used",
        "coverage_fraction", "events",
    }  # fmt: skip
    assert [p["name"] for p in result["parameters"]] == list(FREE)
    for parameter in result["parameters"]:
        assert set(parameter) == {"name", "unit", "value", "sigma", "interval90", "informed"}
        assert parameter["unit"] == "eV/angstrom^2"
    for advice in result["advice"]:
        assert set(advice) == {"psi_deg", "ei_meV", "minutes", "gain_per_minute", "policy"}
        assert 0 <= advice["psi_deg"] <= 120
    assert [one["name"] for one in result["set_up"]] == [  # nothing of it is fitted
        "psi offset", "tilt gl", "tilt gs", "lattice abc", "incident energy", "time zero",
        "background slope", "intensity slope",
    ]  # fmt: skip
    for one in result["set_up"]:
        assert 0 < one["sigma"] <= one["prior_sigma"]
        assert abs(one["value"]) < 4 * one["sigma"]  # of a scan whose set-up is right
    gains = [a["gain_per_minute"] for a in result["advice"]]
    assert gains == sorted(gains, reverse=True)
    assert set(result["stop"]) == {"stop", "reason", "minutes_to_target"}
    assert set(result["events"]) == {"read", *ACCOUNT}
    assert result["minutes_used"] == pytest.approx(2.0 * len(PSI_DEG))
    assert 0 < result["coverage_fraction"] <= 1
    assert [d["name"] for d in result["derived"]] == ["on-site Ge"]
    assert all("second" not in key for key in result)


def test_replaying_twice_gives_the_same_bytes(
    replayed: Replayed, virtual_scan: VirtualScan, tmp_path
):
    replay(
        virtual_scan.events[::-1],  # the order on the command line does not matter
        virtual_scan.experiment,
        experiment_dir=EXAMPLES,
        output=tmp_path,
        run_id="good",
    )
    again = (tmp_path / "result.json").read_bytes()
    assert again == (replayed.folder / "result.json").read_bytes()


def test_the_experiment_lies_beside_the_result_with_its_files_absolute(
    replayed: Replayed, virtual_scan: VirtualScan
):
    kept = load_experiment(replayed.folder / RESULT_EXPERIMENT)
    assert kept == with_absolute_files(virtual_scan.experiment, EXAMPLES)


def test_folded_npz_holds_sums_tensor_moments_and_units(replayed: Replayed):
    with np.load(replayed.folder / "folded.npz") as file:
        shape = file["D"].shape
        assert file["schema_version"] == 1
        for name in ("S", "V", "N", "flat_exposure"):
            assert file[name].shape == shape
        assert np.array_equal(file["S"], file["N"])
        assert np.array_equal(file["V"], file["N"])
        assert file["N"].sum() == replayed.result["events"]["folded"]
        assert not np.any(file["N"][file["D"] == 0])
        assert file["T"].shape == (*file["voxel_D"].shape, 24)  # 6 N^2 reals, two atoms
        for name in ("q_first", "q_second", "q_slope"):
            assert file[name].shape[:2] == file["voxel_D"].shape
        assert file["voxel_D"].sum() == pytest.approx(file["D"].sum(), rel=1e-12)
        assert len(file["energy_edges_meV"]) == shape[1] + 1
        assert {"S", "D", "T", "q_first"} <= set(json.loads(str(file["units"])))


def test_the_api_shows_the_finished_run(replayed: Replayed):
    snapshot = replayed.store.get("good")
    assert snapshot is not None
    assert snapshot.status == "finished"
    assert [h.minutes_used for h in snapshot.history] == [2.0, 4.0, 6.0, 8.0]
    assert len(snapshot.chunks) == len(PSI_DEG)
    client = TestClient(create_app(replayed.store), base_url="http://127.0.0.1")
    assert client.get("/runs/good").json()["status"] == "finished"
    spectrum = client.get("/runs/good/spectrum").json()
    assert len(spectrum["branches"]) == small_measurement().path.n_bins
    assert client.get("/runs/good/spectrum?format=png").content.startswith(b"\x89PNG")
    estimate = client.get("/runs/good/estimate").json()
    assert [p["name"] for p in estimate["parameters"]] == list(FREE)


def test_a_run_publishes_bands_counts_reach_and_files_for_phonopy(replayed: Replayed):
    shown = replayed.store.get("good")
    assert shown is not None
    assert shown.reach is not None
    assert shown.force_constants is not None
    view = shown.spectrum
    assert view is not None
    seen = view.exposure > 0
    assert (view.branches_low <= view.branches_high).all()
    inside = (view.branches_low <= view.branches) & (view.branches <= view.branches_high)
    assert inside.mean() > 0.95
    counted = view.exposure[seen] * view.intensity[seen] * view.scale
    assert view.counts[seen] == pytest.approx(counted)
    assert view.hkl[0] == pytest.approx([0, 0, 1], abs=0.1)  # X
    measured = shown.reach.rank == 0
    assert shown.reach.psi_deg[measured] == pytest.approx(PSI_DEG)
    assert (~measured).sum() == len(replayed.result["advice"])
    assert (shown.reach.share[~measured].max(axis=1) > 0).all()
    assert set(shown.force_constants) == {"phonopy.yaml", "FORCE_CONSTANTS"}


def test_chunk_totals_agree_with_the_fold_at_any_cell(
    virtual_scan: VirtualScan, messages, tmp_path
):
    run = feed(folding_run(tmp_path), messages)
    assert [c.psi_deg for c in run.chunks] == pytest.approx(PSI_DEG[:2])
    total = run.sums
    assert np.array_equal(total.counts, run.chunks[0].sums.counts + run.chunks[1].sums.counts)
    weight, flat = small_measurement().geometry.path_sums(run.pooled_exposure())
    np.testing.assert_allclose(total.exposure, weight, rtol=1e-12)
    np.testing.assert_allclose(total.flat, flat, rtol=1e-12)
    charge = [c["proton_charge"] for c in virtual_scan.truth["chunks"]]
    assert [c.proton_charge for c in run.chunks] == pytest.approx(charge[:2], rel=1e-6)


def test_nxspe_with_counts_folds_the_events_within_a_bin(
    virtual_scan: VirtualScan, messages, tmp_path
):
    events = feed(folding_run(tmp_path), messages)
    files = list(recorded_source(virtual_scan.histograms[:2], run="r").messages())
    histograms = (
        feed(folding_run(tmp_path / "h"), files) if (tmp_path / "h").mkdir() is None else None
    )
    assert histograms is not None
    n, h = events.sums, histograms.sums
    assert not h.gaussian
    # The files hold the same events: only those beyond the histogram's edges are missing.
    block = next(m.payload for m in files if isinstance(m.payload, HistogramBlock))
    edges = block.energy_edges_meV
    inside = 0
    for message in messages:
        if isinstance(message.payload, EventBlock):
            energy = message.payload.energy_transfer_meV
            inside += int(np.sum((energy >= edges[0]) & (energy < edges[-1])))
    assert abs(histograms.result()["events"]["read"] - inside) <= 3  # clock ticks at the edges
    # Events take the centre of their bin: they change tubes, and near Ei the bins are coarse.
    far = small_measurement().energy.centres_meV < 30
    assert h.counts[:, far].sum() == pytest.approx(n.counts[:, far].sum(), rel=0.04)
    assert h.exposure[:, far].sum() == pytest.approx(n.exposure[:, far].sum(), rel=0.01)
    rate = [x.counts.sum(axis=0) / x.exposure.sum(axis=0) for x in (n, h)]
    error = np.sqrt(n.counts.sum(axis=0)) / n.exposure.sum(axis=0)
    assert np.all(np.abs(rate[1] - rate[0])[far] < 5 * error[far])
    assert all(is_complete(r["events"]) for r in histograms.records)


def test_duplicate_messages_are_dropped(messages, tmp_path):
    once = feed(folding_run(tmp_path), messages)
    (tmp_path / "b").mkdir()
    twice = feed(folding_run(tmp_path / "b"), [m for m in messages for _ in range(2)])
    assert np.array_equal(once.sums.counts, twice.sums.counts)
    assert once.records == twice.records


BAD = {
    "another instrument": (
        ChunkStart, {"instrument_name": "HYSPEC"}, "instrument is 'HYSPEC'; expected 'ARCS'"
    ),
    "Ei off by 5 %": (ChunkStart, {"ei_meV": 42.0}, "Ei is 42 meV in the file; expected 40 meV"),
    "psi NaN": (ChunkStart, {"psi_deg": float("nan")}, "psi is nan; expected a finite angle"),
    "lost events": (ChunkStop, {"read": 10_000_000}, "source read 10000000.*Messages were lost"),
    "no charge": (ChunkStop, {"proton_charge": 0.0}, "proton charge is 0.0; expected a positive"),
    "charge NaN": (ChunkStop, {"proton_charge": float("nan")}, "proton charge is nan"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_chunk_is_set_aside_and_the_run_goes_on(name, messages, tmp_path):
    kind, changes, reason = BAD[name]
    run = feed(folding_run(tmp_path), changed(messages, kind, **changes))
    first, second = run.records
    assert (first["status"], second["status"]) == ("set aside", "folded")
    assert pytest.approx(PSI_DEG[1]) == run.chunks[0].psi_deg
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(first["reason"])


def test_a_stop_without_start_is_set_aside(messages, tmp_path):
    payloads = [m.payload for m in messages]
    run = feed(folding_run(tmp_path), renumbered(payloads[1:]))
    aside = [r for r in run.records if r["status"] == "set aside"]
    assert "ChunkStop of chunk '1' came without an open start" in aside[-1]["reason"]
    assert len(run.chunks) == 1


def test_a_chunk_that_starts_twice_counts_once(messages, tmp_path):
    stop = next(i for i, m in enumerate(messages) if isinstance(m.payload, ChunkStop))
    payloads = [m.payload for m in messages]
    run = feed(folding_run(tmp_path), renumbered(payloads[: stop + 1] + payloads[: stop + 1]))
    assert [r["status"] for r in run.records] == ["folded", "set aside"]
    assert "started twice" in run.records[1]["reason"]
    assert len(run.chunks) == 1


def test_a_chunk_that_restarts_while_open_is_set_aside_whole(messages, tmp_path):
    payloads = [m.payload for m in messages]
    run = feed(folding_run(tmp_path), renumbered([payloads[0], *payloads]))
    assert [r["status"] for r in run.records] == ["set aside", "folded"]
    assert "started twice" in run.records[0]["reason"]


def test_data_that_a_source_set_aside_is_recorded_with_its_reason(messages, tmp_path):
    aside = SetAside(origin="x.nxs.h5", reason="entry/bank1 is broken; expected events")
    run = feed(folding_run(tmp_path), renumbered([aside, *[m.payload for m in messages]]))
    assert run.records[0]["reason"] == aside.reason
    assert len(run.chunks) == 2


@pytest.mark.parametrize("first", ["events", "histogram"])
def test_events_and_a_histogram_in_one_chunk_are_refused(first, virtual_scan, messages, tmp_path):
    file = recorded_source(virtual_scan.histograms[:1], run="r").messages()
    histogram = next(m.payload for m in file if isinstance(m.payload, HistogramBlock))
    start = messages[0].payload
    block = next(m.payload for m in messages if isinstance(m.payload, EventBlock))
    histogram = replace(histogram, chunk=start.chunk)
    both = [block, histogram] if first == "events" else [histogram, block]
    stop = ChunkStop(chunk=start.chunk, proton_charge=1.0, minutes=1.0, read=0, filtered=0)
    run = feed(folding_run(tmp_path), renumbered([start, *both, stop]))
    assert run.chunks == []
    assert "in one chunk" in run.records[0]["reason"]


def test_reduced_data_after_raw_counts_is_set_aside(virtual_scan, messages, tmp_path):
    file = list(recorded_source(virtual_scan.histograms[2:3], run="r").messages())
    payloads = [m.payload for m in file]
    payloads[1] = replace(payloads[1], counts=None)
    run = feed(folding_run(tmp_path), renumbered([*[m.payload for m in messages], *payloads]))
    assert [r["status"] for r in run.records] == ["folded", "folded", "set aside"]
    assert "cannot be added" in run.records[2]["reason"]


def test_reduced_data_gives_an_estimate_by_its_gaussian_likelihood(virtual_scan, tmp_path):
    payloads = []
    for message in recorded_source(virtual_scan.histograms, run="r").messages():
        payload = message.payload
        if isinstance(payload, HistogramBlock):
            payload = replace(payload, counts=None)
        payloads.append(payload)
    run = Run(known_measurement(), run_id="r", folder=tmp_path)
    feed(run, renumbered(payloads))
    assert len(run.chunks) == len(PSI_DEG)
    assert run.sums.gaussian
    assert run.posterior is not None
    assert np.all(np.isfinite(run.posterior.sigma))
    assert all(is_complete(r["events"]) for r in run.records)
    json.dumps(run.result(), allow_nan=False)


def reduced_payloads(virtual_scan: VirtualScan):
    """Of the first reduced file, with no counts."""
    for message in recorded_source(virtual_scan.histograms[:1], run="r").messages():
        payload = message.payload
        yield replace(payload, counts=None) if isinstance(payload, HistogramBlock) else payload


@pytest.mark.parametrize("reduced", [False, True])
def test_a_prepared_run_says_the_same(reduced, virtual_scan, tmp_path, monkeypatch):
    first = recorded_source(virtual_scan.events[:1], run="r").messages()
    payloads = list(reduced_payloads(virtual_scan)) if reduced else [m.payload for m in first]
    looked: list[bool] = []

    def counted(self, psi_deg, *, reduced, look=Adviser._look):
        looked.append(reduced)
        return look(self, psi_deg, reduced=reduced)

    monkeypatch.setattr(Adviser, "_look", counted)
    results = []
    for name in ("plain", "prepared"):
        (tmp_path / name).mkdir()
        run = Run(known_measurement(), run_id="r", folder=tmp_path / name)
        if name == "prepared":
            looked.clear()
            run.prepare()
            assert set(looked) == {False}
            ahead = len(looked)
        results.append(json.dumps(feed(run, renumbered(payloads)).result()))
    assert results[0] == results[1]
    assert len(looked) == (2 * ahead if reduced else ahead)


def test_what_a_fit_had_no_walks_left_for_is_done_after_the_last_chunk(
    virtual_scan, tmp_path, monkeypatch
):
    messages = tuple(recorded_source(virtual_scan.events[:1], run="r").messages())
    free = feed(Run(known_measurement(), run_id="r", folder=tmp_path), messages).posterior
    monkeypatch.setattr(Measurement, "costly", property(lambda self: True))
    monkeypatch.setattr("steering.run.estimator.WALKS_IF_COSTLY", 0.0)
    monkeypatch.setattr(
        "steering.run.estimator.least_effort", lambda orientations: orientations + 1.0
    )
    run = Run(known_measurement(), run_id="r", folder=tmp_path)
    states = []
    for message in messages:
        if run.accept(message):
            states.append((run.posterior.halted, run.trust.state, run.result()["reasons"]))
    assert states[-1][0]
    assert states[-1][1] == "cannot tell yet"
    assert "on its way" in states[-1][2][0]
    lines = len(run.history)
    while run.go_on():
        assert len(run.history) == lines
    found = run.posterior
    assert found.converged
    assert not found.unfinished
    assert np.all(np.abs(found.values - free.values) < 0.5 * free.sigma)
    result = replay(
        virtual_scan.events[:1], virtual_scan.experiment, experiment_dir=EXAMPLES, run_id="r"
    )
    assert not any("on its way" in reason for reason in result["reasons"])


def test_a_run_of_an_untrusted_estimate_asks_for_falsification(virtual_scan, tmp_path):
    spoiled = []
    for message in recorded_source(virtual_scan.events[:2], run="r").messages():
        payload = message.payload
        if isinstance(payload, EventBlock):  # a fifth of the energies lies 6 meV off: not a phonon
            energy = payload.energy_transfer_meV.copy()
            energy[::5] += 6.0
            payload = replace(payload, energy_transfer_meV=energy)
        spoiled.append(payload)
    run = feed(Run(known_measurement(), run_id="r", folder=tmp_path), renumbered(spoiled))
    result = run.result()
    assert not result["trusted"]
    assert any(r.startswith("goodness of fit") for r in result["reasons"])
    assert result["policy"] == "falsification"
    assert {a["policy"] for a in result["advice"]} == {"falsification"}
    assert not result["stop"]["stop"]
    assert result["stop"]["minutes_to_target"] is None


def test_a_run_without_any_good_file_names_each_and_says_why(virtual_scan, tmp_path):
    files = []
    for k in range(2):
        files.append(tmp_path / f"cut{k}.nxs.h5")
        files[-1].write_bytes(virtual_scan.events[k].read_bytes()[:5000])
    store = RunStore()
    with pytest.raises(ValueError, match="no chunk could be folded") as caught:
        replay(files, virtual_scan.experiment, experiment_dir=EXAMPLES, store=store, run_id="bad")
    assert "cut0.nxs.h5" in str(caught.value)
    assert "cut1.nxs.h5" in str(caught.value)
    snapshot = store.get("bad")
    assert snapshot is not None
    assert snapshot.status == "failed"
    assert snapshot.error == str(caught.value)


def test_a_truncated_file_among_good_ones_is_set_aside(virtual_scan, tmp_path):
    cut = tmp_path / "cut.nxs.h5"
    cut.write_bytes(virtual_scan.events[0].read_bytes()[:5000])
    result = replay(
        [cut, virtual_scan.events[1]],
        virtual_scan.experiment,
        experiment_dir=EXAMPLES,
        estimate=False,
    )
    assert sorted(c["status"] for c in result["chunks"]) == ["folded", "set aside"]
    assert result["parameters"] == []
    assert not result["trusted"]


def test_nxspe_without_psi_is_set_aside_unless_the_operator_gives_it(virtual_scan, tmp_path):
    file = tmp_path / "a.nxspe"
    file.write_bytes(virtual_scan.histograms[0].read_bytes())
    with h5py.File(file, "r+") as content:
        psi = content[f"{next(iter(content))}/NXSPE_info/psi"]
        assert isinstance(psi, h5py.Dataset)
        psi[...] = np.nan
    settings = {"experiment_dir": EXAMPLES, "estimate": False}
    with pytest.raises(ValueError, match="psi"):
        replay([file], virtual_scan.experiment, **settings)
    result = replay([file], virtual_scan.experiment, psi_deg=PSI_DEG[0], **settings)
    assert result["chunks"][0]["psi_deg"] == PSI_DEG[0]


def test_fold_writes_arrays_and_a_picture(virtual_scan, tmp_path):
    summary = fold(
        virtual_scan.events[:1], virtual_scan.experiment, experiment_dir=EXAMPLES, output=tmp_path
    )
    with np.load(tmp_path / "folded.npz") as file:
        assert file["N"].sum() == summary["events"]["folded"] > 0
    assert (tmp_path / "folded.png").read_bytes().startswith(b"\x89PNG")
    assert set(summary) == {"coverage_fraction", "events", "chunks", "minutes_used", "notes"}
    named = tmp_path / "deep" / "mine.npz"
    fold(
        virtual_scan.events[:1],
        virtual_scan.experiment,
        experiment_dir=EXAMPLES,
        output=named,
        plot=False,
    )
    assert named.is_file()
    assert not named.with_suffix(".png").exists()


# -- chunks that closed before -------------------------------------------------------------------


@pytest.fixture(scope="module")
def folded(virtual_scan: VirtualScan, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over all four files, with the chunks that the tests below adopt."""
    source = recorded_source(virtual_scan.events, run="r")
    return feed(folding_run(tmp_path_factory.mktemp("folded")), source.messages())


def files_of(run: Run, folder: Path) -> tuple[str, dict[str, bytes]]:
    """result.json, and every array of folded.npz."""
    run.write_folded(folder / "folded.npz")
    with np.load(folder / "folded.npz") as file:
        arrays = {name: file[name].tobytes() for name in file.files}
    return json.dumps(run.result(), sort_keys=True), arrays


def adopted(run: Run, chunks) -> Run:
    for closed in chunks:
        run.adopt(read_chunk(closed.path))
    return run


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_adopting_in_any_order_equals_folding_bit_for_bit(order, folded: Run, tmp_path):
    run = folding_run(tmp_path)
    for k in order:
        run.adopt(read_chunk(folded.chunks[k].path))
        run.pooled_exposure()  # what is pooled before must not fix the order
    assert [c.chunk for c in run.chunks] == [c.chunk for c in folded.chunks]
    assert files_of(run, tmp_path) == files_of(folded, tmp_path)


def test_folding_in_another_order_gives_the_same_bits(virtual_scan, folded: Run, tmp_path):
    payloads = [
        m.payload
        for file in virtual_scan.events[::-1]
        for m in recorded_source([file], run="r").messages()
    ]
    run = feed(folding_run(tmp_path), renumbered(payloads))
    assert files_of(run, tmp_path) == files_of(folded, tmp_path)
    assert run.newest is run.chunks[0]


def test_chunks_without_a_start_time_keep_the_order_in_which_they_came(folded: Run, tmp_path):
    run = folding_run(tmp_path)
    for k in (2, 0, 1):
        run.adopt(replace(folded.chunks[k], start_time_ns=0))
    assert [c.chunk for c in run.chunks] == [folded.chunks[k].chunk for k in (2, 0, 1)]


def test_an_estimate_of_adopted_chunks_does_not_depend_on_their_order(folded: Run, tmp_path):
    answers = []
    for order in ((0, 1), (1, 0)):
        run = Run(known_measurement(), run_id="r", folder=tmp_path)
        adopted(run, [folded.chunks[k] for k in order])
        assert run.posterior is None
        assert run.estimate_now()
        answers.append(json.dumps(run.result(), sort_keys=True))
    assert answers[0] == answers[1]
    assert json.loads(answers[0])["parameters"]


def test_a_run_that_only_folds_refuses_to_estimate(folded: Run, tmp_path):
    run = adopted(folding_run(tmp_path), folded.chunks[:1])
    with pytest.raises(ValueError, match="made with estimate=False"):
        run.estimate_now()


def test_a_withdrawn_chunk_leaves_the_sums_and_says_why(folded: Run, tmp_path):
    names = [c.chunk for c in folded.chunks]
    run = adopted(folding_run(tmp_path), folded.chunks)
    run.pooled_exposure()
    run.withdraw(names[1], "the sample had slipped")
    without = adopted(folding_run(tmp_path), [folded.chunks[k] for k in (0, 2, 3)])
    assert files_of(run, tmp_path)[1] == files_of(without, tmp_path)[1]
    assert run.minutes_used == without.minutes_used
    record = run.result()["chunks"][1]
    assert (record["chunk"], record["status"]) == (names[1], "withdrawn")
    assert record["reason"] == "the sample had slipped"
    assert folded.chunks[1].path.is_file()
    with pytest.raises(ValueError, match=f"chunk '{names[1]}' is not folded"):
        run.withdraw(names[1], "again")
    run.adopt(folded.chunks[1])  # a second thought
    assert np.array_equal(run.sums.exposure, folded.sums.exposure)


def test_a_withdrawn_chunk_starts_again_only_when_reopened(messages, folded: Run, tmp_path):
    name = folded.chunks[0].chunk
    run = adopted(folding_run(tmp_path), folded.chunks[:2])
    run.withdraw(name, "wrong psi")
    payloads = [m.payload for m in messages if m.payload.chunk == name]
    feed(run, renumbered(payloads))
    assert "was withdrawn (wrong psi)" in run.records[-1]["reason"]
    run.reopen(name)
    again = [replace(m, sequence=1000 + m.sequence) for m in renumbered(payloads)]
    feed(run, again)
    assert [(c.chunk, c.generation) for c in run.chunks] == [(name, 1), (folded.chunks[1].chunk, 0)]


def test_a_reopened_chunk_is_folded_as_the_next_generation(messages, tmp_path):
    run = feed(folding_run(tmp_path), messages)
    first, before = run.chunks[0], files_of(run, tmp_path)
    run.pooled_exposure()
    run.reopen(first.chunk)
    assert first.chunk not in [r["chunk"] for r in run.records]
    payloads = [m.payload for m in messages if m.payload.chunk == first.chunk]
    feed(run, [replace(m, sequence=1000 + m.sequence) for m in renumbered(payloads)])
    assert run.chunks[0].generation == 1
    assert run.chunks[0].path != first.path
    assert first.path.is_file()
    assert files_of(run, tmp_path) == before
    with pytest.raises(ValueError, match="chunk 'never' is not folded"):
        run.reopen("never")


def test_a_newer_generation_replaces_the_one_before(messages, folded: Run, tmp_path):
    again = feed(folding_run(tmp_path), messages)
    name = again.chunks[0].chunk
    again.reopen(name)
    late = [m for m in messages if m.payload.chunk == name]
    stop = late[-1].payload
    assert isinstance(stop, ChunkStop)
    half = [*[m.payload for m in late[:-1]], replace(stop, proton_charge=2 * stop.proton_charge)]
    feed(again, [replace(m, sequence=1000 + m.sequence) for m in renumbered(half)])
    newer = read_chunk(again.chunks[0].path)
    run = adopted(folding_run(tmp_path), folded.chunks[:2])
    run.pooled_exposure()
    run.replace(newer)
    assert [c.generation for c in run.chunks] == [1, 0]
    assert len(run.records) == 2
    assert files_of(run, tmp_path) == files_of(again, tmp_path)
    with pytest.raises(ValueError, match="generation 0; expected above 1"):
        run.replace(folded.chunks[0])
    assert [c.generation for c in run.chunks] == [1, 0]


def test_a_chunk_of_another_experiment_is_refused(folded: Run, tmp_path):
    good = folded.chunks[0]
    run = adopted(folding_run(tmp_path), [good])
    with pytest.raises(ValueError, match="is in the run already"):
        run.adopt(good)
    narrow = {f: getattr(good.sums, f)[:, :-1] for f in CellSums.__slots__ if f != "gaussian"}
    with pytest.raises(ValueError, match=r"sums have shape \(18, 51\); expected \(18, 52\)"):
        run.adopt(replace(good, chunk="b", sums=CellSums(**narrow)))
    reduced = replace(good.sums, gaussian=True)
    with pytest.raises(ValueError, match="cannot be added"):
        run.adopt(replace(good, chunk="b", sums=reduced))
    exposure = folded.chunks[1].exposure()
    fewer = {n: getattr(exposure, n)[1:] for n in Exposure.__dataclass_fields__}
    (tmp_path / "other").mkdir()
    other = close_chunk(
        tmp_path / "other",
        chunk="b",
        psi_deg=1.0,
        minutes=1.0,
        proton_charge=1.0,
        account=good.account,
        sums=good.sums,
        exposure=Exposure(**fewer),
        trajectories=good.trajectories(),
    )
    with pytest.raises(ValueError, match=r"chunk has \d+ voxels; expected"):
        run.adopt(other)
    assert len(run.chunks) == len(run.records) == 1


@pytest.fixture(scope="module")
def two_forms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """A live run of a six-atom crystal as runs keep it, by images, and with the tensor forced."""
    runs = []
    for form in (None, "tensor"):
        folder = tmp_path_factory.mktemp(f"rutile-{form}")
        run = Run(rutile_measurement(form), run_id="r", folder=folder)
        runs.append(feed(run, rutile_messages()))
    return runs[0], runs[1]


def test_six_atoms_are_kept_by_images_and_two_by_their_tensor(two_forms, folded: Run):
    images, tensor = two_forms
    assert {c.form for c in images.chunks} == {c.exposure().form for c in images.chunks}
    assert [c.form for c in images.chunks] == ["images"] * 3
    assert {c.form for c in folded.chunks} == {c.form for c in tensor.chunks} == {"tensor"}
    for ours, theirs in zip(images.chunks, tensor.chunks, strict=True):
        assert ours.exposure().nbytes < 0.3 * theirs.exposure().nbytes
        assert ours.path.stat().st_size < 0.3 * theirs.path.stat().st_size


def test_both_forms_expect_the_same_counts_with_the_same_derivatives(two_forms):
    images, tensor = two_forms
    measurement, values = rutile_measurement(), tensor.posterior.values
    forward, coarse = measurement.forward, measurement.coarse_forward
    state, coarse_state = forward.prepare(values), coarse.prepare(values)
    for chunks in zip(images.chunks, tensor.chunks, strict=True):
        (ours, slope), (theirs, expected) = (forward.rates(c.exposure(), state) for c in chunks)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-8 * theirs.max())
        assert np.all(np.abs(slope - expected) < 1e-4 * np.abs(expected).max(axis=(0, 1)))
        ours, theirs = (
            coarse.rates(c.exposure().merged(measurement.merged), coarse_state, gradient=False)[0]
            for c in chunks
        )  # Debye-Waller factors at the mean of wider voxels
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6 * theirs.max())


def test_a_run_by_images_answers_as_one_with_the_tensor(two_forms):
    images, tensor = two_forms
    ours, theirs = images.posterior, tensor.posterior
    # A fit stops a tenth of a sigma from its minimum, each on its own way to it.
    assert np.all(np.abs(ours.values - theirs.values) < 0.3 * theirs.sigma)
    np.testing.assert_allclose(ours.sigma, theirs.sigma, rtol=0.05)
    assert np.all(np.abs(ours.values - rutile_measurement().model.values) < 4 * ours.sigma)
    results = [run.result() for run in two_forms]
    assert results[0]["trusted"], results[0]["reasons"]
    assert results[0]["events"] == results[1]["events"]
    gains = [{a["psi_deg"]: a["gain_per_minute"] for a in r["advice"]} for r in results]
    common = sorted(set(gains[0]) & set(gains[1]))
    assert len(common) > 5
    np.testing.assert_allclose(
        [gains[0][psi] for psi in common], [gains[1][psi] for psi in common], rtol=0.1
    )


def test_a_wrong_charge_is_told_and_moves_nothing_by_much(two_forms, tmp_path):
    def charged(payload):
        if isinstance(payload, ChunkStop) and payload.chunk == "1":
            return replace(payload, proton_charge=payload.proton_charge / 1.12)
        return payload

    run = Run(rutile_measurement(), run_id="r", folder=tmp_path)
    feed(run, renumbered(charged(m.payload) for m in rutile_messages()))
    result, right = run.result(), two_forms[0].posterior
    assert result["trusted"], result["reasons"]
    (note,) = (one for one in result["notes"] if "charge" in one)
    assert re.match(r"chunk 1 has [678]% more counts than its charge", note), note
    assert not any("charge" in one for one in two_forms[0].result()["notes"])
    assert np.abs((run.posterior.values - right.values) / right.sigma).max() < 0.5


def test_chunks_by_images_read_back_and_leave_and_return_to_the_bit(two_forms, tmp_path):
    live, tensor = two_forms
    measurement = rutile_measurement()
    run = Run(measurement, run_id="r", folder=tmp_path, estimate=False)
    for k in (2, 0, 1):
        run.adopt(read_chunk(live.chunks[k].path))
        run.pooled_exposure()
    for closed, psi in zip(run.chunks, (c.psi_deg for c in live.chunks), strict=True):
        stored, computed = closed.exposure().arrays(), measurement.exposure(psi).arrays()
        for name, array in computed.items():  # of one coulomb, as the chunk
            np.testing.assert_array_equal(stored[name], array, err_msg=name)
    whole = files_of(run, tmp_path)[1]
    assert whole == files_of(live, tmp_path)[1]
    run.withdraw("1", "a bad one")
    fewer = Run(measurement, run_id="r", folder=tmp_path, estimate=False)
    two = files_of(run, tmp_path)[1]
    assert two == files_of(adopted(fewer, [live.chunks[0], live.chunks[2]]), tmp_path)[1] != whole
    run.reopen("1")
    feed(run, renumbered(m.payload for m in rutile_messages()[3:6]))
    assert run.newest is not None
    assert run.newest.path == tmp_path / "chunk_1.g1.safetensors"
    assert files_of(run, tmp_path)[1] == whole
    with pytest.raises(
        ValueError, match="is in the form 'tensor'; expected 'images', which 6 atom"
    ):
        fewer.adopt(tensor.chunks[1])


def test_folded_npz_of_many_atoms_holds_what_their_tensor_is_summed_from(two_forms, tmp_path):
    two_forms[0].write_folded(tmp_path / "folded.npz")
    with np.load(tmp_path / "folded.npz") as file:
        assert "T" not in file
        units = json.loads(str(file["units"]))
        assert {"image_start", "image", "image_sums", "image_G", "displacement"} <= set(file)
        assert {"image_start", "image", "image_sums", "image_G", "displacement"} <= set(units)
        assert len(file["image_start"]) == file["voxel_D"].size + 1
        assert file["image_sums"][:, 0].sum() == pytest.approx(file["D"].sum(), rel=1e-12)


@pytest.mark.slow
@pytest.mark.shared_data
def test_phonons_do_not_explain_real_magnetic_mno(shared_data, tmp_path):
    files = sorted((shared_data / "hyspec-mno").glob("*.nxs.h5"))
    assert len(files) == 3
    experiment = load_experiment(EXAMPLES / "mno-hyspec.yaml")
    result = replay(files, experiment, experiment_dir=EXAMPLES, output=tmp_path)
    assert [c["status"] for c in result["chunks"]] == ["folded"] * 3
    assert is_complete(result["events"])
    assert result["events"]["folded"] > 1000
    assert not result["trusted"]
    assert any(r.startswith("goodness of fit") for r in result["reasons"])
    assert {a["policy"] for a in result["advice"]} == {"falsification"}
