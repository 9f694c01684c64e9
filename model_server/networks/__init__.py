"""Encoders, regressors, and the bundles that ship them."""

from model_server.networks.architectures import VariationalEncoder
from model_server.networks.autoencoders import (
    CoarseGrid,
    Decoder,
    Encoder,
    encoder_input,
    kl_to_normal,
    sample_latent,
)
from model_server.networks.bundle import FORMAT, Bundle, Domain
from model_server.networks.regressors import Regressor

__all__ = [
    "Bundle",
    "CoarseGrid",
    "Decoder",
    "Domain",
    "Encoder",
    "FORMAT",
    "Regressor",
    "VariationalEncoder",
    "encoder_input",
    "kl_to_normal",
    "sample_latent",
]
