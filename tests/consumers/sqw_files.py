"""SQW files of invented scans in the layouts of Horace, and broken ones made from them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

EI_MEV = 40.0
LATTICE = (4.0, 5.0, 6.5, 91.0, 95.0, 103.0)
U, V = (1.0, 0.5, 0.0), (0.2, 0.0, 1.0)
ARCS_DEG = (7.0, 0.4, 1.5, -0.8)  # omega, dpsi, gl, gs
PSI_DEG = (-11.0, 0.0, 17.5)
EDGES = np.linspace(-4.0, 36.0, 21)
DETECTORS = 30


def detectors() -> np.ndarray:
    """(6, detectors): group, distance, polar, azimuth, width, height; groups are no plain count."""
    rng = np.random.default_rng(4)
    return np.array(
        [
            np.arange(DETECTORS) * 3 + 7,
            rng.uniform(2.5, 4.0, DETECTORS),
            rng.uniform(5.0, 110.0, DETECTORS),
            rng.uniform(-170.0, 170.0, DETECTORS),
            np.full(DETECTORS, 0.025),
            rng.uniform(0.01, 0.03, DETECTORS),
        ]
    ).astype(np.float32)


def all_pixels(numbers: tuple[int, ...] = (1, 2, 3), seed: int = 9) -> np.ndarray:
    """(pixels, 9) float32 of three whole runs, coordinates by the formulas of Horace's paper.

    Spectrometer axes are those of Horace: x along the beam, z up.
    """
    table = detectors().astype(float)
    rng = np.random.default_rng(seed)
    a, b, c = LATTICE[:3]
    ca, cb, cc = np.cos(np.radians(LATTICE[3:]))
    sc = np.sqrt(1 - cc**2)
    volume = a * b * c * np.sqrt(1 - ca**2 - cb**2 - cc**2 + 2 * ca * cb * cc)
    sa, sb = np.sin(np.radians(LATTICE[3])), np.sin(np.radians(LATTICE[4]))
    a_, b_, c_ = (2 * np.pi * x / volume for x in (b * c * sa, a * c * sb, a * b * sc))
    cos_b_ = (ca * cc - cb) / (sa * sc)
    cos_c_ = (ca * cb - cc) / (sa * sb)
    B = np.array(
        [
            [a_, b_ * cos_c_, c_ * cos_b_],
            [0, b_ * np.sqrt(1 - cos_c_**2), -c_ * np.sqrt(1 - cos_b_**2) * ca],
            [0, 0, 2 * np.pi / c],
        ]
    )
    e1 = B @ U / np.linalg.norm(B @ U)
    e3 = np.cross(B @ U, B @ V)
    e3 /= np.linalg.norm(e3)
    to_uv = np.array([e1, np.cross(e3, e1), e3])  # crystal Cartesian to the frame of u and v

    def turn(axis: int, angle_deg: float) -> np.ndarray:
        s, k = np.sin(np.radians(angle_deg)), np.cos(np.radians(angle_deg))
        i, j = (axis + 1) % 3, (axis + 2) % 3
        R = np.eye(3)
        R[i, i] = R[j, j] = k
        R[i, j], R[j, i] = -s, s
        return R

    omega, dpsi, gl, gs = ARCS_DEG
    arcs = turn(2, dpsi) @ turn(1, gl) @ turn(0, gs)
    correction = (turn(2, omega) @ arcs @ turn(2, omega).T).T
    rows = []
    polar, azimuth = np.radians(table[2]), np.radians(table[3])
    n = np.array([np.cos(polar), np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth)])
    centre = (EDGES[1:] + EDGES[:-1]) / 2
    for number, psi in zip(numbers, PSI_DEG, strict=True):
        to_crystal = np.linalg.inv(np.linalg.inv(correction) @ to_uv) @ turn(2, -psi)
        for k in range(DETECTORS):
            for bin_ in range(len(centre)):
                ki, kf = (np.sqrt(x / 2.0721248) for x in (EI_MEV, EI_MEV - centre[bin_]))
                Q = to_crystal @ (np.array([ki, 0, 0]) - kf * n[:, k])
                counts = rng.poisson(1.2)
                rows.append(
                    [*Q, centre[bin_], number, table[0, k], bin_ + 1, counts / 3, counts / 9]
                )
    return np.array(rows).astype(np.float32)


def cut_pixels(numbers: tuple[int, ...] = (1, 2, 3)) -> np.ndarray:
    """Two thirds of all pixels, in another order: what a cut would leave."""
    pixels = all_pixels(numbers)
    rng = np.random.default_rng(1)
    return pixels[rng.permutation(len(pixels))[: 2 * len(pixels) // 3]]


class _Out:
    """Bytes under way, and where named fields lie."""

    def __init__(self, order: str) -> None:
        self.order, self.data = order, bytearray()
        self.places: dict[str, tuple[int, str]] = {}

    def put(self, code: str, *values: Any, field: str = "") -> None:
        if field:
            self.places[field] = (len(self.data), code)
        self.data += struct.pack(f"{self.order}{len(values)}{code}", *values)

    def text(self, value: str, field: str = "") -> None:
        self.put("i", len(value), field=field)
        self.data += value.encode()

    def array(self, values: Any, kind: str, field: str = "") -> None:
        if field:
            self.places[field] = (len(self.data), {"f4": "f", "f8": "d", "i8": "q"}[kind])
        self.data += np.asarray(values).astype(self.order + kind).tobytes(order="F")


def write_sqw(
    path: Path,
    *,
    version: float = 2.0,
    order: str = "<",
    pixels: np.ndarray | None = None,
    numbers: tuple[int, ...] = (1, 2, 3),
    names: tuple[str, ...] = ("map01.spe;1", "map02.nxspe", "map03"),
) -> dict[str, tuple[int, str]]:
    """Write a scan; returns where its fields lie (byte, code of `struct`)."""
    out = _Out(order)
    pixels = cut_pixels(numbers) if pixels is None else pixels
    out.text("horace", "application")
    out.put("d", version, field="version")
    out.put("i", 1, field="type of file")
    out.put("i", 2, field="number of dimensions")
    (_write_blocks if version >= 4 else _write_sequence)(out, pixels, numbers, names)
    if 3 <= version < 4:
        out.data += b"\0" * 500  # instrument and sample, which are not looked at
    path.write_bytes(bytes(out.data))
    return out.places


def _write_sequence(
    out: _Out, pixels: np.ndarray, numbers: tuple[int, ...], names: tuple[str, ...]
) -> None:
    for text in ("scan.sqw", "/data/", "invented scan"):
        out.text(text, "main header, title" if text == "invented scan" else "")
    out.put("i", len(numbers), field="main header, nfiles")
    for k, (number, name, psi) in enumerate(zip(numbers, names, PSI_DEG, strict=True)):
        out.text(name if number == k + 1 else f"{name}$id${number}", f"file name {k + 1}")
        out.text("/data/")
        out.array([EI_MEV], "f4", f"efix {k + 1}")
        out.put("i", 1, field=f"emode {k + 1}")
        out.array([*LATTICE, *U, *V], "f4")
        out.array(np.radians([psi, *ARCS_DEG]), "f4", f"psi {k + 1}")
        out.put("i", len(EDGES), field=f"number of energies {k + 1}")
        out.array(EDGES, "f4", f"en {k + 1}")
        out.array(np.zeros(4), "f4")
        out.array(np.zeros(16), "f4", f"u_to_rlu {k + 1}")
        _fill_u_to_rlu(out, k + 1)
        out.array(np.ones(4), "f4")
        out.put("i", 4, 3, field=f"ulabel {k + 1}")
        out.data += b"QQQE" * 3
    out.text("detectors.par")
    out.text("/data/")
    out.put("i", DETECTORS, field="number of detectors")
    for name, column in zip(
        ("group", "x2", "phi", "azim", "width", "height"), detectors(), strict=True
    ):
        out.array(column, "f4", name)
    for text in ("scan.sqw", "/data/", "image"):
        out.text(text)
    out.array(np.zeros(3 + 3 + 4 + 16 + 4), "f4")
    out.put("i", 4, 1, field="image, labels")
    out.data += b"abcd"
    out.put("i", 2, field="image, number of axes")
    out.put("i", 3, 4)
    out.array(np.zeros(4), "f4")
    out.put("i", 1, 2)
    for k in range(2):
        out.put("i", 3, field=f"image, edges of axis {k + 1}")
        out.array([0, 1, 2], "f4")
    out.put("i", 1, 2)
    out.array(np.zeros(8), "f4")
    out.array([len(pixels), 0, 0, 0], "i8")
    out.array(np.zeros(8), "f4")
    out.put("i", 1)
    out.put("q", len(pixels), field="number of pixels")
    out.array(pixels.T, "f4", "pixels")


def _fill_u_to_rlu(out: _Out, k: int) -> None:
    """The inverse of B, so that pixels in 1/angstrom become hkl."""
    from consumers.recorded.sqw_file import reciprocal_of

    reciprocal = reciprocal_of(LATTICE)
    assert reciprocal is not None
    matrix = np.eye(4)
    matrix[:3, :3] = np.linalg.inv(reciprocal.T)
    begin = out.places[f"u_to_rlu {k}"][0]
    out.data[begin : begin + 64] = matrix.astype(out.order + "f4").tobytes(order="F")


def _value(out: _Out, value: Any) -> None:
    """A value of version 4 with its type and shape."""
    if isinstance(value, str):
        out.put("B", 1, 1)
        out.put("I", len(value))
        out.data += value.encode()
    elif isinstance(value, dict):
        out.put("B", 24, 1)
        out.put("I", 1)
        _struct(out, [value])
    elif isinstance(value, tuple):  # several of a kind
        out.put("B", 24, 1)
        out.put("I", len(value))
        _struct(out, list(value))
    elif isinstance(value, list):
        out.put("B", 23, 2)
        out.put("I", len(value), 1)
        for inner in value:
            _value(out, inner)
    elif isinstance(value, bool):
        out.put("B", 0, 1)
        out.put("I", 1)
        out.put("B", int(value))
    else:
        array = np.atleast_1d(np.asarray(value, float))
        out.put("B", 3, array.ndim)
        out.put("I", *array.shape)
        out.array(array, "f8")


def _struct(out: _Out, values: list[dict[str, Any]]) -> None:
    names = list(values[0])
    out.put("I", len(names))
    out.put("I", *(len(name) for name in names))
    for name in names:
        out.data += name.encode()
    out.put("B", 23, 2)
    out.put("I", len(names), len(values))
    for value in values:
        for name in names:
            _value(out, value[name])


def _write_blocks(
    out: _Out, pixels: np.ndarray, numbers: tuple[int, ...], names: tuple[str, ...]
) -> None:
    headers = tuple(
        {
            "filename": name,
            "run_id": float(number),
            "efix": EI_MEV,
            "emode": 1.0,
            "en": EDGES[:, None],
            "psi": psi,
            "u": np.array(U),
            "v": np.array(V),
            **dict(zip(("omega", "dpsi", "gl", "gs"), ARCS_DEG, strict=True)),
            "angular_is_degree": True,
        }
        for number, name, psi in zip(numbers, names, PSI_DEG, strict=True)
    )
    group, x2, phi, azim, width, height = detectors().astype(float)
    bank = {
        "id": group, "x2": x2, "phi": phi, "azim": azim, "dmat": np.zeros((3, 3)),
        "det": {"dia": width, "height": height, "wall": 0.1, "atms": 10.0},
    }  # fmt: skip

    def unique(*objects: dict[str, Any]) -> dict[str, Any]:
        inner = {"baseclass": "x", "unique_objects": list(objects), "idx": np.ones(len(numbers))}
        return {"serial_name": "unique_references_container", "unique_objects": inner}

    values = {
        ("", "main_header"): {"title": "invented scan", "nfiles": float(len(numbers))},
        ("", "detpar"): unique({"det_bank": bank, "filename": "x"}),
        ("experiment_info", "instruments"): unique({"source": {"name": "ISIS"}, "name": "LET"}),
        ("experiment_info", "samples"): unique(
            {"alatt": np.array(LATTICE[:3]), "angdeg": np.array(LATTICE[3:])}
        ),
        ("experiment_info", "expdata"): {"array_dat": headers},
        ("pix", "metadata"): {"npix": float(len(pixels)), "data_range": np.zeros((2, 9))},
    }
    blocks: list[tuple[str, str, str, bytes]] = []
    for (name, second), value in values.items():
        block = _Out(out.order)
        _value(block, value)
        blocks.append(("data_block", name, second, bytes(block.data)))
    block = _Out(out.order)
    block.put("I", 9)
    block.put("Q", len(pixels))
    block.array(pixels.T, "f4")
    blocks.append(("pix_data_block", "pix", "data_wrap", bytes(block.data)))
    size = sum(12 + 16 + len(kind) + len(a) + len(b) for kind, a, b, _ in blocks) + 4
    at = len(out.data) + 4 + size
    out.put("I", size)
    out.put("I", len(blocks), field="number of blocks")
    for kind, name, second, data in blocks:
        for text in (kind, name, second):
            out.text(text)
        out.put("Q", at, field=f"{name}/{second} position")
        out.put("Q", len(data), field=f"{name}/{second} size")
        out.places[f"{name}/{second}"] = (at, "B")
        at += len(data)
    for *_, data in blocks:
        out.data += data
    begin = out.places["pix/data_wrap"][0]
    out.places |= {
        "pixels, numbers of each": (begin, "I"),
        "number of pixels": (begin + 4, "Q"),
        "pixels": (begin + 12, "f"),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class HostileSqw:
    """A broken SQW file: which field gets which value, and words its refusal must contain."""

    name: str
    spoil: Callable[[bytearray, dict[str, tuple[int, str]]], None]
    words: str
    version: float = 2.0
    whole: bool = True  # the file is refused; else one run of it

    def make(self, folder: Path) -> Path:
        """Write the broken file into ``folder``."""
        path = folder / f"{self.name.replace(' ', '_').replace('/', '_')}.sqw"
        places = write_sqw(path, version=self.version)
        data = bytearray(path.read_bytes())
        self.spoil(data, places)
        path.write_bytes(bytes(data))
        return path


def _set(field: str, value: float, offset: int = 0) -> Callable:
    def spoil(data: bytearray, places: dict[str, tuple[int, str]]) -> None:
        at, code = places[field]
        struct.pack_into("<" + code, data, at + offset, value)

    return spoil


def _cut(share: float) -> Callable:
    def spoil(data: bytearray, _: dict[str, tuple[int, str]]) -> None:
        del data[int(share * len(data)) :]

    return spoil


def _repeat(data: bytearray, places: dict[str, tuple[int, str]]) -> None:
    """The second pixel becomes the first one with another signal."""
    at = places["pixels"][0]
    data[at + 36 + 16 : at + 36 + 28] = data[at + 16 : at + 28]
    struct.pack_into("<f", data, at + 36 + 28, 77.0)


RUN, DETECTOR, ENERGY = 16, 20, 24  # bytes into a pixel
NAN, HUGE = float("nan"), 1 << 60


def _cases(name: str, *spoils: tuple[Any, Callable, str], **how: Any) -> list[HostileSqw]:
    return [
        HostileSqw(name=f"{name} {what}", spoil=spoil, words=words, **how)
        for what, spoil, words in spoils
    ]


HOSTILE_SQW: tuple[HostileSqw, ...] = (
    *_cases(
        "cut at",
        *(
            (share, _cut(share), "cut or damaged|Check the path|no HDF5")
            for share in (0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.9999)
        ),
    ),
    *_cases(
        "four cut at",
        *(
            (share, _cut(share), "cut or damaged|Check the path")
            for share in (0.005, 0.01, 0.1, 0.5, 0.9, 0.9999)
        ),
        version=4.0,
    ),
    *_cases(
        "version",
        *((v, _set("version", v), "SQW version is") for v in (NAN, 0.0, 3.2, 3.21, 7.0, -1e300)),
    ),
    *_cases(
        "type",
        ("image", _set("type of file", 0), "image without pixels"),
        ("odd", _set("type of file", 99), "image without pixels"),
    ),
    *_cases(
        "length",
        ("title 2^31", _set("main header, title", 2**31 - 1), "main header, title"),
        ("title negative", _set("main header, title", -1), "main header, title"),
        ("runs 2^31", _set("main header, nfiles", 2**31 - 1), "header of run 4"),
        ("no runs", _set("main header, nfiles", 0), "nfiles is 0|cut or damaged|group holds"),
        ("energies", _set("number of energies 2", 2**31 - 1), "header of run 2 of 3, en"),
        ("energies negative", _set("number of energies 2", -5), "number of energies"),
        ("labels", _set("ulabel 1", 2**31 - 1), "header of run 1 of 3, ulabel"),
        ("detectors", _set("number of detectors", 2**31 - 1), "detectors, group takes"),
        ("no detectors", _set("number of detectors", 0), "no detectors|cut or damaged"),
        ("axes", _set("image, number of axes", 9), "number of axes"),
        ("axis", _set("image, edges of axis 2", 2**31 - 1), "edges of axis 2"),
        ("axis of nothing", _set("image, edges of axis 1", 0), "edges of axis 1"),
        ("pixels 2^60", _set("number of pixels", HUGE), "pixels takes"),
        ("pixels negative", _set("number of pixels", -1), "number of pixels"),
        ("no pixels", _set("number of pixels", 0), "number of pixels is 0"),
    ),
    *_cases(
        "pixel",
        ("run NaN", _set("pixels", NAN, RUN + 36 * 5), "run of pixel 6 is nan"),
        ("run 0", _set("pixels", 0.0, RUN), "run of pixel 1 is 0"),
        ("run 4", _set("pixels", 4.0, RUN), "run of pixel 1 is 4"),
        ("run infinite", _set("pixels", float("inf"), RUN), "run of pixel 1 is inf"),
        ("detector 8", _set("pixels", 8.0, DETECTOR), "detector of pixel 1 is 8"),
        ("detector half", _set("pixels", 7.5, DETECTOR), "detector of pixel 1 is 7.5"),
        ("detector huge", _set("pixels", 3e38, DETECTOR), "detector of pixel 1 is 3e"),
        ("bin 0", _set("pixels", 0.0, ENERGY), "energy bin of pixel 1 is 0"),
        ("bin 21", _set("pixels", 21.0, ENERGY), "energy bin of pixel 1 is 21.*from 1 to 20"),
        ("bin NaN", _set("pixels", NAN, ENERGY), "energy bin of pixel 1 is nan"),
    ),
    *_cases(
        "detector",
        ("group NaN", _set("group", NAN), "group holds"),
        ("group twice", _set("group", 10.0), "group holds"),
    ),
    *_cases(
        "run",
        ("psi NaN", _set("psi 1", NAN), "psi is NaN"),
        ("indirect", _set("emode 1", 2), "emode is 2"),
        ("efix NaN", _set("efix 1", NAN), "efix is nan"),
        ("energies fall", _set("en 1", 99.0), "en does not rise"),
        ("energies NaN", _set("en 1", NAN, 8), "en does not rise"),
        ("pixel twice", _repeat, "comes more than once"),
        whole=False,
    ),
    *_cases(
        "block",
        ("count", _set("number of blocks", 2**32 - 1), "number of blocks"),
        ("size", _set("/detpar size", HUGE), "block /detpar ends at byte"),
        ("position", _set("pix/metadata position", HUGE), "ends at byte"),
        ("other value", _set("/detpar position", 1 << 9), "block '/detpar'|detpar is empty"),
        ("type", _set("experiment_info/expdata", 99), "has type 99"),
        ("columns", _set("pixels, numbers of each", 8), "numbers of each are 8"),
        ("pixels 2^60", _set("number of pixels", HUGE), "pixels takes"),
        ("pixel run", _set("pixels", NAN, RUN), "run of pixel 1 is nan"),
        version=4.0,
    ),
)
