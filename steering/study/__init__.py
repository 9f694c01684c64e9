"""Virtual scans of known truth, and training on them."""

from steering.study.direct_training import DirectTraining, train_direct
from steering.study.latent_analysis import analyse_latent, keep_analysis
from steering.study.model_training import train
from steering.study.simulate import simulate
from steering.study.spring_training import SpringTraining, train_springs_on

__all__ = [
    "DirectTraining",
    "SpringTraining",
    "analyse_latent",
    "keep_analysis",
    "simulate",
    "train",
    "train_direct",
    "train_springs_on",
]
