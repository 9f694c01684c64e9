"""Answers beside the best one are kept, told with their odds, and never claimed as one."""

from dataclasses import replace

import numpy as np
import pytest

from model_server.posterior import Posterior, assess
from model_server.posterior.modes import MAY_BE, MOST, TWIN, Modes
from model_server.posterior.posterior import RULED_OUT, SAME, ThetaLayout
from simulations.fold import CellSums
from simulations.prior import BoxPrior

NAMES = ("a", "b")
SIGMA = 0.1
PRIOR = BoxPrior(names=NAMES, lower=np.full(2, -5.0), upper=np.full(2, 5.0))
CELLS = np.full((10, 50), 400.0)


def answer(
    a: float, objective: float, *, sigma: float = SIGMA, converged: bool = True
) -> Posterior:
    layout = ThetaLayout(parameter_names=NAMES, parameter_units=("eV/angstrom^2",) * 2)
    return Posterior(
        model="two springs",
        layout=layout,
        theta=np.array([a, *np.zeros(layout.size - 1)]),
        precision=np.eye(layout.size) / sigma**2,
        covariance=sigma**2 * np.eye(2),
        objective=objective,
        converged=converged,
        iterations=1,
        expected=CELLS,
        phonon=CELLS,
        totals=np.array([CELLS.sum()]),
    )


def found(*answers: Posterior) -> Modes:
    modes = Modes()
    for number, one in enumerate(answers):
        modes.add(one, {"rates": number})
    return modes


def test_the_best_answer_is_kept_with_its_rates_whatever_the_order():
    low, high = answer(0.0, -10.0), answer(1.0, -8.0)
    for modes, rates in ((found(low, high), 0), (found(high, low), 1)):
        assert modes.best is low
        assert modes.lowest == -10.0
        assert modes.kept[0][1] == {"rates": rates}
        assert [one for one, _ in modes.kept] == [low, high]
    assert Modes().lowest == np.inf


def test_where_rough_rates_settled_is_known_by_their_own_place():
    modes, twin = Modes(), answer(0.3, -9.0)
    assert modes.rough_level is None
    modes.add(answer(0.0, -10.0), {}, twin)
    assert modes.rough_level == -9.0
    near = 0.9 * np.sqrt(SAME) * SIGMA
    assert modes.knows_roughly(twin.theta + near * np.eye(len(twin.theta))[0])
    assert not modes.knows_roughly(modes.best.theta - near * np.eye(len(twin.theta))[0])
    modes.add(answer(1.0, -8.0), {}, answer(3.0, -7.0))  # a worse one: the best keeps its level
    assert modes.rough_level == -9.0
    modes.add(answer(-1.0, -12.0), {})  # a better one that needed no rough rates
    assert modes.rough_level is None
    assert modes.knows_roughly(twin.theta)
    modes.rough_level = -11.0
    modes.add(answer(1.0, -8.0), {})
    assert modes.rough_level == -11.0


def test_a_level_far_from_an_answer_is_not_its_own():
    modes, away = found(answer(0.0, -10.0)), answer(1.1 * np.sqrt(TWIN) * SIGMA, -15.0)
    modes.add(answer(0.01, -10.1), {}, away)
    assert modes.rough_level is None
    # Exact rates that began at the other place came back from it.
    assert modes.knows_roughly(away.theta)


def test_one_minimum_found_twice_is_one_answer():
    near, far = 0.9 * np.sqrt(SAME) * SIGMA, 1.1 * np.sqrt(SAME) * SIGMA
    assert len(found(answer(0.0, -10.0), answer(near, -9.9)).kept) == 1
    assert len(found(answer(0.0, -10.0), answer(far, -9.9)).kept) == 2
    # The narrower of two at one place does not make them two.
    assert len(found(answer(0.0, -10.0), answer(far, -9.9, sigma=10 * SIGMA)).kept) == 1
    modes = found(answer(0.0, -10.0))
    assert modes.knows(answer(near, 0.0).theta)
    assert not modes.knows(answer(far, 0.0).theta)


def test_what_did_not_settle_or_lies_far_above_is_not_another_answer():
    best = answer(0.0, -10.0)
    assert found(best, answer(1.0, -9.0, converged=False)).kept[1:] == []
    assert found(best, answer(1.0, -10.0 + MAY_BE + 0.1)).kept[1:] == []
    many = found(*(answer(float(k), -10.0 + k) for k in range(2 * MOST)))
    assert [one.objective for one, _ in many.kept] == [-10.0 + k for k in range(MOST)]
    # Better but unsettled is still where a fit is: it says itself that it did not converge.
    assert not found(best, answer(1.0, -11.0, converged=False)).best.converged


def test_odds_are_of_peaks_and_volumes():
    """Two Gaussian peaks integrated by hand."""
    one, other = answer(0.0, -10.0), answer(1.0, -9.0, sigma=3 * SIGMA)
    by_hand = np.log(np.exp(-1.0) * (3 * SIGMA) ** 2 / SIGMA**2)
    assert one.log_odds_of(other) == pytest.approx(by_hand)
    assert other.log_odds_of(one) == pytest.approx(-by_hand)


def test_others_are_told_likeliest_first_and_not_those_that_are_ruled_out():
    best = answer(0.0, -10.0)
    likely, unlikely = answer(1.0, -9.0), answer(2.0, -7.0)
    out = answer(3.0, -10.0 - RULED_OUT + 0.1)
    told = best.beside([unlikely, out, likely, answer(1.01, -8.0), answer(0.01, -9.5)])
    assert [one.objective for one in told.others] == [-9.0, -7.0]
    assert all(one.others == () for one in told.others)


def test_another_minimum_within_the_stated_errors_is_no_other_answer():
    """Chi-square of a draw of two parameters is 2 +- 2: three of that are 8."""
    best, edge = answer(0.0, -10.0), np.sqrt(8.0) * SIGMA
    assert best.beside([answer(0.95 * edge, -9.9)]).others == ()
    assert len(best.beside([answer(1.05 * edge, -9.9)]).others) == 1
    # A narrow answer that claims to exclude the other does not cover it, whatever that one says.
    wide = answer(0.95 * edge, -9.9, sigma=5 * SIGMA)
    narrow = answer(0.0, -10.0, sigma=0.5 * SIGMA)
    assert len(narrow.beside([wide]).others) == 1
    assert wide.beside([narrow]).others == ()


@pytest.mark.parametrize("above", [0.5, 2.5, 3.5])
def test_a_likely_other_answer_means_that_the_counts_cannot_tell_yet(above):
    best = answer(0.0, -10.0).beside([answer(1.0, -10.0 + above)])
    counts = np.random.default_rng(3).poisson(CELLS).astype(float)
    one = np.ones_like(CELLS)
    sums = CellSums(signal=counts, variance=counts, counts=counts, exposure=one, flat=one)
    judged = {"sums": sums, "prior": PRIOR, "use": CELLS > 0, "look": 1}
    trust = assess(posterior=best, **judged)
    assert trust.explained
    assert trust.trusted is (above > 3.0)
    if not trust.trusted:
        assert trust.state == "cannot tell yet"
        (reason,) = trust.reasons
        odds = f"{np.exp(-above):.2g} times as likely"
        for word in ("2 answers explain these counts", odds, "has a 1 instead of 0"):
            assert word in reason
    # What speaks against the model is said all the same.
    wrong = assess(posterior=replace(best, expected=1.2 * CELLS), **judged)
    assert wrong.state == "not explained"
