from __future__ import annotations

import numpy as np
import pytest

from steering.predict import optics, stable, top_meV, vibrations_of
from steering.predict.optics import energy_axis


@pytest.fixture(scope="module")
def germanium():
    return stable(vibrations_of("germanium"))


def test_without_an_incident_energy_the_highest_phonon_lies_at_three_quarters_of_it(germanium):
    seen = optics(top_meV(germanium.dos))
    assert seen.ei_meV == 50  # 37.4 / 0.75, to the next 5 meV
    assert seen.words.startswith("ARCS, Ei = 50 meV, resolution")
    assert energy_axis(germanium.dos, seen)[-1] < 50


def test_resolution_is_the_instruments_a_choppers_or_one_number():
    at_zero = [
        float(optics(37.4, ei_meV=50.0, **how).sigma_of(np.zeros(1))[0]) * 2.354820045
        for how in ({}, {"chopper": "FC2:300"}, {"fwhm_meV": 0.5})
    ]
    assert at_zero[2] == pytest.approx(0.5)
    assert 0.5 < at_zero[1] < at_zero[0] * 2
    with pytest.raises(ValueError, match="both chopper and fwhm_meV"):
        optics(37.4, chopper="FC2:300", fwhm_meV=1.0)


def test_an_axis_that_reaches_the_incident_energy_is_refused(germanium):
    seen = optics(37.4, ei_meV=30.0)
    with pytest.raises(ValueError, match="ends at 40 meV, but neutrons of Ei = 30 meV"):
        energy_axis(germanium.dos, seen, np.array([0.0, 20.0, 40.0]))


def test_an_incident_energy_that_the_instrument_is_not_run_at_warns():
    (words,) = optics(20.0, instrument="CNCS", ei_meV=1000.0).warnings
    assert "0.5 to 80 meV" in words
    assert optics(20.0, instrument="CNCS", ei_meV=12.0).warnings == ()
    assert optics(20.0, instrument="ARCS", ei_meV=0.5).warnings
    assert optics(20.0, instrument="generic", fwhm_meV=1.0).warnings == ()
