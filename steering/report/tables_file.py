"""Results as files of three kinds, by the ending of a name: a picture, arrays or a table."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simulations.errors import InputError
from simulations.saved_file import in_one_step, write_whole

ENDINGS = (".png", ".npz", ".csv")


def named_files(names: Sequence[Path]) -> list[Path]:
    """Files that names stand for: themselves, or with each ending where a name has none of them.

    Parameters
    ----------
    names : sequence of Path
        For example ``build/ge.png``, or ``build/ge`` for PNG, NPZ and CSV at once.

    Raises
    ------
    ValueError
        If a name has another ending.
    """
    found: list[Path] = []
    for name in names:
        if name.suffix.lower() in ENDINGS:
            found.append(name)
        elif name.suffix.lower() in (".pdf", ".svg", ".jpg", ".json", ".txt", ".yaml", ".dat"):
            raise InputError(
                f"--output is {name}; expected a name that ends in {', '.join(ENDINGS)}, or has no "
                "ending for all three."
            )
        elif name.is_dir() or name.name == "":
            raise InputError(
                f"--output is {name}, a folder; expected the name of a file in it, for example "
                f"{name / 'result'}."
            )
        else:
            found.extend(name.with_name(name.name + ending) for ending in ENDINGS)
    return list(dict.fromkeys(found))


def write_files(
    names: Sequence[Path],
    *,
    picture: Callable[[], bytes],
    content: Mapping[str, Any],
    tables: Callable[[], Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]]],
    notes: Sequence[str],
) -> list[Path]:
    """Write a result under every name.

    Parameters
    ----------
    names : sequence of Path
        From `named_files`.
    picture : callable
        Makes the PNG.
    content : mapping
        Nested names and values: numbers go into the NPZ under names joined by dots, the rest into
        its entry ``about`` as JSON.
    tables : callable
        Makes heads and rows by the end of the file's name: ``""`` for the name itself, ``"-dos"``
        for a second table beside it.
    notes : sequence of str
        First lines of every table, each after a ``#``.

    Returns
    -------
    list of Path
        The files written.
    """
    written: list[Path] = []
    for name in names:
        name.parent.mkdir(parents=True, exist_ok=True)
        kind = name.suffix.lower()
        if kind == ".png":
            made = picture()
            with in_one_step(name) as temporary:
                temporary.write_bytes(made)
        elif kind == ".npz":
            _write_arrays(name, content)
        else:
            for end, (heads, rows) in tables().items():
                path = name.with_name(f"{name.stem}{end}{name.suffix}")
                _write_table(path, heads, rows, notes)
                written.append(path)
            continue
        written.append(name)
    return written


def _write_arrays(path: Path, content: Mapping[str, Any]) -> None:
    arrays: dict[str, np.ndarray] = {}
    about: dict[str, Any] = {}
    _sort(content, "", arrays, about)
    arrays["about"] = np.array(json.dumps(about, ensure_ascii=False))
    with in_one_step(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]


def _sort(value: Any, name: str, arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Arrays and lists of numbers to ``arrays``, lists of text and single values to ``about``."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _sort(item, f"{name}.{key}" if name else str(key), arrays, about)
    elif isinstance(value, np.ndarray):
        arrays[name] = value
    elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        for item in value:
            label = str(item.get("label", len(arrays)))
            _sort({k: v for k, v in item.items() if k != "label"}, f"{name}.{label}", arrays, about)
    elif isinstance(value, list | tuple) and value and not isinstance(value[0], str):
        arrays[name] = np.array(value)
    else:
        about[name] = value


def _write_table(
    path: Path, heads: Sequence[str], rows: Sequence[Sequence[Any]], notes: Sequence[str]
) -> None:
    with in_one_step(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        for note in notes:
            file.write("# " + " ".join(note.split()) + "\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heads)
        writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Any) -> str:
    """A number in nine digits; what is unknown as an empty cell."""
    if isinstance(value, float | np.floating):
        return f"{value:.9g}" if np.isfinite(value) else ""
    return str(value)


def write_json(value: Any, path: Path) -> None:
    """Write plain values as JSON for people to read too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(value, indent=2) + "\n")


def write_pictures(pictures: Mapping[str, bytes], folder: Path) -> None:
    """Write pictures under their names into a folder, each when it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        with in_one_step(folder / name) as temporary:
            temporary.write_bytes(content)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an NPZ by name, all in memory.

    Raises
    ------
    InputError
        If it is none, or holds objects instead of numbers.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: np.asarray(file[name]) for name in file.files}
    except (zipfile.BadZipFile, TypeError, AttributeError, ValueError, EOFError) as error:
        raise InputError(f"{path}: is no NPZ ({error}); expected folded.npz or a table") from error
