"""Exposure straight from an orientation, for tests that need no `Sight`."""

from __future__ import annotations

from typing import Any

import numpy as np

from simulations.crystal import Crystal
from simulations.fold.exposure import Exposure, expose
from simulations.fold.image_exposure import ImageExposure, expose_images
from simulations.fold.pixel_view import view_pixels
from simulations.instrument import Instrument
from simulations.reciprocal import EnergyAxis


def compute_exposure(**given: Any) -> Exposure:
    """`expose` of the view that ``crystal_to_lab`` and ``histogram_edges_meV`` make."""
    return expose(_view(given), **given)


def compute_image_exposure(**given: Any) -> ImageExposure:
    """`expose_images` of the same view."""
    return expose_images(_view(given), **given)


def _view(given: dict[str, Any]):
    crystal: Crystal = given["crystal"]
    instrument: Instrument = given["instrument"]
    energy: EnergyAxis = given["energy"]
    turn: np.ndarray = given.pop("crystal_to_lab")
    return view_pixels(
        crystal=crystal,
        instrument=instrument,
        energy=energy,
        ei_meV=given["ei_meV"],
        crystal_to_lab=turn,
        histogram_edges_meV=given.pop("histogram_edges_meV", None),
    )
