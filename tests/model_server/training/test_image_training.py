"""Training of the networks of the literature: they learn, repeat themselves, and are bundles."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model_server.networks import Bundle, CoarseGrid, Domain
from model_server.networks.architectures import ARCHITECTURES
from model_server.networks.bundle import BundleError, BundleMismatchError
from model_server.training import TrainingSpectra, train_bundle
from model_server.training.image_training import CleanImages, fine_tuned, train_images
from model_server.training.recipes import RECIPES, ImageRecipe, recipe_of
from simulations.prior import BoxPrior

IMAGES = [name for name, one in ARCHITECTURES.items() if one.body is not None]
GRID = CoarseGrid(path_bins=12, first_energy=0, energy_bins=10, path_group=1, energy_group=1)
DOMAIN = Domain(
    parameter_names=("a", "b"),
    path_hkl=np.linspace([0, 0, 0], [1, 0, 0], 12),
    energy_edges_meV=np.linspace(0, 10, 11),
)
PRIOR = BoxPrior(names=("a", "b"), lower=np.array([2.0, 0.5]), upper=np.array([6.0, 2.0]))
QUICK = {
    "batch": 16,
    "latent": 6,
    "hidden": 32,
    "channels": (4, 8),
    "regressor_hidden": (32, 32),
    "learning_rate": 5e-3,
    "regressor_learning_rate": 5e-3,
}


def spectra(n=96, seed=0):
    """A line that moves by two parameters, on rows that see them differently."""
    rng = np.random.default_rng(seed)
    values = PRIOR.sample(n, rng).values
    rows, energy = np.arange(12) / 11, np.arange(10) + 0.5
    centre = values[:, :1] * (0.5 + rows) + values[:, 1:] * np.sin(3 * rows)
    rate = np.exp(-0.5 * ((energy - centre[..., None]) / 1.2) ** 2).astype(np.float32) + 0.01
    ones = np.ones_like(rate)
    return TrainingSpectra(parameters=values, rate=rate, exposure=ones, flat=ones, coverage=ones)


def quick(name, epochs=2):
    recipe = recipe_of(name)
    assert isinstance(recipe, ImageRecipe)
    return replace(recipe.shortened(epochs), **QUICK)


def bundle(name, seed=0, recipe=None):
    return train_bundle(
        spectra(),
        domain=DOMAIN,
        grid=GRID,
        prior=PRIOR,
        title=name,
        experiment={"instrument": "none"},
        seed=seed,
        recipe=recipe or quick(name),
    )


@pytest.mark.parametrize("name", IMAGES)
def test_every_network_learns_a_tiny_set_by_heart(name):
    some = spectra(16)
    images = some.rate - some.rate.mean(axis=(1, 2), keepdims=True)
    targets = (some.parameters - PRIOR.mean) / PRIOR.sigma
    recipe = replace(quick(name, 250), kl_weight=1e-8)
    if name == "resnet-18":
        recipe = replace(recipe, epochs=80, learning_rate=1e-3)
    network = train_images(
        CleanImages(images), np.ones((12, 10), dtype=bool), targets, recipe, seed=0
    )
    if network.regressor is None:
        found = network.body(torch.from_numpy(images))
    else:
        found = network.regressor(network.latents(torch.from_numpy(images)))
    left = ((found.numpy() - targets) ** 2).mean()
    assert left < 0.5 * targets.var()


@pytest.mark.parametrize("name", IMAGES)
def test_a_network_is_a_bundle_that_reads_the_same_after_loading(name, tmp_path):
    made = bundle(name)
    made.save(tmp_path / name)
    loaded = Bundle.load(tmp_path / name)
    assert loaded.card["architecture"] == loaded.network.architecture == name
    assert f"Architecture: `{name}`" in (tmp_path / name / "MODEL_CARD.md").read_text()
    shape = np.random.default_rng(1).uniform(1, 2, (12, 10))
    values, spread = loaded.estimate(shape)
    np.testing.assert_allclose(values, made.estimate(shape)[0], rtol=1e-6)
    assert np.all(spread > 0) == (name in {"fc-vae", "conv-vae"})
    assert loaded.latent_distance(shape) > 0
    shape[3, 2:5] = np.nan
    assert np.isfinite(loaded.estimate(shape)[0]).all()


@pytest.mark.parametrize("name", ["fc-vae", "conv-ae"])
def test_the_same_seed_gives_the_same_network_and_another_one_another(name):
    noisy = replace(quick(name, 1), noisy=True)
    first, again, other = (bundle(name, seed, noisy).network.tensors() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_batch_of_spectra_is_read_as_each_alone():
    network = bundle("conv-vae").network
    inputs = np.random.default_rng(0).uniform(0.5, 1, (5, GRID.inputs)).astype(np.float32)
    centre, spread = network.read(inputs)
    assert centre.shape == spread.shape == (5, 2)
    np.testing.assert_allclose(network.read(inputs[3])[0], centre[3], atol=1e-5)
    np.testing.assert_allclose(network.read(inputs[3])[1], spread[3], atol=1e-5)


def test_a_bundle_refuses_another_experiment_and_another_grid(tmp_path):
    made = bundle("fc-ae")
    moved = replace(DOMAIN, energy_edges_meV=2 * DOMAIN.energy_edges_meV)
    with pytest.raises(BundleMismatchError, match="energy axis differ"):
        made.check(moved)
    card = {**made.card, "grid": {**made.card["grid"], "path_bins": 6}}
    replace(made, card=card).save(tmp_path)
    with pytest.raises(BundleError, match=r"mask has shape \(12, 10\); expected the grid's"):
        Bundle.load(tmp_path)


def test_fine_tuning_moves_the_autoencoder_towards_what_was_measured():
    some = spectra(64)
    images = some.rate - some.rate.mean(axis=(1, 2), keepdims=True)
    targets = (some.parameters - PRIOR.mean) / PRIOR.sigma
    recipe = replace(quick("fc-ae", 20), fine_tuning_epochs=150)
    mask = np.ones((12, 10), dtype=bool)
    network = train_images(CleanImages(images), mask, targets, recipe, seed=0)
    measured = np.random.default_rng(1).uniform(-0.3, 0.3, (3, 12, 10)).astype(np.float32)
    before = {key: value.clone() for key, value in network.tensors().items()}
    tuned = fine_tuned(network, measured, CleanImages(images), targets, recipe, seed=1)

    def misfit(one):
        seen = torch.from_numpy(measured)
        return float(((one.body.decode(one.body.encode(seen)[0]) - seen) ** 2).mean())

    assert misfit(tuned) < 0.7 * misfit(network)
    assert all(torch.equal(before[key], value) for key, value in network.tensors().items())
    direct = train_images(CleanImages(images), mask, targets, quick("resnet-18", 1), seed=0)
    with pytest.raises(ValueError, match="no autoencoder to tune"):
        fine_tuned(direct, measured, CleanImages(images), targets, recipe, seed=1)


def test_recipes_say_what_was_published():
    recipe = RECIPES["su-li-2024-fc-vae"]
    assert (recipe.optimiser, recipe.learning_rate, recipe.momentum) == ("sgd", 0.1, 0.9)
    assert (recipe.epochs, recipe.regressor_epochs, recipe.kl_weight) == (2000, 2000, 1e-6)
    assert RECIPES["sable-2026-vae"].latent == 20
    assert recipe.shortened(7).epochs == 7
    assert {r.architecture for r in RECIPES.values()} == set(ARCHITECTURES)
    with pytest.raises(ValueError, match="'oracle'; expected one of"):
        recipe_of("oracle")


def test_a_published_recipe_runs_as_it_is():
    """Plain descent with momentum, on clean spectra; two passes of it."""
    recipe = replace(RECIPES["su-li-2024-conv-vae"], epochs=2, regressor_epochs=2, batch=16)
    made = bundle("conv-vae", recipe=recipe)
    assert made.card["training"]["noise"].startswith("none")
    assert made.card["training"]["optimiser"] == "sgd"


def test_too_few_spectra_are_refused():
    with pytest.raises(ValueError, match="at least a batch of 16"):
        train_images(
            CleanImages(np.zeros((4, 12, 10), dtype=np.float32)),
            np.ones((12, 10), dtype=bool),
            np.zeros((4, 2)),
            quick("fc-ae"),
            seed=0,
        )
    with pytest.raises(ValueError, match="does not see images"):
        train_images(
            CleanImages(np.zeros((20, 12, 10), dtype=np.float32)),
            np.ones((12, 10), dtype=bool),
            np.zeros((20, 2)),
            replace(quick("fc-ae"), architecture="variational-encoder"),
            seed=0,
        )
