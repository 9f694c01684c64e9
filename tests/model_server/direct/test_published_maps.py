"""The published two-dimensional recipe."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model_server.direct.graph import crystal_graph
from model_server.direct.published import PublishedLesson, PublishedRecipe, train_published
from model_server.direct.published_maps import (
    FULL_SIZE,
    LATENT_RECIPE,
    LatentNetwork,
    MapAutoencoder,
    MapRecipe,
    brightened,
    darkened,
    decoded_units,
    train_autoencoder,
)
from tests.model_server.direct.crystals import random_crystal

SMALL = MapRecipe(bins=12, layers=(40, 20), latent=3, rate=3e-3, batch=8)


def maps(count: int = 64) -> torch.Tensor:
    """A line each, whose place and slope vary."""
    rng = np.random.default_rng(0)
    q, energy = np.meshgrid(np.linspace(0, 1, 12), np.linspace(0, 1, 12), indexing="ij")
    found = [
        np.exp(-0.5 * ((energy - at - slope * q) / 0.15) ** 2)
        for at, slope in rng.uniform([0.2, -0.3], [0.8, 0.3], size=(count, 2))
    ]
    return torch.as_tensor(np.array(found), dtype=torch.float32)


def test_sizes_are_those_of_the_publication():
    with torch.device("meta"):  # 452 million weights take no memory there
        whole = MapAutoencoder(FULL_SIZE)
    inner = [one.in_features for one in whole.encoder if isinstance(one, torch.nn.Linear)]
    outer = [one.in_features for one in whole.decoder if isinstance(one, torch.nn.Linear)]
    assert inner == [90_000, 2500, 500]
    assert outer == [50, 500, 2500]
    weights = sum(p.numel() for p in whole.parameters())
    assert weights == pytest.approx(452e6, rel=0.01)
    assert LATENT_RECIPE.reach_A == 6.0


def test_brightening_lifts_faint_parts_and_is_undone():
    x = np.linspace(0, 1, 11)
    assert brightened(np.array(0.1)) == pytest.approx(0.271)
    assert np.all(brightened(x) >= x)
    np.testing.assert_allclose(darkened(brightened(x)), x, atol=1e-12)
    np.testing.assert_array_equal(darkened(np.array([-0.2, 1.3])), [0.0, 1.0])


def test_an_autoencoder_learns_and_goes_on_where_it_was_interrupted():
    given, states, told = maps(), [], []

    def trained(**how):
        torch.manual_seed(0)
        found = MapAutoencoder(SMALL)
        train_autoencoder(found, given, epochs=40, **how)
        return found

    whole = trained(progress=lambda words, share: told.append(words))
    trained(after=states.append)
    for a, b in zip(whole.parameters(), trained(begun=states[10]).parameters(), strict=True):
        assert torch.equal(a, b)
    errors = [float(words.split("error ")[1].split(",")[0]) for words in told]
    assert errors[-1] < 0.2 * errors[0]
    with torch.no_grad():
        latents = whole.encode(given)
        assert latents.shape == (64, 3)
        spread = float(((given.mean(dim=0) - given) ** 2).mean())
        assert float(((whole(given) - given) ** 2).mean()) < 0.3 * spread
        units = decoded_units(whole, latents)
    assert units.shape == (3, 12, 12)
    # the sum over pixels is the change that raising and lowering one number makes
    moved = latents.mean(dim=0).repeat(2, 1)
    moved[0, 1] += 2.0 * latents[:, 1].std()
    moved[1, 1] -= 2.0 * latents[:, 1].std()
    with torch.no_grad():
        high, low = whole.decode(moved)
    torch.testing.assert_close(units[1], high - low)


def test_latent_numbers_are_learned_from_structures():
    recipe = PublishedRecipe(embedding=8, multiplicity=4, radial=8, reach_A=4.0)
    lessons = []
    for k in range(6):
        graph = crystal_graph(*random_crystal(k), recipe.reach_A)
        light = float(10.0 / graph.numbers.mean())
        lessons.append(PublishedLesson(graph=graph, target=torch.tensor([light, -light, 0.5])))
    torch.manual_seed(0)
    network = LatentNetwork(recipe, 30.0, 3)

    def error() -> float:
        with torch.no_grad():
            return sum(float(((network(one.graph) - one.target) ** 2).mean()) for one in lessons)

    before = error()
    train_published(network, lessons, epochs=10)
    assert error() < 0.5 * before
    assert network(lessons[0].graph).shape == (3,)
