from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any

import bluesky.plan_stubs as plans
import event_model
import msgpack_numpy
import numpy as np
import pytest
from bluesky.run_engine import Dispatcher, RunEngine
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.wire import (
    Described,
    Description,
    Events,
    LogSample,
    ReducedHistogram,
    RunBegins,
    RunEnds,
    WireError,
    decode,
    pack,
)
from consumers.wire.bluesky_documents import documents_of, value_of_document
from tests.consumers.hostile_messages import (
    DESCRIPTOR,
    NOW_NS,
    PULSES,
    UID,
    descriptor,
    event,
    histogram,
    neutrons,
    page,
    raw,
    start,
    stop,
)
from tests.consumers.wire_values import any_events, any_logs, any_reduced, assert_same


def values(document: dict[str, Any], name: str = "event") -> list[Any]:
    described = value_of_document(name, document)
    assert isinstance(described, Described)
    assert described.descriptor == DESCRIPTOR
    return list(described.values)


def begins(document: dict[str, Any]) -> RunBegins:
    value = value_of_document("start", document)
    assert isinstance(value, RunBegins)
    return value


def test_a_start_document_begins_the_dwell_that_it_names():
    got = begins(start())
    assert (got.job, got.chunk, got.source) == (UID, "dwell 17", "bluesky")
    assert got.instrument_name == "HYSPEC"
    assert got.structure == {"children": []}
    assert got.metadata == {"scan_id": 17, "plan_name": "count", "run": "germanium"}
    assert abs(got.start_time_ns - NOW_NS) < 240  # ns, a float's step in seconds today
    assert got.stop_time_ns is None


def test_a_start_document_of_somebody_else_has_a_name_too():
    bare = {"uid": UID, "time": 1.7e9}
    assert begins(bare).chunk == UID
    assert begins({**bare, "scan_id": 17}).chunk == "17"
    assert begins(bare).start_time_ns == 1_700_000_000 * 10**9


def test_the_structure_may_be_json_text():
    structure = {"children": [{"name": "a.b/c"}]}
    assert begins(start(beamsteer={"structure": json.dumps(structure)})).structure == structure


def test_exact_times_win_over_rounded_ones():
    assert begins(start(beamsteer={"start_time_ns": NOW_NS})).start_time_ns == NOW_NS
    ended = value_of_document("stop", stop(beamsteer={"stop_time_ns": NOW_NS + 1}))
    assert isinstance(ended, RunEnds)
    assert ended.stop_time_ns == NOW_NS + 1
    (sample,) = values(event({"s1": 5.0, "s1_time_ns": NOW_NS + 2}))
    assert sample.time_ns == NOW_NS + 2


def test_a_stop_document_ends_its_dwell_and_says_why():
    ended = value_of_document("stop", stop())
    assert isinstance(ended, RunEnds)
    assert (ended.job, ended.failed) == (UID, None)
    lost = value_of_document("stop", stop(exit_status="abort", reason="beam lost"))
    assert isinstance(lost, RunEnds)
    assert lost.failed == "beam lost"
    silent = value_of_document("stop", stop(exit_status="fail"))
    assert isinstance(silent, RunEnds)
    assert silent.failed == "exit_status is fail"


def test_a_descriptor_says_to_which_dwell_its_events_belong():
    value = value_of_document("descriptor", descriptor())
    assert isinstance(value, Description)
    assert (value.descriptor, value.job) == (DESCRIPTOR, UID)


def test_numbers_of_an_event_are_logs_and_other_things_are_passed_over():
    data = {
        "s1": 12.5,
        "count": 3,
        "open": True,
        "pair": [1.0, 2.0],
        "array": np.array([1, 2], np.uint8),
        "zero_d": np.array(7.0),
        "monitor_intensity": 5,
        "note": "text",
        "nothing": None,
        "picture": np.zeros((4, 4)),
        "long": np.zeros(5000),
        "mixed": [1, "a"],
        "empty": [],
        "huge": 2**64 - 1,
        "complex": np.array([1j]),
    }
    got = {sample.source: sample.value.tolist() for sample in values(event(data))}
    assert got == {
        "s1": [12.5],
        "count": [3.0],
        "open": [1.0],
        "pair": [1.0, 2.0],
        "array": [1.0, 2.0],
        "zero_d": [7.0],
        "monitor_intensity": [5.0],
        "huge": [float(2**64 - 1)],
    }


def test_a_log_has_the_time_of_its_key_else_that_of_the_event():
    document = event({"s1": 1.0, "s2": 2.0})
    document["timestamps"] = {"s1": 1.7e9 + 0.25}
    document["time"] = 1.7e9 + 0.5
    assert {sample.source: sample.time_ns % 10**9 for sample in values(document)} == {
        "s1": 250_000_000,
        "s2": 500_000_000,
    }


@pytest.mark.parametrize("shape", [lambda array: array, lambda array: array.tolist()])
def test_neutrons_come_as_arrays_or_as_lists(shape):
    (got,) = values(event({key: shape(array) for key, array in neutrons().items()}, seq_num=9))
    assert isinstance(got, Events)
    assert (got.source, got.sequence, got.job) == ("bank1", 9, None)
    np.testing.assert_array_equal(got.reference_time_ns, PULSES)
    np.testing.assert_array_equal(got.reference_index, [0, 4, 4])
    np.testing.assert_array_equal(got.pixel_id, np.arange(10))
    assert got.pixel_id.dtype == got.time_of_flight_ns.dtype == np.int32


def test_the_error_bit_of_unsigned_pixels_is_their_sign():
    ids = np.arange(10, dtype=np.uint32)
    ids[3] |= 2**31
    (got,) = values(event(neutrons(bank1_pixel_id=ids)))
    assert got.pixel_id[3] == 3 - 2**31
    assert (got.pixel_id < 0).sum() == 1


@pytest.mark.parametrize("shape", [lambda array: array, lambda array: array.tolist()])
def test_reduced_data_come_as_arrays_or_as_lists(shape):
    data = {key: shape(array) for key, array in histogram().items()}
    (got,) = values(event({**data, "bank1_time_ns": NOW_NS}, seq_num=9))
    assert isinstance(got, ReducedHistogram)
    assert (got.source, got.sequence, got.time_ns) == ("bank1", 9, NOW_NS)
    np.testing.assert_array_equal(got.intensity, np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(got.energy_edges_meV, np.linspace(-5, 20, 4))


def test_a_page_says_what_its_events_say():
    rows = [
        event({"s1": 12.5, **neutrons()}, seq_num=4),
        event({"s1": 13.5, **neutrons(bank1_pixel_id=np.arange(10))}, seq_num=5),
    ]
    paged = event_model.pack_event_page(*rows)  # pyright: ignore[reportArgumentType]
    got = values(dict(paged), "event_page")
    each = [value for row in rows for value in values(row)]
    assert len(got) == len(each) == 4
    assert [value.sequence for value in got if isinstance(value, Events)] == [4, 5]
    for one, other in zip(got, each, strict=True):
        assert_same(one, other)


def test_a_page_without_rows_says_nothing():
    nothing = page(uid=[], time=[], seq_num=[], data={"s1": []}, timestamps={"s1": []})
    assert values(nothing, "event_page") == []


# --- both directions ---------------------------------------------------------------------------

BEGINS = RunBegins(
    job=UID,
    chunk="dwell 17",
    source="recorder",
    start_time_ns=NOW_NS,
    instrument_name="HYSPEC",
    structure={"children": [{"name": "a.b/c"}]},
    metadata={"a.b/c": 1, "title": "germanium"},
)
ENDS = RunEnds(job=UID, source="recorder", stop_time_ns=NOW_NS + 60 * 10**9 + 1)


def chunk() -> list[LogSample | Events | ReducedHistogram]:
    """Values of every kind, sources coming again."""
    return [
        LogSample(source="s1", time_ns=NOW_NS + 1, value=np.array([12.5])),
        Events(
            source="bank1",
            sequence=7,
            reference_time_ns=PULSES,
            reference_index=np.array([0, 4, 4]),
            time_of_flight_ns=np.arange(10, dtype=np.int32),
            pixel_id=np.arange(10, dtype=np.int32),
        ),
        LogSample(source="s1", time_ns=NOW_NS + 2, value=np.array([np.nan])),
        ReducedHistogram(
            source="bank1",
            sequence=3,
            time_ns=NOW_NS,
            energy_edges_meV=np.arange(4.0),
            intensity=np.full((2, 3), np.nan),
            error=np.ones((2, 3)),
        ),
    ]


@settings(max_examples=40)
@given(st.lists(any_logs() | any_reduced() | any_events(), max_size=5))
def test_a_chunk_comes_back_from_its_documents_to_the_last_bit(sent):
    documents = list(documents_of(BEGINS, sent, ENDS, run="germanium"))
    got = [decode(raw(pack(list(pair)))) for pair in documents]
    first, *middle, last = got
    assert isinstance(first, RunBegins)
    assert isinstance(last, RunEnds)
    for name in ("job", "chunk", "source", "start_time_ns", "instrument_name", "structure"):
        assert getattr(first, name) == getattr(BEGINS, name)
    assert first.metadata == {**BEGINS.metadata, "run": "germanium"}
    assert (last.job, last.source, last.stop_time_ns) == (UID, "recorder", ENDS.stop_time_ns)
    jobs = {value.descriptor: value.job for value in middle if isinstance(value, Description)}
    described = [value for value in middle if isinstance(value, Described)]
    assert {jobs[value.descriptor] for value in described} <= {UID}
    back = list(itertools.chain.from_iterable(value.values for value in described))
    assert len(back) == len(sent)
    for one, other in zip(back, sent, strict=True):
        assert_same(one, other)


def test_a_failed_dwell_keeps_its_reason():
    failed = RunEnds(job=UID, source="x", stop_time_ns=NOW_NS, failed="beam lost")
    _, (name, document) = documents_of(BEGINS, [], failed)
    assert (name, document["exit_status"]) == ("stop", "fail")
    ended = value_of_document(name, document)
    assert isinstance(ended, RunEnds)
    assert ended.failed == "beam lost"


def test_ends_of_another_dwell_are_not_sent():
    other = RunEnds(job="other", source="x", stop_time_ns=NOW_NS)
    with pytest.raises(ValueError, match="expected '4d4b.*' as begins.job"):
        list(documents_of(BEGINS, [], other))


def test_a_replay_makes_the_same_bytes():
    once, again = (
        [pack(list(pair)) for pair in documents_of(BEGINS, chunk(), ENDS)] for _ in range(2)
    )
    assert once == again


def test_values_are_taken_one_by_one():
    def watched() -> Iterable[LogSample]:
        for number in range(100):
            taken.append(number)
            yield LogSample(source="s1", time_ns=NOW_NS, value=np.array([1.0]))

    taken: list[int] = []
    documents = documents_of(BEGINS, watched(), ENDS)
    assert [next(documents)[0] for _ in range(3)] == ["start", "descriptor", "event"]
    assert taken == [0]


def test_our_documents_are_sound_to_event_model_and_reach_callbacks_of_bluesky():
    """What bluesky-kafka's consumer does with a message, without the broker."""
    seen: list[tuple[str, str]] = []
    router = event_model.SingleRunDocumentRouter()
    dispatcher = Dispatcher()
    dispatcher.subscribe(lambda name, document: router(name, document, validate=True))
    dispatcher.subscribe(lambda name, document: seen.append((name, document["uid"])))
    for pair in documents_of(BEGINS, chunk(), ENDS):
        name, document = msgpack_numpy.unpackb(pack(list(pair)))
        dispatcher.process(event_model.DocumentNames[name], document)
    names = [name for name, _ in seen]
    assert names[0] == "start"
    assert names[-1] == "stop"
    assert names.count("descriptor") == 3
    assert names.count("event") == 4
    assert len({uid for _, uid in seen}) == len(seen)
    assert router.get_start()["uid"] == UID


class Detector:
    """Readable of bluesky with an angle and neutrons."""

    name = "detector"
    parent = None

    def describe(self) -> dict[str, Any]:
        key = {"dtype": "array", "shape": [None], "source": "detector"}
        return {
            "s1": {"dtype": "number", "shape": [], "source": "motor"},
            **dict.fromkeys(neutrons(), key),
        }

    def read(self) -> dict[str, Any]:
        data = {"s1": 12.5, **neutrons()}
        return {key: {"value": value, "timestamp": NOW_NS / 1e9} for key, value in data.items()}

    def describe_configuration(self) -> dict[str, Any]:
        return {}

    def read_configuration(self) -> dict[str, Any]:
        return {}


def test_a_run_of_the_real_run_engine_is_read():
    detector = Detector()

    def dwell() -> Any:
        yield from plans.open_run({"beamsteer": {"chunk": "dwell 17", "run": "germanium"}})
        for _ in range(2):
            yield from plans.create("primary")
            yield from plans.read(detector)
            yield from plans.save()
        yield from plans.close_run("success", "")

    documents: list[tuple[str, dict[str, Any]]] = []
    RunEngine({})(dwell(), lambda name, document: documents.append((name, document)))
    got = [decode(raw(msgpack_numpy.packb(pair))) for pair in documents]
    first, described, *events_, last = got
    assert isinstance(first, RunBegins)
    assert isinstance(described, Description)
    assert isinstance(last, RunEnds)
    assert (first.chunk, first.metadata["run"]) == ("dwell 17", "germanium")
    assert first.job == described.job == last.job
    assert last.failed is None
    assert len(events_) == 2
    for sequence, value in enumerate(events_, start=1):
        assert isinstance(value, Described)
        assert value.descriptor == described.descriptor
        angle, counts = value.values
        assert isinstance(angle, LogSample)
        assert isinstance(counts, Events)
        assert (angle.source, angle.value.tolist()) == ("s1", [12.5])
        assert (counts.source, counts.sequence, len(counts.pixel_id)) == ("bank1", sequence, 10)


def test_documents_that_point_to_files_are_refused():
    with pytest.raises(WireError, match="names data outside of the stream"):
        value_of_document("stream_resource", {})
