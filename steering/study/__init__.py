"""Virtual scans of known truth, and training on them."""

from steering.study.direct_training import DirectTraining, train_direct
from steering.study.latent_analysis import analyse_latent, calibrate_distances
from steering.study.model_training import train
from steering.study.simulate import simulate

__all__ = [
    "DirectTraining",
    "analyse_latent",
    "calibrate_distances",
    "simulate",
    "train",
    "train_direct",
]
