from __future__ import annotations

import numpy as np

from model_server.direct.bins import BINS, LITERATURE_CM1, energy_edges_meV, on_literature_points


def test_bins_are_ten_wave_numbers_wide_and_reach_beyond_oh_stretches():
    edges = energy_edges_meV()
    assert len(edges) == BINS + 1
    np.testing.assert_allclose(np.diff(edges)[:100], 1.2398, rtol=1e-4)
    assert edges[100] == np.float64(123.9841984)
    assert edges[-1] > 470
    np.testing.assert_allclose(edges[102:] / edges[101:-1], 4 ** (1 / 28))


def test_a_density_at_the_points_of_the_literature_is_that_around_each_over_its_highest():
    wave = energy_edges_meV() / 0.1239841984
    centre = 0.5 * (wave[1:] + wave[:-1])
    width = np.diff(wave)
    shape = np.exp(-0.5 * ((centre - 400) / 60) ** 2)
    found = on_literature_points(shape * width)
    expected = np.exp(-0.5 * ((LITERATURE_CM1 - 400) / 60) ** 2)
    assert found.max() == 1.0
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert not on_literature_points(np.eye(BINS)[-1]).any()  # all modes above 1000 cm^-1
