"""What the NeXus template in a run start says: geometry, and how logs are named in a file.

The template is JSON as facilities send it in `pl72`: groups with ``type``, ``name``, ``children``
and ``attributes``; datasets as ``{"module": "dataset", "config": {"name", "values"}}``; streams as
``{"module": "f144", "config": {"source", "topic", "units"}}`` inside the group of their log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

LARGEST_DEPTH = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class LogName:
    """How a stream of samples is called in a file, and its unit."""

    name: str
    unit: str


def log_names(template: Mapping[str, Any]) -> dict[str, LogName]:
    """Name and unit of every `f144` stream in a template, by source name."""
    found: dict[str, LogName] = {}
    for path, node in _nodes(template):
        config = _config(node, "f144")
        if config is None:
            continue
        source = config.get("source")
        if isinstance(source, str) and source:
            unit = config.get("units", config.get("value_units", ""))
            found[source] = LogName(
                name=path[-1] if path else source, unit=unit if isinstance(unit, str) else ""
            )
    return found


def instrument_xml(template: Mapping[str, Any]) -> str | None:
    """Text of the instrument definition (dataset ``instrument_xml/data``); None if absent."""
    for path, node in _nodes(template):
        config = _config(node, "dataset")
        if config is None:
            continue
        values = config.get("values")
        if (
            config.get("name") == "data"
            and path[-1:] == ("instrument_xml",)
            and isinstance(values, str)
        ):
            return values
    return None


def entry_value(template: Mapping[str, Any], name: str) -> tuple[Any, str] | None:
    """Value and unit of a dataset directly inside the entry, e.g. ``duration``; None if absent."""
    for path, node in _nodes(template):
        config = _config(node, "dataset")
        if config is not None and len(path) == 1 and config.get("name") == name:
            return config.get("values"), _unit(node)
    return None


def _config(node: Mapping[str, Any], module: str) -> Mapping[str, Any] | None:
    """What a module of this kind is told; None for other nodes."""
    return _mapping(node.get("config")) if node.get("module") == module else None


def _mapping(node: object) -> Mapping[str, Any] | None:
    return cast(Mapping[str, Any], node) if isinstance(node, Mapping) else None


def _list(node: object) -> list[Any]:
    return cast(list[Any], node) if isinstance(node, list) else []


def _unit(node: Mapping[str, Any]) -> str:
    for attribute in map(_mapping, _list(node.get("attributes"))):
        if attribute is not None and attribute.get("name") == "units":
            unit = attribute.get("values")
            return unit if isinstance(unit, str) else ""
    return ""


def _nodes(
    node: object, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every node with the names of the groups round it; nothing below a bounded depth."""
    group = _mapping(node)
    if group is None or len(path) > LARGEST_DEPTH:
        return
    yield path, group
    name = group.get("name")
    inner = (*path, name) if isinstance(name, str) else path
    for child in _list(group.get("children")):
        yield from _nodes(child, inner)
