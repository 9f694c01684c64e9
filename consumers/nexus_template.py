"""What the NeXus template in a run start says: geometry, and how logs are named in a file.

The template is JSON as facilities send it in `pl72`: groups with ``type``, ``name``, ``children``
and ``attributes``; datasets as ``{"module": "dataset", "config": {"name", "values"}}``; streams as
``{"module": "f144", "config": {"source", "topic", "units"}}`` inside the group of their log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

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
        config = node.get("config")
        if node.get("module") != "f144" or not isinstance(config, Mapping):
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
        config = node.get("config")
        if node.get("module") != "dataset" or not isinstance(config, Mapping):
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
        config = node.get("config")
        if node.get("module") != "dataset" or not isinstance(config, Mapping) or len(path) != 1:
            continue
        if config.get("name") == name:
            return config.get("values"), _unit(node)
    return None


def _unit(node: Mapping[str, Any]) -> str:
    attributes = node.get("attributes")
    for attribute in attributes if isinstance(attributes, list) else ():
        if isinstance(attribute, Mapping) and attribute.get("name") == "units":
            unit = attribute.get("values")
            return unit if isinstance(unit, str) else ""
    return ""


def _nodes(
    node: object, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every node with the names of the groups round it; nothing below a bounded depth."""
    if not isinstance(node, Mapping) or len(path) > LARGEST_DEPTH:
        return
    yield path, node
    name = node.get("name")
    inner = (*path, name) if isinstance(name, str) else path
    children = node.get("children")
    for child in children if isinstance(children, list) else ():
        yield from _nodes(child, inner)
