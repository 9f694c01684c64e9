"""The seam between a structure and its vibrations: what a way to find them out promises."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from simulations.crystal import Crystal, Isotopes
from simulations.dynamics import DipoleWay
from simulations.errors import InputError
from steering.predict.vibrations import Uncertainty, Vibrations


class RouteUnavailableError(InputError):
    """A route does not lead from this structure to its vibrations; another one may.

    Parameters
    ----------
    message : str
        For a person who asked for this route by its name.
    why : str
        The reason alone, for the notes of the route that is taken instead.
    """

    def __init__(self, message: str, *, why: str) -> None:
        super().__init__(message)
        self.why = why


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Structure:
    """What a route starts from."""

    source: str | Path | Any
    """Name of a built-in crystal, a file that may hold more than the crystal, or an object."""
    crystal: Crystal
    supercell: tuple[int, ...] | None = None  # of given force constants, if no file says it
    isotopes: Isotopes = field(default_factory=dict)  # as `crystal` has them already
    dipole_sum: DipoleWay = "converged"  # of a polar crystal


class Route(Protocol):
    """One way from a structure to its vibrations."""

    @property
    def name(self) -> str:
        """As people type it."""
        ...

    @property
    def needs(self) -> str:
        """What it needs beside the structure, in words."""
        ...

    @property
    def approximation(self) -> str:
        """What is approximate about all of its answers, in words."""
        ...

    @property
    def uncertainty(self) -> Uncertainty | None:
        """Of all its answers, as far as known; an answer may know its own better."""
        ...

    def vibrations(self, structure: Structure) -> Vibrations:
        """Go this way.

        Raises
        ------
        RouteUnavailableError
            If it does not lead there: no force constants, no package, no weights, no match.
        InputError
            If the structure is not fit for any answer by this route, e.g. too large.
        """
        ...


def refuse_large(crystal: Crystal, most: int, what: str) -> None:
    """Raise for a crystal of more atoms than a route can handle; another one may."""
    if crystal.n_atoms > most:
        why = f"{what}: {crystal.n_atoms} atoms in the primitive cell; expected at most {most}"
        raise RouteUnavailableError(why, why=why)
