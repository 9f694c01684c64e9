"""10,000 germanium path spectra against Euphonic and against batched LAPACK in numpy.

All write the broadened map (10,000 sets, 150 q, 200 energy bins) with 12 free force constants,
Debye-Waller factor and Bose factor at 5 K, on one thread. Euphonic does 100 of the sets and its
time is multiplied by 100; its force-constant objects are built beforehand and not timed.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from simulations.constants import BOLTZMANN_MEV_PER_K, HBAR2_OVER_U
from simulations.crystal import read_crystal
from simulations.dynamics import force_constant_model, read_force_constants, select_free
from simulations.prior import BoxPrior
from simulations.reciprocal import EnergyAxis, Path
from simulations.scattering import displacement_tensors, one_phonon_lines
from simulations.scattering.one_phonon import amplitudes
from simulations.scattering.path_spectra import path_model, path_spectra
from tests.simulations.phonon_oracles import degenerate_sums, euphonic_constants

SETS = 10_000
EUPHONIC_SETS = 100
TEMPERATURE_K = 5.0
FWHM_MEV = 1.5
SIGMA_MEV = FWHM_MEV / np.sqrt(8 * np.log(2))
ENERGY = EnergyAxis(edges_meV=np.linspace(0.0, 50.0, 201))
# the reference run's path, cut into 150 bins, looked at around the 220 Bragg peak
PATH = Path(
    start_hkl=np.array([[0, 0, 0], [0, 0, 1], [0.75, 0.75, 0], [0, 0, 0], [0.5] * 3, [0.5, 0, 1]]),
    end_hkl=np.array([[0, 0, 1], [0.25, 0.25, 1], [0, 0, 0], [0.5] * 3, [0.5, 0, 1], [0, 0, 1]]),
    labels=(("Gamma", "X"), ("X", "U"), ("K", "Gamma"), ("Gamma", "L"), ("L", "W"), ("W", "X")),
    bins=(43, 11, 32, 21, 22, 21),
)


@pytest.fixture(scope="module")
def job():
    """Model with 12 free elements, its path, and 10,000 sets that are stable on the path."""
    crystal = read_crystal("germanium")
    model = force_constant_model(crystal, read_force_constants("germanium"), 7.0)
    hkl = PATH.centres_hkl() + np.array([2.0, 2.0, 0.0])
    Q = hkl @ crystal.conventional_reciprocal
    model = model.with_free(select_free(model, 12, Q))
    U = displacement_tensors(model, TEMPERATURE_K)
    path = path_model(model, Q, ENERGY, SIGMA_MEV, TEMPERATURE_K, U)
    size = 0.06 * np.abs(model.values) + 1e-3
    box = BoxPrior(names=model.names, lower=model.values - size, upper=model.values + size)
    phi = box.sample(SETS, np.random.default_rng(1), model, Q[::5]).values
    out = np.zeros((SETS, *path.shape))  # touched once, so that no one pays for new pages
    return path, phi, out


def numpy_spectra(path, phi, out):
    """Batched numpy.linalg.eigh and broadening of whole arrays, in blocks that stay in cache."""
    fixed, basis = path.model.matrices(path.Q)
    n_q, n = fixed.shape[:2]
    flat = np.ascontiguousarray(basis.transpose(1, 0, 2, 3)).reshape(basis.shape[1], -1)
    f = amplitudes(path.model.crystal, path.Q, path.displacement)
    centres, step = path.energy.centres_meV, path.energy.step_meV
    thermal = BOLTZMANN_MEV_PER_K * path.temperature_K
    # a bin's average of a Gaussian is, to 1e-4, a Gaussian wider by the bin's own variance
    sigma = np.sqrt(SIGMA_MEV**2 + step**2 / 12)
    points = centres / sigma
    near = slice(0, int(np.searchsorted(centres, 6 * sigma)))  # where annihilation lines reach
    block = 8
    line = np.empty((block * n_q, n, len(points)))
    for start in range(0, len(phi), block):
        part = phi[start : start + block]
        D = fixed + (part @ flat.view(float)).view(complex).reshape(-1, n_q, n, n)
        squared, vectors = np.linalg.eigh(D.reshape(-1, n, n))
        energy = np.sqrt(np.maximum(squared, 1e-6))
        overlap = np.tile(f, (len(part), 1))[:, None, :] @ vectors.conj()
        weight = 0.5 * HBAR2_OVER_U / energy * np.abs(overlap[:, 0]) ** 2
        weight *= (squared > 1e-6) / (sigma * np.sqrt(2 * np.pi))
        n_s = 1 / np.expm1(np.minimum(energy / thermal, 700.0))
        energy /= sigma
        z = line[: len(energy)]
        np.subtract(points, energy[:, :, None], out=z)
        np.multiply(z, z, out=z)
        np.multiply(z, -0.5, out=z)
        np.exp(z, out=z)
        spectra = ((weight * (n_s + 1))[:, None] @ z)[:, 0]
        low = np.flatnonzero(energy[:, 0] < 6)
        z = np.exp(-0.5 * (points[near] + energy[low, :, None]) ** 2)
        spectra[low, near] += ((weight * n_s)[low, None] @ z)[:, 0]
        out[start : start + block] = spectra.reshape(len(part), n_q, -1)
    return out


def euphonic_objects(path, phi):
    ureg = pytest.importorskip("euphonic", reason="euphonic is the peer").ureg
    supercell = 4 * np.eye(3, dtype=np.int64)
    constants = []
    for values in phi:
        model = path.model.with_elements(
            [
                dict(zip(path.model.names, values, strict=True)).get(name, old)
                for name, old in zip(path.model.elements, path.model.element_values, strict=True)
            ]
        )
        constants.append(euphonic_constants(model, supercell))
    return constants, path.Q @ path.model.crystal.lattice.T / (2 * np.pi), ureg


def euphonic_modes(constants, qpts):
    return constants.calculate_qpoint_phonon_modes(qpts, asr=None, use_c=True, n_threads=1)


def test_path_spectra_against_euphonic(job, against):
    from euphonic import DebyeWaller

    path, phi, out = job
    constants, qpts, ureg = euphonic_objects(path, phi[:EUPHONIC_SETS])
    crystal = constants[0].crystal
    dw = DebyeWaller(
        crystal,
        0.5 * path.displacement * ureg("angstrom**2"),
        path.temperature_K * ureg.K,
    )
    edges = ENERGY.edges_meV * ureg.meV

    def lines(one):
        return euphonic_modes(one, qpts).calculate_structure_factor(dw=dw)

    def peer():
        maps = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for one in constants:
                sqw = lines(one).calculate_sqw_map(edges, temperature=TEMPERATURE_K * ureg.K)
                maps.append(sqw.broaden(y_width=FWHM_MEV * ureg.meV))
        return maps

    # equal lines first, inside degenerate groups; then equal maps
    factor = lines(constants[0])
    theirs = factor.structure_factors.to("barn").magnitude * path.model.crystal.n_atoms
    energies = factor.frequencies.to("meV").magnitude
    mine = one_phonon_lines(path.model, path.Q, 0.0, phi[0], path.displacement)
    np.testing.assert_allclose(energies, mine.energies_meV, rtol=1e-6)
    np.testing.assert_allclose(
        degenerate_sums(energies, theirs),
        degenerate_sums(mine.energies_meV, mine.creation),
        atol=1e-5 * theirs.max(),
    )
    # Euphonic puts a line into the centre of its bin before it broadens, and drops annihilation
    # lines below its axis: compare with bins 20 times finer that begin at -10 meV
    spectrum = path_spectra(path, phi[:1])[0]
    fine = np.linspace(-10.0, 50.0, 4801) * ureg.meV
    sqw = factor.calculate_sqw_map(fine, temperature=TEMPERATURE_K * ureg.K)
    theirs = sqw.broaden(y_width=FWHM_MEV * ureg.meV).z_data.to("barn/meV").magnitude[:, 800:]
    theirs = theirs.reshape(*spectrum.shape, 20).mean(axis=2) * path.model.crystal.n_atoms
    assert np.abs(theirs - spectrum).sum() < 0.01 * spectrum.sum()
    ratio = against(
        "path-spectra",
        "euphonic",
        lambda: path_spectra(path, phi, out=out),
        peer,
        repeats=5,
        peer_scale=SETS / EUPHONIC_SETS,
    )
    assert ratio >= 150


def test_path_spectra_against_numpy_eigh(job, against):
    path, phi, out = job
    theirs = numpy_spectra(path, phi[:50], np.empty((50, *path.shape)))
    ours = path_spectra(path, phi[:50])
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * theirs.max())
    ratio = against(
        "path-spectra",
        "numpy-eigh",
        lambda: path_spectra(path, phi, out=out),
        lambda: numpy_spectra(path, phi, out),
        repeats=3,
    )
    assert ratio >= 2
