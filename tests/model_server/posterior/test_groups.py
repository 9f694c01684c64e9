"""Groups of cells, and what of their chi-square a fit takes away."""

import numpy as np
import pytest

from model_server.posterior.aside import Piece
from model_server.posterior.groups import groups_of, summed, told_by_groups
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
