"""How a crystal vibrates, by whichever route that was found out, and how far that is known."""

from __future__ import annotations

from dataclasses import dataclass

from simulations.arrays import FloatArray
from simulations.crystal import Crystal
from simulations.dynamics import ForceConstantModel, PhononDos
from simulations.errors import InputError
from simulations.scattering import (
    TOLERANCE,
    Displacements,
    Pockets,
    converged_displacements,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Uncertainty:
    """How far a route's energies may be off, as far as that is known."""

    words: str
    energies: tuple[float, float]  # lowest and highest of predicted / true - 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DosBand:
    """Where the true density of states lies, bin by bin, at a stated level."""

    energy_edges_meV: FloatArray  # (B + 1,)
    low: FloatArray  # (B,) modes/meV per primitive cell
    high: FloatArray  # (B,)
    level: float  # share of bins whose true value lies inside
    words: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Vibrations:
    """A density of states always, force constants where the route has some."""

    crystal: Crystal  # as the route has it: relaxed, where it relaxes
    dos: PhononDos  # per atom of the primitive cell
    model: ForceConstantModel | None
    route: dict[str, str]  # kind (force_constants, force_field, ...) and source
    approximations: tuple[str, ...]
    uncertainty: Uncertainty | None = None  # None: not known
    pockets: Pockets | None = None  # of imaginary modes, and how spectra count them
    band: DosBand | None = None  # where the route knows one
    warnings: tuple[str, ...] = ()  # what a person must know before trusting a spectrum
    stiffness: FloatArray | None = None  # (atoms,) of sites, eV/angstrom^2; without force constants

    def force_constants(self, quantity: str) -> ForceConstantModel:
        """Force constants for a quantity that a density of states cannot give.

        Parameters
        ----------
        quantity : str
            What they are wanted for, as people call it.

        Raises
        ------
        InputError
            If the route has none.
        """
        if self.model is None:
            raise InputError(
                f"route {self.route['kind']} ({self.route['source']}) gives a density of states "
                f"without force constants; expected some for {quantity}. Take route "
                "force_constants or force_field."
            )
        return self.model

    def displacements(
        self, temperature_K: float, *, tolerance: float = TOLERANCE
    ) -> Displacements | None:
        """Debye-Waller tensors, the same for every quantity; None without force constants."""
        if self.model is None:
            return None
        return converged_displacements(
            self.model, temperature_K, pockets=self.pockets, tolerance=tolerance
        )


def formula(crystal: Crystal) -> str:
    """Symbols and numbers of the primitive cell, in the order of its atoms, e.g. ``Al2O3``."""
    counts = {s: crystal.symbols.count(s) for s in dict.fromkeys(crystal.symbols)}
    return "".join(f"{s}{n if n > 1 else ''}" for s, n in counts.items())
