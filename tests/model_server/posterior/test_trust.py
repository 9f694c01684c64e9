"""Good data is trusted at every look; what the model does not explain is named, never passed."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from model_server.posterior import Posterior, assess, residual_sigma
from model_server.posterior.aside import Aside, ChunkTest
from model_server.posterior.posterior import ThetaLayout
from model_server.posterior.trust import ALPHA_PER_RUN, TELLS, grouped, unnoticed
from simulations.fold import CellSums
from simulations.prior import BoxPrior

BINS, ENERGIES = 40, 70
LOOKS = 12
NAMES = ("a", "b", "c")
HALF = 0.5 * np.sqrt(3)
PRIOR = BoxPrior(names=NAMES, lower=np.full(3, 1 - HALF), upper=np.full(3, 1 + HALF))


@cache
def lines(shift_meV: float = 0.0, moved: int = 3):
    """Three branches along 40 path bins, some moved in energy, over a flat background."""
    q = (np.arange(BINS) + 0.5)[:, None] / BINS
    energy = (np.arange(ENERGIES) + 0.5)[None, :]  # bins of 1 meV
    rate = np.full((BINS, ENERGIES), 0.25)
    for branch, (low, high, weight) in enumerate(((5, 20, 25.0), (12, 30, 12.0), (35, 45, 8.0))):
        at = low + (high - low) * np.sin(0.5 * np.pi * q) + (shift_meV if branch < moved else 0)
        rate += weight * np.exp(-0.5 * ((energy - at) / 1.2) ** 2) / (1.2 * np.sqrt(2 * np.pi))
    return rate


USE = np.ones((BINS, ENERGIES), dtype=bool)
Q_SQUARED = np.repeat(np.linspace(1.0, 30.0, BINS)[:, None], ENERGIES, axis=1)


def sums_of(counts) -> CellSums:
    one = np.ones((BINS, ENERGIES))
    counts = np.asarray(counts, dtype=float)
    return CellSums(signal=counts, variance=counts, counts=counts, exposure=one, flat=one)


def posterior(expected, values=(1.0, 1.0, 1.0), **changes) -> Posterior:
    fields = {
        "model": "what three springs scatter",
        "layout": ThetaLayout(parameter_names=NAMES, parameter_units=("eV/angstrom^2",) * 3),
        "covariance": 1e-4 * np.eye(3),
        "theta": np.array([*values, 1.0, 1.0, 1.0, 1.0]),
        "precision": 1e4 * np.eye(7),
        "objective": 0.0,
        "converged": True,
        "iterations": 3,
        "expected": expected,
        "phonon": expected,
        "totals": np.array([expected.sum()]),
    }
    return Posterior(**(fields | changes))


@dataclass(frozen=True, slots=True)
class Look:
    """Data and model after some chunks of one run."""

    sums: CellSums
    expected: np.ndarray
    ratios: list[tuple[str, float, float]]


def run(seed: int, true, model, chunks: int = LOOKS):
    """Looks of one run: chunks drawn from ``true``, whose total the model is scaled to."""
    rng = np.random.default_rng(seed)
    total = np.zeros((BINS, ENERGIES))
    seen = []
    for k in range(chunks):
        counts = rng.poisson(true)
        total = total + counts
        seen.append(counts.sum())
        scale = total.sum() / (model.sum() * (k + 1))  # the fit sets the scale
        per_chunk = scale * model.sum()
        ratios = [(f"c{i}", float(n), per_chunk) for i, n in enumerate(seen)]
        yield Look(sums_of(total), scale * (k + 1) * model, ratios if k else [])


def judge(look: Look, number: int, **changes):
    return assess(
        sums=look.sums,
        posterior=posterior(look.expected, **changes),
        prior=PRIOR,
        use=USE,
        look=number,
        chunk_ratios=look.ratios,
        q_squared=Q_SQUARED,
    )


def test_good_runs_are_trusted_at_every_one_of_twelve_looks():
    clean = 0
    for seed in range(40):
        looks = run(seed, lines(), lines())
        clean += all(judge(one, k + 1).trusted for k, one in enumerate(looks))
    assert clean >= 38  # 95 %


def test_runs_at_the_edge_of_the_allowed_model_error_are_trusted():
    """Lines a twentieth of a bin off and rates 2 % off are what the model of a tube may do."""
    off = lines(0.05) * (1 + 0.02 * np.sin(np.arange(BINS))[:, None])
    clean = sum(
        all(judge(one, k + 1).trusted for k, one in enumerate(run(seed, off, lines())))
        for seed in range(10)
    )
    assert clean == 10


def reasons_of(true, looks: int = 4, **options) -> tuple[str, ...]:
    *_, last = run(3, true, lines(), looks)
    verdict = judge(last, looks, **options)
    assert verdict.trusted is (not verdict.reasons)
    return verdict.reasons


def test_a_background_doubled_in_half_of_the_cells_is_not_explained():
    true = lines() + np.where(np.arange(ENERGIES) % 20 < 10, 0.5, 0.0)
    reasons = reasons_of(true, looks=8)
    assert reasons[0].startswith("goodness of fit")
    assert "what three springs scatter does not explain the data" in reasons[0]


def test_a_branch_at_the_wrong_energy_is_not_explained():
    reasons = reasons_of(lines(1.5, moved=1))
    assert reasons[0].startswith("goodness of fit")


def test_one_chunk_with_most_of_the_counts_is_named():
    looks = list(run(5, lines(), lines(), 4))
    last = looks[-1]
    total = sum(n for _, n, _ in last.ratios)
    uneven = [
        (c, total * s, e) for (c, _, e), s in zip(last.ratios, (0.1, 0.7, 0.1, 0.1), strict=True)
    ]
    verdict = judge(replace(last, ratios=uneven), 4)
    assert not verdict.trusted
    assert any("chunk c1 has" in r and "withdraw" in r.lower() for r in verdict.reasons)
    assert verdict.p_value > verdict.threshold  # the sum alone looks good


def aside(fits, scale: float = 0.0, bend: float = 0.0) -> Aside:
    """Nothing else to be said than chi-square and freedom of each orientation, and one's scale."""
    fine = {
        "turned_deg": np.zeros(0), "turned_sigma_deg": np.zeros(0), "turned_p": 1.0,
        "contrast": 0.0, "contrast_sigma": 0.1, "contrast_p": 1.0,
    }  # fmt: skip
    tests = [ChunkTest(**fine, chi_square=chi, freedom=freedom) for chi, freedom in fits]
    tests[1] = replace(tests[1], scale=scale)
    return Aside(
        names=("psi offset",), units=("deg",), known=np.array([0.3]), value=np.array([0.3]),
        sigma=np.array([0.1]), held_value=np.array([np.nan]), held_sigma=np.array([np.nan]),
        held_p=1.0, gain=0.0, bend=bend, chunks=tuple(tests),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fits", "words"),
    [
        ([(400.0, 400.0)] * 4, None),
        ([(480.0, 400.0)] * 4, "orientation by orientation: chi-square 1920 for 1600"),
        ([(390.0, 400.0), (560.0, 400.0), (390.0, 400.0), (390.0, 400.0)], "chunk c1 is not"),
        ([(390.0, 400.0), (0.0, 0.0), (0.0, 0.0), (390.0, 400.0)], None),
    ],
)
def test_orientations_whose_sum_looks_good_are_looked_at_one_by_one(fits, words):
    reasons = reasons_of(lines(), aside=aside(fits))
    assert len(reasons) == (words is not None)
    if words is not None:
        assert words in reasons[0]


def test_an_orientation_of_another_scale_is_named_where_it_cannot_be_corrected():
    fits = [(400.0, 400.0)] * 4
    (scaled,) = reasons_of(lines(), aside=aside(fits, scale=0.2, bend=3.0))
    assert "chunk c1 most (+20% of the counts that its charge says)" in scaled
    (turned,) = reasons_of(lines(), aside=aside(fits, scale=0.01, bend=3.0))
    assert "psi offset most" in turned


@pytest.mark.parametrize(("scale", "told"), [(-0.08, {1: -0.08}), (0.04, {}), (0.0, {})])
def test_scales_are_told_where_they_are_off_by_more_than_they_should(scale, told):
    assert aside([(400.0, 400.0)] * 3, scale=scale).scattered == told


def test_an_excess_at_low_q_is_named_as_magnetic_scattering_would_look():
    excess = 0.6 * np.exp(-Q_SQUARED / 4)
    found = []
    for true in (lines() + 5 * excess, lines(1.5)):
        rng = np.random.default_rng(1)
        counts = rng.poisson(4 * true)
        verdict = judge(Look(sums_of(counts), 4 * lines(), []), 2)
        assert not verdict.trusted
        found.append("magnetic" in verdict.reasons[0])
    assert found == [True, False]


def test_a_fit_that_did_not_converge_or_left_its_box_is_not_trusted():
    assert any("did not converge" in r for r in reasons_of(lines(), converged=False))
    far = np.array([1.0, 1.0 + 0.5 * np.sqrt(3) * 1.6, 1.0])
    reasons = reasons_of(lines(), values=far)
    assert len(reasons) == 1
    assert "parameter b" in reasons[0]
    assert "eV/A^2 lies" in reasons[0]
    near = np.array([1.0, 1.0 + 0.5 * np.sqrt(3) * 1.4, 1.0])
    assert reasons_of(lines(), values=near) == ()


def test_the_alarms_of_all_looks_together_spend_no_more_than_the_run_allows():
    one = Look(sums_of(np.ones((BINS, ENERGIES))), np.ones((BINS, ENERGIES)), [])
    spent = [2 * judge(one, k).threshold for k in range(1, 400)]  # fit and chunks, half each
    assert spent[0] > spent[1] > spent[-1] > 0
    assert 0.04 < sum(spent) <= ALPHA_PER_RUN


def test_the_chi_square_of_good_data_is_that_of_its_degrees_of_freedom():
    flat = np.full((BINS, ENERGIES), 0.5)  # 20 cells make a group, no line to be shifted
    groups = BINS * (ENERGIES // 20)
    found = []
    for seed in range(100):
        counts = np.random.default_rng(seed).poisson(flat)
        verdict = judge(Look(sums_of(counts), flat, []), 1)
        found.append(verdict.chi_square)
    assert verdict.degrees_of_freedom == groups - 7
    allowed = 1 + 0.03**2 * 10  # of the 3 % that the model of a tube may be wrong by
    assert np.mean(found) == pytest.approx(groups / allowed, abs=4 * np.sqrt(2 * groups / 100))


def test_groups_join_neighbours_until_enough_is_expected():
    expected = np.full((1, 10), 4.0)
    sums = CellSums(
        signal=np.arange(10.0)[None], variance=np.ones((1, 10)), counts=np.arange(10.0)[None],
        exposure=np.ones((1, 10)), flat=np.ones((1, 10)),
    )  # fmt: skip
    data, model, variance, _ = grouped(sums, expected, np.ones((1, 10), dtype=bool))
    np.testing.assert_array_equal(data, [0 + 1 + 2, 3 + 4 + 5, 6 + 7 + 8])  # 9 is left over
    np.testing.assert_array_equal(model, [12.0] * 3)
    assert np.all(variance > model)
    data, _, variance, _ = grouped(replace(sums, gaussian=True), expected, np.ones((1, 10), bool))
    assert len(data) == 10
    assert np.all(variance > 1)


@pytest.mark.parametrize("counts", [150.0, 3_000.0])
def test_the_unnoticed_error_moves_chi_square_by_three_of_its_sigma(counts):
    """Groups of drawn counts whose truth is off by as much, up or down, with a background."""
    rng = np.random.default_rng(int(counts))
    shape = np.maximum(lines(), 0.2 * lines().max())
    phonon = counts * shape / shape.sum()
    expected = 1.5 * phonon + 2.0
    _, model, variance, part = grouped(sums_of(expected), expected, USE, phonon)
    unseen = unnoticed(part, variance)
    signs = rng.choice([-1.0, 1.0], size=(4_000, len(model)))
    drawn = rng.poisson(np.maximum(model + signs * min(unseen, 1.0) * part, 0.0))
    rise = np.mean(np.sum((drawn - model) ** 2 / variance, axis=1)) - np.sum(model / variance)
    noise = np.sqrt(2.0 * len(model))
    assert rise / noise == pytest.approx(3.0 * min(1.0, 1 / unseen) ** 2, rel=0.1)
    assert unnoticed(4 * part, 4 * variance) == pytest.approx(unseen / 2)


def test_few_counts_cannot_tell_and_more_of_them_can():
    few = next(iter(run(1, lines() / 40, lines() / 40)))
    verdict = judge(few, 1)
    assert (verdict.state, verdict.trusted, verdict.explained) == ("cannot tell yet", False, True)
    assert "too few counts" in verdict.reasons[0]
    assert len(verdict.reasons) == 1
    assert verdict.unseen > TELLS
    many = judge(next(iter(run(1, lines(), lines()))), 1)
    assert (many.state, many.trusted, many.reasons) == ("trusted", True, ())
    assert many.unseen < TELLS
    wrong = judge(few, 1, values=(1.0, 1.0, 3.0))  # what speaks against it is said first
    assert (wrong.state, wrong.explained) == ("not explained", False)
    assert not any("too few counts" in reason for reason in wrong.reasons)
    lost = judge(few, 1, values=(1.0, 1.0, 3.0), converged=False)  # what is no answer says nothing
    assert lost.state == "cannot tell yet"
    assert [reason.split(":")[0] for reason in lost.reasons] == [
        "the refinement did not converge",
        "too few counts",
    ]
    for look in (few, next(iter(run(1, lines(), 2 * lines())))):
        halted = judge(look, 1, converged=False, halted=True)
        assert (halted.state, halted.explained) == ("cannot tell yet", True)
        assert [reason.split(":")[0] for reason in halted.reasons] == [
            "the refinement is on its way"
        ]


def test_residuals_are_unknown_where_nothing_was_exposed():
    exposure = np.array([[1.0, 0.0, 1.0]])
    counts = np.array([[9.0, 0.0, 0.0]])
    sums = CellSums(signal=counts, variance=counts, counts=counts, exposure=exposure, flat=exposure)
    found = residual_sigma(sums, np.array([[4.0, 1.0, 4.0]]))
    np.testing.assert_allclose(found, [[2.5, np.nan, -2.0]])


def test_no_data_is_no_reason_to_distrust_the_fit():
    nothing = np.zeros((BINS, ENERGIES), dtype=bool)
    verdict = assess(
        sums=sums_of(np.zeros((BINS, ENERGIES))),
        posterior=posterior(np.zeros((BINS, ENERGIES))),
        prior=PRIOR,
        use=nothing,
        look=1,
    )
    assert verdict.state == "cannot tell yet"
    assert verdict.unseen == np.inf
    assert verdict.p_value == 1.0


def test_a_set_up_that_is_off_by_more_than_it_may_be_is_named():
    layout = ThetaLayout(
        parameter_names=NAMES,
        parameter_units=("eV/angstrom^2",) * 3,
        off_names=("psi offset", "incident energy"),
        off_units=("deg", "%"),
    )
    expected = lines()
    rng = np.random.default_rng(4)
    sums = sums_of(rng.poisson(expected))
    allowed = np.array([0.3, 0.5])
    for psi, ei, named in ((0.8, -1.2, None), (-1.0, 0.1, "psi offset is off by -1 +- 0.01 deg")):
        found = posterior(
            expected,
            layout=layout,
            theta=np.array([1.0, 1, 1, 1, 1, 1, 1, psi, ei]),
            precision=1e4 * np.eye(9),
        )
        trust = assess(
            sums=sums, posterior=found, prior=PRIOR, use=USE, look=1, set_up_sigma=allowed
        )
        assert trust.trusted == (named is None)
        if named is not None:
            assert len(trust.reasons) == 1
            assert trust.reasons[0].startswith(named)
            assert "beamsteer align" in trust.reasons[0]
