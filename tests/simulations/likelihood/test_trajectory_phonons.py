"""Rates along trajectories against the brute-force quadrature of the virtual experiment."""

from dataclasses import replace

import numpy as np
import pytest

from simulations.likelihood import Q_SPREAD, QSpreadSection, TrajectoryPhonons, build_zone_map
from simulations.likelihood.q_spread import NO_SPREAD
from simulations.likelihood.trajectory_steps import pass_gamma
from simulations.reciprocal import EnergySection
from simulations.virtual import Spread, VirtualExperiment, lattice_of
from simulations.virtual.sampling import expected_phonon_rate
from steering.experiment import Measurement, build_measurement, load_experiment
from tests.conftest import ROOT
from tests.simulations.trajectory_quadrature import quadrature

PSI_DEG = 30.0


def measured(
    example: str,
    pixels: int,
    temperature_K: float = 5.0,
    spread: QSpreadSection | None = None,
    rays: int = 1,
):
    """Measurement of an example with few live pixels, and the quadrature folded by the same map."""
    experiment = load_experiment(ROOT / "examples" / example)
    spread = QSpreadSection() if spread is None else spread
    experiment = experiment.model_copy(
        update={
            "sample": experiment.sample.model_copy(update={"temperature_K": temperature_K}),
            "q_spread": spread,
        }
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
        spread=Spread(**spread.model_dump(exclude={"known_percent"})),
    )
    trajectories = measurement.trajectories(PSI_DEG, instrument)
    by_pixel = expected_phonon_rate(
        virtual,
        PSI_DEG,
        trajectories.step_edges_meV,
        pixels=chosen,
        lattice=lattice_of(virtual),
        rays=rays,
        step_meV=None if rays == 1 else 0.05,
    )
    view = measurement.geometry.view(PSI_DEG, instrument)
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
        assert np.linalg.norm(ours - difference) < 0.2 * np.linalg.norm(difference)
        # Worst is a far constant (0.93 of the difference); of the near ones, 0.99 to 1.01.
        assert ours @ difference == pytest.approx(difference @ difference, rel=0.1)


def test_a_finer_walk_changes_little(germanium, monkeypatch):
    measurement, _, trajectories, _ = germanium
    exact = measurement.exact
    state = exact.prepare(measurement.model.values)
    ours, _ = exact.rates(trajectories, state, gradient=False)
    monkeypatch.setattr("simulations.likelihood.trajectory_phonons.STEP_SIGMAS", 0.2)
    assert off(exact.rates(trajectories, state)[0], ours, 7) < 0.04


def test_long_steps_tell_of_the_same_change(germanium):
    measurement, _, trajectories, _ = germanium
    exact, values = measurement.exact, measurement.model.values
    coarse = exact.coarsely()
    assert len(coarse.true_edges_meV()) == pytest.approx(len(exact.true_edges_meV()) / 2, abs=3)
    there = values * (1 + 0.02 * np.cos(np.arange(len(values))))
    state, other = exact.prepare(values), exact.prepare(there)
    assert coarse.prepare(there) is other  # of the same arrays
    (fine, slope), (rough, near) = (
        exact.rates(trajectories, state),
        coarse.rates(trajectories, state),
    )
    assert 1e-4 < off(rough, fine, 7) < 0.02
    assert np.linalg.norm(near - slope) < 0.15 * np.linalg.norm(slope)
    change, of_long_ones = (
        walk.rates(trajectories, other, gradient=False)[0] - before
        for walk, before in ((exact, fine), (coarse, rough))
    )
    assert np.linalg.norm(of_long_ones - change) < 0.2 * np.linalg.norm(change)
    assert len(exact.true_edges_meV()) > len(coarse.doubting().true_edges_meV())


def manganese_oxide_walk(step_rlu: float) -> TrajectoryPhonons:
    measurement = build_measurement(
        load_experiment(ROOT / "examples" / "mno-hyspec.yaml"), ROOT / "examples"
    )
    return TrajectoryPhonons(
        model=measurement.model,
        crystal=measurement.crystal,
        zone=build_zone_map(measurement.crystal, step_rlu=step_rlu),
        energy=measurement.energy,
        n_path_bins=measurement.path.n_bins,
        ei_meV=measurement.ei_meV,
        temperature_K=5,
        resolution=measurement.instrument.resolution,
    )


def test_states_of_the_latest_parameters_are_kept():
    exact = manganese_oxide_walk(0.2)
    values = exact.model.values
    one, two = exact.prepare(values), exact.doubting().prepare(1.1 * values)
    assert exact.prepare(values.copy()) is one
    assert exact.prepare(1.1 * values) is two  # of a sibling that shares all arrays
    exact.prepare(1.2 * values)
    again = exact.prepare(values)
    assert again is not one
    np.testing.assert_array_equal(again.square, one.square)


def test_modes_continued_to_second_order_are_those_of_the_matrix():
    exact = manganese_oxide_walk(0.05)
    model, zone = exact.model, exact.zone
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
    # a block keeps the sum over its modes
    np.testing.assert_allclose(
        (state.square[points] + first + second).sum(1), true.sum(1), rtol=1e-3
    )


def test_modes_that_cross_are_those_of_the_matrix_once_their_block_is_diagonalised():
    exact = manganese_oxide_walk(0.04)
    model = exact.model
    state = exact.prepare(model.values)
    sizes = (state.block[:, :, None] == state.block[:, None, :]).sum(axis=2).max(axis=1)
    crossing = (sizes > 1) & (state.square[:, 0] > 9.0)
    points = np.flatnonzero(crossing[: exact.zone.index.max() + 1])  # whose cells reach so far
    assert len(points) > 50
    rng = np.random.default_rng(5)
    points = rng.choice(points, 200)
    step = 0.5 * exact.zone.reach * rng.normal(size=(200, 3)) / np.sqrt(3)
    true = np.linalg.eigvalsh(
        model.dynamical_matrices(exact.points_inverse_A[points] + step, model.values)
    )
    bent = np.stack(
        [
            (2.0 - (a == b)) * 0.5 * step[:, a] * step[:, b]
            for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
        ],
        axis=1,
    )
    alone = state.square[points] + np.einsum("psa,pa->ps", state.slope[points], step)
    alone += np.einsum("psi,pi->ps", state.curvature[points], bent)
    together = np.empty_like(alone)
    for row, (point, move) in enumerate(zip(points, step, strict=True)):
        same = state.block[point][:, None] == state.block[point][None, :]
        matrix = np.where(same, state.mixing_along(point, move), 0)
        matrix[np.diag_indices_from(matrix)] = alone[row]
        together[row] = np.linalg.eigvalsh(matrix)
    off_alone = np.abs(np.sqrt(np.sort(alone, axis=1)) - np.sqrt(true))
    off_together = np.abs(np.sqrt(together) - np.sqrt(true))
    assert off_together.mean() < 0.3 * off_alone.mean()
    assert np.quantile(off_together, 0.99) < 0.3 * np.quantile(off_alone, 0.99)


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


def other_crystal(structure: str, ei_meV: float) -> Measurement:
    """The reference run with a hexagonal crystal at 5 K on its standard path."""
    experiment = load_experiment(ROOT / "examples" / "ge-arcs.yaml")
    sample = {"structure": structure, "u": (1.0, 0.0, 0.0), "v": (0.0, 0.0, 1.0)}
    axis = EnergySection(min_meV=0, max_meV=0.98 * ei_meV, bins=98, substeps=4)
    path = {"points": "seekpath", "bins": None, "step_rlu": 0.05, "energy": axis}
    changed = {
        "model": None,
        "sample": experiment.sample.model_copy(update=sample),
        "instrument": experiment.instrument.model_copy(update={"ei_meV": ei_meV}),
        "path": experiment.path.model_copy(update=path),
        "parameters": experiment.parameters.model_copy(
            update={"cutoff_A": 3.4, "free": 4, "prior": None}
        ),
    }
    return build_measurement(experiment.model_copy(update=changed), ROOT / "examples")


MINUTE = 3000.0  # one-phonon counts in the tubes, and as many of a flat background


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "ei_meV", "n_pixels"),
    [("MgB2", 120.0, 1500), ("ZnO", 90.0, 520)],
)
def test_cells_of_many_pixels_are_those_of_a_quadrature_that_shares_nothing(
    name, ei_meV, n_pixels, shared_data, capsys
):
    structure = shared_data / "phonopy-test" / name / "phonopy_disp.yaml"
    measurement = other_crystal(str(structure), ei_meV)
    assert (measurement.model.reference.dipole is not None) == (name == "ZnO")
    whole, psi = measurement.instrument, 37.3
    live = np.flatnonzero(~whole.masked)
    pixels = np.sort(np.random.default_rng(1).choice(live, n_pixels, replace=False))
    reference, crossing = quadrature(measurement, psi, pixels)
    assert crossing >= 500
    instrument = whole.with_mask(~np.isin(np.arange(whole.n_pixels), pixels))
    exact = measurement.exact
    state = exact.prepare(measurement.model.values)
    ours, _ = exact.rates(measurement.trajectories(psi, instrument), state, gradient=False)
    _, flat = measurement.geometry.path_sums(measurement.exposure(psi, instrument))
    use = measurement.energy.centres_meV > measurement.elastic_cut_meV
    ours, reference, flat = ours[:, use], reference[:, use], flat[:, use]
    scale = MINUTE / reference.sum()
    expected, off_by = scale * reference, scale * (ours - reference)
    background = MINUTE * flat / flat.sum()
    seen = flat > 0
    pull = off_by[seen] / np.sqrt(expected + background)[seen]
    bare = np.abs(off_by / np.sqrt(np.maximum(expected, 1e-9)))[expected >= 1]
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{name}: {crossing} pixels, {seen.sum()} cells, "
            f"sum {ours.sum() / reference.sum():.4f}, "
            f"{100 * np.abs(off_by).sum() / MINUTE:.2f} % off, "
            f"largest pull {np.abs(pull).max():.3f} "
            f"(without background, from one count on, {bare.max():.3f}), rms {pull.std():.4f}",
            end="",
        )
    assert ours.sum() == pytest.approx(reference.sum(), rel=0.005)
    assert np.abs(pull).max() < 0.3
    assert np.mean(np.abs(pull) > 0.3) < 0.002
    assert not ours[~seen].any()


def test_stretches_thatpass_gamma_are_found_by_their_nearest_lattice_vector():
    # Q = (1 + k_f, 0, k_f / 10 or 3 k_f / 10), k_f of 0.8 to 1.2: one passes (2, 0, 0) by 0.2.
    found = np.zeros(2, dtype=np.bool_)
    pass_gamma(
        np.array([0, 1], dtype=np.int32),
        np.array([3, 3], dtype=np.int32),
        np.array([0, 5, 10]),
        np.array([[-1.0, 0.0, -0.1], [-1.0, 0.0, -0.3]]),
        np.array([1.0, 0.0, 0.0]),
        np.linspace(0.5, 1.4, 10),
        2.0 * np.eye(3),
        0.25**2,
        found,
    )
    assert found.tolist() == [True, False]


SPREADS = {
    "all": QSpreadSection(mosaic_deg=0.3, divergence_deg=0.3, pixel_m=(0.025, 0.008)),
    "divergence": QSpreadSection(divergence_deg=0.5),
    "mosaic": QSpreadSection(mosaic_deg=0.5),
    "pixels": QSpreadSection(pixel_m=(0.06, 0.06)),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k == "all" else pytest.mark.slow) for k in SPREADS]
)
def test_a_spread_of_q_is_that_of_neutrons_drawn_one_by_one(kind):
    measurement, _, trajectories, drawn = measured(
        "ge-arcs.yaml", 24, spread=SPREADS[kind], rays=150
    )
    exact, values = measurement.exact, measurement.model.values
    blurred, _ = exact.rates(trajectories, exact.prepare(values), gradient=False)
    exact.q_blur = NO_SPREAD
    points, _ = exact.rates(trajectories, exact.prepare(values), gradient=False)
    from_bin = int(np.searchsorted(measurement.energy.edges_meV, measurement.elastic_cut_meV)) + 1
    assert off(blurred, drawn, from_bin) < 0.5 * off(points, drawn, from_bin)


def test_derivatives_of_blurred_rates_are_their_differences():
    measurement, _, trajectories, _ = measured("ge-arcs.yaml", 20, spread=SPREADS["all"])
    exact, values = measurement.exact, measurement.model.values
    rate, slope = exact.rates(trajectories, exact.prepare(values))
    step = 1e-3
    for k in (0, 3):
        high, low = values.copy(), values.copy()
        high[k] += step
        low[k] -= step
        up, _ = exact.rates(trajectories, exact.prepare(high), gradient=False)
        down, _ = exact.rates(trajectories, exact.prepare(low), gradient=False)
        found = (up - down) / (2 * step)
        assert np.abs(slope[..., k] - found).sum() < 0.1 * np.abs(found).sum()


def test_the_derivative_by_the_spread_of_q_is_its_difference():
    measurement, _, trajectories, _ = measured("ge-arcs.yaml", 20, spread=SPREADS["all"])
    exact, blur = measurement.exact, measurement.exact.q_blur
    state = exact.prepare(measurement.model.values)
    ways = exact.missetting.and_then(exact.aside)
    at = len(exact.parameter_names) + 1 + ways.names.index(Q_SPREAD)
    _, slope = exact.rates(trajectories, state)
    step = 0.02
    exact.q_blur = blur.widened(1 + step)
    wider, _ = exact.rates(trajectories, state, gradient=False)
    exact.q_blur = blur.widened(1 - step)
    narrower, _ = exact.rates(trajectories, state, gradient=False)
    found = (wider - narrower) / (2 * step) / 100  # for a per cent
    assert np.abs(slope[..., at] - found).sum() < 0.03 * np.abs(found).sum()
    doubting = exact.doubting()
    doubting.q_blur = blur
    off = np.zeros(len(doubting.missetting))
    which = doubting.missetting.names.index(Q_SPREAD)
    off[which] = -100 * step
    moved, _ = doubting.rates(trajectories, state, off=off, gradient=False)
    assert moved == pytest.approx(narrower, rel=1e-9)


@pytest.mark.parametrize("percent", [-150.0, -50.0, 40.0])
def test_the_spread_of_q_may_be_far_from_what_was_believed(percent):
    measurement, _, trajectories, _ = measured("ge-arcs.yaml", 20, spread=SPREADS["all"])
    exact = measurement.exact.doubting()
    state = exact.prepare(measurement.model.values)
    which = exact.missetting.names.index(Q_SPREAD)
    off = np.zeros((3, len(exact.missetting)))
    off[:, which] = percent + np.array([0.0, 2.0, -2.0])
    (_, slope), *around = (exact.rates(trajectories, state, off=one) for one in off)
    found = (around[0][0] - around[1][0]) / 4.0
    found_slope = slope[..., len(exact.parameter_names) + 1 + which]
    assert np.abs(found_slope - found).sum() < 0.05 * np.abs(found).sum()
    off[0, which] = -100.0
    nothing, slope = exact.rates(trajectories, state, off=off[0])
    assert not slope[..., len(exact.parameter_names) + 1 + which].any()
    exact.q_blur = exact.q_blur.widened(0.0)
    points, _ = exact.rates(trajectories, state, gradient=False)
    assert nothing == pytest.approx(points, rel=1e-12)


def test_steepness_is_what_a_stretch_adds_to_derivatives(germanium):
    measurement, _, trajectories, _ = germanium
    exact = measurement.exact
    state = exact.prepare(measurement.model.values)
    n = len(trajectories.pixel)
    steepness = np.full(n, np.nan, dtype=np.float32)
    rate, slope = exact.rates(trajectories, state, steepness=steepness)
    plain = exact.rates(trajectories, state)
    np.testing.assert_array_equal(rate, plain[0])
    np.testing.assert_array_equal(slope, plain[1])
    assert np.all(steepness >= 0)
    order = np.argsort(steepness)
    for one in (order[-1], order[-5], order[n // 2]):
        low, high = trajectories.start[one : one + 2]
        alone = replace(
            trajectories,
            pixel=trajectories.pixel[one : one + 1],
            first_step=trajectories.first_step[one : one + 1],
            start=np.array([0, high - low]),
            cell=trajectories.cell[low:high],
        )
        _, of_one = exact.rates(alone, state)
        by_parameters = of_one[..., : len(exact.parameter_names)]
        assert steepness[one] == pytest.approx(np.linalg.norm(by_parameters), rel=1e-5)
    assert steepness[order[-1]] > 10 * steepness[order[n // 2]]
    left = np.full(n, 7.0, dtype=np.float32)
    exact.rates(trajectories, state, gradient=False, steepness=left)
    assert np.all(left == 7.0)
