"""Route ``auto``: given force constants, a database's entry, else what was measured to be nearest.

Errors and times are those of ``routes.yaml``; a route that was not measured, or whose figures do
not hold for a crystal, comes last.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Literal

import numpy as np

from simulations.errors import InputError
from simulations.prior import FORCE_FIELDS, stored_priors
from steering.database import Database
from steering.predict.database_route import DatabaseRoute
from steering.predict.direct_route import MOST_ATOMS, DirectRoute
from steering.predict.field_softness_file import is_alone, softness_of
from steering.predict.force_constants_route import GivenForceConstants
from steering.predict.force_field_route import MAX_COMPUTED_ATOMS, ForceField
from steering.predict.phonons import stable
from steering.predict.route import Route, RouteUnavailableError, Structure
from steering.predict.route_table_file import Metric, RouteError, route_table
from steering.predict.vibrations import Uncertainty, Vibrations

Wanted = Literal["density", "map", "force_constants", "all"]
"""What decides: a density of states, S(|Q|,E), force constants; all: those, else a density."""
FAR = "far from training"
MARGIN = 1.5
"""Times what it usually takes a route must have: one that is late gives no answer at all."""
ASKED_UNLIMITED = 20
"""Atoms up to which force fields are asked where nobody says a time limit; more take minutes."""
ALIKE = 0.1
"""Errors that differ by less than this share are as good as equal: few crystals tell no more."""
MOST_UNSTABLE = 2
"""Force fields that are asked for a crystal before imaginary modes are believed."""
_METRIC: dict[Wanted, Metric] = {
    "density": "density", "map": "map", "force_constants": "density", "all": "density",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What is known of a route for one crystal and quantity before it is asked."""

    route: Route
    gives: str  # force_constants or density
    error: RouteError | None  # None: not measured
    metric: str  # what the error is of, in words
    seconds: float | None  # of a processor, all together; None: not measured
    unfit: str | None = None  # why it cannot be asked

    @property
    def words(self) -> str:
        """Error and time."""
        took = "time not measured" if self.seconds is None else f"about {rounded_s(self.seconds)}"
        if self.error is None:
            return f"error not measured; {took}"
        return f"{self.metric}: {self.error.words}; {took}"

    @property
    def computes(self) -> bool:
        """Whether a force field is run for it."""
        return isinstance(self.route, ForceField) and self.route.force_field in FORCE_FIELDS

    def fits(self, seconds: float | None) -> bool:
        """Whether it is likely to be done in so many seconds; None: no limit."""
        return seconds is None or (self.seconds is not None and MARGIN * self.seconds <= seconds)


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoRoute:
    """The best route that leads there; says why, and why not those before it.

    Parameters
    ----------
    database : Database or None
    wanted : "density", "map", "force_constants" or "all"
        What the vibrations are for.
    quantity : str or None
        What is made of them, whose time counts too.
    time_limit_s : float or None
        A route that takes longer, as far as that was measured, is not asked.
    """

    database: Database | None = None
    wanted: Wanted = "all"
    quantity: str | None = None
    time_limit_s: float | None = None
    name: str = field(default="auto", init=False)

    @property
    def needs(self) -> str:
        """Any of what they need."""
        return "force constants with the structure, or a database that has it, or the structure"

    @property
    def approximation(self) -> str:
        """That of the route that is taken."""
        return "that of the route with the smallest measured error, which the answer names"

    @property
    def uncertainty(self) -> Uncertainty | None:
        """Known of an answer only."""
        return None

    def vibrations(self, structure: Structure) -> Vibrations:
        """Take given force constants, else a database's, else ask routes by their measured errors.

        Raises
        ------
        RouteUnavailableError
            If none leads there, or none within the time; says why each does not.
        InputError
            If given force constants cannot be used, or the structure is fit for no route.
        """
        began = time.monotonic()
        reasons: list[str] = []
        first: list[Route] = [GivenForceConstants()]
        if self.database is not None:
            first.append(DatabaseRoute(database=self.database))
        for route in first:
            seconds = expected_of(route, structure, self.wanted, self.quantity)
            if route.name == "database" and not seconds.fits(self.time_limit_s):
                reasons.append(f"database: {seconds.words}, beyond {self.time_limit_s:g} s")
                continue
            try:
                found = route.vibrations(structure)
            except RouteUnavailableError as error:
                reasons.append(error.why)
            else:
                return _with_notes(found, *reasons)
        return self._ranked(structure, reasons, began)

    def _ranked(self, structure: Structure, reasons: list[str], began: float) -> Vibrations:
        kept: tuple[Vibrations, list[str]] | None = None
        tried_unstable = 0
        order = ranked(structure, self.wanted, self.quantity)
        late: list[Expected] = []
        for one in order:
            if one.unfit is not None:
                reasons.append(f"{one.route.name}: {one.unfit}")
                continue
            atoms = structure.crystal.n_atoms
            if self.time_limit_s is None and one.computes and atoms > ASKED_UNLIMITED:
                reasons.append(
                    f"{one.route.name}: {_time(one)} for {atoms} atoms; asked within a time limit "
                    f"(--time-limit) that has room for {MARGIN:g} times that, or by its name"
                )
                continue
            left = None
            if self.time_limit_s is not None:
                left = self.time_limit_s - (time.monotonic() - began)
            if not one.fits(left):
                late.append(one)
                continue
            if tried_unstable >= MOST_UNSTABLE and one.gives == "force_constants":
                continue
            try:
                found = one.route.vibrations(structure)
            except RouteUnavailableError as error:
                reasons.append(error.why)
                continue
            except InputError as error:
                if one.gives == "density":
                    raise  # the structure itself is at fault
                reasons.append(f"{one.route.name}: {error}")
                continue
            doubt = _doubt(found)
            if doubt is None:
                chosen = self._chosen(one, order, is_alone(structure.crystal))
                return _with_notes(found, chosen, *reasons, *self._late(late))
            tried_unstable += found.model is not None
            told = f"{one.route.name}: {doubt}"
            if kept is None:
                kept = found, [self._chosen(one, order, is_alone(structure.crystal))]
            reasons.append(told)
        if kept is not None:
            return _with_notes(kept[0], *kept[1], *reasons, *self._late(late))
        raise self._none(reasons, late)

    def _chosen(self, one: Expected, order: list[Expected], alone: bool) -> str:
        others = "; ".join(f"{o.route.name} {o.words}" for o in order if o is not one)
        against = f" Others: {others}" if others else ""
        known = route_table().energies.get(one.route.name)
        off = ""
        if alone and one.computes:
            off = "; that is of compounds: of one element energies are further off, see uncertainty"
        elif known is not None:
            off = (
                f"; mean energies were {100 * known.low:+.0f} to {100 * known.high:+.0f} % off on "
                f"{known.crystals} crystals"
            )
        return f"auto: route {one.route.name} ({one.words}{off}).{against}"

    def _late(self, late: list[Expected]) -> tuple[str, ...]:
        if not late:
            return ()
        names = ", ".join(f"{one.route.name} ({_time(one)})" for one in late)
        return (f"auto: not within {self.time_limit_s:g} s: {names}",)

    def _none(self, reasons: list[str], late: list[Expected]) -> RouteUnavailableError:
        known = [one for one in late if one.seconds is not None]
        if known:
            least = min(known, key=lambda one: one.seconds or 0.0)
            told = ", ".join(f"{one.route.name} {_time(one)}" for one in late)
            enough = rounded_s(1.02 * MARGIN * (least.seconds or 0.0))
            reasons.append(
                f"no route fits into the time limit of {self.time_limit_s:g} s ({told}); expected "
                f"at least {enough}, for {least.route.name}. Raise the limit, or ask for less"
            )
        why = "; ".join(dict.fromkeys(reasons))
        return RouteUnavailableError(f"route: {why}", why=why)


def ranked(structure: Structure, wanted: Wanted, quantity: str | None = None) -> list[Expected]:
    """Routes that need the structure alone, in the order in which ``auto`` asks them.

    By measured error, in classes of `ALIKE`; of a class, fields whose softness is known come first.
    Those not measured last. Where force constants are wanted, networks come
    last or, where nothing else will do, not at all. Of a crystal of one element errors of compounds
    tell little: a field that is known to be soft of such crystals, and by how much, comes first.
    """
    fields: list[ForceField] = [ForceField(name=n, force_field=n) for n in FORCE_FIELDS]
    if isinstance(structure.source, str) and structure.source in stored_priors():
        fields = [ForceField(name="force_field", force_field=None)]
    direct = [] if wanted == "force_constants" else [DirectRoute()]
    names = [route.name for route in (*direct, *fields)]
    errors = route_table().errors_of(names, _METRIC[wanted], structure.crystal)
    found = [
        expected_of(route, structure, wanted, quantity, errors) for route in (*direct, *fields)
    ]

    alone = is_alone(structure.crystal)
    least = min((one.error.error for one in found if one.error is not None), default=1.0)

    def place(one: Expected) -> tuple[bool, bool, bool, int, bool, float]:
        behind = wanted == "all" and one.gives == "density"
        unknown = one.computes and softness_of(one.route.name) is None
        error = least if one.error is None else one.error.error
        class_ = int(np.log(error / least) / np.log(1 + ALIKE))
        return behind, one.error is None, alone and unknown, class_, unknown, error

    return sorted(found, key=place)


def expected_of(
    route: Route,
    structure: Structure,
    wanted: Wanted,
    quantity: str | None = None,
    errors: dict[str, RouteError] | None = None,
) -> Expected:
    """What is known of a route beforehand.

    Parameters
    ----------
    route : Route
    structure : Structure
    wanted, quantity
        As of `AutoRoute`.
    errors : dict or None
        Figures that routes are compared by; None: the route's own.
    """
    table, metric = route_table(), _METRIC[wanted]
    crystal = structure.crystal
    if errors is None:
        errors = table.errors_of([route.name], metric, crystal)
    gives = "density" if isinstance(route, DirectRoute) else "force_constants"
    stored = isinstance(route, ForceField) and route.force_field is None
    named = "stored" if stored else route.name
    seconds = table.vibration_seconds(named, crystal.n_atoms)
    if seconds is not None:
        seconds += table.spectrum_seconds(gives, quantity, crystal.n_atoms)
    return Expected(
        route=route,
        gives=gives,
        error=errors.get(route.name),
        metric=table.metrics[metric],
        seconds=seconds,
        unfit=_unfit(route, structure),
    )


def rounded_s(seconds: float) -> str:
    """Two digits of a time, upwards from a second."""
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds / 60:.2g} min"


def _time(one: Expected) -> str:
    return "time not measured" if one.seconds is None else f"about {rounded_s(one.seconds)}"


def _unfit(route: Route, structure: Structure) -> str | None:
    """Why a route cannot be asked, as far as that is seen without asking it."""
    atoms = structure.crystal.n_atoms
    if isinstance(route, DirectRoute) and atoms > MOST_ATOMS:
        return f"{atoms:,} atoms; expected at most {MOST_ATOMS:,}"
    if isinstance(route, ForceField) and route.force_field in FORCE_FIELDS:
        if atoms > MAX_COMPUTED_ATOMS:
            return f"{atoms:,} atoms; expected at most {MAX_COMPUTED_ATOMS}"
        package = FORCE_FIELDS[route.force_field].package
        if find_spec(package) is None:
            return f"package {package} is missing; pip install 'beamsteer[forcefields]'"
    return None


def _doubt(found: Vibrations) -> str | None:
    """Why another route is asked as well."""
    for words in found.warnings:
        if words.startswith(FAR):
            return f"{words.partition('. ')[0]}: its error is not known there"
    try:
        stable(found)
    except InputError as error:
        return str(error)
    return None


def _with_notes(found: Vibrations, *notes: str) -> Vibrations:
    """The same with notes, each of them once."""
    told = dict.fromkeys((*found.approximations, *notes))
    return replace(found, approximations=tuple(told))
