"""Energy resolution of a chopper spectrometer from its flight paths and three spreads.

A neutron leaves the moderator and passes the Fermi chopper at times that are not sharp, and its
path behind the sample has no sharp length. Each spread turns into an error of the energy transfer;
they add in quadrature. What the spreads are is fitted to the width of the elastic line of vanadium;
how they act at other energy transfers follows from the flight paths alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulations.arrays import FloatArray
from simulations.constants import NEUTRON_MEV_A2
from simulations.errors import InputError
from simulations.instrument.spectrometer import Instrument, Resolution, split_name

_HBAR_MEV_S = 6.582119569e-13
_FWHM = 2.354820045
_OPEN_BELOW = 2.0  # blade mismatch up to which widths are fitted
_CLOSED_ABOVE = 2.2  # beyond it they are refused: off by 30 % and more
_POLYNOMIAL_DEGREE = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class SlitPackage:
    """What a Fermi chopper spins: parallel curved slits."""

    slit_mm: float  # effective width of a slit
    curvature_m: float  # radius of its blades
    radius_m: float = 0.05  # of the package


@dataclass(frozen=True, kw_only=True, slots=True)
class ChopperSpectrometer:
    """Flight paths and spreads (full widths at half maximum) of a direct-geometry spectrometer."""

    moderator_to_chopper_m: float
    chopper_to_sample_m: float
    sample_to_detector_m: float
    packages: Mapping[str, SlitPackage]
    storage_us: float  # pulse of the moderator at low energy
    storage_meV: float  # its square falls with exp(-Ei / this)
    path_mm: float  # spread of the path behind the sample
    source: str

    def package(self, name: str) -> SlitPackage:
        """Slit package of a name; ValueError lists the known ones."""
        if name not in self.packages:
            raise InputError(
                f"chopper is {name!r}; expected one of {', '.join(self.packages)}. Correct the name"
            )
        return self.packages[name]

    def fwhm_meV(
        self, package: str, frequency_Hz: float, ei_meV: float, energy_transfer_meV: ArrayLike = 0.0
    ) -> FloatArray:
        """Full width at half maximum at energy transfers, meV.

        Parameters
        ----------
        package : str
            Slit package, a key of ``packages``.
        frequency_Hz : float
            Of the chopper.
        ei_meV : float
            Incident energy.
        energy_transfer_meV : (...) array_like
            Below the incident energy.

        Raises
        ------
        ValueError
            If the package is unknown, a number is not positive, the chopper does not pass that
            energy at that frequency, or an energy transfer reaches the incident energy.

        References
        ----------
        C. G. Windsor, Pulsed Neutron Scattering (Taylor and Francis, 1981), chapter 6: the two
        times. M. Marseguerra and G. Pauli, Nucl. Instrum. Methods 4, 140 (1959): the chopper.
        """
        slits = self.package(package)
        for field, value in (("frequency_Hz", frequency_Hz), ("ei_meV", ei_meV)):
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"chopper: {field} is {value}; expected a positive number")
        energy = np.asarray(energy_transfer_meV, dtype=float)
        if np.any(energy >= ei_meV):
            raise InputError(
                f"energy transfer reaches {energy.max():g} meV; expected less than Ei = {ei_meV:g}"
            )
        mismatch = float(blade_mismatch(slits, frequency_Hz, np.array(ei_meV)))
        if mismatch > _CLOSED_ABOVE:
            best = best_frequency_Hz(slits, ei_meV)
            raise InputError(
                f"chopper {package} at {frequency_Hz:g} Hz hardly passes {ei_meV:g} meV (blade "
                f"mismatch {mismatch:.1f}, expected at most {_CLOSED_ABOVE}); the slits are "
                f"straight to these neutrons at {best:.0f} Hz. Choose a frequency nearer to that"
            )
        return self._width(slits, frequency_Hz, ei_meV, energy)

    def _width(
        self, slits: SlitPackage, frequency_Hz: ArrayLike, ei_meV: ArrayLike, energy: ArrayLike
    ) -> FloatArray:
        ei = np.asarray(ei_meV, dtype=float)
        per_second = 2 * ei * speed_m_s(ei) / self.moderator_to_chopper_m
        final = 1 - np.asarray(energy, dtype=float) / ei  # final over incident energy
        slow = final**1.5
        behind = self.chopper_to_sample_m / self.sample_to_detector_m
        total = self.moderator_to_chopper_m + self.chopper_to_sample_m
        chopper = opening_time_s(slits, frequency_Hz, ei)
        chopper = per_second * chopper * (1 + total / self.sample_to_detector_m * slow)
        pulse = 1e-6 * self.storage_us * np.exp(-0.5 * ei / self.storage_meV)
        pulse = per_second * pulse * (1 + behind * slow)
        path = 2 * ei * final * 1e-3 * self.path_mm / self.sample_to_detector_m
        return np.sqrt(chopper**2 + pulse**2 + path**2)

    def resolution(self, package: str, frequency_Hz: float, ei_meV: float) -> Resolution:
        """Polynomial in E / Ei that follows the widths from E = -Ei to 0.95 Ei.

        Raises
        ------
        ValueError
            As `fwhm_meV`.
        """
        x = np.cos(np.linspace(0, np.pi, 60)) * 0.975 - 0.025
        width = self.fwhm_meV(package, frequency_Hz, ei_meV, x * ei_meV) / ei_meV
        fitted = np.polynomial.Polynomial.fit(x, width, _POLYNOMIAL_DEGREE, w=1 / width)
        return Resolution(coefficients=tuple(float(c) for c in fitted.convert().coef))


def speed_m_s(energy_meV: ArrayLike) -> FloatArray:
    """Speed of neutrons, m/s."""
    k = np.sqrt(np.asarray(energy_meV, dtype=float) / NEUTRON_MEV_A2)  # 1/angstrom
    return 2 * NEUTRON_MEV_A2 * k / _HBAR_MEV_S * 1e-10


def best_frequency_Hz(slits: SlitPackage, ei_meV: float) -> float:
    """Frequency at which the slits are straight in the frame of the neutrons."""
    return float(speed_m_s(ei_meV)) / (4 * np.pi * slits.curvature_m)


def blade_mismatch(slits: SlitPackage, frequency_Hz: ArrayLike, ei_meV: ArrayLike) -> FloatArray:
    """Bend of the slits seen by a neutron over their width; 0: straight, 4: closed."""
    bend = 1 / slits.curvature_m - 4 * np.pi * np.asarray(frequency_Hz) / speed_m_s(ei_meV)
    return np.abs(2 * slits.radius_m**2 / (1e-3 * slits.slit_mm) * bend)


def opening_time_s(slits: SlitPackage, frequency_Hz: ArrayLike, ei_meV: ArrayLike) -> FloatArray:
    """Full width at half maximum of the chopper's burst, s, as of a Gaussian of equal variance."""
    g = np.minimum(blade_mismatch(slits, frequency_Hz, ei_meV), 4.0)
    root = np.sqrt(g)
    inside = (1 - g**2 / 10) / (1 - g**2 / 6)
    outside = 0.6 * g * (root - 2) ** 2 * (root + 8) / (root + 4)
    shape = np.where(g <= 1, inside, outside)
    straight = 1e-3 * slits.slit_mm / (4 * np.pi * np.asarray(frequency_Hz) * slits.radius_m)
    return _FWHM * straight * np.sqrt(shape / 6)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VanadiumTable:
    """Measured elastic widths, one row per setting."""

    package: tuple[str, ...]  # (rows,)
    frequency_Hz: FloatArray  # (rows,)
    ei_meV: FloatArray  # (rows,)
    fwhm_meV: FloatArray  # (rows,)


def usable_rows(table: VanadiumTable, spectrometer: ChopperSpectrometer) -> NDArray[np.bool_]:
    """Rows whose width is that of the spectrometer, (rows,) bool.

    Left out are failed fits (width below 0 or above 0.3 Ei), lines wider than 12 meV and incident
    energies above 310 meV (they merge with vanadium's own phonons and recoil), and settings that
    the chopper hardly passes.
    """
    mismatch = np.array(
        [
            blade_mismatch(spectrometer.package(name), f, e)
            for name, f, e in zip(table.package, table.frequency_Hz, table.ei_meV, strict=True)
        ]
    )
    sound = (table.fwhm_meV > 0) & (table.fwhm_meV < 0.3 * table.ei_meV)
    narrow = (table.fwhm_meV < 12) & (table.ei_meV < 310)
    return sound & narrow & (mismatch < _OPEN_BELOW)


def fit_spectrometer(table: VanadiumTable, start: ChopperSpectrometer) -> ChopperSpectrometer:
    """Fit slit widths, moderator and path spread to the widths of vanadium.

    Parameters
    ----------
    table : VanadiumTable
        Rows that are usable by ``start`` are fitted.
    start : ChopperSpectrometer
        Flight paths and curvatures, which are kept, and the first guess of the rest.

    Returns
    -------
    ChopperSpectrometer
    """
    from scipy.optimize import least_squares

    use = usable_rows(table, start)
    names = list(start.packages)
    owner = np.array([names.index(name) for name in table.package])[use]
    frequency, ei, measured = (a[use] for a in (table.frequency_Hz, table.ei_meV, table.fwhm_meV))

    def spectrometer(scale: FloatArray) -> ChopperSpectrometer:
        packages = {
            name: replace(slits, slit_mm=slits.slit_mm * float(scale[k]))
            for k, (name, slits) in enumerate(start.packages.items())
        }
        storage_us, storage_meV, path_mm = (float(s) for s in scale[-3:])
        return replace(
            start,
            packages=packages,
            storage_us=start.storage_us * storage_us,
            storage_meV=start.storage_meV * storage_meV,
            path_mm=start.path_mm * path_mm,
        )

    def misses(logarithms: FloatArray) -> FloatArray:
        model = spectrometer(np.exp(logarithms))
        width = np.empty(len(ei))
        for k, name in enumerate(names):
            rows = owner == k
            width[rows] = model._width(model.packages[name], frequency[rows], ei[rows], 0.0)
        return np.log(width / measured)

    found = least_squares(misses, np.zeros(len(names) + 3), loss="soft_l1", f_scale=0.03)
    return spectrometer(np.exp(found.x))


ARCS = ChopperSpectrometer(
    moderator_to_chopper_m=11.61,
    chopper_to_sample_m=1.99,
    sample_to_detector_m=3.0,
    packages={
        "FC1": SlitPackage(slit_mm=2.200, curvature_m=1.535),
        "FC2": SlitPackage(slit_mm=2.347, curvature_m=0.580),
    },
    storage_us=49.75,
    storage_meV=56.93,
    path_mm=25.34,
    source="fit to the elastic line of vanadium measured on ARCS in 2018, Fermi choppers FC1 and "
    "FC2 at 60 to 600 Hz (sns-chops/resolution): 171 settings, rms 4.4 %. Flight paths of the "
    "instrument definition; blades are straight to 700 and 100 meV at 600 Hz. Fitted slits are "
    "effective: they make up for what three spreads leave out",
)

_KNOWN = {"ARCS": ARCS}


def with_chopper(
    instrument: Instrument, package: str, frequency_Hz: float, ei_meV: float
) -> Instrument:
    """Same instrument with the resolution of a chopper setting.

    Parameters
    ----------
    instrument : Instrument
        Of a name that has fitted choppers, for example ``ARCS`` or ``ARCS/4``.
    package : str
        For example ``FC1``.
    frequency_Hz : float
    ei_meV : float

    Raises
    ------
    ValueError
        If the instrument has no fitted choppers, or as `ChopperSpectrometer.fwhm_meV`.
    """
    base, _ = split_name(instrument.name)
    if base not in _KNOWN:
        raise InputError(
            f"instrument.name is {instrument.name!r}, whose choppers are not fitted; expected one "
            f"of {', '.join(_KNOWN)}. Give the coefficients of `resolution` instead"
        )
    return replace(instrument, resolution=_KNOWN[base].resolution(package, frequency_Hz, ei_meV))
