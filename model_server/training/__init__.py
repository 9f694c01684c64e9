"""Training of encoders and regressors on simulated folds."""

from model_server.training.progressed_file import key_of
from model_server.training.recipes import ImageRecipe, Recipe, recipe_of
from model_server.training.training import (
    LEVELS,
    TrainingSpectra,
    joined_spectra,
    level_inputs,
    noisy_inputs,
    simulate_spectra,
    train_bundle,
)

__all__ = [
    "ImageRecipe",
    "LEVELS",
    "Recipe",
    "TrainingSpectra",
    "joined_spectra",
    "key_of",
    "level_inputs",
    "noisy_inputs",
    "recipe_of",
    "simulate_spectra",
    "train_bundle",
]
