from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgpack
import msgpack_numpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from consumers.wire import WireError, pack, refuse_pickle
from consumers.wire.msgpack_codec import MAX_DEPTH, unpack

ROOT = Path(__file__).resolve().parents[3]
NUMBERS = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(endianness="?", sizes=(64, 128)),
)
ARRAYS = hnp.arrays(NUMBERS, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@settings(max_examples=40)
@given(array=ARRAYS, plain=PLAIN)
def test_msgpack_numpy_reads_ours_and_we_read_theirs(array, plain):
    content = {"array": array, "rows": [array, array.T], "plain": plain}
    assert pack(content) == msgpack_numpy.packb(content)
    for got in (unpack(msgpack_numpy.packb(content)), msgpack_numpy.unpackb(pack(content))):
        assert got["plain"] == plain
        for one, other in ((got["array"], array), (got["rows"][1], array.T)):
            assert one.dtype.newbyteorder("=") == other.dtype.newbyteorder("=")
            np.testing.assert_array_equal(one, other)


@settings(max_examples=40)
@given(ARRAYS.filter(lambda array: array.ndim == 0))
def test_numpy_scalars_become_numbers(array):
    scalar = array[()]
    got = unpack(msgpack_numpy.packb(scalar))
    assert unpack(pack(scalar)) == got or got != got
    np.testing.assert_array_equal(got, scalar)
    assert not isinstance(got, np.generic)


@settings(max_examples=40)
@given(plain=PLAIN, more=st.binary(min_size=1, max_size=3), data=st.data())
def test_a_message_is_read_whole_or_not_at_all(plain, more, data):
    whole = msgpack.packb(plain)
    assert unpack(whole) == plain
    with pytest.raises(WireError):
        unpack(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(WireError):
        unpack(whole + more)


def test_arrays_are_in_native_byte_order_and_read_only_views():
    got = unpack(pack({"a": np.arange(3, dtype=">i4"), "b": np.arange(3.0)}))
    assert got["a"].dtype == np.int32
    assert got["a"].dtype.isnative
    assert not got["b"].flags.writeable
    assert got["b"].flags.aligned


def test_nesting_is_read_up_to_its_limit():
    whole = b"\x91" * MAX_DEPTH + b"\xc0"
    content = unpack(whole)
    for _ in range(MAX_DEPTH):
        (content,) = content
    assert content is None
    with pytest.raises(WireError, match=f"nests deeper than {MAX_DEPTH}"):
        unpack(b"\x91" + whole)


@pytest.mark.parametrize(
    "content",
    [
        np.array([1, "a"], object),
        np.array(["a"]),
        np.zeros(2, [("a", "<f8")]),
        np.array(["2026-01-01"], "datetime64[s]"),
        np.zeros(2, np.longdouble),
        np.longdouble(1),
        {1, 2},
        object(),
    ],
    ids=lambda content: f"{getattr(content, 'dtype', type(content))}",
)
def test_what_would_be_refused_is_not_sent(content):
    with pytest.raises(TypeError, match="cannot be sent; expected"):
        pack({"a": [content]})


@pytest.mark.parametrize("content", [b"c.", b"\x80\x04.", b"(dp0\n.", b"}q\x00."])
def test_pickles_are_told_by_how_they_open_and_close(content):
    with pytest.raises(WireError, match="is a pickle; expected msgpack"):
        refuse_pickle(content)


@settings(max_examples=40)
@given(PLAIN)
def test_sound_msgpack_is_never_taken_for_a_pickle(plain):
    refuse_pickle(msgpack.packb(plain))


def test_libraries_that_replace_msgpack_by_one_with_pickle_change_nothing():
    """bluesky-kafka patches msgpack for the whole process when it is imported."""
    program = """
import pickle, sys
import bluesky_kafka, msgpack, msgpack_numpy
assert msgpack.unpackb is msgpack_numpy.unpackb
from consumers.wire.msgpack_codec import pack, unpack
from consumers.wire import WireError
class Trap:
    def __reduce__(self):
        return (sys.exit, (7,))
array = {b"nd": True, b"type": "|O", b"kind": b"O", b"shape": [1], b"data": pickle.dumps(Trap())}
try:
    unpack(msgpack.Packer().pack([array]))
except WireError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "array of objects, which travels as a pickle" in done.stdout
