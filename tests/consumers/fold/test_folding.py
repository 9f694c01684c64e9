"""Folding: events accounted for, support equal to that of the exposure, any order the same."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.fold import EventAccount
from consumers.fold.folding import fold_events, fold_histogram
from consumers.state import close_chunk, read_chunk
from simulations.crystal import read_crystal
from simulations.fold import CellSums, build_voxel_map, find_crossings
from simulations.fold.cell_sums import empty_sums
from simulations.fold.pixel_view import view_pixels
from simulations.instrument import Orientation, crystal_to_lab, load_instrument
from simulations.likelihood import Trajectories, trace_trajectories
from simulations.reciprocal import EnergyAxis, seekpath_segments
from tests.simulations.fold.exposures import compute_exposure

EI = 40.0
ENERGY = EnergyAxis(edges_meV=np.linspace(0, 70, 71), substeps=4)


@pytest.fixture(scope="module")
def setting():
    crystal = read_crystal("germanium")
    voxels = build_voxel_map(crystal, seekpath_segments(crystal, 0.05), half_width_rlu=0.05)
    instrument = load_instrument("ARCS/16")
    rotation = crystal_to_lab(
        Orientation(u=(1, 1, 0), v=(0, 0, 1)), crystal.conventional_reciprocal, 33.0
    )
    common = {
        "crystal": crystal,
        "instrument": instrument,
        "energy": ENERGY,
        "ei_meV": EI,
        "crystal_to_lab": rotation,
    }
    exposure = compute_exposure(
        voxels=voxels, displacement=np.tile(0.002 * np.eye(3), (2, 1, 1)), **common
    )
    return voxels, view_pixels(**common), exposure, instrument


def plain_fold(pixel, energy, view, voxels, n_bins):
    """The fold event by event, straight from the definitions; counts and the four accounts."""
    counts = np.zeros((voxels.n_path_bins, n_bins), dtype=np.int64)
    told = {"folded": 0, "outside_path": 0, "outside_energy": 0, "masked": 0}
    low, high = view.step_edges_meV[[0, -1]]
    for p, e in zip(pixel.tolist(), energy.tolist(), strict=True):
        if not 0 <= p < len(view.masked) or view.masked[p]:
            told["masked"] += 1
            continue
        x = (e - low) * (len(view.kf) / (high - low))
        if not 0 <= x < len(view.kf):
            told["outside_energy"] += 1
            continue
        f = view.beam_fractional - view.kf[int(x)] * view.fractional[p]
        index = np.floor((f - np.floor(f)) * voxels.divisions + 0.5).astype(int) % voxels.divisions
        voxel = voxels.voxel[tuple(index)]
        if voxel < 0:
            told["outside_path"] += 1
            continue
        told["folded"] += 1
        counts[voxels.path_bin[voxel], view.bin_of_step[int(x)]] += 1
    return counts, told


def _events(n, seed, pixels):
    rng = np.random.default_rng(seed)
    pixel = rng.integers(-1, pixels, n).astype(np.int32)
    energy = rng.uniform(-5, 45, n)
    energy[:: max(n // 7, 1)] = np.nan
    return pixel, energy


def test_every_event_is_accounted_for_and_none_lands_without_exposure(setting):
    voxels, view, exposure, instrument = setting
    counts = np.zeros((voxels.n_path_bins, ENERGY.n_bins), dtype=np.int64)
    account = fold_events(
        *_events(200_000, 1, instrument.n_pixels), view=view, voxels=voxels, counts=counts
    )
    assert account.complete
    assert counts.sum() == account.folded > 5_000
    weight = np.zeros(counts.shape)
    reached = exposure.path_sums(voxels)[0]
    weight[:, : reached.shape[1]] = reached
    assert counts[weight == 0].sum() == 0


@pytest.mark.parametrize("substeps", [1, 4, 13])  # groups of 1, 4 and 16 steps
@pytest.mark.parametrize("bins", [70, 600])  # 600 path bins need 16 bits
def test_the_fold_is_that_of_every_event_by_itself(setting, substeps, bins):
    voxels, _, _, instrument = setting
    spread = np.arange(voxels.n_voxels) % bins
    voxels = replace(voxels, path_bin=spread, n_path_bins=bins)
    crystal = read_crystal("germanium")
    view = view_pixels(
        crystal=crystal,
        instrument=instrument,
        energy=EnergyAxis(edges_meV=np.linspace(-10, 52, 63), substeps=substeps),
        ei_meV=EI,
        crystal_to_lab=crystal_to_lab(
            Orientation(u=(1, 1, 0), v=(0, 0, 1)), crystal.conventional_reciprocal, 71.0
        ),
    )
    pixel, energy = _events(20_000, 3, instrument.n_pixels + 2)
    pixel = pixel.astype(np.int64)
    pixel[:3] = (2**32, 2**32 + 5, -(2**31) - 1)  # would wrap round to known pixels
    edges = view.step_edges_meV
    energy[10:13] = (edges[0], edges[-1], np.nextafter(edges[-1], -np.inf))
    counts = np.zeros((bins, 62), dtype=np.int64)
    account = fold_events(pixel, energy, view=view, voxels=voxels, counts=counts)
    expected, told = plain_fold(pixel, energy, view, voxels, 62)
    assert told["folded"] > 1_000
    np.testing.assert_array_equal(counts, expected)
    assert account == EventAccount(read=len(pixel), **told)
    again = np.zeros_like(counts)
    crossings = find_crossings(view, voxels)
    fold_events(pixel, energy, view=view, voxels=voxels, counts=again, crossings=crossings)
    np.testing.assert_array_equal(again, expected)


@given(seed=st.integers(0, 2**31), parts=st.integers(1, 5))
def test_blocks_in_any_order_give_the_same_counts(setting, seed, parts):
    voxels, view, _, instrument = setting
    pixel, energy = _events(3_000, seed, instrument.n_pixels)
    whole = np.zeros((voxels.n_path_bins, ENERGY.n_bins), dtype=np.int64)
    fold_events(pixel, energy, view=view, voxels=voxels, counts=whole)
    pieces = np.zeros_like(whole)
    total = EventAccount()
    order = np.random.default_rng(seed).permutation(len(pixel))
    for part in np.array_split(order, parts):
        total = total + fold_events(
            pixel[part], energy[part], view=view, voxels=voxels, counts=pieces
        )
    np.testing.assert_array_equal(whole, pieces)
    assert total.complete


def test_a_uniform_histogram_folds_to_a_uniform_intensity(setting):
    """A spectrum of ones must come back as S / D = 1 with the weights that make D."""
    voxels, view, exposure, instrument = setting
    steps = len(view.kf)
    ki = np.linalg.norm(view.beam)
    weight = instrument.solid_angle_sr[:, None] * (np.diff(view.step_edges_meV) * view.kf / ki)
    signal, variance = (np.zeros((voxels.n_path_bins, ENERGY.n_bins)) for _ in range(2))
    ones = np.ones((instrument.n_pixels, steps))
    account = fold_histogram(
        ones,
        ones,
        weight=weight,
        skip=np.zeros(ones.shape, dtype=bool),
        view=view,
        voxels=voxels,
        signal=signal,
        variance=variance,
    )
    assert account.complete
    reached = exposure.path_sums(voxels)[0]
    known = reached > 0
    np.testing.assert_allclose(signal[:, : reached.shape[1]][known] / reached[known], 1, rtol=1e-12)
    assert np.all(variance[:, : reached.shape[1]][known] > 0)


def test_zero_exposure_is_unknown_and_zero_counts_are_not():
    one = np.ones((1, 2))
    sums = CellSums(
        signal=0 * one, variance=0 * one, counts=0 * one, exposure=np.array([[0.0, 2.0]]), flat=one
    )
    assert np.isnan(sums.intensity[0, 0])
    assert sums.intensity[0, 1] == 0
    assert sums.coverage_fraction == 0.5


def test_counts_and_reduced_intensity_do_not_add():
    with pytest.raises(ValueError, match="cannot add raw counts"):
        empty_sums((2, 2)) + empty_sums((2, 2), gaussian=True)


def test_a_closed_chunk_reads_back_to_the_last_bit(setting, tmp_path):
    voxels, view, exposure, instrument = setting
    trajectories = trace_trajectories(
        view=view,
        voxels=voxels,
        instrument=instrument,
        energy=ENERGY,
        displacement=np.tile(0.002 * np.eye(3), (2, 1, 1)),
    )
    shape = (voxels.n_path_bins, ENERGY.n_bins)
    rng = np.random.default_rng(2)
    arrays = {n: rng.random(shape) for n in ("signal", "variance", "counts", "exposure", "flat")}
    account = EventAccount(read=3, folded=2, masked=1)
    closed = close_chunk(
        tmp_path,
        chunk="run 7/../x",
        psi_deg=12.5,
        minutes=1.0,
        proton_charge=0.1,
        account=account,
        sums=CellSums(**arrays),
        exposure=exposure,
        trajectories=trajectories,
    )
    assert closed.path.parent == tmp_path
    again = read_chunk(closed.path)
    assert again.account == account
    for name, array in arrays.items():
        np.testing.assert_array_equal(getattr(again.sums, name), array)
    np.testing.assert_array_equal(again.exposure().tensor, exposure.tensor)
    for part in fields(Trajectories):
        stored, given_ = getattr(again.trajectories(), part.name), getattr(trajectories, part.name)
        np.testing.assert_array_equal(stored, given_)
    assert not list(tmp_path.glob("*.partial"))
