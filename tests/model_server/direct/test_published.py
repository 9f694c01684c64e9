from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from model_server.direct.graph import Graph, crystal_graph
from model_server.direct.published import (
    BINS,
    EDGES_MEV,
    PublishedLesson,
    PublishedNetwork,
    PublishedRecipe,
    mean_neighbours,
    train_published,
)
from tests.model_server.direct.crystals import random_crystal

SMALL = PublishedRecipe(embedding=8, multiplicity=4, radial=8)


def graph(lattice: np.ndarray, positions: np.ndarray, numbers: np.ndarray) -> Graph:
    return crystal_graph(lattice, positions, numbers, SMALL.reach_A)


def lessons(count: int = 6) -> list[PublishedLesson]:
    """One line each, the higher the lighter the atoms."""
    out = []
    for k in range(count):
        one = graph(*random_crystal(k))
        at = 100.0 / np.sqrt(one.numbers.mean())
        target = np.exp(-0.5 * ((EDGES_MEV[1:] - at) / 10.0) ** 2)
        out.append(PublishedLesson(graph=one, target=torch.as_tensor(target, dtype=torch.float32)))
    return out


def test_bins_are_those_of_the_publication():
    assert len(EDGES_MEV) == BINS + 1 == 121
    assert EDGES_MEV[-1] == pytest.approx(1200 * 0.12398, rel=1e-4)


def test_a_turned_crystal_has_the_same_spectrum():
    network = PublishedNetwork(SMALL, 20.0).eval()
    lattice, positions, numbers = random_crystal(3)
    turn = Rotation.random(rng=3).as_matrix()
    with torch.no_grad():
        plain = network(graph(lattice, positions, numbers)).numpy()
        turned = network(graph(lattice @ turn.T, positions + [0.2, -0.7, 1.1], numbers)).numpy()
    np.testing.assert_allclose(turned, plain, atol=1e-5)
    assert plain.max() == pytest.approx(1.0)
    assert plain.min() >= 0.0


def test_it_learns_and_goes_on_where_it_was_interrupted():
    given, states, told = lessons(), [], []
    neighbours = mean_neighbours([one.graph for one in given])
    assert neighbours > 5

    def trained(**how):
        torch.manual_seed(0)
        network = PublishedNetwork(SMALL, neighbours)
        train_published(network, given, epochs=8, **how)
        return network

    whole = trained(progress=lambda words, share: told.append(words))
    trained(after=states.append)
    assert [state.epoch for state in states] == list(range(1, 9))
    for a, b in zip(whole.parameters(), trained(begun=states[0]).parameters(), strict=True):
        assert torch.equal(a, b)
    errors = [float(words.split("error ")[1].split(",")[0]) for words in told]
    assert errors[-1] < 0.7 * errors[0]
