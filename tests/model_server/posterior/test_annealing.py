"""Folded rates lead to the answer from a start that sharp counts lead away from."""

from dataclasses import replace

import numpy as np

from model_server.posterior.annealing import BLURS_MEV, ROUGHLY, Annealing
from model_server.posterior.effort import Effort
from model_server.posterior.observation import pool
from tests.model_server.posterior.test_refinement import drawn, prior, refinement, truth


def annealing(seed: int = 1, kicks: int = 0) -> Annealing:
    fit, pooled = refinement(), pool(drawn(truth(phonons=20000.0), seed))
    centre = fit.starts.centre(pooled)
    return Annealing(
        objective=fit.objective,
        starts=fit.starts,
        prior=prior(),
        pooled=pooled,
        centre=centre,
        kicks=kicks,
        effort=Effort(),
    )


def test_blurred_answers_lead_to_the_truth():
    way = annealing()
    blurred = way.blurred([], [])
    found = way.best(blurred)
    gap = (found.values - truth()[: len(found.values)]) / found.sigma
    assert np.abs(gap).max() < 4.0
    assert way.leads_to(found, blurred)
    wrong = way.anneal(found.theta + 30 * np.eye(len(found.theta))[0] * found.sigma[0], [0.0], 0)
    assert not way.leads_to(wrong, blurred)


def test_a_kick_never_leaves_a_better_answer_for_a_worse_one():
    way = annealing(kicks=3)
    start = way.anneal(way.centre, BLURS_MEV[ROUGHLY:], 8)
    assert way.kicked(start).objective <= start.objective


def test_what_folded_rates_take_is_counted_and_less_is_tried_where_it_is_dear():
    ends = []
    for most in (np.inf, 1e3):
        way = annealing()
        effort = Effort(most)
        ends.append((replace(way, effort=effort).blurred([], []), effort))
    (_, free), (found, bounded) = ends
    assert 0 < bounded.spent < free.spent
    assert len(found) >= 1
