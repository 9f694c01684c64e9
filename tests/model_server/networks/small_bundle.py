"""A bundle of two parameters, trained in a second, and folds that it reads."""

from __future__ import annotations

from functools import cache

import numpy as np

from model_server.networks import Bundle, CoarseGrid, Domain, FoldedSpectrum
from model_server.training import ImageRecipe, Recipe, TrainingSpectra, train_bundle
from simulations.prior import BoxPrior

GRID = CoarseGrid(path_bins=8, first_energy=1, energy_bins=8, path_group=2, energy_group=2)
PATH = np.linspace([0, 0, 0], [1, 0, 0], 8)
EDGES = np.linspace(0, 10, 11)
PRIOR = BoxPrior(names=("a", "b"), lower=np.array([-1.0, 0.0]), upper=np.array([1.0, 2.0]))
SHORT = Recipe(latent=3, hidden=24, regressor_hidden=16, epochs=10, batch=32)


def rates(parameters: np.ndarray) -> np.ndarray:
    """A peak that moves with the first parameter and widens with the second."""
    x = np.arange(4)[None, None, :]
    row = np.arange(4)[None, :, None]
    a, b = parameters[:, 0, None, None], parameters[:, 1, None, None]
    return np.exp(-((x - 1.5 - a * (1 + row) / 4) ** 2) / (0.5 + b)) + 0.05


@cache
def trained(recipe: Recipe | ImageRecipe = SHORT, *, spectra: int = 300) -> Bundle:
    rng = np.random.default_rng(0)
    parameters = PRIOR.sample(spectra, rng).values
    rate = rates(parameters).astype(np.float32)
    return train_bundle(
        TrainingSpectra(
            parameters=parameters,
            rate=rate,
            exposure=np.ones_like(rate),
            flat=np.ones_like(rate),
            coverage=np.ones_like(rate),
        ),
        domain=Domain(parameter_names=("a", "b"), path_hkl=PATH, energy_edges_meV=EDGES),
        grid=GRID,
        prior=PRIOR,
        title="a bundle for tests",
        experiment={"instrument": "none"},
        seed=0,
        recipe=recipe,
    )


def sums(
    parameters=(0.2, 1.0), *, counts: float = 20_000.0, seed: int = 0, hole: bool = True
) -> dict:
    """Arrays of a fold of these parameters, with a row that is unknown."""
    rng = np.random.default_rng(seed)
    rate = np.zeros((8, 10))
    rate[:, 1:9] = np.kron(rates(np.array([parameters]))[0], np.ones((2, 2)))
    D = rng.uniform(1.0, 2.0, (8, 10))
    D[3] = 0.0 if hole else D[3]
    S = rng.poisson(counts * rate * D / (rate * D).sum()).astype(float)
    return {"S": S, "D": D, "N": S, "path_hkl_rlu": PATH, "energy_edges_meV": EDGES}


def fold(name="fold", *, intensity=None, **more) -> FoldedSpectrum:
    told = sums(
        **{key: more.pop(key) for key in ("parameters", "counts", "seed", "hole") if key in more}
    )
    return FoldedSpectrum.of_sums(
        name=name,
        signal=told["S"],
        exposure=told["D"],
        counts=told["N"],
        path_hkl=told["path_hkl_rlu"],
        energy_edges_meV=told["energy_edges_meV"],
        intensity=intensity,
        **more,
    )
