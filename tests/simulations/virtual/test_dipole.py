"""The virtual crystal's own Ewald sum, mode by mode against phonopy and against our model."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from simulations.dynamics import ForceConstantModel
from simulations.virtual import dipole as virtual_dipole
from simulations.virtual.dipole import virtual_dipoles
from simulations.virtual.lattice import VirtualForces, _forces
from tests.simulations.phonon_oracles import phonopy_energies, phonopy_model, zone_vectors

pytestmark = pytest.mark.shared_data
DIRECTIONS = np.array([[0, 0, 1.0], [1, 0, 0], [0.6, 0.0, 0.8], [0.3, -0.5, 0.2]])


@cache
def crystal_of(shared_data, name: str):
    phonon, model = phonopy_model(shared_data, name)
    return phonon, model, _forces(model, model.values)


def wave_vectors(model: ForceConstantModel) -> np.ndarray:
    """Anywhere in a few zones, and towards Gamma from all around, Cartesian."""
    rng = np.random.default_rng(4)
    near = rng.standard_normal((30, 3))
    near *= 10 ** rng.uniform(-4, -1, (30, 1)) / np.linalg.norm(near, axis=1)[:, None]
    far = rng.uniform(-1.5, 1.5, (30, 3)) @ model.crystal.reciprocal
    return np.concatenate([far, near, 1e-4 * DIRECTIONS])


def fractional(model: ForceConstantModel, q: np.ndarray) -> np.ndarray:
    return q @ np.linalg.inv(model.crystal.reciprocal)


def energies(matrices: np.ndarray) -> np.ndarray:
    squares = np.linalg.eigvalsh(matrices)
    return np.sign(squares) * np.sqrt(np.abs(squares))


@pytest.mark.parametrize("name", ["ZnO", "NaCl", "MgO"])
def test_dynamical_matrices_are_those_of_the_model(name, shared_data):
    _, model, forces = crystal_of(shared_data, name)
    q = wave_vectors(model)
    fraction = fractional(model, q)
    phase = np.repeat(np.exp(1j * q @ (model.crystal.positions @ model.crystal.lattice).T), 3, 1)
    found = phase.conj()[:, :, None] * forces.matrices(fraction) * phase[:, None, :]
    expected = model.dynamical_matrices(q, model.values)
    assert np.abs(found - expected).max() < 1e-9 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["ZnO", "NaCl", "MgO"])
def test_energies_are_those_of_phonopy(name, shared_data):
    phonon, model, forces = crystal_of(shared_data, name)
    near = wave_vectors(model)[30:]
    near = near[np.linalg.norm(near, axis=1) > 3e-3]  # nearer, phonopy takes a given direction
    q = np.concatenate([zone_vectors(model, 20), near])  # phonopy's sum is not periodic
    fraction = fractional(model, q)
    expected = phonopy_energies(phonon, q)
    np.testing.assert_allclose(energies(forces.matrices(fraction)), expected, rtol=2e-6)


def test_longitudinal_modes_split_by_direction_at_gamma(shared_data):
    """Cubic: the same from everywhere. Wurtzite: along and across c differ by meV."""
    split = {}
    for name in ("NaCl", "ZnO"):
        _, model, forces = crystal_of(shared_data, name)
        q = 1e-4 * DIRECTIONS / np.linalg.norm(DIRECTIONS, axis=1)[:, None]
        q = np.concatenate([q, np.zeros((1, 3))])
        split[name] = energies(forces.matrices(fractional(model, q)))
    nacl, zno = split["NaCl"], split["ZnO"]
    assert nacl[:-1, 5] == pytest.approx(nacl[0, 5], abs=1e-3)
    assert nacl[0, 5] - nacl[-1, 5] > 5  # at Gamma itself the term is left out
    assert zno[0, 11] - zno[1, 11] > 1


def test_the_sum_does_not_depend_on_its_width(shared_data, monkeypatch):
    """Neither ours nor the model's: what one leaves to real space the couplings take up."""
    _, model, forces = crystal_of(shared_data, "ZnO")
    fraction = fractional(model, wave_vectors(model))
    monkeypatch.setattr(virtual_dipole, "VECTORS", 250)
    other = _forces(model, model.values)
    assert len(other.translations) < len(forces.translations)
    expected = forces.matrices(fraction)
    assert np.abs(other.matrices(fraction) - expected).max() < 1e-8 * np.abs(expected).max()


def test_wrong_charges_are_noticed(shared_data, monkeypatch):
    """The rest of the forces has no finite range unless the dipoles taken away are right."""
    _, model, _ = crystal_of(shared_data, "ZnO")
    dipoles = virtual_dipoles(model.reference)
    assert dipoles is not None
    wrong = replace(dipoles, born=1.01 * dipoles.born)
    monkeypatch.setattr("simulations.virtual.lattice.virtual_dipoles", lambda _: wrong)
    with pytest.raises(ValueError, match="finite range beside the dipoles'"):
        _forces(model, model.values)


def test_a_crystal_without_charges_has_no_dipoles(shared_data):
    _, model, forces = crystal_of(shared_data, "ZnO")
    assert isinstance(forces, VirtualForces)
    assert virtual_dipoles(replace(model.reference, dipole=None)) is None
