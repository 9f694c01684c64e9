"""Command lines to go on with, as they are typed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from os.path import commonprefix
from pathlib import Path

MOST_NAMED = 40  # files; of more, and of no pattern, the first and the last are named


def command_line(
    verb: str,
    files: Sequence[Path],
    *,
    experiment: Path,
    correct: Path | None = None,
    output: Path | None = None,
    more: str = "",
) -> str:
    """A command over recorded files, ready to paste."""
    words = ["beamsteer", verb, recorded_words(files), "-e", shlex.quote(str(experiment))]
    if correct is not None:
        words += ["--correct", shlex.quote(str(correct))]
    if output is not None:
        words += ["-o", shlex.quote(str(output))]
    return " ".join([*words, *([more] if more else [])])


def aligned(experiment: Path) -> Path:
    """Where an experiment with the mount that was found is written: beside it."""
    if experiment.stem.endswith("-aligned"):
        return experiment
    return experiment.with_name(f"{experiment.stem}-aligned{experiment.suffix or '.yaml'}")


def recorded_words(files: Sequence[Path]) -> str:
    """Files as a pattern that stands for them and nothing else, or one by one."""
    pattern = _pattern(files)
    if pattern is not None:
        return pattern
    quoted = [shlex.quote(str(file)) for file in files]
    if len(quoted) > MOST_NAMED:
        quoted = [quoted[0], "...", quoted[-1]]
    return " ".join(quoted)


def _pattern(files: Sequence[Path]) -> str | None:
    folders = {file.parent for file in files}
    if len(files) < 3 or len(folders) > 1:
        return None
    folder, names = folders.pop(), sorted({file.name for file in files})
    start = commonprefix(names)
    end = commonprefix([name[len(start) :][::-1] for name in names])[::-1]
    if any(c in name for name in (str(folder), start, end) for c in "*?[]"):
        return None
    for begin in ("", start.rstrip("0123456789"), start):
        if not (begin or end):
            continue
        found = sorted(p.name for p in folder.glob(f"{begin}*{end}") if not p.name.startswith("."))
        if found == names:
            head = "" if folder == Path() else f"{shlex.quote(str(folder))}/"
            return f"{head}{shlex.quote(begin) if begin else ''}*{shlex.quote(end) if end else ''}"
    return None
