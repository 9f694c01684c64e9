from dataclasses import replace

import numpy as np
import pytest

from consumers.recorded import UnreadableError, read_event_run
from consumers.recorded.sns_event_file import iterate_events
from consumers.state import AssembledChunk, read_recording, write_recording
from consumers.state.log_series import LogSeries
from consumers.state.pulses import in_order
from consumers.wire import Events, ReducedHistogram

SECOND = 1_000_000_000
BEGIN = 1_700_000_000 * SECOND


def events(source, sequence, first_s, n=3):
    rng = np.random.default_rng(sequence)
    return Events(
        source=source,
        sequence=sequence,
        reference_time_ns=np.array([BEGIN + first_s * SECOND, BEGIN + first_s * SECOND + 5]),
        reference_index=np.array([0, n - 1]),
        time_of_flight_ns=rng.integers(8_000_000, 16_000_000, n).astype(np.int32),
        pixel_id=rng.integers(0, 1000, n).astype(np.int32),
    )


def chunk(**changes):
    parts = [events("bank2_events", 4, 1), events("bank10_events", 4, 1), events("x y", 0, 3, 5)]
    value = AssembledChunk(
        run="run",
        job="job",
        chunk="178921",
        generation=1,
        instrument_name="ARCS",
        structure={"children": []},
        start_time_ns=BEGIN,
        stop_time_ns=BEGIN + 10 * SECOND,
        explicit_stop=True,
        note="a note",
        descriptors=("d",),
        logs={
            "s1": LogSeries(
                time_ns=np.array([BEGIN - 3 * SECOND]), value=np.array([12.5]), unit="deg"
            ),
            "proton_charge": LogSeries(
                time_ns=np.concatenate([e.reference_time_ns for e in parts[1:]]),
                value=np.array([1e6, 2e6, 3e6, 0.0]),
                unit="picoCoulombs",
            ),
            "EnergyRequest": LogSeries(
                time_ns=np.array([BEGIN]), value=np.array([40.0]), unit="meV"
            ),
            "emission_time": LogSeries(time_ns=np.array([BEGIN]), value=np.array([3.0])),
        },
        events=in_order(parts),
        reduced=(
            ReducedHistogram(
                source="m",
                sequence=3,
                time_ns=BEGIN + 1,
                energy_edges_meV=np.array([0.0, 1.0, 2.0]),
                intensity=np.array([[1.0, np.nan]]),
                error=np.array([[0.1, 0.2]]),
            ),
        ),
    )
    return replace(value, **changes)


def same(one, two):
    assert type(one) is type(two)
    if isinstance(one, np.ndarray):
        return one.dtype.kind == two.dtype.kind and np.array_equal(
            one, two, equal_nan=one.dtype.kind == "f"
        )
    if hasattr(one, "__dataclass_fields__"):
        return all(same(getattr(one, f), getattr(two, f)) for f in one.__dataclass_fields__)
    if isinstance(one, tuple):
        return len(one) == len(two) and all(same(a, b) for a, b in zip(one, two, strict=True))
    if isinstance(one, dict):
        return sorted(one) == sorted(two) and all(same(one[k], two[k]) for k in one)
    return one == two


def test_a_recording_gives_back_every_message_and_log(tmp_path):
    whole = chunk()
    path = tmp_path / "c.nxs.h5"
    write_recording(path, whole)
    assert same(read_recording(path), whole)
    assert [p.name for p in tmp_path.iterdir()] == ["c.nxs.h5"]


def test_the_reader_of_facility_files_reads_it(tmp_path):
    whole = chunk()
    path = tmp_path / "c.nxs.h5"
    write_recording(path, whole)
    run = read_event_run(path)
    assert run.run_number == "178921"
    assert (run.psi_deg, run.ei_meV, run.t0_us) == (12.5, 40.0, 3.0)
    assert run.proton_charge == pytest.approx(6e-6)
    assert run.minutes == pytest.approx(10 / 60)
    assert run.start_time_ns == BEGIN
    assert run.total_events == 11
    parts = list(iterate_events(run))
    # one pulse of the last message carries no charge
    assert sum(part.filtered.get("pulse without charge", 0) for part in parts) == 1


def test_a_dwell_without_events_is_a_file_too(tmp_path):
    path = tmp_path / "c.nxs.h5"
    write_recording(path, chunk(events=(), reduced=()))
    assert read_recording(path).events == ()
    assert read_event_run(path).total_events == 0


def test_the_error_bit_survives(tmp_path):
    doubted = replace(events("bank1_events", 1, 1), pixel_id=np.array([-(2**31) + 7, 3, -1], "i4"))
    path = tmp_path / "c.nxs.h5"
    write_recording(path, chunk(events=(doubted,)))
    assert same(read_recording(path).events, (doubted,))
    filtered = {}
    for part in iterate_events(read_event_run(path)):
        filtered |= part.filtered
    assert filtered["error bit"] == 2


def test_a_cut_or_foreign_file_is_refused(tmp_path):
    path = tmp_path / "c.nxs.h5"
    write_recording(path, chunk())
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableError, match="cut or damaged"):
        read_recording(path)
    path.write_bytes(b"no")
    with pytest.raises(UnreadableError, match="no HDF5"):
        read_recording(path)


def test_a_time_before_the_layout_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a time after 1990"):
        write_recording(tmp_path / "c.nxs.h5", chunk(start_time_ns=5))
