"""Instrument definition files (IDF): the XML text in which event files carry their geometry.

Nested component types, rotations, spherical places, lists of locations, rectangular detectors,
identifier lists and parameters driven by logs are followed. What would be read wrongly is refused.

References
----------
Mantid, "Instrument Definition File", docs.mantidproject.org/nightly/concepts.
"""

from __future__ import annotations

import ast
import math
import operator
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.instrument.instrument_file import known_instruments, read_instrument_table
from simulations.instrument.spectrometer import (
    UNKNOWN_RESOLUTION,
    Instrument,
    Resolution,
    split_name,
)

MAX_DETECTORS = 20_000_000

_AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}
_PLACE = ("x", "y", "z", "r", "t", "p")
_MOVING = frozenset(
    {"x", "y", "z", "r-position", "t-position", "p-position", "rotx", "roty", "rotz", "pos", "rot"}
)
_BINARY: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_UNARY: dict[type, Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "asin": math.asin,
    "acos": math.acos,
    "atan": math.atan,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "ln": math.log,
    "log10": math.log10,
    "abs": abs,
}


def evaluate_formula(formula: str, value: float) -> float:
    """Value of a log formula such as ``-0.001*value-38.980``; nothing but arithmetic is obeyed.

    Parameters
    ----------
    formula : str
        Numbers, ``value``, ``+ - * / ^``, parentheses and elementary functions.
    value : float
        What stands for ``value``.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the formula holds anything else or does not yield a finite number.
    """
    complaint = f"IDF formula is {formula[:80]!r}; expected arithmetic in 'value'"
    if len(formula) > 200:
        raise InputError(complaint)

    def walk(node: ast.AST) -> float:
        match node:
            case ast.Expression():
                return walk(node.body)
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return float(number)
            case ast.Name(id="value"):
                return value
            case ast.BinOp() if type(node.op) in _BINARY:
                return float(_BINARY[type(node.op)](walk(node.left), walk(node.right)))
            case ast.UnaryOp() if type(node.op) in _UNARY:
                return _UNARY[type(node.op)](walk(node.operand))
            case ast.Call(func=ast.Name(id=name), args=[arg], keywords=[]) if name in _FUNCTIONS:
                return _FUNCTIONS[name](walk(arg))
            case _:
                raise InputError(complaint)

    try:
        result = walk(ast.parse(formula.strip().replace("^", "**"), mode="eval"))
    except (SyntaxError, ArithmeticError, TypeError, RecursionError, MemoryError) as error:
        raise InputError(complaint) from error
    if not math.isfinite(result):
        raise InputError(f"{complaint} with a finite result; value is {value}")
    return result


def required_logs(xml: str) -> tuple[str, ...]:
    """Logs that the geometry depends on, sorted, e.g. ``("msd", "s2")``.

    Raises
    ------
    ValueError
        If the text is no IDF.
    """
    root = _root(xml)
    return tuple(sorted({node.get("id", "") for node in root.iter("logfile")} - {""}))


def instrument_name(xml: str) -> str:
    """Name that an IDF states.

    Raises
    ------
    ValueError
        If the text is no IDF.
    """
    return _root(xml).get("name", "").strip()


def parse_idf(
    xml: str, logs: Mapping[str, float], *, resolution: Resolution | None = None
) -> Instrument:
    """Pixels of the spectrometer that an IDF describes.

    Parameters
    ----------
    xml : str
        Text of the IDF.
    logs : mapping of str to float
        Value of every log that places components (``required_logs``), in the log's own unit.
    resolution : Resolution, optional
        Default: that of the known spectrometer of the same name, else ``UNKNOWN_RESOLUTION``.

    Returns
    -------
    Instrument
        Detector pixels in document order, monitors left out, sample at the origin, z along the
        beam, y up. Pixels of one parent component form a tube. Known spectrometers get their usual
        mask of tube ends; others have no mask. Solid angles come from the pixel shapes: a
        cylinder counts as the flat strip it shows to the sample, a cuboid as its visible faces.

    Raises
    ------
    ValueError
        If the text is no IDF, a log is missing, identifiers do not match the detectors, or it uses
        a feature that is not followed (facing, structured detectors, other shapes).
    """
    root = _root(xml)
    reader = _Reader(root, logs)
    cloud = reader.detectors()
    frame = _frame(root)
    source, sample = frame @ reader.source, frame @ reader.sample
    position = cloud.position @ frame.T - sample
    axis_frame = cloud.turn.transpose(0, 2, 1) @ frame.T  # rows: local axes in the laboratory
    solid_angle = _solid_angles(position, axis_frame, cloud.shape, reader.shapes)
    name = root.get("name", "").strip() or "unnamed"
    masked = np.zeros(len(position), dtype=np.bool_)
    base, factor = split_name(name)
    if base.upper() in known_instruments():
        table = read_instrument_table(base)
        resolution = resolution or table.resolution
        along = _place_along(cloud.parent)
        masked = along < -(-table.masked_end_pixels // factor)
    return Instrument(
        name=name,
        position_m=position,
        solid_angle_sr=solid_angle,
        detector_id=cloud.ids,
        masked=masked,
        source_to_sample_m=float(np.linalg.norm(source - sample)),
        resolution=resolution or UNKNOWN_RESOLUTION,
        tube=cloud.parent,
    )


def _root(xml: str) -> ET.Element:
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise InputError("the IDF declares entities; expected plain XML. Remove the DOCTYPE")
    try:
        root = ET.fromstring(xml.strip())  # noqa: S314, entities are refused above
    except (ET.ParseError, ValueError) as error:
        raise InputError(f"the IDF is no XML ({error}); expected an <instrument>") from error
    for node in root.iter():
        if isinstance(node.tag, str):
            node.tag = node.tag.rpartition("}")[2]
    if root.tag != "instrument":
        raise InputError(f"the IDF starts with <{root.tag}>; expected <instrument>")
    return root


def _frame(root: ET.Element) -> FloatArray:
    """Rotation (or reflection) from the IDF's axes to z along the beam, y up, right-handed."""
    frame = root.find("defaults/reference-frame")
    beam, up, hand = "z", "y", "right"
    if frame is not None:
        beam = _attribute(frame, "along-beam", "axis", beam)
        up = _attribute(frame, "pointing-up", "axis", up)
        hand = _attribute(frame, "handedness", "val", _attribute(frame, "handedness", "axis", hand))
    if beam not in _AXES or up not in _AXES or beam == up or hand not in ("right", "left"):
        raise InputError(
            f"the IDF's reference frame is beam {beam}, up {up}, {hand}-handed; "
            "expected two different axes out of x, y, z and right or left"
        )
    ez, ey = np.array(_AXES[beam]), np.array(_AXES[up])
    ex = np.cross(ey, ez) * (1 if hand == "right" else -1)
    return np.stack([ex, ey, ez])


def _attribute(parent: ET.Element, tag: str, key: str, default: str) -> str:
    node = parent.find(tag)
    return default if node is None else node.get(key, default).strip().lower()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Cloud:
    """Detectors (monitors included) of an expanded component, in its own frame."""

    position: FloatArray  # (n, 3)
    turn: FloatArray  # (n, 3, 3) columns: axes of the pixel
    shape: NDArray[np.int32]  # (n,) index into the reader's shapes
    parent: NDArray[np.int32]  # (n,) number of the parent instance, counted from 0
    monitor: NDArray[np.bool_]  # (n,)
    ids: NDArray[np.int64]  # (n,) -1: from the identifier list of an outer component

    @property
    def parents(self) -> int:
        return int(self.parent[-1]) + 1 if len(self.parent) else 0

    def moved(self, place: FloatArray, turn: FloatArray) -> _Cloud:
        return _Cloud(
            position=self.position @ turn.T + place,
            turn=turn @ self.turn,
            shape=self.shape,
            parent=self.parent,
            monitor=self.monitor,
            ids=self.ids,
        )


def _join(clouds: list[_Cloud]) -> _Cloud:
    clouds = [c for c in clouds if len(c.ids)]
    if not clouds:
        return _Cloud(
            position=np.empty((0, 3)),
            turn=np.empty((0, 3, 3)),
            shape=np.empty(0, np.int32),
            parent=np.empty(0, np.int32),
            monitor=np.empty(0, np.bool_),
            ids=np.empty(0, np.int64),
        )
    shift = np.cumsum([0] + [c.parents for c in clouds[:-1]])
    return _Cloud(
        position=np.concatenate([c.position for c in clouds]),
        turn=np.concatenate([c.turn for c in clouds]),
        shape=np.concatenate([c.shape for c in clouds]),
        parent=np.concatenate(
            [(c.parent + s).astype(np.int32) for c, s in zip(clouds, shift, strict=True)]
        ),
        monitor=np.concatenate([c.monitor for c in clouds]),
        ids=np.concatenate([c.ids for c in clouds]),
    )


def _place_along(parent: NDArray[np.int32]) -> NDArray[np.int64]:
    """Steps of every pixel from the nearer end of its tube, (pixels,)."""
    n = len(parent)
    starts = np.flatnonzero(np.r_[True, np.diff(parent) != 0]) if n else np.empty(0, int)
    lengths = np.diff(np.r_[starts, n])
    step = np.arange(n) - np.repeat(starts, lengths)
    return np.minimum(step, np.repeat(lengths, lengths) - 1 - step)


class _Reader:
    """One pass over the tree; component types are expanded once and reused."""

    def __init__(self, root: ET.Element, logs: Mapping[str, float]) -> None:
        self.root = root
        self.logs = logs
        self.types = {node.get("name", ""): node for node in root.findall("type")}
        self.idlists = {node.get("idname", ""): node for node in root.findall("idlist")}
        self.shapes: list[tuple[str, FloatArray]] = []
        self.source = np.array([0.0, 0.0, 0.0])
        self.sample = np.array([0.0, 0.0, 0.0])
        self._shape_of: dict[str, int] = {}
        self._open: list[str] = []
        self._cache: dict[tuple[str, frozenset[str]], _Cloud] = {}
        self._check_defaults()

    def _check_defaults(self) -> None:
        for tag, allowed in (("length", {"metre", "meter", "m"}), ("angle", {"degree", "degrees"})):
            unit = _attribute(self.root, f"defaults/{tag}", "unit", next(iter(allowed)))
            if unit not in allowed:
                raise InputError(f"the IDF's {tag} unit is {unit!r}; expected {sorted(allowed)[0]}")
        for link in self.root.findall("component-link"):
            moving = {p.get("name", "").lower() for p in link.findall("parameter")} & _MOVING
            if moving:
                raise InputError(
                    f"the IDF moves {link.get('name')!r} through <component-link> "
                    f"({', '.join(sorted(moving))}); expected the parameter inside its <location>"
                )

    def detectors(self) -> _Cloud:
        clouds: list[_Cloud] = []
        found_source = False
        for component in self.root.findall("component"):
            kind = self._type(component)
            role = kind.get("is", "").lower()
            if role in ("source", "samplepos"):
                places = list(self._locations(component))
                if len(places) != 1:
                    raise InputError(
                        f"the IDF places its {role} {len(places)} times; expected once"
                    )
                if role == "source":
                    self.source, found_source = places[0][0], True
                else:
                    self.sample = places[0][0]
                continue
            cloud = self._component(component)
            if len(cloud.ids):
                clouds.append(cloud)
        if not found_source:
            raise InputError("the IDF has no component of type is='Source'; expected a moderator")
        cloud = _join(clouds)
        keep = ~cloud.monitor
        cloud = _Cloud(
            position=cloud.position[keep],
            turn=cloud.turn[keep],
            shape=cloud.shape[keep],
            parent=np.unique(cloud.parent[keep], return_inverse=True)[1].astype(np.int32),
            monitor=cloud.monitor[keep],
            ids=cloud.ids[keep],
        )
        if len(cloud.ids) == 0:
            raise InputError("the IDF has no detectors; expected types with is='detector'")
        if np.any(cloud.ids < 0):
            raise InputError(
                f"{int((cloud.ids < 0).sum())} detectors of the IDF have no identifier; "
                "expected an idlist for their component"
            )
        if len(np.unique(cloud.ids)) != len(cloud.ids):
            raise InputError("identifiers of the IDF are used twice; expected one per detector")
        return cloud

    def _type(self, component: ET.Element) -> ET.Element:
        name = component.get("type", "")
        if name not in self.types:
            raise InputError(f"the IDF uses component type {name!r}, which it does not define")
        return self.types[name]

    def _component(self, component: ET.Element) -> _Cloud:
        """All instances of a component in its parent's frame, identifiers included."""
        kind = self._type(component)
        pieces = []
        for place, turn, excluded in self._locations(component):
            pieces.append(self._expand(kind, excluded).moved(place, turn))
            if sum(len(p.ids) for p in pieces) > MAX_DETECTORS:
                raise InputError(f"the IDF has over {MAX_DETECTORS} detectors; expected fewer")
        if not pieces:
            raise InputError(
                f"IDF component {component.get('type')!r} has no <location>; expected at least one"
            )
        cloud = _join(pieces)
        if kind.get("is", "").lower() in ("detector", "monitor"):  # siblings share their parent
            cloud = _with(cloud, parent=np.zeros(len(cloud.ids), np.int32))
        if component.get("mark-as", "").lower() == "monitor":
            cloud = _with(cloud, monitor=np.ones(len(cloud.ids), np.bool_))
        if "idlist" in component.attrib:
            cloud = _with(cloud, ids=self._identifiers(component.get("idlist", ""), len(cloud.ids)))
        elif "idstart" in component.attrib and len(cloud.ids):
            cloud = _with(cloud, ids=self._rectangle_ids(component, kind, len(cloud.ids)))
        return cloud

    def _expand(self, kind: ET.Element, excluded: frozenset[str]) -> _Cloud:
        """Detectors of one instance of a type in the type's own frame."""
        name, role = kind.get("name", ""), kind.get("is", "").lower()
        key = (name, excluded)
        if key in self._cache:
            return self._cache[key]
        if name in self._open:
            raise InputError(f"IDF type {name!r} contains itself; expected a tree")
        self._open.append(name)
        if role in ("detector", "monitor"):
            cloud = self._pixel(kind, monitor=role == "monitor")
        elif role in ("rectangulardetector", "rectangular_detector"):
            cloud = self._rectangle(kind)
        elif role in ("structureddetector", "structured_detector", "griddetector", "grid_detector"):
            raise InputError(f"IDF type {name!r} is a {kind.get('is')}, which is not followed")
        else:
            parts = []
            for child in kind.findall("component"):
                if child.get("name", child.get("type", "")) in excluded:
                    continue
                parts.append(self._component(child))
            cloud = _join(parts)
        self._open.pop()
        self._cache[key] = cloud
        return cloud

    def _pixel(self, kind: ET.Element, *, monitor: bool) -> _Cloud:
        return _Cloud(
            position=np.zeros((1, 3)),
            turn=np.eye(3)[None],
            shape=np.array([self._shape(kind)], dtype=np.int32),
            parent=np.zeros(1, np.int32),
            monitor=np.array([monitor]),
            ids=np.array([-1], dtype=np.int64),
        )

    def _rectangle(self, kind: ET.Element) -> _Cloud:
        """Pixels of a rectangular detector, y fastest; a column is a tube."""
        nx, ny = int(kind.get("xpixels", "0")), int(kind.get("ypixels", "0"))
        if nx < 1 or ny < 1 or nx * ny > MAX_DETECTORS:
            raise InputError(
                f"IDF type {kind.get('name')!r} has {nx} x {ny} pixels; expected at least 1 x 1"
            )
        pixel = self.types.get(kind.get("type", ""))
        if pixel is None:
            raise InputError(
                f"IDF type {kind.get('name')!r} lacks its pixel type {kind.get('type')!r}"
            )
        x = float(kind.get("xstart", 0)) + float(kind.get("xstep", 0)) * np.arange(nx)
        y = float(kind.get("ystart", 0)) + float(kind.get("ystep", 0)) * np.arange(ny)
        position = np.zeros((nx, ny, 3))
        position[..., 0], position[..., 1] = x[:, None], y
        return _Cloud(
            position=position.reshape(-1, 3),
            turn=np.tile(np.eye(3), (nx * ny, 1, 1)),
            shape=np.full(nx * ny, self._shape(pixel), np.int32),
            parent=np.repeat(np.arange(nx, dtype=np.int32), ny),
            monitor=np.zeros(nx * ny, np.bool_),
            ids=np.full(nx * ny, -1, np.int64),
        )

    def _rectangle_ids(self, component: ET.Element, kind: ET.Element, n: int) -> NDArray[np.int64]:
        nx, ny = int(kind.get("xpixels", "0")), int(kind.get("ypixels", "0"))
        if nx * ny != n:
            raise InputError(
                f"idstart of {component.get('type')!r} numbers {n} detectors; expected one location"
                f" of a rectangular detector of {nx} x {ny} pixels"
            )
        start, step = int(component.get("idstart", "0")), int(component.get("idstep", "1"))
        ix, iy = np.divmod(np.arange(n), ny)
        if component.get("idfillbyfirst", "y").lower() == "y":
            fast, slow, row = iy, ix, ny
        else:
            fast, slow, row = ix, iy, nx
        return (start + fast * step + slow * int(component.get("idstepbyrow", str(row)))).astype(
            np.int64
        )

    def _identifiers(self, name: str, n: int) -> NDArray[np.int64]:
        if name not in self.idlists:
            raise InputError(f"the IDF names idlist {name!r}, which it does not define")
        parts = []
        node = self.idlists[name]
        inline = [node.attrib] if "start" in node.attrib else []
        for entry in [*inline, *(child.attrib for child in node.findall("id"))]:
            try:
                if "val" in entry:
                    part = np.array([int(entry["val"])])
                else:
                    start, end = int(entry["start"]), int(entry["end"])
                    step = int(entry.get("step", "1"))
                    step = abs(step) if end >= start else -abs(step)
                    if step == 0 or abs(end - start) // abs(step) > MAX_DETECTORS:
                        raise InputError("too many")
                    part = np.arange(start, end + (1 if step > 0 else -1), step)
            except (KeyError, ValueError) as error:
                raise InputError(
                    f"idlist {name!r} of the IDF holds {dict(entry)}; "
                    "expected val, or start and end (and step)"
                ) from error
            parts.append(part)
        ids = np.concatenate(parts) if parts else np.empty(0, int)
        if len(ids) != n:
            raise InputError(
                f"idlist {name!r} of the IDF numbers {len(ids)} detectors; its component has {n}"
            )
        return ids.astype(np.int64)

    def _locations(
        self, component: ET.Element
    ) -> Iterator[tuple[FloatArray, FloatArray, frozenset[str]]]:
        """Yield (place, turn, excluded names) of every instance, in document order."""
        for node in component:
            if node.tag == "location":
                yield self._location(node, dict(node.attrib))
            elif node.tag == "locations":
                n = _number(node, "n-elements", dict(node.attrib), 0.0)
                if not 1 <= n <= MAX_DETECTORS:
                    raise InputError(f"the IDF lists n-elements = {n:g}; expected at least 1")
                for k in range(int(n)):
                    share = k / (n - 1) if n > 1 else 0.0
                    attrib = dict(node.attrib)
                    for key in (*_PLACE, "rot"):
                        if f"{key}-end" in attrib:
                            first = _number(node, key, attrib, 0.0)
                            last = _number(node, f"{key}-end", attrib, 0.0)
                            attrib[key] = repr(first + share * (last - first))
                    yield self._location(node, attrib)

    def _location(
        self, node: ET.Element, attrib: dict[str, str]
    ) -> tuple[FloatArray, FloatArray, frozenset[str]]:
        facing = node.find("facing")
        if facing is not None and facing.get("val") != "none":
            raise InputError(
                "the IDF turns components with <facing>, which is not followed; "
                "give the instrument by name, or write the rotation"
            )
        place, turn = _vector(node, attrib), _rotation(node, attrib, "rot")
        for child in node:
            if child.tag in ("rot", "trans"):
                place, turn = self._nested(child, place, turn)
        place, turn = self._driven(node, place, turn)
        excluded = frozenset(e.get("sub-part", "") for e in node.findall("exclude"))
        return place, turn, excluded

    def _nested(
        self, node: ET.Element, place: FloatArray, turn: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        attrib = dict(node.attrib)
        if node.tag == "rot":
            turn = turn @ _rotation(node, attrib, "val")
        else:
            place = place + turn @ _vector(node, attrib)
            turn = turn @ _rotation(node, attrib, "rot")
        for child in node:
            if child.tag in ("rot", "trans"):
                place, turn = self._nested(child, place, turn)
        return place, turn

    def _driven(
        self, node: ET.Element, place: FloatArray, turn: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Place and turn after parameters (numbers or logs) have replaced the attributes."""
        values = {}
        for parameter in node.findall("parameter"):
            name = parameter.get("name", "").lower()
            if name in _MOVING:
                values[name] = self._parameter(parameter, name)
        place = place.copy()
        for k, key in enumerate("xyz"):
            if key in values:
                place[k] = values[key]
        if values.keys() & {"r-position", "t-position", "p-position"}:
            place = _spherical(
                values.get("r-position", 0.0),
                values.get("t-position", 0.0),
                values.get("p-position", 0.0),
            )
        if values.keys() & {"rotx", "roty", "rotz"}:
            turn = (
                _turn((1, 0, 0), values.get("rotx", 0.0))
                @ _turn((0, 1, 0), values.get("roty", 0.0))
                @ _turn((0, 0, 1), values.get("rotz", 0.0))
            )
        return place, turn

    def _parameter(self, parameter: ET.Element, name: str) -> float:
        log, value = parameter.find("logfile"), parameter.find("value")
        if log is not None:
            key = log.get("id", "")
            if key not in self.logs or not math.isfinite(self.logs[key]):
                state = "missing" if key not in self.logs else f"{self.logs[key]}"
                raise InputError(
                    f"the IDF places a component by log {key!r}, which is {state}; "
                    "expected a finite number. Give its value"
                )
            number = float(self.logs[key])
            return evaluate_formula(log.get("eq", "value"), number)
        if value is not None and name not in ("pos", "rot"):
            return _float(value.get("val", ""), f"parameter {name}")
        raise InputError(f"IDF parameter {name!r} has neither a number nor a log that is followed")

    def _shape(self, kind: ET.Element) -> int:
        name = kind.get("name", "")
        if name not in self._shape_of:
            self._shape_of[name] = len(self.shapes)
            self.shapes.append(_read_shape(kind))
        return self._shape_of[name]


def _with(cloud: _Cloud, **changes: NDArray) -> _Cloud:
    fields = {key: getattr(cloud, key) for key in _Cloud.__dataclass_fields__}
    return _Cloud(**(fields | changes))


def _float(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise InputError(f"the IDF has {what} = {text!r}; expected a number") from error
    if not math.isfinite(number):
        raise InputError(f"the IDF has {what} = {text!r}; expected a finite number")
    return number


def _number(node: ET.Element, key: str, attrib: Mapping[str, str], default: float) -> float:
    if key not in attrib:
        return default
    return _float(attrib[key], f"{key} of <{node.tag}>")


def _spherical(r: float, t_deg: float, p_deg: float) -> FloatArray:
    t, p = math.radians(t_deg), math.radians(p_deg)
    return r * np.array([math.sin(t) * math.cos(p), math.sin(t) * math.sin(p), math.cos(t)])


def _vector(node: ET.Element, attrib: Mapping[str, str]) -> FloatArray:
    if any(key in attrib for key in "rtp"):
        return _spherical(*(_number(node, key, attrib, 0.0) for key in "rtp"))
    return np.array([_number(node, key, attrib, 0.0) for key in "xyz"])


def _rotation(node: ET.Element, attrib: Mapping[str, str], angle: str) -> FloatArray:
    axis = tuple(
        _number(node, f"axis-{key}", attrib, default)
        for key, default in (("x", 0.0), ("y", 0.0), ("z", 1.0))
    )
    return _turn(axis, _number(node, angle, attrib, 0.0))


def _turn(axis: tuple[float, ...], angle_deg: float) -> FloatArray:
    """Right-handed rotation about an axis (Rodrigues)."""
    if angle_deg == 0.0:
        return np.eye(3)
    n = np.array(axis, dtype=float)
    length = np.linalg.norm(n)
    if length == 0.0:
        raise InputError(f"the IDF turns by {angle_deg} degrees about axis (0, 0, 0)")
    x, y, z = n / length
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    a = math.radians(angle_deg)
    return np.eye(3) + math.sin(a) * K + (1 - math.cos(a)) * K @ K


def _read_shape(kind: ET.Element) -> tuple[str, FloatArray]:
    """Shape of a pixel: strip (axis * height, diameter), box (three face vectors) or unknown."""
    name = kind.get("name", "")
    cylinder, cuboid = kind.find("cylinder"), kind.find("cuboid")
    if cylinder is not None:
        axis = np.array([_corner(cylinder, "axis", key) for key in "xyz"])
        length = np.linalg.norm(axis)
        radius, height = _corner(cylinder, "radius", "val"), _corner(cylinder, "height", "val")
        if length == 0 or radius <= 0 or height <= 0:
            raise InputError(f"cylinder of IDF type {name!r} has no size; expected positive ones")
        return "strip", np.append(axis / length * height, 2 * radius)
    if cuboid is not None:
        if cuboid.find("left-front-bottom-point") is None:
            sizes = [_corner(cuboid, key, "val") for key in ("width", "height", "depth")]
            edges = np.diag(sizes)
        else:
            corner = {
                key: np.array([_corner(cuboid, f"{key}-point", axis) for axis in "xyz"])
                for key in (
                    "left-front-bottom",
                    "left-front-top",
                    "left-back-bottom",
                    "right-front-bottom",
                )
            }
            origin = corner.pop("left-front-bottom")
            edges = np.stack([point - origin for point in corner.values()])
        faces = np.stack([np.cross(edges[i], edges[(i + 1) % 3]) for i in range(3)])
        return "box", faces.ravel()
    return "unknown", np.empty(0)


def _corner(parent: ET.Element, tag: str, key: str) -> float:
    node = parent.find(tag)
    if node is None:
        raise InputError(f"a shape of the IDF lacks <{tag}>")
    return _float(node.get(key, node.get(tag, "0")), f"{key} of <{tag}>")


def _solid_angles(
    position: FloatArray,
    axes: FloatArray,
    shape: NDArray[np.int32],
    shapes: list[tuple[str, FloatArray]],
) -> FloatArray:
    """Solid angle of every pixel seen from the origin, sr; ``axes`` rows are local axes."""
    distance = np.linalg.norm(position, axis=1)
    if np.any(distance == 0):
        raise InputError("a detector of the IDF lies at the sample; expected it elsewhere")
    direction = position / distance[:, None]
    area = np.empty(len(position))
    for k, (kind, numbers) in enumerate(shapes):
        here = shape == k
        if not here.any():
            continue
        if kind == "strip":
            axis = np.einsum("a,nab->nb", numbers[:3], axes[here])
            area[here] = numbers[3] * np.linalg.norm(np.cross(axis, direction[here]), axis=1)
        elif kind == "box":
            faces = np.einsum("fa,nab->nfb", numbers.reshape(3, 3), axes[here])
            area[here] = np.abs(np.einsum("nfb,nb->nf", faces, direction[here])).sum(axis=1)
        else:
            raise InputError(
                "a detector type of the IDF has neither a cylinder nor a cuboid; "
                "its solid angle is unknown. Add the shape"
            )
    return area / distance**2
