"""Lattice dynamics and path spectra in plain torch, on CPU or GPU, to be read and to be trusted.

The same interface as `simulations.dynamics.mode_kernels` and
`simulations.scattering.path_spectra`, every step one tensor operation. Gradients go through
`PathSpectrum`, never through the backward of
``torch.linalg.eigh``: that one divides by differences of eigenvalues and is NaN wherever branches
are degenerate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from simulations.constants import BOLTZMANN_MEV_PER_K, HBAR2_OVER_U
from simulations.dynamics import ForceConstantModel
from simulations.scattering.one_phonon import STABLE_MEV, amplitudes
from simulations.scattering.path_spectra import PathModel

_RELATIVE_GAP = 1e-5


def dynamical_matrices(model: ForceConstantModel, q_cart: ArrayLike, phi: Tensor) -> Tensor:
    """Dynamical matrices of many sets, (sets, Q, n, n) complex128, meV^2, on the device of phi.

    Parameters
    ----------
    model : ForceConstantModel
    q_cart : (Q, 3) float64
        1/angstrom.
    phi : (sets, K) float64
        Free parameters, eV/angstrom^2.

    Raises
    ------
    ValueError
        If ``phi`` does not have one value per free parameter.
    """
    if phi.ndim != 2 or phi.shape[1] != len(model.names):
        raise ValueError(
            f"phi has shape {tuple(phi.shape)}; expected (sets, K) with K = {len(model.names)}"
        )
    fixed, basis = model.matrices(q_cart)
    # contiguous: `matrices` hands out a transposed view
    parts = [torch.from_numpy(np.ascontiguousarray(x)).to(phi.device) for x in (fixed, basis)]
    return parts[0] + torch.einsum("sk,qkij->sqij", phi.to(parts[1].dtype), parts[1])


def batched_modes(
    model: ForceConstantModel, q_cart: ArrayLike, phi: Tensor
) -> tuple[Tensor, Tensor]:
    """Energies and eigenvectors of many force-constant sets, on the device of phi.

    Returns
    -------
    energies : (sets, Q, n) float64
        meV, ascending; negative means imaginary.
    eigenvectors : (sets, Q, n, n) complex128
        In columns. Not differentiable: use `path_spectra`.
    """
    squared, vectors = torch.linalg.eigh(dynamical_matrices(model, q_cart, phi.detach()))
    return squared.sign() * squared.abs().sqrt(), vectors


def path_spectra(path: PathModel, phi: Tensor) -> Tensor:
    """Broadened one-phonon spectra, differentiable by the force constants.

    Parameters
    ----------
    path : PathModel
    phi : (sets, K) float64
        Free parameters, eV/angstrom^2, on any device.

    Returns
    -------
    (sets, Q, E) float64
        S(Q,E), barn/meV/sr per primitive cell. Imaginary modes have no line.
    """
    f = torch.from_numpy(amplitudes(path.model.crystal, path.Q, path.displacement)).to(phi.device)
    matrices = dynamical_matrices(path.model, path.Q, phi)
    spectra: Any = PathSpectrum.apply(matrices, f, path)
    return spectra


class PathSpectrum(torch.autograd.Function):
    """``S(E) = sum_s |e_s^dagger f|^2 F(w_s^2; E)`` of Hermitian matrices, as ``f^dagger F(D) f``.

    References
    ----------
    Y. L. Daleckii and S. G. Krein (1965); R. Bhatia, Matrix Analysis (1997), theorem V.3.3.
    """

    @staticmethod
    def forward(ctx: Any, matrices: Tensor, f: Tensor, path: PathModel) -> Tensor:
        """Spectra (sets, Q, E) of matrices (sets, Q, n, n) and amplitudes f (Q, n)."""
        squared, vectors = torch.linalg.eigh(matrices)
        overlap = torch.einsum("sqim,qi->sqm", vectors.conj(), f.to(vectors.dtype))
        lines, slopes = _lines(path, squared)
        ctx.save_for_backward(squared, vectors, overlap, lines, slopes)
        return torch.einsum("sqm,sqme->sqe", overlap.abs() ** 2, lines)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None, None]:
        """Cotangent of the matrices: divided differences between the eigenvectors."""
        squared, vectors, overlap, lines, slopes = ctx.saved_tensors
        (cotangent,) = cotangents
        value = torch.einsum("sqe,sqme->sqm", cotangent, lines)
        slope = torch.einsum("sqe,sqme->sqm", cotangent, slopes)
        x, y = squared[..., :, None], squared[..., None, :]
        close = (x - y).abs() <= _RELATIVE_GAP * torch.maximum(x.abs(), y.abs())
        difference = value[..., :, None] - value[..., None, :]
        mean = 0.5 * (slope[..., :, None] + slope[..., None, :])
        divided = torch.where(close, mean, difference / torch.where(close, 1.0, x - y))
        inner = divided * overlap[..., :, None] * overlap.conj()[..., None, :]
        return vectors @ inner @ vectors.mH, None, None


def _lines(path: PathModel, squared: Tensor) -> tuple[Tensor, Tensor]:
    """F (..., E), barn per amplitude^2 and meV, and its derivative by the eigenvalue."""
    live = squared > STABLE_MEV**2
    energy = torch.where(live, squared, 1.0).sqrt()
    edges = torch.from_numpy(path.energy.edges_meV).to(squared.device)
    thermal = BOLTZMANN_MEV_PER_K * path.temperature_K
    n = (
        1 / torch.expm1((energy / thermal).clamp(max=700.0))
        if thermal > 0
        else torch.zeros_like(energy)
    )
    n_slope = -n * (n + 1) / thermal if thermal > 0 else n
    factor = 0.5 * HBAR2_OVER_U / energy
    total = squared.new_zeros((*squared.shape, len(edges) - 1))
    by_energy = torch.zeros_like(total)
    for sign, occupation in ((1, n + 1), (-1, n)):
        width, width_slope = (
            torch.from_numpy(x).to(squared.device)[..., None]
            for x in path.width_and_slope((sign * energy).cpu().numpy())
        )
        z = (edges - sign * energy[..., None]) / width
        density = torch.exp(-0.5 * z**2) / (2 * torch.pi) ** 0.5
        line = torch.special.ndtr(z).diff(dim=-1) / edges.diff()
        line_slope = (-density * (1 + z * width_slope) / width).diff(dim=-1) / edges.diff()
        weight = (factor * occupation)[..., None]
        weight_slope = (factor * (n_slope - occupation / energy))[..., None]
        total = total + weight * line
        by_energy = by_energy + weight_slope * line + sign * weight * line_slope
    mask = live[..., None]
    slope = by_energy / (2 * energy[..., None])
    return torch.where(mask, total, 0.0), torch.where(mask, slope, 0.0)
