from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from consumers.wire import AdaraStream, WireError, decode
from tests.consumers.hostile_packets import (
    NOW_S,
    XML,
    annotation,
    banked,
    beamline,
    descriptor,
    double,
    geometry,
    packet,
    plain,
    raw,
    run_status,
)

DESCRIPTION = [beamline("HYSPEC"), geometry(), descriptor()]


def told(stream: AdaraStream, packets: Sequence[bytes]) -> list[tuple[Any, ...]]:
    """What the messages of some packets say; those that say nothing are left out."""
    found: list[tuple[Any, ...]] = []
    for content in packets:
        for value, headers in stream.take(content):
            try:
                said = plain(decode(raw(value, headers)))
            except WireError as error:
                said = ("refused", str(error))
            if said != ("nothing",):
                found.append(said)
    return found


def kinds(said: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [s[0] if s[0] in ("pulse", "refused", "alive") else s[:2] for s in said]


def test_a_run_begins_at_its_status_and_is_described_by_what_follows() -> None:
    stream = AdaraStream()
    said = told(stream, [run_status(1), *DESCRIPTION, double(19.0), banked(), run_status(4)])
    assert kinds(said) == [
        ("log", "s1"),
        ("begins", "adara-run-178921"),
        "pulse",
        ("ends", "adara-run-178921"),
    ]
    _, _, begun_ns, name, xml, units = said[1]
    assert begun_ns == said[0][2]
    assert (name, xml) == ("HYSPEC", XML)
    assert ("s1", "deg") in units


def test_a_run_without_a_neutron_still_begins_and_ends() -> None:
    said = told(AdaraStream(), [run_status(1), run_status(4, s=NOW_S + 5)])
    assert [s[0] for s in said] == ["begins", "ends"]


def test_what_is_sent_again_says_the_same() -> None:
    packets = [run_status(1), *DESCRIPTION, banked(), run_status(3), *DESCRIPTION, banked()]
    stream = AdaraStream()
    first, again = told(stream, packets), told(stream, packets)
    assert [s[0] for s in first] == ["begins", "pulse", "pulse"]
    assert [s for s in again if s[0] == "begins"] == []
    afresh = AdaraStream(place=stream.place)  # a restart behind them, the server repeats itself
    assert [s for s in told(afresh, packets) if s[0] == "begins"] == []
    lost = AdaraStream()  # even without the place, the job and its time are the same
    assert told(lost, packets)[0] == first[0]


def test_an_ended_run_is_not_taken_up_again() -> None:
    stream = AdaraStream()
    told(stream, [run_status(1), banked(), run_status(4)])
    afresh = AdaraStream(place=stream.place)
    assert told(afresh, [run_status(5), banked()])[0][0] == "pulse"
    said = told(afresh, [run_status(1, 178_922, s=NOW_S + 9), banked()])
    assert said[0][:2] == ("begins", "adara-run-178922")


def test_joining_a_run_in_progress_begins_there_and_says_since_when_it_goes_on() -> None:
    stream = AdaraStream()
    said = told(stream, [run_status(5, start_s=NOW_S - 100), *DESCRIPTION, packet(0x4009)])
    assert kinds(said) == [("begins", "adara-run-178921"), "alive"]
    assert stream.joined_s == NOW_S - 100 + 631_152_000
    assert said[0][2] // 10**9 == NOW_S + 631_152_000
    old = AdaraStream(since_ns=said[0][2] + 1)  # history from before what was asked for
    assert kinds(told(old, [run_status(5), banked()])) == ["pulse"]


def test_the_true_start_counts_where_history_brings_it() -> None:
    stream = AdaraStream()
    said = told(stream, [run_status(5, s=NOW_S), run_status(1, s=NOW_S - 50), banked()])
    assert said[0][2] // 10**9 == NOW_S - 50 + 631_152_000
    assert stream.joined_s is None


def test_scans_inside_a_run_are_dwells_where_that_is_asked_for() -> None:
    packets = [
        run_status(1), *DESCRIPTION, banked(),
        annotation(1, 1, s=NOW_S + 1), banked(), annotation(1, 1, s=NOW_S + 2), banked(),
        annotation(2, 1, s=NOW_S + 3), banked(),
        annotation(1, 2, s=NOW_S + 4), banked(), run_status(4, s=NOW_S + 5),
    ]  # fmt: skip
    said = [s for s in told(AdaraStream(dwell="scan"), packets) if s[0] != "pulse"]
    first, second = (f"adara-run-178921-scan-{n}-{NOW_S + s}" for n, s in ((1, 1), (2, 4)))
    assert [s[:2] for s in said] == [
        ("begins", first),
        ("ends", first),
        ("begins", second),
        ("ends", second),
    ]
    runs = [s for s in told(AdaraStream(), packets) if s[0] != "pulse"]
    assert [s[:2] for s in runs] == [
        ("begins", "adara-run-178921"),
        ("ends", "adara-run-178921"),
    ]


def test_pause_and_resume_are_samples() -> None:
    said = told(AdaraStream(), [annotation(3), annotation(4, s=NOW_S + 1)])
    assert [(s[1], s[3]) for s in said] == [("pause", 1.0), ("pause", 0.0)]


def test_a_damaged_packet_is_passed_on_and_changes_nothing() -> None:
    stream = AdaraStream()
    bad = [
        b"", packet(0x4711), run_status(9), descriptor("<a"), geometry("<a"), packet(0x400B),
        packet(0x4000, bytes(16), s=5), annotation(99), packet(0x8002),
    ]  # fmt: skip
    said = told(stream, [run_status(1), *bad, banked()])
    assert kinds(said).count("refused") == len(bad)
    assert kinds(said).count("pulse") == 1
    assert [s[0] for s in said].count("begins") == 1


def test_a_value_before_its_descriptor_is_refused_and_one_after_it_is_named() -> None:
    said = told(AdaraStream(), [double(1.0), descriptor(), double(2.0)])
    assert [s[0] for s in said] == ["refused", "log"]


def test_descriptors_without_end_are_not_kept_without_end() -> None:
    stream = AdaraStream()
    large = descriptor("<device>" + " " * 2**20 + "</device>")
    for device in range(80):
        content = large[:16] + device.to_bytes(4, "little") + large[20:]
        assert len(list(stream.take(content))) == 1
    assert sum(map(len, stream._descriptors.values())) <= 64 * 2**20
    said = told(stream, [descriptor(device=3), double(1.0, device=3)])  # a smaller one in its place
    assert [s[0] for s in said] == ["log"]
