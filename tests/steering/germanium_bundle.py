"""A bundle for the small germanium experiment that has learned nothing, and its analysis."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from model_server.networks import Bundle, Domain
from model_server.training import Recipe, TrainingSpectra, train_bundle
from steering.experiment import Measurement, build_measurement, load_experiment
from steering.study import analyse_latent
from steering.study.model_training import encoder_grid

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = EXAMPLES / "ge-small.yaml"


@cache
def measurement() -> Measurement:
    return build_measurement(load_experiment(SMALL), EXAMPLES).targeted_alone()


@cache
def bundle() -> Bundle:
    this = measurement()
    grid, rng = encoder_grid(this), np.random.default_rng(0)
    rate = rng.uniform(0.5, 1.5, (100, *grid.shape)).astype(np.float32)
    return train_bundle(
        TrainingSpectra(
            parameters=this.box.sample(100, rng).values,
            rate=rate,
            exposure=np.ones_like(rate),
            flat=np.ones_like(rate),
            coverage=np.ones_like(rate),
        ),
        domain=Domain(
            parameter_names=this.model.names,
            path_hkl=this.path.centres_hkl(),
            energy_edges_meV=this.energy.edges_meV,
        ),
        grid=grid,
        prior=this.box,
        title="a bundle for tests",
        experiment={"instrument": "ARCS"},
        seed=0,
        recipe=Recipe(latent=4, hidden=12, regressor_hidden=8, epochs=8, batch=32),
    )


def write_fold(path: Path, **more: Any) -> Path:
    """A fold with the axes of the experiment and a flat spectrum."""
    this = measurement()
    shape = (this.path.n_bins, this.energy.n_bins)
    arrays = {
        "S": np.random.default_rng(0).poisson(20.0, shape).astype(float),
        "D": np.ones(shape),
        "path_hkl_rlu": this.path.centres_hkl(),
        "energy_edges_meV": this.energy.edges_meV,
    }
    arrays["N"] = arrays["S"]
    np.savez(path, **(arrays | more))
    return path


@cache
def analysed(folder: Path) -> dict[str, Any]:
    bundle().save(folder / "small")
    write_fold(folder / "folded.npz")
    return analyse_latent(
        "small",
        load_experiment(SMALL),
        experiment_dir=EXAMPLES,
        models=[folder],
        runs=[folder],
        sets=8,
        orientations=3,
    )
