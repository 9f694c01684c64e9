"""What goes wrong, as an object: ``{"error": {"status", "kind", "message", "errors"}}``.

With ``--json`` it is on stdout, where the result would have been, so that who reads stdout reads
one object whatever happens. ``errors`` has one entry for each thing that is wrong: its ``file``
and ``field`` where they are named, and the ``message``. The words are on stderr as ever.
"""

from __future__ import annotations

import re
from typing import Any, cast

import typer

KINDS = {1: "fault", 2: "bad input", 75: "try again later"}

# typer's own click may be one of its modules or the package of that name
UsageError = cast(
    "type[Exception]",
    next(one for one in typer.BadParameter.__mro__ if one.__name__ == "ClickException"),
)

# As the house says it: [file:] field is value; expected ...
_SAID = re.compile(r"(?:(?P<file>[^\s:][^:]*): )?(?P<field>\S[^:;]{0,80}?) (?:is|are|has|holds) ")
_MISSING = re.compile(r"(?P<file>[^\s:][^:]*): ")


def complaint_of(message: str, status: int, *, file: object = None) -> dict[str, Any]:
    """What is wrong, of a message in which every line names a thing.

    Parameters
    ----------
    message : str
    status : int
        The exit status.
    file : optional
        That a failure of the system names.
    """
    lines = [line for line in message.splitlines() if line.strip()]
    wrong = [one for one in (_wrong(line, file) for line in lines) if one is not None]
    return {
        "status": status,
        "kind": KINDS[status],
        "message": message,
        "errors": wrong or [{"file": None, "field": None, "message": message}],
    }


def _wrong(line: str, file: object) -> dict[str, Any] | None:
    if file is not None:
        return {"file": str(file), "field": None, "message": line}
    found = _SAID.match(line)
    if found is not None:
        return {"file": found["file"], "field": found["field"].strip("'\""), "message": line}
    found = _MISSING.match(line)
    return None if found is None else {"file": found["file"], "field": None, "message": line}


def usage_complaint(error: Any) -> dict[str, Any]:
    """What is wrong with a command line itself."""
    param = getattr(error, "param", None)
    option = getattr(error, "option_name", None)
    if param is not None:
        named = [one for one in param.opts if one.startswith("--")]
        option = named[0] if named else str(param.name).upper()
    message = " ".join(str(error.format_message()).split())
    return {
        "status": error.exit_code,
        "kind": KINDS.get(error.exit_code, "bad input"),
        "message": message,
        "errors": [{"file": None, "field": option, "message": message}],
    }
