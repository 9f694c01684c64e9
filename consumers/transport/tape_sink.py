"""A tape as a sink, e.g. of dead letters where there is no broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from consumers.transport.tape_file import TapeWriter
from consumers.wire import RawMessage


class TapeSink:
    """Appends what is sent to a tape; a ``wire.Sink``.

    Parameters
    ----------
    folder : Path
        The tape; opened with the first message.
    clock_ns : callable
        Unix time in ns, of the messages.
    """

    def __init__(self, folder: Path, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.folder = folder
        self._clock_ns = clock_ns
        self._writer: TapeWriter | None = None

    def send(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Append one message.

        Raises
        ------
        OSError
            If it could not be written.
        """
        if self._writer is None:
            self._writer = TapeWriter(self.folder)
        offset = self._writer.positions.get((topic, 0), 0)
        message = RawMessage(
            topic=topic,
            partition=0,
            offset=offset,
            value=value,
            key=key,
            timestamp_ns=self._clock_ns(),
            headers=tuple(headers),
        )
        self._writer.append([message])

    def flush(self, timeout_s: float = 30.0) -> None:
        """Force what was appended to the disk."""
        if self._writer is not None:
            self._writer.sync()

    def close(self) -> None:
        """Close the tape."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
