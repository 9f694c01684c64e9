"""Where alarms are sent: URLs of apprise, from a file or the environment, never from arguments.

A URL holds a password or is one, so it is shown to nobody: a receiver is known by its name. A line
is ``NAME URL``; empty lines and those that begin with # say nothing. In the environment lines may
be divided by semicolons.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from simulations.errors import InputError

VARIABLE = "BEAMSTEER_ALARM_URLS"
MAX_BYTES = 100_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Receiver:
    """Somebody who is told."""

    name: str
    url: str = field(repr=False)  # of apprise; a secret


def receivers_of(
    urls_file: Path | None, *, environment: Mapping[str, str] = os.environ
) -> tuple[Receiver, ...]:
    """All receivers, those of the file first.

    Parameters
    ----------
    urls_file : Path, optional
    environment : mapping
        ``BEAMSTEER_ALARM_URLS`` names more of them.

    Raises
    ------
    InputError
        If the file is missing or others may read it, a line is no name and URL, or a name comes
        twice. No URL is in the message.
    """
    found: list[Receiver] = []
    if urls_file is not None:
        found += _parsed(_lines(urls_file), urls_file.name)
    found += _parsed(re.split(r"[\n;]", environment.get(VARIABLE, "")), VARIABLE)
    names = [one.name for one in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"receivers of alarms are {', '.join(names)}; expected every name once. Rename "
            f"{', '.join(twice)}."
        )
    return tuple(found)


def _lines(path: Path) -> list[str]:
    try:
        told = path.stat()
        if told.st_mode & (stat.S_IROTH | stat.S_IWOTH):
            raise InputError(
                f"{path}: can be read or written by everybody; expected a secret of its owner. "
                f"Run: chmod 600 {path}"
            )
        if told.st_size > MAX_BYTES:
            raise InputError(
                f"{path}: holds {told.st_size} bytes; expected names and URLs, at most {MAX_BYTES}."
            )
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no text; expected a name and a URL on each line.") from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); expected the file that alarms.urls_file "
            "names, with a name and a URL on each line. Write it, or correct the path."
        ) from error


def _parsed(lines: list[str], where: str) -> list[Receiver]:
    found: list[Receiver] = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not NAME.fullmatch(words[0]) or "://" not in words[1]:
            raise InputError(
                f"{where}: line {number} is not shown, as it may hold a secret; expected a name "
                "(letters, digits, -) and a URL of apprise such as `night mailtos://...`. "
                "Mend the line."
            )
        found.append(Receiver(name=words[0], url=words[1]))
    return found


def scrubbed(text: str, url: str) -> str:
    """A text without the URL and without any part of it that may be secret."""
    parts = sorted(set(re.split(r"[/:@?&=,]+", url)), key=len, reverse=True)
    for part in (url, *parts):
        if len(part) >= 4:
            text = re.sub(re.escape(part), "...", text, flags=re.IGNORECASE)
    return re.sub(r"\S*://\S*", "...", text)
