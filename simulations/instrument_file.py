"""The tables of known spectrometers that ship with the package (``data/instruments``)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from simulations.instrument import Resolution


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
        raise ValueError(
            f"instrument.name is {name!r}; expected one of {', '.join(known_instruments())}, "
            "or give files that carry their own geometry"
        )
    path = files("simulations") / "data" / "instruments" / f"{name.upper()}.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    return InstrumentTable(
        name=raw["name"],
        source=raw["source"],
        source_to_sample_m=raw["source_to_sample_m"],
        turn_log=raw["turn_log"],
        masked_end_pixels=raw["masked_end_pixels"],
        pack_types={key: PackType(**value) for key, value in raw["pack_types"].items()},
        packs=tuple(Pack(**pack) for pack in raw["packs"]),
        resolution=Resolution(coefficients=tuple(raw["resolution"]["coefficients"])),
        resolution_source=raw["resolution"]["source"],
        resolution_ei_meV=raw["resolution"]["ei_meV"],
    )
