"""Training of encoders and regressors on simulated folds."""

from model_server.training.progressed_file import key_of
from model_server.training.recipes import ImageRecipe, Recipe, recipe_of
from model_server.training.training import (
    TrainingSpectra,
    joined_spectra,
    simulate_spectra,
    train_bundle,
)

__all__ = [
    "ImageRecipe",
    "Recipe",
    "TrainingSpectra",
    "joined_spectra",
    "key_of",
    "recipe_of",
    "simulate_spectra",
    "train_bundle",
]
