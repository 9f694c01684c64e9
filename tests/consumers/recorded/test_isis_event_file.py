"""ISIS event files: the bits of the SNS route, frames judged, one energy of several chosen."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from consumers.fold import ChunkStart, ChunkStop, EventBlock, Payload, SetAside
from consumers.recorded import UnreadableError, inspect_file, kind_of_file, recorded_source
from consumers.recorded.incident_energies import (
    clean_range_meV,
    elastic_energies,
    energies_of_chopper,
)
from consumers.recorded.isis_event_file import iterate_isis_events, read_isis_run
from consumers.recorded.isis_event_layout import Chopper
from consumers.recorded.stream import timed_stream_of_files
from simulations.instrument import flight_time_us
from tests.consumers.hostile_files import EI_MEV, PSI_DEG, T0_US, good_events
from tests.consumers.isis_files import (
    FRAMES,
    HOSTILE_ISIS,
    toy,
    two_energies,
    virtual_events,
    write_isis,
)
from tests.told import told_in_time


def payloads(*files: Path, **how: object) -> list[Payload]:
    source = recorded_source(files, run="r", **how)  # pyright: ignore[reportArgumentType]
    return [message.payload for message in source.messages()]


def events_of(got: list[Payload]) -> tuple[np.ndarray, np.ndarray]:
    """(pixel, energy transfer) of all blocks, in one order."""
    blocks = [p for p in got if isinstance(p, EventBlock)]
    pixel = np.concatenate([b.pixel for b in blocks])
    energy = np.concatenate([b.energy_transfer_meV for b in blocks])
    order = np.lexsort((energy, pixel))
    return pixel[order], energy[order]


def stop_of(got: list[Payload]) -> ChunkStop:
    stop = got[-1]
    assert isinstance(stop, ChunkStop), got
    return stop


def test_the_same_events_come_out_with_the_bits_of_the_sns_route(tmp_path):
    good_events(tmp_path / "a.nxs.h5")
    pixel, _, tof = virtual_events(n=3000)
    rng = np.random.default_rng(3)  # as good_events draws them
    ins = toy()
    pixel = rng.integers(0, ins.n_pixels, 3000)
    energy = rng.uniform(-15.0, 20.0, 3000)
    tof = (
        T0_US
        + flight_time_us(ins.source_to_sample_m, EI_MEV)
        + flight_time_us(ins.distance_m[pixel], EI_MEV - energy)
    )
    write_isis(tmp_path / "a.nxs", pixel, tof, ei_log=EI_MEV)
    assert kind_of_file(tmp_path / "a.nxs") == "isis-events"
    isis = payloads(tmp_path / "a.nxs", t0_us=T0_US, blocks=700)
    sns = payloads(tmp_path / "a.nxs.h5", t0_us=T0_US)
    for one, other in zip(events_of(isis), events_of(sns), strict=True):
        np.testing.assert_array_equal(one, other)
    start, first = isis[0], sns[0]
    assert isinstance(start, ChunkStart)
    assert isinstance(first, ChunkStart)
    for name in ("chunk", "ei_meV", "psi_deg", "temperature_K", "instrument_name"):
        assert getattr(start, name) == getattr(first, name)
    assert stop_of(isis).read == stop_of(sns).read == 3000
    assert stop_of(isis).proton_charge == pytest.approx(stop_of(sns).proton_charge)
    assert stop_of(isis).minutes == pytest.approx(0.5)


def test_the_tables_place_detectors_as_an_embedded_definition_does(tmp_path):
    pixel, _, tof = virtual_events()
    for name, tables in (("xml", False), ("tables", True)):
        write_isis(tmp_path / f"{name}.nxs", pixel, tof, tables=tables, ei_log=EI_MEV)
    xml, tables = (read_isis_run(tmp_path / f"{n}.nxs", t0_us=T0_US) for n in ("xml", "tables"))
    ids = xml.instrument.detector_id.tolist()
    by_id = dict(zip(ids, xml.instrument.position_m, strict=True))
    expected = [by_id[int(i)] for i in tables.instrument.detector_id]
    np.testing.assert_allclose(tables.instrument.position_m, expected, atol=1e-9)
    assert any("sizes of the detectors" in told for told in tables.problems)
    assert 900_001 not in tables.instrument.detector_id  # the monitor
    kept = [sum(len(p.pixel) for p in iterate_isis_events(run)) for run in (xml, tables)]
    assert kept == [3000, 3000]


def test_detectors_of_one_spectrum_become_one_pixel(tmp_path):
    pixel, _, tof = virtual_events()
    write_isis(tmp_path / "a.nxs", pixel, tof, spectra_of=4, ei_log=EI_MEV)
    run = read_isis_run(tmp_path / "a.nxs", t0_us=T0_US)
    ins = toy()
    assert run.instrument.n_pixels == ins.n_pixels // 4
    assert run.instrument.solid_angle_sr.sum() == pytest.approx(ins.solid_angle_sr.sum(), rel=1e-3)
    counts = np.zeros(run.instrument.n_pixels)
    for part in iterate_isis_events(run):
        np.add.at(counts, part.pixel, 1)
    by_id = dict(zip(run.instrument.detector_id.tolist(), counts.tolist(), strict=True))
    groups = np.bincount((ins.n_pixels - 1 - pixel) // 4)[::-1]
    found = [by_id[int(ids[0])] for ids in ins.detector_id.reshape(-1, 4)]
    np.testing.assert_array_equal(found, groups)


def test_vetoed_frames_and_other_periods_do_not_count(tmp_path):
    pixel, _, tof = virtual_events()
    good = (np.arange(FRAMES) % 5 != 2).astype(float)
    period = (np.arange(FRAMES) >= 1000).astype(np.int32) + 1
    frame = write_isis(tmp_path / "a.nxs", pixel, tof, good=good, period=period, ei_log=EI_MEV)
    (aside,) = payloads(tmp_path / "a.nxs", t0_us=T0_US)
    assert isinstance(aside, SetAside)
    assert "periods 1, 2; expected one. Choose one (source.period)" in aside.reason
    stops = [stop_of(payloads(tmp_path / "a.nxs", t0_us=T0_US, period=p)) for p in (1, 2)]
    vetoed = good[frame] == 0
    for number, stop in zip((1, 2), stops, strict=True):
        mine = ~vetoed & (period[frame] == number)
        assert (stop.read, stop.read - stop.filtered) == (3000, mine.sum())
    assert sum(stop.proton_charge for stop in stops) == pytest.approx(0.05)
    assert stops[0].proton_charge == pytest.approx(0.05 * good[:1000].sum() / good.sum())
    run = read_isis_run(tmp_path / "a.nxs", t0_us=T0_US, period=1)
    filtered: dict[str, int] = {}
    for part in iterate_isis_events(run):
        for reason, n in part.filtered.items():
            filtered[reason] = filtered.get(reason, 0) + n
    other = ~vetoed & (period[frame] == 2)
    assert filtered == {"vetoed frame": vetoed.sum(), "another period": other.sum()}
    (aside,) = payloads(tmp_path / "a.nxs", t0_us=T0_US, period=7)
    assert isinstance(aside, SetAside)
    assert "period 7 has no good frame" in aside.reason


def test_a_frame_log_of_another_length_is_matched_by_time(tmp_path):
    """The log begins 30 frames late: events before it belong to no judged frame."""
    pixel, _, tof = virtual_events()
    frame = write_isis(tmp_path / "a.nxs", pixel, tof, ei_log=EI_MEV)
    with h5py.File(tmp_path / "a.nxs", "r+") as file:
        for name in ("good_frame_log", "period_log", "proton_charge"):
            log = file[f"raw_data_1/framelog/{name}"]
            for part in ("value", "time"):
                values = log[part][30:]
                del log[part]
                log.create_dataset(part, data=values)
    stop = stop_of(payloads(tmp_path / "a.nxs", t0_us=T0_US))
    assert stop.filtered == (frame < 30).sum()


def chopped(high_meV: float = 80.0) -> tuple[Chopper, float]:
    """A chopper 2 m before the sample, and the energy that its next opening lets pass."""
    chopper = Chopper(frequency_Hz=150.0, distance_m=toy().source_to_sample_m - 2.0)
    energies = dict(energies_of_chopper(chopper, high_meV, 50.0))
    assert energies[0] == pytest.approx(high_meV)
    return chopper, energies[1]


def test_openings_of_a_chopper_lie_a_turn_apart():
    chopper, low = chopped()
    energies = [energy for _, energy in energies_of_chopper(chopper, low, 50.0)]
    times = flight_time_us(chopper.distance_m, np.array(energies))
    assert len(times) >= 2
    np.testing.assert_allclose(np.diff(times), 1e6 / 150.0, rtol=1e-9)
    assert times.max() < 20_000


def test_several_energies_are_told_and_one_is_chosen(tmp_path):
    chopper, low = chopped()
    pixel, tof, which = two_energies(80.0, low)
    path = tmp_path / "a.nxs"
    write_isis(path, pixel, tof, chopper_Hz=chopper.frequency_Hz)
    report = inspect_file(path)
    told = [e["ei_meV"] for e in report["incident_energies"] if e["elastic_counts"]]  # pyright: ignore
    np.testing.assert_allclose(told, [80.0, low], rtol=0.03)
    assert report["ei_meV"] is None
    assert any("expected one to be chosen" in problem for problem in report["problems"])  # pyright: ignore
    (aside,) = payloads(path)
    assert isinstance(aside, SetAside)
    assert "instrument.ei_meV" in aside.reason
    (aside,) = payloads(path, nominal_ei_meV=50.0)
    assert isinstance(aside, SetAside)
    assert "elastic lines are seen at" in aside.reason
    for k, chosen in enumerate((80.0, low)):
        write_isis(tmp_path / "alone.nxs", pixel[which == k], tof[which == k], ei_log=chosen)
        got = payloads(path, nominal_ei_meV=chosen, t0_us=T0_US)
        start = got[0]
        assert isinstance(start, ChunkStart)
        assert (start.ei_meV, start.psi_deg) == (chosen, PSI_DEG)
        assert start.clean_meV is not None
        low_end, high_end = start.clean_meV
        assert low_end < -0.3 * chosen
        assert high_end > 0.75 * chosen
        assert stop_of(got).read == len(pixel)
        alone = events_of(payloads(tmp_path / "alone.nxs", t0_us=T0_US))
        both = events_of(got)
        inside = [(e > -0.3 * chosen) & (e < 0.75 * chosen) for _, e in (both, alone)]
        for ours, expected in zip(both, alone, strict=True):  # others lie outside
            np.testing.assert_array_equal(ours[inside[0]], expected[inside[1]])


def test_one_energy_alone_has_one_line_and_needs_no_choice(tmp_path):
    pixel, _, tof = virtual_events(30.0, 4000, 5, elastic=0.5)
    write_isis(tmp_path / "a.nxs", pixel, tof)
    run = read_isis_run(tmp_path / "a.nxs")
    assert run.clean_meV is None
    assert run.ei_meV == pytest.approx(30.0, rel=0.03)


def test_energies_mix_where_neutrons_of_both_arrive():
    ins = toy()
    distance = ins.distance_m[~ins.masked]
    low, high = clean_range_meV(40.0, [], ins, 40.0)
    assert (low, high) == (-np.inf, 40.0)
    _, high = clean_range_meV(40.0, [30.0], ins, 40.0)
    at_sample = [float(flight_time_us(ins.source_to_sample_m, e)) for e in (40.0, 30.0)]
    fastest = at_sample[1] + flight_time_us(distance, 1.15 * 30.0)
    slowest = at_sample[0] + flight_time_us(distance, 40.0 - high)
    assert np.all(slowest <= fastest + 1e-6)
    low, _ = clean_range_meV(30.0, [40.0], ins, 30.0)
    last = at_sample[0] + flight_time_us(distance, 0.1 * 40.0)
    first = at_sample[1] + flight_time_us(distance, 30.0 - low)
    assert np.all(first >= last - 1e-6)


def test_noise_has_no_elastic_line(tmp_path):
    rng = np.random.default_rng(1)
    ins = toy()

    class Flat:
        events = 20_000

        def load(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            ids = ins.detector_id[rng.integers(0, ins.n_pixels, stop - start)]
            return ids, rng.uniform(2_000, 60_000, stop - start)

    assert elastic_energies([Flat()], ins) == []  # pyright: ignore[reportArgumentType]


def test_an_isis_file_does_not_travel(tmp_path):
    pixel, _, tof = virtual_events()
    write_isis(tmp_path / "a.nxs", pixel, tof, ei_log=EI_MEV)
    with pytest.raises(UnreadableError, match="Replay it in process"):
        list(timed_stream_of_files([tmp_path / "a.nxs"], run="r", prefix="x"))


@pytest.mark.parametrize("hostile", HOSTILE_ISIS, ids=lambda h: h.name)
def test_a_broken_file_is_set_aside_with_its_field(hostile, tmp_path):
    path = hostile.make(tmp_path)
    with told_in_time():
        (aside,) = payloads(path, t0_us=T0_US)
    assert isinstance(aside, SetAside)
    assert re.search(hostile.words, aside.reason), aside.reason
    assert inspect_file(path)["problems"]
