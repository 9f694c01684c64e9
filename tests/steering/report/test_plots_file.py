"""What a picture says in numbers is what result, page and API say."""

import io
from dataclasses import replace

import numpy as np
import pytest

from steering.report.plots_file import covered_share, folded_map_png, spectrum_npz, visible_energies
from tests.steering.fabricated import spectrum


def test_coverage_has_one_meaning_also_where_not_all_cells_are_drawn():
    view = spectrum()
    edges = view.energy_edges_meV
    assert view.exposure is not None
    low, high = visible_energies(view)
    assert (low, high) == (edges[0], pytest.approx(1.04 * view.branches.max()))
    assert high < 0.6 * edges[-1]  # nothing is seen above 38 meV, and that is not drawn
    assert covered_share(view) == pytest.approx((view.exposure > 0).mean())


def test_cells_that_are_not_fitted_are_darkened_and_kept():
    view = spectrum()
    assert view.fitted is not None
    with np.load(io.BytesIO(spectrum_npz(view))) as arrays:
        np.testing.assert_array_equal(arrays["fitted"], view.fitted)
    every = replace(view, fitted=np.ones_like(view.fitted))
    assert folded_map_png(view) != folded_map_png(every)
