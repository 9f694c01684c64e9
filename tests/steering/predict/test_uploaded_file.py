from __future__ import annotations

import gzip

import pytest

from simulations.crystal import read_crystal
from simulations.errors import InputError
from steering.predict import uploaded_file
from steering.predict.uploaded_file import MAX_FILES, refuse_names, uploaded_folder

POSCAR = b"Al\n1.0\n4 0 0\n0 4 0\n0 0 4\nAl\n1\ndirect\n0 0 0\n"


def test_files_lie_where_phonopy_looks_for_them_whatever_they_are_called():
    files = [
        ("my-cell.vasp", POSCAR),
        ("force_sets.gz", gzip.compress(b"1\n")),
        ("Born", b"# x\n"),
    ]
    with uploaded_folder(files) as main:
        assert main.name == "POSCAR"
        assert {path.name for path in main.parent.iterdir()} == {"POSCAR", "FORCE_SETS", "BORN"}
        assert read_crystal(main).symbols == ("Al",)
        folder = main.parent
    assert not folder.exists()


def test_a_suffix_that_a_browser_added_does_not_hide_what_a_file_is():
    with uploaded_folder([("POSCAR", POSCAR), ("force_sets.txt", b"1\n")]) as main:
        assert (main.parent / "FORCE_SETS").is_file()


def test_who_holds_most_is_the_structure():
    yaml = b"unit_cell:\n  lattice:\n"
    with uploaded_folder([("POSCAR", POSCAR), ("phonopy_params.yaml", yaml)]) as main:
        assert main.name == "phonopy_params.yaml"
    with uploaded_folder([("other.yaml", yaml)]) as main:
        assert main.name == "phonopy.yaml"
    with uploaded_folder([("x.txt", b"data_x\n_cell_length_a 3\n")]) as main:
        assert main.name == "structure.cif"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([], "0 were sent"),
        ([("POSCAR", POSCAR)] * (MAX_FILES + 1), "9 were sent"),
        ([("", POSCAR)], "without any folder"),
        ([("a\0b", POSCAR)], "without any folder"),
        ([(".", POSCAR)], "without any folder"),
        ([("POSCAR", POSCAR), ("CONTCAR", POSCAR)], "'CONTCAR' is a second POSCAR"),
        ([("BORN", b"1\n")], "BORN without a structure"),
        ([("POSCAR", b"\x89PNG\0")], "is binary"),
        ([("POSCAR", "x\xe9".encode("latin-1"))], "is binary"),
        ([("POSCAR", gzip.compress(b""))], "is empty"),
        ([("POSCAR", b"\x1f\x8bnone")], "cannot be unpacked"),
        ([("POSCAR", gzip.compress(gzip.compress(POSCAR)))], "is binary"),
    ],
)
def test_what_is_no_structure_is_refused(files, says):
    with pytest.raises(InputError, match=says), uploaded_folder(files):
        pass


def test_all_files_together_unpack_to_a_bound(monkeypatch):
    monkeypatch.setattr(uploaded_file, "MAX_UNPACKED_BYTES", 1000)
    packed = gzip.compress(POSCAR + b" " * 600)
    with uploaded_folder([("POSCAR", packed)]):
        pass
    with (
        pytest.raises(InputError, match="'FORCE_SETS' unpacks to too much"),
        uploaded_folder([("POSCAR", packed), ("FORCE_SETS", gzip.compress(b"1" * 600))]),
    ):
        pass


CIF = (
    "data_x\n_publ_author_name 'Müller'\n_cell_length_a 4\n_cell_length_b 4\n_cell_length_c 4\n"
    "_space_group_name_H-M_alt 'P m -3 m'\nloop_\n_atom_site_label\n_atom_site_fract_x\n"
    "_atom_site_fract_y\n_atom_site_fract_z\nAl1 0 0 0\n"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
@pytest.mark.parametrize("packed", [False, True])
def test_what_a_file_of_this_machine_may_be_an_uploaded_one_may_be(tmp_path, encoding, packed):
    data = CIF.encode(encoding)
    (tmp_path / "x.cif").write_bytes(data)
    assert read_crystal(tmp_path / "x.cif").symbols == ("Al",)
    with uploaded_folder([("x.cif", gzip.compress(data) if packed else data)]) as main:
        assert main.name == "structure.cif"
        assert read_crystal(main).symbols == ("Al",)


@pytest.mark.parametrize(
    ("data", "says"),
    [(CIF.encode("utf-16"), "'x.cif' is UTF-16"), (b"<html></html>", "'x.cif' is a web page")],
)
def test_both_refuse_the_same(tmp_path, data, says):
    (tmp_path / "x.cif").write_bytes(data)
    with pytest.raises(InputError, match=says.replace("'x.cif'", "x.cif")):
        read_crystal(tmp_path / "x.cif")
    with pytest.raises(InputError, match=says), uploaded_folder([("x.cif", data)]):
        pass


@pytest.mark.parametrize("title", ["data_Al relaxed", "Al_cell_x", "Al unit_cell: relaxed"])
def test_the_title_of_a_poscar_is_no_format(title):
    data = POSCAR.replace(b"Al\n", title.encode() + b"\n", 1)
    with uploaded_folder([("my-cell", data), ("FORCE_SETS", b"1\n")]) as main:
        assert main.name == "POSCAR"
        assert read_crystal(main).symbols == ("Al",)


def test_plain_names_are_taken():
    refuse_names(["POSCAR", "Si.cif", "Mn O (1).vasp", "phonopy.yaml", "säge.cif"])
