from __future__ import annotations

import pytest

from simulations.crystal import read_crystal
from steering.predict import open_structure, ordered_structure
from steering.predict.structure_file import StructureTextError, structure_as_file


def test_a_file_is_opened_only_where_files_are_allowed(tmp_path):
    path = tmp_path / "POSCAR"
    path.write_text("x")
    with open_structure(str(path), files=True) as opened:
        assert opened == path
    with pytest.raises(ValueError, match="expected one of"), open_structure(str(path), files=False):
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x" * 2_000_001, "expected at most 2,000,000"),
        ("  \n ", "empty"),
        ("a\n\0", "binary"),
        ("unit_cell: !!python/object/apply:os.system ['true']\n", "with the tag"),
        ("%TAG ! tag:yaml.org,2002:\n---\nunit_cell: !python/name:os.system x\n", "with the tag"),
        ("unit_cell: [1\n", "no valid YAML"),
    ],
)
def test_hostile_structure_texts_are_refused(text, message):
    with pytest.raises(StructureTextError, match=message), structure_as_file(text):
        pytest.fail("was let through")


CIF = (
    "data_x\n_cell_length_a 5.43\n_cell_length_b 5.43\n_cell_length_c 5.43\n"
    "_space_group_IT_number 227\nloop_\n_atom_site_label\n_atom_site_fract_x\n"
    "_atom_site_fract_y\n_atom_site_fract_z\nSi1 .125 .125 .125\n"
)
POSCAR = "{}\n1.0\n4 0 0\n0 4 0\n0 0 4\nAl\n1\ndirect\n0 0 0\n"


@pytest.mark.parametrize("text", [CIF, "\ufeff" + CIF, CIF.replace("data_", "DATA_")])
@pytest.mark.parametrize("order", [False, True])
def test_what_was_decided_of_a_cif_is_told(text, order):
    with (
        open_structure(text, files=False) as opened,
        ordered_structure(opened, order) as (source, (told,)),
    ):
        assert source == opened
        assert "origin 2) was taken" in told
        assert read_crystal(source).symbols == ("Si", "Si")


def test_nothing_is_told_of_a_built_in_crystal():
    with open_structure("germanium", files=False) as opened:
        assert opened == "germanium"
        with ordered_structure(opened, False) as (source, told):
            assert (source, told) == ("germanium", ())


@pytest.mark.parametrize("title", ["data_Al relaxed", "Al_cell_x", "Al unit_cell: relaxed"])
def test_the_title_of_a_poscar_is_no_format(title):
    with structure_as_file(POSCAR.format(title)) as path:
        assert path.name == "POSCAR"
        assert read_crystal(path).symbols == ("Al",)
