from __future__ import annotations

import numpy as np

from simulations.constants import NEUTRON_MEV_A2
from steering.predict import optics, powder_map, stable, vibrations_of

ENERGY = np.arange(-20.0, 40.01, 2.0)


def test_a_powder_is_the_sum_of_its_parts_within_the_scattering_triangle():
    germanium = stable(vibrations_of("germanium"))
    seen = optics(37.4, ei_meV=50.0)
    found = powder_map(
        germanium, seen, energy_edges_meV=ENERGY, momentum_edges=np.arange(0.5, 9.1, 0.5)
    )
    assert set(found.parts) == {"coherent", "incoherent", "multiphonon"}
    np.testing.assert_allclose(found.intensity, sum(found.parts.values()))
    ki, kf = np.sqrt(50.0 / NEUTRON_MEV_A2), np.sqrt((50.0 - found.y) / NEUTRON_MEV_A2)
    impossible = (found.x[:, None] > ki + kf) | (found.x[:, None] < np.abs(ki - kf))
    assert np.isnan(found.intensity[impossible]).all()
    assert np.isfinite(found.intensity).mean() > 0.5
    assert np.nanmin(found.intensity) >= 0


def test_all_that_scatters_is_there_however_many_phonons_it_takes():
    """Hot germanium and fast neutrons: at 20 1/angstrom a nucleus scatters as if it were free."""
    germanium = stable(vibrations_of("germanium"))
    seen = optics(37.4, instrument="generic", ei_meV=2000.0, fwhm_meV=5.0)
    edges = np.arange(-600.0, 1200.01, 4.0)
    found = powder_map(
        germanium, seen, temperature_K=900.0, energy_edges_meV=edges,
        momentum_edges=np.array([19.9, 20.1, 29.9, 30.1]),
    )  # fmt: skip
    whole = np.nansum(found.intensity, axis=1)[[0, 2]] * 4.0
    barn = germanium.crystal.scattering_length**2 + germanium.crystal.incoherent_barn / (4 * np.pi)
    np.testing.assert_allclose(whole, barn.sum(), rtol=0.02)
    assert "2 and more phonons" in " ".join(found.setting.approximations)
