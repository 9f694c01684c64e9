"""A model without phonons, its exact sibling, and sums of models: what the seams are held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import erf

from simulations.arrays import FloatArray
from simulations.fold import Form, VoxelExposure, VoxelMap
from simulations.instrument import wave_vector
from simulations.likelihood import NONE_OFF, ForwardModel, State, Trajectories
from simulations.likelihood.forward_model import Derived
from simulations.prior import BoxPrior
from simulations.reciprocal import EnergyAxis


class _Line:
    """One flat line: at an energy, with an amplitude in counts per exposure and meV."""

    name = "a flat line"
    parameter_names = ("line energy", "line amplitude")
    parameter_units = ("meV", "barn/sr")

    def __init__(self, voxels: VoxelMap, energy: EnergyAxis, ei_meV: float, sigma_meV: float):
        self.voxels, self.axis, self.ei, self.sigma = voxels, energy, ei_meV, sigma_meV

    def prepare(self, phi: FloatArray) -> State:
        """Nothing to compute: the two numbers."""
        return float(phi[0]), float(phi[1])

    def _rates(self, D: FloatArray, state: State, log_width: float):
        energy, amplitude = state
        width = self.sigma * np.exp(log_width)
        edge = (self.axis.edges_meV - energy) / width
        step = np.diff(self.axis.edges_meV)
        shape = np.diff(erf(edge / np.sqrt(2.0))) / (2 * step)
        density = np.exp(-0.5 * edge**2) / np.sqrt(2 * np.pi) / width
        by_energy = -np.diff(density) / step
        by_width = -np.diff(density * edge * width) / step
        jacobian = D[..., None] * np.stack([amplitude * by_energy, shape, amplitude * by_width], -1)
        return D * amplitude * shape, jacobian

    def derived(self, phi: FloatArray, covariance: FloatArray) -> tuple[Derived, ...]:
        """The energy as a temperature."""
        kelvin = 11.6045
        value, sigma = kelvin * float(phi[0]), kelvin * float(np.sqrt(covariance[0, 0]))
        return (Derived(name="line temperature", unit="K", value=value, sigma=sigma),)

    def branches(self, hkl: FloatArray, phi: FloatArray) -> FloatArray:
        """One line over the whole map."""
        return np.full((len(hkl), 1), float(phi[0]))

    def draw(self, prior: BoxPrior, n: int, rng: np.random.Generator) -> FloatArray:
        """Any set of the box will do."""
        return prior.sample(n, rng).values


class FoldedLine(_Line):
    """From sums of exposure."""

    form: Form = "images"

    def rates(
        self, exposure: VoxelExposure, state: State, *, log_width: float, gradient: bool
    ) -> tuple[FloatArray, FloatArray]:
        """D times a Gaussian averaged over each bin."""
        D = np.zeros((self.voxels.n_path_bins, self.axis.n_bins))
        known, _ = exposure.path_sums(self.voxels)
        D[:, : known.shape[1]] = known
        rate, jacobian = self._rates(D, state, log_width)
        return rate, jacobian if gradient else jacobian[..., :0]


class TracedLine(_Line):
    """The same from trajectories: every step adds its exposure to its cell."""

    missetting = NONE_OFF
    aside = NONE_OFF

    def doubting(self) -> TracedLine:
        """Itself: nothing can be mis-set."""
        return self

    def typical(self) -> None:
        """Nothing blurs q."""

    def rates(
        self,
        trajectories: Trajectories,
        state: State,
        *,
        log_width: float,
        off: FloatArray | None,
        gradient: bool,
    ) -> tuple[FloatArray, FloatArray]:
        """As the folded line; nothing can be mis-set."""
        length = np.diff(trajectories.start)
        step = np.arange(len(trajectories.cell)) - np.repeat(trajectories.start[:-1], length)
        step += np.repeat(trajectories.first_step, length)
        edges = trajectories.step_edges_meV
        factor = wave_vector(self.ei - 0.5 * (edges[1:] + edges[:-1])) / wave_vector(self.ei)
        weight = np.repeat(trajectories.weight[trajectories.pixel], length)
        weight *= (np.diff(edges) * factor)[step]
        inside = trajectories.cell >= 0
        shape = (self.voxels.n_path_bins, self.axis.n_bins)
        D = np.bincount(
            trajectories.cell[inside], weights=weight[inside], minlength=shape[0] * shape[1]
        ).reshape(shape)
        rate, jacobian = self._rates(D, state, log_width)
        return rate, jacobian[..., : 3 if gradient else 0]


@dataclass(frozen=True)
class SumOfModels:
    """Rates of several forward models together; parameters one after the other."""

    parts: Sequence[ForwardModel]

    @property
    def name(self) -> str:
        return " with ".join(p.name for p in self.parts)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return tuple(n for p in self.parts for n in p.parameter_names)

    @property
    def parameter_units(self) -> tuple[str, ...]:
        return tuple(u for p in self.parts for u in p.parameter_units)

    @property
    def form(self) -> Form:
        return "images" if any(p.form == "images" for p in self.parts) else "tensor"

    def _split(self, phi: FloatArray) -> list[FloatArray]:
        return np.split(phi, np.cumsum([len(p.parameter_names) for p in self.parts])[:-1])

    def prepare(self, phi: FloatArray) -> State:
        return [p.prepare(x) for p, x in zip(self.parts, self._split(phi), strict=True)]

    def rates(
        self, exposure: VoxelExposure, state: State, *, log_width: float, gradient: bool
    ) -> tuple[FloatArray, FloatArray]:
        each = [
            p.rates(exposure, s, log_width=log_width, gradient=gradient)
            for p, s in zip(self.parts, state, strict=True)
        ]
        rate = np.sum([r for r, _ in each], axis=0)
        by_width = np.sum([j[..., -1:] for _, j in each], axis=0)
        return rate, np.concatenate([*(j[..., :-1] for _, j in each), by_width], axis=-1)

    def derived(self, phi: FloatArray, covariance: FloatArray) -> tuple[Derived, ...]:
        found, low = [], 0
        for part, values in zip(self.parts, self._split(phi), strict=True):
            own = slice(low, low + len(values))
            found += part.derived(values, covariance[own, own])
            low = own.stop
        return tuple(found)

    def branches(self, hkl: FloatArray, phi: FloatArray) -> FloatArray:
        each = zip(self.parts, self._split(phi), strict=True)
        return np.concatenate([p.branches(hkl, x) for p, x in each], axis=1)

    def draw(self, prior: BoxPrior, n: int, rng: np.random.Generator) -> FloatArray:
        drawn = [p.draw(prior.restricted(p.parameter_names), n, rng) for p in self.parts]
        return np.concatenate(drawn, axis=1)
