"""One-phonon spectra along a path for thousands of force-constant sets at once, with gradients.

Everything that does not depend on the force constants is prepared once (`path_model`): dynamical
matrices linear in the parameters, scattering amplitudes, line shapes. A spectrum then costs, at
every q, a diagonalisation that carries the amplitude along, and a tabulated line per mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from simulations.arrays import ComplexArray, FloatArray
from simulations.constants import BOLTZMANN_MEV_PER_K, HBAR2_OVER_U
from simulations.dynamics import (
    LANES,
    ForceConstantModel,
    LinearMatrices,
    LineTable,
    diagonalised_blocks,
    gradients_of_sets,
    linear_matrices,
    matrix_modes,
    projector_sums,
    real_form,
    spectra_of_block,
    unit_rows,
    unpacked_basis,
)
from simulations.errors import InputError
from simulations.reciprocal import EnergyAxis, ZonePoints, symmetrised_site_tensors
from simulations.scattering.one_phonon import (
    STABLE_MEV,
    SigmaOfEnergy,
    amplitudes,
    bose,
    default_zone,
)

REACH_SIGMA = 6.0
"""Lines of `path_spectra` are cut off this far from their centre: 2e-9 of their weight."""

IMAGINARY_TOLERANCE_MEV = 0.5
"""How far below zero a mode may come out before a set is refused; that of a prior's samples."""

_SUBSTEP_SIGMA = 0.04
_VECTOR = 16
_EXACT_REACH_SIGMA = 9.0
_RELATIVE_GAP = 1e-5
_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PathModel:
    """All of a path's spectra that does not depend on the force constants; see `path_model`."""

    model: ForceConstantModel  # its free parameters vary
    Q: FloatArray  # (Q, 3) 1/angstrom
    energy: EnergyAxis
    sigma_meV: SigmaOfEnergy
    temperature_K: float
    displacement: FloatArray | None  # (atoms, 3, 3) angstrom^2
    matrices: LinearMatrices
    table: LineTable

    @property
    def shape(self) -> tuple[int, int]:
        """Q points and energy bins of a spectrum."""
        return len(self.Q), self.energy.n_bins

    def width_and_slope(self, energy_meV: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Standard deviation of lines, meV, and its derivative by their energy transfer."""
        return _width_and_slope(self.sigma_meV, energy_meV)


def path_model(
    model: ForceConstantModel,
    Q: ArrayLike,
    energy: EnergyAxis,
    sigma_meV: SigmaOfEnergy | float,
    temperature_K: float,
    displacement: FloatArray | None = None,
) -> PathModel:
    """Prepare the spectra of a path.

    Parameters
    ----------
    model : ForceConstantModel
        Its free parameters are the ones that vary.
    Q : (Q, 3) float64
        Where the crystal is looked at, 1/angstrom: q of a path plus a reciprocal-lattice vector.
    energy : EnergyAxis
    sigma_meV : float or callable
        Standard deviation of lines, or a function of their energy transfer, meV. Lines beyond the
        ends of the axis take the width of the end.
    temperature_K : float
    displacement : (atoms, 3, 3) float64 or None
        Debye-Waller tensors of `displacement_tensors`, the same for all sets (`path_spectra` takes
        them set by set as well); None leaves the Debye-Waller factor out.

    Raises
    ------
    ValueError
        If Q holds no vectors, a width is not positive or the temperature is negative.
    """
    Q = np.asarray(Q, dtype=float)
    if Q.ndim != 2 or Q.shape[1] != 3 or len(Q) == 0 or not np.isfinite(Q).all():
        raise ValueError(f"Q has shape {Q.shape}; expected (Q, 3) finite vectors in 1/angstrom")
    bose(1.0, temperature_K)  # refuses what is no temperature
    fixed, basis = model.matrices(Q)
    return PathModel(
        model=model,
        Q=Q,
        energy=energy,
        sigma_meV=width_function(sigma_meV, energy),
        temperature_K=float(temperature_K),
        displacement=displacement,
        matrices=linear_matrices(fixed, basis, real_form(model.crystal)),
        table=line_table(energy, sigma_meV),
    )


def path_spectra(
    path: PathModel,
    phi: ArrayLike,
    *,
    displacements: FloatArray | None = None,
    out: NDArray[Any] | None = None,
    imaginary_tolerance_meV: float = IMAGINARY_TOLERANCE_MEV,
) -> NDArray[Any]:
    """Broadened one-phonon spectra of many force-constant sets, on one thread.

    Parameters
    ----------
    path : PathModel
    phi : (sets, K) float64
        Free parameters, eV/angstrom^2.
    displacements : (sets, atoms, 3, 3) float64, optional
        Debye-Waller tensors of every set, angstrom^2; default: those of ``path``.
    out : (sets, Q, E) float64 or float32, optional
        Where to write, for example a block of a mapped file; default: a new float64 array.
    imaginary_tolerance_meV : float
        Modes down to this far below zero are let pass; imaginary modes have no line.

    Returns
    -------
    (sets, Q, E)
        S(Q,E) averaged over energy bins, barn/meV/sr per primitive cell: ``out``.

    Raises
    ------
    ValueError
        If a shape is wrong, or a set is dynamically unstable (says which).

    References
    ----------
    M. T. Dove, Structure and Dynamics (OUP, 2003), pp. 225-226; as `one_phonon_lines`.
    """
    values = _checked_sets(path.model, phi)
    shape = (len(values), *path.shape)
    if out is None:
        out = np.empty(shape)
    elif out.shape != shape or not out.flags.c_contiguous:
        raise ValueError(f"out has shape {out.shape}; expected {shape}, contiguous")
    _check_displacements(path, displacements, len(values))
    block = len(values) if displacements is None else LANES
    for start in range(0, len(values), block):
        part = slice(start, start + block)
        rows = _amplitude_rows(path, None if displacements is None else displacements[part])
        for inner, squared, turned in diagonalised_blocks(path.matrices, values[part], rows):
            first, last = start + inner.start, start + inner.stop
            _refuse(squared[..., : last - first].min(axis=(0, 1)), first, imaginary_tolerance_meV)
            spectra_of_block(
                squared,
                turned,
                BOLTZMANN_MEV_PER_K * path.temperature_K,
                0.5 * HBAR2_OVER_U,
                STABLE_MEV,
                path.table.first_meV,
                path.table.step_meV,
                path.table.rows,
                out[first:last],
            )
    return out


def path_spectra_gradients(
    path: PathModel,
    phi: ArrayLike,
    *,
    displacements: FloatArray | None = None,
    displacement_gradients: FloatArray | None = None,
    imaginary_tolerance_meV: float = IMAGINARY_TOLERANCE_MEV,
) -> tuple[FloatArray, FloatArray]:
    """Spectra and their derivatives by the force constants, exact also at degenerate points.

    Parameters
    ----------
    path : PathModel
    phi : (sets, K) float64
        Free parameters, eV/angstrom^2.
    displacements : (sets, atoms, 3, 3) float64, optional
        Debye-Waller tensors of every set, angstrom^2; default: those of ``path``.
    displacement_gradients : (sets, K, atoms, 3, 3) float64, optional
        Their derivatives, of `displacement_gradients`; default: they do not move.
    imaginary_tolerance_meV : float
        As in `path_spectra`.

    Returns
    -------
    spectra : (sets, Q, E) float64
        barn/meV/sr per primitive cell; without the interpolation of `path_spectra`.
    gradients : (sets, K, Q, E) float64
        barn/meV/sr per eV/angstrom^2.

    Raises
    ------
    ValueError
        As `path_spectra`.

    References
    ----------
    Y. L. Daleckii and S. G. Krein (1965); R. Bhatia, Matrix Analysis (1997), theorem V.3.3.
    """
    values = _checked_sets(path.model, phi)
    _check_displacements(path, displacements, len(values))
    n, n_k = path.matrices.n, path.matrices.n_parameters
    if displacement_gradients is not None:
        wanted = (len(values), n_k, path.model.crystal.n_atoms, 3, 3)
        if displacement_gradients.shape != wanted:
            raise ValueError(
                f"displacement_gradients has shape {displacement_gradients.shape}; "
                f"expected {wanted}"
            )
        if displacements is None and path.displacement is None:
            raise InputError("displacement_gradients is given without displacement tensors")
    out = np.empty((len(values), 1 + n_k, *path.shape))
    block = _block(16 * len(path.Q) * n * (n + n_k))
    basis = unpacked_basis(path.matrices)
    axis = np.array([path.table.first_meV, path.table.step_meV])
    for start in range(0, len(values), block):
        part = slice(start, start + block)
        squared, vectors = matrix_modes(path.matrices, values[part])
        _refuse(squared.min(axis=(1, 2)), start, imaginary_tolerance_meV)
        U = None if displacements is None else displacements[part]
        rows = _amplitude_rows(path, U)
        f = rows[:, :, 0] + (1j * rows[:, :, 1] if rows.shape[2] == 2 else 0j)
        slopes = np.zeros((0, n_k, len(path.Q), n), dtype=np.complex128)
        if displacement_gradients is not None:
            slopes = _amplitude_slopes(path, U, displacement_gradients[part])
        weights, lines = _line_weights(path, squared)
        part_out = out[part]
        part_out[:] = 0.0
        gradients_of_sets(
            squared,
            vectors,
            basis,
            f,
            slopes,
            lines,
            weights,
            STABLE_MEV,
            _RELATIVE_GAP,
            axis,
            _EXACT_REACH_SIGMA,
            part_out,
        )
    return out[:, 0], out[:, 1:]


def spectra_blocks(
    path: PathModel,
    phi: ArrayLike,
    sets: int = 1024,
    *,
    displacements: FloatArray | None = None,
    imaginary_tolerance_meV: float = IMAGINARY_TOLERANCE_MEV,
) -> Iterator[tuple[slice, FloatArray]]:
    """Spectra block by block, for maps that do not fit into memory.

    Yields
    ------
    part : slice
        Sets of this block.
    spectra : (<= sets, Q, E) float64
        As `path_spectra`; the same memory is used for the next block.
    """
    values = _checked_sets(path.model, phi)
    buffer = np.empty((min(sets, len(values)), *path.shape))
    for start in range(0, len(values), sets):
        part = slice(start, min(start + sets, len(values)))
        block = path_spectra(
            path,
            values[part],
            displacements=None if displacements is None else displacements[part],
            out=buffer[: part.stop - part.start],
            imaginary_tolerance_meV=imaginary_tolerance_meV,
        )
        yield part, block


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ZoneModel:
    """Dynamical matrices over the zone, for Debye-Waller tensors and stability of many sets."""

    model: ForceConstantModel
    matrices: LinearMatrices
    weights: FloatArray  # (Q,)


def zone_model(model: ForceConstantModel, zone: ZonePoints | None = None) -> ZoneModel:
    """Prepare the zone; without points, those of `displacement_tensors`."""
    zone = default_zone(model.crystal) if zone is None else zone
    fixed, basis = model.matrices(zone.q_cart)
    packed = linear_matrices(fixed, basis, real_form(model.crystal))
    return ZoneModel(model=model, matrices=packed, weights=np.asarray(zone.weights, dtype=float))


def set_displacements(zone: ZoneModel, temperature_K: float, phi: ArrayLike) -> FloatArray:
    """Debye-Waller tensors of many sets; `displacement_tensors` set by set.

    Parameters
    ----------
    zone : ZoneModel
    temperature_K : float
    phi : (sets, K) float64
        eV/angstrom^2.

    Returns
    -------
    (sets, atoms, 3, 3) float64
        angstrom^2.

    Raises
    ------
    ValueError
        If a shape is wrong or modes are imaginary.
    """
    values = _checked_sets(zone.model, phi)
    crystal, n = zone.model.crystal, zone.matrices.n
    bose(1.0, temperature_K)
    out = np.empty((len(values), crystal.n_atoms, 3, 3))
    sums = np.empty((n, n, LANES))
    thermal = BOLTZMANN_MEV_PER_K * temperature_K
    turn = zone.matrices.transform
    unit = unit_rows(zone.matrices)
    for part, squared, rows in diagonalised_blocks(zone.matrices, values, unit):
        count = part.stop - part.start
        _refuse(squared[..., :count].min(axis=(0, 1)), part.start, 0.05)
        projector_sums(squared, rows, zone.weights, thermal, STABLE_MEV, sums)
        whole = (turn @ np.moveaxis(sums, -1, 0)[:count] @ turn.conj().T).real
        whole = whole.reshape(count, crystal.n_atoms, 3, crystal.n_atoms, 3)
        out[part] = np.moveaxis(np.diagonal(whole, axis1=1, axis2=3), -1, 1)
    out *= 0.5 * HBAR2_OVER_U / crystal.masses_u[:, None, None]
    return symmetrised_site_tensors(crystal, out)


def _block(bytes_each: int) -> int:
    return max(1, _BLOCK_BYTES // bytes_each)


def _checked_sets(model: ForceConstantModel, phi: ArrayLike) -> FloatArray:
    values = np.ascontiguousarray(phi, dtype=float)
    if values.ndim != 2 or values.shape[1] != len(model.names):
        raise ValueError(
            f"phi has shape {values.shape}; expected (sets, K) with K = {len(model.names)}"
        )
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise InputError(f"phi of set {bad[0]} holds NaN or infinity; expected finite values")
    return values


def _check_displacements(path: PathModel, displacements: FloatArray | None, sets: int) -> None:
    wanted = (sets, path.model.crystal.n_atoms, 3, 3)
    if displacements is not None and displacements.shape != wanted:
        raise ValueError(f"displacements has shape {displacements.shape}; expected {wanted}")


def _refuse(lowest_squared: FloatArray, start: int, tolerance_meV: float) -> None:
    """Raise where modes are imaginary beyond the tolerance."""
    unstable = np.flatnonzero(lowest_squared < -(tolerance_meV**2))
    if len(unstable):
        lowest = -np.sqrt(-lowest_squared[unstable[0]])
        raise InputError(
            f"phi: set {start + unstable[0]} has imaginary modes down to {lowest:.3f} meV; "
            f"expected dynamically stable sets (tolerance {tolerance_meV:g} meV). Draw them with "
            "BoxPrior.sample."
        )


def _set_amplitudes(path: PathModel, displacements: FloatArray | None) -> FloatArray:
    """Vectors f, (1 or sets, Q, n) float64."""
    if displacements is None:
        return amplitudes(path.model.crystal, path.Q, path.displacement)[None]
    return np.array([amplitudes(path.model.crystal, path.Q, U) for U in displacements])


def _amplitude_rows(path: PathModel, displacements: FloatArray | None) -> FloatArray:
    """Conjugate amplitudes in the kernel's basis, (1 or sets, Q, 1 or 2, n): real, imaginary."""
    turned = _set_amplitudes(path, displacements) @ path.matrices.transform
    size = np.abs(turned).max(initial=1e-300)
    if path.matrices.is_real and np.abs(turned.imag).max(initial=0.0) <= 1e-12 * size:
        return np.ascontiguousarray(turned.real[:, :, None, :])
    return np.ascontiguousarray(np.stack([turned.real, turned.imag], axis=2))


def _amplitude_slopes(
    path: PathModel, displacements: FloatArray | None, gradients: FloatArray
) -> ComplexArray:
    """Derivative of the conjugate amplitudes by the parameters, (sets, K, Q, n)."""
    f = _set_amplitudes(path, displacements)[:, None]
    exponent = 0.5 * np.einsum("qa,skiab,qb->skqi", path.Q, gradients, path.Q, optimize=True)
    return np.ascontiguousarray((-np.repeat(exponent, 3, axis=-1) * f) @ path.matrices.transform)


def _line_weights(path: PathModel, squared: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Factor of |e f|^2, and width, of every line with their derivatives by energy.

    Both are (sets, Q, n, 2, 2): creation and annihilation, value and derivative.
    """
    live = squared > STABLE_MEV**2
    energy = np.sqrt(np.where(live, squared, 1.0))
    n = bose(energy, path.temperature_K)
    thermal = BOLTZMANN_MEV_PER_K * path.temperature_K
    n_slope = -n * (n + 1) / thermal if thermal > 0 else np.zeros_like(n)
    weights = np.empty((*squared.shape, 2, 2))
    lines = np.empty_like(weights)
    for side, occupation in ((0, n + 1), (1, n)):
        factor = 0.5 * HBAR2_OVER_U / energy
        weights[..., side, 0] = factor * occupation
        weights[..., side, 1] = factor * (n_slope - occupation / energy)
        sign = 1 - 2 * side
        width, slope = path.width_and_slope(sign * energy)
        lines[..., side, 0], lines[..., side, 1] = width, slope
    return np.where(live[..., None, None], weights, 0.0), lines


def line_table(energy: EnergyAxis, sigma_meV: SigmaOfEnergy | float) -> LineTable:
    """Tabulate Gaussian lines averaged over the bins of an axis.

    Parameters
    ----------
    energy : EnergyAxis
    sigma_meV : float or callable
        Standard deviation, or that of a line as a function of its energy transfer, meV.

    Returns
    -------
    LineTable
        Interpolation is good to 1e-8 of a line's highest bin.

    Raises
    ------
    ValueError
        If a width is not positive.
    """
    step, n_bins = energy.step_meV, energy.n_bins
    first = float(energy.edges_meV[0])
    sigma = width_function(sigma_meV, energy)
    every = sigma(np.linspace(first, float(energy.edges_meV[-1]), 4 * n_bins))
    columns = int(2 * np.ceil(REACH_SIGMA * every.max() / step) + 3)
    width = _VECTOR * int(np.ceil(columns / _VECTOR))
    substeps = max(2, int(np.ceil(step / (_SUBSTEP_SIGMA * every.min()))))
    bins = np.zeros(1) if np.ptp(every) == 0 else np.arange(n_bins + width) - width // 2
    inside: FloatArray = first + step * (bins[:, None] + np.arange(substeps + 1) / substeps)
    edges: FloatArray = first + step * (bins[:, None] - width // 2 + np.arange(width + 1.0))
    s, slope = _width_and_slope(sigma, inside)
    line, by_energy = gaussian_line(edges[:, None, :], inside, s, slope)
    return LineTable(
        first_meV=first,
        step_meV=step,
        n_bins=n_bins,
        rows=np.ascontiguousarray(np.stack([line, by_energy * step / substeps], axis=2)),
    )


def width_function(sigma_meV: SigmaOfEnergy | float, energy: EnergyAxis) -> SigmaOfEnergy:
    """Standard deviation as a function of energy transfer, beyond the axis that of its ends.

    Raises
    ------
    ValueError
        If a width, on the axis, is not positive.
    """
    first, last = float(energy.edges_meV[0]), float(energy.edges_meV[-1])
    if callable(sigma_meV):
        function = sigma_meV
    else:
        number = float(sigma_meV)
        function = lambda energies: np.full(np.shape(energies), number)  # noqa: E731

    every = np.asarray(function(np.linspace(first, last, 4 * energy.n_bins)), dtype=float)
    if not (np.isfinite(every).all() and (every > 0).all()):
        raise InputError(
            f"sigma_meV is {np.min(every)} meV somewhere between {first:g} and {last:g} meV; "
            "expected a positive standard deviation"
        )
    return lambda energies: np.asarray(function(np.clip(energies, first, last)), dtype=float)


def _width_and_slope(sigma: SigmaOfEnergy, energy: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Width and its derivative by energy, central differences of fourth order."""
    h = 1e-3
    f = [sigma(energy + k * h) for k in (-2, -1, 1, 2)]
    return sigma(energy), (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h)


def gaussian_line(
    edges: FloatArray, centre: FloatArray, sigma: FloatArray, sigma_slope: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Normalised Gaussians averaged over bins, and their derivative by the energy of the line.

    Parameters
    ----------
    edges : (..., bins + 1) float64
        meV.
    centre, sigma, sigma_slope : (...) float64
        Energy of the line, its standard deviation and d sigma / d energy.

    Returns
    -------
    line : (..., bins) float64
        1/meV.
    by_energy : (..., bins) float64
        1/meV^2.
    """
    z = (edges - centre[..., None]) / sigma[..., None]
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    dz = -(1 + z * sigma_slope[..., None]) / sigma[..., None]
    width = np.diff(edges)
    return np.diff(ndtr(z)) / width, np.diff(density * dz) / width
