"""Incoherent, multiphonon and indirect-geometry spectra against sums over modes, without a density.

The p-phonon spectrum along a direction n is the Fourier transform of the p-th power of the
displacement's correlation function ``sum_s hbar^2 |n e_s|^2 / 2 m E_s [(N + 1) exp(-i E_s t) + N
exp(i E_s t)]``. The sum runs over all modes of two shifted meshes, twice the fine one less the
coarse one (the error of one mesh is proportional to its step); nothing is binned or interpolated.
Directions are a spiral on the sphere.
"""

from __future__ import annotations

from functools import lru_cache
from math import factorial
from pathlib import Path

import numpy as np
import pytest

from simulations.constants import BOLTZMANN_MEV_PER_K, HBAR2_OVER_U
from simulations.dynamics import modes, phonon_dos
from simulations.reciprocal import irreducible_mesh, mesh_divisions, symmetrised_site_tensors
from simulations.scattering import displacement_tensors, incoherent_spectrum, vibrational_spectrum
from simulations.scattering.indirect import bank_momentum
from tests.simulations.phonon_oracles import phonopy_model

ORDERS = (1, 2, 3, 4)
CRYSTALS = {"mp-23710": 0.18, "mp-567259": 0.07, "MgB2": 0.1}
"""MgH2, a hydride; CdI2, layers held by van der Waals forces; a metal. Steps of the coarser meshes,
1/angstrom."""

pytestmark = [pytest.mark.shared_data, pytest.mark.slow]


@lru_cache
def crystal_of(folder: Path, name: str):
    _, model = phonopy_model(folder, name)
    return model, phonon_dos(model)


def correlation(model, temperature, divisions, times):
    """Displacement correlations of every atom, (atoms, 3, 3, times), angstrom^2."""
    zone = irreducible_mesh(model.crystal, divisions, shifted=True)
    atoms = model.crystal.n_atoms
    out = np.zeros((9 * atoms, len(times)), complex)
    for part in np.array_split(np.arange(len(zone.q_cart)), max(1, len(zone.q_cart) // 300)):
        energy, vectors = modes(model, zone.q_cart[part])
        e = vectors.reshape(len(part), atoms, 3, -1)
        tensor = np.einsum("qias,qibs->iabqs", e, e.conj()).real.reshape(9 * atoms, -1)
        assert energy.min() > 0
        E = energy.ravel()[:, None]
        number = 1 / np.expm1(np.minimum(E / (BOLTZMANN_MEV_PER_K * temperature), 600))
        weight = np.repeat(zone.weights[part], energy.shape[1])[:, None] / E
        out += tensor @ (weight * ((2 * number + 1) * np.cos(E * times) - 1j * np.sin(E * times)))
    scale = 0.5 * HBAR2_OVER_U / np.repeat(model.crystal.masses_u, 9)[:, None]
    site = (out * scale).reshape(atoms, 3, 3, -1).transpose(3, 0, 1, 2)
    return symmetrised_site_tensors(model.crystal, site).transpose(1, 2, 3, 0)


def spiral(count):
    k = np.arange(count) + 0.5
    z = k / count  # half of the sphere
    angle = np.pi * (3 - 5**0.5) * k
    r = np.sqrt(1 - z**2)
    return np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1)


class Direct:
    """Orders of every atom and direction at given energies, smeared with a Gaussian."""

    def __init__(self, model, temperature, step, sigma, edges, directions=120):
        reach = 4.3 * energies_top(model) + np.abs(edges).max()
        dt = np.pi / reach
        times = dt * np.arange(int(6.5 / sigma / dt) + 1)
        n = np.array(mesh_divisions(model.crystal, step))
        fine, coarse = (correlation(model, temperature, m, times) for m in (2 * n, n))
        self.tensor = 2 * fine - coarse
        self.directions = spiral(directions)
        self.along = np.einsum("da,iabt,db->dit", self.directions, self.tensor, self.directions)
        self.mean_square = self.along[..., 0].real  # (directions, atoms)
        width = np.diff(edges)
        assert np.allclose(width, width[0])
        centres = 0.5 * (edges[1:] + edges[:-1])
        window = np.exp(-0.5 * (sigma * times) ** 2) * np.sinc(0.5 * width[0] * times / np.pi)
        window = window * np.where(times == 0, 0.5, 1.0) * dt / np.pi
        self.transform = np.exp(1j * np.outer(times, centres)) * window[:, None]

    def order(self, p):
        """Sum over p-tuples of modes, (directions, atoms, E), angstrom^2p / meV."""
        shape = self.along.shape
        flat = (self.along**p).reshape(-1, shape[2]) @ self.transform
        return flat.real.reshape(*shape[:2], -1)


def energies_top(model):
    axes = np.arange(4) / 4
    x = np.stack(np.meshgrid(axes, axes, axes, indexing="ij"), axis=-1).reshape(-1, 3) + 1e-3
    return float(modes(model, x @ model.crystal.reciprocal)[0].max())


@pytest.mark.parametrize("temperature", [5.0, 300.0])
@pytest.mark.parametrize("name", CRYSTALS)
def test_orders_agree_with_sums_over_modes(shared_data, name, temperature):
    model, dos = crystal_of(shared_data, name)
    crystal = model.crystal
    top = energies_top(model)
    sigma = 0.02 * top
    edges = np.arange(-1.2 * top, 4.4 * top, 0.4 * sigma)
    direct = Direct(model, temperature, CRYSTALS[name], sigma, edges)
    U = displacement_tensors(model, temperature)
    # all routes to the mean squares; the sums' own error is that of two meshes
    theirs = direct.tensor[..., 0].real
    np.testing.assert_allclose(U, theirs, atol=0.005 * np.abs(theirs).max())
    momentum = np.array([3.0, 8.0])
    got = incoherent_spectrum(
        crystal, dos, np.sort(np.r_[momentum - 1e-4, momentum + 1e-4]), edges,
        temperature_K=temperature, resolution=sigma, max_order=4, displacement=U,
    )  # fmt: skip
    decay = np.exp(-(momentum[:, None, None] ** 2) * direct.mean_square)
    worst = {}
    for p in ORDERS:
        barn = crystal.incoherent_barn / (4 * np.pi)
        if p > 1:
            barn = barn + crystal.scattering_length**2
        spectra = direct.order(p)
        for k, Q in enumerate(momentum):
            weight = decay[k] * barn * Q ** (2 * p) / factorial(p) / len(direct.directions)
            expected = np.einsum("di,die->e", weight, spectra)
            mine = got.orders[p, 2 * k]
            worst[p, Q] = np.abs(mine - expected).sum() / expected.sum()
    assert max(worst.values()) < 0.01, worst


@pytest.mark.parametrize("temperature", [5.0, 300.0])
@pytest.mark.parametrize("name", CRYSTALS)
def test_an_indirect_instrument_agrees_with_sums_over_modes(shared_data, name, temperature):
    model, dos = crystal_of(shared_data, name)
    crystal = model.crystal
    top = energies_top(model)
    sigma = 0.02 * top
    step = 0.2 * sigma
    edges = np.arange(-3.0, 4.4 * top, step)
    direct = Direct(model, temperature, CRYSTALS[name], 0.3 * sigma, edges)
    got = vibrational_spectrum(
        crystal, dos, edges, temperature_K=temperature, instrument="VISION", resolution=sigma,
        max_order=4, displacement=displacement_tensors(model, temperature),
    )  # fmt: skip
    centres = 0.5 * (edges[1:] + edges[:-1])
    squared = np.nan_to_num(bank_momentum(centres, 3.5, 135.0)) ** 2
    rest = np.sqrt(sigma**2 - (0.3 * sigma) ** 2)
    kernel = np.exp(-0.5 * (np.arange(-60, 61) * step / rest) ** 2)
    kernel /= kernel.sum()
    barn = crystal.incoherent_barn / (4 * np.pi) + crystal.scattering_length**2
    factor = np.exp(-squared * direct.mean_square[..., None]) * barn[None, :, None]
    inner = centres > 0.06 * top  # the kernel sees no energies below the axis
    for p in ORDERS:
        spectrum = (factor * squared**p / factorial(p) * direct.order(p)).mean(axis=0).sum(axis=0)
        expected = np.convolve(spectrum, kernel, mode="same")
        off = np.abs(got.orders[1, p] - expected)[inner].sum() / expected[inner].sum()
        assert off < 0.01, (p, off)
