from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.constants import MEV2_PER_FORCE_CONSTANT
from simulations.crystal import laue_rotations, place_structure, read_crystal
from simulations.crystal.placement import crystal_from_cells
from simulations.dynamics import (
    energies_of_sets,
    force_constant_model,
    from_representatives,
    from_supercell,
    modes,
    read_force_constants,
    select_free,
    supercell_bonds,
)
from simulations.dynamics.phonopy_file import from_phonopy, to_phonopy_array
from simulations.dynamics.shells import path_sensitivity, shells
from simulations.dynamics.supercell import to_supercell
from simulations.dynamics.symmetry_elements import symmetrised
from tests.simulations.phonon_oracles import (
    aluminium,
    germanium,
    phonopy_energies,
    phonopy_model,
    zone_vectors,
)


@lru_cache
def polar_low_symmetry():
    """A made-up monoclinic polar crystal (space group Pm) with random short-range constants."""
    lattice = np.array([[4.1, 0, 0], [0, 3.3, 0], [-0.9, 0, 5.2]])
    x = np.array([[0, 0, 0], [0.45, 0.5, 0.4], [0.8, 0, 0.63]])
    crystal = place_structure(lattice, x, ("Zn", "S", "O")).crystal
    model = force_constant_model(crystal, None, 4.2)
    return model.with_elements(np.random.default_rng(4).normal(size=len(model.elements)))


# --------------------------------------------------------------------------------------- names


def test_germanium_has_the_known_number_of_constants_per_shell():
    # Herman 1959: diamond has 2, 4, 4, 2 constants in shells 1 to 4
    labels = [name.split()[0] for name in germanium().elements]
    assert [labels.count(f"{n}NN") for n in (1, 2, 3, 4)] == [2, 4, 4, 2]
    assert germanium().elements[:6] == (
        "1NN xx", "1NN xy", "2NN xx", "2NN xy", "2NN xz", "2NN zz",
    )  # fmt: skip


def test_bcc_has_the_constants_of_the_textbook():
    a = 3.30
    lattice = a / 2 * np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    niobium = crystal_from_cells(lattice, [[0, 0, 0]], ("Nb",), a * np.eye(3))
    names = force_constant_model(niobium, None, 1.7 * a).elements
    assert names == (
        "1NN xx", "1NN xy", "2NN xx", "2NN yy", "3NN xx", "3NN xy", "3NN zz",
        "4NN xx", "4NN xy", "4NN yy", "4NN yz",
    )  # fmt: skip


def test_names_carry_species_where_there_are_several():
    names = force_constant_model(read_crystal("MnO"), None, 3.2).elements
    assert names[:2] == ("1NN Mn-O xx", "1NN Mn-O yy")
    assert {"1NN Mn-Mn zz", "1NN O-O xy"} < set(names)


def test_names_of_near_shells_do_not_change_with_the_cutoff():
    near, far = germanium(5.0).elements, germanium(9.0).elements
    assert far[: len(near)] == near


def test_two_classes_of_equal_length_get_letters():
    a = 3.30
    lattice = a / 2 * np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    niobium = crystal_from_cells(lattice, [[0, 0, 0]], ("Nb",), a * np.eye(3))
    names = force_constant_model(niobium, None, 2.6 * a).elements
    assert {"10NNa xx", "10NNb xx"} < set(names)  # 511 and 333


def test_a_named_element_is_that_element_of_its_bond():
    model = germanium()
    pairs = model.force_constants()
    k = model.elements.index("2NN xz")
    bond = np.argmin(np.linalg.norm(pairs.vectors - model.element_bonds[k], axis=1))
    b = np.flatnonzero(np.linalg.norm(pairs.vectors - pairs.vectors[bond], axis=1) < 1e-6)
    values = {round(float(v), 9) for v in pairs.tensors[b, 0, 2]}
    assert round(float(model.element_values[k]), 9) in values
    change = np.zeros(len(model.elements))
    change[k] = 0.1
    other = model.force_constants(model.values + change).tensors
    moved = other - pairs.tensors
    assert np.abs(moved[b, 0, 2]).max() == pytest.approx(0.1)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "cutoff"),
    [("NaCl", 5.6), ("ZnO", 3.2), ("MgB2", 3.4), ("SnO2", 4.7), ("P2", 5.0),
     ("Amm2", 5.0), ("P-3m1", 5.5)],
)  # fmt: skip
def test_the_space_has_the_dimension_that_symfc_finds(shared_data, name, cutoff):
    recursion_limit = sys.getrecursionlimit()
    symfc = pytest.importorskip("symfc", reason="symfc is the independent count")
    from symfc.utils.utils import SymfcAtoms

    sys.setrecursionlimit(recursion_limit)  # its import raises it to where the stack overflows

    phonon, model = phonopy_model(shared_data, name)
    cell = SymfcAtoms(
        cell=phonon.supercell.cell,
        scaled_positions=phonon.supercell.scaled_positions,
        numbers=phonon.supercell.numbers,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counted = symfc.Symfc(cell, cutoff={2: cutoff})
        counted.compute_basis_set(2)
    ours = force_constant_model(model.crystal, model.reference, cutoff)
    assert len(ours.elements) == counted.basis_set[2].basis_set.shape[1]


# ------------------------------------------------------------------------------------ matrices


@pytest.mark.parametrize("build", [germanium, aluminium, polar_low_symmetry])
def test_matrices_are_hermitian_and_linear_in_the_parameters(build):
    model = build()
    model = model.with_free(model.elements[1::3])
    q = np.random.default_rng(0).normal(size=(40, 3))
    fixed, basis = model.matrices(q)
    n = model.n_modes
    assert fixed.shape == (40, n, n)
    assert basis.shape == (40, len(model.names), n, n)
    for matrix in (fixed, basis):
        np.testing.assert_allclose(matrix, matrix.conj().swapaxes(-1, -2), atol=1e-9)
    phi = model.values + np.linspace(-0.3, 0.2, len(model.names))
    values = dict(zip(model.elements, model.element_values, strict=True))
    values.update(zip(model.names, phi, strict=True))
    moved = model.with_elements([values[name] for name in model.elements])
    np.testing.assert_allclose(
        model.dynamical_matrices(q, phi), moved.dynamical_matrices(q), atol=1e-9
    )


def test_what_is_free_does_not_change_the_reference():
    model = germanium()
    q = np.random.default_rng(0).normal(size=(20, 3))
    np.testing.assert_allclose(
        model.with_free(["3NN yz", "1NN xx"]).dynamical_matrices(q),
        model.with_free([]).fixed_matrices(q),
        atol=1e-9,
    )


def test_a_chain_has_its_analytic_dispersion():
    # fcc planes along [001]: only 1NN xx moves a transverse wave, m w^2 = 8 |xx| (1 - cos qa/2)
    model = force_constant_model(read_crystal("aluminium"), None, 3.0)
    model = model.with_elements([-0.5 if n == "1NN xx" else 0.0 for n in model.elements])
    a = 4.05
    q = np.array([[0, 0, k] for k in (0.2, 0.7, 1.3)])
    energies, _ = modes(model, q)
    bonds = 4 * 0.5 * (1 - np.cos(q[:, 2] * a / 2))  # bonds (1 0 1) along x: 4 with xx
    expected = np.sqrt(bonds * MEV2_PER_FORCE_CONSTANT / model.crystal.masses_u[0])
    np.testing.assert_allclose(energies[:, 0], expected, rtol=1e-9)


@pytest.mark.parametrize("build", [germanium, aluminium, polar_low_symmetry])
def test_acoustic_modes_vanish_at_gamma_for_any_parameters(build):
    model = build()
    phi = np.random.default_rng(2).normal(size=len(model.names))
    matrix = model.dynamical_matrices(np.zeros((1, 3)), phi)[0]
    mass = np.sqrt(np.repeat(model.crystal.masses_u, 3))
    for axis in range(3):
        shift = np.tile(np.eye(3)[axis], model.crystal.n_atoms) * mass
        assert np.abs(matrix @ shift).max() < 1e-7 * MEV2_PER_FORCE_CONSTANT / mass.max()


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), operation=st.integers(0, 47))
def test_energies_are_equal_on_the_whole_star(seed, operation):
    model = germanium()
    _, rotations = laue_rotations(model.crystal)
    rng = np.random.default_rng(seed)
    phi = model.values + 0.02 * rng.normal(size=len(model.values))
    q = rng.normal(size=(3, 3))
    there = modes(model, q @ rotations[operation].T, phi)[0]
    np.testing.assert_allclose(there, modes(model, q, phi)[0], atol=1e-6)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["NaCl", "ZnO"])
def test_a_reciprocal_vector_only_turns_phases(shared_data, name):
    _, model = phonopy_model(shared_data, name)
    q = zone_vectors(model, 5)
    G = np.array([2, -1, 3]) @ model.crystal.reciprocal
    phase = np.repeat(np.exp(1j * model.crystal.positions @ model.crystal.lattice @ G), 3)
    turned = phase.conj()[:, None] * model.dynamical_matrices(q) * phase[None, :]
    np.testing.assert_allclose(model.dynamical_matrices(q + G), turned, atol=1e-8)


def test_q_of_the_wrong_shape_or_value_is_refused():
    with pytest.raises(ValueError, match=r"expected \(Q, 3\)"):
        germanium().matrices(np.zeros(3))
    with pytest.raises(ValueError, match="NaN"):
        germanium().matrices(np.full((1, 3), np.nan))


# ------------------------------------------------------------------- full constants and phonopy


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "name", ["NaCl", "MgB2", "ZnO", "SnO2", "TiO2-anatase", "Al2O3", "P2", "Amm2", "P-3m1"]
)
def test_energies_agree_with_phonopy(shared_data, name):
    phonon, model = phonopy_model(shared_data, name)
    q = zone_vectors(model, 12)
    # phonopy cuts its Ewald sum by |G|, not |q + G|: 6e-7 for NaCl near the zone's corners
    np.testing.assert_allclose(modes(model, q)[0], phonopy_energies(phonon, q), rtol=1e-6)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["NaCl", "SnO2", "P2", "Amm2", "P-3m1"])
def test_full_force_constants_round_trip_through_named_elements(shared_data, name):
    phonon, model = phonopy_model(shared_data, name)  # covers the supercell: no far shells
    pairs = from_phonopy(phonon)
    named = force_constant_model(pairs.crystal, pairs, None)
    assert named.symmetry_residual < 1e-10
    zero = named.with_elements(np.zeros(len(named.elements)))
    assert np.abs(zero.reference.tensors).max() < 1e-10  # nothing but the named elements
    back = zero.with_elements(named.element_values).force_constants()
    full = to_phonopy_array(back, phonon)
    np.testing.assert_allclose(full, phonon.force_constants, atol=1e-10)


def test_germanium_round_trips_through_its_supercell():
    model = germanium(None)
    supercell = 4 * np.eye(3, dtype=int)
    cells, constants = to_supercell(model.force_constants(), supercell)
    pairs = from_supercell(model.crystal, supercell, cells, constants)
    again = force_constant_model(model.crystal, pairs, None)
    np.testing.assert_allclose(again.element_values, model.element_values, atol=1e-10)
    assert again.symmetry_residual < 1e-10
    np.testing.assert_allclose(constants.sum(axis=(1, 2)), 0, atol=1e-10)


def test_niobium_round_trips_where_the_supercell_holds_its_bonds():
    constants = read_force_constants("niobium")
    model = force_constant_model(constants.crystal, constants, None)
    supercell = 7 * np.eye(3, dtype=int)  # holds a sphere of 8.2 angstrom; bonds reach 7.38
    cells, folded = to_supercell(constants, supercell)
    pairs = from_supercell(model.crystal, supercell, cells, folded)
    again = force_constant_model(model.crystal, pairs, 7.45)
    assert again.elements == model.elements
    np.testing.assert_allclose(again.element_values, model.element_values, atol=1e-10)
    assert again.beyond_elements() < 1e-10
    np.testing.assert_allclose(to_supercell(again.force_constants())[1], folded, atol=1e-10)
    np.testing.assert_allclose(model.read_elements(pairs), model.element_values, atol=1e-10)


def test_what_a_short_cutoff_leaves_out_is_reported():
    far = germanium(None)
    assert far.beyond_elements() < 1e-10
    near = germanium(7.0)
    beyond = near.reference.lengths > 7.0
    expected = np.abs(near.reference.tensors[beyond]).max()
    assert near.beyond_elements() == pytest.approx(expected, abs=1e-10)
    assert 0.01 < expected < 0.1
    # a supercell that is too small folds far bonds onto near ones: other elements come back
    constants = read_force_constants("niobium")
    supercell = 4 * np.eye(3, dtype=int)
    cells, folded = to_supercell(constants, supercell)
    pairs = from_supercell(constants.crystal, supercell, cells, folded)
    with pytest.raises(ValueError, match=r"reach \d\.\d+ angstrom, the largest allowed"):
        force_constant_model(constants.crystal, pairs, 7.45)


def test_symmetrising_is_a_projection():
    model = polar_low_symmetry()
    noise = np.random.default_rng(5).normal(size=model.reference.tensors.shape)
    once, change = symmetrised(replace(model.reference, tensors=noise))
    twice, nothing = symmetrised(once)
    assert change > 0.1
    assert nothing < 1e-10
    onsite = once.onsite()
    np.testing.assert_allclose(onsite, onsite.swapaxes(1, 2), atol=1e-10)


def test_onsite_tensors_stay_symmetric_for_any_parameters():
    model = polar_low_symmetry()
    phi = np.random.default_rng(6).normal(size=len(model.names))
    onsite = model.onsite(phi)
    np.testing.assert_allclose(onsite, onsite.swapaxes(1, 2), atol=1e-10)
    slope = model.onsite_gradient()
    np.testing.assert_allclose(
        model.onsite() + np.tensordot(phi - model.values, slope, axes=1), onsite, atol=1e-10
    )
    assert germanium().onsite()[0, 0, 0] == pytest.approx(12.2401, abs=1e-3)  # DFT file


def test_far_shells_stay_when_near_ones_change():
    model = germanium(3.0)
    far = model.reference.lengths > 4.1
    moved = model.force_constants(model.values * 1.1)
    np.testing.assert_array_equal(moved.tensors[far], model.reference.tensors[far])


def test_equidistant_images_share_a_supercell_constant():
    bonds, multiplicity = supercell_bonds(read_crystal("aluminium"), 2 * np.eye(3, dtype=int))
    # 8 cells less the atom itself: each pair's images together are one constant
    assert np.sum(1 / multiplicity) == pytest.approx(7)


def test_a_supercell_of_lower_symmetry_keeps_only_its_own_operations():
    crystal = read_crystal("aluminium")
    supercell = np.diag([2, 2, 3])
    cells, constants = to_supercell(aluminium().force_constants(), supercell)
    pairs = from_supercell(crystal, supercell, cells, constants)
    model = force_constant_model(crystal, pairs, None)
    assert model.symmetry_residual < 1e-10
    assert len(model.elements) > len(aluminium().elements)


# -------------------------------------------------------------------------------------- errors


def test_a_cutoff_beyond_the_supercell_names_the_largest_allowed():
    with pytest.raises(ValueError, match=r"reach 11\.29\d\d angstrom, the largest allowed"):
        germanium(12.0)


def test_a_cutoff_without_bonds_names_the_shortest():
    with pytest.raises(ValueError, match=r"shortest bond, 2\.864"):
        force_constant_model(read_crystal("aluminium"), None, 2.0)


def test_an_unknown_parameter_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"1NN zz.*expected names among.*1NN xx"):
        germanium().with_free(["1NN zz"])
    with pytest.raises(ValueError, match="once"):
        germanium().with_free(["1NN xx", "1NN xx"])


def test_force_constants_of_another_crystal_are_refused():
    with pytest.raises(ValueError, match="another crystal"):
        force_constant_model(read_crystal("MnO"), read_force_constants("germanium"), 3.0)


def test_contradicting_shells_are_refused():
    crystal = read_crystal("germanium")
    with pytest.raises(ValueError, match="independent elements"):
        from_representatives(crystal, [(0, 1, (0, 0, 0), {"xx": -2.9})])
    with pytest.raises(ValueError, match="space group"):
        from_representatives(crystal, [(0, 1, (0, 0, 0), {"xx": -2.9, "yy": -2.0, "xy": -1})])


# ----------------------------------------------------------------------------------- selection


def test_the_most_important_parameters_are_those_of_near_bonds():
    model = germanium()
    path = np.linspace(0.02, 1, 40)[:, None] * (
        np.array([0, 0, 1]) @ model.crystal.conventional_reciprocal
    )
    names = select_free(model, 4, path)
    assert {"1NN xx", "1NN xy"} < set(names)
    assert len(select_free(model, 8, path)) == 8
    with pytest.raises(ValueError, match=r"expected 1 to 21"):
        select_free(model, 22, path)


def test_the_sensitivity_is_the_change_of_the_lines():
    model = germanium(5.0)
    path = np.linspace(0.05, 1, 20)[:, None] * (
        np.array([0, 0, 1]) @ model.crystal.conventional_reciprocal
    )
    found = path_sensitivity(model, path)
    assert model.elements[int(np.argmax(found))] == "1NN xx"
    for k in (0, 2):
        step = 1e-4 * np.abs(model.element_values[k])
        phi = model.values + np.where(np.arange(len(model.names)) == k, step, 0.0)
        moved = (modes(model, path, phi)[0] - modes(model, path)[0]) / 1e-4
        assert found[k] == pytest.approx(np.sqrt(np.mean(moved**2)), rel=1e-3)


def test_elements_are_read_from_other_force_constants():
    model = germanium(5.0)
    scaled = replace(model.reference, tensors=1.5 * model.reference.tensors)
    np.testing.assert_allclose(model.read_elements(scaled), 1.5 * model.element_values, atol=1e-9)


def test_shells_sum_to_the_onsite_constant():
    listed = shells(germanium().reference)
    assert [s.label for s in listed[:2]] == ["1NN", "2NN"]
    assert listed[0].bonds == 8  # 4 neighbours of each of 2 atoms
    assert listed[0].length_A == pytest.approx(5.6463329 * np.sqrt(3) / 4)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["Ge", "NaCl"])
def test_free_and_fixed_matrices_make_the_whole(shared_data, name):
    _, model = phonopy_model(shared_data, name)
    model = model.with_free(model.elements[:5])
    q = np.random.default_rng(2).normal(size=(7, 3))
    phi = 1.1 * model.values
    whole = model.fixed_matrices(q) + model.free_matrices(q, phi)
    np.testing.assert_allclose(whole, model.dynamical_matrices(q, phi), atol=1e-9)
    many = energies_of_sets(model, q, np.stack([model.values, phi]))
    np.testing.assert_allclose(many[1], modes(model, q, phi)[0], atol=1e-8)
