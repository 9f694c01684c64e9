from __future__ import annotations

import pytest

from simulations.errors import InputError
from steering.database import build_store, open_database
from tests.steering.database.stores import example_folder, small_phonondb


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    folder = tmp_path_factory.mktemp("database")
    build_store([example_folder(folder / "mine", ("MgO", "MoSi2", "Ti3Al"))], folder / "store")
    return open_database(folder / "store")


def found(database, **asked) -> list[str]:
    return [one.card.id for one in database.search(**asked)]


@pytest.mark.parametrize(
    ("asked", "ids"),
    [
        ({}, ["MgO", "MoSi2", "Ti3Al"]),
        ({"formula": "Mg4O4"}, ["MgO"]),
        ({"formula": "MoSi2"}, ["MoSi2"]),
        ({"formula": "NaCl"}, []),
        ({"elements": ("si",)}, ["MoSi2"]),
        ({"elements": ("Ti", "Al"), "only": True}, ["Ti3Al"]),
        ({"elements": ("Ti",), "only": True}, []),
        ({"space_group": 225}, ["MgO"]),
        ({"stable": True}, ["MgO", "MoSi2", "Ti3Al"]),
        ({"formula": "MgO", "space_group": 139}, []),
    ],
)
def test_entries_are_found_by_what_they_are(database, asked, ids):
    assert found(database, **asked) == ids


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"formula": "Xq2"}, "formula is 'Xq2'; expected one such as BaTiO3"),
        ({"formula": ""}, "formula is ''"),
        ({"elements": ("Qq",)}, "elements name 'Qq'; expected chemical symbols"),
        ({"space_group": 231}, "space_group is 231; expected 1 to 230"),
        ({"only": True}, "only is asked for without elements"),
    ],
)
def test_what_is_no_formula_element_or_space_group_is_told(database, asked, message):
    with pytest.raises(InputError, match=message):
        database.search(**asked)


def test_an_id_that_is_not_there_is_told_with_how_to_look_for_it(database):
    with pytest.raises(InputError, match="id is 'mp-1'; expected one of the store .*search"):
        database.force_constants("mp-1")
    assert not database.has("mp-1")


@pytest.mark.shared_data
def test_forces_come_back_from_a_store_to_the_last_bit(shared_data, tmp_path):
    import h5py
    import numpy as np

    source = small_phonondb(shared_data, tmp_path / "few.h5")
    build_store([source], tmp_path / "store")
    database = open_database(tmp_path / "store")
    assert "A. Togo" in database.sources[0]
    assert "CC BY 4.0" in database.sources[0]
    with h5py.File(source) as file:
        zigzag = file["forces_zigzag"][: file["force_offset"][1]].astype(np.int64)
        steps = file["displacement"][: file["displacement_offset"][1]]
    entry = database.entry("mp-149")
    np.testing.assert_array_equal(
        entry.forces.reshape(-1, 3), ((zigzag >> 1) ^ -(zigzag & 1)) / 1e5
    )
    np.testing.assert_array_equal(entry.steps, steps)
