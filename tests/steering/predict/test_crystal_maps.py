from __future__ import annotations

import numpy as np
import pytest

from simulations.constants import BOLTZMANN_MEV_PER_K
from simulations.scattering import line_cut
from steering.predict import (
    Line,
    Plane,
    line_map,
    optics,
    path_map,
    plane_map,
    stable,
    vibrations_of,
)

ENERGY = np.arange(-20.0, 40.01, 2.0)


@pytest.fixture(scope="module")
def germanium():
    return stable(vibrations_of("germanium"))


def test_a_path_obeys_detailed_balance(germanium):
    seen = optics(37.4, ei_meV=80.0, fwhm_meV=0.05)
    edges = np.linspace(-36.0, 36.0, 1441)
    found = path_map(germanium, seen, energy_edges_meV=edges, path="X U", points=12)
    coherent = found.parts["coherent"]
    gain, loss = coherent[:, : len(found.y) // 2][:, ::-1], coherent[:, len(found.y) // 2 :]
    energy = found.y[len(found.y) // 2 :]
    both = np.isfinite(gain) & np.isfinite(loss)
    gain, loss = np.where(both, gain, 0), np.where(both, loss, 0)
    for column in range(len(loss)):
        place = np.argmax(loss[column])
        boltzmann = np.exp(-energy[place] / (BOLTZMANN_MEV_PER_K * 300))
        assert gain[column, place] == pytest.approx(boltzmann * loss[column, place], rel=1e-2)


def test_a_path_starts_from_a_strong_reflection_within_reach_or_the_one_named(germanium):
    seen = optics(37.4, ei_meV=50.0)
    found = path_map(germanium, seen, energy_edges_meV=ENERGY, points=40)
    assert np.isfinite(found.intensity).mean() > 0.9
    h, k, l = np.abs(found.origin_hkl)  # noqa: E741
    assert (h + k + l) % 4 == 0  # a strong reflection of diamond
    named = path_map(
        germanium, seen, energy_edges_meV=ENERGY, points=40, zone_hkl=np.array([2.0, 2.0, 0.0])
    )
    np.testing.assert_allclose(named.hkl - named.path.hkl, [[2, 2, 0]] * len(named.hkl))
    with pytest.raises(ValueError, match="expected a reciprocal-lattice vector"):
        path_map(germanium, seen, zone_hkl=np.array([1.0, 0.0, 0.0]))


def test_a_line_is_the_cut_of_the_physics_with_the_incoherent_part_added(germanium):
    seen = optics(37.4, ei_meV=50.0)
    start, stop = np.array([2.0, 2.0, -1.0]), np.array([2.0, 2.0, 1.0])
    found = line_map(
        germanium, seen, Line(start_hkl=start, stop_hkl=stop, bins=12), energy_edges_meV=ENERGY
    )
    direct = line_cut(
        germanium.model, start, stop, 12, ENERGY, temperature_K=300.0, resolution=seen.sigma_of,
        half_widths=(0.05, 0.05),
    )  # fmt: skip
    seen_cells = np.isfinite(found.intensity)
    np.testing.assert_allclose(
        found.parts["coherent"][seen_cells], direct.intensity[seen_cells], rtol=1e-9
    )
    assert np.all(found.parts["incoherent"][seen_cells] > 0)
    np.testing.assert_allclose(found.hkl[[0, -1], 2], [-11 / 12, 11 / 12])


def test_a_plane_has_the_symmetry_of_the_crystal_and_tells_its_progress(germanium):
    seen = optics(37.4, ei_meV=50.0)
    axis = np.arange(-4.0, 4.01, 0.8)
    told: list[float] = []
    found = plane_map(
        germanium,
        seen,
        Plane(
            u_hkl=np.array([1.0, 0, 0]), v_hkl=np.array([1.0, 1.0, 0]), band_meV=(9.0, 11.0),
            u_edges=axis, v_edges=axis,
        ),
        progress=told.append,
    )  # fmt: skip
    np.testing.assert_allclose(found.axes_hkl[1], [0, 1, 0], atol=1e-12)  # made perpendicular
    np.testing.assert_allclose(found.intensity, found.intensity.T, rtol=1e-6)
    np.testing.assert_allclose(found.intensity, found.intensity[::-1], rtol=1e-6)
    assert told == sorted(told)
    assert len(told) == 10
    with pytest.raises(ValueError, match="cannot lose that much"):
        plane_map(
            germanium,
            seen,
            Plane(u_hkl=np.array([1.0, 0, 0]), v_hkl=np.array([0, 1.0, 0]), band_meV=(40.0, 60.0)),
        )


def test_too_many_cells_are_refused_before_they_are_computed(germanium):
    with pytest.raises(ValueError, match="expected at most 4,000,000 cells"):
        line_map(
            germanium,
            optics(37.4),
            Line(start_hkl=np.zeros(3), stop_hkl=np.ones(3), bins=2000),
            energy_edges_meV=np.linspace(0, 40, 20_001),
        )
