"""Encoders, regressors, networks of the literature, and the bundles that ship them."""

from model_server.networks.architectures import (
    ImageNetwork,
    Network,
    VariationalEncoder,
    architecture_of,
    image_regressor,
    images_of_inputs,
)
from model_server.networks.autoencoders import (
    CoarseGrid,
    Decoder,
    Encoder,
    encoder_input,
    kl_to_normal,
    sample_latent,
)
from model_server.networks.bundle import FORMAT, Bundle, Domain
from model_server.networks.image_networks import ResNet18, masked_flatten
from model_server.networks.regressors import PUBLISHED_HIDDEN, Regressor

__all__ = [
    "Bundle",
    "CoarseGrid",
    "Decoder",
    "Domain",
    "Encoder",
    "FORMAT",
    "ImageNetwork",
    "Network",
    "PUBLISHED_HIDDEN",
    "Regressor",
    "ResNet18",
    "VariationalEncoder",
    "architecture_of",
    "encoder_input",
    "image_regressor",
    "images_of_inputs",
    "kl_to_normal",
    "masked_flatten",
    "sample_latent",
]
