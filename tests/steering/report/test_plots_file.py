"""What a picture says in numbers is of what it shows."""

import numpy as np
import pytest

from steering.report.plots_file import covered_share, visible_energies
from tests.steering.fabricated import spectrum


def test_coverage_counts_the_cells_that_are_drawn():
    view = spectrum()
    edges, seen = view.energy_edges_meV, np.isfinite(view.intensity)
    low, high = visible_energies(view)
    assert (low, high) == (edges[0], pytest.approx(1.04 * view.branches.max()))
    assert high < 0.6 * edges[-1]  # nothing is seen above 38 meV, and that is not drawn
    drawn = np.searchsorted(edges, high)
    assert covered_share(view) == pytest.approx(seen[:, :drawn].mean())
    assert covered_share(view) > 1.5 * seen.mean()
