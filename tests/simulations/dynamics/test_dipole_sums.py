"""Three ways to sum dipoles against phonopy's own, on layered crystals."""

import numpy as np
import pytest

from simulations.dynamics import compare_dipole_sums, modes, with_dipole_sum
from simulations.errors import InputError
from tests.simulations.phonon_oracles import (
    germanium,
    phonopy_energies,
    phonopy_model,
    set_ewald,
    zone_vectors,
)

# of phonondb: principal dielectric constants of 3.6 and 29, 5.4 and 62, 3.8 and 38
LAYERED = ("mp-10919", "mp-7438", "mp-27850")


@pytest.mark.shared_data
@pytest.mark.parametrize("name", LAYERED)
def test_anisotropic_screening_leaves_phonopys_sphere_unconverged(name, shared_data):
    phonon, model = phonopy_model(shared_data, name)
    q = 0.5 * zone_vectors(model, 12)  # a sphere's sum is not periodic: inside the first zone
    as_it_comes = phonopy_energies(phonon, q)
    ours, _ = modes(model, q)
    off = np.abs(ours - as_it_comes).max()
    assert off > 1e-3
    set_ewald(phonon, 1.0)  # phonopy's sum with as many vectors as it takes
    np.testing.assert_allclose(ours, phonopy_energies(phonon, q), atol=3e-5)

    told = compare_dipole_sums(model)
    assert told is not None
    assert told.used == "converged"
    assert 0.2 * off < told.largest_meV["phonopy"] < 20 * off
    assert f"{told.largest_meV['phonopy']:.2g} meV" in told.note


@pytest.mark.shared_data
def test_phonopys_own_cut_off_can_be_had(shared_data):
    phonon, model = phonopy_model(shared_data, "mp-27850")
    q = 0.5 * zone_vectors(model, 12)
    same, _ = modes(with_dipole_sum(model, "phonopy"), q)
    np.testing.assert_allclose(same, phonopy_energies(phonon, q), atol=3e-5)


@pytest.mark.shared_data
def test_ways_to_sum_agree_where_screening_is_isotropic(shared_data):
    _, model = phonopy_model(shared_data, "NaCl")
    told = compare_dipole_sums(model)
    assert told is not None
    assert told.largest_meV["phonopy"] < 1e-4
    assert told.largest_meV["ewald"] < 0.05
    other = compare_dipole_sums(with_dipole_sum(model, "ewald"))
    assert other is not None
    assert other.used == "ewald"
    assert other.largest_meV["converged"] == pytest.approx(told.largest_meV["ewald"])


@pytest.mark.shared_data
def test_gradients_of_a_layered_crystal_are_those_of_its_matrices(shared_data):
    _, model = phonopy_model(shared_data, "mp-7438")
    q = zone_vectors(model, 1)
    gradients = model.matrix_gradients(q)[0]
    for axis, step in enumerate(1e-4 * np.eye(3)):
        ends = model.dynamical_matrices(np.concatenate([q + step, q - step]))
        np.testing.assert_allclose(gradients[axis], (ends[0] - ends[1]) / 2e-4, atol=1e-4)


def test_a_crystal_without_charges_has_no_way_to_tell():
    model = germanium()
    assert compare_dipole_sums(model) is None
    assert with_dipole_sum(model, "phonopy") is model
    with pytest.raises(InputError, match="dipole_sum is 'wang'; expected one of converged"):
        with_dipole_sum(model, "wang")


@pytest.mark.shared_data
def test_too_many_terms_are_told_and_not_summed(shared_data, monkeypatch):
    _, model = phonopy_model(shared_data, "NaCl")
    monkeypatch.setattr("simulations.dynamics.dipole_sums.MOST_TERMS", 10_000)
    told = compare_dipole_sums(model)
    assert told is not None
    assert np.isnan(told.largest_meV["ewald"])
    assert "too many terms" in told.note
