"""Training on simple path spectra: it learns, it repeats itself, it refuses nonsense."""

from dataclasses import replace

import numpy as np
import pytest

from model_server.networks import CoarseGrid, Domain
from model_server.training import Recipe, TrainingSpectra, joined_spectra, train_bundle
from model_server.training.training import noisy_inputs
from simulations.dynamics import force_constant_model, modes, read_force_constants
from simulations.prior import BoxPrior

NAMES = ("1NN xx", "1NN xy")
GRID = CoarseGrid(path_bins=16, first_energy=2, energy_bins=20, path_group=2, energy_group=2)
EDGES = np.linspace(0.0, 48.0, 25)
QUICK = Recipe(
    latent=6, hidden=48, regressor_hidden=32, epochs=60, batch=32, learning_rate=4e-3,
    counts=(20_000.0, 20_000.0), background=(0.5, 0.5),
)  # fmt: skip


@pytest.fixture(scope="module")
def problem():
    """Germanium along Gamma-X-K: modes of equal weight, broadened, random path bins missing."""
    reference = read_force_constants("germanium")
    model = force_constant_model(reference.crystal, reference, 7.0, NAMES)
    centre = model.values
    prior = BoxPrior(names=NAMES, lower=1.25 * centre, upper=0.8 * centre)
    hkl = np.linspace([0, 0, 0.06], [0.75, 0.75, 1], 16)
    q = hkl @ reference.crystal.conventional_reciprocal
    rng = np.random.default_rng(5)
    values = prior.sample(500, rng, model, q).values
    energies, _ = modes(model, q, values)
    middle = 0.5 * (EDGES[1:] + EDGES[:-1])
    shape = np.exp(-0.5 * ((middle[:, None] - energies[:, :, None, :]) / 1.5) ** 2).sum(axis=-1)
    exposure = np.ones_like(shape) * (rng.uniform(size=(500, 16, 1)) > 0.25)
    spectra = TrainingSpectra(
        parameters=values,
        rate=GRID.sums(shape * exposure).astype(np.float32),
        exposure=GRID.sums(exposure).astype(np.float32),
        flat=GRID.sums(exposure * (1 + np.arange(exposure.shape[2]))).astype(np.float32),
        coverage=(GRID.sums(exposure) / 4).astype(np.float32),
    )
    domain = Domain(parameter_names=NAMES, path_hkl=hkl, energy_edges_meV=EDGES)
    return spectra, prior, domain, shape, exposure


def trained(problem, seed=0, recipe=QUICK):
    spectra, prior, domain, _, _ = problem
    return train_bundle(
        spectra,
        domain=domain,
        grid=GRID,
        prior=prior,
        title="test",
        experiment={"instrument": "none"},
        seed=seed,
        recipe=recipe,
    )


def test_the_network_reads_dominant_parameters_from_noisy_partial_spectra(problem):
    bundle = trained(problem)
    level = next(a for a in bundle.card["accuracy"] if a["label"] == "10,000 counts")
    assert min(level["r2"]) > 0.6
    assert max(level["r2"]) > 0.85
    # one spectrum, as a run would ask for it
    spectra, prior, _, shape, exposure = problem
    intensity = np.where(exposure[-1] > 0, shape[-1], np.nan)
    values, spread = bundle.estimate(intensity)
    assert np.all(np.abs(values - spectra.parameters[-1]) < 2 * prior.sigma)
    assert np.all(spread > 0)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(problem):
    short = Recipe(latent=4, hidden=16, regressor_hidden=16, epochs=2, batch=64)
    first, again, other = (trained(problem, seed, short) for seed in (1, 1, 2))
    for a, b in zip(
        first.network.encoder.parameters(), again.network.encoder.parameters(), strict=True
    ):
        assert np.array_equal(a.numpy(), b.numpy())
    assert not np.array_equal(
        next(first.network.encoder.parameters()).numpy(),
        next(other.network.encoder.parameters()).numpy(),
    )


def test_a_training_of_ten_steps_is_one(problem):
    spectra, *rest = problem
    few = (spectra[:360], *rest)  # 324 to learn from
    recipe = replace(QUICK, epochs=1)
    assert trained(few, recipe=recipe).card["training"]["spectra"] // recipe.batch == 10


def test_noise_is_drawn_around_the_clean_spectrum(problem):
    spectra = problem[0][:50]
    recipe = Recipe(counts=(1e7, 1e7), background=(0.0, 0.0))
    noisy, clean = noisy_inputs(spectra, recipe, np.random.default_rng(0))
    half = clean.shape[1]
    assert noisy.shape == (50, 2 * half)
    np.testing.assert_allclose(noisy[:, :half], clean, atol=0.05)
    few, _ = noisy_inputs(spectra, Recipe(counts=(50.0, 50.0)), np.random.default_rng(0))
    assert np.abs(few[:, :half] - clean).max() > 0.5


def test_joined_simulations_are_interleaved(problem):
    a, b = problem[0][:4], problem[0][4:9]
    both = joined_spectra([a, b])
    assert len(both) == 8
    np.testing.assert_array_equal(both.parameters[0::2], a.parameters)
    np.testing.assert_array_equal(both.rate[1::2], b.rate[:4])


def test_too_few_spectra_and_other_names_are_refused(problem):
    spectra, prior, domain, _, _ = problem
    with pytest.raises(ValueError, match="too few to train on"):
        train_bundle(
            spectra[:20], domain=domain, grid=GRID, prior=prior, title="x", experiment={}, seed=0
        )
    with pytest.raises(ValueError, match="same names in the same order"):
        train_bundle(
            spectra,
            domain=domain,
            grid=GRID,
            prior=prior.restricted(NAMES[::-1]),
            title="x",
            experiment={},
            seed=0,
        )
