"""Gains follow information, a move costs time, and policies are exchanged freely."""

import numpy as np
import pytest

from steering.advice import Advice, Candidate, FalsificationPolicy, InformationPolicy, Situation
from steering.advice.policies import Policy
from steering.experiment import MotionSection
from tests.steering.candidates import EI, K, candidate, made_up, refinement, situation, theta


def rank(candidates, *, policy: Policy | None = None, **changes) -> list[Advice]:
    return (policy or InformationPolicy()).rank(situation(candidates, **changes))


def test_the_gain_is_the_fall_of_the_weighted_variance_per_wall_minute():
    precision = refinement().objective.prior_precision()
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
    precision = refinement().objective.prior_precision() + 1000 * candidate(20.0).information
    targets = 10 * np.sqrt(np.diag(np.linalg.inv(precision))[:K])
    met = rank([candidate(20.0), candidate(71.0)], precision=precision, targets=targets)
    fresh = rank([candidate(20.0), candidate(71.0)], targets=targets)
    assert max(a.gain_per_minute for a in met) < 1e-4
    assert max(a.gain_per_minute for a in met) < 1e-3 * fresh[0].gain_per_minute


def test_only_parameters_above_their_target_count():
    sharp = np.diag([1e8, 1.0, 1.0, 1, 1, 1, 1])
    about = [np.diag(np.eye(K + 4)[k] * 100) for k in range(2)]
    first, second = (
        Candidate(psi_deg=float(k), ei_meV=EI, information=about[k], rate=np.zeros((1, 1)))
        for k in range(2)
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
    order = rank([made_up(10.0, ei_meV=60.0), made_up(10.0, ei_meV=25.0)])
    assert [a.ei_meV for a in order] == [25.0, 60.0]


@pytest.mark.parametrize("policy", [InformationPolicy(), FalsificationPolicy(np.zeros((2, 3)))])
def test_without_candidates_there_is_no_advice(policy):
    assert rank([], policy=policy) == []


def test_falsification_turns_to_where_data_and_model_disagree():
    residual = np.array([[0.5, np.nan, 6.0], [0.1, -0.3, 0.0]])
    there, elsewhere = np.zeros((2, 3)), np.full((2, 3), 50.0)
    there[0, 2] = 10.0
    elsewhere[0, 2] = 1.0
    candidates = [
        Candidate(psi_deg=1.0, ei_meV=EI, information=np.eye(K + 4), rate=elsewhere),
        Candidate(psi_deg=2.0, ei_meV=EI, information=np.eye(K + 4), rate=there),
    ]
    order = rank(candidates, policy=FalsificationPolicy(residual))
    assert [a.psi_deg for a in order] == [2.0, 1.0]
    assert {a.policy for a in order} == {"falsification"}
    assert order[0].gain_per_minute == pytest.approx(10 * 35 / 1.5)  # 30 s of overhead


class LongestTurn:
    """A baseline as others may write it: it looks at the situation alone."""

    name = "longest turn"

    def rank(self, situation: Situation) -> list[Advice]:
        far = sorted(situation.candidates, key=situation.move_minutes, reverse=True)
        return [
            Advice(
                psi_deg=c.psi_deg, ei_meV=c.ei_meV, minutes=1.0, gain_per_minute=0.0,
                policy=self.name,
            )
            for c in far
        ]  # fmt: skip


def test_a_policy_is_whatever_ranks_a_situation():
    for policy in (LongestTurn(), InformationPolicy(), FalsificationPolicy(np.zeros((2, 3)))):
        assert isinstance(policy, Policy)
        advice = rank([made_up(10.0), made_up(90.0)], policy=policy, current_psi_deg=0.0)
        assert {(a.psi_deg, a.policy) for a in advice} == {(p, policy.name) for p in (10.0, 90.0)}
    assert rank([made_up(10.0), made_up(90.0)], policy=LongestTurn(), current_psi_deg=0.0)[
        0
    ].psi_deg == pytest.approx(90.0)


def test_advice_carries_the_incident_energy_of_its_candidate():
    order = rank([made_up(10.0, 50.0, ei_meV=25.0), made_up(10.0, 200.0, ei_meV=60.0)])
    assert [a.ei_meV for a in order] == [60.0, 25.0]
