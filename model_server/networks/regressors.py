"""The regressor: force constants from the encoder's latent."""

from __future__ import annotations

from torch import Tensor, nn


class Regressor(nn.Module):
    """Fully connected: latent -> hidden -> hidden -> parameters in prior sigmas from its mean."""

    def __init__(self, latent: int, hidden: int, parameters: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(latent, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, parameters),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Standardised parameters (..., parameters) of latents (..., latent)."""
        return self.body(z)
