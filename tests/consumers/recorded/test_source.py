from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from consumers.fold import ChunkStart, ChunkStop, EventBlock, HistogramBlock, Payload, SetAside
from consumers.fold.messages import Source
from consumers.recorded import UnreadableError, inspect_file, kind_of_file, recorded_source
from consumers.recorded.nxspe_file import read_nxspe
from consumers.recorded.spe_file import write_detectors, write_spe
from simulations.instrument import OrientedEvents, elastic_peaks, wave_vector
from tests.consumers.hostile_files import HOSTILE, good_events, good_nxspe, odd_events, put


def payloads(*files: Path, **options: object) -> list[Payload]:
    source: Source = recorded_source(files, run="r", **options)  # pyright: ignore[reportArgumentType]
    messages = list(source.messages())
    assert [m.sequence for m in messages] == list(range(len(messages)))
    assert {m.run for m in messages} <= {"r"}
    for message in messages:
        source.acknowledge(message)
    return [m.payload for m in messages]


def test_an_event_file_becomes_start_blocks_and_stop(tmp_path: Path) -> None:
    good_events(tmp_path / "a.nxs.h5", n=1000)
    start, *blocks, stop = payloads(tmp_path / "a.nxs.h5", blocks=300)
    assert isinstance(start, ChunkStart)
    assert isinstance(stop, ChunkStop)
    assert (start.chunk, start.psi_deg, start.instrument_name) == ("1001", 12.5, "HYSPEC/32")
    assert start.geometry is not None
    events = 0
    for block in blocks:
        assert isinstance(block, EventBlock)
        assert len(block.pixel) == len(block.energy_transfer_meV) <= 300
        assert block.pixel.min() >= 0
        assert block.pixel.max() < start.geometry.n_pixels
        events += len(block.pixel)
    assert len(blocks) >= 4
    assert (stop.read, stop.filtered, events) == (1000, 0, 1000)


def test_every_event_is_accounted_for(tmp_path: Path) -> None:
    lost = odd_events(tmp_path / "a.nxs.h5")
    got = payloads(tmp_path / "a.nxs.h5")
    stop = got[-1]
    assert isinstance(stop, ChunkStop)
    sent = sum(len(p.pixel) for p in got if isinstance(p, EventBlock))
    assert stop.filtered == sum(lost.values())
    assert stop.read == sent + stop.filtered


def test_an_nxspe_becomes_one_histogram(tmp_path: Path) -> None:
    counts = good_nxspe(tmp_path / "a.nxspe")
    start, block, stop = payloads(tmp_path / "a.nxspe")
    assert isinstance(start, ChunkStart)
    assert isinstance(block, HistogramBlock)
    assert isinstance(stop, ChunkStop)
    assert block.counts is not None
    assert np.array_equal(block.counts, counts)
    assert (stop.read, stop.proton_charge, stop.minutes) == (counts.sum(), 0.05, 0.5)


def test_order_follows_the_run_number_whatever_the_order_given(tmp_path: Path) -> None:
    files = []
    for number, name in (("12", "c"), ("3", "a"), ("100", "b")):
        files.append(tmp_path / f"{name}.nxs.h5")
        good_events(files[-1], run_number=number, n=10)
    for given in (files, files[::-1]):
        got = payloads(*given)
        assert [p.chunk for p in got if isinstance(p, ChunkStart)] == ["3", "12", "100"]


def test_nxspe_without_numbers_follow_psi(tmp_path: Path) -> None:
    for name, psi in (("a", 30.0), ("b", -10.0), ("c", 5.0)):
        good_nxspe(tmp_path / f"{name}.nxspe", run_number="", psi_deg=psi)
    got = payloads(*sorted(tmp_path.iterdir()))
    assert [p.psi_deg for p in got if isinstance(p, ChunkStart)] == [-10.0, 5.0, 30.0]
    assert [p.chunk for p in got if isinstance(p, ChunkStart)] == ["b", "c", "a"]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda h: h.name)
def test_a_hostile_file_is_set_aside_and_the_next_one_goes_on(hostile, tmp_path: Path) -> None:  # noqa: ANN001
    good_events(tmp_path / "good.nxs.h5", run_number="5", n=50)
    bad = hostile.make(tmp_path)
    for order in ((bad, tmp_path / "good.nxs.h5"), (tmp_path / "good.nxs.h5", bad)):
        got = payloads(*order)
        aside = [p for p in got if isinstance(p, SetAside)]
        assert len(aside) == 1
        assert aside[0].origin == str(bad)
        assert str(bad) not in aside[0].reason  # the origin says it once
        kinds = [type(p) for p in got if not isinstance(p, SetAside)]
        assert kinds == [ChunkStart, EventBlock, ChunkStop]  # nothing of the bad file came through


def test_a_run_given_twice_counts_once(tmp_path: Path) -> None:
    good_events(tmp_path / "a.nxs.h5", n=20)
    good_events(tmp_path / "b.nxs.h5", n=20)
    got = payloads(tmp_path / "a.nxs.h5", tmp_path / "b.nxs.h5")
    assert [type(p) for p in got] == [ChunkStart, EventBlock, ChunkStop, SetAside]
    assert isinstance(got[-1], SetAside)
    assert "'1001' was read already" in got[-1].reason


def test_one_psi_serves_files_that_have_none_and_a_list_serves_each(tmp_path: Path) -> None:
    by_name = {h.name: h for h in HOSTILE}
    bad = by_name["psi NaN nxspe"].make(tmp_path)
    good_nxspe(tmp_path / "good.nxspe", run_number="7")
    for psi, expected in ((3.0, {12.5, 3.0}), ([4.0, 5.0], {4.0, 5.0})):
        got = payloads(bad, tmp_path / "good.nxspe", psi_deg=psi)
        assert {p.psi_deg for p in got if isinstance(p, ChunkStart)} == expected
    with pytest.raises(ValueError, match="1 values for 2 files"):
        recorded_source([bad, bad], run="r", psi_deg=[1.0])


def test_an_ei_that_disagrees_sets_the_file_aside(tmp_path: Path) -> None:
    good_events(tmp_path / "a.nxs.h5", n=20)
    (aside,) = payloads(tmp_path / "a.nxs.h5", ei_meV=40.0)
    assert isinstance(aside, SetAside)
    assert "Ei in the file is 25 meV" in aside.reason


def test_replaying_twice_gives_the_same_messages(tmp_path: Path) -> None:
    good_events(tmp_path / "a.nxs.h5", n=500)
    source = recorded_source([tmp_path / "a.nxs.h5"], run="r")
    for one, two in zip(source.messages(), source.messages(), strict=True):
        assert one.sequence == two.sequence
        if isinstance(one.payload, EventBlock) and isinstance(two.payload, EventBlock):
            assert np.array_equal(one.payload.pixel, two.payload.pixel)
            assert np.array_equal(one.payload.energy_transfer_meV, two.payload.energy_transfer_meV)


def test_inspection_tells_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    good_events(tmp_path / "a.nxs.h5", n=500)
    good_nxspe(tmp_path / "b.nxspe")
    events, reduced = inspect_file(tmp_path / "a.nxs.h5"), inspect_file(tmp_path / "b.nxspe")
    assert kind_of_file(tmp_path / "b.nxspe") == "nxspe"
    assert (events["kind"], events["events"], events["psi_deg"]) == ("sns-events", 500, 12.5)
    assert (events["instrument"], events["ei_meV"], events["pixels"]) == ("HYSPEC/32", 25.0, 640)
    assert events["angle_logs"] == ["s1"]
    assert events["problems"] == []
    assert (reduced["kind"], reduced["energy_meV"]) == ("nxspe", (-5.0, 20.0))
    for report in (events, reduced):
        assert {"crystal structure", "u and v", "psi offset"} <= set(report["unknown"])  # pyright: ignore[reportArgumentType]
    assert events.keys() == reduced.keys()


def test_an_spe_replays_like_the_nxspe_it_was_made_from(tmp_path: Path) -> None:
    good_nxspe(tmp_path / "a.nxspe")
    run = read_nxspe(tmp_path / "a.nxspe")
    write_spe(
        tmp_path / "b.spe",
        energy_edges_meV=run.energy_edges_meV,
        intensity=run.intensity,
        error=run.error,
    )
    write_detectors(tmp_path / "b.par", run.instrument)
    assert kind_of_file(tmp_path / "b.spe") == "spe"
    start, block, stop = payloads(tmp_path / "b.spe", psi_deg=3.0, nominal_ei_meV=run.ei_meV)
    assert isinstance(start, ChunkStart)
    assert isinstance(block, HistogramBlock)
    assert isinstance(stop, ChunkStop)
    assert (start.chunk, start.psi_deg, start.ei_meV) == ("b", 3.0, 25.0)
    assert start.instrument_name == "unknown"  # a run takes it for the experiment's
    assert start.geometry is not None
    assert np.array_equal(start.geometry.masked, run.instrument.masked)
    np.testing.assert_allclose(block.intensity, run.intensity, rtol=1e-3)
    assert block.counts is None
    (aside,) = payloads(tmp_path / "b.spe", psi_deg=3.0)
    assert isinstance(aside, SetAside)
    assert "Give --ei to init" in aside.reason
    report = inspect_file(tmp_path / "b.spe")
    assert (report["kind"], report["pixels"], report["bins"]) == ("spe", 640, 25)
    assert {"psi", "incident energy"} <= set(report["unknown"])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("keep", [0, 1, 20, 200, 5000])
def test_a_broken_spe_cannot_be_read_whatever_its_name_promises(keep: int, tmp_path: Path) -> None:
    good_nxspe(tmp_path / "a.nxspe")
    run = read_nxspe(tmp_path / "a.nxspe")
    path = tmp_path / "b.spe"
    write_spe(path, energy_edges_meV=run.energy_edges_meV, intensity=run.intensity, error=run.error)
    write_detectors(tmp_path / "b.par", run.instrument)
    path.write_bytes(path.read_bytes()[:keep])
    report = inspect_file(path)
    assert report["kind"] == "unreadable"
    assert len(report["problems"]) == 1  # pyright: ignore[reportArgumentType]
    path.write_text("only words\n")
    with pytest.raises(UnreadableError, match=r"starts with 'only words'; expected two whole num"):
        kind_of_file(path)
    (tmp_path / "a.nxspe").rename(path)  # a name says less than the content
    assert kind_of_file(path) == "nxspe"


@pytest.mark.parametrize("name", ["b.par", "b.PAR", "b.phx"])
def test_a_list_of_detectors_alone_is_refused_as_one(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("words\n")
    (aside,) = payloads(tmp_path / name)
    assert isinstance(aside, SetAside)
    assert "only tells where the detectors of an SPE file are" in aside.reason


def test_a_file_without_incident_energy_is_told_and_takes_one_that_is_given(tmp_path: Path) -> None:
    path = {h.name: h for h in HOSTILE}["Ei NaN nxspe"].make(tmp_path)
    report, given = inspect_file(path), inspect_file(path, ei_meV=25.0)
    assert (report["kind"], report["ei_meV"], report["pixels"]) == ("nxspe", None, 640)
    assert "incident energy" in report["unknown"]  # pyright: ignore[reportOperatorIssue]
    assert any("--ei" in told for told in report["problems"])  # pyright: ignore[reportGeneralTypeIssues]
    assert given["ei_meV"] == 25.0
    assert given["problems"] == ["fixed_energy is missing; Ei of 25 meV is what the operator gave"]


def test_inspection_tells_what_is_masked_and_dropped(tmp_path: Path) -> None:
    lost = odd_events(tmp_path / "a.nxs.h5")
    good_nxspe(tmp_path / "b.nxspe")
    events, reduced = inspect_file(tmp_path / "a.nxs.h5"), inspect_file(tmp_path / "b.nxspe")
    assert events["filtered"] == lost
    low, high = events["energy_meV"]  # pyright: ignore[reportGeneralTypeIssues]
    assert -15.1 < low < -14
    assert 19 < high < 20.1
    masked = read_nxspe(tmp_path / "b.nxspe").instrument.masked
    for report in (events, reduced):
        assert report["masked_pixels"] == masked.sum()
        assert report["solid_angle_sr"] == pytest.approx(0.1141, abs=1e-3)
        assert report["two_theta_deg"] == pytest.approx((3.86, 62.65), abs=0.01)
    assert (reduced["bins"], reduced["masked_bins"]) == (25, 0)


def test_an_isis_event_file_without_its_parts_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "MAR1.nxs"
    with h5py.File(path, "w") as file:
        entry = file.create_group("raw_data_1")
        entry.attrs["NX_class"] = np.bytes_("NXentry")
        entry.create_group("detector_1_events").attrs["NX_class"] = np.bytes_("NXevent_data")
    (aside,) = payloads(path)
    assert isinstance(aside, SetAside)
    assert kind_of_file(path) == "isis-events"
    assert "no log 's1' for psi" in aside.reason


def test_a_recorded_ub_matrix_is_told_and_a_placeholder_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.nxs.h5"
    good_events(path, n=50)
    for text, orientation in (
        ("0,0,0.2,0.2,0,0,0,0.2,0", [[0, 0, 0.2], [0.2, 0, 0], [0, 0.2, 0]]),
        ("1,2,3,4,5,6,7,8,9", None),
        ("none", None),
    ):
        with h5py.File(path, "r+") as file:
            log = file["entry/DASlogs"].require_group("BL14B:CS:UBMatrix")
            put(log, "value", np.array([[text.encode()]]))
        report = inspect_file(path)
        assert report["orientation"] == orientation
        assert bool(report["problems"]) == (orientation is None)


@pytest.mark.shared_data
def test_a_truncated_copy_of_every_hdf5_file_gives_a_clear_error(
    shared_data: Path, tmp_path: Path
) -> None:
    files = [p for p in shared_data.rglob("*") if p.suffix in (".h5", ".nxspe")]
    events, histograms = shared_data / "hyspec-mno", shared_data / "nxspe"
    assert {*events.glob("*.h5"), *histograms.glob("*.nxspe")} <= set(files)
    for path in files:
        size = path.stat().st_size
        copy = tmp_path / path.name
        with path.open("rb") as file:
            for share in (1.0, 0.999, 0.5, 0.01):
                keep = min(size - 1, int(size * share), 2_000_000)
                file.seek(0)
                copy.write_bytes(file.read(keep))
                reason = inspect_file(copy)["problems"][0]  # pyright: ignore[reportIndexIssue]
                assert reason.startswith("HDF5 cannot read it (")
                assert reason.endswith("the file is cut or damaged. Copy it again")
                (aside,) = payloads(copy)
                assert isinstance(aside, SetAside)
        copy.unlink()


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda h: h.name)
def test_inspection_never_fails_and_names_the_problem(hostile, tmp_path: Path) -> None:  # noqa: ANN001
    report = inspect_file(hostile.make(tmp_path))
    assert report["problems"]
    if "psi" in hostile.name and "moved" not in hostile.name:
        assert "psi" in report["unknown"]  # pyright: ignore[reportOperatorIssue]


@pytest.mark.shared_data
def test_the_real_scan_replays_in_order_and_adds_up(shared_data: Path) -> None:
    files = sorted((shared_data / "hyspec-mno").glob("*.nxs.h5"), reverse=True)
    got = payloads(*files)
    starts = [p for p in got if isinstance(p, ChunkStart)]
    stops = [p for p in got if isinstance(p, ChunkStop)]
    assert [round(s.psi_deg) for s in starts] == [19, 23, 29]
    assert [s.chunk for s in starts] == ["178921", "178923", "178926"]
    sent = sum(len(p.pixel) for p in got if isinstance(p, EventBlock))
    assert sum(s.read for s in stops) == 26938 + 25661 + 21054
    assert sum(s.read for s in stops) == sent + sum(s.filtered for s in stops)


@pytest.mark.shared_data
def test_the_elastic_reflection_of_the_real_scan_sits_where_it_must(shared_data: Path) -> None:
    """(1/2 1/2 1/2) of MnO, a = 4.43 angstrom, mounted with u = 001, v = 110, psi = +s1.

    Its |Q| is measured where the crystal is in reflection, between the second and the third
    orientation: off it the spread of Ei lets other wavelengths through, so that the spot is drawn
    towards where Q points at that psi. That direction must turn right-handed.
    """
    expected = np.sqrt(3) / 2 * 2 * np.pi / 4.43
    k = float(wave_vector(25.0))
    in_reflection = np.degrees(np.arccos(expected / (2 * k)))  # azimuth of Q
    tilt = np.degrees(np.arccos(1 / np.sqrt(3)))  # 111 from 001
    found = []
    for path in sorted((shared_data / "hyspec-mno").glob("*.nxs.h5")):
        start, *blocks, _ = payloads(path)
        assert isinstance(start, ChunkStart)
        assert start.geometry is not None
        parts = [b for b in blocks if isinstance(b, EventBlock)]
        events = OrientedEvents(
            angle_deg=start.psi_deg,
            instrument=start.geometry,
            ei_meV=start.ei_meV,
            pixel=np.concatenate([b.pixel for b in parts]),
            energy_transfer_meV=np.concatenate([b.energy_transfer_meV for b in parts]),
        )
        peaks = elastic_peaks(events)
        spot = min(peaks, key=lambda peak: abs(peak.modulus - expected))
        points_at = start.psi_deg + tilt
        print(  # noqa: T201
            f"\npsi {start.psi_deg:.2f}: |Q| {spot.modulus:.4f} (expected {expected:.4f}), "
            f"E {spot.energy_meV:+.3f} meV, {spot.counts} counts, azimuth {spot.azimuth_deg:.2f} "
            f"drawn from {in_reflection:.2f} towards {points_at:.2f}"
        )
        assert abs(spot.energy_meV) < 0.2
        assert np.sign(spot.azimuth_deg - in_reflection) == np.sign(points_at - in_reflection)
        found.append((points_at, spot.modulus, spot.counts))
    directions, moduli, counts = np.array(found).T
    at_reflection = float(np.interp(in_reflection, directions, moduli))
    mean = float(np.average(moduli, weights=counts))
    print(f"|Q| in reflection {at_reflection:.4f}, mean of all counts {mean:.4f}")  # noqa: T201
    assert at_reflection == pytest.approx(expected, abs=0.03)
    assert mean == pytest.approx(expected, abs=0.03)


@pytest.mark.shared_data
def test_a_mixed_folder_goes_through(shared_data: Path) -> None:
    files = sorted((shared_data / "nxspe").glob("*.nxspe")) + [shared_data / "README.md"]
    got = payloads(*files)
    assert sum(isinstance(p, ChunkStop) for p in got) == 5
    reasons = [p.reason for p in got if isinstance(p, SetAside)]
    assert sum("psi is NaN" in reason for reason in reasons) == 3
    assert sum("no HDF5 file" in reason for reason in reasons) == 1
