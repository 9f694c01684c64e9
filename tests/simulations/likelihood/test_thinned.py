"""One trajectory of many walked for its neighbours, against all of them walked."""

from dataclasses import replace

import numpy as np
import pytest

from simulations.errors import InputError
from simulations.likelihood import (
    TYPICAL,
    ExactModel,
    RoughModel,
    ThinnedPhonons,
    q_blur,
    steepest,
    times_as_many,
)
from simulations.likelihood.q_spread import NO_SPREAD
from simulations.likelihood.thinned import (
    MISSED,
    STEEPEST,
    STEPS_BESIDE_STEEP,
    STEPS_OF_A_CELL,
    _places,
    every_that_serves,
    steps_of_a_cell,
    thinned,
)
from steering.experiment import build_measurement, load_experiment
from tests.conftest import ROOT

PSI_DEG = 47.0


@pytest.fixture(name="germanium", scope="module")
def _germanium():
    return every_other_pixel_of_germanium()


def every_other_pixel_of_germanium():
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


def cells_of(measurement):
    return measurement.path.n_bins * measurement.energy.n_bins


def test_what_is_kept_is_a_part_of_all_with_the_exposure_of_all(germanium):
    measurement, trajectories = germanium
    cells = cells_of(measurement)
    everything = exposure_of(trajectories, cells)
    some = trajectories
    for every, before in ((3, 1), (2, 3)):  # thinned, and thinned further
        whole = len(some.pixel)
        some = thinned(some, cells, every)
        assert len(some.pixel) / whole == pytest.approx(1 / every, rel=0.1)
        assert (some.every, some.every // every) == (every * before, before)
        kept = exposure_of(some, cells)
        np.testing.assert_allclose(some.of_all(kept), everything, rtol=1e-9)  # no cell is lost
        two = np.stack([kept, kept], axis=1)
        np.testing.assert_array_equal(some.of_all(two)[:, 1], some.of_all(kept))
    assert thinned(some, cells, 1) is some


def test_rows_of_neighbouring_tubes_are_kept_in_turn(germanium):
    measurement, trajectories = germanium
    everything = measurement.trajectories(PSI_DEG)
    some = thinned(everything, cells_of(measurement), 4)
    tube, row = _places(everything.direction)
    assert row.max() < 128  # pixels of a tube of ARCS
    assert 0.9 < (tube[-1] + 1) / (measurement.instrument.n_pixels / 128) < 1.3
    kept = np.unique(some.pixel)
    rows = row[kept] % 4
    even = tube[kept] % 2 == 0
    assert np.mean(rows[even] == 2) > 0.95  # the others cross cells that lost all
    assert np.mean(rows[~even] == 0) > 0.95


def test_where_q_is_spread_few_trajectories_serve_and_more_counts_ask_for_more(germanium):
    measurement, trajectories = germanium
    cells = cells_of(measurement)
    blur = q_blur(measurement.crystal, measurement.instrument, measurement.orientation, TYPICAL)
    served = [every_that_serves(trajectories, cells, blur, n) for n in (1e2, 1e7)]
    assert served == [3, 1]  # of pixels that are already every other one
    assert every_that_serves(trajectories, cells, NO_SPREAD, 1e2) == 1


def test_blurred_rates_of_few_trajectories_miss_no_more_than_is_said(germanium):
    measurement, _ = germanium
    cells = cells_of(measurement)
    experiment = measurement.experiment.model_copy(update={"q_spread": TYPICAL})
    exact = build_measurement(experiment, ROOT / "examples").exact
    trajectories = measurement.trajectories(PSI_DEG)
    state = exact.prepare(measurement.model.values)
    right, slope = exact.rates(trajectories, state)
    steps, _ = steps_of_a_cell(trajectories, cells)
    use = (right > 0) & (measurement.energy.centres_meV > measurement.elastic_cut_meV)
    for every in (2, 4):
        some = thinned(trajectories, cells, every)
        rate, along = exact.rates(some, state)
        missed = np.sum((rate - right)[use] ** 2 / right[use]) / np.sum(right[use])  # of one count
        assert missed < 1.2 * MISSED * every / steps
        for column in range(len(measurement.model.names)):
            power = np.sum(slope[..., column] ** 2)
            assert np.sum((along[..., column] - slope[..., column]) ** 2) < 0.01 * power


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


def test_cells_keep_the_steps_that_looking_around_takes(germanium, monkeypatch):
    measurement, trajectories = germanium
    walked = []

    def rates(some, state, **options):
        walked.append(some)
        return np.zeros((1, 1)), np.zeros((1, 1, 1))

    rough = ThinnedPhonons(measurement.exact)
    monkeypatch.setattr(type(measurement.exact), "rates", lambda self, *a, **k: rates(*a, **k))
    rough.rates(trajectories, None)
    steps, _ = steps_of_a_cell(walked[0], cells_of(measurement))
    assert 0.7 < steps / STEPS_OF_A_CELL < 1.5


def test_beside_the_steepest_few_of_the_others_serve(germanium, monkeypatch):
    measurement, trajectories = germanium
    exact = measurement.exact
    rough = ThinnedPhonons(exact)  # on the same grid
    state = exact.prepare(measurement.model.values)
    steepness = np.zeros(len(trajectories.pixel), dtype=np.float32)
    rate, right = exact.rates(trajectories, state, steepness=steepness)
    few = steepest(steepness)
    assert len(few) == pytest.approx(STEEPEST * len(steepness), abs=1)
    assert steepness[few].min() >= np.delete(steepness, few).max()
    _, plain = rough.rates(trajectories, state)
    near, beside_few = rough.rates(trajectories, state, steep=few)
    assert abs(near.sum() / rate.sum() - 1) < 0.01
    of_rates = ThinnedPhonons.rates.__globals__
    monkeypatch.setitem(of_rates, "STEPS_BESIDE_STEEP", STEPS_OF_A_CELL)
    _, beside_many = rough.rates(trajectories, state, steep=few)
    missed = [np.sum((one - right)[..., :-1] ** 2) for one in (plain, beside_few, beside_many)]
    assert missed[1] < 0.1 * missed[0]  # along half as many
    assert missed[2] < 0.02 * missed[0]
    some = thinned(trajectories, cells_of(measurement), 2)  # of these, all that are left are walked
    assert rough.rates(some, state, steep=np.arange(3))[0].shape == near.shape
    with pytest.raises(InputError, match="steepness"):
        rough.rates(trajectories, state, steepness=steepness)


def test_how_many_times_as_many_steps_exact_rates_walk(germanium):
    measurement, trajectories = germanium
    n_cells = cells_of(measurement)
    steps, _ = steps_of_a_cell(trajectories, n_cells)
    told = times_as_many(trajectories, n_cells)
    assert 1.0 < told < 1.5 * steps / STEPS_BESIDE_STEEP
    assert times_as_many(thinned(trajectories, n_cells, 16), n_cells) < told


def test_an_orientation_that_sees_nothing_has_no_steep_trajectories(germanium):
    measurement, _ = germanium
    instrument = measurement.instrument
    none = measurement.trajectories(
        PSI_DEG, replace(instrument, masked=np.ones_like(instrument.masked))
    )
    exact = measurement.exact
    state, steepness = exact.prepare(measurement.model.values), np.zeros(0, dtype=np.float32)
    assert len(none.pixel) == 0
    exact.rates(none, state, steepness=steepness)
    few = steepest(steepness)
    assert len(few) == 0
    rate, slope = ThinnedPhonons(exact).rates(none, state, steep=few)
    assert rate.sum() == 0.0
    assert not slope.any()


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
    assert isinstance(rough, RoughModel)
    assert isinstance(exact, ExactModel)
    assert rough.parameter_names == exact.parameter_names
    assert rough.missetting.names == exact.missetting.names
    assert rough.doubting().missetting.names == exact.doubting().missetting.names
    assert rough.doubting().aside.names == exact.doubting().aside.names
