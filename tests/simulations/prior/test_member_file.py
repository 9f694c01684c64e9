"""What one force field said survives its file, and a broken file is asked for again."""

import numpy as np
from phonopy.structure.atoms import PhonopyAtoms

from simulations.prior import ForceFieldPhonons, member_path, read_member, write_member

CELL = PhonopyAtoms(
    symbols=["Zn", "O"],
    cell=np.diag([3.0, 3.1, 5.0]),
    scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.4]],
)


def phonons():
    return ForceFieldPhonons(
        force_field="made-up",
        versions={"package": "1"},
        cell=CELL,
        supercell_matrix=(1, 2, 1),
        displacement_A=0.01,
        residual_force_eV_A=1e-4,
        residual_stress_kbar=0.2,
        force_constants=np.random.default_rng(0).normal(size=(2, 4, 3, 3)),
        lowest_meV=-0.1,
        highest_meV=70.0,
    )


def test_an_answer_survives_its_file(tmp_path):
    path = member_path(tmp_path, CELL, "made-up", (1, 2, 1), 0.01, {"package": "1"})
    write_member(phonons(), "not relaxed", path)
    kept = read_member(path)
    assert kept is not None
    found, note = kept
    assert note == "not relaxed"
    np.testing.assert_array_equal(found.force_constants, phonons().force_constants)
    np.testing.assert_array_equal(found.cell.cell, CELL.cell)
    np.testing.assert_array_equal(found.cell.scaled_positions, CELL.scaled_positions)
    assert found.cell.symbols == CELL.symbols
    for name in ("force_field", "versions", "supercell_matrix", "lowest_meV", "highest_meV"):
        assert getattr(found, name) == getattr(phonons(), name)


def test_another_question_has_another_file(tmp_path):
    moved = CELL.copy()
    moved.scaled_positions = [[0, 0, 0], [0.5, 0.5, 0.41]]
    asked = ("made-up", (1, 2, 1), 0.01, {"package": "1"})
    paths = {
        member_path(tmp_path, CELL, *asked),
        member_path(tmp_path, moved, *asked),
        member_path(tmp_path, CELL, "other", *asked[1:]),
        member_path(tmp_path, CELL, "made-up", (2, 2, 1), *asked[2:]),
        member_path(tmp_path, CELL, *asked[:2], 0.02, asked[3]),
        member_path(tmp_path, CELL, *asked[:3], {"package": "2"}),
    }
    assert len(paths) == 6


def test_a_cut_file_is_asked_for_again(tmp_path):
    path = tmp_path / "member.npz"
    assert read_member(path) is None
    write_member(phonons(), "", path)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        assert read_member(path) is None
