"""Folds as networks take them, and archives that somebody made to do harm."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

from model_server.networks import FoldedSpectrum, read_folded_spectrum
from model_server.networks.folded_spectrum_file import MOST_ARRAY_BYTES, MOST_ENTRIES
from simulations.errors import InputError


def arrays(**more):
    D = np.ones((4, 6))
    D[2] = 0.0
    return {
        "S": np.full((4, 6), 3.0),
        "D": D,
        "N": np.full((4, 6), 3),
        "path_hkl_rlu": np.linspace([0, 0, 0], [1, 0, 0], 4),
        "energy_edges_meV": np.linspace(0, 12, 7),
    } | more


def packed(write=np.savez, **more):
    file = io.BytesIO()
    write(file, **{key: value for key, value in arrays(**more).items() if value is not None})
    return file


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_a_fold_is_read_with_what_it_says_of_its_experiment(write):
    names = np.array(["1NN xx", "1NN xy"])
    told = read_folded_spectrum(packed(write, parameter_names=names, isotopes=names[:0]), "x")
    assert told.parameter_names == ("1NN xx", "1NN xy")
    assert told.isotopes == ()
    assert set(told.parts()) == {"parameter names", "path", "energy axis", "isotopes"}
    assert np.isnan(told.intensity[2]).all()
    assert (told.intensity[[0, 1, 3]] == 3.0).all()


def test_a_path_is_read_as_an_open_file_is(tmp_path):
    (tmp_path / "folded.npz").write_bytes(packed().getvalue())
    told = read_folded_spectrum(tmp_path / "folded.npz", "x")
    assert set(told.parts()) == {"path", "energy axis"}, "nobody said the rest"
    with pytest.raises(InputError, match="is no plain file"):
        read_folded_spectrum(tmp_path, "x")


def test_counts_that_contradict_their_signal_are_refused():
    S = np.full((4, 6), 3.0)
    read_folded_spectrum(packed(V=S), "x")
    read_folded_spectrum(packed(V=0.1 * S, N=10 * S), "x")  # reduced: N is what S and V say
    with pytest.raises(InputError, match=r"N differs from S in 24 of 24 cells"):
        read_folded_spectrum(packed(V=S, N=30 * S), "x")


def test_the_can_is_taken_off_where_the_file_did_so():
    net = np.full((4, 6), 2.0)
    net[0, 0] = np.nan
    told = read_folded_spectrum(packed(intensity=net), "x")
    assert np.isnan(told.intensity[0, 0])
    assert told.intensity[1, 1] == 2.0


def test_fortran_order_and_other_types_of_numbers_are_the_same_numbers():
    S = np.arange(24.0).reshape(4, 6)
    told = read_folded_spectrum(packed(S=np.asfortranarray(S.astype(">f4"))), "x")
    np.testing.assert_array_equal(told.intensity[[0, 1, 3]], S[[0, 1, 3]])


BAD = np.ones((4, 6))
BAD[1, 1] = np.nan


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"S": BAD}, "S has 1 values that are not finite"),
        ({"S": np.full((4, 6), np.inf)}, "S has 24 values"),
        ({"D": np.full((4, 6), 1e-300), "S": np.ones((4, 6))}, "beyond 1e.100"),
        ({"D": -np.ones((4, 6))}, "D is as low as -1"),
        ({"N": np.full((4, 6), -2)}, "N is as low as -2"),
        ({"S": np.ones((4, 5))}, r"S has shape \(4, 5\); expected \(4, 6\)"),
        ({"S": np.ones(24)}, r"S has shape \(24,\)"),
        ({"S": np.ones((2, 2, 6))}, "one or two dimensions"),
        ({"S": np.ones((4, 6), dtype=complex)}, "of type complex128"),
        ({"S": np.full((4, 6), "x")}, "of type <U1"),
        ({"S": np.full((4, 6), None)}, "would have to be unpickled"),
        ({"S": None}, "has no S"),
        ({"path_hkl_rlu": np.ones((4, 2))}, r"path_hkl_rlu has shape \(4, 2\)"),
        ({"path_hkl_rlu": np.ones((0, 3))}, "path_hkl_rlu is empty"),
        ({"energy_edges_meV": np.zeros(7)}, "expected rising edges"),
        ({"intensity": np.full((4, 6), np.inf)}, "intensity is infinite"),
        ({"parameter_names": np.ones(3)}, "expected a list of words"),
    ],
)
def test_arrays_that_make_no_sense_are_named(more, says):
    with pytest.raises(InputError, match=says):
        read_folded_spectrum(packed(**more), "x")


class Harm:
    """Unpickling it would be seen."""

    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


def with_member(name, content, method=zipfile.ZIP_DEFLATED, entries=1):
    file = packed()
    with zipfile.ZipFile(file, "a", method) as archive:
        for k in range(entries):
            archive.writestr(name if k == 0 else f"{name}{k}", content)
    return file


def head(shape, kind="<f8"):
    told = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}"
    told = told.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(told)) + told.encode()


def only(name, content, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, content)
    return file


ZEROS = bytes(2**16)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (io.BytesIO(b""), "is no NPZ .0 bytes"),
        (io.BytesIO(bytes(range(256)) * 400), "is no NPZ"),
        (io.BytesIO(pickle.dumps(Harm())), "is no NPZ"),
        (io.BytesIO(packed().getvalue()[:-60]), "is no NPZ"),
        (io.BytesIO(packed().getvalue()[300:]), "cannot be read as NPZ"),
        (only("S.npy", b"no array"), "S cannot be|cannot be read as NPZ|makes no sense"),
        (only("S.npy", pickle.dumps(Harm())), "cannot be read as NPZ"),
        (only("S.npy", head((2**40, 2**20)) + b"x"), "bytes unpacked; expected at most"),
        (
            only("S.npy", head((2048, MOST_ARRAY_BYTES // 2**14 + 1)) + ZEROS),
            "bytes unpacked; expected at most",
        ),
        (only("S.npy", head((4, 6)) + ZEROS), "longer or shorter than its head says"),
        (only("S.npy", head((4, 6)) + b"short"), "longer or shorter than its head says"),
        (only("S.npy", head((4, 6), "|O") + b"\x80\x04."), "would have to be unpickled"),
        (only("S.npy", head("(-4, 6)")), "no negative side"),
        (only("S.npy", head("(" * 100)), "cannot be read as NPZ|makes no sense"),
        (only("S.npy", head((4, 6)) + bytes(192), zipfile.ZIP_LZMA), "is packed by method 14"),
        (with_member("more.npy", b"", entries=MOST_ENTRIES), "expected at most 500"),
    ],
)
def test_archives_that_are_none_or_would_fill_memory_are_refused(file, says):
    with pytest.raises(InputError, match=says):
        read_folded_spectrum(file, "x")


def test_a_flipped_bit_is_found_by_the_checksum():
    content = bytearray(packed().getvalue())
    at = content.index(np.full(24, 3.0).tobytes())
    content[at + 100] ^= 1
    with pytest.raises(InputError, match="cannot be read as NPZ"):
        read_folded_spectrum(io.BytesIO(bytes(content)), "x")


def test_what_a_network_does_not_need_is_not_read():
    file = with_member("T.npy", head((2**40, 2**20)) + b"nothing")
    assert read_folded_spectrum(file, "x").intensity.shape == (4, 6)


def test_sums_that_are_no_rectangle_are_refused():
    told = arrays()
    with pytest.raises(InputError, match="S is no array of numbers"):
        FoldedSpectrum.of_sums(
            name="x",
            signal=[[1.0, 2.0], [3.0]],
            exposure=told["D"],
            path_hkl=told["path_hkl_rlu"],
            energy_edges_meV=told["energy_edges_meV"],
        )
