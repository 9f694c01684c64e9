"""Virtual experiment: single-crystal inelastic events of known truth, by brute force.

Every neutron is scattered at a true energy transfer ``E'``, with the Q that its pixel has there, at
the rate ``flux x solid angle x (k_f / k_i) x S(Q(E'), E')`` per minute and meV. S is one-phonon,
per primitive cell, with eigenvectors and Debye-Waller factor; each line is a Gaussian of width
``intrinsic_sigma_meV``. The measured energy transfer is ``E'`` plus a Gaussian of the instrument's
resolution at ``E'``, and the time of flight is that of the measured energy. To this come an
incoherent elastic line and a background flat in time of flight, and on request Bragg reflections,
incoherent and multiphonon scattering, a sample can with its powder lines, a background that decays
in time of flight (``virtual_background``) and a spread of Q by mosaic, divergence and pixel size
(``virtual_spread``).

Goniometer and kinematics are written out here on purpose and import nothing of what the fold and
the likelihood use: a wrong sign there must show against these events.

Sampling is exact. A walk along every pixel's trajectory through a table of energies yields a
Poisson process above the rate; the table at the point itself and a table of eigenvectors thin it;
what is left is thinned by the exact rate. Where the exact rate exceeds the tables' bound, an event
is repeated, so that the mean rate stays exact.

One seed gives the same events on any processor, but for one or two that rounding decides: bounds
are sums over groups of equal energy, never over the arbitrary eigenvectors inside one, and every
part and every pixel's walk draws from a stream of its own, so that an event more or less moves no
other pixel's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.scattering import counted
from simulations.virtual.background import (
    SPEED,
    SmoothPart,
    SmoothParts,
    can_elastic_rate,
    decaying_rate,
    inside_window,
    sample_decaying,
    smooth_parts,
    twice_theta,
)
from simulations.virtual.experiment import VirtualExperiment, lab_from_crystal
from simulations.virtual.lattice import (
    HBAR2_PER_2U,
    KELVIN_PER_MEV,
    VirtualLattice,
    build_lattice,
    exact_lines,
    occupied,
)
from simulations.virtual.spread import across, blurred
from simulations.virtual.walk import ENERGY_PER_K2, TAIL, guess, propose

PHONON, ELASTIC, BRAGG, BACKGROUND = 1, 2, 3, 4
INCOHERENT, MULTIPHONON, CAN_ELASTIC, CAN, DECAYING = 5, 6, 7, 8, 9
ORIGINS = {
    "phonon": PHONON,
    "elastic": ELASTIC,
    "bragg": BRAGG,
    "background": BACKGROUND,
    "incoherent": INCOHERENT,
    "multiphonon": MULTIPHONON,
    "can_elastic": CAN_ELASTIC,
    "can": CAN,
    "decaying": DECAYING,
}
"""What ``VirtualChunk.origin`` says of an event."""

PHONONS_PER_RAY = 0.5  # most that a pixel expects of one blur of Q
_WALK, _REPEAT = 0, 1  # stages that draw from streams of their own
STEP_meV = 0.5  # along a trajectory, at the elastic line
PIXELS_AT_ONCE = 20_000


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VirtualChunk:
    """Recorded events of one dwell, in random order."""

    pixel: NDArray[np.int32]  # (events,) index into the instrument
    time_of_flight_us: FloatArray  # (events,) from the source
    energy_transfer_meV: FloatArray  # (events,) measured; follows from the time of flight
    origin: NDArray[np.uint8]  # (events,) see ORIGINS
    expected: dict[str, float] = field(default_factory=dict)  # counts by origin; see below
    phonon_sigma: float = 0.0  # standard error of ``expected["phonon"]``, which is an estimate
    diagnosis: dict[str, float] = field(default_factory=dict)  # of the sampler

    @property
    def counts(self) -> dict[str, int]:
        """Events by origin."""
        return {name: int(np.sum(self.origin == code)) for name, code in ORIGINS.items()}


def lattice_of(
    experiment: VirtualExperiment, mean_square: FloatArray | None = None
) -> VirtualLattice:
    """Lines of the experiment's crystal; make it once and hand it to every chunk.

    Mean-square displacements (atoms, 3, 3), angstrom^2, are computed unless they are given.
    """
    return build_lattice(
        experiment.model,
        experiment.phi,
        experiment.temperature_K,
        pockets=experiment.pockets,
        mean_square=mean_square,
    )


def time_of_flight(
    experiment: VirtualExperiment, pixel: NDArray[np.int32], energy_transfer_meV: FloatArray
) -> FloatArray:
    """Microseconds from source to pixel, (events,)."""
    instrument = experiment.instrument
    there = instrument.source_to_sample_m / (SPEED * np.sqrt(experiment.ei_meV))
    final = SPEED * np.sqrt(experiment.ei_meV - energy_transfer_meV)
    return 1e6 * (there + np.linalg.norm(instrument.position_m, axis=1)[pixel] / final)


def simulate_chunk(
    experiment: VirtualExperiment,
    psi_deg: float,
    minutes: float,
    seed: int | np.random.SeedSequence,
    *,
    lattice: VirtualLattice | None = None,
    smooth: SmoothParts | None = None,
) -> VirtualChunk:
    """Events of one dwell.

    Parameters
    ----------
    experiment : VirtualExperiment
    psi_deg : float
        Recorded angle.
    minutes : float
        Dwell; scales all rates, so a beam at 90 % for one minute is 0.9.
    seed : int or SeedSequence
        Decides everything that is random. Give chunk ``c`` of a run ``SeedSequence([seed, c])``.
    lattice : VirtualLattice, optional
        From ``lattice_of``; made here if absent, which takes about a second.
    smooth : SmoothParts, optional
        From ``smooth_parts``; made here if absent.

    Returns
    -------
    VirtualChunk
        Its expected counts are exact for every part but the phonons, whose number is estimated
        from the sampler's own weights.
    """
    if not (np.isfinite(minutes) and minutes >= 0):
        raise InputError(f"minutes is {minutes}; expected zero or more")
    lattice = lattice_of(experiment) if lattice is None else lattice
    smooth = smooth_parts(experiment) if smooth is None else smooth
    seeds = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    turn = lab_from_crystal(experiment, psi_deg)
    parts, walk = _sample_phonons(experiment, lattice, turn, minutes, seeds)
    rates = {
        ELASTIC: elastic_rate(experiment, lattice, turn),
        BRAGG: bragg_rate(experiment, lattice, turn),
        BACKGROUND: background_rate(experiment),
    }
    if experiment.can is not None:
        rates[CAN_ELASTIC] = can_elastic_rate(experiment, experiment.can, smooth.can_mean_square)
    if experiment.decaying > 0:
        rates[DECAYING] = decaying_rate(experiment)
    tables = {INCOHERENT: smooth.incoherent, MULTIPHONON: smooth.multiphonon, CAN: smooth.can}
    angle = twice_theta(experiment)
    for code, table in tables.items():
        if table is not None:
            rates[code] = _smooth_rate(experiment, table, angle)
    for code, rate in rates.items():
        rng = _stream(seeds, code)
        pixel = _sample_pixels(rate, minutes, rng)
        if code == BACKGROUND:
            energy = _flat_energy(experiment, pixel, rng)
        elif code == DECAYING:
            energy = sample_decaying(experiment, pixel, rng)
        else:
            table = tables.get(code)
            true = np.zeros(len(pixel)) if table is None else table.sample(pixel, angle, rng)
            energy = _measured(experiment, true, rng.standard_normal(len(pixel)))
        parts.append(_Events(code, pixel, energy, rng.random(len(pixel))))

    pixel = np.concatenate([part.pixel for part in parts])
    energy = np.concatenate([part.energy_meV for part in parts])
    origin = np.repeat(
        np.array([part.origin for part in parts], dtype=np.uint8),
        [len(part.pixel) for part in parts],
    )
    low, high = experiment.window
    order = np.argsort(np.concatenate([part.place for part in parts]), kind="stable")
    order = order[(energy[order] >= low) & (energy[order] < high)]
    pixel, energy = pixel[order].astype(np.int32), energy[order]
    expected = _expected_counts(experiment, smooth, rates, minutes)
    expected["phonon"] = walk.pop("phonons_expected")
    return VirtualChunk(
        pixel=pixel,
        time_of_flight_us=time_of_flight(experiment, pixel, energy),
        energy_transfer_meV=energy,
        origin=origin[order],
        expected={name: expected[name] for name in ORIGINS},
        phonon_sigma=walk.pop("phonons_expected_sigma"),
        diagnosis=walk,
    )


class _Events(NamedTuple):
    """Events of one origin; ``place`` in (0, 1) decides where among all others they stand."""

    origin: int
    pixel: NDArray[np.int64]
    energy_meV: FloatArray  # measured
    place: FloatArray


def _stream(seeds: np.random.SeedSequence, *key: int) -> np.random.Generator:
    """A stream of random numbers of its own for each part and stage of a chunk."""
    own = np.random.SeedSequence(seeds.entropy, spawn_key=(*seeds.spawn_key, *key))
    return np.random.default_rng(own)


def _measured(
    experiment: VirtualExperiment, true_meV: FloatArray, normal: FloatArray
) -> FloatArray:
    """True energies smeared by the instrument's resolution, given standard normal variates."""
    sigma_meV = experiment.instrument.resolution.sigma_meV
    return true_meV + normal * sigma_meV(true_meV, experiment.ei_meV)


def _smooth_rate(experiment: VirtualExperiment, part: SmoothPart, angle: FloatArray) -> FloatArray:
    """Counts per minute of a smooth part over all its true energies, (pixels,)."""
    instrument = experiment.instrument
    rate = instrument.solid_angle_sr * part.per_pixel(angle)[2]
    return np.where(instrument.masked, 0.0, rate)


def _expected_counts(
    experiment: VirtualExperiment,
    smooth: SmoothParts,
    rates: dict[int, FloatArray],
    minutes: float,
) -> dict[str, float]:
    """Counts inside the window by origin, without the phonons."""
    at_zero = float(inside_window(experiment, np.zeros(1))[0])
    share: dict[int, float] = {ELASTIC: at_zero, BRAGG: at_zero, CAN_ELASTIC: at_zero}
    for code, part in (
        (INCOHERENT, smooth.incoherent),
        (MULTIPHONON, smooth.multiphonon),
        (CAN, smooth.can),
    ):
        if part is None:
            continue
        node, above, _ = part.per_pixel(twice_theta(experiment))
        solid = np.where(experiment.instrument.masked, 0, experiment.instrument.solid_angle_sr)
        weight = np.bincount(node, solid * (1 - above), len(part.rate))
        weight += np.bincount(node + 1, solid * above, len(part.rate))
        by_energy = weight @ part.rate
        kept = by_energy @ inside_window(experiment, part.energy_meV)
        share[code] = float(kept / max(by_energy.sum(), 1e-300))
    return {
        name: float(np.sum(rates.get(code, 0.0))) * minutes * share.get(code, 1.0)
        for name, code in ORIGINS.items()
    }


def expected_phonon_rate(
    experiment: VirtualExperiment,
    psi_deg: float,
    energy_edges_meV: FloatArray,
    *,
    pixels: NDArray[np.int64] | None = None,
    step_meV: float | None = None,
    lattice: VirtualLattice | None = None,
    rays: int = 1,
    seed: int = 0,
) -> FloatArray:
    """One-phonon counts per minute in (pixel, measured-energy bin), by direct quadrature.

    Nothing is sampled and no table is used: it is the check of ``simulate_chunk``, and slow (about
    10 microseconds per pixel and step). Only a spread of Q is averaged over random draws.

    Parameters
    ----------
    energy_edges_meV : (bins + 1,)
        Measured energy transfer.
    pixels : (pixels,), optional
        Which pixels; by default all. Masked ones count nothing.
    step_meV : float, optional
        Step of the true energy transfer; a quarter of the intrinsic width by default, since a
        steep branch crosses a trajectory in less than that width.
    rays, seed : int
        Neutrons per pixel that Q's spread is averaged over, and what decides them.

    Returns
    -------
    (pixels, bins) float64
    """
    lattice = lattice_of(experiment) if lattice is None else lattice
    instrument, ei = experiment.instrument, experiment.ei_meV
    chosen = np.arange(instrument.n_pixels) if pixels is None else np.asarray(pixels)
    sigma = experiment.intrinsic_sigma_meV
    step = 0.25 * sigma if step_meV is None else step_meV
    top = min(lattice.highest_meV + TAIL * sigma, ei - step)
    bottom = -(lattice.highest_meV + TAIL * sigma) if experiment.temperature_K > 0 else 0.0
    true = np.arange(bottom + 0.5 * step, top, step)
    true = true[occupied(true - TAIL * sigma, experiment.temperature_K) * true**2 > 1e-9]
    width = instrument.resolution.sigma_meV(true, ei)
    low, high = experiment.window
    edges = np.clip(np.asarray(energy_edges_meV, dtype=float), low, high)
    share = np.diff(ndtr((edges[:, None] - true) / width), axis=0)  # (bins, steps)
    turn = lab_from_crystal(experiment, psi_deg)
    ki, kf = np.sqrt(ei / ENERGY_PER_K2), np.sqrt((ei - true) / ENERGY_PER_K2)
    distance = np.linalg.norm(instrument.position_m, axis=1)
    away = instrument.position_m / distance[:, None]
    spread, rng = experiment.spread, np.random.default_rng(seed)
    out = np.zeros((len(chosen), len(edges) - 1))
    if not experiment.sample:
        return out
    for row, p in enumerate(chosen):
        if instrument.masked[p]:
            continue
        if spread.active:
            final, beam, block = blurred(
                spread, np.repeat(away[p : p + 1], rays, axis=0), np.full(rays, distance[p]), rng
            )
            into, out_of = block.apply(beam @ turn), block.apply(final @ turn)
            Q = ki * into[:, None, :] - kf[:, None] * out_of[:, None, :]
            rate = _exact_rate(experiment, lattice, Q.reshape(-1, 3), np.tile(true, rays))
            rate = rate.reshape(rays, -1).mean(axis=0) * kf / ki
        else:
            Q = (np.array([0, 0, ki]) - kf[:, None] * away[p]) @ turn
            rate = _exact_rate(experiment, lattice, Q, true) * kf / ki
        out[row] = instrument.solid_angle_sr[p] * experiment.flux * step * (share @ rate)
    return out


def elastic_rate(
    experiment: VirtualExperiment, lattice: VirtualLattice, turn: FloatArray
) -> FloatArray:
    """Incoherent elastic counts per minute in every pixel, (pixels,)."""
    instrument = experiment.instrument
    if not experiment.sample:
        return np.zeros(instrument.n_pixels)
    Q = _elastic_Q(experiment, turn)
    twice_W = np.einsum("qa,kab,qb->qk", Q, lattice.mean_square, Q, optimize=True)
    barn = np.exp(-twice_W) @ lattice.crystal.incoherent_barn / (4 * np.pi)
    rate = experiment.flux * experiment.elastic_scale * instrument.solid_angle_sr * barn
    return np.where(instrument.masked, 0.0, rate)


def bragg_rate(
    experiment: VirtualExperiment, lattice: VirtualLattice, turn: FloatArray
) -> FloatArray:
    """Bragg counts per minute in every pixel, (pixels,), without extinction at scale 1.

    ``(2 pi)^3 / v0 |sum b exp(-W) exp(iGr)|^2`` times a Gaussian of ``Q - G`` in three dimensions,
    as wide as ``bragg_width`` and the spread of Q: mosaic acts across G, divergence across k_i and
    the pixel across k_f.
    """
    instrument = experiment.instrument
    out = np.zeros(instrument.n_pixels)
    if experiment.bragg_scale == 0 or not experiment.sample:
        return out
    crystal, width = lattice.crystal, experiment.bragg_width
    Q = _elastic_Q(experiment, turn)
    fraction = Q @ np.linalg.inv(crystal.reciprocal)
    nearest = np.rint(fraction)
    G = nearest @ crystal.reciprocal
    covariance = None
    reach = np.full(len(Q), width)
    if experiment.spread.active:
        covariance = _bragg_covariance(experiment, turn, G)
        reach = np.sqrt(np.trace(covariance, axis1=1, axis2=2))
    close = np.flatnonzero(np.sum((Q - G) ** 2, axis=1) < (5 * reach) ** 2)
    G, hkl = G[close], nearest[close]
    W = 0.5 * np.einsum("qa,kab,qb->qk", G, lattice.mean_square, G, optimize=True)
    F = (np.exp(-W + 2j * np.pi * hkl @ crystal.positions.T)) @ crystal.scattering_length
    blur = np.exp(-np.sum((Q[close] - G) ** 2, axis=1) / (2 * width**2)) / (
        (2 * np.pi) ** 1.5 * width**3
    )
    if covariance is not None:
        off, C = Q[close] - G, covariance[close]
        square = np.einsum("qa,qa->q", off, np.linalg.solve(C, off[..., None])[..., 0])
        blur = np.exp(-0.5 * square) / ((2 * np.pi) ** 1.5 * np.sqrt(np.linalg.det(C)))
    barn = (2 * np.pi) ** 3 / abs(np.linalg.det(crystal.lattice)) * np.abs(F) ** 2 * blur
    barn[np.all(hkl == 0, axis=1)] = 0.0  # the direct beam
    out[close] = experiment.flux * experiment.bragg_scale * instrument.solid_angle_sr[close] * barn
    return np.where(instrument.masked, 0.0, out)


def _bragg_covariance(experiment: VirtualExperiment, turn: FloatArray, G: FloatArray) -> FloatArray:
    """Covariance of Q about G in every pixel, crystal frame, 1/angstrom^2, (pixels, 3, 3)."""
    spread, position = experiment.spread, experiment.instrument.position_m
    distance = np.linalg.norm(position, axis=1)
    k = np.sqrt(experiment.ei_meV / ENERGY_PER_K2)
    one = np.eye(3)
    square = np.einsum("qa,qa->q", G, G)
    C = spread.mosaic**2 * (square[:, None, None] * one - np.einsum("qa,qb->qab", G, G))
    C += experiment.bragg_width**2 * one
    C += (k * spread.divergence) ** 2 * (one - np.outer(turn[2], turn[2]))
    away = position / distance[:, None]
    side = across(away)
    up = np.cross(away, side)
    for unit, size in zip((side, up), spread.pixel_m, strict=True):
        edge = unit @ turn * (k * size / distance / np.sqrt(12))[:, None]
        C += np.einsum("qa,qb->qab", edge, edge)
    return C


def background_rate(experiment: VirtualExperiment) -> FloatArray:
    """Counts per minute of the flat background in every pixel, over the window, (pixels,)."""
    instrument = experiment.instrument
    span = _flight_span(experiment)
    rate = experiment.background * instrument.solid_angle_sr * (span[1] - span[0])
    return np.where(instrument.masked, 0.0, rate)


def _flight_span(experiment: VirtualExperiment) -> tuple[FloatArray, FloatArray]:
    """Microseconds from sample to pixel at both ends of the window."""
    distance = np.linalg.norm(experiment.instrument.position_m, axis=1)
    low, high = experiment.window
    first = 1e6 * distance / (SPEED * np.sqrt(experiment.ei_meV - low))
    last = 1e6 * distance / (SPEED * np.sqrt(experiment.ei_meV - high))
    return first, last


def _elastic_Q(experiment: VirtualExperiment, turn: FloatArray) -> FloatArray:
    away = experiment.instrument.position_m
    away = away / np.linalg.norm(away, axis=1)[:, None]
    k = np.sqrt(experiment.ei_meV / ENERGY_PER_K2)
    return k * (np.array([0.0, 0.0, 1.0]) - away) @ turn


def _sample_pixels(rate: FloatArray, minutes: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Pixels of a Poisson number of events, (events,)."""
    total = np.cumsum(rate)
    n = rng.poisson(total[-1] * minutes) if len(rate) else 0
    if n == 0:
        return np.empty(0, dtype=np.int64)
    return np.searchsorted(total, rng.random(n) * total[-1], side="right")


def _flat_energy(
    experiment: VirtualExperiment, pixel: NDArray[np.int64], rng: np.random.Generator
) -> FloatArray:
    """Energies of background events: uniform time of flight from sample to pixel, in the window."""
    first, last = _flight_span(experiment)
    flight = first[pixel] + (last - first)[pixel] * rng.random(len(pixel))
    distance = np.linalg.norm(experiment.instrument.position_m, axis=1)[pixel]
    return experiment.ei_meV - (distance / (flight * 1e-6) / SPEED) ** 2


def _exact_rate(
    experiment: VirtualExperiment, lattice: VirtualLattice, Q: FloatArray, energy: FloatArray
) -> FloatArray:
    """S(Q, E') in barn/meV/sr per primitive cell, without k_f/k_i, (points,)."""
    sigma = experiment.intrinsic_sigma_meV
    lines, strengths = exact_lines(lattice, Q)
    width, share = sigma, 1.0
    if lattice.pockets is not None:
        live, lines, own = counted(lines, Q, lattice.pockets)
        strengths = np.where(live, strengths, 0.0)
        width = np.hypot(sigma, own)
        share = sigma / width
    strengths = np.where(lines >= experiment.lowest_line_meV, strengths, 0.0)
    lines = np.maximum(lines, experiment.lowest_line_meV)
    total = np.zeros(len(Q))
    for sign in (1.0, -1.0):
        if experiment.temperature_K == 0 and sign < 0:
            continue
        shape = np.exp(-0.5 * ((energy[:, None] - sign * lines) / width) ** 2) * share
        total += np.sum(
            strengths * occupied(sign * lines, experiment.temperature_K) * shape, axis=1
        )
    return HBAR2_PER_2U * total / (sigma * np.sqrt(2 * np.pi))


# ---- one-phonon sampling -----------------------------------------------------------------------


def _sample_phonons(
    experiment: VirtualExperiment,
    lattice: VirtualLattice,
    turn: FloatArray,
    minutes: float,
    seeds: np.random.SeedSequence,
) -> tuple[list[_Events], dict[str, float]]:
    """One-phonon events, and how the sampling went."""
    instrument, ei = experiment.instrument, experiment.ei_meV
    crystal, sigma = lattice.crystal, experiment.intrinsic_sigma_meV
    kt, cut = experiment.temperature_K / KELVIN_PER_MEV, experiment.lowest_line_meV
    ki = np.sqrt(ei / ENERGY_PER_K2)
    distance = np.linalg.norm(instrument.position_m, axis=1)
    away = instrument.position_m / distance[:, None]
    spread, rule = experiment.spread, lattice.pockets
    pockets = None if rule is None else (rule.floor_meV, rule.damped)
    to_fraction = np.linalg.inv(crystal.reciprocal)
    live = np.flatnonzero(~instrument.masked & (instrument.solid_angle_sr > 0))
    strength = np.sum(lattice.amplitude**2)
    scale = experiment.flux * HBAR2_PER_2U * strength / (sigma * np.sqrt(2 * np.pi))
    parts: list[_Events] = []
    near = tried = repeated = 0
    sum_of_weights = sum_of_squares = 0.0
    live = live if experiment.sample else live[:0]
    rays = _rays(experiment, lattice, away, minutes) if spread.active else 1
    kf_walk = _final_wave_vectors(experiment, lattice)
    live = np.tile(live, rays)
    for number, part in enumerate(np.array_split(live, 1 + len(live) // PIXELS_AT_ONCE)):
        rng = _stream(seeds, PHONON, number, _WALK)
        final, beam = away[part] @ turn, np.broadcast_to(turn[2], (len(part), 3))
        backward = 1 - away[part, 2]
        if spread.active:
            leaving, coming, block = blurred(spread, away[part], distance[part], rng)
            final, beam = block.apply(leaving @ turn), block.apply(coming @ turn)
            backward = 1 - np.einsum("pa,pa->p", leaving, coming)
        walk_seeds = rng.integers(0, 1 << 64, len(part), dtype=np.uint64)
        row, energy, level, chance = propose(
            walk_seeds, scale / rays * minutes * instrument.solid_angle_sr[part],
            final @ to_fraction, beam @ to_fraction * ki, backward, kf_walk, ki,
            lattice.energies, lattice.slack, lattice.steepest, cut, sigma, kt, pockets,
        )  # fmt: skip
        pixel = part[row]
        kf = np.sqrt((ei - energy) / ENERGY_PER_K2)
        if spread.active:
            Q = ki * beam[row] - kf[:, None] * final[row]
        else:
            Q = -kf[:, None] * away[pixel]
            Q[:, 2] += ki
            Q = Q @ turn
        near += len(pixel)
        above = guess(
            lattice.energies, lattice.slack, lattice.vectors, lattice.group, lattice.margin,
            lattice.amplitude,
            crystal.positions, to_fraction, Q, energy, cut, sigma, kt, pockets,
        )  # fmt: skip
        bound = np.minimum(above * kf / ki / strength, level)
        accepted, copy, place, normal = chance.T
        keep = np.flatnonzero(accepted * level < bound)
        tried += len(keep)
        exact = _exact_rate(experiment, lattice, Q[keep], energy[keep]) * kf[keep] / ki
        ratio = experiment.flux * exact / (scale * bound[keep])
        weight = ratio * inside_window(experiment, energy[keep])
        sum_of_weights += float(weight.sum())
        sum_of_squares += float(weight @ weight)
        copies = np.floor(ratio + copy[keep]).astype(np.int64)
        once = keep[copies > 0]
        again = np.repeat(keep, np.maximum(copies - 1, 0))
        repeated += len(again)
        for which, noise, where in (
            (once, ndtri(normal[once]), place[once]),
            (again, *_repeats(_stream(seeds, PHONON, number, _REPEAT), len(again))),
        ):
            measured = _measured(experiment, energy[which], noise)
            parts.append(_Events(PHONON, pixel[which], measured, where))
    diagnosis = {
        "near_a_line": float(near),
        "exact_evaluations": float(tried),
        "phonon_events": float(sum(len(part.pixel) for part in parts)),
        "repeated": float(repeated),
        "phonons_expected": sum_of_weights,
        "phonons_expected_sigma": float(np.sqrt(sum_of_squares)),
    }
    return parts, diagnosis


def _repeats(rng: np.random.Generator, count: int) -> tuple[FloatArray, FloatArray]:
    """Noise and place of events that stand for a rate above its bound."""
    return rng.standard_normal(count), rng.random(count)


def _rays(
    experiment: VirtualExperiment, lattice: VirtualLattice, away: FloatArray, minutes: float
) -> int:
    """Neutron bundles per pixel, each with its own blur of Q, between which the dwell is divided.

    Within a bundle the blur is the same, which adds to the variance of a pixel's counts the share
    of a count that a bundle brings to one energy bin; this keeps it at a few percent.
    """
    lines = lattice.energies.astype(float).ravel()
    lowest = np.maximum(lines, experiment.lowest_line_meV)
    weight = occupied(lowest, experiment.temperature_K)
    weight = (weight + occupied(-lowest, experiment.temperature_K)) * (
        lines >= experiment.lowest_line_meV
    )
    q_squared = 2 * experiment.ei_meV / ENERGY_PER_K2 * (1 - away[:, 2])
    barn = HBAR2_PER_2U * np.sum(lattice.amplitude**2) * np.mean(weight) * q_squared
    counts = minutes * experiment.flux * experiment.instrument.solid_angle_sr * barn
    return max(1, int(np.ceil(np.quantile(counts, 0.95) / PHONONS_PER_RAY)))


def _final_wave_vectors(experiment: VirtualExperiment, lattice: VirtualLattice) -> FloatArray:
    """Uniform steps of k_f over all true energies that have lines, 1/angstrom, (steps + 1,)."""
    sigma, ei = experiment.intrinsic_sigma_meV, experiment.ei_meV
    tail = TAIL * sigma
    loss = min(lattice.highest_meV + tail, ei)
    gain = min(lattice.highest_meV, 22 * experiment.temperature_K / KELVIN_PER_MEV) + tail
    low, high = np.sqrt((ei - loss) / ENERGY_PER_K2), np.sqrt((ei + gain) / ENERGY_PER_K2)
    step = STEP_meV / (2 * np.sqrt(ENERGY_PER_K2 * ei))
    return np.linspace(low, high, 1 + int(np.ceil((high - low) / step)))
