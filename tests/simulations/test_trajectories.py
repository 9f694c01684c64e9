"""Rates along trajectories against the brute-force quadrature of the virtual experiment."""

from dataclasses import replace

import numpy as np
import pytest

from simulations.trajectories import TrajectoryPhonons
from simulations.virtual import VirtualExperiment, expected_phonon_rate, lattice_of
from simulations.zone_map import build_zone_map
from steering.experiment_file import load_experiment
from steering.measurement import build_measurement
from tests.conftest import ROOT

PSI_DEG = 30.0


def measured(example: str, pixels: int, temperature_K: float = 5.0):
    """Measurement of an example with few live pixels, and the quadrature folded by the same map."""
    experiment = load_experiment(ROOT / "examples" / example)
    experiment = experiment.model_copy(
        update={"sample": experiment.sample.model_copy(update={"temperature_K": temperature_K})}
    )
    measurement = build_measurement(experiment, ROOT / "examples")
    whole = measurement.instrument
    rng = np.random.default_rng(1)
    chosen = np.sort(rng.choice(np.flatnonzero(~whole.masked), pixels, replace=False))
    masked = np.ones(whole.n_pixels, dtype=bool)
    masked[chosen] = False
    instrument = replace(whole, masked=masked)
    sample = experiment.sample
    virtual = VirtualExperiment(
        model=measurement.model,
        phi=measurement.model.values,
        instrument=whole,
        u=sample.u,
        v=sample.v,
        ei_meV=measurement.ei_meV,
        temperature_K=temperature_K,
        flux=1.0,
    )
    trajectories = measurement.trajectories(PSI_DEG, instrument)
    by_pixel = expected_phonon_rate(
        virtual,
        PSI_DEG,
        trajectories.step_edges_meV,
        pixels=chosen,
        lattice=lattice_of(virtual),
    )
    view = measurement.view(PSI_DEG, instrument)
    row_of = {tuple(view.direction[p]): i for i, p in enumerate(chosen)}
    rows = [row_of[tuple(d)] for d in trajectories.direction]
    cells = np.zeros(measurement.path.n_bins * measurement.energy.n_bins)
    for k, pixel in enumerate(trajectories.pixel):
        cell = trajectories.cell[trajectories.start[k] : trajectories.start[k + 1]]
        first = trajectories.first_step[k]
        counts = by_pixel[rows[pixel], first : first + len(cell)]
        np.add.at(cells, cell[cell >= 0], counts[cell >= 0])
    return measurement, instrument, trajectories, cells.reshape(measurement.path.n_bins, -1)


@pytest.fixture(scope="module")
def germanium():
    return measured("ge-arcs.yaml", 100)


def off(ours, reference, from_bin):
    """Summed absolute difference as a share of the reference, above the elastic line."""
    part = slice(from_bin, None)
    return np.abs(ours - reference)[:, part].sum() / reference[:, part].sum()


def test_rates_are_those_of_the_quadrature_where_the_folded_model_is_not(germanium):
    measurement, instrument, trajectories, reference = germanium
    exact = measurement.exact
    ours, _ = exact.rates(trajectories, exact.prepare(measurement.model.values), gradient=False)
    folded, _ = measurement.forward.rates(
        measurement.exposure(PSI_DEG, instrument),
        measurement.forward.prepare(measurement.model.values),
        gradient=False,
    )
    assert ours[:, 7:].sum() == pytest.approx(reference[:, 7:].sum(), rel=0.02)
    assert off(ours, reference, 7) < 0.05
    assert off(folded, reference, 7) > 3 * off(ours, reference, 7)


def test_steep_branches_of_the_narrow_instrument_come_out_right():
    measurement, _, trajectories, reference = measured("mno-hyspec.yaml", 80)
    exact = measurement.exact
    ours, _ = exact.rates(trajectories, exact.prepare(measurement.model.values), gradient=False)
    assert off(ours, reference, 12) < 0.06


def test_warm_crystals_too():
    measurement, _, trajectories, reference = measured("ge-arcs.yaml", 40, temperature_K=300.0)
    exact = measurement.exact
    ours, _ = exact.rates(trajectories, exact.prepare(measurement.model.values), gradient=False)
    assert off(ours, reference, 12) < 0.05


def test_derivatives_are_those_of_the_rate(germanium):
    measurement, _, trajectories, _ = germanium
    exact, values = measurement.exact, measurement.model.values
    _, slope = exact.rates(trajectories, exact.prepare(values))
    for k in range(len(values)):
        step = 1e-4 * np.max(np.abs(values)) * np.eye(len(values))[k]
        up, down = (
            exact.rates(trajectories, exact.prepare(values + sign * step), gradient=False)[0]
            for sign in (1, -1)
        )
        difference = ((up - down) / (2 * step[k]))[:, 7:].ravel()
        ours = slope[:, 7:, k].ravel()
        # Off only by the couplings of a grid point, which stand for those of its surroundings.
        assert np.linalg.norm(ours - difference) < 0.15 * np.linalg.norm(difference)
        assert ours @ difference == pytest.approx(difference @ difference, rel=0.04)


def test_a_finer_walk_changes_little(germanium, monkeypatch):
    measurement, _, trajectories, _ = germanium
    exact = measurement.exact
    state = exact.prepare(measurement.model.values)
    ours, _ = exact.rates(trajectories, state, gradient=False)
    monkeypatch.setattr("simulations.trajectories.STEP_SIGMAS", 0.2)
    assert off(exact.rates(trajectories, state)[0], ours, 7) < 0.04


def test_modes_continued_to_second_order_are_those_of_the_matrix():
    measurement = build_measurement(
        load_experiment(ROOT / "examples" / "mno-hyspec.yaml"), ROOT / "examples"
    )
    model, crystal = measurement.model, measurement.crystal
    zone = build_zone_map(crystal, step_rlu=0.05)
    exact = TrajectoryPhonons(
        model=model,
        crystal=crystal,
        zone=zone,
        energy=measurement.energy,
        n_path_bins=measurement.path.n_bins,
        ei_meV=measurement.ei_meV,
        temperature_K=5,
        resolution=measurement.instrument.resolution,
    )
    state = exact.prepare(model.values)
    rng = np.random.default_rng(4)
    points = rng.choice(zone.n_points, 60, replace=False)
    step = 0.25 * zone.reach * rng.normal(size=(60, 3)) / np.sqrt(3)
    curvature = np.empty((60, state.square.shape[1], 3, 3))
    for i, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        curvature[:, :, a, b] = curvature[:, :, b, a] = state.curvature[points, :, i]
    first = np.einsum("psa,pa->ps", state.slope[points], step)
    second = 0.5 * np.einsum("psab,pa,pb->ps", curvature, step, step)
    q = exact.points_inverse_A[points] + step
    true = np.linalg.eigvalsh(model.dynamical_matrices(q, model.values))
    flat = np.abs(np.sort(state.square[points] + first, axis=1) - true)
    bent = np.abs(np.sort(state.square[points] + first + second, axis=1) - true)
    assert np.median(bent) < 0.1 * np.median(flat)
    assert bent.mean() < 0.5 * flat.mean()
    # pairs too close for this keep the sum over all modes
    np.testing.assert_allclose(
        (state.square[points] + first + second).sum(1), true.sum(1), rtol=1e-3
    )


def test_charge_scales_rates_and_reduced_input_has_no_kf_over_ki(germanium):
    measurement, instrument, trajectories, _ = germanium
    exact = measurement.exact
    state = exact.prepare(measurement.model.values)
    ours, _ = exact.rates(trajectories, state, gradient=False)
    np.testing.assert_allclose(
        exact.rates(trajectories.scaled(2.5), state)[0], 2.5 * ours, rtol=1e-12
    )
    reduced, _ = exact.rates(
        measurement.trajectories(PSI_DEG, instrument, reduced=True), state, gradient=False
    )
    total, undivided = ours.sum(0), reduced.sum(0)
    seen = undivided > 1e-3 * undivided.sum()
    kf_over_ki = np.sqrt(1 - measurement.energy.centres_meV[seen] / measurement.ei_meV)
    np.testing.assert_allclose(total[seen] / undivided[seen], kf_over_ki, rtol=0.03)


def test_threads_do_not_change_the_sum(germanium):
    import numba

    measurement, _, trajectories, _ = germanium
    exact = measurement.exact
    state = exact.prepare(measurement.model.values)
    before = numba.get_num_threads()
    first = exact.rates(trajectories, state)[1]
    numba.set_num_threads(1)
    try:
        alone = exact.rates(trajectories, state)[1]
    finally:
        numba.set_num_threads(before)
    assert np.array_equal(first, alone)
