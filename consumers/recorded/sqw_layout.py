"""What an SQW file of Horace says before its pixels, in both of its layouts.

Versions 1 to 3.3 are one sequence: application, main header, a header for every run, detectors, the
image, then the pixels. Version 4 has a table of named blocks, most of them values that carry their
own type and shape. Angles of versions before 4 are radians. Runs are known by their place in the
file, or by a number of their own where the file gives one.

References
----------
Horace documentation, "File formats"; scippneutron documentation, "SQW" (developers' notes on
version 4). Checked on files of versions 2, 3, 3.1, 3.3 and 4 that come with Horace's tests.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from consumers.recorded.hdf5_file import UnreadableError
from consumers.recorded.sqw_cursor import SqwCursor
from simulations.arrays import FloatArray
from simulations.instrument import Orientation

APPLICATION = b"horace"
COLUMNS = 9  # numbers of a pixel: four coordinates, run, detector, energy bin, signal, variance
BYTES_PER_PIXEL = 4 * COLUMNS
DIRECT = 1  # emode of direct geometry
_DEEPEST = 40  # values of version 4 inside each other
_MOST_AXES = 8  # of such a value


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SqwRun:
    """Header of one contributing run."""

    number: int  # as pixels name it
    name: str  # of the file that it came from; may be empty
    emode: int
    ei_meV: float  # fixed energy; of direct geometry the incident one
    psi_deg: float
    mount: Orientation
    lattice: tuple[float, ...] | None  # a, b, c in angstrom, alpha, beta, gamma in degrees
    to_rlu: FloatArray | None  # (3, 3) projected coordinates in 1/angstrom to hkl
    energy_edges_meV: FloatArray  # (bins + 1,)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SqwDetectors:
    """Detectors as the file lists them, (detectors,) each."""

    group: NDArray[np.int64]  # as pixels name them
    distance_m: FloatArray
    polar_deg: FloatArray
    azimuth_deg: FloatArray  # from +x to +y in our laboratory frame
    width_m: FloatArray
    height_m: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SqwContent:
    """All of a file but its pixels."""

    path: Path
    order: str  # of bytes, "<" or ">"
    version: float
    title: str
    instrument_name: str  # empty where the file names none
    runs: tuple[SqwRun, ...]
    detectors: SqwDetectors
    first_pixel: int  # byte
    pixels: int
    problems: tuple[str, ...] = ()


def byte_order(head: bytes) -> str | None:
    """``"<"`` or ``">"`` of a file that begins as SQW does; None if it is none."""
    for order, length in (("<", b"\x06\0\0\0"), (">", b"\0\0\0\x06")):
        if head.startswith(length + APPLICATION):
            return order
    return None


def read_content(path: Path, file: BinaryIO, size: int) -> SqwContent:
    """Read everything before the pixels.

    Parameters
    ----------
    path : Path
        For messages.
    file : binary file
        Open SQW file.
    size : int
        Bytes in it.

    Raises
    ------
    UnreadableError
        If a field is cut, impossible, or of a version or kind that is not known.
    """
    file.seek(0)
    order = byte_order(file.read(10))
    if order is None:
        raise UnreadableError(
            f"{path}: does not begin with the name of Horace; expected an SQW file. Check the path"
        )
    at = SqwCursor(path, file, order, 10, size)
    version, kind = float(at.number("version", "d")), at.number("type of file", "i")
    at.count("number of dimensions", "i", 4)
    if kind != 1:
        raise UnreadableError(
            f"{path}: an image without pixels (type {kind}); expected an SQW file with pixels, "
            "type 1. Give the SQW file that it was cut from"
        )
    known = (1 <= version < 3.2) or 3.25 <= version < 3.4 or 4 <= version < 5
    if not known:
        other = ", indirect geometry," if 3.2 <= version < 3.25 else ""
        raise UnreadableError(
            f"{path}: SQW version is {version:g}{other} which is not read; expected 1 to 3.1, 3.3 "
            "or 4. Write it again with Horace 3 or 4"
        )
    content = _blocks(at, version) if version >= 4 else _sequence(at, version)
    twice = len(content.runs) - len({run.number for run in content.runs})
    if twice:
        raise UnreadableError(
            f"{path}: {twice} run numbers repeat; expected every run once. Combine it again with "
            "Horace"
        )
    return content


def _sequence(at: SqwCursor, version: float) -> SqwContent:
    """Versions before 4."""
    for field in ("file name", "file path"):
        at.text(f"main header, {field}")
    title = at.text("main header, title")
    n_runs = at.count("main header, nfiles")
    runs: list[SqwRun] = []
    for k in range(n_runs):
        runs.append(_run_header(at, k + 1, f"header of run {k + 1} of {n_runs}"))
    detectors = _detectors_of(at)
    n_bins = _image_header(at)
    for field, width in (("signal of the image", 4), ("error of the image", 4), ("npix", 8)):
        at.skip(field, n_bins * width)
    at.skip("range of the pixels", 8 * 4 + 4)
    pixels = at.count("number of pixels", "q")
    first = at.skip("pixels", pixels * BYTES_PER_PIXEL)
    return SqwContent(
        path=at.path,
        order=at.order,
        version=version,
        title=title,
        instrument_name="",
        runs=tuple(runs),
        detectors=detectors,
        first_pixel=first,
        pixels=pixels,
    )


def _run_header(at: SqwCursor, place: int, what: str) -> SqwRun:
    name = at.text(f"{what}, file name")
    at.text(f"{what}, file path")
    efix, emode = at.number(f"{what}, efix", "f"), at.number(f"{what}, emode", "i")
    lattice = at.array(f"{what}, alatt and angdeg", "f4", 6)
    u, v = at.array(f"{what}, cu", "f4", 3), at.array(f"{what}, cv", "f4", 3)
    angles = np.degrees(at.array(f"{what}, psi, omega, dpsi, gl, gs", "f4", 5).astype(float))
    edges = at.array(f"{what}, en", "f4", at.count(f"{what}, number of energies"))
    at.skip(f"{what}, uoffset", 4 * 4)
    to_rlu = at.array(f"{what}, u_to_rlu", "f4", 16).reshape(4, 4).T[:3, :3].astype(float)
    at.skip(f"{what}, ulen", 4 * 4)
    rows, columns = at.count(f"{what}, ulabel"), at.count(f"{what}, ulabel")
    at.skip(f"{what}, ulabel", rows * columns)
    own = re.search(r"\$id\$(\d+)", name)  # a number of its own, hidden in the name
    return SqwRun(
        number=int(own.group(1)) if own else place,
        name=name.partition("$id$")[0],
        emode=int(emode),
        ei_meV=float(efix),
        psi_deg=float(angles[0]),
        mount=_mount(u, v, angles[1:]),
        lattice=tuple(float(x) for x in lattice),
        to_rlu=to_rlu,
        energy_edges_meV=edges.astype(np.float64),
    )


def _mount(u: FloatArray, v: FloatArray, angles_deg: FloatArray) -> Orientation:
    omega, dpsi, gl, gs = (float(angle) for angle in angles_deg)
    return Orientation(
        u=(float(u[0]), float(u[1]), float(u[2])),
        v=(float(v[0]), float(v[1]), float(v[2])),
        omega_deg=omega,
        dpsi_deg=dpsi,
        gl_deg=gl,
        gs_deg=gs,
    )


def _detectors_of(at: SqwCursor) -> SqwDetectors:
    for field in ("file name", "file path"):
        at.text(f"detectors, {field}")
    n = at.count("number of detectors")
    columns = [
        at.array(f"detectors, {field}", "f4", n).astype(np.float64)
        for field in ("group", "x2", "phi", "azim", "width", "height")
    ]
    return _detectors(at.path, columns)


def _detectors(path: Path, columns: Sequence[FloatArray]) -> SqwDetectors:
    group, distance, polar, azimuth, width, height = columns
    if len(group) == 0:
        raise UnreadableError(
            f"{path}: lists no detectors (detpar is empty); expected their angles, which place the "
            "pixels. Write the file with Horace from runs that know their detectors"
        )
    whole = np.isfinite(group) & (group == np.floor(group)) & (np.abs(group) < 2**53)
    if not whole.all() or len(np.unique(group)) != len(group):
        raise UnreadableError(
            f"{path}: detectors, group holds numbers that repeat or are not whole; expected every "
            "detector once. The file is damaged: copy it again"
        )
    return SqwDetectors(
        group=group.astype(np.int64),
        distance_m=distance,
        polar_deg=polar,
        azimuth_deg=azimuth,
        width_m=width,
        height_m=height,
    )


def _image_header(at: SqwCursor) -> int:
    """Pass over the image's header; returns how many bins the image has."""
    for field in ("file name", "file path", "title"):
        at.text(f"image, {field}")
    at.skip("image, lattice and projection", 4 * (3 + 3 + 4 + 16 + 4))
    rows, columns = at.count("image, labels"), at.count("image, labels")
    at.skip("image, labels", rows * columns)
    plotted = at.count("image, number of axes", "i", 4)
    at.skip("image, integrated axes", (4 - plotted) * (4 + 8) + plotted * 4)
    bins = 1
    for k in range(plotted):
        edges = at.count(f"image, edges of axis {k + 1}")
        if edges < 2:
            raise at.fault(f"image, edges of axis {k + 1}", f"are {edges}", "2 or more")
        at.skip(f"image, edges of axis {k + 1}", 4 * edges)
        bins *= edges - 1
    at.skip("image, order of axes", plotted * 4)
    return bins


# -- version 4 ------------------------------------------------------------------------------------

_SIMPLE = {
    0: "u1",  # logical
    3: "f8",
    4: "f4",
    5: "i1",
    6: "u1",
    7: "i2",
    8: "u2",
    9: "i4",
    10: "u4",
    11: "i8",
    12: "u8",
}
_TEXT, _CELLS, _STRUCT, _SELF = 1, 23, 24, 32


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    begin: int
    size: int


def _blocks(at: SqwCursor, version: float) -> SqwContent:
    table = _table(at)

    def value(*name: str) -> Any:
        key = "/".join(name)
        block = table.get(key)
        if block is None:
            raise at.fault(f"block {key!r}", "is missing", f"it among {', '.join(sorted(table))}")
        inside = SqwCursor(at.path, at.stream, at.order, block.begin, block.begin + block.size)
        return _value(inside, f"block {key!r}")

    header = _first(value("", "main_header"), "title") or {}
    problems: list[str] = []
    lattices = _lattices(value("experiment_info", "samples"))
    runs = _runs(at, value("experiment_info", "expdata"), lattices)
    detectors = _detectors(at.path, _detector_columns(at, value("", "detpar")))
    metadata = _first(value("pix", "metadata"), "npix") or {}
    if np.size(metadata.get("alignment_matr", ())):
        problems.append(
            "pixels were aligned anew (alignment_matr), u and v are those before; find the mount "
            "with align"
        )
    wrapped = table.get("pix/data_wrap")
    if wrapped is None:
        raise at.fault("block 'pix/data_wrap'", "is missing", "the pixels")
    inside = SqwCursor(at.path, at.stream, at.order, wrapped.begin, wrapped.begin + wrapped.size)
    columns = inside.count("pixels, numbers of each", "I")
    if columns != COLUMNS:
        raise at.fault("pixels, numbers of each", f"are {columns}", f"{COLUMNS}")
    pixels = inside.count("number of pixels", "Q")
    first = inside.skip("pixels", pixels * BYTES_PER_PIXEL)
    return SqwContent(
        path=at.path,
        order=at.order,
        version=version,
        title=str(header.get("title", "")),
        instrument_name=_instrument_name(value("experiment_info", "instruments")),
        runs=runs,
        detectors=detectors,
        first_pixel=first,
        pixels=pixels,
        problems=tuple(problems),
    )


def _table(at: SqwCursor) -> dict[str, _Block]:
    at.count("size of the block table", "I")
    found: dict[str, _Block] = {}
    n = at.count("number of blocks", "I", 1000)
    for k in range(n):
        what = f"block {k + 1} of {n}"
        _, name, second = (at.text(f"{what}, {field}") for field in ("type", "name", "name"))
        begin, size = at.count(f"{what}, position", "Q"), at.count(f"{what}, size", "Q")
        if begin + size > at.end:
            raise at.fault(
                f"block {name}/{second}",
                f"ends at byte {begin + size}",
                f"it within the {at.end} bytes of the file",
            )
        found[f"{name}/{second}"] = _Block(begin=begin, size=size)
    return found


def _value(at: SqwCursor, what: str, depth: int = 0) -> Any:
    """One value with type and shape before it: array, text, list, or list of dicts."""
    if depth > _DEEPEST:
        raise at.fault(what, f"holds values {depth} deep", f"at most {_DEEPEST}")
    tag = at.number(f"{what}, type", "B")
    if tag == _SELF:
        return _value(at, what, depth + 1)
    axes = at.count(f"{what}, number of axes", "B", _MOST_AXES)
    shape = tuple(at.count(f"{what}, shape", "I") for _ in range(axes))
    count = math.prod(shape) if shape else 0
    if tag == _TEXT:
        return at.text(what, count)
    if tag in _SIMPLE:
        values = at.array(what, _SIMPLE[tag], count)
        return values.reshape(shape, order="F") if count else values
    if tag == _CELLS:
        if 2 * count > at.end - at.at:  # each takes two bytes or more
            raise at.fault(what, f"announces {count} values", "as many as the block holds")
        return [_value(at, what, depth + 1) for _ in range(count)]
    if tag != _STRUCT:
        raise at.fault(what, f"has type {tag} at byte {at.at}", "one that Horace writes")
    n = at.count(f"{what}, number of fields", "I", 10_000)
    sizes = [at.count(f"{what}, name of a field", "I") for _ in range(n)]
    names = [at.text(f"{what}, name of a field", size) for size in sizes]
    if n == 0:
        return []
    values = _value(at, what, depth + 1)
    if not isinstance(values, list) or len(values) % n:
        raise at.fault(what, f"does not fill its {n} fields", "a value for each")
    return [dict(zip(names, values[k : k + n], strict=True)) for k in range(0, len(values), n)]


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    """Every dict inside a value, the outer ones first."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _dicts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _dicts(inner)


def _first(value: Any, *names: str) -> dict[str, Any] | None:
    """First dict that has all of some names."""
    return next((found for found in _dicts(value) if set(names) <= found.keys()), None)


def _instrument_name(value: Any) -> str:
    told = (found["name"] for found in _dicts(value) if "source" in found and "name" in found)
    names = {name.strip() for name in told if isinstance(name, str)}
    return names.pop() if len(names) == 1 else ""


def _lattices(value: Any) -> list[tuple[float, ...]]:
    """Lattice of every run, or one for all; empty where there is none."""
    kept = [
        tuple(float(x) for x in (*np.ravel(found["alatt"]), *np.ravel(found["angdeg"])))
        for found in _dicts(value)
        if all(_is_array(found.get(name), 3) for name in ("alatt", "angdeg"))
    ]
    index = _first(value, "idx")
    if len(kept) < 2 or index is None or not isinstance(index["idx"], np.ndarray):
        return kept[:1]
    places = [_whole(x, 0) - 1 for x in np.ravel(index["idx"])]
    return [kept[place] for place in places if 0 <= place < len(kept)]


def _is_array(value: Any, size: int) -> bool:
    return isinstance(value, np.ndarray) and value.size == size


def _whole(value: float, otherwise: int) -> int:
    return int(value) if math.isfinite(value) else otherwise


def _runs(at: SqwCursor, value: Any, lattices: Sequence[tuple[float, ...]]) -> tuple[SqwRun, ...]:
    headers = [found for found in _dicts(value) if {"efix", "en", "psi"} <= found.keys()]
    runs: list[SqwRun] = []
    for k, header in enumerate(headers):
        what = f"header of run {k + 1} of {len(headers)}"

        def numbers(
            name: str, count: int | None = None, header: dict[str, Any] = header, what: str = what
        ) -> FloatArray:
            found = header.get(name)
            if not isinstance(found, np.ndarray) or (count and found.size != count):
                size = found.size if isinstance(found, np.ndarray) else "no"
                expected = "numbers" if count is None else f"{count} numbers"
                raise at.fault(f"{what}, {name}", f"has {size} numbers", expected)
            return found.astype(np.float64).ravel(order="F")

        degrees = "angular_is_degree" in header and bool(numbers("angular_is_degree", 1)[0])
        angles = np.array([numbers(key, 1)[0] for key in ("psi", "omega", "dpsi", "gl", "gs")])
        angles = angles if degrees else np.degrees(angles)
        number = numbers("run_id", 1)[0] if "run_id" in header else float(k + 1)
        to_rlu = header.get("u_to_rlu")
        square = isinstance(to_rlu, np.ndarray) and to_rlu.shape in ((3, 3), (4, 4))
        lattice = lattices[k] if len(lattices) > k else next(iter(lattices), None)
        efix = numbers("efix")
        runs.append(
            SqwRun(
                number=_whole(number, k + 1),
                name=str(header.get("filename", "")),
                emode=_whole(numbers("emode", 1)[0], -1),
                ei_meV=float(efix[0]) if len(efix) else float("nan"),
                psi_deg=float(angles[0]),
                mount=_mount(
                    numbers("cu" if "cu" in header else "u", 3),
                    numbers("cv" if "cv" in header else "v", 3),
                    angles[1:],
                ),
                lattice=lattice,
                to_rlu=to_rlu[:3, :3].astype(float)
                if square and isinstance(to_rlu, np.ndarray)
                else None,
                energy_edges_meV=numbers("en"),
            )
        )
    return tuple(runs)


def _detector_columns(at: SqwCursor, value: Any) -> list[FloatArray]:
    """Group, distance, angles and sizes, whichever class of Horace lists them."""
    lists = [found for found in _dicts(value) if {"x2", "phi", "azim"} <= found.keys()]
    if len(lists) > 1:
        raise at.fault("block '/detpar'", f"lists detectors {len(lists)} times", "one list")
    if not lists:
        return [np.empty(0)] * 6
    (found,) = lists
    sizes = _first(found.get("det"), "dia", "height") or found
    columns = [
        found.get("group", found.get("id")),
        found["x2"],
        found["phi"],
        found["azim"],
        sizes.get("width", sizes.get("dia")),
        sizes.get("height"),
    ]
    n = np.size(found["phi"])
    kept: list[FloatArray] = []
    for name, column in zip(
        ("group", "x2", "phi", "azim", "width", "height"), columns, strict=True
    ):
        flat = np.ravel(column) if isinstance(column, np.ndarray) else np.empty(0)
        if flat.size == 1 and n > 1 and name in ("width", "height"):
            flat = np.full(n, flat[0])
        if flat.size != n:
            raise at.fault(f"detectors, {name}", f"has {flat.size} numbers", f"{n}")
        kept.append(flat.astype(np.float64))
    return kept
