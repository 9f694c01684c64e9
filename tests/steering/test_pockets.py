"""Crystals with a small pocket of imaginary modes: counted by one rule wherever they are met."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from simulations.dynamics import modes
from simulations.errors import InputError
from simulations.virtual import VirtualExperiment, lattice_of, simulate_chunk
from simulations.virtual.sampling import expected_phonon_rate
from steering.experiment import build_measurement, load_experiment
from steering.run import replay
from steering.study import simulate
from tests.conftest import ROOT
from tests.simulations.phonon_oracles import phonondb_crystal
from tests.steering.virtual_scan import small_experiment

PSI_DEG = 30.0
SOFTER = ("2NN xx", 0.1767)  # of germanium: 0.5 % of the modes are imaginary then, down to 3i meV


def softened(imaginary, temperature_K=60.0):
    """A small germanium experiment with a pocket."""
    experiment = small_experiment()
    changes = {"imaginary": imaginary, "temperature_K": temperature_K}
    experiment = experiment.model_copy(
        update={"sample": experiment.sample.model_copy(update=changes)}
    )
    measurement = build_measurement(experiment, ROOT / "examples")
    model = measurement.model
    values = np.array(model.element_values)
    values[model.elements.index(SOFTER[0])] += SOFTER[1]
    return replace(measurement, model=model.with_elements(values).with_free(model.names))


def virtual(measurement, instrument, flux):
    sample = measurement.experiment.sample
    return VirtualExperiment(
        model=measurement.model,
        phi=measurement.model.values,
        instrument=instrument,
        u=sample.u,
        v=sample.v,
        ei_meV=measurement.ei_meV,
        temperature_K=sample.temperature_K,
        flux=flux,
        elastic_scale=0.0,
        pockets=measurement.pockets,
    )


def some_pixels(measurement, count, seed=1):
    """Some pixels, and the instrument with the others masked."""
    whole = measurement.instrument
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(np.flatnonzero(~whole.masked), count, replace=False))
    masked = np.ones(whole.n_pixels, dtype=bool)
    masked[chosen] = False
    return chosen, replace(whole, masked=masked)


def on_cells(measurement, instrument, trajectories, by_pixel):
    """Counts (pixels, steps) of all pixels of an instrument, by the cells of trajectories."""
    view = measurement.geometry.view(PSI_DEG, instrument)
    row_of = {tuple(d): i for i, d in enumerate(view.direction)}
    cells = np.zeros(measurement.path.n_bins * measurement.energy.n_bins)
    for k, pixel in enumerate(trajectories.pixel):
        cell = trajectories.cell[trajectories.start[k] : trajectories.start[k + 1]]
        first = trajectories.first_step[k]
        counts = by_pixel[row_of[tuple(trajectories.direction[pixel])], first : first + len(cell)]
        np.add.at(cells, cell[cell >= 0], counts[cell >= 0])
    return cells.reshape(measurement.path.n_bins, -1)


def off(ours, reference):
    return np.abs(ours - reference).sum() / reference.sum()


@pytest.mark.parametrize("imaginary", ["left_out", "damped"])
def test_rates_are_those_of_the_quadrature(imaginary):
    measurement = softened(imaginary)
    assert measurement.pockets is not None
    assert measurement.pockets.damped == (imaginary == "damped")
    chosen, instrument = some_pixels(measurement, 60)
    trajectories = measurement.trajectories(PSI_DEG, instrument)
    truth = virtual(measurement, instrument, 1.0)
    lattice = lattice_of(truth)
    np.testing.assert_allclose(lattice.mean_square, measurement.displacement, atol=1e-12)
    quadrature = expected_phonon_rate(
        truth, PSI_DEG, trajectories.step_edges_meV, pixels=chosen, lattice=lattice
    )
    by_pixel = np.zeros((instrument.n_pixels, quadrature.shape[1]))
    by_pixel[chosen] = quadrature
    reference = on_cells(measurement, instrument, trajectories, by_pixel)
    values = measurement.model.values
    ours, slope = measurement.exact.rates(trajectories, measurement.exact.prepare(values))
    forward = measurement.forward
    state = forward.prepare(values)
    folded, folded_slope = forward.rates(measurement.exposure(PSI_DEG), state)
    whole = measurement.trajectories(PSI_DEG)
    exact, _ = measurement.exact.rates(whole, measurement.exact.prepare(values), gradient=False)
    part = np.s_[:, 5:]
    assert off(ours[part], reference[part]) < 0.05
    assert ours[part].sum() == pytest.approx(reference[part].sum(), rel=0.02)
    assert folded[part].sum() == pytest.approx(exact[part].sum(), rel=0.05)
    assert np.all(np.isfinite(slope))
    assert np.all(np.isfinite(folded_slope))
    above = np.s_[:, 15:]  # where no mode of the pocket is near
    for k in range(len(values)):
        step = 1e-4 * np.max(np.abs(values)) * np.eye(len(values))[k]
        up, down = (
            measurement.exact.rates(
                trajectories, measurement.exact.prepare(values + sign * step), gradient=False
            )[0]
            for sign in (1, -1)
        )
        difference = ((up - down) / (2 * step[k]))[above].ravel()
        assert np.linalg.norm(slope[..., k][above].ravel() - difference) < 0.15 * np.linalg.norm(
            difference
        )


def test_modes_left_out_scatter_nothing_and_move_nothing():
    measurement = softened("left_out")
    q = measurement.voxels.centre_cartesian
    assert modes(measurement.model, q)[0].min() < -1.5
    forward = measurement.forward
    exposure = measurement.exposure(PSI_DEG)
    state = forward.prepare(measurement.model.values)
    rate, slope = forward.rates(exposure, state)
    dead = replace(state, energy=np.where(state.energy < -1.5, -50.0, state.energy))
    assert np.array_equal(forward.rates(exposure, dead, gradient=False)[0], rate)
    assert np.all(np.isfinite(slope))


@pytest.mark.parametrize("imaginary", ["left_out", "damped"])
def test_events_follow_the_exact_rates(imaginary):
    measurement = softened(imaginary)
    chi_square, cells = agreement(measurement, flux=1.5e5, from_bin=5)
    assert chi_square == pytest.approx(1.0, abs=4 * np.sqrt(2 / cells))


def agreement(measurement, flux, from_bin):
    """Mean squared pull of the cells that expect more than two counts, and their number."""
    whole = measurement.instrument
    view = measurement.geometry.view(PSI_DEG, whole)
    row_of = {tuple(d): i for i, d in enumerate(view.direction)}
    masked = np.ones(whole.n_pixels, dtype=bool)
    for direction in measurement.trajectories(PSI_DEG, whole).direction:
        masked[row_of[tuple(direction)]] = False  # pixels that see the path
    instrument = replace(whole, masked=masked)
    truth = virtual(measurement, instrument, flux)
    lattice = lattice_of(truth, measurement.displacement)
    chunk = simulate_chunk(truth, PSI_DEG, 1.0, 7, lattice=lattice)
    assert chunk.diagnosis["repeated"] < 0.02 * chunk.counts["phonon"]
    trajectories = measurement.trajectories(PSI_DEG, instrument)
    edges = trajectories.step_edges_meV
    step = np.searchsorted(edges, chunk.energy_transfer_meV, side="right") - 1
    kept = (step >= 0) & (step < len(edges) - 1)
    by_pixel = np.zeros((instrument.n_pixels, len(edges) - 1))
    np.add.at(by_pixel, (chunk.pixel[kept], step[kept]), 1)
    counts = on_cells(measurement, instrument, trajectories, by_pixel)
    exact = measurement.exact
    state = exact.prepare(measurement.model.values)
    rate = truth.flux * exact.rates(trajectories, state, gradient=False)[0]
    seen = rate > 2
    seen[:, :from_bin] = False
    assert seen.sum() > 50
    return float(np.mean((counts - rate)[seen] ** 2 / rate[seen])), int(seen.sum())


def test_a_pocket_is_told_and_may_be_refused():
    measurement = softened("left_out")
    assert "0.59 % of the modes are imaginary, a small pocket" in measurement.notes[0]
    assert "left out" in measurement.notes[0]
    with pytest.raises(InputError, match="refused, as asked"):
        _ = softened("refuse").displacement


def test_an_unstable_crystal_is_refused_with_what_would_mend_it():
    measurement = softened("damped")
    model = measurement.model
    unstable = replace(measurement, model=model.with_elements(-model.element_values))
    with pytest.raises(InputError, match="no small pocket.*Look at them") as told:
        _ = unstable.displacement
    assert "compute them in a larger supercell" in str(told.value)


def test_drawn_sets_may_be_as_imaginary_as_the_reference():
    measurement = softened("left_out")
    sets = measurement.quick_forward.draw(measurement.prior, 20, np.random.default_rng(3))
    q = measurement.voxels.centre_cartesian[::20]
    lowest = min(float(modes(measurement.model, q, phi)[0].min()) for phi in sets)
    assert measurement.pockets is not None
    assert lowest > -1.5 * measurement.pockets.depth_meV


def test_only_another_choice_makes_another_fold():
    assert "sample.imaginary" not in softened("left_out").fingerprint
    assert softened("damped").fingerprint["sample.imaginary"] == '"damped"'


# ------------------------------------------------------------------------ a crystal of phonondb


def copper_praseodymium_oxide(shared_data, folder, imaginary, bins=(14, 14)):
    """Experiment file of CuPrO2: 0.8 % of its modes are imaginary, down to 5.4i meV at F."""
    phonon = phonondb_crystal(shared_data / "phonondb" / "phonondb-2018.h5", "mp-13694")
    phonon.save(folder / "phonopy.yaml", settings={"force_sets": True, "displacements": True})
    file = folder / "experiment.yaml"
    file.write_text(
        f"""title: CuPrO2 on ARCS
sample: {{structure: phonopy.yaml, u: [1, 1, 0], v: [0, 0, 1], temperature_K: 5,
  imaginary: {imaginary}}}
instrument: {{name: ARCS, ei_meV: 60, coarsen: 4}}
path:
  points:
    - {{label: G, hkl: [0, 0, 0]}}
    - {{label: F, hkl: [-0.5, 0, 1]}}
    - {{label: Z, hkl: [0, 0, 1.5]}}
  bins: [{bins[0]}, {bins[1]}]
  half_width_rlu: 0.08
  voxel_rlu: 0.04
  energy: {{min_meV: 0, max_meV: 50, bins: 50, substeps: 4}}
parameters: {{cutoff_A: 3.0, free: 3, prior: null}}
motion: {{axis: psi, limits_deg: [0, 120], speed_deg_per_s: 2, settle_s: 0, overhead_s: 30}}
targets: {{relative_sigma: 0.05, per_parameter: {{}}}}
model: null
source: {{kind: files}}
virtual: {{counts_per_minute: 40, background_ratio: 0.2}}
"""
    )
    return file


@pytest.mark.slow
@pytest.mark.parametrize("imaginary", ["left_out", "damped"])
def test_events_of_a_real_crystal_follow_the_exact_rates(imaginary, shared_data, tmp_path):
    file = copper_praseodymium_oxide(shared_data, tmp_path, imaginary)
    measurement = build_measurement(load_experiment(file), tmp_path)
    assert "0.78 % of the modes are imaginary" in measurement.notes[0]
    chi_square, cells = agreement(measurement, flux=3e5, from_bin=4)
    assert chi_square == pytest.approx(1.0, abs=4 * np.sqrt(2 / cells))


@pytest.mark.slow
def test_a_scan_is_simulated_and_replayed(shared_data, tmp_path):
    """A crystal of phonondb with a pocket; both commands say what became of it."""
    file = copper_praseodymium_oxide(shared_data, tmp_path, "left_out", bins=(6, 6))
    experiment = load_experiment(file)
    experiment = experiment.model_copy(
        update={"instrument": experiment.instrument.model_copy(update={"coarsen": 16})}
    )
    truth = simulate(
        experiment, experiment_dir=tmp_path, output=tmp_path / "scan", psi_deg=[20.0, 60.0],
        minutes=6.0, seed=3, formats=("nxspe",), processes=1,
    )  # fmt: skip
    assert "a small pocket down to 5.4i meV" in truth["notes"][0]
    result = replay(
        sorted((tmp_path / "scan").glob("*.nxspe")), experiment, experiment_dir=tmp_path,
        output=tmp_path / "replay",
    )  # fmt: skip
    assert result["notes"][0] == truth["notes"][0]
    assert json.loads((tmp_path / "replay" / "result.json").read_text())["notes"] == result["notes"]
    assert [p["name"] for p in result["parameters"]] == [p["name"] for p in truth["parameters"]]
    for found, true in zip(result["parameters"], truth["parameters"], strict=True):
        assert abs(found["value"] - true["value"]) < 5 * found["sigma"]
