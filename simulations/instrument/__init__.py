"""Spectrometers: pixels, resolution, kinematics, goniometer, their files and their alignment."""

from simulations.instrument.alignment import Alignment, align, cubic_rotations
from simulations.instrument.beam_energy import PLACED_M, BeamEnergy, fit_beam_energy
from simulations.instrument.choice import InstrumentSection
from simulations.instrument.chopper_resolution import with_chopper
from simulations.instrument.elastic_peaks import OrientedEvents, elastic_peaks
from simulations.instrument.goniometer import Orientation, crystal_to_lab
from simulations.instrument.idf import evaluate_formula, parse_idf, required_logs
from simulations.instrument.instrument_file import (
    known_instruments,
    read_instrument_table,
    read_text,
)
from simulations.instrument.kinematics import flight_time_us, wave_vector
from simulations.instrument.mask_file import read_mask, with_mask_file
from simulations.instrument.mount_fit import Estimated, MountFit, SpotsOfRun, fit_mount
from simulations.instrument.named import (
    find_instrument,
    instrument_idf,
    load_instrument,
    names_geometry,
)
from simulations.instrument.spectrometer import (
    NAMELESS,
    UNKNOWN_RESOLUTION,
    Instrument,
    Resolution,
    coarsen,
    same_instrument,
    split_name,
)
from simulations.instrument.vanadium_file import read_vanadium, with_vanadium

__all__ = [
    "Alignment",
    "BeamEnergy",
    "Estimated",
    "Instrument",
    "InstrumentSection",
    "MountFit",
    "NAMELESS",
    "Orientation",
    "OrientedEvents",
    "PLACED_M",
    "Resolution",
    "SpotsOfRun",
    "UNKNOWN_RESOLUTION",
    "align",
    "coarsen",
    "crystal_to_lab",
    "cubic_rotations",
    "elastic_peaks",
    "evaluate_formula",
    "find_instrument",
    "fit_beam_energy",
    "fit_mount",
    "flight_time_us",
    "instrument_idf",
    "known_instruments",
    "load_instrument",
    "names_geometry",
    "parse_idf",
    "read_instrument_table",
    "read_mask",
    "read_text",
    "read_vanadium",
    "required_logs",
    "same_instrument",
    "split_name",
    "wave_vector",
    "with_chopper",
    "with_mask_file",
    "with_vanadium",
]
