from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from simulations.constants import HBAR2_OVER_U
from simulations.crystal import laue_rotations
from simulations.dynamics import eigenmodes, force_constant_model, modes, phonon_dos
from simulations.reciprocal import ZonePoints, irreducible_mesh
from simulations.scattering import (
    bragg_intensities,
    broadened,
    converged_displacements,
    displacement_tensors,
    displacements_of_sets,
    incoherent_spectrum,
    one_phonon_lines,
)
from simulations.scattering.one_phonon import (
    amplitudes,
    bose,
    displacement_gradients,
    incoherent_elastic,
    one_phonon_pairs,
)
from simulations.virtual.lattice import build_lattice
from tests.simulations.phonon_oracles import (
    aluminium,
    degenerate_sums,
    euphonic_constants,
    germanium,
    phonopy_model,
)

TEMPERATURE_K = 300.0


def euphonic_lines(model, supercell, Q, mesh):
    """Frequencies, structure factors per cell and Debye-Waller tensors (W) from Euphonic."""
    euphonic = pytest.importorskip("euphonic", reason="euphonic is the oracle")
    ureg, crystal = euphonic.ureg, model.crystal
    constants = euphonic_constants(model, supercell)
    n = (
        np.stack(np.meshgrid(*[np.arange(mesh)] * 3, indexing="ij"), -1).reshape(-1, 3) + 0.5
    ) / mesh
    options = {"dipole": True, "splitting": False, "use_c": False}
    thermal = constants.calculate_qpoint_phonon_modes(n, **options)
    waller = thermal.calculate_debye_waller(TEMPERATURE_K * ureg.K, symmetrise=False)
    q = Q @ crystal.lattice.T / (2 * np.pi)
    there = constants.calculate_qpoint_phonon_modes(q, **options)
    lengths = dict(zip(crystal.symbols, crystal.scattering_length, strict=True))
    factor = there.calculate_structure_factor(
        scattering_lengths={s: 10 * b * ureg.fm for s, b in lengths.items()}, dw=waller
    )
    zone = ZonePoints(q_cart=n @ crystal.reciprocal, weights=np.full(len(n), 1 / len(n)))
    return (
        factor.frequencies.to("meV").magnitude,
        factor.structure_factors.to("barn").magnitude * crystal.n_atoms,
        waller.debye_waller.to("angstrom^2").magnitude,
        zone,
    )


def unsymmetrised(model, zone):
    """Displacement tensors of a mesh as it is; Euphonic's without `symmetrise`."""
    energies, vectors = modes(model, zone.q_cart)
    e = vectors.reshape(len(vectors), model.crystal.n_atoms, 3, -1)
    weight = (1 + 2 * bose(energies, TEMPERATURE_K)) / energies * zone.weights[:, None]
    sums = np.einsum("qs,qias,qibs->iab", weight, e, e.conj()).real
    return 0.5 * HBAR2_OVER_U * sums / model.crystal.masses_u[:, None, None]


def agrees_with_euphonic(model, supercell=None, *, rtol=1e-5, atol=1e-8, dw=1e-8):
    Q = np.random.default_rng(1).normal(size=(25, 3)) * 2.5
    energies, factors, waller, zone = euphonic_lines(model, supercell, Q, 4)
    plain = unsymmetrised(model, zone)
    np.testing.assert_allclose(plain, 2 * waller, atol=dw)
    lines = one_phonon_lines(model, Q, 0.0, displacement=2 * waller)
    np.testing.assert_allclose(lines.energies_meV, energies, rtol=max(1e-6, atol))
    ours = degenerate_sums(lines.energies_meV, lines.creation)
    theirs = degenerate_sums(lines.energies_meV, factors)
    strongest = theirs.max(axis=1, keepdims=True)
    np.testing.assert_allclose(ours / strongest, theirs / strongest, rtol=rtol, atol=atol)


def test_germanium_scatters_as_in_euphonic():
    agrees_with_euphonic(germanium(), 4 * np.eye(3, dtype=int))


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["NaCl", "MgB2", "Amm2", "P-3m1"])
def test_other_crystals_scatter_as_in_euphonic(shared_data, name):
    agrees_with_euphonic(phonopy_model(shared_data, name)[1])


@pytest.mark.shared_data
def test_polar_crystals_differ_from_euphonic_only_by_the_ewald_remainder(shared_data):
    # phonopy's method (ours) leaves the real-space Ewald sum to the supercell's constants
    agrees_with_euphonic(phonopy_model(shared_data, "SnO2")[1], atol=3e-4, dw=1e-6)


# ------------------------------------------------------------------------------------- physics


def test_bose_factors_obey_their_limits():
    energy = np.array([1e-3, 10.0, 1e4])
    assert np.all(bose(energy, 0) == 0)
    np.testing.assert_allclose(bose(energy, 300)[0], 0.0861733 * 300 / 1e-3 - 0.5, rtol=1e-5)
    assert bose(energy, 5)[2] < 1e-100
    with pytest.raises(ValueError, match="temperature_K"):
        bose(energy, -1)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), temperature=st.floats(10, 1000))
def test_creation_and_annihilation_are_in_detailed_balance(seed, temperature):
    model = germanium()
    lines = one_phonon_lines(
        model, np.random.default_rng(seed).normal(size=(3, 3)) * 3, temperature
    )
    ratio = np.exp(-lines.energies_meV / (0.08617333262 * temperature))
    np.testing.assert_allclose(lines.annihilation, lines.creation * ratio, rtol=1e-9)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), temperature=st.floats(0, 1000), wide=st.floats(0, 0.02))
def test_the_first_moment_is_the_recoil_energy(seed, temperature, wide):
    # sum_s E_s [S(+E_s) - S(-E_s)] = (hbar^2 / 2) sum b^2 Q^2 exp(-2 W) / m: Placzek's sum rule
    model = germanium()
    rng = np.random.default_rng(seed)
    Q = rng.normal(size=(3, 3)) * 3
    root = rng.normal(size=(2, 3, 3))
    U = wide * root @ root.swapaxes(1, 2)
    lines = one_phonon_lines(model, Q, temperature, displacement=U)
    moment = np.sum(lines.energies_meV * (lines.creation - lines.annihilation), axis=1)
    decay = np.exp(-np.einsum("qa,iab,qb->qi", Q, U, Q))
    strength = decay @ (model.crystal.scattering_length**2 / model.crystal.masses_u)
    expected = 0.5 * HBAR2_OVER_U * strength * np.sum(Q**2, axis=1)
    np.testing.assert_allclose(moment, expected, rtol=1e-9)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), operation=st.integers(0, 47))
def test_equivalent_vectors_scatter_equally_mode_by_mode(seed, operation):
    model = germanium()
    _, rotations = laue_rotations(model.crystal)
    U = displacement_tensors(model, 300.0, zone=irreducible_mesh(model.crystal, 4, shifted=True))
    Q = np.random.default_rng(seed).normal(size=(2, 3)) * 3
    one = one_phonon_lines(model, Q, 300.0, displacement=U)
    other = one_phonon_lines(model, Q @ rotations[operation].T, 300.0, displacement=U)
    np.testing.assert_allclose(
        degenerate_sums(one.energies_meV, one.creation),
        degenerate_sums(one.energies_meV, other.creation),
        rtol=1e-6, atol=1e-9 * one.creation.max(),
    )  # fmt: skip


def moved(model, rotation, shift, cells):
    """The same crystal turned, its origin shifted and its atoms listed in other cells."""
    crystal, pairs = model.crystal, model.force_constants()
    there = replace(
        crystal,
        lattice=crystal.lattice @ rotation.T,
        conventional_lattice=crystal.conventional_lattice @ rotation.T,
        positions=crystal.positions + shift + cells,
    )
    dipole = pairs.dipole
    if dipole is not None:
        dipole = replace(
            dipole,
            born=rotation @ dipole.born @ rotation.T,
            dielectric=rotation @ dipole.dielectric @ rotation.T,
        )
    pairs = replace(
        pairs,
        crystal=there,
        cell=pairs.cell + cells[pairs.first] - cells[pairs.second],
        tensors=rotation @ pairs.tensors @ rotation.T,
        dipole=dipole,
    )
    return force_constant_model(there, pairs, None)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["MgB2", "ZnO"])
@settings(
    max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(seed=st.integers(0, 2**32 - 1))
def test_scattering_knows_no_frame_origin_or_cell(shared_data, name, seed):
    _, model = phonopy_model(shared_data, name)
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(random_state=rng).as_matrix()
    cells = rng.integers(-1, 2, size=(model.crystal.n_atoms, 3))
    other = moved(model, rotation, rng.uniform(size=3), cells)
    zone = irreducible_mesh(model.crystal, 3, shifted=True)
    U = displacement_tensors(model, 300.0, zone=zone)
    V = displacement_tensors(other, 300.0, zone=replace(zone, q_cart=zone.q_cart @ rotation.T))
    np.testing.assert_allclose(V, rotation @ U @ rotation.T, atol=1e-9)
    Q = rng.normal(size=(4, 3)) * 3
    here = one_phonon_lines(model, Q, 300.0, displacement=U)
    there = one_phonon_lines(other, Q @ rotation.T, 300.0, displacement=V)
    np.testing.assert_allclose(there.energies_meV, here.energies_meV, rtol=1e-7)
    np.testing.assert_allclose(
        degenerate_sums(here.energies_meV, there.creation),
        degenerate_sums(here.energies_meV, here.creation),
        rtol=1e-6, atol=1e-7 * here.creation.max(),
    )  # fmt: skip
    G = rng.integers(-4, 5, size=(5, 3)) @ model.crystal.reciprocal
    np.testing.assert_allclose(
        bragg_intensities(other.crystal, G @ rotation.T, V),
        bragg_intensities(model.crystal, G, U), atol=1e-8,
    )  # fmt: skip


@pytest.mark.shared_data
def test_pairs_of_elements_sum_to_the_lines(shared_data):
    _, model = phonopy_model(shared_data, "SnO2")
    Q = np.random.default_rng(2).normal(size=(6, 3)) * 3
    lines = one_phonon_lines(model, Q, 300.0)
    pairs = one_phonon_pairs(model, Q, 300.0)
    assert len(pairs) == 3
    assert all(np.all(pairs[p].creation >= 0) for p in pairs if p[0] == p[1])
    for side in ("creation", "annihilation"):
        total = sum(getattr(one, side) for one in pairs.values())
        np.testing.assert_allclose(total, getattr(lines, side), atol=1e-13 * total.max())
    # a pair alone is what remains when other elements do not scatter
    tin = np.array([s == "Sn" for s in model.crystal.symbols])
    crystal = replace(
        model.crystal, scattering_length=np.where(tin, model.crystal.scattering_length, 0.0)
    )
    alone = one_phonon_lines(replace(model, crystal=crystal), Q, 300.0)
    np.testing.assert_allclose(
        pairs["Sn", "Sn"].creation, alone.creation, atol=1e-13 * alone.creation.max()
    )


def test_germanium_reflections_obey_the_diamond_rules():
    crystal = germanium().crystal
    hkl = np.array([[0, 0, 2], [1, 1, 1], [2, 2, 0], [2, 2, 2], [4, 0, 0]], dtype=float)
    got = bragg_intensities(crystal, hkl @ crystal.conventional_reciprocal)
    np.testing.assert_allclose(got / crystal.scattering_length[0] ** 2, [0, 2, 4, 0, 4], atol=1e-9)


def test_the_incoherent_elastic_line_falls_with_the_displacement_along_q():
    crystal = germanium().crystal
    U = np.array([np.diag([0.001, 0.02, 0.0]), 0.01 * np.eye(3)])
    Q = np.array([[0.0, 0, 0], [3.0, 0, 0], [0, 3.0, 0]])
    expected = crystal.incoherent_barn @ np.exp(
        -9 * np.array([[0, 0.001, 0.02], [0, 0.01, 0.01]])
    ) / (4 * np.pi)  # fmt: skip
    np.testing.assert_allclose(incoherent_elastic(crystal, Q, U), expected, rtol=1e-12)


def test_eigenvectors_of_the_first_zone_serve_with_the_phase_of_g():
    model = germanium()
    q, G = (
        np.array([[0.2, -0.1, 0.3]]),
        np.array([[2.0, 4, 2]]) @ model.crystal.conventional_reciprocal,
    )
    f = amplitudes(model.crystal, q + G, None)
    r = model.crystal.positions @ model.crystal.lattice
    folded = f * np.repeat(np.exp(1j * G @ r.T), 3, axis=1)
    _, there = eigenmodes(model.dynamical_matrices(q + G))
    _, here = eigenmodes(model.dynamical_matrices(q))
    np.testing.assert_allclose(
        np.abs(np.einsum("qis,qi->qs", there.conj(), f)) ** 2,
        np.abs(np.einsum("qis,qi->qs", here.conj(), folded)) ** 2,
        atol=1e-10,
    )


def test_broadened_lines_keep_their_weight():
    model = germanium()
    lines = one_phonon_lines(model, np.array([[2.3, 1.1, 0.4]]), 300.0)
    edges = np.linspace(-80, 80, 321)
    spectrum = broadened(lines, edges, 1.0)
    total = np.sum(spectrum * np.diff(edges))
    assert total == pytest.approx(float(np.sum(lines.creation + lines.annihilation)), rel=1e-9)


# -------------------------------------------------------------------------------- Debye-Waller


def test_debye_waller_tensors_do_not_depend_on_the_choice_of_mesh():
    model = germanium()
    full = np.stack(np.meshgrid(*[np.arange(8)] * 3, indexing="ij"), -1).reshape(-1, 3) + 0.5
    zone = ZonePoints(q_cart=full / 8 @ model.crystal.reciprocal, weights=np.full(512, 1 / 512))
    reduced = irreducible_mesh(model.crystal, 8, shifted=True)
    assert len(reduced.q_cart) < 100
    np.testing.assert_allclose(
        displacement_tensors(model, 300.0, zone=reduced),
        displacement_tensors(model, 300.0, zone=zone),
        atol=1e-10,
    )

    # the error of single meshes falls as their step; the default is at the limit
    def error(n):
        mesh = irreducible_mesh(model.crystal, n, shifted=True)
        single = displacement_tensors(model, 300.0, zone=mesh)
        return (single - displacement_tensors(model, 300.0))[0, 0, 0]

    assert -8e-5 < error(20) < -4e-5
    assert error(10) / error(20) == pytest.approx(2, abs=0.15)


def test_debye_waller_tensors_of_cubic_sites_are_isotropic():
    U = displacement_tensors(germanium(), 300.0)
    np.testing.assert_allclose(U, U[0, 0, 0] * np.broadcast_to(np.eye(3), (2, 3, 3)), atol=1e-12)
    # measured B = 0.57 angstrom^2 at room temperature, U = B / 8 pi^2 = 0.0072 (DFT: 0.0067)
    assert 0.006 < U[0, 0, 0] < 0.0075


def test_displacement_gradients_agree_with_finite_differences():
    model = germanium(3.0)
    zone = irreducible_mesh(model.crystal, 4, shifted=True)
    tensors, slopes = displacement_gradients(model, 300.0, zone=zone)
    np.testing.assert_allclose(tensors, displacement_tensors(model, 300.0, zone=zone), atol=1e-15)
    for k in range(2):
        f = []
        for step in (-2e-3, -1e-3, 1e-3, 2e-3):
            phi = model.values.copy()
            phi[k] += step
            f.append(displacement_tensors(model, 300.0, phi, zone))
        numeric = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / 12e-3
        np.testing.assert_allclose(slopes[k], numeric, atol=1e-6 * np.abs(slopes[k]).max())


def test_imaginary_modes_are_reported():
    model = aluminium()
    with pytest.raises(ValueError, match=r"% of the modes are imaginary, the lowest -"):
        displacement_tensors(model, 300.0, -model.values)


@pytest.mark.shared_data
@pytest.mark.parametrize("temperature", [5.0, 300.0])
def test_every_route_to_the_mean_square_displacements_gives_the_same(shared_data, temperature):
    _, model = phonopy_model(shared_data, "NaCl")
    model = model.with_free(model.elements[:2])
    crystal = model.crystal
    expected = displacement_tensors(model, temperature)
    routes = {
        "with gradients": displacement_gradients(model, temperature)[0],
        "virtual": build_lattice(model, model.values, temperature, table_spacing=0.3).mean_square,
    }
    axes = (np.array([3.0, 3.02]), np.array([-1.0, 1.0]))
    elastic = incoherent_spectrum(
        crystal, phonon_dos(model), *axes, displacement=expected, temperature_K=temperature,
        resolution=0.05,
    ).orders[0, 0, 0]  # fmt: skip
    u2 = np.trace(expected, axis1=1, axis2=2) / 3
    decay = np.exp(-np.mean([3.0**2, 3.0 * 3.02, 3.02**2]) * u2)
    assert elastic * 2.0 == pytest.approx((decay * crystal.incoherent_barn).sum() / (4 * np.pi))
    for tensors in routes.values():
        np.testing.assert_allclose(tensors, expected, atol=1e-4 * expected.max())


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["Ge", "MgB2", "SnO2"])
def test_displacements_of_many_sets_are_each_the_converged_ones(shared_data, name):
    _, model = phonopy_model(shared_data, name)
    temperatures = [0.0, 20.0, 300.0]
    hot = converged_displacements(model, 300.0)
    sets = np.stack([model.values, 1.05 * model.values, -model.values])
    first, second, imaginary = displacements_of_sets(model, sets, temperatures, hot.divisions)
    assert imaginary is None
    for k, T in enumerate(temperatures):
        expected = converged_displacements(model, T).tensors
        np.testing.assert_allclose(first[k], expected, atol=5e-3 * expected.max())
        expected = displacement_tensors(model, T, 1.05 * model.values)
        np.testing.assert_allclose(second[k], expected, atol=5e-3 * expected.max())


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["MgB2", "SnO2"])
def test_displacements_of_sets_are_those_of_phonopy(shared_data, name):
    """On phonopy's own mesh, once with the mesh of double step taken off twice."""
    phonon, model = phonopy_model(shared_data, name)
    divisions = (12, 12, 12)
    (found,) = displacements_of_sets(model, model.values[None], [300.0], divisions)
    meshes = []
    for n in (12, 6):
        phonon.run_mesh([n] * 3, with_eigenvectors=True, is_mesh_symmetry=False)
        phonon.run_thermal_displacement_matrices(temperatures=[300], freq_min=1e-2)
        matrices = phonon.thermal_displacement_matrices.thermal_displacement_matrices[0]
        meshes.append(np.trace(matrices, axis1=1, axis2=2).real)
    theirs = dict(zip(phonon.primitive.symbols, 2 * meshes[0] - meshes[1], strict=True))
    for atom, symbol in enumerate(model.crystal.symbols):
        assert np.trace(found[0, atom]) == pytest.approx(theirs[symbol], rel=1e-3)
