from __future__ import annotations

import warnings

import numpy as np
import phonopy
import pytest

from simulations.constants import MEV_PER_THZ
from simulations.crystal import with_isotopes
from simulations.dynamics import (
    PhonopyFolder,
    force_constant_model,
    modes,
    read_force_constants,
    with_dipole_sum,
)
from tests.simulations.phonon_oracles import aluminium, germanium, phonopy_model

POINTS = np.random.default_rng(4).uniform(-0.5, 0.5, (40, 3))


def written(force_constants, folder):
    folder_of = PhonopyFolder(force_constants)
    folder_of.write(force_constants, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        phonon = phonopy.load(
            folder / "phonopy.yaml",
            force_constants_filename=folder / "FORCE_CONSTANTS",
            symmetrize_fc=False,
            log_level=0,
        )
    return folder_of, phonon


def assert_same_energies(model, phonon, back, atol_THz):  # noqa: N803
    q = POINTS @ model.crystal.reciprocal
    ours = modes(model, q)[0] / MEV_PER_THZ
    phonon.run_qpoints(POINTS)
    np.testing.assert_allclose(phonon.qpoints.frequencies, ours, atol=atol_THz)
    again = force_constant_model(back.crystal, back, None)
    if back.dipole is not None:
        again = with_dipole_sum(again, "phonopy")
    np.testing.assert_allclose(modes(again, q)[0] / MEV_PER_THZ, ours, atol=atol_THz)


@pytest.mark.parametrize("make", [germanium, aluminium])
def test_bonds_listed_by_length_get_the_smallest_supercell_that_holds_them(make, tmp_path):
    model = make()
    folder, phonon = written(model.reference, tmp_path)
    assert folder.lost_eV_A2 < 1e-15
    # CODATA of different years are 1e-7 apart
    assert_same_energies(model, phonon, read_force_constants(tmp_path), 2e-6)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["Ge", "P-6m2", "Pc", "NaCl"])
def test_phonopy_reads_the_same_energies(shared_data, name, tmp_path):
    """Low symmetry, several atoms, and Born charges."""
    _, model = phonopy_model(shared_data, name)
    model = with_dipole_sum(model, "phonopy")
    _, phonon = written(model.reference, tmp_path)
    assert (phonon.nac_params is not None) == (name == "NaCl")
    back = read_force_constants(tmp_path)
    np.testing.assert_array_equal(back.supercell, model.reference.supercell)
    assert_same_energies(model, phonon, back, 1e-5)


def test_masses_of_isotopes_go_with_them(tmp_path):
    model = germanium()
    heavy = with_isotopes(model.crystal, {"Ge": "76Ge"})
    _, phonon = written(force_constant_model(heavy, model.reference, None).reference, tmp_path)
    np.testing.assert_allclose(phonon.primitive.masses, 75.92, atol=0.01)


@pytest.mark.shared_data
def test_a_supercell_that_loses_a_change_is_left_for_a_larger_one(shared_data, tmp_path):
    """Images equally far share a constant of the supercell; a posterior may move one of them."""
    _, model = phonopy_model(shared_data, "P-6m2")
    own = model.reference.supercell
    for k in range(len(model.elements) - 1, -1, -1):
        values = model.element_values.copy()
        values[k] += 0.1
        moved = model.with_elements(values)
        folder = PhonopyFolder(moved.reference)
        assert folder.lost_eV_A2 < 1e-9
        if not np.array_equal(folder.supercell, own):
            break
    else:
        pytest.fail("no element needs a larger supercell")
    assert np.linalg.det(folder.supercell) > np.linalg.det(own)
    _, phonon = written(moved.reference, tmp_path)
    assert_same_energies(moved, phonon, read_force_constants(tmp_path), 1e-5)
