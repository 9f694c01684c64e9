from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steering.database import build_store, matches, open_database
from tests.steering.database.stores import example_folder, small_phonondb


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    folder = tmp_path_factory.mktemp("database")
    build_store([example_folder(folder / "mine", ("MgO", "MoSi2", "Ti3Al"))], folder / "store")
    return open_database(folder / "store")


def cell_of(database, name):
    crystal = database.force_constants(name).crystal
    return crystal.lattice, crystal.positions, crystal.elements


def supercell(lattice, positions, elements, matrix):
    """The same crystal in a larger cell, by pymatgen, which the store does not ask for this."""
    from pymatgen.core import Structure

    whole = Structure(lattice, list(elements), positions)
    whole.make_supercell(matrix)
    return (
        np.array(whole.lattice.matrix),
        np.array(whole.frac_coords),
        tuple(str(s.specie) for s in whole),
    )


@pytest.mark.parametrize("name", ["MgO", "MoSi2", "Ti3Al"])
@pytest.mark.parametrize(
    "matrix",
    [np.eye(3, dtype=int), [[2, 0, 0], [0, 1, 0], [0, 0, 2]], [[1, 1, 0], [0, 1, 0], [0, -1, 1]]],
)
def test_a_structure_is_found_in_any_cell_turned_shifted_and_strained(database, name, matrix):
    lattice, positions, elements = supercell(*cell_of(database, name), matrix)
    turn = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
    strain = np.diag([1.01, 1.01, 0.985])
    found = matches(database, lattice @ strain @ turn, positions + [0.1, 0.2, 0.3], elements)
    assert [one.card.id for one in found] == [name]
    assert found[0].strain == pytest.approx(0.015, abs=2e-4)
    assert found[0].volume == pytest.approx(1.01**2 * 0.985 - 1, abs=1e-4)
    assert found[0].rms_A < 1e-3


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_deviations_of_atoms_are_told(database, seed):
    lattice, positions, elements = supercell(
        *cell_of(database, "MgO"), [[2, 0, 0], [0, 2, 0], [0, 0, 2]]
    )
    moved = np.random.default_rng(seed).normal(scale=0.01, size=positions.shape)
    found = matches(database, lattice, positions + moved @ np.linalg.inv(lattice), elements)
    assert [one.card.id for one in found] == ["MgO"]
    assert found[0].rms_A < 0.05
    assert "atoms moved by" in found[0].words


def test_another_crystal_a_strain_beyond_the_bound_and_other_elements_are_no_match(database):
    lattice, positions, elements = cell_of(database, "MgO")
    assert matches(database, 1.1 * lattice, positions, elements) == ()
    assert matches(database, 1.02 * lattice, positions, elements, largest_strain=0.01) == ()
    assert matches(database, lattice, positions, ("Ca", "O")) == ()
    caesium_chloride = np.eye(3) * (2 * abs(np.linalg.det(lattice)) / 2) ** (1 / 3)
    assert matches(database, caesium_chloride, positions, elements) == ()


@pytest.mark.shared_data
def test_of_polymorphs_the_one_of_the_structure_is_found(shared_data, tmp_path):
    """Rutile, anatase and brookite: one formula, near volumes."""
    polymorphs = {"mp-2657": 136, "mp-390": 141, "mp-1840": 61}
    source = small_phonondb(shared_data, tmp_path / "few.h5", tuple(polymorphs))
    build_store([source], tmp_path / "store")
    database = open_database(tmp_path / "store")
    for name, group in polymorphs.items():
        assert database.card(name).space_group == group
        lattice, positions, elements = cell_of(database, name)
        found = matches(database, 1.01 * lattice, positions, elements)
        assert [one.card.id for one in found] == [name]
