from __future__ import annotations

import numpy as np
import pytest

from simulations.crystal import read_crystal
from steering.predict.path_points import path_points

CRYSTAL = read_crystal("germanium")


def test_the_standard_path_labels_its_points_and_marks_where_it_jumps():
    path = path_points(CRYSTAL, points=200)
    assert path.tick_labels == ("Gamma", "X", "U|K", "Gamma", "L", "W", "X")
    assert len(path.position) == pytest.approx(200, abs=10)
    k = path.breaks[1]
    assert path.position[k] == path.position[k - 1]  # U and K share a place
    assert not np.allclose(path.hkl[k], path.hkl[k - 1])


def test_positions_are_distances_between_the_points():
    path = path_points(CRYSTAL, "Gamma X | K Gamma", points=50)
    reciprocal = CRYSTAL.conventional_reciprocal
    for piece in (slice(0, path.breaks[0]), slice(path.breaks[0], None)):
        cartesian = path.hkl[piece][1:-1] @ reciprocal  # ends at Gamma are moved off it
        steps = np.linalg.norm(np.diff(cartesian, axis=0), axis=1)
        np.testing.assert_allclose(steps, np.diff(path.position[piece])[1:-1], rtol=1e-9)
    np.testing.assert_allclose(path.tick_positions[1], np.linalg.norm(reciprocal[1]), rtol=1e-12)


def test_ends_at_gamma_lie_on_their_own_side_of_it():
    path = path_points(CRYSTAL, "X Gamma L", points=40)
    k = path.breaks[0]
    assert path.hkl[k - 1][1] > 0
    assert path.hkl[k - 1][0] == pytest.approx(0)
    assert path.hkl[k][0] == pytest.approx(path.hkl[k][1])


def test_points_of_ones_own_mix_with_those_of_the_standard_path():
    path = path_points(CRYSTAL, "A=1,1,0 γ X | gamma B=0.5,0,0")
    assert path.tick_labels == ("A", "Gamma", "X|Gamma", "B")
    assert path.corner_labels == ("A", "Gamma", "X", "B")
    np.testing.assert_allclose(path.corner_hkl[-1], [0.5, 0, 0])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Gamma Y", "no point is named 'Y'; expected one of Gamma, X, U, K, L, W"),
        ("Gamma", "at least two points in a row"),
        ("", "at least two points in a row"),
        ("Gamma | X", "at least two points in a row"),
        ("Gamma Gamma", "are the same point"),
        ("A=1,2 Gamma", "'A=1,2' is no point"),
        ("A=1,nan,0 Gamma", "is no point"),
    ],
)
def test_a_path_that_makes_no_sense_is_refused(text, says):
    with pytest.raises(ValueError, match="path") as told:
        path_points(CRYSTAL, text)
    assert says in str(told.value)


def test_a_number_of_points_out_of_range_is_refused():
    with pytest.raises(ValueError, match="points is 1"):
        path_points(CRYSTAL, points=1)
