"""Folding the events of one orientation of the reference run, against scipp doing the same fold.

Same events in the same order, same 117,760 pixels, same map from (pixel, energy sub-step) to (path
bin, energy bin), and the same counts. Everything that does not depend on the events is made
beforehand, untimed, for all: ours has the crossings of the orientation, a table of the path bins of
all (pixel, sub-step) pairs, which a run makes once per chunk for the exposure anyway.

scipp does it in two ways, each an entry: as one folds with it (group the events by pixel, compute
Q and its place in the reciprocal cell, look the path bin up, make the histogram), and with our
table handed over, unpacked to one number per pair (look the cell up, make the histogram), which no
user of scipp has. A filter in front of the first, or a look-up per pixel after grouping, were
slower than the second. numpy does it with Q and plain arrays. Each has one core.

Printed besides: what the table costs and saves, and what exposure, coverage tensor and moments of
one new orientation cost.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest

from consumers.fold.folding import fold_events
from simulations.crystal import Crystal, read_crystal
from simulations.fold import build_voxel_map, find_crossings
from simulations.fold.pixel_view import view_pixels
from simulations.instrument import Orientation, crystal_to_lab, load_instrument, wave_vector
from simulations.likelihood import trace_trajectories
from simulations.reciprocal import EnergyAxis, seekpath_segments
from steering.experiment import load_experiment
from steering.experiment.measurement import build_path
from tests.simulations.fold.exposures import compute_exposure, compute_image_exposure
from tests.steering.virtual_scan import EXAMPLES

EVENTS = 1_000_000  # as many as a source hands over at a time
EI = 40.0
PSI_DEG = 33.0


@contextmanager
def one_core():
    """Keep the process, threads of scipp included, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture(scope="module")
def setting():
    section = load_experiment(EXAMPLES / "ge-arcs.yaml").path
    crystal = read_crystal("germanium")
    voxels = build_voxel_map(
        crystal,
        build_path(section, crystal),
        half_width_rlu=section.half_width_rlu,
        voxel_rlu=section.voxel_rlu,
    )
    axis = section.energy
    energy = EnergyAxis(
        edges_meV=np.linspace(axis.min_meV, axis.max_meV, axis.bins + 1), substeps=axis.substeps
    )
    instrument = load_instrument("ARCS")
    rotation = crystal_to_lab(
        Orientation(u=(1, 1, 0), v=(0, 0, 1)), crystal.conventional_reciprocal, PSI_DEG
    )
    view = view_pixels(
        crystal=crystal,
        instrument=instrument,
        energy=energy,
        ei_meV=EI,
        crystal_to_lab=rotation,
    )
    return crystal, voxels, instrument, energy, rotation, view


def recorded(n_pixels):
    """Events as a file has them, pixel after pixel in no order; some beyond the energy axis."""
    rng = np.random.default_rng(0)
    pixel = rng.integers(0, n_pixels, EVENTS).astype(np.int32)
    return pixel, rng.uniform(-2, 0.985 * EI, EVENTS)


def all_cells(crossings, view, n_bins):
    """Cell of every (pixel, sub-step) pair, -1 outside the tubes: the crossings without packing."""
    size, n_pixels = crossings.path_bin.shape[1], len(crossings.first)
    kept = np.unpackbits(
        crossings.groups[:n_pixels, None].view(np.uint8), axis=1, bitorder="little"
    )[:, :62].astype(bool)
    rows = np.full((n_pixels, 62, size), -1.0, dtype=np.float32)
    rows[kept] = np.where(crossings.path_bin == crossings.none, -1, crossings.path_bin)
    rows = rows.reshape(n_pixels, -1)[:, : len(view.kf)]
    return np.where(rows < 0, -1, rows * n_bins + view.bin_of_step).astype(np.float32)


def scipp_fold_by_table(setting, pixel, transfer, crossings):
    """As ``scipp_fold``, with the cell of every pair known beforehand."""
    sc = pytest.importorskip("scipp", reason="scipp is the peer; `make bench` installs it")
    _, voxels, _, energy, _, view = setting
    shape = (voxels.n_path_bins, energy.n_bins)
    cells = all_cells(crossings, view, energy.n_bins)
    cell_at = sc.lookup(
        sc.DataArray(
            sc.array(dims=["pair"], values=cells.ravel()),
            coords={"pair": sc.arange("pair", cells.size + 1.0) - 0.5},
        ),
        "pair",
        fill_value=sc.scalar(-1.0, dtype="float32"),
    )
    edges = sc.arange("cell", shape[0] * shape[1] + 1.0) - 0.5
    n_steps, low = float(len(view.kf)), sc.scalar(view.step_edges_meV[0])
    per_step = sc.scalar(n_steps / (view.step_edges_meV[-1] - view.step_edges_meV[0]))

    def fold():
        step = (sc.array(dims=["event"], values=transfer) - low) * per_step
        step = sc.where(
            (step >= sc.scalar(0.0)) & (step < sc.scalar(n_steps)),
            sc.floor(step),
            sc.scalar(np.nan),
        )
        pair = sc.array(dims=["event"], values=pixel, dtype="float64") * sc.scalar(n_steps) + step
        cell = cell_at[pair]
        cell = cell[cell >= sc.scalar(0.0, dtype="float32")].to(dtype="float64")
        ones = sc.ones(dims=["event"], shape=[cell.size])
        return sc.DataArray(ones, coords={"cell": cell}).hist(cell=edges).values.reshape(shape)

    return fold


def scipp_fold(setting, pixel, transfer):
    """A function that folds the events with scipp into (path bins, energy bins)."""
    sc = pytest.importorskip("scipp", reason="scipp is the peer; `make bench` installs it")
    crystal, voxels, instrument, energy, rotation, view = setting
    identifiers = pixel.astype(np.int64)
    known = sc.arange("pixel", instrument.n_pixels, dtype="int64")
    direction = sc.vectors(dims=["pixel"], values=instrument.direction)
    live = sc.array(dims=["pixel"], values=(~instrument.masked).astype(float))
    ki = sc.vector([0, 0, float(wave_vector(EI))])
    to_cell = sc.spatial.linear_transform(
        value=(rotation @ np.linalg.inv(crystal.reciprocal)).T  # laboratory to fractional
    )
    steps = sc.array(dims=["energy"], values=view.step_edges_meV)
    kf_at = sc.lookup(
        sc.DataArray(sc.array(dims=["energy"], values=view.kf), coords={"energy": steps}),
        "energy",
        fill_value=sc.scalar(np.nan),
    )
    inside = voxels.voxel >= 0
    bins = np.where(inside, voxels.path_bin[np.maximum(voxels.voxel, 0)], -1).ravel()
    row_at = sc.lookup(
        sc.DataArray(
            sc.array(dims=["point"], values=bins.astype(float)),
            coords={"point": sc.arange("point", len(bins) + 1.0) - 0.5},
        ),
        "point",
        fill_value=sc.scalar(-1.0),
    )
    rows = sc.arange("row", voxels.n_path_bins + 1.0) - 0.5
    edges = sc.array(dims=["energy"], values=energy.edges_meV)

    def grid(coordinate, divisions):
        n = float(divisions)
        index = sc.floor((coordinate - sc.floor(coordinate)) * n + sc.scalar(0.5))
        return sc.where(index >= sc.scalar(n), sc.scalar(0.0), index)

    def fold():
        events = sc.DataArray(
            sc.ones(dims=["event"], shape=[len(identifiers)], dtype="float64", unit="counts"),
            coords={
                "pixel": sc.array(dims=["event"], values=identifiers),
                "energy": sc.array(dims=["event"], values=transfer),
            },
        ).group(known)
        at = events.bins.coords["energy"]
        Q = ki - kf_at[at] * direction
        place = (to_cell * Q).bins.constituents["data"].fields
        index = grid(place.x, voxels.divisions[0])
        index = index * float(voxels.divisions[1]) + grid(place.y, voxels.divisions[1])
        index = index * float(voxels.divisions[2]) + grid(place.z, voxels.divisions[2])
        weight = sc.bins_like(events, live).bins.constituents["data"]
        counted = sc.DataArray(
            events.bins.constituents["data"].data * weight,
            coords={"row": row_at[index], "energy": at.bins.constituents["data"]},
        )
        return counted.hist(row=rows, energy=edges).values

    return fold


def numpy_fold(setting, pixel, transfer):
    """The same with plain arrays, events dropped as soon as they are known to end."""
    _, voxels, instrument, energy, _, view = setting
    low = view.step_edges_meV[0]
    per_step = len(view.kf) / (view.step_edges_meV[-1] - low)
    shape = (voxels.n_path_bins, energy.n_bins)

    def fold():
        kept = ~instrument.masked[pixel]
        p, step = pixel[kept], np.floor((transfer[kept] - low) * per_step)
        kept = (step >= 0) & (step < len(view.kf))
        p, step = p[kept], step[kept].astype(np.int64)
        f = view.beam_fractional - view.kf[step][:, None] * view.fractional[p]
        index = np.floor((f - np.floor(f)) * voxels.divisions + 0.5).astype(np.int64)
        index[index == voxels.divisions] = 0
        voxel = voxels.voxel[index[:, 0], index[:, 1], index[:, 2]]
        kept = voxel >= 0
        cell = voxels.path_bin[voxel[kept]] * energy.n_bins + view.bin_of_step[step[kept]]
        return np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)

    return fold


def test_fold(setting, against):
    _, voxels, instrument, energy, _, view = setting
    pixel, transfer = recorded(instrument.n_pixels)
    crossings = find_crossings(view, voxels)

    def ours():
        counts = np.zeros((voxels.n_path_bins, energy.n_bins), dtype=np.int64)
        account = fold_events(
            pixel, transfer, view=view, voxels=voxels, counts=counts, crossings=crossings
        )
        assert account.complete
        return counts

    with one_core():
        with_Q, plain = scipp_fold(setting, pixel, transfer), numpy_fold(setting, pixel, transfer)
        by_table = scipp_fold_by_table(setting, pixel, transfer, crossings)
        counts = ours()
        assert np.array_equal(counts, plain())
        assert np.array_equal(counts, by_table())
        # scipp computes Q before it turns it: a place within rounding of a grid edge may move
        assert np.abs(counts - with_Q()).sum() <= 1e-6 * EVENTS
        ratio = against("fold", "scipp", ours, with_Q, repeats=11)
        handed = against("fold", "scipp with our table", ours, by_table, repeats=11)
        own, other, best = timed(ours, 15), timed(plain, 3), min_of(ours, 15)
    sys.stdout.write(
        f"\nfold: {EVENTS / own / 1e6:.0f} M events/s ({EVENTS / best / 1e6:.0f} at best), "
        f"{counts.sum() / EVENTS:.1%} of them in tubes; {ratio:.1f} times scipp, {handed:.1f} "
        f"times scipp with our table, {other / own:.0f} times numpy\n"
    )
    assert ratio > 5


def test_what_the_table_of_crossings_costs_and_saves(setting):
    """Made once per chunk; exposure and trajectories pass over what it leaves out."""
    crystal, voxels, instrument, energy, rotation, view = setting
    U = np.tile(0.004 * np.eye(3), (crystal.n_atoms, 1, 1))
    crossings = find_crossings(view, voxels)
    common = {"voxels": voxels, "instrument": instrument, "energy": energy, "displacement": U}

    def both(given):
        compute_exposure(
            crystal=crystal, ei_meV=EI, crystal_to_lab=rotation, crossings=given, **common
        )
        trace_trajectories(view=view, crossings=given, **common)

    both(None)
    with one_core():
        made = min_of(lambda: find_crossings(view, voxels), 5)
        without, having = min_of(lambda: both(None), 3), min_of(lambda: both(crossings), 3)
    sys.stdout.write(
        f"\ncrossings of one orientation: {made:.2f} s, {crossings.nbytes / 1e6:.1f} MB; exposure "
        f"and trajectories {without:.2f} s without them, {having:.2f} s with them\n"
    )
    assert crossings.nbytes < 50e6


def test_what_a_new_orientation_costs(setting):
    """Exposure, coverage tensor and moments of one orientation; figures only, no peer."""
    crystal, voxels, instrument, energy, rotation, _ = setting
    section = load_experiment(EXAMPLES / "ge-arcs.yaml").path
    wide = build_voxel_map(crystal, build_path(section, crystal), half_width_rlu=0.1)
    large = corundum()
    cell = build_voxel_map(large, seekpath_segments(large, 0.05), half_width_rlu=0.05)
    many = f"{large.n_atoms} atoms, half-width 0.05"
    for name, sample, tubes, compute in (
        ("germanium, half-width 0.05", crystal, voxels, compute_exposure),
        ("germanium, half-width 0.1", crystal, wide, compute_exposure),
        (f"{many}, by images as runs take it", large, cell, compute_image_exposure),
        (f"{many}, full tensor", large, cell, compute_exposure),
    ):
        turned = crystal_to_lab(
            Orientation(u=(1, 1, 0), v=(0, 0, 1)), sample.conventional_reciprocal, PSI_DEG
        )
        common = {
            "crystal": sample,
            "voxels": tubes,
            "instrument": instrument,
            "energy": energy,
            "ei_meV": EI,
            "crystal_to_lab": rotation if sample is crystal else turned,
        }
        U = np.tile(0.004 * np.eye(3), (sample.n_atoms, 1, 1))

        def work(compute=compute, common=common, U=U):
            return compute(displacement=U, **common)

        found = work()
        sys.stdout.write(
            f"\nexposure of one orientation, {name}: {min_of(work, 3):.2f} s "
            f"({tubes.n_voxels:,} voxels, {tubes.tube_fraction:.0%} of the cell, "
            f"{found.nbytes / 1e6:.0f} MB)"
        )
        assert np.all(found.weight >= 0)
    sys.stdout.write("\n")


def corundum():
    """A rhombohedral oxide of ten atoms."""
    lengths = 4.76, 12.99
    a = lengths[0] * np.array([[1, 0, 0], [-0.5, np.sqrt(0.75), 0], [0, 0, lengths[1] / 4.76]])
    primitive = np.array([[2, 1, 1], [-1, 1, 1], [-1, -2, 1]]) / 3 @ a
    z, x = 0.3522, 0.3063
    oxygen = [
        (x, 0, 0.25),
        (0, x, 0.25),
        (-x, -x, 0.25),
        (-x, 0, 0.75),
        (0, -x, 0.75),
        (x, x, 0.75),
    ]
    places = (
        np.array([*[(0, 0, z), (0, 0, 0.5 - z), (0, 0, -z), (0, 0, 0.5 + z)], *oxygen])
        @ a
        @ np.linalg.inv(primitive)
    )
    return Crystal(
        lattice=primitive,
        positions=places % 1.0,
        symbols=("Al",) * 4 + ("O",) * 6,
        masses_u=np.array([26.98] * 4 + [16.0] * 6),
        scattering_length=np.array([0.345] * 4 + [0.58] * 6),
        incoherent_barn=np.zeros(10),
        conventional_lattice=a,
    )


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def timed(work, repeats):
    return statistics.median(seconds(work) for _ in range(repeats))


def min_of(work, repeats):
    return min(seconds(work) for _ in range(repeats))
