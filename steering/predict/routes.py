"""The routes that people may name, from a structure to its vibrations.

A new route is a class that keeps the promises of `Route` and a line in `_KNOWN`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from simulations.crystal import Isotopes, read_crystal, species_words, with_isotopes
from simulations.dynamics import DipoleWay
from simulations.errors import InputError
from simulations.prior import FORCE_FIELDS
from steering.database import Database
from steering.predict.auto_route import AutoRoute, Wanted
from steering.predict.database_route import DatabaseRoute, entry_vibrations
from steering.predict.direct_route import DirectRoute
from steering.predict.force_constants_route import GivenForceConstants
from steering.predict.force_field_route import ForceField
from steering.predict.route import Route, Structure
from steering.predict.vibrations import Vibrations

_GIVEN = GivenForceConstants()
_FORCE_FIELD = ForceField(name="force_field", force_field=None)
_DIRECT = DirectRoute()
_KNOWN: tuple[Route, ...] = (
    AutoRoute(),
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
    name: str,
    database: Database | None = None,
    *,
    wanted: Wanted = "all",
    quantity: str | None = None,
    time_limit_s: float | None = None,
) -> Route:
    """Route that people mean by a name.

    Parameters
    ----------
    name : str
        One of `ROUTES`, or ``mace:PATH``, ``m3gnet:PATH`` with a weight file.
    database : Database or None
        What ``database`` looks in, and ``auto`` after given force constants.
    wanted, quantity, time_limit_s
        What ``auto`` chooses by, as `AutoRoute` takes them.

    Raises
    ------
    InputError
        If no route has the name.
    """
    if name == "database" and database is not None:
        return DatabaseRoute(database=database)
    if name == "auto":
        return AutoRoute(
            database=database, wanted=wanted, quantity=quantity, time_limit_s=time_limit_s
        )
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
    wanted: Wanted = "all",
    quantity: str | None = None,
    time_limit_s: float | None = None,
) -> Vibrations:
    """Vibrations of a structure by a route.

    Parameters
    ----------
    structure : str, Path, Structure or object
        From `open_structure`; or a phonopy or ASE object, as `read_force_constants` and
        `read_crystal` take them; or an id of the database; or of `structure_of`, which holds the
        next three.
    route : str or Route
        A name of `route_named`, or a route of your own. ``auto`` takes given force constants, else
        those of the database's entry that has the structure, else asks the networks and the force
        fields in the order of their measured errors.
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
    wanted, quantity, time_limit_s
        What ``auto`` chooses by, as `AutoRoute` takes them.

    Raises
    ------
    InputError
        Unknown route, too many atoms, no force constants, unknown or missing force field; says
        what to do.
    """
    way = route
    if isinstance(way, str):
        way = route_named(
            way, database, wanted=wanted, quantity=quantity, time_limit_s=time_limit_s
        )
    start = structure
    if not isinstance(start, Structure):
        start = structure_of(
            structure,
            supercell=supercell,
            isotopes=isotopes,
            dipole_sum=dipole_sum,
            database=database,
        )
    if database is not None and _is_entry(start.source, database):
        if way.name not in ("auto", "database"):
            raise InputError(
                f"route is {way.name!r} for {start.source}, an entry of the database; expected "
                "auto or database"
            )
        found = entry_vibrations(database, start.source, start.isotopes, start.dipole_sum)
        return _told(found, notes)
    return _told(way.vibrations(start), notes)


def structure_of(
    structure: str | Path | Any,
    *,
    supercell: tuple[int, ...] | None = None,
    isotopes: Isotopes | None = None,
    dipole_sum: DipoleWay = "converged",
    database: Database | None = None,
) -> Structure:
    """What routes start from.

    Parameters
    ----------
    structure, supercell, isotopes, dipole_sum, database
        As `vibrations_of` takes them.

    Raises
    ------
    InputError
        If the structure cannot be read.
    """
    if database is not None and _is_entry(structure, database):
        crystal = database.force_constants(structure).crystal
    else:
        crystal = read_crystal(structure)
    return Structure(
        source=structure,
        crystal=with_isotopes(crystal, isotopes or {}),
        supercell=supercell,
        isotopes=isotopes or {},
        dipole_sum=dipole_sum,
    )


def _is_entry(structure: str | Path | Any, database: Database) -> TypeGuard[str]:
    return isinstance(structure, str) and database.has(structure)


def _told(found: Vibrations, notes: tuple[str, ...]) -> Vibrations:
    """The same, with what was done before and what is said of species that are not natural."""
    told = species_words(found.crystal)
    return replace(found, approximations=(*notes, *found.approximations, *told))
