from __future__ import annotations

import numpy as np
import pytest

from simulations.crystal import read_crystal, write_ordered
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
