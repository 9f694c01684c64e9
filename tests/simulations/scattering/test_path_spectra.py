"""Spectra of many sets and their gradients, also where branches are exactly degenerate."""

import warnings

import numpy as np
import pytest

from simulations.crystal import place_structure
from simulations.dynamics import force_constant_model, modes
from simulations.dynamics.modes import energy_gradients, group_velocities
from simulations.reciprocal import EnergyAxis, seekpath_segments
from simulations.scattering import broadened, displacement_tensors, one_phonon_lines
from simulations.scattering.one_phonon import default_zone, displacement_gradients
from simulations.scattering.path_spectra import (
    path_model,
    path_spectra,
    path_spectra_gradients,
    set_displacements,
    spectra_blocks,
    zone_model,
)
from tests.simulations.phonon_oracles import aluminium, germanium

AXIS = EnergyAxis(edges_meV=np.linspace(-10.0, 45.0, 111))


def spring_model(name, lattice, positions, cutoff, stiffness):
    """Central springs of near neighbours: no claim to be anyone's measured constants."""
    place = place_structure(np.array(lattice), np.array(positions, float), (name,) * len(positions))
    model = force_constant_model(place.crystal, None, cutoff)
    values = []
    for element, bond in zip(model.elements, model.element_bonds, strict=True):
        length = np.linalg.norm(bond)
        u = bond / length
        a, b = ("xyz".index(c) for c in element[-2:])
        values.append(-stiffness * np.exp(-2 * (length - 3)) * (u[a] * u[b] + 0.05 * (a == b)))
    return model.with_elements(values)


def niobium():
    a = 3.3
    cell = 0.5 * a * np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    return spring_model("Nb", cell, [[0, 0, 0]], 4.8, 1.5)


def magnesium():
    a, c = 3.2, 5.2
    cell = [[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, c]]
    return spring_model("Mg", cell, [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], 4.6, 0.7)


CRYSTALS = {"fcc": aluminium, "bcc": niobium, "diamond": germanium, "hcp": magnesium}


def zone_path(model, extra=0):
    """Q of the standard path, ends of segments included, displaced by a reciprocal vector."""
    segments = seekpath_segments(model.crystal, 0.2)
    hkl = np.concatenate(
        [
            np.linspace(a, b, 5 + extra)
            for a, b in zip(segments.start_hkl, segments.end_hkl, strict=True)
        ]
    )
    G = np.array([1.0, 2, -1]) @ model.crystal.reciprocal
    return hkl @ model.crystal.conventional_reciprocal + G


def fourth_order(function, phi, k, step):
    f = []
    for n in (-2, -1, 1, 2):
        moved = phi.copy()
        moved[k] += n * step
        f.append(function(moved))
    return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step)


def exact(model, Q, phi, sigma, temperature, U):
    return broadened(one_phonon_lines(model, Q, temperature, phi, U), AXIS.edges_meV, sigma)


@pytest.mark.parametrize("temperature", [0.0, 5.0, 300.0])
def test_spectra_are_the_broadened_lines_of_every_set(temperature):
    model = germanium().with_free(["1NN xx", "1NN xy", "2NN zz"])
    Q = zone_path(model)
    U = displacement_tensors(model, temperature)
    path = path_model(model, Q, AXIS, 0.7, temperature, U)
    sets = model.values * np.array([[1, 1, 1], [1.1, 1, 0.8], [0.95, 1.02, 1.3]])
    got = path_spectra(path, sets)
    assert got.shape == (3, len(Q), 110)
    for phi, spectrum in zip(sets, got, strict=True):
        want = exact(model, Q, phi, 0.7, temperature, U)
        np.testing.assert_allclose(spectrum, want, atol=3e-8 * want.max())


def test_lines_may_widen_with_energy_and_reach_in_from_beyond_the_axis():
    model = germanium().with_free(["1NN xx"])
    Q = zone_path(model)
    axis = EnergyAxis(edges_meV=np.linspace(5.0, 36.0, 63))

    def sigma(energy):
        e = np.clip(energy, 5.0, 36.0)
        return 0.4 + 0.02 * e + 3e-4 * e**2

    path = path_model(model, Q, axis, sigma, 100.0)
    lines = one_phonon_lines(model, Q, 100.0)
    assert lines.energies_meV.max() > 36.5
    want = broadened(lines, axis.edges_meV, sigma(lines.energies_meV))
    got = path_spectra(path, model.values[None])[0]
    # the width has a kink at the ends of the axis
    np.testing.assert_allclose(got, want, atol=1e-5 * want.max())


def test_sets_may_bring_their_own_debye_waller_tensors():
    model = germanium().with_free(["1NN xx"])
    Q = zone_path(model)[::4]
    sets = model.values * np.array([[1.0], [1.3]])
    U = np.array([displacement_tensors(model, 300.0, phi) for phi in sets])
    got = path_spectra(path_model(model, Q, AXIS, 1.0, 300.0), sets, displacements=U)
    for k in range(2):
        want = exact(model, Q, sets[k], 1.0, 300.0, U[k])
        np.testing.assert_allclose(got[k], want, atol=3e-8 * want.max())


def test_blocks_and_given_arrays_hold_the_same_numbers():
    model = germanium().with_free(["1NN xx", "1NN xy"])
    path = path_model(model, zone_path(model)[::3], AXIS, 0.8, 5.0)
    sets = model.values * np.random.default_rng(0).uniform(0.9, 1.1, (150, 2))
    whole = path_spectra(path, sets)
    for part, block in spectra_blocks(path, sets, 40):
        np.testing.assert_array_equal(block, whole[part])
    single = np.empty(whole.shape, dtype=np.float32)
    assert path_spectra(path, sets, out=single) is single
    np.testing.assert_allclose(single, whole, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("kind", CRYSTALS)
def test_gradients_agree_with_finite_differences_on_the_standard_path(kind):
    """To 1e-7 of the largest, at every point, the exactly degenerate ones included; no NaN."""
    model = CRYSTALS[kind]()
    model = model.with_free(model.elements[:4])
    Q = zone_path(model)
    energies = modes(model, Q)[0]
    gaps = np.diff(energies, axis=1)
    assert np.any((gaps < 1e-7) & (energies[:, 1:] > 1)), "the path has degenerate branches"
    U = 0.004 * np.repeat(np.eye(3)[None], model.crystal.n_atoms, axis=0)
    path = path_model(model, Q, AXIS, 1.1, 80.0, U)
    spectra, gradients = path_spectra_gradients(path, model.values[None])
    assert np.isfinite(gradients).all()
    want = exact(model, Q, model.values, 1.1, 80.0, U)
    np.testing.assert_allclose(spectra[0], want, atol=1e-9 * want.max())
    for k in range(len(model.names)):
        numeric = fourth_order(
            lambda phi: exact(model, Q, phi, 1.1, 80.0, U), model.values, k, 2e-4
        )
        error = np.abs(gradients[0, k] - numeric).max()
        assert error < 1e-7 * np.abs(numeric).max(), (kind, model.names[k])


@pytest.mark.parametrize("kind", CRYSTALS)
def test_nothing_on_a_fine_standard_path_is_nan(kind):
    model = CRYSTALS[kind]()
    model = model.with_free(model.elements[:3])
    Q = zone_path(model, extra=16)
    path = path_model(model, Q, AXIS, 0.8, 300.0)
    spectra, gradients = path_spectra_gradients(path, model.values[None])
    assert np.isfinite(path_spectra(path, model.values[None])).all()
    assert np.isfinite(spectra).all()
    assert np.isfinite(gradients).all()
    energies, vectors = modes(model, Q)
    moving = energies > 1e-3
    assert np.isfinite(energy_gradients(model, Q, energies, vectors)[moving]).all()
    assert np.isfinite(group_velocities(model, Q, energies, vectors)[moving]).all()


def test_gradients_follow_the_debye_waller_factor_where_asked():
    model = germanium().with_free(["1NN xx", "1NN xy"])
    Q = zone_path(model)[1:6]
    U, slope = displacement_gradients(model, 300.0)
    path = path_model(model, Q, AXIS, 1.2, 300.0, U)
    _, gradients = path_spectra_gradients(
        path, model.values[None], displacement_gradients=slope[None]
    )

    def whole(phi):
        return exact(model, Q, phi, 1.2, 300.0, displacement_tensors(model, 300.0, phi))

    for k in range(2):
        numeric = fourth_order(whole, model.values, k, 2e-3)
        np.testing.assert_allclose(gradients[0, k], numeric, atol=1e-7 * np.abs(numeric).max())


def test_a_crystal_without_inversion_is_treated_as_well():
    cell = 0.5 * 5.4 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    place = place_structure(cell, np.array([[0, 0, 0], [0.25] * 3]), ("Zn", "S"))
    model = force_constant_model(place.crystal, None, 4.0)
    values = dict.fromkeys(model.elements, 0.0)
    values.update({n: -4.0 for n in values if n.startswith("1NN") and n.endswith("xx")})
    values.update({n: -2.5 for n in values if n.startswith("1NN") and n.endswith("xy")})
    values.update({n: -0.2 for n in values if "Zn-Zn" in n and n.endswith("xx")})
    model = model.with_elements([values[n] for n in model.elements])
    Q = zone_path(model)
    path = path_model(model, Q, AXIS, 1.0, 50.0)
    assert not path.matrices.is_real
    got = path_spectra(path, model.values[None])[0]
    want = exact(model, Q, None, 1.0, 50.0, None)
    np.testing.assert_allclose(got, want, atol=3e-8 * want.max())
    _, gradients = path_spectra_gradients(path, model.values[None])
    numeric = fourth_order(lambda phi: exact(model, Q, phi, 1.0, 50.0, None), model.values, 0, 2e-4)
    np.testing.assert_allclose(gradients[0, 0], numeric, atol=1e-7 * np.abs(numeric).max())


def test_an_unstable_set_is_refused_by_its_number():
    model = germanium().with_free(["1NN xx", "1NN xy"])
    path = path_model(model, zone_path(model), AXIS, 1.0, 5.0)
    sets = np.array([model.values, model.values, -model.values])
    with pytest.raises(ValueError, match="set 2 has imaginary modes down to -"):
        path_spectra(path, sets)
    with pytest.raises(ValueError, match="set 2 has imaginary modes"):
        path_spectra_gradients(path, sets)


def test_bad_input_is_named():
    model = germanium().with_free(["1NN xx"])
    Q = zone_path(model)[:2]
    path = path_model(model, Q, AXIS, 1.0, 5.0)
    with pytest.raises(ValueError, match="K = 1"):
        path_spectra(path, np.zeros((3, 2)))
    with pytest.raises(ValueError, match="set 1 holds NaN"):
        path_spectra(path, [[1.0], [np.nan]])
    with pytest.raises(ValueError, match="out has shape"):
        path_spectra(path, model.values[None], out=np.empty((1, 2)))
    with pytest.raises(ValueError, match="positive standard deviation"):
        path_model(model, Q, AXIS, 0.0, 5.0)
    with pytest.raises(ValueError, match="temperature_K is -1"):
        path_model(model, Q, AXIS, 1.0, -1.0)
    with pytest.raises(ValueError, match="displacements has shape"):
        path_spectra(path, model.values[None], displacements=np.zeros((2, 2, 3, 3)))
    with pytest.raises(ValueError, match="Q has shape"):
        with warnings.catch_warnings():
            path_model(model, np.zeros(3), AXIS, 1.0, 5.0)


@pytest.mark.parametrize("temperature", [0.0, 300.0])
@pytest.mark.parametrize("build", [germanium, magnesium])
def test_debye_waller_tensors_of_many_sets_are_those_of_each(build, temperature):
    model = build()
    model = model.with_free(model.elements[:2])
    sets = model.values * np.array([[1.0, 1.0], [1.1, 1.05]])
    got = set_displacements(zone_model(model), temperature, sets)
    for k in range(2):
        want = displacement_tensors(model, temperature, sets[k], default_zone(model.crystal))
        np.testing.assert_allclose(got[k], want, atol=1e-10 * want.max())
