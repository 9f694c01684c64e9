from __future__ import annotations

import numpy as np
import periodictable
import pytest

from simulations.crystal import read_crystal, species_words, with_isotopes
from simulations.crystal.species import (
    canonical_labels,
    mixture,
    species_named,
    species_of_mass,
)

CUBIC = "t\n1.0\n4 0 0\n0 4 0\n0 0 4\n{species}\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
PHONOPY = """phonopy:
  version: 4.8.6
unit_cell:
  lattice:
  - [4.0, 0.0, 0.0]
  - [0.0, 4.0, 0.0]
  - [0.0, 0.0, 4.0]
  points:
  - symbol: {symbol}
    coordinates: [0.0, 0.0, 0.0]
    mass: {mass}
  - symbol: Li
    coordinates: [0.5, 0.5, 0.5]
    mass: 6.941
"""


@pytest.mark.parametrize(
    ("label", "element", "number"),
    [("D", "H", 2), ("H2", "H", 2), ("2H", "H", 2), ("7Li", "Li", 7), ("Si28", "Si", 28)],
)
def test_an_isotope_has_its_own_mass_and_lengths(label, element, number):
    isotope = getattr(periodictable, element)[number]
    found = species_named(label)
    assert found.mass_u == pytest.approx(isotope.mass)
    assert found.length == pytest.approx(isotope.neutron.b_c / 10)
    assert found.incoherent_barn == pytest.approx(isotope.neutron.incoherent)
    assert found.absorption_barn == pytest.approx(isotope.neutron.absorption)


def test_numbers_of_sites_are_no_isotopes():
    assert species_named("Fe1") == species_named("Fe")
    assert canonical_labels(["Fe1", "Fe2", "O"]) == ("Fe", "Fe", "O")


def test_numbers_that_may_be_either_are_refused():
    with pytest.raises(ValueError, match="1H and 2H"):
        canonical_labels(["H1", "H2"])
    with pytest.raises(ValueError, match="expected both to agree"):
        species_of_mass("H2", 1.00794)


def test_an_unknown_isotope_is_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match="28Si, 29Si, 30Si"):
        species_named("99Si")


def test_a_mixture_of_all_isotopes_at_random_is_the_natural_element():
    # nickel: the spread of its isotopes makes most of the incoherent cross section, 5.2 barn
    isotopes = [n for n in periodictable.Ni.isotopes if periodictable.Ni[n].abundance > 0]
    total = sum(periodictable.Ni[n].abundance for n in isotopes)
    shares = {f"{n}Ni": periodictable.Ni[n].abundance / total for n in isotopes}
    found, natural = mixture("Ni", shares), species_named("Ni")
    assert found.mass_u == pytest.approx(natural.mass_u, rel=1e-4)
    assert found.length == pytest.approx(natural.length, rel=0.01)
    assert found.incoherent_barn == pytest.approx(natural.incoherent_barn, rel=0.1)


@pytest.mark.parametrize(
    "shares", [{"6Li": 0.5}, {"6Li": 1.5, "7Li": -0.5}, {"6Li": 0.5, "D": 0.5}]
)
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ValueError, match="expected"):
        mixture("Li", shares)


@pytest.mark.parametrize("species", ["D Li", "H2 7Li", "2H Li7"])
def test_a_poscar_names_isotopes(tmp_path, species):
    (tmp_path / "POSCAR").write_text(CUBIC.format(species=species))
    crystal = read_crystal(tmp_path / "POSCAR")
    assert crystal.symbols[0] == "D"
    assert crystal.elements == ("H", "Li")
    assert crystal.scattering_length[0] == pytest.approx(0.66681)
    assert crystal.masses_u[0] == pytest.approx(2.0141, abs=1e-4)
    assert crystal.symbols[1] == ("7Li" if "7" in species else "Li")
    assert any("D: mass 2.0141 u" in words for words in species_words(crystal))


def test_two_isotopes_of_one_element_are_two_species(tmp_path):
    (tmp_path / "POSCAR").write_text(CUBIC.format(species="28Si 30Si"))
    crystal = read_crystal(tmp_path / "POSCAR")
    assert crystal.n_atoms == 2  # as one species the cell would be that of one atom
    assert crystal.symbols == ("28Si", "30Si")


def test_masses_of_a_phonopy_file_replace_the_natural_ones(tmp_path):
    path = tmp_path / "phonopy.yaml"
    path.write_text(PHONOPY.format(symbol="Si", mass=29.5))
    crystal = read_crystal(path)
    assert crystal.masses_u.tolist() == [29.5, 6.941]
    assert crystal.scattering_length[0] == pytest.approx(0.4151, abs=1e-4)
    (words,) = species_words(crystal)
    assert "lengths are natural" in words


def test_a_mass_that_is_one_isotopes_brings_its_lengths(tmp_path):
    path = tmp_path / "phonopy.yaml"
    path.write_text(PHONOPY.format(symbol="H", mass=2.014))
    crystal = read_crystal(path)
    assert crystal.symbols[0] == "D"
    assert crystal.masses_u[0] == 2.014
    assert crystal.incoherent_barn[0] == pytest.approx(2.05)


CIF = (
    "data_x\n_cell_length_a 4\n_cell_length_b 4\n_cell_length_c 4\n_cell_angle_alpha 90\n"
    "_cell_angle_beta 90\n_cell_angle_gamma 90\n_symmetry_space_group_name_H-M 'P 1'\nloop_\n"
    "_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n"
    "_atom_site_fract_z\n_atom_site_occupancy\n{site} 0 0 0 1\nF1 F .5 .5 .5 1\n"
)


@pytest.mark.parametrize(
    ("site", "species"),
    [
        ("D1 D", "D"), ("D1 H", "D"), ("H1 D", "D"), ("H1 2H", "D"), ("D1 D+", "D"), ("H1 H", "H"),
        ("7Li1 7Li", "7Li"), ("Li1 7Li", "7Li"), ("Li7 Li", "Li"), ("Dy1 Dy", "Dy"), ("D1 C", "C"),
    ],
)  # fmt: skip
def test_a_cif_keeps_its_isotopes(tmp_path, site, species):
    path = tmp_path / "a.cif"
    path.write_text(CIF.format(site=site))
    assert set(read_crystal(path).symbols) == {species, "F"}


def test_isotopes_of_a_cif_that_cannot_be_told_are_refused(tmp_path):
    path = tmp_path / "a.cif"
    path.write_text(CIF.format(site="7Li1 Li"))
    with pytest.raises(ValueError, match="may be an isotope or a number; expected the type 7Li"):
        read_crystal(path)
    path.write_text(CIF.format(site="H1 H") + "D1 D 0 0 0 0.5\n")
    with pytest.raises(ValueError, match="isotope D shares the site 'D1'"):
        read_crystal(path)


@pytest.mark.parametrize(
    "lines", ["D 7Li ! deuterated\n1 1", "D 7Li\n1 1 # of each", "D_h 7Li_sv\n1 1"]
)
def test_remarks_of_a_poscar_hide_no_isotope(tmp_path, lines):
    text = CUBIC.replace("{species}\n1 1", lines)
    (tmp_path / "POSCAR").write_text(text)
    assert read_crystal(tmp_path / "POSCAR").symbols == ("D", "7Li")


def test_masses_of_one_section_of_a_phonopy_file_alone_are_refused(tmp_path):
    path = tmp_path / "phonopy.yaml"
    text = PHONOPY.format(symbol="Si", mass=28.0855)
    unit = text[text.index("unit_cell:") :]
    other = unit.replace("unit_cell", "primitive_cell").replace("28.0855", "29.9738")
    path.write_text(text + other)
    with pytest.raises(ValueError, match="primitive_cell gives Si the mass 29.974 u"):
        read_crystal(path)
    path.write_text(text.replace("28.0855", "29.9738") + other)
    assert read_crystal(path).symbols == ("30Si", "Li")


def test_isotopes_are_given_to_a_crystal_that_names_none():
    natural = read_crystal("germanium")
    found = with_isotopes(natural, {"Ge": "70Ge"})
    assert found.symbols == ("70Ge", "70Ge")
    np.testing.assert_allclose(found.masses_u, 69.924, atol=1e-3)
    mixed = with_isotopes(natural, {"Ge": {"70Ge": 0.5, "76Ge": 0.5}})
    np.testing.assert_allclose(mixed.masses_u, 72.923, atol=1e-2)
    assert mixed.incoherent_barn[0] == pytest.approx(np.pi * (1.0 - 0.82) ** 2, rel=0.01)
    for wrong in ({"Si": "28Si"}, {"Ge": "28Si"}, {"Ge": "99Ge"}):
        with pytest.raises(ValueError, match="expected"):
            with_isotopes(natural, wrong)


def test_objects_of_ase_and_phonopy_are_structures():
    ase = pytest.importorskip("ase", reason="objects of ASE need it")
    atoms = ase.Atoms("HLi", cell=[4, 4, 4], scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]])
    atoms.set_masses([2.014, 7.016])
    assert read_crystal(atoms).symbols == ("D", "7Li")
    from phonopy.structure.atoms import PhonopyAtoms

    cell = PhonopyAtoms(
        symbols=["Na", "Cl"], cell=np.eye(3) * 4, scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    assert read_crystal(cell).symbols == ("Na", "Cl")
    with pytest.raises(ValueError, match="phonopy or ASE"):
        read_crystal(object())
