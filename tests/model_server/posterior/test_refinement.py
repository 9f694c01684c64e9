"""Poisson scoring finds what made the counts, and its errors are those of repeated draws."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from model_server.posterior import (
    Effort,
    Observation,
    Posterior,
    Refinement,
    assess,
    usable_cells,
)
from model_server.posterior.effort import least_effort
from model_server.posterior.observation import pool
from model_server.posterior.refinement import NUISANCE_SIGMA
from model_server.posterior.search import searches
from simulations.crystal import read_crystal
from simulations.fold import CanRate, CellSums, VoxelMap, build_voxel_map, likelihood_of_can
from simulations.fold.exposure import Exposure
from simulations.fold.pixel_view import view_pixels
from simulations.instrument import Orientation, crystal_to_lab, load_instrument
from simulations.likelihood import (
    NONE_OFF,
    FoldedPhonons,
    ForwardModel,
    Missetting,
    Trajectories,
    trace_trajectories,
)
from simulations.prior import BoxPrior
from simulations.reciprocal import EnergyAxis, Path
from tests.simulations.fold.exposures import compute_exposure
from tests.simulations.line_model import FoldedLine, SumOfModels, TracedLine
from tests.simulations.phonon_oracles import germanium

EI = 40.0
PSI_DEG = (10.0, 55.0)
AXIS = EnergyAxis(edges_meV=np.linspace(0, 39, 53), substeps=4)
ELASTIC_CUT = 3.0  # the centres of four bins lie below


@cache
def voxel_map() -> VoxelMap:
    """Two segments of few bins, coarse voxels."""
    path = Path(
        start_hkl=np.array([[0.0, 0, 1], [0, 0, 0]]),
        end_hkl=np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]),
        labels=(("X", "Gamma"), ("Gamma", "L")),
        bins=(6, 5),
    )
    return build_voxel_map(read_crystal("germanium"), path, half_width_rlu=0.1, voxel_rlu=0.1)


@cache
def forward() -> FoldedPhonons:
    """Germanium with three free parameters."""
    return FoldedPhonons(
        model=germanium(7.0).with_free(("1NN xx", "1NN xy", "2NN xx")),
        voxels=voxel_map(),
        energy=AXIS,
        ei_meV=EI,
        temperature_K=5.0,
        resolution=load_instrument("ARCS/32").resolution,
    )


@cache
def exposure(psi_deg: float) -> Exposure:
    model = forward()
    crystal = model.model.crystal
    return compute_exposure(
        crystal=crystal,
        voxels=voxel_map(),
        instrument=load_instrument("ARCS/32"),
        energy=AXIS,
        ei_meV=EI,
        crystal_to_lab=crystal_to_lab(
            Orientation(u=(1, 1, 0), v=(0, 0, 1)), crystal.conventional_reciprocal, psi_deg
        ),
        displacement=np.tile(0.002 * np.eye(3), (2, 1, 1)),
    )


@cache
def path_sums(psi_deg: float):
    padded = []
    for sums in exposure(psi_deg).path_sums(voxel_map()):
        full = np.zeros((voxel_map().n_path_bins, AXIS.n_bins))
        full[:, : sums.shape[1]] = sums
        padded.append(full)
    return padded


def prior() -> BoxPrior:
    """The box that the force-field ensemble gives; its middle is far from the reference."""
    mean = np.array([-2.262, -1.599, -0.233])
    half = np.sqrt(3) * np.array([0.992, 0.696, 0.095])
    return BoxPrior(names=forward().parameter_names, lower=mean - half, upper=mean + half)


def refinement(**changes) -> Refinement:
    arguments = {
        "model": forward(),
        "prior": prior(),
        "energy_centres_meV": AXIS.centres_meV,
        "elastic_cut_meV": ELASTIC_CUT,
    }
    return Refinement(**(arguments | changes))


def truth(phi=None, phonons: float = 3000.0, ratio: float = 1.0, log_width: float = 0.0):
    """Theta that gives so many counts of phonons, and of background, over all orientations."""
    phi = forward().model.values if phi is None else np.asarray(phi)
    state = forward().prepare(phi)
    rate = sum(
        forward().rates(exposure(p), state, log_width=log_width, gradient=False)[0].sum()
        for p in PSI_DEG
    )
    flat = sum(path_sums(p)[1].sum() for p in PSI_DEG)
    weight = sum(path_sums(p)[0].sum() for p in PSI_DEG)
    nuisances = [phonons / rate, 0.7 * ratio * phonons / flat, 0.3 * ratio * phonons / weight]
    return np.concatenate([phi, np.log(nuisances), [log_width]])


def expected_counts(theta, psi_deg: float):
    weight, flat = path_sums(psi_deg)
    k = len(forward().parameter_names)
    rate, _ = forward().rates(
        exposure(psi_deg), forward().prepare(theta[:k]), log_width=theta[-1], gradient=False
    )
    scale, b_flat, b_weight = np.exp(theta[k : k + 3])
    return scale * rate + b_flat * flat + b_weight * weight


def observation(counts, psi_deg: float) -> Observation:
    weight, flat = path_sums(psi_deg)
    counts = np.asarray(counts, dtype=float)
    sums = CellSums(signal=counts, variance=counts, counts=counts, exposure=weight, flat=flat)
    return Observation(sums=sums, exposure=lambda: exposure(psi_deg))


def drawn(theta, seed: int) -> list[Observation]:
    rng = np.random.default_rng(seed)
    return [observation(rng.poisson(expected_counts(theta, p)), p) for p in PSI_DEG]


def test_parameters_are_recovered_within_their_errors():
    theta = truth()
    posterior = refinement().fit(drawn(theta, 1))
    assert posterior.converged
    pulls = (posterior.values - theta[:3]) / posterior.sigma
    assert np.all(np.abs(pulls) < 3.5)
    assert np.all(posterior.sigma < 0.05 * np.abs(theta[:3]))
    assert np.exp(posterior.theta[3] - theta[3]) == pytest.approx(1, abs=0.1)  # the scale
    total = sum(o.sums.counts.sum() for o in drawn(theta, 1))
    assert posterior.expected.sum() == pytest.approx(total, rel=0.05)


def test_pulls_over_many_draws_are_standard_normal():
    rng = np.random.default_rng(11)
    reference = forward().model.values
    pulls = []
    for seed in range(30):
        phi = reference * (1 + 0.05 * rng.normal(size=3))
        theta = truth(phi, phonons=10_000.0, log_width=NUISANCE_SIGMA[3] * rng.normal())
        posterior = refinement().fit(drawn(theta, 100 + seed), starts=[reference])
        pulls.append((posterior.values - phi) / posterior.sigma)
    pulls = np.array(pulls)
    assert abs(pulls.mean()) < 3 / np.sqrt(pulls.size)
    assert 0.85 < pulls.std() < 1.15
    assert np.mean(np.abs(pulls) < 1.645) > 0.8


def test_sigma_is_the_fisher_bound_of_the_counts_and_the_prior():
    theta = truth()
    observations = drawn(theta, 2)
    posterior = refinement().fit(observations)
    precision = np.diag(np.concatenate([prior().sigma, NUISANCE_SIGMA]) ** -2.0)
    at = posterior.theta
    for psi, one in zip(PSI_DEG, observations, strict=True):
        use = usable_cells(one.sums, AXIS.centres_meV, ELASTIC_CUT)
        columns = []
        for k in range(len(at)):
            step = 1e-4 * np.eye(len(at))[k]
            up, down = expected_counts(at + step, psi), expected_counts(at - step, psi)
            columns.append(((up - down) / 2e-4)[use])
        slope = np.array(columns)
        precision += slope / expected_counts(at, psi)[use] @ slope.T
    bound = np.sqrt(np.diag(np.linalg.inv(precision)))[:3]
    np.testing.assert_allclose(posterior.sigma, bound, rtol=0.05)


def test_the_precision_is_the_prior_and_the_information_of_every_orientation():
    theta = truth()
    observations = drawn(theta, 3)
    fit = refinement()
    posterior = fit.fit(observations)
    parts = [fit.objective.information_of(posterior.theta, o) for o in observations]
    together = fit.objective.prior_precision() + sum(p[1] for p in parts)
    np.testing.assert_allclose(posterior.precision, together, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(posterior.expected, sum(p[0] for p in parts), rtol=1e-9)
    for total, one, part in zip(posterior.totals, observations, parts, strict=True):
        use = usable_cells(one.sums, AXIS.centres_meV, ELASTIC_CUT)
        assert total == pytest.approx(part[0][use].sum(), rel=1e-9)


def test_annealing_finds_the_truth_from_the_prior_mean_where_plain_scoring_does_not():
    fit = refinement()
    found = {"annealed": 0, "plain": 0}
    for seed, stretch in enumerate((0.8, 0.9, 1.0, 1.1, 1.2, 1.3)):
        theta = truth(stretch * forward().model.values, phonons=10_000.0)
        observations = drawn(theta, 20 + seed)
        annealed = fit.fit(observations)
        first = fit.starts.theta_of(pool(observations), prior().mean, np.empty(0))[0]
        plain = fit.objective.score(observations, first, fit.starts.centre(pool(observations)), 30)
        assert annealed.objective <= plain.objective + 1.0
        for name, one in (("annealed", annealed), ("plain", plain)):
            found[name] += bool(np.all(np.abs(one.values - theta[:3]) < 5 * one.sigma))
    assert found["annealed"] == 6
    assert found["plain"] <= 3


def test_a_warm_start_ends_where_annealing_ends():
    theta = truth()
    cold = refinement().fit(drawn(theta, 4))
    warm = refinement().fit(drawn(theta, 4), warm=cold)
    assert np.all(np.abs(warm.values - cold.values) < 0.2 * cold.sigma)


def reduced(observations, theta, rng, spread: float) -> list[Observation]:
    """Reduced intensity in other units, with errors known."""
    out = []
    for psi, one in zip(PSI_DEG, observations, strict=True):
        rate = expected_counts(theta, psi)
        variance = np.where(rate > 0, spread**2 * np.maximum(rate, 0.5), 0.0)
        signal = rate + np.sqrt(variance) * rng.normal(size=rate.shape)
        sums = replace(one.sums, signal=signal, variance=variance, gaussian=True)
        out.append(Observation(sums=sums, exposure=one.exposure))
    return out


def test_reduced_input_is_fitted_by_its_gaussian_likelihood():
    theta = truth()
    rng = np.random.default_rng(6)
    fit, pulls = refinement(), []
    for _ in range(4):
        posterior = fit.fit(reduced(drawn(theta, 5), theta, rng, 1.0))
        pulls.append((posterior.values - theta[:3]) / posterior.sigma)
    assert np.all(np.abs(pulls) < 4)
    assert 0.5 < np.std(pulls) < 1.6
    single, double = (
        fit.objective.information_of(theta, reduced(drawn(theta, 5), theta, rng, spread)[0])[1]
        for spread in (1.0, 2.0)
    )
    np.testing.assert_allclose(single, 4 * double, rtol=1e-9, atol=1e-9)


def test_cells_of_reduced_input_without_an_error_do_not_count():
    theta = truth()
    one = reduced(drawn(theta, 5), theta, np.random.default_rng(6), 1.0)[0].sums
    signal, variance = one.signal.copy(), one.variance.copy()
    variance[:, 24] = 0.0
    signal[:, 24] = 1e6
    spoiled = replace(one, signal=signal, variance=variance)
    assert not usable_cells(spoiled, AXIS.centres_meV, ELASTIC_CUT)[:, 24].any()
    only = Observation(sums=spoiled, exposure=lambda: exposure(PSI_DEG[0]))
    posterior = refinement().fit([only], starts=[theta[:3]])
    assert np.all(np.abs(posterior.values - theta[:3]) < 5 * posterior.sigma)


def test_the_elastic_band_and_unexposed_cells_do_not_count():
    sums = observation(np.zeros((11, AXIS.n_bins)), PSI_DEG[0]).sums
    use = usable_cells(sums, AXIS.centres_meV, ELASTIC_CUT)
    assert not use[:, AXIS.centres_meV <= ELASTIC_CUT].any()
    assert not use[sums.exposure == 0].any()
    assert np.array_equal(use.any(axis=1), (sums.exposure > 0)[:, 4:].any(axis=1))


def test_pooled_orientations_hold_no_more_information():
    theta = truth()
    observations = drawn(theta, 7)
    pooled = pool(observations)
    np.testing.assert_array_equal(pooled.sums.counts, sum(o.sums.counts for o in observations))
    fit = refinement()
    apart = fit.objective.prior_precision() + sum(
        fit.objective.information_of(theta, o)[1] for o in observations
    )
    together = fit.objective.prior_precision() + fit.objective.information_of(theta, pooled)[1]
    sigma = [np.sqrt(np.diag(np.linalg.inv(m)))[:3] for m in (apart, together)]
    assert np.all(sigma[1] > sigma[0])
    assert np.all(sigma[1] < 1.5 * sigma[0])


def sensible(posterior: Posterior) -> bool:
    return bool(
        np.all(np.isfinite(posterior.theta))
        and np.all(np.isfinite(posterior.covariance))
        and np.isfinite(posterior.objective)
        and np.all(posterior.sigma <= prior().sigma * (1 + 1e-9))
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("gaussian", [False, True])
def test_without_usable_cells_the_answer_is_the_prior(gaussian):
    zero = np.zeros((11, AXIS.n_bins))
    sums = CellSums(
        signal=zero, variance=zero, counts=zero, exposure=zero, flat=zero, gaussian=gaussian
    )
    nothing = Observation(sums=sums, exposure=lambda: exposure(10.0).scaled(0.0))
    posterior = refinement().fit([nothing])
    assert sensible(posterior)
    np.testing.assert_allclose(posterior.values, prior().mean)
    np.testing.assert_allclose(posterior.sigma, prior().sigma)


@pytest.mark.filterwarnings("error")
def test_exposure_without_a_single_count_gives_a_finite_answer():
    nothing = [observation(np.zeros((11, AXIS.n_bins)), p) for p in PSI_DEG]
    posterior = refinement().fit(nothing)
    assert sensible(posterior)
    assert posterior.expected.sum() < 10


@pytest.mark.filterwarnings("error")
def test_reduced_intensity_below_zero_gives_a_finite_answer():
    theta = truth()
    found = []
    for one in reduced(drawn(theta, 5), theta, np.random.default_rng(6), 1.0):
        sums = replace(one.sums, signal=-np.abs(one.sums.signal))
        found.append(Observation(sums=sums, exposure=one.exposure))
    assert sensible(refinement().fit(found))


def test_a_prior_over_other_parameters_is_refused():
    wrong = replace(prior(), names=("1NN xx", "2NN xx", "1NN xy"))
    with pytest.raises(ValueError, match="expected the model's parameters"):
        refinement(prior=wrong)


def test_no_observation_is_refused():
    with pytest.raises(ValueError, match="at least one folded orientation"):
        refinement().fit([])


# -- the can -------------------------------------------------------------------------------------

CAN_SIGMA = 0.05
SAME = (10.0, 10.0, 10.0)  # one orientation three times: the same events of the can serve all


def can_spectrum(psi_deg: float, counts: float):
    """Expected counts of a can with a broad line, uneven along the path."""
    weight, _ = path_sums(psi_deg)
    line = 0.3 + np.exp(-(((AXIS.centres_meV - 14) / 4) ** 2))
    mu = weight * line * (1 + 0.4 * np.sin(np.arange(len(weight)))[:, None])
    return counts * mu / mu.sum()


def drawn_with_can(seed: int, *, subtracted: bool = True, share_of_all: float = len(SAME)):
    """Observations in a can as strong as the phonons, whose run is as long as one of them."""
    rng = np.random.default_rng(seed)
    theta = truth(phonons=3000.0, ratio=0.3)
    strength = np.exp(CAN_SIGMA * rng.normal())
    mu = can_spectrum(SAME[0], 3000.0)
    m = rng.poisson(mu).astype(float)
    weight, flat = path_sums(SAME[0])
    can = CellSums(signal=m, variance=m, counts=m, exposure=weight, flat=flat)
    observations = []
    for psi in SAME:
        one = observation(rng.poisson(expected_counts(theta, psi) + strength * mu), psi)
        if subtracted:
            sums, rate = likelihood_of_can(
                one.sums, can, transmission=1.0, total_share=share_of_all
            )
            one = replace(one, sums=sums, can=rate)
        observations.append(one)
    return theta, observations


def pulls_with_can(seeds, **how):
    found = []
    for seed in seeds:
        theta, observations = drawn_with_can(seed, **how)
        one = refinement(can_sigma=CAN_SIGMA if how.get("subtracted", True) else None)
        posterior = one.fit(observations, starts=[theta[:3]])
        found.append((posterior.values - theta[:3]) / posterior.sigma)
    return np.array(found)


def test_with_a_measured_can_the_pulls_are_standard_normal():
    pulls = pulls_with_can(range(24))
    assert np.all(np.abs(pulls.mean(axis=0)) < 3.5 / np.sqrt(24))
    # Fully shared events of the can are the worst case, where the bound on their error is tight.
    assert 0.75 < pulls.std() < 1.25
    without = pulls_with_can(range(4), subtracted=False)
    assert np.sqrt((without**2).mean()) > 1.6


def test_shared_events_of_a_can_count_with_all_orientations_they_serve():
    """As if every orientation had a can of its own, the errors would be too small."""
    _, bound = drawn_with_can(1)
    _, naive = drawn_with_can(1, share_of_all=1.0)
    spread = [o.sums.signal - o.can.fixed for o in (bound[0], naive[0]) if o.can is not None]
    np.testing.assert_allclose(spread[0], spread[1], atol=1e-9)  # the residual is the same
    assert bound[0].can is not None
    assert naive[0].can is not None
    assert bound[0].can.fixed is not None
    np.testing.assert_allclose(bound[0].can.fixed, 4 * bound[0].can.shape)  # tau (1 + T) mu
    assert naive[0].can.fixed is not None
    np.testing.assert_allclose(naive[0].can.fixed, 2 * naive[0].can.shape)


def test_a_predicted_can_scales_with_the_sample_and_its_strength_is_a_nuisance():
    rng = np.random.default_rng(3)
    theta = truth(phonons=6000.0, ratio=0.3)
    observations, strength = [], 1.3
    for psi in PSI_DEG:
        shape = can_spectrum(psi, 3000.0) / np.exp(theta[3])
        counts = expected_counts(theta, psi) + np.exp(theta[3]) * strength * shape
        can = CanRate(shape=shape, fixed=None)
        observations.append(replace(observation(rng.poisson(counts), psi), can=can))
    posterior = refinement(can_sigma=0.3).fit(observations, starts=[theta[:3]])
    assert np.all(np.abs(posterior.values - theta[:3]) < 4 * posterior.sigma)
    sigma = np.sqrt(np.diag(np.linalg.inv(posterior.precision)))
    assert sigma[-1] < 0.15  # the data know better than the prior
    assert abs(posterior.theta[-1] - np.log(strength)) < 4 * sigma[-1]
    assert posterior.can is not None
    total = sum(o.sums.counts.sum() for o in observations)
    assert posterior.expected.sum() == pytest.approx(total, rel=0.03)
    assert posterior.can.sum() == pytest.approx(1.3 * 6000, rel=4 * sigma[-1])


def test_the_gradient_of_the_objective_is_that_of_its_differences_with_a_can():
    _, observations = drawn_with_can(5)
    weight, _ = path_sums(SAME[0])
    for can in (observations[0].can, CanRate(shape=1e-4 * weight, fixed=None)):
        one = refinement(can_sigma=CAN_SIGMA)
        seen = replace(observations[0], can=can)
        theta = np.append(truth(phonons=3000.0, ratio=0.3), 0.02)

        def lam(at, seen=seen, one=one):
            linear, *_ = one.objective.linearise(at, one.model.prepare(at[:3]), seen)
            return linear

        for j in (3, 4, 5, 7):
            step = np.zeros(len(theta))
            step[j] = 1e-5
            difference = (lam(theta + step).rate - lam(theta - step).rate) / 2e-5
            np.testing.assert_allclose(
                lam(theta).slope[:, j], difference, rtol=1e-5, atol=1e-7 * difference.max()
            )


def test_an_observation_with_a_can_needs_a_refinement_that_knows_of_cans():
    _, observations = drawn_with_can(5)
    with pytest.raises(ValueError, match="observation has a can; expected a refinement with"):
        refinement().fit(observations[:1])


# -- models that are no phonons --------------------------------------------------------------------

LINE = np.array([18.0, 1.0])
LINE_BOX = BoxPrior(
    names=("line energy", "line amplitude"), lower=np.array([8.0, 0.5]), upper=np.array([28.0, 1.5])
)


def folded_line() -> FoldedLine:
    return FoldedLine(voxel_map(), AXIS, EI, sigma_meV=0.8)


@cache
def trajectories(psi_deg: float) -> Trajectories:
    crystal, instrument = forward().model.crystal, load_instrument("ARCS/32")
    rotation = crystal_to_lab(
        Orientation(u=(1, 1, 0), v=(0, 0, 1)), crystal.conventional_reciprocal, psi_deg
    )
    view = view_pixels(
        crystal=crystal, instrument=instrument, energy=AXIS, ei_meV=EI, crystal_to_lab=rotation
    )
    return trace_trajectories(
        view=view,
        voxels=voxel_map(),
        instrument=instrument,
        energy=AXIS,
        displacement=np.tile(0.002 * np.eye(3), (2, 1, 1)),
    )


def counted(model: ForwardModel, phi, seed: int, counts: float) -> list[Observation]:
    """Counts of a model over background, with trajectories beside their exposure."""
    rng = np.random.default_rng(seed)
    state = model.prepare(np.asarray(phi))
    each = [model.rates(exposure(p), state, log_width=0.0, gradient=False)[0] for p in PSI_DEG]
    scale = counts / sum(rate.sum() for rate in each)
    found = []
    for psi, rate in zip(PSI_DEG, each, strict=True):
        weight, _ = path_sums(psi)
        drawn = rng.poisson(scale * rate + 0.2 * counts * weight / weight.sum() / len(PSI_DEG))
        one = observation(drawn, psi)
        found.append(replace(one, trajectories=lambda psi=psi: trajectories(psi), key=str(psi)))
    return found


def judged(posterior: Posterior, observations, box: BoxPrior):
    total = observations[0].sums + observations[1].sums
    use = usable_cells(total, AXIS.centres_meV, ELASTIC_CUT)
    return assess(sums=total, posterior=posterior, prior=box, use=use, look=1)


@pytest.mark.parametrize("exact", [False, True])
def test_a_line_that_is_no_phonon_is_refined_and_trusted(exact):
    traced = TracedLine(voxel_map(), AXIS, EI, sigma_meV=0.8) if exact else None
    observations = counted(folded_line(), LINE, 1, 4000.0)
    fit = refinement(model=folded_line(), prior=LINE_BOX, exact=traced)
    posterior = fit.fit(observations)
    assert posterior.converged
    assert posterior.names == LINE_BOX.names
    assert posterior.units == ("meV", "barn/sr")
    assert abs(posterior.values[0] - 18.0) < 4 * posterior.sigma[0]
    assert posterior.sigma[0] < 0.1
    # Scale and amplitude are one: what is known of the amplitude is what the prior knows.
    np.testing.assert_allclose(posterior.sigma[1], LINE_BOX.sigma[1], rtol=0.05)
    assert judged(posterior, observations, LINE_BOX).trusted


def test_phonons_do_not_explain_a_line_and_the_sum_of_both_does():
    both = SumOfModels((forward(), folded_line()))
    reference = forward().model.values
    rates = [
        m.rates(exposure(PSI_DEG[0]), m.prepare(p), log_width=0.0, gradient=False)[0].sum()
        for m, p in ((forward(), reference), (folded_line(), LINE))
    ]
    amplitude = 0.4 * rates[0] / rates[1]
    phi = np.array([*reference, 18.0, amplitude])
    observations = counted(both, phi, 2, 20_000.0)
    alone = refinement().fit(observations, starts=[reference])
    verdict = judged(alone, observations, prior())
    assert not verdict.trusted
    assert "one-phonon scattering does not explain the data" in verdict.reasons[0]
    box = BoxPrior(
        names=both.parameter_names,
        lower=np.array([*prior().lower, 8.0, 0.0]),
        upper=np.array([*prior().upper, 28.0, 3 * amplitude]),
    )
    posterior = refinement(model=both, prior=box).fit(observations, starts=[phi])
    assert np.all(np.abs(posterior.values - phi) < 4 * posterior.sigma)
    assert posterior.model == "one-phonon scattering with a flat line"
    assert judged(posterior, observations, box).trusted


def test_an_exact_model_of_other_parameters_is_refused():
    traced = TracedLine(voxel_map(), AXIS, EI, sigma_meV=0.8)
    with pytest.raises(ValueError, match="the exact model is over"):
        refinement(exact=traced)


class _Counting:
    """A traced line that counts how often it is walked."""

    parameter_names = LINE_BOX.names
    missetting = NONE_OFF
    aside = NONE_OFF
    steepest = 7
    draws = 150  # to either side, that it averages over

    def __init__(self) -> None:
        self.line = TracedLine(voxel_map(), AXIS, EI, sigma_meV=0.8)
        self.walks: list[bytes] = []  # of which trajectories
        self.steep: list[list[int]] = []  # what it was told of them

    def doubting(self):
        return self

    def typical(self):
        return None

    def prepare(self, phi):
        self.at = np.asarray(phi)
        return self.line.prepare(phi)

    def rates(
        self,
        trajectories,
        state,
        *,
        log_width,
        off,
        gradient,
        steepness=None,
        steep=None,
        over=None,
    ):
        self.walks.append(trajectories.beam.tobytes())
        if steepness is not None:
            steepness[self.steepest] = 1.0
        if steep is not None:
            self.steep.append(steep.tolist())
        given = {"log_width": log_width, "off": off, "gradient": gradient}
        if over is None:
            return self.one_place(trajectories, state, **given)
        root = np.linalg.cholesky(over)
        draws = np.random.default_rng(11).standard_normal((self.draws, len(over))) @ root.T
        places = [self.at + step for away in draws for step in (away, -away)]
        found = [self.one_place(trajectories, self.prepare(one), **given) for one in places]
        return tuple(np.mean(one, axis=0) for one in zip(*found, strict=True))

    def one_place(self, trajectories, state, *, log_width, off, gradient):
        return self.line.rates(trajectories, state, log_width=log_width, off=off, gradient=gradient)


def test_exact_rates_carried_by_their_slopes_end_at_the_objectives_minimum():
    observations = counted(folded_line(), LINE, 1, 4000.0)
    # The same line folded: it needs no walk, and is linearised at every step.
    carried = refinement(model=folded_line(), prior=LINE_BOX).fit(observations)
    counting = _Counting()
    fit = refinement(model=folded_line(), prior=LINE_BOX, exact=counting)
    posterior = fit.fit(observations)
    assert posterior.converged
    # Second order is left out as long as it makes a third of a unit of chi-square at most.
    assert np.all(np.abs(posterior.values - carried.values) < 0.3 * carried.sigma)
    np.testing.assert_allclose(posterior.sigma, carried.sigma, rtol=0.1)

    counting.walks.clear()
    again = fit.fit(observations, warm=posterior)
    assert not counting.walks  # what is known of both orientations still holds
    assert np.all(np.abs(again.values - posterior.values) < 0.1 * posterior.sigma)


class _Tilted(TracedLine):
    """Rates that no cell agrees with where tilts are missed, but half so every half degree."""

    true_deg = np.array([0.5, -0.5])
    missetting = Missetting(
        names=("tilt gl", "tilt gs"),
        units=("deg", "deg"),
        sigma=np.array([0.3, 0.3]),
        linear=np.zeros((2, 3, 3)),
        ei=np.zeros(2),
        delay=np.zeros(2),
        blur=np.zeros(2),
    )

    def rates(self, trajectories, state, *, log_width, off, gradient):
        rate, slope = super().rates(
            trajectories, state, log_width=log_width, off=off, gradient=gradient
        )
        missed, turn = off - self.true_deg, np.pi / 0.5
        sign = np.random.default_rng(3).choice([-0.5, 0.5], rate.shape)
        near = 0.25 * np.exp(-((missed / 0.2) ** 2))
        wrong = float(np.sum(0.5 * np.sin(turn * missed) ** 2 + 0.25 - near))
        by_off = 0.5 * turn * np.sin(2 * turn * missed) + 2 * missed / 0.2**2 * near
        turned = (rate * sign)[..., None] * by_off
        factor = 1 + wrong * sign
        if not gradient:
            return rate * factor, slope
        return rate * factor, np.concatenate([slope * factor[..., None], turned], axis=-1)


def test_a_search_finds_the_mount_among_others_that_no_step_leads_out_of(monkeypatch):
    observations = counted(folded_line(), LINE, 1, 4000.0)
    exact = _Tilted(voxel_map(), AXIS, EI, sigma_meV=0.8)

    monkeypatch.setattr("model_server.posterior.refinement.LEAPS", 0)  # a leap may be lucky

    def found() -> Posterior:
        fit = refinement(model=folded_line(), prior=LINE_BOX, exact=exact)
        return fit.fit(observations, kicks=1)

    posterior = found()
    np.testing.assert_allclose(posterior.theta[-2:], exact.true_deg, atol=0.1)
    monkeypatch.setattr("model_server.posterior.refinement.MOUNTS_FOLLOWED", 0)
    elsewhere = found()
    assert np.abs(elsewhere.theta[-2:] - exact.true_deg).max() > 0.2
    assert elsewhere.objective > posterior.objective + 10.0


class _Upright(_Tilted):
    """The same of a crystal that is mounted as it is believed."""

    true_deg = np.zeros(2)


def test_a_set_up_that_is_not_the_believed_one_is_left_where_that_explains_more(monkeypatch):
    observations = counted(folded_line(), LINE, 1, 4000.0)
    exact = _Upright(voxel_map(), AXIS, EI, sigma_meV=0.8)
    fit = refinement(model=folded_line(), prior=LINE_BOX, exact=exact)
    right = fit.fit(observations)
    believing = right.believing
    assert believing is not None
    away = replace(believing, theta=believing.theta + 0.5 * np.eye(len(believing.theta))[-1])
    before = replace(away, believing=None, totals=np.ones(1))
    monkeypatch.setattr("model_server.posterior.refinement.LEAPS", 0)  # a leap may be lucky

    def found() -> Posterior:
        fit.recall({})
        return fit.fit(observations, warm=before)

    np.testing.assert_allclose(found().theta[-2:], 0.0, atol=0.1)
    monkeypatch.setattr("model_server.posterior.refinement.FAR_FROM_BELIEVED", np.inf)
    assert abs(found().theta[-1]) > 0.3


class _Shifted(FoldedLine):
    """A folded line that is off by some meV."""

    shift = 0.0

    def prepare(self, phi):
        return super().prepare(phi - np.array([self.shift, 0.0]))


class _Wavy(TracedLine):
    """Exact rates with minima beside each other: the line's energy turns back as phi goes on."""

    height, turn = 0.8, 2 * np.pi / 3.0  # meV, 1 / meV; nothing at the true 18 meV

    def prepare(self, phi):
        energy = phi[0] + self.height * np.sin(self.turn * phi[0])
        by_phi = 1 + self.height * self.turn * np.cos(self.turn * phi[0])
        return float(energy), float(phi[1]), float(by_phi)

    def _rates(self, D, state, log_width):
        rate, jacobian = super()._rates(D, state[:2], log_width)
        return rate, jacobian * np.array([state[2], 1.0, 1.0])


@pytest.mark.parametrize("shift", [-1.5, 1.5])
def test_a_shallow_minimum_of_exact_rates_is_left_for_where_corrected_folded_ones_lead(
    shift, monkeypatch
):
    observations = counted(folded_line(), LINE, 1, 4000.0)
    folded = _Shifted(voxel_map(), AXIS, EI, sigma_meV=0.8)
    folded.shift = shift
    exact = _Wavy(voxel_map(), AXIS, EI, sigma_meV=0.8)
    found = refinement(model=folded, prior=LINE_BOX, exact=exact).fit(observations)
    assert found.converged
    assert abs(found.values[0] - 18.0) < 4 * found.sigma[0]
    # Without that, the fit settles where the folded rates, which are off, led to.
    monkeypatch.setattr("model_server.posterior.refinement.LEAPS", 0)
    shallow = refinement(model=folded, prior=LINE_BOX, exact=exact).fit(observations)
    assert abs(shallow.values[0] - 18.0) > 0.5
    assert shallow.objective > found.objective + 1000


class _Rough(_Counting):
    """Rates of a line that is off by 0.05 meV."""

    def prepare(self, phi):
        return super().prepare(phi + np.array([0.05, 0.0]))


def test_rough_rates_are_walked_first_and_leave_the_answer_what_exact_ones_make_it():
    observations = counted(folded_line(), LINE, 1, 4000.0)
    folded = _Shifted(voxel_map(), AXIS, EI, sigma_meV=0.8)
    folded.shift = 0.6
    alone, exact, rough = _Counting(), _Counting(), _Rough()
    without = refinement(model=folded, prior=LINE_BOX, exact=alone).fit(observations)
    found = refinement(model=folded, prior=LINE_BOX, exact=exact, rough=rough).fit(observations)
    assert found.converged
    assert np.all(np.abs(found.values - without.values) < 0.1 * without.sigma)
    assert abs(found.objective - without.objective) < 0.1
    assert len(rough.walks) > len(exact.walks)
    assert len(exact.walks) < len(alone.walks)
    assert len(exact.walks) >= len(observations)


def test_an_orientation_more_at_the_same_answer_costs_rough_walks_for_its_errors_alone():
    observations = counted(folded_line(), LINE, 1, 4000.0)
    exact, rough = _Counting(), _Rough()
    fit = refinement(model=folded_line(), prior=LINE_BOX, exact=exact, rough=rough)
    five = [replace(observations[0], key=str(k)) for k in range(5)]  # nothing is searched at these
    before = fit.fit(five[:4])
    exact.walks.clear()
    rough.walks.clear()
    after = fit.fit(five, warm=before)
    assert after.converged
    assert len(exact.walks) == 1
    assert len(rough.walks) == 2  # derivatives of the newest, there and averaged
    wider = replace(after, covariance=4 * after.covariance)
    assert wider.log_odds_of(before) == after.log_odds_of(before)  # both by one place
    assert before.log_odds_of(wider) == before.log_odds_of(after)


def of_a_wavy_line():
    """A fit whose rates have more than one minimum, its answer, and what is off by 1.5 meV."""
    observations = counted(folded_line(), LINE, 1, 4000.0)
    exact = _Wavy(voxel_map(), AXIS, EI, sigma_meV=0.8)
    fit = refinement(model=folded_line(), prior=LINE_BOX, exact=exact)
    right = fit.fit(observations)
    at = right.theta.copy()
    at[0] += 1.5
    off = replace(right, theta=at, believing=None, aside=None, totals=np.ones(4))
    five = [*observations, *observations, observations[0]]  # nothing is searched at these
    return fit, five, right, off


def test_an_answer_that_was_not_ruled_out_is_followed_at_the_next_fit():
    fit, five, right, off = of_a_wavy_line()
    for others in ((right,), ()):
        fit.recall({})
        again = fit.fit(five, warm=replace(off, others=others))
        assert bool(abs(again.values[0] - 18.0) < 4 * again.sigma[0]) is bool(others)


def test_tangents_that_theta_left_are_walked_anew():
    observations = counted(folded_line(), LINE, 1, 4000.0)
    counting = _Counting()
    fit = refinement(model=folded_line(), prior=LINE_BOX, exact=counting)
    posterior = fit.fit(observations)
    counting.walks.clear()
    believing = posterior.believing
    assert believing is not None
    elsewhere = replace(believing, theta=believing.theta + np.eye(len(believing.theta))[0])
    moved = fit.fit(observations, warm=elsewhere)  # 1 meV away, many of its sigma
    assert len(counting.walks) >= len(observations)
    assert np.all(np.abs(moved.values - posterior.values) < 0.3 * posterior.sigma)


def test_another_answer_is_searched_for_ever_more_rarely_and_where_there_is_none():
    observations = counted(folded_line(), LINE, 1, 4000.0)
    fit = refinement(model=folded_line(), prior=LINE_BOX, exact=_Counting())
    posterior = fit.fit(observations)

    def of(orientations: int) -> Posterior:
        return replace(posterior, totals=np.ones(orientations))

    assert [n for n in range(2, 30) if searches(of(n - 1), n)] == [2, 3, 4, 6, 9, 13, 19, 28]
    assert searches(of(3), 6)  # an estimate that fell behind
    assert searches(of(5), 4)  # an orientation was withdrawn
    assert not searches(of(6), 8)
    assert searches(replace(of(6), converged=False), 8)
    assert not searches(replace(of(6), converged=False, halted=True), 8)
    assert searches(replace(of(6), converged=False, halted=True, owed=True), 8)


def test_a_fit_that_may_walk_little_goes_on_in_the_next_ones_and_ends_where_another_does():
    observations = counted(folded_line(), LINE, 1, 4000.0)
    folded = _Shifted(voxel_map(), AXIS, EI, sigma_meV=0.8)
    folded.shift = 0.6

    def fit() -> Refinement:
        return refinement(model=folded, prior=LINE_BOX, exact=_Counting(), rough=_Rough())

    whole = fit().fit(observations)
    little, found, fits = fit(), None, 0
    while found is None or found.halted:
        found = little.fit(observations, warm=found, effort=Effort(2 * least_effort(2)))
        fits += 1
        assert fits < 40
        assert found.converged is not found.halted
    assert fits > 1
    assert np.all(np.abs(found.values - whole.values) < 0.3 * whole.sigma)
    assert abs(found.objective - whole.objective) < 0.1


def test_other_answers_that_there_is_no_effort_for_are_left_and_followed_by_the_next_fit():
    fit, five, right, off = of_a_wavy_line()
    fit.recall({})
    left = fit.fit(five, warm=replace(off, others=(right,)), effort=Effort(12.0))
    assert abs(left.values[0] - 18.0) > 4 * left.sigma[0]
    assert len(left.ways) == 1
    found = fit.fit(five, warm=left)
    assert abs(found.values[0] - 18.0) < 4 * found.sigma[0]
    assert found.ways == ()


def test_between_searches_tangents_follow_the_answer_before():
    observations = counted(folded_line(), LINE, 1, 4000.0)
    fit = refinement(model=folded_line(), prior=LINE_BOX, exact=_Counting())
    posterior = fit.fit(observations)
    elsewhere = replace(posterior, totals=np.ones(6))  # as if of six orientations
    many = [observations[k % 2] for k in range(7)]
    followed = fit.fit(many, warm=elsewhere)
    searched = fit.fit(many, warm=replace(posterior, totals=np.ones(3)))
    assert followed.converged
    assert np.all(np.abs(followed.values - searched.values) < 0.3 * searched.sigma)
