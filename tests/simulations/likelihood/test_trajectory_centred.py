"""The walk without imaginary parts, against numpy and against the walk that has them."""

from dataclasses import replace

import numpy as np
import pytest

from simulations.likelihood import TYPICAL
from simulations.likelihood.inversion import Inversion
from simulations.likelihood.trajectory_centred import (
    diagonalise_real,
    fill_real_block,
    turned_real_slope,
)
from steering.experiment import build_measurement, load_experiment
from tests.conftest import ROOT

MODES, START = 24, 1


@pytest.mark.parametrize("size", [2, 3, 20])
@pytest.mark.parametrize("closeness", [1.0, 1e-3, 0.0])  # of the levels, over their couplings
def test_a_real_block_is_diagonalised_and_the_rest_left_alone(size, closeness):
    rng = np.random.default_rng(size)
    by_q = rng.normal(size=(3, size, size))
    by_q = by_q + by_q.swapaxes(1, 2)
    part, own = slice(START, START + size), np.eye(size, dtype=bool)
    mixing = np.full((1, MODES, 3, 1, MODES), np.nan)
    mixing[0, part, :, 0, part] = by_q.swapaxes(0, 1)
    step, slope = rng.normal(size=(2, 3))
    alone, steep = np.zeros((2, MODES))
    alone[part] = closeness * rng.normal(size=size)
    steep[part] = rng.normal(size=size)
    whole = np.where(own, np.diag(alone[part]), np.tensordot(step, by_q, axes=1))
    along = np.where(own, np.diag(steep[part]), np.tensordot(slope, by_q, axes=1))
    matrix, turned = np.full((2, MODES, MODES), np.nan), np.full((2, MODES, MODES), 7.0)
    fill_real_block(mixing, 0, step, alone, START, START + size, matrix, turned)
    np.testing.assert_allclose(matrix[0, :size, :size], whole)
    diagonalise_real(matrix, turned, START, size)
    rows = turned[0, part, :size]
    np.testing.assert_allclose(rows @ rows.T, np.eye(size), atol=1e-12)
    new = rows @ whole @ rows.T
    assert np.abs(new - np.diag(np.diag(new))).max() < 1e-5 * np.abs(whole).max()
    np.testing.assert_allclose(np.diag(matrix[0, :size, :size]), np.diag(new), atol=1e-9)
    np.testing.assert_allclose(np.sort(np.diag(new)), np.linalg.eigvalsh(whole), atol=1e-7)
    slopes = np.diag(rows @ along @ rows.T)
    for i in range(size):
        one = turned_real_slope(mixing, 0, slope, steep, turned, START + i, START, START + size)
        np.testing.assert_allclose(one, slopes[i], atol=1e-10)
    assert np.all(turned[0, [0, *range(START + size, MODES)]] == 7.0)
    assert np.all(turned[1] == 7.0)


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize(
    ("example", "blurred"), [("ge-arcs.yaml", False), ("MgO/experiment.yaml", True)]
)
def test_rates_are_those_of_complex_matrices(example, blurred, averaged, monkeypatch):
    file = ROOT / "examples" / example
    experiment = load_experiment(file)
    if blurred:
        experiment = experiment.model_copy(update={"q_spread": TYPICAL})
    real = build_measurement(experiment, file.parent)
    exacts = [real.exact]
    monkeypatch.setattr(Inversion, "of", classmethod(lambda cls, crystal, matrices: None))
    exacts.append(build_measurement(experiment, file.parent).exact)
    masked = real.instrument.masked | (np.arange(real.instrument.n_pixels) % 199 != 0)
    trajectories = real.trajectories(30.0, replace(real.instrument, masked=masked))
    sigma = exacts[0].missetting.sigma
    off, phi = 0.5 * sigma, real.model.values
    over = np.diag(np.concatenate([0.05 * np.abs(phi) + 1e-3, sigma]) ** 2) if averaged else None
    found = []
    for exact, parts in zip(exacts, (1, 2), strict=True):
        state = exact.prepare(1.02 * phi)
        assert state.mixing.shape[3] == state.coupling.shape[3] == parts
        found.append(exact.rates(trajectories, state, log_width=0.1, off=off, over=over))
    (rate, slope), (right, along) = found
    assert right.sum() > 0
    np.testing.assert_allclose(rate, right, rtol=1e-4, atol=1e-6 * right.max())
    for column in range(along.shape[-1]):
        size = np.abs(along[..., column]).sum()
        assert np.abs(slope[..., column] - along[..., column]).sum() <= 1e-5 * size
