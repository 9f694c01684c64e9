"""CIFs as people have them: what is read, what is told and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from simulations.crystal import (
    parse_structure,
    quiet_spglib,
    read_crystal,
    structure_notes,
    symmetry_dataset,
)
from simulations.errors import InputError

GROUP = "_symmetry_space_group_name_H-M 'F m -3 m'\n_symmetry_Int_Tables_number 225\n"
COLUMNS = "label type_symbol fract_x fract_y fract_z occupancy"
MGO = "Mg1 Mg 0 0 0 1\nO1 O .5 .5 .5 1"
CUBE = "4.212 4.212 4.212 90 90 90"
SILICON = "5.43 5.43 5.43 90 90 90"
BISMUTH = "4.7459 4.7459 4.7459 57.23 57.23 57.23"
MAGNESIUM = "3.21 3.21 5.21 90 90 120"
NAMES = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")


def cif(atoms=MGO, *, cell=CUBE, group=GROUP, head="data_x\n", columns=COLUMNS):
    lines = [f"_cell_{name} {v}" for name, v in zip(NAMES, cell.split(), strict=True)]
    loop = ["loop_", *(f"_atom_site_{name}" for name in columns.split())]
    return head + "\n".join(lines) + "\n" + group + "\n".join(loop) + f"\n{atoms}\n"


def h_m(name):
    return f"_space_group_name_H-M_alt '{name}'\n"


def number(n):
    return f"_space_group_IT_number {n}\n"


@pytest.fixture
def read(tmp_path):
    def reading(text, name="x.cif"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        crystal = read_crystal(path)
        with quiet_spglib():
            data = symmetry_dataset(crystal.lattice, crystal.positions, crystal.symbols, 1e-3)
        notes = parse_structure(path).notes
        assert structure_notes(path) == notes
        return "".join(sorted(crystal.symbols)), data.number, " | ".join(notes)

    return reading


@pytest.fixture
def refusal(tmp_path):
    def refused(text, name="x.cif"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(InputError, match="expected") as error:
            read_crystal(path)
        assert str(error.value).startswith("structure: ")
        return str(error.value)

    return refused


def test_the_plain_one(read):
    assert read(cif()) == ("MgO", 225, "")


@pytest.mark.parametrize("occupancy", [".", "1.00(2)", "1.0000"])
def test_an_occupancy_that_is_not_said_is_one(read, occupancy):
    assert read(cif(f"Mg1 Mg 0 0 0 1\nO1 O .5 .5 .5 {occupancy}")) == ("MgO", 225, "")


def test_an_unknown_occupancy_and_an_empty_site_are_told(read):
    atoms = "Mg1 Mg 0 0 0 ?\nO1 O .5 .5 .5 1\nCa1 Ca .25 .25 .25 0"
    symbols, _, told = read(cif(atoms))
    assert symbols == "MgO"
    assert "left out: Ca1" in told
    assert "taken as 1: Mg1" in told


@pytest.mark.parametrize("occupancy", ["-0.5", "1.01", "x"])
def test_an_occupancy_that_is_none_is_refused(refusal, occupancy):
    told = refusal(cif(f"Mg1 Mg 0 0 0 {occupancy}\nO1 O .5 .5 .5 1"))
    assert f"the site 'Mg1' has the occupancy {occupancy}; expected 0 to 1" in told


@pytest.mark.parametrize("missing", [".", "?", "nan"])
def test_a_coordinate_that_is_not_said_is_refused(refusal, missing):
    told = refusal(cif(f"Mg1 Mg 0 0 0 1\nO1 O .5 {missing} .5 1"))
    assert f"the site 'O1' has the coordinate y = '{missing}'" in told


def test_two_sites_on_one_place_are_named(refusal):
    told = refusal(cif(MGO + "\nO2 O .5 .5 .5 1"))
    assert "'O1' and 'O2' lie on one place and are occupied 2 together" in told


@pytest.mark.parametrize(
    ("x", "group"),
    [
        (".125", h_m("F d -3 m :2")), (".125", h_m("F d -3 m Z")),
        (".125", "_space_group_name_Hall '-F 4vw 2vw 3'\n"), ("0", h_m("F d -3 m :1")),
        ("0", h_m("F d -3 m S") + number(227)),
        (".125", number(227) + "_space_group_IT_coordinate_system_code 2\n"),
    ],
)  # fmt: skip
def test_an_origin_that_is_said_is_used(read, x, group):
    assert read(cif(f"Si1 Si {x} {x} {x} 1", cell=SILICON, group=group)) == ("SiSi", 227, "")


@pytest.mark.parametrize("group", [h_m("F d -3 m"), number(227)])
@pytest.mark.parametrize(("x", "origin"), [("0", 1), (".125", 2)])
def test_an_origin_that_is_not_said_is_the_one_that_suits_the_sites(read, group, x, origin):
    symbols, found, told = read(cif(f"Si1 Si {x} {x} {x} 1", cell=SILICON, group=group))
    assert (symbols, found) == ("SiSi", 227)
    assert f"origin {origin}) was taken, where they make 8 atoms (16 in" in told


def test_multiplicities_decide_against_fewer_atoms(read):
    columns = COLUMNS + " symmetry_multiplicity"
    atoms = "Si1 Si .125 .125 .125 1 16"
    _, _, told = read(cif(atoms, cell="9 9 9 90 90 90", group=number(227), columns=columns))
    assert "origin 1) was taken, where they make 16 atoms" in told


def test_an_origin_that_nothing_decides_is_asked_for(refusal):
    atoms = "C1 C .11 .23 .05 1"
    told = refusal(cif(atoms, cell="9 10 11 90 90 90", group=h_m("P n n n")))
    assert "leaves open whether its sites belong to space group 48 (P n n n, origin 1)" in told
    assert "_space_group_symop_operation_xyz" in told


@pytest.mark.parametrize(
    "group", [h_m("R -3 m :R") + number(166), h_m("R -3 m"), number(166), h_m("R -3 m R")]
)
def test_rhombohedral_axes_are_seen(read, group):
    atoms = "Bi1 Bi .234 .234 .234 1"
    assert read(cif(atoms, cell=BISMUTH, group=group)) == ("BiBi", 166, "")
    cell = "4.546 4.546 11.862 90 90 120"
    group = group.replace(":R", ":H").replace(" R'", " H'")
    assert read(cif("Bi1 Bi 0 0 .234 1", cell=cell, group=group)) == ("BiBi", 166, "")


def test_a_number_alone_with_unusual_axes_is_asked_for(read, refusal):
    atoms = "Ca1 Ca .9930 .0359 .25 1\nTi1 Ti 0 .5 0 1\nO1 O .0712 .4838 .25 1\n"
    atoms += "O2 O .7108 .2888 .0371 1"
    cell = "5.388 5.447 7.654 90 90 90"
    symbols, found, told = read(cif(atoms, cell=cell, group=h_m("P b n m")))
    assert (len(symbols), found, told) == (4 * (2 + 2 + 3), 62, "")
    told = refusal(cif(atoms, cell=cell, group=number(62)))
    assert "belong to space group 62 (P b n m, setting cab) or to" in told


def test_a_cell_that_its_group_does_not_have_is_refused(refusal):
    told = refusal(cif(cell="4.212 4.212 5.0 90 90 90"))
    assert "the cell is 4.212, 4.212, 5 angstrom" in told
    assert "contradicts space group 225 (F m -3 m)" in told


@pytest.mark.parametrize("group", ["", "_symmetry_Int_Tables_number ?\n", h_m("Q 9 9 9")])
def test_a_group_that_is_not_known_is_told(read, group):
    _, found, told = read(cif(group=group))
    assert found == 221  # as CsCl
    assert "taken as all atoms of the cell (P 1)" in told


HYDRIDE = "_chemical_formula_sum '{}'\n"


@pytest.mark.parametrize("formula", ["H Li", "D Li", "Li1 H1"])
def test_hydrogens_that_were_not_located_are_missed(refusal, read, formula):
    group = GROUP + HYDRIDE.format(formula)
    told = refusal(cif("Li1 Li 0 0 0 1", cell="4.07 4.07 4.07 90 90 90", group=group))
    assert f"_chemical_formula_sum is '{formula}', but the sites make Li4 per cell" in told
    assert "Hydrogens that were not located must be added" in told
    for kind in ("H", "D"):
        atoms = f"Li1 Li 0 0 0 1\nH1 {kind} .5 .5 .5 1"
        assert read(cif(atoms, cell="4.07 4.07 4.07 90 90 90", group=group))[1:] == (225, "")


@pytest.mark.parametrize(
    ("formula", "told"),
    [
        ("Mg O", ""), ("Mg4 O4", ""), ("Mg0.99 O", ""), ("Mg0.9 O", "differs by"), ("?", ""),
        ("Mg1-x O", ""),
    ],
)  # fmt: skip
def test_a_formula_may_be_rounded(read, formula, told):
    assert told in read(cif(group=GROUP + HYDRIDE.format(formula)))[2]


@pytest.mark.parametrize(
    ("formula", "told"),
    [
        ("Mg O2", "O differs by 50%"),
        ("Mg O Ca", "Ca is in one of them alone"),
        ("Mg", "O is in one of them alone"),
        ("Co O", "Co, Mg are in one of them alone"),
    ],
)
def test_a_formula_of_other_atoms_is_told(read, formula, told):
    """As in files where somebody changed the sites by hand, and left the formula as it was."""
    assert told in read(cif(group=GROUP + HYDRIDE.format(formula)))[2]


def test_hydrogens_that_are_only_counted_are_missed(refusal):
    told = refusal(
        cif("Mg1 Mg 0 0 0 1 0\nO1 O .5 .5 .5 1 2", columns=COLUMNS + " attached_hydrogens")
    )
    assert "'O1' has 2 hydrogens attached that are not listed" in told


@pytest.mark.parametrize("kind", ["Vac", "Va", "Wat", "OH", "H2O", "Xx", "NH4", "CO3"])
def test_a_type_that_is_no_element_is_refused(refusal, kind):
    told = refusal(cif(f"M1 {kind} 0 0 0 1\nO1 O .5 .5 .5 1"))
    assert f"the site 'M1' has the type symbol '{kind}', which is no chemical element" in told


@pytest.mark.parametrize(
    ("kind", "symbol"),
    [("Fe3+", "Fe"), ("Fe", "Fe"), ("FE", "Fe"), ("Cval", "C"), ("Siva", "Si"), ("V", "V"),
     ("Fe2", "Fe"), ("Fe+3", "Fe"), ("D", "D"), ("7Li", "7Li"), ("D1-", "D")],
)  # fmt: skip
def test_types_with_charges_and_isotopes_are_read(read, kind, symbol):
    assert read(cif(f"M1 {kind} 0 0 0 1\nF1 F .5 .5 .5 1"))[0] == "".join(sorted([symbol, "F"]))


def test_labels_without_types(read, refusal):
    columns = COLUMNS.replace(" type_symbol", "")
    assert read(cif("Mg1 0 0 0 1\nO1 .5 .5 .5 1", columns=columns)) == ("MgO", 225, "")
    symbols, _, told = read(cif("CA1 0 0 0 1\nOW1 .5 .5 .5 1", columns=columns))
    assert symbols == "CaO"
    assert "CA1 as Ca, OW1 as O" in told
    carbon = GROUP + HYDRIDE.format("C O")
    assert read(cif("CA1 0 0 0 1\nO1 .5 .5 .5 1", columns=columns, group=carbon))[0] == "CO"
    assert "'Vac1' has no type symbol" in refusal(
        cif("Vac1 0 0 0 1\nO1 .5 .5 .5 1", columns=columns)
    )


def test_the_first_block_that_has_atoms_is_read(read, refusal):
    empty = "data_global\n_publ_section_title 'x'\n_journal_year 1999\n"
    assert read(empty + cif()) == ("MgO", 225, "")
    salt = cif("Na1 Na 0 0 0 1\nCl1 Cl .5 .5 .5 1", cell="5.64 5.64 5.64 90 90 90", head="data_s\n")
    symbols, _, told = read(cif() + salt)
    assert symbols == "MgO"
    assert "2 data blocks with atoms: 'x', the first, was taken, not 's'" in told
    assert "no atom sites in the CIF (data blocks global)" in refusal(empty)
    assert "no data block" in refusal("_cell_length_a 3\n")


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + cif(),
        cif().replace("data_", "DATA_").replace("loop_", "LOOP_"),
        cif().replace("_cell_length_a", "_CELL_LENGTH_A").replace("_fract_x", "_Fract_X"),
        cif().replace("_atom_site_", "_atom_site.").replace("_cell_length", "_cell.length"),
        cif().replace("\n", "\r\n"),
        cif().replace("\n", "\r"),
        "# relaxed\nunit_cell: done\n" + cif(),
        cif(head="data_x\n_publ_author_name 'O'Neill, Å'\n;\nunit_cell: none\n;\n"),
        cif(head="data_x\n_publ_author_name 'Müller, Å'\n").encode("latin-1"),
    ],
)
def test_ways_to_write_one_cif(read, text):
    assert read(text) == ("MgO", 225, "")


def test_utf_16_is_to_be_saved_as_utf_8(refusal):
    assert "is UTF-16" in refusal(cif().encode("utf-16"))
    assert "Save it as UTF-8" in refusal(cif().encode("utf-16"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (cif("Mg1 Mg 0 0 0 1\nO1 O .5 .5"), "ends within a row (10 values in 6 columns)"),
        (cif(cell="0 0 0 90 90 90"), "_cell_length_a is 0; expected a positive length"),
        (cif(cell="-4.2 4.2 4.2 90 90 90"), "_cell_length_a is -4.2"),
        (cif(cell="4.2 ? 4.2 90 90 90"), "_cell_length_b is missing"),
        (cif(cell="4 4 4 150 150 150"), "no cell has the angles 150, 150, 150"),
        (cif(cell="4 4 4 190 90 90"), "_cell_angle_alpha is 190"),
        (cif(columns="label type_symbol Cartn_x Cartn_y Cartn_z occupancy"), "Cartesian"),
        (
            cif(columns="label type_symbol Cartn_x Cartn_y Cartn_z occupancy")
            .replace("_atom_site_", "_atom_site.")
            .replace("_cell_", "_cell."),
            "expected fractions of the cell",
        ),
        (cif().replace("_type_symbol\n", "_type_symbol Mg\n"), "_label has 0 values for 1"),
        (cif().replace("_fract_z", "_other"), "lacks _atom_site_fract_z"),
        ("<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(refusal, text, says):
    told = refusal(text)
    assert says in told
    assert "Error" not in told


def test_few_digits_of_a_special_position_are_what_they_round(read, refusal):
    close_packed = number(194)
    for third, twice in ((".3333", ".6667"), (".333333333", ".666666667")):
        atoms = f"Mg1 Mg {third} {twice} .25 1"
        assert read(cif(atoms, cell=MAGNESIUM, group=close_packed)) == ("MgMg", 194, "")
    symbols, found, told = read(cif("Mg1 Mg .333 .667 .25 1", cell=MAGNESIUM, group=close_packed))
    assert (symbols, found) == ("MgMg", 194)
    assert "moved by up to 0.0019 angstrom onto the special positions" in told
    told = refusal(cif("Mg1 Mg .33 .67 .25 1", cell=MAGNESIUM, group=close_packed))
    assert "the site 'Mg1' and its image" in told
    assert "four or more digits (.3333, not .33)" in told


def test_a_split_site_near_a_mirror_is_not_moved_onto_it(tmp_path):
    atoms = "Mg1 Mg 0 0 0 1\nO1 O .5 .5 .47 .5"
    path = tmp_path / "x.cif"
    path.write_text(cif(atoms, group=h_m("P m m m")))
    with pytest.raises(InputError, match="2 partly occupied sites"):
        read_crystal(path)


def test_charges_of_one_element_share_no_site(read):
    atoms = "Fe1 Fe2+ 0 0 0 .5\nFe2 Fe3+ 0 0 0 .5\nO1 O2- .5 .5 .5 1"
    assert read(cif(atoms)) == ("FeO", 225, "")


MAGNETIC = """loop_
_space_group_symop_magn_operation.id
_space_group_symop_magn_operation.xyz
1 x,y,z,+1
2 -x,-y,-z,-1
loop_
_space_group_symop_magn_centering.id
_space_group_symop_magn_centering.xyz
1 x,y,z,+1
2 x+1/2,y+1/2,z+1/2,-1
"""


def test_a_magnetic_cif_gives_its_nuclear_structure(read):
    # antiferromagnetic order of a body-centred cell: without moments the centring is a translation
    atoms = "Cr1 Cr 0 0 0 1"
    assert read(cif(atoms, cell="2.9 2.9 2.9 90 90 90", group=MAGNETIC), "x.mcif")[:2] == (
        "Cr", 229,
    )  # fmt: skip


def test_the_title_of_a_poscar_is_no_format(tmp_path):
    for title in ("data_MgO relaxed", "MgO_cell_relaxed", "MgO primitive unit_cell: relaxed"):
        path = tmp_path / "POSCAR"
        path.write_text(f"{title}\n1.0\n4 0 0\n0 4 0\n0 0 4\nCs Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n")
        crystal = read_crystal(path)
        assert crystal.symbols == ("Cs", "Cl")
        np.testing.assert_allclose(crystal.conventional_lattice, 4 * np.eye(3))
