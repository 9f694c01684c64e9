"""Networks that a bundle may hold, by the name that its card gives: what reads parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from model_server.networks.autoencoders import Encoder, sample_latent
from model_server.networks.regressors import Regressor
from simulations.arrays import FloatArray, SingleArray

SPREAD_SAMPLES = 64


class Network(Protocol):
    """Frozen weights that read parameters, in prior sigmas from the prior mean, off a spectrum."""

    architecture: ClassVar[str]
    """Name in ``ARCHITECTURES``."""

    def read(self, inputs: SingleArray) -> tuple[FloatArray, FloatArray]:
        """Standardised parameters and their spread, both (parameters,).

        Parameters
        ----------
        inputs : (inputs,) float32
            Of ``encoder_input``.
        """
        ...

    def distance(self, inputs: SingleArray) -> float:
        """How far a spectrum lies from those trained on: about 1 inside, large outside."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name, to be stored; the architecture takes them back."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VariationalEncoder:
    """Encoder of a variational autoencoder and a regressor on its latent."""

    architecture: ClassVar[str] = "variational-encoder"

    encoder: Encoder
    regressor: Regressor
    latent_mean: FloatArray  # (latent,) over the training spectra
    latent_precision: FloatArray  # (latent, latent) inverse covariance over the training spectra

    @classmethod
    def from_tensors(
        cls,
        sizes: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        *,
        inputs: int,
        parameters: int,
    ) -> VariationalEncoder:
        """Build it from the sizes in a card and stored weights."""
        encoder = Encoder(inputs, sizes["hidden"], sizes["latent"])
        regressor = Regressor(sizes["latent"], sizes["regressor_hidden"], parameters)
        encoder.load_state_dict(_part(tensors, "encoder."))
        regressor.load_state_dict(_part(tensors, "regressor."))
        for module in (encoder, regressor):
            module.eval()
            module.requires_grad_(False)
        return cls(
            encoder=encoder,
            regressor=regressor,
            latent_mean=tensors["latent.mean"].numpy().astype(float),
            latent_precision=tensors["latent.precision"].numpy().astype(float),
        )

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name."""
        tensors = {f"encoder.{k}": v for k, v in self.encoder.state_dict().items()}
        tensors |= {f"regressor.{k}": v for k, v in self.regressor.state_dict().items()}
        tensors["latent.mean"] = torch.from_numpy(self.latent_mean.astype(np.float32))
        tensors["latent.precision"] = torch.from_numpy(self.latent_precision.astype(np.float32))
        return tensors

    def read(self, inputs: SingleArray) -> tuple[FloatArray, FloatArray]:
        """Parameters of the latent mean, and their standard deviation over latent samples."""
        mean, log_variance = self.encoder(torch.from_numpy(inputs))
        noise = torch.randn(
            SPREAD_SAMPLES, mean.shape[-1], generator=torch.Generator().manual_seed(0)
        )
        samples = self.regressor(sample_latent(mean, log_variance, noise)).numpy().astype(float)
        return self.regressor(mean).numpy().astype(float), samples.std(axis=0)

    def distance(self, inputs: SingleArray) -> float:
        """Mahalanobis distance of the latent mean over the square root of its dimension."""
        mean, _ = self.encoder(torch.from_numpy(inputs))
        step = mean.numpy().astype(float) - self.latent_mean
        return float(np.sqrt(step @ self.latent_precision @ step / len(step)))


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


ARCHITECTURES: Mapping[str, Callable[..., Network]] = {
    VariationalEncoder.architecture: VariationalEncoder.from_tensors,
}
"""What builds the network of each architecture; arguments as ``VariationalEncoder``'s."""
