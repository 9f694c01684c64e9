"""How stiff bonds are, read from structures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model_server.direct import (
    SPRING_REACH_A,
    Bonds,
    SpringBundle,
    SpringLesson,
    SpringRecipe,
    SpringShape,
    energy_edges_meV,
    explained,
    site_stiffness,
    train_springs,
)
from model_server.direct.springs import bond_features
from simulations.dynamics import phonon_dos, rebinned
from steering.predict import vibrations_of
from tests.model_server.direct.crystals import random_crystal

SMALL = SpringShape(site=8, hidden=16, dropout=0.0)


def bonds_of(seed: int) -> Bonds:
    lattice, positions, numbers = random_crystal(seed)
    cells = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    apart = positions[None, :, None] - positions[:, None, None] + cells
    length = np.linalg.norm(apart @ lattice, axis=-1)
    first, second, cell = np.nonzero((length > 1e-6) & (length < SPRING_REACH_A))
    return Bonds(numbers=numbers, first=first, second=second, length_A=length[first, second, cell])


def lesson(seed: int) -> SpringLesson:
    """Springs that fall with the length, the same along and, weaker, across."""
    bonds = bonds_of(seed)
    along = -0.3 * np.exp(-((bonds.length_A - 1.0) ** 2) / 4)
    return SpringLesson(
        bonds=bonds,
        stiffness=np.full(len(bonds.numbers), 5.0),
        target=np.stack([along, 0.2 * along], axis=1),
    )


def test_a_bond_and_its_reverse_are_told_the_same():
    bonds = bonds_of(1)
    turned = replace(bonds, first=bonds.second, second=bonds.first)
    np.testing.assert_allclose(bond_features(turned), bond_features(bonds), atol=1e-12)
    stiffness = np.linspace(3.0, 9.0, len(bonds.numbers))
    bundle = SpringBundle(network=trained(), card={})
    np.testing.assert_allclose(
        bundle.ask(turned, stiffness), bundle.ask(bonds, stiffness), rtol=1e-5
    )


def test_closer_neighbours_are_counted_from_both_ends():
    # an atom with neighbours at 2, 2 and 3 angstrom, of which one has another at 1
    bonds = Bonds(
        numbers=np.array([6, 6, 6, 6, 6]),
        first=np.array([0, 0, 0, 1, 2, 3, 1, 4]),
        second=np.array([1, 2, 3, 0, 0, 0, 4, 1]),
        length_A=np.array([2.0, 2.0, 3.0, 2.0, 2.0, 3.0, 1.0, 1.0]),
    )
    sums = np.expm1(bond_features(bonds)[:, -5])  # products of logarithms stand there
    assert bond_features(bonds)[2, -6] == pytest.approx(np.log1p(2) + np.log1p(0))
    assert bond_features(bonds)[0, -6] == pytest.approx(np.log1p(0) + np.log1p(1))
    assert sums[0] == pytest.approx(0.0)


def test_sites_are_as_stiff_as_the_second_moment_of_their_density_says():
    found = vibrations_of("germanium", "given")
    model = found.model
    assert model is not None
    dos = rebinned(phonon_dos(model), energy_edges_meV())
    shares = dos.partial * np.diff(energy_edges_meV()) / 3
    expected = np.trace(model.reference.onsite(), axis1=1, axis2=2) / 3
    said = site_stiffness(shares, np.array([32, 32]))
    np.testing.assert_allclose(said, expected, rtol=0.005)  # bins are 1.2 meV wide


def trained():
    recipe = SpringRecipe(epochs=120, crystals=2, rate=1e-2)
    return train_springs([lesson(k) for k in range(8)], SMALL, recipe)


def test_it_learns_and_the_same_lessons_give_the_same_network():
    network, again = trained(), trained()
    for a, b in zip(network.parameters(), again.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
    along, across = explained(network, [lesson(7)])  # one that it has not seen
    assert along > 0.8
    assert across > 0.8
