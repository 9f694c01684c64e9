"""One trajectory of many walked for its neighbours, against all of them walked."""

from dataclasses import replace

import numpy as np
import pytest

from simulations.likelihood import ExactModel, ThinnedPhonons
from simulations.likelihood.thinned import STEPS_OF_A_CELL, thinned
from steering.experiment import build_measurement, load_experiment
from tests.conftest import ROOT

PSI_DEG = 47.0


@pytest.fixture(scope="module")
def germanium():
    """Measurement of germanium on every other pixel of ARCS, and its trajectories."""
    experiment = load_experiment(ROOT / "examples" / "ge-arcs.yaml")
    measurement = build_measurement(experiment, ROOT / "examples")
    instrument = measurement.instrument
    masked = instrument.masked | (np.arange(instrument.n_pixels) % 2 == 1)
    return measurement, measurement.trajectories(PSI_DEG, replace(instrument, masked=masked))


def exposure_of(trajectories, cells):
    out = np.zeros(cells)
    width = np.diff(trajectories.step_edges_meV)
    for one, (low, high) in enumerate(
        zip(trajectories.start[:-1], trajectories.start[1:], strict=True)
    ):
        cell = trajectories.cell[low:high]
        steps = trajectories.first_step[one] + np.arange(high - low)
        weight = trajectories.weight[trajectories.pixel[one]]
        np.add.at(out, cell[cell >= 0], weight * width[steps[cell >= 0]])
    return out


def test_what_is_kept_is_a_part_of_all_with_the_exposure_of_all(germanium):
    measurement, trajectories = germanium
    cells = measurement.path.n_bins * measurement.energy.n_bins
    some, factor = thinned(trajectories, cells)
    share = len(some.pixel) / len(trajectories.pixel)
    assert share == pytest.approx(1 / round(1 / share), rel=0.05)
    assert share < 0.6
    kept, everything = exposure_of(some, cells), exposure_of(trajectories, cells)
    np.testing.assert_allclose(factor * kept, np.where(kept > 0, everything, 0.0), rtol=1e-9)
    assert np.sum(everything[kept == 0]) < 0.01 * np.sum(everything)
    seen = np.bincount(some.cell[some.cell >= 0], minlength=cells)
    assert 0.7 < seen[seen > 0].mean() / STEPS_OF_A_CELL < 1.5
    again, whole = thinned(some, cells)  # few to a cell: all of them
    np.testing.assert_array_equal(again.pixel, some.pixel)
    np.testing.assert_array_equal(whole, 1.0)


def test_rates_are_those_of_all_within_what_counts_can_tell(germanium):
    measurement, trajectories = germanium
    exact, rough = measurement.exact, measurement.rough
    values = measurement.model.values
    right, slope = exact.rates(trajectories, exact.prepare(values))
    near, along = rough.rates(trajectories, rough.prepare(values))
    assert near.shape == right.shape
    assert along.shape == slope.shape
    assert abs(near.sum() / right.sum() - 1) < 0.01
    off = np.abs(near - right).sum() / right.sum()
    assert 1e-4 < off < 0.08  # approximate, and near
    for column in range(len(measurement.model.names)):
        power = np.sum(slope[..., column] ** 2)
        assert np.sum((along[..., column] - slope[..., column]) ** 2) < 0.25 * power


def test_few_trajectories_on_the_same_grid_are_all_walked(germanium):
    measurement, trajectories = germanium
    exact = measurement.exact
    few = replace(
        trajectories,
        pixel=trajectories.pixel[:200],
        first_step=trajectories.first_step[:200],
        start=trajectories.start[:201],
        cell=trajectories.cell[: trajectories.start[200]],
    )
    state = exact.prepare(measurement.model.values)
    walked = exact.rates(few, state)
    for ours, all_of_it in zip(ThinnedPhonons(exact).rates(few, state), walked, strict=True):
        np.testing.assert_array_equal(ours, all_of_it)


def test_doubting_knows_the_same_ways_as_the_exact_rates(germanium):
    measurement, _ = germanium
    rough, exact = measurement.rough, measurement.exact
    assert isinstance(rough, ExactModel)
    assert rough.parameter_names == exact.parameter_names
    assert rough.missetting.names == exact.missetting.names
    assert rough.doubting().missetting.names == exact.doubting().missetting.names
    assert rough.doubting().aside.names == exact.doubting().aside.names
