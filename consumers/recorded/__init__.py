"""Recorded files: raw events, NXSPE, SPE, and how they replay as messages."""

from consumers.recorded.elastic_line import T0_GOOD_ENOUGH_US, default_t0_us
from consumers.recorded.event_reduction import KEEP, reduce_events
from consumers.recorded.hdf5_file import (
    UnreadableError,
    child_group,
    create_hdf5,
    open_hdf5,
    text_of,
)
from consumers.recorded.nxspe_file import write_nxspe
from consumers.recorded.sns_event_file import PSI_MAY_MOVE_DEG, estimate_t0_of_run, read_event_run
from consumers.recorded.sns_event_layout import (
    CHARGE_UNITS_COULOMB,
    EI_LOGS,
    EMISSION_LOG,
    EPOCH_1990_S,
    TEMPERATURE_LOGS,
    format_time_ns,
)
from consumers.recorded.sns_event_writer_file import write_sns_events
from consumers.recorded.sns_monitor_file import read_monitors
from consumers.recorded.source import inspect_file, kind_of_file, recorded_source
from consumers.recorded.spe_file import read_detectors
from consumers.recorded.stream import timed_stream_of_files

__all__ = [
    "CHARGE_UNITS_COULOMB",
    "EI_LOGS",
    "EMISSION_LOG",
    "EPOCH_1990_S",
    "KEEP",
    "PSI_MAY_MOVE_DEG",
    "T0_GOOD_ENOUGH_US",
    "TEMPERATURE_LOGS",
    "UnreadableError",
    "child_group",
    "create_hdf5",
    "default_t0_us",
    "estimate_t0_of_run",
    "format_time_ns",
    "inspect_file",
    "kind_of_file",
    "open_hdf5",
    "read_detectors",
    "read_event_run",
    "read_monitors",
    "recorded_source",
    "reduce_events",
    "text_of",
    "timed_stream_of_files",
    "write_nxspe",
    "write_sns_events",
]
