from __future__ import annotations

import json

import numpy as np
import pytest

from steering import cli
from tests.steering.database.stores import example_folder


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    example_folder(folder / "mine", ("MgO", "MoSi2"))
    (folder / "mine" / "bad").mkdir()
    (folder / "mine" / "bad" / "POSCAR").write_text("no structure\n")
    assert cli.run(["database", "build", str(folder / "mine"), "-o", str(folder / "store")]) == 0
    return folder / "store"


def told(capsys, *arguments: str):
    assert cli.run([*arguments, "--json"]) == cli.OK
    return json.loads(capsys.readouterr().out)


def test_building_again_changes_nothing_and_names_what_was_set_aside(store, capsys):
    again = told(capsys, "database", "build", str(store.parent / "mine"), "-o", str(store))
    assert (again["entries"], again["blocks_made"]) == (2, 0)
    assert [one["id"] for one in again["aside"]] == ["bad"]
    assert cli.run(["database", "build", str(store.parent / "mine"), "-o", str(store)]) == cli.OK
    shown = capsys.readouterr().out
    assert "set aside: bad of mine" in shown
    assert "2 entries" in shown


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ([], ["MgO", "MoSi2"]),
        (["--formula", "MgO"], ["MgO"]),
        (["--elements", "Mo"], ["MoSi2"]),
        (["--elements", "Mg,O", "--only"], ["MgO"]),
        (["--space-group", "139"], ["MoSi2"]),
        (["--id", "MgO"], ["MgO"]),
        (["--structure", "examples/MoSi2/POSCAR"], ["MoSi2"]),
        (["--structure", "examples/MoSi2/POSCAR", "--elements", "O"], []),
        (["--structure", "germanium"], []),
    ],
)
def test_search_finds_by_each_of_its_options(store, capsys, options, ids):
    found = told(capsys, "database", "search", str(store), *options)
    assert [one["id"] for one in found] == ids
    if "--structure" in options and ids:
        assert abs(found[0]["match"]["volume"]) < 1e-6
    assert cli.run(["database", "search", str(store), *options]) == cli.OK
    assert f"{len(ids)} entries" in capsys.readouterr().out


def test_show_tells_what_an_entry_is_and_how_to_compute_from_it(store, capsys):
    card = told(capsys, "database", "show", str(store), "MgO")
    assert card["formula"] == "MgO"
    assert np.shape(card["lattice"]) == (3, 3)
    assert cli.run(["database", "show", str(store), "MgO"]) == cli.OK
    shown = " ".join(capsys.readouterr().out.split())
    assert "beamsteer phonons MgO --database" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("search {store} --formula Xq", "formula is 'Xq'"),
        ("search {store}/nowhere", "is no store"),
        ("show {store} mp-1", "id is 'mp-1'"),
        ("show {store} bad", "was set aside when the store was built"),
        ("build {store}/nowhere -o {store}", "is not there"),
        ("spectra {store} --energy-meV 0:10:1 -o {store}/x", "q_inverse_A is missing"),
        ("spectra {store} --energy-meV 10:0:1 -o {store}/x", "expected min:max:step"),
    ],
)
def test_bad_input_ends_with_2_and_says_what_was_expected(store, capsys, arguments, message):
    words = arguments.format(store=store).split()
    assert cli.run(["database", *words]) == cli.BAD_INPUT
    assert message in " ".join(capsys.readouterr().err.split())


def test_spectra_project_what_the_whole_database_takes(store, capsys, tmp_path):
    found = told(
        capsys, "database", "spectra", str(store), "--instrument", "generic", "--fwhm-meV", "2",
        "--energy-meV", "0:90:3", "--q-inverse-A", "0:5:0.5", "--error", "0.2", "--sample", "1",
        "-o", str(tmp_path / "out"),
    )  # fmt: skip
    assert found["spectra"] == 1
    assert found["core_hours_of_the_whole_database"] == pytest.approx(2 * found["core_hours"])


CIF = """data_x
_cell_length_a 4.21
_cell_length_b 4.21
_cell_length_c 4.21
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
_symmetry_Int_Tables_number 225
loop_
_symmetry_equiv_pos_as_xyz
x,y,z
-x,-y,-z
x,y+1/2,z+1/2
x+1/2,y,z+1/2
x+1/2,y+1/2,z
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Mg1 Mg 0 0 0 0.75
Ni1 Ni 0 0 0 0.25
O1 O 0.5 0.5 0.5 1
"""


def test_a_partly_occupied_structure_is_refused_and_ordered_when_asked(store, capsys, tmp_path):
    path = tmp_path / "mixed.cif"
    path.write_text(CIF)
    line = ["predict", str(path), "--quantity", "dos", "--database", str(store), "--route"]
    assert cli.run([*line, "database"]) == cli.BAD_INPUT
    assert "--order does so" in " ".join(capsys.readouterr().err.split())
    # Mg3NiO4 is in no database; that it was looked for says that the ordering went on its way
    assert cli.run([*line, "database", "--order"]) == cli.BAD_INPUT
    assert "no entry of the database" in " ".join(capsys.readouterr().err.split())


def test_an_ordering_is_the_first_thing_that_an_answer_tells(tmp_path):
    from steering.predict import open_structure, ordered_structure, vibrations_of

    class Germanium:
        """A route that leads from anything to germanium, quickly."""

        name = needs = approximation = "germanium"
        uncertainty = None

        def vibrations(self, structure):
            assert structure.crystal.elements.count("Ni") == 1
            return vibrations_of("germanium", "given")

    path = tmp_path / "mixed.cif"
    path.write_text(CIF)
    with (
        open_structure(str(path), files=True) as opened,
        ordered_structure(opened, True) as (source, notes),
    ):
        found = vibrations_of(source, Germanium(), notes=notes)
    assert "one ordering of many is shown" in found.approximations[0]
    assert "Mg3NiO4" in found.approximations[0]
