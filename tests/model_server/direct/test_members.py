from __future__ import annotations

import numpy as np
import pytest

from model_server.direct.members import ask_members, graph_of
from simulations.errors import InputError
from tests.model_server.direct.crystals import SMALL, random_crystal, small_network


def test_the_answer_is_the_mean_of_the_members_and_they_differ():
    networks = tuple(small_network(k) for k in range(3))
    graph = graph_of(*random_crystal(0), SMALL)
    every = [ask_members([one], graph) for one in networks]
    said = ask_members(networks, graph)
    np.testing.assert_allclose(said.shares, np.mean([one.shares for one in every], axis=0))
    np.testing.assert_allclose(said.total, said.shares.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(said.latent, every[0].latent)
    assert said.disagreement > 0
    assert every[0].disagreement == 0


@pytest.mark.parametrize("numbers", [[0] * 8, [101] + [8] * 7, []])
def test_an_element_without_a_place_is_refused(numbers):
    lattice, positions, _ = random_crystal(0)
    with pytest.raises(InputError, match="expected 1 to 100"):
        graph_of(lattice, positions[: len(numbers)], np.array(numbers, dtype=int), SMALL)
