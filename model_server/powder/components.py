"""What a powder spectrum is made of: phonons, multiphonons, a can and a smooth background.

Everything is on the cells of the measured spectrum, (energy, |Q|), cropped to the |Q| it reaches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter

from model_server.powder.aluminium import can_map
from simulations.arrays import BoolArray, FloatArray
from simulations.constants import BOLTZMANN_MEV_PER_K
from simulations.dynamics import ForceConstantModel, default_dos_zone, modes, phonon_dos
from simulations.errors import InputError
from simulations.instrument import Resolution
from simulations.reciprocal import ZonePoints, quasi_random_points
from simulations.scattering import (
    MeasuredSpectrum,
    SigmaOfEnergy,
    displacement_gradients,
    displacement_tensors,
    incoherent_spectrum,
    powder_spectrum,
)

SMOOTHED_CELLS = 5  # variances are averaged over so many cells either way: few counts scatter


@dataclass(frozen=True, kw_only=True, slots=True)
class Nuisance:
    """One way in which the forward model may be off, with its Gaussian prior."""

    name: str
    unit: str
    centre: float
    sigma: float
    step: float  # of its finite difference


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shapes:
    """Forward model at one point; arrays are (energy, |Q|) and in barn/meV/sr times ``factor``."""

    one: FloatArray  # coherent one-phonon
    slopes: FloatArray | None  # (energy, |Q|, parameters) of the same


class Components:
    """One spectrum with everything that a fit needs again and again.

    Parameters
    ----------
    spectrum : MeasuredSpectrum
    model : ForceConstantModel
        Crystal at the sample's temperature; its free parameters are fitted.
    resolution : Resolution
        Of the instrument.
    points : int
        Sampled q of the powder average.
    coarse_points : int
        The same while the fit is blurred.
    max_order : int
        Most phonons exchanged at once.
    nuisances : tuple of Nuisance
        In the order of `Width`.
    can : FloatArray or None
        Measured can on the cells of the spectrum; None: none.
    can_material : str or None
        A can that was not measured: its expected background.
    """

    def __init__(
        self,
        spectrum: MeasuredSpectrum,
        model: ForceConstantModel,
        resolution: Resolution,
        *,
        points: int,
        coarse_points: int,
        max_order: int,
        nuisances: tuple[Nuisance, ...],
        can: FloatArray | None = None,
        can_material: str | None = None,
    ) -> None:
        self.spectrum, self.model, self.resolution = spectrum, model, resolution
        self.nuisances, self.max_order = nuisances, max_order
        columns = np.flatnonzero(spectrum.valid.any(axis=0))
        self.columns = slice(int(columns[0]), int(columns[-1]) + 1)
        self.valid: BoolArray = spectrum.valid[:, self.columns]
        q, energy = spectrum.q_inverse_A, spectrum.energy_meV
        dq, de = q[1] - q[0], energy[1] - energy[0]
        self.q = q[self.columns]
        self.q_edges = np.append(self.q - dq / 2, self.q[-1] + dq / 2)
        self.energy = energy
        self.e_edges = np.append(energy - de / 2, energy[-1] + de / 2)
        self.zone: ZonePoints = quasi_random_points(model.crystal, points)
        self.coarse_zone: ZonePoints = quasi_random_points(model.crystal, coarse_points)
        # One mesh for all: an adaptive one grows without bound where a trial is nearly unstable.
        self.mesh: ZonePoints = default_dos_zone(model.crystal)
        self.data = np.where(self.valid, spectrum.intensity[:, self.columns], 0.0)
        self.sigma = self._weights()
        self.noise = self.sigma if spectrum.sigma is not None else _noise(self.data, self.valid)
        # S(Q,E) -> chi'': detailed balance turned into one factor per energy
        self.factor = np.ones(len(energy))
        if spectrum.susceptibility and spectrum.temperature_K > 0:
            thermal = BOLTZMANN_MEV_PER_K * spectrum.temperature_K
            self.factor = -np.expm1(-energy / thermal)
        rows = np.repeat(energy[:, None], len(self.q), axis=1)
        blocks = np.floor(rows / (0.1 * spectrum.ei_meV)) * 1000 + np.floor(self.q / 1.0)
        self.blocks = blocks[self.valid]
        self.can = self._can(can, can_material)

    def _weights(self) -> FloatArray:
        """Standard deviations that weigh the fit: of the file, smoothed, or all alike."""
        spectrum = self.spectrum
        if spectrum.sigma is None:
            return np.ones_like(self.data)
        sigma = np.where(self.valid, spectrum.sigma[:, self.columns], 1.0)
        if not np.all(np.isfinite(sigma) & (sigma > 0)):
            raise InputError(f"{spectrum.name}: sigma is not positive in every valid cell")
        return np.sqrt(_smoothed(sigma**2, self.valid))

    def _can(self, can: FloatArray | None, material: str | None) -> FloatArray | None:
        if can is not None:
            if can.shape != self.spectrum.intensity.shape:
                raise InputError(
                    f"can has shape {can.shape}; expected {self.spectrum.intensity.shape}, that of "
                    f"{self.spectrum.name}. Fold both with one experiment."
                )
            return np.nan_to_num(can[:, self.columns])
        return None if material is None else self.can_of(material)

    def can_of(self, material: str) -> FloatArray:
        """Expected scattering of a can per atom, (energy, |Q|)."""
        log_width = self.nuisances[0].centre
        ei = self.spectrum.ei_meV
        return (
            self.factor[:, None]
            * can_map(
                material,
                np.maximum(self.q_edges, 1e-3),
                self.e_edges,
                temperature_K=self.spectrum.temperature_K,
                resolution=lambda energy: np.exp(log_width) * self.resolution.sigma_meV(energy, ei),
            ).T
        )

    def value(self, x: FloatArray, name: str) -> float | None:
        """A nuisance of x, (parameters + nuisances,); None where it is not fitted."""
        for k, nuisance in enumerate(self.nuisances):
            if nuisance.name == name:
                return float(x[len(self.model.names) + k])
        return None

    def width(self, x: FloatArray) -> SigmaOfEnergy:
        """Standard deviation of a line by energy transfer: resolution, and the phonon's own."""
        factor = float(np.exp(self.value(x, LOG_WIDTH) or 0.0))
        own = self.value(x, LOG_OWN_WIDTH)
        share = 0.0 if own is None else float(np.exp(own))
        ei = self.spectrum.ei_meV
        return lambda energy: np.hypot(
            factor * self.resolution.sigma_meV(energy, ei), share * np.abs(energy)
        )

    def axes(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Edges in |Q| and E that the model is computed on, moved as x says."""
        q = self.q_edges - (self.value(x, Q_OFFSET) or 0.0)
        e = self.e_edges - (self.value(x, E_OFFSET) or 0.0)
        q[0] = max(q[0], 1e-3)
        return q, e

    def slow(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Incoherent one-phonon part, and two and more phonons, (energy, |Q|) each."""
        phi = x[: len(self.model.names)]
        dos = phonon_dos(self.model, phi=phi, zone=self.mesh)
        q, e = self.axes(x)
        out = incoherent_spectrum(
            self.model.crystal,
            dos,
            q,
            e,
            temperature_K=self.spectrum.temperature_K,
            resolution=self.width(x),
            ei_meV=self.spectrum.ei_meV,
            max_order=self.max_order,
            displacement=self.displacement(phi),
        )
        factor = self.factor[:, None]
        return out.one_phonon.T * factor, out.multiphonon.T * factor

    def stable(self, x: FloatArray) -> bool:
        """Whether no mode is imaginary, at any point that any stage of a fit looks at."""
        phi = x[: len(self.model.names)]
        try:
            for zone in (self.coarse_zone, self.zone, self.mesh):
                if modes(self.model, zone.q_cart, phi)[0].min() < 0:
                    return False
        except InputError:
            return False
        return True

    def displacement(self, phi: FloatArray) -> FloatArray:
        """Mean-square displacements, (atoms, 3, 3), angstrom^2."""
        return displacement_tensors(self.model, self.spectrum.temperature_K, phi, self.mesh)

    def one_phonon(self, x: FloatArray, *, gradient: bool, coarse: bool = False) -> Shapes:
        """Coherent one-phonon part and its derivatives by the force constants.

        The derivative through the Debye-Waller factor is that of the mean atom.
        """
        q, e = self.axes(x)
        phi = x[: len(self.model.names)]
        temperature_K = self.spectrum.temperature_K
        shift = np.zeros(0)
        if gradient:
            displacement, by_phi = displacement_gradients(self.model, temperature_K, phi, self.mesh)
            shift = np.trace(by_phi, axis1=-2, axis2=-1).mean(axis=1) / 3
        else:
            displacement = self.displacement(phi)
        spread = self.value(x, LOG_Q_WIDTH)
        out = powder_spectrum(
            self.model,
            q,
            e,
            temperature_K=temperature_K,
            resolution=self.width(x),
            ei_meV=self.spectrum.ei_meV,
            momentum_sigma=0.0 if spread is None else float(np.exp(spread)),
            phi=phi,
            zone=self.coarse_zone if coarse else self.zone,
            displacement=displacement,
            gradient=gradient,
        )
        one = out.intensity.T * self.factor[:, None]
        slopes = None
        if out.gradient is not None:
            slopes = out.gradient.transpose(2, 1, 0) * self.factor[:, None, None]
            slopes -= (self.q**2 * one)[:, :, None] * shift
        return Shapes(one=one, slopes=slopes)

    def background(self) -> FloatArray:
        """Smooth non-negative shapes, (energy, |Q|, shapes): what phonons do not make.

        Products of Bernstein polynomials, degree 2 in E and 1 in Q^2, each between 0 and 1.
        """
        E = (self.energy - self.energy[0]) / max(float(np.ptp(self.energy)), 1e-12)
        Q = (self.q / self.q[-1]) ** 2
        by_energy = np.stack([(1 - E) ** 2, 2 * E * (1 - E), E**2], axis=1)
        by_momentum = np.stack([1 - Q, Q], axis=1)
        shapes = np.einsum("ea,qb->eqab", by_energy, by_momentum)
        return shapes.reshape(len(E), len(Q), -1) * self.factor[:, None, None]


E_OFFSET_SHARE = 0.003  # of Ei: chopper lines are not symmetric, so E = 0 is known no better
LOG_WIDTH = "ln resolution width"
LOG_OWN_WIDTH = "ln own width / E"
LOG_Q_WIDTH = "ln width in |Q|"
Q_OFFSET = "|Q| offset"
E_OFFSET = "E offset"


def usual_nuisances(
    spectrum: MeasuredSpectrum,
    *,
    log_width: float,
    log_width_sigma: float,
    elastic_meV: float | None = None,
) -> tuple[Nuisance, ...]:
    """Nuisances of a measured spectrum: widths, and axes that may be off.

    Parameters
    ----------
    spectrum : MeasuredSpectrum
        Normalised ones (without sigma) have axes that were inferred: a quarter of a cell.
    log_width, log_width_sigma : float
        Of the resolution over the instrument's.
    elastic_meV : float, optional
        Where the elastic line of the file lies.
    """
    inferred = spectrum.sigma is None
    dq = float(spectrum.q_inverse_A[1] - spectrum.q_inverse_A[0])
    de = float(spectrum.energy_meV[1] - spectrum.energy_meV[0])
    return (
        Nuisance(name=LOG_WIDTH, unit="1", centre=log_width, sigma=log_width_sigma, step=0.02),
        Nuisance(name=LOG_OWN_WIDTH, unit="1", centre=np.log(0.02), sigma=0.7, step=0.1),
        Nuisance(name=LOG_Q_WIDTH, unit="1", centre=np.log(0.05), sigma=0.5, step=0.1),
        Nuisance(
            name=Q_OFFSET,
            unit="1/angstrom",
            centre=0.0,
            sigma=0.5 * dq if inferred else 0.01,
            step=0.1 * dq,
        ),
        Nuisance(
            name=E_OFFSET,
            unit="meV",
            centre=elastic_meV or 0.0,
            sigma=0.25 * de if inferred else E_OFFSET_SHARE * spectrum.ei_meV,
            step=0.1 * de,
        ),
    )


def _smoothed(values: FloatArray, valid: BoolArray) -> FloatArray:
    """Mean over the neighbouring valid cells; 1 where a cell is not valid."""
    size = SMOOTHED_CELLS
    weight = uniform_filter(valid.astype(float), size, mode="constant")
    total = uniform_filter(np.where(valid, values, 0.0), size, mode="constant")
    return np.where(valid, total / np.maximum(weight, 1e-12), 1.0)


def _noise(data: FloatArray, valid: BoolArray) -> FloatArray:
    """Standard deviation of cells from what no smooth function has: mixed second differences."""
    whole = valid.copy()
    whole[[0, -1]] = False
    whole[:, [0, -1]] = False
    for a in (-1, 0, 1):
        for b in (-1, 0, 1):
            whole &= np.roll(valid, (a, b), (0, 1))
    by_energy = np.roll(data, 1, 0) - 2 * data + np.roll(data, -1, 0)
    mixed = np.roll(by_energy, 1, 1) - 2 * by_energy + np.roll(by_energy, -1, 1)
    square = np.where(whole, (mixed / 6) ** 2, 0.0)
    size = 2 * SMOOTHED_CELLS + 1
    weight = uniform_filter(whole.astype(float), size, mode="nearest")
    local = uniform_filter(square, size, mode="nearest") / np.maximum(weight, 1e-9)
    overall = float(square.sum() / max(whole.sum(), 1))
    least = 0.05 * overall if overall > 0 else 1e-12
    return np.sqrt(np.maximum(np.where(weight > 1e-6, local, overall), least))
