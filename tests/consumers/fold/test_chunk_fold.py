"""Dwells from their start to their sums: runs of real pixel files against plain numpy."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from consumers.fold import ChunkFold, ChunkStart, ChunkStop, HistogramBlock
from consumers.fold.chunk_fold import Can
from consumers.recorded import recorded_source
from simulations.crystal import read_crystal
from simulations.fold import FoldGeometry, build_voxel_map
from simulations.instrument import UNKNOWN_RESOLUTION, Orientation
from simulations.reciprocal import EnergyAxis, seekpath_segments

IRON = """Fe
1.0
2.87 0 0
0 2.87 0
0 0 2.87
Fe
2
Direct
0 0 0
0.5 0.5 0.5
"""
RUBIDIUM_MANGANESE_FLUORIDE = """RbMnF3
1.0
4.2275 0 0
0 4.2275 0
0 0 4.2275
Rb Mn F
1 1 3
Direct
0.5 0.5 0.5
0 0 0
0.5 0 0
0 0.5 0
0 0 0.5
"""
SCALE = np.sqrt(2.072124854 / 2.07)  # of coordinates that old versions of Horace wrote
FILES = {
    "fe_maps_ei787.sqw": (IRON, (1, 0, 0), (0, 1, 0), (150.0, 200.0)),
    "rbmnf3_maps_ei35.sqw": (RUBIDIUM_MANGANESE_FLUORIDE, (1, 1, 0), (0, 0, 1), (-0.21, 0.21)),
}


@pytest.mark.shared_data
@pytest.mark.parametrize("name", FILES)
def test_folded_runs_of_a_real_sqw_file_are_a_plain_sum_of_its_pixels(
    name, shared_data, tmp_path, capsys
):
    """Path bins of the file's own coordinates; every pixel is folded, outside or masked."""
    structure, u, v, energies = FILES[name]
    (tmp_path / "POSCAR").write_text(structure)
    crystal = read_crystal(tmp_path / "POSCAR")
    path = seekpath_segments(crystal, 0.1)
    energy = EnergyAxis(edges_meV=np.linspace(*energies, 5), substeps=1)
    source = recorded_source([shared_data / "sqw" / name], run="r")
    geometry: FoldGeometry | None = None
    fold: ChunkFold | None = None
    sums: list[np.ndarray] = []
    read = folded = masked = outside = 0
    for payload in (message.payload for message in source.messages()):
        if isinstance(payload, ChunkStart):
            assert payload.geometry is not None
            geometry = geometry or FoldGeometry(
                crystal=crystal,
                path=path,
                energy=energy,
                voxels=build_voxel_map(crystal, path, half_width_rlu=0.1, voxel_rlu=0.05),
                orientation=Orientation(u=u, v=v),
                psi_offset_deg=0.0,
                ei_meV=payload.ei_meV,
                resolution=UNKNOWN_RESOLUTION,
                displacement=np.zeros((crystal.n_atoms, 3, 3)),
                form="images",
            )
            instrument = payload.geometry
            fold = ChunkFold(payload, geometry=geometry, instrument=instrument, can=Can())
        elif isinstance(payload, ChunkStop):
            assert fold is not None
            closed = fold.close(payload)
            account = closed.account
            assert account.complete
            assert account.read == payload.read
            sums.append(np.stack([closed.sums.signal, closed.sums.variance]))
            exposed = closed.sums.exposure > 0
            assert not np.any((closed.sums.signal != 0) & ~exposed)
            read, folded = read + account.read, folded + account.folded
            masked = masked + account.masked
            outside += account.outside_path + account.outside_energy
        elif isinstance(payload, HistogramBlock):
            assert fold is not None
            fold.take(payload)
    assert geometry is not None
    raw = pixels_of(shared_data / "sqw" / name)
    known = np.isfinite(raw[:, 7]) & ((raw[:, 8] > 0) | (raw[:, 7] == 0))
    assert read == len(raw) == folded + outside + masked
    assert masked == (~known).sum()
    hkl = raw[:, :3] @ crystal.conventional_lattice.T / (2 * np.pi) / SCALE
    fractional = hkl @ crystal.conventional_reciprocal @ np.linalg.inv(crystal.reciprocal)
    grid = (fractional - np.floor(fractional)) * geometry.voxels.divisions
    near = (np.abs(grid % 1 - 0.5) < 3e-5).any(axis=1)  # rounding decides where these go

    def voxel_at(shift: tuple[float, ...]) -> np.ndarray:
        index = np.floor(grid + 0.5 + 5e-5 * np.array(shift)).astype(int)
        return geometry.voxels.voxel[tuple((index % geometry.voxels.divisions).T)]

    voxel = voxel_at((0, 0, 0))
    bin_ = np.digitize(raw[:, 3], energy.edges_meV) - 1
    inside = known & (voxel >= 0) & (bin_ >= 0) & (bin_ < energy.n_bins)
    detector = instrument.pixel_of_id(raw[:, 5].astype(int))
    width = 5.0 if name.startswith("fe") else 0.1
    weight = instrument.solid_angle_sr[detector] * width
    cell = geometry.voxels.path_bin[voxel] * energy.n_bins + bin_
    plain = np.zeros((2, geometry.voxels.n_path_bins * energy.n_bins))
    for k, values in enumerate((weight * raw[:, 7], weight**2 * raw[:, 8])):
        np.add.at(plain[k], cell[inside], values[inside])
    ours = np.sum(sums, axis=0).reshape(2, -1)
    clear = np.ones(plain.shape[1], np.bool_)
    for shift in product((-1, 1), repeat=3):
        other = voxel_at(shift)
        doubtful = near & (other >= 0) & (bin_ >= 0) & (bin_ < energy.n_bins)
        clear[(geometry.voxels.path_bin[other] * energy.n_bins + bin_)[doubtful]] = False
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{name}: read {read} = folded {folded} + outside {outside} + masked {masked}; "
            f"{clear.sum()} cells without doubt, {np.count_nonzero(plain[0, clear])} with signal"
        )
    assert abs(folded - inside.sum()) <= near.sum()
    assert np.count_nonzero(plain[0, clear]) > 15
    np.testing.assert_allclose(ours[:, clear], plain[:, clear], rtol=2e-6)


def pixels_of(path) -> np.ndarray:
    """(pixels, 9) of a version 2 file, which ends with them."""
    data = path.read_bytes()
    for n in range(1, len(data) // 36):
        if int.from_bytes(data[-36 * n - 8 : len(data) - 36 * n], "little") == n:
            return np.frombuffer(data[-36 * n :], "<f4").reshape(n, 9).astype(np.float64)
    raise AssertionError
