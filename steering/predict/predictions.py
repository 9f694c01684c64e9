"""What a crystal will look like before beam time, and the background to expect.

Every part of an answer carries the approximation it was made with.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from simulations.arrays import FloatArray
from simulations.crystal import Crystal, Treatment
from simulations.dynamics import DipoleWay, PhononDos
from simulations.errors import InputError
from simulations.instrument import Resolution
from simulations.progress import Progress, silent
from simulations.scattering import (
    SigmaOfEnergy,
    can_background,
    incoherent_spectrum,
    kinematic_mask,
    many_phonons,
    orders_that_serve,
    powder_spectrum,
)
from steering.database import Database
from steering.predict.auto_route import Wanted
from steering.predict.crystal_maps import Line, Plane, line_map, plane_map
from steering.predict.indirect_spectrum import indirect_spectrum
from steering.predict.interference import powder_parts
from steering.predict.optics import FREE_EI_MEV, FWHM, Optics, optics, refuse_ei, top_meV
from steering.predict.phonons import phonons, stable
from steering.predict.route_comparison import comparison
from steering.predict.routes import ROUTES, structure_of, vibrations_of
from steering.predict.spectrum_map import samplings
from steering.predict.structure_file import open_structure, ordered_structure
from steering.predict.vibrations import DosBand, Vibrations, formula

ONE_PHONON = (
    "coherent one-phonon, harmonic, powder average over sampled q and all G; "
    "Gaussian instrument resolution; no multiple scattering, absorption or Bragg tails"
)
PER_CELL = "barn/meV/sr per primitive cell"

Quantity = Literal[
    "all", "dos", "dispersion", "powder", "background", "vibrational", "line", "plane"
]
Hkl = tuple[float, float, float]
INDIRECT = ("VISION", "TOSCA")
"""Instruments of indirect geometry: they see S(E), not S(|Q|,E)."""
GENERIC_FWHM = 0.02  # of Ei, where nobody says the width of the generic instrument
PATH_POINTS = 240
_HIGHEST_LOSS = 0.98  # of Ei


class PredictionRequest(BaseModel):
    """What to predict."""

    model_config = ConfigDict(extra="forbid")

    structure: str = Field(
        min_length=1,
        description="name of a built-in crystal, or the text of a POSCAR, CIF or phonopy.yaml; on "
        "the command line also a file",
    )
    route: str = Field(
        default="auto",
        description="force_constants (or given): use force constants that come with the structure; "
        "database; direct: networks; force_field: compute them with the default force field; a "
        "force field's name; auto: the first two where they are there, else the route with the "
        "smallest measured error for the quantity and crystal within the time limit",
    )
    instrument: str = Field(
        default="ARCS",
        description="ARCS, SEQUOIA, CNCS, HYSPEC; VISION, TOSCA (S(E) alone); generic (one width, "
        "all angles)",
    )
    ei_meV: float = Field(default=40.0, gt=0, le=5000, allow_inf_nan=False)
    fwhm_meV: float | None = Field(
        default=None,
        gt=0,
        le=1000,
        allow_inf_nan=False,
        description="one full width at half maximum for all energies, in place of the "
        "instrument's; of generic 2 % of Ei, if not said",
    )
    energy_max_meV: float | None = Field(
        default=None,
        gt=0,
        le=5000,
        allow_inf_nan=False,
        description="where the energy axis ends, below Ei; 0.98 Ei, if not said",
    )
    temperature_K: float = Field(default=300.0, ge=0, le=5000, allow_inf_nan=False)
    quantity: Quantity = "all"
    can: Literal["aluminium", "vanadium", "stainless steel"] | None = Field(
        default="aluminium", description="metal of the sample can, or null"
    )
    imaginary: Treatment = Field(
        default="left_out",
        description="what becomes of a small pocket of imaginary modes: left_out, damped (counted "
        "by their modulus, as wide as that) or refuse; larger ones are always refused",
    )
    can_atoms_per_cell: float = Field(
        default=1.0, ge=0, le=1e4, description="can atoms in the beam per primitive cell of sample"
    )

    supercell: tuple[int, ...] | None = Field(
        default=None,
        description="three or nine whole numbers: supercell of given force constants, if no file "
        "says it",
    )
    dipole_sum: DipoleWay = Field(
        default="converged",
        description="how dipoles of a polar crystal are summed, where its force constants were "
        "given: with phonopy's Ewald parameter to convergence (constants of CASTEP: as a full "
        "Ewald sum, for which they are made), with phonopy's own cut-off, or as a full Ewald sum; "
        "approximations say what the others would give",
    )
    isotopes: dict[str, str | dict[str, float]] = Field(
        default_factory=dict,
        description="what species are made of, by symbol: an isotope (H: D), or shares of several",
    )
    line_hkl: tuple[Hkl, Hkl] | None = Field(
        default=None,
        description="of quantity line: where it starts and ends, r.l.u. of the conventional cell",
    )
    plane_hkl: tuple[Hkl, Hkl] | None = Field(
        default=None,
        description="of quantity plane: its two directions from Q = 0, r.l.u.",
    )
    band_meV: tuple[float, float] | None = Field(
        default=None, description="of quantity plane: energies that it is averaged over"
    )
    order: bool = Field(
        default=False,
        description="whether partly occupied sites are ordered in a supercell; else refused",
    )
    time_limit_s: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        allow_inf_nan=False,
        description="route auto asks none that takes longer, as far as that was measured",
    )
    compare: bool = Field(
        default=False,
        description="whether to tell what the other routes would say, as far as there is time",
    )

    @field_validator("line_hkl", "plane_hkl", "band_meV")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        if value is not None and not np.all(np.abs(np.array(value)) <= 1000):
            raise InputError(f"{value}; expected numbers from -1000 to 1000")
        return value

    @field_validator("route")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ROUTES:  # no weights of one's own: they would be files of the server
            raise InputError(f"route is {value!r}; expected one of {', '.join(ROUTES)}")
        return value


def prediction_request(**fields: Any) -> PredictionRequest:
    """A request of its fields.

    Raises
    ------
    InputError
        Naming every field that makes no sense, what it is and what was expected.
    """
    try:
        return PredictionRequest.model_validate(fields)
    except ValidationError as error:
        faults = [_fault_words(fault) for fault in error.errors(include_url=False)]
        raise InputError("\n".join(faults)) from error


def _fault_words(fault: Any) -> str:
    """Field, value and expectation of one fault; some say the first two themselves."""
    field = ".".join(map(str, fault["loc"]))
    told = fault["msg"].removeprefix("Value error, ")
    return (
        f"{told}." if told.startswith(f"{field} is ") else f"{field} is {fault['input']!r}; {told}."
    )


def predict(
    request: PredictionRequest,
    *,
    files: bool = False,
    database: Database | None = None,
    order: bool = False,
    folder: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Predict DOS, dispersion, S(|Q|,E) or S(E), and the expected background of a crystal.

    Parameters
    ----------
    request : PredictionRequest
    files : bool
        Whether ``structure`` may name a file of this machine. Off unless asked for, so that a
        server never reads its own files for others.
    database : Database or None
        Whose entries route ``database`` takes, and ``auto`` where one has the structure.
    order : bool
        Whether to order partly occupied sites in a supercell; as the request's ``order``.
    folder : Path or None
        A file or folder that takes the place of ``structure``: what somebody uploaded.
    progress : callable
        Told what is done next.

    Returns
    -------
    dict
        JSON-ready but for arrays, which are numpy: ``structure``, ``route``, ``approximations``,
        ``uncertainty``, ``warnings``, ``optics``, and as asked for ``dos``, ``dispersion``,
        ``powder``, ``background``, ``vibrational``, ``line``, ``plane``; with ``compare``
        ``routes``, as `comparison` has them.

    Raises
    ------
    InputError
        Naming the field, what it is and what was expected: unknown structure, instrument or force
        field, too many atoms, no force constants, imaginary modes.
    """
    began = time.monotonic()
    refuse_ei(request.ei_meV)
    indirect = request.instrument.upper() in INDIRECT
    _refuse_other_geometry(request, indirect)
    seen = None if indirect else _seen(request)
    progress("structure and vibrations", 0.05)
    named = str(folder) if folder is not None else request.structure
    with (
        open_structure(named, files or folder is not None, database) as opened,
        ordered_structure(opened, order or request.order, progress=progress) as (
            structure,
            notes,
        ),
    ):
        start = structure_of(
            structure,
            supercell=request.supercell,
            isotopes=request.isotopes,
            dipole_sum=request.dipole_sum,
            database=database,
        )
        found = vibrations_of(
            start,
            request.route,
            database=database,
            notes=notes,
            wanted=_WANTED[request.quantity],
            quantity=request.quantity,
            time_limit_s=request.time_limit_s,
        )
        answer = _answer(found, seen, request, progress)
        if request.compare:
            left = request.time_limit_s
            answer["routes"] = comparison(
                start,
                found,
                wanted=_WANTED[request.quantity],
                quantity=request.quantity,
                database=database,
                time_limit_s=None if left is None else left - (time.monotonic() - began),
                progress=progress,
            )
    return answer


def _answer(
    found: Vibrations, seen: Optics | None, request: PredictionRequest, progress: Progress
) -> dict[str, Any]:
    """What was asked for, of vibrations."""
    whole = found
    unstable: InputError | None = None
    try:
        found = stable(found, request.imaginary)
    except InputError as error:
        unstable = error
    warnings = [str(unstable)] if unstable is not None else list(found.warnings)
    answer: dict[str, Any] = {
        "structure": _structure_part(whole.crystal),
        "route": found.route,
        "approximations": list(found.approximations),
        "uncertainty": _uncertainty_part(found),
        "warnings": warnings,
        "instrument": request.instrument.upper() if seen is None else seen.instrument,
        "ei_meV": None if seen is None else request.ei_meV,
        "temperature_K": request.temperature_K,
    }
    if seen is not None:
        answer["optics"] = _optics_part(seen)
        warnings.extend(seen.warnings)
        highest = top_meV(whole.dos)
        if highest > _HIGHEST_LOSS * request.ei_meV and request.quantity not in _OF_THE_CRYSTAL:
            warnings.append(
                f"modes reach {highest:.4g} meV, and neutrons of Ei = {request.ei_meV:g} meV "
                "cannot lose that much: the highest modes are not seen. Raise Ei."
            )
    if request.quantity in ("all", "dos"):
        answer["dos"] = _dos_part(whole.crystal, whole.dos.shown(), whole.band)
    if request.quantity == "dispersion" or (request.quantity == "all" and whole.model is not None):
        progress("dispersion", 0.3)
        answer["dispersion"] = _dispersion_part(whole)
    if request.quantity in _OF_THE_CRYSTAL:
        return answer
    if unstable is not None:
        if request.quantity == "all":
            return answer
        raise unstable
    progress("S(E)" if seen is None else "S(Q,E)", 0.4)
    if seen is None:
        answer["vibrational"] = _vibrational_part(found, request)
        return answer
    if request.quantity in ("line", "plane"):
        return answer | {request.quantity: _single_crystal(found, seen, request, progress)}
    return answer | _spectra(found, seen, request, progress)


_WANTED: dict[Quantity, Wanted] = {
    "all": "all", "dos": "density", "dispersion": "force_constants", "powder": "map",
    "background": "density", "vibrational": "density", "line": "force_constants",
    "plane": "force_constants",
}  # fmt: skip
_OF_THE_CRYSTAL = ("dos", "dispersion")  # quantities that no instrument changes


def _refuse_other_geometry(request: PredictionRequest, indirect: bool) -> None:
    """Raise for what this kind of instrument does not measure."""
    name = request.instrument
    if indirect and request.quantity in ("powder", "background", "line", "plane"):
        raise InputError(
            f"quantity is {request.quantity} and the instrument {name}, which sees S(E) alone; "
            "expected vibrational, dos, dispersion or all, or a direct-geometry instrument"
        )
    if indirect and request.energy_max_meV is not None and request.energy_max_meV > 1000:
        raise InputError(
            f"energy_max_meV is {request.energy_max_meV:g}; expected at most 1000 at {name}"
        )
    if request.quantity == "line" and request.line_hkl is None:
        raise InputError("quantity is line; expected line_hkl, its two ends. Give them")
    if request.quantity == "plane" and (request.plane_hkl is None or request.band_meV is None):
        raise InputError("quantity is plane; expected plane_hkl and band_meV. Give both")
    if not indirect and request.quantity == "vibrational":
        raise InputError(
            f"quantity is vibrational and the instrument {name}; expected VISION or TOSCA for S(E)"
        )


def _seen(request: PredictionRequest) -> Optics:
    """The direct-geometry instrument that was asked for.

    Raises
    ------
    InputError
        If it is unknown, or the energy axis ends at Ei or beyond.
    """
    width = request.fwhm_meV
    if request.instrument.lower() == "generic" and width is None:
        width = GENERIC_FWHM * request.ei_meV
    try:
        seen = optics(0.0, instrument=request.instrument, ei_meV=request.ei_meV, fwhm_meV=width)
    except InputError as error:
        raise InputError(f"instrument: {error}") from error
    if request.energy_max_meV is not None and request.energy_max_meV >= request.ei_meV:
        raise InputError(
            f"energy_max_meV is {request.energy_max_meV:g}, but neutrons of Ei = "
            f"{request.ei_meV:g} meV cannot lose that much; expected less than Ei. Lower it, or "
            "raise ei_meV."
        )
    return seen


def _structure_part(crystal: Crystal) -> dict[str, Any]:
    return {
        "formula": formula(crystal),
        "atoms": crystal.n_atoms,
        "lattice_A": crystal.conventional_lattice,
        "primitive_lattice_A": crystal.lattice,
        "symbols": list(crystal.symbols),
        "positions": crystal.positions,
    }


def _optics_part(seen: Optics) -> dict[str, Any]:
    """What the instrument reaches and resolves, for a reader who draws it."""
    energy = np.linspace(0.0, _HIGHEST_LOSS, 50) * seen.ei_meV
    free = seen.ei_meV >= FREE_EI_MEV
    return {
        "words": seen.words,
        "two_theta_deg": list(seen.two_theta_deg),
        "energy_meV": [] if free else energy,
        "fwhm_meV": [] if free else FWHM * seen.sigma_of(energy),
    }


def _dispersion_part(found: Vibrations) -> dict[str, Any]:
    """Energies along the standard path; imaginary ones negative."""
    seen = phonons(found, points=PATH_POINTS)
    content = seen.content()
    return {
        **content["dispersion"],
        "corners": content["corners"],
        "imaginary": None if seen.imaginary is None else seen.imaginary.words,
        "unit": "meV",
        "approximation": "harmonic; imaginary modes as negative energies",
    }


def _vibrational_part(found: Vibrations, request: PredictionRequest) -> dict[str, Any]:
    """S(E) of an indirect-geometry instrument."""
    edges = None
    if request.energy_max_meV is not None:
        edges = np.linspace(0.0, request.energy_max_meV, 801)
    content = indirect_spectrum(
        found,
        instrument=request.instrument.upper(),
        temperature_K=request.temperature_K,
        energy_edges_meV=edges,
        fwhm_meV=request.fwhm_meV,
    ).content()
    kept = ("banks", "elements", "energy_meV_edges", "total", "orders", "partials")
    return {
        **{name: content[name] for name in kept},
        "momentum_inverse_A": content["momentum_inverse_A"],
        "sampling": content["sampling"],
        "unit": PER_CELL,
        "approximation": content["approximations"][-1],
    }


def _uncertainty_part(found: Vibrations) -> dict[str, Any] | None:
    """How far energies may be off; None where that is not known."""
    known = found.uncertainty
    if known is None:
        return None
    return {"words": known.words, "energies": list(known.energies)}


def _single_crystal(
    found: Vibrations, seen: Optics, request: PredictionRequest, progress: Progress
) -> dict[str, Any]:
    """S(Q,E) along a line, or over a plane in a band; NaN where no detector can be."""
    if request.quantity == "line":
        start, stop = np.array(request.line_hkl, dtype=float)
        top = request.energy_max_meV
        seen_map = line_map(
            found,
            seen,
            Line(start_hkl=start, stop_hkl=stop),
            temperature_K=request.temperature_K,
            energy_edges_meV=None if top is None else np.linspace(0.0, top, 161),
        )
    else:
        u, v = np.array(request.plane_hkl, dtype=float)
        low, high = request.band_meV or (0.0, 0.0)
        if not low < high:
            raise InputError(f"band_meV is {low:g} to {high:g}; expected the lower one first")
        seen_map = plane_map(
            found,
            seen,
            Plane(u_hkl=u, v_hkl=v, band_meV=(low, high)),
            temperature_K=request.temperature_K,
            progress=lambda share: progress("S(Q,E) over the plane", 0.4 + 0.55 * share),
        )
    return {
        "x_name": seen_map.x_name,
        "x_edges": seen_map.x_edges,
        "y_name": seen_map.y_name,
        "y_edges": seen_map.y_edges,
        "intensity": seen_map.intensity,
        "hkl_rlu": seen_map.hkl,
        "directions_rlu": [*seen_map.axes_hkl],
        "origin_rlu": seen_map.origin_hkl,
        "band_meV": seen_map.band_meV,
        "unit": PER_CELL,
        "approximation": f"{seen_map.setting.approximations[-1]}; of detectors, only the least and "
        "largest scattering angle count: a crystal is turned to where they are",
    }


def _spectra(
    found: Vibrations, seen: Optics, request: PredictionRequest, progress: Progress
) -> dict[str, Any]:
    """S(|Q|,E) and its background, as asked for, on all that the instrument reaches."""
    top = request.energy_max_meV or _HIGHEST_LOSS * request.ei_meV
    energy_edges = np.linspace(0.0, top, 121)
    highest = 2 * np.sqrt(request.ei_meV / 2.0721248)
    momentum_edges = np.linspace(0.02 * highest, highest, 101)
    angles = seen.two_theta_deg
    mask = kinematic_mask(momentum_edges, energy_edges, request.ei_meV, angles)
    parts: dict[str, Any] = {}
    if request.quantity in ("all", "powder") and found.model is None:
        parts["powder"] = _of_density(found, seen, request, momentum_edges, energy_edges, mask)
    moved = found.displacements(request.temperature_K)
    displacement = None if moved is None else moved.tensors
    if request.quantity in ("all", "powder") and found.model is not None:
        spectrum = powder_spectrum(
            found.model,
            momentum_edges,
            energy_edges,
            temperature_K=request.temperature_K,
            resolution=seen.sigma_of,
            ei_meV=request.ei_meV,
            two_theta_deg=angles,
            displacement=displacement,
            pockets=found.pockets,
        )
        parts["powder"] = {
            "sampling": samplings(found, moved, spectrum.sampling),
            "q_edges_inverse_A": momentum_edges,
            "energy_edges_meV": energy_edges,
            "intensity": np.where(mask, spectrum.intensity, np.nan),
            "unit": PER_CELL,
            "approximation": ONE_PHONON,
        }
    if request.quantity in ("all", "background"):
        progress("expected background", 0.75)
        parts["background"] = expected_background(
            found.crystal,
            found.dos,
            momentum_edges,
            energy_edges,
            temperature_K=request.temperature_K,
            resolution=seen.sigma_of,
            ei_meV=request.ei_meV,
            can=request.can,
            can_atoms_per_cell=request.can_atoms_per_cell,
            accessible=mask,
            displacement=displacement,
        )
    return parts


def _of_density(
    found: Vibrations,
    seen: Optics,
    request: PredictionRequest,
    momentum_edges: FloatArray,
    energy_edges: FloatArray,
    mask: NDArray[np.bool_],
) -> dict[str, Any]:
    """Coherent S(|Q|,E) of one phonon where the route has no force constants."""
    spectrum, note = powder_parts(
        found,
        momentum_edges,
        energy_edges,
        temperature_K=request.temperature_K,
        sigma_of=seen.sigma_of,
        ei_meV=seen.ei_meV,
        max_order=1,
    )
    return {
        "sampling": samplings(found, None),
        "q_edges_inverse_A": momentum_edges,
        "energy_edges_meV": energy_edges,
        "intensity": np.where(mask, spectrum.coherent, np.nan),
        "unit": PER_CELL,
        "approximation": note,
    }


def expected_background(
    crystal: Crystal,
    dos: PhononDos,
    momentum_edges: FloatArray,
    energy_edges_meV: FloatArray,
    *,
    temperature_K: float,
    resolution: Resolution | SigmaOfEnergy,
    ei_meV: float,
    can: str | None = "aluminium",
    can_atoms_per_cell: float = 1.0,
    accessible: NDArray[np.bool_] | None = None,
    displacement: FloatArray | None = None,
) -> dict[str, Any]:
    """Multiphonon, incoherent and can scattering beside the coherent one-phonon signal.

    Parameters
    ----------
    crystal : Crystal
    dos : PhononDos
        Partial densities of states of the crystal.
    momentum_edges : (Q + 1,) float64
        |Q|, 1/angstrom.
    energy_edges_meV : (E + 1,) float64
    temperature_K : float
    resolution : Resolution or callable
    ei_meV : float
    can : str or None
        "aluminium", "vanadium", "stainless steel", or None.
    can_atoms_per_cell : float
        Can atoms in the beam per primitive cell of the sample: the can's scale.
    accessible : (Q, E) bool, optional
        Cells that the instrument reaches; others become NaN.
    displacement : (atoms, 3, 3) float64, optional
        Debye-Waller tensors of the crystal.

    Returns
    -------
    dict
        ``components``: by name ``intensity`` (Q, E) in barn/meV/sr per primitive cell and its
        ``approximation``; axes beside it.
    """
    seen = np.ones((len(momentum_edges) - 1, len(energy_edges_meV) - 1), dtype=bool)
    if accessible is not None:
        seen = accessible
    orders = orders_that_serve(
        crystal, dos, temperature_K, float(momentum_edges[-1]), displacement=displacement
    )
    own = incoherent_spectrum(
        crystal,
        dos,
        momentum_edges,
        energy_edges_meV,
        temperature_K=temperature_K,
        resolution=resolution,
        ei_meV=ei_meV,
        max_order=orders,
        displacement=displacement,
        beyond=True,
    )
    parts: dict[str, tuple[FloatArray, str]] = {
        "multiphonon": (
            own.multiphonon,
            f"{many_phonons(orders)}, incoherent approximation with the total cross section",
        ),
        "incoherent": (
            own.one_phonon,
            "one phonon with the incoherent cross section, harmonic; the elastic line is left out",
        ),
    }
    if can is not None:
        metal = can_background(
            can,
            momentum_edges,
            energy_edges_meV,
            temperature_K=temperature_K,
            resolution=resolution,
            ei_meV=ei_meV,
            beyond=True,
        )
        parts["can"] = (
            can_atoms_per_cell * metal.inelastic,
            f"{metal.approximation}; {can_atoms_per_cell:g} can atoms per primitive cell at the "
            "sample's temperature; powder lines, Bragg scattering and transmission left out",
        )
    return {
        "q_edges_inverse_A": momentum_edges,
        "energy_edges_meV": energy_edges_meV,
        "unit": PER_CELL,
        "components": {
            name: {"intensity": np.where(seen, values, np.nan), "approximation": text}
            for name, (values, text) in parts.items()
        },
    }


def _dos_part(crystal: Crystal, dos: PhononDos, band: DosBand | None) -> dict[str, Any]:
    partial = {
        symbol: dos.partial[[k for k, s in enumerate(crystal.symbols) if s == symbol]].sum(axis=0)
        for symbol in dict.fromkeys(crystal.symbols)
    }
    return {
        "energy_meV": dos.energies_meV,
        "total": dos.total,
        "partial": partial,
        "unit": "modes/meV per primitive cell",
        "sampling": None if dos.sampling is None else dos.sampling.words,
        "approximation": "harmonic; integrates to 3 modes per atom",
        "band": None if band is None else {
            "energy_edges_meV": band.energy_edges_meV,
            "low": band.low,
            "high": band.high,
            "level": band.level,
            "words": band.words,
        },
    }  # fmt: skip
