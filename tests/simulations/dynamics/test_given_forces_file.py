"""What lies beside a structure and cannot be used is told in one sentence, from every way in."""

from __future__ import annotations

import os
import re
import shutil

import numpy as np
import pytest

from simulations.dynamics import read_force_constants
from simulations.dynamics.given_forces_file import (
    given_forces,
    refuse_odd_constants,
    refuse_odd_dipoles,
)
from simulations.errors import InputError
from tests.simulations.phonon_oracles import phonopy_model

pytestmark = pytest.mark.shared_data
STRUCTURES = ("POSCAR-unitcell", "phonopy_disp.yaml")


@pytest.fixture
def salt(shared_data, tmp_path):
    """Copy of rock salt: POSCAR-unitcell, phonopy_disp.yaml, FORCE_SETS and BORN."""
    folder = tmp_path / "NaCl"
    shutil.copytree(shared_data / "phonopy-test" / "NaCl", folder)
    folder.chmod(0o755)
    for path in folder.iterdir():
        os.chmod(path, 0o644)
    return folder


def changed(path, change):
    path.write_text(change(path.read_text()))


def refused(folder, words, structures=STRUCTURES, **options):
    for name in structures:
        with pytest.raises(InputError) as told:
            read_force_constants(folder / name, **options)
        assert re.search(words, str(told.value)), told.value
        assert "Recursion" not in str(told.value)


def line(number, text):
    """A change of one line, counted from one."""

    def change(whole):
        lines = whole.splitlines()
        lines[number - 1] = text
        return "\n".join(lines) + "\n"

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: "", r"FORCE_SETS is empty; expected the forces"),
        (lambda text: "\n \n", r"FORCE_SETS is empty"),
        (lambda text: "64\n", r"begins with '64'; expected the number of atoms"),
        (lambda text: "a b c\n1\n", r"begins with 'a b c', '1'"),
        (
            lambda text: "\n".join(text.splitlines()[:60]),
            r"cut short: it has 0 of 2 displacements of 64 atoms and \d+ lines of the next; "
            r"expected 134 lines .*phonopy -f",
        ),
        (lambda text: text[: len(text) * 2 // 3], r"cut short: it has 1 of 2 displacements"),
        (line(1, "63"), r"has 134 lines that are not blank; expected 132"),
        (
            line(7, " nan nan nan"),
            r"force on atom 2 for displacement 1 of .*FORCE_SETS is nan .*finite",
        ),
        (line(7, " 0 inf 0"), r"force on atom 2 .* is 0 inf 0; expected forces that are finite"),
        (line(7, " 1e30 0 0"), r"is 1e\+30 0 0; expected forces that are at most 1,000,000 eV"),
        (line(7, " ***** 0 0"), r"FORCE_SETS cannot be read .*could not convert"),
        (line(7, " 0 0"), r"FORCE_SETS cannot be read"),
        (line(5, "0.0 0.0 0.0"), r"displacement 1 of .*FORCE_SETS is 0 0 0"),
        (line(5, "0.01 nan 0.0"), r"displacement 1 of .*FORCE_SETS is 0.01 nan 0"),
    ],
)
def test_forces_that_cannot_be_used_are_told(salt, change, words):
    changed(salt / "FORCE_SETS", change)
    refused(salt, words)


def test_forces_that_move_all_atoms_at_once_are_held_to_the_same(salt):
    moved = np.zeros((64, 6))
    moved[:, :3] = 0.01
    moved[7, 4] = np.nan
    np.savetxt(salt / "FORCE_SETS", moved)
    refused(salt, "force on atom 8 for displacement 1 of", structures=STRUCTURES[1:])
    refused(salt, "moves all atoms at once", structures=STRUCTURES[:1])


def test_forces_of_a_displacement_that_is_too_small_give_constants_beyond_sense(salt):
    """A force of 20,000 eV/angstrom passes, what it makes with 0.01 angstrom does not."""
    changed(salt / "FORCE_SETS", lambda text: text.replace("-0.0180619400", "-20000.0"))
    refused(
        salt,
        r"are up to 1?\.?\d+e\+06 eV/angstrom\^2; expected at most 1,000,000",
        structures=STRUCTURES[1:],
    )


def test_constants_that_are_cut_short_are_told(salt):
    (salt / "FORCE_SETS").unlink()
    for text in ("", "8 64\n1 1\n0 0 0\n", "x\n"):
        (salt / "FORCE_CONSTANTS").write_text(text)
        refused(salt, r"FORCE_CONSTANTS is empty, cut short or none")


@pytest.mark.parametrize(
    ("number", "text", "words"),
    [
        (1, "nan", r"line 1 of .*BORN, factor, holds nan"),
        (2, "nan 0 0 0 2.4 0 0 0 2.4", r"line 2 of .*BORN, dielectric tensor, holds nan"),
        (3, "1 0 0 0 inf 0 0 0 1", r"line 3 of .*BORN, Born charge, holds inf"),
        (4, "1 0 0 0 1 0 0 0 -NaN", r"line 4 of .*BORN, Born charge, holds -NaN"),
        (3, "1 0 0", r"BORN cannot be read by phonopy .*expected a factor"),
    ],
)
def test_charges_that_are_no_numbers_are_told_with_their_line(salt, number, text, words):
    changed(salt / "BORN", line(number, text))
    refused(salt, words)
    (salt / "BORN").unlink()
    read_force_constants(salt / STRUCTURES[1])


def test_charges_of_an_object_that_are_no_numbers_are_told(shared_data):
    from simulations.dynamics import from_phonopy

    phonon, _ = phonopy_model(shared_data, "NaCl")
    charges = dict(phonon.nac_params)
    charges["dielectric"] = np.full((3, 3), np.nan)
    phonon.nac_params = charges
    with pytest.raises(InputError, match="dielectric tensor hold NaN"):
        from_phonopy(phonon)
    with pytest.raises(InputError, match="Born charges hold NaN"):
        refuse_odd_dipoles({"born": np.full((2, 3, 3), np.inf), "dielectric": np.eye(3)})


@pytest.mark.parametrize("supercell", [None, [2, 2, 2]])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda text: text.replace("Na Cl", "Cl Na"),
            r"atom 1 of .*POSCAR-unitcell is Cl, but Na in .*yaml \(Cl4 Na4 and Na4 Cl4",
        ),
        (
            lambda text: text.replace("Na Cl", "K Cl"),
            r"is K, but Na in",
        ),
        (
            line(2, "1.1"),
            r"lattice of .*POSCAR-unitcell is \(6.25933 0 0\).*but that of .*\(5.6903 0 0\)",
        ),
        (lambda text: line(2, "1.01")(text), r"lattice of"),
    ],
)
def test_a_structure_that_contradicts_the_phonopy_file_beside_is_refused(
    salt, change, words, supercell
):
    changed(salt / "POSCAR-unitcell", change)
    refused(salt, words, STRUCTURES[:1], supercell_matrix=supercell)
    refused(salt, "one of another|as the structure", STRUCTURES[:1], supercell_matrix=supercell)
    (salt / "phonopy_disp.yaml").unlink()  # then the forces alone must tell


def primitive(scale=1.0, second="Cl"):
    a = 5.6903014761756712 / 2 * scale
    return (
        f"salt\n1.0\n0 {a} {a}\n{a} 0 {a}\n{a} {a} 0\nNa {second}\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"
    )


def test_another_cell_of_the_same_crystal_is_no_contradiction(salt):
    """It is left to the forces whether they belong to it."""
    path = salt / "POSCAR"
    path.write_text(primitive())
    refused(salt, "^force constants", ["POSCAR"])
    path.write_text(primitive(1.1))
    refused(salt, r"an atom of .*POSCAR has 30.65 cubic angstrom, but one of .* 23.03", ["POSCAR"])
    path.write_text(primitive(second="Br"))
    refused(salt, r"has the atoms Na1 Br1, but .* Na4 Cl4", ["POSCAR"])


def test_a_structure_of_few_digits_agrees_with_the_phonopy_file_beside(salt):
    changed(salt / "POSCAR-unitcell", lambda text: text.replace("5.6903014761756712", "5.69"))
    found = read_force_constants(salt / "POSCAR-unitcell")
    assert "stands in phonopy_disp.yaml" in found.notes[0]


def test_good_files_are_read_and_constants_have_a_bound(salt):
    forces = given_forces(salt / "FORCE_SETS", None)
    assert forces.n_atoms == 64
    refuse_odd_constants(np.full((1, 1, 3, 3), 999.0), "FORCE_CONSTANTS")
    with pytest.raises(InputError, match="of FORCE_CONSTANTS are up to 2e[+]06"):
        refuse_odd_constants(np.full((1, 1, 3, 3), 2e6), "FORCE_CONSTANTS")
