"""The report of a run as one page: what was measured, what follows, how far it may be trusted.

Values in, text out; :mod:`steering.report.run_report_file` reads and writes the files. The page
asks for nothing from elsewhere: style and pictures are in it, and it runs no scripts.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from steering.report.plots_file import folded_map
from steering.report.run_pictures import cuts, errors_over_time, pulls, svg
from steering.run import EventCounts, RunSnapshot, SpectrumView

PARTS = ("folded", "outside_path", "outside_energy", "masked", "filtered")
DASH = "\u2013"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkFacts:
    """What the closed chunk of a name says beyond the run's answer."""

    start_time_ns: int = 0  # since the Unix epoch; 0: not known
    proton_charge: float | None = None  # coulomb


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorFacts:
    """What was known of a parameter before any data."""

    mean: float
    sigma: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Something that was told, decided or acknowledged during the run."""

    at_ns: int
    what: str
    who: str = ""
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """What is known of a run beside its snapshot; what is not known is left away."""

    chunks: Mapping[str, ChunkFacts] = field(default_factory=dict[str, ChunkFacts])
    prior: Mapping[str, PriorFacts] = field(default_factory=dict[str, PriorFacts])
    decisions: Sequence[Decision] = ()
    fingerprint: Mapping[str, str] = field(default_factory=dict[str, str])
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    experiment_yaml: str = ""
    fitted_from_meV: float | None = None  # upper end of the elastic band; None: not known
    notes: Sequence[str] = ()  # why something is left away


def run_report(snapshot: RunSnapshot, facts: RunFacts, *, zone: str, made_ns: int) -> str:
    """The page of a run.

    Parameters
    ----------
    snapshot : RunSnapshot
    facts : RunFacts
    zone : str
        Time zone of every time, such as Europe/Berlin.
    made_ns : int
        Unix time of the report.

    Returns
    -------
    str
        HTML without a request, a script, or anything unescaped.
    """
    environment = Environment(
        loader=PackageLoader("steering.report", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["dash"] = DASH
    clock = _Clock(zone)
    return environment.get_template("run.html").render(
        **_head(snapshot, facts, clock, made_ns),
        **_answer(snapshot, facts),
        **_measured(snapshot, facts, clock),
        pictures=_pictures(snapshot, facts.fitted_from_meV),
        decisions=[
            {"at": clock(one.at_ns), "what": one.what, "who": one.who, "why": one.why}
            for one in facts.decisions
        ],
        versions=dict(facts.versions),
        fingerprint=dict(facts.fingerprint),
        experiment_yaml=facts.experiment_yaml,
    )


@dataclass(frozen=True, slots=True)
class _Clock:
    """Writes moments in one zone."""

    zone: str

    def __call__(self, at_ns: int) -> str:
        if at_ns <= 0:
            return DASH
        moment = datetime.fromtimestamp(at_ns / 1e9, ZoneInfo(self.zone))
        return moment.strftime("%Y-%m-%d %H:%M:%S %Z")


def with_error(value: float, sigma: float) -> tuple[str, str]:
    """A value and its error, both to the second digit of the error."""
    if not math.isfinite(value):
        return DASH, DASH
    if not math.isfinite(sigma) or sigma <= 0:
        return f"{value:.5g}", DASH
    digits = 1 - math.floor(math.log10(sigma))
    if digits < 0 or digits > 9:
        return f"{value:.6g}", f"{sigma:.2g}"
    return f"{value:.{digits}f}".replace("-", "\u2212"), f"{sigma:.{digits}f}"


def _number(value: float | None, digits: int = 4) -> str:
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:.{digits}g}".replace("-", "\u2212")


def _head(snapshot: RunSnapshot, facts: RunFacts, clock: _Clock, made_ns: int) -> dict[str, Any]:
    result = snapshot.result
    experiment = snapshot.experiment
    described = [
        ("sample", _named(experiment, "sample", "structure")),
        ("temperature", _named(experiment, "sample", "temperature_K", unit=" K")),
        ("instrument", _named(experiment, "instrument", "name")),
        ("incident energy", _named(experiment, "instrument", "ei_meV", unit=" meV")),
    ]
    folded = [c for c in snapshot.chunks if c.status == "folded"]
    starts = [facts.chunks[c.chunk].start_time_ns for c in folded if c.chunk in facts.chunks]
    starts = [at for at in starts if at > 0]
    charges = [facts.chunks[c.chunk].proton_charge for c in folded if c.chunk in facts.chunks]
    known = [charge for charge in charges if charge is not None]
    span = f"{clock(min(starts))} to {clock(max(starts))} (starts of dwells)" if starts else DASH
    estimated = result is not None and result.goodness_of_fit is not None
    return {
        "title": snapshot.title,
        "run": snapshot.run_id,
        "described": [(name, text) for name, text in described if text],
        "status": snapshot.status,
        "error": snapshot.error,
        "made": clock(made_ns),
        "updated": clock(snapshot.updated_ns),
        "zone": clock.zone,
        "span": span,
        "folded": len(folded),
        "aside": sum(c.status == "set aside" for c in snapshot.chunks),
        "withdrawn": sum(c.status == "withdrawn" for c in snapshot.chunks),
        "orientations": len({round(c.psi_deg, 3) for c in folded if c.psi_deg is not None}),
        "minutes": _number(None if result is None else result.minutes_used),
        "budget": _named(experiment, "motion", "budget_minutes"),
        "charge": _number(sum(known)) if known and len(known) == len(folded) else DASH,
        "coverage": DASH if result is None else f"{result.coverage_fraction:.1%}",
        "estimated": estimated,
        "trusted": estimated and result is not None and result.trusted,
        "explained": estimated and result is not None and result.explained,
        "reasons": [] if result is None else list(result.reasons),
        "notes": [*([] if result is None else result.notes), *facts.notes],
    }


def _named(experiment: Mapping[str, Any], section: str, name: str, unit: str = "") -> str:
    value = experiment.get(section, {}).get(name)
    return "" if value is None else f"{value}{unit}"


def _answer(snapshot: RunSnapshot, facts: RunFacts) -> dict[str, Any]:
    result = snapshot.result
    if result is None:
        return dict.fromkeys(("parameters", "set_up", "derived", "advice"), []) | {
            "fit": None,
            "stop": None,
            "policy": "",
            "unit": "",
        }
    targets = {one.name: one for one in result.targets or ()}
    rows: list[dict[str, Any]] = []
    for one in result.parameters:
        value, sigma = with_error(one.value, one.sigma)
        prior, target = facts.prior.get(one.name), targets.get(one.name)
        met = None
        if target is not None:
            met = target.met if target.met is not None else one.sigma <= target.sigma
        rows.append(
            {
                "name": one.name,
                "value": value,
                "sigma": sigma,
                "low": with_error(one.interval90[0], one.sigma)[0],
                "high": with_error(one.interval90[1], one.sigma)[0],
                "prior": DASH
                if prior is None
                else " \u00b1 ".join((_number(prior.mean, 3), _number(prior.sigma, 2))),
                "narrowed": DASH
                if prior is None or one.sigma <= 0
                else f"{prior.sigma / one.sigma:.0f} \u00d7"
                if prior.sigma >= 3 * one.sigma
                else f"{prior.sigma / one.sigma:.1f} \u00d7",
                "informed": one.informed,
                "target": DASH if target is None else _number(target.sigma, 2),
                "met": met,
            }
        )
    fit = result.goodness_of_fit
    units = {one.unit for one in result.parameters}
    return {
        "unit": units.pop() if len(units) == 1 else "",
        "parameters": rows,
        "set_up": [
            {
                "name": one.name,
                "unit": one.unit,
                "value": with_error(one.value, one.sigma),
                "prior": _number(one.prior_sigma, 2),
            }
            for one in result.set_up or ()
            if one.prior_sigma > 0
        ],
        "derived": [
            {"name": one.name, "unit": one.unit, "value": with_error(one.value, one.sigma)}
            for one in result.derived
        ],
        "fit": None
        if fit is None
        else {
            "chi_square": f"{fit.chi_square:,.1f}",
            "degrees": f"{fit.degrees_of_freedom:,}",
            "reduced": f"{fit.reduced_chi_square:.3f}",
            "p": _number(fit.p_value, 3),
            "below": _number(fit.alarm_below, 2),
        },
        "stop": result.stop,
        "policy": result.policy or "",
        "advice": [
            {
                "psi": _number(one.psi_deg, 5),
                "ei": _number(one.ei_meV),
                "minutes": _number(one.minutes, 3),
                "gain": _number(one.gain_per_minute, 3),
            }
            for one in result.advice
        ],
    }


def _measured(snapshot: RunSnapshot, facts: RunFacts, clock: _Clock) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    account: list[dict[str, Any]] = []
    for number, one in enumerate(snapshot.chunks, 1):
        known = facts.chunks.get(one.chunk, ChunkFacts())
        counts = one.events if isinstance(one.events, EventCounts) else None
        rows.append(
            {
                "number": number,
                "chunk": one.chunk,
                "start": clock(known.start_time_ns),
                "psi": DASH if one.psi_deg is None else f"{one.psi_deg:.2f}".replace("-", "\u2212"),
                "minutes": f"{one.minutes:.2f}" if one.status == "folded" else DASH,
                "charge": _number(known.proton_charge),
                "read": DASH if counts is None else f"{counts.read:,}",
                "folded": DASH if counts is None else f"{counts.folded:,}",
                "rate": DASH
                if counts is None or one.minutes <= 0
                else f"{counts.read / one.minutes:,.0f}",
                "status": one.status,
                "reason": one.reason or "",
            }
        )
        if counts is not None:
            account.append(_counts(one.chunk, counts))
    total = None
    if snapshot.result is not None:
        total = _counts("all", snapshot.result.events)
    return {"chunks": rows, "account": account, "total": total, "parts": PARTS}


def _counts(name: str, counts: EventCounts) -> dict[str, Any]:
    parts = [getattr(counts, part) for part in PARTS]
    return {
        "name": name,
        "read": f"{counts.read:,}",
        "parts": [f"{part:,}" for part in parts],
        "lost": counts.read - sum(parts),
    }


def _pictures(snapshot: RunSnapshot, fitted_from_meV: float | None) -> dict[str, str | None]:
    view, result = snapshot.spectrum, snapshot.result
    if view is not None and fitted_from_meV is not None:
        view = _fitted_alone(view, fitted_from_meV)
    targets = {} if result is None else {one.name: one.sigma for one in result.targets or ()}
    figures: dict[str, Figure | None] = {
        "map": None if view is None else _map(view, fitted_from_meV),
        "cuts": None if view is None else cuts(view),
        "pulls": None if view is None else pulls(view),
        "errors": errors_over_time(snapshot.history, targets),
    }
    return {name: None if one is None else _data(svg(one)) for name, one in figures.items()}


def _map(view: SpectrumView, fitted_from_meV: float | None) -> Figure:
    figure = folded_map(view, fitted_from_meV=fitted_from_meV)
    figure.axes[3].set_title("exposure", fontsize=11)  # how much is covered stands on the page
    return figure


def _fitted_alone(view: SpectrumView, from_meV: float) -> SpectrumView:
    """A view without model and residual where the model is not held against the data."""
    centres = (view.energy_edges_meV[1:] + view.energy_edges_meV[:-1]) / 2
    used = (centres > from_meV)[None, :]
    return replace(
        view,
        model_intensity=np.where(used, view.model_intensity, np.nan),
        residual_sigma=np.where(used, view.residual_sigma, np.nan),
    )


def _data(picture: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(picture).decode()}"
