"""The published two-dimensional recipe, to compare with: structure in, S(|Q|,E) out.

An autoencoder learns brightened maps; a network of e3nn's gated convolutions then learns the latent
numbers of a crystal's map from its structure. At its full size the autoencoder has 452 million
weights; a grid of 100 x 100 bins with the same layers inside has 53 million. No weights ship.

References
----------
Y. Cheng et al., Mach. Learn.: Sci. Technol. 4, 015010 (2023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from model_server.direct.graph import Graph
from model_server.direct.published import Convolutions, PublishedRecipe, run_epochs
from model_server.direct.training import Progressed
from simulations.arrays import FloatArray
from simulations.progress import Progress, silent

TOP_MEV, TOP_INVERSE_A, FWHM_MEV = 150.0, 15.0, 1.5
"""Ends of both axes, from zero, and the resolution; at 0 K."""

LATENT_RECIPE = PublishedRecipe(reach_A=6.0)
"""Of the network that says the latent numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MapRecipe:
    """Sizes as published; rate and batch are not stated there."""

    bins: int = 300  # of either axis
    layers: tuple[int, ...] = (2500, 500)
    latent: int = 50
    rate: float = 3e-4
    batch: int = 32


FULL_SIZE = MapRecipe()
SMALL_GRID = MapRecipe(bins=100)
"""The same, 100 bins a side."""


def brightened(maps: FloatArray) -> FloatArray:
    """Maps over their highest value, faint parts lifted: 1 - (1 - x)^3."""
    return np.asarray(1 - (1 - maps) ** 3)


def darkened(maps: FloatArray) -> FloatArray:
    """Undoes `brightened`; what lies outside 0 to 1 is cut."""
    return np.asarray(1 - np.cbrt(1 - np.clip(maps, 0.0, 1.0)))


class MapAutoencoder(nn.Module):
    """Brightened maps through a few latent numbers."""

    def __init__(self, recipe: MapRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        sizes = [recipe.bins**2, *recipe.layers, recipe.latent]
        self.encoder = _dense(sizes)
        self.decoder = _dense(sizes[::-1])

    def encode(self, maps: Tensor) -> Tensor:
        """(maps, bins, bins) to (maps, latent)."""
        return self.encoder(maps.flatten(1))

    def decode(self, latent: Tensor) -> Tensor:
        """(maps, latent) to (maps, bins, bins) within 0 to 1."""
        side = self.recipe.bins
        return torch.sigmoid(self.decoder(latent)).reshape(-1, side, side)

    def forward(self, maps: Tensor) -> Tensor:
        """What is left of maps."""
        return self.decode(self.encode(maps))


def _dense(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inner, outer in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class LatentNetwork(Convolutions):
    """Latent numbers of a crystal's map, each over its spread among the crystals of training."""

    def __init__(self, recipe: PublishedRecipe, neighbours: float, latent: int) -> None:
        super().__init__(recipe, neighbours, latent)

    def forward(self, graph: Graph) -> Tensor:
        """(latent,)."""
        return self.of_atoms(graph).mean(dim=0)


def train_autoencoder(
    autoencoder: MapAutoencoder,
    maps: Tensor,
    *,
    epochs: int,
    seed: int = 0,
    begun: Progressed | None = None,
    after: Callable[[Progressed], None] | None = None,
    progress: Progress = silent,
) -> None:
    """Train an autoencoder on brightened maps, or go on with it.

    Parameters
    ----------
    autoencoder : MapAutoencoder
        Changed in place, on the device where it is.
    maps : (maps, bins, bins) float32
        Brightened.
    epochs : int
        How many there are to be in the end.
    seed : int
        Of the order of maps.
    begun, after, progress
        As of `train_published`.
    """
    recipe = autoencoder.recipe
    device = next(autoencoder.parameters()).device
    optimiser = torch.optim.AdamW(autoencoder.parameters(), lr=recipe.rate, fused=True)

    def losses(epoch: int) -> Iterator[Tensor]:
        order = np.random.default_rng((seed, epoch)).permutation(len(maps))
        for start in range(0, len(maps), recipe.batch):
            some = maps[order[start : start + recipe.batch]].to(device)
            yield nn.functional.mse_loss(autoencoder(some), some)

    run_epochs(
        autoencoder, optimiser, losses, epochs=epochs, begun=begun, after=after, progress=progress
    )


def decoded_units(autoencoder: MapAutoencoder, latents: Tensor, step: float = 2.0) -> Tensor:
    """What each latent number does to a map.

    Parameters
    ----------
    autoencoder : MapAutoencoder
    latents : (maps, latent) float32
        Of the crystals of training.
    step : float
        How far each number is moved from its mean, in spreads.

    Returns
    -------
    (latent, bins, bins) float32
        The map with the number raised less that with it lowered, all others at their mean.
    """
    mean, spread = latents.mean(dim=0), latents.std(dim=0)
    moved = torch.diag(step * spread)
    with torch.no_grad():
        return autoencoder.decode(mean + moved) - autoencoder.decode(mean - moved)
