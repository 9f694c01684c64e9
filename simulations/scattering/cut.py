"""Cuts through the coherent one-phonon S(Q,E) of a single crystal, with integration across them.

A line cut is a map over Q along a line and E; a plane cut is a map over two directions of Q in a
band of energy. Both are averages over boxes: a bin along the axes of the cut, times given
half-widths across them. The quadrature is deterministic and contains the Gaussian momentum
resolution, isotropic in the three directions of Q, so that its order is the only approximation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from simulations.arrays import FloatArray
from simulations.dynamics import ForceConstantModel
from simulations.errors import InputError
from simulations.instrument import Resolution
from simulations.scattering.one_phonon import (
    broadened,
    displacement_tensors,
    one_phonon_lines,
)
from simulations.scattering.pockets import Pockets, refuse_imaginary
from simulations.scattering.powder import SigmaOfEnergy, momentum_limits, sigma_function

_BATCH = 4_000_000  # numbers held at a time
_TAIL = 4.0  # standard deviations of the momentum resolution that the quadrature covers


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LineCut:
    """S(Q,E) per primitive cell along a line, averaged over bins and across the line."""

    hkl: FloatArray  # (Q, 3) centres of the bins, r.l.u. of the conventional cell
    momentum_edges: FloatArray  # (Q + 1,) 1/angstrom from the start of the line
    energy_edges_meV: FloatArray  # (E + 1,)
    intensity: FloatArray  # (Q, E) barn/meV/sr
    accessible: NDArray[np.bool_]  # (Q, E) bins whose centre the instrument can reach


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PlaneCut:
    """S(Q,E) per primitive cell over a plane, averaged over an energy band and across the plane."""

    hkl: FloatArray  # (U, V, 3) centres of the bins, r.l.u. of the conventional cell
    u_edges: FloatArray  # (U + 1,) 1/angstrom from the origin along u
    v_edges: FloatArray  # (V + 1,) 1/angstrom from the origin along v, perpendicular to u
    energy_band_meV: tuple[float, float]
    intensity: FloatArray  # (U, V) barn/meV/sr
    accessible: NDArray[np.bool_]  # (U, V) reachable at the middle of the band


def line_cut(
    model: ForceConstantModel,
    start_hkl: ArrayLike,
    stop_hkl: ArrayLike,
    bins: int,
    energy_edges_meV: ArrayLike,
    *,
    temperature_K: float,
    resolution: Resolution | SigmaOfEnergy | float,
    ei_meV: float | None = None,
    two_theta_deg: tuple[float, float] = (0.0, 180.0),
    half_widths: tuple[float, float] = (0.0, 0.0),
    across_hkl: ArrayLike | None = None,
    momentum_sigma: float = 0.0,
    spacing: float = 0.03,
    phi: ArrayLike | None = None,
    displacement: FloatArray | None = None,
    pockets: Pockets | None = None,
) -> LineCut:
    """S(Q,E) along a straight line, integrated over a box across it.

    Parameters
    ----------
    model : ForceConstantModel
    start_hkl, stop_hkl : (3,) float64
        Ends of the line, r.l.u. of the conventional cell.
    bins : int
        Number of equal bins between them.
    energy_edges_meV : (E + 1,) float64
        Both signs allowed: both sides carry their Bose factor.
    temperature_K : float
    resolution : Resolution, callable or float
        Energy resolution as in `powder_spectrum`.
    ei_meV : float or None
        Incident energy, needed by a `Resolution`; None: every bin counts as accessible.
    two_theta_deg : (float, float)
        Scattering angles that the detectors span.
    half_widths : (float, float)
        Half-widths of the box, 1/angstrom: along the part of ``across_hkl`` that is perpendicular
        to the line, and along the third direction. 0: no integration.
    across_hkl : (3,) float64 or None
        None: the conventional reciprocal vector that is closest to perpendicular to the line.
    momentum_sigma : float
        Standard deviation of a Gaussian resolution in Q, 1/angstrom, alike in three directions.
    spacing : float
        Upper limit to the mean distance of quadrature points, 1/angstrom.
    phi : (K,) float64 or None
        Free parameters, eV/angstrom^2; None: the reference.
    displacement : (atoms, 3, 3) float64 or None
        Debye-Waller tensors; None: computed from the model at this temperature.
    pockets : Pockets or None
        How imaginary modes count; None: they are refused.

    Returns
    -------
    LineCut

    Raises
    ------
    ValueError
        If the line has no length, widths are negative, or modes are imaginary.
    """
    edges = _increasing(energy_edges_meV, "energy_edges_meV")
    reciprocal = model.crystal.conventional_reciprocal
    start = np.asarray(start_hkl, dtype=float) @ reciprocal
    line = np.asarray(stop_hkl, dtype=float) @ reciprocal - start
    length = float(np.linalg.norm(line))
    if not length > 1e-9:
        raise InputError(f"stop_hkl is {np.asarray(stop_hkl).tolist()}, the start of the line too")
    if bins < 1:
        raise InputError(f"bins is {bins}; expected at least 1")
    along = line / length
    if across_hkl is None:
        overlap = np.abs(reciprocal @ along) / np.linalg.norm(reciprocal, axis=1)
        across = reciprocal[int(np.argmin(overlap))]
    else:
        across = np.asarray(across_hkl, dtype=float) @ reciprocal
    axes = _frame(along, across, "across_hkl")
    momentum_edges = np.linspace(0.0, length, bins + 1)
    boxes = (0.5 * length / bins, *half_widths)
    centres = start + 0.5 * (momentum_edges[1:] + momentum_edges[:-1])[:, None] * along
    intensity = _box_averages(
        model, centres, axes, boxes, edges, temperature_K, sigma_function(resolution, ei_meV),
        momentum_sigma, spacing, phi, displacement, pockets,
    )  # fmt: skip
    middle = 0.5 * (edges[1:] + edges[:-1])
    return LineCut(
        hkl=centres @ np.linalg.inv(reciprocal),
        momentum_edges=momentum_edges,
        energy_edges_meV=edges,
        intensity=intensity,
        accessible=_accessible(centres[:, None, :], middle[None, :], ei_meV, two_theta_deg),
    )


def plane_cut(
    model: ForceConstantModel,
    origin_hkl: ArrayLike,
    u_hkl: ArrayLike,
    v_hkl: ArrayLike,
    u_edges: ArrayLike,
    v_edges: ArrayLike,
    energy_band_meV: tuple[float, float],
    *,
    temperature_K: float,
    resolution: Resolution | SigmaOfEnergy | float,
    ei_meV: float | None = None,
    two_theta_deg: tuple[float, float] = (0.0, 180.0),
    half_width: float = 0.0,
    momentum_sigma: float = 0.0,
    spacing: float = 0.03,
    phi: ArrayLike | None = None,
    displacement: FloatArray | None = None,
    pockets: Pockets | None = None,
) -> PlaneCut:
    """S(Q,E) over a plane of Q, averaged over an energy band and integrated across the plane.

    Parameters
    ----------
    model : ForceConstantModel
    origin_hkl : (3,) float64
        Where both axes are zero, r.l.u. of the conventional cell.
    u_hkl, v_hkl : (3,) float64
        Directions of the plane, r.l.u.; of v, only the part perpendicular to u counts.
    u_edges, v_edges : (U + 1,), (V + 1,) float64
        1/angstrom from the origin along both directions.
    energy_band_meV : (float, float)
        Lower and upper limit; either sign.
    half_width : float
        Half-width perpendicular to the plane, 1/angstrom.
    temperature_K, resolution, ei_meV, two_theta_deg, momentum_sigma, spacing, phi, displacement,
        pockets
        As in `line_cut`.

    Returns
    -------
    PlaneCut

    Raises
    ------
    ValueError
        If directions are parallel, edges do not increase, or modes are imaginary.
    """
    u, v = _increasing(u_edges, "u_edges"), _increasing(v_edges, "v_edges")
    band = _increasing(energy_band_meV, "energy_band_meV")
    reciprocal = model.crystal.conventional_reciprocal
    along = np.asarray(u_hkl, dtype=float) @ reciprocal
    if not np.linalg.norm(along) > 1e-9:
        raise InputError(f"u_hkl is {np.asarray(u_hkl).tolist()}; expected a direction")
    along = along / np.linalg.norm(along)
    axes = _frame(along, np.asarray(v_hkl, dtype=float) @ reciprocal, "v_hkl")
    origin = np.asarray(origin_hkl, dtype=float) @ reciprocal
    centres = (
        origin
        + (0.5 * (u[1:] + u[:-1]))[:, None, None] * axes[0]
        + (0.5 * (v[1:] + v[:-1]))[None, :, None] * axes[1]
    )
    sigma_of = sigma_function(resolution, ei_meV)
    if displacement is None:
        displacement = displacement_tensors(model, temperature_K, phi)
    intensity = np.empty(centres.shape[:2])
    widths_u, widths_v = np.round(np.diff(u), 12), np.round(np.diff(v), 12)
    for du in np.unique(widths_u):
        for dv in np.unique(widths_v):
            place = np.ix_(widths_u == du, widths_v == dv)
            block = centres[place]
            values = _box_averages(
                model, block.reshape(-1, 3), axes, (du / 2, dv / 2, half_width), band,
                temperature_K, sigma_of, momentum_sigma, spacing, phi, displacement, pockets,
            )  # fmt: skip
            intensity[place] = values[:, 0].reshape(block.shape[:2])
    return PlaneCut(
        hkl=centres @ np.linalg.inv(reciprocal),
        u_edges=u,
        v_edges=v,
        energy_band_meV=(float(band[0]), float(band[1])),
        intensity=intensity,
        accessible=_accessible(centres, np.asarray(band.mean()), ei_meV, two_theta_deg),
    )


def _increasing(edges: ArrayLike, field: str) -> FloatArray:
    out = np.asarray(edges, dtype=float)
    if out.ndim != 1 or len(out) < 2 or not np.all(np.diff(out) > 0):
        raise InputError(f"{field} is {out.tolist()}; expected at least two increasing numbers")
    return out


def _frame(along: FloatArray, across: FloatArray, field: str) -> FloatArray:
    """Orthonormal axes in rows: a unit vector, what is left of another, and their product."""
    left = across - (across @ along) * along
    size = float(np.linalg.norm(left))
    if not size > 1e-6 * max(float(np.linalg.norm(across)), 1e-12):
        raise InputError(f"{field} is parallel to the first direction; expected another one")
    left = left / size
    return np.stack([along, left, np.cross(along, left)])


def _nodes(half_width: float, sigma: float, spacing: float) -> tuple[FloatArray, FloatArray]:
    """Points and weights (sum 1) for the average over a box smeared with a Gaussian."""
    if not (half_width >= 0 and sigma >= 0 and spacing > 0):
        raise InputError(
            f"half-width {half_width}, momentum_sigma {sigma}, spacing {spacing}; expected widths "
            ">= 0 and a positive spacing, 1/angstrom"
        )
    reach = half_width + _TAIL * sigma
    if reach == 0:
        return np.zeros(1), np.ones(1)
    if sigma > 0:
        spacing = min(spacing, sigma)
    x, w = np.polynomial.legendre.leggauss(max(1, int(np.ceil(2 * reach / spacing - 1e-9))))
    x = x * reach
    if sigma > 0:
        if half_width > 0:
            w = w * (ndtr((x + half_width) / sigma) - ndtr((x - half_width) / sigma))
        else:
            w = w * np.exp(-0.5 * (x / sigma) ** 2)
    return x, w / w.sum()


def _box_averages(
    model: ForceConstantModel,
    centres: FloatArray,
    axes: FloatArray,
    half_widths: tuple[float, float, float],
    edges: FloatArray,
    temperature_K: float,
    sigma_of: SigmaOfEnergy,
    momentum_sigma: float,
    spacing: float,
    phi: ArrayLike | None,
    displacement: FloatArray | None,
    pockets: Pockets | None,
) -> FloatArray:
    """S(Q,E) averaged over a box around every centre, (centres, E), barn/meV/sr."""
    if displacement is None:
        displacement = displacement_tensors(model, temperature_K, phi)
    points, weights = [], []
    for half_width in half_widths:
        x, w = _nodes(half_width, momentum_sigma, spacing)
        points.append(x)
        weights.append(w)
    offsets = np.stack(np.meshgrid(*points, indexing="ij"), axis=-1).reshape(-1, 3) @ axes
    weight = np.einsum("i,j,k->ijk", *weights).reshape(-1)
    out = np.zeros((len(centres), len(edges) - 1))
    count = len(offsets)
    step = max(1, _BATCH // (model.n_modes * max(len(edges), 3 * model.n_modes)))
    for start in range(0, len(centres) * count, step):
        c, p = np.divmod(np.arange(start, min(start + step, len(centres) * count)), count)
        Q = centres[c] + offsets[p]
        lines = one_phonon_lines(model, Q, temperature_K, phi, displacement, pockets)
        if pockets is None:
            refuse_imaginary(lines.energies_meV, Q)
        np.add.at(out, c, weight[p, None] * broadened(lines, edges, sigma_of))
    return out


def _accessible(
    Q: FloatArray,
    energy_meV: FloatArray,
    ei_meV: float | None,
    two_theta_deg: tuple[float, float],
) -> NDArray[np.bool_]:
    """Whether |Q| closes the scattering triangle at an energy transfer; broadcasts."""
    length = np.linalg.norm(Q, axis=-1)
    if ei_meV is None:
        return np.ones(np.broadcast_shapes(length.shape, energy_meV.shape), dtype=bool)
    low, high = momentum_limits(energy_meV, ei_meV, two_theta_deg)
    return (length >= low) & (length <= high)
