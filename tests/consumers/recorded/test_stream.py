from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from streaming_data_types import (
    deserialise_6s4t,
    deserialise_ev44,
    deserialise_f144,
    deserialise_pl72,
)

from consumers.recorded import (
    UnreadableError,
    read_event_run,
    timed_stream_of_files,
    write_sns_events,
)
from consumers.recorded.event_reduction import ERROR_BIT
from consumers.recorded.nxspe_file import read_nxspe
from consumers.recorded.sns_event_file import iterate_events
from consumers.recorded.stream import stream_of_files
from consumers.wire import EARLIEST_NS, Events, LogSample, ReducedHistogram, RunBegins, RunEnds
from consumers.wire.flatbuffers_codec import decode_flatbuffer
from simulations.instrument import instrument_idf
from tests.consumers.disturbed_stream import disturb
from tests.consumers.hostile_files import PSI_DEG, good_events, good_nxspe, odd_events, put


def kind(value: bytes) -> str:
    return value[4:8].decode()


def send(path: Path | list[Path], **options: Any) -> list[tuple[str, bytes, bytes]]:
    paths = path if isinstance(path, list) else [path]
    return list(stream_of_files(paths, run="mno", prefix="hyspec", **options))


def template_of(pl72: Any) -> dict[str, Any]:
    return {node["name"]: node for node in json.loads(pl72.nexus_structure)["children"]}["entry"]


def child(group: dict[str, Any], name: str) -> dict[str, Any]:
    found = [
        node
        for node in group["children"]
        if node.get("name", node.get("config", {}).get("name")) == name
    ]
    assert len(found) == 1, name
    return found[0]


def text(group: dict[str, Any], name: str) -> Any:
    return child(group, name)["config"]["values"]


def write_back(messages: list[tuple[str, bytes, bytes]], path: Path) -> None:
    """Write an event file from one dwell of a stream, as plainly as it goes."""
    pl72 = next(deserialise_pl72(value) for _, _, value in messages if kind(value) == "pl72")
    entry_of = template_of(pl72)
    samples = defaultdict(list)
    banks = defaultdict(list)
    for _, _, value in messages:
        if kind(value) == "f144":
            sample = deserialise_f144(value)
            samples[sample.source_name].append((sample.timestamp_unix_ns, sample.value))
        elif kind(value) == "ev44":
            part = deserialise_ev44(value)
            banks[part.source_name].append(part)
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        for name in ("run_number", "title", "start_time"):
            entry[name] = text(entry_of, name)
        entry["duration"] = text(entry_of, "duration")
        instrument = entry.create_group("instrument")
        instrument["name"] = text(child(entry_of, "instrument"), "name")
        note = child(child(entry_of, "instrument"), "instrument_xml")
        instrument["instrument_xml/data"] = text(note, "data")
        for log in child(entry_of, "DASlogs")["children"]:
            config = log["children"][0]["config"]
            time, value = zip(*samples[config["source"]], strict=True)
            group = entry.create_group(f"DASlogs/{log['name']}")
            group["value"] = np.array(value)
            if "units" in config:
                group["value"].attrs["units"] = config["units"]
            write_times(group, "time", np.array(time))
        for name, parts in banks.items():
            assert [part.message_id for part in parts] == list(range(len(parts)))
            group = entry.create_group(name)
            group.attrs["NX_class"] = "NXevent_data"
            before = np.cumsum([0, *(len(part.pixel_id) for part in parts)])
            group["event_id"] = np.concatenate([p.pixel_id for p in parts]).view(np.uint32)
            tof_ns = np.concatenate([p.time_of_flight for p in parts])
            group["event_time_offset"] = (tof_ns / 1000).astype(np.float32)
            group["event_index"] = np.concatenate(
                [p.reference_time_index + n for p, n in zip(parts, before[:-1], strict=True)]
            )
            times = np.concatenate([p.reference_time for p in parts])
            write_times(group, "event_time_zero", times)


def write_times(group: h5py.Group, name: str, time_ns: np.ndarray) -> None:
    start = int(time_ns[0])
    group[name] = (time_ns - start) * 1e-9
    group[name].attrs["offset_seconds"] = start // 10**9 - 631_152_000
    group[name].attrs["offset_nanoseconds"] = start % 10**9


def assert_same_fold(ours: Path, theirs: Path) -> int:
    a, b = read_event_run(ours), read_event_run(theirs)
    for name in ("run_number", "title", "ei_meV", "psi_deg", "t0_us", "start_time_ns", "minutes"):
        assert getattr(a, name) == getattr(b, name), name
    assert (a.proton_charge, a.temperature_K) == (b.proton_charge, b.temperature_K)
    assert np.array_equal(a.instrument.position_m, b.instrument.position_m)
    for x, y in zip(iterate_events(a), iterate_events(b), strict=True):
        assert np.array_equal(x.pixel, y.pixel)
        assert x.energy_transfer_meV.tobytes() == y.energy_transfer_meV.tobytes()
    return a.total_events


def test_a_file_of_ours_comes_back_from_its_stream_to_the_last_bit(tmp_path: Path) -> None:
    path, back = tmp_path / "a.nxs.h5", tmp_path / "back.nxs.h5"
    good_events(path)
    write_back(send(path), back)
    assert assert_same_fold(back, path) == 3000


def test_times_finer_than_a_nanosecond_in_float32_come_back_too(tmp_path: Path) -> None:
    """Below 16 ms float32 microseconds resolve more than the integers of the wire."""
    path, back = tmp_path / "a.nxs.h5", tmp_path / "back.nxs.h5"
    rng = np.random.default_rng(8)
    write_sns_events(
        path,
        idf_xml=instrument_idf("HYSPEC/32"),
        instrument_name="HYSPEC/32",
        detector_id=np.zeros(5000, np.int64),
        tof_us=rng.uniform(10.0, 40_000.0, 5000),
        ei_meV=20.0,
        psi_deg=0.0,
        proton_charge=1.0,
        minutes=0.1,
        run_number="1",
    )
    write_back(send(path), back)
    with h5py.File(path) as theirs, h5py.File(back) as ours:
        name = "entry/bank1_events/event_time_offset"
        assert ours[name][()].tobytes() == theirs[name][()].tobytes()


@pytest.mark.shared_data
@pytest.mark.parametrize("number", [178921, 178923, 178926])
def test_a_real_file_comes_back_from_its_stream_to_the_last_bit(
    tmp_path: Path, shared_data: Path, number: int
) -> None:
    path, back = shared_data / f"hyspec-mno/HYS_{number}.nxs.h5", tmp_path / "back.nxs.h5"
    write_back(send(path), back)
    assert assert_same_fold(back, path) > 20_000


def test_a_stream_is_a_start_then_logs_and_events_by_time_then_a_stop(tmp_path: Path) -> None:
    good_events(tmp_path / "a.nxs.h5")
    messages = list(timed_stream_of_files([tmp_path / "a.nxs.h5"], run="mno", prefix="hyspec"))
    kinds = [kind(value) for _, _, _, value in messages]
    assert kinds[0] == "pl72"
    assert kinds[-1] == "6s4t"
    assert set(kinds[1:-1]) == {"f144", "ev44"}
    assert all(key == b"mno" for _, _, key, _ in messages)
    times = [time for time, _, _, _ in messages]
    assert times == sorted(times)
    topics = {(kind(value), topic) for _, topic, _, value in messages}
    assert topics == {
        ("pl72", "hyspec_runInfo"),
        ("6s4t", "hyspec_runInfo"),
        ("f144", "hyspec_motion"),
        ("f144", "hyspec_sampleEnv"),
        ("ev44", "hyspec_detector"),
    }


def test_every_message_of_a_dwell_lies_between_its_start_and_its_stop(tmp_path: Path) -> None:
    good_events(tmp_path / "a.nxs.h5")
    messages = send(tmp_path / "a.nxs.h5")
    start, stop = deserialise_pl72(messages[0][2]), deserialise_6s4t(messages[-1][2])
    assert (start.run_name, start.instrument_name) == ("1001", "HYSPEC/32")
    assert (stop.job_id, stop.run_name) == (start.job_id, "1001")
    assert start.start_time == 1_600_000_000_123
    # 30 s later, rounded up
    assert stop.stop_time == 1_600_000_030_124
    low, high = start.start_time * 10**6, stop.stop_time * 10**6
    for _, _, value in messages[1:-1]:
        if kind(value) == "f144":
            assert low <= deserialise_f144(value).timestamp_unix_ns < high
        else:
            times = deserialise_ev44(value).reference_time
            assert low <= times.min() <= times.max() < high


def test_the_same_file_gives_the_same_bytes_and_the_run_names_the_job(tmp_path: Path) -> None:
    good_events(tmp_path / "a.nxs.h5", n=200)
    assert send(tmp_path / "a.nxs.h5") == send(tmp_path / "a.nxs.h5")
    other = stream_of_files([tmp_path / "a.nxs.h5"], run="other", prefix="hyspec")
    ours = deserialise_pl72(send(tmp_path / "a.nxs.h5")[0][2]).job_id
    assert deserialise_pl72(next(other)[2]).job_id != ours


def test_the_template_names_every_log_its_source_topic_and_unit(tmp_path: Path) -> None:
    good_events(tmp_path / "a.nxs.h5", n=50)
    entry = template_of(deserialise_pl72(send(tmp_path / "a.nxs.h5")[0][2]))
    logs = {log["name"]: log["children"] for log in child(entry, "DASlogs")["children"]}
    assert logs["s1"] == [
        {
            "module": "f144",
            "config": {
                "source": "s1",
                "topic": "hyspec_motion",
                "dtype": "double",
                "units": "deg",
            },
        }
    ]
    assert logs["proton_charge"][0]["config"]["units"] == "picoCoulombs"
    assert {"EnergyRequest", "pause", "emission_time", "sampletemp"} <= set(logs)


def test_pulses_per_message_change_the_messages_and_nothing_else(tmp_path: Path) -> None:
    path, back = tmp_path / "a.nxs.h5", tmp_path / "back.nxs.h5"
    good_events(path, n=500)
    counts = []
    for pulses in (1, 7, 100_000):
        messages = send(path, pulses_per_message=pulses)
        counts.append(sum(kind(value) == "ev44" for _, _, value in messages))
        write_back(messages, back)
        assert_same_fold(back, path)
    assert counts == sorted(counts, reverse=True)
    with h5py.File(path) as file:
        assert counts[-1] == sum(name.endswith("_events") for name in file["entry"])


def test_odd_events_travel_too_and_are_lost_for_the_same_reasons(tmp_path: Path) -> None:
    path, back = tmp_path / "odd.nxs.h5", tmp_path / "back.nxs.h5"
    lost = odd_events(path)
    messages = send(path)
    ids = np.concatenate(
        [deserialise_ev44(value).pixel_id for _, _, value in messages if kind(value) == "ev44"]
    )
    assert (ids < 0).sum() == lost["error bit"]
    assert ((ids.view(np.uint32) & ERROR_BIT) != 0).sum() == lost["error bit"]
    write_back(messages, back)
    a, b = list(iterate_events(read_event_run(path))), list(iterate_events(read_event_run(back)))
    assert [x.energy_transfer_meV.tobytes() for x in a] == [
        x.energy_transfer_meV.tobytes() for x in b
    ]
    filtered = dict(b[0].filtered)
    # what is no number cannot be an integer; it comes too early instead
    assert filtered.pop("too early") == lost["too early"] + lost["time not finite"]
    assert filtered == {key: lost[key] for key in ("error bit", "unknown identifier")}


def test_vetoed_pulses_and_pauses_are_vetoed_at_the_other_end(tmp_path: Path) -> None:
    path, back = tmp_path / "a.nxs.h5", tmp_path / "back.nxs.h5"
    good_events(path)
    with h5py.File(path, "r+") as file:
        logs = file["entry/DASlogs"]
        charge = logs["proton_charge/value"][()]
        charge[100:300] = 0.0
        put(logs["proton_charge"], "value", charge)
        put(logs["pause"], "value", np.array([1, 0, 1, 0], np.uint16))
        put(logs["pause"], "time", np.array([-7.0, -3.0, 10.0, 12.5]))
    write_back(send(path), back)
    assert_same_fold(back, path)
    filtered = next(iter(iterate_events(read_event_run(back)))).filtered
    assert set(filtered) == {"pulse without charge", "pause"}
    assert filtered["pause"] > 100


def test_an_orientation_that_moved_is_sent_as_it_moved(tmp_path: Path) -> None:
    path, back = tmp_path / "a.nxs.h5", tmp_path / "back.nxs.h5"
    good_events(path, n=100)
    with h5py.File(path, "r+") as file:
        put(file["entry/DASlogs/s1"], "value", np.array([12.0, 14.0]))
        put(file["entry/DASlogs/s1"], "time", np.array([0.0, 20.0]))
    write_back(send(path), back)
    with pytest.raises(UnreadableError, match=r"moved from 12\.000 to 14\.000"):
        read_event_run(back)


def test_the_operators_psi_stands_in_for_one_that_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "a.nxs.h5"
    good_events(path, n=100)

    def psi(**options: float) -> list[float]:
        samples = [deserialise_f144(v) for _, _, v in send(path, **options) if kind(v) == "f144"]
        return [float(sample.value) for sample in samples if sample.source_name == "s1"]

    assert psi(psi_deg=3.0) == [PSI_DEG]
    with h5py.File(path, "r+") as file:
        put(file["entry/DASlogs/s1"], "value", np.array([np.nan]))
        put(file["entry/DASlogs/s1"], "average_value", np.array([np.nan]))
    assert psi(psi_deg=3.0) == [3.0]
    assert np.isnan(psi()).all()


def test_files_that_overlap_in_time_are_sent_one_after_the_other(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.nxs.h5" for i in range(3)]
    for i, path in enumerate(paths):
        good_events(path, run_number=f"100{i}", n=50)
    messages = send([paths[2], paths[0], paths[1]])
    bounds = []
    for _, _, value in messages:
        if kind(value) == "pl72":
            bounds.append(deserialise_pl72(value).start_time)
        elif kind(value) == "6s4t":
            bounds.append(deserialise_6s4t(value).stop_time)
    assert bounds == sorted(bounds)
    names = [deserialise_pl72(v).run_name for _, _, v in messages if kind(v) == "pl72"]
    assert names == ["1000", "1001", "1002"]
    back = tmp_path / "back.nxs.h5"
    last = next(i for i, m in enumerate(messages) if m[2] == messages[-1][2])
    first = max(i for i, m in enumerate(messages[:last]) if kind(m[2]) == "pl72")
    write_back(messages[first:], back)
    assert read_event_run(back).total_events == 50


def test_a_stream_can_begin_at_another_time(tmp_path: Path) -> None:
    good_events(tmp_path / "a.nxs.h5", n=50)
    start = deserialise_pl72(send(tmp_path / "a.nxs.h5", begin_ns=1_800_000_000_000_999_999)[0][2])
    assert start.start_time == 1_800_000_000_000
    assert text(template_of(start), "start_time").startswith("2027-01-15T08:00:00.000456789")


@pytest.mark.parametrize(
    ("options", "words"),
    [({"run": ""}, "run is empty"), ({"pulses_per_message": 0}, "pulses_per_message is 0")],
)
def test_impossible_options_are_named(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    good_events(tmp_path / "a.nxs.h5", n=5)
    with pytest.raises(ValueError, match=words):
        next(stream_of_files([tmp_path / "a.nxs.h5"], **{"run": "r", "prefix": "p"} | options))


def test_a_damaged_file_sends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.nxs.h5"
    good_events(path, n=100)
    with h5py.File(path, "r+") as file:
        del file["entry/bank2_events/event_index"]
    with pytest.raises(UnreadableError, match="bank2_events has no event_index"):
        next(stream_of_files([path], run="r", prefix="p"))


def test_a_disturbed_stream_loses_nothing_and_is_reproducible() -> None:
    calm = list(range(5000))
    ours = disturb(calm, seed=4)
    assert ours == disturb(calm, seed=4)
    assert ours != disturb(calm, seed=5)
    assert set(ours) == set(calm)
    assert 400 < len(ours) - len(calm) < 600
    first = list(dict.fromkeys(ours))
    assert 300 < sum(a > b for a, b in zip(first, first[1:], strict=False)) < 1000


def test_a_reduced_file_travels_as_one_histogram_with_its_orientation(tmp_path: Path) -> None:
    path = tmp_path / "a.nxspe"
    good_nxspe(path)
    run = read_nxspe(path)
    messages = send(path)
    assert [kind(value) for _, _, value in messages] == [
        "pl72", "f144", "f144", *["f144"] * (run.temperature_K is not None), "da00", "6s4t",
    ]  # fmt: skip
    values = [decode_flatbuffer(value) for _, _, value in messages]
    begins, ends, histogram = values[0], values[-1], values[-2]
    assert isinstance(begins, RunBegins)
    assert isinstance(ends, RunEnds)
    assert isinstance(histogram, ReducedHistogram)
    assert (begins.chunk, begins.instrument_name) == (run.run_number, run.instrument.name)
    logs = {v.source: v.value.tolist() for v in values if isinstance(v, LogSample)}
    assert logs["s1"] == [run.psi_deg]
    assert logs["EnergyRequest"] == [run.ei_meV]
    assert begins.start_time_ns <= histogram.time_ns < ends.stop_time_ns
    assert np.array_equal(histogram.intensity, run.intensity, equal_nan=True)
    assert np.array_equal(histogram.error, run.error, equal_nan=True)
    assert np.array_equal(histogram.energy_edges_meV, run.energy_edges_meV)
    assert messages[-2][0] == "hyspec_reduced"


def test_files_without_a_date_are_sent_one_after_the_other_as_of_2000(tmp_path: Path) -> None:
    paths = [tmp_path / f"{psi}.nxspe" for psi in (0, 5)]
    for path in paths:
        good_nxspe(path, run_number="", psi_deg=float(path.stem))
        with h5py.File(path, "r+") as file:
            put(file["w1/beamsteer"], "start_time_ns", np.array([0]))
    values = [decode_flatbuffer(value) for _, _, value in send(paths)]
    assert [v.chunk for v in values if isinstance(v, RunBegins)] == ["0", "5"]
    bounds = [
        v.start_time_ns if isinstance(v, RunBegins) else v.stop_time_ns
        for v in values
        if isinstance(v, RunBegins | RunEnds)
    ]
    assert bounds[0] == EARLIEST_NS + 86_400 * 10**9
    assert bounds == sorted(bounds)


def test_the_operators_psi_serves_reduced_files_without_one(tmp_path: Path) -> None:
    path = tmp_path / "a.nxspe"
    good_nxspe(path)
    with h5py.File(path, "r+") as file:
        put(file["w1/NXSPE_info"], "psi", np.array([np.nan]))
    with pytest.raises(UnreadableError, match="psi is NaN"):
        send(path)
    values = [decode_flatbuffer(value) for _, _, value in send(path, psi_deg=7.5)]
    assert [v.value.tolist() for v in values if isinstance(v, LogSample) and v.source == "s1"] == [
        [7.5]
    ]


def test_every_message_of_a_recorded_stream_is_understood(tmp_path: Path) -> None:
    odd_events(tmp_path / "odd.nxs.h5")
    events = 0
    for _, _, value in send(tmp_path / "odd.nxs.h5"):
        found = decode_flatbuffer(value)
        if isinstance(found, Events):
            events += len(found.pixel_id)
    with h5py.File(tmp_path / "odd.nxs.h5") as file:
        assert events == sum(
            len(group["event_id"])
            for name, group in file["entry"].items()
            if name.endswith("_events") and name not in ("bank98_events", "bank99_events")
        )
