"""Groups of cells, and what of their chi-square a fit takes away."""

import numpy as np
import pytest

from model_server.posterior.aside import Piece
from model_server.posterior.groups import chi_square_alone, groups_of, summed, told_by_groups
from model_server.posterior.linear import Linear


@pytest.mark.parametrize("level", [1.0, 40.0])
def test_a_fit_takes_from_chi_square_of_groups_what_is_told_by_them(level):
    """Gaussian counts of two orientations, eight parameters drawn from their prior and fitted."""
    rng = np.random.default_rng(int(level))
    shape, count, prior = (3, 40), 8, np.diag(np.linspace(0.5, 4.0, 8))
    use = rng.random((2, *shape)) < 0.9
    rates = [level * rng.uniform(0.5, 2.0, int(one.sum())) for one in use]
    slopes = [np.sqrt(level) * rng.standard_normal((len(one), count)) for one in rates]
    expected = np.zeros(shape)
    for one, rate in zip(use, rates, strict=True):
        expected[one] += rate
    groups = groups_of(expected, use.any(axis=0), gaussian=False)
    fisher = sum(s.T @ (s / r[:, None]) for s, r in zip(slopes, rates, strict=True))
    covariance = np.linalg.inv(prior + fisher)
    pieces = [
        Piece(
            linear=Linear(data=r, rate=r, slope=s[:, :6], variance=None),
            use=one,
            phonon=r,
            ways=s[:, 6:],
            mount=np.zeros((len(r), 0)),
            contrast=np.zeros(len(r)),
            wider=np.zeros(len(r)),
        )
        for one, r, s in zip(use, rates, slopes, strict=True)
    ]
    free = np.ones(2, dtype=bool)
    told = told_by_groups(pieces, expected, prior + fisher, free)
    held = told_by_groups(pieces, expected, prior + fisher, ~free)
    assert 0 < held < told
    assert 0 < told < count
    looks = []
    for _ in range(1_500):
        true = rng.standard_normal(count) / np.sqrt(np.diag(prior))
        off = [
            s @ true + np.sqrt(r) * rng.standard_normal(len(r))
            for r, s in zip(rates, slopes, strict=True)
        ]
        pull = sum(s.T @ (o / r) for s, o, r in zip(slopes, off, rates, strict=True))
        left = np.zeros(shape)
        for one, o, s in zip(use, off, slopes, strict=True):
            left[one] += o - s @ (covariance @ pull)
        looks.append(np.sum(summed(left, groups) ** 2 / summed(expected, groups)))
    freedom = groups.max() + 1 - told
    assert np.mean(looks) == pytest.approx(freedom, abs=4 * np.std(looks) / np.sqrt(len(looks)))


def test_reduced_cells_stand_alone_and_a_small_rest_is_in_no_group():
    expected = np.array([[4.0, 7.0, 3.0, 8.0, 2.0]])
    use = np.array([[True, True, True, True, True]])
    np.testing.assert_array_equal(groups_of(expected, use, gaussian=False), [[0, 0, 1, 1, -1]])
    np.testing.assert_array_equal(groups_of(expected, use, gaussian=True), [[0, 1, 2, 3, 4]])
    use[0, 1] = False
    groups = groups_of(expected, use, gaussian=False)
    np.testing.assert_array_equal(groups, [[0, -1, 0, 0, -1]])
    np.testing.assert_allclose(summed(expected, groups), [15.0])


def orientation(rng, counts_of, *, reduced: bool = False) -> Piece:
    """One of 6 path bins, 80 energies, two parameters fitted elsewhere."""
    use = np.ones((6, 80), dtype=bool)
    rate = np.tile(2.0 + 10 * np.exp(-0.5 * ((np.arange(80) - 40) / 15) ** 2), 6)
    data = counts_of(rate)
    slope = rate[:, None] * np.array([1.0, 0.0]) + rng.standard_normal((len(rate), 2))
    none = np.zeros(len(rate))
    return Piece(
        linear=Linear(data=data, rate=rate, slope=slope, variance=rate if reduced else None),
        use=use,
        phonon=rate,
        ways=np.zeros((len(rate), 0)),
        mount=np.zeros((len(rate), 0)),
        contrast=none,
        wider=none,
    )


def test_an_orientation_alone_is_told_by_where_its_counts_lie_and_not_by_how_many():
    rng = np.random.default_rng(4)
    covariance, free = 1e-6 * np.eye(2), np.zeros(0, dtype=bool)

    def looked_at(counts_of) -> tuple[float, float]:
        piece = orientation(rng, counts_of)
        return chi_square_alone(piece, piece.linear.rate, covariance, free)

    for scale in (1.0, 1.3):
        right = [looked_at(lambda rate, s=scale: rng.poisson(s * rate)) for _ in range(200)]
        chi_square, freedom = np.mean(right, axis=0)
        assert freedom > 200
        # a model is excused for a little: less than one for each degree
        assert 0.93 * freedom < chi_square < 1.01 * freedom
    wave = 1 + 0.4 * np.sign(np.sin(np.arange(480) / 5))
    chi_square, freedom = looked_at(lambda rate: rng.poisson(rate * wave))
    assert chi_square > 1.5 * freedom


def test_reduced_data_and_few_counts_are_not_judged_orientation_by_orientation():
    rng = np.random.default_rng(4)
    covariance, free = 1e-6 * np.eye(2), np.zeros(0, dtype=bool)
    reduced = orientation(rng, rng.poisson, reduced=True)
    assert chi_square_alone(reduced, reduced.linear.rate, covariance, free) == (0.0, 0.0)
    few = orientation(rng, lambda rate: rng.poisson(0.005 * rate))
    assert chi_square_alone(few, 0.005 * few.linear.rate, covariance, free) == (0.0, 0.0)
