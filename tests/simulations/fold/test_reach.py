"""Zones and points of the plane that an orientation reaches, against the exposure itself."""

from __future__ import annotations

import numpy as np
import pytest

from simulations.crystal import read_crystal
from simulations.fold import build_voxel_map, plane_reached, zones_reached
from simulations.fold.pixel_view import view_pixels
from simulations.fold.reach import nearest_zone
from simulations.instrument import Orientation, crystal_to_lab, load_instrument
from simulations.reciprocal import EnergyAxis, seekpath_segments
from tests.simulations.fold.exposures import compute_exposure

EI = 40.0
ENERGY = EnergyAxis(edges_meV=np.linspace(0, 36, 37), substeps=4)


@pytest.fixture(scope="module")
def setting():
    crystal = read_crystal("germanium")
    voxels = build_voxel_map(crystal, seekpath_segments(crystal, 0.1), half_width_rlu=0.1)
    instrument = load_instrument("ARCS/16")
    rotation = crystal_to_lab(
        Orientation(u=(1, 1, 0), v=(0, 0, 1)), crystal.conventional_reciprocal, 33.0
    )
    return crystal, voxels, instrument, rotation


def test_zones_share_the_exposure_of_every_path_bin(setting):
    crystal, voxels, instrument, rotation = setting
    common = {
        "crystal": crystal,
        "instrument": instrument,
        "energy": ENERGY,
        "ei_meV": EI,
        "crystal_to_lab": rotation,
    }
    found = zones_reached([(view_pixels(**common), instrument)], crystal, voxels)
    D, _ = compute_exposure(
        voxels=voxels, displacement=np.zeros((2, 3, 3)), reduced=True, **common
    ).path_sums(voxels)
    by_bin = found.exposure.sum(axis=0)
    close = D.sum(axis=1) > 0.2 * D.sum(axis=1).max()
    np.testing.assert_allclose(by_bin[close], D.sum(axis=1)[close], rtol=0.15)
    assert by_bin.sum() == pytest.approx(D.sum(), rel=0.03)
    parity = found.hkl % 2  # zones of an fcc lattice: all even or all odd
    assert np.all((parity == parity[:, :1]).all(axis=1))
    totals = found.exposure.sum(axis=1)
    assert np.all(np.diff(totals) <= 0)


def test_no_other_reciprocal_vector_is_nearer(setting):
    crystal = setting[0]
    Q = np.random.default_rng(0).normal(0, 3, (500, 3))
    zone = nearest_zone(Q, crystal)
    away = np.linalg.norm(Q - zone @ crystal.reciprocal, axis=1)
    steps = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3), axis=-1).reshape(-1, 3)
    for step in steps:
        other = np.linalg.norm(Q - (zone + step) @ crystal.reciprocal, axis=1)
        assert np.all(other >= away - 1e-9)


def test_points_of_the_plane_are_reached_at_the_energy_that_a_pixel_has_there(setting):
    crystal, voxels, instrument, rotation = setting
    axes = np.array([rotation[2], rotation[0]])  # crystal vectors along the beam and across
    plane = plane_reached(
        [(rotation, instrument)],
        crystal,
        voxels,
        axes=axes,
        ei_meV=EI,
        energies_meV=(0.0, 36.0),
        points=121,
    )
    seen = plane.orientations > 0
    assert 0.05 < seen.mean() < 0.6
    assert np.array_equal(seen, np.isfinite(plane.energy_meV))
    ki = np.sqrt(EI / 2.0721248)
    flat = np.flatnonzero((np.abs(instrument.direction[:, 1]) < 0.03) & ~instrument.masked)
    rng = np.random.default_rng(1)
    step = plane.along[1] - plane.along[0]
    hits = 0
    for p, energy in zip(rng.choice(flat, 60), rng.uniform(1, 35, 60), strict=True):
        kf = np.sqrt((EI - energy) / 2.0721248)
        Q = np.array([0, 0, ki]) - kf * instrument.direction[p]
        i, j = np.rint((Q[[2, 0]] - plane.along[0]) / step).astype(int)
        if seen[j, i]:
            hits += 1
            assert plane.energy_meV[j, i] == pytest.approx(energy, abs=4.2 * kf * step)
    assert hits > 50
    middle = len(plane.along) // 2
    assert plane.path_bin[middle, middle] >= 0  # Gamma is on the path
    assert len(np.unique(plane.zone)) > 10
