"""Pixel files of Horace: runs taken apart exactly, nothing believed that the file cannot hold."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.fold import ChunkStart, ChunkStop, HistogramBlock, SetAside
from consumers.recorded import UnreadableError, inspect_file, kind_of_file, recorded_source
from consumers.recorded import sqw_file as module
from consumers.recorded.nxspe_file import ReducedRun
from consumers.recorded.sqw_file import SqwPixels, read_sqw, residual_of_sqw, runs_of_sqw
from consumers.recorded.stream import timed_stream_of_files
from tests.consumers.sqw_files import (
    DETECTORS,
    EDGES,
    HOSTILE_SQW,
    PSI_DEG,
    all_pixels,
    cut_pixels,
    detectors,
    write_sqw,
)
from tests.told import told_in_time

LAYOUTS = [(version, order) for version in (2.0, 3.0, 3.1, 3.3, 4.0) for order in "<>"]


def runs_of(pixels: SqwPixels, **how: float) -> list[ReducedRun]:
    runs = list(runs_of_sqw(pixels, **how))
    assert all(isinstance(run, ReducedRun) for run in runs)
    return runs  # pyright: ignore[reportReturnType]


def raw_pixels(pixels: SqwPixels) -> np.ndarray:
    """All pixels of a file, (pixels, 9) float64, by plain numpy."""
    content = pixels.content
    flat = np.fromfile(
        content.path, content.order + "f4", content.pixels * 9, offset=content.first_pixel
    )
    return flat.reshape(-1, 9).astype(np.float64)


def problems_of(path: Path) -> str:
    problems = inspect_file(path)["problems"]
    assert isinstance(problems, list)
    return "\n".join(problems)


def read_known(path: Path) -> SqwPixels:
    """What does not even begin as an SQW file is refused by its kind."""
    assert kind_of_file(path) == "sqw"
    return read_sqw(path)


@pytest.mark.parametrize(("version", "order"), LAYOUTS)
def test_every_layout_and_byte_order_gives_the_same_runs(version, order, tmp_path):
    path = tmp_path / "a.sqw"
    write_sqw(path, version=version, order=order)
    pixels = read_sqw(path)
    assert (kind_of_file(path), pixels.content.order) == ("sqw", order)
    assert pixels.content.version == version
    assert pixels.instrument.name == ("LET" if version == 4 else "unknown")
    written = cut_pixels()
    runs = runs_of(pixels)
    assert [run.run_number for run in runs] == ["map01", "map02", "map03"]
    np.testing.assert_allclose([run.psi_deg for run in runs], PSI_DEG, atol=2e-6)
    for k, run in enumerate(runs):
        mine = written[written[:, 4] == k + 1]
        where = ((mine[:, 5].astype(int) - 7) // 3, mine[:, 6].astype(int) - 1)
        signal, error = np.full((2, DETECTORS, len(EDGES) - 1), np.nan)
        signal[where], error[where] = mine[:, 7], np.sqrt(mine[:, 8].astype(float))
        np.testing.assert_array_equal(run.intensity, signal)
        np.testing.assert_array_equal(run.error, error)
        np.testing.assert_array_equal(run.absent, np.isnan(signal))
        assert (run.recorded, run.left_out) == (len(mine), 0)
        np.testing.assert_allclose(run.energy_edges_meV, EDGES, atol=1e-6)
    assert sum(run.recorded for run in runs) == len(written)


@pytest.mark.parametrize("version", [2.0, 4.0])
def test_coordinates_by_the_formulas_of_horace_agree_with_our_geometry(version, tmp_path):
    """Triclinic, with all misalignments: signs, order and axes of the goniometer are those."""
    write_sqw(tmp_path / "a.sqw", version=version)
    pixels = read_sqw(tmp_path / "a.sqw")
    residual = residual_of_sqw(pixels)
    assert residual is not None
    assert residual.pixels == pixels.content.pixels
    assert residual.hkl_rlu < 2e-6
    assert residual.scale == pytest.approx(1, abs=2e-6)
    ours = pixels.instrument
    np.testing.assert_allclose(ours.distance_m, detectors()[1], rtol=1e-6)


def test_a_wrong_psi_is_seen_in_the_coordinates(tmp_path):
    pixels = all_pixels()
    pixels[:, :3] = np.roll(pixels[:, :3], 40, axis=0)
    write_sqw(tmp_path / "a.sqw", pixels=pixels)
    assert "r.l.u. from where the headers put" in problems_of(tmp_path / "a.sqw")


@pytest.mark.parametrize("version", [3.3, 4.0])
def test_runs_with_numbers_of_their_own_are_found_by_them(version, tmp_path):
    write_sqw(tmp_path / "a.sqw", version=version, numbers=(9001, 17, 403))
    runs = runs_of(read_sqw(tmp_path / "a.sqw"))
    write_sqw(tmp_path / "b.sqw", version=version)
    for one, other in zip(runs, runs_of(read_sqw(tmp_path / "b.sqw")), strict=True):
        np.testing.assert_array_equal(one.intensity, other.intensity)


def test_a_file_larger_than_the_budget_is_taken_apart_in_passes(tmp_path, monkeypatch):
    write_sqw(tmp_path / "a.sqw")
    whole = runs_of(read_sqw(tmp_path / "a.sqw"))
    monkeypatch.setattr(module, "PIXELS_PER_READ", 7)
    monkeypatch.setattr(module, "PIXELS_HELD", 500)
    parts = runs_of(read_sqw(tmp_path / "a.sqw"))
    assert len(whole) == len(parts) == 3
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one.intensity, other.intensity)
        np.testing.assert_array_equal(one.error, other.error)


def test_what_repeats_or_is_unknown_is_told_and_counted(tmp_path):
    pixels = all_pixels()
    twice = np.concatenate([pixels, pixels[:5]])
    twice[100, 7], twice[101, 8], twice[102, 8] = np.nan, -1.0, np.inf
    twice[103, 7:] = 4.0, 0.0  # a signal without error, as of a simulation
    twice[104, 7:] = 0.0, 0.0  # nothing counted
    write_sqw(tmp_path / "a.sqw", pixels=twice)
    first, *_ = runs_of(read_sqw(tmp_path / "a.sqw"))
    assert (first.recorded, first.left_out) == (len(pixels) // 3 + 5, 5)
    assert not first.absent.any()  # pyright: ignore[reportOptionalMemberAccess]
    assert np.isnan(first.intensity.ravel()[100:104]).all()
    assert first.intensity.ravel()[104] == first.error.ravel()[104] == 0
    problems = problems_of(tmp_path / "a.sqw")
    assert "4 pixels are without a finite signal" in problems
    assert "5 pixels repeat" in problems


def test_a_bad_run_is_set_aside_and_the_others_become_chunks(tmp_path):
    hostile = {h.name: h for h in HOSTILE_SQW}["run psi NaN"].make(tmp_path)
    got = [m.payload for m in recorded_source([hostile], run="r").messages()]
    assert [type(p) for p in got] == [SetAside, *[ChunkStart, HistogramBlock, ChunkStop] * 2]
    given = [m.payload for m in recorded_source([hostile], run="r", psi_deg=3.0).messages()]
    assert [p.psi_deg for p in given if isinstance(p, ChunkStart)] == pytest.approx(
        [3.0, *PSI_DEG[1:]], abs=1e-5
    )
    read = sum(p.read for p in given if isinstance(p, ChunkStop))
    assert read == len(cut_pixels())


def test_two_files_of_the_same_runs_count_once(tmp_path):
    for name in ("a.sqw", "b.sqw"):
        write_sqw(tmp_path / name)
    got = [m.payload for m in recorded_source(sorted(tmp_path.iterdir()), run="r").messages()]
    assert sum(isinstance(p, ChunkStop) for p in got) == 3
    assert sum("was read already" in p.reason for p in got if isinstance(p, SetAside)) == 3


def test_runs_of_one_name_or_none_get_their_number(tmp_path):
    write_sqw(tmp_path / "a.sqw", names=("x.spe", "x.spe", ""))
    assert [r.run_number for r in runs_of(read_sqw(tmp_path / "a.sqw"))] == ["x-1", "x-2", "a-3"]


def test_an_sqw_file_does_not_travel(tmp_path):
    write_sqw(tmp_path / "a.sqw")
    with pytest.raises(UnreadableError, match="Replay it in process"):
        list(timed_stream_of_files([tmp_path / "a.sqw"], run="r", prefix="x"))


@pytest.mark.parametrize("hostile", HOSTILE_SQW, ids=lambda h: h.name)
def test_a_broken_file_is_refused_with_its_field(hostile, tmp_path):
    path = hostile.make(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if not hostile.whole:
        with told_in_time():
            faults = [f for f in runs_of_sqw(read_sqw(path)) if isinstance(f, UnreadableError)]
        assert len(faults) == 1
        told = str(faults[0])
    else:
        with told_in_time(), pytest.raises(UnreadableError) as caught:
            read_known(path)
        told = str(caught.value)
    assert re.search(hostile.words, told), told
    assert told.startswith(str(path))
    report = inspect_file(path)
    assert report["problems"]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000  # KiB; no length in a header takes memory


@given(data=st.data())
def test_bytes_turned_over_never_end_in_anything_but_a_refusal(data, tmp_path_factory):
    version = data.draw(st.sampled_from([2.0, 4.0]))
    path = tmp_path_factory.mktemp("sqw") / "a.sqw"
    write_sqw(path, version=version, pixels=all_pixels()[:40])
    spoilt = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(spoilt))
    payloads = [m.payload for m in recorded_source([path], run="r").messages()]
    assert payloads
    for stop in payloads:
        if isinstance(stop, ChunkStop):
            assert 0 <= stop.filtered <= stop.read <= 40
    inspect_file(path)


REAL = {"rbmnf3_maps_ei35.sqw": (24, 24_689, 34.96), "fe_maps_ei787.sqw": (68, 70_674, 787.0)}


@pytest.mark.shared_data
@pytest.mark.parametrize("name", REAL)
def test_runs_of_a_real_file_hold_every_pixel_and_nothing_else(name, shared_data):
    """Sums over bins of the projected coordinates, by our runs and by plain numpy: equal bits."""
    n_runs, n_pixels, ei = REAL[name]
    pixels = read_sqw(shared_data / "sqw" / name)
    raw = raw_pixels(pixels)
    assert len(raw) == n_pixels
    taken = np.full((n_pixels, 2), -1.0)
    runs = 0
    for run in runs_of_sqw(pixels):
        assert isinstance(run, ReducedRun)
        assert run.ei_meV == pytest.approx(ei, abs=1e-4)
        assert run.left_out == 0
        assert run.absent is not None
        number = next(
            k + 1 for k, r in enumerate(pixels.content.runs) if r.name.startswith(run.run_number)
        )
        mine = raw[:, 4] == number
        assert mine.sum() == run.recorded == (~run.absent).sum()
        detector = run.instrument.pixel_of_id(raw[mine, 5].astype(int))
        taken[mine, 0] = run.intensity[detector, raw[mine, 6].astype(int) - 1]
        taken[mine, 1] = run.error[detector, raw[mine, 6].astype(int) - 1] ** 2
        runs += 1
    assert runs == n_runs
    edges = [np.linspace(raw[:, k].min() - 1e-3, raw[:, k].max() + 1e-3, 7) for k in range(4)]
    for column, values in ((7, taken[:, 0]), (8, taken[:, 1])):
        known = np.isfinite(raw[:, 7]) & ((raw[:, 8] > 0) | (raw[:, 7] == 0))
        ours, _ = np.histogramdd(raw[known, :4], edges, weights=values[known])
        plain, _ = np.histogramdd(raw[known, :4], edges, weights=raw[known, column])
        if column == 7:
            np.testing.assert_array_equal(ours, plain)
        np.testing.assert_allclose(ours, plain, rtol=1e-12)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", REAL)
def test_hkl_of_a_real_file_are_those_of_psi_detector_and_energy(name, shared_data, capsys):
    """To the precision of float32, but for E = 2.07 k^2, which old versions took."""
    residual = residual_of_sqw(read_sqw(shared_data / "sqw" / name))
    assert residual is not None
    with capsys.disabled():
        print(f"\n{name}: {residual}")  # noqa: T201
    assert residual.pixels == REAL[name][1]
    assert residual.hkl_rlu < 4e-7
    assert residual.transfer_meV < 1e-6
    assert residual.scale == pytest.approx(np.sqrt(2.072124854 / 2.07), abs=3e-7)
