"""S(E) of an indirect-geometry instrument such as VISION or TOSCA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from simulations.arrays import FloatArray
from simulations.scattering import (
    VibrationalSpectrum,
    many_phonons,
    resolved_edges,
    vibrational_spectrum,
)
from steering.predict.optics import FWHM, refuse_width, top_meV
from steering.predict.spectrum_map import Setting, samplings
from steering.predict.vibrations import Vibrations, formula

MAX_ORDER = 10  # phonons


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IndirectSpectrum:
    """S(E) of an indirect-geometry instrument."""

    setting: Setting
    spectrum: VibrationalSpectrum

    def content(self) -> dict[str, Any]:
        """All of it as plain names and arrays, units in the names."""
        s = self.spectrum
        return {
            "kind": "vibrational",
            **self.setting.content(),
            "banks": list(s.banks),
            "elements": list(s.elements),
            "energy_meV_edges": s.energy_edges_meV,
            "total": s.total,
            "orders": s.orders,
            "partials": s.partials,
            "momentum_inverse_A": s.momentum,
        }


def indirect_spectrum(
    vibrations: Vibrations,
    *,
    instrument: str = "VISION",
    temperature_K: float = 10.0,
    energy_edges_meV: FloatArray | None = None,
    fwhm_meV: float | None = None,
) -> IndirectSpectrum:
    """S(E) of an indirect-geometry instrument: fundamentals, overtones and combinations.

    Parameters
    ----------
    vibrations : Vibrations
        From `stable`; force constants are not needed.
    instrument : str
        ``VISION`` or ``TOSCA``.
    temperature_K : float
    energy_edges_meV : (E + 1,) float64 or None
        None: from 0 to 2.5 times the highest mode, in steps of a third of the full width.
    fwhm_meV : float or None
        One full width at half maximum for all energies, in place of the instrument's.

    Raises
    ------
    InputError
        If the width is not positive; as `vibrational_spectrum`.
    """
    if fwhm_meV is not None:
        refuse_width(fwhm_meV)
    resolution = None if fwhm_meV is None else fwhm_meV / FWHM
    edges = energy_edges_meV
    if edges is None:
        edges = resolved_edges(2.5 * top_meV(vibrations.dos), instrument, resolution)
    moved = vibrations.displacements(temperature_K)
    found = vibrational_spectrum(
        vibrations.crystal,
        vibrations.dos,
        edges,
        temperature_K=temperature_K,
        instrument=instrument,
        resolution=resolution,
        max_order=MAX_ORDER,
        displacement=None if moved is None else moved.tensors,
        beyond=True,
    )
    return IndirectSpectrum(
        setting=Setting(
            title=formula(vibrations.crystal),
            route=vibrations.route,
            approximations=(
                *vibrations.approximations,
                f"{found.approximation}; {many_phonons(MAX_ORDER)}",
            ),
            warnings=vibrations.warnings,
            sampling=samplings(vibrations, moved),
            instrument=found.instrument,
            temperature_K=temperature_K,
            ei_meV=None,
            words=f"{found.instrument}, {temperature_K:g} K",
        ),
        spectrum=found,
    )
