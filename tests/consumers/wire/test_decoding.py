from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.wire import (
    Described,
    Description,
    Events,
    Heartbeat,
    LogSample,
    RawMessage,
    ReducedHistogram,
    RunBegins,
    RunEnds,
    WireError,
    decode,
)
from consumers.wire.flatbuffers_codec import SCHEMAS
from tests.consumers.hostile_messages import (
    DOCUMENTS,
    HOSTILE,
    HostileMessage,
    good_messages,
    raw,
    sent,
)

ROOT = Path(__file__).resolve().parents[3]
KINDS = {
    "pl72": RunBegins,
    "6s4t": RunEnds,
    "f144 number": LogSample,
    "f144 vector": LogSample,
    "ev44": Events,
    "da00": ReducedHistogram,
    "x5f2": Heartbeat,
    "start document": RunBegins,
    "descriptor document": Description,
    "event with logs": Described,
    "event with neutrons": Described,
    "event with reduced data": Described,
    "event page": Described,
    "stop document": RunEnds,
}


@pytest.mark.parametrize("name", good_messages())
def test_a_good_message_becomes_its_value(name):
    value = decode(good_messages()[name])
    assert type(value) is KINDS[name.removesuffix(" beside its name")]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_a_hostile_message_is_refused_with_its_reason(hostile: HostileMessage):
    with pytest.raises(WireError) as caught:
        decode(hostile.make())
    assert re.search(hostile.words, str(caught.value))
    assert len(str(caught.value)) < 600  # a reason, not a copy of the message
    # Refused by a codec's own check and not by the net under all of them.
    assert caught.value.__cause__ is None


def test_names_of_the_corpus_are_unique():
    names = [hostile.name for hostile in HOSTILE]
    assert len(set(names)) == len(names) > 200


def hole(message: RawMessage) -> BaseException | None:
    """What only the net under all codecs caught; None if it was read or refused as it should."""
    try:
        decode(message)
    except WireError as error:
        return error.__cause__
    return None


@pytest.mark.parametrize("name", KINDS)
def test_every_cut_and_every_spoilt_byte_is_read_or_refused(name):
    whole = good_messages()[name].value
    for place, byte in enumerate(whole):
        for spoilt in (b"", bytes([byte ^ 1 << place % 8]), b"\xff"):
            value = whole[:place] + spoilt + (whole[place + 1 :] if spoilt else b"")
            assert hole(raw(value)) is None, (place, spoilt)


@given(
    data=st.binary(max_size=200)
    | st.builds(
        lambda root, schema, rest: root + schema + rest,
        st.binary(min_size=4, max_size=4) | st.just(b"\x10\0\0\0"),
        st.sampled_from(sorted(SCHEMAS)),
        st.binary(max_size=200),
    ),
    document=st.none() | st.sampled_from(["start", "event", "event_page", "stop"]),
)
def test_any_bytes_are_read_or_refused(data, document):
    assert hole(raw(data, document)) is None


LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5)
)


@given(data=st.data(), name=st.sampled_from(sorted(DOCUMENTS)))
def test_documents_with_any_entry_are_read_or_refused(data, name):
    kind, document = DOCUMENTS[name]
    branches = st.recursive(
        LEAVES,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(sorted(document)) | st.text(max_size=3), inner)
        ),
        max_leaves=8,
    )
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(document)), branches, max_size=3))
    assert hole(raw(sent(kind, {**document, **changes}))) is None


def test_a_hole_in_a_codec_costs_one_message(monkeypatch):
    def broken(table: Any) -> Any:
        raise KeyError("slot")

    monkeypatch.setitem(SCHEMAS, b"f144", broken)
    with pytest.raises(WireError, match="KeyError: 'slot'") as caught:
        decode(good_messages()["f144 number"])
    assert isinstance(caught.value.__cause__, KeyError)


def thrown(seed: int, count: int, timeout_s: float) -> dict[str, Any]:
    """What became of mutated messages in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.consumers.hostile_messages", str(seed), str(count)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"crashed or hung, seed {seed}:\n{done.stderr[-3000:]}"
    told = json.loads(done.stdout)
    sys.stdout.write(
        "\n{count} mutated messages, seed {seed}: {decoded} decoded, {refused} refused, "
        "{seconds:.0f} s of processor time of which {decoding_seconds:.0f} s decoding, "
        "slowest {slowest_ms:.0f} ms "
        "({slowest})".format(**told)
        + f", resident {told['resident_MB'][0]:.1f} -> {told['resident_MB'][-1]:.1f} MB, "
        f"peak {told['peak_MB']:.1f} MB\n"
    )
    return told


def assert_all_accounted_for(told: dict[str, Any]) -> None:
    assert told["decoded"] + told["refused"] == told["count"]
    assert told["holes"] == {}
    for name, kind in told["kinds"].items():
        # A mutator that breaks everything, or nothing, would test half of the codec.
        assert kind.get("decoded", 0) > 0, name
        assert kind.get("refused", 0) > 0, name


def test_twenty_thousand_mutated_messages_are_read_or_refused():
    told = thrown(seed=17, count=20_000, timeout_s=250)
    assert_all_accounted_for(told)
    assert told["peak_MB"] < told["resident_MB"][0] + 64


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_million_mutated_messages_are_read_or_refused():
    """No crash, no hang, no growth; at most 1 GB more than at the start may ever be mapped."""
    told = thrown(seed=20261121, count=1_000_000, timeout_s=7000)
    assert_all_accounted_for(told)
    middle = told["resident_MB"][len(told["resident_MB"]) // 2]
    assert told["resident_MB"][-1] < middle + 4  # MB over half a million messages
    assert told["peak_MB"] < told["resident_MB"][0] + 64
