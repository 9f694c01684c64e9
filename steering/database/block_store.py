"""Blocks of a database: a few entries each in one HDF5 file that is written in one step.

A block holds what its source gave, in the source's order, and nothing of when or by how many
workers it was made: the same entries give the same bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from simulations.arrays import FloatArray
from simulations.crystal import Species
from simulations.errors import InputError
from simulations.saved_file import in_one_step
from steering.database.entry import Card, Entry

FORMAT = 1
_PLAIN = ("lattice", "positions", "supercell_matrix", "primitive_matrix")
_OPTIONAL = ("masses_u", "moved", "born", "dielectric")
_NUMBERS = ("steps", "forces", "constants")
_PER_UNIT = (1e5, 1e8)
"""Digits of files: numbers are kept as whole ones where that gives them back to the last bit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Aside:
    """An entry that was set aside."""

    id: str
    source: str
    reason: str


def write_block(
    path: Path,
    entries: Sequence[tuple[Entry, Card]],
    aside: Sequence[Aside],
) -> None:
    """Write a block in one step.

    Raises
    ------
    StorageError
        If there is no room; nothing is left behind.
    """
    buffer = io.BytesIO()  # HDF5 on a full disk may end the process
    with h5py.File(buffer, "w", libver="v110") as file:
        header = {
            "format": FORMAT,
            "cards": [asdict(card) for _, card in entries],
            "aside": [asdict(one) for one in aside],
        }
        file["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
        for place, (entry, _) in enumerate(entries):
            _write_entry(file.create_group(str(place)), entry)
    with in_one_step(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _write_entry(group: h5py.Group, entry: Entry) -> None:
    about = {
        "id": entry.id,
        "symbols": list(entry.symbols),
        "symprec_A": entry.symprec_A,
        "calculator": entry.calculator,
        "coulomb": entry.coulomb,
        "notes": list(entry.notes),
        "species": None if entry.species is None else [asdict(one) for one in entry.species],
    }
    group["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    for name in (*_PLAIN, *_OPTIONAL):
        values = getattr(entry, name)
        if values is not None:
            group[name] = values
    for name in _NUMBERS:
        values = getattr(entry, name)
        if values is None:
            continue
        whole, per_unit = _whole(values)
        data = group.create_dataset(name, data=whole, compression="gzip", shuffle=True)
        data.attrs["per_unit"] = per_unit


def _whole(values: FloatArray) -> tuple[Any, float]:
    """Whole numbers, and how many make a unit; 0 where they would not give the values back."""
    for per_unit in _PER_UNIT:
        counts = np.rint(values * per_unit)
        fits = np.abs(counts).max(initial=0.0) < 2**31
        if fits and np.array_equal(counts / per_unit, values):
            return counts.astype(np.int32), per_unit
    return values, 0.0


def read_header(path: Path) -> tuple[tuple[Card, ...], tuple[Aside, ...]]:
    """What a block holds, and what was set aside.

    Raises
    ------
    InputError
        If the file is no block of this version.
    """
    try:
        with h5py.File(path) as file:
            header = _json(file["header"])
        if header["format"] != FORMAT:
            raise InputError(
                f"{path.name} has format {header['format']}; expected {FORMAT}. Build the store "
                "anew with this version"
            )
        cards = tuple(
            Card(**{**card, "elements": tuple(card["elements"])}) for card in header["cards"]
        )
        return cards, tuple(Aside(**one) for one in header["aside"])
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as a block of a database ({_line(error)}); remove it and run "
            "`beamsteer database build` again"
        ) from error


def read_entry(path: Path, place: int) -> Entry:
    """One entry of a block.

    Raises
    ------
    InputError
        If the file is damaged or no block.
    """
    try:
        with h5py.File(path) as file:
            group: Any = file[str(place)]
            about = _json(group["about"])
            arrays: dict[str, Any] = {
                name: np.asarray(group[name]) for name in (*_PLAIN, *_OPTIONAL) if name in group
            }
            for name in _NUMBERS:
                if name in group:
                    per_unit = float(group[name].attrs["per_unit"])
                    values = np.asarray(group[name])
                    arrays[name] = values / per_unit if per_unit else values
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"entry {place} of {path} cannot be read ({_line(error)}); remove the file and run "
            "`beamsteer database build` again"
        ) from error
    species = about.pop("species")
    return Entry(
        **{"masses_u": None, **arrays},
        id=about["id"],
        symbols=tuple(about["symbols"]),
        symprec_A=about["symprec_A"],
        calculator=about["calculator"],
        coulomb=about["coulomb"],
        notes=tuple(about["notes"]),
        species=None if species is None else tuple(Species(**one) for one in species),
    )


def _json(data: Any) -> Any:
    return json.loads(np.asarray(data).tobytes().decode())


def _line(error: Exception) -> str:
    return f"{' '.join(str(error).split()):.160}"
