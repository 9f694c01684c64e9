"""Posterior of force constants: refinement and trust."""

from model_server.posterior.doubt import Search, first_answer
from model_server.posterior.effort import Effort, least_effort
from model_server.posterior.first_guess import FirstGuess
from model_server.posterior.observation import Observation, usable_cells
from model_server.posterior.posterior import Posterior
from model_server.posterior.refinement import NUISANCE_SIGMA, Refinement
from model_server.posterior.sharpening import Sharpened
from model_server.posterior.trust import Trust, TrustState, assess, residual_sigma

__all__ = [
    "Effort",
    "FirstGuess",
    "NUISANCE_SIGMA",
    "Observation",
    "Posterior",
    "Refinement",
    "Search",
    "Sharpened",
    "Trust",
    "TrustState",
    "assess",
    "first_answer",
    "least_effort",
    "residual_sigma",
    "usable_cells",
]
