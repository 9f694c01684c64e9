"""Lines as uncertain as their energies are, against averages over many draws."""

import numpy as np
import pytest

from simulations.likelihood import steepest
from tests.simulations.likelihood.test_thinned import every_other_pixel_of_germanium

COUNTS = 1000.0
PAIRS = 12  # of draws, to either side


@pytest.fixture(scope="module")
def germanium():
    """Rough model with the set-up fitted, trajectories, theta, and a posterior of a short run."""
    measurement, trajectories = every_other_pixel_of_germanium()
    exact, rough = measurement.exact.doubting(), measurement.rough.doubting()
    phi, ways = measurement.model.values, len(exact.missetting)
    assert ways > 3
    steepness = np.zeros(len(trajectories.pixel), dtype=np.float32)
    rate, slope = exact.rates(
        trajectories, exact.prepare(phi), off=np.zeros(ways), steepness=steepness
    )
    scale = COUNTS / rate.sum()
    kept = [*range(len(phi)), *range(len(phi) + 1, len(phi) + 1 + ways)]
    variance = np.maximum(rate, 1e-3 * rate.max()) / scale  # of rates
    slope = slope[..., kept]
    prior = np.concatenate([0.3 * np.abs(phi) + 0.02, exact.missetting.sigma])
    weighed = slope / np.sqrt(variance)[..., None]
    information = np.einsum("pea,peb->ab", weighed, weighed)
    covariance = np.linalg.inv(information + np.diag(prior**-2.0))

    def slopes(step, **more):
        n = len(phi)
        given = {"off": step[n:], "steep": steepest(steepness), **more}
        found = rough.rates(trajectories, rough.prepare(phi + step[:n]), **given)[1]
        return found[..., kept]

    def missed(ours, theirs):
        sigma = np.sqrt(np.diag(covariance))
        squares = ((ours - theirs) * sigma) ** 2 / variance[..., None]
        return squares.sum() / ((theirs * sigma) ** 2 / variance[..., None]).sum()

    return slopes, missed, covariance, rough, trajectories


def test_one_walk_averages_derivatives_as_many_draws_do(germanium):
    slopes, missed, covariance, *_ = germanium
    normal = np.random.default_rng(5).standard_normal((PAIRS, len(covariance)))
    pairs = [
        0.5 * (slopes(step) + slopes(-step)) for step in normal @ np.linalg.cholesky(covariance).T
    ]
    many = np.mean(pairs, axis=0)
    nothing = np.zeros(len(covariance))
    here, ours = slopes(nothing), slopes(nothing, over=covariance)
    four = [missed(0.5 * (a + b), many) for a, b in zip(pairs[::2], pairs[1::2], strict=True)]
    assert missed(here, many) > 0.02  # what a posterior is wide enough for
    assert missed(ours, many) < 0.25 * missed(here, many)
    assert missed(ours, many) < 0.5 * np.median(four)
    # Where the posterior is narrow, they are what they are at one place: nearly, as modes farther
    # from a line are continued to second order where it is looked for farther.
    assert missed(slopes(nothing, over=1e-8 * covariance), here) < 5e-4


def test_averages_are_of_derivatives_alone(germanium):
    slopes, _, covariance, rough, trajectories = germanium
    state = rough.prepare(np.asarray(rough._walked.model.values))
    off = np.zeros(len(rough.missetting))
    plain, _ = rough.rates(trajectories, state, off=off, gradient=False)
    over, none = rough.rates(trajectories, state, off=off, gradient=False, over=covariance)
    np.testing.assert_array_equal(over, plain)
    assert none.shape[-1] == 0
    # Intensity is kept where lines become wider, but for what leaves the map.
    averaged, _ = rough.rates(trajectories, state, off=off, over=covariance)
    assert averaged.sum() == pytest.approx(plain.sum(), rel=0.02)
    assert np.abs(averaged - plain).max() > 0.05 * plain.max()
