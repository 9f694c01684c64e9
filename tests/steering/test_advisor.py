"""Information adds, gains follow it, a move costs time; stopping is never early or untrusted."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_server.refinement import Posterior, Refinement
from simulations.exposure import Exposure
from steering.advisor import (
    LOOKS_BELOW_TARGET,
    SMALLEST_CHUNKS,
    SMALLEST_ORIENTATIONS,
    Candidate,
    FalsificationPolicy,
    InformationPolicy,
    absolute_targets,
    candidate_angles,
    information_per_minute,
    minutes_to_target,
    stop_advice,
)
from steering.motion import MotionSection
from tests.steering.virtual_scan import small_measurement

MOTION = MotionSection()
K = 3


@cache
def refinement() -> Refinement:
    measurement = small_measurement()
    return Refinement(
        model=measurement.forward,
        prior=measurement.prior,
        energy_centres_meV=measurement.energy.centres_meV,
        elastic_cut_meV=measurement.elastic_cut_meV,
    )


@cache
def exposure(psi_deg: float) -> Exposure:
    return small_measurement().exposure(psi_deg)


def theta() -> np.ndarray:
    """Reference parameters with about a thousand phonons per minute and as many others."""
    measurement = small_measurement()
    rate, _ = measurement.forward.rates(
        exposure(20.0), measurement.forward.prepare(measurement.model.values), gradient=False
    )
    weight, flat = measurement.path_sums(exposure(20.0))
    logs = np.log([1000 / rate.sum(), 500 / flat.sum(), 500 / weight.sum()])
    return np.concatenate([measurement.model.values, logs, [0.0]])


@cache
def candidate(psi_deg: float, minutes: float = 1.0) -> Candidate:
    one = exposure(psi_deg)
    return information_per_minute(
        psi_deg,
        lambda: one,
        small_measurement().path_sums(one),
        refinement=refinement(),
        theta=theta(),
        charge_per_minute=minutes,
    )


def rank(candidates, **changes):
    policy = changes.pop("policy", InformationPolicy())
    arguments = {
        "precision": refinement().prior_precision(),
        "targets": 0.02 * np.abs(theta()[:K]),
        "current_psi_deg": None,
        "motion": MOTION,
        "ei_meV": 40.0,
    }
    return policy.rank(candidates, **(arguments | changes))


def made_up(psi_deg: float, strength: float = 100.0, size: int = K + 4) -> Candidate:
    """Equal information about everything."""
    return Candidate(
        psi_deg=psi_deg, information=strength * np.eye(size), rate=np.full((2, 3), strength)
    )


def test_two_minutes_bring_twice_the_information():
    one, two = candidate(20.0), candidate(20.0, 2.0)
    np.testing.assert_allclose(two.information, 2 * one.information, rtol=1e-8, atol=1e-6)
    np.testing.assert_allclose(two.rate, 2 * one.rate, rtol=1e-9)


def test_information_is_symmetric_and_not_negative():
    for psi in (20.0, 71.0):
        matrix = candidate(psi).information
        np.testing.assert_allclose(matrix, matrix.T, rtol=1e-9, atol=1e-9)
        values = np.linalg.eigvalsh(matrix)
        assert values.min() > -1e-9 * values.max()
        assert np.all(np.diag(matrix)[:K] > 0)


def test_an_equivalent_orientation_brings_the_same_information_and_others_do_not():
    prior = refinement().prior_precision()
    here, there, other = (  # two-fold about the vertical [1 -1 0]
        np.sqrt(np.diag(np.linalg.inv(prior + 10 * candidate(psi).information)))[:K]
        for psi in (20.0, 200.0, 71.0)
    )
    # Equal up to which of the operations that leave a voxel in place carried its pixels.
    np.testing.assert_allclose(here, there, rtol=0.03)
    assert np.abs(other / here - 1).max() > 0.1
    assert candidate(20.0).rate.sum() == pytest.approx(candidate(200.0).rate.sum(), rel=0.005)


def test_the_gain_is_the_fall_of_the_weighted_variance_per_wall_minute():
    precision = refinement().prior_precision()
    targets = 0.02 * np.abs(theta()[:K])
    (advice,) = rank([candidate(20.0)], current_psi_deg=0.0)
    after = precision + advice.minutes * candidate(20.0).information
    fall = np.diag(np.linalg.inv(precision) - np.linalg.inv(after))[:K]
    wall = advice.minutes + (30 + 20 / 2) / 60
    assert advice.gain_per_minute == pytest.approx(float(np.sum(fall / targets**2)) / wall)
    assert (advice.psi_deg, advice.ei_meV, advice.policy) == (20.0, 40.0, "information")


def test_more_information_ranks_first():
    order = rank([made_up(10.0, 50.0), made_up(20.0, 200.0), made_up(30.0, 100.0)])
    assert [a.psi_deg for a in order] == [20.0, 30.0, 10.0]


def test_little_is_left_to_gain_when_targets_are_met():
    precision = refinement().prior_precision() + 1000 * candidate(20.0).information
    targets = 10 * np.sqrt(np.diag(np.linalg.inv(precision))[:K])
    met = rank([candidate(20.0), candidate(71.0)], precision=precision, targets=targets)
    fresh = rank([candidate(20.0), candidate(71.0)], targets=targets)
    assert max(a.gain_per_minute for a in met) < 1e-4
    assert max(a.gain_per_minute for a in met) < 1e-3 * fresh[0].gain_per_minute


def test_only_parameters_above_their_target_count():
    sharp = np.diag([1e8, 1.0, 1.0, 1, 1, 1, 1])
    about = [np.diag(np.eye(K + 4)[k] * 100) for k in range(2)]
    first, second = (
        Candidate(psi_deg=float(k), information=about[k], rate=np.zeros((1, 1))) for k in range(2)
    )
    order = rank([first, second], precision=sharp, targets=np.full(K, 1e-2))
    assert order[0].psi_deg == 1.0
    assert order[1].gain_per_minute == pytest.approx(0.0, abs=1e-9)


def test_a_costly_move_changes_the_ranking():
    candidates = [made_up(0.0, 100.0), made_up(100.0, 130.0)]
    free = MotionSection(speed_deg_per_s=1000.0, overhead_s=0.0)
    slow = MotionSection(speed_deg_per_s=0.05, overhead_s=60.0)
    tight = {"precision": 1e4 * np.eye(K + 4), "targets": np.full(K, 1e-3), "current_psi_deg": 0.0}
    assert rank(candidates, motion=free, **tight)[0].psi_deg == 100.0
    assert rank(candidates, motion=slow, **tight)[0].psi_deg == 0.0


def test_ties_are_broken_by_the_angle():
    order = rank([made_up(30.0), made_up(10.0), made_up(20.0)])
    assert [a.psi_deg for a in order] == [10.0, 20.0, 30.0]


@pytest.mark.parametrize("policy", [InformationPolicy(), FalsificationPolicy(np.zeros((2, 3)))])
def test_without_candidates_there_is_no_advice(policy):
    assert rank([], policy=policy) == []
    assert (
        minutes_to_target(
            [],
            precision=np.eye(K + 4),
            targets=np.full(K, 1e-3),
            budget_minutes=100.0,
            motion=MOTION,
        )
        is None
    )


def test_falsification_turns_to_where_data_and_model_disagree():
    residual = np.array([[0.5, np.nan, 6.0], [0.1, -0.3, 0.0]])
    there, elsewhere = np.zeros((2, 3)), np.full((2, 3), 50.0)
    there[0, 2] = 10.0
    elsewhere[0, 2] = 1.0
    candidates = [
        Candidate(psi_deg=1.0, information=np.eye(K + 4), rate=elsewhere),
        Candidate(psi_deg=2.0, information=np.eye(K + 4), rate=there),
    ]
    order = rank(candidates, policy=FalsificationPolicy(residual))
    assert [a.psi_deg for a in order] == [2.0, 1.0]
    assert {a.policy for a in order} == {"falsification"}
    assert order[0].gain_per_minute == pytest.approx(10 * 35 / 1.5)  # 30 s of overhead


def forecast(target: float, **changes) -> float | None:
    arguments = {
        "precision": np.eye(K + 4),
        "targets": np.full(K, target),
        "budget_minutes": 500.0,
        "motion": MotionSection(overhead_s=0.0),
    }
    return minutes_to_target([made_up(float(i), 10.0) for i in range(6)], **(arguments | changes))


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
    posterior = Posterior(
        names=("a", "b"), values=np.array([-2.0, 0.001]), covariance=np.diag([0.01, 0.04]),
        theta=np.zeros(6), precision=np.eye(6), objective=0.0, converged=True, iterations=1,
        expected=zero, phonon=zero, totals=np.zeros(1),
    )  # fmt: skip
    np.testing.assert_allclose(absolute_targets(posterior, [0.05, 0.1]), [0.1, 0.02])


def stop(**changes):
    arguments = {
        "looks_below_target": LOOKS_BELOW_TARGET,
        "chunks": 10,
        "orientations": 4,
        "trusted": True,
        "forecast_minutes": 5.0,
    }
    return stop_advice(**(arguments | changes))


def test_stopping_needs_targets_met_chunks_orientations_and_trust():
    assert stop().stop
    assert stop().minutes_to_target == 0.0
    for looks in range(LOOKS_BELOW_TARGET):
        assert not stop(looks_below_target=looks).stop
        assert stop(looks_below_target=looks).minutes_to_target == 5.0
    assert not stop(chunks=SMALLEST_CHUNKS - 1).stop
    assert not stop(orientations=SMALLEST_ORIENTATIONS - 1).stop
    assert stop(chunks=3, orientations=2).stop
    untrusted = stop(trusted=False)
    assert not untrusted.stop
    assert untrusted.minutes_to_target is None
    assert "not trusted" in untrusted.reason
    assert "nothing measured" in stop(chunks=0).reason
    assert not stop(chunks=0).stop


def test_candidates_span_the_limits():
    found = candidate_angles((-10.0, 50.0), 7)
    np.testing.assert_allclose(found, [-10, 0, 10, 20, 30, 40, 50])
