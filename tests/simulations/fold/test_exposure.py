"""The coverage tensor carries every pixel into its cell exactly, mode by mode."""

from dataclasses import fields, replace

import numpy as np
import pytest
import spglib
from numpy.typing import NDArray

from simulations.constants import NEUTRON_MEV_A2
from simulations.crystal import laue_rotations, quiet_spglib, read_crystal
from simulations.crystal.placement import crystal_from_cells
from simulations.dynamics import eigenmodes, force_constant_model
from simulations.fold import VoxelMap, build_voxel_map, find_crossings, histogram_range
from simulations.fold.exposure import Exposure, unpack_tensor
from simulations.fold.pixel_view import view_pixels
from simulations.instrument import Instrument, Orientation, Resolution, crystal_to_lab
from simulations.likelihood import trace_trajectories
from simulations.reciprocal import EnergyAxis, seekpath_segments
from simulations.scattering.one_phonon import amplitudes
from tests.simulations.fold.exposures import compute_exposure
from tests.simulations.fold.test_voxel_map import CRYSTALS


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


def _crystal(lattice, symbols, positions, conventional=None):
    """Crystal of positions in the conventional cell, in the primitive one where there is one."""
    conventional = np.asarray(lattice, dtype=float) if conventional is None else conventional
    inside = np.asarray(positions) @ conventional @ np.linalg.inv(lattice)
    return crystal_from_cells(lattice, inside % 1, tuple(symbols), conventional)


def _hexagonal_cell(a, c):
    return np.array([[a, 0, 0], [-0.5 * a, 0.5 * np.sqrt(3) * a, 0], [0, 0, c]])


def _rutile():
    oxygen = [
        [x, y, z]
        for x, y, z in (
            (0.305, 0.305, 0),
            (0.695, 0.695, 0),
            (0.195, 0.805, 0.5),
            (0.805, 0.195, 0.5),
        )
    ]
    cell = np.diag([4.59, 4.59, 2.96])
    return _crystal(cell, ["Ti"] * 2 + ["O"] * 4, [[0, 0, 0], [0.5] * 3, *oxygen])  # fmt: skip


def _chiral():
    u = 0.27
    cell = _hexagonal_cell(4.46, 5.93)
    return _crystal(cell, ["Te"] * 3, [[u, 0, 1 / 3], [0, u, 2 / 3], [-u, -u, 0]])


def _base_centred():
    a, b, c = 3.97, 5.69, 5.72
    cell = np.array([[a, 0, 0], [0, b / 2, -c / 2], [0, b / 2, c / 2]])
    atoms = [[0, 0, 0], [0.5, 0, 0.51], [0, 0, 0.47], [0.5, 0.25, 0.22], [0.5, 0.75, 0.22]]
    return _crystal(cell, ["K", "Nb", "O", "O", "O"], atoms, np.diag([a, b, c]))


def _zincblende():
    cell = 5.41 / 2 * (np.ones((3, 3)) - np.eye(3))
    return _crystal(cell, ["Zn", "S"], [[0, 0, 0], [0.25] * 3], 5.41 * np.eye(3))


# With what each adds: screw and glide operations, no inversion, a polar axis, no mirror at all.
MORE_CRYSTALS = {
    **CRYSTALS,  # Fd-3m, P6_3mc (polar), P2_1 (polar)
    "P4_2/mnm": _rutile,
    "P3_121": _chiral,
    "Amm2": _base_centred,
    "F-43m": _zincblende,
    "P-6m2": lambda: _crystal(
        _hexagonal_cell(2.91, 2.84), ["W", "C"], [[0, 0, 0], [1 / 3, 2 / 3, 0.5]]
    ),
    "P6/mmm": lambda: _crystal(
        _hexagonal_cell(3.08, 3.52),
        ["Mg", "B", "B"],
        [[0, 0, 0], [1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]],
    ),
    "P4mm": lambda: _crystal(
        np.diag([4.0, 4.0, 4.04]),
        ["Ba", "Ti", "O", "O", "O"],
        [[0, 0, 0], [0.5, 0.5, 0.52], [0.5, 0.5, 0.97], [0.5, 0, 0.48], [0, 0.5, 0.48]],
    ),
}


@pytest.mark.parametrize("name", MORE_CRYSTALS)
def test_crystals_have_the_space_group_that_they_stand_for(name):
    crystal = MORE_CRYSTALS[name]()
    numbers = [sorted(set(crystal.symbols)).index(s) for s in crystal.symbols]
    with quiet_spglib():
        found = spglib.get_spacegroup((crystal.lattice, crystal.positions, numbers))
    ours = {"germanium": "Fd-3m", "hexagonal": "P6_3mc", "monoclinic": "P2_1"}
    assert str(found).split()[0] == ours.get(name, name)


RANDOM, NEAR_THE_PATH, ON_THE_PATH = 200, 40, 40


def _wanted_Q(crystal, path, rng):
    """Random Q, then images of points close to the path and on it, where modes are degenerate."""
    yield from ((Q, "random") for Q in rng.uniform(-5, 5, (20 * RANDOM, 3)))
    centres = path.centres_hkl() @ crystal.conventional_reciprocal
    _, turns = laue_rotations(crystal)
    for offset, kind in ((0.01, "near"), (0.0, "on")):
        for _ in range(4 * max(NEAR_THE_PATH, ON_THE_PATH)):
            q = centres[rng.integers(len(centres))] + offset * rng.normal(size=3)
            G = rng.integers(-3, 4, 3) @ crystal.reciprocal
            yield turns[rng.integers(len(turns))] @ q + G, kind


@pytest.mark.parametrize("name", MORE_CRYSTALS)
def test_tensor_weights_equal_those_of_the_unfolded_q_inside_degenerate_groups(name):
    crystal = MORE_CRYSTALS[name]()
    model = force_constant_model(crystal, None, 3.0)
    rng = np.random.default_rng(5)
    phi = rng.normal(size=len(model.names))
    path = seekpath_segments(crystal, 0.1)
    voxels = build_voxel_map(crystal, path, half_width_rlu=0.1, voxel_rlu=0.05)
    displacement = np.tile(0.004 * np.eye(3), (crystal.n_atoms, 1, 1))
    left = {"random": RANDOM, "near": NEAR_THE_PATH, "on": ON_THE_PATH}
    degenerate = 0
    for Q, kind in _wanted_Q(crystal, path, rng):
        folded_Q = _folded_alone(crystal, voxels, Q, displacement) if left[kind] else None
        if folded_Q is None:
            continue
        inside, tensor = folded_Q
        left[kind] -= 1
        square, vectors = eigenmodes(model.dynamical_matrices(inside[None], phi))
        _, at_Q = eigenmodes(model.dynamical_matrices(Q[None], phi))
        folded = np.einsum("is,ij,js->s", vectors[0].conj(), tensor, vectors[0]).real
        amplitude = amplitudes(crystal, Q[None], displacement)[0]
        direct = np.abs(np.einsum("i,is->s", amplitude.ravel(), at_Q[0])) ** 2
        for group in _groups(square[0]):
            degenerate += len(group) > 1
            assert abs(folded[group].sum() - direct[group].sum()) < 1e-10 * direct.sum()
    assert left == {"random": 0, "near": 0, "on": 0}
    assert degenerate > 0 or name in {"monoclinic", "Amm2"}  # groups without degenerate modes


def _folded_alone(crystal, voxels, Q, displacement):
    """T and q' that the kernel makes of one Q; None if no tube holds it.

    The crystal is turned so that one pixel looks at it in one thin energy bin.
    """
    energy, width = 20.0, 1e-3
    ki, kf = np.sqrt(EI / NEUTRON_MEV_A2), np.sqrt((EI - energy) / NEUTRON_MEV_A2)
    size = np.linalg.norm(Q)
    cosine = (ki**2 + kf**2 - size**2) / (2 * ki * kf)
    if abs(cosine) > 1:
        return None
    away = np.array([np.sqrt(1 - cosine**2), 0, cosine])
    lab = np.array([0, 0, ki]) - kf * away
    turn = _frame(lab, away) @ _frame(Q, np.roll(Q, 1)).T
    instrument = replace(
        _small_instrument(pixels=1), position_m=3.0 * away[None], solid_angle_sr=np.ones(1)
    )
    exposure = compute_exposure(
        crystal=crystal,
        voxels=voxels,
        instrument=instrument,
        energy=EnergyAxis(edges_meV=energy + width * np.array([-0.5, 0.5]), substeps=1),
        ei_meV=EI,
        crystal_to_lab=turn,
        displacement=displacement,
    )
    if not exposure.weight.any():
        return None
    voxel = int(np.argmax(exposure.weight))
    weight = exposure.weight[voxel, 0]
    inside = voxels.centre_cartesian[voxel] + exposure.first[voxel, 0] / weight
    return inside, unpack_tensor(exposure.tensor[voxel, 0], crystal.n_atoms) / weight


def _frame(first, second) -> NDArray[np.float64]:
    """Right-handed orthonormal columns, the first along the first vector."""
    x = first / np.linalg.norm(first)
    z = np.cross(x, second) / np.linalg.norm(np.cross(x, second))
    return np.array([x, np.cross(z, x), z], dtype=float).T


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


@pytest.mark.parametrize("name", MORE_CRYSTALS)
def test_kernel_sums_equal_brute_force(name):
    crystal = MORE_CRYSTALS[name]()
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
    size = np.trace(tensor, axis1=-2, axis2=-1).real[..., None, None]
    assert np.all(np.abs(found - tensor) <= 1e-10 * size)
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
