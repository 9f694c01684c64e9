"""What an experiment file leaves open: values that read ``TODO``, with their lines."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

WORD = "TODO"
ALIGNED = ("sample.u", "sample.v", "sample.psi_offset_deg")  # what `beamsteer align` finds

# What stands for a value that a verb does not need; elsewhere the default of the field does.
_STAND_INS: dict[str, Any] = {
    "title": WORD,
    "sample.structure": WORD,
    "sample.u": [1.0, 0.0, 0.0],
    "sample.v": [0.0, 1.0, 0.0],
    "sample.temperature_K": 300.0,
    "instrument.name": "unknown",
    "parameters.cutoff_A": 5.0,
    "parameters.free": 1,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Todo:
    """A value that somebody must fill in."""

    field: str  # e.g. ``sample.u``
    line: int  # of the file, from 1

    @property
    def alignment(self) -> bool:
        """Whether `beamsteer align` finds it."""
        return self.field in ALIGNED


def todos_in(root: yaml.Node | None) -> tuple[Todo, ...]:
    """Values of a composed document that read ``TODO``, in the order of their lines.

    Parameters
    ----------
    root : yaml.Node or None
        As ``yaml.compose`` gives it.
    """
    if root is None:
        return ()
    found = {todo.field: todo for todo in reversed(list(_walk(root, "")))}
    return tuple(sorted(found.values(), key=lambda todo: todo.line))


def _walk(node: yaml.Node, field: str) -> Iterator[Todo]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _walk(value, f"{field}.{key.value}" if field else str(key.value))
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _walk(item, field)
    elif isinstance(node, yaml.ScalarNode) and node.value == WORD and field:
        yield Todo(field=field, line=node.start_mark.line + 1)


def covers(fields: Collection[str], todo: Todo) -> bool:
    """Whether one of the fields is that of the todo, or a section that holds it."""
    return any(todo.field == one or todo.field.startswith(f"{one}.") for one in fields)


def filled(raw: Any, todos: Collection[Todo]) -> Any:
    """The document with something in the place of what is left open.

    Parameters
    ----------
    raw : plain values
    todos : collection of Todo
        What is to be replaced.
    """
    return _filled(raw, {todo.field for todo in todos}, "")


def _filled(raw: Any, fields: Collection[str], field: str) -> Any:
    if not isinstance(raw, dict):
        return raw
    out = {}
    for key, value in raw.items():
        name = f"{field}.{key}" if field else str(key)
        if name not in fields:
            out[key] = _filled(value, fields, name)
        elif name in _STAND_INS:
            out[key] = _STAND_INS[name]
    return out
