from __future__ import annotations

import numpy as np
import pytest

from simulations.crystal import (
    laue_rotations,
    place_structure,
    read_crystal,
    space_group_operations,
)


@pytest.mark.parametrize(("name", "count"), [("germanium", 48), ("aluminium", 48), ("MnO", 48)])
def test_the_laue_group_of_a_cubic_crystal_has_48_operations(name, count):
    integer, cartesian = laue_rotations(read_crystal(name))
    assert len(integer) == count
    np.testing.assert_array_equal(integer[0], np.eye(3))
    np.testing.assert_allclose(np.abs(np.linalg.det(cartesian)), 1)


def test_the_laue_group_adds_the_inversion_to_a_polar_crystal():
    # wurtzite ZnO: 6mm has 12 operations without inversion
    lattice = np.array([[3.25, 0, 0], [-1.625, 2.8146, 0], [0, 0, 5.2]])
    x = np.array(
        [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.38], [2 / 3, 1 / 3, 0.88]]
    )
    crystal = place_structure(lattice, x, ("Zn", "Zn", "O", "O")).crystal
    assert len(space_group_operations(crystal)) == 12
    integer, cartesian = laue_rotations(crystal)
    assert len(integer) == 24
    keys = {tuple(w.ravel()) for w in integer}
    assert all(tuple((a @ b).ravel()) in keys for a in integer for b in integer[:6])
    np.testing.assert_allclose(
        np.einsum("gab,gcb->gac", cartesian, cartesian), np.broadcast_to(np.eye(3), (24, 3, 3)),
        atol=1e-9,
    )  # fmt: skip


def test_operations_carry_atoms_as_they_say():
    crystal = read_crystal("germanium")
    group = space_group_operations(crystal)
    r = crystal.positions @ crystal.lattice
    for g in range(len(group)):
        moved = r @ group.cartesian[g].T + group.translations[g] @ crystal.lattice
        said = (crystal.positions[group.permutation[g]] + group.shifts[g]) @ crystal.lattice
        np.testing.assert_allclose(moved, said, atol=1e-9)
