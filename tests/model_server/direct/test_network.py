from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from model_server.direct import network as module
from model_server.direct.network import element_properties, joined, mean_over_crystals
from tests.model_server.direct.crystals import SMALL, graph, random_crystal, small_network


def read(network, *graphs):
    with torch.no_grad():
        return network(joined(list(graphs)))[0].exp().numpy()


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_turned_mirrored_or_shifted_crystal_has_the_same_densities(seed):
    network = small_network()
    lattice, positions, numbers = random_crystal(seed)
    turn = Rotation.random(random_state=seed).as_matrix()
    plain = read(network, graph(lattice, positions, numbers))
    for other in (
        graph(lattice @ turn.T, positions + [0.3, -1.2, 0.7], numbers),
        graph(-lattice @ turn.T, positions, numbers),
    ):
        np.testing.assert_allclose(read(network, other), plain, atol=2e-6)


def test_with_radii_and_all_properties_turned_crystals_have_the_same_densities():
    shape = replace(SMALL, properties=20, radii=True, dropout_inside=0.2)
    network = small_network(shape=shape)
    lattice, positions, numbers = random_crystal(5)
    turn = Rotation.random(random_state=5).as_matrix()
    plain = graph(lattice, positions, numbers, shape)
    assert plain.basis.shape[1] == 2 * SMALL.basis
    turned = graph(lattice @ turn.T, positions + [0.3, -1.2, 0.7], numbers, shape)
    np.testing.assert_allclose(read(network, turned), read(network, plain), atol=2e-6)


def test_with_radii_a_neighbour_that_crosses_the_reach_changes_nothing():
    shape = replace(SMALL, radii=True)
    network = small_network(shape=shape)
    box, numbers = 30.0 * np.eye(3), np.array([55, 53])
    near, beyond = (
        graph(box, np.array([[0, 0, 0], [shape.reach_A + off, 0, 0]]) / 30, numbers, shape)
        for off in (-1e-4, 1e-4)
    )
    assert (len(near.sender), len(beyond.sender)) == (2, 0)
    np.testing.assert_allclose(read(network, near), read(network, beyond), atol=1e-6)


def test_a_repeated_crystal_and_one_among_others_have_the_same_densities():
    network = small_network()
    lattice, positions, numbers = random_crystal(3)
    plain = graph(lattice, positions, numbers)
    doubled = graph(
        lattice * [[2], [1], [1]],
        np.concatenate([positions, positions + [1, 0, 0]]) / [2, 1, 1],
        np.tile(numbers, 2),
    )
    found = read(network, plain, doubled, graph(*random_crystal(4)))
    alone = read(network, plain)
    np.testing.assert_allclose(found[:8], alone, atol=2e-6)
    np.testing.assert_allclose(found[8:24], np.tile(alone, (2, 1)), atol=2e-6)


def test_every_atom_has_all_of_its_modes():
    np.testing.assert_allclose(
        read(small_network(), graph(*random_crystal(1))).sum(axis=1), 1, atol=1e-5
    )


def test_directions_matter_not_distances_alone():
    """Two crystals with the same distances around every atom, and other angles."""
    network = small_network()
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(2)  # at first what comes of angles is faint
    chain = np.array([[0, 0, 0], [2.0, 0, 0], [4.0, 0, 0]])
    bent = np.array([[0, 0, 0], [2.0, 0, 0], [2.0, 2.0, 0]])
    box = 30.0 * np.eye(3)
    straight, corner = (graph(box, (one + 10) / 30, np.array([8, 22, 8])) for one in (chain, bent))
    # the ends shall not see each other: their distance would tell the two apart
    for one in (straight, corner):
        assert len(one.sender) == 6
    keep = [
        [k for k in range(6) if {int(g.sender[k]), int(g.receiver[k])} != {0, 2}]
        for g in (straight, corner)
    ]
    cut = [
        replace(
            g, sender=g.sender[k], receiver=g.receiver[k], basis=g.basis[k],
            vector=g.vector[k], tensor=g.tensor[k],
        )
        for g, k in zip((straight, corner), keep, strict=True)
    ]  # fmt: skip
    a, b = (read(network, one) for one in cut)
    assert np.abs(a[1] - b[1]).max() > 1e-4 * a[1].max()


def test_edges_in_parts_give_what_all_at_once_give(monkeypatch):
    network = small_network()
    one = graph(*random_crystal(2))
    whole = read(network, one)
    monkeypatch.setattr(module, "_EDGES_AT_A_TIME", 17)
    np.testing.assert_allclose(read(network, one), whole, atol=1e-6)


def test_a_mean_over_crystals_is_that_of_their_atoms():
    graphs = [graph(*random_crystal(k)) for k in range(2)]
    batch = joined(graphs)
    values = torch.arange(16.0)[:, None]
    assert mean_over_crystals(values, batch)[:, 0].tolist() == [3.5, 11.5]


def test_what_is_known_of_elements_is_finite_and_tells_them_apart():
    table = element_properties()
    assert np.isfinite(table).all()
    assert len(np.unique(table[1:].round(6), axis=0)) == len(table) - 1
    mass = table[:, 0]
    assert mass[1] == pytest.approx(mass[1:].min())
