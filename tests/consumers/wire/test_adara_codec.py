from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consumers.wire import (
    AdaraKind,
    Events,
    LogSample,
    RunBegins,
    RunEnds,
    Several,
    WireError,
    decode,
    encode_hello,
    packet_bytes,
    read_hello,
    read_packet,
)
from consumers.wire.adara_codec import (
    MAX_PACKET_BYTES,
    Variable,
    read_descriptor,
)
from consumers.wire.adara_encoding import (
    encode_beamline,
    encode_descriptor,
    encode_geometry,
    encode_pulse,
)
from simulations.errors import InputError
from tests.consumers.hostile_packets import (
    ADARA,
    BEGINS,
    ENDS,
    LOG,
    NOW_NSEC,
    NOW_S,
    XML,
    annotation,
    banked,
    beamline,
    descriptor,
    double,
    equal,
    geometry,
    good_packets,
    packet,
    plain,
    raw,
    reading,
    run_status,
    sized,
    words,
)
from tests.told import told_in_time

ROOT = Path(__file__).resolve().parents[3]
NOW_NS = (NOW_S + 631_152_000) * 10**9 + NOW_NSEC


@pytest.mark.parametrize("name", [n for n in good_packets() if n != "nameless number"])
def test_a_good_packet_is_what_a_slow_reader_makes_of_it(name: str) -> None:
    content, headers = good_packets()[name]
    assert equal(plain(decode(raw(content, headers))), reading(content, dict(headers)))


def test_a_pulse_is_its_neutrons_and_its_charge() -> None:
    content = banked((12, [(290_385, 9219), (1, 9220)]), (13, [(2**31, 0x80000007)]))
    value = decode(raw(content))
    assert isinstance(value, Several)
    charge, events = value.values
    assert isinstance(charge, LogSample)
    assert isinstance(events, Events)
    assert (charge.source, charge.time_ns, charge.value.tolist()) == (
        "proton_charge",
        NOW_NS,
        [14_268_460.0],
    )
    assert events.time_of_flight_ns.tolist() == [29_038_500, 100, -1]
    assert events.pixel_id.tolist() == [9219, 9220, -(2**31) + 7]
    assert events.reference_time_ns.tolist() == [NOW_NS]
    again = decode(raw(content))
    assert isinstance(again, Several)
    assert isinstance(again.values[1], Events)
    assert again.values[1].sequence == events.sequence  # the same packet is the same message


def test_a_dwell_begins_with_all_that_describes_the_instrument() -> None:
    content = run_status(1) + beamline("HYSPEC") + geometry() + descriptor()
    value = decode(raw(content, BEGINS))
    assert isinstance(value, RunBegins)
    assert (value.job, value.chunk) == ("adara-run-178921", "178921")
    assert (value.start_time_ns, value.instrument_name) == (NOW_NS, "HYSPEC")
    assert XML in json.dumps(value.structure).replace('\\"', '"')
    ends = decode(raw(run_status(4, s=NOW_S + 9), ENDS))
    assert isinstance(ends, RunEnds)
    assert (ends.job, ends.stop_time_ns) == (value.job, NOW_NS + 9 * 10**9)


def test_a_value_that_its_device_calls_invalid_counts_nowhere() -> None:
    for status in (3, 0xFFFE << 16):
        value = decode(raw(double(7.0, status=status), LOG))
        assert isinstance(value, Several)
        assert value.values == ()
    alarm = decode(raw(double(7.0, status=4 << 16 | 1), LOG))
    assert isinstance(alarm, LogSample)


def test_a_value_of_a_clock_that_was_never_set_holds_since_2000() -> None:
    value = decode(raw(double(7.0, s=0, nsec=0), LOG))
    assert isinstance(value, LogSample)
    assert value.time_ns == 946_684_800 * 10**9


HOSTILE = {
    "nothing": (b"", ADARA, "has 0 bytes; expected a head of 16"),
    "half a head": (bytes(15), ADARA, "has 15 bytes"),
    "cut": (banked((1, [(1, 2)]))[:-4], ADARA, "announces 48 bytes and has 44"),
    "more behind": (packet(0x4009) + bytes(4), ADARA, "announces 0 bytes and has 4"),
    "odd length": (struct.pack("<IIII", 3, 0x400900, NOW_S, 0) + b"abc", ADARA, "multiple of 4"),
    "endless": (struct.pack("<IIII", 2**32 - 4, 0x400000, NOW_S, 0), ADARA, "lost its frame"),
    "unknown kind": (packet(0x4711), ADARA, "kind is 0x4711; expected one of"),
    "nanoseconds": (packet(0x4009, nsec=10**9), ADARA, "1000000000 nanoseconds"),
    "new layout": (packet(0x4000, bytes(16), version=2), ADARA, "version is 2; expected at most 1"),
    "time of 1990": (packet(0x4000, bytes(16), s=5), ADARA, r"\(1990-01-01\)"),
    "pulse without head": (packet(0x4000, bytes(12)), ADARA, "has 12 bytes; expected at least 16"),
    "source cut": (packet(0x4000, bytes(20)), ADARA, "cut in the head of a source"),
    "bank cut": (packet(0x4000, bytes(28) + words(1)), ADARA, "cut in the head of a bank"),
    "banks without end": (packet(0x4000, bytes(28) + words(2**32 - 1)), ADARA, "cut in the head"),
    "events cut": (
        packet(0x4000, bytes(28) + words(1, 3, 2**32 - 1, 5, 6)),
        ADARA,
        "announces 4294967295 events and has 1",
    ),
    "status": (run_status(9), ADARA, "status is 9; expected one of"),
    "status cut": (packet(0x4003, bytes(16), version=1), ADARA, "has 16 bytes; expected 20"),
    "marker": (annotation(90), ADARA, "marker is 90"),
    "comment cut": (packet(0x4007, words(40, 0) + b"abcd"), ADARA, "announces 40 bytes where 4"),
    "nobody's variable": (double(1.0), ADARA, "variable 3 of device 9 has no descriptor"),
    "status of EPICS": (double(1.0, status=99 << 16), LOG, "status is 99 and severity 0"),
    "severity": (double(1.0, status=9), LOG, "status is 0 and severity 9"),
    "long double": (packet(0x8002, bytes(24)), LOG, "has 24 bytes; expected 20"),
    "job": (run_status(1), (*ADARA, ("begins", b"pl72")), "job is 'pl72'"),
    "no job": (run_status(1), (*ADARA, ("begins", b"")), "job is ''"),
    "job is no text": (run_status(1), (*ADARA, ("begins", b"\xff")), "no UTF-8"),
    "a pulse begins": (banked(), BEGINS, "expected a status or annotation"),
    "a pulse behind a begin": (run_status(1) + banked(), BEGINS, "behind a begin"),
    "no XML": (geometry("<instrument>"), ADARA, "is no XML"),
    "entities": (geometry('<!DOCTYPE a [<!ENTITY b "c">]><a/>'), ADARA, "declares entities"),
    "a forest": (geometry("<a>" + "<b/>" * 200_001 + "</a>"), ADARA, "more than 200000 tags"),
    "latin": (packet(0x400A, words(4) + b"\xff\xfe<a"), ADARA, "no UTF-8"),
    "device": (descriptor("<device>"), ADARA, "is no XML"),
    "text too long": (
        packet(0x400A, words(2**23 + 1) + bytes(2**23 + 4)),
        ADARA,
        "at most 8388608",
    ),
    "ring period": (packet(0x0001, bytes(120)), ADARA, "no ring period"),
    "timing": (packet(0x0001, bytes(124)), ADARA, "has 124 bytes; expected 120"),
    "monitor": (packet(0x4001, bytes(16) + words(2**22 - 1, 0, 0)), ADARA, "a section ends at"),
    "heartbeat": (packet(0x4009, bytes(4)), ADARA, "has 4 bytes; expected 0"),
    "value of text": (packet(0x8003, sized("open", 1, 2, 3)[:-4] + b""), ADARA, "announces 4"),
    "beamline": (packet(0x400B, words(255)), ADARA, "announces 255 bytes where 0"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_packet_is_refused_with_its_reason(name: str) -> None:
    content, headers, expected = HOSTILE[name]
    with told_in_time(), pytest.raises(WireError, match=expected) as caught:
        decode(raw(content, headers))
    assert caught.value.__cause__ is None


def test_a_large_pulse_is_read_and_one_too_large_is_not_framed() -> None:
    n = 500_000
    value = decode(raw(encode_pulse(NOW_NS, 5, {1: (np.arange(n), np.arange(n))})))
    assert isinstance(value, Several)
    assert isinstance(value.values[1], Events)
    assert value.values[1].time_of_flight_ns[-1] == 100 * (n - 1)
    with pytest.raises(WireError, match="lost its frame"):
        packet_bytes(struct.pack("<IIII", MAX_PACKET_BYTES, 0x400000, 0, 0))
    with pytest.raises(InputError, match="expected at most"):
        encode_geometry(NOW_NS, " " * MAX_PACKET_BYTES)


def test_what_is_written_is_read_again() -> None:
    hello = read_packet(encode_hello(NOW_NS, since_ns=NOW_NS - 5 * 10**9, send_paused=True))
    assert hello.kind is AdaraKind.CLIENT_HELLO
    assert read_hello(hello) == (NOW_NS - 5 * 10**9) // 10**9 * 10**9
    assert read_hello(read_packet(encode_hello(NOW_NS, since_ns=0, send_paused=False))) == 0
    variables = [Variable(name="s1", unit="deg"), Variable(name="a<b", unit="")]
    content = encode_descriptor(NOW_NS, 4, variables)
    assert read_descriptor(read_packet(content)) == (4, dict(enumerate(variables, 1)))
    begins = run_status(1) + encode_beamline(NOW_NS, "ARCS") + encode_geometry(NOW_NS, XML)
    value = decode(raw(begins, BEGINS))
    assert isinstance(value, RunBegins)
    assert value.instrument_name == "ARCS"
    with pytest.raises(InputError, match="expected one between 1990 and 2126"):
        encode_hello(0, since_ns=0, send_paused=True)


def thrown(seed: int, count: int, timeout_s: float) -> dict[str, Any]:
    """What became of mutated packets in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.consumers.hostile_packets", str(seed), str(count)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"crashed or hung, seed {seed}:\n{done.stderr[-3000:]}"
    told = json.loads(done.stdout)
    sys.stdout.write(
        "\n{count} mutated ADARA packets, seed {seed}: {decoded} decoded as a slow reader does, "
        "{refused} refused by both, {seconds:.0f} s of which {decoding_seconds:.0f} s decoding, "
        "slowest {slowest_ms:.0f} ms".format(**told)
        + f", resident {told['resident_MB'][0]:.1f} -> {told['resident_MB'][-1]:.1f} MB\n"
    )
    assert told["wrong"] == []
    assert told["decoded"] + told["refused"] == count
    for name, kind in told["kinds"].items():
        assert kind.get("decoded", 0) > 0, name
        assert kind.get("refused", 0) > 0, name
    return told


def test_thirty_thousand_mutated_packets_are_read_right_or_refused() -> None:
    thrown(seed=17, count=30_000, timeout_s=250)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_million_mutated_packets_are_read_right_or_refused() -> None:
    """None is read as something that it does not say; half a gigabyte more may be mapped."""
    told = thrown(seed=20261122, count=1_000_000, timeout_s=3500)
    middle = told["resident_MB"][len(told["resident_MB"]) // 2]
    assert told["resident_MB"][-1] < middle + 4
