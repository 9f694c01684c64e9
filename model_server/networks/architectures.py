"""Networks that a bundle may hold, by the name that its card gives: what reads parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from model_server.networks.autoencoders import Encoder, encoder_input, sample_latent
from model_server.networks.density import ConditionalDensity, counted_input
from model_server.networks.image_networks import (
    Convolutional,
    FullyConnected,
    ResNet18,
    normalised_images,
)
from model_server.networks.regressors import Regressor
from simulations.arrays import FloatArray, SingleArray
from simulations.errors import InputError

SPREAD_SAMPLES = 64
OURS = "variational-encoder"
"""The architecture of bundles that were trained before cards named it."""


class Network(Protocol):
    """Frozen weights that read parameters, in prior sigmas from the prior mean, off a spectrum."""

    @property
    def architecture(self) -> str:
        """Name in ``ARCHITECTURES``."""
        ...

    def centres(self, inputs: SingleArray) -> FloatArray:
        """Standardised parameters (..., parameters) of inputs (..., inputs)."""
        ...

    def read(self, inputs: SingleArray) -> tuple[FloatArray, FloatArray]:
        """Standardised parameters and their spread, both (..., parameters).

        Parameters
        ----------
        inputs : (..., inputs) float32
            Of ``encoder_input``.
        """
        ...

    def distance(self, inputs: SingleArray) -> float:
        """How far a spectrum lies from those trained on: about 1 inside, large outside."""
        ...

    @property
    def latent_mean(self) -> FloatArray:
        """Mean code of the training spectra, (latent,)."""
        ...

    @property
    def latent_precision(self) -> FloatArray:
        """Inverse covariance of the codes of the training spectra, (latent, latent)."""
        ...

    def codes(self, inputs: SingleArray) -> tuple[FloatArray, FloatArray]:
        """Latent means and standard deviations, both (spectra, latent), of (spectra, inputs).

        Zero deviation where nothing is sampled; features where there is no latent.
        """
        ...

    def of_codes(self, codes: FloatArray) -> FloatArray:
        """Standardised parameters (..., parameters) of codes (..., latent)."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name, to be stored; the architecture takes them back."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VariationalEncoder:
    """Encoder of a variational autoencoder and a regressor on its latent."""

    encoder: Encoder
    regressor: Regressor
    latent_mean: FloatArray  # (latent,) over the training spectra
    latent_precision: FloatArray  # (latent, latent) inverse covariance over the training spectra

    @property
    def architecture(self) -> str:
        """Name in ``ARCHITECTURES``."""
        return OURS

    @classmethod
    def from_tensors(
        cls,
        sizes: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        *,
        shape: tuple[int, int],
        parameters: int,
    ) -> VariationalEncoder:
        """Build it from the sizes in a card and stored weights; ``shape`` is the grid's."""
        encoder = Encoder(2 * shape[0] * shape[1], sizes["hidden"], sizes["latent"])
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

    def centres(self, inputs: SingleArray) -> FloatArray:
        """Parameters of the latent mean."""
        mean, _ = self.encoder(torch.from_numpy(inputs))
        return self.regressor(mean).numpy().astype(float)

    def read(self, inputs: SingleArray) -> tuple[FloatArray, FloatArray]:
        """Parameters of the latent mean, and their standard deviation over latent samples."""
        mean, log_variance = self.encoder(torch.from_numpy(inputs))
        samples = self.regressor(_latent_samples(mean, log_variance)).numpy().astype(float)
        return self.regressor(mean).numpy().astype(float), samples.std(axis=0)

    def codes(self, inputs: SingleArray) -> tuple[FloatArray, FloatArray]:
        """Latent means and standard deviations, both (spectra, latent)."""
        mean, log_variance = self.encoder(torch.from_numpy(inputs))
        return mean.numpy().astype(float), np.exp(0.5 * log_variance.numpy().astype(float))

    def of_codes(self, codes: FloatArray) -> FloatArray:
        """Standardised parameters (..., parameters) of codes (..., latent)."""
        return self.regressor(torch.from_numpy(codes.astype(np.float32))).numpy().astype(float)

    def distance(self, inputs: SingleArray) -> float:
        """Mahalanobis distance of the latent mean over the square root of its dimension."""
        mean, _ = self.encoder(torch.from_numpy(inputs))
        return _mahalanobis(mean, self.latent_mean, self.latent_precision)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageNetwork:
    """A network of the literature: an autoencoder with its regressor, or one that reads directly.

    It sees the spectrum of ``encoder_input`` normalised over its own mask, and no coverage.
    """

    architecture: str
    body: FullyConnected | Convolutional | ResNet18
    regressor: Regressor | None  # None: the body reads parameters itself
    latent_mean: FloatArray  # (latent,) over the training spectra
    latent_precision: FloatArray  # (latent, latent) inverse covariance over the training spectra

    def images(self, inputs: SingleArray) -> Tensor:
        """What it sees of inputs (..., inputs), (spectra, rows, columns)."""
        return torch.from_numpy(images_of_inputs(inputs, self.body.mask.numpy()))

    def centres(self, inputs: SingleArray) -> FloatArray:
        """Parameters; of the latent mean where there is a latent."""
        images = self.images(inputs)
        if isinstance(self.body, ResNet18):
            found = self.body(images)
        else:
            assert self.regressor is not None  # noqa: S101 - an autoencoder comes with one
            found = self.regressor(self.body.encode(images)[0])
        return found.numpy().astype(float).reshape(*inputs.shape[:-1], -1)

    def read(self, inputs: SingleArray) -> tuple[FloatArray, FloatArray]:
        """Parameters and their spread over latent samples, zero where nothing is sampled."""
        centre = self.centres(inputs)
        if self.regressor is None or isinstance(self.body, ResNet18):
            return centre, np.zeros_like(centre)
        mean, log_variance = self.body.encode(self.images(inputs))
        if log_variance is None:
            return centre, np.zeros_like(centre)
        samples = self.regressor(_latent_samples(mean, log_variance)).numpy().astype(float)
        return centre, samples.std(axis=0).reshape(centre.shape)

    def latents(self, images: Tensor) -> Tensor:
        """Latent means, or features where there is no latent, (spectra, latent)."""
        if isinstance(self.body, ResNet18):
            return self.body.features(images)
        return self.body.encode(images)[0]

    def codes(self, inputs: SingleArray) -> tuple[FloatArray, FloatArray]:
        """Latent means and standard deviations, or features and zeros, both (spectra, latent)."""
        images = self.images(inputs)
        log_variance = None
        if not isinstance(self.body, ResNet18):
            mean, log_variance = self.body.encode(images)
        else:
            mean = self.body.features(images)
        codes = mean.numpy().astype(float)
        if log_variance is None:
            return codes, np.zeros_like(codes)
        return codes, np.exp(0.5 * log_variance.numpy().astype(float))

    def of_codes(self, codes: FloatArray) -> FloatArray:
        """Standardised parameters (..., parameters) of codes (..., latent)."""
        z = torch.from_numpy(codes.astype(np.float32))
        if isinstance(self.body, ResNet18):
            return self.body.head(z).numpy().astype(float)
        assert self.regressor is not None  # noqa: S101 - an autoencoder comes with one
        return self.regressor(z).numpy().astype(float)

    def distance(self, inputs: SingleArray) -> float:
        """Mahalanobis distance of the latent over the square root of its dimension."""
        latent = self.latents(self.images(inputs))[0]
        return _mahalanobis(latent, self.latent_mean, self.latent_precision)

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name, the mask and the decoder among them."""
        tensors = {f"body.{k}": v for k, v in self.body.state_dict().items()}
        if self.regressor is not None:
            tensors |= {f"regressor.{k}": v for k, v in self.regressor.state_dict().items()}
        tensors["latent.mean"] = torch.from_numpy(self.latent_mean.astype(np.float32))
        tensors["latent.precision"] = torch.from_numpy(self.latent_precision.astype(np.float32))
        return tensors


def images_of_inputs(inputs: SingleArray, mask: np.ndarray) -> SingleArray:
    """Normalised images (spectra, rows, columns) of ``encoder_input``'s (..., inputs)."""
    spectrum, coverage = np.split(np.asarray(inputs), 2, axis=-1)
    relative = np.where(coverage > 0, spectrum.astype(float) ** 2, np.nan)
    return normalised_images(relative.reshape(-1, *mask.shape), mask)


def _latent_samples(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Samples (samples, ..., latent); the same noise for all spectra and every time."""
    shape = (SPREAD_SAMPLES, *([1] * (mean.ndim - 1)), mean.shape[-1])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return sample_latent(mean, log_variance, noise)


def _mahalanobis(latent: Tensor, mean: FloatArray, precision: FloatArray) -> float:
    step = latent.numpy().astype(float) - mean
    return float(np.sqrt(step @ precision @ step / len(step)))


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _frozen(module: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    module.load_state_dict(tensors)
    module.eval()
    return module.requires_grad_(False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """One kind of network in the registry."""

    name: str  # on the card of a bundle
    words: str  # what it is, for help and cards
    autoencoder: bool  # with a regressor on its latent; else it reads parameters directly
    load: Callable[..., Network]
    """Of sizes, tensors, ``shape`` of the grid and number of ``parameters``."""
    body: Callable[..., Any] | None = None
    """Untrained network of a mask and sizes, for those that see images."""
    see: Callable[[ArrayLike, ArrayLike, ArrayLike], SingleArray] = encoder_input
    """What it sees of coarse sums: signal, exposure and coverage."""
    counted: bool = False  # whether the signal must be in counts: else its scale drops out


def image_regressor(sizes: Mapping[str, Any], parameters: int) -> Regressor:
    """Untrained regressor of the literature, with the sizes of a card."""
    return Regressor(sizes["latent"], sizes["regressor_hidden"], parameters, nn.Tanh)


def _image_architecture(
    name: str, words: str, build: Callable[[Tensor, Mapping[str, Any], int], Any]
) -> Architecture:
    def load(
        sizes: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        *,
        shape: tuple[int, int],
        parameters: int,
    ) -> ImageNetwork:
        mask = tensors["body.mask"]
        if tuple(mask.shape) != tuple(shape):
            raise InputError(f"the mask has shape {tuple(mask.shape)}; expected the grid's {shape}")
        body: Any = _frozen(build(mask, sizes, parameters), _part(tensors, "body."))
        regressor: Any = None
        if not isinstance(body, ResNet18):
            regressor = _frozen(image_regressor(sizes, parameters), _part(tensors, "regressor."))
        return ImageNetwork(
            architecture=name,
            body=body,
            regressor=regressor,
            latent_mean=tensors["latent.mean"].numpy().astype(float),
            latent_precision=tensors["latent.precision"].numpy().astype(float),
        )

    return Architecture(
        name=name, words=words, autoencoder=name != "resnet-18", load=load, body=build
    )


def _connected(variational: bool) -> Callable[[Tensor, Mapping[str, Any], int], FullyConnected]:
    return lambda mask, sizes, _: FullyConnected(
        mask, sizes["hidden"], sizes["latent"], variational=variational
    )


def _convolutional(variational: bool) -> Callable[[Tensor, Mapping[str, Any], int], Convolutional]:
    return lambda mask, sizes, _: Convolutional(
        mask, tuple(sizes["channels"]), sizes["hidden"], sizes["latent"], variational=variational
    )


ARCHITECTURES: Mapping[str, Architecture] = {
    one.name: one
    for one in (
        Architecture(
            name=OURS,
            words="variational encoder that sees coverage, with its regressor, trained together",
            autoencoder=True,
            load=VariationalEncoder.from_tensors,
        ),
        _image_architecture(
            "fc-ae", "fully connected autoencoder and regressor (Su and Li 2024)", _connected(False)
        ),
        _image_architecture(
            "fc-vae",
            "fully connected variational autoencoder and regressor (Su and Li 2024)",
            _connected(True),
        ),
        _image_architecture(
            "conv-ae",
            "convolutional autoencoder and regressor (Su and Li 2024)",
            _convolutional(False),
        ),
        _image_architecture(
            "conv-vae",
            "convolutional variational autoencoder and regressor (Su and Li 2024)",
            _convolutional(True),
        ),
        _image_architecture(
            "resnet-18",
            "residual network that reads parameters directly (He et al. 2016), one channel",
            lambda mask, _, parameters: ResNet18(mask, parameters),
        ),
        Architecture(
            name="flow",
            words="conditional density (summary network and normalising flow) that sees coverage "
            "and counts, and gives draws of the posterior of all constants",
            autoencoder=False,
            load=ConditionalDensity.from_tensors,
            see=counted_input,
            counted=True,
        ),
    )
}
"""Every architecture by its name."""


def architecture_of(name: str) -> Architecture:
    """One of ``ARCHITECTURES``.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists those that are.
    """
    if name not in ARCHITECTURES:
        raise InputError(f"architecture is {name!r}; expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
