"""Pixels of any spectrometer from a table: CSV, NPZ or JSON with one row per pixel.

Columns: ``x_m, y_m, z_m`` or ``distance_m, polar_deg, azimuthal_deg`` (azimuth from +x to +y);
``solid_angle_sr``, or ``width_m`` and ``height_m`` of a face turned to the sample; and where known
``detector_id``, ``masked`` (0 or 1), ``tube``. Beside them ``name``, ``source_to_sample_m`` and
``resolution`` (coefficients of FWHM / Ei); in CSV these stand in lines ``# key: value`` before the
heads.
NPZ and JSON may give ``position_m`` (pixels, 3) instead of three columns; ``P``, ``om`` and
``mask`` (true where a pixel counts) are understood too.
"""

from __future__ import annotations

import csv
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.instrument.spectrometer import UNKNOWN_RESOLUTION, Instrument, Resolution

_COLUMNS = (
    "detector_id",
    "x_m",
    "y_m",
    "z_m",
    "distance_m",
    "polar_deg",
    "azimuthal_deg",
    "solid_angle_sr",
    "width_m",
    "height_m",
    "masked",
    "tube",
)
_FACTS = ("name", "source_to_sample_m", "resolution")
_ALIASES = {"P": "position_m", "om": "solid_angle_sr", "mask": "counting"}


def read_pixel_table(path: Path | str) -> Instrument:
    """Read a table of pixels.

    Parameters
    ----------
    path : Path
        ``.csv``, ``.npz`` or ``.json``; see the module for its columns.

    Returns
    -------
    Instrument
        Named after the file where the table does not say. Without ``source_to_sample_m`` the
        length is NaN: such a table serves reduced files, not events. Without ``resolution`` a
        typical one of direct geometry stands in.

    Raises
    ------
    ValueError
        If the file cannot be read or a column is missing, of another length or impossible; the
        message names file, column, row, value and expectation.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    readers = {".csv": _csv, ".npz": _npz, ".json": _json}
    if suffix not in readers:
        raise InputError(f"{path}: ends with {suffix!r}; expected {', '.join(readers)}")
    try:
        columns, facts = readers[suffix](path)
    except (OSError, UnicodeDecodeError, zipfile.BadZipFile, json.JSONDecodeError, EOFError) as e:
        raise InputError(f"{path}: cannot be read ({e}); expected a table of pixels") from e
    try:
        return _instrument(path, columns, facts)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def write_pixel_table(path: Path | str, instrument: Instrument) -> None:
    """Write pixels as CSV that ``read_pixel_table`` turns into the same instrument."""
    coefficients = " ".join(repr(c) for c in instrument.resolution.coefficients)
    heads = ["detector_id", "x_m", "y_m", "z_m", "solid_angle_sr", "masked"]
    if instrument.tube is not None:
        heads.append("tube")
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        file.write(f"# name: {instrument.name}\n")
        if math.isfinite(instrument.source_to_sample_m):
            file.write(f"# source_to_sample_m: {instrument.source_to_sample_m!r}\n")
        file.write(f"# resolution: {coefficients}\n{','.join(heads)}\n")
        for k in range(instrument.n_pixels):
            x, y, z = (float(value) for value in instrument.position_m[k])
            row = f"{instrument.detector_id[k]},{x!r},{y!r},{z!r}"
            row += f",{float(instrument.solid_angle_sr[k])!r},{int(instrument.masked[k])}"
            if instrument.tube is not None:
                row += f",{instrument.tube[k]}"
            file.write(row + "\n")


def _csv(path: Path) -> tuple[dict[str, FloatArray], dict[str, Any]]:
    facts: dict[str, Any] = {}
    heads: list[str] = []
    rows: list[list[float]] = []
    with path.open(encoding="utf-8", newline="") as file:
        for number, cells in enumerate(csv.reader(file), start=1):
            line = ",".join(cells).strip()
            if not line:
                continue
            if line.startswith("#"):
                key, colon, value = line.lstrip("# ").partition(":")
                if colon and key.strip() in _FACTS:
                    facts[key.strip()] = value.strip()
            elif not heads:
                heads = [cell.strip() for cell in cells]
                _check_heads(path, heads)
            else:
                if len(cells) != len(heads):
                    raise InputError(
                        f"{path}: line {number} has {len(cells)} columns; expected {len(heads)}"
                    )
                try:
                    rows.append([float(cell) for cell in cells])
                except ValueError as error:
                    bad = next(k for k, cell in enumerate(cells) if not _is_number(cell))
                    raise InputError(
                        f"{path}: line {number}, {heads[bad]} is {cells[bad]!r}; expected a number"
                    ) from error
    if not rows:
        raise InputError(f"{path}: holds no row of numbers; expected heads and one row per pixel")
    table = np.array(rows)
    return {head: table[:, k] for k, head in enumerate(heads)}, facts


def _check_heads(path: Path, heads: list[str]) -> None:
    for k, head in enumerate(heads):
        if head not in _COLUMNS:
            raise InputError(f"{path}: column {head!r} is unknown; expected {', '.join(_COLUMNS)}")
        if head in heads[:k]:
            raise InputError(f"{path}: column {head!r} comes twice; expected it once")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _npz(path: Path) -> tuple[dict[str, FloatArray], dict[str, Any]]:
    with path.open("rb") as raw:
        loaded = np.load(raw, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise InputError(f"{path}: holds a single array; expected an NPZ of columns")
        try:
            return _sorted({name: loaded[name] for name in loaded.files})
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error


def _json(path: Path) -> tuple[dict[str, FloatArray], dict[str, Any]]:
    raw = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(raw, dict):
        raise InputError(f"{path}: holds a {type(raw).__name__}; expected columns by name")
    try:
        return _sorted(
            {key: value if key in _FACTS else np.array(value) for key, value in raw.items()}
        )
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _sorted(raw: Mapping[str, Any]) -> tuple[dict[str, FloatArray], dict[str, Any]]:
    columns: dict[str, FloatArray] = {}
    facts: dict[str, Any] = {}
    known = {*_COLUMNS, "position_m", *_ALIASES}
    for key, value in raw.items():
        if key in _FACTS:
            facts[key] = value.tolist() if isinstance(value, np.ndarray) else value
        elif key in known:
            if value.dtype.kind not in "fiub":
                raise InputError(f"{key} holds {value.dtype}; expected numbers")
            columns[_ALIASES.get(key, key)] = value.astype(np.float64)
        else:
            raise InputError(
                f"{key!r} is unknown; expected {', '.join((*_COLUMNS, 'position_m', *_FACTS))}"
            )
    return columns, facts


def _instrument(path: Path, columns: dict[str, FloatArray], facts: dict[str, Any]) -> Instrument:
    position = _position(columns)
    n = len(position)
    for name, column in columns.items():
        if name != "position_m" and column.shape != (n,):
            raise ValueError(f"{name} has shape {column.shape}; expected ({n},)")
    distance = np.linalg.norm(position, axis=1)
    _refuse("position", position.sum(axis=1), np.isfinite(distance) & (distance > 0), "off sample")
    if "solid_angle_sr" in columns:
        solid = columns["solid_angle_sr"]
    elif "width_m" in columns and "height_m" in columns:
        solid = columns["width_m"] * columns["height_m"] / distance**2
    else:
        raise InputError("solid_angle_sr is missing; expected it, or width_m and height_m")
    _refuse(
        "solid angle", solid, np.isfinite(solid) & (solid > 0) & (solid < 4 * np.pi), "positive"
    )
    masked = np.zeros(n, np.bool_)
    for name, means in (("masked", 1.0), ("counting", 0.0)):
        if name in columns:
            flag = columns[name]
            _refuse(name, flag, (flag == 0) | (flag == 1), "0 or 1")
            masked |= flag == means
    ids = columns.get("detector_id", np.arange(n, dtype=float))
    _refuse("detector_id", ids, (ids == np.floor(ids)) & (np.abs(ids) < 2**53), "a whole number")
    values, first, count = np.unique(ids, return_index=True, return_counts=True)
    if np.any(count > 1):
        k = int(np.argmax(count > 1))
        raise InputError(f"detector_id {values[k]:.0f} comes {count[k]} times; expected once")
    tube = columns.get("tube")
    if tube is not None:
        _refuse("tube", tube, (tube == np.floor(tube)) & (np.abs(tube) < 2**31), "a whole number")
    return Instrument(
        name=str(facts.get("name") or path.stem),
        position_m=position,
        solid_angle_sr=solid,
        detector_id=ids.astype(np.int64),
        masked=masked,
        source_to_sample_m=_length(facts.get("source_to_sample_m")),
        resolution=_resolution(facts.get("resolution")),
        tube=None if tube is None else tube.astype(np.int32),
    )


def _position(columns: dict[str, FloatArray]) -> FloatArray:
    if "position_m" in columns:
        position = columns["position_m"]
        if position.ndim != 2 or position.shape[1] != 3 or len(position) == 0:
            raise ValueError(f"position_m has shape {position.shape}; expected (pixels, 3)")
        return position
    for names in (("x_m", "y_m", "z_m"), ("distance_m", "polar_deg", "azimuthal_deg")):
        if all(name in columns for name in names):
            first, second, third = (np.atleast_1d(columns[name]) for name in names)
            if not first.shape == second.shape == third.shape or first.ndim != 1 or not len(first):
                raise InputError(f"{', '.join(names)} differ in shape; expected one per pixel")
            if names[0] == "x_m":
                return np.stack([first, second, third], axis=1)
            polar, azimuth = np.radians(second), np.radians(third)
            out = [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)]
            return first[:, None] * np.stack(out, axis=1)
    raise InputError(
        "positions are missing; expected x_m, y_m, z_m or distance_m, polar_deg, azimuthal_deg"
    )


def _refuse(name: str, column: FloatArray, good: NDArray[np.bool_], expected: str) -> None:
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(f"{name} of pixel {row + 1} is {column[row]:g}; expected {expected}")


def _length(value: Any) -> float:
    if value is None:
        return float("nan")
    try:
        length = float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"source_to_sample_m is {value!r}; expected metres") from error
    if not (math.isfinite(length) and length > 0):
        raise InputError(f"source_to_sample_m is {value!r}; expected a positive length")
    return length


def _resolution(value: Any) -> Resolution:
    if value is None:
        return UNKNOWN_RESOLUTION
    try:
        parts = value.replace(",", " ").split() if isinstance(value, str) else list(value)
        coefficients = tuple(float(c) for c in parts)
    except (TypeError, ValueError) as error:
        raise InputError(f"resolution is {value!r}; expected numbers") from error
    if not coefficients or not all(math.isfinite(c) for c in coefficients) or coefficients[0] <= 0:
        raise InputError(f"resolution is {value!r}; expected FWHM / Ei at E = 0, above 0, first")
    return Resolution(coefficients=coefficients)
