"""What a verdict says of errors that are too large, and of a fit without phonons."""

from dataclasses import replace
from functools import cache

import pytest

from model_server.powder import fit_powder
from model_server.powder.verdict import judge
from tests.model_server.powder.test_fit import QUICK, RESOLUTION, germanium, measured


@cache
def fitted(times):
    """Fit to a virtual powder whose errors are stated so many times too large."""
    model, prior, _ = germanium()
    spectrum = measured()
    spectrum = replace(spectrum, sigma=times * spectrum.sigma)
    return fit_powder(spectrum, model, prior, RESOLUTION, settings=QUICK)


@pytest.mark.parametrize("times", [1.0, 1.1])
def test_errors_that_are_right_within_a_tenth_are_no_reason(times):
    verdict = judge(fitted(times), germanium()[1])
    assert not any("too large" in reason for reason in verdict.reasons), verdict.reasons


@pytest.mark.parametrize("times", [2.0, 4.0])
def test_errors_that_are_too_large_prove_nothing(times):
    verdict = judge(fitted(times), germanium()[1])
    assert not verdict.trusted
    (reason,) = (r for r in verdict.reasons if "times too large for this spectrum" in r)
    assert reason.startswith("errors are ")
    assert float(reason.split()[2]) == pytest.approx(times, rel=0.1)


def test_a_scale_of_zero_leaves_phonons_no_share():
    fit = replace(fitted(1.0), scale=0.0)
    verdict = judge(fit, germanium()[1])
    assert verdict.phonon_share == 0
    assert not verdict.trusted
    assert any("the scale is zero" in reason for reason in verdict.reasons)
