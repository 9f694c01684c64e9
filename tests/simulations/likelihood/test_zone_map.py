"""The zone grid: every point finds a representative next to its image, with the same modes."""

import numpy as np
import pytest

from simulations.crystal import laue_rotations
from simulations.dynamics import (
    eigenmodes,
    force_constant_model,
    modes,
    read_force_constants,
)
from simulations.fold import grid_index
from simulations.likelihood import ZoneMap, build_zone_map
from simulations.likelihood.trajectory_phonons import OFF_AXIS_INVERSE_A
from tests.simulations.fold.test_voxel_map import CRYSTALS


def looked_up(zone: ZoneMap, f) -> tuple[int, np.ndarray]:
    """Representative of a point and the image of the point, in primitive coordinates."""
    where = tuple(int(grid_index(x, n)) for x, n in zip(f, zone.divisions, strict=True))
    r, o = zone.index[where], zone.operation[where]
    image = f @ zone.operation_fractional[o]
    return int(r), image - np.floor(image - zone.fractional[r] + 0.5)


@pytest.mark.parametrize("name", CRYSTALS)
def test_the_image_of_a_point_lies_in_the_cell_of_its_representative(name):
    crystal = CRYSTALS[name]()
    zone = build_zone_map(crystal, step_rlu=0.1)
    assert np.all(zone.index >= 0)
    for f in np.random.default_rng(2).uniform(-1.5, 1.5, (200, 3)):
        r, image = looked_up(zone, f)
        distance = np.linalg.norm((image - zone.fractional[r]) @ crystal.reciprocal)
        assert distance <= zone.reach * (1 + 1e-9)


@pytest.mark.parametrize("name", CRYSTALS)
def test_a_point_and_its_image_have_the_same_energies(name):
    crystal = CRYSTALS[name]()
    model = force_constant_model(crystal, None, 3.4)
    phi = np.random.default_rng(5).normal(size=len(model.names))
    zone = build_zone_map(crystal, step_rlu=0.1)
    for f in np.random.default_rng(3).uniform(-1, 1, (20, 3)):
        _, image = looked_up(zone, f)
        q = np.stack([f, image]) @ crystal.reciprocal
        here, there = np.linalg.eigvalsh(model.dynamical_matrices(q, phi))
        np.testing.assert_allclose(here, there, rtol=1e-9, atol=1e-9 * np.abs(here).max())


@pytest.mark.parametrize("name", CRYSTALS)
def test_representatives_are_few_and_the_fine_grid_covers_its_sphere(name):
    crystal = CRYSTALS[name]()
    zone = build_zone_map(crystal, step_rlu=0.1)
    coarse = int(zone.index.max()) + 1
    operations = len(laue_rotations(crystal)[0])
    assert zone.index.size / operations <= coarse < 4 * zone.index.size / operations + 40
    assert zone.n_points == int(zone.fine_index.max()) + 1
    m = np.array(zone.fine_index.shape) // 2
    grid = np.stack(np.meshgrid(*[np.arange(-k, k + 1) for k in m], indexing="ij"), axis=-1)
    q = (grid / zone.fine_divisions) @ crystal.reciprocal
    inside = np.linalg.norm(q, axis=-1) <= zone.fine_radius
    assert np.all(zone.fine_index[inside] >= coarse)
    away = np.linalg.norm(zone.cartesian[coarse:], axis=1)  # none that nothing is nearest to
    steps = crystal.reciprocal / zone.fine_divisions[:, None]
    assert away.max() <= zone.fine_radius + 0.5 * np.abs(steps).sum(axis=0).sum()


def test_warm_crystals_get_the_finer_grid_farther_out():
    crystal = CRYSTALS["germanium"]()
    cold = build_zone_map(crystal, step_rlu=0.1, temperature_K=5.0)
    warm = build_zone_map(crystal, step_rlu=0.1, temperature_K=300.0)
    assert warm.fine_radius == pytest.approx(2 * cold.fine_radius)
    assert np.array_equal(warm.divisions, cold.divisions)
    assert warm.n_points > cold.n_points


@pytest.mark.parametrize("name", CRYSTALS)
def test_polar_crystals_get_a_third_grid_next_to_gamma(name):
    crystal = CRYSTALS[name]()
    plain = build_zone_map(crystal, step_rlu=0.1)
    polar = build_zone_map(crystal, step_rlu=0.1, polar=True)
    assert plain.core_radius == 0
    assert (plain.core_index == -1).all()
    assert np.array_equal(polar.fine_index, plain.fine_index)
    assert polar.n_points == int(polar.core_index.max()) + 1 > plain.n_points
    rng = np.random.default_rng(4)
    away = rng.normal(size=(200, 3))
    away *= polar.core_radius * rng.random((200, 1)) / np.linalg.norm(away, axis=1)[:, None]
    middle = np.array(polar.core_index.shape) // 2
    for f in away @ np.linalg.inv(crystal.reciprocal):
        where = tuple(np.floor(f * polar.core_divisions + 0.5).astype(int) + middle)
        r, o = polar.core_index[where], polar.core_operation[where]
        assert r >= plain.n_points
        off = f @ polar.operation_fractional[o] - polar.fractional[r]
        assert np.abs(off * polar.core_divisions).max() < 1.6


@pytest.mark.shared_data
def test_modes_of_a_polar_crystal_can_be_continued_from_the_nearest_point(shared_data):
    given = read_force_constants(shared_data / "phonopy-test" / "ZnO" / "phonopy_disp.yaml")
    model = force_constant_model(given.crystal, given, 3.4)
    crystal = given.crystal
    zone = build_zone_map(crystal, step_rlu=0.02, polar=True)
    unit = zone.core_radius / 0.025
    direction = np.random.default_rng(0).normal(size=(40, 3))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    worst = {}
    for divisions in (zone.core_divisions, zone.fine_divisions):
        cell = crystal.reciprocal / divisions[:, None]
        q = 0.008 * unit * direction
        near = np.rint(q @ np.linalg.inv(cell)) @ cell + OFF_AXIS_INVERSE_A
        step = q - near
        slopes = model.matrix_gradients(near)
        bend = [
            (model.matrix_gradients(near + 1e-3 * a) - model.matrix_gradients(near - 1e-3 * a))
            / 2e-3
            for a in np.eye(3)
        ]
        D = model.dynamical_matrices(near) + np.einsum("qa,qaij->qij", step, slopes)
        D += 0.5 * np.einsum("qa,qb,aqbij->qij", step, step, np.array(bend))
        off = np.abs(eigenmodes(D)[0] - modes(model, q)[0]).max(axis=1)
        worst[tuple(divisions)] = off.max()
    core, fine = worst.values()
    assert core < 0.3  # meV, a third of the resolution
    assert fine > 1.0  # what the third grid is for
