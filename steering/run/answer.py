"""What a run answers: the result document and the spectrum that people look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from consumers.fold import EventAccount
from model_server.posterior import Posterior, Trust, usable_cells
from simulations.constants import Z90
from simulations.fold import CellSums
from steering.advice import Advice, StopAdvice, stop_advice
from steering.experiment import Measurement
from steering.run.estimator import Estimate
from steering.run.ledger import ChunkLedger
from steering.run.store import SpectrumView

SCHEMA_VERSION = 1
ADVISED = 10
INFORMED = 0.8  # of the prior's sigma: what is above is still the prior's


def stop_of(estimate: Estimate | None, looks_below_target: int) -> StopAdvice:
    """Whether to stop, from how many of the last looks met every target and were trusted."""
    if estimate is None:
        return stop_advice(
            looks_below_target=0, chunks=0, orientations=0, trust="trusted", forecast_minutes=None
        )
    return stop_advice(
        looks_below_target=looks_below_target,
        chunks=len(estimate.keys),
        orientations=estimate.orientations,
        trust=estimate.trust.state,
        forecast_minutes=estimate.forecast_minutes,
    )


def empty_notes(sums: CellSums, account: EventAccount) -> tuple[str, ...]:
    """Why a fold says nothing, where it does: a warning in one sentence, or none.

    Parameters
    ----------
    sums : CellSums
        Of all chunks.
    account : EventAccount
        Where their events, or pairs of pixel and bin, went.
    """
    where = (
        f"{account.read:,} read, {account.masked:,} masked or without data, "
        f"{account.outside_path:,} outside the cells, {account.outside_energy:,} outside the "
        f"energy axis, {account.filtered:,} left out by the source"
    )
    if not (sums.exposure > 0).any():
        return (
            f"the fold is empty: no cell has exposure ({where}). Check psi, Ei, path and masks "
            "with `beamsteer inspect`",
        )
    if account.folded == 0:
        return (
            f"the fold is empty: nothing was counted in any cell ({where}). Check the energy axis "
            "and the path",
        )
    return ()


def result_of(
    measurement: Measurement,
    ledger: ChunkLedger,
    estimate: Estimate | None,
    *,
    looks_below_target: int = 0,
    closed: bool = False,
) -> dict[str, Any]:
    """Newest answer in the layout of ``result.json``; no timings.

    Parameters
    ----------
    measurement : Measurement
    ledger : ChunkLedger
    estimate : Estimate, optional
        None: there is none yet.
    looks_below_target : int
        How many of the last looks met every target and were trusted.
    closed : bool
        Of a run that people closed nothing is advised.
    """
    folded = [chunk.chunk for chunk in ledger.chunks]
    common = {
        "schema_version": SCHEMA_VERSION,
        "run": ledger.run_id,
        "minutes_used": ledger.minutes_used,
        "coverage_fraction": ledger.sums.coverage_fraction if ledger.chunks else 0.0,
        "events": asdict(ledger.account),
        "chunks": ledger.records,
        "notes": [
            *measurement.notes,
            *measurement.beliefs,
            *(empty_notes(ledger.sums, ledger.account) if ledger.chunks else ()),
            *([] if estimate is None else part_notes(estimate.posterior)),
            *([] if estimate is None else scale_notes(estimate.posterior, folded)),
        ],
        "stop": asdict(stop_of(estimate, looks_below_target)),
    }
    if estimate is None:
        return {
            "parameters": [],
            "derived": [],
            "trusted": False,
            "reasons": ["no estimate was made"],
            "advice": [],
            **common,
        }
    posterior, trust = estimate.posterior, estimate.trust
    return {
        **fitted_of(posterior, trust, measurement),
        "set_up": _set_up(measurement, posterior),
        "advice": [] if closed else [_advised(a) for a in estimate.advice[:ADVISED]],
        "policy": estimate.policy,
        "targets": [
            {"name": n, "sigma": float(t), "met": bool(s <= t) if trust.trusted else None}
            for n, t, s in zip(posterior.names, estimate.targets, posterior.sigma, strict=False)
        ],
        **common,
    }


def part_notes(posterior: Posterior) -> list[str]:
    """How strong the expected parts of the scattering were found to be; none by default."""
    return [
        f"expected {name} scattering: {strength:.2g} +- {sigma:.1g} times that predicted"
        for name, (strength, sigma) in posterior.part_strengths().items()
    ]


def scale_notes(posterior: Posterior, chunks: Sequence[str]) -> list[str]:
    """Which chunks have more or fewer counts than their charge says; by default none has."""
    off = {} if posterior.aside is None else posterior.aside.scattered
    return [
        f"chunk {chunks[k]} has {abs(scale):.0%} {'more' if scale > 0 else 'fewer'} counts than "
        "its charge and the other chunks say; error bars allow for it"
        for k, scale in off.items()
    ]


def _set_up(measurement: Measurement, posterior: Posterior) -> list[dict[str, Any]]:
    """How far the set-up is off, fitted or marginalised beside the fit."""
    layout, aside = posterior.layout, posterior.aside
    ways = measurement.exact.missetting.and_then(measurement.exact.aside)
    known = dict(zip(ways.names, ways.sigma.tolist(), strict=True))
    off = list(
        zip(
            layout.off_names,
            layout.off_units,
            posterior.theta[layout.off],
            posterior.theta_sigma[layout.off],
            (known[name] for name in layout.off_names),
            strict=True,
        )
    )
    if aside is not None:
        off += zip(
            aside.names, aside.units, aside.value, aside.sigma, aside.known.tolist(), strict=True
        )
    return [
        {"name": n, "unit": unit, "value": float(v), "sigma": float(s), "prior_sigma": prior}
        for n, unit, v, s, prior in off
        if prior > 0
    ]


def _others(posterior: Posterior) -> dict[str, Any]:
    """Other answers to the same counts; usually there are none."""
    if not posterior.others:
        return {}
    told = [
        {
            "log_odds": posterior.log_odds_of(one),
            "parameters": [
                {"name": n, "value": float(v), "sigma": float(s)}
                for n, v, s in zip(one.names, one.values, one.sigma, strict=True)
            ],
        }
        for one in posterior.others
    ]
    return {"other_answers": told}


def _advised(advice: Advice) -> dict[str, Any]:
    return {name: value for name, value in asdict(advice).items() if value is not None}


def fitted_of(posterior: Posterior, trust: Trust, measurement: Measurement) -> dict[str, Any]:
    """Parameters of a fit, what follows from them, and how it was judged, as ``result.json``."""
    return {
        "parameters": [
            {
                "name": n,
                "unit": unit,
                "value": float(v),
                "sigma": float(s),
                "interval90": [float(v - Z90 * s), float(v + Z90 * s)],
                "informed": bool(s < INFORMED * prior),
            }
            for n, unit, v, s, prior in zip(
                posterior.names,
                posterior.units,
                posterior.values,
                posterior.sigma,
                measurement.prior.sigma,
                strict=True,
            )
        ],
        "covariance": posterior.covariance.tolist(),
        **_others(posterior),
        "derived": [
            asdict(d)
            for d in measurement.quick_forward.derived(posterior.values, posterior.covariance)
        ],
        "trusted": trust.trusted,
        "trust": trust.state,
        "reasons": list(trust.reasons),
        "goodness_of_fit": {
            "chi_square": trust.chi_square,
            "degrees_of_freedom": trust.degrees_of_freedom,
            "reduced_chi_square": trust.reduced_chi_square,
            "p_value": trust.p_value,
            "alarm_below": trust.threshold,
            "unnoticed_error": trust.unseen if np.isfinite(trust.unseen) else None,
        },
    }


def spectrum_of(
    measurement: Measurement, ledger: ChunkLedger, estimate: Estimate | None, net: CellSums
) -> SpectrumView | None:
    """Folded map ready to draw; None before the first chunk.

    Parameters
    ----------
    measurement : Measurement
    ledger : ChunkLedger
    estimate : Estimate, optional
    net : CellSums
        All chunks without their can.
    """
    if not ledger.chunks:
        return None
    reciprocal = measurement.crystal.conventional_reciprocal
    position, _ = measurement.path.position(reciprocal)
    ticks, labels, breaks = path_ticks(measurement)
    known = net.exposure > 0
    scale, expected = 1.0, np.full(net.exposure.shape, np.nan)
    phi, residual = measurement.model.values, expected
    if estimate is not None:
        posterior = estimate.posterior
        scale = posterior.scale
        expected, phi = posterior.expected, posterior.values
        if posterior.can is not None:
            expected = expected - posterior.can
        residual = estimate.residual_sigma
    branches = measurement.quick_forward.branches(measurement.path.centres_hkl(), phi)
    divisor = np.where(known, net.exposure, 1.0)
    return SpectrumView(
        path_position=position,
        segment_breaks=breaks,
        tick_positions=ticks,
        tick_labels=labels,
        energy_edges_meV=measurement.energy.edges_meV,
        intensity=net.intensity / scale,
        sigma=net.sigma / scale,
        model_intensity=np.where(known, expected / divisor, np.nan) / scale,
        residual_sigma=residual,
        branches=branches,
        exposure=net.exposure,
        fitted=usable_cells(net, measurement.energy.centres_meV, measurement.elastic_cut_meV),
        hkl=measurement.path.centres_hkl(),
        counts=net.counts,
        scale=np.array(float(scale)),
        branches_low=None if estimate is None else estimate.bands.low_meV,
        branches_high=None if estimate is None else estimate.bands.high_meV,
    )


def path_ticks(
    measurement: Measurement,
) -> tuple[tuple[float, ...], tuple[str, ...], tuple[int, ...]]:
    """Where labels stand on the path axis (1/angstrom), labels, and bins before which it jumps."""
    path = measurement.path
    _, ends = path.position(measurement.crystal.conventional_reciprocal)
    labels = [path.labels[0][0]]
    breaks: list[int] = []
    for k in range(1, len(path.bins)):
        before, after = path.labels[k - 1][1], path.labels[k][0]
        jump = np.linalg.norm(path.end_hkl[k - 1] - path.start_hkl[k]) > 1e-9
        labels.append(f"{before}|{after}" if jump and before != after else after)
        if jump:
            breaks.append(int(path.first_bin[k]))
    labels.append(path.labels[-1][1])
    return tuple(float(e) for e in ends), tuple(labels), tuple(breaks)
