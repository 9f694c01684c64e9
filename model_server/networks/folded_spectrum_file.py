"""A folded spectrum as a network takes it: from sums, or from an NPZ that anybody may have sent.

Of ``folded.npz`` a network needs five arrays of some twenty. They are looked for by name, and what
their heads claim is held to limits before a byte of them is read: an archive that unpacks to more,
that holds objects (which means pickle), or whose directory is long beyond reason is refused.
"""

from __future__ import annotations

import io
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model_server.networks.bundle import axis_parts
from simulations.arrays import FloatArray
from simulations.errors import InputError

MOST_ARRAY_BYTES = 32 * 2**20  # of one array, unpacked: four million cells
MOST_DIRECTORY_BYTES = 2**18  # a fold has some thirty entries of under a hundred bytes
MOST_ENTRIES = 500
LARGEST = 1e100  # beyond it sums and ratios overflow
ARRAYS = ("S", "V", "N", "D", "intensity", "sigma", "path_hkl_rlu", "energy_edges_meV")
WORDS = ("parameter_names", "isotopes")
NEEDED = ("S", "D", "path_hkl_rlu", "energy_edges_meV")
_END, _END_BYTES, _LONGEST_COMMENT = b"PK\x05\x06", 22, 2**16 - 1
_END_64, _END_64_BYTES = b"PK\x06\x07", 20


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FoldedSpectrum:
    """One folded spectrum with its axes; arrays of cells are (path bins, energy bins)."""

    name: str  # how it is called in what is said of it
    intensity: FloatArray  # S / D, of the sample alone; NaN where unknown
    exposure: FloatArray  # D; 0 means unknown
    counts: FloatArray | None  # N; None: nobody said
    path_hkl: FloatArray  # (path bins, 3) centres of the path bins, r.l.u.
    energy_edges_meV: FloatArray  # (energy bins + 1,)
    parameter_names: tuple[str, ...] | None = None  # None: nobody said
    isotopes: tuple[str, ...] | None = None  # None: nobody said; (): natural elements alone

    @classmethod
    def of_sums(
        cls,
        *,
        name: str,
        signal: ArrayLike,
        exposure: ArrayLike,
        path_hkl: ArrayLike,
        energy_edges_meV: ArrayLike,
        counts: ArrayLike | None = None,
        intensity: ArrayLike | None = None,
        parameter_names: Sequence[str] | None = None,
        isotopes: Sequence[str] | None = None,
    ) -> FoldedSpectrum:
        """Spectrum of folded sums, checked.

        Parameters
        ----------
        name : str
            For messages.
        signal, exposure : (path bins, energy bins) array_like
            S and D; where D is 0, S counts for nothing.
        path_hkl : (path bins, 3) array_like
            r.l.u.
        energy_edges_meV : (energy bins + 1,) array_like
        counts : (path bins, energy bins) array_like, optional
            N, from which it is known how much a network may be believed.
        intensity : (path bins, energy bins) array_like, optional
            In place of S / D, where a can was taken off it; NaN where unknown.
        parameter_names, isotopes : sequence of str, optional
            Of the experiment, to be held against those of a bundle.

        Raises
        ------
        InputError
            Naming the array that is of another shape, not finite, negative or too large.
        """
        S, D = _numbers(name, "S", signal), _numbers(name, "D", exposure)
        hkl = _numbers(name, "path_hkl_rlu", path_hkl)
        edges = _numbers(name, "energy_edges_meV", energy_edges_meV)
        if hkl.ndim != 2 or hkl.shape[1:] != (3,) or len(hkl) == 0:
            raise InputError(
                f"{name}: path_hkl_rlu has shape {hkl.shape}; expected (path bins, 3)."
            )
        if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0):
            raise InputError(
                f"{name}: energy_edges_meV has shape {edges.shape}; expected rising edges, one "
                "more than there are energy bins."
            )
        shape = (len(hkl), len(edges) - 1)
        N = None if counts is None else _numbers(name, "N", counts)
        own = None if intensity is None else np.asarray(intensity, dtype=float)
        for label, array in (("S", S), ("D", D), ("N", N), ("intensity", own)):
            if array is not None and array.shape != shape:
                raise InputError(
                    f"{name}: {label} has shape {array.shape}; expected {shape}, the path bins and "
                    "energy bins of its axes."
                )
        for label, array in (("D", D), ("N", N)):
            if array is not None and array.min() < 0:
                raise InputError(
                    f"{name}: {label} is as low as {array.min():g}; expected no negative number."
                )
        if own is not None and np.isinf(own).any():
            raise InputError(f"{name}: intensity is infinite somewhere; expected numbers, or NaN.")
        known = D > 0
        with np.errstate(over="ignore"):
            ratio = np.divide(S, D, out=np.full(shape, np.nan), where=known)
        if own is not None:
            ratio = np.where(known, own, np.nan)
        if np.nanmax(np.abs(ratio), initial=0.0) > LARGEST:
            raise InputError(
                f"{name}: S / D is beyond {LARGEST:g} somewhere; expected an intensity. Look at D."
            )
        return cls(
            name=name,
            intensity=ratio,
            exposure=D,
            counts=N,
            path_hkl=hkl,
            energy_edges_meV=edges,
            parameter_names=None if parameter_names is None else tuple(parameter_names),
            isotopes=None if isotopes is None else tuple(isotopes),
        )

    def parts(self) -> dict[str, str]:
        """Hash of every part of the experiment that is known, as ``Domain.parts`` makes them."""
        return axis_parts(
            path_hkl=self.path_hkl,
            energy_edges_meV=self.energy_edges_meV,
            parameter_names=self.parameter_names,
            isotopes=self.isotopes,
        )


def read_folded_spectrum(file: Path | BinaryIO, name: str) -> FoldedSpectrum:
    """Spectrum of a ``folded.npz``, or of any NPZ with its arrays S, D and axes.

    Parameters
    ----------
    file : Path or binary file
        A file is read from its end, as archives are.
    name : str
        For messages.

    Raises
    ------
    InputError
        If it is no such archive, or larger unpacked than a fold may be.
    """
    if isinstance(file, Path):
        if file.exists() and not file.is_file():
            raise InputError(
                f"{name} is no plain file; expected the folded.npz of `beamsteer fold` or "
                "`beamsteer replay`. Correct the path."
            )
        with file.open("rb") as opened:
            return read_folded_spectrum(opened, name)
    arrays, words = _read_arrays(file, name)
    lacking = [one for one in NEEDED if one not in arrays]
    if lacking:
        raise InputError(
            f"{name} has no {', '.join(lacking)}; expected the folded.npz of `beamsteer fold` or "
            "`beamsteer replay`."
        )
    _refuse_other_counts(name, arrays)
    return FoldedSpectrum.of_sums(
        name=name,
        signal=arrays["S"],
        exposure=arrays["D"],
        counts=arrays.get("N"),
        intensity=arrays.get("intensity"),
        path_hkl=arrays["path_hkl_rlu"],
        energy_edges_meV=arrays["energy_edges_meV"],
        parameter_names=words.get("parameter_names"),
        isotopes=words.get("isotopes"),
    )


def _refuse_other_counts(name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise where S and V are those of raw counts, which N is not."""
    S, V, N = (arrays.get(label) for label in ("S", "V", "N"))
    if S is None or V is None or N is None or not S.shape == V.shape == N.shape:
        return
    other = int(np.sum(~np.isclose(S, N, rtol=1e-6, atol=1e-6)))
    if other and np.array_equal(S, V):
        raise InputError(
            f"{name}: N differs from S in {other:,} of {S.size:,} cells, though S equals V as of "
            "raw counts; expected the sums of one fold. Fold again."
        )


def _numbers(name: str, label: str, values: ArrayLike) -> FloatArray:
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {label} is no array of numbers ({error}).") from error
    wrong = int((~np.isfinite(array) | (np.abs(array) > LARGEST)).sum())
    if wrong:
        raise InputError(
            f"{name}: {label} has {wrong} values that are not finite or beyond {LARGEST:g}; "
            "expected numbers, and D = 0 where nothing is known."
        )
    if array.size == 0:
        raise InputError(f"{name}: {label} is empty; expected numbers.")
    return array


_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    NotImplementedError,
    RuntimeError,  # a member that is encrypted
)


def _read_arrays(
    file: BinaryIO, name: str
) -> tuple[dict[str, NDArray[Any]], dict[str, tuple[str, ...]]]:
    """Arrays by name, and lists of words by name, of those that are known."""
    try:
        _refuse_long_directory(file, name)
        with zipfile.ZipFile(file) as archive:
            members = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}
            found = {
                label: _read_array(archive, members[label], f"{name}: {label}")
                for label in (*ARRAYS, *WORDS)
                if label in members
            }
    except InputError:
        raise
    except _DAMAGED as error:
        raise InputError(
            f"{name} cannot be read as NPZ ({type(error).__name__}: {str(error)[:200]}); expected "
            "the folded.npz of `beamsteer fold` or `beamsteer replay`."
        ) from error
    words: dict[str, tuple[str, ...]] = {}
    for label in ARRAYS:
        if label in found and found[label].dtype.kind not in "fiub":
            raise InputError(f"{name}: {label} is of type {found[label].dtype}; expected numbers.")
    for label in WORDS:
        if label in found:
            array = found.pop(label)
            if array.dtype.kind != "U" or array.ndim != 1:
                raise InputError(f"{name}: {label} is {array.dtype}; expected a list of words.")
            words[label] = tuple(array.tolist())
    return found, words


def _refuse_long_directory(file: BinaryIO, name: str) -> None:
    """Refuse an archive whose directory alone would fill memory; the reader reads it whole."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - _END_BYTES - _LONGEST_COMMENT - _END_64_BYTES, 0))
    tail = file.read()
    at = tail.rfind(_END)
    if at < 0:
        raise InputError(
            f"{name} is no NPZ ({size:,} bytes without the end of an archive); expected the "
            "folded.npz of `beamsteer fold` or `beamsteer replay`, whole."
        )
    if len(tail) - at < _END_BYTES:
        raise zipfile.BadZipFile("its end is cut off")
    entries, directory = struct.unpack_from("<HI", tail, at + 10)
    if (
        entries > MOST_ENTRIES
        or directory > MOST_DIRECTORY_BYTES
        or tail[max(at - _END_64_BYTES, 0) : at].startswith(_END_64)
    ):
        raise InputError(
            f"{name} has {entries:,} or more entries in a directory of {directory:,} bytes; "
            f"expected at most {MOST_ENTRIES} in {MOST_DIRECTORY_BYTES:,}. Send a folded.npz."
        )
    file.seek(0)


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, what: str) -> NDArray[Any]:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(
            f"{what} is packed by method {member.compress_type}; expected what numpy.savez writes."
        )
    with archive.open(member) as content:
        shape, fortran, dtype = _head(content, what)
        cells = 1
        for side in shape:
            cells *= side
        if dtype.hasobject:
            raise InputError(
                f"{what} holds Python objects, which would have to be unpickled; expected numbers."
            )
        needed = cells * dtype.itemsize
        if needed > MOST_ARRAY_BYTES or len(shape) > 2:
            raise InputError(
                f"{what} has shape {shape}, {needed:,} bytes unpacked; expected at most "
                f"{MOST_ARRAY_BYTES:,} in one or two dimensions."
            )
        data = content.read(needed)
        if len(data) != needed or content.read(1):  # the end is where its checksum is compared
            raise InputError(f"{what} is longer or shorter than its head says; expected it whole.")
    flat = np.frombuffer(data, dtype=dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _head(content: Any, what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type that an array claims."""
    readers: Mapping[tuple[int, int], Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        version = np.lib.format.read_magic(content)
        shape, fortran, dtype = readers[version](content)
    except (KeyError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise InputError(f"{what} has a head that makes no sense; expected NPY.") from error
    except tokenize.TokenError as error:
        raise InputError(f"{what} has a head that makes no sense; expected NPY.") from error
    if any(side < 0 for side in shape):
        raise InputError(f"{what} has shape {shape}; expected no negative side.")
    return shape, fortran, dtype
