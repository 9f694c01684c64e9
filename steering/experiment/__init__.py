"""The experiment file, its drafts, and the experiment made concrete."""

from steering.experiment.alarms import AlarmKind, AlarmsSection
from steering.experiment.draft import draft_experiment
from steering.experiment.experiment_file import (
    Experiment,
    dump_experiment,
    load_experiment,
    with_absolute_files,
)
from steering.experiment.measurement import (
    EI_TOLERANCE,
    Measurement,
    build_measurement,
    calibrated,
    chosen_instrument,
    force_constants_of,
    foreign,
    parameters_of,
    recorded_instrument,
    structure_of,
)
from steering.experiment.motion import MotionSection

__all__ = [
    "AlarmKind",
    "AlarmsSection",
    "EI_TOLERANCE",
    "Experiment",
    "Measurement",
    "MotionSection",
    "build_measurement",
    "calibrated",
    "chosen_instrument",
    "draft_experiment",
    "dump_experiment",
    "force_constants_of",
    "foreign",
    "load_experiment",
    "parameters_of",
    "recorded_instrument",
    "structure_of",
    "with_absolute_files",
]
