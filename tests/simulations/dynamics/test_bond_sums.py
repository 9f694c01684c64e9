"""Sums over bonds, compiled, against those of numpy and differences."""

import numpy as np

from simulations.dynamics.bond_sums import bond_sums, summed, summed_gradients
from tests.simulations.dynamics.test_force_constants import polar_low_symmetry
from tests.simulations.phonon_oracles import germanium, zone_vectors


def test_matrices_and_first_derivatives_are_those_of_numpy():
    for model in (germanium(), polar_low_symmetry()):
        q = zone_vectors(model, 5)
        matrices, derivatives = model.free_expansion(q, model.values)
        columns = model._columns @ model.values[:, None]
        sums = bond_sums(model.reference, columns)
        scale = np.abs(matrices).max()
        np.testing.assert_allclose(matrices, summed(sums, q)[0], atol=1e-13 * scale)
        np.testing.assert_allclose(
            matrices, model.dynamical_matrices(q) - model.fixed_matrices(q), atol=1e-12 * scale
        )
        slopes = summed_gradients(sums, q)[0]
        np.testing.assert_allclose(derivatives[:, :3], slopes, atol=1e-6 * np.abs(slopes).max())


def test_second_derivatives_by_q_are_differences_of_the_first():
    model = polar_low_symmetry()
    q = zone_vectors(model, 4)
    step = 1e-4
    whole = model.matrix_gradients
    none = np.zeros(len(model.names))

    def free(q):
        return whole(q, model.values) - whole(q, none)

    slopes = [(free(q + step * a) - free(q - step * a)) / (2 * step) for a in np.eye(3)]
    bends = model.free_expansion(q, model.values)[1][:, 3:]
    scale = np.abs(bends).max()
    for p, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        np.testing.assert_allclose(bends[:, p], slopes[a][:, b], atol=1e-5 * scale)
        np.testing.assert_allclose(bends[:, p], slopes[b][:, a], atol=1e-5 * scale)


def test_no_bond_leaves_what_atoms_have_on_site():
    model = germanium()
    sums = bond_sums(model.reference, np.zeros((len(model.reference.first), 9, 2)))
    assert len(sums.atoms) == 0
    assert summed(sums, np.zeros((3, 3))).shape == (2, 3, 6, 6)
    assert not summed(sums, np.zeros((3, 3))).any()
