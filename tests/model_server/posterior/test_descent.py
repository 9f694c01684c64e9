from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from model_server.posterior.descent import FAR, ROUGHEST, WALKS, Descent

START = np.array([3.0, 2.0])


@dataclass(frozen=True, eq=False)
class Answer:
    """What a fit by carried rates ends at, as far as a descent looks at it."""

    theta: np.ndarray
    objective: float
    converged: bool = True
    precision: np.ndarray = None  # type: ignore[assignment]
    share: float = 1.0

    @property
    def theta_sigma(self) -> np.ndarray:
        return np.full(2, 0.1)

    @property
    def theta_covariance(self) -> np.ndarray:
        return 0.01 * np.eye(2)


class Slope:
    """An objective, and a linearised model of it that promises its minimum by Newton's step."""

    even = True
    most = np.inf  # walks that are granted beside the first

    def __init__(self, objective, curvature=1.0, reach=0.0):
        self.objective, self.curvature, self.reach = objective, curvature, reach
        self.walks = 0
        self.at = None  # where it walked last, as far as it remembers

    def walk(self, at, wide, share):
        self.walks += 1
        self.at = at
        return [at]

    def average(self, tangents, at, wide):
        return tangents

    def granted(self, at, wide):
        return self.walks <= self.most

    def remembered(self):
        return {"at": self.at}

    def recall(self, remembered):
        self.at = remembered["at"]

    def value(self, at, tangents):
        return self.objective(at)

    def score(self, at, tangents, most):
        here = self.objective(at)
        slope = np.array(
            [(self.objective(at + d) - self.objective(at - d)) / 2e-4 for d in 1e-4 * np.eye(2)]
        )
        step = -slope / self.curvature if most else np.zeros(2)
        precision = self.curvature * np.eye(2)
        promised = here - 0.5 * float(step @ precision @ step)
        return Answer(at + step, promised, True, precision)

    def holds(self, tangents, at, wide):
        return bool(np.abs(at - tangents[0]).max() < self.reach)

    def ways(self, known=lambda at: False):
        return Descent(
            walk=self.walk, average=self.average, value=self.value, score=self.score,
            holds=self.holds, keeping=self,
            iterations=15, even=lambda wide: self.even, known=known, granted=self.granted,
        )  # fmt: skip

    def down(self, start=START, **more):
        return self.ways().descend(start, 0.01 * np.eye(2), **more)


def bowl(at):
    return 20.0 * float(at @ at)


@pytest.mark.parametrize("curvature", [25.0, 40.0, 70.0])
def test_steps_too_long_or_too_short_by_a_share_end_at_the_minimum_in_few_walks(curvature):
    slope = Slope(bowl, curvature)
    found = slope.down()
    assert found.converged
    assert bowl(found.theta) < 0.05
    assert slope.walks <= 6


def test_a_bent_valley_is_followed_to_its_end():
    def valley(at):
        return 3.0 * (at[0] ** 2 + 0.3 * at[0] ** 4 + at[1] ** 2)

    found = Slope(valley, curvature=6.0).down()
    assert found.converged
    assert valley(found.theta) < 0.1


def test_a_step_into_nowhere_is_shortened_and_the_minimum_found_all_the_same():
    def cliff(at):
        return bowl(at) if at[0] > -0.5 else np.inf

    found = Slope(cliff, curvature=34.0).down()  # its first steps end beyond the cliff
    assert np.isfinite(found.objective)
    assert cliff(found.theta) < 0.1


def test_rough_rates_end_a_descent_that_promises_little_and_it_says_that_it_has_converged():
    rng = np.random.default_rng(1)
    at_rest = np.array([0.05, 0.02])
    known: dict[bytes, float] = {}

    def rough(at):
        if np.array_equal(at, at_rest):
            return 0.0
        return known.setdefault(at.tobytes(), 1.0 + rng.random())

    class Hopeful(Slope):
        def score(self, at, tangents, most):
            step = -0.02 * np.ones(2) if most else np.zeros(2)
            return Answer(at + step, -0.5 * ROUGHEST if most else 0.0, True, np.eye(2))

    slope = Hopeful(rough)
    found = slope.down(at_rest)
    assert found.converged
    np.testing.assert_array_equal(found.theta, at_rest)
    assert slope.walks <= 4

    class TooHopeful(Hopeful):
        def score(self, at, tangents, most):
            step = -0.02 * np.ones(2) if most else np.zeros(2)
            return Answer(at + step, -2.0 * ROUGHEST if most else 0.0, True, np.eye(2))

    assert not TooHopeful(rough).down(at_rest).converged

    class Uneven(TooHopeful):
        even = False

        def score(self, at, tangents, most):
            step = -0.02 * np.ones(2) if most else np.zeros(2)
            return Answer(at + step, -1.5 * ROUGHEST if most else 0.0, True, np.eye(2))

    assert Uneven(rough).down(at_rest).converged


@pytest.mark.parametrize(("worse", "walks"), [(3.0, 2), (0.1, 3)])
def test_a_shorter_step_is_tried_only_if_it_is_longer_than_what_counts_as_settled(worse, walks):
    """Half is promised: an end that is 3 worse leaves a parabola of an eighth of the step."""
    at_rest = np.array([0.05, 0.02])

    class Hopeful(Slope):
        def score(self, at, tangents, most):
            step = 0.5 * np.ones(2) if most else np.zeros(2)
            return Answer(at + step, -0.5 if most else 0.0, True, np.eye(2))

    slope = Hopeful(lambda at: 0.0 if np.array_equal(at, at_rest) else worse)
    found = slope.down(at_rest)
    assert found.converged
    np.testing.assert_array_equal(found.theta, at_rest)
    assert slope.walks == walks
    assert slope.at is at_rest  # and nothing that was tried in vain is remembered


def test_what_promises_far_less_than_is_to_be_beaten_is_given_up_at_once():
    slope = Slope(lambda at: bowl(at) + 1000.0, 40.0)
    found = slope.down(beat=1000.0 - 2 * FAR)
    assert not found.converged
    assert slope.walks == 1
    assert Slope(lambda at: bowl(at) + 1000.0, 40.0).down(beat=1000.0).converged


@pytest.mark.parametrize(("beat", "again"), [(18.0, True), (19.0, False)])
def test_what_leads_to_a_known_answer_is_given_up_unless_it_promises_a_better_one(beat, again):
    """The first step promises 18.1 and leads to within 0.25 of the minimum."""
    slope = Slope(bowl, 43.0)
    ways = slope.ways(known=lambda at: bool(np.abs(at).max() < 0.25))
    found = ways.descend(START, 0.01 * np.eye(2), beat=beat)
    assert found.converged is not again
    assert (slope.walks == 1) is again
    assert np.abs(found.theta).max() < 0.25
    assert slope.ways().descend(START, 0.01 * np.eye(2), beat=beat).converged


def test_a_descent_ends():
    slope = Slope(lambda at: float(at[0] + at[1]), 1.0)
    found = slope.down()
    assert not found.converged
    assert slope.walks <= 3 * WALKS


@pytest.mark.parametrize(("start", "settles"), [((0.02, 0.01), True), ((3.0, 2.0), False)])
def test_one_step_settles_where_the_minimum_is_near_and_says_so_where_it_is_not(start, settles):
    slope = Slope(bowl, 40.0, reach=0.1)
    found, settled = slope.ways().step(np.array(start), 0.01 * np.eye(2))
    assert settled is settles
    assert slope.walks == 1
    np.testing.assert_allclose(found.theta, 0.0, atol=1e-6)


@pytest.mark.parametrize("most", [0, 1, 2])
def test_without_walks_a_descent_ends_unsettled_where_it_is_and_may_go_on_from_there(most):
    def valley(at):
        return 3.0 * (at[0] ** 2 + 0.3 * at[0] ** 4 + at[1] ** 2)

    slope, whole = Slope(valley, curvature=6.0), Slope(valley, curvature=6.0).down()
    slope.most = most
    found = slope.down()
    assert not found.converged
    assert slope.walks == 1 + most
    assert valley(found.theta) <= valley(START) + 1e-9

    slope.most = np.inf
    again = slope.down(found.theta)
    assert again.converged
    assert abs(valley(again.theta) - valley(whole.theta)) < 0.1


def test_without_walks_a_step_that_failed_is_not_tried_again():
    def narrow(at):
        return bowl(at) if np.abs(at).max() < 3.5 else 1e6

    slope = Slope(narrow, curvature=8.0)  # its first step ends far beyond the other side
    slope.most = 1
    at, share, before = START, 1.0, bowl(START)
    for _ in range(12):
        slope.walks = 0
        found = slope.down(at, share=share)
        at, share = found.theta, found.share
        assert bowl(at) < before + 1e-9
        before = bowl(at)
    assert before < 0.2 * bowl(START)
