"""A direct-geometry instrument as a spectrum needs it: incident energy, resolution, reach."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from simulations.arrays import FloatArray
from simulations.dynamics import PhononDos
from simulations.errors import InputError
from simulations.instrument import load_instrument, with_chopper
from simulations.scattering import SigmaOfEnergy, sigma_function

FWHM = 2.354820045  # over the standard deviation of a Gaussian
ENERGY_BINS = 160
FREE_EI_MEV = 1e8
"""So high that no |Q| or E of interest is out of reach."""
USUAL_EI_MEV = {
    "ARCS": (15.0, 1500.0),
    "CNCS": (0.5, 80.0),
    "HYSPEC": (3.8, 60.0),
    "SEQUOIA": (4.0, 6000.0),
}
"""Incident energies that these are run at, as their facility's pages state them."""
_SHARE_OF_EI = 0.75  # of the highest mode, when nobody chose the incident energy
_HIGHEST_LOSS = 0.98  # of Ei, where a default energy axis ends


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Optics:
    """A direct-geometry instrument as a spectrum needs it."""

    instrument: str
    ei_meV: float
    sigma_of: SigmaOfEnergy
    two_theta_deg: tuple[float, float]
    words: str  # instrument, Ei and width at the elastic line

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is unusual: an incident energy that the instrument is not run at."""
        low, high = USUAL_EI_MEV.get(self.instrument.split("/")[0], (0.0, np.inf))
        if low <= self.ei_meV <= high:
            return ()
        return (
            f"Ei = {self.ei_meV:g} meV is beyond what {self.instrument} is run at, {low:g} to "
            f"{high:g} meV: flux and resolution there are guesses. Take another instrument or Ei.",
        )


def optics(
    top_meV: float,
    *,
    instrument: str = "ARCS",
    ei_meV: float | None = None,
    chopper: str | None = None,
    fwhm_meV: float | None = None,
) -> Optics:
    """Describe a direct-geometry instrument.

    Parameters
    ----------
    top_meV : float
        Highest phonon; without ``ei_meV`` it lies at three quarters of the incident energy.
    instrument : str
        A name of `load_instrument`, or ``generic``: one width, all scattering angles, and without
        an incident energy no limit to |Q| and E.
    ei_meV : float or None
        Incident energy.
    chopper : str or None
        Slit package and frequency in Hz, ``FC2:300``; None: the instrument's usual resolution.
    fwhm_meV : float or None
        One full width at half maximum for all energies, in place of the instrument's.

    Raises
    ------
    ValueError
        Unknown instrument or chopper, numbers that are not positive, two resolutions at once.
    """
    if instrument.lower() == "generic":
        return _generic(ei_meV, chopper, fwhm_meV)
    known = load_instrument(instrument)
    if ei_meV is None:
        ei_meV = 5.0 * math.ceil(top_meV / _SHARE_OF_EI / 5.0)
    refuse_ei(ei_meV)
    if chopper is not None and fwhm_meV is not None:
        raise InputError("both chopper and fwhm_meV are given; expected one resolution. Drop one.")
    how = ""
    if chopper is not None:
        package, _, frequency = chopper.partition(":")
        try:
            frequency_Hz = float(frequency)
        except ValueError:
            raise InputError(
                f"chopper is {chopper!r}; expected slit package and frequency like FC2:300"
            ) from None
        known = with_chopper(known, package, frequency_Hz, ei_meV)
        how = f", chopper {package} at {frequency_Hz:g} Hz"
    if fwhm_meV is not None:
        refuse_width(fwhm_meV)
        sigma_of = sigma_function(fwhm_meV / FWHM, None)
    else:
        sigma_of = sigma_function(known.resolution, ei_meV)
    width = FWHM * float(sigma_of(np.zeros(1))[0])
    angle = np.rad2deg(np.arccos(np.clip(known.direction[~known.masked, 2], -1, 1)))
    return Optics(
        instrument=known.name,
        ei_meV=ei_meV,
        sigma_of=sigma_of,
        two_theta_deg=(float(angle.min()), float(angle.max())),
        words=f"{known.name}, Ei = {ei_meV:g} meV{how}, resolution {width:.2g} meV at E = 0 (FWHM)",
    )


def _generic(ei_meV: float | None, chopper: str | None, fwhm_meV: float | None) -> Optics:
    """No spectrometer in particular."""
    if fwhm_meV is None or chopper is not None:
        raise InputError(
            "instrument is generic; expected fwhm_meV, its resolution, and no chopper. Give one"
        )
    refuse_width(fwhm_meV)
    if ei_meV is not None:
        refuse_ei(ei_meV)
    limits = "no kinematic limits" if ei_meV is None else f"Ei = {ei_meV:g} meV"
    return Optics(
        instrument="generic",
        ei_meV=FREE_EI_MEV if ei_meV is None else ei_meV,
        sigma_of=sigma_function(fwhm_meV / FWHM, None),
        two_theta_deg=(0.0, 180.0),
        words=f"generic, {limits}, resolution {fwhm_meV:.2g} meV (FWHM)",
    )


def refuse_ei(ei_meV: float) -> None:
    """Raise for an incident energy that no neutron spectrometer has."""
    if not 0.01 <= ei_meV <= 1e5:
        raise InputError(
            f"ei_meV is {ei_meV}; expected a positive energy, from 0.01 to 100,000 meV"
        )


def refuse_width(fwhm_meV: float) -> None:
    """Raise for a resolution that no axis could show."""
    if not 1e-4 <= fwhm_meV <= 1e4:
        raise InputError(
            f"fwhm_meV is {fwhm_meV}; expected a positive width, from 0.0001 to 10,000 meV"
        )


def top_meV(dos: PhononDos) -> float:
    """Highest energy with phonons."""
    return float(dos.energy_edges_meV[-1]) / 1.05


def energy_axis(dos: PhononDos, seen: Optics, edges_meV: FloatArray | None = None) -> FloatArray:
    """Energy edges as given, or from zero to above the highest mode.

    Raises
    ------
    ValueError
        If the axis reaches the incident energy.
    """
    if edges_meV is None:
        end = min(1.08 * top_meV(dos), _HIGHEST_LOSS * seen.ei_meV)
        return np.linspace(0.0, end, ENERGY_BINS + 1)
    if edges_meV[-1] >= seen.ei_meV:
        raise InputError(
            f"energy_meV ends at {edges_meV[-1]:g} meV, but neutrons of Ei = {seen.ei_meV:g} meV "
            "cannot lose that much; expected an axis that ends below Ei. Shorten it or raise Ei."
        )
    return edges_meV
