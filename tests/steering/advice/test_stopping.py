"""Stopping is never early or untrusted, and a forecast knows what it is worth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_server.posterior import Posterior
from model_server.posterior.posterior import ThetaLayout
from steering.advice import (
    LOOKS_BELOW_TARGET,
    absolute_targets,
    minutes_to_target,
    stop_advice,
    targets_met,
)
from steering.advice.stopping import SMALLEST_CHUNKS, SMALLEST_ORIENTATIONS, looks_in_a_row
from steering.experiment import MotionSection
from tests.steering.candidates import K, made_up, situation


def forecast(target: float, **changes) -> float | None:
    arguments = {
        "precision": np.eye(K + 4),
        "targets": np.full(K, target),
        "budget_minutes": 500.0,
        "motion": MotionSection(overhead_s=0.0),
    }
    candidates = [made_up(float(i), 10.0) for i in range(6)]
    return minutes_to_target(situation(candidates, **(arguments | changes)))


def test_the_forecast_is_exact_where_information_grows_evenly():
    # 1 + 10 t = 1 / target^2
    assert forecast(0.1) == pytest.approx(9.9, abs=0.06)
    assert forecast(1.0) == 0.0
    assert forecast(0.01) is None  # 1,000 minutes are beyond the budget
    moves = forecast(0.1, motion=MotionSection(overhead_s=60.0))
    assert moves == pytest.approx(9.9 + 2, abs=0.06)  # two dwells of 8 minutes


@given(first=st.floats(0.02, 2.0), second=st.floats(0.02, 2.0), known=st.floats(0.1, 1000.0))
def test_a_sharper_target_or_less_knowledge_never_takes_less_time(first, second, known):
    low, high = sorted((first, second))
    sharp, loose = forecast(low), forecast(high)
    if sharp is not None:
        assert loose is not None
        assert loose <= sharp
    with_more = forecast(low, precision=(1 + known) * np.eye(K + 4))
    if sharp is not None:
        assert with_more is not None
        assert with_more <= sharp


def test_targets_are_relative_to_the_value_or_to_its_error_near_zero():
    zero = np.zeros((1, 1))
    layout = ThetaLayout(parameter_names=("a", "b"), parameter_units=("meV", "meV"))
    posterior = Posterior(
        model="a model", layout=layout, theta=np.array([-2.0, 0.001, 0, 0, 0, 0]),
        precision=np.eye(6), covariance=np.diag([0.01, 0.04]), objective=0.0, converged=True,
        iterations=1, expected=zero, phonon=zero, totals=np.zeros(1),
    )  # fmt: skip
    np.testing.assert_allclose(absolute_targets(posterior, [0.05, 0.1]), [0.1, 0.02])


def stop(**changes):
    arguments = {
        "looks_below_target": LOOKS_BELOW_TARGET,
        "chunks": 10,
        "orientations": 4,
        "trust": "trusted",
        "forecast_minutes": 5.0,
    }
    return stop_advice(**(arguments | changes))


def test_stopping_needs_targets_met_chunks_orientations_and_trust():
    assert stop().stop
    assert stop().minutes_to_target == 0.0
    for looks in range(LOOKS_BELOW_TARGET):
        assert not stop(looks_below_target=looks).stop
        assert stop(looks_below_target=looks).minutes_to_target == (0.0 if looks else 5.0)
    assert not stop(chunks=SMALLEST_CHUNKS - 1).stop
    assert not stop(orientations=SMALLEST_ORIENTATIONS - 1).stop
    assert stop(chunks=3, orientations=2).stop
    untrusted = stop(trust="not explained")
    assert not untrusted.stop
    assert untrusted.minutes_to_target is None
    assert "not trusted" in untrusted.reason
    assert "nothing measured" in stop(chunks=0).reason
    assert not stop(chunks=0).stop


def test_without_candidates_there_is_no_forecast():
    assert minutes_to_target(situation(precision=np.eye(K + 4), targets=np.full(K, 1e-3))) is None


def test_targets_are_met_by_every_sigma_of_a_trusted_estimate():
    targets = np.array([0.1, 0.2])
    assert targets_met(np.array([0.1, 0.2]), targets, trusted=True)
    assert not targets_met(np.array([0.1, 0.21]), targets, trusted=True)
    assert not targets_met(np.array([0.01, 0.01]), targets, trusted=False)
    assert not targets_met(np.array([0.01, np.nan]), targets, trusted=True)


@given(met=st.lists(st.booleans(), max_size=6))
def test_looks_count_back_from_the_newest_to_the_first_that_does_not(met):
    asked = []

    def newest_first():
        for one in reversed(met):
            asked.append(one)
            yield one

    found = looks_in_a_row(newest_first())
    expected = 0
    while expected < min(len(met), LOOKS_BELOW_TARGET) and met[-1 - expected]:
        expected += 1
    assert found == expected
    assert len(asked) <= min(expected + 1, LOOKS_BELOW_TARGET)  # what is asked for costs a fit
