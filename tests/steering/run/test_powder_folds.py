"""Powder folds of recorded files: two formats agree, chunks add and can be withdrawn."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from consumers.recorded import recorded_source, write_nxspe
from steering.experiment import chosen_instrument, load_experiment
from steering.run import Run, fold_powder
from tests.steering.virtual_scan import EXAMPLES, small_measurement, virtual_scan  # noqa: F401

SAME = ("signal", "variance", "counts", "exposure", "flat")


@pytest.fixture(scope="module")
def folded(virtual_scan):  # noqa: F811
    return fold_powder(virtual_scan.events, virtual_scan.experiment, step=0.1)


def test_events_are_accounted_for_and_stand_where_there_is_exposure(folded):
    total = folded.sums
    assert folded.account.complete
    assert total.signal.sum() == folded.account.folded > 1000
    assert not total.signal[total.exposure == 0].any()
    assert np.isnan(total.intensity[total.exposure == 0]).all()
    assert 0.1 < folded.summary()["coverage_fraction"] < 1


def test_a_withdrawn_chunk_leaves_what_the_others_fold_to(folded, virtual_scan):  # noqa: F811
    names = list(folded.chunks)
    fewer = fold_powder(virtual_scan.events[1:], virtual_scan.experiment, step=0.1)
    without = folded.without(names[0])
    for name in SAME:
        assert np.array_equal(getattr(without.sums, name), getattr(fewer.sums, name)), name
    with pytest.raises(ValueError, match="'no-such' cannot be withdrawn"):
        folded.without("no-such")


def test_the_order_of_the_files_does_not_matter(folded, virtual_scan):  # noqa: F811
    other = fold_powder(virtual_scan.events[::-1], virtual_scan.experiment, step=0.1)
    for name in SAME:
        assert np.array_equal(getattr(folded.sums, name), getattr(other.sums, name)), name


def test_histograms_with_counts_fold_like_their_events(folded, virtual_scan):  # noqa: F811
    other = fold_powder(virtual_scan.histograms, virtual_scan.experiment, step=0.1)
    np.testing.assert_allclose(other.sums.exposure.sum(), folded.sums.exposure.sum(), rtol=1e-3)
    assert other.sums.signal.sum() == pytest.approx(folded.sums.signal.sum(), rel=0.01)
    with pytest.raises(ValueError, match="no file could be folded"):
        fold_powder([Path(__file__)], virtual_scan.experiment)


def test_the_mask_beside_the_experiment_holds_for_the_geometry_of_a_file(
    folded,
    virtual_scan,  # noqa: F811
    tmp_path,
):
    experiment = virtual_scan.experiment
    whole = chosen_instrument(experiment)
    live = np.flatnonzero(~whole.masked)
    dead = "\n".join(str(d) for d in whole.detector_id[live[: len(live) // 2]])
    (tmp_path / "dead.txt").write_text(dead + "\n", encoding="utf-8")
    masked = experiment.model_copy(
        update={"instrument": experiment.instrument.model_copy(update={"mask": "dead.txt"})}
    )
    other = fold_powder(virtual_scan.events, masked, experiment_dir=tmp_path, step=0.1)
    assert other.account.complete
    assert other.account.masked > folded.account.masked
    assert other.sums.exposure.sum() < 0.8 * folded.sums.exposure.sum()


def test_another_incident_energy_is_set_aside(virtual_scan):  # noqa: F811
    experiment = virtual_scan.experiment
    other = experiment.model_copy(
        update={"instrument": experiment.instrument.model_copy(update={"ei_meV": 60.0})}
    )
    with pytest.raises(ValueError, match="expected 60 meV within 1%"):
        fold_powder(virtual_scan.events, other)


def sparse_file(experiment, path, *, level=2.0, counts_per_bin=0.3):
    """NXSPE of another program: flat scattering, few counts a bin, nothing of ours in it."""
    instrument = chosen_instrument(experiment)
    rng = np.random.default_rng(11)
    edges = np.linspace(-5.0, 38.0, 87)
    efficiency = rng.uniform(0.7, 1.3, (instrument.n_pixels, 1))
    one = level / (counts_per_bin * efficiency) * np.ones((1, len(edges) - 1))
    counts = rng.poisson(level / one)
    write_nxspe(
        path,
        instrument=instrument,
        ei_meV=experiment.instrument.ei_meV,
        psi_deg=30.0,
        energy_edges_meV=edges,
        intensity=counts * one,
        error=np.sqrt(counts) * one,
    )
    with h5py.File(path, "r+") as file:
        del file["w1/beamsteer"]
    return level


def test_a_sparse_histogram_of_another_program_folds_to_its_truth(virtual_scan, tmp_path):  # noqa: F811
    experiment, path = virtual_scan.experiment, tmp_path / "sparse.nxspe"
    level = sparse_file(experiment, path)
    powder = fold_powder([path], experiment, step=0.1).sums
    run = Run(small_measurement(), run_id="r", folder=tmp_path, estimate=False)
    for message in recorded_source([path], run="r").messages():
        run.accept(message)
    for sums in (powder, run.sums):
        assert sums.gaussian
        seen = sums.exposure > 0
        assert (sums.variance[seen] > 0).all()
        mean = sums.signal.sum() / sums.exposure.sum()
        sigma = np.sqrt(sums.variance.sum()) / sums.exposure.sum()
        assert sigma < 0.05 * level  # leaving empties out would fold to 3.9 times the truth
        assert abs(mean - level) < 3 * sigma
        pulls = (sums.signal - level * sums.exposure)[seen] / np.sqrt(sums.variance[seen])
        assert 0.4 < np.mean(pulls**2) < 1.1  # sigma too large by a third at most


def test_a_fold_of_nothing_warns(virtual_scan, tmp_path):  # noqa: F811
    experiment, path = virtual_scan.experiment, tmp_path / "none.nxspe"
    sparse_file(experiment, path)
    with h5py.File(path, "r+") as file:
        file["w1/data/data"][:, 10:] = np.nan  # all above the elastic line
    (note,) = fold_powder([path], experiment, step=0.1).summary()["notes"]
    assert note.startswith("the fold is empty: no cell has exposure")
    run = Run(small_measurement(), run_id="r", folder=tmp_path, estimate=False)
    for message in recorded_source([path], run="r").messages():
        run.accept(message)
    assert any("the fold is empty" in line for line in run.result()["notes"])


@pytest.mark.shared_data
def test_the_real_antiferromagnet_has_its_reflection_and_the_rings_of_its_can(shared_data):
    experiment = load_experiment(EXAMPLES / "mno-hyspec.yaml")
    files = sorted((shared_data / "hyspec-mno").glob("*.nxs.h5"))
    folded = fold_powder(files, experiment, step=0.02)
    total = folded.sums
    assert folded.account.complete
    assert not total.signal[total.exposure == 0].any()
    elastic = np.abs(0.5 * (folded.energy_edges_meV[1:] + folded.energy_edges_meV[:-1])) < 1
    with np.errstate(invalid="ignore"):  # bins without any pixel
        line = total.signal[:, elastic].sum(axis=1) / total.exposure[:, elastic].sum(axis=1)
    centre = 0.5 * (folded.momentum_edges[1:] + folded.momentum_edges[:-1])
    near = (centre > 1.1) & (centre < 1.35)
    assert np.nanmax(line[near]) > 5 * np.nanmedian(line)  # (1/2 1/2 1/2) at 1.228
