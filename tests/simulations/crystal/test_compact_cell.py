from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulations.crystal import compact_cell, reduced_vectors
from tests.simulations.phonon_oracles import germanium


def skewed(crystal, steps):
    whole = np.array(steps)
    return replace(
        crystal,
        lattice=whole @ crystal.lattice,
        positions=crystal.positions @ np.linalg.inv(whole) + 3.0,
    )


def test_a_skewed_cell_becomes_short_again_with_every_atom_where_it_was():
    crystal = germanium().crystal
    long = skewed(crystal, [[1, 0, 0], [7, 1, 0], [0, -5, 1]])
    short = compact_cell(long)
    assert (
        np.linalg.norm(short.lattice, axis=1).max()
        < 1.01 * np.linalg.norm(crystal.lattice, axis=1).max()
    )
    moved = short.positions @ short.lattice - crystal.positions @ crystal.lattice
    steps = moved @ np.linalg.inv(crystal.lattice)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)
    assert short.symbols == crystal.symbols


def test_a_cell_of_short_vectors_stays_as_it_is():
    crystal = germanium().crystal
    assert compact_cell(crystal) is crystal


def test_steps_are_whole_numbers_of_the_given_vectors():
    lattice = np.array([[4.0, 0.0, 0.0], [13.0, 3.0, 0.0], [1.0, -8.0, 5.0]])
    vectors, steps = reduced_vectors(lattice)
    np.testing.assert_allclose(steps @ lattice, vectors)
    assert round(abs(np.linalg.det(steps))) == 1
    assert np.sum(vectors**2) < np.sum(lattice**2)
