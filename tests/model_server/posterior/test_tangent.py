"""Exact rates carried to other places: to first order, and by second differences of rough ones."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from model_server.posterior.effort import MODES, ROUGH
from model_server.posterior.observation import Observation
from model_server.posterior.posterior import Posterior, ThetaLayout
from model_server.posterior.tangent import BENDS_OVER, REACH_SIGMAS, Tangents
from tests.model_server.posterior.test_refinement import LINE, LINE_BOX, counted, folded_line
from tests.model_server.posterior.test_refinement import _Counting as Counting
from tests.model_server.posterior.test_refinement import _Rough as Rough

LAYOUT = ThetaLayout(parameter_names=LINE_BOX.names, parameter_units=("meV", "1"))
SIGMA_MEV = 0.1
SIGMA = np.full(LAYOUT.size, 1.0)
SIGMA[0] = SIGMA_MEV


class Noisy(Counting):
    """Rates whose derivatives differ from cell to cell, as those of few pixels do."""

    factors = (0.2, 1.8)

    def one_place(self, trajectories, state, *, log_width, off, gradient):
        rate, slope = super().one_place(
            trajectories, state, log_width=log_width, off=off, gradient=gradient
        )
        noise = np.random.default_rng(7).choice(self.factors, rate.shape)
        return rate * noise, slope * noise[..., None]


class LittleNoisy(Noisy):
    """Less so: squares of their slopes are off by 12 %."""

    factors = (0.65, 1.35)


BRIGHT = 8.0  # logarithm of a scale by which the second order counts within the reach


def theta_at(energy_meV: float, log_scale: float = 0.0) -> np.ndarray:
    theta = np.zeros(LAYOUT.size)
    theta[:3] = energy_meV, LINE[1], log_scale
    return theta


@pytest.fixture(name="observations", scope="module")
def _observations() -> list[Observation]:
    return counted(folded_line(), LINE, 1, 10.0)


def off_by(tangents: Sequence, truth: Sequence) -> float:
    """Squares of what rates, and their derivatives by the energy in sigma, are off by."""
    return sum(
        float(
            np.sum((one.exact - true.exact) ** 2)
            + np.sum((SIGMA_MEV * (one.slope - true.slope)[..., 0]) ** 2)
        )
        for one, true in zip(tangents, truth, strict=True)
    )


@pytest.mark.parametrize("sigmas", [-3.0, 2.0, 3.5])
def test_second_differences_of_rough_rates_carry_rates_and_slopes(observations, sigmas):
    exact, rough = Counting(), Rough()
    tangents = Tangents(exact, LAYOUT, rough)
    here, there = theta_at(LINE[0]), theta_at(LINE[0] + sigmas * SIGMA_MEV)
    walked = tangents.walked(observations, here, SIGMA)
    exact.walks.clear()
    assert tangents.unknown(observations, there, SIGMA) == 0
    bent = tangents.walked(observations, there, SIGMA)
    assert not exact.walks
    assert len(rough.walks) == 2 * len(observations)
    truth = Tangents(exact, LAYOUT).walked(observations, there, SIGMA)
    step = there[LAYOUT.walked] - here[LAYOUT.walked]
    first = [replace(t, exact=t.exact + t.slope @ step) for t in walked]
    assert 0 < off_by(bent, truth) < 0.1 * off_by(first, truth)

    # On to a third place: from what was walked, whose rough rates are known by now.
    rough.walks.clear()
    on = tangents.walked(observations, theta_at(LINE[0] - sigmas * SIGMA_MEV), SIGMA)
    assert len(rough.walks) == len(observations)
    for one, base in zip(on, walked, strict=True):
        assert one.base is not None
        assert one.base.exact is base.exact


def test_rough_rates_know_which_trajectories_exact_ones_found_steep(observations):
    exact, rough = Counting(), Rough()
    tangents = Tangents(exact, LAYOUT, rough)
    here, there = theta_at(LINE[0]), theta_at(LINE[0] + 2.0 * SIGMA_MEV)
    walked = tangents.walked(observations, here, SIGMA)
    bent = tangents.walked(observations, there, SIGMA)
    tangents.averaged(observations, bent, there, np.diag(SIGMA**2))
    assert len(rough.steep) == len(rough.walks) > 0
    told = [one.steep.tolist() for one in walked]
    assert all(one in told for one in rough.steep)
    for steep, one in zip(told, observations, strict=True):
        assert exact.steepest in steep
        assert 0.01 <= len(steep) / len(one.trajectories().pixel) < 0.011
    assert Tangents(exact, LAYOUT).walked(observations, here, SIGMA)[0].steep is None


def test_rough_rates_of_a_search_walk_what_exact_ones_had_found_steep_when_it_began(observations):
    exact, rough = Counting(), Rough()
    tangents, roughly = Tangents(exact, LAYOUT, rough), Tangents(rough, LAYOUT)
    here, there = theta_at(LINE[0]), theta_at(LINE[0] + 2.0 * SIGMA_MEV)
    first, new = observations[:1], observations[1:]
    steep = tangents.walked(first, here, SIGMA)[0].steep.tolist()
    tangents.walked(first, there, SIGMA)  # bent from there
    roughly.walked(first, here, SIGMA)
    roughly.begin(tangents)
    assert not roughly.remembered()
    tangents.walked(new, here, SIGMA)  # what is found later is not used: levels must compare
    rough.steep.clear()
    roughly.walked(observations, here, SIGMA)
    roughly.levels(observations, there)
    assert rough.steep == [steep, steep]
    assert len(rough.walks) > len(rough.steep)


def test_rough_rates_that_are_too_unlike_bend_nothing(observations):
    exact, rough = Counting(), Noisy()
    tangents = Tangents(exact, LAYOUT, rough)
    tangents.walked(observations, theta_at(LINE[0]), SIGMA)
    exact.walks.clear()
    away = theta_at(LINE[0] + 3.0 * SIGMA_MEV)
    found = tangents.walked(observations, away, SIGMA)
    assert all(one.base is None for one in found)
    assert len(exact.walks) == len(observations)
    assert len(rough.walks) == len(observations)  # once each
    # Nor later, with what is remembered.
    kept = tangents.remembered()
    again = Tangents(exact, LAYOUT, rough)
    again.recall(kept)
    assert again.unlike
    assert not again.bending
    assert again.unknown(observations, theta_at(LINE[0]), SIGMA) == len(observations)
    again.walked(observations, theta_at(LINE[0]), SIGMA)
    assert len(rough.walks) == len(observations)
    near = theta_at(LINE[0] + 0.4 * REACH_SIGMAS * SIGMA_MEV)
    assert again.unknown(observations, near, SIGMA) == 0
    # Their derivatives stay those of one place.
    walked = again.walked(observations, theta_at(LINE[0]), SIGMA)
    found = again.averaged(observations, walked, theta_at(LINE[0]), np.diag(SIGMA**2))
    assert all(one is two for one, two in zip(found, walked, strict=True))


@pytest.mark.parametrize(("rough", "bent"), [(Rough(), True), (LittleNoisy(), False)])
def test_within_the_reach_of_derivatives_only_rough_rates_that_are_alike_bend(
    observations, rough, bent
):
    exact = Counting()
    tangents = Tangents(exact, LAYOUT, rough)
    tangents.walked(observations, theta_at(LINE[0], BRIGHT), SIGMA)
    near = theta_at(LINE[0] + 0.3 * REACH_SIGMAS * SIGMA_MEV, BRIGHT)
    found = tangents.walked(observations, near, SIGMA)
    assert [one.base is not None for one in found] == [bent] * len(observations)
    assert tangents.carry(found, observations, near, SIGMA)
    farther = theta_at(LINE[0] + 0.7 * REACH_SIGMAS * SIGMA_MEV, BRIGHT)
    assert tangents.carry(found, observations, farther, SIGMA) is not bent
    away = tangents.walked(observations, theta_at(LINE[0] + 3.0 * SIGMA_MEV, BRIGHT), SIGMA)
    assert all(one.base is not None for one in away)
    assert len(exact.walks) == len(observations)


@pytest.mark.parametrize(("flatter", "held"), [(1.0, False), (0.05, True)])
def test_where_next_to_nothing_is_missed_the_whole_reach_serves(observations, flatter, held):
    at, sums = theta_at(LINE[0], BRIGHT), observations[0].sums
    (steep, *_) = Tangents(Counting(), LAYOUT).walked(observations, at, SIGMA)
    tangent = replace(steep, slope=flatter * steep.slope)

    def holds(sigmas, share):
        there = theta_at(LINE[0] + sigmas * SIGMA_MEV, BRIGHT)
        return tangent.holds(there, SIGMA, LAYOUT, sums, 1, share)

    assert holds(0.05, 0.1)
    assert holds(0.9 * REACH_SIGMAS, 0.1) is held
    assert not holds(1.1 * REACH_SIGMAS, 1.0)


def test_rough_rates_that_were_too_unlike_are_asked_again_at_the_next_orientation(observations):
    exact, unlike, like = Counting(), Noisy(), Rough()
    tangents = Tangents(exact, LAYOUT, unlike)
    away = theta_at(LINE[0] + 3.0 * SIGMA_MEV)
    tangents.walked(observations, theta_at(LINE[0]), SIGMA)
    tangents.walked(observations, away, SIGMA)
    kept = tangents.remembered()
    again = Tangents(exact, LAYOUT, like)  # as if of a narrower posterior
    again.recall(kept)
    exact.walks.clear()
    more = [*observations, replace(observations[0], key="another")]
    assert again.unknown(more, theta_at(LINE[0]), SIGMA) == 1
    found = again.walked(more, theta_at(LINE[0]), SIGMA)
    assert len(exact.walks) == 1
    assert [one.base is None for one in found] == [False, False, True]
    assert not again.unlike


def test_beyond_their_reach_exact_rates_are_walked_again(observations):
    exact, rough = Counting(), Rough()
    tangents = Tangents(exact, LAYOUT, rough)
    tangents.walked(observations, theta_at(LINE[0]), SIGMA)
    rough.walks.clear()
    away = theta_at(LINE[0] + 1.05 * BENDS_OVER * SIGMA_MEV)
    assert tangents.unknown(observations, away, SIGMA) == len(observations)
    found = tangents.walked(observations, away, SIGMA)
    assert len(exact.walks) == 2 * len(observations)
    assert not rough.walks
    assert all(one.base is None for one in found)


@pytest.mark.parametrize("sigmas", [0.0, 0.2, 0.5, 3.0, 1.05 * BENDS_OVER])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_what_a_place_will_take_is_known_before_it_is_walked(observations, sigmas, share):
    exact, rough = Counting(), Rough()
    tangents = Tangents(exact, LAYOUT, rough)
    wide = np.diag(SIGMA**2)
    assert tangents.price(observations, theta_at(LINE[0]), wide) == 0.0  # the first of each
    tangents.walked(observations, theta_at(LINE[0]), SIGMA)
    dear = {one.dear for one in tangents.remembered().values()}
    exact.walks.clear()
    rough.walks.clear()
    at = theta_at(LINE[0] + sigmas * SIGMA_MEV, BRIGHT)
    told = tangents.price(observations, at, wide, share, steady=False)
    tangents.walked(observations, at, SIGMA, share, steady=False)
    taken = ROUGH * len(rough.walks) + max(dear) * len(exact.walks)
    assert told == taken + (MODES if taken else 0.0)


def test_without_rough_rates_exact_ones_are_walked_where_their_derivatives_end(observations):
    exact = Counting()
    tangents = Tangents(exact, LAYOUT)
    tangents.walked(observations, theta_at(LINE[0]), SIGMA)
    exact.walks.clear()
    near = theta_at(LINE[0] + 0.4 * REACH_SIGMAS * SIGMA_MEV)
    assert tangents.unknown(observations, near, SIGMA) == 0
    tangents.walked(observations, near, SIGMA)
    assert not exact.walks
    away = theta_at(LINE[0] + 1.1 * REACH_SIGMAS * SIGMA_MEV)
    assert tangents.unknown(observations, away, SIGMA) == len(observations)
    tangents.walked(observations, away, SIGMA)
    assert len(exact.walks) == len(observations)


def test_what_is_not_to_be_bent_is_walked(observations):
    exact, rough = Counting(), Rough()
    tangents = Tangents(exact, LAYOUT, rough)
    near = theta_at(LINE[0] + 2.0 * SIGMA_MEV)
    tangents.walked(observations, theta_at(LINE[0]), SIGMA)
    assert all(one.base is not None for one in tangents.walked(observations, near, SIGMA))
    exact.walks.clear()
    rough.walks.clear()
    with tangents.unbent():
        assert all(one.base is None for one in tangents.walked(observations, near, SIGMA))
    assert len(exact.walks) == len(observations)
    assert not rough.walks
    on = tangents.walked(observations, theta_at(LINE[0]), SIGMA)
    assert all(one.base is not None for one in on)


class Blurring(Counting):
    """A model that nobody told what blurs q: typically that makes rates half as much again."""

    def typical(self):
        class Blurred(Counting):
            def one_place(self, trajectories, state, *, log_width, off, gradient):
                rate, slope = super().one_place(
                    trajectories, state, log_width=log_width, off=off, gradient=gradient
                )
                return 1.5 * rate, slope

        return Blurred()


def test_what_a_typical_spread_would_change_is_walked_once_for_each_orientation(observations):
    model = Blurring()
    tangents = Tangents(model, LAYOUT)
    theta = theta_at(LINE[0])
    walked = tangents.walked(observations, theta, SIGMA)
    wider = tangents.wider(observations, theta)
    for one, tangent in zip(wider, walked, strict=True):
        np.testing.assert_allclose(one, 0.5 * tangent.exact, rtol=1e-5, atol=1e-9)
    model.walks.clear()
    far = theta_at(LINE[0] + 50 * SIGMA_MEV)
    again = tangents.wider(observations, theta)
    tangents.walked(observations, far, SIGMA)  # anew, and what was found goes with them
    assert len(model.walks) == len(observations)
    later = tangents.wider(observations, far)
    for one, two, three in zip(wider, again, later, strict=True):
        assert one is two
        assert one is three
    assert Tangents(Counting(), LAYOUT).wider(observations, theta) == []


def information(tangents: Sequence) -> float:
    """Of the energy in all orientations, each cell weighed alike."""
    return sum(float(np.sum(one.slope[..., 0] ** 2)) for one in tangents)


class Rippled(Counting):
    """A line whose rates also ripple with its energy, in every cell with a phase of its own."""

    period_meV, height = 0.1, 0.05

    def one_place(self, trajectories, state, *, log_width, off, gradient):
        rate, slope = super().one_place(
            trajectories, state, log_width=log_width, off=off, gradient=gradient
        )
        energy_meV = float(np.ravel(self.at)[0])
        phase = np.random.default_rng(3).uniform(0, 2 * np.pi, rate.shape)
        turn = 2 * np.pi / self.period_meV
        ripple = self.height * rate.max() * np.sin(turn * energy_meV + phase)
        if gradient:
            by_energy = self.height * rate.max() * turn * np.cos(turn * energy_meV + phase)
            slope = slope.copy()
            slope[..., 0] += by_energy
        return rate + ripple, slope


def test_structure_narrower_than_a_posterior_is_no_information_once_it_is_averaged(observations):
    theta, covariance = theta_at(LINE[0]), np.diag(SIGMA**2)
    plain = information(Tangents(Counting(), LAYOUT).walked(observations, theta, SIGMA))
    tangents = Tangents(Rippled(), LAYOUT, Rippled())
    walked = tangents.walked(observations, theta, SIGMA)
    assert information(walked) > 10 * plain
    averaged = tangents.averaged(observations, walked, theta, covariance)
    left = (information(averaged) - plain) / (information(walked) - plain)
    assert abs(left) < 0.05
    for one, before in zip(averaged, walked, strict=True):
        np.testing.assert_array_equal(one.carried(one.at), before.carried(before.at))
    # Where the posterior is narrower than the ripple, it is what the counts see.
    narrow = covariance / 30**2
    averaged = tangents.averaged(observations, walked, theta, narrow)
    assert information(averaged) == pytest.approx(information(walked), rel=0.1)


def test_averaged_slopes_are_the_mean_over_draws_of_the_posterior(observations):
    theta, covariance = theta_at(LINE[0]), np.diag(SIGMA**2)
    exact, rough = Counting(), Rough()
    tangents = Tangents(exact, LAYOUT, rough)
    walked = tangents.walked(observations, theta, SIGMA)
    found = tangents.averaged(observations, walked, theta, covariance)
    many = Posterior(
        model="", layout=LAYOUT, covariance=covariance[:2, :2], theta=theta,
        precision=np.diag(SIGMA**-2.0), objective=0.0, converged=True, iterations=1,
        expected=np.zeros(1), phonon=np.zeros(1), totals=np.zeros(1),
    ).draws(300, np.random.default_rng(1))  # fmt: skip
    free = Tangents(Counting(), LAYOUT)
    for one, mean in zip(observations, found, strict=True):
        slopes = []
        for place in many:
            free.recall({})
            slopes.append(free.walked([one], place, SIGMA)[0].slope)
        true, spread = np.mean(slopes, axis=0), np.std(slopes, axis=0)
        off = np.sum((mean.slope - true) ** 2) / np.sum(spread**2)
        assert off < 0.2  # rough rates are those of another energy


def test_averages_are_kept_until_the_posterior_is_another_one(observations):
    theta, covariance = theta_at(LINE[0]), np.diag(SIGMA**2)
    exact, rough = Counting(), Rough()
    tangents = Tangents(exact, LAYOUT, rough)

    def walks(theta: np.ndarray, covariance: np.ndarray) -> int:
        walked = tangents.walked(observations, theta, SIGMA)
        rough.walks.clear()
        tangents.averaged(observations, walked, theta, covariance)
        return len(rough.walks)

    assert walks(theta, covariance) == len(observations)
    assert walks(theta, covariance) == 0
    assert walks(theta, 0.7**2 * covariance) == 0
    assert walks(theta_at(LINE[0] + 0.2 * SIGMA_MEV), covariance) == 0
    assert walks(theta, 0.5**2 * covariance) > 0
    kept = tangents.remembered()
    tangents.recall({})
    tangents.recall(kept)
    assert walks(theta, 0.5**2 * covariance) == 0


class BlurringRough(Rough, Blurring):
    """Rough rates of a model that nobody told what blurs q."""


def test_what_is_known_of_an_orientation_outlives_the_place_that_it_is_bent_to(observations):
    exact, rough = Blurring(), BlurringRough()
    tangents = Tangents(exact, LAYOUT, rough)
    here, covariance = theta_at(LINE[0]), np.diag(SIGMA**2)
    walked = tangents.walked(observations, here, SIGMA)
    wider = tangents.wider(observations, here)
    tangents.averaged(observations, walked, here, covariance)
    for sigmas in (2.0, -2.0, 2.5):  # each from what was walked, not from the place before
        there = theta_at(LINE[0] + sigmas * SIGMA_MEV)
        bent = tangents.walked(observations, there, SIGMA)
        assert all(one.base is not None for one in bent)
        rough.walks.clear()
        again = tangents.wider(observations, there)
        assert all(one is two for one, two in zip(wider, again, strict=True))
        tangents.averaged(observations, bent, here, covariance)
        assert not rough.walks


class Lifted(Rippled):
    """The same on a background that keeps every rate above none."""

    def one_place(self, trajectories, state, *, log_width, off, gradient):
        rate, slope = super().one_place(
            trajectories, state, log_width=log_width, off=off, gradient=gradient
        )
        return rate + 0.02, slope


class Smooth(Lifted):
    """Without the ripples."""

    height = 0.0


def test_averaged_derivatives_carry_rates_where_those_of_one_place_do_not(observations):
    exact, rough = Lifted(), Lifted()
    tangents = Tangents(exact, LAYOUT, rough)
    here, far = theta_at(LINE[0]), 0.4 * REACH_SIGMAS
    there = theta_at(LINE[0] + far * SIGMA_MEV)
    walked = tangents.walked(observations, here, SIGMA)
    averaged = tangents.averaged(observations, walked, here, np.diag(SIGMA**2))
    rough.walks.clear()
    steady = tangents.walked(observations, there, SIGMA)
    assert not rough.walks
    smooth = Tangents(Smooth(), LAYOUT).walked(observations, there, SIGMA)
    step = there[LAYOUT.walked] - here[LAYOUT.walked]
    for before, mean, now, true in zip(walked, averaged, steady, smooth, strict=True):
        assert mean.steady
        np.testing.assert_array_equal(now.slope, mean.slope)
        plain = np.sum((before.exact + before.slope @ step - true.exact) ** 2)
        assert np.sum((now.exact + now.slope @ step - true.exact) ** 2) < 0.1 * plain
    assert tangents.carry(steady, observations, there, SIGMA)
    # Where they are not to be used, or of another posterior, rates are bent as ever.
    plainly = tangents.walked(observations, there, SIGMA, steady=False)
    assert not any(t.steady for t in plainly)
    again = Tangents(exact, LAYOUT, rough)
    again.recall(tangents.remembered())
    assert not any(t.steady for t in again.walked(observations, there, 0.4 * SIGMA))


@pytest.mark.parametrize(("model", "uneven"), [(Counting, False), (Rippled, True)])
def test_derivatives_are_uneven_where_averaged_ones_are_others(observations, model, uneven):
    tangents = Tangents(model(), LAYOUT, model())
    theta, covariance = theta_at(LINE[0]), np.diag(SIGMA**2)
    walked = tangents.walked(observations, theta, SIGMA)
    assert not tangents.uneven(observations, SIGMA)  # nobody knows
    tangents.averaged(observations, walked, theta, covariance)
    assert tangents.uneven(observations, SIGMA) is uneven
