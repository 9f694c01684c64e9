from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from simulations.constants import HBAR2_OVER_U, NEUTRON_MEV_A2
from simulations.dynamics import force_constant_model, modes, read_force_constants
from simulations.instrument import Resolution
from simulations.reciprocal import irreducible_mesh, quasi_random_points
from simulations.scattering import (
    converged_displacements,
    displacement_tensors,
    kinematic_mask,
    lattice_vectors_within,
    one_phonon_lines,
    powder_spectrum,
    sigma_function,
)
from simulations.scattering.one_phonon import gaussian_bins
from simulations.scattering.pockets import look_for_pockets
from simulations.scattering.soft_cells import split_soft_cells
from tests.simulations.phonon_oracles import aluminium, germanium, phonopy_model
from tests.simulations.scattering.powder_convergence import run as run_convergence
from tests.simulations.scattering.test_soft_cells import soft_aluminium

MOMENTUM = np.linspace(0, 6, 31)
ENERGY = np.linspace(-12, 48, 61)


def widths(energy):
    return 1.0 + 0.01 * np.asarray(energy)


@pytest.mark.parametrize("momentum", [MOMENTUM, np.array([0.4, 0.41, 2.0, 2.3, 2.35, 5.0, 5.01])])
def test_the_powder_average_is_the_mean_over_single_vectors(momentum):
    model = germanium()
    bins = len(momentum) - 1
    zone = quasi_random_points(model.crystal, 25)
    U = displacement_tensors(model, 300.0)
    got = powder_spectrum(
        model, momentum, ENERGY, temperature_K=300.0, resolution=widths, zone=zone, displacement=U
    )
    total, count = np.zeros((bins, 60)), np.zeros(bins)
    for q in zone.q_cart:
        Q = q + lattice_vectors_within(model.crystal, 8.0)
        lines = one_phonon_lines(model, Q, 300.0, displacement=U)
        S = np.zeros((len(Q), 60))
        for sign, weight in ((1, lines.creation), (-1, lines.annihilation)):
            place = sign * lines.energies_meV
            S += np.einsum("qs,qse->qe", weight, gaussian_bins(ENERGY, place, widths(place)))
        place = np.digitize(np.linalg.norm(Q, axis=1), momentum) - 1
        keep = (place >= 0) & (place < bins)
        np.add.at(total, place[keep], S[keep])
        np.add.at(count, place[keep], 1)
    expected = total / np.maximum(count, 1)[:, None]
    np.testing.assert_allclose(got.intensity, expected, atol=1e-12 * expected.max())


def brute_force(model, divisions, U, momentum, energy, temperature, width):
    """Every point of the whole mesh with every G, eigenvectors at Q itself, in plain loops."""
    crystal = model.crystal
    x = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n for n in divisions], indexing="ij"), -1)
    mesh = (x - np.rint(x)).reshape(-1, 3) @ crystal.reciprocal
    total, count = np.zeros((len(momentum) - 1, len(energy) - 1)), np.zeros(len(momentum) - 1)
    longest = momentum[-1] + np.linalg.norm(crystal.reciprocal, axis=1).sum()
    for G in lattice_vectors_within(crystal, longest):
        place = np.digitize(np.linalg.norm(mesh + G, axis=1), momentum) - 1
        inside = (place >= 0) & (place < len(total))
        if not inside.any():
            continue
        Q = (mesh + G)[inside]
        energies, vectors = modes(model, Q)
        for k, b in enumerate(place[inside]):
            count[b] += 1
            for s, e in enumerate(energies[k]):
                F = 0.0
                for i in range(crystal.n_atoms):
                    decay = np.exp(-0.5 * Q[k] @ U[i] @ Q[k]) / np.sqrt(crystal.masses_u[i])
                    F += crystal.scattering_length[i] * decay * (
                        Q[k] @ vectors[k, 3 * i : 3 * i + 3, s].conj()
                    )  # fmt: skip
                n = 1 / np.expm1(e / (0.08617333262 * temperature))
                strength = 0.5 * HBAR2_OVER_U / e * abs(F) ** 2
                for sign, thermal in ((1, n + 1), (-1, n)):
                    total[b] += strength * thermal * np.diff(norm.cdf(energy, sign * e, width))
    return total / np.diff(energy) / np.maximum(count, 1)[:, None]


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "divisions", "step"),
    [("germanium", (6, 6, 6), 2.0), ("MgB2", (5, 5, 4), 4.0), ("NaCl", (4, 4, 4), 1.5),
     ("ZnO", (4, 4, 3), 4.0)],
)  # fmt: skip
def test_the_map_is_the_brute_force_average_at_equal_sampling(shared_data, name, divisions, step):
    model = germanium() if name == "germanium" else phonopy_model(shared_data, name)[1]
    U = displacement_tensors(model, 300.0, zone=irreducible_mesh(model.crystal, 4, shifted=True))
    momentum, energy = np.linspace(0.013, 2.91, 12), np.arange(-10, 30) * step
    zone = irreducible_mesh(model.crystal, divisions, shifted=True)
    got = powder_spectrum(
        model, momentum, energy, temperature_K=300.0, resolution=step, zone=zone, displacement=U
    ).intensity
    expected = brute_force(model, divisions, U, momentum, energy, 300.0, step)
    deviation = np.abs(got - expected).sum() / expected.sum()
    sys.stdout.write(f"\n{name}: powder map, L1 from brute force {deviation:.1e} (bar 0.01)\n")
    assert len(zone.q_cart) < np.prod(divisions) / 1.9
    assert deviation < 1e-9


@pytest.mark.shared_data
def test_pairs_of_elements_sum_to_the_map_and_follow_the_scattering_lengths(shared_data):
    _, model = phonopy_model(shared_data, "NaCl")
    zone = quasi_random_points(model.crystal, 20)
    U = displacement_tensors(model, 100.0, zone=irreducible_mesh(model.crystal, 4, shifted=True))
    energy = np.linspace(-10, 40, 51)

    def spectrum(lengths, **options):
        crystal = replace(model.crystal, scattering_length=np.array(lengths))
        return powder_spectrum(
            replace(model, crystal=crystal), MOMENTUM, energy, temperature_K=100.0, resolution=1.0,
            zone=zone, displacement=U, **options,
        )  # fmt: skip

    b = model.crystal.scattering_length
    got = spectrum(b, partials=True)
    assert got.pairs == (("Na", "Na"), ("Na", "Cl"), ("Cl", "Cl"))
    top = got.intensity.max()
    np.testing.assert_allclose(got.partials.sum(axis=0), got.intensity, atol=1e-13 * top)
    np.testing.assert_allclose(got.intensity, spectrum(b).intensity, atol=1e-13 * top)
    alone = spectrum([b[0], 0.0]).intensity
    np.testing.assert_allclose(got.partials[0], alone, atol=1e-13 * top)
    turned = spectrum([b[0], -b[1]]).intensity  # only the interference changes sign
    np.testing.assert_allclose(
        turned, got.partials[0] - got.partials[1] + got.partials[2], atol=1e-13 * top
    )
    assert got.partials[1].min() < 0


@pytest.mark.parametrize("temperature", [0.0, 5.0, 300.0])
@pytest.mark.parametrize("zone_of", [quasi_random_points, irreducible_mesh])
def test_gradients_agree_with_finite_differences(temperature, zone_of):
    model = germanium().with_free(["1NN xx", "1NN xy", "2NN xz", "5NN zz"])
    # the irreducible mesh has exactly degenerate modes
    zone = (
        zone_of(model.crystal, 12) if zone_of is quasi_random_points else zone_of(model.crystal, 3)
    )
    energy = np.linspace(2, 48, 47)

    def spectrum(phi, gradient=False):
        return powder_spectrum(
            model, MOMENTUM, energy, temperature_K=temperature, resolution=widths, zone=zone,
            phi=phi, gradient=gradient,
        )  # fmt: skip

    got = spectrum(model.values, gradient=True)
    assert got.names == model.names
    assert np.isfinite(got.gradient).all()
    for k in range(4):
        f = []
        for step in (-1e-3, -5e-4, 5e-4, 1e-3):
            phi = model.values.copy()
            phi[k] += step
            f.append(spectrum(phi).intensity)
        numeric = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / 6e-3
        np.testing.assert_allclose(got.gradient[k], numeric, atol=1e-7 * np.abs(numeric).max())


@pytest.mark.shared_data
def test_gradients_follow_anisotropic_debye_waller_tensors(shared_data):
    _, model = phonopy_model(shared_data, "MgB2")
    model = model.with_free(model.elements[:2])
    zone = quasi_random_points(model.crystal, 5)
    options = {"temperature_K": 300.0, "resolution": 2.0, "zone": zone}
    energy = np.linspace(5, 110, 40)
    got = powder_spectrum(model, MOMENTUM, energy, gradient=True, **options)
    for k in range(2):
        f = []
        for step in (-2e-3, -1e-3, 1e-3, 2e-3):
            phi = model.values.copy()
            phi[k] += step
            f.append(powder_spectrum(model, MOMENTUM, energy, phi=phi, **options).intensity)
        numeric = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / 12e-3
        np.testing.assert_allclose(got.gradient[k], numeric, atol=1e-6 * np.abs(numeric).max())


def test_the_first_moment_is_the_recoil_energy_without_debye_waller():
    model = germanium()
    edges = np.linspace(-70, 70, 561)
    got = powder_spectrum(
        model, np.linspace(2, 6, 9), edges, temperature_K=300.0, resolution=0.8,
        displacement=np.zeros((2, 3, 3)), zone=irreducible_mesh(model.crystal, 10, shifted=True),
    )  # fmt: skip
    centres = 0.5 * (edges[1:] + edges[:-1])
    moment = np.sum(got.intensity * centres * np.diff(edges), axis=1)
    squared = np.diff(got.momentum_edges**3) / 3 / np.diff(got.momentum_edges)
    expected = 0.5 * HBAR2_OVER_U * squared * 2 * 0.8185**2 / 72.63
    np.testing.assert_allclose(moment, expected, rtol=0.02)  # the spread of |Q| in a bin


def test_two_samplings_of_the_zone_agree():
    model = aluminium()
    options = {"temperature_K": 300.0, "resolution": 1.0}
    momentum, energy = np.arange(1, 8.1, 0.2), np.arange(10, 40, 1.0)
    one = powder_spectrum(model, momentum, energy, **options).intensity
    zone = quasi_random_points(model.crystal, 4000)
    other = powder_spectrum(model, momentum, energy, zone=zone, **options).intensity
    assert np.abs(one - other).sum() / other.sum() < 0.02


def test_both_sides_are_in_detailed_balance():
    model = aluminium()
    energy = np.arange(-40.5, 41, 1.0)
    got = powder_spectrum(
        model, [2, 3], energy, temperature_K=300.0, resolution=0.05,
        zone=quasi_random_points(model.crystal, 100),
    )  # fmt: skip
    row = got.intensity[0]
    centre = 0.5 * (energy[1:] + energy[:-1])
    up, down = row[centre > 5], row[::-1][centre > 5]
    expected = np.exp(-centre[centre > 5] / (0.08617333 * 300))
    filled = up > 0.05 * up.max()
    np.testing.assert_allclose(down[filled] / up[filled], expected[filled], rtol=0.03)


def test_kinematic_limits_are_those_of_the_scattering_triangle():
    ei = 50.0
    momentum, energy = np.arange(0, 12, 0.1), np.arange(-10, 60, 0.5)
    mask = kinematic_mask(momentum, energy, ei, (3.0, 135.0))
    centre = 0.5 * (energy[1:] + energy[:-1])
    assert not mask[:, centre > ei].any()
    column = int(np.argmin(np.abs(centre - 20.25)))
    Q = 0.5 * (momentum[1:] + momentum[:-1])[mask[:, column]]
    ki, kf = np.sqrt(ei / NEUTRON_MEV_A2), np.sqrt((ei - 20.25) / NEUTRON_MEV_A2)
    far = np.sqrt(ki**2 + kf**2 - 2 * ki * kf * np.cos(np.deg2rad(135)))
    near = np.sqrt(ki**2 + kf**2 - 2 * ki * kf * np.cos(np.deg2rad(3)))
    assert Q.max() == pytest.approx(far, abs=0.06)
    assert Q.min() == pytest.approx(near, abs=0.06)
    with pytest.raises(ValueError, match="ei_meV"):
        kinematic_mask(momentum, energy, -1)


def test_resolution_in_momentum_keeps_the_mean():
    model = aluminium()
    zone = quasi_random_points(model.crystal, 100)
    options = {"temperature_K": 100.0, "resolution": 1.0, "zone": zone}
    sharp = powder_spectrum(model, MOMENTUM, ENERGY, **options).intensity
    wide = powder_spectrum(model, MOMENTUM, ENERGY, momentum_sigma=0.3, **options).intensity
    assert wide[5:25].sum() == pytest.approx(sharp[5:25].sum(), rel=0.1)
    assert np.abs(np.diff(wide, axis=0)).sum() < 0.6 * np.abs(np.diff(sharp, axis=0)).sum()


def test_the_instrument_resolution_needs_its_incident_energy():
    polynomial = Resolution(coefficients=(0.03, -0.02))
    with pytest.raises(ValueError, match="ei_meV is None"):
        sigma_function(polynomial, None)
    wide = sigma_function(polynomial, 100.0)(np.array([0.0]))
    np.testing.assert_allclose(wide, 3.0 / 2.354820045)
    with pytest.raises(ValueError, match="positive standard deviation"):
        sigma_function(0.0, None)


def test_axes_that_do_not_increase_are_refused():
    with pytest.raises(ValueError, match="momentum_edges"):
        powder_spectrum(aluminium(), [1, 1], ENERGY, temperature_K=5, resolution=1.0)


def test_imaginary_modes_are_reported():
    model = aluminium()
    with pytest.raises(ValueError, match="imaginary"):
        powder_spectrum(
            model, MOMENTUM, ENERGY, temperature_K=5, resolution=1.0, phi=-model.values,
            displacement=np.zeros((1, 3, 3)),
        )  # fmt: skip


CONVERGED_EDGES = np.linspace(0.5, 6.0, 40), np.linspace(0.0, 40.0, 60)


@pytest.mark.shared_data
@pytest.mark.slow
def test_powder_maps_are_converged_over_thirty_crystals(shared_data, tmp_path):
    rows = [
        row for row in run_convergence(shared_data, tmp_path / "rows.jsonl", 30) if "error" in row
    ]
    assert max(row["error"] for row in rows) <= 0.005, rows


def test_a_map_tells_the_error_that_it_met_and_the_price_of_less():
    rough, fine = (
        powder_spectrum(
            germanium(), *CONVERGED_EDGES, temperature_K=300.0, resolution=0.6, tolerance=tolerance
        )
        for tolerance in (0.03, 0.006)
    )
    assert rough.sampling.error <= 0.03
    assert fine.sampling.error <= 0.006
    assert fine.sampling.points > rough.sampling.points
    off = np.abs(rough.intensity - fine.intensity).sum() / fine.intensity.sum()
    assert off < rough.sampling.error + fine.sampling.error
    assert "half the error would take" in fine.sampling.words
    with pytest.raises(ValueError, match="tolerance is 0"):
        powder_spectrum(
            germanium(), *CONVERGED_EDGES, temperature_K=300.0, resolution=0.6, tolerance=0.0
        )


@pytest.mark.parametrize("second_xx", [0.08, 0.13])
def test_told_errors_of_soft_crystals_are_no_smaller_than_true_ones(second_xx):
    model = soft_aluminium(second_xx)
    pockets, _ = look_for_pockets(model, "left_out")
    assert (pockets is None) == (second_xx == 0.08)
    options = {
        "temperature_K": 300.0, "resolution": 0.6, "displacement": 0.01 * np.eye(3)[None],
        "pockets": pockets,
    }  # fmt: skip
    dense = split_soft_cells(
        model, irreducible_mesh(model.crystal, 120, shifted=True), 300.0, pockets=pockets
    )
    truth = powder_spectrum(model, *CONVERGED_EDGES, zone=dense, **options).intensity
    for tolerance in (0.08, 0.04):
        rough = powder_spectrum(model, *CONVERGED_EDGES, tolerance=tolerance, **options)
        off = np.abs(rough.intensity - truth).sum() / truth.sum()
        assert off <= rough.sampling.error <= tolerance


@pytest.fixture(scope="module")
def titanium_aluminium():
    """Eight atoms: shells of many vectors. Its constants come with the project."""
    root = Path(__file__).resolve().parents[3]
    given = read_force_constants(root / "examples" / "Ti3Al" / "POSCAR")
    return force_constant_model(given.crystal, given, None)


def test_loose_maps_of_many_atoms_look_at_few_vectors_and_tell_an_honest_error(titanium_aluminium):
    options = {"temperature_K": 10.0, "resolution": 0.6}
    edges = np.linspace(0.0, 12.0, 61), np.linspace(0.0, 45.0, 91)
    U = converged_displacements(titanium_aluminium, 10.0).tensors
    exact = powder_spectrum(
        titanium_aluminium, *edges, displacement=U, tolerance=0.005, **options
    ).intensity
    for tolerance in (0.05, 0.03):
        rough = powder_spectrum(
            titanium_aluminium, *edges, displacement=U, tolerance=tolerance, **options
        )
        off = np.abs(rough.intensity - exact).sum() / exact.sum()
        assert 0 < off <= rough.sampling.error <= tolerance
        again = powder_spectrum(
            titanium_aluminium, *edges, displacement=U, tolerance=tolerance, **options
        )
        np.testing.assert_array_equal(again.intensity, rough.intensity)


def test_two_meshes_of_equal_divisions_tell_no_error(titanium_aluminium):
    """A step so wide that it and one and a half of it mean one mesh."""
    rough = powder_spectrum(
        titanium_aluminium,
        np.linspace(0.0, 6.0, 7),
        np.linspace(0.0, 45.0, 10),
        temperature_K=10.0,
        resolution=3.0,
        tolerance=0.5,
    )
    assert 0 < rough.sampling.error <= 0.5
