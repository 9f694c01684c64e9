"""A fit of a believed set-up made the marginal one of what it takes to be right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from model_server.posterior.aside import (
    MOUNT,
    SHAPE_SIGMA,
    SHAPES,
    Aside,
    Piece,
    chunk_tests,
    contrast_of,
    floors_of,
    marginalised,
    score_test,
    spread_test,
    steepness,
)
from model_server.posterior.groups import chi_square_alone, told_by_groups
from model_server.posterior.linear import Linear
from model_server.posterior.observation import Observation
from model_server.posterior.posterior import Posterior
from model_server.posterior.tangent import LEAST_RATE, Tangent
from simulations.arrays import BoolArray, FloatArray, SingleArray
from simulations.likelihood import Missetting


def piece_of(
    found: Posterior,
    observation: Observation,
    tangent: Tangent,
    linear: Linear,
    phonon: FloatArray,
    use: BoolArray,
    energy_meV: FloatArray,
    aside: Missetting,
    wider: SingleArray | None = None,
) -> Piece:
    """What an orientation says of all ways to be off.

    Parameters
    ----------
    found : Posterior
    observation : Observation
    tangent : Tangent
        Of the orientation, at the answer of the fit.
    linear : Linear
        The orientation there.
    phonon : (path_bins, energy_bins) float64
        The model's part of its expected counts.
    use : (path_bins, energy_bins) bool
        Cells of ``linear``.
    energy_meV : (energy_bins,) float64
    aside : Missetting
        Ways of the tangent's ``aside``.
    wider : (path_bins, energy_bins) float32, optional
        What a typical spread of q would change at scale 1.
    """
    layout, sums = found.layout, observation.sums
    scale, flat, constant = np.exp(found.theta[layout.log_amplitudes])
    by_off = scale * tangent.aside[use].astype(float)
    steep = np.broadcast_to(steepness(energy_meV, np.any(use, axis=0, keepdims=False)), use.shape)[
        use
    ]
    background = flat * sums.flat[use] + constant * sums.exposure[use]
    turns: list[FloatArray] = []
    for name in MOUNT:
        if name in aside.names:
            turns.append(by_off[:, aside.names.index(name)])
        elif name in layout.off_names:
            turns.append(linear.slope[:, layout.off.start + layout.off_names.index(name)])
    none = np.zeros(len(linear.rate))
    return Piece(
        linear=linear,
        use=use,
        phonon=phonon[use],
        ways=np.column_stack([by_off, background * steep, phonon[use] * steep]),
        mount=np.stack(turns, axis=1) if turns else np.zeros((len(none), 0)),
        contrast=none if sums.gaussian else contrast_of(linear.rate, sums.exposure[use]),
        wider=none if wider is None else scale * wider[use].astype(float),
    )


def marginal_of(
    found: Posterior, pieces: Sequence[Piece], off: Missetting, prior: FloatArray
) -> Posterior:
    """Marginalise the ways to be off, and test what is taken to be right.

    Parameters
    ----------
    found : Posterior
        With the set-up as it is believed.
    pieces : sequence of Piece
        Of every orientation.
    off : Missetting
        The ways, before ``SHAPES``.
    prior : (P, P) float64
        Precision of theta before any data.
    """
    layout, size = found.layout, found.layout.size
    known = np.array([*off.sigma, *SHAPE_SIGMA])
    units = (*off.units, *("relative" for _ in SHAPES))
    step, joint, score, information, gain = marginalised(prior, pieces, known)
    held = known == 0
    value, sigma, p = score_test(
        score[held], information[np.ix_(held, held)], floors_of(units)[held]
    )
    covariance = np.asarray(np.linalg.inv(joint), dtype=np.float64)
    aside = Aside(
        names=(*off.names, *SHAPES),
        units=units,
        known=known,
        value=step[size:],
        sigma=np.where(held, 0.0, np.sqrt(np.diag(covariance)[size:])),
        held_value=_among(value, held),
        held_sigma=_among(sigma, held),
        held_p=p,
        gain=gain,
        bend=_bend(found, pieces, step, len(off)),
        chunks=tuple(
            replace(test, chi_square=chi_square, freedom=freedom)
            for test, (chi_square, freedom) in zip(
                chunk_tests(joint, step, pieces, known),
                (
                    chi_square_alone(one, one.linear.rate + _more(one, step), covariance, ~held)
                    for one in pieces
                ),
                strict=True,
            )
        ),
        spread=spread_test(joint, step, pieces, known),
    )
    marginal = covariance[:size, :size]
    precision = np.asarray(np.linalg.inv(marginal), dtype=np.float64)
    kept = replace(
        found,
        told=told_by_groups(pieces, found.expected, joint, ~held),
        precision=0.5 * (precision + precision.T),
        covariance=marginal[layout.parameters, layout.parameters],
        aside=aside,
        believing=found,
    )
    if aside.far:
        return kept
    expected, totals = found.expected.copy(), found.totals.copy()
    for k, one in enumerate(pieces):
        more = _more(one, step)
        expected[one.use] += more + aside.chunks[k].scale * (one.linear.rate + more)
        totals[k] += float(more.sum())
    return replace(kept, theta=found.theta + step[:size], expected=expected, totals=totals)


def _moved(one: Piece, step: FloatArray) -> FloatArray:
    """Change of the expected counts by a step of theta and the ways, (cells,)."""
    return np.column_stack([one.linear.slope, one.ways]) @ step


def _more(one: Piece, step: FloatArray) -> FloatArray:
    """The same, no rate below the least, (cells,)."""
    return np.maximum(_moved(one, step), (LEAST_RATE - 1) * one.linear.rate)


def _bend(found: Posterior, pieces: Sequence[Piece], step: FloatArray, n_off: int) -> float:
    """Chi-square that the second order of a step might add; amplitudes and shapes are linear."""
    layout, walked = found.layout, np.zeros(len(step))
    walked[layout.walked] = step[layout.walked]
    walked[layout.size : layout.size + n_off] = step[layout.size : layout.size + n_off]
    total = 0.0
    for one in pieces:
        change = np.abs(_moved(one, walked))
        # Carried by slopes, a rate may fall below none; then all of the change may be wrong.
        second = 0.5 * change**2 / np.maximum(np.maximum(one.phonon, 0.0) + change, 1e-300)
        total += float(np.sum(second**2 / one.variance))
    return total


def _among(values: FloatArray, at: BoolArray) -> FloatArray:
    """Values where ``at`` is true, nan elsewhere."""
    spread = np.full(len(at), np.nan)
    spread[at] = values
    return spread
