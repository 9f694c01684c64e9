"""A plan in words and tables, for the terminal, the page and machines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from steering.planning.scan_plan import MOST_HOURS, MOST_STEPS, PlannedEnergy, ScanPlan

MOST_ROWS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanTable:
    """One table; the first column is a name."""

    title: str
    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def answer_of(plan: ScanPlan) -> str:
    """The plan in a sentence or two."""
    best = plan.best
    where = ", ".join(f"{psi:g}" for psi, _, _ in plan.orientations[:5])
    many = len(plan.orientations)
    most = f" and {many - 5} more" if many > 5 else ""
    which = f"Ei {best.ei_meV:g} meV"
    if len(plan.energies) > 1:
        which += f" of {', '.join(f'{e:g}' for e in sorted(o.ei_meV for o in plan.energies))}"
    text = (
        f"{which}, psi {where}{most} degrees. Every target after {_hours(best.hours[1])} of wall "
        f"time (68 % of the draws of the prior: {_range(best)})"
    )
    if plan.stopped:
        text += f", {_hours(plan.steps[-1].wall_hours)} with the looks that the stop rule asks for"
    return f"{text}."


def tables_of(plan: ScanPlan) -> tuple[PlanTable, ...]:
    """Incident energies, orientations, schedule and force constants."""
    return (_energies(plan), _orientations(plan), _schedule(plan), _parameters(plan))


def _energies(plan: ScanPlan) -> PlanTable:
    rows = tuple(
        (
            f"{offer.ei_meV:g}",
            _hours(offer.hours[1]),
            _range(offer),
            _hours(offer.sweep_hours),
            f"{offer.psi_deg[offer.ranking[0]]:g}",
            f"{offer.coverage_fraction:.0%}",
            f"{offer.counts_per_minute:.0f}",
        )
        for offer in plan.energies
    )
    return PlanTable(
        title="Incident energies, best first",
        caption="Wall time until every target is met, by the forecast of a run's adviser, median "
        "of the draws and 68 % of them; sweep: time spread evenly over all orientations; "
        "psi: where to begin; covered: share of path cells with exposure, all orientations "
        "together; counts: one-phonon, inside the tubes, a minute.",
        heads=("Ei, meV", "to target", "68 %", "sweep", "psi", "covered", "counts"),
        rows=rows,
    )


def _orientations(plan: ScanPlan) -> PlanTable:
    best = plan.best
    rows = tuple(
        (
            f"{best.psi_deg[k]:g}",
            _number(float(best.gain_per_minute[k]), 5),
            f"{best.dwell_minutes[k]:g}",
            _hours(float(best.alone_hours[k])),
            f"{best.coverage[k]:.0%}",
        )
        for k in best.ranking[:MOST_ROWS]
    )
    return PlanTable(
        title=f"Where to begin, Ei {best.ei_meV:g} meV, best first",
        caption="Gain: fall of the sum of (sigma/target)^2 per wall minute, mean over draws, with "
        "the dwell that gains most; alone: until every target is met there alone. "
        f"{len(rows)} of {len(best.psi_deg)} orientations.",
        heads=("psi, degrees", "gain/min", "minutes", "alone", "covered"),
        rows=rows,
    )


def _schedule(plan: ScanPlan) -> PlanTable:
    last = plan.steps[-1]
    ended = "the stop rule of a run ends it"
    if not plan.stopped:
        ended = f"not done: largest sigma/target {last.worst:.2g} after "
        ended += f"{MOST_STEPS} dwells" if len(plan.steps) == MOST_STEPS else f"{MOST_HOURS:g} h"
    rows = tuple(
        (f"{psi:g}", f"{minutes:g}", str(visits))
        for psi, minutes, visits in plan.orientations[:MOST_ROWS]
    )
    return PlanTable(
        title="Schedule, each dwell where it gains most",
        caption=f"{len(plan.steps)} dwells, {_hours(last.wall_hours)} of wall time; {ended} "
        f"(median of the draws; {last.met:.0%} of them meet every target). {len(rows)} of "
        f"{len(plan.orientations)} orientations.",
        heads=("psi, degrees", "minutes", "dwells"),
        rows=rows,
    )


def _parameters(plan: ScanPlan) -> PlanTable:
    unit = plan.parameters[0].unit if plan.parameters else ""
    rows = [
        (
            one.name,
            _number(one.size),
            _number(one.prior_sigma),
            _number(one.planned_sigma),
            _number(one.target),
        )
        for one in plan.parameters
    ]
    return PlanTable(
        title=f"Targeted force constants, {unit}",
        caption="Median over draws; planned: sigma after the schedule.",
        heads=("parameter", "size", "sigma of the prior", "sigma planned", "target"),
        rows=tuple(rows),
    )


def content_of(plan: ScanPlan) -> dict[str, Any]:
    """All of it for machines; hours are null beyond what is looked ahead."""
    return {
        "title": plan.title,
        "answer": answer_of(plan),
        "instrument": plan.instrument,
        "u": list(plan.u),
        "v": list(plan.v),
        "temperature_K": plan.temperature_K,
        "draws": plan.draws,
        "hours_looked_ahead": MOST_HOURS,
        "energies": [_energy_content(offer) for offer in plan.energies],
        "orientations": [
            {"psi_deg": psi, "minutes": minutes, "dwells": visits}
            for psi, minutes, visits in plan.orientations
        ],
        "stopped": plan.stopped,
        "schedule": [
            {
                "psi_deg": step.psi_deg,
                "minutes": step.minutes,
                "wall_hours": step.wall_hours,
                "largest_sigma_over_target": step.worst,
                "share_of_draws_met": step.met,
            }
            for step in plan.steps
        ],
        "parameters": [
            {
                "name": one.name,
                "unit": one.unit,
                "size": one.size,
                "prior_sigma": one.prior_sigma,
                "planned_sigma": one.planned_sigma,
                "target": one.target,
            }
            for one in plan.parameters
        ],
        "assumptions": list(plan.assumptions),
        "approximations": list(plan.approximations),
    }


def _energy_content(offer: PlannedEnergy) -> dict[str, Any]:
    low, median, high = offer.hours
    return {
        "ei_meV": offer.ei_meV,
        "hours": median,
        "hours_16_84": [low, high],
        "even_sweep_hours": offer.sweep_hours,
        "coverage_fraction": offer.coverage_fraction,
        "counts_per_minute": offer.counts_per_minute,
        "orientations": [
            {
                "psi_deg": float(offer.psi_deg[k]),
                "gain_per_minute": float(offer.gain_per_minute[k]),
                "gain_spread": float(offer.gain_spread[k]),
                "minutes": float(offer.dwell_minutes[k]),
                "hours_alone": float(offer.alone_hours[k])
                if math.isfinite(offer.alone_hours[k])
                else None,  # beyond what is looked ahead
                "coverage_fraction": float(offer.coverage[k]),
            }
            for k in offer.ranking
        ],
    }


def _range(offer: PlannedEnergy) -> str:
    """Hours of 68 % of the draws."""
    low, high = (_hours(h) for h in (offer.hours[0], offer.hours[2]))
    return low if low == high else f"{low} .. {high}"


def _hours(hours: float | None) -> str:
    if hours is None or not math.isfinite(hours):
        return f"over {MOST_HOURS:g} h"
    if hours < 1.0:
        return f"{60 * hours:.0f} min" if hours >= 1 / 6 else f"{60 * hours:.1f} min"
    return f"{hours:.1f} h" if hours < 100 else f"{hours:.0f} h"


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}g}" if math.isfinite(value) else "-"
