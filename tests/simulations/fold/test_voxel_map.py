"""The voxel map is symmetric, complete and one-to-one."""

import numpy as np
import pytest

from simulations.crystal import read_crystal
from simulations.crystal.placement import crystal_from_cells
from simulations.errors import InputError
from simulations.fold import build_voxel_map
from simulations.reciprocal import Path, seekpath_segments


def _hexagonal():
    lattice = np.array([[3.2, 0, 0], [-1.6, 1.6 * np.sqrt(3), 0], [0, 0, 5.2]])
    return crystal_from_cells(
        lattice,
        np.array([[1 / 3, 2 / 3, z] if z in (0.0, 0.38) else [2 / 3, 1 / 3, z]
                  for z in (0.0, 0.5, 0.38, 0.88)]),
        ("Zn", "Zn", "O", "O"),
        lattice,
    )  # fmt: skip


def _monoclinic():
    lattice = np.array([[5.1, 0, 0], [0, 4.2, 0], [-0.9, 0, 6.3]])
    return crystal_from_cells(
        lattice,
        np.array([[0.1, 0.25, 0.2], [0.9, 0.75, 0.8], [0.4, 0.6, 0.35], [0.6, 0.1, 0.65]]),
        ("Zn", "Zn", "O", "O"),
        lattice,
    )


CRYSTALS = {
    "germanium": lambda: read_crystal("germanium"),
    "hexagonal": _hexagonal,
    "monoclinic": _monoclinic,
}


@pytest.mark.parametrize("name", CRYSTALS)
def test_all_images_of_a_point_fall_into_one_voxel_and_are_carried_to_it(name):
    crystal = CRYSTALS[name]()
    path = seekpath_segments(crystal, 0.1)
    voxels = build_voxel_map(crystal, path, half_width_rlu=0.12, voxel_rlu=0.06)
    n = voxels.divisions
    inside = np.argwhere(voxels.voxel >= 0)
    rng = np.random.default_rng(3)
    for point in inside[rng.choice(len(inside), 60)]:
        where = voxels.voxel[tuple(point)]
        images = np.einsum("i,oij->oj", point, voxels.operation_fractional) % n
        assert set(voxels.voxel[tuple(images.T)]) == {where}
        carried = point / n @ voxels.operation_fractional[voxels.operation[tuple(point)]]
        offset = carried - voxels.centre_fractional[where]
        assert np.all(np.abs((offset - np.rint(offset)) * n) < 1.0)


def test_every_voxel_lies_in_its_tube_and_every_bin_has_voxels():
    crystal = read_crystal("germanium")
    path = seekpath_segments(crystal, 0.05)
    voxels = build_voxel_map(crystal, path, half_width_rlu=0.05, voxel_rlu=0.025)
    unit = crystal.conventional_reciprocal[0, 0]
    assert voxels.distance.max() <= 0.05 * unit * (1 + 1e-9)
    fine = np.linalg.norm(voxels.centre_cartesian, axis=1) < 0.15 * unit
    assert fine.sum() > 4 * np.sum(voxels.path_bin[~fine] == 20)  # smaller voxels near Gamma
    centres = path.centres_hkl() @ crystal.conventional_reciprocal
    gap = np.linalg.norm(centres[voxels.path_bin] - voxels.centre_cartesian, axis=1)
    assert gap.max() < 0.1 * unit
    # Points that the path visits twice (Gamma, X, U = K) belong to one bin only.
    assert len(np.unique(voxels.path_bin)) >= path.n_bins - 8


def test_wider_tubes_hold_a_larger_share_of_the_zone():
    crystal = read_crystal("aluminium")
    path = seekpath_segments(crystal, 0.1)
    narrow = build_voxel_map(crystal, path, half_width_rlu=0.05).tube_fraction
    wide = build_voxel_map(crystal, path, half_width_rlu=0.1).tube_fraction
    assert 2.5 < wide / narrow < 4.5


def test_a_segment_far_longer_than_the_cell_is_refused_by_its_name():
    crystal = read_crystal("aluminium")
    path = Path(
        start_hkl=np.array([[0.0, 0, 0], [800.0, 0, 0]]),
        end_hkl=np.array([[0.0, 0, 1], [0.0, 800, 0]]),
        labels=(("G", "X"), ("far", "off")),
        bins=(10, 10),
    )
    with pytest.raises(InputError, match=r"far-off from hkl \[800, 0, 0\] to \[0, 800, 0\]"):
        build_voxel_map(crystal, path, half_width_rlu=0.05)


def test_widths_that_are_not_positive_are_refused():
    crystal = read_crystal("aluminium")
    path = seekpath_segments(crystal, 0.1)
    with pytest.raises(ValueError, match="expected positive numbers"):
        build_voxel_map(crystal, path, half_width_rlu=0.0)
