"""What an isotope changes, held against phonopy with its masses and against sum rules.

Lithium hydride of phonondb, with D for H and 7Li for natural Li, and silicon, 30Si for 28Si, each
with the force constants of the natural crystal. Energies, intensities and spectra are computed
anew from phonopy's modes; lengths and cross sections are written out below.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import lru_cache
from math import factorial
from pathlib import Path

import numpy as np
import pytest

from simulations.constants import HBAR2_OVER_U
from simulations.crystal import place_structure, with_isotopes
from simulations.dynamics import force_constant_model, modes, phonon_dos
from simulations.scattering import (
    displacement_tensors,
    incoherent_spectrum,
    one_phonon_lines,
    vibrational_spectrum,
)
from simulations.virtual.lattice import build_lattice
from tests.simulations.phonon_oracles import (
    MEV_PER_THZ,
    SYMPREC_A,
    phonopy_energies,
    phonopy_model,
    set_ewald,
    zone_vectors,
)

LITHIUM_HYDRIDE, SILICON = "mp-23703", "mp-149"
SPECIES = {
    "H": (1.008, -3.7409, 80.26), "D": (2.0141, 6.6681, 2.05), "Li": (6.94, -1.93, 0.92),
    "7Li": (7.016, -2.28, 0.78), "28Si": (27.977, 4.106, 0.0), "30Si": (29.974, 4.58, 0.0),
}  # fmt: skip
"""Mass in u, coherent length in fm, incoherent cross section in barn."""
ISOTOPES = [{"H": "D"}, {"Li": "7Li"}, {"H": "D", "Li": "7Li"}]
KELVIN_PER_MEV = 11.604518

pytestmark = pytest.mark.shared_data


@lru_cache
def crystal_of(folder: Path, name: str):
    phonon, model = phonopy_model(folder, name)
    set_ewald(phonon, 1.0)
    return phonon, model


def made_of(folder: Path, name: str, isotopes):
    """Phonopy object and model of the same constants with other isotopes."""
    phonon, natural = crystal_of(folder, name)
    crystal = with_isotopes(natural.crystal, isotopes)
    model = force_constant_model(crystal, natural.reference, None)
    mass = dict(zip(crystal.elements, crystal.masses_u, strict=True))
    phonon.masses = [mass[s] for s in phonon.primitive.symbols]
    return phonon, model


def of_crystal(crystal, array):
    return dict(zip(crystal.symbols, array, strict=True))


@pytest.mark.parametrize("isotopes", [*ISOTOPES, {}])
def test_masses_and_lengths_are_those_of_the_tables(shared_data, isotopes):
    _, model = made_of(shared_data, LITHIUM_HYDRIDE, isotopes)
    crystal = model.crystal
    for k, symbol in enumerate(crystal.symbols):
        mass, length, incoherent = SPECIES[symbol]
        assert crystal.masses_u[k] == pytest.approx(mass, rel=1e-3)
        assert 10 * crystal.scattering_length[k] == pytest.approx(length, rel=0.01)
        assert crystal.incoherent_barn[k] == pytest.approx(incoherent, rel=0.01)


def test_every_mode_of_silicon_goes_as_the_inverse_root_of_the_mass(shared_data):
    _, light = made_of(shared_data, SILICON, {"Si": "28Si"})
    _, heavy = made_of(shared_data, SILICON, {"Si": "30Si"})
    q = zone_vectors(light, 10)
    ratio = np.sqrt(27.97692653 / 29.97377017)  # 0.96612
    np.testing.assert_allclose(modes(heavy, q)[0], ratio * modes(light, q)[0], rtol=1e-8)
    # <u^2> at rest goes as 1 / (m E), the mean over classical motion not at all
    cold = [displacement_tensors(m, 0.0)[0, 0, 0] for m in (light, heavy)]
    hot = [displacement_tensors(m, 3000.0)[0, 0, 0] for m in (light, heavy)]
    assert cold[1] / cold[0] == pytest.approx(ratio, rel=1e-6)
    assert hot[1] / hot[0] == pytest.approx(1.0, rel=1e-3)


def test_intensities_of_silicon_follow_length_and_mass(shared_data):
    _, light = made_of(shared_data, SILICON, {"Si": "28Si"})
    _, heavy = made_of(shared_data, SILICON, {"Si": "30Si"})
    Q = zone_vectors(light, 6) + light.crystal.reciprocal[0]
    sums = [one_phonon_lines(m, Q, 0.0).creation.sum(axis=1) for m in (light, heavy)]
    expected = (4.58 / 4.106) ** 2 * np.sqrt(27.977 / 29.974)  # b^2 / (m E)
    np.testing.assert_allclose(sums[1] / sums[0], expected, rtol=2e-3)


@pytest.mark.parametrize("isotopes", ISOTOPES)
def test_energies_of_a_compound_are_phonopys_with_those_masses(shared_data, isotopes):
    phonon, model = made_of(shared_data, LITHIUM_HYDRIDE, isotopes)
    q = zone_vectors(model, 10)
    ours = modes(model, q)[0]
    np.testing.assert_allclose(ours, phonopy_energies(phonon, q), atol=1e-5)
    _, natural = crystal_of(shared_data, LITHIUM_HYDRIDE)
    assert np.all(modes(natural, q)[0] > ours)  # heavier atoms, every mode softer


def test_energies_change_with_a_mass_as_feynman_and_hellmann_say(shared_data):
    _, model = crystal_of(shared_data, LITHIUM_HYDRIDE)
    q = zone_vectors(model, 10, seed=3)
    energies, vectors = modes(model, q)
    share = (np.abs(vectors.reshape(len(q), 2, 3, 6)) ** 2).sum(axis=2)  # (q, atom, mode)
    step = 1e-4
    for atom in range(2):
        moved = []
        for sign in (-1, 1):
            masses = model.crystal.masses_u.copy()
            masses[atom] *= np.exp(sign * step)
            crystal = replace(model.crystal, masses_u=masses)
            moved.append(modes(force_constant_model(crystal, model.reference, None), q)[0])
        slope = (np.log(moved[1]) - np.log(moved[0])) / (2 * step)
        np.testing.assert_allclose(slope, -0.5 * share[:, atom], atol=1e-6)


@pytest.mark.parametrize("isotopes", ISOTOPES)
def test_coherent_lines_are_those_of_phonopys_modes_with_the_lengths(shared_data, isotopes):
    phonon, model = made_of(shared_data, LITHIUM_HYDRIDE, isotopes)
    crystal = model.crystal
    q = zone_vectors(model, 8, seed=5)
    G = np.array([[1, 1, 1], [2, 0, 0], [3, 1, -1], [0, 0, 2]] * 2) @ crystal.reciprocal
    lines = one_phonon_lines(model, q + G, 0.0)
    unit = phonon.unitcell
    place = place_structure(unit.cell, unit.scaled_positions, tuple(unit.symbols), SYMPREC_A)
    cell = phonon.primitive.cell
    phonon.run_qpoints((q @ place.rotation) @ cell.T / (2 * np.pi), with_eigenvectors=True)
    energy = phonon.qpoints.frequencies * MEV_PER_THZ
    e = phonon.qpoints.eigenvectors.reshape(len(q), 2, 3, 6)
    Q, G = (q + G) @ place.rotation, G @ place.rotation
    length = of_crystal(crystal, crystal.scattering_length)
    by_element = dict(zip(crystal.elements, crystal.symbols, strict=True))
    b = np.array([length[by_element[s]] for s in phonon.primitive.symbols])
    phase = np.exp(1j * G @ (phonon.primitive.scaled_positions @ cell).T)
    f = (b / np.sqrt(phonon.primitive.masses) * phase)[:, :, None] * Q[:, None]
    weight = 0.5 * HBAR2_OVER_U / energy * np.abs(np.einsum("qias,qia->qs", e.conj(), f)) ** 2
    floor = 1e-6 * weight.max()
    np.testing.assert_allclose(lines.creation, weight, rtol=1e-5, atol=floor)


@pytest.mark.parametrize("isotopes", [{}, *ISOTOPES])
def test_sound_scatters_as_the_bragg_line_that_it_comes_from(shared_data, isotopes):
    # all atoms move alike: the sum of E * S over sound is hbar^2 Q^2 |F|^2 / 2 M. Lengths of H and
    # Li have one sign, that of D the other, so that odd reflections become the strong ones
    _, model = made_of(shared_data, LITHIUM_HYDRIDE, isotopes)
    crystal = model.crystal
    G = np.array([[1, 1, 1], [1, 1, 0], [2, 2, 0]]) @ crystal.reciprocal
    Q = G + 2e-3 * np.array([[0.3, 0.5, 0.8]])
    lines = one_phonon_lines(model, Q, 0.0)
    sound = (lines.energies_meV * lines.creation)[:, :3].sum(axis=1)
    F = np.exp(1j * G @ (crystal.positions @ crystal.lattice).T) @ crystal.scattering_length
    total = 0.5 * HBAR2_OVER_U * np.sum(Q**2, axis=1) * np.abs(F) ** 2 / crystal.masses_u.sum()
    np.testing.assert_allclose(sound, total, rtol=5e-3, atol=1e-3 * total.max())
    b = np.array([SPECIES[s][1] for s in crystal.symbols]) / 10
    assert (np.abs(F) ** 2).max() == pytest.approx((np.abs(b[0]) + np.abs(b[1])) ** 2, rel=0.01)


# ------------------------------------------------------------------- incoherent, multiphonon


@lru_cache
def modes_of_phonopy(folder: Path, isotopes):
    """Energies and weights of phonopy's modes on meshes, by chemical element."""
    phonon, model = made_of(folder, LITHIUM_HYDRIDE, dict(isotopes))
    found = []
    for n in (10, 20):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such a mesh has less symmetry; it is small
            phonon.run_mesh([n] * 3, is_gamma_center=False, with_eigenvectors=True)
        mesh = phonon.mesh
        share = (np.abs(mesh.eigenvectors.reshape(-1, 2, 3, 6)) ** 2).sum(axis=2) / 3
        weight = mesh.weights / mesh.weights.sum()
        found.append((mesh.frequencies * MEV_PER_THZ, share * weight[:, None, None]))
    return model, phonon.primitive, found


def bose(energy, temperature):
    return 1 / np.expm1(energy * KELVIN_PER_MEV / temperature)


def mean_squares(primitive, found, temperature):
    """One component of <u u> of every atom of phonopy's, angstrom^2, from two meshes."""
    scale = 0.5 * HBAR2_OVER_U / primitive.masses
    each = [
        scale * np.einsum("qis,qs->i", share, (2 * bose(e, temperature) + 1) / e)
        for e, share in found
    ]
    return 2 * each[1] - each[0]


class Direct:
    """Orders of one phonon and more of every atom, on a grid, by convolution of sharp modes."""

    step = 0.2

    def __init__(self, folder, isotopes, temperature):
        self.model, primitive, found = modes_of_phonopy(folder, tuple(isotopes.items()))
        self.symbols = primitive.symbols
        self.mean_square = mean_squares(primitive, found, temperature)
        self.grid = self.step * np.arange(-3000, 3001)
        edges = np.append(self.grid - self.step / 2, self.grid[-1] + self.step / 2)
        self.orders = []
        for atom, mass in enumerate(primitive.masses):
            one = np.zeros(len(self.grid))
            for (energy, share), factor in zip(found, (-1, 2), strict=True):
                n = bose(energy, temperature)
                weight = factor * 0.5 * HBAR2_OVER_U / mass * share[:, atom] / energy
                one += np.histogram(energy, edges, weights=weight * (n + 1))[0]
                one += np.histogram(-energy, edges, weights=weight * n)[0]
            orders = [one]
            for _ in range(2):
                orders.append(np.convolve(orders[-1], one, mode="same"))
            self.orders.append(np.array(orders) / self.step)

    def element(self, name):
        crystal = self.model.crystal
        k = crystal.elements.index(name)
        return self.symbols.index(name), crystal, k

    def smeared(self, values, edges, sigma):
        centre = 0.5 * (edges[1:] + edges[:-1])
        line = np.exp(-0.5 * ((centre[:, None] - self.grid) / sigma) ** 2)
        return line @ values * self.step / (sigma * np.sqrt(2 * np.pi))


@pytest.mark.parametrize("temperature", [5.0, 300.0])
@pytest.mark.parametrize("isotopes", [{}, *ISOTOPES])
def test_multiphonon_and_indirect_spectra_are_those_of_phonopys_modes(
    shared_data, isotopes, temperature
):
    direct = Direct(shared_data, isotopes, temperature)
    crystal = direct.model.crystal
    dos = phonon_dos(direct.model)
    displacement = displacement_tensors(direct.model, temperature)
    for element in ("H", "Li"):
        theirs, _, k = direct.element(element)
        np.testing.assert_allclose(
            displacement[k], direct.mean_square[theirs] * np.eye(3), rtol=3e-3, atol=1e-6
        )
    sigma, edges = 4.0, np.arange(-60.0, 400.0, 1.0)
    momentum = np.array([3.0, 3.001])
    got = incoherent_spectrum(
        crystal, dos, momentum, edges, temperature_K=temperature, resolution=sigma, max_order=3,
        displacement=displacement,
    )  # fmt: skip
    banks = {
        (name, angle): vibrational_spectrum(
            crystal, dos, edges, temperature_K=temperature, instrument=name, resolution=sigma,
            max_order=3, displacement=displacement,
        )
        for name, angle in (("VISION", 135.0), ("TOSCA", 45.0))
    }  # fmt: skip
    worst = {}
    for element in ("H", "Li"):
        theirs, _, k = direct.element(element)
        row = list(dict.fromkeys(crystal.symbols)).index(crystal.symbols[k])
        incoherent = crystal.incoherent_barn[k] / (4 * np.pi)
        total = incoherent + crystal.scattering_length[k] ** 2
        u2 = direct.mean_square[theirs]
        inner = (0.5 * (edges[1:] + edges[:-1])) > 8.0  # no bins below -60 reach there
        for p, spectrum in enumerate(direct.orders[theirs], start=1):
            barn = incoherent if p == 1 else total
            squared = 9.003
            expected = barn * np.exp(-squared * u2) * squared**p / factorial(p) * spectrum
            expected = direct.smeared(expected, edges, sigma)
            off = np.abs(got.partials[row, p, 0] - expected).sum() / expected.sum()
            worst[element, p, "Q"] = off
            for (name, angle), seen in banks.items():
                final = 3.5 if name == "VISION" else 32 * 0.1239841984
                initial = np.maximum(direct.grid + final, 0.0)
                cross = 2 * np.sqrt(initial * final) * np.cos(np.deg2rad(angle))
                squared = (initial + final - cross) / 2.0721248
                expected = total * np.exp(-squared * u2) * squared**p / factorial(p) * spectrum
                expected = direct.smeared(np.where(direct.grid > -final, expected, 0), edges, sigma)
                mine = seen.partials[row, 1 if angle > 90 else 0, p]
                worst[element, p, name] = (
                    np.abs(mine - expected)[inner].sum() / expected[inner].sum()
                )
    assert max(worst.values()) < 0.01, worst


@pytest.mark.parametrize("isotopes", [{}, *ISOTOPES])
def test_the_mean_energy_of_incoherent_scattering_is_the_recoil_of_the_isotope(
    shared_data, isotopes
):
    _, model = made_of(shared_data, LITHIUM_HYDRIDE, isotopes)
    crystal = model.crystal
    edges = np.arange(-150.0, 900.0, 0.5)
    spectrum = incoherent_spectrum(
        crystal, phonon_dos(model), np.array([3.999, 4.001]), edges, temperature_K=100.0,
        resolution=1.0, coherent_multiphonon=False, displacement=displacement_tensors(model, 100.0),
    )  # fmt: skip
    centre = 0.5 * (edges[1:] + edges[:-1])
    for row, symbol in enumerate(spectrum.elements):
        mass, _, barn = SPECIES[symbol]
        whole = spectrum.partials[row, :, 0].sum(axis=0) * np.diff(edges)
        assert whole.sum() == pytest.approx(barn / (4 * np.pi), rel=0.01)
        recoil = HBAR2_OVER_U * 16.0 / (2 * mass)
        assert (whole @ centre) / whole.sum() == pytest.approx(recoil, rel=5e-3)


# --------------------------------------------------------------------------- virtual experiment


@pytest.mark.parametrize("isotopes", [{}, {"H": "D", "Li": "7Li"}])
def test_the_virtual_crystal_vibrates_with_the_masses_of_the_isotopes(shared_data, isotopes):
    phonon, model = made_of(shared_data, LITHIUM_HYDRIDE, isotopes)
    lattice = build_lattice(model, model.values, 300.0, table_spacing=0.2)
    q = zone_vectors(model, 8, seed=9)
    squares = np.linalg.eigvalsh(lattice.forces.matrices(q @ model.crystal.lattice.T / (2 * np.pi)))
    np.testing.assert_allclose(np.sqrt(squares), phonopy_energies(phonon, q), atol=2e-3)
    own = modes_of_phonopy(shared_data, tuple(isotopes.items()))
    expected = dict(zip(own[1].symbols, mean_squares(*own[1:], 300.0), strict=True))
    for k, element in enumerate(model.crystal.elements):
        np.testing.assert_allclose(lattice.mean_square[k, 0, 0], expected[element], rtol=2e-3)
        mass, length, _ = SPECIES[model.crystal.symbols[k]]
        assert lattice.amplitude[k] == pytest.approx(0.1 * length / np.sqrt(mass), rel=0.01)
