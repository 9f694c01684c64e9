"""A flow in a bundle: what it sees, what it refuses, and its posterior against one on a grid."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from model_server.networks import Bundle, ConditionalDensity, counted_input, read_spectra
from model_server.networks.density import halves
from model_server.networks.reading import reading_document
from model_server.training import FlowRecipe
from simulations.errors import InputError
from simulations.fold import CellSums
from tests.model_server.networks.small_bundle import EDGES, GRID, PATH, PRIOR, fold, rates, trained

FLOW = FlowRecipe(
    hidden=64, context=16, transforms=2, bins=4, flow_hidden=32, epochs=60, batch=64,
    learning_rate=3e-3, counts=(100.0, 3_000.0), channels=(),
)  # fmt: skip


@cache
def flow() -> Bundle:
    return trained(FLOW, spectra=3_000)


def test_the_flow_sees_counts_but_not_the_unit_of_exposure():
    rng = np.random.default_rng(0)
    D = rng.uniform(1, 2, GRID.shape)
    S = rng.poisson(20 * D).astype(float)
    ones = np.ones(GRID.shape)
    x = counted_input(S, D, ones)
    assert x.shape == (GRID.inputs + 1,)
    np.testing.assert_allclose(counted_input(S, 5 * D, ones), x, atol=1e-6)
    more = counted_input(10 * S, D, ones)
    assert more[-1] > x[-1]
    assert np.abs(more - x)[:-1].max() > 0.1
    hole = D.copy()
    hole[0] = 0
    seen = counted_input(S, hole, hole > 0)
    assert (seen[: GRID.shape[1]] == 0).all()
    assert (counted_input(0 * S, 0 * D, 0 * ones)[:-1] == 0).all()


def test_a_bundle_with_a_flow_comes_back_the_same(tmp_path):
    bundle = flow()
    bundle.save(tmp_path / "f")
    again = Bundle.load(str(tmp_path / "f"))
    told = fold(counts=1_000.0)
    before, after = (read_spectra(b, [told])[0] for b in (bundle, again))
    np.testing.assert_array_equal(before.values, after.values)
    np.testing.assert_array_equal(before.interval, after.interval)
    assert "intervals that held the truth" in (tmp_path / "f" / "MODEL_CARD.md").read_text()
    assert again.card["calibration"]["bins"][0]["runs"] == 300


def test_a_flow_with_convolutions_reads_as_well_and_comes_back_the_same(tmp_path):
    looking = trained(replace(FLOW, channels=(8, 16), epochs=30), spectra=3_000)
    looking.save(tmp_path / "f")
    again = Bundle.load(str(tmp_path / "f"))
    assert again.card["network"]["channels"] == [8, 16]
    truth = PRIOR.sample(60, np.random.default_rng(8)).values
    told = [fold(parameters=one, counts=1_000.0, seed=k) for k, one in enumerate(truth)]
    before, after = (np.array([r.values for r in read_spectra(b, told)]) for b in (looking, again))
    np.testing.assert_array_equal(before, after)
    plain = np.array([one.values for one in read_spectra(flow(), told)])
    off, usual = (np.sqrt(np.mean((read - truth) ** 2, axis=0)) for read in (after, plain))
    assert (off < 1.15 * usual).all()
    assert off[0] < 0.15 * PRIOR.sigma[0]  # where the peak is
    assert off[1] < 0.8 * PRIOR.sigma[1]  # how wide, beside a background that nobody told
    assert 0.8 < np.mean(again.card["calibration"]["bins"][0]["coverage"]) < 0.97


def test_its_posterior_is_that_of_a_grid_and_narrows_with_counts():
    """Two parameters, no background: the exact posterior is a sum over a grid."""
    bundle = flow()
    a, b = (np.linspace(lo, hi, 61) for lo, hi in zip(PRIOR.lower, PRIOR.upper, strict=True))
    points = np.stack(np.meshgrid(a, b, indexing="ij"), axis=-1).reshape(-1, 2)
    coarse = rates(points).reshape(len(points), -1)
    rng = np.random.default_rng(5)
    widths = []
    for counts in (200.0, 2_000.0):
        ratios, offs, told = [], [], []
        for truth in PRIOR.sample(12, rng).values:
            clean = rates(truth[None])[0].ravel()
            flat = np.full(clean.size, 1 / clean.size)
            N = rng.poisson(counts * (clean / clean.sum() + flat))
            best = np.full(len(points), -np.inf)
            for ratio in np.linspace(0, 2, 15):  # the background's prior, as in the training
                shape = coarse / coarse.sum(axis=1, keepdims=True) + ratio * flat
                p = shape / shape.sum(axis=1, keepdims=True)
                best = np.logaddexp(best, (N * np.log(p)).sum(axis=1))
            w = np.exp(best - best.max())
            w /= w.sum()
            mean = w @ points
            sigma = np.sqrt(w @ (points - mean) ** 2)
            ones = np.ones(GRID.shape)
            seen = counted_input(N.reshape(GRID.shape), ones, ones)
            draws = PRIOR.mean + PRIOR.sigma * bundle.network.draws(seen, 1_000)
            offs.append((draws.mean(axis=0) - mean) / sigma)
            ratios.append(draws.std(axis=0) / sigma)
            told.append(draws.std(axis=0))
        assert np.sqrt(np.mean(np.square(offs))) < 0.8
        assert 0.8 < np.median(ratios) < 1.7
        widths.append(np.median(told, axis=0))
    assert (widths[1] < widths[0]).all()


def test_intervals_are_told_with_their_calibration():
    told = reading_document(flow(), read_spectra(flow(), [fold(counts=1_000.0)]))
    row = told["estimates"][0]["parameters"][0]
    assert row["low"] < row["value"] < row["high"]
    assert "held the truth" in told["notes"][0]
    plain = reading_document(trained(), read_spectra(trained(), [fold()]))
    assert plain["estimates"][0]["parameters"][0]["low"] is None


def test_it_refuses_a_spectrum_without_counts_and_takes_them_from_errors():
    bundle = flow()
    one = fold(counts=1_000.0)
    with pytest.raises(InputError, match="expected counts"):
        bundle.estimate(one.intensity, None, one.exposure)
    with np.errstate(invalid="ignore", divide="ignore"):
        sigma = np.sqrt(one.counts) / one.exposure
    by_error, _ = bundle.inputs_of(one.intensity, sigma, one.exposure)
    by_counts, _ = bundle.inputs_of(one.intensity, None, one.exposure, one.counts)
    np.testing.assert_allclose(by_error, by_counts, atol=1e-5)


def test_a_flow_gives_a_fit_its_mean_and_both_sides_of_its_widest_direction():
    one = fold(counts=1_000.0)
    N = np.asarray(one.counts)
    zero = np.zeros_like(N)
    sums = CellSums(signal=N, variance=N, counts=N, exposure=one.exposure, flat=zero)
    places = flow().guess(sums)
    assert places.shape == (3, 2)
    np.testing.assert_allclose(places[1:].mean(axis=0), places[0], atol=1e-6)
    rng = np.random.default_rng(0)
    modes = np.array([[2.0, 0.0], [-2.0, 0.0]])
    draws = modes[rng.integers(0, 2, 2_001)] + 0.1 * rng.standard_normal((2_001, 2))
    found = halves(draws)[1:]
    assert np.abs(found[np.argsort(-found[:, 0])] - modes).max() < 0.3


def test_the_network_protocol_agrees_with_itself():
    network = flow().network
    assert isinstance(network, ConditionalDensity)
    x, _ = flow().inputs_of((one := fold(counts=1_000.0)).intensity, None, one.exposure, one.counts)
    np.testing.assert_allclose(network.of_codes(network.codes(x)[0]), network.centres(x), atol=1e-6)
    two = np.stack([x, x])
    np.testing.assert_allclose(network.centres(two)[1], network.centres(x), atol=1e-5)
    assert 0.1 < network.distance(x) < 5
    assert len(PATH) == GRID.path_bins
    assert len(EDGES) > GRID.energy_bins
