from __future__ import annotations

import time

import numpy as np
import pytest

from simulations.crystal import read_crystal, write_ordered
from simulations.crystal.ordering_file import MOST_STEPS
from simulations.errors import InputError

CIF = """data_x
_cell_length_a {a}
_cell_length_b {a}
_cell_length_c {a}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
{sites}
"""


def cif(tmp_path, *sites, a=3.9):
    path = tmp_path / "mixed.cif"
    path.write_text(CIF.format(a=a, sites="\n".join(sites)))
    return path


PEROVSKITE = ("Ti1 Ti 0.5 0.5 0.5 1", "O1 O 0.5 0.5 0 1", "O2 O 0.5 0 0.5 1", "O3 O 0 0.5 0.5 1")


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        (("A1 Sr 0 0 0 0.5", "A2 Ba 0 0 0 0.5", *PEROVSKITE), {"Sr": 1, "Ba": 1, "Ti": 2, "O": 6}),
        (("A1 Sr 0 0 0 0.75", "A2 Ba 0 0 0 0.25", *PEROVSKITE), {"Sr": 3, "Ba": 1, "Ti": 4}),
        (("A1 Sr 0 0 0 0.5", *PEROVSKITE), {"Sr": 1, "Ti": 2, "O": 6}),  # vacancies
        (("A1 Fe 0 0 0 0.5", "A2 Co 0 0 0 0.5"), {"Fe": 1, "Co": 1}),  # no charges to be guessed
    ],
)
def test_shares_become_whole_atoms_of_the_smallest_supercell(tmp_path, sites, expected):
    target = tmp_path / "POSCAR"
    told = write_ordered(cif(tmp_path, *sites), target)
    crystal = read_crystal(target)
    counts = {s: crystal.elements.count(s) for s in expected}
    assert counts == expected
    assert "one ordering of many is shown" in told
    assert "partly occupied sites" in told


def test_charges_decide_where_there_are_some(tmp_path):
    """Rock salt of Li and Cr(III): alternate layers or strings, never clusters of one charge."""
    path = cif(tmp_path, "A1 Li 0 0 0 0.5", "A2 Cr 0 0 0 0.5", "O1 O 0.5 0.5 0.5 1", a=2.9)
    told = write_ordered(path, tmp_path / "POSCAR")
    assert "lowest in the Ewald sum of guessed charges" in told


def test_a_share_that_fits_no_supercell_exactly_is_rounded_and_told(tmp_path):
    path = cif(tmp_path, "A1 Sr 0 0 0 0.93", "A2 Ba 0 0 0 0.07", *PEROVSKITE)
    told = write_ordered(path, tmp_path / "POSCAR")
    assert "shares are off by up to" in told
    assert read_crystal(tmp_path / "POSCAR").n_atoms <= 60


def test_shares_that_no_supercell_within_the_bound_holds_are_refused(tmp_path):
    path = cif(tmp_path, "A1 Sr 0 0 0 0.9", "A2 Ba 0 0 0 0.1", *PEROVSKITE)
    with pytest.raises(InputError, match="no supercell of at most 10 atoms holds .*order it"):
        write_ordered(path, tmp_path / "POSCAR", 10)
    assert not (tmp_path / "POSCAR").exists()


def test_whole_sites_are_left_alone(tmp_path):
    path = cif(tmp_path, "A1 Sr 0 0 0 1", *PEROVSKITE)
    assert write_ordered(path, tmp_path / "POSCAR") is None
    assert not (tmp_path / "POSCAR").exists()


def test_without_ordering_the_message_says_how_to_get_one(tmp_path):
    path = cif(tmp_path, "A1 Sr 0 0 0 0.5", "A2 Ba 0 0 0 0.5", *PEROVSKITE)
    with pytest.raises(InputError, match="partly occupied sites.*: --order does so"):
        read_crystal(path)


def test_isotopes_are_not_lost_in_an_ordering(tmp_path):
    path = cif(tmp_path, "D1 D 0 0 0 1", "A1 Sr 0.5 0.5 0.5 0.5")
    with pytest.raises(InputError, match="names isotopes and has partly occupied sites"):
        write_ordered(path, tmp_path / "POSCAR")


def test_two_orderings_of_one_structure_are_the_same(tmp_path):
    path = cif(tmp_path, "A1 Sr 0 0 0 0.75", "A2 Ba 0 0 0 0.25", *PEROVSKITE)
    for name in ("one", "two"):
        write_ordered(path, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    crystal = read_crystal(tmp_path / "one")
    assert np.isclose(abs(np.linalg.det(crystal.lattice)), 4 * 3.9**3)


ROCK_SALT = ("M0 Mg 0 0 0 1", "O0 O 0.5 0.5 0.5 1")


def rock_salt(tmp_path, *sites):
    """The same in its cube of 8 atoms, by symmetry."""
    path = cif(tmp_path, *sites, a=4.212)
    path.write_text(path.read_text().replace("'P 1'", "'F m -3 m'"))
    return path


@pytest.mark.parametrize("share", ["0.99", "0.996"])
def test_a_share_that_rounds_to_whole_sites_is_told_and_leaves_nothing_to_order(tmp_path, share):
    path = rock_salt(tmp_path, f"M1 Mg 0 0 0 {share}", "O1 O 0.5 0.5 0.5 1")
    told = write_ordered(path, tmp_path / "POSCAR")
    assert f"(Mg {share} to 1 of a site)" in told
    assert "left nothing to order" in told
    assert "one ordering of many" not in told
    assert sorted(read_crystal(tmp_path / "POSCAR").elements) == ["Mg", "O"]


@pytest.mark.parametrize(
    ("sites", "lost", "least"),
    [
        (("M1 Mg 0 0 0 0.99", "C1 Ca 0 0 0 0.01", "O1 O 0.5 0.5 0.5 1"), "Ca", "1/28"),
        (("M1 Mg 0 0 0 0.996", "C1 Ca 0 0 0 0.004", "O1 O 0.5 0.5 0.5 1"), "Ca", "1/28"),
        ((*ROCK_SALT, "H1 H 0.25 0.25 0.25 0.02"), "H", "1/24"),
    ],
)
def test_a_rounding_that_loses_an_element_is_refused(tmp_path, sites, lost, least):
    path = rock_salt(tmp_path, *sites)
    words = rf"{lost} has the share 0\.0.*at least {least}.*Leave {lost} out"
    with pytest.raises(InputError, match=words):
        write_ordered(path, tmp_path / "POSCAR")
    assert not (tmp_path / "POSCAR").exists()


def test_the_least_share_that_is_named_can_be_had(tmp_path):
    path = rock_salt(tmp_path, "M1 Mg 0 0 0 0.9643", "C1 Ca 0 0 0 0.0357", "O1 O 0.5 0.5 0.5 1")
    write_ordered(path, tmp_path / "POSCAR")
    assert read_crystal(tmp_path / "POSCAR").elements.count("Ca") == 1


def test_sites_that_lose_their_atoms_are_told_where_the_element_stays(tmp_path):
    path = rock_salt(tmp_path, *ROCK_SALT, "O1 O 0.25 0.25 0.25 0.02")
    told = write_ordered(path, tmp_path / "POSCAR")
    assert "(O 0.02 to 0 of a site)" in told
    assert sorted(read_crystal(tmp_path / "POSCAR").elements) == ["Mg", "O"]


def test_no_more_atoms_than_sites_come_out_of_shares_between_whole_numbers(tmp_path):
    """Each share alone rounds up: to 5 and 5 and 4 atoms on thirteen sites."""
    sites = [
        f"{element}{k} {element} {k / 13:.6f} 0 0 {share}"
        for k in range(13)
        for element, share in (("Ni", 0.3538), ("Co", 0.3538), ("Mn", 0.2924))
    ]
    path = cif(tmp_path, *sites, a=30.0)
    told = write_ordered(path, tmp_path / "POSCAR", 13)
    elements = read_crystal(tmp_path / "POSCAR").elements
    counts = sorted(elements.count(one) for one in ("Ni", "Co", "Mn"))
    assert counts == [4, 4, 5]
    assert "shares are off by up to 4.6%" in told


@pytest.mark.parametrize("x", ["0.25", "0.27"])
def test_many_arrangements_are_searched_in_bounded_steps_and_apart(tmp_path, x):
    """48 sites in twelve places for four atoms: 194,580 arrangements, most of them impossible."""
    share = "0.0833" if x == "0.27" else "0.5"
    path = rock_salt(tmp_path, *ROCK_SALT, f"H1 H {x} 0.25 0.25 {share}")
    steps = []
    began = time.monotonic()
    told = write_ordered(path, tmp_path / "one", progress=lambda words, _: steps.append(words))
    assert time.monotonic() - began < 60
    assert steps[0] == f"ordering {48 if x == '0.27' else 8} partly occupied sites"
    crystal = read_crystal(tmp_path / "one")
    assert crystal.elements.count("H") * 4 == crystal.n_atoms * 4 // 3
    if x == "0.27":
        assert f"{MOST_STEPS:,} steps of search reach (approximate" in told
        assert any(f"of {MOST_STEPS:,} at most" in words for words in steps)
        write_ordered(path, tmp_path / "two")
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    step = crystal.positions[:, None] - crystal.positions
    distance = np.linalg.norm((step - np.rint(step)) @ crystal.lattice, axis=-1)
    assert distance[~np.eye(crystal.n_atoms, dtype=bool)].min() > 0.7


def test_charges_are_guessed_of_shares_that_are_thirds(tmp_path):
    """Sums of thirds are whole numbers but for rounding, which pymatgen's guess does not pardon."""
    path = rock_salt(tmp_path, "L1 Li 0 0 0 0.3333", "N1 Ni 0 0 0 0.6667", "O1 O 0.5 0.5 0.5 1")
    assert "Ewald sum of guessed charges" in write_ordered(path, tmp_path / "POSCAR")
