"""Spectra of all entries of a database for one instrument, on one pair of axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simulations.arrays import FloatArray, SingleArray
from simulations.crystal import Treatment
from simulations.errors import InputError
from steering.database import Database
from steering.predict.database_route import entry_vibrations
from steering.predict.indirect_spectrum import indirect_spectrum
from steering.predict.optics import optics
from steering.predict.phonons import stable
from steering.predict.powder_map import powder_map

INDIRECT = ("VISION", "TOSCA")
ERROR = 0.03
"""Wanted of densities of states, displacements and powder averages; ten times as quick as 0.005."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpectraSetting:
    """What the spectra are for. Energies in meV, |Q| in 1/angstrom, widths FWHM."""

    instrument: str  # a known one, generic, VISION or TOSCA
    energy_edges_meV: tuple[float, ...]
    momentum_edges: tuple[float, ...] = ()  # none for VISION and TOSCA
    ei_meV: float | None = None
    fwhm_meV: float | None = None
    temperature_K: float = 10.0
    error: float = ERROR
    imaginary: Treatment = "left_out"

    @property
    def indirect(self) -> bool:
        """Whether it is S(E) of an indirect-geometry instrument, bank by bank."""
        return self.instrument.upper() in INDIRECT

    @property
    def words(self) -> str:
        """What is in a spectrum, with unit and approximation."""
        what = "S(E) by bank" if self.indirect else "S(|Q|,E) of a powder"
        return (
            f"{what} in barn/meV/sr per primitive cell at {self.temperature_K:g} K: coherent and "
            f"incoherent one-phonon and multiphonon scattering, harmonic, wanted error "
            f"{self.error:g}; small pockets of imaginary modes: {self.imaginary}"
        )


def check_setting(setting: SpectraSetting) -> None:
    """Raise for a setting that no entry could be computed with.

    Raises
    ------
    InputError
        Unknown instrument, missing or needless incident energy, axes out of reach.
    """
    if setting.indirect:
        if setting.ei_meV is not None:
            raise InputError(
                f"ei_meV is {setting.ei_meV:g} for {setting.instrument}; expected none, it is an "
                "indirect-geometry instrument. Leave it out"
            )
        return
    if not setting.momentum_edges:
        raise InputError("q_inverse_A is missing; expected an axis such as 0:15:0.05")
    if setting.ei_meV is None and setting.instrument.lower() != "generic":
        raise InputError(
            f"ei_meV is missing; expected the incident energy of {setting.instrument}, above "
            f"{setting.energy_edges_meV[-1]:g} meV where the axis ends"
        )
    seen = optics(
        1.0, instrument=setting.instrument, ei_meV=setting.ei_meV, fwhm_meV=setting.fwhm_meV
    )
    if setting.energy_edges_meV[-1] >= seen.ei_meV:
        raise InputError(
            f"energy_meV ends at {setting.energy_edges_meV[-1]:g} meV; expected an end below Ei = "
            f"{seen.ei_meV:g} meV. Shorten it or raise Ei"
        )


def entry_spectrum(database: Database, entry_id: str, setting: SpectraSetting) -> SingleArray:
    """Spectrum of one entry, (|Q|, E), or (banks, E) of VISION and TOSCA; NaN out of reach.

    Parameters
    ----------
    database : Database
    entry_id : str
    setting : SpectraSetting

    Raises
    ------
    InputError
        If the entry has more imaginary modes than a spectrum may leave out.
    """
    found = stable(entry_vibrations(database, entry_id, tolerance=setting.error), setting.imaginary)
    edges: FloatArray = np.array(setting.energy_edges_meV)
    if setting.indirect:
        spectrum: Any = indirect_spectrum(
            found,
            instrument=setting.instrument,
            temperature_K=setting.temperature_K,
            energy_edges_meV=edges,
            fwhm_meV=setting.fwhm_meV,
        ).spectrum
        return np.asarray(spectrum.total, dtype=np.float32)
    seen = optics(
        1.0, instrument=setting.instrument, ei_meV=setting.ei_meV, fwhm_meV=setting.fwhm_meV
    )
    return powder_map(
        found,
        seen,
        temperature_K=setting.temperature_K,
        energy_edges_meV=edges,
        momentum_edges=np.array(setting.momentum_edges),
        tolerance=setting.error,
    ).intensity.astype(np.float32)
