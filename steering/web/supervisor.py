"""What systemd is told of a service: that it is ready, that it lives, that it stops."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import structlog

log = structlog.get_logger()


def notify(*words: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Tell the supervisor, where one listens; e.g. ``READY=1``, ``WATCHDOG=1``, ``STATUS=...``.

    Parameters
    ----------
    *words : str
        Assignments of systemd's protocol, sent together.
    environment : mapping
        ``NOTIFY_SOCKET`` says where it listens.

    Returns
    -------
    bool
        Whether it was told.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    name = "\0" + address[1:] if address.startswith("@") else address
    told = "\n".join(word.replace("\n", " ") for word in words).encode()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaker:
            speaker.settimeout(1.0)
            speaker.sendto(told, name)
    except OSError as error:
        log.warning("supervisor_not_told", reason=str(error))
        return False
    return True
