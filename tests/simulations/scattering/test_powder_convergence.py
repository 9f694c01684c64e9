"""The bar of powder maps at default settings: 0.5 % of a mesh with four times the points."""

from __future__ import annotations

import numpy as np
import pytest

from simulations.scattering import powder_spectrum
from tests.simulations.phonon_oracles import germanium
from tests.simulations.scattering.powder_convergence import run

EDGES = np.linspace(0.5, 6.0, 40), np.linspace(0.0, 40.0, 60)


@pytest.mark.shared_data
@pytest.mark.slow
def test_powder_maps_are_converged_over_thirty_crystals(shared_data, tmp_path):
    rows = [row for row in run(shared_data, tmp_path / "rows.jsonl", 30) if "error" in row]
    assert max(row["error"] for row in rows) <= 0.005, rows


def test_a_map_tells_the_error_that_it_met_and_the_price_of_less():
    rough, fine = (
        powder_spectrum(
            germanium(), *EDGES, temperature_K=300.0, resolution=0.6, tolerance=tolerance
        )
        for tolerance in (0.03, 0.006)
    )
    assert rough.sampling.error <= 0.03
    assert fine.sampling.error <= 0.006
    assert fine.sampling.points > rough.sampling.points
    off = np.abs(rough.intensity - fine.intensity).sum() / fine.intensity.sum()
    assert off < rough.sampling.error + fine.sampling.error
    assert "half the error would take" in fine.sampling.words
    with pytest.raises(ValueError, match="tolerance is 0"):
        powder_spectrum(germanium(), *EDGES, temperature_K=300.0, resolution=0.6, tolerance=0.0)
