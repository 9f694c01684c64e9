"""Folding onto |Q|: virtual data against their expectation, same support, additive."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.fold import fold_powder_events, fold_powder_histogram
from simulations.dynamics import force_constant_model, read_force_constants
from simulations.fold import momentum_axis, powder_exposure, view_powder
from simulations.instrument import load_instrument
from simulations.reciprocal import EnergyAxis
from simulations.virtual import VirtualExperiment, lattice_of, simulate_chunk
from simulations.virtual.sampling import expected_phonon_rate

EI = 40.0
ENERGY = EnergyAxis(edges_meV=np.linspace(2, 38, 37), substeps=4)
STEP = 0.1


@pytest.fixture(scope="module")
def setting():
    whole = load_instrument("ARCS/16")
    rng = np.random.default_rng(3)
    open_pixels = rng.permutation(np.flatnonzero(~whole.masked))[:25]
    closed = np.ones(whole.n_pixels, bool)
    closed[open_pixels] = False
    instrument = whole.with_mask(closed)
    edges_Q = momentum_axis(instrument, ENERGY, EI, STEP)
    view = view_powder(instrument=instrument, energy=ENERGY, ei_meV=EI, momentum_edges=edges_Q)
    D, flat = powder_exposure(view=view, instrument=instrument, energy=ENERGY, ei_meV=EI)
    return instrument, view, D, flat


def test_virtual_events_fold_to_what_every_pixel_and_substep_expects(setting):
    instrument, view, D, flat = setting
    crystal_constants = read_force_constants("germanium")
    model = force_constant_model(crystal_constants.crystal, crystal_constants, 7.0)
    experiment = VirtualExperiment(
        model=model,
        phi=model.values,
        instrument=instrument,
        u=(1, 1, 0),
        v=(0, 0, 1),
        ei_meV=EI,
        temperature_K=5.0,
        flux=3e5,
        background=20.0,
        elastic_scale=0.0,
        intrinsic_sigma_meV=0.06,
    )
    lattice = lattice_of(experiment)
    psi, minutes = 33.0, 900.0
    chunk = simulate_chunk(experiment, psi, minutes, 4, lattice=lattice)
    counts = np.zeros(D.shape, dtype=np.int64)
    account = fold_powder_events(chunk.pixel, chunk.energy_transfer_meV, view=view, counts=counts)
    assert account.complete
    assert counts.sum() == account.folded > 10_000

    pixels = np.flatnonzero(~instrument.masked)
    edges = view.step_edges_meV
    rate = expected_phonon_rate(experiment, psi, edges, pixels=pixels, lattice=lattice)
    away = instrument.position_m[pixels] / instrument.distance_m[pixels][:, None]
    ki = np.sqrt(EI / 2.0721248)
    expected = np.zeros(D.shape)
    for s in range(len(edges) - 1):
        middle = 0.5 * (edges[s] + edges[s + 1])
        Q = np.array([0, 0, ki]) - np.sqrt((EI - middle) / 2.0721248) * away
        row = (np.linalg.norm(Q, axis=1) / STEP).astype(int)
        column = int((middle - ENERGY.edges_meV[0]) / ENERGY.step_meV)
        np.add.at(expected[:, column], row, minutes * rate[:, s])
    expected += minutes * experiment.background * 1e3 * flat  # flat is per millisecond
    assert not counts[D == 0].any()
    full = expected >= 10
    assert full.sum() > 200
    chi2 = ((counts - expected) ** 2 / np.where(full, expected, 1))[full].mean()
    assert 0.85 < chi2 < 1.15, chi2


@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(0, 5000))
def test_blocks_add_and_the_support_is_that_of_the_exposure(setting, seed, cut):
    instrument, view, D, _ = setting
    rng = np.random.default_rng(seed)
    pixel = rng.integers(-1, instrument.n_pixels + 1, 5000).astype(np.int32)
    energy = rng.uniform(-5, 45, 5000)
    energy[::97] = np.nan
    whole, parts = np.zeros(D.shape, dtype=np.int64), np.zeros(D.shape, dtype=np.int64)
    account = fold_powder_events(pixel, energy, view=view, counts=whole)
    first = fold_powder_events(pixel[:cut], energy[:cut], view=view, counts=parts)
    second = fold_powder_events(pixel[cut:], energy[cut:], view=view, counts=parts)
    assert account.complete
    assert account == first + second
    assert np.array_equal(whole, parts)
    assert not whole[D == 0].any()


def test_a_histogram_of_ones_folds_to_its_exposure(setting):
    instrument, _, _, _ = setting
    edges = np.linspace(2, 38, 73)
    common = {"instrument": instrument, "energy": ENERGY, "ei_meV": EI}
    view = view_powder(
        momentum_edges=momentum_axis(instrument, ENERGY, EI, STEP),
        histogram_edges_meV=edges,
        **common,
    )
    shape = (instrument.n_pixels, len(view.kf))
    skip = np.random.default_rng(1).random(shape) < 0.4
    D, _ = powder_exposure(view=view, reduced=True, skip=skip, **common)
    signal, variance = np.zeros(D.shape), np.zeros(D.shape)
    weight = instrument.solid_angle_sr[:, None] * np.diff(view.step_edges_meV)
    account = fold_powder_histogram(
        np.where(skip, np.nan, 2.5),
        np.full(shape, 0.1),
        weight=weight,
        skip=skip,
        view=view,
        signal=signal,
        variance=variance,
    )
    assert account.complete
    np.testing.assert_allclose(signal, 2.5 * D, rtol=1e-12)
    assert np.array_equal(variance > 0, D > 0)
