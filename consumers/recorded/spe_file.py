"""SPE files (reduced intensity as text) and the PAR or PHX file that says where detectors are.

SPE: detectors and bins on the first line, then blocks headed by ``###``: a grid of no use here,
energy edges, and intensity and errors of every detector, eight numbers of ten characters a line.
Numbers may touch. -1e30 and NaN stand where there is no data.
PAR: distance (m), polar angle, azimuth with its sign turned, width, height (m), identifier.
PHX: distance, 0, polar angle, azimuth, angular width and height (degrees), identifier.
The azimuth of PHX runs from +x to +y, as in NXSPE; that of PAR from +x to -y.

References
----------
Horace documentation, "File formats" (pace-neutrons.github.io/Horace); signs and order checked on
files that exist in both forms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from consumers.recorded.empty_bins import settle_empty_bins
from consumers.recorded.hdf5_file import UnreadableError
from consumers.recorded.nxspe_file import MASKED_BELOW, ReducedRun
from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.instrument import UNKNOWN_RESOLUTION, Instrument

DETECTOR_SUFFIXES = (".par", ".phx")
_WIDTH = 10  # characters of a number
_PER_LINE = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpeBlock:
    """Numbers of one SPE file."""

    energy_edges_meV: FloatArray  # (bins + 1,)
    intensity: FloatArray  # (detectors, bins); NaN where masked
    error: FloatArray  # (detectors, bins); NaN where masked
    empty_bins: int = 0  # bins without a count; see ``settle_empty_bins``
    problems: tuple[str, ...] = ()


def looks_like_spe(path: Path | str) -> bool:
    """Whether a file is text that starts with two whole numbers and a ``###`` line."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(400)
    except OSError:
        return False
    lines = head.split(b"\n")
    words = lines[0].split()
    numbers = len(words) == 2 and all(word.isdigit() for word in words)
    return numbers and len(lines) > 1 and lines[1].lstrip().startswith(b"###")


def read_spe(
    path: Path | str,
    *,
    detectors: Path | str | None = None,
    psi_deg: float | None = None,
    ei_meV: float | None = None,
) -> ReducedRun:
    """Read an SPE file with its detectors.

    Parameters
    ----------
    path : Path
        The SPE file.
    detectors : Path, optional
        PAR or PHX file; default ``detector_file(path)``.
    psi_deg, ei_meV : float, optional
        Orientation and incident energy; the format has neither, so both are needed.

    Returns
    -------
    ReducedRun
        k_i/k_f is taken as applied, as programs that write SPE do.

    Raises
    ------
    UnreadableError
        If a file cannot be read, the detectors are not as many, or psi or Ei is missing.
    """
    path = Path(path)
    block = read_spe_block(path)
    if psi_deg is None or not math.isfinite(psi_deg):
        state = "not in an SPE file" if psi_deg is None else f"{psi_deg}"
        raise UnreadableError(f"{path}: psi is {state}; expected degrees. Give --psi")
    edges = block.energy_edges_meV
    if ei_meV is None or not (math.isfinite(ei_meV) and ei_meV > edges[0]):
        state = "not in an SPE file" if ei_meV is None else f"{ei_meV}"
        raise UnreadableError(
            f"{path}: Ei is {state}; expected the incident energy in meV, above the first edge of "
            f"{edges[0]:g} meV. Give --ei to init, instrument.ei_meV to a fold"
        )
    found = detector_file(path, len(block.intensity)) if detectors is None else Path(detectors)
    instrument, problems = read_detectors(found)
    if instrument.n_pixels != len(block.intensity):
        raise UnreadableError(
            f"{found}: holds {instrument.n_pixels} detectors, {path.name} has "
            f"{len(block.intensity)}; expected as many. Give the PAR or PHX file of this run"
        )
    problems = [*block.problems, *problems, f"detectors are those of {found.name}"]
    intensity, error = block.intensity, block.error
    if edges[-1] >= ei_meV:
        problems.append(f"energy reaches {edges[-1]:g} meV, Ei is {ei_meV:g} meV; cut below Ei")
        bins = int(np.searchsorted(edges[:-1], ei_meV * (1 - 1e-6)))
        edges = np.minimum(edges[: bins + 1], ei_meV * (1 - 1e-6))
        intensity, error = intensity[:, :bins], error[:, :bins]
    empty = np.logical_and.reduce(np.isnan(intensity), axis=1)
    if empty.any():
        problems.append(f"{int(empty.sum())} detectors hold no valid bin; masked")
    return ReducedRun(
        path=path,
        title=path.stem,
        version="SPE",
        instrument=instrument.with_mask(empty),
        ei_meV=float(ei_meV),
        psi_deg=float(psi_deg),
        energy_edges_meV=edges,
        intensity=intensity,
        error=error,
        counts=None,
        proton_charge=1.0,
        minutes=0.0,
        temperature_K=None,
        run_number="",
        start_time_ns=0,
        problems=tuple(problems),
        empty_bins=block.empty_bins,
    )


def spe_fault(path: Path | str) -> UnreadableError:
    """Why a file that ``looks_like_spe`` refused is none."""
    try:
        words = _Lines(Path(path)).take("the numbers of detectors and bins")
    except UnreadableError as error:
        return error
    return UnreadableError(
        f"{path}: starts with {words.strip()[:60]!r}; expected two whole numbers, detectors and "
        "bins, and a line ### after them, as in an SPE file. Check the path"
    )


def detector_file(path: Path | str, detectors: int | None = None) -> Path:
    """PAR or PHX file of an SPE file: of the same name, else the only one that fits beside it.

    Raises
    ------
    UnreadableError
        If there is none, or several fit.
    """
    path = Path(path)
    beside = sorted(
        p for p in path.parent.iterdir() if p.suffix.lower() in DETECTOR_SUFFIXES and p.is_file()
    )
    same = [p for p in beside if p.stem == path.stem]
    if same:
        return same[0]
    fitting = [p for p in beside if detectors is None or _announced(p) == detectors]
    if len(fitting) == 1:
        return fitting[0]
    many = "" if detectors is None else f" of {detectors} detectors"
    state = f"{len(fitting)} fit ({', '.join(p.name for p in fitting)})" if fitting else "none is"
    raise UnreadableError(
        f"{path}: {state} beside it; expected one PAR or PHX file{many}. "
        f"Put it there as {path.stem}.par"
    )


def _announced(path: Path) -> int | None:
    with path.open("rb") as file:
        word = file.readline(100).strip()
    return int(word) if word.isdigit() else None


def read_spe_block(path: Path | str) -> SpeBlock:
    """Read the numbers of an SPE file; detectors, psi and Ei are not asked for.

    Raises
    ------
    UnreadableError
        If the file is absent, cut or no SPE; the message names line, field, value, expectation.
    """
    path = Path(path)
    lines = _Lines(path)
    words = lines.take("the numbers of detectors and bins").split()
    if len(words) != 2 or not all(word.isdigit() and int(word) > 0 for word in words):
        raise lines.fault(f"is {' '.join(words)[:60]!r}", "two whole numbers, detectors and bins")
    detectors, bins = int(words[0]), int(words[1])
    lines.head("the detector grid")
    for _ in lines.until_head():
        pass
    lines.head("the energy grid")
    edges = lines.numbers("energy edges", bins + 1)
    if not np.isfinite(edges).all() or np.any(np.diff(edges) <= 0):
        raise lines.fault("energy edges do not rise", "them to rise from bin to bin")
    rows: dict[str, list[FloatArray]] = {"S": [], "errors": []}
    for k in range(detectors):
        for what, kept in rows.items():
            name = f"{what} of detector {k + 1} of {detectors}"
            lines.head(name)
            kept.append(lines.numbers(name, bins))
    intensity, error = np.stack(rows["S"]), np.stack(rows["errors"])
    problems = [] if lines.done() else ["text follows the last detector; left out"]
    bad = ~np.isfinite(intensity) | (intensity < MASKED_BELOW) | ~np.isfinite(error) | (error < 0)
    settled = settle_empty_bins(np.where(bad, np.nan, intensity), np.where(bad, np.nan, error))
    return SpeBlock(
        energy_edges_meV=edges,
        intensity=settled.intensity,
        error=settled.error,
        empty_bins=int(settled.empty.sum()),
        problems=(
            *problems,
            *settled.problems,
            "no raw counts and no charge: an SPE file, k_i/k_f taken as applied",
        ),
    )


class _Lines:
    """Lines of a text file with the place of the reader, for messages."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UnreadableError(f"{path}: no such file. Check the path")
        try:
            text = path.read_text(encoding="ascii")
        except UnicodeDecodeError as error:
            raise UnreadableError(
                f"{path}: byte {error.start} is no text; expected an SPE, PAR or PHX file. "
                "Check the path"
            ) from error
        except OSError as error:
            raise UnreadableError(f"{path}: cannot be read ({error.strerror})") from error
        self.path = path
        self.lines = text.splitlines()
        self.at = 0  # lines taken

    def fault(self, state: str, expected: str, line: int | None = None) -> UnreadableError:
        number = self.at if line is None else line
        return UnreadableError(f"{self.path}: line {number} {state}; expected {expected}")

    def cut(self, what: str) -> UnreadableError:
        return UnreadableError(
            f"{self.path}: line {len(self.lines)} is the last; expected {what} after it. "
            "The file is cut: copy it again"
        )

    def take(self, what: str) -> str:
        if self.at >= len(self.lines):
            raise self.cut(what)
        self.at += 1
        return self.lines[self.at - 1]

    def head(self, what: str) -> None:
        line = self.take(what)
        if not line.lstrip().startswith("#"):
            raise self.fault(f"is {line.strip()[:60]!r}", f"a line ### before {what}")

    def until_head(self) -> Iterator[tuple[int, str]]:
        while self.at < len(self.lines) and not self.lines[self.at].lstrip().startswith("#"):
            self.at += 1
            yield self.at, self.lines[self.at - 1]

    def numbers(self, what: str, count: int) -> FloatArray:
        """Read ``count`` numbers up to the next head, apart or in columns of ten characters."""
        taken = list(self.until_head())
        words = [(line, word) for line, text in taken for word in text.split()]
        if len(words) < count:  # some touch
            words = [
                (line, text[i : i + _WIDTH])
                for line, text in taken
                for i in range(0, len(text.rstrip()), _WIDTH)
            ]
        try:
            values = np.array([float(word) for _, word in words])
        except ValueError as error:
            line, word = next((n, w) for n, w in words if not _is_number(w))
            raise self.fault(f"has {word.strip()!r} in {what}", "a number", line) from error
        if len(values) < count and self.at >= len(self.lines):
            raise self.cut(f"{count - len(values)} more of {count} numbers, {what},")
        if len(values) != count:
            raise self.fault(f"ends {what} with {len(values)} numbers", str(count))
        return values

    def done(self) -> bool:
        return not any(line.strip() for line in self.lines[self.at :])


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def read_detectors(path: Path | str) -> tuple[Instrument, list[str]]:
    """Read a PAR or PHX file.

    Parameters
    ----------
    path : Path
        ``.par`` or ``.phx``, in any case.

    Returns
    -------
    instrument : Instrument
        Named "unknown", as the format has no name; without tubes and flight path before the
        sample. Solid angle is width x height over distance squared (PAR), or angular width x
        height (PHX).
    problems : list of str

    Raises
    ------
    UnreadableError
        If the file cannot be read; the message names line, field, value and expectation.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in DETECTOR_SUFFIXES:
        raise UnreadableError(f"{path}: ends with {path.suffix!r}; expected .par or .phx")
    names = {
        ".par": ("distance", "polar angle", "azimuth", "width", "height", "identifier"),
        ".phx": ("distance", "", "polar angle", "azimuth", "width", "height", "identifier"),
    }[kind]
    lines = _Lines(path)
    head = lines.take("the number of detectors").strip()
    if not head.isdigit() or int(head) == 0:
        raise lines.fault(f"is {head[:60]!r}", "the number of detectors, a whole number above 0")
    n = int(head)
    rows: list[list[float]] = []
    while not lines.done() and len(rows) < n:
        words = lines.take("a detector").split()
        if len(words) not in (len(names) - 1, len(names)):
            raise lines.fault(
                f"has {len(words)} columns",
                f"{len(names) - 1} or {len(names)} in a {kind[1:].upper()} file: "
                + ", ".join(name or "0" for name in names),
            )
        if rows and len(words) != len(rows[0]):
            raise lines.fault(f"has {len(words)} columns", f"{len(rows[0])} as above")
        for name, word in zip(names, words, strict=False):
            if not (_is_number(word) and math.isfinite(float(word))):
                raise lines.fault(f"has {name or 'column 2'} {word!r}", "a finite number")
        rows.append([float(word) for word in words])
    if len(rows) < n:
        raise lines.cut(f"{n - len(rows)} more of {n} detectors")
    if not lines.done():
        raise lines.fault(f"is followed by more than the announced {n} detectors", "as many", n + 2)
    table = np.array(rows)
    column = {name: table[:, k] for k, name in enumerate(names) if name and k < table.shape[1]}
    problems: list[str] = []
    distance = column["distance"]
    if np.any(distance <= 0):
        k = int(np.argmax(distance <= 0))
        raise lines.fault(f"has distance {distance[k]:g}", "metres above 0", k + 2)
    polar = np.radians(column["polar angle"])
    azimuth = np.radians(column["azimuth"]) * (-1 if kind == ".par" else 1)
    if kind == ".par":
        solid = column["width"] * column["height"] / distance**2
    else:
        solid = np.radians(column["width"]) * np.radians(column["height"])
        problems.append("distances of a PHX file are often nominal")
    good = solid > 0
    if not good.all():
        problems.append(f"{int((~good).sum())} detectors have no width; given the median one")
        solid = np.where(good, solid, np.median(solid[good]) if good.any() else 1e-4)
    ids = column.get("identifier", np.arange(1, n + 1, dtype=float))
    if len(np.unique(ids)) != n or np.any(ids != np.floor(ids)):
        problems.append("identifiers repeat or are no whole numbers; counted from 1")
        ids = np.arange(1, n + 1, dtype=float)
    across = [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)]
    return Instrument(
        name="unknown",  # the format names no instrument
        position_m=distance[:, None] * np.stack(across, axis=1),
        solid_angle_sr=solid,
        detector_id=ids.astype(np.int64),
        masked=np.zeros(n, np.bool_),
        source_to_sample_m=float("nan"),
        resolution=UNKNOWN_RESOLUTION,
    ), problems


def write_spe(
    path: Path | str, *, energy_edges_meV: FloatArray, intensity: FloatArray, error: FloatArray
) -> None:
    """Write an SPE file, four digits a number; NaN becomes -1e30.

    Parameters
    ----------
    path : Path
        File to write; replaced if it exists.
    energy_edges_meV : (bins + 1,)
    intensity, error : (detectors, bins)

    Raises
    ------
    ValueError
        If shapes disagree.
    """
    edges = np.asarray(energy_edges_meV, dtype=float)
    shape = np.shape(intensity)
    if len(shape) != 2 or shape != np.shape(error) or shape[1] != len(edges) - 1:
        raise ValueError(
            f"intensity has shape {shape}, error {np.shape(error)}, edges {edges.shape}; expected "
            "(detectors, bins) twice and (bins + 1,)"
        )
    bad = ~np.isfinite(intensity) | ~np.isfinite(error)
    with Path(path).open("w", encoding="ascii") as file:
        file.write(f"{shape[0]:8d}{shape[1]:8d}\n### Phi Grid\n")
        file.write(_columns(np.arange(shape[0] + 1) + 0.5) + "### Energy Grid\n" + _columns(edges))
        for k in range(shape[0]):
            file.write("### S(Phi,w)\n" + _columns(np.where(bad[k], -1e30, intensity[k])))
            file.write("### Errors\n" + _columns(np.where(bad[k], 0.0, error[k])))


def _columns(values: FloatArray) -> str:
    words = [f"{value:10.3E}" for value in values]
    return "".join(
        "".join(words[i : i + _PER_LINE]) + "\n" for i in range(0, len(words), _PER_LINE)
    )


def write_detectors(path: Path | str, instrument: Instrument) -> None:
    """Write a PAR or PHX file, by its suffix; faces are squares of the solid angle.

    Raises
    ------
    ValueError
        If the suffix is neither.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in DETECTOR_SUFFIXES:
        raise InputError(f"{path}: ends with {path.suffix!r}; expected .par or .phx")
    P, d = instrument.position_m, instrument.distance_m
    polar = np.degrees(np.arctan2(np.hypot(P[:, 0], P[:, 1]), P[:, 2]))
    azimuth = np.degrees(np.arctan2(P[:, 1], P[:, 0]))
    side = np.sqrt(instrument.solid_angle_sr)
    with path.open("w", encoding="ascii") as file:
        file.write(f"{instrument.n_pixels}\n")
        for k in range(instrument.n_pixels):
            if kind == ".par":
                row = [d[k], polar[k], -azimuth[k], side[k] * d[k], side[k] * d[k]]
            else:
                row = [d[k], 0.0, polar[k], azimuth[k], *np.degrees([side[k], side[k]])]
            file.write(" ".join(f"{x:.7g}" for x in row) + f" {instrument.detector_id[k]}\n")
