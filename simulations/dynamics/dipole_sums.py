"""Ways to sum the dipoles of a polar crystal, and what each would give.

Force constants of a finite supercell hold the dipoles' forces up to its edge. What is taken away
before and added again after interpolation is a matter of convention, and energies between the
supercell's own q points depend on it.

A sphere's sum is not periodic in q either: phonopy takes one of the equivalent vectors where a
point of the supercell lies on the zone's boundary, we another, so that ``phonopy`` has the size of
its error there and is phonopy to 1e-5 meV in other crystals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from simulations.dynamics.dipole import Dipole, DipoleSum
from simulations.dynamics.force_constants import ForceConstantModel
from simulations.dynamics.modes import modes
from simulations.errors import InputError

FULL_EWALD = 2.0  # over phonopy's parameter: next to nothing of the real-space sum is left
PROBES = 24  # wave vectors that ways are compared at
MOST_TERMS = 5_000_000  # reciprocal vectors times pairs of atoms; more is told, not computed

DipoleWay = Literal["converged", "phonopy", "ewald"]
"""A name in `WAYS`."""

WAYS = {
    "converged": "phonopy's Ewald parameter to convergence",
    "phonopy": "phonopy's own cut-off (a sphere of reciprocal vectors)",
    "ewald": "a full Ewald sum (as Euphonic's)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class DipoleSums:
    """How dipoles of a crystal are summed, and how far energies of the other ways are off."""

    used: str  # of WAYS
    largest_meV: dict[str, float]  # of the other ways; NaN where a sum would be too long
    points: int  # random wave vectors of the zone

    @property
    def note(self) -> str:
        """One sentence for reports."""
        others = "; ".join(
            f"{way}, {WAYS[way]}, "
            + (f"differs by up to {off:.2g} meV" if np.isfinite(off) else "has too many terms here")
            for way, off in self.largest_meV.items()
        )
        return (
            f"polar: dipole_sum is {self.used}, {WAYS[self.used]}; {others} (at {self.points} "
            "wave vectors)"
        )


def way_of(dipole: Dipole) -> str:
    """Name in ``WAYS`` of what a dipole's fields ask for."""
    if dipole.ewald != 1:
        return "ewald"
    return "phonopy" if dipole.sphere else "converged"


def with_dipole_sum(model: ForceConstantModel, way: str) -> ForceConstantModel:
    """The model with its dipoles summed another way; itself where there are none.

    ``converged`` leaves constants that were made for a full Ewald sum, CASTEP's, to theirs.

    Raises
    ------
    InputError
        If ``way`` is not in ``WAYS``.
    """
    if way not in WAYS:
        raise InputError(f"dipole_sum is {way!r}; expected one of {', '.join(WAYS)}")
    dipole = model.reference.dipole
    if dipole is None or way == way_of(dipole) or (way == "converged" and dipole.ewald > 1):
        return model
    return _summed(model, dipole, way)


def _summed(model: ForceConstantModel, dipole: Dipole, way: str) -> ForceConstantModel:
    return replace(model, reference=replace(model.reference, dipole=_changed(dipole, way)))


def _changed(dipole: Dipole, way: str) -> Dipole:
    ewald = FULL_EWALD if way == "ewald" else 1.0
    return replace(dipole, ewald=ewald, sphere=way == "phonopy")


def compare_dipole_sums(model: ForceConstantModel) -> DipoleSums | None:
    """Energies by every way to sum the dipoles, at random wave vectors; None if not polar."""
    dipole = model.reference.dipole
    if dipole is None or model.reference.supercell is None:
        return None
    used = way_of(dipole)
    q = np.random.default_rng(0).uniform(-0.5, 0.5, (PROBES, 3)) @ model.crystal.reciprocal
    own, _ = modes(model, q)
    pairs = model.crystal.n_atoms * (model.crystal.n_atoms + 1) // 2
    largest = {}
    for way in WAYS:
        if way == used:
            continue
        other = _summed(model, dipole, way)
        if DipoleSum.count(other.crystal, _changed(dipole, way)) * pairs > MOST_TERMS:
            largest[way] = float("nan")
        else:
            largest[way] = float(np.abs(modes(other, q)[0] - own).max())
    return DipoleSums(used=used, largest_meV=largest, points=PROBES)
