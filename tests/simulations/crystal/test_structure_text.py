from __future__ import annotations

import pytest

from simulations.crystal import structure_format, structure_text
from simulations.errors import InputError

CIF = "data_x\n_cell_length_a 4\nloop_\n_atom_site_fract_x\n0\n"
YAML = "phonopy:\n  version: 2\nunit_cell:\n  lattice:\n"
POSCAR = "{}\n1.0\n4 0 0\n0 4 0\n0 0 4\nAl\n1\ndirect\n0 0 0\n"


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("x", CIF, "cif"),
        ("", "# unit_cell: relaxed\nDATA_x\n _CELL_LENGTH_A 4\n", "cif"),
        ("", CIF + ";\nunit_cell: none\n;\n", "cif"),
        ("A.CIF.gz", "nothing", "cif"),
        ("x.mcif", YAML, "cif"),
        ("x", YAML, "phonopy"),
        ("", "phonopy:\nprimitive_cell:\n", "phonopy"),
        ("phonopy_disp.yaml", "", "phonopy"),
        ("POSCAR", POSCAR.format("data_MgO relaxed"), "poscar"),
        ("", POSCAR.format("MgO_cell_relaxed"), "poscar"),
        ("", POSCAR.format("MgO primitive unit_cell: relaxed"), "poscar"),
        ("x.vasp", POSCAR.format("loop_ _cell_length_a"), "poscar"),
    ],
)
def test_a_format_is_told_by_the_name_or_by_what_lines_begin_with(name, text, kind):
    assert structure_format(name, text) == kind


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xef\xbb\xbfdata_x\n", "data_x\n"),
        ("Müller\n".encode(), "Müller\n"),
        ("data_x\n_author 'Müller'\r\n".encode("latin-1"), "data_x\n_author 'Müller'\n"),
        (b"a\rb\r", "a\nb\n"),
    ],
)
def test_bytes_become_text(data, text):
    assert structure_text(data, "structure: x") == text


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b" \n", "structure: x is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"\xff\xfed\0a\0", "is UTF-16.*Save it as UTF-8"),
        (b"PK\x03\x04\0\0", "is binary"),
        (b"\x89PNG\x1a\n", "is binary"),
        (b"\n <HTML>", "is a web page.*Download the file"),
    ],
)
def test_what_is_no_text_is_refused(data, says):
    with pytest.raises(InputError, match=says):
        structure_text(data, "structure: x")
