"""The experiment file, its drafts, and the experiment made concrete."""

from steering.experiment.alarms import AlarmKind, AlarmsSection
from steering.experiment.draft import GIVEN, draft_experiment, prior_beside
from steering.experiment.experiment_file import (
    Experiment,
    TodoError,
    checked_experiment,
    dump_experiment,
    files_made_absolute,
    files_named,
    load_experiment,
    load_for_folding,
    todos_of,
    with_absolute_files,
    write_amended,
    write_draft,
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
    "GIVEN",
    "Measurement",
    "MotionSection",
    "TodoError",
    "build_measurement",
    "calibrated",
    "checked_experiment",
    "chosen_instrument",
    "draft_experiment",
    "dump_experiment",
    "files_made_absolute",
    "files_named",
    "force_constants_of",
    "foreign",
    "load_experiment",
    "load_for_folding",
    "parameters_of",
    "prior_beside",
    "recorded_instrument",
    "structure_of",
    "todos_of",
    "with_absolute_files",
    "write_amended",
    "write_draft",
]
