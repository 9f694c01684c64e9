"""The process that reads what others upload.

``python -m steering.web.prediction_child FD LIMITS [DATABASE]``

It takes requests from a socket and answers them one after the other, within its limits. Whatever a
structure does to the libraries that read it, it does here. On the way it tells how far it is.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from simulations.errors import InputError
from simulations.progress import Progress, silent
from steering.database import Database, open_database
from steering.predict import PredictionRequest, predict, uploaded_folder
from steering.web.answers import clean
from steering.web.prediction_process import (
    LAST,
    MAX_ASKED_BYTES,
    PROGRESS,
    Limits,
    faults_of,
    kept_within,
)
from steering.web.proc_file import address_space_bytes, be_killed_first


def confine(limits: Limits) -> None:
    """Bound memory beyond what this process has by now, files and core dumps; for good."""
    base = address_space_bytes()
    if base is not None:
        most = base + limits.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes, limits.file_bytes))
    be_killed_first()


def allow_processor_time(seconds: float) -> None:
    """Let this process compute for so long from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def answer(
    asked: bytes,
    limits: Limits,
    *,
    database: Database | None = None,
    progress: Progress = silent,
) -> tuple[int, bytes, bool]:
    """Status, JSON, and whether this process is still fit for another request."""
    try:
        return 200, _predicted(json.loads(asked), database, progress), True
    except ValidationError as error:
        return 422, _problem(faults_of(error)), True
    except InputError as error:
        return 422, _problem(str(error)), True
    except MemoryError:
        return 422, _problem(f"structure: it needs more than {kept_within(limits)}"), False
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = "the disk of this server is full; ask again later, or tell who keeps it."
            return 507, _problem(text), True
        traceback.print_exc()
        text = (
            f"{type(error).__name__}: {error}. This is a fault of Beamsteer, or the structure is "
            "none; the server's log has more"
        )
        return 500, _problem(text), False


def _predicted(asked: dict[str, Any], database: Database | None, progress: Progress) -> bytes:
    """JSON of a prediction, of a structure that the request names or of files beside it."""
    with contextlib.ExitStack() as stack:
        folder = None
        if "uploaded" in asked:
            files = [(name, base64.b64decode(content)) for name, content in asked["uploaded"]]
            folder = stack.enter_context(uploaded_folder(files))
            asked = {key: value for key, value in asked.items() if key != "uploaded"}
            asked = {"structure": folder.name} | asked
        request = PredictionRequest.model_validate(asked)
        try:
            found = predict(request, folder=folder, database=database, progress=progress)
        except InputError as error:
            raise InputError(_without(folder, str(error))) from error
    return _without(folder, json.dumps(clean(found))).encode()


def _without(folder: Path | None, text: str) -> str:
    """The same without the place where this machine kept what was sent."""
    return text if folder is None else text.replace(f"{folder.parent}/", "")


def _problem(text: str) -> bytes:
    return json.dumps({"detail": text}).encode()


def _teller(connection: Connection) -> Callable[[str, float], None]:
    def tell(message: str, fraction: float) -> None:
        connection.send_bytes(PROGRESS + json.dumps([message, fraction]).encode())

    return tell


def main(arguments: list[str]) -> None:
    """Answer until the other end closes, or until a fault after which no answer can be trusted."""
    told: dict[str, Any] = json.loads(arguments[1])
    limits = Limits(**told)
    database = open_database(Path(arguments[2])) if len(arguments) > 2 else None
    confine(limits)
    with Connection(int(arguments[0])) as connection:
        connection.send_bytes(b"ready")
        fit = True
        while fit:
            try:
                asked = connection.recv_bytes(MAX_ASKED_BYTES)
            except EOFError:
                return
            allow_processor_time(limits.processor_s)
            status, content, fit = answer(
                asked, limits, database=database, progress=_teller(connection)
            )
            connection.send_bytes(str(status).encode() + (b"" if fit else LAST))
            connection.send_bytes(content)


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # no library's clean-up may hold the end up
