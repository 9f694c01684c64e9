"""The regressor: force constants from the encoder's latent."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

PUBLISHED_HIDDEN = (100, 1000, 1000, 100)
"""Hidden layers of Su and Li (2024)."""


class Regressor(nn.Module):
    """Fully connected: latent -> hidden layers -> parameters in prior sigmas from its mean.

    Parameters
    ----------
    latent : int
        Dimensions of the latent.
    hidden : int or sequence of int
        Widths of the hidden layers; one number means two layers of it.
    parameters : int
        Outputs.
    activation : type of torch.nn.Module
        Between the layers; Su and Li (2024) take ``nn.Tanh``.
    """

    def __init__(
        self,
        latent: int,
        hidden: int | Sequence[int],
        parameters: int,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        widths = (hidden, hidden) if isinstance(hidden, int) else tuple(hidden)
        layers: list[nn.Module] = []
        for before, after in zip((latent, *widths), widths, strict=False):
            layers += [nn.Linear(before, after), activation()]
        self.body = nn.Sequential(*layers, nn.Linear(widths[-1], parameters))

    def forward(self, z: Tensor) -> Tensor:
        """Standardised parameters (..., parameters) of latents (..., latent)."""
        return self.body(z)
