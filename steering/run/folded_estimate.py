"""An estimate from ``folded.npz`` alone, by the rates of the folded model.

The file holds sums of all orientations and the exposure of their voxels, but no trajectories: rates
are those of the folded model, which a replay of the recorded files only begins with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model_server.posterior import (
    Observation,
    Posterior,
    Refinement,
    Sharpened,
    assess,
    usable_cells,
)
from simulations.arrays import BoolArray
from simulations.errors import InputError
from simulations.fold import CellSums, ExpectedPart
from simulations.progress import Progress, silent
from steering.experiment import Experiment, Measurement, build_measurement
from steering.run.answer import fitted_of, part_notes
from steering.run.estimator import DRAWS, KICKS
from steering.run.expected_parts import expected_parts
from steering.run.folded_file import read_folded

LEAST_DRAWS, MOST_DRAWS = 50, 10_000
NOTE = (
    "rates of the folded model: good to some percent of a cell. Replay the recorded files for "
    "rates along trajectories, for the set-up as a nuisance and for each orientation judged by "
    "itself"
)


def estimate_folded(
    path: Path,
    experiment: Experiment,
    *,
    experiment_dir: Path,
    draws: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit, and judge, the force constants of a fold.

    Parameters
    ----------
    path : Path
        ``folded.npz`` of ``beamsteer fold`` or ``replay``.
    experiment : Experiment
        That it was folded with.
    experiment_dir : Path
        Folder that relative paths in the experiment start from.
    draws : int
        Of the posterior without the assumption that it is Gaussian, with weights; 0: none.
    progress : callable, optional
        Called with (message, fraction).

    Returns
    -------
    dict
        ``parameters``, ``covariance``, ``derived``, ``trusted``, ``reasons`` and
        ``goodness_of_fit`` as in ``result.json``; ``chi_square`` per degree of freedom,
        ``nmse_paper`` and ``nmse_free`` of the intensity S/D in the cells that count; with
        ``draws`` these, see ``_sharpened``.

    Raises
    ------
    InputError
        If the file cannot be read, was folded with other axes, or holds a can.
    """
    if draws and not LEAST_DRAWS <= draws <= MOST_DRAWS:
        raise InputError(
            f"draws is {draws}; expected 0, or from {LEAST_DRAWS} to {MOST_DRAWS:,}. Give another."
        )
    say = progress or silent
    say("reading", 0.0)
    measurement = build_measurement(experiment, experiment_dir)
    sums, exposure = read_folded(path, measurement)
    use = usable_cells(sums, measurement.energy.centres_meV, measurement.elastic_cut_meV)
    if not use.any():
        raise InputError(f"{path}: no cell with exposure above the elastic line; nothing to fit")
    say("finding the way", 0.1)
    merged = exposure.merged(measurement.merged)
    rng = np.random.default_rng(20261)
    starts = measurement.coarse_forward.draw(measurement.prior, DRAWS, rng)
    parts = expected_parts(measurement)
    rates = tuple(part.rate(merged, measurement.merged) for part in parts)
    refinement = _refinement(measurement, parts, coarse=True)
    seen = Observation(sums=sums, exposure=lambda: merged, parts=rates)
    posterior = refinement.fit([seen], starts=list(starts), kicks=KICKS)
    if not measurement.costly:
        say("fitting", 0.5)
        rates = tuple(part.rate(exposure, measurement.voxels) for part in parts)
        refinement = _refinement(measurement, parts, coarse=False)
        seen = Observation(sums=sums, exposure=lambda: exposure, parts=rates)
        posterior = refinement.fit([seen], starts=[posterior.values])
    weighed = {}
    if draws:
        say("drawing", 0.7)
        weighed = {"draws": _sharpened(refinement, seen, posterior, draws)}
    trust = assess(sums=sums, posterior=posterior, prior=measurement.prior, use=use, look=1)
    return {
        **fitted_of(posterior, trust, measurement),
        "chi_square": trust.reduced_chi_square,
        **_misfit(sums, posterior, use),
        **weighed,
        "notes": [*measurement.notes, *measurement.beliefs, *part_notes(posterior), NOTE],
    }


def _refinement(
    measurement: Measurement, parts: Sequence[ExpectedPart], *, coarse: bool
) -> Refinement:
    return Refinement(
        model=measurement.coarse_forward if coarse else measurement.forward,
        prior=measurement.prior,
        energy_centres_meV=measurement.energy.centres_meV,
        elastic_cut_meV=measurement.elastic_cut_meV,
        part_sigma={part.name: part.relative_sigma for part in parts},
    )


def _sharpened(
    refinement: Refinement, seen: Observation, posterior: Posterior, n: int
) -> dict[str, Any]:
    """Draws of the posterior under the box as it is, with weights that sum to one.

    Returns
    -------
    dict
        ``parameters`` (K names), ``unit``, ``values`` (n, K), ``weights`` (n,), their ``mean`` and
        ``sigma`` (K,), ``effective`` (how many draws count), ``exact`` (whether these are enough)
        and ``told`` (in words).
    """
    found = Sharpened(refinement, seen, [posterior.values], kicks=0).draws(n)
    return {
        "parameters": list(refinement.layout.parameter_names),
        "unit": "eV/angstrom^2",
        "values": found.draws.tolist(),
        "weights": found.weight.tolist(),
        "mean": found.mean().tolist(),
        "sigma": found.sigma().tolist(),
        "effective": found.effective,
        "exact": found.exact,
        "told": found.words(),
    }


def _misfit(sums: CellSums, posterior: Posterior, use: BoolArray) -> dict[str, float]:
    """Figures of misfit of S/D against what is expected of it."""
    data = (sums.signal[use]) / sums.exposure[use]
    model = posterior.expected[use] / sums.exposure[use]
    measured = data - data.mean()
    power = max(float(measured @ measured), 1e-300)
    own = float(np.ptp(model))
    alike = (model - model.mean()) / (own if own > 0 else 1.0) * float(np.ptp(data))
    columns = np.stack([model, np.ones_like(model)], axis=1)
    solution, *_ = np.linalg.lstsq(columns, data, rcond=None)
    return {
        "nmse_paper": float(np.sum((alike - measured) ** 2)) / power,
        "nmse_free": float(np.sum((data - columns @ solution) ** 2)) / power,
    }
