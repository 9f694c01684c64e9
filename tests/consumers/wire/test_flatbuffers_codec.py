from __future__ import annotations

import json
import sys
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming_data_types import (
    deserialise_6s4t,
    deserialise_da00,
    deserialise_ev44,
    deserialise_f144,
    deserialise_pl72,
    deserialise_x5f2,
    serialise_f144,
)

from consumers.wire import (
    EARLIEST_NS,
    DataVariable,
    Events,
    Heartbeat,
    LogSample,
    ReducedHistogram,
    RunBegins,
    RunEnds,
    WireError,
    encode_data_array,
    encode_events,
    encode_heartbeat,
    encode_log,
    encode_reduced,
    encode_run_begins,
    encode_run_ends,
)
from consumers.wire.flatbuffers_codec import (
    LATEST_NS,
    decode_data_array,
    decode_flatbuffer,
    json_object,
    plausible_ns,
)
from tests.consumers.hostile_messages import NOW_MS, NOW_NS, PULSES, da00, ev44, pl72, x5f2
from tests.consumers.wire_values import any_events, any_logs, any_reduced, assert_same


@settings(max_examples=40)
@given(any_events())
def test_events_come_back_as_they_were_and_as_the_library_reads_them(sent):
    data = encode_events(sent)
    got = decode_flatbuffer(data)
    assert isinstance(got, Events)
    assert_same(got, sent)
    theirs = deserialise_ev44(data)
    assert (theirs.source_name, theirs.message_id) == (got.source, got.sequence)
    np.testing.assert_array_equal(theirs.time_of_flight, got.time_of_flight_ns)
    np.testing.assert_array_equal(theirs.pixel_id, got.pixel_id)


def large_ev44() -> bytes:
    """Message of 5 MB with 600,000 neutrons in 60 pulses."""
    chance = np.random.default_rng(1)
    n = 600_000
    return ev44(
        reference_time=NOW_NS + np.arange(60) * 16_666_667,
        reference_time_index=np.arange(60) * 10_000,
        time_of_flight=chance.integers(0, 16_000_000, n),
        pixel_id=chance.integers(0, 117_760, n),
    )


def test_neutrons_are_views_into_the_message_and_cost_no_memory():
    data = large_ev44()
    decode_flatbuffer(data)
    tracemalloc.start()
    got = decode_flatbuffer(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(got, Events)
    whole = np.frombuffer(data, np.uint8)
    assert np.shares_memory(got.pixel_id, whole)
    assert np.shares_memory(got.time_of_flight_ns, whole)
    assert not got.pixel_id.flags.writeable
    assert peak < 32_000  # bytes; the message has 4,800,000


@pytest.mark.slow
def test_speed_of_a_large_message_is_told():
    data = large_ev44()
    repeats = 2000
    for name, read in (("ours", decode_flatbuffer), ("streaming_data_types", deserialise_ev44)):
        began = time.perf_counter()
        for _ in range(repeats):
            read(data)
        each = (time.perf_counter() - began) / repeats
        sys.stdout.write(
            f"\nev44 of {len(data) / 1e6:.1f} MB, {name}: {each * 1e6:.0f} us, "
            f"{6e5 / each:.2e} events/s\n"
        )


def test_arrays_are_aligned_wherever_the_message_lies():
    data = ev44()
    for shift in range(8):
        room = memoryview(bytes(shift) + data)[shift:]
        got = decode_flatbuffer(room)  # pyright: ignore[reportArgumentType]
        assert isinstance(got, Events)
        assert got.pixel_id.flags.aligned
        assert got.reference_time_ns.flags.aligned
        np.testing.assert_array_equal(got.reference_time_ns, PULSES)


@pytest.mark.parametrize("name", "i1 u1 i2 u2 i4 u4 i8 u8 f4 f8".split())
@pytest.mark.parametrize("content", [0, 3, [0], [1, 2, 0]])
def test_logs_of_every_number_type_are_read_as_the_library_reads_them(name, content):
    data = serialise_f144("s1", np.array(content, name), NOW_NS)
    got = decode_flatbuffer(data)
    theirs = deserialise_f144(data)
    assert isinstance(got, LogSample)
    assert (got.source, got.time_ns) == (theirs.source_name, theirs.timestamp_unix_ns)
    assert got.value.dtype == np.float64
    np.testing.assert_array_equal(got.value, np.atleast_1d(theirs.value))


@given(any_logs())
def test_logs_come_back_to_the_last_bit(sent):
    assert_same(decode_flatbuffer(encode_log(sent)), sent)


def begins(**changes: object) -> RunBegins:
    fields: dict[str, object] = {
        "job": "job-17",
        "chunk": "dwell 17",
        "source": "filewriter",
        "start_time_ns": NOW_NS,
        "instrument_name": "HYSPEC",
        "structure": {"children": [{"name": "entry"}]},
        "metadata": {"title": "germanium"},
    }
    return RunBegins(**{**fields, **changes})  # pyright: ignore[reportArgumentType]


def test_a_run_keeps_all_but_fractions_of_ms_and_those_widen_it():
    data = encode_run_begins(begins(stop_time_ns=NOW_NS + 1), filename="17.nxs")
    got = decode_flatbuffer(data)
    assert isinstance(got, RunBegins)
    assert (got.job, got.chunk, got.source) == ("job-17", "dwell 17", "filewriter")
    assert got.instrument_name == "HYSPEC"
    assert got.structure == {"children": [{"name": "entry"}]}
    assert got.metadata == {"title": "germanium"}
    assert got.start_time_ns == NOW_MS * 10**6
    assert got.stop_time_ns == (NOW_MS + 1) * 10**6
    theirs = deserialise_pl72(data)
    assert (theirs.job_id, theirs.run_name, theirs.filename) == ("job-17", "dwell 17", "17.nxs")
    assert theirs.start_time == NOW_MS
    ended = encode_run_ends(RunEnds(job="job-17", source="x", stop_time_ns=NOW_NS), run_name="17")
    got = decode_flatbuffer(ended)
    assert isinstance(got, RunEnds)
    assert (got.job, got.source, got.failed) == ("job-17", "x", None)
    assert got.stop_time_ns == deserialise_6s4t(ended).stop_time * 10**6 == (NOW_MS + 1) * 10**6


def test_a_run_without_a_stop_or_a_structure_has_none():
    got = decode_flatbuffer(pl72(nexus_structure="", metadata="", stop_time=0))
    assert isinstance(got, RunBegins)
    assert (got.stop_time_ns, got.structure, got.metadata) == (None, {}, {})


def test_a_failed_run_has_no_place_in_6s4t():
    failed = RunEnds(job="job-17", source="x", stop_time_ns=NOW_NS, failed="beam lost")
    with pytest.raises(ValueError, match="6s4t has no place"):
        encode_run_ends(failed)


@settings(max_examples=40)
@given(any_reduced())
def test_reduced_data_come_back_to_the_last_bit(sent):
    data = encode_reduced(sent, unit="barn/meV/sr")
    assert_same(decode_flatbuffer(data), sent)
    theirs = {variable.name: variable for variable in deserialise_da00(data).data}
    np.testing.assert_array_equal(np.ravel(theirs["signal"].data), np.ravel(sent.intensity))
    assert theirs["signal"].axes == ["pixel", "energy_transfer"]
    assert theirs["energy_transfer"].unit == "meV"
    assert theirs["sequence"].data == sent.sequence


def test_counts_without_errors_have_those_of_counting():
    counts = np.array([[0, 1, 4], [9, 16, 25]], np.uint16)
    got = decode_flatbuffer(da00(drop="signal_errors", signal_unit="counts", signal_data=counts))
    assert isinstance(got, ReducedHistogram)
    np.testing.assert_array_equal(got.error, [[0, 1, 2], [3, 4, 5]])
    assert got.intensity.dtype == np.float64
    assert got.sequence == NOW_NS


def test_errors_may_carry_their_short_name():
    wide = np.full((2, 3), 2.5)
    got = decode_flatbuffer(
        da00(drop="signal_errors", errors_data=wide, errors_axes=["detector", "energy_transfer"])
    )
    assert isinstance(got, ReducedHistogram)
    np.testing.assert_array_equal(got.error, wide)


def test_any_arrays_travel_in_a_data_array():
    sums = np.arange(6, dtype=">f4").reshape(2, 3)[:, ::-1]
    data = encode_data_array(
        "folded",
        NOW_NS,
        [
            DataVariable(name="signal", unit="counts", axes=("path", "energy"), values=sums),
            DataVariable(name="chunks", unit=None, axes=(), values=np.array(7, np.int32)),
            DataVariable(name="empty", unit="", axes=("none",), values=np.empty(0)),
        ],
    )
    got = decode_data_array(data)
    assert (got.name, got.time_ns) == ("folded", NOW_NS)
    assert got.variables["signal"].axes == ("path", "energy")
    assert got.variables["signal"].unit == "counts"
    np.testing.assert_array_equal(got.variables["signal"].values, sums)
    assert got.variables["chunks"].values.item() == 7
    assert got.variables["empty"].values.shape == (0,)
    theirs = {variable.name: variable for variable in deserialise_da00(data).data}
    np.testing.assert_array_equal(theirs["signal"].data, sums)
    assert "note" not in decode_data_array(da00()).variables  # text


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ([], "variables is empty"),
        ([DataVariable(name="a", unit="", axes=(), values=np.ones(2))], "expected the axes"),
        ([DataVariable(name="a", unit="", axes=(), values=np.array("x"))], "expected integers"),
        ([DataVariable(name="a", unit="", axes=(), values=np.array(None))], "expected integers"),
    ],
)
def test_what_is_no_array_of_numbers_is_not_sent(variables, words):
    with pytest.raises(ValueError, match=words):
        encode_data_array("folded", NOW_NS, variables)


def test_another_schema_is_no_data_array():
    with pytest.raises(WireError, match="'ev44'; expected 'da00'"):
        decode_data_array(ev44())


def test_heartbeats_come_back_and_the_library_reads_them():
    data = encode_heartbeat(
        Heartbeat(service="fold-1", status={"lag": 3}), host_name="here", process_id=5
    )
    got = decode_flatbuffer(data)
    assert isinstance(got, Heartbeat)
    assert (got.service, got.status) == ("fold-1", {"lag": 3})
    theirs = deserialise_x5f2(data)
    assert (theirs.software_name, theirs.host_name, theirs.process_id) == ("beamsteer", "here", 5)
    assert json.loads(theirs.status_json) == {"lag": 3}
    unnamed = decode_flatbuffer(x5f2(service_id=""))
    assert isinstance(unnamed, Heartbeat)
    assert unnamed.service == "beamsteer"


def test_what_json_cannot_say_is_not_sent():
    with pytest.raises(ValueError, match="JSON compliant"):
        encode_heartbeat(Heartbeat(service="a", status={"lag": float("nan")}))


def test_times_of_this_century_are_plausible():
    assert plausible_ns(EARLIEST_NS, "x") == EARLIEST_NS
    assert plausible_ns(LATEST_NS - 1, "x") == LATEST_NS - 1
    for beyond in (EARLIEST_NS - 1, LATEST_NS, 0, -(2**63), 2**64 * 10**6):
        with pytest.raises(WireError, match=r"x is .*; expected a time between 2000-01-01"):
            plausible_ns(beyond, "x")


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=12,
    )
)
def test_json_objects_are_read_as_json_reads_them(content):
    text = json.dumps(content)
    if isinstance(content, dict):
        assert json_object(text, "x") == content
    else:
        with pytest.raises(WireError, match="expected an object"):
            json_object(text, "x")
