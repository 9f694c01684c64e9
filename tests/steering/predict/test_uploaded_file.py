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


def test_plain_names_are_taken():
    refuse_names(["POSCAR", "Si.cif", "Mn O (1).vasp", "phonopy.yaml", "säge.cif"])
