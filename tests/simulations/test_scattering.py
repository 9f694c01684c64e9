from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.brillouin_zone import ZonePoints, irreducible_mesh
from simulations.constants import HBAR2_OVER_U
from simulations.dynamics import eigenmodes, modes
from simulations.scattering import (
    amplitudes,
    bose,
    broadened,
    displacement_gradients,
    displacement_tensors,
    one_phonon_lines,
)
from simulations.symmetry import laue_rotations
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


def test_creation_and_annihilation_are_in_detailed_balance():
    model = germanium()
    lines = one_phonon_lines(model, np.random.default_rng(0).normal(size=(9, 3)) * 3, 77.0)
    ratio = np.exp(-lines.energies_meV / (0.08617333 * 77.0))
    np.testing.assert_allclose(lines.annihilation, lines.creation * ratio, rtol=1e-6)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_first_moment_is_the_recoil_energy(seed):
    # sum_s E_s [S(+E_s) - S(-E_s)] = (hbar^2 / 2) sum b^2 Q^2 / m: Placzek's sum rule
    model = germanium()
    Q = np.random.default_rng(seed).normal(size=(3, 3)) * 3
    lines = one_phonon_lines(model, Q, 300.0)
    moment = np.sum(lines.energies_meV * (lines.creation - lines.annihilation), axis=1)
    strength = np.sum(model.crystal.scattering_length**2 / model.crystal.masses_u)
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
