"""Tables of packs: the known spectrometers in ``data/instruments``, and those of a user.

A table names pack types (tubes, pixels, lengths) and places packs; ``instruments`` builds pixels.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from simulations.errors import InputError
from simulations.instrument.spectrometer import UNKNOWN_RESOLUTION, Resolution


@dataclass(frozen=True, kw_only=True, slots=True)
class PackType:
    """Parallel vertical tubes of equal pixels."""

    tubes: int
    tube_pitch_m: float
    pixels: int
    length_m: float  # all pixels together
    diameter_m: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """A pack of tubes: centre and right-handed turn about the vertical."""

    name: str
    type: str
    first_id: int  # detector identifier of its first pixel; the others follow
    x_m: float
    y_m: float
    z_m: float
    turn_deg: float


@dataclass(frozen=True, kw_only=True, slots=True)
class InstrumentTable:
    """What is needed to rebuild every pixel of a spectrometer."""

    name: str
    source: str
    source_to_sample_m: float
    turn_log: str | None  # log that turns all packs together about the vertical
    masked_end_pixels: int  # usual mask: so many pixels at both ends of a tube
    pack_types: dict[str, PackType]
    packs: tuple[Pack, ...]
    resolution: Resolution
    resolution_source: str
    resolution_ei_meV: float


def known_instruments() -> tuple[str, ...]:
    """Names of the spectrometers that ship with the package."""
    folder = files("simulations") / "data" / "instruments"
    return tuple(
        sorted(f.name.removesuffix(".json") for f in folder.iterdir() if f.name.endswith(".json"))
    )


@cache
def read_instrument_table(name: str) -> InstrumentTable:
    """Table of a known spectrometer.

    Parameters
    ----------
    name : str
        As in ``known_instruments()``; case does not matter.

    Raises
    ------
    ValueError
        If no table of that name ships with the package.
    """
    if name.upper() not in known_instruments():
        raise InputError(
            f"instrument.name is {name!r}; expected one of {', '.join(known_instruments())}, or a "
            "file (IDF .xml, table .csv .npz .json), or give files that carry their own geometry"
        )
    path = files("simulations") / "data" / "instruments" / f"{name.upper()}.json"
    return _table(json.loads(path.read_text(encoding="utf-8")), path.name)


def read_pack_table(path: Path | str) -> InstrumentTable:
    """Table of a spectrometer of the user, in the layout of the tables that ship.

    Parameters
    ----------
    path : Path
        JSON with ``name, source_to_sample_m, pack_types, packs``; ``masked_end_pixels`` (0),
        ``source`` and ``resolution`` may be left out.

    Raises
    ------
    ValueError
        If the file is no such table; the message names file, field, value and expectation.
    """
    path = Path(path)
    try:
        raw = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); expected packs") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: holds a {type(raw).__name__}; expected pack_types and packs")
    defaults = {
        "source": f"table of the user, {path.name}",
        "turn_log": None,
        "masked_end_pixels": 0,
        "resolution": {
            "coefficients": UNKNOWN_RESOLUTION.coefficients,
            "source": "typical of direct geometry, unknown for this instrument",
            "ei_meV": 0.0,
        },
    }
    return _table(defaults | raw, str(path))


def read_text(path: Path) -> str:
    """Text of a geometry file; ValueError if it cannot be read as UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected text. Check it") from error


def _table(raw: dict[str, Any], origin: str) -> InstrumentTable:
    try:
        pack_types = {
            str(key): PackType(**_numbers(f"pack_types.{key}", value, PackType))
            for key, value in raw["pack_types"].items()
        }
        packs = tuple(
            Pack(**_numbers(f"packs[{k}]", pack, Pack)) for k, pack in enumerate(raw["packs"])
        )
        for k, pack in enumerate(packs):
            if pack.type not in pack_types:
                raise InputError(
                    f"packs[{k}].type is {pack.type!r}; expected one of {', '.join(pack_types)}"
                )
        length = float(raw["source_to_sample_m"])
        if not length > 0 or not packs:
            raise InputError(
                f"source_to_sample_m is {length} with {len(packs)} packs; expected a positive "
                "length and at least one pack"
            )
        return InstrumentTable(
            name=str(raw["name"]),
            source=str(raw["source"]),
            source_to_sample_m=length,
            turn_log=raw["turn_log"],
            masked_end_pixels=int(raw["masked_end_pixels"]),
            pack_types=pack_types,
            packs=packs,
            resolution=Resolution(
                coefficients=tuple(float(c) for c in raw["resolution"]["coefficients"])
            ),
            resolution_source=str(raw["resolution"]["source"]),
            resolution_ei_meV=float(raw["resolution"]["ei_meV"]),
        )
    except KeyError as error:
        raise InputError(f"{origin}: field {error} is missing; expected it. Add it") from error
    except (TypeError, AttributeError) as error:
        raise InputError(f"{origin}: {error}; expected a table of packs") from error
    except ValueError as error:
        raise InputError(f"{origin}: {error}") from error


def _numbers(where: str, raw: Any, kind: type) -> dict[str, Any]:
    """Fields of a pack or pack type, each checked for its type, sizes for their sign."""
    if not isinstance(raw, dict):
        raise InputError(f"{where} is {raw!r}; expected an object")
    wanted = {field.name: str(field.type) for field in fields(kind)}
    for extra in raw.keys() - wanted.keys():
        raise InputError(f"{where}.{extra} is unknown; expected {', '.join(wanted)}")
    checked: dict[str, Any] = {}
    for name, type_name in wanted.items():
        if name not in raw:
            raise InputError(f"{where}.{name} is missing; expected it. Add it")
        value = raw[name]
        if type_name == "str":
            checked[name] = str(value)
            continue
        whole = type_name == "int"
        good = isinstance(value, int) or (isinstance(value, float) and not whole)
        if not good or isinstance(value, bool) or not math.isfinite(value):
            raise InputError(
                f"{where}.{name} is {value!r}; expected a {'whole ' if whole else ''}number"
            )
        if kind is PackType and not value > 0:
            raise InputError(f"{where}.{name} is {value!r}; expected a positive number")
        checked[name] = int(value) if whole else float(value)
    return checked
