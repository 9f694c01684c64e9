from __future__ import annotations

import shutil
import struct
from dataclasses import replace

import numpy as np
import pytest

from simulations.crystal import (
    constants_by_euphonic,
    parse_structure,
    place_structure,
    read_crystal,
    with_isotopes,
)
from simulations.dynamics import (
    carried_onto,
    compare_dipole_sums,
    force_constant_model,
    modes,
    phonon_dos,
    read_force_constants,
    with_dipole_sum,
)
from simulations.dynamics.given_file import from_euphonic
from simulations.dynamics.phonopy_file import load_phonopy
from simulations.errors import InputError, NoForceConstantsError
from simulations.scattering import incoherent_spectrum, one_phonon_lines
from tests.simulations.dynamics.phonondb_ways import (
    BARS,
    compare,
    database,
    misses,
    phonopy_of,
    write_ways,
)
from tests.simulations.phonon_oracles import (
    SUPERCELLS,
    euphonic_constants,
    germanium,
    phonopy_model,
    zone_vectors,
)

ROW = 1388  # K2O3Pb2, cubic, polar


def model_of(read):
    return force_constant_model(read.crystal, read, None)


def given(shared_data, folder, name):
    """POSCAR and FORCE_SETS of the test set, without a word about the supercell."""
    tests = shared_data / "phonopy-test"
    if (tests / name).is_dir():
        shutil.copy(tests / name / "POSCAR-unitcell", folder / "POSCAR")
        shutil.copy(tests / name / "FORCE_SETS", folder / "FORCE_SETS")
    else:
        shutil.copy(tests / f"POSCAR_{name}", folder / "POSCAR")
        shutil.copy(tests / f"FORCE_SETS_{name}", folder / "FORCE_SETS")
    return folder / "POSCAR"


# ---------------------------------------------------------------------------------- supercells


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["I4_1a", "P-4", "P-42_1m", "P2", "P222_1", "P6"])
def test_a_supercell_is_inferred_from_the_forces(shared_data, tmp_path, name):
    found = read_force_constants(given(shared_data, tmp_path, name))
    told = " x ".join(map(str, SUPERCELLS[name]))
    assert f"supercell {told} inferred from FORCE_SETS" in found.notes[0]


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "wrong"),
    [("P222_1", [2, 1, 2]), ("I4_1a", [2, 1, 2]), ("P2", [2, 3, 2]), ("P-42_1m", [3, 2, 2])],
)
def test_a_wrong_supercell_of_as_many_atoms_is_refused(shared_data, tmp_path, name, wrong):
    path = given(shared_data, tmp_path, name)
    right = " x ".join(map(str, SUPERCELLS[name]))
    with pytest.raises(InputError, match=rf"does not belong.*{right}.*--supercell"):
        read_force_constants(path, supercell_matrix=wrong)
    told = read_force_constants(path, supercell_matrix=SUPERCELLS[name]).notes[0]
    assert f"supercell {right} as given" in told


@pytest.mark.shared_data
def test_another_number_of_atoms_is_refused(shared_data, tmp_path):
    path = given(shared_data, tmp_path, "P222_1")
    with pytest.raises(InputError, match=r"2 x 2 x 2.*expected both to agree"):
        read_force_constants(path, supercell_matrix=[2, 2, 2])


@pytest.mark.shared_data
def test_forces_of_another_structure_are_refused(shared_data, tmp_path):
    path = given(shared_data, tmp_path, "P222_1")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "1.0", *reversed(lines[2:5]), *lines[5:]]) + "\n")
    with pytest.raises(InputError, match="force constants"):
        read_force_constants(path)


@pytest.mark.shared_data
@pytest.mark.parametrize("full", [True, False])
def test_a_supercell_is_inferred_from_force_constants(shared_data, tmp_path, full):
    from phonopy.file_IO import write_FORCE_CONSTANTS

    path = given(shared_data, tmp_path, "P222_1")
    sets = read_force_constants(path)
    phonon, _, _ = load_phonopy(path)
    if full:
        phonon.produce_force_constants(calculate_full_force_constants=True)
    (tmp_path / "FORCE_SETS").unlink()
    write_FORCE_CONSTANTS(
        phonon.force_constants,
        filename=str(tmp_path / "FORCE_CONSTANTS"),
        p2s_map=None if full else phonon.primitive.p2s_map,
    )
    read = read_force_constants(path)
    assert "supercell 2 x 2 x 1 inferred from FORCE_CONSTANTS" in read.notes[0]
    q = zone_vectors(model_of(sets), 5)
    np.testing.assert_allclose(modes(model_of(read), q)[0], modes(model_of(sets), q)[0], atol=1e-8)
    with pytest.raises(InputError, match=r"does not .*belong.*2 x 2 x 1"):
        read_force_constants(path, supercell_matrix=[2, 1, 2])


@pytest.mark.shared_data
def test_a_phonopy_file_beside_says_the_supercell(shared_data, tmp_path):
    tests = shared_data / "phonopy-test" / "NaCl"
    path = given(shared_data, tmp_path, "NaCl")
    shutil.copy(tests / "phonopy_disp.yaml", tmp_path / "phonopy_disp.yaml")
    assert "stands in phonopy_disp.yaml" in read_force_constants(path).notes[0]


@pytest.mark.shared_data
def test_displacements_without_forces_say_so(shared_data, tmp_path):
    shutil.copy(
        shared_data / "phonopy-test" / "NaCl" / "phonopy_disp.yaml", tmp_path / "phonopy_disp.yaml"
    )
    with pytest.raises(InputError, match="displacements but no forces") as error:
        read_force_constants(tmp_path / "phonopy_disp.yaml")
    assert not isinstance(error.value, NoForceConstantsError)


@pytest.mark.shared_data
def test_forces_of_the_folder_of_the_program_are_not_taken(shared_data, tmp_path, monkeypatch):
    folder = shared_data / "phonopy-test" / "NaCl"
    (tmp_path / "here").mkdir()
    shutil.copy(folder / "FORCE_SETS", tmp_path / "here" / "FORCE_SETS")
    shutil.copy(folder / "phonopy_disp.yaml", tmp_path / "phonopy_disp.yaml")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match="no forces"):
        read_force_constants(tmp_path / "phonopy_disp.yaml")


def test_abinits_database_is_named_with_what_reads_it(tmp_path):
    for read in (read_force_constants, read_crystal):
        with pytest.raises(InputError, match="DDB of Abinit.*anaget_phonopy_ifc"):
            read(tmp_path / "run_DDB")


# ------------------------------------------------------------------------------------- isotopes


def test_energies_follow_the_mass_of_the_isotope():
    model = germanium()
    heavy = with_isotopes(model.crystal, {"Ge": "76Ge"})
    other = force_constant_model(heavy, model.reference, None)
    q = zone_vectors(model, 6)
    ratio = np.sqrt(model.crystal.masses_u[0] / heavy.masses_u[0])
    np.testing.assert_allclose(modes(other, q)[0], ratio * modes(model, q)[0], rtol=1e-9)
    assert other.elements[: len(model.elements)] == model.elements  # names do not change


def test_intensities_and_incoherent_parts_follow_the_isotope():
    model = germanium()
    heavy = with_isotopes(model.crystal, {"Ge": "76Ge"})
    other = force_constant_model(heavy, model.reference, None)
    Q = zone_vectors(model, 4) + model.crystal.reciprocal[0]
    ours, theirs = one_phonon_lines(other, Q, 0.0), one_phonon_lines(model, Q, 0.0)
    lengths = (heavy.scattering_length[0] / model.crystal.scattering_length[0]) ** 2
    mass = np.sqrt(model.crystal.masses_u[0] / heavy.masses_u[0])  # 1 / m E
    np.testing.assert_allclose(
        ours.creation.sum(1), lengths * mass * theirs.creation.sum(1), rtol=1e-9
    )

    def one_phonon(crystal):
        dos = phonon_dos(force_constant_model(crystal, model.reference, None))
        spectrum = incoherent_spectrum(
            crystal, dos, np.array([0.9, 1.1]), np.linspace(5, 45, 81), temperature_K=5.0,
            resolution=0.5,
        )  # fmt: skip
        return float(spectrum.one_phonon.sum())

    assert heavy.incoherent_barn[0] == 0.0
    assert one_phonon(heavy) == 0.0
    odd = with_isotopes(model.crystal, {"Ge": "73Ge"})
    share = odd.incoherent_barn[0] / model.crystal.incoherent_barn[0]
    mass = np.sqrt(model.crystal.masses_u[0] / odd.masses_u[0])
    assert one_phonon(odd) / one_phonon(model.crystal) == pytest.approx(share * mass, rel=0.02)


@pytest.mark.shared_data
def test_masses_of_a_phonopy_object_reach_the_energies(shared_data):
    folder = shared_data / "phonopy-test" / "NaCl"
    phonon, _, _ = load_phonopy(folder / "phonopy_disp.yaml")
    natural = model_of(read_force_constants(phonon))
    natural_masses = zip(phonon.primitive.symbols, phonon.primitive.masses, strict=True)
    phonon.masses = [37.0 if s == "Cl" else m for s, m in natural_masses]
    heavy = model_of(read_force_constants(phonon))
    assert set(heavy.crystal.symbols) == {"Na", "37Cl"}
    chlorine = heavy.crystal.symbols.index("37Cl")
    assert heavy.crystal.masses_u[chlorine] == 37.0
    assert heavy.crystal.scattering_length[chlorine] == pytest.approx(0.308, abs=1e-3)
    gamma = np.array([[1e-4, 0, 0]])
    reduced = [
        1 / m.crystal.masses_u[0] + 1 / m.crystal.masses_u[1] for m in (natural, heavy)
    ]  # a diatomic crystal's optical modes: E^2 goes as the inverse of the reduced mass
    ratio = modes(heavy, gamma)[0][0, -3:] / modes(natural, gamma)[0][0, -3:]
    np.testing.assert_allclose(ratio, np.sqrt(reduced[1] / reduced[0]), rtol=1e-5)


@pytest.mark.shared_data
def test_an_isotope_on_part_of_the_sites_moves_the_energies_by_its_mass(shared_data, tmp_path):
    path = given(shared_data, tmp_path, "NaCl")  # four chlorines in the file's cell, one of them 37
    natural = model_of(read_force_constants(path, supercell_matrix=[2, 2, 2]))
    lines = path.read_text().splitlines()
    assert lines[5].split() == ["4", "4"]  # the title names the species
    lines[5:6] = ["Na 37Cl Cl", "4 1 3"]
    path.write_text("\n".join(lines) + "\n")
    mixed = model_of(read_force_constants(path, supercell_matrix=[2, 2, 2]))
    assert (natural.crystal.n_atoms, mixed.crystal.n_atoms) == (2, 8)
    # at Gamma of the larger cell the traces of D add up atom by atom
    onsite = np.trace(mixed.onsite(), axis1=1, axis2=2)
    of = dict(
        zip(natural.crystal.elements, np.trace(natural.onsite(), axis1=1, axis2=2), strict=True)
    )
    np.testing.assert_allclose(onsite, [of[s] for s in mixed.crystal.elements], rtol=1e-4)
    heavy = mixed.crystal.symbols.index("37Cl")
    assert mixed.crystal.masses_u[heavy] == pytest.approx(36.966, abs=1e-3)


# ---------------------------------------------------------------------------- equivalent cells


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["P222_1", "ZnO"])
def test_constants_of_an_equivalent_cell_are_carried_onto_the_experiments(
    shared_data, tmp_path, name
):
    path = given(shared_data, tmp_path, name)
    if name == "ZnO":
        shutil.copy(shared_data / "phonopy-test" / "ZnO" / "BORN", tmp_path / "BORN")
        read = read_force_constants(shared_data / "phonopy-test" / "ZnO")
    else:
        read = read_force_constants(path)
    cell = parse_structure(path)
    order = [2, 0, 1]  # a, b, c renamed, the origin shifted, atoms in another order
    atoms = np.roll(np.arange(len(cell.symbols)), 1)
    other = place_structure(
        cell.lattice[order],
        (cell.positions + [0.11, 0.23, 0.37])[atoms][:, order],
        tuple(cell.symbols[a] for a in atoms),
        species=[cell.species[a] for a in atoms],
    ).crystal
    moved = carried_onto(other, read)
    ours, theirs = model_of(read), model_of(moved)
    assert moved.crystal.lattice is other.lattice
    # the same q as lengths and angles to the axes: through the conventional cells of the file
    x = np.random.default_rng(2).uniform(-0.4, 0.4, (6, 3))
    q = x @ ours.crystal.conventional_reciprocal
    there = x[:, order] @ theirs.crystal.conventional_reciprocal
    np.testing.assert_allclose(modes(theirs, there)[0], modes(ours, q)[0], atol=1e-6)


@pytest.mark.shared_data
def test_constants_reach_a_cell_that_is_strained_a_little_and_no_other_crystal(shared_data):
    read = read_force_constants(shared_data / "phonopy-test" / "NaCl")
    crystal = replace(
        read.crystal,
        lattice=1.01 * read.crystal.lattice,
        conventional_lattice=1.01 * read.crystal.conventional_lattice,
    )
    moved = carried_onto(crystal, read)
    assert "strained by 1 %" in moved.notes[-1]
    q = np.random.default_rng(0).uniform(-0.4, 0.4, (5, 3))
    plain = replace(read, dipole=None), replace(moved, dipole=None)
    energies = [
        modes(model_of(r), q @ r.crystal.reciprocal)[0] for r in plain
    ]  # the same fractional q
    np.testing.assert_allclose(energies[0], energies[1], atol=1e-8)
    with pytest.raises(InputError, match="another crystal"):
        carried_onto(read_crystal("germanium"), read)


# ------------------------------------------------------------------------------ other programs


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["MgB2", "NaCl"])
def test_constants_pass_through_euphonic(shared_data, name):
    pytest.importorskip("euphonic", reason="euphonic is the reader")
    model = model_of(read_force_constants(shared_data / "phonopy-test" / name))
    model = replace(model, reference=replace(model.reference, dipole=None))
    back = model_of(from_euphonic(euphonic_constants(model)))
    q = zone_vectors(model, 6)
    np.testing.assert_allclose(modes(back, q)[0], modes(model, q)[0], atol=1e-5)


def placed_again(model, x):
    """Fractional q of the model's own cell, 1/angstrom, in the frame where that cell is placed."""
    cell = model.crystal
    place = place_structure(cell.lattice, cell.positions, cell.elements)
    return x @ cell.reciprocal @ place.rotation.T


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["NaCl", "ZnO", "mp-28163"])
def test_constants_of_a_polar_crystal_give_euphonics_energies(shared_data, name):
    pytest.importorskip("euphonic", reason="euphonic is the reader")
    _, model = phonopy_model(shared_data, name)
    found = euphonic_constants(model)  # without their dipoles, as CASTEP writes them
    read = from_euphonic(found)
    ours = model_of(read)
    assert "full Ewald sum" in read.notes[-1]
    assert with_dipole_sum(ours, "converged") is ours  # an experiment that asks for nothing
    x = np.random.default_rng(4).uniform(-0.5, 0.5, (10, 3))
    q = placed_again(model, x)
    theirs = found.calculate_qpoint_frequencies(
        x, asr=None, dipole=True, reduce_qpts=False, use_c=False
    )
    energies = np.sort(theirs.frequencies.to("meV").magnitude, axis=1)
    np.testing.assert_allclose(modes(ours, q)[0], energies, atol=1e-6)
    # constants as phonopy has them are the same, but for the convention of the sum
    told = compare_dipole_sums(ours)
    assert told.used == "ewald"
    plain = replace(ours.reference, dipole=model.reference.dipole)
    np.testing.assert_allclose(
        modes(replace(ours, reference=plain), q)[0],
        modes(model, x @ model.crystal.reciprocal)[0],
        atol=1e-6 if name == "NaCl" else 1.0,
    )


def write_castep(path, found, symbols):
    """What Euphonic reads of a ``.castep_bin``: records of Fortran, big-endian, atomic units."""

    def record(data):
        size = struct.pack(">i", len(data))
        return size + data + size

    def entry(name, data=b""):
        return record(name.encode().ljust(30)) + (record(data) if data else b"")

    def reals(array):
        return np.ascontiguousarray(array, dtype=">f8").tobytes()

    def whole(array):
        return np.ascontiguousarray(array, dtype=">i4").tobytes()

    crystal = found.crystal
    names = list(dict.fromkeys(symbols))
    counts = [symbols.count(s) for s in names]
    positions = np.zeros((len(names), max(counts), 3))
    for k, s in enumerate(names):
        positions[k, : counts[k]] = crystal.atom_r[[t == s for t in symbols]]
    masses = crystal.atom_mass.to("electron_mass").magnitude
    table = found.force_constants.to("hartree/bohr**2").magnitude
    path.write_bytes(
        entry("BEGIN_PARAMETERS_DUMP", b"20.11")
        + entry("BEGIN_UNIT_CELL")
        + entry("CELL%NUM_IONS", whole(len(symbols)))
        + entry("CELL%REAL_LATTICE", reals(crystal.cell_vectors.to("bohr").magnitude.T))
        + entry("CELL%NUM_SPECIES", whole(len(names)))
        + entry("CELL%NUM_IONS_IN_SPECIES", whole(counts))
        + entry("CELL%IONIC_POSITIONS", reals(positions))
        + entry("CELL%SPECIES_MASS", reals([masses[symbols.index(s)] for s in names]))
        + entry("CELL%SPECIES_SYMBOL", b"".join(s.encode().ljust(8) for s in names))
        + entry("END_UNIT_CELL")
        + entry("FORCE_CON", whole(np.asarray(found.sc_matrix).T))
        + record(reals(table.transpose(0, 2, 1)))
        + record(whole(found.cell_origins))
        + record(whole(1))
        + entry("BORN_CHGS", reals(found.born.to("e").magnitude))
        + entry("DIELECTRIC", reals(found.dielectric.to("e**2/(hartree*bohr)").magnitude.T))
        + entry("END")
    )


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["NaCl", "ZnO"])
def test_a_polar_file_of_castep_is_read_with_the_isotope_of_its_mass(shared_data, tmp_path, name):
    pytest.importorskip("euphonic", reason="euphonic is the reader")
    _, model = phonopy_model(shared_data, name)
    isotope = {"NaCl": {"Cl": "37Cl"}, "ZnO": {"O": "18O"}}[name]
    heavy = with_isotopes(model.crystal, isotope)
    model = force_constant_model(heavy, model.reference, None)
    path = tmp_path / "crystal.castep_bin"
    tagged = [f"{e}:tag" if e in isotope else e for e in heavy.elements]
    write_castep(path, euphonic_constants(model), tagged)
    read = read_force_constants(path)
    crystal = read_crystal(path)
    assert set(read.crystal.symbols) == set(crystal.symbols) == set(heavy.symbols)
    ours = model_of(read)
    x = np.random.default_rng(5).uniform(-0.5, 0.5, (10, 3))
    theirs = constants_by_euphonic(path).calculate_qpoint_frequencies(
        x, asr=None, reduce_qpts=False, use_c=False
    )
    energies = np.sort(theirs.frequencies.to("meV").magnitude, axis=1)
    q = placed_again(model, x)
    np.testing.assert_allclose(modes(ours, q)[0], energies, atol=1e-5)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["NaCl", "MgB2"])
def test_json_that_euphonic_wrote_is_read(shared_data, tmp_path, name):
    pytest.importorskip("euphonic", reason="euphonic is the reader")
    _, model = phonopy_model(shared_data, name)
    found = euphonic_constants(model)
    path = tmp_path / "constants.json"
    found.to_json_file(str(path))
    ours = model_of(read_force_constants(path))
    assert read_crystal(path).symbols == ours.crystal.symbols
    x = np.random.default_rng(6).uniform(-0.5, 0.5, (10, 3))
    theirs = found.calculate_qpoint_frequencies(x, asr=None, reduce_qpts=False, use_c=False)
    energies = np.sort(theirs.frequencies.to("meV").magnitude, axis=1)
    np.testing.assert_allclose(modes(ours, placed_again(model, x))[0], energies, atol=1e-5)


def test_other_json_of_euphonic_is_refused_by_name(tmp_path):
    pytest.importorskip("euphonic", reason="euphonic is the reader")
    path = tmp_path / "dos.json"
    path.write_text('{"__euphonic_class__": "Spectrum1D", "x_data": [0, 1], "y_data": [1, 1]}')
    with pytest.raises(InputError, match="expected a CASTEP phonon calculation.*ForceConstants"):
        read_force_constants(path)
    path.write_text('{"any": 1}')
    with pytest.raises(InputError, match="expected a POSCAR, CIF or phonopy.yaml"):
        read_crystal(path)


def test_an_ase_object_gives_its_constants(tmp_path):
    pytest.importorskip("ase", reason="objects of ASE need it")
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.phonons import Phonons

    phonons = Phonons(
        bulk("Al", "fcc", a=4.05), EMT(), supercell=(4, 4, 4), delta=0.02, name=str(tmp_path / "p")
    )
    phonons.run()
    with pytest.raises(NoForceConstantsError, match="read"):
        read_force_constants(phonons)
    phonons.read(acoustic=True)
    found = read_force_constants(phonons)
    model = model_of(found)
    q = zone_vectors(model, 5)
    fractional = q @ read_crystal(phonons.atoms).lattice.T / (2 * np.pi)
    x = fractional @ model.crystal.lattice  # both lattices are the same primitive one
    assert x.shape == q.shape
    theirs = np.asarray(phonons.get_dos(kpts=(6, 6, 6)).get_energies()) * 1e3
    ours = modes(model, zone_vectors(model, 300))[0]
    assert ours.max() == pytest.approx(theirs.max(), rel=0.02)


# ------------------------------------------------------------------------------------ three ways


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(ROW, id="K2O3Pb2"),
        pytest.param(9003, id="CF2Ho2"),  # phonopy's sum depends on the choice of equivalent q
        pytest.param(504, id="LiRhO2"),  # rhombohedral: thirds with eight digits
    ],
)
def test_three_ways_to_give_a_crystal_agree_with_each_other_and_with_phonopy(shared_data, row):
    found = compare(shared_data, row)
    assert misses(found) == []
    assert set(BARS) <= set(found)


@pytest.mark.shared_data
def test_the_six_decimals_of_a_phonopy_file_stand_for_the_constant_that_they_are_of(
    shared_data, tmp_path
):
    _, _, (phonon, born) = phonopy_of(database(shared_data), ROW)
    files = write_ways(phonon, born, tmp_path)
    assert "unit_conversion_factor: 14.399652" in files["yaml"].read_text()
    own, short = (
        read_force_constants(files[way], supercell_matrix=matrix).dipole
        for way, matrix in (("force_sets", phonon.supercell_matrix), ("yaml", None))
    )
    assert own.coulomb_eV_A == short.coulomb_eV_A == pytest.approx(14.39965172592227, abs=1e-12)
    text = files["yaml"].read_text()
    files["yaml"].write_text(text.replace("factor: 14.399652", "factor: 14.5"))
    assert read_force_constants(files["yaml"]).dipole.coulomb_eV_A == 14.5
