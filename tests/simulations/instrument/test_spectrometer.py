from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.instrument import Instrument, Resolution, coarsen, load_instrument, split_name
from simulations.instrument.spectrometer import coarse_index


def tubes(n_tubes: int, length: int, **changes: object) -> Instrument:
    n = n_tubes * length
    y = np.tile(np.arange(length) * 0.01, n_tubes)
    x = np.repeat(np.arange(n_tubes) * 0.03, length)
    fields: dict = {
        "name": "toy",
        "position_m": np.stack([x, y, np.full(n, 3.0)], axis=1),
        "solid_angle_sr": np.linspace(1e-5, 2e-5, n),
        "detector_id": np.arange(n) * 3 + 100,
        "masked": np.arange(n) % length == 0,
        "source_to_sample_m": 10.0,
        "resolution": Resolution(coefficients=(0.04,)),
        "tube": np.repeat(np.arange(n_tubes, dtype=np.int32), length),
    }
    return Instrument(**(fields | changes))


@given(st.integers(1, 4), st.sampled_from([1, 2, 3, 4, 6]))
def test_coarsening_keeps_the_solid_angle_and_the_mean_position(n_tubes: int, n: int) -> None:
    full = tubes(n_tubes, 12)
    merged = coarsen(full, n)
    assert merged.n_pixels * n == full.n_pixels
    assert merged.solid_angle_sr.sum() == pytest.approx(full.solid_angle_sr.sum(), rel=1e-14)
    np.testing.assert_allclose(merged.position_m.mean(axis=0), full.position_m.mean(axis=0))
    assert merged.name == ("toy" if n == 1 else f"toy/{n}")
    index = coarse_index(full, n)
    assert np.array_equal(np.bincount(index), np.full(merged.n_pixels, n))
    assert merged.masked.sum() == n_tubes  # the masked first pixel masks its whole group


def test_coarsening_twice_names_the_product() -> None:
    assert coarsen(coarsen(tubes(2, 12), 2), 3).name == "toy/6"


@pytest.mark.parametrize(
    ("instrument", "n", "words"),
    [
        (tubes(2, 12), 5, "Choose a divisor"),
        (tubes(2, 12), 0, "1 or more"),
        (tubes(2, 12, tube=None), 2, "Set coarsen: 1"),
        (tubes(2, 2, tube=np.array([0, 1, 0, 1], np.int32)), 2, "do not follow"),
    ],
)
def test_pixels_that_cannot_be_merged_say_why(instrument: Instrument, n: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        coarsen(instrument, n)


def test_identifiers_find_their_pixels_and_unknown_ones_none() -> None:
    full = tubes(2, 4)
    ids = np.array([100, 121, 101, -5, 2**31 + 4, 99, 103])
    assert full.pixel_of_id(ids).tolist() == [0, 7, -1, -1, -1, -1, 1]
    sparse = tubes(1, 2, detector_id=np.array([5_000_000, 7]), tube=None)
    assert sparse.pixel_of_id(np.array([7, 5_000_000, 8])).tolist() == [1, 0, -1]
    assert full.pixel_of_id(np.array([], dtype=np.uint32)).shape == (0,)


def test_a_name_with_a_bad_factor_is_refused() -> None:
    assert split_name("ARCS/4") == ("ARCS", 4)
    with pytest.raises(ValueError, match="expected e.g. ARCS or ARCS/4"):
        split_name("ARCS/x")


def test_resolution_narrows_with_energy_loss_and_widens_with_gain() -> None:
    sigma = load_instrument("ARCS/8").resolution.sigma_meV(np.array([-10.0, 0.0, 20.0, 36.0]), 40.0)
    assert np.all(np.diff(sigma) < 0)
    assert sigma[1] * 2.3548 == pytest.approx(0.039 * 40, rel=0.01)
