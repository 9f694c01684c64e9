from __future__ import annotations

import numpy as np
import pytest
import torch

from model_server.direct.bins import BINS, energy_edges_meV
from model_server.direct.network import joined
from model_server.direct.training import (
    Lesson,
    Recipe,
    site_and_sum_loss,
    site_loss,
    site_sum_and_map_loss,
    train_member,
)
from tests.model_server.direct.crystals import SMALL, graph, random_crystal

RECIPE = Recipe(epochs=4, atoms=24, seed=3)


def lessons(count: int = 9) -> list[Lesson]:
    """Light atoms vibrate high and heavy ones low: something to learn."""
    out = []
    energy = 0.5 * (energy_edges_meV()[1:] + energy_edges_meV()[:-1])
    for k in range(count):
        lattice, positions, numbers = random_crystal(k)
        centre = 150.0 / np.sqrt(numbers)
        shares = np.exp(-0.5 * ((energy - centre[:, None]) / 8.0) ** 2)
        shares /= shares.sum(axis=1, keepdims=True)
        out.append(
            Lesson(
                graph=graph(lattice, positions, numbers),
                target=torch.as_tensor(shares, dtype=torch.float32),
            )
        )
    return out


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_training_that_was_interrupted_ends_with_the_same_weights():
    given = lessons()
    whole = train_member(given, site_loss, SMALL, RECIPE)
    kept = []

    def stop(state, network):
        kept.append(state)
        return state.epoch == 2

    train_member(given, site_loss, SMALL, RECIPE, after=stop)
    resumed = train_member(given, site_loss, SMALL, RECIPE, begun=kept[-1])
    assert kept[-1].epoch == 2
    assert same(whole, resumed)
    assert not same(whole, train_member(given, site_loss, SMALL, RECIPE, begun=kept[0], start=None,
                                        after=stop))  # fmt: skip


def test_training_learns_that_light_atoms_vibrate_high():
    given = lessons(16)
    told = []
    recipe = Recipe(epochs=25, atoms=48, rate=1e-2, mean=0.9, seed=1)
    network = train_member(
        given, site_loss, SMALL, recipe, progress=lambda text, share: told.append((text, share))
    )
    energy = 0.5 * (energy_edges_meV()[1:] + energy_edges_meV()[:-1])
    batch = joined([one.graph for one in given])
    with torch.no_grad():
        mean = network(batch)[0].exp().numpy() @ energy
    true = np.concatenate([one.target.numpy() for one in given]) @ energy
    assert np.corrcoef(mean, true)[0, 1] > 0.8
    assert told[-1][1] == 1.0
    assert "epoch 25 of 25" in told[-1][0]
    assert "min left" in told[0][0]


@pytest.mark.parametrize("loss", [site_loss, site_and_sum_loss, site_sum_and_map_loss])
def test_the_loss_is_least_at_the_truth(loss):
    given = lessons(3)
    batch = joined([one.graph for one in given])
    target = torch.cat([one.target for one in given])
    own = torch.log(target.clamp_min(1e-9))
    least = float(loss(own, batch, target))
    shifted = torch.roll(target, 3, dims=1)
    blurred = 0.9 * target + 0.1 / BINS
    for other in (shifted, blurred):
        assert float(loss(torch.log(other.clamp_min(1e-9)), batch, target)) > least
