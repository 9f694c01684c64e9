"""Known spectrometers rebuilt in code, and their geometry as IDF text for event files.

A pack is a row of parallel vertical tubes turned about the vertical; a table of packs
(``data/instruments``) is all that a spectrometer needs.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

from simulations.errors import InputError
from simulations.instrument.idf import parse_idf, required_logs
from simulations.instrument.instrument_file import (
    InstrumentTable,
    PackType,
    known_instruments,
    read_instrument_table,
    read_pack_table,
    read_text,
)
from simulations.instrument.pixel_table_file import read_pixel_table
from simulations.instrument.spectrometer import Instrument, coarsen, split_name

GEOMETRY_SUFFIXES = (".xml", ".csv", ".npz", ".json")
DEFAULT_TURN_DEG = {"HYSPEC": -33.0}  # detector vessel of HYSPEC when no s2 is given


@cache
def load_instrument(name: str, turn_deg: float | None = None) -> Instrument:
    """Rebuild a known spectrometer. Opens no file of the user, so a name may come from anywhere.

    Parameters
    ----------
    name : str
        ``ARCS``, ``CNCS``, ``HYSPEC``, ``SEQUOIA``, or with merged pixels ``ARCS/4``.
    turn_deg : float, optional
        Angle of a movable detector vessel about the vertical (s2 of HYSPEC, default -33 degrees).

    Returns
    -------
    Instrument
        Pixels in the order of the pack table, tube by tube, upwards. The usual mask covers eight
        pixels at both ends of every tube.

    Raises
    ------
    ValueError
        If the name is unknown, or an angle is given to an instrument that does not turn.

    Notes
    -----
    Solid angle of a pixel: ``diameter * height * cos(elevation) / distance^2``, the tube seen as a
    flat strip facing the sample.
    """
    base, factor = split_name(name)
    return coarsen(_build(read_instrument_table(base), turn_deg), factor)


def find_instrument(name: str, folder: Path | None = None) -> Instrument:
    """Known spectrometer, or one from a file that the experiment names.

    Parameters
    ----------
    name : str
        As for ``load_instrument``; or a file: an IDF (``.xml``), a table of pixels (``.csv``,
        ``.npz``, ``.json``) or of packs (``.json``), merged likewise, ``my/pixels.csv/4``.
    folder : Path, optional
        What a relative path starts from; default the working folder.

    Raises
    ------
    ValueError
        If the name is unknown or the file cannot be used.
    """
    path, factor = geometry_file(name)
    if path is None:
        return load_instrument(name)
    path = path if folder is None else folder / path
    if not path.is_file():
        raise InputError(f"instrument.name is {name!r}; {path} is no file. Correct the path")
    return coarsen(_of_file(path, path.stat().st_mtime_ns), factor)


def names_geometry(name: str) -> bool:
    """Whether ``find_instrument`` takes a name as a known spectrometer or as a file."""
    known = name.partition("/")[0].upper() in known_instruments()
    return known or geometry_file(name)[0] is not None


def geometry_file(name: str) -> tuple[Path | None, int]:
    """File and merging that an instrument's name states; no file for a known spectrometer."""
    base, slash, factor = name.rpartition("/")
    if slash and factor.isdigit() and Path(base).suffix.lower() in GEOMETRY_SUFFIXES:
        return Path(base), int(factor)
    return (Path(name), 1) if Path(name).suffix.lower() in GEOMETRY_SUFFIXES else (None, 1)


@lru_cache(maxsize=4)
def _of_file(path: Path, changed_ns: int) -> Instrument:
    """Instrument of a file; ``changed_ns`` makes the cache see that the file was replaced."""
    if path.suffix.lower() == ".xml":
        xml = read_text(path)
        try:
            if missing := required_logs(xml):
                raise InputError(
                    f"the IDF needs logs {', '.join(missing)}; expected fixed places. "
                    "Fold event files, which carry them"
                )
            return parse_idf(xml, {})
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error
    if path.suffix.lower() == ".json" and '"packs"' in read_text(path):
        return _build(read_pack_table(path), None)
    return read_pixel_table(path)


def _build(table: InstrumentTable, turn_deg: float | None) -> Instrument:
    turn = _turn(table, turn_deg)
    positions, solid_angles, ids = [], [], []
    for pack in table.packs:
        kind = table.pack_types[pack.type]
        x, y = _tube_x(kind), _pixel_y(kind)
        c, s = np.cos(np.radians(pack.turn_deg)), np.sin(np.radians(pack.turn_deg))
        P = np.empty((kind.tubes, kind.pixels, 3))
        P[..., 0] = (pack.x_m + c * x)[:, None]
        P[..., 1] = pack.y_m + y
        P[..., 2] = (pack.z_m - s * x)[:, None]
        P = P.reshape(-1, 3)
        d2 = (P**2).sum(axis=1)
        strip = kind.diameter_m * kind.length_m / kind.pixels
        solid_angles.append(strip * np.hypot(P[:, 0], P[:, 2]) / d2**1.5)
        positions.append(P)
        ids.append(pack.first_id + np.arange(len(P)))
    position = np.concatenate(positions)
    if turn:
        c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        position = position @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T
    lengths = [
        kind.pixels
        for pack in table.packs
        for kind in [table.pack_types[pack.type]]
        for _ in range(kind.tubes)
    ]
    return Instrument(
        name=table.name,
        position_m=position,
        solid_angle_sr=np.concatenate(solid_angles),
        detector_id=np.concatenate(ids).astype(np.int64),
        masked=tube_end_mask(lengths, table.masked_end_pixels),
        source_to_sample_m=table.source_to_sample_m,
        resolution=table.resolution,
        tube=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
    )


def tube_end_mask(lengths: list[int], ends: int) -> np.ndarray:
    """Mask, (pixels,), of ``ends`` pixels at both ends of consecutive tubes of these lengths."""
    along = np.concatenate([np.minimum(np.arange(n), np.arange(n)[::-1]) for n in lengths])
    return along < ends


def instrument_idf(name: str, turn_deg: float | None = None) -> str:
    """Geometry of a known spectrometer as IDF text, to be embedded in the event files we write.

    ``parse_idf`` turns it into ``load_instrument(name, turn_deg)``; the solid angles of merged
    pixels agree to 1e-4.

    Parameters
    ----------
    name : str
        As for ``load_instrument``.
    turn_deg : float, optional
        Angle of a movable detector vessel; written into the geometry as a number, not as a log.

    Returns
    -------
    str
        XML.
    """
    base, factor = split_name(name)
    table = read_instrument_table(base)
    turn = _turn(table, turn_deg)
    load_instrument(name, turn_deg)  # refuses a factor that does not divide the tubes
    title = table.name if factor == 1 else f"{table.name}/{factor}"
    lines = [
        "<?xml version='1.0' encoding='ASCII'?>",
        f"<instrument name={quoteattr(title)} valid-from='1900-01-31 23:59:59' "
        "valid-to='2100-01-31 23:59:59' last-modified='2026-01-01 00:00:00'>",
        f"<!-- {table.source} -->",
        "<defaults><length unit='metre'/><angle unit='degree'/><reference-frame>"
        "<along-beam axis='z'/><pointing-up axis='y'/><handedness axis='right'/>"
        "</reference-frame></defaults>",
        f"<component type='moderator'><location z='{-table.source_to_sample_m!r}'/></component>",
        "<type is='Source' name='moderator'/>",
        "<component type='sample-position'><location x='0' y='0' z='0'/></component>",
        "<type is='SamplePos' name='sample-position'/>",
        "<component type='detectors' idlist='detectors'>",
        f"<location rot='{turn!r}' axis-x='0' axis-y='1' axis-z='0'/>",
        "</component>",
        "<type name='detectors'>",
    ]
    for pack in table.packs:
        lines.append(
            f"<component type={quoteattr(pack.type)}><location name={quoteattr(pack.name)} "
            f"x='{pack.x_m!r}' y='{pack.y_m!r}' z='{pack.z_m!r}' rot='{pack.turn_deg!r}' "
            "axis-x='0' axis-y='1' axis-z='0'/></component>"
        )
    lines.append("</type>")
    for key, kind in table.pack_types.items():
        lines += _pack_type_xml(key, kind, factor)
    lines.append("<idlist idname='detectors'>")
    for pack in table.packs:
        kind = table.pack_types[pack.type]
        last = pack.first_id + kind.tubes * kind.pixels - factor
        lines.append(f"<id start='{pack.first_id}' step='{factor}' end='{last}'/>")
    lines += ["</idlist>", "</instrument>", ""]
    return "\n".join(lines)


def _pack_type_xml(key: str, kind: PackType, factor: int) -> list[str]:
    x = _tube_x(kind)
    y = _pixel_y(kind).reshape(-1, factor).mean(axis=1)
    height = kind.length_m / kind.pixels * factor
    tube, pixel = quoteattr(f"{key}-tube"), quoteattr(f"{key}-pixel")
    return [
        f"<type name={quoteattr(key)}><component type={tube}>",
        f"<locations x='{float(x[0])!r}' x-end='{float(x[-1])!r}' n-elements='{len(x)}' "
        "name='tube' name-count-start='1'/>",
        f"</component></type><type name={tube} outline='yes'><component type={pixel}>",
        f"<locations y='{float(y[0])!r}' y-end='{float(y[-1])!r}' n-elements='{len(y)}' "
        "name='pixel' name-count-start='1'/>",
        f"</component></type><type is='detector' name={pixel}><cylinder id='strip'>",
        f"<centre-of-bottom-base x='0' y='{-height / 2!r}' z='0'/><axis x='0' y='1' z='0'/>",
        f"<radius val='{kind.diameter_m / 2!r}'/><height val='{height!r}'/>",
        "</cylinder><algebra val='strip'/></type>",
    ]


def _turn(table: InstrumentTable, turn_deg: float | None) -> float:
    if table.turn_log is None:
        if turn_deg:
            raise InputError(f"{table.name} does not turn; got {turn_deg} degrees, expected none")
        return 0.0
    return DEFAULT_TURN_DEG.get(table.name, 0.0) if turn_deg is None else float(turn_deg)


def _tube_x(kind: PackType) -> np.ndarray:
    return (np.arange(kind.tubes) - (kind.tubes - 1) / 2) * kind.tube_pitch_m


def _pixel_y(kind: PackType) -> np.ndarray:
    return (np.arange(kind.pixels) - (kind.pixels - 1) / 2) * (kind.length_m / kind.pixels)
