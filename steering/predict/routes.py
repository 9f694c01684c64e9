"""The routes that people may name, from a structure to its vibrations.

A new route is a class that keeps the promises of `Route` and a line in `_KNOWN`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simulations.crystal import Isotopes, read_crystal, species_words, with_isotopes
from simulations.dynamics import DipoleWay
from simulations.errors import InputError
from simulations.prior import FORCE_FIELDS
from steering.database import Database
from steering.predict.database_route import DatabaseRoute, entry_vibrations
from steering.predict.direct_route import DirectRoute
from steering.predict.force_constants_route import GivenForceConstants
from steering.predict.force_field_route import ForceField
from steering.predict.route import Route, RouteUnavailableError, Structure
from steering.predict.vibrations import Uncertainty, Vibrations


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstPossible:
    """The first of several routes that leads there; says why those before did not."""

    name: str
    routes: tuple[Route, ...]

    @property
    def needs(self) -> str:
        """Any of what they need."""
        return ", or else ".join(route.needs for route in self.routes)

    @property
    def approximation(self) -> str:
        """That of the route that is taken."""
        return ", or else ".join(route.approximation for route in self.routes)

    @property
    def uncertainty(self) -> Uncertainty | None:
        """Known of an answer only."""
        return None

    def vibrations(self, structure: Structure) -> Vibrations:
        """Try them in order.

        Raises
        ------
        RouteUnavailableError
            If none leads there; says why each does not.
        InputError
            As the route that is tried.
        """
        reasons: list[str] = []
        for route in self.routes:
            try:
                found = route.vibrations(structure)
            except RouteUnavailableError as error:
                reasons.append(error.why)
            else:
                return replace(found, approximations=(*found.approximations, *reasons))
        why = "; ".join(reasons)
        raise RouteUnavailableError(f"route: {why}", why=why)


_GIVEN = GivenForceConstants()
_FORCE_FIELD = ForceField(name="force_field", force_field=None)
_DIRECT = DirectRoute()
_KNOWN: tuple[Route, ...] = (
    FirstPossible(name="auto", routes=(_GIVEN, _FORCE_FIELD, _DIRECT)),
    GivenForceConstants(name="given"),
    _GIVEN,
    _FORCE_FIELD,
    *(ForceField(name=name, force_field=name) for name in FORCE_FIELDS),
    _DIRECT,
    DatabaseRoute(database=None),
)
ROUTES = tuple(route.name for route in _KNOWN)
"""Names of routes; ``given`` is ``force_constants``."""


def route_named(
    name: str, database: Database | None = None, *, density_alone: bool = False
) -> Route:
    """Route that people mean by a name.

    Parameters
    ----------
    name : str
        One of `ROUTES`, or ``mace:PATH``, ``m3gnet:PATH`` with a weight file.
    database : Database or None
        What ``database`` looks in, and ``auto`` before it asks a force field.
    density_alone : bool
        Whether a density of states is all that is wanted. ``auto`` then asks the networks of
        ``direct`` before a force field, which is further off; else after it, since only a force
        field has force constants.

    Raises
    ------
    InputError
        If no route has the name.
    """
    if name == "database" and database is not None:
        return DatabaseRoute(database=database)
    if name == "auto":
        stored = () if database is None else (DatabaseRoute(database=database),)
        last = (_DIRECT, _FORCE_FIELD) if density_alone else (_FORCE_FIELD, _DIRECT)
        return FirstPossible(name="auto", routes=(_GIVEN, *stored, *last))
    for route in _KNOWN:
        if route.name == name:
            return route
    if ":" in name:
        return ForceField(name=name, force_field=name)
    raise InputError(f"route is {name!r}; expected one of {', '.join(ROUTES)}")


def vibrations_of(
    structure: str | Path | Any,
    route: str | Route = "auto",
    *,
    supercell: tuple[int, ...] | None = None,
    isotopes: Isotopes | None = None,
    dipole_sum: DipoleWay = "converged",
    database: Database | None = None,
    notes: tuple[str, ...] = (),
    density_alone: bool = False,
) -> Vibrations:
    """Vibrations of a structure by a route.

    Parameters
    ----------
    structure : str, Path or object
        From `open_structure`; or a phonopy or ASE object, as `read_force_constants` and
        `read_crystal` take them; or an id of the database.
    route : str or Route
        A name of `route_named`, or a route of your own. ``auto`` takes given force constants, else
        those of the database's entry that has the structure, else
        ``force_field``: the stiffest stable one stored for a built-in crystal, for others the
        default one; ``direct`` before or after it.
    supercell : tuple of int or None
        Supercell of given force constants, in cells of the file, where the file does not say it;
        also nine numbers.
    isotopes : mapping or None
        What species are made of, as `with_isotopes` takes it.
    dipole_sum : "converged", "phonopy" or "ewald"
        How dipoles of given force constants of a polar crystal are summed, as `with_dipole_sum`.
    database : Database or None
        From `open_database`.
    notes : tuple of str
        What was done to the structure before, for the approximations.
    density_alone : bool
        Whether a density of states is all that is wanted, as `route_named` takes it.

    Raises
    ------
    InputError
        Unknown route, too many atoms, no force constants, unknown or missing force field; says
        what to do.
    """
    way = route
    if isinstance(way, str):
        way = route_named(way, database, density_alone=density_alone)
    made_of = isotopes or {}
    if database is not None and isinstance(structure, str) and database.has(structure):
        if way.name not in ("auto", "database"):
            raise InputError(
                f"route is {way.name!r} for {structure}, an entry of the database; expected auto "
                "or database"
            )
        return _told(entry_vibrations(database, structure, made_of, dipole_sum), notes)
    crystal = with_isotopes(read_crystal(structure), made_of)
    found = way.vibrations(
        Structure(
            source=structure,
            crystal=crystal,
            supercell=supercell,
            isotopes=made_of,
            dipole_sum=dipole_sum,
        )
    )
    return _told(found, notes)


def _told(found: Vibrations, notes: tuple[str, ...]) -> Vibrations:
    """The same, with what was done before and what is said of species that are not natural."""
    told = species_words(found.crystal)
    return replace(found, approximations=(*notes, *found.approximations, *told))
