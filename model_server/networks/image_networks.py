"""Networks of the literature: they see a spectrum as an image, masked where it is never known.

Images are (spectra, rows, columns), normalised by `normalised_images`. All autoencoders have one
interface: ``encode`` to mean and log variance of the latent (None where it is deterministic),
``decode`` back to images that are zero outside the mask.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from simulations.arrays import SingleArray
from simulations.errors import InputError

CONVOLUTIONS = (32, 64, 128)
"""Channels of Su and Li (2024)."""


class Autoencoder(Protocol):
    """What all autoencoders of images offer; each is a ``torch.nn.Module``."""

    latent: int
    variational: bool

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Latent (spectra, latent) of images, and its log variance where it has one."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Images (spectra, rows, columns) of latents (spectra, latent)."""
        ...


def normalised_images(intensity: ArrayLike, mask: NDArray[np.bool_]) -> SingleArray:
    """Spectra as (x - mean) / (max - min) over the mask, zero outside and where not known.

    Parameters
    ----------
    intensity : (..., rows, columns) array_like
        Any scale; NaN where not known.
    mask : (rows, columns) bool
        Cells that the network sees.

    Returns
    -------
    (..., rows, columns) float32
        Scale and a constant background drop out; a constant spectrum becomes zero.

    Raises
    ------
    ValueError
        If shapes differ or a spectrum has no known cell in the mask.

    References
    ----------
    Y. Su and C. Li (2024): the normalisation of their spectra.
    """
    x = np.asarray(intensity, dtype=float)
    if x.shape[-2:] != mask.shape:
        raise ValueError(f"intensity has shape {x.shape}; expected (..., {mask.shape})")
    x = np.where(mask, x, np.nan)
    known = np.isfinite(x)
    count = known.sum(axis=(-2, -1), keepdims=True)
    if not count.all():
        raise InputError("a spectrum has no known cell inside the mask; fold more data")
    zero = np.where(known, x, 0.0)
    mean = zero.sum(axis=(-2, -1), keepdims=True) / count
    high = np.where(known, x, -np.inf).max(axis=(-2, -1), keepdims=True)
    low = np.where(known, x, np.inf).min(axis=(-2, -1), keepdims=True)
    width = np.where(high > low, high - low, 1.0)
    return np.where(known, (zero - mean) / width, 0.0).astype(np.float32)


def masked_flatten(images: Tensor, mask: Tensor) -> Tensor:
    """Cells of the mask, (..., cells), in row order."""
    return images[..., mask]


def masked_unflatten(cells: Tensor, mask: Tensor) -> Tensor:
    """Images (..., rows, columns) of the cells of a mask; zero elsewhere."""
    images = cells.new_zeros((*cells.shape[:-1], *mask.shape))
    images[..., mask] = cells
    return images


class _Masked(nn.Module):
    """A network that knows which cells it sees; the mask is stored with the weights."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.clone())


class FullyConnected(_Masked):
    """Cells of the mask -> hidden -> latent and back, tanh throughout.

    Parameters
    ----------
    mask : (rows, columns) bool tensor
    hidden : int
        Width of the hidden layer: 400 as published.
    latent : int
        30 as published.
    variational : bool
        Deterministic ones have a tanh on the latent, variational ones have none.

    References
    ----------
    Y. Su and C. Li (2024): 4144-400-30 for aluminium.
    """

    def __init__(self, mask: Tensor, hidden: int, latent: int, *, variational: bool) -> None:
        super().__init__(mask)
        self.latent, self.variational = latent, variational
        cells = int(mask.sum())
        self.into = nn.Linear(cells, hidden)
        self.head = nn.Linear(hidden, 2 * latent if variational else latent)
        self.out = nn.Sequential(
            nn.Linear(latent, hidden), nn.Tanh(), nn.Linear(hidden, cells), nn.Tanh()
        )

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """As ``Autoencoder.encode``."""
        code = self.head(torch.tanh(self.into(masked_flatten(images, self.mask))))
        return _split(code, self.variational)

    def decode(self, z: Tensor) -> Tensor:
        """As ``Autoencoder.decode``."""
        return masked_unflatten(self.out(z), self.mask)


class Convolutional(_Masked):
    """Three convolutions of stride 2, a hidden layer, the latent, and the same way back.

    Parameters
    ----------
    mask : (rows, columns) bool tensor
    channels : sequence of int
        32, 64, 128 as published.
    hidden : int
        Width of the layer between convolutions and latent: 200 as published.
    latent : int
        30 as published.
    variational : bool
        As ``FullyConnected``.

    References
    ----------
    Y. Su and C. Li (2024): 70 x 101 -> 9 x 13 x 128 -> 200 -> 30.
    """

    def __init__(
        self,
        mask: Tensor,
        channels: tuple[int, ...],
        hidden: int,
        latent: int,
        *,
        variational: bool,
    ) -> None:
        super().__init__(mask)
        self.latent, self.variational = latent, variational
        sizes = [tuple(mask.shape)]
        for _ in channels:
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        self.smallest = (channels[-1], *sizes[-1])
        flat = int(np.prod(self.smallest))
        down: list[nn.Module] = []
        for before, after in zip((1, *channels), channels, strict=False):
            down += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.Tanh()]
        self.down = nn.Sequential(*down)
        self.into = nn.Linear(flat, hidden)
        self.head = nn.Linear(hidden, 2 * latent if variational else latent)
        self.back = nn.Sequential(
            nn.Linear(latent, hidden), nn.Tanh(), nn.Linear(hidden, flat), nn.Tanh()
        )
        up: list[nn.Module] = []
        outputs = (*channels[-2::-1], 1)
        for k, (before, after) in enumerate(zip(channels[::-1], outputs, strict=True)):
            small, large = sizes[-1 - k], sizes[-2 - k]
            missing = (large[0] - 2 * small[0] + 1, large[1] - 2 * small[1] + 1)
            up += [
                nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=missing),
                nn.Tanh(),
            ]
        self.up = nn.Sequential(*up)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """As ``Autoencoder.encode``."""
        seen = self.down((images * self.mask)[:, None])
        code = self.head(torch.tanh(self.into(seen.flatten(1))))
        return _split(code, self.variational)

    def decode(self, z: Tensor) -> Tensor:
        """As ``Autoencoder.decode``."""
        return self.up(self.back(z).unflatten(1, self.smallest))[:, 0] * self.mask


def _split(code: Tensor, variational: bool) -> tuple[Tensor, Tensor | None]:
    """Mean and log variance of a variational code; a deterministic one ends in a tanh."""
    if not variational:
        return torch.tanh(code), None
    mean, log_variance = code.chunk(2, dim=-1)
    return mean, log_variance.clamp(-20.0, 10.0)


class _Block(nn.Module):
    """Two convolutions and the way around them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.around: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.around = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.around(x))


class ResNet18(_Masked):
    """Residual network of 18 layers that reads parameters directly; one input channel.

    References
    ----------
    K. He et al., Deep Residual Learning for Image Recognition (CVPR 2016), table 1.
    """

    FEATURES = 512

    def __init__(self, mask: Tensor, parameters: int) -> None:
        super().__init__(mask)
        self.stem = nn.Sequential(
            nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        blocks: list[nn.Module] = []
        before = 64
        for after, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [_Block(before, after, stride), _Block(after, after, 1)]
            before = after
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(self.FEATURES, parameters)

    def features(self, images: Tensor) -> Tensor:
        """What the last layer sees, (spectra, 512)."""
        return self.blocks(self.stem((images * self.mask)[:, None])).mean(dim=(-2, -1))

    def forward(self, images: Tensor) -> Tensor:
        """Standardised parameters (spectra, parameters) of images (spectra, rows, columns)."""
        return self.head(self.features(images))
