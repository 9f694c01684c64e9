"""The coverage tensor carries every pixel into its cell exactly, mode by mode."""

from dataclasses import fields, replace

import numpy as np
import pytest

from simulations.constants import NEUTRON_MEV_A2
from simulations.crystal_file import read_crystal
from simulations.dynamics import eigenmodes
from simulations.exposure import (
    Exposure,
    compute_exposure,
    find_crossings,
    histogram_range,
    unpack_tensor,
    view_pixels,
)
from simulations.force_constants import force_constant_model
from simulations.goniometer import Orientation, crystal_to_lab
from simulations.instrument import Instrument, Resolution
from simulations.path import EnergyAxis, seekpath_segments
from simulations.scattering import amplitudes
from simulations.trajectories import trace_trajectories
from simulations.voxel_map import VoxelMap, build_voxel_map
from tests.simulations.test_voxel_map import CRYSTALS


def _small_instrument(pixels: int = 40, seed: int = 1) -> Instrument:
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(pixels, 3))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    return Instrument(
        name="test",
        position_m=3.0 * direction,
        solid_angle_sr=rng.uniform(0.5, 1.5, pixels),
        detector_id=np.arange(pixels),
        masked=np.zeros(pixels, dtype=bool),
        source_to_sample_m=13.6,
        resolution=Resolution(coefficients=(0.04,)),
    )


ENERGY = EnergyAxis(edges_meV=np.linspace(0, 40, 21), substeps=4)
EI = 60.0


def _exposure(crystal, voxels, instrument, psi=17.0, **options) -> Exposure:
    orientation = Orientation(u=(1, 1, 0), v=(0, 0, 1))
    return compute_exposure(
        crystal=crystal,
        voxels=voxels,
        instrument=instrument,
        energy=ENERGY,
        ei_meV=EI,
        crystal_to_lab=crystal_to_lab(orientation, crystal.conventional_reciprocal, psi),
        displacement=np.tile(0.004 * np.eye(3), (crystal.n_atoms, 1, 1)),
        **options,
    )


def _brute_force(crystal, voxels: VoxelMap, instrument, psi=17.0):
    """Every (pixel, sub-step) by itself, straight from the definitions."""
    orientation = Orientation(u=(1, 1, 0), v=(0, 0, 1))
    rotation = crystal_to_lab(orientation, crystal.conventional_reciprocal, psi)
    ki = np.sqrt(EI / NEUTRON_MEV_A2)
    edges = ENERGY.substep_edges_meV
    for p in range(instrument.n_pixels):
        for step in range(ENERGY.reachable_bins(EI) * ENERGY.substeps):
            energy = 0.5 * (edges[step] + edges[step + 1])
            kf = np.sqrt((EI - energy) / NEUTRON_MEV_A2)
            lab = np.array([0, 0, ki]) - kf * instrument.direction[p]
            Q = rotation.T @ lab
            f = Q @ np.linalg.inv(crystal.reciprocal)
            n = voxels.divisions
            where = tuple((np.floor((f - np.floor(f)) * n + 0.5).astype(int)) % n)
            if voxels.voxel[where] < 0:
                continue
            weight = instrument.solid_angle_sr[p] * (edges[1] - edges[0]) * kf / ki
            yield voxels.voxel[where], step // ENERGY.substeps, Q, weight


@pytest.mark.parametrize("name", CRYSTALS)
def test_tensor_weights_equal_those_of_the_unfolded_q_inside_degenerate_groups(name):
    crystal = CRYSTALS[name]()
    model = force_constant_model(crystal, None, 3.4)
    rng = np.random.default_rng(5)
    phi = rng.normal(size=len(model.names))
    path = seekpath_segments(crystal, 0.1)
    voxels = build_voxel_map(crystal, path, half_width_rlu=0.1, voxel_rlu=0.05)
    instrument = _small_instrument(pixels=30)
    displacement = np.tile(0.004 * np.eye(3), (crystal.n_atoms, 1, 1))
    compared = 0
    for _, _, Q, _ in _brute_force(crystal, voxels, instrument):
        if compared >= 40:
            break
        # one pixel and sub-step alone, so that its own q' is known
        single = _single(crystal, voxels, instrument, Q, displacement)
        if single is None:
            continue
        inside, tensor = single
        _, vectors = eigenmodes(model.dynamical_matrices(inside[None], phi))
        square, at_Q = eigenmodes(model.dynamical_matrices(Q[None], phi))
        folded = np.einsum("is,ij,js->s", vectors[0].conj(), tensor, vectors[0]).real
        amplitude = amplitudes(crystal, Q[None], displacement)[0]
        direct = np.abs(np.einsum("i,is->s", amplitude.ravel(), at_Q[0])) ** 2
        for group in _groups(square[0]):
            np.testing.assert_allclose(
                folded[group].sum(), direct[group].sum(), rtol=1e-9, atol=1e-10 * direct.sum()
            )
        compared += 1
    assert compared >= 30


def _single(crystal, voxels, instrument, Q, displacement):
    """T and q' of one Q alone, by the rule in the module's kernel."""
    f = Q @ np.linalg.inv(crystal.reciprocal)
    n = voxels.divisions
    where = tuple((np.floor((f - np.floor(f)) * n + 0.5).astype(int)) % n)
    v, o = voxels.voxel[where], voxels.operation[where]
    g = f @ voxels.operation_fractional[o]
    shift = np.rint(g - voxels.centre_fractional[v])
    inside = (g - shift) @ crystal.reciprocal
    turned = voxels.operation_cartesian[o] @ Q
    phase = np.exp(2j * np.pi * crystal.positions @ shift)
    W = 0.5 * np.einsum("a,kab,b->k", turned, displacement, turned)
    strength = crystal.scattering_length / np.sqrt(crystal.masses_u) * phase * np.exp(-W)
    f_vector = (strength[:, None] * turned).ravel()
    return inside, np.outer(f_vector, f_vector.conj())


def _groups(energies):
    edges = np.flatnonzero(np.diff(energies) > 1e-4) + 1
    return np.split(np.arange(len(energies)), edges)


@pytest.mark.parametrize("name", CRYSTALS)
def test_kernel_sums_equal_brute_force(name):
    crystal = CRYSTALS[name]()
    path = seekpath_segments(crystal, 0.1)
    voxels = build_voxel_map(crystal, path, half_width_rlu=0.1, voxel_rlu=0.05)
    instrument = _small_instrument(pixels=12)
    displacement = np.tile(0.004 * np.eye(3), (crystal.n_atoms, 1, 1))
    exposure = _exposure(crystal, voxels, instrument)
    weight = np.zeros_like(exposure.weight)
    tensor = np.zeros((*weight.shape, 3 * crystal.n_atoms, 3 * crystal.n_atoms), dtype=complex)
    for v, e, Q, w in _brute_force(crystal, voxels, instrument):
        _, one = _single(crystal, voxels, instrument, Q, displacement)
        weight[v, e] += w
        tensor[v, e] += w * one
    np.testing.assert_allclose(exposure.weight, weight, rtol=1e-10, atol=1e-14)
    found = unpack_tensor(exposure.tensor, crystal.n_atoms)
    np.testing.assert_allclose(found, tensor, rtol=1e-9, atol=1e-10 * np.abs(tensor).max())
    np.testing.assert_allclose(found, found.conj().swapaxes(-1, -2), atol=1e-15)


def test_exposure_is_additive_and_scales_with_charge():
    crystal = read_crystal("germanium")
    voxels = build_voxel_map(crystal, seekpath_segments(crystal, 0.1), half_width_rlu=0.1)
    first, second = _small_instrument(seed=1), _small_instrument(seed=2)
    both = _exposure(crystal, voxels, first) + _exposure(crystal, voxels, second)
    np.testing.assert_allclose((both + both).weight, both.scaled(2.0).weight, rtol=1e-12)
    masked = first.with_mask(np.ones(first.n_pixels, dtype=bool))
    assert _exposure(crystal, voxels, masked).weight.sum() == 0


def test_symmetry_equivalent_orientation_has_the_same_exposure():
    crystal = read_crystal("germanium")
    voxels = build_voxel_map(crystal, seekpath_segments(crystal, 0.1), half_width_rlu=0.1)
    instrument = _small_instrument(pixels=60)
    there = _exposure(crystal, voxels, instrument, psi=11.0)
    turned = _exposure(crystal, voxels, instrument, psi=191.0)  # two-fold about the vertical
    found = [e.path_sums(voxels)[0] for e in (there, turned)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-8, atol=1e-12)


def test_a_skipped_bin_of_a_histogram_has_no_exposure():
    crystal = read_crystal("germanium")
    voxels = build_voxel_map(crystal, seekpath_segments(crystal, 0.1), half_width_rlu=0.1)
    instrument = _small_instrument()
    edges = np.linspace(-5, 55, 121)
    steps = histogram_range(edges, ENERGY, EI)
    skip = np.ones((instrument.n_pixels, steps.stop - steps.start), dtype=bool)
    exposure = _exposure(
        crystal, voxels, instrument, histogram_edges_meV=edges, skip=skip, reduced=True
    )
    assert exposure.weight.sum() == 0
    skip[:20] = False
    some = _exposure(
        crystal, voxels, instrument, histogram_edges_meV=edges, skip=skip, reduced=True
    )
    assert some.weight.sum() > 0


def test_an_axis_that_the_incident_energy_cannot_reach_is_refused():
    crystal = read_crystal("germanium")
    axis = EnergyAxis(edges_meV=np.linspace(50, 60, 11))
    with pytest.raises(ValueError, match="expected above the lowest energy bin"):
        view_pixels(
            crystal=crystal,
            instrument=_small_instrument(),
            energy=axis,
            ei_meV=40.0,
            crystal_to_lab=np.eye(3),
        )


@pytest.mark.parametrize("substeps", [1, 4, 20])
def test_passing_over_pairs_outside_the_tubes_changes_no_bit(substeps):
    crystal = CRYSTALS["hexagonal"]()
    voxels = build_voxel_map(crystal, seekpath_segments(crystal, 0.1), half_width_rlu=0.1)
    instrument = _small_instrument(pixels=300)
    instrument = replace(instrument, masked=np.arange(300) % 5 == 2)
    energy = EnergyAxis(edges_meV=ENERGY.edges_meV, substeps=substeps)
    rotation = crystal_to_lab(
        Orientation(u=(1, 1, 0), v=(0, 0, 1)), crystal.conventional_reciprocal, 17.0
    )
    what = {"instrument": instrument, "energy": energy}
    how = {"crystal": crystal, "ei_meV": EI, "crystal_to_lab": rotation, **what}
    view = view_pixels(**how)
    U = np.tile(0.004 * np.eye(3), (crystal.n_atoms, 1, 1))
    skip = np.random.default_rng(4).random((300, len(view.kf))) < 0.3
    crossings = find_crossings(view, voxels)
    plain, passing = (
        compute_exposure(voxels=voxels, displacement=U, skip=skip, crossings=given, **how)
        for given in (None, crossings)
    )
    assert plain.weight.sum() > 0
    for field in fields(plain):
        np.testing.assert_array_equal(getattr(plain, field.name), getattr(passing, field.name))
    traced, faster = (
        trace_trajectories(
            view=view, voxels=voxels, displacement=U, skip=skip, crossings=given, **what
        )
        for given in (None, crossings)
    )
    for field in fields(traced):
        np.testing.assert_array_equal(getattr(traced, field.name), getattr(faster, field.name))
