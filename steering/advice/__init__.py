"""Where to turn next, for how long, and when to stop."""

from steering.advice.information import candidate_angles, information_per_minute
from steering.advice.policies import Advice, FalsificationPolicy, InformationPolicy
from steering.advice.situation import Candidate, Setting, Situation
from steering.advice.stopping import (
    LOOKS_BELOW_TARGET,
    StopAdvice,
    absolute_targets,
    minutes_to_target,
    stop_advice,
    targets_met,
)

__all__ = [
    "Advice",
    "Candidate",
    "FalsificationPolicy",
    "InformationPolicy",
    "LOOKS_BELOW_TARGET",
    "Setting",
    "Situation",
    "StopAdvice",
    "absolute_targets",
    "candidate_angles",
    "information_per_minute",
    "minutes_to_target",
    "stop_advice",
    "targets_met",
]
