"""Histograms of chunks: what counts, with which weights, and an account that is complete."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from consumers.fold import HistogramBlock, fold_powder_histogram, histogram_input
from consumers.fold.histogram_fold import fold_histogram_block
from simulations.crystal import read_crystal
from simulations.fold import (
    FoldGeometry,
    build_voxel_map,
    histogram_range,
    momentum_axis,
    view_powder,
)
from simulations.instrument import Orientation, load_instrument
from simulations.reciprocal import EnergyAxis, seekpath_segments

EI = 40.0
ENERGY = EnergyAxis(edges_meV=np.linspace(0, 30, 31), substeps=4)
EDGES = np.linspace(-3.0, 36.0, 40)


def block_of(instrument, *, counted: bool) -> HistogramBlock:
    rng = np.random.default_rng(5)
    shape = (instrument.n_pixels, len(EDGES) - 1)
    counts = rng.poisson(3.0, shape)
    intensity = rng.random(shape)
    intensity[rng.random(shape) < 0.1] = np.nan
    error = np.where(rng.random(shape) < 0.1, 0.0, 0.3)
    return HistogramBlock(
        chunk="a",
        energy_edges_meV=EDGES,
        intensity=intensity,
        error=error,
        counts=counts if counted else None,
    )


@pytest.fixture(scope="module")
def setting():
    crystal = read_crystal("germanium")
    path = seekpath_segments(crystal, 0.1)
    instrument = load_instrument("ARCS/16")
    geometry = FoldGeometry(
        crystal=crystal,
        path=path,
        energy=ENERGY,
        voxels=build_voxel_map(crystal, path, half_width_rlu=0.1),
        orientation=Orientation(u=(1, 1, 0), v=(0, 0, 1)),
        psi_offset_deg=0.0,
        ei_meV=EI,
        resolution=instrument.resolution,
        displacement=np.zeros((2, 3, 3)),
        form="tensor",
    )
    return instrument, geometry, histogram_range(EDGES, ENERGY, EI)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("kind", ["crystal", "powder"])
def test_a_histogram_enters_with_its_weights_and_every_part_is_accounted_for(
    setting, counted, kind
):
    instrument, geometry, steps = setting
    block = block_of(instrument, counted=counted)
    given = histogram_input(block, steps, instrument)
    skip = given.unknown
    if kind == "crystal":
        rows = geometry.voxels.n_path_bins
        signal, variance = np.zeros((2, rows, ENERGY.n_bins))
        sight = geometry.sight(33.0, instrument, histogram_edges_meV=EDGES, unknown=skip)
        folded = fold_histogram_block(given, sight, signal=signal, variance=variance)
    else:
        momentum = momentum_axis(instrument, ENERGY, EI, 0.1)
        view = view_powder(
            instrument=instrument, energy=ENERGY, ei_meV=EI, momentum_edges=momentum,
            histogram_edges_meV=EDGES,
        )  # fmt: skip
        signal, variance = np.zeros((2, len(momentum) - 1, ENERGY.n_bins))
        folded = fold_powder_histogram(
            given.inside, given.errors, weight=given.weight, skip=skip, view=view, signal=signal,
            variance=variance,
        )  # fmt: skip
    account = given.account(folded, signal, skip, instrument.masked)
    assert account.complete
    assert account.folded > 0
    values = block.intensity if block.counts is None else block.counts.astype(float)
    errors = np.sqrt(values) if counted else block.error
    known = np.isfinite(block.intensity) & (counted | (block.error > 0))
    weight = np.ones(values.shape)
    if not counted:
        weight = instrument.solid_angle_sr[:, None] * np.diff(EDGES)
    np.testing.assert_array_equal(given.unknown, ~known[:, steps])
    np.testing.assert_array_equal(given.weight, weight[:, steps])
    np.testing.assert_array_equal(given.errors, errors[:, steps])
    if counted:
        inside = values[:, steps]
        assert account.read == values.sum()
        assert account.outside_energy == values.sum() - inside.sum()
        assert account.folded == signal.sum()
        assert account.masked == inside[skip | instrument.masked[:, None]].sum()
    else:
        assert account.read == values.size


def test_a_can_is_weighed_with_the_bins_of_its_sample(setting):
    instrument, _, steps = setting
    near = EDGES + np.linspace(0, 1e-7, len(EDGES))
    given = histogram_input(block_of(instrument, counted=False), steps, instrument, near)
    expected = instrument.solid_angle_sr[:, None] * np.diff(near)[steps]
    np.testing.assert_array_equal(given.weight, expected)


def test_what_is_absent_counts_nowhere_and_the_rest_is_measured_even_at_zero(setting):
    instrument, geometry, steps = setting
    block = replace(block_of(instrument, counted=False), counts=None)
    absent = np.random.default_rng(8).random(block.intensity.shape) < 0.6
    intensity, error = (np.where(absent, np.nan, x) for x in (block.intensity, block.error))
    block = replace(block, intensity=intensity, error=error, absent=absent)
    given = histogram_input(block, steps, instrument)
    np.testing.assert_array_equal(given.unknown, ~np.isfinite(intensity)[:, steps])
    assert ((error[:, steps] == 0) & ~given.unknown).any()
    signal, variance = np.zeros((2, geometry.voxels.n_path_bins, ENERGY.n_bins))
    sight = geometry.sight(33.0, instrument, histogram_edges_meV=EDGES, unknown=given.unknown)
    folded = fold_histogram_block(given, sight, signal=signal, variance=variance)
    account = given.account(folded, signal, given.unknown, instrument.masked)
    assert account.complete
    assert account.read == (~absent).sum()
    assert account.outside_energy == account.read - (~absent)[:, steps].sum()
    blocked = np.isnan(intensity)[:, steps] | instrument.masked[:, None]
    assert account.masked == (blocked & ~absent[:, steps]).sum()
