"""What is known of how soft force fields are, and force constants with that taken out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulations.dynamics import force_constant_model, modes
from simulations.prior import FORCE_FIELDS
from steering.predict import force_field_route, vibrations_of
from steering.predict.field_softness_file import FieldSoftness, softness_of, stiffened
from steering.predict.force_field_route import DEFAULT_FORCE_FIELD

Q = np.array([[0.3, 0.1, 0.2], [0.5, 0.4, 0.0], [0.0, 0.0, 0.0]])


def softness(common: float, **elements: float) -> FieldSoftness:
    return FieldSoftness(
        field="any", common=common, elements=elements, taught=50, measured=40,
        energies=(-0.05, 0.08), energies_before=(-0.2, -0.01), density=0.06, density_before=0.08,
        alone=0.3, alone_taught=7, alone_energies=(-0.22, 0.18),
    )  # fmt: skip


@pytest.fixture(scope="module")
def oxide():
    found = vibrations_of("MnO")
    return replace(found.model.reference, crystal=found.crystal)


def energies(constants):
    return modes(force_constant_model(constants.crystal, constants, None), Q)[0]


def test_a_common_factor_scales_every_energy_by_its_root(oxide):
    stiff = stiffened(oxide, softness(np.log(1.21)))
    np.testing.assert_allclose(energies(stiff)[:2], 1.1 * energies(oxide)[:2], rtol=1e-6)


def test_elements_that_are_not_known_stay_as_they_are(oxide):
    np.testing.assert_array_equal(stiffened(oxide, softness(0.0, Fe=0.7)).tensors, oxide.tensors)


def test_a_bond_takes_what_both_its_ends_have(oxide):
    stiff = stiffened(oxide, softness(0.1, Mn=0.2, O=-0.05))
    kinds = np.array(oxide.crystal.elements)
    ends = np.stack([kinds[oxide.first], kinds[oxide.second]])
    manganese = (ends == "Mn").sum(axis=0)
    expected = np.exp(np.choose(manganese, [0.1 - 0.1, 0.1 + 0.15, 0.1 + 0.4]))
    np.testing.assert_allclose(stiff.tensors, oxide.tensors * expected[:, None, None], rtol=1e-12)


def test_a_crystal_of_one_element_takes_what_such_crystals_have():
    constants = vibrations_of("germanium").model.reference
    stiff = stiffened(constants, softness(0.1, Ge=5.0))
    np.testing.assert_allclose(stiff.tensors, constants.tensors * np.exp(0.4), rtol=1e-12)


def test_the_sum_rule_and_degeneracies_stay(oxide):
    stiff = stiffened(oxide, softness(0.1, Mn=0.2, O=-0.05))
    at_gamma = energies(stiff)[2]
    np.testing.assert_allclose(at_gamma[:3], 0.0, atol=1e-3)
    before = np.isclose(np.diff(energies(oxide)), 0.0, atol=1e-4)
    np.testing.assert_array_equal(np.isclose(np.diff(energies(stiff)), 0.0, atol=1e-4), before)


def test_what_ships_is_of_fields_on_offer_and_left_them_better():
    known = [name for name in FORCE_FIELDS if softness_of(name) is not None]
    assert DEFAULT_FORCE_FIELD in known
    for name in known:
        found = softness_of(name)
        assert found.field == name
        assert found.taught >= 30
        assert found.measured >= 30
        assert found.density < found.density_before
        assert abs(sum(found.energies)) < abs(sum(found.energies_before))
    assert softness_of("mace:weights.model") is None


@pytest.mark.parametrize("name", ["MnO", "aluminium"])
def test_the_route_corrects_a_field_that_something_is_known_of_and_tells(monkeypatch, name):
    def nothing(name):
        return None

    def known(name):
        return softness(np.log(1.21))

    crystal = vibrations_of(name).crystal
    constants = vibrations_of(name).model.reference

    def field_constants(crystal, name, **_):
        return replace(constants, crystal=crystal), (4, 4, 4)

    monkeypatch.setattr(force_field_route, "field_constants", field_constants)
    monkeypatch.setattr(force_field_route, "softness_of", nothing)
    plain = force_field_route._computed(crystal, "any")
    monkeypatch.setattr(force_field_route, "softness_of", known)
    stiff = force_field_route._computed(crystal, "any")
    told = "; ".join(stiff.approximations)
    assert "atoms relaxed in the given cell" in told
    ratio = stiff.dos.energies_meV[-1] / plain.dos.energies_meV[-1]
    if name == "MnO":
        assert ratio == pytest.approx(1.1, rel=1e-3)
        assert stiff.uncertainty.energies == (-0.05, 0.08)
        assert plain.uncertainty is force_field_route.IN_GIVEN_CELL
        assert "stiffened by kind of bond as 50 crystals" in told
        assert "-5 to +8 % off" in told
    else:
        assert ratio == pytest.approx(1.1 * np.exp(0.15), rel=1e-3)
        assert stiff.uncertainty.energies == (-0.22, 0.18)
        assert plain.uncertainty is force_field_route.ALONE
        assert "as 7 crystals of one element ask for" in told
        assert stiff.band is None
