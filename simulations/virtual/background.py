"""Parts of a virtual experiment that know no direction of the crystal: what lies under the phonons.

Incoherent one-phonon and multiphonon scattering of the sample and of its can depend on |Q| and E
alone, so their rate is tabulated over the scattering angle; the can's powder lines sit at
``E = 0`` where ``|Q| = |G|``; a background may decay in time of flight. Spectra come from the
incoherent approximation of ``site_motion``; kinematics are written out here and shared with nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from simulations.arrays import FloatArray, IntArray
from simulations.dynamics import phonon_dos
from simulations.scattering import (
    CAN_MATERIALS,
    MAX_ORDER,
    AtomMotion,
    atom_motions,
    converged_displacements,
    debye_dos,
    energy_grid,
    pocketed,
)
from simulations.virtual.walk import ENERGY_PER_K2

if TYPE_CHECKING:
    from simulations.virtual.experiment import VirtualExperiment

from simulations.virtual.can import VirtualCan, powder_lines

ANGLES = 721  # nodes of the scattering angle, 0 to 180 degrees
SPEED = 437.3934  # m/s of a neutron of 1 meV
GRID_meV = 0.1  # wanted step of a smooth spectrum
DIRECTIONS = 5  # degree of the rule that averages the sample's motion over directions
REACH = 6.0  # standard deviations of the resolution beyond the window


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SmoothPart:
    """Inelastic rate that depends on the scattering angle and the true energy transfer."""

    energy_meV: FloatArray  # (energies,) centres of uniform cells
    step_meV: float
    rate: FloatArray  # (ANGLES, energies) counts per minute and sr in each cell

    def per_pixel(self, twice_theta: FloatArray) -> tuple[IntArray, FloatArray, FloatArray]:
        """Node below each pixel, place above it, and the rate per sr over all energies."""
        total = self.rate.sum(axis=1)
        x = np.asarray(twice_theta) / np.pi * (ANGLES - 1)
        node = np.minimum(x.astype(np.int64), ANGLES - 2)
        above = x - node
        return node, above, (1 - above) * total[node] + above * total[node + 1]

    def spectrum(self, twice_theta: FloatArray) -> FloatArray:
        """Rate per sr at each pixel, (pixels, energies)."""
        node, above, _ = self.per_pixel(twice_theta)
        return (1 - above)[:, None] * self.rate[node] + above[:, None] * self.rate[node + 1]

    def sample(
        self, pixel: IntArray, twice_theta: FloatArray, rng: np.random.Generator
    ) -> FloatArray:
        """True energies of events in the given pixels, (events,)."""
        node, above, rate = self.per_pixel(twice_theta[pixel])
        upper = above * self.rate.sum(axis=1)[node + 1]
        node = node + (rng.random(len(pixel)) * rate < upper)
        cumulative = np.cumsum(self.rate, axis=1)
        cumulative = cumulative / np.maximum(cumulative[:, -1:], 1e-300)
        flat = (cumulative + np.arange(ANGLES)[:, None]).ravel()
        place = np.searchsorted(flat, node + rng.random(len(pixel)), side="right")
        place = np.clip(place - node * len(self.energy_meV), 0, len(self.energy_meV) - 1)
        return self.energy_meV[place] + self.step_meV * (rng.random(len(pixel)) - 0.5)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SmoothParts:
    """What of the smooth parts is switched on."""

    incoherent: SmoothPart | None = None  # one phonon of the sample
    multiphonon: SmoothPart | None = None  # two and more phonons of the sample
    can: SmoothPart | None = None  # one and more phonons of the can
    can_mean_square: float = 0.0  # displacement of a can atom along one direction, angstrom^2


def smooth_parts(experiment: VirtualExperiment) -> SmoothParts:
    """Tables of all smooth parts that the experiment asks for; make them once per run.

    One phonon of the sample scatters with the incoherent cross section, more phonons with the
    total one, the can with the total one throughout (incoherent approximation).
    """
    incoherent = multiphonon = can = None
    mean_square = 0.0
    temperature = experiment.temperature_K
    window = _energy_window(experiment)
    ends = np.linspace(*window, 2 + int((window[1] - window[0]) / (2 * GRID_meV)))
    if experiment.sample and (experiment.incoherent_scale or experiment.multiphonon_scale):
        crystal = experiment.model.crystal
        dos = phonon_dos(experiment.model, phi=experiment.phi)
        pockets = experiment.pockets
        if pockets is not None and dos.imaginary is not None:
            dos = pocketed(dos, pockets)
        grid = energy_grid(dos, ends, MAX_ORDER)
        displacement = converged_displacements(
            experiment.model, temperature, experiment.phi, pockets=pockets
        ).tensors
        motions = list(
            atom_motions(
                crystal, dos, temperature, grid, MAX_ORDER,
                displacement=displacement, degree=DIRECTIONS,
            )
        )  # fmt: skip
        single = crystal.incoherent_barn / (4 * np.pi)
        total = single + crystal.scattering_length**2
        if experiment.incoherent_scale:
            barn = experiment.incoherent_scale * single
            incoherent = _table(experiment, grid, motions, barn, 1, 1)
        if experiment.multiphonon_scale:
            barn = experiment.multiphonon_scale * total
            multiphonon = _table(experiment, grid, motions, barn, 2, MAX_ORDER)
    if experiment.can is not None:
        atom = experiment.can.atom
        dos = debye_dos(CAN_MATERIALS[experiment.can.material].debye_meV)
        grid = energy_grid(dos, ends, MAX_ORDER)
        motions = list(atom_motions(atom, dos, temperature, grid, MAX_ORDER))
        barn = atom.incoherent_barn / (4 * np.pi) + atom.scattering_length**2
        can = _table(experiment, grid, motions, experiment.can.atoms * barn, 1, MAX_ORDER)
        mean_square = motions[0].mean_square
    return SmoothParts(
        incoherent=incoherent, multiphonon=multiphonon, can=can, can_mean_square=mean_square
    )


def twice_theta(experiment: VirtualExperiment) -> FloatArray:
    """Scattering angle of every pixel, radian, (pixels,)."""
    position = experiment.instrument.position_m
    return np.arctan2(np.hypot(position[:, 0], position[:, 1]), position[:, 2])


def can_elastic_rate(
    experiment: VirtualExperiment, can: VirtualCan, mean_square: float
) -> FloatArray:
    """Counts per minute of the can at E = 0: powder lines and incoherent line, (pixels,).

    A line is a Gaussian of |Q|; divergence and pixel size widen it through the scattering angle.
    """
    instrument = experiment.instrument
    k = np.sqrt(experiment.ei_meV / ENERGY_PER_K2)
    angle = twice_theta(experiment)
    Q = 2 * k * np.sin(0.5 * angle)
    distance = np.linalg.norm(instrument.position_m, axis=1)
    # The scattering angle changes along the line from the beam's spot to the pixel.
    spot = np.hypot(instrument.position_m[:, 0], instrument.position_m[:, 1])
    upright = (instrument.position_m[:, 1] / np.maximum(spot, 1e-9)) ** 2
    wide, high = experiment.spread.pixel_m
    blur = experiment.spread.divergence**2
    blur = blur + ((1 - upright) * wide**2 + upright * high**2) / (12 * distance**2)
    width = np.sqrt(can.line_width**2 + blur * (k * np.cos(0.5 * angle)) ** 2)
    barn = np.full(len(Q), can.atom.incoherent_barn[0] / (4 * np.pi)) * np.exp(
        -(Q**2) * mean_square
    )
    for modulus, strength in zip(*powder_lines(can, experiment.ei_meV, mean_square), strict=True):
        z = (Q - modulus) / width
        barn += strength * np.exp(-0.5 * z**2) / (np.sqrt(2 * np.pi) * width)
    rate = experiment.flux * can.atoms * instrument.solid_angle_sr * barn
    return np.where(instrument.masked, 0.0, rate)


def decaying_rate(experiment: VirtualExperiment) -> FloatArray:
    """Counts per minute of the decaying background over the window, (pixels,)."""
    instrument, tau = experiment.instrument, experiment.decay_us
    first, last, elastic = _flights(experiment)
    span = np.exp(-(first - elastic) / tau) - np.exp(-(last - elastic) / tau)
    rate = experiment.decaying * instrument.solid_angle_sr * tau * span
    return np.where(instrument.masked, 0.0, rate)


def sample_decaying(
    experiment: VirtualExperiment, pixel: IntArray, rng: np.random.Generator
) -> FloatArray:
    """Measured energy transfer of decaying-background events in the given pixels, (events,)."""
    first, last, _ = _flights(experiment)
    span = (last - first)[pixel] / experiment.decay_us
    flight = first[pixel] - experiment.decay_us * np.log1p(rng.random(len(pixel)) * np.expm1(-span))
    distance = np.linalg.norm(experiment.instrument.position_m, axis=1)[pixel]
    return experiment.ei_meV - (distance / (flight * 1e-6) / SPEED) ** 2


def inside_window(experiment: VirtualExperiment, true_meV: FloatArray) -> FloatArray:
    """Chance that an event of each true energy is recorded inside the window."""
    low, high = experiment.window
    width = experiment.instrument.resolution.sigma_meV(true_meV, experiment.ei_meV)
    return ndtr((high - true_meV) / width) - ndtr((low - true_meV) / width)


def _energy_window(experiment: VirtualExperiment) -> tuple[float, float]:
    """True energies that can be recorded, meV."""
    low, high = experiment.window
    sigma = experiment.instrument.resolution.sigma_meV(np.array([low, high]), experiment.ei_meV)
    return (
        float(low - REACH * sigma[0]),
        float(min(high + REACH * sigma[1], 0.999 * experiment.ei_meV)),
    )


def _table(
    experiment: VirtualExperiment,
    grid: FloatArray,
    motions: list[AtomMotion],
    barn: FloatArray,
    first: int,
    last: int,
) -> SmoothPart:
    """Rate of orders ``first`` to ``last`` over angle and energy."""
    low, high = _energy_window(experiment)
    step = float(grid[1] - grid[0])
    seen = (grid > low) & (grid < high - 0.5 * step)
    energy = grid[seen]
    k = np.sqrt(experiment.ei_meV / ENERGY_PER_K2)
    kf = np.sqrt((experiment.ei_meV - energy) / ENERGY_PER_K2)
    cosine = np.cos(np.linspace(0, np.pi, ANGLES))
    q_squared = k**2 + kf**2 - 2 * k * kf * cosine[:, None]
    total = np.zeros_like(q_squared)
    for motion in motions:
        x = q_squared * motion.mean_square
        factor = motion.share * barn[motion.atom] * np.exp(-x)
        for order, spectrum in enumerate(motion.orders[:last], start=1):
            factor = factor * x / order
            if order >= first:
                total += factor * spectrum[seen]
    return SmoothPart(
        energy_meV=energy, step_meV=step, rate=experiment.flux * step * total * kf / k
    )


def _flights(experiment: VirtualExperiment) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Microseconds from sample to pixel at both ends of the window and at E = 0."""
    distance = np.linalg.norm(experiment.instrument.position_m, axis=1)
    low, high = experiment.window
    ei = experiment.ei_meV
    first, last, elastic = (
        1e6 * distance / (SPEED * np.sqrt(energy)) for energy in (ei - low, ei - high, ei)
    )
    return first, last, elastic
