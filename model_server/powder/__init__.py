"""Force constants from measured powder spectra."""

from model_server.powder.aluminium import aluminium_setup
from model_server.powder.fit import InversionSettings, PowderFit, fit_powder
from model_server.powder.inversion import at_kelvin, invert_powder, report
from model_server.powder.spectrum_files import (
    holds_spectrum,
    intensity_of,
    read_reduced,
    reduced_spectrum,
)

__all__ = [
    "InversionSettings",
    "PowderFit",
    "aluminium_setup",
    "at_kelvin",
    "fit_powder",
    "holds_spectrum",
    "intensity_of",
    "invert_powder",
    "read_reduced",
    "reduced_spectrum",
    "report",
]
