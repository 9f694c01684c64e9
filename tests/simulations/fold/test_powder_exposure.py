"""The |Q| map: its exposure against every pixel and sub-step, its axis, what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulations.fold import momentum_axis, powder_exposure, view_powder
from simulations.instrument import load_instrument
from simulations.reciprocal import EnergyAxis

EI = 40.0
ENERGY = EnergyAxis(edges_meV=np.linspace(-10, 70, 81), substeps=4)


@pytest.fixture(scope="module")
def instrument():
    whole = load_instrument("ARCS/16")
    rng = np.random.default_rng(2)
    return whole.with_mask(rng.random(whole.n_pixels) < 0.2)


def brute_force(instrument, edges_Q, step_edges, skip=None, reduced=False):
    """D and the flat exposure, from vectors and times, without any table."""
    ki = np.sqrt(EI / 2.0721248)
    direction = instrument.position_m / np.linalg.norm(instrument.position_m, axis=1)[:, None]
    weight = np.zeros((len(edges_Q) - 1, ENERGY.n_bins))
    flat = np.zeros(weight.shape)
    for s, (low, high) in enumerate(zip(step_edges[:-1], step_edges[1:], strict=True)):
        kf = np.sqrt((EI - 0.5 * (low + high)) / 2.0721248)
        Q = np.array([0, 0, ki]) - kf * direction
        column = np.searchsorted(edges_Q, np.linalg.norm(Q, axis=1), side="right") - 1
        use = ~instrument.masked & (column < len(weight))
        if skip is not None:
            use &= ~skip[:, s]
        e = np.searchsorted(ENERGY.edges_meV, 0.5 * (low + high), side="right") - 1
        distance = np.linalg.norm(instrument.position_m, axis=1)
        flight = distance * 1e3 / 437.3934 * (1 / np.sqrt(EI - high) - 1 / np.sqrt(EI - low))
        omega = instrument.solid_angle_sr
        factor = 1.0 if reduced else kf / ki
        np.add.at(weight[:, e], column[use], (omega * (high - low) * factor)[use])
        np.add.at(flat[:, e], column[use], (omega * flight * (ki / kf if reduced else 1))[use])
    return weight, flat


def test_exposure_is_the_sum_over_every_pixel_and_substep(instrument):
    edges_Q = momentum_axis(instrument, ENERGY, EI, 0.07)
    view = view_powder(instrument=instrument, energy=ENERGY, ei_meV=EI, momentum_edges=edges_Q)
    D, flat = powder_exposure(view=view, instrument=instrument, energy=ENERGY, ei_meV=EI)
    brute, brute_flat = brute_force(instrument, edges_Q, view.step_edges_meV)
    # a pair may lie on an edge of |Q| within rounding: it may move, nothing may be lost
    np.testing.assert_allclose(D.sum(), brute.sum(), rtol=1e-6)
    assert np.abs(D - brute).max() < 2e-4 * D.max()
    assert np.abs(flat - brute_flat).max() < 2e-4 * flat.max()
    whole = np.diff(view.step_edges_meV) @ (view.kf / view.ki)
    assert D.sum() == pytest.approx(whole * instrument.solid_angle_sr[~instrument.masked].sum())


def test_bins_of_a_histogram_and_skipped_pairs(instrument):
    edges_Q = momentum_axis(instrument, ENERGY, EI, 0.1)
    histogram = np.arange(-12.0, 36.0, 0.5)
    view = view_powder(
        instrument=instrument,
        energy=ENERGY,
        ei_meV=EI,
        momentum_edges=edges_Q,
        histogram_edges_meV=histogram,
    )
    assert view.step_edges_meV[0] == -10.0
    skip = np.random.default_rng(5).random((instrument.n_pixels, len(view.kf))) < 0.3
    D, flat = powder_exposure(
        view=view, instrument=instrument, energy=ENERGY, ei_meV=EI, reduced=True, skip=skip
    )
    brute, brute_flat = brute_force(instrument, edges_Q, view.step_edges_meV, skip, reduced=True)
    assert np.abs(D - brute).max() < 2e-4 * D.max()
    assert np.abs(flat - brute_flat).max() < 2e-4 * flat.max()


def test_the_axis_reaches_every_open_pixel_and_no_further(instrument):
    for step in (0.05, 0.31):
        edges_Q = momentum_axis(instrument, ENERGY, EI, step)
        view = view_powder(instrument=instrument, energy=ENERGY, ei_meV=EI, momentum_edges=edges_Q)
        D, _ = powder_exposure(view=view, instrument=instrument, energy=ENERGY, ei_meV=EI)
        lost = np.diff(view.step_edges_meV) @ (view.kf / view.ki)
        lost *= instrument.solid_angle_sr[~instrument.masked].sum()
        assert D.sum() == pytest.approx(lost)  # nothing lies beyond the axis
        assert D[-2:].any()


def test_impossible_axes_are_refused(instrument):
    with pytest.raises(ValueError, match=r"\|Q\| step is 0"):
        momentum_axis(instrument, ENERGY, EI, 0.0)
    with pytest.raises(ValueError, match=r"\|Q\| step is 1e-06"):
        momentum_axis(instrument, ENERGY, EI, 1e-6)
    closed = replace(instrument, masked=np.ones(instrument.n_pixels, bool))
    with pytest.raises(ValueError, match="every pixel of ARCS/16 is masked"):
        momentum_axis(closed, ENERGY, EI, 0.1)
    with pytest.raises(ValueError, match="ascend from 0"):
        view_powder(
            instrument=instrument, energy=ENERGY, ei_meV=EI, momentum_edges=np.array([1.0, 2.0])
        )
    high = EnergyAxis(edges_meV=np.array([50.0, 60.0]), substeps=4)
    with pytest.raises(ValueError, match="expected above the lowest energy bin"):
        view_powder(
            instrument=instrument, energy=high, ei_meV=EI, momentum_edges=np.array([0.0, 2.0])
        )
