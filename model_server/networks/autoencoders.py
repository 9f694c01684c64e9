"""The encoder: a variational autoencoder of folded spectra that know their own coverage.

The encoder sees a rebinned spectrum and, beside it, which share of every coarse cell was measured.
The decoder is only needed in training, where it rebuilds the noise-free spectrum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from simulations.arrays import FloatArray, SingleArray
from simulations.errors import InputError

HIGHEST_RATIO = 50.0
"""Cells brighter than this many times the mean are clipped: Bragg tails, hot pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CoarseGrid:
    """Which cells of a folded spectrum the encoder sees, and how they are joined."""

    path_bins: int  # of the folded spectrum
    first_energy: int  # first energy bin that is used
    energy_bins: int  # how many are used from there
    path_group: int  # path bins joined into one coarse cell
    energy_group: int  # energy bins joined into one coarse cell

    def __post_init__(self) -> None:
        if self.path_bins % self.path_group or self.energy_bins % self.energy_group:
            raise InputError(
                f"grid: {self.path_bins} x {self.energy_bins} cells cannot be joined by "
                f"{self.path_group} x {self.energy_group}; expected divisors"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Coarse path bins, coarse energy bins."""
        return self.path_bins // self.path_group, self.energy_bins // self.energy_group

    @property
    def inputs(self) -> int:
        """Inputs of the encoder: spectrum and coverage."""
        rows, columns = self.shape
        return 2 * rows * columns

    def sums(self, values: ArrayLike) -> FloatArray:
        """Sum (..., path_bins, all energy bins) over coarse cells, (..., rows, columns)."""
        x = np.asarray(values, dtype=float)
        last = self.first_energy + self.energy_bins
        if x.shape[-2] != self.path_bins or x.shape[-1] < last:
            raise ValueError(
                f"spectrum has shape {x.shape[-2:]}; expected {self.path_bins} path bins and at "
                f"least {last} energy bins"
            )
        rows, columns = self.shape
        part = x[..., self.first_energy : last]
        blocks = part.reshape(*x.shape[:-2], rows, self.path_group, columns, self.energy_group)
        return blocks.sum(axis=(-3, -1))


def encoder_input(signal: ArrayLike, exposure: ArrayLike, coverage: ArrayLike) -> SingleArray:
    """What the encoder sees of coarse sums.

    The spectrum is the exposure-weighted intensity over its own mean, so that scale drops out, and
    its square root, so that Poisson noise is even.

    Parameters
    ----------
    signal : (..., rows, columns) array_like
        Sum of counts or weights of every coarse cell.
    exposure : (..., rows, columns) array_like
        Sum of exposure; 0 means unknown.
    coverage : (..., rows, columns) array_like
        Share of the fine cells that were measured, 0 to 1.

    Returns
    -------
    (..., 2 * rows * columns) float32
        Spectrum, then coverage; unknown cells are 0 in both.
    """
    S = np.asarray(signal, dtype=float)
    D = np.asarray(exposure, dtype=float)
    known = D > 0
    intensity = np.where(known, S / np.where(known, D, 1.0), 0.0)
    total = np.where(known, D, 0.0).sum(axis=(-2, -1), keepdims=True)
    mean = np.where(known, S, 0.0).sum(axis=(-2, -1), keepdims=True) / np.maximum(total, 1e-300)
    ratio = intensity / np.where(mean > 0, mean, 1.0)
    spectrum = np.sqrt(np.clip(ratio, 0.0, HIGHEST_RATIO))
    share = np.where(known, np.asarray(coverage, dtype=float), 0.0)
    flat = (*S.shape[:-2], -1)
    return np.concatenate([spectrum.reshape(flat), share.reshape(flat)], axis=-1).astype(np.float32)


class Encoder(nn.Module):
    """Fully connected encoder: inputs -> hidden -> mean and log variance of the latent."""

    def __init__(self, inputs: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.body = nn.Sequential(
            nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()
        )
        self.head = nn.Linear(hidden, 2 * latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latent mean and log variance, both (..., latent), of inputs (..., inputs)."""
        mean, log_variance = self.head(self.body(x)).chunk(2, dim=-1)
        return mean, log_variance.clamp(-12.0, 6.0)


class Decoder(nn.Module):
    """Fully connected decoder: latent -> hidden -> spectrum on the coarse grid."""

    def __init__(self, latent: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(latent, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()
        )
        self.head = nn.Linear(hidden, outputs)

    def forward(self, z: Tensor) -> Tensor:
        """Spectrum (..., outputs) of latents (..., latent)."""
        return self.head(self.body(z))


def sample_latent(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Reparametrised latent sample, differentiable in mean and log variance."""
    return mean + noise * torch.exp(0.5 * log_variance)


def kl_to_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence to the standard normal, summed over the latent, (...,).

    References
    ----------
    D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes (2014), appendix B.
    """
    return 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance).sum(dim=-1)
