"""A corpus of bad inputs of the command line and of the API, each with what its answer must name.

A command is bad by a path that is none of the kind wanted (every place of a path with every kind of
bad path), by a value, or by options that do not go together; a request by its path, parameters or
body. Structures, wire messages and recorded files of bad *content* have corpora of their own:
``tests/steering/test_cli.py``, ``tests/consumers/hostile_messages.py`` and ``hostile_files.py``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "ge-arcs.yaml"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@dataclass(frozen=True, kw_only=True, slots=True)
class BadCommand:
    """A command that must end with 2 or 75, in words."""

    name: str
    arguments: tuple[str, ...]  # with {folder} for the folder of :func:`lay_out`
    says: tuple[str, ...]  # all of which the answer holds


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRequest:
    """A request that must be answered with a status of 4xx, in words."""

    name: str
    method: str
    path: str
    says: tuple[str, ...]
    status: tuple[int, ...] = (422,)
    body: object = None
    raw: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()


PATHS = {
    "nothing": "missing.x",
    "a folder": "folder.x",
    "0 bytes": "empty.x",
    "a pipe that nobody feeds": "pipe.x",
    "a link to itself": "loop.x",
    "bytes that are no text": "latin.x",
    "a device": "/dev/null",
    "a name with a line end": "odd\nname.x",
    "a name that is too long": "n" * 300,
    "below a file": "empty.x/inner.x",
}
"""Kinds of bad path; each is no experiment, recording, structure, state, store, result or tape."""

PLACES = {
    "simulate": ("simulate", "{bad}", "-o", "{folder}/out"),
    "replay -e": ("replay", "{folder}/empty.x", "-e", "{bad}", "-o", "{folder}/out"),
    "replay": ("replay", "{bad}", "-e", str(EXAMPLE), "-o", "{folder}/out"),
    "fold": ("fold", "{bad}", "-e", str(EXAMPLE), "-o", "{folder}/out"),
    "fold -e": ("fold", "{folder}/empty.x", "-e", "{bad}", "-o", "{folder}/out"),
    "inspect": ("inspect", "{bad}"),
    "init": ("init", "{bad}", "-o", "{folder}/new.yaml"),
    "align": ("align", "{bad}", "-s", "germanium"),
    "align -e": ("align", "{folder}/empty.x", "-e", "{bad}"),
    "estimate": ("estimate", "{bad}", "-e", str(EXAMPLE)),
    "estimate -e": ("estimate", "{folder}/empty.x", "-e", "{bad}"),
    "phonons": ("phonons", "{bad}"),
    "spectrum": ("spectrum", "vision", "{bad}"),
    "prior": ("prior", "{bad}"),
    "predict": ("predict", "{bad}"),
    "plan": ("plan", "{bad}", "--instrument", "ARCS", "--ei", "40"),
    "plan -e": ("plan", "-e", "{bad}"),
    "invert-powder": ("invert-powder", "{bad}"),
    "database build": ("database", "build", "{bad}", "-o", "{folder}/store"),
    "database search": ("database", "search", "{bad}"),
    "database show": ("database", "show", "{bad}", "mp-149"),
    "phonons --database": ("phonons", "mp-149", "--database", "{bad}"),
    "report": ("report", "{bad}"),
    "serve --people": ("serve", "{folder}/folder.x", "--port", "0", "--check", "--people", "{bad}"),
    "alarms": ("alarms", "{bad}"),
    "act": ("act", "{bad}"),
    "status": ("status", "{bad}"),
    "consume": ("consume", "{bad}", "-o", "{folder}/out", "--health-port", "0"),
    "consume --tape": ("consume", str(EXAMPLE), "--tape", "{bad}", "-o", "{folder}/out"),
    "record -e": ("record", "-e", "{bad}", "-o", "{folder}/tape", "--messages", "1"),
    "model-server": ("model-server", "{bad}", "--once"),
    "model-server -e": ("model-server", "{folder}/folder.x", "-e", "{bad}", "--once"),
    "train": ("train", "{bad}", "-o", "{folder}/out"),
    "doctor -e": ("doctor", "-e", "{bad}"),
    "backup": ("backup", "{bad}", "-o", "{folder}/b.tar"),
    "restore": ("restore", "{bad}", "{folder}/out"),
}
"""Where a path is wanted."""


def lay_out(folder: Path) -> None:
    """Make the bad paths in an empty folder."""
    (folder / "folder.x").mkdir()
    (folder / "empty.x").touch()
    (folder / "odd\nname.x").write_text("neither\nhere nor there\n")
    (folder / "latin.x").write_bytes(b"title: \xe9\xff\xfe\n")
    (folder / "loop.x").symlink_to(folder / "loop.x")
    os.mkfifo(folder / "pipe.x")
    (folder / "bomb.yaml").write_text(BOMB)
