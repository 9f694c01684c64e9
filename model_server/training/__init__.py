"""Training of encoders and regressors on simulated folds."""

from model_server.training.off_set_up import simulate_off_set_up
from model_server.training.progressed_file import key_of
from model_server.training.recipes import AnyRecipe, FlowRecipe, ImageRecipe, Recipe, recipe_of
from model_server.training.spectra import (
    TrainingSpectra,
    end_to_end,
    joined_spectra,
)
from model_server.training.training import (
    LEVELS,
    level_inputs,
    noisy_inputs,
    simulate_spectra,
    train_bundle,
)

__all__ = [
    "AnyRecipe",
    "FlowRecipe",
    "ImageRecipe",
    "LEVELS",
    "Recipe",
    "TrainingSpectra",
    "end_to_end",
    "joined_spectra",
    "key_of",
    "level_inputs",
    "noisy_inputs",
    "recipe_of",
    "simulate_off_set_up",
    "simulate_spectra",
    "train_bundle",
]
