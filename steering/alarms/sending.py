"""Messages to receivers through apprise: webhook, mail, Slack, Matrix and whatever else it knows.

Apprise is asked for one receiver at a time, so that one that is away delays or doubles nothing for
the others, and its complaints are kept to a line without addresses.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from simulations.errors import InputError
from steering.alarms.urls_file import Receiver, scrubbed

Send = Callable[[Receiver, str, str], str | None]
"""``(receiver, title, body)``; None when it was taken, else why not, without secrets."""

CONNECT_S, READ_S = 5.0, 10.0  # unless a URL asks for others
LONGEST_REASON = 200


class _Kept(logging.Filter):
    """Keeps what apprise says while a message is sent, and passes none of it to any log."""

    def __init__(self) -> None:
        super().__init__()
        self._alone = threading.Lock()  # apprise has threads of its own: a message at a time
        self._said: list[str] | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep a complaint, and let no line through: they hold addresses."""
        if self._said is not None and record.levelno >= logging.WARNING:
            self._said.append(record.getMessage())
        return False

    @contextmanager
    def turn(self) -> Iterator[list[str]]:
        """Complaints during a block."""
        with self._alone:
            self._said = said = []
            try:
                yield said
            finally:
                self._said = None


_KEPT = _Kept()


@cache
def _apprise() -> Any:
    """The library, silent."""
    import apprise

    logging.getLogger("apprise").addFilter(_KEPT)
    # It tells the path of every request, which for a webhook is the secret.
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    return apprise


def check_receiver(receiver: Receiver) -> None:
    """Refuse a URL that apprise does not know.

    Raises
    ------
    InputError
        Without the URL.
    """
    if _service(receiver)[0] is None:
        raise InputError(
            f"the URL of receiver {receiver.name!r} is not shown, as it is a secret; expected one "
            "that apprise knows, such as json://HOST/PATH, mailtos://USER:PASSWORD@HOST, slack://..."
            " or matrixs://... Correct it where it stands."
        )


def send(receiver: Receiver, title: str, body: str) -> str | None:
    """Send a message to one receiver.

    Parameters
    ----------
    receiver : Receiver
    title, body : str
        Plain text.

    Returns
    -------
    str or None
        None when it was taken, else why not, without the URL or parts of it.
    """
    service, notifier = _service(receiver)
    if service is None:
        return "its URL is none that apprise knows"
    with _KEPT.turn() as said:
        try:
            taken = notifier.notify(title=title, body=body, body_format="text")
        except Exception as error:  # of a plug-in, which must not end the watch
            said.append(f"{type(error).__name__}: {error}")
            taken = False
    if taken:
        return None
    told = "; ".join(dict.fromkeys(said)) or "it did not take the message"
    return scrubbed(" ".join(told.split()), receiver.url)[:LONGEST_REASON]


def _service(receiver: Receiver) -> tuple[Any, Any]:
    """Plug-in of a URL, or None; and the notifier that holds it."""
    apprise = _apprise()
    asset = apprise.AppriseAsset(app_id="Beamsteer", app_desc="Beamsteer", app_url="")
    asset.async_mode = False
    notifier = apprise.Apprise(asset=asset)
    service = apprise.Apprise.instantiate(receiver.url, asset=asset, suppress_exceptions=True)
    if service is None:
        return None, notifier
    query = receiver.url.partition("?")[2]
    if "cto=" not in query:
        service.socket_connect_timeout = CONNECT_S
    if "rto=" not in query:
        service.socket_read_timeout = READ_S
    notifier.add(service)
    return service, notifier
