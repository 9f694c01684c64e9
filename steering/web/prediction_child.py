"""The process that reads what others upload: ``python -m steering.web.prediction_child FD LIMITS``.

It takes requests from a socket and answers them one after the other, within its limits. Whatever a
structure does to the libraries that read it, it does here.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from pydantic import ValidationError

from simulations.errors import InputError
from steering.predict import PredictionRequest, predict
from steering.web.answers import clean
from steering.web.prediction_process import MAX_ASKED_BYTES, Limits, kept_within
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


def answer(asked: bytes, limits: Limits) -> tuple[int, bytes, bool]:
    """Status, JSON, and whether this process is still fit for another request."""
    try:
        request = PredictionRequest.model_validate(json.loads(asked))
        return 200, json.dumps(clean(predict(request))).encode(), True
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)
        ]
        return 422, _problem("; ".join(faults)), True
    except InputError as error:
        return 422, _problem(str(error)), True
    except MemoryError:
        return 422, _problem(f"structure: it needs more than {kept_within(limits)}"), False
    except Exception as error:
        traceback.print_exc()
        text = (
            f"{type(error).__name__}: {error}. This is a fault of Beamsteer, or the structure is "
            "none; the server's log has more"
        )
        return 500, _problem(text), False


def _problem(text: str) -> bytes:
    return json.dumps({"detail": text}).encode()


def main(arguments: list[str]) -> None:
    """Answer until the other end closes."""
    told: dict[str, Any] = json.loads(arguments[1])
    limits = Limits(**told)
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
            status, content, fit = answer(asked, limits)
            connection.send_bytes(str(status).encode())
            connection.send_bytes(content)


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # no library's clean-up may hold the end up
