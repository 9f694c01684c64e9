"""Fits to published frequencies; each number carries its source."""

from __future__ import annotations

import numpy as np
import pytest

from simulations.constants import EV_A2_IN_N_M, EV_A3_IN_GPA, MEV_PER_THZ
from simulations.crystal import read_crystal
from simulations.crystal.placement import crystal_from_cells
from simulations.dynamics import force_constant_model, modes, phonon_dos, read_force_constants
from simulations.dynamics.born_von_karman import (
    KnownElement,
    MeasuredMode,
    SoundModulus,
    fit_born_von_karman,
)
from simulations.dynamics.modes import group_velocities
from simulations.dynamics.phonon_dos import heat_capacity
from simulations.prior.box_file import prior_force_constants
from simulations.scattering import displacement_tensors

GAS_CONSTANT = 8.314462618  # J/(mol K)

# Nakagawa and Woods, Phys. Rev. Lett. 11, 271 (1963), room temperature: THz
NIOBIUM = {
    ("H", (1, 0, 0), (1, 0, 0)): 6.49,
    ("N", (0.5, 0.5, 0), (1, -1, 0)): 3.95,
    ("N", (0.5, 0.5, 0), (0, 0, 1)): 5.07,
    ("N", (0.5, 0.5, 0), (1, 1, 0)): 5.62,
    ("P", (0.5, 0.5, 0.5), (1, 1, 1)): 5.03,
}
# elements of measured niobium as published, N/m, positive for a spring
NIOBIUM_KNOWN = {"1NN xx": 14.14, "1NN xy": 8.84, "2NN xx": 14.16, "2NN yy": -3.64}
# Stedman and Nilsson, Phys. Rev. 145, 492 (1966), 80 K, the data that Gilat and Nicklow,
# Phys. Rev. 143, 487 (1966), analysed: THz
ALUMINIUM = {
    ("X", (1, 0, 0), (1, 0, 0)): 9.69,
    ("X", (1, 0, 0), (0, 1, 0)): 5.78,
    ("L", (0.5, 0.5, 0.5), (1, 1, 1)): 9.69,
    ("L", (0.5, 0.5, 0.5), (1, -1, 0)): 4.19,
}


def measured(table):
    return [
        MeasuredMode(hkl=hkl, polarisation=e, frequency_THz=f) for (_, hkl, e), f in table.items()
    ]


def cubic_moduli(c11, c12, c44, precision):
    """Three pure waves of a cubic crystal from its elastic constants, GPa."""
    waves = [((1, 0, 0), (1, 0, 0), c11), ((1, 0, 0), (0, 1, 0), c44)]
    waves.append(((1, 1, 0), (1, -1, 0), 0.5 * (c11 - c12)))
    return [
        SoundModulus(direction=n, polarisation=e, modulus_GPa=c, precision=precision)
        for n, e, c in waves
    ]


def fitted_niobium():
    """The fit that the built-in niobium was made by."""
    # elastic constants: G. Simmons and H. Wang, Single Crystal Elastic Constants (MIT, 1971)
    data = [*measured(NIOBIUM), *cubic_moduli(246.0, 134.0, 28.7, 0.005)]
    data += [
        KnownElement(name=n, value_N_m=-v, precision_N_m=0.3) for n, v in NIOBIUM_KNOWN.items()
    ]
    crystal = read_crystal("niobium")
    return fit_born_von_karman(crystal, data, 7.45, decay_A=1.5)


def fitted_aluminium():
    # elastic constants at 0 K: G. N. Kamm and G. A. Alers, J. Appl. Phys. 35, 327 (1964)
    data = [*measured(ALUMINIUM), *cubic_moduli(114.3, 61.9, 31.6, 0.01)]
    return fit_born_von_karman(read_crystal("aluminium"), data, 5.8)


def mode_of(model, hkl, polarisation):
    """Frequency in THz of the mode with most of a polarisation."""
    energies, vectors = modes(model, np.array([hkl]) @ model.crystal.conventional_reciprocal)
    weight = np.abs(np.asarray(polarisation, dtype=float) @ vectors[0])
    # a degenerate pair shares its energy, so any member of it will do
    return energies[0, int(np.argmax(weight))] / MEV_PER_THZ


def lowest(model):
    n = np.stack(np.meshgrid(*[(np.arange(14) + 0.1) / 14] * 3, indexing="ij"), -1).reshape(-1, 3)
    return modes(model, n @ model.crystal.reciprocal)[0].min()


# ------------------------------------------------------------------------------------- niobium


@pytest.mark.parametrize(("mode", "frequency"), list(NIOBIUM.items()))
def test_built_in_niobium_has_the_measured_frequencies(mode, frequency):
    constants = read_force_constants("niobium")
    model = force_constant_model(constants.crystal, constants, None)
    assert mode_of(model, *mode[1:]) == pytest.approx(frequency, rel=5e-4)  # worst 0.03 %


def test_built_in_niobium_has_the_published_elements():
    constants = read_force_constants("niobium")
    model = force_constant_model(constants.crystal, constants, None)
    ours = dict(zip(model.elements, -EV_A2_IN_N_M * model.element_values, strict=True))
    for name, published in NIOBIUM_KNOWN.items():
        assert ours[name] == pytest.approx(published, abs=0.05), name


def test_built_in_niobium_is_the_fit_that_it_says_to_be():
    constants = read_force_constants("niobium")
    stored = force_constant_model(constants.crystal, constants, None)
    fit = fitted_niobium()
    assert stored.elements == fit.model.elements
    np.testing.assert_allclose(stored.element_values, fit.model.element_values, atol=2e-9)
    assert np.abs(fit.misses[:8]).max() < 5e-4  # frequencies and elastic constants
    assert np.abs(fit.misses[8:]).max() < 0.015  # published elements
    assert lowest(stored) > 0


def test_niobium_has_its_heat_capacity_and_displacement():
    # what the fit was not told. CRC Handbook: 0.202 J/(g K) at 100 K, of which electrons hold
    # 7.8 mJ/(mol K^2) T; B = 0.43 to 0.49 angstrom^2 at room temperature (our fit: 0.41)
    constants = read_force_constants("niobium")
    model = force_constant_model(constants.crystal, constants, None)
    lattice = 0.202 * 92.906 - 7.8e-3 * 100
    assert GAS_CONSTANT * heat_capacity(phonon_dos(model), 100.0) == pytest.approx(lattice, rel=0.1)
    B = 8 * np.pi**2 * displacement_tensors(model, 295.0)[0, 0, 0]
    assert B == pytest.approx(0.45, abs=0.06)


# ----------------------------------------------------------------------------------- aluminium


def test_a_fit_to_measured_aluminium_meets_its_zone_boundary():
    model = fitted_aluminium().model
    for (_, hkl, e), frequency in ALUMINIUM.items():
        assert mode_of(model, hkl, e) == pytest.approx(frequency, rel=1e-3)
    assert lowest(model) > 0


def test_a_fit_to_measured_aluminium_foretells_its_heat_capacity():
    # W. F. Giauque and P. F. Meads, J. Am. Chem. Soc. 63, 1897 (1941): 13.0 J/(mol K) at 100 K
    dos = phonon_dos(fitted_aluminium().model)
    assert GAS_CONSTANT * heat_capacity(dos, 100.0) == pytest.approx(13.0, rel=0.02)


def test_built_in_aluminium_is_a_guess_within_a_fifth_of_what_is_measured():
    # it has no constants of its own, only a prior of force fields, which are soft
    constants = prior_force_constants("aluminium")
    model = force_constant_model(constants.crystal, constants, None)
    ratio = [mode_of(model, hkl, e) / f for (_, hkl, e), f in ALUMINIUM.items()]
    assert 0.8 < min(ratio)
    assert max(ratio) < 1.0


# --------------------------------------------------------------------------------------- a fit


def test_moduli_are_the_squared_velocities_of_long_waves():
    fit = fitted_niobium()
    crystal = fit.model.crystal
    q = np.array([[1.0, 1.0, 0]]) * 1e-4 / np.sqrt(2)
    energies, vectors = modes(fit.model, q)
    slope = np.linalg.norm(group_velocities(fit.model, q, energies, vectors)[0], axis=1)
    hbar = 0.6582119569  # meV ps
    velocity = slope / hbar * 100  # m/s
    density = crystal.masses_u[0] * 1.66053906660e-27 / 1e-30
    density /= abs(np.linalg.det(crystal.lattice))
    moduli = np.sort(density * velocity**2 / 1e9)
    expected = np.sort([56.0, 28.7, 0.5 * (246 + 134 + 2 * 28.7)])
    np.testing.assert_allclose(moduli, expected, rtol=2e-3)


def test_springs_are_found_again_from_enough_data():
    a = 4.05
    crystal = read_crystal("aluminium")
    truth = {"1NN xx": -0.66, "1NN xy": -0.70, "1NN zz": 0.19}
    model = force_constant_model(crystal, None, 3.0)
    model = model.with_elements([truth[n] for n in model.elements])
    data = [
        MeasuredMode(hkl=hkl, polarisation=e, frequency_THz=float(mode_of(model, hkl, e)))
        for _, hkl, e in ALUMINIUM
    ]
    volume = a**3 / 4
    c44 = -EV_A3_IN_GPA / (2 * volume) * a**2 / 4 * 4 * (truth["1NN xx"] + truth["1NN zz"])
    data += [SoundModulus(direction=(1, 0, 0), polarisation=(0, 1, 0), modulus_GPa=c44)]
    fit = fit_born_von_karman(crystal, data, 3.0, nearest_eV_A2=1e4)
    np.testing.assert_allclose(fit.model.element_values, list(truth.values()), atol=1e-6)
    np.testing.assert_allclose(fit.misses, 0, atol=1e-6)


def test_what_cannot_be_fitted_says_why():
    crystal = read_crystal("aluminium")
    mode = MeasuredMode(hkl=(0.3, 0.1, 0), polarisation=(1, 0, 0), frequency_THz=3.0)
    with pytest.raises(ValueError, match="an eigenvector; expected"):
        fit_born_von_karman(crystal, [mode], 3.0)
    wave = SoundModulus(direction=(2, 1, 0), polarisation=(2, 1, 0), modulus_GPa=100)
    with pytest.raises(ValueError, match="pure wave"):
        fit_born_von_karman(crystal, [wave], 3.0)
    known = KnownElement(name="9NN xx", value_N_m=1.0, precision_N_m=0.1)
    with pytest.raises(ValueError, match="not among"):
        fit_born_von_karman(crystal, [known], 3.0)
    with pytest.raises(ValueError, match="empty"):
        fit_born_von_karman(crystal, [], 3.0)
    salt = crystal_from_cells(
        2.8 * (1 - np.eye(3)), [[0, 0, 0], [0.5, 0.5, 0.5]], ("Na", "Cl"), 5.6 * np.eye(3)
    )
    with pytest.raises(ValueError, match="expected one"):
        fit_born_von_karman(salt, [mode], 3.0)
