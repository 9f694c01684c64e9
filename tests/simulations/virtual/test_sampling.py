import ast
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import kstest

from simulations.crystal import Crystal, read_crystal
from simulations.dynamics import force_constant_model, read_force_constants
from simulations.instrument import Instrument, Resolution
from simulations.virtual import VirtualExperiment, lattice_of, simulate_chunk
from simulations.virtual import sampling as virtual
from simulations.virtual.experiment import lab_from_crystal
from simulations.virtual.lattice import build_lattice, exact_lines, occupied
from simulations.virtual.sampling import (
    BACKGROUND,
    BRAGG,
    ELASTIC,
    PHONON,
    background_rate,
    bragg_rate,
    elastic_rate,
    expected_phonon_rate,
)

pytestmark = pytest.mark.last_bit
ROOT = Path(__file__).resolve().parents[3]
ARCS_LIKE = Resolution(coefficients=(0.04, -0.04, 0.013))


def sparse_instrument(pixels: int, seed: int = 3) -> Instrument:
    """Pixels strewn over the angles of a direct-geometry spectrometer."""
    rng = np.random.default_rng(seed)
    azimuth = np.radians(rng.uniform(3, 130, pixels)) * np.where(rng.random(pixels) < 0.3, -1, 1)
    height = rng.uniform(-1.4, 1.4, pixels)
    position = np.stack([3 * np.sin(azimuth), height, 3 * np.cos(azimuth)], axis=1)
    return Instrument(
        name="sparse",
        position_m=position,
        solid_angle_sr=rng.uniform(0.5, 1.5, pixels) * 2e-5,
        detector_id=np.arange(pixels, dtype=np.int64),
        masked=rng.random(pixels) < 0.05,
        source_to_sample_m=13.6,
        resolution=ARCS_LIKE,
        tube=np.arange(pixels, dtype=np.int32),
    )


@cache
def germanium_model():
    model = force_constant_model(read_crystal("germanium"), read_force_constants("germanium"), 7.0)
    return model.with_free(model.names[:8])


def germanium(pixels: int = 100, **changes) -> VirtualExperiment:
    model = germanium_model()
    settings = {
        "model": model,
        "phi": model.values,
        "instrument": sparse_instrument(pixels),
        "u": (1, 1, 0),
        "v": (0, 0, 1),
        "ei_meV": 40.0,
        "temperature_K": 5.0,
        "flux": 1e9,
    }
    return VirtualExperiment(**(settings | changes))


@cache
def germanium_lattice(temperature_K: float):
    spacing = 0.03 if temperature_K <= 300 else 0.2
    return build_lattice(
        germanium_model(), germanium_model().values, temperature_K, table_spacing=spacing
    )


def chi_square(counts, expected, least=10.0):
    many = expected >= least
    return np.sum((counts - expected)[many] ** 2 / expected[many]), int(np.sum(many))


def chi_square_of_phonons(experiment, lattice, psi_deg, minutes, *, repeats=1):
    """Sampled against integrated one-phonon counts of (pixel, energy) cells."""
    edges = np.linspace(-38, 38, 77)
    expected = minutes * repeats * expected_phonon_rate(experiment, psi_deg, edges, lattice=lattice)
    counts = np.zeros_like(expected)
    repeated = events = 0.0
    for seed in range(repeats):
        chunk = simulate_chunk(experiment, psi_deg, minutes, seed, lattice=lattice)
        phonon = chunk.origin == PHONON
        counts += np.histogram2d(
            chunk.pixel[phonon],
            chunk.energy_transfer_meV[phonon],
            bins=[np.arange(len(expected) + 1) - 0.5, edges],
        )[0]
        repeated += chunk.diagnosis["repeated"]
        events += chunk.diagnosis["phonon_events"]
    value, cells = chi_square(counts, expected)
    return value / cells, cells, counts.sum(), expected.sum(), repeated / events


@pytest.mark.parametrize(
    ("cell", "u", "v", "angles", "ei", "energy", "polar", "azimuth", "expected"),
    [
        ((4.05, 4.05, 90), (1, 1, 0), (0, 0, 1), {"psi": 25}, 50, 10, 30, 0,
         (0.0342199065, 0.0342199065, -1.5849639258)),
        ((3.2, 5.2, 120), (1, 0, 0), (0, 1, 0), {"psi": -12.5}, 70, 20, 45, 60,
         (1.4757475994, -0.6057379348, -2.4895230491)),
        ((3.2, 5.2, 120), (1, 0, 0), (0, 1, 0),
         {"psi": -12.5, "omega_deg": 10, "dpsi_deg": 1.5, "gl_deg": 2, "gs_deg": -3},
         70, 20, 45, 60,
         (1.4687793281, -0.5539168731, -2.4897197333)),
    ],
)  # fmt: skip
def test_hkl_of_a_pixel_agrees_with_the_numbers_of_the_design(
    cell, u, v, angles, ei, energy, polar, azimuth, expected
):
    a, c, gamma = cell
    lattice = np.array(
        [[a, 0, 0], [a * np.cos(np.radians(gamma)), a * np.sin(np.radians(gamma)), 0], [0, 0, c]]
    )
    crystal = Crystal(
        lattice=lattice,
        positions=np.zeros((1, 3)),
        symbols=("Al",),
        masses_u=np.array([26.98]),
        scattering_length=np.array([0.3449]),
        incoherent_barn=np.array([0.0082]),
        conventional_lattice=lattice,
    )
    arcs = {name: value for name, value in angles.items() if name != "psi"}
    experiment = germanium(model=SimpleNamespace(crystal=crystal), u=u, v=v, ei_meV=ei, **arcs)
    turn = lab_from_crystal(experiment, angles["psi"])
    theta, phi = np.radians(polar), np.radians(azimuth)
    away = np.array([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)])
    k = np.sqrt(np.array([ei, ei - energy]) / virtual.ENERGY_PER_K2)
    hkl = ((np.array([0, 0, k[0]]) - k[1] * away) @ turn) @ lattice.T / (2 * np.pi)
    assert hkl == pytest.approx(expected, abs=5e-8)


SHARED = {
    "simulations.arrays": {"FloatArray", "IntArray", "ComplexArray"},
    "simulations.constants": {"NOISE_MEV"},
    "simulations.errors": {"InputError"},
    "simulations.kernels": {"njit"},
    "simulations.section": {
        "Section", "Number", "NotNegative", "Positive", "Text", "expected", "SpreadAngle",
        "PixelLength",
    },
    "simulations.crystal": {
        "Crystal", "laue_rotations", "neutron_data", "space_group_operations",
    },
    "simulations.instrument": {"Instrument"},
    "simulations.dynamics": {
        "ForceConstantModel", "PairForceConstants", "phonon_dos",
    },
    "simulations.scattering": {
        "CAN_MATERIALS", "MAX_ORDER", "AtomMotion", "atom_motions", "debye_dos", "energy_grid",
        "POCKET_DEPTH", "POCKET_SHARE", "Pockets", "converged_displacements", "counted", "pocketed",
    },
}  # fmt: skip
"""All that a virtual experiment may have in common with what is tested against it."""


def test_virtual_experiment_shares_no_code_with_fold_or_likelihood():
    modules = sorted(Path(virtual.__file__).parent.glob("*.py"))
    assert len(modules) >= 8
    for module in modules:
        tree = ast.parse(module.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("simulations") for alias in node.names)
            if not isinstance(node, ast.ImportFrom):
                continue
            assert node.level == 0, module  # relative imports
            if node.module.startswith("simulations.virtual"):
                continue
            if node.module.partition(".")[0] in ("simulations", "consumers", "steering"):
                names = {alias.name for alias in node.names}
                assert names <= SHARED.get(node.module, set()), (module.name, node.module)


def test_lines_agree_with_the_force_constant_model_mode_by_mode():
    model, lattice = germanium_model(), germanium_lattice(5.0)
    crystal = model.crystal
    Q = np.random.default_rng(0).uniform(-5, 5, (40, 3))
    energies, strengths = exact_lines(lattice, Q)
    f = np.linalg.inv(crystal.reciprocal)
    G = np.rint(Q @ f) @ crystal.reciprocal
    squares, e = np.linalg.eigh(model.dynamical_matrices(Q - G, model.values))
    assert energies == pytest.approx(np.sqrt(squares), abs=1e-6)
    r = crystal.positions @ crystal.lattice
    W = 0.5 * np.einsum("qa,kab,qb->qk", Q, lattice.mean_square, Q)
    factor = crystal.scattering_length / np.sqrt(crystal.masses_u) * np.exp(-W + 1j * G @ r.T)
    vector = (factor[:, :, None] * Q[:, None, :]).reshape(40, -1)
    assert strengths == pytest.approx(
        np.abs(np.einsum("qis,qi->qs", e.conj(), vector)) ** 2, rel=1e-7, abs=1e-12
    )


def test_mean_square_displacement_is_isotropic_in_germanium_and_classical_when_hot():
    cold, hot, hotter = (germanium_lattice(T).mean_square for T in (5.0, 2000.0, 4000.0))
    assert cold[0] == pytest.approx(cold[0, 0, 0] * np.eye(3), abs=1e-9)
    assert 0.0014 < cold[0, 0, 0] < 0.0018  # zero-point motion of germanium, angstrom^2
    assert hotter == pytest.approx(2 * hot, rel=2e-3, abs=1e-9)


def test_gain_and_loss_obey_detailed_balance():
    line, T = np.array([0.3, 5.0, 30.0]), 300.0
    ratio = occupied(line, T) / occupied(-line, T)
    assert ratio == pytest.approx(np.exp(line / (T / 11.604518)), rel=1e-12)
    assert occupied(np.array([-4.0, 4.0]), 0.0).tolist() == [0.0, 0.25]


@pytest.mark.parametrize("temperature_K", [5.0, 300.0])
def test_sampled_phonons_follow_the_integrated_rate(temperature_K):
    lattice = germanium_lattice(temperature_K)
    experiment = germanium(120, temperature_K=temperature_K, flux=6e8)
    ratio, cells, counts, expected, repeated = chi_square_of_phonons(
        experiment, lattice, 33.0, 0.2 if temperature_K > 100 else 1.0
    )
    assert cells > 400
    assert 1 - 4 * np.sqrt(2 / cells) < ratio < 1 + 4 * np.sqrt(2 / cells)
    assert counts == pytest.approx(expected, abs=4 * np.sqrt(expected))
    assert repeated < 3e-3


def test_rates_are_those_of_a_symmetry_equivalent_setting():
    lattice = germanium_lattice(5.0)
    edges = np.array([1.0, 10.0, 20.0, 30.0, 38.0])
    one = expected_phonon_rate(germanium(6), 20.0, edges, lattice=lattice)
    other = germanium(6, u=(0, 1, -1), v=(-1, 0, 0))
    assert expected_phonon_rate(other, 20.0, edges, lattice=lattice) == pytest.approx(one, rel=1e-8)
    turned = germanium(6, u=(0, 1, -1), v=(-1, 0, 0), psi_offset_deg=7.0)
    assert expected_phonon_rate(turned, 13.0, edges, lattice=lattice) == pytest.approx(one)


def test_settings_of_old_give_the_events_of_old():
    """Parts that are off draw nothing; rounding of another processor may move an event or two."""
    experiment = germanium(150, flux=3e8, background=30.0, psi_offset_deg=3.0, gl_deg=2.0)
    seed = np.random.SeedSequence([4, 0])
    chunk = simulate_chunk(experiment, 12.0, 1.0, seed, lattice=germanium_lattice(5.0))
    old = {"phonon": 21197, "elastic": 22541, "background": 689}
    for name, count in chunk.counts.items():
        assert abs(count - old.get(name, 0)) <= 3, name
    assert chunk.counts["phonon"] == pytest.approx(
        chunk.expected["phonon"], abs=4 * np.hypot(chunk.phonon_sigma, np.sqrt(21197))
    )
    more = replace(experiment, bragg_scale=1.0, decaying=10.0)
    other = simulate_chunk(more, 12.0, 1.0, seed, lattice=germanium_lattice(5.0))
    for code in (PHONON, ELASTIC, BACKGROUND):
        mine, theirs = (c.time_of_flight_us[c.origin == code] for c in (chunk, other))
        np.testing.assert_array_equal(np.sort(mine), np.sort(theirs))


GENERIC = """
import sys
import numpy as np
from simulations.virtual import simulate_chunk
from tests.simulations.virtual.test_sampling import germanium, germanium_lattice

experiment = germanium(150, flux=3e8, background=30.0, psi_offset_deg=3.0, gl_deg=2.0)
lattice = germanium_lattice(5.0)
chunk = simulate_chunk(experiment, 12.0, 1.0, np.random.SeedSequence([4, 0]), lattice=lattice)
np.savez(sys.argv[1], pixel=chunk.pixel, time=chunk.time_of_flight_us)
"""


def test_kernels_compiled_for_any_processor_give_the_same_events(tmp_path):
    found = []
    for name in ("", "generic"):
        own = {"NUMBA_CPU_NAME": name, "NUMBA_CACHE_DIR": str(tmp_path)} if name else {}
        file = tmp_path / f"events{name}.npz"
        subprocess.run(
            [sys.executable, "-c", GENERIC, str(file)], cwd=ROOT, env=os.environ | own, check=True
        )
        with np.load(file) as arrays:
            events = zip(arrays["pixel"].tolist(), arrays["time"].round(6).tolist(), strict=True)
            found.append(set(events))
    assert len(found[0]) > 40_000
    assert len(found[0] ^ found[1]) <= 8  # an event or two, gone or moved by a rounded digit


def test_energy_transfer_follows_from_the_time_of_flight():
    experiment = germanium(30, flux=1e7, background=50.0)
    chunk = simulate_chunk(experiment, 10.0, 1.0, 5, lattice=germanium_lattice(5.0))
    instrument = experiment.instrument
    flight = chunk.time_of_flight_us * 1e-6 - instrument.source_to_sample_m / (
        437.3934 * np.sqrt(40.0)
    )
    final = (instrument.distance_m[chunk.pixel] / flight / 437.3934) ** 2
    assert 40.0 - final == pytest.approx(chunk.energy_transfer_meV, abs=1e-9)
    assert chunk.energy_transfer_meV.max() < 0.985 * 40.0
    assert chunk.energy_transfer_meV.min() >= -20.0


def test_elastic_line_and_background_have_their_rates_and_shapes():
    experiment = germanium(200, flux=3e7, background=300.0)
    lattice = germanium_lattice(5.0)
    chunk = simulate_chunk(experiment, 10.0, 1.0, 8, lattice=lattice)
    rate = elastic_rate(experiment, lattice, lab_from_crystal(experiment, 10.0))
    barn = rate / experiment.flux / experiment.instrument.solid_angle_sr
    assert barn[rate > 0] == pytest.approx(2 * 0.18 / (4 * np.pi), rel=0.1)
    for code, expected in ((ELASTIC, rate), (BACKGROUND, background_rate(experiment))):
        counts = np.bincount(chunk.pixel[chunk.origin == code], minlength=200)
        value, cells = chi_square(counts, expected)
        assert cells > 150
        assert abs(value / cells - 1) < 4 * np.sqrt(2 / cells)
    elastic = chunk.energy_transfer_meV[chunk.origin == ELASTIC]
    sigma = float(ARCS_LIKE.sigma_meV(np.array([0.0]), 40.0)[0])
    assert kstest(elastic / sigma, "norm").pvalue > 1e-3
    flat = chunk.origin == BACKGROUND
    first, last = virtual._flight_span(experiment)
    pixel = chunk.pixel[flat]
    start = 1e6 * 13.6 / (437.3934 * np.sqrt(40.0))
    place = (chunk.time_of_flight_us[flat] - start - first[pixel]) / (last - first)[pixel]
    assert kstest(place, "uniform").pvalue > 1e-3


def test_bragg_peaks_sit_on_the_reciprocal_lattice():
    positions = np.random.default_rng(1).standard_normal((20000, 3))
    positions[:, 2] = np.abs(positions[:, 2])
    n = len(positions)
    instrument = replace(
        sparse_instrument(n),
        position_m=3 * positions / np.linalg.norm(positions, axis=1)[:, None],
        solid_angle_sr=np.full(n, 2 * np.pi / n),
        masked=np.zeros(n, dtype=bool),
    )
    experiment = germanium(instrument=instrument, bragg_scale=1.0, bragg_width=0.05, flux=1.0)
    lattice = germanium_lattice(5.0)
    assert not bragg_rate(replace(experiment, bragg_scale=0.0), lattice, np.eye(3)).any()
    # Turn until (2 2 0), along u, reflects: sin(theta) = |G| / 2k with the beam at 90 - theta.
    G = 2 * np.pi / lattice.crystal.conventional_lattice[0, 0] * np.sqrt(8)
    k = np.sqrt(40.0 / virtual.ENERGY_PER_K2)
    psi = 90 - np.degrees(np.arcsin(G / 2 / k))
    away = instrument.position_m / 3

    def reflected(psi_deg: float) -> tuple[float, np.ndarray]:
        turn = lab_from_crystal(experiment, psi_deg)
        hkl = (
            k
            * (np.array([0, 0, 1]) - away)
            @ turn
            @ np.linalg.inv(lattice.crystal.conventional_reciprocal)
        )
        mine = np.all(np.rint(hkl) == (2, 2, 0), axis=1)
        rate = bragg_rate(experiment, lattice, turn) * mine
        return rate.sum(), away[np.argmax(rate)]

    # psi right-handed about +y takes u from the beam towards +x, so Q = G lies there and kf at -x.
    (peak, direction), (off, _) = reflected(psi), reflected(psi + 3)
    assert peak > 5.0
    assert np.degrees(np.arcsin(direction[0])) == pytest.approx(2 * psi - 180, abs=1.5)
    # The reflection rocks with sigma = width / |G|.
    assert off / peak == pytest.approx(np.exp(-0.5 * (np.radians(3) * G / 0.05) ** 2), rel=0.5)
    assert reflected(-psi)[1][0] > 0.5
    chunk = simulate_chunk(replace(experiment, flux=20.0), psi, 1.0, 1, lattice=lattice)
    assert np.any(chunk.origin == BRAGG)


def test_the_seed_decides_everything_and_masked_pixels_count_nothing():
    experiment = germanium(80, flux=1e7, background=30.0)
    lattice = germanium_lattice(5.0)
    seed = np.random.SeedSequence([4, 0])
    one, same = (simulate_chunk(experiment, 0.0, 1.0, seed, lattice=lattice) for _ in range(2))
    other = simulate_chunk(experiment, 0.0, 1.0, np.random.SeedSequence([4, 1]), lattice=lattice)
    assert np.array_equal(one.time_of_flight_us, same.time_of_flight_us)
    assert np.array_equal(one.pixel, same.pixel)
    assert not np.array_equal(one.pixel[:50], other.pixel[:50])
    assert not experiment.instrument.masked[one.pixel].any()
    dead = experiment.instrument.with_mask(np.ones(80, dtype=bool))
    nothing = simulate_chunk(replace(experiment, instrument=dead), 0.0, 1.0, 1, lattice=lattice)
    assert len(nothing.pixel) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flux": 0.0}, "flux is 0.0; expected a number above 0"),
        ({"background": -1.0}, "background is -1.0"),
        ({"intrinsic_sigma_meV": 0.1}, "lowest_line_meV is 0.25"),
        ({"window_meV": (0.0, 41.0)}, "window_meV"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        germanium(5, **changes)


def test_bad_truth_and_orientation_are_named():
    experiment = germanium(5)
    with pytest.raises(ValueError, match="phi has shape"):
        lattice_of(replace(experiment, phi=np.zeros(3)))
    with pytest.raises(ValueError, match="makes the crystal unstable"):
        lattice_of(replace(experiment, phi=-experiment.phi))
    with pytest.raises(ValueError, match="psi_deg is nan"):
        lab_from_crystal(experiment, float("nan"))
    with pytest.raises(ValueError, match="parallel"):
        lab_from_crystal(replace(experiment, v=(2, 2, 0)), 0.0)


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["MgB2", "ZnO"])
def test_sampled_phonons_of_a_hexagonal_crystal_follow_the_integrated_rate(name, shared_data):
    folder = shared_data / "phonopy-test" / name
    constants = read_force_constants(folder / "phonopy_disp.yaml")
    crystal = constants.crystal
    model = force_constant_model(crystal, constants, 5.0)
    experiment = germanium(
        120, model=model, phi=model.values, u=(1, 0, 0), v=(0, 0, 1), ei_meV=70.0, flux=2e9
    )
    lattice = lattice_of(experiment)
    ratio, cells, *_ = chi_square_of_phonons(experiment, lattice, 15.0, 1.0)
    assert cells > 400
    assert 1 - 4 * np.sqrt(2 / cells) < ratio < 1 + 4 * np.sqrt(2 / cells)
