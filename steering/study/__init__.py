"""Virtual scans of known truth, and training on them."""

from steering.study.model_training import train
from steering.study.simulate import simulate

__all__ = [
    "simulate",
    "train",
]
