from __future__ import annotations

import numpy as np

from simulations.scattering import incoherent_spectrum, powder_spectrum
from steering.predict import vibrations_of
from steering.predict.incoherent_powder import incoherent_powder

Q = np.linspace(0.5, 8.0, 31)
E = np.linspace(2.0, 40.0, 39)


def test_parts_are_those_of_the_incoherent_approximation():
    found = vibrations_of("MnO", "force_field")
    parts = incoherent_powder(
        found.crystal, found.dos, Q, E, temperature_K=10.0, resolution=1.0, ei_meV=None, max_order=3
    )
    own = incoherent_spectrum(
        found.crystal, found.dos, Q, E, temperature_K=10.0, resolution=1.0, max_order=3
    )
    np.testing.assert_allclose(parts.incoherent, own.one_phonon, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(parts.multiphonon, own.multiphonon, rtol=1e-6, atol=1e-12)
    assert np.all(parts.coherent >= 0)


def test_coherent_scattering_is_right_on_average_over_momentum():
    """What interferes evens out over |Q|: held against the full coherent powder average."""
    found = vibrations_of("germanium", "given")
    high = np.linspace(4.0, 9.0, 26)
    parts = incoherent_powder(
        found.crystal, found.dos, high, E, temperature_K=10.0, resolution=1.0, ei_meV=None,
        max_order=1,
    )  # fmt: skip
    full = powder_spectrum(found.model, high, E, temperature_K=10.0, resolution=1.0).intensity
    ratio = parts.coherent.sum() / full.sum()
    assert 0.9 < ratio < 1.1
    mean = [one.mean(axis=0) for one in (parts.coherent, full)]
    assert np.corrcoef(*mean)[0, 1] > 0.95
