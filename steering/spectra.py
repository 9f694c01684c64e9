"""What a neutron spectrometer will see of a crystal: powder, path, cuts, vibrational spectrum.

Chooses axes and instrument where nobody did, calls the physics, and says with which approximations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.chopper_resolution import with_chopper
from simulations.cut import line_cut, plane_cut
from simulations.force_constants import ForceConstantModel
from simulations.incoherent import incoherent_lines, incoherent_spectrum
from simulations.indirect import VibrationalSpectrum, vibrational_spectrum
from simulations.instruments import load_instrument
from simulations.phonon_dos import PhononDos, phonon_dos
from simulations.powder import (
    SigmaOfEnergy,
    lattice_vectors_within,
    momentum_limits,
    powder_spectrum,
    sigma_function,
)
from simulations.scattering import (
    bragg_intensities,
    broadened,
    displacement_tensors,
    one_phonon_lines,
)
from steering.lattice_model import LatticeModel, formula
from steering.path_points import PathPoints, path_points
from steering.phonons import imaginary_modes

FloatArray = NDArray[np.float64]

PER_CELL = "barn/meV/sr per primitive cell"
MAX_ORDER = 6  # phonons of a powder spectrum
MAX_ORDER_VIBRATIONAL = 10
ENERGY_BINS, MOMENTUM_BINS, PLANE_BINS = 160, 120, 160
MOST_CELLS = 4_000_000
FWHM = 2.354820045  # over the standard deviation of a Gaussian
_SHARE_OF_EI = 0.75  # of the highest mode, when nobody chose the incident energy
_HIGHEST_LOSS = 0.98  # of Ei, where a default energy axis ends

HARMONIC = "harmonic; Gaussian resolution; no elastic line, multiple scattering or absorption"
ONE_PHONON = (
    f"one phonon, coherent and incoherent, with anisotropic Debye-Waller factor; {HARMONIC}"
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Optics:
    """A direct-geometry instrument as a spectrum needs it."""

    instrument: str
    ei_meV: float
    sigma_of: SigmaOfEnergy
    two_theta_deg: tuple[float, float]
    words: str  # instrument, Ei and width at the elastic line


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Setting:
    """What a spectrum was computed for and from."""

    title: str
    route: dict[str, str]
    approximations: tuple[str, ...]
    instrument: str
    temperature_K: float
    ei_meV: float | None
    words: str

    def content(self) -> dict[str, Any]:
        """All of it as plain names."""
        return {
            "title": self.title,
            "route": self.route,
            "approximations": list(self.approximations),
            "instrument": self.instrument,
            "temperature_K": self.temperature_K,
            "ei_meV": self.ei_meV,
            "setting": self.words,
            "unit": PER_CELL,
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpectrumMap:
    """Intensity over two axes; NaN where the instrument does not reach."""

    kind: str  # powder, path, line or plane
    setting: Setting
    x_name: str  # with its unit, for example q_inverse_A
    x_edges: FloatArray  # (X + 1,), of a path its points (X,)
    y_name: str
    y_edges: FloatArray  # (Y + 1,)
    intensity: FloatArray  # (X, Y)
    parts: dict[str, FloatArray]  # (X, Y) each, summing to intensity
    hkl: FloatArray | None = None  # (X, 3) or (X, Y, 3), r.l.u. of the conventional cell
    path: PathPoints | None = None
    branches_meV: FloatArray | None = None  # (X, modes)
    axes_hkl: tuple[FloatArray, ...] = ()  # directions of x (and y), r.l.u.
    origin_hkl: FloatArray | None = None
    band_meV: tuple[float, float] | None = None

    @property
    def x(self) -> FloatArray:
        """Where columns are, (X,)."""
        if self.path is not None:
            return self.x_edges
        return 0.5 * (self.x_edges[1:] + self.x_edges[:-1])

    @property
    def y(self) -> FloatArray:
        """Where rows are, (Y,)."""
        return 0.5 * (self.y_edges[1:] + self.y_edges[:-1])

    def content(self) -> dict[str, Any]:
        """All of it as plain names and arrays, units in the names."""
        edges = "" if self.path is not None else "_edges"
        found: dict[str, Any] = {
            "kind": self.kind,
            **self.setting.content(),
            f"{self.x_name}{edges}": self.x_edges,
            f"{self.y_name}_edges": self.y_edges,
            "intensity": self.intensity,
            "parts": self.parts,
        }
        if self.hkl is not None:
            found["hkl_rlu"] = self.hkl
        if self.path is not None:
            found["path_hkl_rlu"] = self.path.hkl
            found["tick_positions_inverse_A"] = self.path.tick_positions
            found["tick_labels"] = list(self.path.tick_labels)
            found["breaks"] = list(self.path.breaks)
        if self.branches_meV is not None:
            found["branches_meV"] = self.branches_meV
        if self.origin_hkl is not None:
            found["origin_hkl_rlu"] = self.origin_hkl
        for name, direction in zip(("x", "y"), self.axes_hkl, strict=False):
            found[f"{name}_direction_rlu"] = direction
        if self.band_meV is not None:
            found["energy_band_meV"] = np.array(self.band_meV)
        return found


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Vibrations:
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
        A name of `load_instrument`.
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
    known = load_instrument(instrument)
    if ei_meV is None:
        ei_meV = 5.0 * math.ceil(top_meV / _SHARE_OF_EI / 5.0)
    if not (math.isfinite(ei_meV) and ei_meV > 0):
        raise ValueError(f"ei_meV is {ei_meV}; expected a positive energy")
    if chopper is not None and fwhm_meV is not None:
        raise ValueError("both chopper and fwhm_meV are given; expected one resolution. Drop one.")
    how = ""
    if chopper is not None:
        package, _, frequency = chopper.partition(":")
        try:
            frequency_Hz = float(frequency)
        except ValueError:
            raise ValueError(
                f"chopper is {chopper!r}; expected slit package and frequency like FC2:300"
            ) from None
        known = with_chopper(known, package, frequency_Hz, ei_meV)
        how = f", chopper {package} at {frequency_Hz:g} Hz"
    if fwhm_meV is not None:
        if not (math.isfinite(fwhm_meV) and fwhm_meV > 0):
            raise ValueError(f"fwhm_meV is {fwhm_meV}; expected a positive width")
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


def stable_dos(lattice: LatticeModel) -> PhononDos:
    """Density of states of a stable crystal.

    Raises
    ------
    ValueError
        If modes are imaginary: no spectrum can be made of them.
    """
    dos = phonon_dos(lattice.model)
    imaginary = imaginary_modes(lattice.model, dos)
    if imaginary is not None:
        told = imaginary.words.replace(" Imaginary modes are shown as negative energies.", "")
        raise ValueError(
            f"structure: {told} No spectrum is made of imaginary modes; look at them with "
            "`beamsteer phonons`."
        )
    return dos


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
        raise ValueError(
            f"energy_meV ends at {edges_meV[-1]:g} meV, but neutrons of Ei = {seen.ei_meV:g} meV "
            "cannot lose that much; expected an axis that ends below Ei. Shorten it or raise Ei."
        )
    return edges_meV


def powder_map(
    lattice: LatticeModel,
    dos: PhononDos,
    seen: Optics,
    *,
    temperature_K: float = 300.0,
    energy_edges_meV: FloatArray | None = None,
    momentum_edges: FloatArray | None = None,
    momentum_fwhm: float = 0.0,
) -> SpectrumMap:
    """S(|Q|, E) of a powder: coherent and incoherent one-phonon, and multiphonon.

    Parameters
    ----------
    lattice, dos, seen
        From `lattice_model`, `stable_dos`, `optics`.
    temperature_K : float
    energy_edges_meV : (E + 1,) float64 or None
        None: from 0 to above the highest mode.
    momentum_edges : (Q + 1,) float64 or None
        1/angstrom; None: all that the instrument reaches.
    momentum_fwhm : float
        Resolution in |Q|, 1/angstrom.

    Raises
    ------
    ValueError
        As `energy_axis`.
    """
    edges = energy_axis(dos, seen, energy_edges_meV)
    if momentum_edges is None:
        reach = momentum_limits(np.array([min(0.0, edges[0])]), seen.ei_meV, seen.two_theta_deg)
        momentum_edges = np.linspace(0.02, 1.0, MOMENTUM_BINS + 1) * float(reach[1][0])
    _refuse_many(len(momentum_edges) - 1, len(edges) - 1)
    model = lattice.model
    coherent = powder_spectrum(
        model,
        momentum_edges,
        edges,
        temperature_K=temperature_K,
        resolution=seen.sigma_of,
        ei_meV=seen.ei_meV,
        two_theta_deg=seen.two_theta_deg,
        momentum_sigma=momentum_fwhm / FWHM,
    )
    others = incoherent_spectrum(
        model.crystal,
        dos,
        momentum_edges,
        edges,
        temperature_K=temperature_K,
        resolution=seen.sigma_of,
        ei_meV=seen.ei_meV,
        max_order=MAX_ORDER,
    )
    parts = {
        "coherent": coherent.intensity,
        "incoherent": others.one_phonon,
        "multiphonon": others.multiphonon,
    }
    notes = (
        "coherent: one phonon, powder average over sampled q and all G",
        f"incoherent: one phonon; multiphonon: 2 to {MAX_ORDER} phonons, both isotropic and, for "
        "multiphonon, in the incoherent approximation",
        HARMONIC,
    )
    return SpectrumMap(
        kind="powder",
        setting=_setting(lattice, seen, temperature_K, notes),
        x_name="q_inverse_A",
        x_edges=momentum_edges,
        y_name="energy_meV",
        y_edges=edges,
        **_summed(parts, coherent.accessible),
    )


def path_map(
    lattice: LatticeModel,
    dos: PhononDos,
    seen: Optics,
    *,
    temperature_K: float = 300.0,
    energy_edges_meV: FloatArray | None = None,
    path: str | None = None,
    points: int = 400,
    zone_hkl: FloatArray | None = None,
) -> SpectrumMap:
    """S(Q,E) along a high-symmetry path, seen in one Brillouin zone.

    Parameters
    ----------
    lattice, dos, seen, temperature_K, energy_edges_meV
        As in `powder_map`.
    path : str or None
        As `path_points`.
    points : int
        About as many along the path.
    zone_hkl : (3,) float64 or None
        Reciprocal-lattice vector that the path starts from, r.l.u.; None: the strongest reflection
        within reach.

    Raises
    ------
    ValueError
        If ``zone_hkl`` is no vector of the reciprocal lattice; as `path_points`, `energy_axis`.
    """
    model = lattice.model
    crystal = model.crystal
    edges = energy_axis(dos, seen, energy_edges_meV)
    along = path_points(crystal, path, points=points, off_gamma=0.5)
    _refuse_many(len(along.hkl), len(edges) - 1)
    displacement = displacement_tensors(model, temperature_K)
    reciprocal = crystal.conventional_reciprocal
    strong = _strongest_zone(model, seen, edges, displacement, along.hkl[:: max(1, points // 40)])
    zone = strong if zone_hkl is None else np.asarray(zone_hkl, dtype=float)
    index = zone @ reciprocal @ crystal.lattice.T / (2 * np.pi)
    if np.abs(index - np.rint(index)).max() > 1e-6:
        raise ValueError(
            f"zone is {zone.tolist()}; expected a reciprocal-lattice vector, in r.l.u. of the "
            f"conventional cell, for example {strong.tolist()}."
        )
    Q = (along.hkl + zone) @ reciprocal
    lines = one_phonon_lines(model, Q, temperature_K, displacement=displacement)
    parts = {
        "coherent": broadened(lines, edges, seen.sigma_of),
        "incoherent": _incoherent(model, Q, edges, temperature_K, seen, displacement),
    }
    low, high = momentum_limits(0.5 * (edges[1:] + edges[:-1]), seen.ei_meV, seen.two_theta_deg)
    length = np.linalg.norm(Q, axis=1)[:, None]
    return SpectrumMap(
        kind="path",
        setting=_setting(lattice, seen, temperature_K, (f"path: {ONE_PHONON}",)),
        x_name="position_inverse_A",
        x_edges=along.position,
        y_name="energy_meV",
        y_edges=edges,
        **_summed(parts, (length >= low) & (length <= high)),
        hkl=along.hkl + zone,
        path=along,
        branches_meV=lines.energies_meV,
        origin_hkl=zone,
    )


def line_map(
    lattice: LatticeModel,
    dos: PhononDos,
    seen: Optics,
    start_hkl: FloatArray,
    stop_hkl: FloatArray,
    *,
    temperature_K: float = 300.0,
    energy_edges_meV: FloatArray | None = None,
    bins: int = 150,
    half_widths: tuple[float, float] = (0.05, 0.05),
    momentum_fwhm: float = 0.0,
) -> SpectrumMap:
    """S(Q,E) of a single crystal along a line, integrated across it.

    Parameters
    ----------
    lattice, dos, seen, temperature_K, energy_edges_meV, momentum_fwhm
        As in `powder_map`.
    start_hkl, stop_hkl : (3,) float64
        Ends, r.l.u. of the conventional cell.
    bins : int
        Along the line.
    half_widths : (float, float)
        Of the box across the line, 1/angstrom.

    Raises
    ------
    ValueError
        As `line_cut`, `energy_axis`.
    """
    model = lattice.model
    edges = energy_axis(dos, seen, energy_edges_meV)
    _refuse_many(bins, len(edges) - 1)
    displacement = displacement_tensors(model, temperature_K)
    cut = line_cut(
        model,
        start_hkl,
        stop_hkl,
        bins,
        edges,
        temperature_K=temperature_K,
        resolution=seen.sigma_of,
        ei_meV=seen.ei_meV,
        two_theta_deg=seen.two_theta_deg,
        half_widths=half_widths,
        momentum_sigma=momentum_fwhm / FWHM,
        displacement=displacement,
    )
    Q = cut.hkl @ model.crystal.conventional_reciprocal
    parts = {
        "coherent": cut.intensity,
        "incoherent": _incoherent(model, Q, edges, temperature_K, seen, displacement),
    }
    a, b = half_widths
    notes = (f"cut: {ONE_PHONON}", f"integrated over +-{a:g} and +-{b:g} 1/angstrom across")
    return SpectrumMap(
        kind="line",
        setting=_setting(lattice, seen, temperature_K, notes),
        x_name="distance_inverse_A",
        x_edges=cut.momentum_edges,
        y_name="energy_meV",
        y_edges=edges,
        **_summed(parts, cut.accessible),
        hkl=cut.hkl,
        origin_hkl=np.asarray(start_hkl, dtype=float),
        axes_hkl=(np.asarray(stop_hkl, dtype=float) - np.asarray(start_hkl, dtype=float),),
    )


def plane_map(
    lattice: LatticeModel,
    dos: PhononDos,
    seen: Optics,
    u_hkl: FloatArray,
    v_hkl: FloatArray,
    band_meV: tuple[float, float],
    *,
    temperature_K: float = 300.0,
    origin_hkl: FloatArray | None = None,
    u_edges: FloatArray | None = None,
    v_edges: FloatArray | None = None,
    half_width: float = 0.05,
    momentum_fwhm: float = 0.0,
    progress: Callable[[float], None] | None = None,
) -> SpectrumMap:
    """S(Q,E) of a single crystal over a plane of Q, averaged over an energy band.

    Parameters
    ----------
    lattice, dos, seen, temperature_K, momentum_fwhm
        As in `powder_map`.
    u_hkl, v_hkl : (3,) float64
        Directions, r.l.u.
    band_meV : (float, float)
    origin_hkl : (3,) float64 or None
        Where both axes are zero; None: Q = 0.
    u_edges, v_edges : (U + 1,), (V + 1,) float64 or None
        1/angstrom; None: all that the instrument reaches at the middle of the band.
    half_width : float
        Of the box across the plane, 1/angstrom.
    progress : callable or None
        Told the share that is done, 0 to 1.

    Raises
    ------
    ValueError
        As `plane_cut`; if the band reaches the incident energy.
    """
    model = lattice.model
    band = energy_axis(dos, seen, np.asarray(band_meV, dtype=float))
    _, reach = momentum_limits(band.mean(keepdims=True), seen.ei_meV, seen.two_theta_deg)
    square = np.linspace(-1.0, 1.0, PLANE_BINS + 1) * float(reach[0])
    u_edges = square if u_edges is None else u_edges
    v_edges = square if v_edges is None else v_edges
    _refuse_many(len(u_edges) - 1, len(v_edges) - 1)
    origin = np.zeros(3) if origin_hkl is None else np.asarray(origin_hkl, dtype=float)
    displacement = displacement_tensors(model, temperature_K)
    rows = len(v_edges) - 1
    cuts = []
    for start in range(0, rows, max(1, rows // 20)):
        if progress is not None:
            progress(start / rows)
        cuts.append(
            plane_cut(
                model,
                origin,
                u_hkl,
                v_hkl,
                u_edges,
                v_edges[start : start + max(1, rows // 20) + 1],
                (float(band[0]), float(band[1])),
                temperature_K=temperature_K,
                resolution=seen.sigma_of,
                ei_meV=seen.ei_meV,
                two_theta_deg=seen.two_theta_deg,
                half_width=half_width,
                momentum_sigma=momentum_fwhm / FWHM,
                spacing=max(0.03, 0.5 * float(np.diff(u_edges).max())),
                displacement=displacement,
            )
        )
    hkl = np.concatenate([cut.hkl for cut in cuts], axis=1)
    coherent = np.concatenate([cut.intensity for cut in cuts], axis=1)
    accessible = np.concatenate([cut.accessible for cut in cuts], axis=1)
    Q = (hkl @ model.crystal.conventional_reciprocal).reshape(-1, 3)
    flat = _incoherent(model, Q, band, temperature_K, seen, displacement)
    parts = {"coherent": coherent, "incoherent": flat.reshape(coherent.shape)}
    notes = (
        f"cut: {ONE_PHONON}",
        f"averaged over {band[0]:g} to {band[1]:g} meV and +-{half_width:g} 1/angstrom across",
    )
    reciprocal = model.crystal.conventional_reciprocal
    along = np.asarray(u_hkl, dtype=float) @ reciprocal
    across = np.asarray(v_hkl, dtype=float) @ reciprocal
    across = across - (across @ along) / (along @ along) * along
    return SpectrumMap(
        kind="plane",
        setting=_setting(lattice, seen, temperature_K, notes),
        x_name="u_inverse_A",
        x_edges=u_edges,
        y_name="v_inverse_A",
        y_edges=v_edges,
        **_summed(parts, accessible),
        hkl=hkl,
        origin_hkl=origin,
        axes_hkl=(np.asarray(u_hkl, dtype=float), across @ np.linalg.inv(reciprocal)),
        band_meV=(float(band[0]), float(band[1])),
    )


def vibrations(
    lattice: LatticeModel,
    dos: PhononDos,
    *,
    instrument: str = "VISION",
    temperature_K: float = 10.0,
    energy_edges_meV: FloatArray | None = None,
    fwhm_meV: float | None = None,
) -> Vibrations:
    """S(E) of an indirect-geometry instrument: fundamentals, overtones and combinations.

    Parameters
    ----------
    lattice, dos
        From `lattice_model`, `stable_dos`.
    instrument : str
        ``VISION`` or ``TOSCA``.
    temperature_K : float
    energy_edges_meV : (E + 1,) float64 or None
        None: from 0 to 2.5 times the highest mode, in steps of about a third of its resolution.
    fwhm_meV : float or None
        One full width at half maximum for all energies, in place of the instrument's.

    Raises
    ------
    ValueError
        As `vibrational_spectrum`.
    """
    edges = energy_edges_meV
    if edges is None:
        edges = np.linspace(0.0, 2.5 * top_meV(dos), 801)
    found = vibrational_spectrum(
        lattice.model.crystal,
        dos,
        edges,
        temperature_K=temperature_K,
        instrument=instrument,
        resolution=None if fwhm_meV is None else fwhm_meV / FWHM,
        max_order=MAX_ORDER_VIBRATIONAL,
    )
    return Vibrations(
        setting=Setting(
            title=formula(lattice.model.crystal),
            route=lattice.route,
            approximations=(*lattice.approximations, found.approximation),
            instrument=found.instrument,
            temperature_K=temperature_K,
            ei_meV=None,
            words=f"{found.instrument}, {temperature_K:g} K",
        ),
        spectrum=found,
    )


def _setting(
    lattice: LatticeModel, seen: Optics, temperature_K: float, notes: tuple[str, ...]
) -> Setting:
    return Setting(
        title=formula(lattice.model.crystal),
        route=lattice.route,
        approximations=(*lattice.approximations, *notes),
        instrument=seen.instrument,
        temperature_K=temperature_K,
        ei_meV=seen.ei_meV,
        words=f"{seen.words}, {temperature_K:g} K",
    )


def _summed(parts: dict[str, FloatArray], accessible: NDArray[np.bool_]) -> dict[str, Any]:
    seen = {name: np.where(accessible, values, np.nan) for name, values in parts.items()}
    if not accessible.any():
        raise ValueError(
            "the instrument reaches no cell of these axes at this Ei; expected some. Look at "
            "smaller or larger |Q|, or change Ei."
        )
    return {"parts": seen, "intensity": np.sum(list(seen.values()), axis=0)}


def _incoherent(
    model: ForceConstantModel,
    Q: FloatArray,
    edges: FloatArray,
    temperature_K: float,
    seen: Optics,
    displacement: FloatArray,
) -> FloatArray:
    return incoherent_lines(
        model,
        Q,
        edges,
        temperature_K=temperature_K,
        resolution=seen.sigma_of,
        ei_meV=seen.ei_meV,
        displacement=displacement,
    ).sum(axis=0)


def _strongest_zone(
    model: ForceConstantModel,
    seen: Optics,
    edges: FloatArray,
    displacement: FloatArray,
    path_hkl: FloatArray,
) -> FloatArray:
    """Strongest reflection, for acoustic phonons, whose zone the instrument reaches best; r.l.u."""
    reciprocal = model.crystal.conventional_reciprocal
    energy = np.linspace(edges[0], edges[-1], 13)[1:-1]
    low, high = momentum_limits(energy, seen.ei_meV, seen.two_theta_deg)
    G = lattice_vectors_within(model.crystal, float(high.max()))
    length = np.linalg.norm(G[:, None] + path_hkl @ reciprocal, axis=2)[:, :, None]
    reached = ((length >= low) & (length <= high)).mean(axis=(1, 2))
    strength = np.sum(G**2, axis=1) * bragg_intensities(model.crystal, G, displacement)
    strength = np.where(reached >= 0.995 * reached.max(), strength, 0.0)
    hkl = np.rint(1e6 * G @ np.linalg.inv(reciprocal)) / 1e6 + 0.0
    best = hkl[strength >= strength.max() * (1 - 1e-6)]
    return best[np.lexsort(best.T[::-1])[-1]]  # of equivalent ones, the largest h, then k, then l


def _refuse_many(first: int, second: int) -> None:
    if first * second > MOST_CELLS:
        raise ValueError(
            f"the axes have {first:,} x {second:,} bins; expected at most {MOST_CELLS:,} cells. "
            "Take wider bins."
        )
