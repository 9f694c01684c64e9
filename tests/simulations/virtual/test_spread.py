from dataclasses import replace

import numpy as np
import pytest

from simulations.virtual import Spread, simulate_chunk
from simulations.virtual.experiment import lab_from_crystal
from simulations.virtual.sampling import PHONON, bragg_rate, expected_phonon_rate
from simulations.virtual.spread import blurred
from tests.simulations.virtual.test_sampling import germanium, germanium_lattice, sparse_instrument


def test_neutrons_have_the_asked_spreads():
    n = 40_000
    away = np.tile([np.sin(0.7), 0.0, np.cos(0.7)], (n, 1))
    spread = Spread(mosaic_deg=0.4, divergence_deg=0.8, pixel_m=(0.03, 0.12))
    final, beam, block = blurred(spread, away, np.full(n, 3.0), np.random.default_rng(1))
    assert np.linalg.norm(final, axis=1) == pytest.approx(1)
    assert np.linalg.norm(beam, axis=1) == pytest.approx(1)
    across = final @ np.array([np.cos(0.7), 0, -np.sin(0.7)])
    assert across.std() == pytest.approx(0.01 / np.sqrt(12), rel=0.02)
    assert np.abs(across).max() <= 0.005 + 1e-9
    assert final[:, 1].std() == pytest.approx(0.04 / np.sqrt(12), rel=0.02)
    for axis in (0, 1):
        assert np.degrees(beam[:, axis].std()) == pytest.approx(0.8, rel=0.02)
    assert np.degrees(block.as_rotvec().std(axis=0)) == pytest.approx(0.4, rel=0.02)


def test_sampled_phonons_follow_the_rate_averaged_over_the_spread():
    lattice = germanium_lattice(5.0)
    instrument = replace(sparse_instrument(8), masked=np.zeros(8, dtype=bool))
    spread = Spread(mosaic_deg=0.8, divergence_deg=0.6, pixel_m=(0.05, 0.1))
    experiment = germanium(
        instrument=instrument, spread=spread, intrinsic_sigma_meV=0.3, lowest_line_meV=1.5, flux=8e8
    )
    edges = np.linspace(-2, 38, 21)
    sharp = replace(experiment, spread=Spread())
    coarse = {"step_meV": 0.15, "lattice": lattice}
    halves = [
        expected_phonon_rate(experiment, 33.0, edges, rays=80, seed=seed, **coarse)
        for seed in (1, 2)
    ]
    expected = 0.5 * (halves[0] + halves[1])
    chunk = simulate_chunk(experiment, 33.0, 1.0, 3, lattice=lattice)
    phonon = chunk.origin == PHONON
    counts = np.histogram2d(
        chunk.pixel[phonon],
        chunk.energy_transfer_meV[phonon],
        bins=[np.arange(9) - 0.5, edges],
    )[0]
    many = expected >= 10
    own = 0.25 * (halves[0] - halves[1]) ** 2  # variance of the quadrature
    off = np.sum((counts - expected)[many] ** 2 - own[many]) / np.sum(expected[many])
    cells = int(many.sum())
    assert cells > 30
    assert abs(off - 1) < 5 * np.sqrt(2 / cells)
    blunt = expected_phonon_rate(sharp, 33.0, edges, **coarse)
    assert np.sum((counts - blunt)[many] ** 2) / np.sum(expected[many]) > 2 * off
    assert chunk.expected["phonon"] == pytest.approx(expected.sum(), rel=0.05)


def test_a_reflection_rocks_with_mosaic_and_width():
    lattice = germanium_lattice(5.0)
    G = 2 * np.pi / lattice.crystal.conventional_lattice[0, 0] * np.sqrt(8)
    k = np.sqrt(40.0 / 2.0721248)
    theta = np.arcsin(G / 2 / k)
    # (2 2 0) along u: reflects at psi = 90 - theta towards -x, see test_virtual.
    grid = np.linspace(-0.12, 0.12, 81)
    a, b = (x.ravel() for x in np.meshgrid(grid, grid))
    position = np.stack([np.sin(-2 * theta + a), np.tan(b), np.cos(-2 * theta + a)], axis=1)
    position *= 3 / np.linalg.norm(position, axis=1)[:, None]
    instrument = replace(
        sparse_instrument(len(a)),
        position_m=position,
        solid_angle_sr=(grid[1] - grid[0]) ** 2 * np.cos(np.arctan(np.tan(b))) ** 2,
        masked=np.zeros(len(a), dtype=bool),
    )
    for mosaic, divergence, width in ((0.5, 0.0, 0.01), (0.0, 0.0, 0.04), (0.5, 0.3, 0.01)):
        experiment = germanium(
            instrument=instrument,
            bragg_scale=1.0,
            bragg_width=width,
            spread=Spread(mosaic_deg=mosaic, divergence_deg=divergence),
        )
        offset = np.radians(np.linspace(-3.5, 3.5, 57))
        rocking = [
            bragg_rate(
                experiment, lattice, lab_from_crystal(experiment, 90 - np.degrees(theta + x))
            ).sum()
            for x in offset
        ]
        found = np.sqrt(np.sum(rocking * offset**2) / np.sum(rocking))
        expected = np.sqrt(
            np.radians(mosaic) ** 2
            + np.radians(divergence) ** 2
            + (width / (G * np.cos(theta))) ** 2
        )
        assert found == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mosaic_deg": -1.0}, "mosaic_deg is -1.0; expected 0 to 5"),
        ({"divergence_deg": 9.0}, "divergence_deg is 9.0"),
        ({"pixel_m": (1.0, 0.0)}, "pixel_m"),
    ],
)
def test_impossible_widths_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Spread(**changes)
