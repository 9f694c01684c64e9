"""Pixel files of Horace (SQW): every contributing run becomes a histogram of its own.

A pixel keeps run, detector and energy bin beside its projected coordinates, so that the runs of a
rotation scan can be taken apart again: detectors x energy bins with signal and error, psi of the
run's header. What a cut left out of the file is unknown, not empty.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from consumers.recorded.hdf5_file import UnreadableError
from consumers.recorded.nxspe_file import ReducedRun
from consumers.recorded.sqw_layout import (
    BYTES_PER_PIXEL,
    COLUMNS,
    DIRECT,
    SqwContent,
    SqwRun,
    byte_order,
    read_content,
)
from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.instrument import (
    UNKNOWN_RESOLUTION,
    Instrument,
    crystal_to_lab,
    wave_vector,
)

PIXELS_PER_READ = 1 << 18  # 9 MiB
PIXELS_HELD = 1 << 23  # of runs that one pass over the file takes apart, 0.8 GB
LARGEST_HISTOGRAM = 1 << 28  # detectors x energy bins of a run, 4 GiB of signal and error
U4, RUN, DETECTOR, ENERGY, SIGNAL, VARIANCE = 3, 4, 5, 6, 7, 8  # columns
FURTHEST_M = 1e3  # of a detector; more is no distance
_QUIET = np.errstate(all="ignore")  # numbers of a damaged file may be any
RESIDUAL_RLU = 1e-4  # beyond rounding: pixels and headers tell of different geometries


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SqwPixels:
    """A file whose pixels were all looked at once: each names a run, a detector, a bin it has."""

    content: SqwContent
    instrument: Instrument  # of the detectors that have pixels in the file, no others
    place: NDArray[np.int64]  # (detectors of the file,) in the instrument; -1: not there
    pixels_of_run: NDArray[np.int64]  # (runs,)
    problems: tuple[str, ...]


def looks_like_sqw(path: Path | str) -> bool:
    """Whether a file begins as those of Horace do."""
    try:
        with Path(path).open("rb") as file:
            return byte_order(file.read(10)) is not None
    except OSError:
        return False


@contextmanager
def _open(path: Path) -> Generator[tuple[BinaryIO, int]]:
    """An open file and its size; what the system cannot read raises ``UnreadableError``."""
    if not path.is_file():
        raise UnreadableError(f"{path}: no such file. Check the path")
    try:
        with path.open("rb") as file:
            yield file, path.stat().st_size
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read ({error.strerror})") from error


@_QUIET
def read_sqw(path: Path | str) -> SqwPixels:
    """Read headers and look at every pixel once, block by block.

    Parameters
    ----------
    path : Path
        SQW file with pixels, version 1 to 3.1, 3.3 or 4, of either byte order.

    Raises
    ------
    UnreadableError
        If it is cut, foreign or contradicts itself, or a pixel names a run, a detector or an
        energy bin that the file does not have. Lengths are checked against the size of the file
        before memory is taken.
    """
    path = Path(path)
    with _open(path) as (file, size):
        content = read_content(path, file, size)
        if not content.runs:
            raise UnreadableError(f"{path}: nfiles is 0; expected contributing runs")
        if not content.pixels:
            raise UnreadableError(
                f"{path}: number of pixels is 0; expected some. Cut a wider region with Horace"
            )
        where = _Places(content)
        n_detectors = len(content.detectors.group)
        pixels_of_run = np.zeros(len(content.runs), np.int64)
        seen = np.zeros(n_detectors, np.bool_)
        unknown = 0
        for first, block in _pixel_blocks(content, file):
            run, detector, _ = where.of(block, first)
            pixels_of_run += np.bincount(run, minlength=len(pixels_of_run))
            seen[detector] = True
            unknown += int((~_known(block[:, SIGNAL], block[:, VARIANCE])).sum())
    problems = [*content.problems]
    if unknown:
        share = "no pixel has" if unknown == content.pixels else f"{unknown} pixels are without"
        problems.append(f"{share} a finite signal and its error; they count as unknown")
    without = int((pixels_of_run == 0).sum())
    if without:
        problems.append(f"{without} of {len(content.runs)} runs have no pixel in the file")
    return SqwPixels(
        content=content,
        instrument=_instrument(content, seen, problems),
        place=np.where(seen, np.cumsum(seen) - 1, -1),
        pixels_of_run=pixels_of_run,
        problems=tuple(problems),
    )


def _known(signal: NDArray[np.float32], variance: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where something was measured: nothing counted is a signal of 0 with a variance of 0."""
    finite = np.isfinite(signal) & np.isfinite(variance)
    return finite & ((variance > 0) | ((variance == 0) & (signal == 0)))


def _pixel_blocks(
    content: SqwContent, file: BinaryIO, *, every: int = 1
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(number of the first pixel, pixels x 9), block by block, or every n-th block."""
    dtype = np.dtype(content.order + "f4")
    for first in range(0, content.pixels, every * PIXELS_PER_READ):
        file.seek(content.first_pixel + first * BYTES_PER_PIXEL)
        count = min(PIXELS_PER_READ, content.pixels - first)
        data = file.read(count * BYTES_PER_PIXEL)
        if len(data) != count * BYTES_PER_PIXEL:
            raise UnreadableError(
                f"{content.path}: pixels end within pixel {first + len(data) // BYTES_PER_PIXEL} "
                f"of {content.pixels}; the file was cut while it was read. Copy it again"
            )
        block = np.frombuffer(data, dtype).reshape(count, COLUMNS)
        yield first, block.astype(np.float32, copy=False)


class _Places:
    """Where pixels belong: indices of run, detector and energy bin in the lists of the file."""

    def __init__(self, content: SqwContent) -> None:
        self._path = content.path
        self._bins = np.array([len(run.energy_edges_meV) - 1 for run in content.runs])
        numbers = np.array([run.number for run in content.runs], np.int64)
        self._runs = _Index(numbers, content.path, "run")
        self._detectors = _Index(content.detectors.group, content.path, "detector")

    def of(
        self, block: NDArray[np.float32], first: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Index of run, of detector and of energy bin, (pixels,) each, from 0."""
        run = self._runs.of(block[:, RUN], first)
        detector = self._detectors.of(block[:, DETECTOR], first)
        given = block[:, ENERGY]
        bins = self._bins[run]
        bad = ~((given >= 1) & (given <= bins) & (given == np.floor(given)))
        if bad.any():
            k = int(np.argmax(bad))
            raise UnreadableError(
                f"{self._path}: energy bin of pixel {first + k + 1} is {given[k]:g}; expected a "
                f"whole number from 1 to {bins[k]}, the bins of its run. The file is damaged: "
                "copy it again"
            )
        return run, detector, given.astype(np.int64) - 1


class _Index:
    """Places of numbers in a list, each number once."""

    def __init__(self, numbers: NDArray[np.int64], path: Path, what: str) -> None:
        self._order = np.argsort(numbers, kind="stable")
        self._sorted = numbers[self._order]
        self._path, self._what = path, what

    def of(self, given: NDArray[np.float32], first: int) -> NDArray[np.int64]:
        """Place of every number; one that is not in the list raises ``UnreadableError``."""
        good = np.isfinite(given) & (given == np.floor(given)) & (np.abs(given) < 2**53)
        whole = np.where(good, given, 0).astype(np.int64)
        place = np.minimum(np.searchsorted(self._sorted, whole), len(self._sorted) - 1)
        good &= self._sorted[place] == whole
        if not good.all():
            k = int(np.argmin(good))
            raise UnreadableError(
                f"{self._path}: {self._what} of pixel {first + k + 1} is {given[k]:g}; expected "
                f"one of the {len(self._sorted)} that the file lists ({self._sorted[0]} to "
                f"{self._sorted[-1]}). The file is damaged: copy it again"
            )
        return self._order[place]


def _instrument(content: SqwContent, seen: NDArray[np.bool_], problems: list[str]) -> Instrument:
    """Detectors seen, as pixels; those without angles are masked."""
    detectors = content.detectors
    polar = np.radians(detectors.polar_deg[seen])
    azimuth = np.radians(detectors.azimuth_deg[seen])
    lost = ~np.isfinite(polar) | ~np.isfinite(azimuth)
    if lost.any():
        problems.append(f"{int(lost.sum())} detectors have no finite angle; masked")
    if lost.all():
        raise UnreadableError(f"{content.path}: no detector has finite angles (phi, azim)")
    distance = detectors.distance_m[seen]
    no_distance = ~((distance > 0) & (distance < FURTHEST_M))
    if no_distance.any():
        problems.append(f"{int(no_distance.sum())} detectors have no distance; taken as 1 m")
    distance = np.where(no_distance, 1.0, distance)
    polar, azimuth = np.where(lost, 0.0, polar), np.where(lost, 0.0, azimuth)
    across = [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)]
    solid = (detectors.width_m * detectors.height_m)[seen] / distance**2
    good = np.isfinite(solid) & (solid > 0)
    if not good.all():
        problems.append(f"{int((~good).sum())} detectors have no width; given the median one")
        solid = np.where(good, solid, np.median(solid[good]) if good.any() else 1e-4)
    return Instrument(
        name=content.instrument_name or "unknown",
        position_m=distance[:, None] * np.stack(across, axis=1),
        solid_angle_sr=solid,
        detector_id=detectors.group[seen],
        masked=lost,
        source_to_sample_m=float("nan"),
        resolution=UNKNOWN_RESOLUTION,
    )


def runs_of_sqw(
    pixels: SqwPixels, *, psi_deg: float | None = None, ei_meV: float | None = None
) -> Iterator[ReducedRun | UnreadableError]:
    """Take a file apart into its runs.

    Parameters
    ----------
    pixels : SqwPixels
        From ``read_sqw``.
    psi_deg : float, optional
        Operator's psi of a run whose header has none.
    ei_meV : float, optional
        Operator's incident energy where the header has none.

    Yields
    ------
    ReducedRun or UnreadableError
        Of every run with pixels, in the order of the headers; the error says why one cannot be
        used, and the next goes on. Pairs of detector and energy bin that are not in the file are
        NaN and ``absent``, those without signal or error are NaN, and 0 with an error of 0 is a
        bin where nothing was counted.

    Raises
    ------
    UnreadableError
        If the file was changed since it was looked at.
    """
    content = pixels.content
    where = _Places(content)
    with _open(content.path) as (file, _):
        for low, high in _passes(pixels.pixels_of_run):
            numbers = [run.number for run in content.runs[low:high]]
            parts: list[tuple[NDArray, ...]] = []
            for first, whole in _pixel_blocks(content, file):
                named = whole[:, RUN]  # most pixels of a pass belong to others: look no further
                block = whole[(named >= min(numbers)) & (named <= max(numbers))]
                run, detector, energy = where.of(block, first)
                detector = pixels.place[detector]
                mine = (run >= low) & (run < high)
                if mine.any():
                    values = block[mine]
                    parts.append(
                        (
                            run[mine].astype(np.int32),
                            detector[mine].astype(np.int32),
                            energy[mine].astype(np.int32),
                            values[:, SIGNAL],
                            values[:, VARIANCE],
                        )
                    )
            if not parts:
                continue
            run, *columns = (np.concatenate(column) for column in zip(*parts, strict=True))
            order = np.argsort(run, kind="stable")
            bounds = np.searchsorted(run[order], np.arange(low, high + 1))
            for k in range(low, high):
                mine = order[bounds[k - low] : bounds[k - low + 1]]
                if len(mine):
                    try:
                        yield _reduced(
                            pixels, k, [column[mine] for column in columns], psi_deg, ei_meV
                        )
                    except UnreadableError as error:
                        yield error


def _passes(pixels_of_run: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of runs whose pixels fit into memory together."""
    low, held = 0, 0
    for k, count in enumerate(pixels_of_run):
        if k > low and held + count > PIXELS_HELD:
            yield low, k
            low, held = k, 0
        held += int(count)
    yield low, len(pixels_of_run)


def name_of_run(content: SqwContent, k: int) -> str:
    """Name of a run: of the file that it came from, with its number where that repeats."""
    stems = [run.name.strip().split(";")[0].partition(".")[0] for run in content.runs]
    stem = stems[k] or content.path.stem
    return stem if stems.count(stems[k]) == 1 and stems[k] else f"{stem}-{content.runs[k].number}"


@_QUIET
def _reduced(
    pixels: SqwPixels,
    k: int,
    columns: list[NDArray],
    psi_deg: float | None,
    ei_meV: float | None,
) -> ReducedRun:
    content = pixels.content
    run, name = content.runs[k], name_of_run(content, k)
    what = f"{content.path}: run {name}"
    if run.emode != DIRECT:
        raise UnreadableError(
            f"{what}: emode is {run.emode}; expected 1, direct geometry. Leave the run out"
        )
    ei = run.ei_meV if run.ei_meV > 0 and np.isfinite(run.ei_meV) else ei_meV
    if ei is None or not (np.isfinite(ei) and ei > 0):
        raise UnreadableError(
            f"{what}: efix is {run.ei_meV:g}; expected the incident energy in meV. Give --ei to "
            "init, instrument.ei_meV to a fold"
        )
    psi = run.psi_deg if np.isfinite(run.psi_deg) else psi_deg
    if psi is None or not np.isfinite(psi):
        raise UnreadableError(f"{what}: psi is NaN; expected an angle. Give --psi")
    edges = run.energy_edges_meV
    if len(edges) < 2 or not np.isfinite(edges).all() or np.any(np.diff(edges) <= 0):
        raise UnreadableError(
            f"{what}: en does not rise from edge to edge; expected energy bin edges in meV"
        )
    if edges[0] >= ei:
        raise UnreadableError(
            f"{what}: en starts at {edges[0]:g} meV, efix is {ei:g} meV; expected less"
        )
    detector, energy, signal, variance = columns
    read = len(signal)
    bins = len(edges) - 1
    if edges[-1] >= ei:
        bins = int(np.searchsorted(edges[:-1], ei * (1 - 1e-6)))
        edges = np.minimum(edges[: bins + 1], ei * (1 - 1e-6))
        inside = energy < bins
        detector, energy, signal, variance = (
            column[inside] for column in (detector, energy, signal, variance)
        )
    n_detectors = pixels.instrument.n_pixels
    if n_detectors * bins > LARGEST_HISTOGRAM:
        raise UnreadableError(
            f"{what}: {n_detectors} detectors x {bins} energy bins; expected at most "
            f"{LARGEST_HISTOGRAM} pairs. Rebin the run"
        )
    place = detector.astype(np.int64) * bins + energy
    order = np.argsort(place, kind="stable")
    place, signal, variance = place[order], signal[order], variance[order]
    again = np.r_[False, place[1:] == place[:-1]]
    if again.any():  # the same pixel may come twice in a symmetrised file, but not with two values
        before = np.flatnonzero(again) - 1
        other = ~_same(signal[again], signal[before]) | ~_same(variance[again], variance[before])
        if other.any():
            bad = int(place[again][other][0])
            raise UnreadableError(
                f"{what}: detector {pixels.instrument.detector_id[bad // bins]}, energy bin "
                f"{bad % bins + 1} comes more than once with different signals; expected one "
                "measurement of each. Runs were combined under one number: combine them again"
            )
        place, signal, variance = place[~again], signal[~again], variance[~again]
    shape = (n_detectors, bins)
    absent = np.ones(shape, np.bool_)
    intensity, error = np.full(shape, np.nan), np.full(shape, np.nan)
    absent.ravel()[place] = False
    known = _known(signal, variance)
    intensity.ravel()[place[known]] = signal[known]
    error.ravel()[place[known]] = np.sqrt(variance[known].astype(np.float64))
    return ReducedRun(
        path=content.path,
        title=content.title or name,
        version=f"SQW {content.version:g}",
        instrument=pixels.instrument,
        ei_meV=float(ei),
        psi_deg=float(psi),
        energy_edges_meV=edges,
        intensity=intensity,
        error=error,
        counts=None,
        proton_charge=1.0,
        minutes=0.0,
        temperature_K=None,
        run_number=name,
        start_time_ns=0,
        absent=absent,
        recorded=read,
        left_out=read - len(place),
    )


def _same(a: NDArray, b: NDArray) -> NDArray[np.bool_]:
    return (a == b) | (np.isnan(a) & np.isnan(b))


@dataclass(frozen=True, kw_only=True, slots=True)
class SqwResidual:
    """How far pixels lie from where psi, detector and energy bin of their run put them."""

    pixels: int  # looked at
    hkl_rlu: float  # largest distance in any of h, k, l, after the scale
    transfer_meV: float  # largest distance
    scale: float  # of all hkl; old versions of Horace took E = 2.07 k^2, which is 1.00052


@_QUIET
def residual_of_sqw(pixels: SqwPixels, *, most_blocks: int = 4) -> SqwResidual | None:
    """Projected coordinates against the geometry of the headers, with kinematics of our own.

    Rounding of float32 leaves about 1e-6; more says that psi, mount, detectors or incident energy
    of the headers are not those that the pixels were projected with, or that a symmetry moved them.

    Parameters
    ----------
    pixels : SqwPixels
        From ``read_sqw``.
    most_blocks : int
        Blocks of pixels to look at, spread over the file.

    Returns
    -------
    SqwResidual or None
        None where no header says what the coordinates mean.
    """
    content, instrument = pixels.content, pixels.instrument
    where, direction = _Places(content), pixels.instrument.direction
    maps = [_projection(run) for run in content.runs]
    all_found: list[FloatArray] = []
    all_expected: list[FloatArray] = []
    worst_energy = 0.0
    every = -(-content.pixels // (most_blocks * PIXELS_PER_READ))
    with _open(content.path) as (file, _):
        for first, block in _pixel_blocks(content, file, every=every):
            run, detector, energy = where.of(block, first)
            detector = pixels.place[detector]
            for k in np.unique(run):
                header, projection = content.runs[k], maps[k]
                mine = np.flatnonzero((run == k) & ~instrument.masked[detector])
                if projection is None:
                    continue
                edges = header.energy_edges_meV
                transfer = (edges[energy[mine]] + edges[energy[mine] + 1]) / 2
                mine, transfer = (x[transfer < header.ei_meV] for x in (mine, transfer))
                if not len(mine):
                    continue
                Q = -wave_vector(header.ei_meV - transfer)[:, None] * direction[detector[mine]]
                Q[:, 2] += wave_vector(header.ei_meV)
                to_hkl, lab_to_hkl = projection
                all_found.append(block[mine, :U4].astype(np.float64) @ to_hkl.T)
                all_expected.append(Q @ lab_to_hkl.T)
                worst_energy = max(worst_energy, float(np.abs(block[mine, U4] - transfer).max()))
    if not all_found:
        return None
    found, expected = np.concatenate(all_found), np.concatenate(all_expected)
    scale = float((found * expected).sum() / (expected**2).sum())
    return SqwResidual(
        pixels=len(found),
        hkl_rlu=float(np.abs(found - scale * expected).max()),
        transfer_meV=worst_energy,
        scale=scale,
    )


def _projection(run: SqwRun) -> tuple[FloatArray, FloatArray] | None:
    """(projected coordinates to hkl, laboratory to hkl); None where the header does not say."""
    if run.lattice is None or run.emode != DIRECT or not np.isfinite(run.psi_deg):
        return None
    try:
        reciprocal = reciprocal_of(run.lattice)
        if reciprocal is None:
            return None
        rotation = crystal_to_lab(run.mount, reciprocal, run.psi_deg)
        lab_to_hkl = np.linalg.inv(rotation @ reciprocal.T)
        to_hkl = np.linalg.inv(reciprocal.T) if run.to_rlu is None else run.to_rlu
    except (InputError, np.linalg.LinAlgError):  # u and v are parallel, or the cell is none
        return None
    if not (np.isfinite(lab_to_hkl).all() and np.isfinite(to_hkl).all()):
        return None
    return np.asarray(to_hkl, np.float64), np.asarray(lab_to_hkl, np.float64)


def reciprocal_of(lattice: tuple[float, ...]) -> FloatArray | None:
    """Reciprocal vectors in rows, 1/angstrom, a* along x and b* in the plane of x and y.

    That is the crystal's Cartesian frame of Busing and Levy, Acta Cryst. 22, 457 (1967). None for
    lengths or angles of no cell.
    """
    a, b, c = lattice[:3]
    ca, cb, cc = np.cos(np.radians(lattice[3:]))
    square = 1 - ca * ca - cb * cb - cc * cc + 2 * ca * cb * cc
    if not (min(a, b, c) > 0 and np.isfinite(square) and square > 1e-12):
        return None
    sc = np.sqrt(1 - cc * cc)
    rows = np.array([[a, 0.0, 0.0], [b * cc, b * sc, 0.0], [c * cb, c * (ca - cb * cc) / sc, 0.0]])
    rows[2, 2] = c * np.sqrt(square) / sc
    any_frame = 2 * np.pi * np.linalg.inv(rows).T
    q, r = np.linalg.qr(any_frame.T)  # columns a*, b*, c*; r: the same in their own frame
    return (r * np.sign(np.diag(r))[:, None]).T
