"""Expected phonons and spectra of a structure or a result, and priors made for it."""

from steering.predict.crystal_maps import Line, Plane, line_map, path_map, plane_map
from steering.predict.database_spectra import SpectraSetting
from steering.predict.database_spectra_store import write_spectra
from steering.predict.indirect_spectrum import IndirectSpectrum, indirect_spectrum
from steering.predict.isotope_text import isotopes_of_text
from steering.predict.optics import Optics, optics, top_meV
from steering.predict.phonons import Phonons, phonons, stable
from steering.predict.phonons_file import write_phonons
from steering.predict.posterior_phonons import PosteriorPhonons, posterior_phonons, rounded
from steering.predict.posterior_phonons_file import (
    experiment_of_result,
    independent_elastic,
    is_result,
    write_posterior_phonons,
)
from steering.predict.powder_map import powder_map
from steering.predict.predictions import (
    GENERIC_FWHM,
    INDIRECT,
    PredictionRequest,
    Quantity,
    predict,
    prediction_request,
)
from steering.predict.prior_making import MadePrior, make_prior
from steering.predict.routes import ROUTES, vibrations_of
from steering.predict.spectrum_file import write_spectrum
from steering.predict.spectrum_map import SpectrumMap
from steering.predict.structure_file import crystal_named, open_structure, ordered_structure
from steering.predict.uploaded_file import refuse_names, uploaded_folder
from steering.predict.vibrations import Vibrations, formula

__all__ = [
    "GENERIC_FWHM",
    "INDIRECT",
    "IndirectSpectrum",
    "Line",
    "MadePrior",
    "Optics",
    "Phonons",
    "Plane",
    "PosteriorPhonons",
    "PredictionRequest",
    "Quantity",
    "ROUTES",
    "SpectraSetting",
    "SpectrumMap",
    "Vibrations",
    "crystal_named",
    "experiment_of_result",
    "formula",
    "independent_elastic",
    "indirect_spectrum",
    "is_result",
    "isotopes_of_text",
    "line_map",
    "make_prior",
    "open_structure",
    "optics",
    "ordered_structure",
    "path_map",
    "phonons",
    "plane_map",
    "posterior_phonons",
    "powder_map",
    "predict",
    "prediction_request",
    "refuse_names",
    "rounded",
    "stable",
    "top_meV",
    "uploaded_folder",
    "vibrations_of",
    "write_phonons",
    "write_posterior_phonons",
    "write_spectra",
    "write_spectrum",
]
