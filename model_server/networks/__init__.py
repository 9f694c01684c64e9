"""Encoders, regressors, networks of the literature, and the bundles that ship them."""

from model_server.networks.architectures import (
    OURS,
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
from model_server.networks.bundle import (
    FORMAT,
    Bundle,
    BundleError,
    BundleMismatchError,
    Domain,
    distances,
    model_card,
)
from model_server.networks.density import (
    ConditionalDensity,
    Density,
    counted_input,
    normal_deviates,
)
from model_server.networks.fetched_bundle_store import is_address
from model_server.networks.folded_spectrum_file import FoldedSpectrum, read_folded_spectrum
from model_server.networks.image_networks import ResNet18, masked_flatten
from model_server.networks.latent_space import (
    codes_of,
    correlation,
    interpolation,
    latent_activity,
    principal_map,
    sensitivity,
)
from model_server.networks.reading import (
    distance_table,
    latent_share,
    read_spectra,
    reading_document,
)
from model_server.networks.registry_store import BundleRegistry, UnknownModelError
from model_server.networks.regressors import PUBLISHED_HIDDEN, Regressor

__all__ = [
    "Bundle",
    "BundleError",
    "BundleMismatchError",
    "BundleRegistry",
    "CoarseGrid",
    "ConditionalDensity",
    "Decoder",
    "Density",
    "Domain",
    "Encoder",
    "FORMAT",
    "FoldedSpectrum",
    "ImageNetwork",
    "Network",
    "OURS",
    "PUBLISHED_HIDDEN",
    "Regressor",
    "ResNet18",
    "UnknownModelError",
    "VariationalEncoder",
    "architecture_of",
    "codes_of",
    "correlation",
    "counted_input",
    "distance_table",
    "distances",
    "encoder_input",
    "image_regressor",
    "images_of_inputs",
    "interpolation",
    "is_address",
    "kl_to_normal",
    "latent_activity",
    "latent_share",
    "masked_flatten",
    "model_card",
    "normal_deviates",
    "principal_map",
    "read_folded_spectrum",
    "read_spectra",
    "reading_document",
    "sample_latent",
    "sensitivity",
]
