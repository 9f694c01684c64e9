"""Boxes of force constants: how they are made, stored and sampled."""

import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phonopy.structure.atoms import PhonopyAtoms

from simulations.crystal import read_crystal
from simulations.crystal.placement import crystal_from_cells
from simulations.dynamics import force_constant_model, modes, read_force_constants, select_free
from simulations.prior import (
    BoxPrior,
    ForceFieldPhonons,
    PriorRejectsAllError,
    default_supercell,
    force_field_phonons,
    load_prior,
    load_prior_record,
    member_force_constants,
    prior_from_members,
    stored_priors,
    write_prior,
)
from simulations.prior.box_file import PriorFileError, prior_force_constants
from simulations.prior.widening import widened_box


def mesh(crystal, n):
    steps = np.arange(n) / n
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    return (grid + 0.01) @ crystal.reciprocal


def germanium_path(crystal):
    corners = [
        ([0, 0, 0], [0, 0, 1]),
        ([0, 0, 1], [0.25, 0.25, 1]),
        ([0.75, 0.75, 0], [0, 0, 0]),
        ([0, 0, 0], [0.5, 0.5, 0.5]),
        ([0.5, 0.5, 0.5], [0.5, 0, 1]),
        ([0.5, 0, 1], [0, 0, 1]),
    ]
    hkl = np.concatenate([np.linspace(a, b, 15) for a, b in corners])
    return hkl @ crystal.conventional_reciprocal


def test_the_box_grows_by_a_quarter_towards_zero_and_one_and_a_half_away():
    lower, upper = widened_box([[1.0, -1.0, -1.0], [2.0, -3.0, 3.0]])
    np.testing.assert_allclose(lower, [0.75, -6.0, -2.0])
    np.testing.assert_allclose(upper, [3.5, -0.5, 9.0])


@given(
    st.lists(st.tuples(*[st.floats(-5, 5, allow_nan=False, width=32)] * 3), min_size=2, max_size=8)
)
def test_the_box_holds_every_member_and_mirrors_with_the_sign(members):
    values = np.array(members, dtype=float)
    lower, upper = widened_box(values)
    assert np.all(values >= lower - 1e-12)
    assert np.all(values <= upper + 1e-12)
    unequal = np.abs(values.max(axis=0)) != np.abs(values.min(axis=0))
    below, above = widened_box(-values)
    np.testing.assert_allclose(below[unequal], -upper[unequal])
    np.testing.assert_allclose(above[unequal], -lower[unequal])


def test_one_member_has_no_range():
    with pytest.raises(ValueError, match="at least two members"):
        widened_box([[1.0, 2.0]])


@pytest.mark.parametrize("name", ["MnO", "aluminium", "germanium", "niobium"])
def test_stored_priors_rebuild_stable_force_constants(name):
    record = load_prior_record(name)
    constants = prior_force_constants(name)
    model = force_constant_model(constants.crystal, constants, None)
    assert model.elements == record.box.names
    np.testing.assert_allclose(model.element_values, record.reference_values, atol=1e-9)
    energies, _ = modes(model, mesh(constants.crystal, 6))
    assert energies.min() > 0
    assert record.box.contains(record.reference_values).all()


def test_the_box_is_the_rule_applied_to_the_stable_members():
    for name in stored_priors():
        record = load_prior_record(name)
        lower, upper = widened_box([m.values for m in record.stable_members])
        kept = [n not in record.moved_bounds for n in record.box.names]
        np.testing.assert_allclose(record.box.lower[kept], lower[kept], atol=3e-7)
        np.testing.assert_allclose(record.box.upper[kept], upper[kept], atol=3e-7)


def test_unstable_members_are_recorded_and_left_out():
    record = load_prior_record("aluminium")
    dropped = [m for m in record.members if not m.stable]
    assert {m.force_field for m in dropped} == {"chgnet-0.3.0", "sevennet-0-22May2024"}
    assert all(m.lowest_meV < -0.5 for m in dropped)


def test_dft_germanium_lies_inside_the_box_and_moved_bounds_are_declared():
    reference = read_force_constants("germanium")
    record = load_prior_record("germanium")
    model = force_constant_model(reference.crystal, reference, record.cutoff_A)
    assert model.elements == record.box.names
    assert record.box.contains(model.element_values).all()
    lower, upper = widened_box([m.values for m in record.stable_members])
    outside = (model.element_values < lower) | (model.element_values > upper)
    declared = {n for n, out in zip(record.box.names, outside, strict=True) if out}
    assert declared == set(record.moved_bounds)
    # up to the fourth shell the rule alone suffices
    assert not any(n.startswith(("1NN", "2NN", "3NN", "4NN")) for n in declared)


def test_measured_niobium_lies_inside_the_box_and_moved_bounds_are_declared():
    reference = read_force_constants("niobium")
    record = load_prior_record("niobium")
    model = force_constant_model(reference.crystal, reference, None)
    assert model.elements == record.box.names
    assert record.box.contains(model.element_values).all()
    assert len(record.members) == 6
    dropped = {m.force_field for m in record.members if not m.stable}
    assert dropped == {"sevennet-0-22May2024", "sevennet-l3i5"}
    lower, upper = widened_box([m.values for m in record.stable_members])
    outside = (model.element_values < lower) | (model.element_values > upper)
    declared = {n for n, out in zip(record.box.names, outside, strict=True) if out}
    assert declared == set(record.moved_bounds)


def test_a_prior_is_made_of_what_force_fields_say_of_a_structure(tmp_path, monkeypatch):
    # effective-medium theory, once as it is and once 1.2 times as stiff, stands for two networks
    emt = pytest.importorskip("ase.calculators.emt", reason="ase comes with the force fields")

    class Stiff(emt.EMT):
        def calculate(self, *arguments):
            super().calculate(*arguments)
            for key, value in self.results.items():
                self.results[key] = 1.2 * value

    soft, stiff = tmp_path / "soft", tmp_path / "stiff"
    for path in (soft, stiff):
        path.write_bytes(b"weights")
    package = types.ModuleType("mace.calculators")
    package.MACECalculator = (  # type: ignore[attr-defined]
        lambda model_paths, **_: emt.EMT() if model_paths == str(soft) else Stiff()
    )
    monkeypatch.setitem(sys.modules, "mace", types.ModuleType("mace"))
    monkeypatch.setitem(sys.modules, "mace.calculators", package)
    crystal = read_crystal("aluminium")
    cell = PhonopyAtoms(
        symbols=list(crystal.symbols), cell=crystal.lattice, scaled_positions=crystal.positions
    )
    supercell = default_supercell(crystal.lattice, 1.05 * 4.1)
    members = [
        force_field_phonons(cell, f"mace:{path}", supercell=supercell) for path in (soft, stiff)
    ]
    record = prior_from_members("aluminium", crystal, members, cutoff_A=4.1)
    assert [m.force_field for m in record.members] == [f"mace:{soft}", f"mace:{stiff}"]
    assert record.box.names == ("1NN xx", "1NN xy", "1NN zz", "2NN xx", "2NN yy")
    np.testing.assert_allclose(record.members[1].values, 1.2 * record.members[0].values, atol=2e-4)
    values = [m.values for m in record.members]
    lower, upper = widened_box(values, record.widening, record.bonds)
    np.testing.assert_array_equal(record.box.lower, lower)
    np.testing.assert_array_equal(record.box.upper, upper)


def test_atoms_may_move_in_the_relaxation_but_not_change_places():
    x = np.array([[0, 0, 0], [0.5, 0.5, 0.47]])
    lattice = np.diag([3.0, 3.1, 5.0])
    crystal = crystal_from_cells(lattice, x, ("Zn", "O"), lattice)

    def phonons(positions):
        cell = PhonopyAtoms(symbols=["Zn", "O"], cell=1.02 * lattice, scaled_positions=positions)
        return ForceFieldPhonons(
            force_field="made-up",
            versions={},
            cell=cell,
            supercell_matrix=(1, 1, 1),
            displacement_A=0.01,
            residual_force_eV_A=0.0,
            residual_stress_kbar=0.0,
            force_constants=np.array([[np.eye(3), -np.eye(3)], [-np.eye(3), np.eye(3)]]),
            lowest_meV=0.0,
            highest_meV=50.0,
        )

    moved = member_force_constants(crystal, phonons(x + [[0, 0, 0], [0, 0, -0.02]]))
    assert np.abs(moved.tensors).max() > 0
    with pytest.raises(ValueError, match="moved by more than 0.1 of a lattice vector"):
        member_force_constants(crystal, phonons(x[::-1]))


def test_samples_are_inside_stable_and_reproducible():
    reference = read_force_constants("germanium")
    model = force_constant_model(reference.crystal, reference, 7.0)
    q = germanium_path(reference.crystal)
    model = model.with_free(select_free(model, 8, q))
    prior = load_prior("germanium").restricted(model.names)
    sample = prior.sample(40, np.random.default_rng(3), model, q)
    again = prior.sample(40, np.random.default_rng(3), model, q)
    np.testing.assert_array_equal(sample.values, again.values)
    assert prior.contains(sample.values).all()
    assert 0.3 < sample.acceptance < 0.8
    energies, _ = modes(model, q, sample.values)
    assert energies.min() > -0.5


def test_moments_are_those_of_the_uniform_box():
    prior = BoxPrior(names=("a", "b"), lower=np.array([0.0, -2.0]), upper=np.array([1.0, 4.0]))
    draws = prior.sample(200_000, np.random.default_rng(0)).values
    np.testing.assert_allclose(draws.mean(axis=0), prior.mean, atol=0.01)
    np.testing.assert_allclose(draws.std(axis=0), prior.sigma, rtol=0.01)


def test_a_box_without_stable_sets_gives_up_with_a_reason():
    crystal = read_crystal("aluminium")
    constants = prior_force_constants("aluminium")
    model = force_constant_model(crystal, constants, 3.0)
    k = len(model.names)
    prior = BoxPrior(names=model.names, lower=np.full(k, 1.0), upper=np.full(k, 2.0))
    with pytest.raises(PriorRejectsAllError, match="no set of the prior's box is dynamically stab"):
        prior.sample(5, np.random.default_rng(0), model, mesh(crystal, 3))


def test_errors_name_what_is_missing(tmp_path):
    prior = load_prior("aluminium")
    with pytest.raises(ValueError, match="no bounds for 9NN xx; it has 1NN xx"):
        prior.restricted(["1NN xx", "9NN xx"])
    with pytest.raises(ValueError, match="lower is not below upper for a"):
        BoxPrior(names=("a",), lower=np.array([1.0]), upper=np.array([1.0]))
    with pytest.raises(PriorFileError, match="neither a shipped prior .*aluminium"):
        load_prior("unobtainium")
    broken = tmp_path / "broken.yaml"
    broken.write_text("format: 1\ncrystal: x\n")
    with pytest.raises(PriorFileError, match="KeyError"):
        load_prior(broken)
    broken.write_text("format: 99\n")
    with pytest.raises(PriorFileError, match="this version reads 1"):
        load_prior(broken)


def test_a_prior_survives_its_file(tmp_path):
    record = load_prior_record("MnO")
    write_prior(record, tmp_path / "copy.yaml")
    copy = load_prior_record(tmp_path / "copy.yaml")
    np.testing.assert_array_equal(copy.box.lower, record.box.lower)
    assert copy.bonds == record.bonds
    assert copy.members[2].versions == record.members[2].versions
