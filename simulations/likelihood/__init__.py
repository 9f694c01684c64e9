"""Rates of folded cells from force constants: folded phonons and walked trajectories."""

from simulations.likelihood.continuation import continuation_error
from simulations.likelihood.drift import Drift, drift_of
from simulations.likelihood.folded_phonons import FoldedPhonons
from simulations.likelihood.forward_model import ExactModel, ForwardModel, RoughModel, State
from simulations.likelihood.missetting import (
    NONE_OFF,
    Q_SPREAD,
    Missetting,
    MissettingSection,
    missetting,
)
from simulations.likelihood.mode_state import ModeState
from simulations.likelihood.q_spread import TYPICAL, QSpreadSection, q_blur, size_of_pixels
from simulations.likelihood.thinned import (
    ThinnedPhonons,
    every_that_serves,
    steepest,
    thinned,
    times_as_many,
)
from simulations.likelihood.trajectories import Trajectories, trace_trajectories
from simulations.likelihood.trajectory_arguments import QBlur
from simulations.likelihood.trajectory_phonons import TrajectoryPhonons, bytes_per_point
from simulations.likelihood.zone_map import ZoneMap, build_zone_map

__all__ = [
    "Drift",
    "ExactModel",
    "FoldedPhonons",
    "ForwardModel",
    "Missetting",
    "MissettingSection",
    "ModeState",
    "NONE_OFF",
    "QBlur",
    "QSpreadSection",
    "Q_SPREAD",
    "RoughModel",
    "State",
    "TYPICAL",
    "ThinnedPhonons",
    "Trajectories",
    "TrajectoryPhonons",
    "ZoneMap",
    "build_zone_map",
    "bytes_per_point",
    "continuation_error",
    "drift_of",
    "every_that_serves",
    "missetting",
    "q_blur",
    "size_of_pixels",
    "steepest",
    "thinned",
    "times_as_many",
    "trace_trajectories",
]
