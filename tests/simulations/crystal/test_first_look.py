"""What a structure announces is refused before a parser makes room for it."""

from __future__ import annotations

import gzip
import resource
import time

import numpy as np
import pytest

from simulations.crystal import place_structure, read_crystal, refuse_announced_atoms
from simulations.crystal.first_look import MAX_ATOMS
from simulations.dynamics import read_force_constants
from simulations.errors import InputError

POSCAR = """Si
1.0
{a} 2.7 2.7
2.7 0 2.7
2.7 2.7 0
{species}
Direct
{x} 0 0
0.25 0.25 0.25
"""
CIF = """data_x
_cell_length_a {a}
_cell_length_b 5.4
_cell_length_c 5.4
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
{sites}
"""
PHONOPY = """phonopy: {{version: 2.20.0}}
supercell_matrix:
- [ {n}, 0, 0 ]
- [ 0, {n}, 0 ]
- [ 0, 0, {n} ]
unit_cell:
  lattice:
  - [ {a}, 2.7, 2.7 ]
  - [ 2.7, 0, 2.7 ]
  - [ 2.7, 2.7, 0 ]
  points:
  - {{symbol: Si, coordinates: [0, 0, 0]}}
  - {{symbol: Si, coordinates: [0.25, 0.25, 0.25]}}
"""


def poscar(a="0", species="Si\n2", x="0"):
    return POSCAR.format(a=a, species=species, x=x)


def refusal(tmp_path, text, name="POSCAR"):
    path = tmp_path / name
    path.write_text(text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    with pytest.raises(InputError, match="expected") as refused:
        read_crystal(path)
    assert time.monotonic() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    return str(refused.value)


@pytest.mark.parametrize(
    "species",
    ["Si\n1000000000", "Si\n1_000_000_000", "Si Si\n1 999999999", "1000000000", "Si\n2 -1"],
)
def test_a_poscar_cannot_announce_more_atoms_than_it_has_lines(tmp_path, species):
    assert "are announced in" in refusal(tmp_path, poscar(species=species))


def test_numbers_over_several_lines_are_seen(tmp_path):
    names = "\n".join([" ".join(["Si"] * 20), " ".join(["Si"] * 5)])
    counts = "\n".join([" ".join(["1"] * 20), "1 1 1 1 800000000"])
    assert "800,000,024 atoms" in refusal(tmp_path, poscar(species=f"{names}\n{counts}"))


def test_a_list_of_too_many_sites_is_refused(tmp_path):
    sites = "\n".join(f"Si{i} 0 0 0.{i}" for i in range(MAX_ATOMS + 1))
    told = refusal(tmp_path, CIF.format(a="5.4", sites=sites), "x.cif")
    assert f"{MAX_ATOMS + 1:,} atoms in the list of atom sites" in told


def test_a_supercell_that_nobody_could_hold_is_refused(tmp_path):
    path = tmp_path / "phonopy.yaml"
    path.write_text(PHONOPY.format(a=0, n=1000))
    with pytest.raises(InputError, match="2,000,000,000 atoms in the supercell"):
        read_force_constants(path)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e300"])
def test_what_is_not_finite_reaches_no_symmetry_search(tmp_path, value):
    assert "finite" in refusal(tmp_path, poscar(a=value))
    assert "finite" in refusal(tmp_path, poscar(x=value))
    refusal(tmp_path, CIF.format(a=value, sites="Si1 0 0 0"), "x.cif")
    yaml = value if value == "1e300" else f".{value}".replace(".-", "-.")
    assert "finite" in refusal(tmp_path, PHONOPY.format(a=yaml, n=2), "phonopy.yaml")
    lattice = np.diag([float(value), 5.0, 5.0])
    with pytest.raises(InputError, match="finite"):
        place_structure(lattice, np.zeros((1, 3)), ("Si",))


def test_a_flat_cell_is_refused(tmp_path):
    flat = poscar().replace("2.7 2.7 0\n", "2.7 2.7 5.4\n")
    assert "three directions" in refusal(tmp_path, flat)


def test_a_packed_file_is_unpacked_no_further_than_it_may_be(tmp_path, monkeypatch):
    monkeypatch.setattr("simulations.crystal.structure_file.MAX_BYTES", 10**6)
    path = tmp_path / "POSCAR.gz"
    path.write_bytes(gzip.compress(b" " * 10**8))
    with pytest.raises(InputError, match="too large; expected at most 1,000,000 bytes"):
        read_crystal(path)
    path.write_bytes(gzip.compress(poscar().encode())[:-9])
    with pytest.raises(InputError, match="cannot be unpacked"):
        read_crystal(path)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (poscar(), "poscar"),
        (poscar(species="2"), "poscar"),
        (poscar().replace("2.7 2.7 0\n", "200 0 0\n"), "poscar"),
        (CIF.format(a="5.4", sites="Si1 0 0 0\n'Si 2' 0 0 0.5 # half"), "cif"),
        (PHONOPY.format(a=0, n=4), "phonopy"),
    ],
)
def test_honest_structures_pass(text, kind):
    refuse_announced_atoms(text, kind)
