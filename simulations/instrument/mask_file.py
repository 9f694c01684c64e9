"""Detector masks as reduction programs write them: Mantid's XML, or lists of identifiers as text.

XML: ``<detector-masking><group><detids>1-5,9</detids><component>bank12</component>``. Text: whole
numbers and ranges such as ``1-5``, apart by blanks or commas; what follows ``#`` or a letter is a
remark. Numbers are detector identifiers (where a facility masks by spectrum numbers, these must be
turned into identifiers first).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulations.errors import InputError
from simulations.instrument.instrument_file import known_instruments, read_instrument_table
from simulations.instrument.spectrometer import Instrument, split_name
from simulations.saved_file import write_whole

MAX_IDENTIFIERS = 20_000_000


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DetectorMask:
    """What a mask file names."""

    path: Path
    detector_id: NDArray[np.int64]  # (masked,) sorted, each once
    components: tuple[str, ...] = ()  # packs named as a whole


def read_mask(path: Path | str) -> DetectorMask:
    """Read a mask file, XML or text by its content.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    ValueError
        If it cannot be read; the message names file, line (text), value and expectation.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected a mask file") from error
    components: tuple[str, ...] = ()
    if text.lstrip().startswith("<"):
        ranges, components = _xml(path, text)
    else:
        ranges = _text(path, text)
    if not ranges and not components:
        raise InputError(f"{path}: masks nothing; expected detector identifiers or components")
    if sum(last - first + 1 for first, last in ranges) > MAX_IDENTIFIERS:
        raise InputError(f"{path}: masks over {MAX_IDENTIFIERS} detectors; expected fewer")
    parts = [np.arange(first, last + 1, dtype=np.int64) for first, last in ranges]
    ids = np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)
    return DetectorMask(path=path, detector_id=ids, components=components)


def write_mask(path: Path | str, instrument: Instrument) -> None:
    """Write the masked pixels of an instrument as Mantid's XML.

    Raises
    ------
    ValueError
        If no pixel is masked.
    """
    ids = np.sort(instrument.detector_id[instrument.masked])
    if len(ids) == 0:
        raise InputError(f"{instrument.name} has no masked pixel; expected some to write")
    width = split_name(instrument.name)[1]
    starts = np.flatnonzero(np.r_[True, np.diff(ids) > width])
    stops = np.r_[starts[1:], len(ids)] - 1
    words = ",".join(
        f"{first}-{last + width - 1}" if last + width - 1 > first else f"{first}"
        for first, last in zip(ids[starts].tolist(), ids[stops].tolist(), strict=True)
    )
    write_whole(
        path,
        f'<?xml version="1.0"?>\n<detector-masking>\n<group>\n<detids>{words}</detids>\n'
        "</group>\n</detector-masking>\n",
    )


def with_mask_file(instrument: Instrument, mask: DetectorMask) -> tuple[Instrument, int]:
    """Mask what a file names, beside what is masked already.

    Parameters
    ----------
    instrument : Instrument
        Merged pixels are masked when any member is.
    mask : DetectorMask
        Of ``read_mask``.

    Returns
    -------
    instrument : Instrument
    unknown : int
        Identifiers that the instrument does not have.

    Raises
    ------
    ValueError
        If a component is unknown to the instrument, or no identifier is one of its pixels: the
        file then belongs to another instrument.
    """
    base, width = split_name(instrument.name)
    ids = np.unique(np.r_[mask.detector_id, _component_ids(base, mask)])
    first = np.searchsorted(ids, instrument.detector_id)
    last = np.searchsorted(ids, instrument.detector_id + width)
    hit = last > first
    known = int((last - first).sum())
    if known == 0:
        raise InputError(
            f"{mask.path}: none of its {len(ids)} identifiers is a pixel of {instrument.name}; "
            "expected a mask of this instrument"
        )
    return instrument.with_mask(hit), len(ids) - known


def _component_ids(base: str, mask: DetectorMask) -> NDArray[np.int64]:
    if not mask.components:
        return np.empty(0, np.int64)
    if base.upper() not in known_instruments():
        raise InputError(
            f"{mask.path}: masks component {mask.components[0]!r}, but the packs of {base} are not "
            "known by name; expected identifiers (detids)"
        )
    table = read_instrument_table(base)
    packs = {pack.name: pack for pack in table.packs}
    parts = []
    for name in mask.components:
        pack = packs.get(name.split("/")[0])
        if pack is None:
            raise InputError(
                f"{mask.path}: masks component {name!r}; expected one of {', '.join(packs)}"
            )
        kind = table.pack_types[pack.type]
        parts.append(pack.first_id + np.arange(kind.tubes * kind.pixels, dtype=np.int64))
    return np.concatenate(parts)


def _xml(path: Path, text: str) -> tuple[list[tuple[int, int]], tuple[str, ...]]:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError(f"{path}: declares entities; expected plain XML. Remove the DOCTYPE")
    try:
        root = ET.fromstring(text.strip())  # noqa: S314, entities are refused above
    except (ET.ParseError, ValueError) as error:
        raise InputError(f"{path}: is no XML ({error}); expected <detector-masking>") from error
    if root.tag != "detector-masking":
        raise InputError(f"{path}: starts with <{root.tag}>; expected <detector-masking>")
    ranges: list[tuple[int, int]] = []
    for node in root.iter("detids"):
        for word in re.split(r"[\s,]+", (node.text or "").strip()):
            if word:
                ranges.append(_range(word, f"{path}: detids"))
    components = tuple((node.text or "").strip() for node in root.iter("component"))
    return ranges, tuple(name for name in components if name)


def _text(path: Path, text: str) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        content = re.split(r"[#A-Za-z]", line, maxsplit=1)[0]
        for word in re.split(r"[\s,]+", re.sub(r"\s*-\s*", "-", content.strip())):
            if word:
                ranges.append(_range(word, f"{path}: line {number}"))
    return ranges


def _range(word: str, where: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,12})(?:-(\d{1,12}))?", word)
    if match is None:
        raise InputError(f"{where} has {word!r}; expected an identifier or a range such as 1-5")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise InputError(f"{where} has {word!r}; expected a range that rises. Swap the two")
    return first, last
