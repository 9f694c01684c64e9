from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml

from simulations.constants import MEV_PER_THZ
from simulations.crystal import (
    builtin_crystals,
    place_structure,
    read_crystal,
    space_group_operations,
)
from simulations.crystal.placement import crystal_from_cells
from simulations.dynamics import force_constant_model, modes, read_force_constants
from simulations.dynamics.crystal_file import write_crystal
from tests.simulations.phonon_oracles import germanium

NACL = """data_nacl
_symmetry_space_group_name_H-M   'F m -3 m'
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_Int_Tables_number 225
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na 0 0 0 {occupancy}
Cl1 Cl 0.5 0.5 0.5 1
"""

CUBE = """cube
1.0
4.0 0 0
0 4.0 0
0 0 4.0
{symbols}
{counts}
Direct
{sites}
"""


def poscar(path, symbols, sites):
    text = CUBE.format(
        symbols=" ".join(symbols), counts=" ".join("1" for _ in symbols), sites="\n".join(sites)
    )
    path.write_text(text)
    return path


def test_the_built_in_names_read_without_any_file():
    assert set(builtin_crystals()) >= {"germanium", "aluminium", "MnO"}
    crystal = read_crystal("germanium")
    assert crystal.symbols == ("Ge", "Ge")
    np.testing.assert_allclose(crystal.conventional_lattice, 5.6463329 * np.eye(3), atol=1e-6)
    np.testing.assert_allclose(crystal.scattering_length, 0.8185)
    assert read_crystal("MnO").scattering_length[0] < 0


def test_both_cells_share_one_frame():
    for name in builtin_crystals():
        crystal = read_crystal(name)
        combination = crystal.conventional_lattice @ np.linalg.inv(crystal.lattice)
        np.testing.assert_allclose(combination, np.rint(combination), atol=1e-9)
        # hkl all odd is a reciprocal-lattice vector of fcc, an even sum one of bcc; 100 of neither
        own = [1.0, 1, 0] if name == "niobium" else [1.0, 1, 1]
        q = np.array([own, [1, 0, 0]]) @ crystal.conventional_reciprocal
        miller = q @ crystal.lattice.T / (2 * np.pi)
        assert np.abs(miller[0] - np.rint(miller[0])).max() < 1e-9
        assert np.abs(miller[1] - np.rint(miller[1])).max() > 0.4


def test_a_cif_gives_the_primitive_cell_of_its_conventional_one(tmp_path):
    path = tmp_path / "nacl.cif"
    path.write_text(NACL.format(occupancy=1))
    crystal = read_crystal(path)
    assert sorted(crystal.symbols) == ["Cl", "Na"]
    np.testing.assert_allclose(crystal.conventional_lattice, 5.64 * np.eye(3), atol=1e-9)
    assert abs(np.linalg.det(crystal.lattice)) == pytest.approx(5.64**3 / 4)


def test_orientation_and_cell_choice_of_the_file_do_not_matter():
    rng = np.random.default_rng(3)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    a = 5.4
    primitive = a / 2 * (1 - np.eye(3))
    skewed = np.array([[1, 0, 0], [1, 1, 0], [-1, 2, 1]])
    x = np.array([[0, 0, 0], [0.25, 0.25, 0.25]]) + 0.137
    one = place_structure(primitive, x, ("Si", "Si")).crystal
    other = place_structure(skewed @ primitive @ turn.T, x @ np.linalg.inv(skewed), ("Si", "Si"))
    np.testing.assert_allclose(other.crystal.lattice, one.lattice, atol=1e-9)
    np.testing.assert_allclose(other.crystal.conventional_lattice, a * np.eye(3), atol=1e-9)
    assert len(space_group_operations(other.crystal)) == 48
    np.testing.assert_allclose(other.rotation @ other.rotation.T, np.eye(3), atol=1e-12)
    # atoms of the file lie on atoms of the crystal
    r = (x @ np.linalg.inv(skewed)) @ (skewed @ primitive @ turn.T) @ other.rotation.T + other.shift
    place = r @ np.linalg.inv(other.crystal.lattice)
    step = place[:, None] - other.crystal.positions[None]
    assert np.abs(step - np.rint(step)).max(axis=2).min(axis=1).max() < 1e-9


def test_the_setting_of_the_file_is_kept():
    # Pbnm, not spglib's Pnma: a user indexes reflections in the cell of the file
    lattice = np.diag([5.3, 5.6, 7.6])
    x = [[0.5, 0, 0], [0.5, 0, 0.5], [0, 0.5, 0], [0, 0.5, 0.5]]
    x += [[0.98, 0.04, 0.25], [0.02, 0.96, 0.75], [0.48, 0.46, 0.25], [0.52, 0.54, 0.75]]
    crystal = place_structure(lattice, np.array(x), ("Fe",) * 4 + ("Y",) * 4).crystal
    np.testing.assert_allclose(crystal.conventional_lattice, lattice, atol=1e-9)
    assert crystal.n_atoms == 8


def test_a_supercell_file_is_reduced():
    lattice = np.diag([8.1, 4.05, 4.05])
    fcc = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    x = np.concatenate([fcc, fcc + [1, 0, 0]]) / [2, 1, 1]
    crystal = place_structure(lattice, x, ("Al",) * 8).crystal
    assert crystal.n_atoms == 1
    np.testing.assert_allclose(crystal.conventional_lattice, 4.05 * np.eye(3), atol=1e-9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x89HDF\r\n\x1a\n\0\0\0\0", "is binary"),
        (b"hello\nthis is no structure\n", "cannot be read"),
        (NACL.format(occupancy=0.5).encode(), "ordered supercell"),
    ],
)
def test_a_bad_file_says_what_to_do(tmp_path, content, message):
    path = tmp_path / "structure"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_crystal(path)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="germanium"):
        read_crystal("unobtainium")


def test_overlapping_atoms_are_named(tmp_path):
    path = poscar(tmp_path / "POSCAR", ["Fe", "Co"], ["0 0 0", "0.01 0 0.99"])
    with pytest.raises(ValueError, match=r"atoms 1 \(Fe\) and 2 \(Co\) are 0\.05"):
        read_crystal(path)


def test_a_species_without_neutron_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match="scattering length is tabulated for Po"):
        read_crystal(poscar(tmp_path / "POSCAR", ["Po"], ["0 0 0"]))


OLD_POSCAR = """{title}
1.0
4.0 0 0
0 4.0 0
0 0 4.0
1 1
Direct
0 0 0
0.5 0.5 0.5
"""


def test_an_old_poscar_has_its_species_in_the_title(tmp_path):
    path = tmp_path / "POSCAR"
    path.write_text(OLD_POSCAR.format(title="Cs Cl"))
    assert read_crystal(path).symbols == ("Cs", "Cl")


@pytest.mark.parametrize("title", ["a cube", "Cs", "1 1"])
def test_a_structure_without_species_is_refused(tmp_path, title):
    path = tmp_path / "POSCAR"
    path.write_text(OLD_POSCAR.format(title=title))
    with pytest.raises(ValueError, match="names no species; expected a line of chemical symbols"):
        read_crystal(path)


def test_a_site_that_two_species_share_asks_for_a_supercell(tmp_path):
    shared = NACL.format(occupancy=0.5) + "K1 K 0 0 0 0.5\n"
    path = tmp_path / "shared.cif"
    path.write_text(shared)
    with pytest.raises(ValueError, match=r"partly occupied.*Build an ordered supercell"):
        read_crystal(path)


@pytest.mark.shared_data
def test_the_unit_cell_beside_force_sets_is_read_as_it_is_meant(shared_data):
    folder = shared_data / "phonopy-test" / "NaCl"
    assert set(read_crystal(folder / "POSCAR-unitcell").symbols) == {"Na", "Cl"}


def test_cells_of_two_lattices_are_refused():
    with pytest.raises(ValueError, match="whole primitive vectors"):
        crystal_from_cells(np.eye(3) * 4, [[0, 0, 0]], ("Al",), np.eye(3) * 5)


def test_a_structure_without_force_constants_says_so():
    with pytest.raises(ValueError, match=r"no stored force constants.*germanium"):
        read_force_constants("MnO")


def test_what_is_written_is_read_back(tmp_path, monkeypatch):
    model = germanium(5.0)
    path = tmp_path / "copy.yaml"
    write_crystal(path, model.crystal, model.reference, title="t", source="s", licence="MIT")
    monkeypatch.setattr(
        "simulations.dynamics.given_file.builtin_entry",
        lambda name: yaml.safe_load(path.read_text()),
    )
    again = read_force_constants("copy")
    other = force_constant_model(again.crystal, again, 5.0)
    np.testing.assert_allclose(other.element_values, model.element_values, atol=1e-9)


@pytest.mark.shared_data
def test_built_in_germanium_is_the_dft_germanium(shared_data):
    pairs = read_force_constants(shared_data / "ge")
    # beside a POSCAR, natural masses are those of phonopy's table: 72.64 for 72.63 u
    assert pairs.crystal.masses_u[0] == pytest.approx(72.64)
    crystal = replace(pairs.crystal, masses_u=germanium().crystal.masses_u)
    dft = force_constant_model(crystal, pairs, 7.0)
    q = np.random.default_rng(1).normal(size=(300, 3))
    difference = modes(germanium(), q)[0] - modes(dft, q)[0]
    assert np.sqrt(np.mean(difference**2)) < 1e-5  # meV; measured 6e-8
    # what symmetrising changed, from phonopy's own energies of the raw constants
    assert dft.symmetry_residual < 5e-3


# G. Nilsson and G. Nelin, Phys. Rev. B 3, 364 (1971), germanium at 80 K: THz, ascending
GERMANIUM_MEASURED = {
    (0, 0, 0): [9.12, 9.12, 9.12],
    (1, 0, 0): [2.39, 2.39, 7.21, 7.21, 8.26, 8.26],
    (0.5, 0.5, 0.5): [1.89, 1.89, 6.66, 7.34, 8.69, 8.69],
}


@pytest.mark.shared_data
@pytest.mark.parametrize(("hkl", "measured"), list(GERMANIUM_MEASURED.items()))
def test_dft_germanium_is_near_the_measured_frequencies(shared_data, hkl, measured):
    pairs = read_force_constants(shared_data / "ge")
    model = force_constant_model(pairs.crystal, pairs, None)
    q = np.array([hkl]) @ model.crystal.conventional_reciprocal
    found = modes(model, q)[0][0, -len(measured) :] / MEV_PER_THZ
    # within 1.3 %, but for the soft transverse acoustic modes: 2.6 % at X, 9 % at L
    soft = np.array(measured) < 3
    np.testing.assert_allclose(found[~soft], np.array(measured)[~soft], rtol=0.013)
    np.testing.assert_allclose(found[soft], np.array(measured)[soft], atol=0.18)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["NaCl", "MgB2", "ZnO"])
def test_a_folder_of_phonopy_files_reads(shared_data, name):
    pairs = read_force_constants(shared_data / "phonopy-test" / name)
    assert np.isfinite(pairs.tensors).all()
    assert (pairs.dipole is None) == (name == "MgB2")


def test_a_folder_without_force_constants_says_so(tmp_path):
    poscar(tmp_path / "POSCAR", ["Al"], ["0 0 0"])
    with pytest.raises(ValueError, match="FORCE_CONSTANTS or FORCE_SETS"):
        read_force_constants(tmp_path)


def test_a_phonopy_file_with_a_tag_is_refused_before_anything_is_built(tmp_path):
    bad = tmp_path / "phonopy.yaml"
    marker = tmp_path / "ran"
    bad.write_text(
        f"phonopy:\n  version: 2\nunit_cell: !!python/object/apply:os.mkdir ['{marker}']\n"
    )
    for read in (read_crystal, read_force_constants):
        with pytest.raises(ValueError, match="tag|cannot be read"):
            read(bad)
    assert not marker.exists()
