"""Training of encoders and regressors on simulated folds."""

from model_server.training.training import (
    Recipe,
    TrainingSpectra,
    joined_spectra,
    simulate_spectra,
    train_bundle,
)

__all__ = [
    "Recipe",
    "TrainingSpectra",
    "joined_spectra",
    "simulate_spectra",
    "train_bundle",
]
