"""What the other routes would say of a crystal, and how long they would take."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from simulations.arrays import FloatArray
from simulations.dynamics import PhononDos
from simulations.errors import InputError
from simulations.progress import Progress, silent
from steering.database import Database
from steering.predict.auto_route import Expected, Wanted, expected_of, ranked, rounded_s
from steering.predict.database_route import DatabaseRoute
from steering.predict.force_constants_route import GivenForceConstants
from steering.predict.optics import top_meV
from steering.predict.route import Structure
from steering.predict.vibrations import Vibrations

COMPARED_WITHIN_S = 120.0
"""What the other routes may take together where nobody says a limit, by the times measured."""


def comparison(
    structure: Structure,
    chosen: Vibrations,
    *,
    wanted: Wanted,
    quantity: str | None,
    database: Database | None = None,
    time_limit_s: float | None = None,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Ask every other route that has the time, the quickest first.

    Parameters
    ----------
    structure : Structure
    chosen : Vibrations
        Of the route that answered.
    wanted, quantity
        As of `AutoRoute`; say by which error and time routes are told.
    database : Database or None
    time_limit_s : float or None
        For all of them together; None: `COMPARED_WITHIN_S`.
    progress : callable

    Returns
    -------
    list of dict
        By route, JSON-ready but for arrays: ``route``, ``chosen``, ``error`` and ``seconds`` (None:
        not measured; ``takes`` rounds them), both in ``words``; ``asked``, else ``why`` not; of
        those asked ``source``, ``mean_energy_meV``, ``highest_meV``, ``dos`` and ``differs``, the
        mean absolute difference of the density over its highest value from that of the chosen
        route, 51 points.
    """
    began = time.monotonic()
    limit = COMPARED_WITHIN_S if time_limit_s is None else time_limit_s
    every = _all(structure, wanted, quantity, database)
    rows = {one.route.name: _row(one) for one in every}
    mine = _chosen_name(chosen, rows)
    own = literature_density(chosen.dos)
    for one in sorted(every, key=lambda o: o.seconds or 1e9):
        row = rows[one.route.name]
        if one.route.name == mine:
            row |= {"chosen": True, "asked": True, **_said(chosen, own)}
            continue
        left = limit - (time.monotonic() - began)
        if one.unfit is not None:
            row["why"] = one.unfit
        elif one.seconds is None or not one.fits(left):
            row["why"] = f"it would take longer than the {rounded_s(max(left, 0.0))} that are left"
            if one.seconds is None:
                row["why"] = "how long it takes was not measured"
        else:
            progress(f"for comparison: route {one.route.name}", 0.96)
            try:
                found = one.route.vibrations(structure)
            except InputError as error:
                row["why"] = str(error)
            else:
                row |= {"asked": True, **_said(found, own)}
    return list(rows.values())


def literature_density(dos: PhononDos) -> FloatArray:
    """A density at the 51 points of the literature, over its highest value there, (51,)."""
    from model_server.direct import energy_edges_meV, on_literature_points

    edges, own = energy_edges_meV(), dos.energy_edges_meV
    whole = np.concatenate([[0.0], np.cumsum(dos.total * np.diff(own))])
    return on_literature_points(np.diff(np.interp(edges, own, whole)) / whole[-1])


def mean_energy_meV(dos: PhononDos) -> float:  # noqa: N802
    """Mean energy of all modes."""
    weight = dos.total * np.diff(dos.energy_edges_meV)
    return float(weight @ dos.energies_meV / weight.sum())


def _all(
    structure: Structure, wanted: Wanted, quantity: str | None, database: Database | None
) -> list[Expected]:
    given = (GivenForceConstants(), DatabaseRoute(database=database))
    first = [expected_of(route, structure, wanted, quantity) for route in given]
    return [*first, *ranked(structure, "all" if wanted == "force_constants" else wanted, quantity)]


def _chosen_name(chosen: Vibrations, rows: dict[str, dict[str, Any]]) -> str:
    """Which of the rows answered; one that is asked by no other name gets a row of its own."""
    kind, source = chosen.route["kind"], chosen.route["source"]
    for name in (kind, source.removesuffix(", stored"), "force_field"):
        if name in rows and (name != "force_field" or kind == "force_field"):
            return name
    rows[source] = {
        "route": source, "chosen": False, "asked": False, "error": None, "seconds": None,
        "takes": None,
        "words": "error not measured; time not measured", "why": None,
    }  # fmt: skip
    rows[source] |= {"chosen": True, "asked": True, **_said(chosen, literature_density(chosen.dos))}
    return source


def _row(one: Expected) -> dict[str, Any]:
    return {
        "route": one.route.name,
        "chosen": False,
        "asked": False,
        "error": None if one.error is None else one.error.error,
        "seconds": one.seconds,
        "takes": None if one.seconds is None else rounded_s(one.seconds),
        "words": one.words,
        "why": None,
    }


def _said(found: Vibrations, own: FloatArray) -> dict[str, Any]:
    shown = found.dos.shown()
    return {
        "source": found.route["source"],
        "mean_energy_meV": mean_energy_meV(found.dos),
        "highest_meV": top_meV(found.dos),
        "imaginary_share": found.dos.imaginary_share,
        "warnings": list(found.warnings),
        "differs": float(np.abs(literature_density(found.dos) - own).mean()),
        "dos": {"energy_meV": shown.energies_meV, "total": shown.total},
    }
