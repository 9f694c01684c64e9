from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model_server.direct.members import ask_members
from simulations.errors import InputError
from tests.model_server.direct.crystals import SMALL, random_crystal, small_network


def test_the_answer_is_the_mean_of_the_members_and_they_differ():
    networks = tuple(small_network(k) for k in range(3))
    every = [ask_members([one], *random_crystal(0)) for one in networks]
    said = ask_members(networks, *random_crystal(0))
    np.testing.assert_allclose(said.shares, np.mean([one.shares for one in every], axis=0))
    np.testing.assert_allclose(said.total, said.shares.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(said.latent, every[0].latent)
    assert said.disagreement > 0
    assert every[0].disagreement == 0


def test_members_of_different_shapes_each_read_a_graph_of_their_own():
    near = replace(SMALL, reach_A=3.5, radii=True, properties=20)
    networks = (small_network(0), small_network(5, near), small_network(1))
    every = [ask_members([one], *random_crystal(0)) for one in networks]
    said = ask_members(networks, *random_crystal(0))
    np.testing.assert_allclose(said.shares, np.mean([one.shares for one in every], axis=0))
    np.testing.assert_allclose(said.totals, np.concatenate([one.totals for one in every]))


@pytest.mark.parametrize("numbers", [[0] * 8, [101] + [8] * 7, []])
def test_an_element_without_a_place_is_refused(numbers):
    lattice, positions, _ = random_crystal(0)
    with pytest.raises(InputError, match="expected 1 to 100"):
        ask_members(
            (small_network(0),), lattice, positions[: len(numbers)], np.array(numbers, dtype=int)
        )
