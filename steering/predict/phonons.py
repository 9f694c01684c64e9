"""Phonons of a crystal as people look at them: dispersion along a path beside the DOS.

Imaginary modes are kept, as negative energies, and told in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simulations.arrays import FloatArray
from simulations.dynamics import ForceConstantModel, PhononDos, default_dos_zone, modes
from simulations.errors import InputError
from simulations.scattering import gaussian_bins
from steering.predict.path_points import PathPoints, path_points
from steering.predict.vibrations import Vibrations, formula

IMAGINARY_MEV = 0.05
"""Modes further than this below zero are imaginary; above, they are noise at Gamma."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImaginaryModes:
    """Modes whose squared energy is negative; energies are shown negative."""

    share: float  # of all modes of the zone
    lowest_meV: float  # negative
    hkl: tuple[float, float, float]  # where the lowest one is, r.l.u.
    energy_edges_meV: FloatArray  # (E + 1,) negative
    density: FloatArray  # (E,) modes/meV per primitive cell

    @property
    def words(self) -> str:
        """What that means and what to do."""
        h, k, l = (round(x, 3) + 0.0 for x in self.hkl)  # noqa: E741
        return (
            f"{100 * self.share:.2g} % of the modes are imaginary; the lowest, "
            f"{-self.lowest_meV:.3g}i meV, is at q = ({h:g}, {k:g}, {l:g}) r.l.u. The structure is "
            "not stable with these force constants: relax it, or compute them in a larger "
            "supercell. Imaginary modes are shown as negative energies."
        )


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
                "q_hkl_rlu": list(self.imaginary.hkl),
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
        dos=dos,
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
    on_path = np.zeros(0) if lowest_meV is None else lowest_meV
    if dos.imaginary_share == 0 and np.all(on_path >= -IMAGINARY_MEV):
        return None
    reciprocal = model.crystal.conventional_reciprocal
    zone = default_dos_zone(model.crystal)
    on_mesh, _ = modes(model, zone.q_cart)
    q, lowest = zone.q_cart, on_mesh[:, 0]
    if hkl is not None:
        q, lowest = np.concatenate([q, hkl @ reciprocal]), np.concatenate([lowest, on_path])
    worst = int(np.argmin(lowest))
    bad = on_mesh < -IMAGINARY_MEV
    width = 0.006 * float(on_mesh.max())
    edges = np.linspace(1.02 * float(lowest[worst]) - 4 * width, 0.0, 101)
    row, column = np.nonzero(bad)
    shape = gaussian_bins(edges, on_mesh[row, column], np.full(len(row), width))
    inside = (shape * np.diff(edges)).sum(axis=1, keepdims=True)
    place = q[worst] @ np.linalg.inv(reciprocal)
    return ImaginaryModes(
        share=float(zone.weights @ bad.mean(axis=1)),
        lowest_meV=float(lowest[worst]),
        hkl=(float(place[0]), float(place[1]), float(place[2])),
        energy_edges_meV=edges,
        density=zone.weights[row] @ (shape / inside),
    )


def stable(vibrations: Vibrations) -> Vibrations:
    """The same vibrations, which have no imaginary modes.

    Raises
    ------
    InputError
        If modes are imaginary: no spectrum can be made of them.
    """
    told = None
    if vibrations.model is not None:
        imaginary = imaginary_modes(vibrations.model, vibrations.dos)
        if imaginary is not None:
            told = imaginary.words.replace(" Imaginary modes are shown as negative energies.", "")
    elif vibrations.dos.imaginary_share > 0:
        told = f"{100 * vibrations.dos.imaginary_share:.2g} % of the modes are imaginary."
    if told is not None:
        raise InputError(
            f"structure: {told} No spectrum is made of imaginary modes; look at them with "
            "`beamsteer phonons`."
        )
    return vibrations
