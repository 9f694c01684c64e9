from __future__ import annotations

import numpy as np
import pytest

from simulations.constants import EV_A3_IN_GPA, MEV2_PER_FORCE_CONSTANT
from simulations.crystal import read_crystal
from simulations.dynamics import elastic_constants, force_constant_model
from simulations.dynamics.phonon_dos import VOIGT
from tests.simulations.phonon_oracles import germanium, phonopy_energies, phonopy_model

OBLIQUE = np.array([[0.36, 0.48, 0.8], [0.8, -0.6, 0.0], [0.1, 0.7, -0.7], [-0.5, 0.2, 0.84]])


def whole_tensor(voigt):
    tensor = np.empty((3, 3, 3, 3))
    for i, (a, b) in enumerate(VOIGT):
        for j, (c, d) in enumerate(VOIGT):
            tensor[a, b, c, d] = tensor[b, a, c, d] = voigt[i, j]
            tensor[a, b, d, c] = tensor[b, a, d, c] = voigt[i, j]
    return tensor


def test_springs_between_neighbours_of_an_fcc_crystal():
    """Central springs k: C11 = 2 k / a, C12 = C44 = k / a (Cauchy's relation)."""
    spring = 1.7
    model = force_constant_model(read_crystal("aluminium"), None, 3.0)
    values = {"1NN xx": -spring / 2, "1NN xy": -spring / 2, "1NN zz": 0.0}
    model = model.with_elements([values[name] for name in model.elements])
    side = np.linalg.norm(model.crystal.conventional_lattice[0])
    found = elastic_constants(model)
    unit = spring / side * EV_A3_IN_GPA
    expected = np.zeros((6, 6))
    expected[:3, :3] = unit
    expected[range(6), range(6)] = unit * np.array([2, 2, 2, 1, 1, 1])
    np.testing.assert_allclose(found.voigt_GPa, expected, atol=1e-6 * unit)
    assert found.misfit < 1e-6
    assert found.bulk_modulus_GPa == pytest.approx(4 / 3 * unit, rel=1e-6)


def test_atoms_of_the_cell_relax():
    """Unlike moments of the bonds alone, by which the shear constant of germanium is too stiff."""
    model = germanium()
    bonds = model.reference
    along = bonds.vectors
    volume = abs(np.linalg.det(model.crystal.lattice))
    frozen = -EV_A3_IN_GPA / (2 * volume) * np.sum(bonds.tensors[:, 0, 0] * along[:, 1] ** 2)
    found = elastic_constants(model).voigt_GPa
    assert 50 < found[3, 3] < 0.95 * frozen
    np.testing.assert_allclose(found[:3, :3], found[[1, 2, 0]][:, [1, 2, 0]], rtol=1e-6)
    cubic = np.zeros((6, 6))
    cubic[:3, :3] = found[0, 1]
    cubic[range(6), range(6)] = [found[0, 0]] * 3 + [found[3, 3]] * 3
    np.testing.assert_allclose(found, cubic, atol=1e-5 * found[0, 0])


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["Ge", "MgB2", "P-6m2", "MgO"])
def test_slopes_of_waves_are_those_of_phonopy(shared_data, name):
    """In directions that the fit does not use, polar crystals included."""
    phonon, model = phonopy_model(shared_data, name)
    found = elastic_constants(model)
    direction = OBLIQUE / np.linalg.norm(OBLIQUE, axis=1)[:, None]
    gamma = np.einsum("abcd,nb,nd->nac", whole_tensor(found.voigt_GPa), direction, direction)
    near, far = (phonopy_energies(phonon, step * direction)[:, :3] ** 2 / step**2
                 for step in (0.02, 0.04))  # fmt: skip
    density = model.crystal.masses_u.sum() / abs(np.linalg.det(model.crystal.lattice))
    theirs = density * EV_A3_IN_GPA / MEV2_PER_FORCE_CONSTANT * (4 * near - far) / 3
    scale = np.abs(found.voigt_GPa).max()
    tolerance = max(2e-4, 3 * float(found.misfit))
    np.testing.assert_allclose(np.linalg.eigvalsh(gamma), theirs, atol=tolerance * scale)


@pytest.mark.shared_data
def test_a_hexagonal_tensor_has_five_constants(shared_data):
    _, model = phonopy_model(shared_data, "MgB2")
    found = elastic_constants(model).voigt_GPa
    scale = found.max()
    assert found[5, 5] == pytest.approx((found[0, 0] - found[0, 1]) / 2, abs=1e-5 * scale)
    assert found[3, 3] == pytest.approx(found[4, 4], abs=1e-5 * scale)
    assert found[0, 2] == pytest.approx(found[1, 2], abs=1e-5 * scale)
    assert np.abs(found[:3, 3:]).max() < 1e-5 * scale


def test_many_sets_at_once_are_each_alone():
    model = germanium()
    sets = model.values * (1 + 0.02 * np.arange(6).reshape(2, 3, 1))
    many = elastic_constants(model, sets)
    assert many.voigt_GPa.shape == (2, 3, 6, 6)
    alone = elastic_constants(model, sets[1, 2])
    np.testing.assert_allclose(many.voigt_GPa[1, 2], alone.voigt_GPa, rtol=1e-9, atol=1e-9)
    assert many.misfit.shape == (2, 3)
