"""How far routes were found to be off, and how long they take: the table that ships.

Every figure of ``routes.yaml`` was measured by a command that it names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import numpy as np
import yaml

from simulations.crystal import Crystal

Metric = Literal["density", "map"]
LEAST_CRYSTALS = 4
"""Crystals of a class that a figure of its own needs."""
ALL = "all"
_MEMBERS = {
    "hydrogenous": {"H"},
    "oxides": {"O"},
    "halides": {"F", "Cl", "Br", "I"},
    "sulphides, selenides, tellurides": {"S", "Se", "Te"},
}
_OTHERS = "none of these"


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteError:
    """Mean error of a route over crystals that it was tried on."""

    route: str
    metric: Metric
    of: str  # class of crystals, or `ALL`
    error: float
    crystals: int
    most_atoms: int  # of the primitive cells that were tried
    source: str  # what measured it

    @property
    def words(self) -> str:
        """Figure, class and how many crystals."""
        of = {ALL: "", _OTHERS: "; of no class"}.get(self.of, f"; {self.of}")
        return (
            f"{self.error:.2g} on {self.crystals} crystals of at most {self.most_atoms} atoms{of} "
            f"({self.source})"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EnergyRange:
    """Mean energies of all modes over the true ones, minus 1, of nine crystals in ten."""

    low: float
    high: float
    crystals: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RouteTable:
    """What was measured of routes.

    ``errors`` are rows, ``energies`` by route, ``metrics`` words by metric. Times are anchors of
    (atoms of the primitive cell, seconds of a processor): ``vibrations`` by route, ``spectra`` by
    what the route gives (``force_constants`` or ``density``) and by quantity.
    """

    metrics: Mapping[str, str]
    errors: tuple[RouteError, ...]
    energies: Mapping[str, EnergyRange]
    vibrations: Mapping[str, Sequence[tuple[float, float]]]
    spectra: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
    machine: str

    def errors_of(
        self, routes: Sequence[str], metric: Metric, crystal: Crystal
    ) -> dict[str, RouteError]:
        """Figures by which routes are compared for a crystal; those not measured are missing.

        A crystal's class counts where every measured route has a figure of it; of several classes,
        the one in which that route does worst.
        """
        rows = [row for row in self.errors if row.metric == metric and row.route in routes]
        known = {row.route for row in rows}
        shared = [
            name
            for name in classes_of(crystal.elements)
            if {r.route for r in rows if r.of == name and r.crystals >= LEAST_CRYSTALS} == known
        ]
        found: dict[str, RouteError] = {}
        for row in rows:
            if row.of not in (shared or [ALL]):
                continue
            if row.route not in found or row.error > found[row.route].error:
                found[row.route] = row
        return found

    def vibration_seconds(self, route: str, atoms: int) -> float | None:
        """Of a processor, from a structure of so many atoms to its vibrations; None: not known."""
        anchors = self.vibrations.get(route)
        return None if anchors is None else _between(anchors, atoms)

    def spectrum_seconds(self, gives: str, quantity: str | None, atoms: int) -> float:
        """Of a processor, from vibrations to what was asked for; 0 where that is not known."""
        anchors = self.spectra.get(gives, {}).get(quantity or "")
        return 0.0 if anchors is None else _between(anchors, atoms)


def classes_of(elements: Iterable[str]) -> tuple[str, ...]:
    """Classes of crystals that errors were measured for; at least one."""
    there = set(elements)
    return tuple(name for name, wanted in _MEMBERS.items() if there & wanted) or (_OTHERS,)


@cache
def route_table() -> RouteTable:
    """The table of this package."""
    told: dict[str, Any] = yaml.safe_load(
        resources.files("steering").joinpath("predict", "routes.yaml").read_text("utf-8")
    )
    return RouteTable(
        metrics=told["metrics"],
        errors=tuple(RouteError(**row) for row in told["errors"]),
        energies={name: EnergyRange(**row) for name, row in told["energies"].items()},
        vibrations=told["seconds"]["vibrations"],
        spectra=told["seconds"]["spectra"],
        machine=told["machine"],
    )


def _between(anchors: Sequence[tuple[float, float]], atoms: int) -> float:
    """A power of the number of atoms between two anchors; beyond the last as just before it."""
    n, seconds = np.array(anchors, dtype=float).T
    found = float(np.interp(np.log(atoms), np.log(n), np.log(seconds)))
    if atoms > n[-1] and len(n) > 1:
        slope = np.log(seconds[-1] / seconds[-2]) / np.log(n[-1] / n[-2])
        found += max(float(slope), 1.0) * float(np.log(atoms / n[-1]))
    return float(np.exp(found))
