"""Vanadium normalisation: what each pixel counts of an even, elastic scatterer.

Read from text (identifier, counts, and if known their error, one pixel a line), from NPZ (arrays
``detector_id, counts`` and ``error``), or from a processed NeXus file of Mantid (integrated
spectra and their detector lists).
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.instrument.spectrometer import Instrument, split_name

LOWEST, HIGHEST = 0.1, 10.0  # of the median ratio; beyond, a pixel is dead or noisy


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Vanadium:
    """Counts of a vanadium sample."""

    path: Path
    detector_id: NDArray[np.int64]  # (pixels,) each once
    counts: FloatArray  # (pixels,) any unit; NaN or not positive: the pixel is dead
    error: FloatArray  # (pixels,) NaN where unknown


def read_vanadium(path: Path | str) -> Vanadium:
    """Read a vanadium file, by its content.

    Parameters
    ----------
    path : Path
        Text, NPZ or processed NeXus.

    Raises
    ------
    ValueError
        If it cannot be read; the message names file, line or field, value and expectation.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected vanadium") from error
    if start == b"\x89HDF\r\n\x1a\n":
        ids, counts, error = _nexus(path)
    elif start[:2] == b"PK":
        ids, counts, error = _npz(path)
    else:
        ids, counts, error = _text(path)
    values, times = np.unique(ids, return_counts=True)
    if len(ids) == 0 or np.any(times > 1):
        state = "holds no pixel" if len(ids) == 0 else f"has {values[times > 1][0]} twice"
        raise InputError(f"{path}: {state}; expected every identifier once")
    return Vanadium(path=path, detector_id=ids, counts=counts, error=error)


def with_vanadium(instrument: Instrument, vanadium: Vanadium) -> tuple[Instrument, str]:
    """Weigh the solid angles of an instrument by what its pixels count of vanadium.

    The sum over live pixels stays: vanadium tells pixels apart, geometry keeps the scale. Pixels
    without a count, and those below 0.1 or above 10 times the usual ratio to their solid angle,
    are masked.

    Parameters
    ----------
    instrument : Instrument
        Merged pixels sum what their members count.
    vanadium : Vanadium
        Of ``read_vanadium``.

    Returns
    -------
    instrument : Instrument
        Solid angle times relative efficiency; masked pixels keep their geometric one.
    told : str
        How many pixels were masked, and the spread of the efficiency.

    Raises
    ------
    ValueError
        If no live pixel has a count: the file then belongs to another instrument.
    """
    _, width = split_name(instrument.name)
    order = np.argsort(vanadium.detector_id)
    known = vanadium.detector_id[order]
    good = np.isfinite(vanadium.counts) & (vanadium.counts > 0)
    total = np.r_[0.0, np.cumsum(np.where(good, vanadium.counts, 0.0)[order])]
    dead = np.r_[0, np.cumsum(~good[order])]
    first = np.searchsorted(known, instrument.detector_id)
    last = np.searchsorted(known, instrument.detector_id + width)
    counts = total[last] - total[first]
    whole = (last > first) & (dead[last] == dead[first]) & (counts > 0)
    live = ~instrument.masked
    usable = whole & live & (instrument.solid_angle_sr > 0)
    if not usable.any():
        raise InputError(
            f"{vanadium.path}: gives no live pixel of {instrument.name} a count; expected vanadium "
            "of this instrument"
        )
    ratio = np.zeros(instrument.n_pixels)
    ratio[usable] = counts[usable] / instrument.solid_angle_sr[usable]
    ratio /= np.median(ratio[usable])
    usable &= (ratio >= LOWEST) & (ratio <= HIGHEST)
    geometric = instrument.solid_angle_sr[usable]
    weighed = geometric * ratio[usable]
    solid = instrument.solid_angle_sr.copy()
    solid[usable] = weighed * (geometric.sum() / weighed.sum())
    lost = int((live & ~usable).sum())
    spread = float(np.std(ratio[usable]) / np.mean(ratio[usable]))
    told = f"{lost} of {int(live.sum())} live pixels masked by vanadium, spread {spread:.1%}"
    return replace(instrument, solid_angle_sr=solid, masked=instrument.masked | ~usable), told


def _text(path: Path) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is no text; expected vanadium") from error
    rows: list[tuple[int, float, float]] = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        try:
            if len(words) not in (2, 3):
                raise InputError(f"{len(words)} columns")
            rows.append((int(words[0]), float(words[1]), float((words + ["nan"])[2])))
        except ValueError as error:
            if not rows and not words[0].lstrip("-").isdigit():
                continue  # heads of columns
            raise InputError(
                f"{path}: line {number} is {line.strip()[:60]!r}; expected identifier, counts and "
                "if known their error"
            ) from error
    table = np.array(rows, dtype=float).reshape(-1, 3)
    return table[:, 0].astype(np.int64), table[:, 1], table[:, 2]


def _npz(path: Path) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected an NPZ") from error
    for name in ("detector_id", "counts"):
        if name not in arrays:
            raise InputError(f"{path}: array {name!r} is missing; expected detector_id and counts")
    ids, counts = arrays["detector_id"], arrays["counts"]
    error = arrays.get("error", np.full(counts.shape, np.nan))
    if ids.ndim != 1 or not ids.shape == counts.shape == error.shape or ids.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: detector_id has shape {ids.shape} ({ids.dtype}), counts {counts.shape}; "
            "expected whole numbers and as many counts"
        )
    return ids.astype(np.int64), counts.astype(float), error.astype(float)


def _nexus(path: Path) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
    """Processed NeXus: spectra x bins, and which detectors make each spectrum."""
    names = {
        "values": "workspace/values",
        "errors": "workspace/errors",
        "list": "instrument/detector/detector_list",
        "count": "instrument/detector/detector_count",
    }
    try:
        with h5py.File(path, "r") as file:
            entry = next((g for g in file.values() if names["values"] in g), None)
            if entry is None:
                raise InputError(
                    f"{path}: no group with {names['values']}; expected a processed NeXus file"
                )
            found = {}
            for key, name in names.items():
                node = entry.get(name)
                if not isinstance(node, h5py.Dataset):
                    raise InputError(f"{path}: {name} is missing; expected it. Save the file again")
                found[key] = np.asarray(node[()])
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: HDF5 cannot read it ({error}); the file is cut") from error
    values, errors, ids, per = (found[key] for key in ("values", "errors", "list", "count"))
    if values.ndim != 2 or errors.shape != values.shape or per.shape != (len(values),):
        raise InputError(
            f"{path}: values {values.shape}, errors {errors.shape} and detector_count {per.shape} "
            "disagree; expected (spectra, bins) twice and (spectra,)"
        )
    if ids.ndim != 1 or per.min(initial=0) < 0 or int(per.sum()) != len(ids):
        raise InputError(
            f"{path}: {int(per.sum())} detectors are announced, {len(ids)} listed; expected as many"
        )
    share = np.repeat(1.0 / np.maximum(per, 1), per)
    counts = np.repeat(values.sum(axis=1), per) * share
    error = np.repeat(np.sqrt((errors.astype(float) ** 2).sum(axis=1)), per) * share
    return ids.astype(np.int64), counts.astype(float), error
