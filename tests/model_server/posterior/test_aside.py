"""What is marginalised beside a fit against joint least squares, and score tests against chance."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest

from model_server.posterior.aside import (
    SCATTER_BETWEEN_CHUNKS,
    Piece,
    chunk_tests,
    contrast_of,
    marginalised,
    score_test,
    spread_test,
    steepness,
)
from model_server.posterior.linear import Linear

CELLS, P, H = 400, 5, 3
PRIOR = np.array([2.0, 1.0, 0.5, 3.0, 1.0])  # sigma of theta
KNOWN = np.array([0.5, 0.0, 2.0])  # of the ways; the second is taken to be right


def scan(
    rng: np.random.Generator, off=(0.0, 0.0, 0.0), orientations: int = 3, turned=(), scales=(0.0,)
):
    """Pieces at the best theta of a linear model with Gaussian counts, and that theta."""
    rate = rng.uniform(20, 200, (orientations, CELLS))
    slopes = 30 * rng.standard_normal((orientations, CELLS, P))
    ways = 3 * rng.standard_normal((orientations, CELLS, H))
    ways[..., 1] += 0.05 * slopes[..., 0]  # some of it looks like a parameter
    truth = PRIOR * rng.standard_normal(P)
    scale = 1 + np.resize(scales, orientations)[:, None]
    data = scale * (rate + slopes @ truth) + ways @ np.asarray(off)
    data += np.sqrt(rate) * rng.standard_normal(rate.shape)
    for k, by in turned:
        data[k] += by * ways[k, :, 0]
    weight = 1 / rate
    precision = np.diag(PRIOR**-2.0) + np.einsum("kcp,kc,kcq->pq", slopes, weight, slopes)
    best = np.linalg.solve(precision, np.einsum("kcp,kc,kc->p", slopes, weight, data - rate))
    pieces = [
        Piece(
            linear=Linear(
                data=data[k], rate=rate[k] + slopes[k] @ best, slope=slopes[k], variance=rate[k]
            ),
            use=np.ones((1, CELLS), dtype=bool),
            phonon=rate[k],
            ways=ways[k],
            mount=ways[k, :, :1],
            contrast=np.zeros(CELLS),
            wider=ways[k, :, 1],
        )
        for k in range(orientations)
    ]
    return pieces, best, (data - rate, slopes, ways, rate, truth)


def test_what_is_marginalised_is_fitted_as_joint_least_squares_do():
    pieces, best, (data, slopes, ways, rate, _) = scan(
        np.random.default_rng(1), scales=(0.03, -0.02, 0.0)
    )
    step, joint, score, information, gain = marginalised(np.diag(PRIOR**-2.0), pieces, KNOWN)
    free = KNOWN > 0
    scales = np.zeros((*rate.shape, 3))  # of every orientation by itself
    for k, piece in enumerate(pieces):
        scales[k, :, k] = piece.linear.rate
    columns = np.concatenate([slopes, ways[..., free], scales], axis=-1).reshape(-1, P + 5)
    sigma = np.sqrt(rate).ravel()
    known = np.concatenate([PRIOR, KNOWN[free], np.full(3, SCATTER_BETWEEN_CHUNKS)])
    rows = np.vstack([columns / sigma[:, None], np.diag(1 / known)])
    wanted = np.concatenate([data.ravel() / sigma, np.zeros(P + 5)])
    solution = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    np.testing.assert_allclose(best + step[:P], solution[:P], rtol=1e-8)
    np.testing.assert_allclose(step[P:][free], solution[P : P + 2], rtol=1e-8)
    tests = chunk_tests(joint, step, pieces, KNOWN)
    np.testing.assert_allclose([one.scale for one in tests], solution[P + 2 :], rtol=1e-8)
    before = wanted - rows @ np.concatenate([best, np.zeros(5)])
    after = wanted - rows @ solution
    assert gain == pytest.approx(0.5 * (before @ before - after @ after), rel=1e-6)
    assert step[P + 1] == 0
    covariance = np.linalg.inv(rows.T @ rows)[: P + 2, : P + 2]
    at = [*range(P), P, P + 2]
    np.testing.assert_allclose(np.linalg.inv(joint)[np.ix_(at, at)], covariance, rtol=1e-7)
    # the held way: as if it were fitted after all, from its score alone
    alone = np.linalg.solve(
        np.block(
            [
                [rows.T @ rows, (columns.T @ (ways[..., 1] / rate).ravel())[:, None]],
                [
                    (columns.T @ (ways[..., 1] / rate).ravel())[None],
                    np.sum(ways[..., 1] ** 2 / rate),
                ],
            ]
        ),
        [*(columns.T @ (data / rate).ravel()), np.sum(ways[..., 1] * data / rate)],
    )[-1]
    assert score[1] / information[1, 1] == pytest.approx(alone, rel=1e-6)


def test_scores_of_what_is_right_are_chance_and_of_what_is_not_are_seen():
    rng = np.random.default_rng(2)
    p_held, p_chunk = [], []
    for _ in range(300):
        pieces, *_ = scan(rng, off=(0.5 * rng.standard_normal(), 0, 0))
        step, joint, score, information, _ = marginalised(np.diag(PRIOR**-2.0), pieces, KNOWN)
        p_held.append(score_test(score[1:2], information[1:2, 1:2], np.zeros(1))[2])
        # the floor of a chunk, 0.1, is small against what 400 cells tell
        p_chunk += [c.turned_p for c in chunk_tests(joint, step, pieces, KNOWN)]
    assert kstest(p_held, "uniform").pvalue > 1e-3
    assert np.mean(np.array(p_chunk) < 0.05) < 0.07

    pieces, *_ = scan(rng, off=(0, 6.0, 0))
    _, _, score, information, _ = marginalised(np.diag(PRIOR**-2.0), pieces, KNOWN)
    value, sigma, p = score_test(score[1:2], information[1:2, 1:2], np.zeros(1))
    assert p < 1e-6
    assert abs(value[0] - 6.0) < 4 * sigma[0]

    pieces, *_ = scan(rng, orientations=6, turned=[(4, 6.0)])
    step, joint, *_ = marginalised(np.diag(PRIOR**-2.0), pieces, KNOWN)
    tests = chunk_tests(joint, step, pieces, KNOWN)
    assert int(np.argmin([one.turned_p for one in tests])) == 4
    assert tests[4].turned_p < 1e-6
    assert abs(tests[4].turned_deg[0] - 6.0) < 4 * tests[4].turned_sigma_deg[0]


def test_errors_hold_where_charges_are_off_as_they_may_be():
    rng = np.random.default_rng(5)
    believed, marginal, tested = [], [], []
    prior, known = np.diag(PRIOR**-2.0), np.zeros(H)  # the set-up is right, and known to be
    for _ in range(200):
        scales = SCATTER_BETWEEN_CHUNKS * rng.standard_normal(3)
        pieces, best, (_, slopes, _, rate, truth) = scan(rng, scales=scales)
        step, joint, score, information, _ = marginalised(prior, pieces, known)
        tested.append(score_test(score, information, np.zeros(H))[2])
        fisher = prior + np.einsum("kcp,kc,kcq->pq", slopes, 1 / rate, slopes)
        for pulls, gap, precision in (
            (believed, best - truth, fisher),
            (marginal, best + step[:P] - truth, joint[:P, :P]),
        ):
            pulls.append(gap @ precision @ gap)
    assert np.mean(believed) > 1.5 * P
    assert np.mean(marginal) == pytest.approx(P, rel=0.15)
    assert kstest(tested, "uniform").pvalue > 1e-3


def test_ways_that_counts_know_nothing_of_are_not_told():
    value, sigma, p = score_test(np.zeros(2), np.zeros((2, 2)), np.full(2, 0.1))
    assert p == 1.0
    assert np.all(value == 0)
    assert np.all(sigma > 1e100)
    one = np.array([[4.0, 4.0], [4.0, 4.0]])  # two ways that cannot be told apart: one degree
    _, _, p = score_test(np.array([6.0, 6.0]), one, np.zeros(2))
    assert p == pytest.approx(0.0027, rel=0.01)  # three sigma


def test_the_floor_is_an_error_of_the_value():
    _, sigma, p = score_test(np.array([100.0]), np.array([[1e4]]), np.array([0.02]))
    assert sigma[0] == pytest.approx(np.hypot(0.01, 0.02))
    _, _, without = score_test(np.array([100.0]), np.array([[1e4]]), np.zeros(1))
    assert p > 1e-3
    assert without == pytest.approx(1.0) or without < 0.4


def test_contrast_is_the_derivative_by_the_power_of_intensity():
    rng = np.random.default_rng(3)
    exposure, intensity = rng.uniform(1, 3, 50), rng.uniform(0.1, 5, 50)
    rate = exposure * intensity

    def powered(power):
        changed = exposure * intensity**power
        return changed

    step = 1e-6
    difference = (powered(1 + step) - powered(1 - step)) / (2 * step)
    logarithm = np.average(np.log(intensity), weights=rate)
    np.testing.assert_allclose(
        contrast_of(rate, exposure), difference - logarithm * rate, rtol=1e-6, atol=1e-8
    )
    assert contrast_of(rate, exposure).sum() == pytest.approx(0, abs=1e-9)  # no scale in it


def test_steepness_goes_from_minus_one_to_one_over_what_is_used():
    energy = np.linspace(0, 10, 11)
    use = energy > 3.5
    found = steepness(energy, use)
    np.testing.assert_allclose(found[use], np.linspace(-1, 1, 7))
    assert np.all(found[~use] == -1)


@pytest.mark.parametrize("share", [0.8, -0.8])
def test_a_spread_that_was_left_out_is_seen_where_counts_ask_for_some(share):
    pieces, *_ = scan(np.random.default_rng(5), off=(0, 10 * share, 0))
    pieces = [replace(one, wider=10 * one.wider) for one in pieces]  # the second of the ways
    step, joint, score, information, _ = marginalised(np.diag(PRIOR**-2.0), pieces, KNOWN)
    found, sigma, p = spread_test(joint, step, pieces, KNOWN)
    assert found == pytest.approx(score[1] / information[1, 1] / 10, rel=1e-6)
    assert abs(found - share) < 4 * sigma
    assert (p < 1e-6) if share > 0 else (p == 1.0)
    nothing = [replace(one, wider=0 * one.wider) for one in pieces]
    assert spread_test(joint, step, nothing, KNOWN) == (0.0, 0.0, 1.0)
