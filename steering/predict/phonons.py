"""Phonons of a crystal as people look at them: dispersion along a path beside the DOS.

Imaginary modes are kept, as negative energies, and told in words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simulations.arrays import FloatArray
from simulations.constants import NOISE_MEV
from simulations.crystal import Treatment
from simulations.dynamics import ForceConstantModel, PhononDos, modes
from simulations.errors import InputError
from simulations.scattering import imaginary_words, pocket_words, pocketed, pockets_of
from steering.predict.path_points import PathPoints, path_points
from steering.predict.vibrations import Vibrations, formula

IMAGINARY_MEV = NOISE_MEV
"""Modes further than this below zero are imaginary; above, they are noise at Gamma."""

_SHOWN_BELOW = 100  # bins of imaginary modes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImaginaryModes:
    """Modes whose squared energy is negative; energies are shown negative."""

    share: float  # of all modes of the zone
    lowest_meV: float  # negative
    hkl: FloatArray  # (3,) where the lowest one is, r.l.u.
    energy_edges_meV: FloatArray  # (E + 1,) negative
    density: FloatArray  # (E,) modes/meV per primitive cell

    @property
    def words(self) -> str:
        """What that means and what to do."""
        told = imaginary_words(self.share, self.lowest_meV, self.hkl)
        return f"{told} Imaginary modes are shown as negative energies."


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Phonons:
    """Dispersion along a path and density of states."""

    title: str
    route: dict[str, str]
    approximations: tuple[str, ...]
    path: PathPoints
    energies_meV: FloatArray  # (Q, modes) ascending; negative: imaginary
    corner_energies_meV: FloatArray  # (corners, modes)
    symbols: tuple[str, ...]  # (atoms,) of the primitive cell
    dos: PhononDos  # real modes
    imaginary: ImaginaryModes | None

    @property
    def element_dos(self) -> dict[str, FloatArray]:
        """Partial density of every element, (E,), modes/meV per primitive cell."""
        return {
            symbol: self.dos.partial[[k for k, s in enumerate(self.symbols) if s == symbol]].sum(0)
            for symbol in dict.fromkeys(self.symbols)
        }

    @property
    def modes_counted(self) -> float:
        """Integral of the density, imaginary modes included: 3 per atom."""
        counted = float(self.dos.total @ np.diff(self.dos.energy_edges_meV))
        if self.imaginary is not None:
            counted += float(self.imaginary.density @ np.diff(self.imaginary.energy_edges_meV))
        return counted

    @property
    def highest_meV(self) -> float:
        """Highest energy on the path."""
        return float(self.energies_meV.max())

    def content(self) -> dict[str, Any]:
        """All of it as plain names and arrays, units in the names."""
        imaginary: dict[str, Any] | None = None
        if self.imaginary is not None:
            imaginary = {
                "share": self.imaginary.share,
                "lowest_meV": self.imaginary.lowest_meV,
                "q_hkl_rlu": self.imaginary.hkl.tolist(),
                "words": self.imaginary.words,
                "energy_edges_meV": self.imaginary.energy_edges_meV,
                "density_per_meV": self.imaginary.density,
            }
        return {
            "title": self.title,
            "route": self.route,
            "approximations": list(self.approximations),
            "imaginary": imaginary,
            "highest_meV": self.highest_meV,
            "corners": [
                {"label": label, "hkl_rlu": hkl, "energies_meV": energies}
                for label, hkl, energies in zip(
                    self.path.corner_labels,
                    self.path.corner_hkl,
                    self.corner_energies_meV,
                    strict=True,
                )
            ],
            "dispersion": {
                "position_inverse_A": self.path.position,
                "hkl_rlu": self.path.hkl,
                "energies_meV": self.energies_meV,
                "breaks": list(self.path.breaks),
                "tick_positions_inverse_A": self.path.tick_positions,
                "tick_labels": list(self.path.tick_labels),
            },
            "dos": {
                "sampling": None if self.dos.sampling is None else self.dos.sampling.words,
                "energy_edges_meV": self.dos.energy_edges_meV,
                "total_per_meV": self.dos.total,
                "partial_per_meV": self.element_dos,
                "unit": "modes/meV per primitive cell",
                "modes_counted": self.modes_counted,
            },
        }


def phonons(vibrations: Vibrations, *, path: str | None = None, points: int = 400) -> Phonons:
    """Dispersion and density of states of a crystal.

    Parameters
    ----------
    vibrations : Vibrations
        With force constants.
    path : str or None
        As `path_points`; None: the standard path.
    points : int
        About as many along the path.

    Raises
    ------
    InputError
        As `path_points`; if there are no force constants.
    """
    model = vibrations.force_constants("a dispersion")
    along = path_points(model.crystal, path, points=points)
    reciprocal = model.crystal.conventional_reciprocal
    energies, _ = modes(model, along.hkl @ reciprocal)
    corners, _ = modes(model, along.corner_hkl @ reciprocal)
    dos = vibrations.dos
    notes = vibrations.approximations
    if dos.sampling is not None:
        notes = (*notes, f"density of states: {dos.sampling.words}")
    if model.reference.dipole is not None:
        notes = (*notes, "polar: the path shows LO-TO splitting, the point Gamma itself does not")
    return Phonons(
        title=formula(model.crystal),
        route=vibrations.route,
        approximations=notes,
        path=along,
        energies_meV=energies,
        corner_energies_meV=corners,
        symbols=model.crystal.symbols,
        dos=dos.shown(),
        imaginary=imaginary_modes(model, dos, along.hkl, energies[:, 0]),
    )


def imaginary_modes(
    model: ForceConstantModel,
    dos: PhononDos,
    hkl: FloatArray | None = None,
    lowest_meV: FloatArray | None = None,
) -> ImaginaryModes | None:
    """Imaginary modes of the zone and of points of a path; None where all modes are real.

    Parameters
    ----------
    model : ForceConstantModel
    dos : PhononDos
        Of the model, on its default mesh.
    hkl : (Q, 3) float64 or None
        Points looked at besides the mesh of the density of states, r.l.u.
    lowest_meV : (Q,) float64 or None
        Lowest energies there.
    """
    below = dos.imaginary
    on_path = np.zeros(0) if lowest_meV is None else lowest_meV
    if below is None and dos.imaginary_share == 0 and np.all(on_path >= -IMAGINARY_MEV):
        return None
    reciprocal = model.crystal.conventional_reciprocal
    q, lowest = np.zeros((0, 3)), np.zeros(0)
    if below is not None:
        q, lowest = below.q_cart[None], np.array([below.lowest_meV])
    if hkl is not None:
        q, lowest = np.concatenate([q, hkl @ reciprocal]), np.concatenate([lowest, on_path])
    worst = int(np.argmin(lowest))
    edges = np.linspace(min(1.02 * float(lowest[worst]), -IMAGINARY_MEV), 0.0, _SHOWN_BELOW + 1)
    density = np.zeros(_SHOWN_BELOW)
    if below is not None:
        whole = np.append(0.0, np.cumsum(below.density * np.diff(below.energy_edges_meV)))
        edges[0] = min(edges[0], below.energy_edges_meV[0])
        density = np.diff(np.interp(edges, below.energy_edges_meV, whole)) / np.diff(edges)
    place = q[worst] @ np.linalg.inv(reciprocal)
    return ImaginaryModes(
        share=dos.imaginary_share,
        lowest_meV=float(lowest[worst]),
        hkl=place,
        energy_edges_meV=edges,
        density=density,
    )


def stable(vibrations: Vibrations, imaginary: Treatment = "left_out") -> Vibrations:
    """The same vibrations as spectra count them: without imaginary modes, or with a small pocket.

    Parameters
    ----------
    vibrations : Vibrations
    imaginary : "left_out", "damped" or "refuse"
        What to do with a small pocket of imaginary modes (`pockets_of` says which are small):
        leave them out; count each by its modulus, as wide as that; refuse. What was done is in
        `Vibrations.warnings`.

    Raises
    ------
    InputError
        If modes are imaginary and are no small pocket, or are to be refused.
    """
    dos, model = vibrations.dos, vibrations.model
    if dos.imaginary_share == 0:
        return vibrations
    found = None if model is None else imaginary_modes(model, dos)
    try:
        pockets = pockets_of(dos, imaginary)
    except InputError as error:
        reason = str(error)
    else:
        if pockets is not None and found is not None:
            told = pocket_words(pockets, found.share, found.lowest_meV, found.hkl)
            return replace(
                vibrations,
                dos=pocketed(dos, pockets),
                pockets=pockets,
                warnings=(*vibrations.warnings, told),
            )
        reason = "without force constants nothing is known of where they are"
    told = f"{100 * dos.imaginary_share:.2g} % of the modes are imaginary."
    if found is not None:
        told = imaginary_words(found.share, found.lowest_meV, found.hkl)
    raise InputError(
        f"structure: {told} No spectrum is made of them: {reason}. Look at them with "
        "`beamsteer phonons`."
    )
