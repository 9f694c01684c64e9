"""Trust: whether the model explains the data, looked at after every chunk of a run.

A run is looked at many times, so its false-alarm rate is spent over the looks (look k gets
``alpha * 6 / (pi k)^2``); a 5 % test repeated at every chunk would alarm in a quarter of good runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from model_server.posterior._scipy import chi_square_tail, normal_tail
from model_server.posterior.aside import SCATTER_BETWEEN_CHUNKS, ChunkTest
from model_server.posterior.groups import GROUP_COUNTS, excused, groups_of, summed
from model_server.posterior.posterior import Posterior
from simulations.arrays import BoolArray, FloatArray
from simulations.fold import CellSums
from simulations.likelihood import Q_SPREAD
from simulations.prior import BoxPrior

ALPHA_PER_RUN = 0.05
OF_ALL = 1 / 2  # of it, for the chi-square of all orientations together
OF_EACH = 1 / 14  # and for each of the seven other tests
ALIGN = "align again (`beamsteer align`) and fold with the set-up that is true"
SPREAD = "give the experiment's q_spread as it is"
ALONE = "one orientation with a set-up that may be off: a second must agree"
NOTHING = (
    "no cell of the path was measured outside of the elastic line: look at path.energy and psi"
)
UNSETTLED = "the refinement did not converge: measure on, or check lattice and u, v"
UNFOLLOWED = "ways to other answers are left to be followed, at the next orientations"
HALTED = "the refinement is on its way: it goes on at the next orientation"
SET_UP_SIGMAS = 3.0  # of what the experiment allows: a set-up that is farther off is told
TELLS = 0.3  # a model that is wrong by so much everywhere must be noticed before one is trusted
RIVALS = -3.0  # log odds of another answer: 1 to 20
NOTICED_SIGMAS = 3.0  # of chi-square about its mean: where such a model is called noticed

TrustState = Literal["trusted", "not explained", "cannot tell yet"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """Verdict on the newest estimate, with what it rests on."""

    state: TrustState
    reasons: tuple[str, ...]  # why it is not trusted
    chi_square: float
    degrees_of_freedom: int
    p_value: float
    threshold: float  # the p-value below which this look alarms
    unseen: float  # relative error of the phonon rates, everywhere, that would go unnoticed

    @property
    def trusted(self) -> bool:
        """Whether the model explains the data, and they could have told if it did not."""
        return self.state == "trusted"

    @property
    def explained(self) -> bool:
        """Whether nothing speaks against the model; of few counts nothing does."""
        return self.state != "not explained"

    @property
    def reduced_chi_square(self) -> float:
        """Chi-square per degree of freedom."""
        return self.chi_square / max(self.degrees_of_freedom, 1)


def residual_sigma(sums: CellSums, expected: FloatArray) -> FloatArray:
    """(data - expected) / standard deviation of every cell; NaN where D = 0."""
    variance = sums.variance if sums.gaussian else expected
    known = (sums.exposure > 0) & (variance > 0)
    spread = np.sqrt(np.where(known, variance, 1.0))
    return np.where(known, (sums.signal - expected) / spread, np.nan)


def grouped(
    sums: CellSums, expected: FloatArray, use: BoolArray, phonon: FloatArray | None = None
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Join neighbouring energies of a path bin until ``GROUP_COUNTS`` are expected.

    Returns
    -------
    data, expected, variance, phonon : (groups,) float64
        A rest too small to stand alone is left out. The variance holds counting, and what is
        ``excused``.
    """
    part = expected if phonon is None else phonon
    groups = groups_of(expected, use, gaussian=sums.gaussian)
    data, model = summed(sums.signal, groups), summed(expected, groups)
    counting = summed(sums.variance, groups) if sums.gaussian else model
    return data, model, counting + excused(expected, groups), summed(part, groups)


def unnoticed(phonon: FloatArray, variance: FloatArray) -> float:
    """Relative error of the phonon counts of every group that chi-square would not notice.

    Of groups (groups,) off by a share e of their phonon counts p, chi-square grows by
    e^2 sum p^2 / variance, and is noticed where that is ``NOTICED_SIGMAS`` times its own
    sqrt(2 groups). Infinite where there is nothing to notice it by.
    """
    power = float(np.sum(phonon**2 / variance)) if len(phonon) else 0.0
    noise = NOTICED_SIGMAS * np.sqrt(2.0 * len(phonon))
    return float(np.sqrt(noise / power)) if power > 0 else np.inf


def assess(
    *,
    sums: CellSums,
    posterior: Posterior,
    prior: BoxPrior,
    use: BoolArray,
    look: int,
    chunk_ratios: Sequence[tuple[str, float, float]] = (),
    q_squared: FloatArray | None = None,
    set_up_sigma: FloatArray | None = None,
    alone: bool = False,
) -> Trust:
    """Judge the newest estimate.

    Parameters
    ----------
    sums : CellSums
        All chunks together.
    posterior : Posterior
        Its ``expected`` holds lambda of the same chunks.
    prior : BoxPrior
        Parameters far outside it are a sign of a wrong model.
    use : (path_bins, energy_bins) bool
        Cells the estimate rests on.
    look : int
        1 for the first chunk of the run, counting up.
    chunk_ratios : sequence of (chunk, observed counts, expected counts)
        For the consistency of every chunk with the rest.
    q_squared : (path_bins, energy_bins), optional
        Mean Q^2 of the cells, 1/angstrom^2: tells an excess at low Q.
    set_up_sigma : (G,) float64, optional
        How well the set-up was thought to be known, for the posterior's ``off``.
    alone : bool
        Of one orientation, with a set-up that may be off: a search may have ended in a wrong answer
        that fits as well, and no test of fit tells.
    """
    threshold = ALPHA_PER_RUN * 6 / (np.pi * max(look, 1)) ** 2
    reasons: list[str] = []
    data, model, variance, phonon = grouped(sums, posterior.expected, use, posterior.phonon)
    statistic = float(np.sum((data - model) ** 2 / variance)) if len(data) else 0.0
    told = posterior.layout.size if posterior.told is None else round(posterior.told)
    freedom = max(len(data) - told, 1)
    p_value = chi_square_tail(statistic, freedom) if len(data) else 1.0
    if p_value < OF_ALL * threshold:
        where = _low_q_hint(sums, posterior.expected, use, q_squared)
        reasons.append(
            f"goodness of fit: chi-square {statistic:.0f} for {freedom} degrees of freedom "
            f"({statistic / freedom:.2f} each, p = {p_value:.1e}, alarm below "
            f"{OF_ALL * threshold:.1e}): {posterior.model} does not explain the data{where}"
            f"{_set_up_hint(posterior)}"
        )
    if not (posterior.converged or posterior.halted):
        reasons.append(UNSETTLED)
    outside = np.abs(posterior.values - prior.mean) / (prior.sigma * np.sqrt(3.0))
    for name, unit, value, distance in zip(
        posterior.names, posterior.units, posterior.values, outside, strict=True
    ):
        if distance > 1.5:
            short = unit.replace("angstrom", "A")
            reasons.append(
                f"parameter {name} = {value:.3g} {short} lies {distance:.1f} half-widths from the "
                "middle of its prior box: the model or the structure is doubtful"
            )
    if set_up_sigma is not None:
        reasons.extend(_mis_set(posterior, set_up_sigma))
    reasons.extend(_told_aside(posterior, [c for c, _, _ in chunk_ratios], OF_EACH * threshold))
    reasons.extend(_inconsistent_chunks(chunk_ratios, OF_EACH * threshold))
    unseen, state = unnoticed(phonon, variance), "not explained" if reasons else "trusted"
    if unseen > TELLS and (not reasons or not posterior.converged):
        state = "cannot tell yet"  # of few counts not even a fit that did not converge
        reasons = [one for one in reasons if one is UNSETTLED]
        reasons.append(
            f"too few counts: a model wrong by {_percent(unseen)} everywhere would pass too"
            if np.any(use & (sums.exposure > 0))
            else NOTHING
        )
    if alone and state != "not explained":
        state = "cannot tell yet"
        reasons.append(ALONE)
    if posterior.ways and state != "not explained":
        state = "cannot tell yet"
        reasons.append(UNFOLLOWED)
    if posterior.halted:  # what is no answer says nothing
        state, reasons = "cannot tell yet", [HALTED]
    rivals = [one for one in posterior.others if posterior.log_odds_of(one) > RIVALS]
    if rivals and state != "not explained":
        state = "cannot tell yet"
        reasons.append(_rivals(posterior, rivals))
    return Trust(
        state=state,
        reasons=tuple(reasons),
        chi_square=statistic,
        degrees_of_freedom=freedom,
        p_value=p_value,
        threshold=OF_ALL * threshold,
        unseen=unseen,
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share < 1 else "100 % and more"


def _rivals(posterior: Posterior, rivals: Sequence[Posterior]) -> str:
    """What else would explain the counts, and where that differs most."""
    other = rivals[0]
    gap = (other.values - posterior.values) / posterior.sigma
    most = int(np.argmax(np.abs(gap)))
    return (
        f"{1 + len(rivals)} answers explain these counts: another, "
        f"{np.exp(posterior.log_odds_of(other)):.2g} times as likely, has {posterior.names[most]} "
        f"{other.values[most]:.4g} instead of {posterior.values[most]:.4g}: more counts "
        "part them"
    )


def _mis_set(posterior: Posterior, allowed: FloatArray) -> list[str]:
    """What of the set-up is farther off than it was thought it could be."""
    layout = posterior.layout
    return [
        f"{name} is off by {value:+.2g} +- {sigma:.1g} {unit}, more than {SET_UP_SIGMAS:g} times "
        f"the {known:g} {unit} that the experiment allows: {_mended(name)}"
        for name, unit, value, sigma, known in zip(
            layout.off_names,
            layout.off_units,
            posterior.theta[layout.off],
            posterior.theta_sigma[layout.off],
            allowed,
            strict=True,
        )
        if abs(value) > SET_UP_SIGMAS * known
    ]


def _set_up_hint(posterior: Posterior) -> str:
    """What of the set-up was found to be off, where it was fitted: the first suspect."""
    layout = posterior.layout
    if not layout.off_names:
        return ""
    off, sigma = posterior.theta[layout.off], posterior.theta_sigma[layout.off]
    most = int(np.argmax(np.abs(off) / sigma))
    if abs(off[most]) < SET_UP_SIGMAS * sigma[most]:
        return ""
    return (
        f"; the set-up is off ({layout.off_names[most]} {off[most]:+.2g} {layout.off_units[most]} "
        f"or another answer): {_mended(layout.off_names[most])}"
    )


def _mended(name: str) -> str:
    """What to do where this of the set-up is off."""
    return SPREAD if name == Q_SPREAD else ALIGN


def _told_aside(posterior: Posterior, chunks: Sequence[str], threshold: float) -> list[str]:
    """What speaks against what was marginalised, or held, beside the fit."""
    aside = posterior.aside
    if aside is None:
        return []
    reasons: list[str] = []
    pulls = aside.value / np.where(aside.known > 0, aside.known, np.inf)
    scattered = [one.scale / SCATTER_BETWEEN_CHUNKS for one in aside.chunks]
    odd = int(np.argmax(np.abs(scattered))) if scattered else 0
    if aside.far and np.max(np.abs([0.0, *scattered])) > np.max(np.abs([1.0, *pulls])):
        name = chunks[odd] if odd < len(chunks) else f"{odd + 1}"
        reasons.append(
            f"orientations disagree in scale by more than can be corrected, chunk {name} most "
            f"({aside.chunks[odd].scale:+.0%} of the counts that its charge says): wrong charge, "
            "moved sample or dead bank? Withdraw it, or look"
        )
    elif aside.far:
        most = int(np.argmax(np.abs(aside.value) / np.where(aside.sigma > 0, aside.sigma, np.inf)))
        reasons.append(
            f"the set-up is off by more than can be corrected to first order, {aside.names[most]} "
            f"most ({aside.value[most]:+.2g} +- {aside.sigma[most]:.1g} {aside.units[most]}): "
            f"{_mended(aside.names[most])}"
        )
    for name, unit, value, sigma, pull in zip(
        aside.names, aside.units, aside.value, aside.sigma, pulls, strict=True
    ):
        if abs(pull) > SET_UP_SIGMAS and not aside.far:
            reasons.append(
                f"{name} is {value:+.2g} +- {sigma:.1g} {unit}, more than {SET_UP_SIGMAS:g} times "
                f"what was thought possible: {_mended(name)}"
            )
    if aside.held_p < threshold:
        most = int(np.nanargmax(np.abs(aside.held_value / aside.held_sigma)))
        reasons.append(
            f"{aside.names[most]} is taken to be known, and seems to be off by "
            f"{aside.held_value[most]:+.2g} +- {aside.held_sigma[most]:.1g} {aside.units[most]} "
            f"(p = {aside.held_p:.1e} of all that is taken to be known): {ALIGN}"
        )
    share, share_sigma, p = aside.spread
    if p < threshold:
        reasons.append(
            "pixels are taken to be points, the beam parallel and the crystal perfect, and counts "
            f"ask for {share:.0%} +- {share_sigma:.0%} of a typical spread of q (p = {p:.1e}): "
            f"{SPREAD}"
        )
    if aside.far:
        return reasons
    reasons.extend(_told_apart(posterior.model, chunks, aside.chunks, threshold))
    for chunk, test in zip(chunks, aside.chunks, strict=False):
        turned, contrast = (p * max(len(chunks), 1) for p in (test.turned_p, test.contrast_p))
        if turned < threshold:
            most = int(np.argmax(np.abs(test.turned_deg / test.turned_sigma_deg)))
            reasons.append(
                f"chunk {chunk} seems to be taken at a crystal that is turned against the others "
                f"({test.turned_deg[most]:+.1f} +- {test.turned_sigma_deg[most]:.1f} degrees, "
                f"p = {test.turned_p:.1e}): look at its psi, withdraw it, or align"
            )
        elif contrast < threshold:
            reasons.append(
                f"counts of chunk {chunk} do not lie where they are expected (contrast "
                f"{1 + test.contrast:.2f} +- {test.contrast_sigma:.2f} of what it should be, "
                f"p = {test.contrast_p:.1e}): moved or another sample? Withdraw it, or look"
            )
    return reasons


def _told_apart(
    model: str, chunks: Sequence[str], tests: Sequence[ChunkTest], threshold: float
) -> list[str]:
    """Whether every orientation by itself is explained, and if not which is worst."""
    some = [(c, t) for c, t in zip(chunks, tests, strict=False) if t.freedom > 0]
    if len(some) < 2:  # one orientation is all of them together
        return []
    each = [chi_square_tail(t.chi_square, t.freedom) for _, t in some]
    statistic, freedom = sum(t.chi_square for _, t in some), sum(t.freedom for _, t in some)
    p, worst = chi_square_tail(statistic, freedom), int(np.argmin(each))
    name, test = some[worst]
    if p < threshold:
        return [
            f"goodness of fit, orientation by orientation: chi-square {statistic:.0f} for "
            f"{freedom:.0f} degrees of freedom (p = {p:.1e}), chunk {name} most "
            f"({test.chi_square / test.freedom:.2f} each): {model} does not explain where counts "
            "lie, though it may explain their sum"
        ]
    if each[worst] * len(some) < threshold:
        return [
            f"chunk {name} is not explained as the others are (chi-square {test.chi_square:.0f} "
            f"for {test.freedom:.0f} degrees of freedom, p = {each[worst]:.1e}): withdraw it, or "
            "look"
        ]
    return []


def _inconsistent_chunks(ratios: Sequence[tuple[str, float, float]], threshold: float) -> list[str]:
    reasons: list[str] = []
    for chunk, observed, expected in ratios:
        if expected < GROUP_COUNTS:
            continue
        sigma = np.sqrt(expected + (SCATTER_BETWEEN_CHUNKS * expected) ** 2)
        z = (observed - expected) / sigma
        if 2 * normal_tail(abs(z)) * max(len(ratios), 1) < threshold:
            reasons.append(
                f"chunk {chunk} has {observed:.0f} counts where {expected:.0f} are expected "
                f"({z:+.1f} sigma): moved sample, dead bank or wrong charge? Withdraw it or look"
            )
    return reasons


def _low_q_hint(
    sums: CellSums, expected: FloatArray, use: BoolArray, q_squared: FloatArray | None
) -> str:
    if q_squared is None:
        return ""
    low = use & (q_squared < np.median(q_squared[use]))
    high = use & ~low
    excess: list[float] = []
    for part in (low, high):
        n, m = sums.signal[part].sum(), expected[part].sum()
        excess.append((n - m) / np.sqrt(max(m, 1.0)))
    if excess[0] > 5 and excess[0] > 2 * abs(excess[1]):
        return f"; the excess sits at low Q ({excess[0]:+.0f} sigma), as magnetic scattering would"
    return ""
