"""The folded intensity equals a direct sum over scattering vectors, and so do its derivatives."""

import gc
from functools import cache

import numpy as np
import pytest

from simulations.constants import HBAR2_OVER_U
from simulations.dynamics import ForceConstantModel, force_constant_model, modes
from simulations.fold import build_voxel_map
from simulations.fold.exposure import Exposure
from simulations.instrument import Resolution
from simulations.likelihood import FoldedPhonons
from simulations.likelihood.folded_phonons import LOWEST_ENERGY_MEV
from simulations.reciprocal import EnergyAxis, Path
from simulations.scattering import broadened, displacement_tensors, one_phonon_lines
from simulations.scattering.one_phonon import amplitudes, gaussian_bins
from tests.simulations.fold.test_voxel_map import CRYSTALS
from tests.simulations.phonon_oracles import germanium

EI, TEMPERATURE = 1e6, 30.0  # so fast that k_f and Q^2 do not change along a line's width
AXIS = EnergyAxis(edges_meV=np.linspace(0, 48, 49), substeps=4)
SIGMA = 1.0  # meV
MEV2_PER_EV = 64.6541**2  # of 1 eV/angstrom^2/u


class _EvenResolution(Resolution):
    """One width at every energy, however large the incident energy."""

    def sigma_meV(self, energy_transfer_meV, ei_meV: float):
        return np.full(np.shape(energy_transfer_meV), SIGMA)


def spring_model() -> ForceConstantModel:
    """A stable hexagonal crystal of central and weaker transverse springs within 3.9 angstrom."""
    crystal = CRYSTALS["hexagonal"]()
    model = force_constant_model(crystal, None, 3.9)
    q = np.random.default_rng(2).uniform(-0.5, 0.5, (40, 3)) @ crystal.reciprocal
    at = crystal.positions @ crystal.lattice
    matrix = np.zeros((len(q), 12, 12), dtype=complex)
    cells = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3), axis=-1).reshape(-1, 3)
    for i in range(4):
        for j in range(4):
            for shift in cells @ crystal.lattice:
                d = at[j] + shift - at[i]
                r = np.linalg.norm(d)
                if not 1e-6 < r < 3.9:
                    continue
                along = np.outer(d, d) / r**2
                spring = 6.0 * np.exp(-(r - 2.0)) * (along + 0.15 * (np.eye(3) - along))
                a, b = slice(3 * i, 3 * i + 3), slice(3 * j, 3 * j + 3)
                mass = crystal.masses_u
                matrix[:, a, a] += spring * MEV2_PER_EV / mass[i]
                phase = np.exp(1j * q @ d)[:, None, None]
                matrix[:, a, b] -= phase * spring * MEV2_PER_EV / np.sqrt(mass[i] * mass[j])
    fixed, basis = model.matrices(q)
    columns = np.moveaxis(basis, 1, -1).reshape(-1, len(model.names))
    right = (matrix - fixed).ravel()
    phi, *_ = np.linalg.lstsq(
        np.r_[columns.real, columns.imag], np.r_[right.real, right.imag], rcond=None
    )
    assert np.abs(columns @ phi - right).max() < 1e-3 * np.abs(right).max()
    stiff = model.with_elements(phi)
    return stiff.with_free(stiff.elements[:6])


@cache
def forward(name: str, real: bool = True) -> FoldedPhonons:
    """A coarse map of two short segments; both lie along symmetry axes of the crystals."""
    if name == "germanium":
        model = germanium(7.0)
        model = model.with_free(model.elements[:6])
    else:
        model = spring_model()
    path = Path(
        start_hkl=np.array([[0.0, 0, 0], [0, 0, 0]]),
        end_hkl=np.array([[0.0, 0, 0.5], [0.5, 0, 0]]),
        labels=(("Gamma", "A"), ("Gamma", "M")),
        bins=(3, 3),
    )
    voxels = build_voxel_map(model.crystal, path, half_width_rlu=0.12, voxel_rlu=0.12)
    return FoldedPhonons(
        model=model,
        voxels=voxels,
        energy=AXIS,
        ei_meV=EI,
        temperature_K=TEMPERATURE,
        resolution=_EvenResolution(coefficients=(0.0,)),
        real=real,
    )


@cache
def displacement(name: str):
    return displacement_tensors(forward(name).model, TEMPERATURE)


def pack(tensor):
    """6 N^2 reals of Hermitian (3N, 3N): xx yy zz yz xz xy of each pair, imaginary parts too."""
    pairs = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    out = []
    for k in range(len(tensor) // 3):
        for m in range(k, len(tensor) // 3):
            block = [tensor[3 * k + a, 3 * m + b] for a, b in pairs]
            out += [z.real for z in block]
            out += [z.imag for z in block] if m > k else []
    return np.array(out)


def exposure_of(model: FoldedPhonons, voxel: int, **sums) -> Exposure:
    """The same sums in every energy bin of one voxel, nothing elsewhere."""
    shape = (model.voxels.n_voxels, model.n_energy)
    n = 6 * model.model.crystal.n_atoms**2
    tails = {"tensor": (n,), "first": (3,), "second": (6,), "slope": (3,)}
    tails["slope_second"] = (6,)
    slope = np.asarray(sums.get("slope", np.zeros(3)))
    x, y, z = slope / sums["weight"]
    alike = sums["weight"] * np.array([x * x, y * y, z * z, y * z, x * z, x * y])
    arrays, sums = {}, {"q_squared": 20 * sums["weight"], "slope_second": alike} | sums
    for name in (
        "weight",
        "flat",
        "q_squared",
        "tensor",
        "first",
        "second",
        "slope",
        "slope_second",
    ):
        arrays[name] = np.zeros((*shape, *tails.get(name, ())))
        arrays[name][voxel] = sums.get(name, 0.0)
    return Exposure(**arrays)


def gathered(name: str, model: FoldedPhonons, voxel: int, G, offset, weight) -> Exposure:
    """Sums over vectors ``Q = G + q_voxel + offset``, straight from their definitions."""
    crystal = model.model.crystal
    Q = G @ crystal.reciprocal + model.voxels.centre_cartesian[voxel] + offset
    phase = np.exp(2j * np.pi * G @ crystal.positions.T)
    f = amplitudes(crystal, Q, displacement(name)) * np.repeat(phase, 3, axis=1)
    x, y, z = offset.T
    return exposure_of(
        model,
        voxel,
        weight=weight.sum(),
        q_squared=weight @ np.sum(Q**2, axis=1),
        tensor=pack(np.einsum("i,ia,ib->ab", weight, f, f.conj())),
        first=weight @ offset,
        second=weight @ np.stack([x * x, y * y, z * z, y * z, x * z, x * y], axis=1),
    )


def direct(name: str, model: FoldedPhonons, voxel: int, G, offset, weight):
    """The weighted sum of S(Q,E) over the same vectors."""
    crystal = model.model.crystal
    Q = G @ crystal.reciprocal + model.voxels.centre_cartesian[voxel] + offset
    lines = one_phonon_lines(model.model, Q, TEMPERATURE, model.model.values, displacement(name))
    return weight @ broadened(lines, AXIS.edges_meV[: model.n_energy + 1], SIGMA)


def far_voxels(model: FoldedPhonons) -> list[int]:
    """Some voxels away from Gamma, where the weight 1/E and the velocity vary slowly."""
    distance = np.linalg.norm(model.voxels.centre_cartesian, axis=1)
    return [int(v) for v in np.argsort(-distance)[:20:5]]


@pytest.mark.parametrize("name", ["germanium", "hexagonal"])
def test_rates_equal_a_direct_average_over_a_narrow_voxel(name):
    model = forward(name)
    state = model.prepare(model.model.values)
    assert state.stable
    rng = np.random.default_rng(4)
    for voxel in far_voxels(model):
        G = rng.integers(-3, 4, (400, 3)).astype(float)
        offset = np.array([0.02, -0.01, 0.015]) + rng.uniform(-0.02, 0.02, (400, 3))
        weight = rng.uniform(0.5, 1.5, 400)
        exposure = gathered(name, model, voxel, G, offset, weight)
        rate, _ = model.rates(exposure, state, gradient=False)
        expected = direct(name, model, voxel, G, offset, weight)
        path_bin = model.voxels.path_bin[voxel]
        error = np.abs(rate[path_bin, : model.n_energy] - expected).sum() / expected.sum()
        assert error < 0.03
        assert rate.sum() == pytest.approx(rate[path_bin].sum())  # other bins stay empty


def test_the_centroid_of_the_exposure_shifts_the_lines_as_the_dispersion_does():
    model = forward("germanium")
    state = model.prepare(model.model.values)
    rng = np.random.default_rng(5)
    voxel = far_voxels(model)[0]
    G = rng.integers(-3, 4, (300, 3)).astype(float)
    offset = np.array([0.05, 0.05, 0.05]) + rng.uniform(-0.01, 0.01, (300, 3))
    weight = np.ones(300)
    exposure = gathered("germanium", model, voxel, G, offset, weight)
    blind = exposure_of(model, voxel, weight=300.0, tensor=exposure.tensor[voxel, 0])
    expected = direct("germanium", model, voxel, G, offset, weight)
    path_bin = model.voxels.path_bin[voxel]
    errors = []
    for one in (exposure, blind):
        rate, _ = model.rates(one, state, gradient=False)
        errors.append(np.abs(rate[path_bin, : model.n_energy] - expected).sum() / expected.sum())
    assert errors[0] < 0.06
    assert errors[1] > 3 * errors[0]


def test_each_exposure_is_seen_through_its_own_tensors_which_go_with_it():
    model, other = forward("germanium"), forward("germanium", real=False)
    state, plain = (one.prepare(one.model.values) for one in (model, other))
    voxel, rng = far_voxels(model)[1], np.random.default_rng(8)

    def seen() -> Exposure:
        vector = rng.normal(size=6) + 1j * rng.normal(size=6)
        return exposure_of(model, voxel, weight=10.0, tensor=pack(np.outer(vector, vector.conj())))

    first, second = seen(), seen()
    for one in (first, second, first, first, second):
        ours, expected = (f.rates(one, s)[0] for f, s in ((model, state), (other, plain)))
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12 * expected.max())
    assert model._latest is not None
    del second, one
    gc.collect()
    assert model._latest is None


def test_the_width_of_a_voxel_broadens_its_lines_by_the_spread_of_the_branch():
    model = forward("germanium", real=False)  # its vectors are those of T
    state = model.prepare(model.model.values)
    voxel = far_voxels(model)[1]
    branch = int(np.argmax(np.linalg.norm(state.velocity[voxel], axis=1)))
    velocity = state.velocity[voxel, branch]
    along = np.random.default_rng(6).uniform(-0.08, 0.08, 500)
    along -= along.mean()
    offset = along[:, None] * velocity / np.linalg.norm(velocity)
    vector = state.vectors[voxel, :, branch]  # a coverage that sees this branch alone
    sums = {"weight": 500.0, "tensor": pack(np.outer(vector, vector.conj()))}
    x, y, z = offset.T
    second = np.stack([x * x, y * y, z * z, y * z, x * z, x * y], axis=1).sum(0)
    wide = exposure_of(model, voxel, **sums, second=second)
    spectra = [
        model.rates(e, state, gradient=False)[0][model.voxels.path_bin[voxel]]
        for e in (wide, exposure_of(model, voxel, **sums))
    ]

    def variance(spectrum):
        mean = spectrum @ AXIS.centres_meV / spectrum.sum()
        return spectrum @ (AXIS.centres_meV - mean) ** 2 / spectrum.sum()

    energy = modes(model.model, model.voxels.centre_cartesian[voxel] + offset)[0][:, branch]
    assert energy.var() > 0.3
    assert variance(spectra[0]) - variance(spectra[1]) == pytest.approx(energy.var(), rel=0.1)
    assert spectra[0].sum() == pytest.approx(spectra[1].sum(), rel=0.01)  # the mean of 1/E


@pytest.mark.parametrize("name", ["germanium", "hexagonal"])
def test_the_jacobian_is_exact_where_the_exposure_is_a_point(name):
    model = forward(name)
    rng = np.random.default_rng(7)
    phi = model.model.values
    for voxel in far_voxels(model)[:3]:
        G = rng.integers(-3, 4, (30, 3)).astype(float)
        exposure = gathered(name, model, voxel, G, np.zeros((30, 3)), np.ones(30))
        _, jacobian = model.rates(exposure, model.prepare(phi), log_width=0.1)
        for k in range(len(phi)):
            step = 2e-4 * np.eye(len(phi))[k]
            up, down = (
                model.rates(exposure, model.prepare(phi + s), log_width=0.1, gradient=False)[0]
                for s in (step, -step)
            )
            numeric = (up - down) / (2 * step[k])
            difference = np.abs(jacobian[..., k] - numeric).max()
            assert difference < 2e-3 * max(np.abs(numeric).max(), 1e-6 * up.max())


def test_the_jacobian_of_a_wide_voxel_neglects_only_the_change_of_the_velocity():
    model = forward("germanium")
    phi = model.model.values
    rng = np.random.default_rng(8)
    voxel = far_voxels(model)[0]
    G = rng.integers(-3, 4, (200, 3)).astype(float)
    offset = np.array([0.02, 0.01, 0.0]) + rng.uniform(-0.03, 0.03, (200, 3))
    exposure = gathered("germanium", model, voxel, G, offset, np.ones(200))
    _, jacobian = model.rates(exposure, model.prepare(phi))
    numeric = np.zeros((*jacobian.shape[:2], len(phi)))
    for k in range(len(phi)):
        step = 2e-4 * np.eye(len(phi))[k]
        up, down = (
            model.rates(exposure, model.prepare(phi + s), gradient=False)[0] for s in (step, -step)
        )
        numeric[..., k] = (up - down) / (2 * step[k])
    error = np.linalg.norm(jacobian[..., :-1] - numeric, axis=(0, 1))
    size = np.linalg.norm(numeric, axis=(0, 1))
    # Parameters that hardly move this voxel lose most of what little they have.
    strong = size > 0.1 * size.max()
    assert strong.sum() == 4
    assert np.all(error[strong] < 0.03 * size[strong])
    assert np.all(error < 0.01 * size.max())


@pytest.mark.parametrize(("half_width", "tolerance"), [(0.0, 1e-6), (0.03, 0.02)])
def test_the_derivative_by_the_logarithm_of_the_width(half_width, tolerance):
    """Exact for a point; a wide voxel may neglect how the width shares out a line's distance."""
    model = forward("germanium")
    state = model.prepare(model.model.values)
    rng = np.random.default_rng(9)
    voxel = far_voxels(model)[1]
    G = rng.integers(-3, 4, (100, 3)).astype(float)
    offset = half_width * rng.uniform(-1, 1, (100, 3))
    exposure = gathered("germanium", model, voxel, G, offset, np.ones(100))
    _, jacobian = model.rates(exposure, state, log_width=0.2)
    up, down = (
        model.rates(exposure, state, log_width=0.2 + s, gradient=False)[0] for s in (1e-4, -1e-4)
    )
    numeric = (up - down) / 2e-4
    difference = np.abs(jacobian[..., -1] - numeric).max()
    assert difference < tolerance * np.abs(numeric).max()


def test_voxels_add_and_rates_scale_with_the_charge():
    model = forward("germanium")
    state = model.prepare(model.model.values)
    rng = np.random.default_rng(10)
    parts = []
    for voxel in (0, 3, model.voxels.n_voxels - 1):
        G = rng.integers(-3, 4, (20, 3)).astype(float)
        offset = rng.uniform(-0.02, 0.02, (20, 3))
        parts.append(gathered("germanium", model, voxel, G, offset, np.ones(20)))
    separate = [model.rates(p, state) for p in parts]
    together = model.rates(parts[0] + parts[1] + parts[2], state)
    tripled = model.rates((parts[0] + parts[1] + parts[2]).scaled(3.0), state)
    for k in range(2):
        np.testing.assert_allclose(together[k], sum(s[k] for s in separate), atol=1e-12)
        np.testing.assert_allclose(tripled[k], 3 * together[k], atol=1e-10)


@pytest.mark.parametrize("steepness", [-0.4, 0.3, 0.6])
def test_smearing_follows_the_trajectory_of_a_pixel(steepness):
    """A pixel's Q moves with energy: it meets the branch once, and smears around that place."""
    model = forward("germanium")
    state = model.prepare(model.model.values)
    crystal = model.model.crystal
    voxel = far_voxels(model)[0]
    q = model.voxels.centre_cartesian[voxel]
    G = np.array([[2.0, 1.0, -1.0]])
    point = gathered("germanium", model, voxel, G, np.zeros((1, 3)), np.ones(1))
    fastest = state.velocity[voxel][np.argmax(np.linalg.norm(state.velocity[voxel], axis=1))]
    slope = steepness * fastest / (fastest @ fastest)  # g is `steepness` on the fastest branch
    exposure = exposure_of(
        model, voxel, weight=1.0, tensor=point.tensor[voxel, 0], slope=np.asarray(slope)
    )
    rate, _ = model.rates(exposure, state, gradient=False)

    near = q + np.array([3.1e-4, 7.3e-4, 5.7e-4])  # degenerate branches have no one velocity
    length = 1e-3
    up, down = (modes(model.model, (near + s * slope * length)[None])[0][0] for s in (1, -1))
    g = (up - down) / (2 * length)
    assert np.abs(g).max() == pytest.approx(abs(steepness), rel=0.05)
    energy, vectors = modes(model.model, near[None])
    f = amplitudes(crystal, G @ crystal.reciprocal + q, displacement("germanium"))[0]
    f = f * np.repeat(np.exp(2j * np.pi * G[0] @ crystal.positions.T), 3)
    strength = np.abs(vectors[0].conj().T @ f) ** 2 * 0.5 * HBAR2_OVER_U / energy[0]
    strength /= 1 - np.exp(-energy[0] / (0.0861733 * TEMPERATURE))
    expected = np.zeros(model.n_energy)
    for e in range(model.n_energy):
        centre = AXIS.centres_meV[e]
        met = centre - (centre - energy[0]) / (1 - g)  # where the trajectory meets each branch
        edges = AXIS.edges_meV[e : e + 2]
        profile = gaussian_bins(edges, met, np.full(6, SIGMA))[:, 0]
        expected[e] = strength @ (profile / np.abs(1 - g))
    found = rate[model.voxels.path_bin[voxel], : model.n_energy]
    np.testing.assert_allclose(found, expected, atol=5e-3 * expected.max())


def test_energies_at_gamma_stay_finite():
    model = forward("germanium")
    state = model.prepare(model.model.values)
    voxel = int(np.argmin(np.linalg.norm(model.voxels.centre_cartesian, axis=1)))
    assert state.energy[voxel, 0] < LOWEST_ENERGY_MEV
    G = np.array([[1.0, 1.0, 1.0]])
    exposure = gathered("germanium", model, voxel, G, np.zeros((1, 3)), np.ones(1))
    rate, jacobian = model.rates(exposure, state)
    assert np.all(np.isfinite(rate))
    assert np.all(np.isfinite(jacobian))


def test_an_imaginary_mode_is_reported():
    model = forward("germanium")
    assert not model.prepare(-model.model.values).stable


def test_an_exposure_of_other_cells_is_refused():
    model = forward("germanium")
    given = exposure_of(model, 0, weight=1.0)
    state = model.prepare(model.model.values)
    for cut in (np.s_[1:], np.s_[:, 1:]):
        other = Exposure(**{name: array[cut] for name, array in given.arrays().items()})
        with pytest.raises(ValueError, match=r"voxels x energy bins; expected \("):
            model.rates(other, state)
