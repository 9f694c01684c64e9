"""Secrets from files: ``BEAMSTEER_X_FILE`` names the file that holds what ``BEAMSTEER_X`` would.

Orchestrators and systemd hand secrets over as files, which no list of processes and no crash
report shows.
"""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping
from pathlib import Path

from simulations.errors import InputError

VARIABLE = re.compile(r"(BEAMSTEER_[A-Z0-9_]+)_FILE")
MAX_BYTES = 100_000


def read_secret_files(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set every ``BEAMSTEER_X`` whose ``BEAMSTEER_X_FILE`` names a file; its last line end goes.

    Raises
    ------
    InputError
        If a file is missing, empty, too long or no text, or both variables are set. No secret is
        in the message.
    """
    for name, value in sorted(environment.items()):
        match = VARIABLE.fullmatch(name)
        if match and value:
            variable = match[1]
            if environment.get(variable):
                raise InputError(
                    f"{variable} and {name} are both set; expected one of them. Unset one."
                )
            environment[variable] = _secret(Path(value), name)
            del environment[name]  # or a second run in this process would find both


def _secret(path: Path, name: str) -> str:
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{name} is {path}, which is no file; expected a file. Correct it.")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"{name} is {path}, which cannot be read ({error.strerror}); expected a file with the "
            "secret. Write it, or correct the path."
        ) from error
    try:
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        text = "\0"
    if not text or "\0" in text or len(content) > MAX_BYTES:
        raise InputError(
            f"{name} is {path}, which holds {len(content)} bytes that are no secret; expected some "
            f"text, at most {MAX_BYTES} bytes. Write it again."
        )
    return text
