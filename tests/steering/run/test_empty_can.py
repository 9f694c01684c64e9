"""The empty can of an experiment in a run: folded as the sample is, subtracted and fitted."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consumers.fold import Can, ChunkStart, ChunkStop, EventBlock, HistogramBlock, Message
from consumers.fold.can_fold import fitting_runs
from consumers.recorded import recorded_source
from consumers.state import read_chunk
from model_server.posterior import usable_cells
from simulations.fold import BackgroundSection
from simulations.virtual.choice import CanSection
from steering.experiment import Experiment, Measurement, build_measurement
from steering.report import fold
from steering.report.fold_pictures import write_fold_pictures
from steering.report.plots_file import fold_maps_png
from steering.run import Run
from steering.run.empty_can import read_can
from steering.study import simulate
from tests.steering.virtual_scan import EXAMPLES, known_set_up, small_experiment

PSI_DEG = (5.0, 61.0)
ATOMS = 4.0  # of the can: as many counts as the phonons, and more
MINUTES = 2.0


@dataclass(frozen=True, slots=True)
class CanScan:
    """A crystal in its can, the can alone, and the truth."""

    folder: Path
    sample: tuple[Path, ...]  # raw events
    histograms: tuple[Path, ...]  # the same as NXSPE with counts
    truth: dict[str, Any]
    can_truth: dict[str, Any]


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> CanScan:
    folder = tmp_path_factory.mktemp("can")
    truth = {}
    for name, sample, seed in (("sample", True, 7), ("alone", False, 8)):
        settings = {
            "counts_per_minute": 1000.0,
            "background_ratio": 0.5,
            "can": CanSection(atoms=ATOMS),
            "sample": sample,
            "bragg": 30.0,
        }
        experiment = small_experiment()
        virtual = experiment.virtual.model_copy(update=settings)
        truth[name] = simulate(
            experiment.model_copy(update={"virtual": virtual}),
            experiment_dir=EXAMPLES,
            output=folder / name,
            psi_deg=PSI_DEG,
            minutes=MINUTES,
            seed=seed,
            processes=1,
        )
    return CanScan(
        folder=folder,
        sample=tuple(sorted((folder / "sample").glob("*.nxs.h5"))),
        histograms=tuple(sorted((folder / "sample").glob("*.nxspe"))),
        truth=truth["sample"],
        can_truth=truth["alone"],
    )


def experiment_with(**background: Any) -> Experiment:
    section = BackgroundSection(**background)
    return known_set_up(small_experiment()).model_copy(update={"background": section})


def measured(scan: CanScan, **background: Any) -> Measurement:
    return build_measurement(experiment_with(**background), scan.folder)


def folded(measurement: Measurement, files, folder: Path, *, estimate: bool = False) -> Run:
    """All chunks folded; with ``estimate``, one estimate of them together."""
    run = Run(measurement, run_id="r", folder=folder, estimate=False)
    for message in recorded_source(files, run="r").messages():
        run.accept(message)
    if not estimate:
        return run
    estimating = Run(measurement, run_id="r", folder=folder)
    for closed in run.chunks:
        estimating.adopt(read_chunk(closed.path))
    estimating.estimate_now()
    return estimating


def is_complete(run: Run) -> bool:
    return all(
        r["events"]["read"] == sum(v for k, v in r["events"].items() if k != "read")
        for r in run.records
    )


@pytest.mark.parametrize("masks", [{}, {"bragg_tails": True, "elastic_band": True}])
def test_the_can_is_folded_as_the_sample_and_has_its_support(masks, scan, tmp_path):
    run = folded(measured(scan, can="alone/*.nxs.h5", **masks), scan.sample, tmp_path)
    assert [r["status"] for r in run.records] == ["folded"] * 2
    charge = sum(c["proton_charge"] for c in scan.can_truth["chunks"])
    for chunk in run.chunks:
        assert chunk.can is not None
        seen = chunk.sums.exposure > 0
        assert np.array_equal(chunk.can.exposure > 0, seen)
        np.testing.assert_allclose(
            chunk.can.exposure * chunk.proton_charge, chunk.sums.exposure * charge, rtol=1e-6
        )
        assert not np.any(chunk.can.counts[~seen])
        assert not np.any(chunk.sums.counts[~seen])
        assert chunk.can.counts.sum() > 500
        again = read_chunk(chunk.path)
        assert again.can is not None
        assert np.array_equal(again.can.signal, chunk.can.signal)
        voxel = chunk.exposure()
        weight, _ = run.measurement.geometry.path_sums(voxel)
        assert np.array_equal(weight > 0, seen)
        walked = chunk.trajectories().cell
        assert np.array_equal(np.unique(walked[walked >= 0]), np.flatnonzero(seen))
    assert is_complete(run)
    # A can folded as if it were a sample at the same psi gives the same counts.
    alone = measured(scan, **masks)
    start = next(recorded_source(scan.sample[:1], run="r").messages()).payload
    assert isinstance(start, ChunkStart)
    plain = Run(alone, run_id="r", folder=tmp_path, estimate=False)
    sequence = 0
    payloads: list[Any] = [replace(start, chunk="can")]
    read = 0
    for file in sorted((scan.folder / "alone").glob("*.nxs.h5")):
        for message in recorded_source([file], run="r").messages():
            if isinstance(message.payload, EventBlock):
                payloads.append(replace(message.payload, chunk="can"))
                read += len(message.payload.pixel)
    payloads.append(ChunkStop(chunk="can", proton_charge=1.0, minutes=1.0, read=read, filtered=0))
    for payload in payloads:
        plain.accept(Message(run="r", source="s", sequence=sequence, payload=payload))
        sequence += 1
    assert plain.chunks[0].psi_deg == run.chunks[0].psi_deg
    own = run.chunks[0].can
    assert own is not None
    # Energies of the can are kept in single precision: a few neutrons change their sub-step.
    assert np.abs(plain.sums.counts - own.counts).sum() <= 0.001 * own.counts.sum() + 4


def test_without_a_background_section_nothing_is_masked_or_carried(scan, tmp_path):
    run = folded(measured(scan), scan.sample[:1], tmp_path)
    assert run.chunks[0].can is None
    assert run.can_sums is None
    assert run.net_sums.signal is run.chunks[0].sums.signal
    masked = folded(measured(scan, bragg_tails=True), scan.sample[:1], tmp_path)
    more = masked.chunks[0].account.masked - run.chunks[0].account.masked
    assert more > 0
    assert masked.sums.exposure.sum() < run.sums.exposure.sum()
    band = folded(measured(scan, elastic_band=True), scan.sample[:1], tmp_path)
    assert not band.sums.exposure[:, 0].any()
    assert np.all(np.isnan(band.sums.intensity[:, 0]))


def test_folded_npz_carries_the_can_and_the_net_intensity(scan, tmp_path):
    experiment = experiment_with(can="alone/*.nxs.h5", can_transmission=0.9)
    fold(scan.sample, experiment, experiment_dir=scan.folder, output=tmp_path / "f.npz", plot=False)
    with np.load(tmp_path / "f.npz") as file:
        seen = file["D"] > 0
        assert np.array_equal(np.isfinite(file["intensity"]), seen)
        assert np.array_equal(np.isfinite(file["sigma"]), seen)
        assert file["can_scale"] == 0.9
        np.testing.assert_allclose(file["can_D"], file["D"], rtol=1e-9)
        np.testing.assert_allclose(
            (file["intensity"] * file["D"])[seen],
            (file["S"] - 0.9 * file["can_S"])[seen],
            rtol=1e-9,
            atol=1e-9,
        )
        error = (file["sigma"] * file["D"])[seen]
        assert np.all(error**2 >= (file["V"] + 0.81 * file["can_V"])[seen] * (1 - 1e-9))
        assert {"can_S", "can_D", "intensity"} <= set(json.loads(str(file["units"])))
    for background, net in (({"can": "alone/*.nxs.h5"}, True), ({}, False)):
        folder = tmp_path / f"net {net}"
        folder.mkdir()
        run = folded(measured(scan, **background), scan.sample, folder)
        view = run.spectrum()
        assert view is not None
        maps, _ = write_fold_pictures(run, view, tmp_path / "f.npz", {})
        title = run.measurement.experiment.title
        assert maps.read_bytes() == fold_maps_png(view, title=title, net=net)
        assert maps.read_bytes() != fold_maps_png(view, title=title, net=not net)


def test_histograms_of_can_and_sample_fold_together(scan, tmp_path):
    run = folded(measured(scan, can="alone/*.nxspe"), scan.histograms, tmp_path)
    assert [r["status"] for r in run.records] == ["folded"] * 2, run.records
    events = folded(measured(scan, can="alone/*.nxs.h5"), scan.histograms, tmp_path)
    for one, other in zip(run.chunks, events.chunks, strict=True):
        assert one.can is not None
        assert other.can is not None
        assert not one.sums.gaussian
        assert np.array_equal(one.can.exposure > 0, one.sums.exposure > 0)
        total = other.can.counts.sum()
        # Both hold the same neutrons, binned by the writer of the file or here.
        assert one.can.counts.sum() == pytest.approx(total, abs=5 * np.sqrt(total))


def test_reduced_data_need_a_reduced_can(scan, tmp_path):
    payloads = [m.payload for m in recorded_source(scan.histograms[:1], run="r").messages()]
    payloads = [replace(p, counts=None) if isinstance(p, HistogramBlock) else p for p in payloads]

    def run_of(pattern: str) -> Run:
        measurement = measured(scan, can=pattern)
        return Run(measurement, run_id="r", folder=tmp_path, estimate=False)

    def feed(run: Run) -> None:
        for k, payload in enumerate(payloads):
            run.accept(Message(run="r", source="s", sequence=k, payload=payload))

    run = run_of("alone/*.nxs.h5")
    feed(run)
    assert run.records[0]["status"] == "set aside"
    assert "holds events; expected reduced intensity" in run.records[0]["reason"]
    run = run_of("alone/*.nxspe")
    reduced = run.can.runs[0]
    assert reduced.histogram is not None
    block = replace(reduced.histogram, counts=None)
    run.can = Can(runs=(replace(reduced, histogram=block, proton_charge=1.0),))
    feed(run)
    assert [r["status"] for r in run.records] == ["folded"], run.records
    chunk = run.chunks[0]
    assert chunk.can is not None
    assert chunk.sums.gaussian
    assert chunk.can.gaussian
    assert np.array_equal(chunk.can.exposure, chunk.sums.exposure)
    seen = chunk.sums.exposure > 0
    assert not np.any(chunk.can.signal[~seen])
    assert chunk.can.signal.sum() > 0
    net = run.net_sums
    np.testing.assert_allclose(net.signal, chunk.sums.signal - chunk.can.signal)
    np.testing.assert_allclose(net.variance, chunk.sums.variance + chunk.can.variance)
    (sums, rate), *_ = run.can_terms.of_chunks(run.chunks)
    assert rate is not None
    assert sums.gaussian
    assert np.all(sums.variance[chunk.sums.variance > 0] > 0)
    assert rate.shape.sum() == pytest.approx(chunk.can.signal.sum(), rel=0.3)


def test_a_can_that_does_not_fit_is_told(scan, tmp_path):
    measurement = measured(scan, can="alone/*.nxs.h5")
    runs = read_can(measurement)
    assert len(runs) == 2
    start = next(recorded_source(scan.sample[:1], run="r").messages()).payload
    assert isinstance(start, ChunkStart)
    assert start.geometry is not None
    assert fitting_runs(runs, start.geometry, None, reduced=False) == list(runs)
    moved = replace(start.geometry, position_m=start.geometry.position_m + 0.01)
    with pytest.raises(ValueError, match=r"pixels are up to 0.01 m away"):
        fitting_runs(runs, moved, None, reduced=False)
    histograms = read_can(measured(scan, can="alone/*.nxspe"))
    with pytest.raises(ValueError, match="is a histogram; expected events"):
        fitting_runs(histograms, start.geometry, None, reduced=False)
    with pytest.raises(ValueError, match="has other energy bins"):
        fitting_runs(histograms, start.geometry, np.arange(5.0), reduced=False)
    with pytest.raises(ValueError, match="which no file in .* matches"):
        read_can(measured(scan, can="nothing/*.nxs.h5"))
    broken = tmp_path / "broken.nxs.h5"
    broken.write_bytes(scan.sample[0].read_bytes()[:4000])
    with pytest.raises(ValueError, match=r"background.can: .*broken.nxs.h5"):
        read_can(measured(scan, can=str(broken)))


def test_a_chunk_folded_without_the_can_is_refused(scan, tmp_path):
    plain = folded(measured(scan), scan.sample[:1], tmp_path)
    run = Run(measured(scan, can="alone/*.nxs.h5"), run_id="r", folder=tmp_path, estimate=False)
    with pytest.raises(ValueError, match="background.can was null"):
        run.adopt(plain.chunks[0])


def chi_square_per_cell(run: Run) -> float:
    """Of counting alone, over the cells of the estimate; trust's own allows for model errors."""
    measurement, spectrum = run.measurement, run.spectrum()
    assert spectrum is not None
    assert spectrum.residual_sigma is not None
    use = usable_cells(run.sums, measurement.energy.centres_meV, measurement.elastic_cut_meV)
    return float(np.nanmean(spectrum.residual_sigma[use] ** 2))


def pulls_of(run: Run, truth: dict[str, Any]):
    posterior = run.posterior
    assert posterior is not None
    true = np.array([p["value"] for p in truth["parameters"]])
    return (posterior.values - true) / posterior.sigma


@pytest.mark.slow
def test_with_its_can_the_crystal_is_found_and_without_it_is_not(scan, tmp_path):
    masks = {"bragg_tails": True, "mosaic_deg": 0.0}
    run = folded(
        measured(scan, can="alone/*.nxs.h5", **masks), scan.sample, tmp_path, estimate=True
    )
    plain = folded(measured(scan, **masks), scan.sample, tmp_path, estimate=True)
    assert run.trust is not None
    assert run.posterior is not None
    assert plain.trust is not None
    figures = {
        name: (
            chi_square_per_cell(one),
            one.trust.reduced_chi_square,
            np.round(pulls_of(one, scan.truth), 1).tolist(),
        )
        for name, one in (("with can", run), ("without", plain))
        if one.trust is not None
    }
    print(f"\nchi-square per cell and pulls: {figures}")  # noqa: T201
    assert run.trust.trusted, run.trust.reasons
    assert 0.9 < chi_square_per_cell(run) < 1.1
    assert np.all(np.abs(pulls_of(run, scan.truth)) < 4)
    assert not plain.trust.trusted
    # A slope of the background stands in for the can as far as it may, and is told.
    assert any("background slope" in reason for reason in plain.trust.reasons)
    spectrum = run.spectrum()
    assert spectrum is not None
    assert spectrum.exposure is not None
    assert np.array_equal(np.isfinite(spectrum.intensity), spectrum.exposure > 0)
    # What is shown is without the can, data and model alike.
    energy, cut = run.measurement.energy.centres_meV, run.measurement.elastic_cut_meV
    use = usable_cells(run.sums, energy, cut)
    assert spectrum.model_intensity is not None
    assert spectrum.sigma is not None
    error = np.sqrt(np.sum((spectrum.sigma * spectrum.exposure)[use] ** 2))
    left = np.sum(((spectrum.intensity - spectrum.model_intensity) * spectrum.exposure)[use])
    assert abs(left) < 4 * error
    can = run.can_sums
    assert can is not None
    assert np.exp(run.posterior.theta[3]) * error < 0.1 * np.sum(
        can.signal[use]
    )  # or it says little
    json.dumps(run.result(), allow_nan=False)


@pytest.mark.slow
def test_a_predicted_can_takes_away_most_of_the_bias(scan, tmp_path):
    run = folded(
        measured(scan, can_material="aluminium", can_atoms=ATOMS, bragg_tails=True),
        scan.sample,
        tmp_path,
        estimate=True,
    )
    assert run.posterior is not None
    assert run.trust is not None
    pulls = pulls_of(run, scan.truth)
    print(f"\npredicted: {run.trust.reduced_chi_square:.2f}, pulls {np.round(pulls, 1)}")  # noqa: T201
    assert np.exp(run.posterior.theta[-1]) == pytest.approx(1.0, abs=0.2)
    assert np.all(np.abs(pulls) < 4)
