from __future__ import annotations

import numpy as np
import pytest

from model_server.direct.graph import crystal_graph
from simulations.errors import InputError

SILICON = 5.431 / 2 * (np.ones((3, 3)) - np.eye(3))
PAIR = np.array([[0.0, 0.0, 0.0], [0.25, 0.25, 0.25]])


def test_silicon_has_its_three_shells_within_five_angstrom():
    graph = crystal_graph(SILICON, PAIR, np.array([14, 14]))
    length = np.linalg.norm(graph.vector_A, axis=1)
    a = 5.431
    for shell, count in ((np.sqrt(3) / 4, 4), (np.sqrt(0.5), 12), (np.sqrt(11) / 4, 12)):
        assert np.count_nonzero(np.isclose(length, a * shell)) == 2 * count
    assert len(length) == 2 * 28
    assert graph.volume_A3 == pytest.approx(a**3 / 8)
    assert np.all(np.diff(graph.receiver) >= 0)


def test_an_atom_of_a_small_cell_sees_its_own_images():
    graph = crystal_graph(3.0 * np.eye(3), np.zeros((1, 3)), np.array([84]))
    assert len(graph.sender) == 6 + 12  # 3 and 4.24 angstrom


def test_positions_outside_the_cell_are_those_inside():
    inside = crystal_graph(SILICON, PAIR, np.array([14, 14]))
    outside = crystal_graph(SILICON, PAIR + [3, -2, 1], np.array([14, 14]))
    order = [np.lexsort(g.vector_A.round(6).T) for g in (inside, outside)]
    np.testing.assert_allclose(inside.vector_A[order[0]], outside.vector_A[order[1]], atol=1e-9)


@pytest.mark.parametrize(
    ("lattice", "positions", "words"),
    [
        (0.9 * np.eye(3), np.zeros((1, 3)), "per atom; expected at least"),
        (np.zeros((3, 3)), np.zeros((1, 3)), "per atom; expected at least"),
        (np.diag([4.0, 4.0, 9.0]), np.array([[0, 0, 0], [0.01, 0, 0]]), "apart; expected"),
    ],
)
def test_what_is_no_solid_is_refused(lattice, positions, words):
    with pytest.raises(InputError, match=words):
        crystal_graph(lattice, positions, np.full(len(positions), 6))
