"""Constants: physical ones in the units of this package (CODATA through scipy), and Z90."""

from __future__ import annotations

from scipy import constants as _c

_EV = _c.elementary_charge
_U = _c.atomic_mass
_A = 1e-10

HBAR2_OVER_U = _c.hbar**2 / _U / _EV * 1e3 / _A**2
"""hbar^2 / u in meV angstrom^2 (4.18016); half of it is the 2.09008 of one-phonon scattering."""

MEV2_PER_FORCE_CONSTANT = 1e3 * HBAR2_OVER_U
"""Squared energy, meV^2, of 1 eV/angstrom^2 acting on 1 u: (64.6541 meV)^2."""

BOLTZMANN_MEV_PER_K = _c.Boltzmann / _EV * 1e3
"""Boltzmann constant in meV/K."""

GAS_CONSTANT_J_PER_MOL_K = _c.gas_constant
"""Boltzmann constant per mole."""

NEUTRON_MEV_A2 = _c.hbar**2 / (2 * _c.neutron_mass) / _EV * 1e3 / _A**2
"""hbar^2 / 2 m_n: a neutron of wave number k (1/angstrom) has this times k^2 meV."""

METRE_PER_SECOND_PER_SQRT_MEV = float((2 * 1e-3 * _c.elementary_charge / _c.neutron_mass) ** 0.5)
"""A neutron of E meV flies this times sqrt(E) metres per second."""

COULOMB_EV_A = _c.e / (4 * _c.pi * _c.epsilon_0) / _A
"""e^2 / (4 pi epsilon_0) in eV angstrom."""

EV_A2_IN_N_M = _EV / _A**2
"""Force constant of 1 eV/angstrom^2 in N/m (16.0218)."""

EV_A3_IN_GPA = _EV / _A**3 / 1e9
"""Modulus of 1 eV/angstrom^3 in GPa (160.218)."""

MEV_PER_THZ = _c.Planck * 1e12 / _EV * 1e3
"""Energy of a phonon of 1 THz, meV."""

NOISE_MEV = 0.05
"""Modes less than this below zero are numerical noise of acoustic ones at Gamma, not imaginary."""

Z90 = 1.6448536269514722
"""Standard deviations of a normal distribution from its mean to the ends of its 90 % interval."""
