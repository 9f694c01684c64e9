"""Virtual scans of known truth, and training on them."""

from steering.study.direct_training import DirectTraining, train_direct
from steering.study.model_training import train
from steering.study.simulate import simulate

__all__ = [
    "DirectTraining",
    "simulate",
    "train",
    "train_direct",
]
