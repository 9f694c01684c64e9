"""Cell sums: only sums combine, and what is unknown stays unknown."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.fold import CellSums
from simulations.fold.cell_sums import empty_sums


def counted(counts, exposure) -> CellSums:
    counts = np.asarray(counts, dtype=float)
    exposure = np.asarray(exposure, dtype=float)
    return CellSums(
        signal=counts, variance=counts, counts=counts, exposure=exposure, flat=2 * exposure
    )


def test_an_empty_cell_with_exposure_is_zero_and_one_without_is_unknown():
    sums = counted([[0, 0, 4]], [[2.0, 0.0, 2.0]])
    np.testing.assert_array_equal(sums.intensity, [[0.0, np.nan, 2.0]])
    np.testing.assert_array_equal(sums.sigma, [[0.0, np.nan, 1.0]])
    assert sums.coverage_fraction == pytest.approx(2 / 3)


@given(seed=st.integers(0, 2**32 - 1))
def test_intensity_of_a_sum_is_the_ratio_of_the_sums_not_a_mean_of_ratios(seed):
    rng = np.random.default_rng(seed)
    true = 3.0
    exposure = rng.uniform(0.01, 20, (2, 1, 4))
    parts = [counted(rng.poisson(true * d), d) for d in exposure]
    total = parts[0] + parts[1]
    np.testing.assert_allclose(total.intensity * exposure.sum(0), parts[0].counts + parts[1].counts)
    np.testing.assert_allclose(total.flat, 2 * exposure.sum(0))
    np.testing.assert_allclose(total.sigma * exposure.sum(0), np.sqrt(total.counts))


@given(seed=st.integers(0, 2**32 - 1))
def test_addition_does_not_depend_on_the_order(seed):
    rng = np.random.default_rng(seed)
    a, b, c = (counted(rng.poisson(3, (3, 4)), rng.uniform(0, 2, (3, 4))) for _ in range(3))
    first, second = (a + b) + c, c + (b + a)
    np.testing.assert_array_equal(first.counts, second.counts)
    np.testing.assert_allclose(first.exposure, second.exposure, rtol=1e-12)


@pytest.mark.parametrize("gaussian", [False, True])
def test_empty_sums_add_nothing_and_cover_nothing(gaussian):
    empty = empty_sums((2, 3), gaussian=gaussian)
    assert empty.coverage_fraction == 0
    assert np.all(np.isnan(empty.intensity))
    assert (empty + empty).gaussian is gaussian
    if not gaussian:
        sums = counted(np.ones((2, 3)), np.ones((2, 3)))
        np.testing.assert_array_equal((sums + empty).signal, sums.signal)


def test_raw_counts_and_reduced_intensity_do_not_add():
    with pytest.raises(ValueError, match="cannot add raw counts to reduced intensity"):
        _ = empty_sums((1, 1)) + empty_sums((1, 1), gaussian=True)
