"""Training the model bundle of an experiment: exposures, simulated spectra, networks, files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from model_server.networks import CoarseGrid, Domain
from model_server.posterior import NUISANCE_SIGMA
from model_server.training import (
    AnyRecipe,
    FlowRecipe,
    ImageRecipe,
    Recipe,
    TrainingSpectra,
    joined_spectra,
    key_of,
    recipe_of,
    simulate_spectra,
    train_bundle,
)
from simulations.crystal import species_words
from simulations.errors import InputError
from steering.experiment import Experiment, Measurement, build_measurement
from steering.run import RunResult
from steering.study.flow_spectra import flow_spectra
from steering.study.training_spectra_store import kept_spectra

ORIENTATIONS = 40
SPECTRA_PER_SET = 4
WIDER_TUBE = 2.0
MOST_PIXELS = 40_000  # exposures of training runs are computed from merged pixels


def encoder_grid(measurement: Measurement) -> CoarseGrid:
    """Cells that an encoder sees: without the elastic line and energies out of reach.

    Two path bins and two energy bins are joined where their numbers allow.
    """
    edges = measurement.energy.edges_meV
    first = int(np.searchsorted(edges, measurement.elastic_cut_meV))
    last = measurement.energy.reachable_bins(measurement.ei_meV)
    bins = (last - first) // 2 * 2
    if bins < 2:
        raise InputError(
            f"path.energy leaves {last - first} bins between the elastic line and what "
            f"{measurement.ei_meV:g} meV reaches; expected at least 2. Widen the energy axis."
        )
    return CoarseGrid(
        path_bins=measurement.path.n_bins,
        first_energy=first,
        energy_bins=bins,
        path_group=2 if measurement.path.n_bins % 2 == 0 else 1,
        energy_group=2,
    )


EPOCHS = 100


def chosen_recipe(
    architecture: str, *, epochs: int | None = None, as_published: bool = False
) -> AnyRecipe:
    """Recipe of an architecture: in few passes over spectra with noise, or as it was published.

    Parameters
    ----------
    architecture : str
        Name in the registry.
    epochs : int, optional
        Passes over the spectra; 100 by default, 40 for a flow, or those of the publication.
    as_published : bool
        Clean spectra, the publication's optimiser and its number of passes.

    Raises
    ------
    ValueError
        If the architecture is unknown, or is our own and published nowhere.
    """
    recipe = recipe_of(architecture)
    if not isinstance(recipe, ImageRecipe):
        if as_published:
            raise InputError(
                f"architecture is {architecture!r}, which is this project's own; expected one of "
                "the literature with --as-published"
            )
        usual = EPOCHS if isinstance(recipe, Recipe) else recipe.epochs
        return replace(recipe, epochs=usual if epochs is None else epochs)
    if as_published:
        return recipe if epochs is None else replace(recipe, epochs=epochs)
    return replace(recipe.shortened(EPOCHS if epochs is None else epochs), noisy=True)


def train(
    experiment: Experiment,
    *,
    experiment_dir: Path,
    output: Path,
    spectra: int = 10_000,
    epochs: int | None = None,
    seed: int = 0,
    architecture: str = "variational-encoder",
    as_published: bool = False,
    around: RunResult | None = None,
    work: Path | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Train a bundle for an experiment and write it.

    Half of the spectra come from tubes of the half-width asked for, half from twice that, because
    single orientations are folded into wider tubes than full scans.

    Parameters
    ----------
    experiment : Experiment
        What the bundle is for; its path, energy axis and parameter names are hashed into it.
    experiment_dir : Path
        Folder that relative paths in the experiment start from.
    output : Path
        Folder of the bundle.
    spectra : int
        Simulated spectra, test spectra included.
    epochs : int, optional
        Passes over them; see `chosen_recipe`.
    seed : int
        The same seed gives the same weights on the same machine and number of threads.
    architecture : str
        Name in the registry of networks.
    as_published : bool
        Train as its publication did; see `chosen_recipe`.
    around : RunResult, optional
        Answer of a run that left the domain: reference and box are moved to it, as wide as they
        are.
    work : Path, optional
        Folder for spectra and the state of the training: the same options go on with what is there,
        and end with the same bundle. None: a training that is killed begins anew.
    progress : callable, optional
        Called with a label and the share finished.

    Returns
    -------
    dict
        The card of the bundle.
    """
    recipe = chosen_recipe(architecture, epochs=epochs, as_published=as_published)
    if isinstance(recipe, FlowRecipe):
        return _train_flow(
            experiment, experiment_dir, output, spectra, seed, recipe, around, work, progress
        )
    measurement = _measurement(experiment, experiment_dir, around)
    grid = encoder_grid(measurement)
    section = experiment.path
    key = key_of(
        experiment=experiment.model_dump_json(), spectra=spectra, seed=seed,
        names=measurement.box.names, lower=measurement.box.lower, upper=measurement.box.upper,
        held=measurement.model.element_values,
    )  # fmt: skip
    made = kept_spectra(
        work,
        key,
        lambda: _simulated(experiment, experiment_dir, around, spectra, seed, progress),
    )
    bundle = train_bundle(
        made,
        domain=_domain_of(measurement, measurement.model.names),
        grid=grid,
        prior=measurement.box,
        title=f"Model bundle for {experiment.title}",
        experiment={
            **_facts_of(experiment),
            "half-widths of the tubes (r.l.u.)": [
                section.half_width_rlu,
                section.half_width_rlu * WIDER_TUBE,
            ],
            **_words_around(around),
        },
        seed=seed,
        recipe=recipe,
        work=work,
        progress=progress,
    )
    bundle.save(output)
    return dict(bundle.card)


def _domain_of(measurement: Measurement, names: tuple[str, ...]) -> Domain:
    return Domain(
        parameter_names=names,
        path_hkl=measurement.path.centres_hkl(),
        energy_edges_meV=measurement.energy.edges_meV,
        isotopes=species_words(measurement.crystal),
    )


def _facts_of(experiment: Experiment) -> dict[str, Any]:
    """What a card tells of the experiment, whatever the architecture."""
    low, high = experiment.motion.limits_deg
    return {
        "title": experiment.title,
        "structure": experiment.sample.structure,
        "instrument": experiment.instrument.name,
        "incident energy (meV)": experiment.instrument.ei_meV,
        "temperature (K)": experiment.sample.temperature_K,
        "psi (degrees)": f"{low:g} to {high:g}, single orientations to full scans",
    }


def _train_flow(
    experiment: Experiment,
    experiment_dir: Path,
    output: Path,
    spectra: int,
    seed: int,
    recipe: FlowRecipe,
    around: RunResult | None,
    work: Path | None,
    progress: Callable[[str, float], None] | None,
) -> dict[str, Any]:
    """A density over all constants, of runs whose set-up is off, and its calibration."""
    measurement, grid = flow_measurement(experiment, experiment_dir, around=around)
    made = flow_spectra(measurement, grid, spectra=spectra, seed=seed, work=work, progress=progress)
    told = experiment.missetting
    bundle = train_bundle(
        made,
        domain=_domain_of(measurement, measurement.targeted),
        grid=grid,
        prior=measurement.box,
        title=f"Posterior of all constants for {experiment.title}",
        experiment={
            **_facts_of(experiment),
            "half-width of the tubes (r.l.u.)": experiment.path.half_width_rlu,
            "set-up": f"off by {told.psi_offset_deg:g} degrees (psi), {told.tilt_deg:g} degrees "
            f"(tilts), {told.lattice_percent:g} % (lattice), {told.ei_percent:g} % (Ei), "
            f"{told.t0_us:g} us (time zero), {NUISANCE_SIGMA[-1]:.0%} (width of the resolution)",
            **_words_around(around),
        },
        seed=seed,
        recipe=replace(recipe, counts_per_minute=experiment.virtual.counts_per_minute),
        work=work,
        progress=progress,
    )
    bundle.save(output)
    return dict(bundle.card)


def flow_measurement(
    experiment: Experiment, experiment_dir: Path, *, around: RunResult | None = None
) -> tuple[Measurement, CoarseGrid]:
    """What a flow is trained on: all constants free, pixels merged; and the grid that it sees."""
    measurement = _measurement(experiment, experiment_dir, around, all_free=True)
    grid = encoder_grid(measurement)
    quick = experiment.model_copy(update={"instrument": merged_pixels(experiment, measurement)})
    return _measurement(quick, experiment_dir, around, all_free=True), grid


def _simulated(
    experiment: Experiment,
    experiment_dir: Path,
    around: RunResult | None,
    spectra: int,
    seed: int,
    progress: Callable[[str, float], None] | None,
) -> TrainingSpectra:
    """Spectra of tubes of both widths, from one orientation to all."""
    rng = np.random.default_rng(seed)
    section = experiment.path
    parts: list[TrainingSpectra] = []
    measurement = _measurement(experiment, experiment_dir, around)
    grid = encoder_grid(measurement)
    limits = experiment.motion.limits_deg
    angles = np.linspace(limits[0], limits[1], ORIENTATIONS)
    sets = max(2, spectra // (2 * SPECTRA_PER_SET))
    for k, factor in enumerate((1.0, WIDER_TUBE)):
        width = experiment.path.half_width_rlu * factor
        wider = experiment.model_copy(
            update={
                "path": section.model_copy(
                    update={"half_width_rlu": width, "voxel_rlu": section.voxel_rlu * factor}
                ),
                "instrument": merged_pixels(experiment, measurement),
            }
        )
        this = _measurement(wider, experiment_dir, around)
        exposures = []
        for n, psi in enumerate(angles):
            exposures.append(this.exposure(float(psi)))
            if progress is not None:
                progress("exposures", 0.5 * k + 0.1 * (n + 1) / len(angles))
        q = this.voxels.centre_cartesian[:: max(1, this.voxels.n_voxels // 150)]
        drawn = this.box.sample(sets, rng, this.model, q, tolerance_meV=this.forward.deepest_meV)
        parts.append(
            simulate_spectra(
                this.forward,
                exposures,
                drawn.values,
                grid,
                rng,
                per_set=SPECTRA_PER_SET,
                progress=None
                if progress is None
                else lambda label, share, k=k: progress(label, 0.5 * k + 0.1 + 0.4 * share),
            )
        )
    return joined_spectra(parts)


def _measurement(
    experiment: Experiment,
    experiment_dir: Path,
    around: RunResult | None,
    *,
    all_free: bool = False,
) -> Measurement:
    """What is trained on, about the prior's middle or the answer of a run."""
    measurement = build_measurement(experiment, experiment_dir)
    if around is not None:
        answer = {one.name: one.value for one in around.parameters}
        measurement = moved_to(measurement, answer)
    return measurement if all_free else measurement.targeted_alone()


def moved_to(measurement: Measurement, values: Mapping[str, float]) -> Measurement:
    """The same with reference and box moved to other force constants.

    Parameters
    ----------
    measurement : Measurement
    values : mapping
        By name, eV/angstrom^2; others stay as they are.

    Raises
    ------
    InputError
        If none of them is a force constant of this experiment.
    """
    model = measurement.model
    if not values.keys() & set(model.elements):
        raise InputError(
            f"force constants are {', '.join(values) or 'none'}; expected some of "
            f"{', '.join(model.elements)}. Name a result of the same crystal."
        )
    known = zip(model.elements, model.element_values, strict=True)
    moved = model.with_elements([values.get(name, value) for name, value in known])
    return replace(measurement, model=moved, box=measurement.box.around(values))


def _words_around(around: RunResult | None) -> dict[str, str]:
    if around is None:
        return {}
    state = around.trust or ("trusted" if around.trusted else "not trusted")
    minutes = f"{around.minutes_used:.3g} minutes"
    return {"trained around": f"the answer of run {around.run} after {minutes}, {state}"}


def merged_pixels(experiment: Experiment, measurement: Measurement) -> Any:
    """Instrument section with enough pixels merged to keep exposures quick."""
    section = experiment.instrument
    merge = 1
    while measurement.instrument.n_pixels / merge > MOST_PIXELS and merge < 4:
        merge *= 2
    return section.model_copy(update={"coarsen": section.coarsen * merge})
