from __future__ import annotations

import numpy as np
import pytest

from steering.predict import indirect_spectrum, stable, top_meV, vibrations_of


def test_spectra_have_overtones_above_the_highest_mode():
    germanium = stable(vibrations_of("germanium"))
    found = indirect_spectrum(germanium)
    s = found.spectrum
    energy = 0.5 * (s.energy_edges_meV[1:] + s.energy_edges_meV[:-1])
    above = energy > 1.1 * top_meV(germanium.dos)
    assert s.orders[:, 1][:, above].sum() < 1e-3 * s.orders[:, 2][:, above].sum()
    assert found.setting.words == "VISION, 10 K"


@pytest.mark.parametrize("width", [0.0, -1.0, np.nan, np.inf])
def test_a_width_that_is_no_width_is_refused(width):
    with pytest.raises(ValueError, match="fwhm_meV is"):
        indirect_spectrum(vibrations_of("germanium"), fwhm_meV=width)
