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
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from scipy.special import ndtr

from simulations.instrument import Instrument
from simulations.virtual_background import (
    SPEED,
    SmoothPart,
    SmoothParts,
    VirtualCan,
    can_elastic_rate,
    decaying_rate,
    inside_window,
    sample_decaying,
    smooth_parts,
    twice_theta,
)
from simulations.virtual_lattice import (
    HBAR2_PER_2U,
    KELVIN_PER_MEV,
    VirtualLattice,
    build_lattice,
    exact_lines,
    occupied,
)
from simulations.virtual_spread import Spread, across, blurred
from simulations.virtual_walk import ENERGY_PER_K2, TAIL, guess, propose

if TYPE_CHECKING:
    from simulations.force_constants import ForceConstantModel

FloatArray = NDArray[np.float64]

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
STEP_meV = 0.5  # along a trajectory, at the elastic line
PIXELS_AT_ONCE = 20_000
SLOWEST = 0.015
"""Share of Ei that a neutron keeps at the upper end of the default window.

Below the 0.0225 down to which the fold looks (k_f = 0.15 k_i): the window cuts nothing there.
"""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VirtualExperiment:
    """Truth and set-up of a virtual experiment.

    At psi = 0 ``u`` lies along the beam (z) and ``v`` in the horizontal plane on the side of +x;
    psi turns the crystal right-handed about +y (up). The small corrections follow Horace:
    ``R_y(psi) R_y(omega) R_y(dpsi) R_x(gl) R_z(gs) R_y(-omega)``.
    """

    model: ForceConstantModel
    phi: FloatArray  # (K,) true force constants, eV/angstrom^2
    instrument: Instrument  # masked pixels count nothing; mask more of them for dead banks
    u: tuple[float, float, float]  # r.l.u. of the conventional cell
    v: tuple[float, float, float]
    ei_meV: float
    temperature_K: float
    flux: float  # counts per minute, steradian and barn per primitive cell
    background: float = 0.0  # counts per minute, steradian and microsecond of flight
    elastic_scale: float = 1.0  # times the crystal's own incoherent elastic scattering
    bragg_scale: float = 0.0  # times kinematic Bragg scattering; 1 means no extinction
    bragg_width: float = 0.03  # 1/angstrom, Gaussian spread of a reflection in all directions
    sample: bool = True  # False: no crystal in the beam, as in the run of an empty can
    incoherent_scale: float = 0.0  # times the crystal's own incoherent one-phonon scattering
    multiphonon_scale: float = 0.0  # times its scattering by two and more phonons
    can: VirtualCan | None = None
    decaying: float = 0.0  # background at the elastic line, unit of ``background``
    decay_us: float = 200.0  # time of flight in which it falls to 1/e
    spread: Spread = Spread()  # of Q; none by default
    intrinsic_sigma_meV: float = 0.05  # width of a phonon line before resolution
    lowest_line_meV: float = 0.25  # lines below are left out
    window_meV: tuple[float, float] | None = None  # measured energies kept; -Ei/2..0.985 Ei
    psi_offset_deg: float = 0.0  # added to every recorded psi
    omega_deg: float = 0.0
    dpsi_deg: float = 0.0
    gl_deg: float = 0.0
    gs_deg: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        for name in ("ei_meV", "flux", "intrinsic_sigma_meV", "bragg_width", "decay_us"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number above 0")
        for name in (
            "background", "elastic_scale", "bragg_scale", "temperature_K", "incoherent_scale",
            "multiphonon_scale", "decaying",
        ):  # fmt: skip
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} is {getattr(self, name)}; expected zero or more")
        if self.lowest_line_meV < 4 * self.intrinsic_sigma_meV:
            raise ValueError(
                f"lowest_line_meV is {self.lowest_line_meV}; expected at least 4 times "
                f"intrinsic_sigma_meV = {self.intrinsic_sigma_meV}. Raise it or narrow the lines."
            )
        low, high = self.window
        if not low < high < self.ei_meV:
            raise ValueError(
                f"window_meV is {[low, high]}; expected lower < upper < ei_meV = {self.ei_meV}"
            )

    @property
    def window(self) -> tuple[float, float]:
        """Measured energy transfers that are recorded, meV; also the span of the background."""
        if self.window_meV is not None:
            return self.window_meV
        return (-0.5 * self.ei_meV, (1 - SLOWEST) * self.ei_meV)


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


def lattice_of(experiment: VirtualExperiment) -> VirtualLattice:
    """Lines of the experiment's crystal; make it once and hand it to every chunk."""
    return build_lattice(experiment.model, experiment.phi, experiment.temperature_K)


def lab_from_crystal(experiment: VirtualExperiment, psi_deg: float) -> FloatArray:
    """Matrix (3, 3) with ``Q_lab = matrix @ Q_crystal`` at a recorded psi.

    Raises
    ------
    ValueError
        If psi is not finite or u and v are parallel.
    """
    if not np.isfinite(psi_deg):
        raise ValueError(f"psi_deg is {psi_deg}; expected a finite angle in degrees")
    columns = 2 * np.pi * np.linalg.inv(experiment.model.crystal.conventional_lattice)
    along = columns @ np.asarray(experiment.u, dtype=float)
    side = columns @ np.asarray(experiment.v, dtype=float)
    z = along / np.linalg.norm(along)
    x = side - (side @ z) * z
    if np.linalg.norm(x) < 1e-9 * np.linalg.norm(side):
        raise ValueError(
            f"u = {experiment.u} and v = {experiment.v} are parallel; expected two directions"
        )
    x = x / np.linalg.norm(x)
    mount = np.array([x, np.cross(z, x), z])

    def about(axis: str, angle_deg: float) -> Rotation:
        unit = {"x": (1, 0, 0), "y": (0, 1, 0), "z": (0, 0, 1)}[axis]
        return Rotation.from_rotvec(np.radians(angle_deg) * np.array(unit, dtype=float))

    arcs = about("y", experiment.dpsi_deg) * about("x", experiment.gl_deg)
    arcs = arcs * about("z", experiment.gs_deg)
    omega = about("y", experiment.omega_deg)
    turn = about("y", psi_deg + experiment.psi_offset_deg) * omega * arcs * omega.inv()
    return turn.as_matrix() @ mount


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
        raise ValueError(f"minutes is {minutes}; expected zero or more")
    lattice = lattice_of(experiment) if lattice is None else lattice
    smooth = smooth_parts(experiment) if smooth is None else smooth
    seeds = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    rng = np.random.default_rng(seeds)
    turn = lab_from_crystal(experiment, psi_deg)
    sigma_meV, ei = experiment.instrument.resolution.sigma_meV, experiment.ei_meV
    phonon, line, walk = _sample_phonons(experiment, lattice, turn, minutes, rng)
    rates = {
        ELASTIC: elastic_rate(experiment, lattice, turn),
        BRAGG: bragg_rate(experiment, lattice, turn),
    }
    elastic = _sample_pixels(rates[ELASTIC], minutes, rng)
    bragg = _sample_pixels(rates[BRAGG], minutes, rng)
    pixel = np.concatenate([phonon, elastic, bragg])
    true = np.concatenate([line, np.zeros(len(elastic) + len(bragg))])
    energy = true + rng.standard_normal(len(true)) * sigma_meV(true, ei)
    rates[BACKGROUND] = background_rate(experiment)
    flat_pixel, flat_energy = _sample_flat(experiment, rates[BACKGROUND], minutes, rng)
    origin = np.repeat(
        np.array([PHONON, ELASTIC, BRAGG, BACKGROUND], dtype=np.uint8),
        [len(phonon), len(elastic), len(bragg), len(flat_pixel)],
    )
    pixel = np.concatenate([pixel, flat_pixel])
    energy = np.concatenate([energy, flat_energy])

    # Parts that are off by default draw from a stream of their own and leave the others alone.
    own = np.random.SeedSequence(seeds.entropy, spawn_key=(*seeds.spawn_key, 1 << 20))
    own_rng = np.random.default_rng(own)
    angle = twice_theta(experiment)
    for code, part in (
        (INCOHERENT, smooth.incoherent),
        (MULTIPHONON, smooth.multiphonon),
        (CAN, smooth.can),
    ):
        if part is None:
            continue
        rate = _smooth_rate(experiment, part, angle)
        found = _sample_pixels(rate, minutes, own_rng)
        real = part.sample(found, angle, own_rng)
        spoilt = real + own_rng.standard_normal(len(real)) * sigma_meV(real, ei)
        pixel, energy = np.concatenate([pixel, found]), np.concatenate([energy, spoilt])
        origin = np.concatenate([origin, np.full(len(found), code, dtype=np.uint8)])
        rates[code] = rate
    if experiment.can is not None:
        rates[CAN_ELASTIC] = can_elastic_rate(experiment, experiment.can, smooth.can_mean_square)
        found = _sample_pixels(rates[CAN_ELASTIC], minutes, own_rng)
        spoilt = own_rng.standard_normal(len(found)) * float(sigma_meV(np.zeros(1), ei)[0])
        pixel, energy = np.concatenate([pixel, found]), np.concatenate([energy, spoilt])
        origin = np.concatenate([origin, np.full(len(found), CAN_ELASTIC, dtype=np.uint8)])
    if experiment.decaying > 0:
        rates[DECAYING] = decaying_rate(experiment)
        found = _sample_pixels(rates[DECAYING], minutes, own_rng)
        pixel = np.concatenate([pixel, found])
        energy = np.concatenate([energy, sample_decaying(experiment, found, own_rng)])
        origin = np.concatenate([origin, np.full(len(found), DECAYING, dtype=np.uint8)])

    low, high = experiment.window
    recorded = np.flatnonzero((energy >= low) & (energy < high))
    order = rng.permutation(recorded)
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


def _sample_flat(
    experiment: VirtualExperiment, rate: FloatArray, minutes: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], FloatArray]:
    """Background events: uniform time of flight from sample to pixel, within the window."""
    pixel = _sample_pixels(rate, minutes, rng)
    first, last = _flight_span(experiment)
    flight = first[pixel] + (last - first)[pixel] * rng.random(len(pixel))
    distance = np.linalg.norm(experiment.instrument.position_m, axis=1)[pixel]
    return pixel, experiment.ei_meV - (distance / (flight * 1e-6) / SPEED) ** 2


def _exact_rate(
    experiment: VirtualExperiment, lattice: VirtualLattice, Q: FloatArray, energy: FloatArray
) -> FloatArray:
    """S(Q, E') in barn/meV/sr per primitive cell, without k_f/k_i, (points,)."""
    sigma = experiment.intrinsic_sigma_meV
    lines, strengths = exact_lines(lattice, Q)
    strengths = np.where(lines >= experiment.lowest_line_meV, strengths, 0.0)
    lines = np.maximum(lines, experiment.lowest_line_meV)
    total = np.zeros(len(Q))
    for sign in (1.0, -1.0):
        if experiment.temperature_K == 0 and sign < 0:
            continue
        shape = np.exp(-0.5 * ((energy[:, None] - sign * lines) / sigma) ** 2)
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
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], FloatArray, dict[str, float]]:
    """Pixels and true energy transfers of one-phonon events, and how the sampling went."""
    instrument, ei = experiment.instrument, experiment.ei_meV
    crystal, sigma = lattice.crystal, experiment.intrinsic_sigma_meV
    kt, cut = experiment.temperature_K / KELVIN_PER_MEV, experiment.lowest_line_meV
    ki = np.sqrt(ei / ENERGY_PER_K2)
    distance = np.linalg.norm(instrument.position_m, axis=1)
    away = instrument.position_m / distance[:, None]
    spread = experiment.spread
    to_fraction = np.linalg.inv(crystal.reciprocal)
    live = np.flatnonzero(~instrument.masked & (instrument.solid_angle_sr > 0))
    strength = np.sum(lattice.amplitude**2)
    scale = experiment.flux * HBAR2_PER_2U * strength / (sigma * np.sqrt(2 * np.pi))
    pixels, energies = [np.empty(0, dtype=np.int64)], [np.empty(0)]
    near = tried = repeated = 0
    sum_of_weights = sum_of_squares = 0.0
    live = live if experiment.sample else live[:0]
    rays = _rays(experiment, lattice, away, minutes) if spread.active else 1
    kf_walk = _final_wave_vectors(experiment, lattice)
    live = np.tile(live, rays)
    for part in np.array_split(live, 1 + len(live) // PIXELS_AT_ONCE):
        final, beam = away[part] @ turn, np.broadcast_to(turn[2], (len(part), 3))
        backward = 1 - away[part, 2]
        if spread.active:
            leaving, coming, block = blurred(spread, away[part], distance[part], rng)
            final, beam = block.apply(leaving @ turn), block.apply(coming @ turn)
            backward = 1 - np.einsum("pa,pa->p", leaving, coming)
        row, energy, level = propose(
            rng, np.arange(len(part)), scale / rays * minutes * instrument.solid_angle_sr[part],
            final @ to_fraction, beam @ to_fraction * ki, backward, kf_walk, ki,
            lattice.energies, lattice.slack, lattice.steepest, cut, sigma, kt,
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
            lattice.energies, lattice.slack, lattice.vectors, lattice.margin, lattice.amplitude,
            crystal.positions, to_fraction, Q, energy, cut, sigma, kt,
        )  # fmt: skip
        bound = np.minimum(above * kf / ki / strength, level)
        keep = np.flatnonzero(rng.random(len(level)) * level < bound)
        tried += len(keep)
        exact = _exact_rate(experiment, lattice, Q[keep], energy[keep]) * kf[keep] / ki
        ratio = experiment.flux * exact / (scale * bound[keep])
        weight = ratio * inside_window(experiment, energy[keep])
        sum_of_weights += float(weight.sum())
        sum_of_squares += float(weight @ weight)
        copies = np.floor(ratio + rng.random(len(ratio))).astype(np.int64)
        repeated += int(np.sum(np.maximum(copies - 1, 0)))
        pixels.append(np.repeat(pixel[keep], copies))
        energies.append(np.repeat(energy[keep], copies))
    pixel, energy = np.concatenate(pixels), np.concatenate(energies)
    diagnosis = {
        "near_a_line": float(near),
        "exact_evaluations": float(tried),
        "phonon_events": float(len(pixel)),
        "repeated": float(repeated),
        "phonons_expected": sum_of_weights,
        "phonons_expected_sigma": float(np.sqrt(sum_of_squares)),
    }
    return pixel, energy, diagnosis


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
