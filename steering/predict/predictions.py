"""What a crystal will look like before beam time, and the background to expect.

Every part of an answer carries the approximation it was made with.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from simulations.arrays import FloatArray
from simulations.crystal import Crystal, Treatment
from simulations.dynamics import DipoleWay, PhononDos
from simulations.errors import InputError
from simulations.instrument import Instrument, Resolution, load_instrument
from simulations.scattering import (
    can_background,
    incoherent_spectrum,
    kinematic_mask,
    powder_spectrum,
)
from steering.database import Database
from steering.predict.incoherent_powder import INCOHERENT, incoherent_powder
from steering.predict.optics import refuse_ei
from steering.predict.phonons import stable
from steering.predict.routes import ROUTES, vibrations_of
from steering.predict.spectrum_map import samplings
from steering.predict.structure_file import open_structure, ordered_structure
from steering.predict.vibrations import DosBand, Vibrations, formula

MAX_ORDER = 6

ONE_PHONON = (
    "coherent one-phonon, harmonic, powder average over sampled q and all G; "
    "Gaussian instrument resolution; no multiple scattering, absorption or Bragg tails"
)
PER_CELL = "barn/meV/sr per primitive cell"

Quantity = Literal["all", "dos", "powder", "background"]


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
        "force_field: compute them with the default force field; a force field's name; auto: the "
        "first of these that is possible",
    )
    instrument: str = Field(default="ARCS", description="name of a known instrument")
    ei_meV: float = Field(default=40.0, gt=0, le=5000, allow_inf_nan=False)
    temperature_K: float = Field(default=300.0, ge=0, le=5000, allow_inf_nan=False)
    quantity: Quantity = "all"
    can: Literal["aluminium", "vanadium"] | None = Field(
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

    @field_validator("route")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ROUTES:  # no weights of one's own: they would be files of the server
            raise InputError(f"route is {value!r}; expected one of {', '.join(ROUTES)}")
        return value


def predict(
    request: PredictionRequest,
    *,
    files: bool = False,
    database: Database | None = None,
    order: bool = False,
) -> dict[str, Any]:
    """Predict DOS, S(|Q|,E) and expected background of a crystal.

    Parameters
    ----------
    request : PredictionRequest
    files : bool
        Whether ``structure`` may name a file of this machine. Off unless asked for, so that a
        server never reads its own files for others.
    database : Database or None
        Whose entries route ``database`` takes, and ``auto`` where one has the structure.
    order : bool
        Whether to order partly occupied sites in a supercell.

    Returns
    -------
    dict
        JSON-ready but for arrays, which are numpy: ``structure``, ``route``, ``approximations``,
        ``uncertainty``, ``warnings``, and as asked for ``dos``, ``powder``, ``background``.

    Raises
    ------
    InputError
        Naming the field, what it is and what was expected: unknown structure, instrument or force
        field, too many atoms, no force constants, imaginary modes.
    """
    refuse_ei(request.ei_meV)
    try:
        instrument = load_instrument(request.instrument)
    except InputError as error:
        raise InputError(f"instrument: {error}") from error
    with (
        open_structure(request.structure, files, database) as opened,
        ordered_structure(opened, order) as (structure, notes),
    ):
        found = vibrations_of(
            structure,
            request.route,
            supercell=request.supercell,
            isotopes=request.isotopes,
            dipole_sum=request.dipole_sum,
            database=database,
            notes=notes,
            density_alone=request.quantity in ("dos", "background"),
        )
    crystal, dos = found.crystal, found.dos
    unstable: InputError | None = None
    try:
        found = stable(found, request.imaginary)
    except InputError as error:
        unstable = error
    warnings = [str(unstable)] if unstable is not None else list(found.warnings)
    answer: dict[str, Any] = {
        "structure": {
            "formula": formula(crystal),
            "atoms": crystal.n_atoms,
            "lattice_A": crystal.conventional_lattice,
        },
        "route": found.route,
        "approximations": list(found.approximations),
        "uncertainty": _uncertainty_part(found),
        "warnings": warnings,
        "instrument": instrument.name,
        "ei_meV": request.ei_meV,
        "temperature_K": request.temperature_K,
    }
    if request.quantity in ("all", "dos"):
        answer["dos"] = _dos_part(crystal, dos.shown(), found.band)
    if request.quantity == "dos":
        return answer
    if unstable is not None:
        if request.quantity == "all":
            return answer
        raise unstable
    return answer | _spectra(found, instrument, request)


def _uncertainty_part(found: Vibrations) -> dict[str, Any] | None:
    """How far energies may be off; None where that is not known."""
    known = found.uncertainty
    if known is None:
        return None
    return {"words": known.words, "energies": list(known.energies)}


def _spectra(
    found: Vibrations, instrument: Instrument, request: PredictionRequest
) -> dict[str, Any]:
    """S(|Q|,E) and its background, as asked for, on all that the instrument reaches."""
    energy_edges = np.linspace(0.0, 0.98 * request.ei_meV, 121)
    highest = 2 * np.sqrt(request.ei_meV / 2.0721248)
    momentum_edges = np.linspace(0.02 * highest, highest, 101)
    angles = _two_theta_deg(instrument.direction[~instrument.masked])
    mask = kinematic_mask(momentum_edges, energy_edges, request.ei_meV, angles)
    parts: dict[str, Any] = {}
    if request.quantity in ("all", "powder") and found.model is None:
        parts["powder"] = _incoherent_part(
            found, instrument, request, momentum_edges, energy_edges, mask
        )
    moved = found.displacements(request.temperature_K)
    displacement = None if moved is None else moved.tensors
    if request.quantity in ("all", "powder") and found.model is not None:
        spectrum = powder_spectrum(
            found.model,
            momentum_edges,
            energy_edges,
            temperature_K=request.temperature_K,
            resolution=instrument.resolution,
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
        parts["background"] = expected_background(
            found.crystal,
            found.dos,
            momentum_edges,
            energy_edges,
            temperature_K=request.temperature_K,
            resolution=instrument.resolution,
            ei_meV=request.ei_meV,
            can=request.can,
            can_atoms_per_cell=request.can_atoms_per_cell,
            accessible=mask,
            displacement=displacement,
        )
    return parts


def _incoherent_part(
    found: Vibrations,
    instrument: Instrument,
    request: PredictionRequest,
    momentum_edges: FloatArray,
    energy_edges: FloatArray,
    mask: NDArray[np.bool_],
) -> dict[str, Any]:
    """S(|Q|,E) of one phonon where the route has no force constants."""
    spectrum = incoherent_powder(
        found.crystal,
        found.dos,
        momentum_edges,
        energy_edges,
        temperature_K=request.temperature_K,
        resolution=instrument.resolution,
        ei_meV=request.ei_meV,
        max_order=1,
    )
    return {
        "sampling": samplings(found, None),
        "q_edges_inverse_A": momentum_edges,
        "energy_edges_meV": energy_edges,
        "intensity": np.where(mask, spectrum.coherent, np.nan),
        "unit": PER_CELL,
        "approximation": INCOHERENT,
    }


def expected_background(
    crystal: Crystal,
    dos: PhononDos,
    momentum_edges: FloatArray,
    energy_edges_meV: FloatArray,
    *,
    temperature_K: float,
    resolution: Resolution,
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
    resolution : Resolution
    ei_meV : float
    can : str or None
        "aluminium", "vanadium", or None.
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
    own = incoherent_spectrum(
        crystal,
        dos,
        momentum_edges,
        energy_edges_meV,
        temperature_K=temperature_K,
        resolution=resolution,
        ei_meV=ei_meV,
        max_order=MAX_ORDER,
        displacement=displacement,
    )
    parts: dict[str, tuple[FloatArray, str]] = {
        "multiphonon": (
            own.multiphonon,
            f"2 to {MAX_ORDER} phonons, incoherent approximation with the total cross section",
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
            max_order=MAX_ORDER,
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


def _two_theta_deg(direction: FloatArray) -> tuple[float, float]:
    angle = np.rad2deg(np.arccos(np.clip(direction[:, 2], -1, 1)))
    return float(angle.min()), float(angle.max())


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
