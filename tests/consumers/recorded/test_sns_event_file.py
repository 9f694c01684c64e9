from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from consumers.recorded import (
    UnreadableError,
    estimate_t0_of_run,
    format_time_ns,
    read_event_run,
    write_sns_events,
)
from consumers.recorded.elastic_line import default_t0_us
from consumers.recorded.event_reduction import EventSlice
from consumers.recorded.sns_event_file import check_events, iterate_events
from consumers.recorded.sns_event_layout import parse_time_ns
from simulations.instrument import instrument_idf, load_instrument
from tests.consumers.hostile_files import (
    EI_MEV,
    HOSTILE,
    PSI_DEG,
    T0_US,
    Hostile,
    good_events,
    odd_events,
    put,
    toy_instrument,
)


def everything(slices: list[EventSlice]) -> tuple[np.ndarray, np.ndarray, int, dict[str, int]]:
    filtered: dict[str, int] = {}
    for part in slices:
        for reason, n in part.filtered.items():
            filtered[reason] = filtered.get(reason, 0) + n
    return (
        np.concatenate([part.pixel for part in slices]),
        np.concatenate([part.energy_transfer_meV for part in slices]),
        sum(part.read for part in slices),
        filtered,
    )


def test_what_we_write_we_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.nxs.h5"
    pixel, energy = good_events(path)
    run = read_event_run(path)
    assert (run.run_number, run.title, run.ei_meV, run.psi_deg) == ("1001", "toy", EI_MEV, PSI_DEG)
    assert (run.t0_us, run.temperature_K, run.problems) == (T0_US, 5.0, ())
    assert run.start_time_ns == 1_600_000_000_123_456_789
    assert run.proton_charge == pytest.approx(0.05)
    assert run.minutes == pytest.approx(0.5)
    got_pixel, got_energy, read, filtered = everything(list(iterate_events(run)))
    assert read == len(pixel) == run.total_events
    assert filtered == {}
    ours, theirs = np.lexsort((energy, pixel)), np.lexsort((got_energy, got_pixel))
    assert np.array_equal(pixel[ours], got_pixel[theirs])
    # float32 times: far below an energy sub-step of the fold (0.03 meV)
    assert np.abs(energy[ours] - got_energy[theirs]).max() < 1e-3


def test_the_pixels_of_a_file_are_those_of_the_named_instrument(tmp_path: Path) -> None:
    path = tmp_path / "a.nxs.h5"
    good_events(path, n=10)
    recorded, named = read_event_run(path).instrument, toy_instrument()
    assert np.array_equal(recorded.detector_id, named.detector_id)
    np.testing.assert_allclose(recorded.position_m, named.position_m, atol=1e-12)


@pytest.mark.parametrize("block", [1, 100, 1_000_000])
def test_slices_keep_to_their_size_and_lose_nothing(tmp_path: Path, block: int) -> None:
    path = tmp_path / "a.nxs.h5"
    good_events(path, n=300)
    slices = list(iterate_events(read_event_run(path), block=block))
    assert all(part.read <= block for part in slices)
    whole = everything(list(iterate_events(read_event_run(path))))
    parts = everything(slices)
    assert np.array_equal(whole[0], parts[0])
    assert np.array_equal(whole[1], parts[1])


def test_odd_events_are_dropped_with_a_reason_and_all_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "odd.nxs.h5"
    expected = odd_events(path)
    pixel, _, read, filtered = everything(list(iterate_events(read_event_run(path))))
    assert filtered == expected
    assert read == 3000 + 2 == len(pixel) + sum(filtered.values())


def test_vetoed_and_paused_pulses_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "a.nxs.h5"
    good_events(path)
    with h5py.File(path, "r+") as file:
        logs = file["entry/DASlogs"]
        charge = logs["proton_charge/value"][()]
        pulses = len(charge)
        charge[: pulses // 4] = 0.0
        put(logs["proton_charge"], "value", charge)
        half = float(logs["proton_charge/time"][pulses // 2])
        put(logs["pause"], "value", np.array([0.0, 1.0]))
        put(logs["pause"], "time", np.array([0.0, half]))
    run = read_event_run(path)
    assert run.proton_charge == pytest.approx(0.05 / 4, rel=1e-3)
    assert run.minutes == pytest.approx(0.25, rel=1e-3)
    pixel, _, read, filtered = everything(list(iterate_events(run)))
    assert read == 3000 == len(pixel) + sum(filtered.values())
    assert filtered["pulse without charge"] == pytest.approx(750, abs=5)
    assert filtered["pause"] == pytest.approx(1500, abs=5)


def test_an_index_that_stops_at_the_end_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "a.nxs.h5"
    good_events(path)
    with h5py.File(path, "r+") as file:
        index = file["entry/bank1_events/event_index"][()]
        index[-20:] = 0
        put(file["entry/bank1_events"], "event_index", index)
    *_, read, filtered = everything(list(iterate_events(read_event_run(path))))
    assert (read, filtered) == (3000, {})


def test_events_before_the_first_pulse_belong_to_none(tmp_path: Path) -> None:
    path = tmp_path / "a.nxs.h5"
    good_events(path)
    with h5py.File(path, "r+") as file:
        index = np.maximum(file["entry/bank1_events/event_index"][()], 4)
        put(file["entry/bank1_events"], "event_index", index)
    *_, filtered = everything(list(iterate_events(read_event_run(path))))
    assert filtered == {"no pulse": 4}


def test_missing_charge_and_duration_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.nxs.h5"
    good_events(path)
    with h5py.File(path, "r+") as file:
        for name in ("DASlogs/proton_charge", "proton_charge", "duration", "start_time"):
            del file["entry"][name]
        del file["entry/DASlogs/sampletemp"]
    run = read_event_run(path)
    assert (run.proton_charge, run.minutes, run.temperature_K) == (1.0, 0.0, None)
    assert len(run.problems) == 4
    *_, read, filtered = everything(list(iterate_events(run)))
    assert (read, filtered) == (3000, {})


@pytest.mark.parametrize(
    "hostile", [h for h in HOSTILE if h.kind == "events"], ids=lambda h: h.name
)
def test_a_hostile_event_file_is_refused_with_its_reason(hostile: Hostile, tmp_path: Path) -> None:
    path = hostile.make(tmp_path)
    words = hostile.words
    if hostile.name == "foreign HDF5":
        words = "no NXentry with bank events"
    with pytest.raises(UnreadableError, match=words) as caught:  # noqa: PT012
        check_events(read_event_run(path))
    assert str(path) in str(caught.value)


def test_the_operator_fills_in_what_a_file_lacks(tmp_path: Path) -> None:
    by_name = {h.name: h for h in HOSTILE}
    assert read_event_run(by_name["psi NaN"].make(tmp_path), psi_deg=3.0).psi_deg == 3.0
    assert read_event_run(by_name["psi moved"].make(tmp_path), psi_deg=13.0).psi_deg == 13.0
    assert read_event_run(by_name["Ei missing"].make(tmp_path), ei_meV=25.2).ei_meV == 25.2
    good_events(tmp_path / "a.nxs.h5")
    with pytest.raises(UnreadableError, match="Ei in the file is 25 meV, 40 meV was given"):
        read_event_run(tmp_path / "a.nxs.h5", ei_meV=40.0)
    with pytest.raises(UnreadableError, match="logs in degrees: s1"):
        read_event_run(tmp_path / "a.nxs.h5", psi_log="phi")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"psi_deg": np.nan}, "psi_deg is nan"),
        ({"ei_meV": 0.0}, "ei_meV is 0.0"),
        ({"proton_charge": -1.0}, "proton_charge is -1.0"),
        ({"tof_us": np.array([1.0, np.inf])}, "not finite"),
        ({"tof_us": np.array([1.0])}, "expected \\(events,\\)"),
        ({"detector_id": np.array([1, -1])}, "between 0 and"),
    ],
)
def test_impossible_events_are_not_written(tmp_path: Path, changes: dict, words: str) -> None:
    arguments: dict = {
        "idf_xml": "",
        "instrument_name": "HYSPEC",
        "detector_id": np.array([1, 2]),
        "tof_us": np.array([1.0, 2.0]),
        "ei_meV": 25.0,
        "psi_deg": 0.0,
        "proton_charge": 1.0,
        "minutes": 1.0,
        "run_number": "1",
    }
    with pytest.raises(ValueError, match=words):
        write_sns_events(tmp_path / "a.nxs.h5", **(arguments | changes))
    assert not (tmp_path / "a.nxs.h5").exists()


def test_a_file_without_events_is_a_run_without_events(tmp_path: Path) -> None:
    path = tmp_path / "a.nxs.h5"
    write_sns_events(
        path,
        idf_xml=instrument_idf("HYSPEC/32"),
        instrument_name="HYSPEC/32",
        detector_id=np.array([3]),
        tof_us=np.array([20_000.0]),
        ei_meV=25.0,
        psi_deg=0.0,
        proton_charge=1.0,
        minutes=0.1,
        run_number="1",
        t0_us=None,
    )
    with h5py.File(path, "r+") as file:
        put(file["entry/bank1_events"], "total_counts", np.zeros(1, np.uint64))
    run = read_event_run(path)
    assert (run.total_events, list(iterate_events(run))) == (0, [])
    assert (run.t0_us, run.t0_source) == (default_t0_us("HYSPEC/32", 25.0), "usual formula")


def test_the_elastic_line_gives_t0_and_bragg_peaks_have_no_vote(tmp_path: Path) -> None:
    ins = load_instrument("HYSPEC/32")
    rng = np.random.default_rng(11)
    pixel = np.r_[rng.integers(0, ins.n_pixels, 4000), np.full(6000, 333)]
    path_m = ins.source_to_sample_m + ins.distance_m[pixel]
    tof = path_m / (437.39337 * 5.0) * 1e6 + 71.0 + rng.normal(0, 25, 10_000)
    tof[4000:] += 90.0
    write_sns_events(
        tmp_path / "a.nxs.h5",
        idf_xml=instrument_idf("HYSPEC/32"),
        instrument_name="HYSPEC/32",
        detector_id=ins.detector_id[pixel],
        tof_us=tof,
        ei_meV=25.0,
        psi_deg=0.0,
        proton_charge=1.0,
        minutes=0.1,
        run_number="1",
        t0_us=None,
    )
    run = read_event_run(tmp_path / "a.nxs.h5")
    t0, error, used = estimate_t0_of_run(run)
    assert t0 == pytest.approx(71.0, abs=4 * error)
    assert error < 1.0
    assert used < 4100
    assert run.t0_us == t0
    assert run.t0_source.startswith("elastic line")


def test_times_keep_their_nanoseconds() -> None:
    assert parse_time_ns("2017-11-01T21:47:58.543570666-04:00") == 1_509_587_278_543_570_666
    assert parse_time_ns("2017-11-02 01:47:58Z") == 1_509_587_278_000_000_000
    assert parse_time_ns("yesterday") is None
    assert parse_time_ns("2017-13-45T00:00:00") is None
    assert parse_time_ns(format_time_ns(1_600_000_000_000_000_001)) == 1_600_000_000_000_000_001


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("number", "psi", "events"),
    [(178921, 19.0, 26938), (178923, 23.0, 25661), (178926, 29.0, 21054)],
)
def test_a_real_run_is_read_whole(shared_data: Path, number: int, psi: float, events: int) -> None:
    run = read_event_run(shared_data / "hyspec-mno" / f"HYS_{number}.nxs.h5")
    assert run.run_number == str(number)
    assert run.instrument.name == "HYSPEC"
    assert run.instrument.n_pixels == 20_480
    assert run.instrument.source_to_sample_m == pytest.approx(40.764, abs=1e-3)
    assert (run.ei_meV, run.problems) == (25.0, ())
    assert run.psi_deg == pytest.approx(psi, abs=0.02)
    assert run.temperature_K == pytest.approx(4.1, abs=0.1)
    assert run.minutes == pytest.approx(3.87, abs=0.01)
    assert run.proton_charge == pytest.approx(0.2003, abs=2e-4)
    with h5py.File(run.path) as file:
        assert run.proton_charge == pytest.approx(file["entry/proton_charge"][0] * 1e-12, rel=1e-6)
    pixel, energy, read, filtered = everything(list(iterate_events(run)))
    assert read == events == run.total_events
    assert read == len(pixel) + sum(filtered.values())
    assert set(filtered) == {"pulse without charge", "too early"}
    incoherent = (np.abs(energy) < 2) & (np.bincount(pixel, minlength=20_480)[pixel] <= 3)
    assert abs(np.median(energy[incoherent])) < 0.2  # the elastic line lies at zero


@pytest.mark.shared_data
def test_a_real_run_cut_anywhere_is_refused(shared_data: Path, tmp_path: Path) -> None:
    whole = (shared_data / "hyspec-mno" / "HYS_178921.nxs.h5").read_bytes()
    path = tmp_path / "cut.nxs.h5"
    for share in (0.001, 0.05, 0.3, 0.6, 0.95, 0.99999):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UnreadableError, match="cut or damaged"):
            check_events(read_event_run(path))
