"""Training of an experiment's bundle: stable force constants, coverages, networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from model_server.autoencoders import CoarseGrid
from model_server.bundle import Domain
from model_server.training import Recipe, simulate_spectra, train_bundle
from steering.experiment_file import Experiment
from steering.measurement import Measurement, build_measurement

Progress = Callable[[str, float], None]

ORIENTATIONS = 24  # over the limits of the motion
STABILITY_POINTS = 6  # along each edge of the mesh that stability is looked at on
LARGEST_CELLS = 2400  # coarse cells that the encoder sees, at most
PER_SET = 4  # coverages under which each set is simulated


def train(
    experiment: Experiment,
    *,
    experiment_dir: Path,
    output: Path,
    spectra: int = 4000,
    epochs: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train encoder and regressor for an experiment and write the bundle.

    Parameters
    ----------
    experiment : Experiment
    experiment_dir : Path
        Folder that relative paths in the experiment start from.
    output : Path
        Folder of the bundle; its name becomes the bundle's.
    spectra : int
        Simulated spectra, at least 100.
    epochs : int, optional
        Passes over them; absent: the recipe's.
    seed : int
        The same seed gives the same bundle on the same machine and number of threads.
    progress : callable, optional
        Called with (message, fraction).

    Returns
    -------
    dict
        Model card: experiment, training, accuracy on the spectra kept for the test.

    Raises
    ------
    ValueError
        If there are too few spectra.
    """
    if spectra < 100:
        raise ValueError(f"spectra is {spectra}; expected 100 or more")
    say = progress or (lambda message, fraction: None)
    say("reading the experiment", 0.0)
    measurement = build_measurement(experiment, experiment_dir)
    rng = np.random.default_rng(seed)
    grid = coarse_grid(measurement)
    low, high = experiment.motion.limits_deg
    exposures = []
    for i, psi in enumerate(np.linspace(low, high, ORIENTATIONS)):
        exposures.append(measurement.exposure(float(psi)))
        say("exposures", 0.1 * (i + 1) / ORIENTATIONS)
    sets = -(-spectra // PER_SET)
    drawn = measurement.box.sample(sets, rng, measurement.model, _stability_mesh(measurement))
    simulated = simulate_spectra(
        measurement.forward,
        exposures,
        drawn.values,
        grid,
        rng,
        per_set=PER_SET,
        progress=lambda message, share: say(message, 0.1 + 0.5 * share),
    )
    recipe = Recipe() if epochs is None else replace(Recipe(), epochs=epochs)
    bundle = train_bundle(
        simulated,
        domain=Domain(
            parameter_names=measurement.model.names,
            path_hkl=measurement.path.centres_hkl(),
            energy_edges_meV=measurement.energy.edges_meV,
        ),
        grid=grid,
        prior=measurement.box,
        title=experiment.title,
        experiment={
            "instrument": experiment.instrument.name,
            "ei_meV": experiment.instrument.ei_meV,
            "temperature_K": experiment.sample.temperature_K,
        },
        seed=seed,
        recipe=recipe,
        progress=lambda message, share: say(message, 0.6 + 0.4 * share),
    )
    bundle.save(output)
    return dict(bundle.card)


def coarse_grid(measurement: Measurement) -> CoarseGrid:
    """What the encoder sees: from above the elastic line to Ei, joined until it is small enough."""
    edges, path_bins = measurement.energy.edges_meV, measurement.path.n_bins
    first = int(np.searchsorted(edges, measurement.elastic_cut_meV))
    last = int(np.searchsorted(edges, measurement.ei_meV, side="right")) - 1
    usable = min(last, measurement.energy.n_bins) - first
    if usable < 1:
        raise ValueError(
            f"path.energy reaches from {edges[0]:g} to {edges[-1]:g} meV; expected bins between "
            f"the elastic line ({measurement.elastic_cut_meV:.1f} meV) and Ei"
        )
    for path_group, energy_group in ((1, 1), (2, 1), (2, 2), (4, 2), (5, 2), (4, 4), (5, 4)):
        energies = usable - usable % energy_group
        cells = (path_bins // path_group) * (energies // energy_group)
        if path_bins % path_group == 0 and energies and cells <= LARGEST_CELLS:
            break
    else:
        path_group, energy_group = 1, 4
        energies = max(usable - usable % 4, 4)
    return CoarseGrid(
        path_bins=path_bins,
        first_energy=first,
        energy_bins=energies,
        path_group=path_group,
        energy_group=energy_group,
    )


def _stability_mesh(measurement: Measurement) -> np.ndarray:
    axis = (np.arange(STABILITY_POINTS) + 0.25) / STABILITY_POINTS
    fraction = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    near = 0.05 * (fraction - 0.5)
    return np.concatenate([fraction, near]) @ measurement.crystal.reciprocal
