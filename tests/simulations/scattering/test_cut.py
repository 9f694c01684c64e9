from __future__ import annotations

import numpy as np
import pytest

from simulations.constants import NEUTRON_MEV_A2
from simulations.instrument import Resolution
from simulations.reciprocal import irreducible_mesh
from simulations.scattering import (
    broadened,
    displacement_tensors,
    line_cut,
    one_phonon_lines,
    plane_cut,
)
from tests.simulations.phonon_oracles import germanium, phonopy_model

TEMPERATURE_K = 200.0
ENERGY = np.linspace(-45, 45, 91)
OPTIONS = {"temperature_K": TEMPERATURE_K, "resolution": lambda e: 1.0 + 0.01 * np.asarray(e)}


@pytest.fixture(scope="module")
def model():
    return germanium()


@pytest.fixture(scope="module")
def waller(model):
    return displacement_tensors(
        model, TEMPERATURE_K, zone=irreducible_mesh(model.crystal, 6, shifted=True)
    )


def sampled(model, waller, Q, edges=ENERGY):
    """Mean S(Q,E) over vectors (..., n, 3), all equally weighted, over the second last axis."""
    lines = one_phonon_lines(model, Q.reshape(-1, 3), TEMPERATURE_K, displacement=waller)
    S = broadened(lines, edges, OPTIONS["resolution"])
    return S.reshape(*Q.shape[:-1], -1).mean(axis=-2)


def midpoints(count):
    return (np.arange(count) + 0.5) / count * 2 - 1


def test_a_cut_of_no_width_is_s_at_its_bins(model, waller):
    got = line_cut(
        model, [2, 2, 0], [2.6, 2, 0.1], 4, ENERGY, displacement=waller, spacing=9.0, **OPTIONS
    )
    fractions = (np.arange(4)[:, None] + 0.5) / 4
    np.testing.assert_allclose(got.hkl, [2, 2, 0] + fractions * [0.6, 0, 0.1], atol=1e-12)
    Q = got.hkl @ model.crystal.conventional_reciprocal
    expected = sampled(model, waller, Q[:, None, :])
    np.testing.assert_allclose(got.intensity, expected, atol=1e-12 * expected.max())


def test_integration_across_the_line_is_the_brute_force_average(model, waller):
    got = line_cut(
        model, [2.3, 2, 0], [2.7, 2, 0], 2, ENERGY, half_widths=(0.15, 0.08),
        across_hkl=[1, 1, 0], displacement=waller, **OPTIONS,
    )  # fmt: skip
    reciprocal = model.crystal.conventional_reciprocal
    step = np.linalg.norm(reciprocal[0]) * 0.2
    np.testing.assert_allclose(np.diff(got.momentum_edges), step)
    x, y, z = np.meshgrid(
        midpoints(21) * step / 2, midpoints(36) * 0.15, midpoints(21) * 0.08, indexing="ij"
    )
    box = np.stack([x, y, z], axis=-1).reshape(-1, 3)  # x, y, z of the crystal's own cubic axes
    centres = np.array([[2.4, 2, 0], [2.6, 2, 0]]) @ reciprocal
    expected = sampled(model, waller, centres[:, None, :] + box)
    deviation = np.abs(got.intensity - expected).sum() / expected.sum()
    thin = line_cut(
        model, [2.3, 2, 0], [2.7, 2, 0], 2, ENERGY, displacement=waller, **OPTIONS
    ).intensity
    assert deviation < 6e-4  # of the midpoint rule: the quadrature is within 5e-6
    assert np.abs(thin - expected).sum() / expected.sum() > 0.05


def test_the_quadrature_converges(model, waller):
    def cut(spacing):
        return line_cut(
            model, [2.3, 2.1, 0], [2.5, 2.1, 0], 1, ENERGY, half_widths=(0.2, 0.2),
            spacing=spacing, displacement=waller, **OPTIONS,
        ).intensity  # fmt: skip

    fine = cut(0.02)
    error = [np.abs(cut(h) - fine).sum() / fine.sum() for h in (0.2, 0.1, 0.03)]
    assert error[0] > 5 * error[1] > 100 * error[2]
    assert error[2] < 1e-5


def test_momentum_resolution_is_a_gaussian_in_three_directions(model, waller):
    got = line_cut(
        model, [2.4, 2.2, 0.1], [2.5, 2.2, 0.1], 1, ENERGY, half_widths=(0.1, 0.0),
        momentum_sigma=0.06, displacement=waller, **OPTIONS,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    reciprocal = model.crystal.conventional_reciprocal
    width = 0.1 * np.linalg.norm(reciprocal[0])
    box = np.zeros((40_000, 3))
    box[:, 0] = rng.uniform(-0.5, 0.5, len(box)) * width
    box[:, 1] = rng.uniform(-0.1, 0.1, len(box))  # by default across [010]
    box += 0.06 * rng.normal(size=box.shape)
    Q = (np.array([2.45, 2.2, 0.1]) @ reciprocal + box)[None]
    expected = sampled(model, waller, Q)
    assert np.abs(got.intensity - expected).sum() / expected.sum() < 0.005


def test_both_sides_are_in_detailed_balance(model, waller):
    got = line_cut(
        model, [1.2, 1, 1], [1.8, 1, 1], 3, np.arange(-40.5, 41), half_widths=(0.1, 0.1),
        temperature_K=TEMPERATURE_K, resolution=0.05, displacement=waller,
    )  # fmt: skip
    energy = np.arange(-40, 41)
    up, down = got.intensity[:, energy > 4], got.intensity[:, ::-1][:, energy > 4]
    expected = np.exp(-energy[energy > 4] / (0.08617333 * TEMPERATURE_K))
    np.testing.assert_allclose(down, up * expected, atol=0.03 * up.max() * expected[0], rtol=0.03)


@pytest.mark.shared_data
def test_a_plane_cut_holds_the_band_of_line_cuts(shared_data):
    _, hexagonal = phonopy_model(shared_data, "MgB2")
    options = {
        "temperature_K": 300.0, "resolution": 2.0, "spacing": 0.05,
        "displacement": displacement_tensors(
            hexagonal, 300.0, zone=irreducible_mesh(hexagonal.crystal, 4, shifted=True)
        ),
    }  # fmt: skip
    u_edges, v_edges = np.array([-0.3, -0.1, 0.2]), np.array([0.0, 0.2, 0.5])
    plane = plane_cut(
        hexagonal, [1, 0, 1], [1, 0, 0], [0, 1, 0], u_edges, v_edges, (20.0, 35.0),
        half_width=0.1, **options,
    )  # fmt: skip
    reciprocal = hexagonal.crystal.conventional_reciprocal
    size = np.linalg.norm(reciprocal[0])
    for i, j in ((0, 0), (1, 1)):
        across = np.cross(np.cross(reciprocal[0], reciprocal[1]), reciprocal[0])
        across *= 1 / np.linalg.norm(across)
        shift = 0.5 * (v_edges[j] + v_edges[j + 1]) * across @ np.linalg.inv(reciprocal)
        ends = [np.array([1 + u / size, 0, 1]) + shift for u in u_edges[i : i + 2]]
        line = line_cut(
            hexagonal, *ends, 1, [20.0, 35.0], across_hkl=[0, 1, 0],
            half_widths=(0.5 * (v_edges[j + 1] - v_edges[j]), 0.1), **options,
        )  # fmt: skip
        np.testing.assert_allclose(plane.hkl[i, j], line.hkl[0], atol=1e-12)
        assert plane.intensity[i, j] == pytest.approx(line.intensity[0, 0], rel=1e-9)


def test_bins_beyond_the_scattering_triangle_are_marked(model, waller):
    options = {
        "temperature_K": 5.0, "resolution": Resolution(coefficients=(0.03,)), "ei_meV": 40.0,
        "two_theta_deg": (5.0, 120.0), "displacement": waller, "spacing": 1.0,
    }  # fmt: skip
    line = line_cut(model, [0.1, 0, 0], [8, 0, 0], 40, np.linspace(0, 50, 26), **options)
    assert not line.accessible[:, -5:].any()  # more than the incident energy
    elastic = line.accessible[:, 0]
    Q = np.linalg.norm(line.hkl @ model.crystal.conventional_reciprocal, axis=1)
    ki = np.sqrt(40 / NEUTRON_MEV_A2)
    np.testing.assert_array_equal(
        elastic[np.abs(Q - ki) < 0.5], np.ones(np.sum(np.abs(Q - ki) < 0.5))
    )
    assert Q[elastic].max() < 2 * ki * np.sin(np.deg2rad(60)) + 0.01
    plane = plane_cut(
        model, [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 2, 4.0], [6, 8.0, 9], (10, 12), **options
    )
    assert not plane.accessible[:, 1].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 0, 0], [1, 0, 0], 3, ENERGY), "stop_hkl"),
        (([1, 0, 0], [2, 0, 0], 0, ENERGY), "bins is 0"),
        (([1, 0, 0], [2, 0, 0], 1, [3.0, 2.0]), "energy_edges_meV"),
    ],
)
def test_cuts_without_extent_are_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        line_cut(model, *arguments, **OPTIONS)


def test_widths_and_directions_out_of_range_are_refused(model, waller):
    with pytest.raises(ValueError, match="half-width -0.1"):
        line_cut(
            model, [0, 0, 0], [1, 0, 0], 1, ENERGY, half_widths=(-0.1, 0), displacement=waller,
            **OPTIONS,
        )  # fmt: skip
    with pytest.raises(ValueError, match="v_hkl is parallel"):
        plane_cut(model, [0, 0, 0], [1, 1, 0], [2, 2, 0], [0, 1], [0, 1], (1, 2), **OPTIONS)
    with pytest.raises(ValueError, match="imaginary"):
        line_cut(
            model, [0, 0, 0], [1, 0, 0], 1, ENERGY, displacement=waller, phi=-model.values,
            **OPTIONS,
        )  # fmt: skip
