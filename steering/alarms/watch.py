"""The watch over live state folders: looks every few seconds, keeps the book, sends what is due.

It runs in the process that serves the page: that one works on no data, so a long estimate does not
hold it up, and it still speaks when a worker died. A lock makes one of several servers the one that
sends; the next one takes over from the book when it ends.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog

from simulations.errors import StorageError
from steering.alarms.book import Book, Event, advanced, delivered, due
from steering.alarms.book_store import AlarmFolder
from steering.alarms.published import Observed, observe
from steering.alarms.rules import conditions
from steering.alarms.sending import Send, check_receiver, send
from steering.alarms.urls_file import VARIABLE, Receiver, receivers_of
from steering.experiment import AlarmsSection, load_experiment
from steering.run import live_states

log = structlog.get_logger()

EVERY_S = 2.0  # between two looks
EXPERIMENT = "experiment.yaml"  # in a state folder
MOST_AT_ONCE = 20  # messages of one look


class Watch:
    """Looks at one state folder.

    Parameters
    ----------
    state : Path
    clock : callable
        Unix time, ns.
    environment : mapping
        Where more URLs are.
    sender : callable
        Sends one message; see :data:`steering.alarms.sending.Send`.
    """

    def __init__(
        self,
        state: Path,
        *,
        clock: Callable[[], int] = time.time_ns,
        environment: Mapping[str, str] = os.environ,
        sender: Send = send,
    ) -> None:
        self.folder = AlarmFolder(state)
        self._state, self._clock, self._environment = state, clock, environment
        self._send = sender
        self._receivers: tuple[Receiver, ...] = ()
        self._section = AlarmsSection()
        self._read: tuple[float, ...] | None = None
        self.trouble: str | None = None  # why nothing is sent, or evaluated

    def look(self) -> Book | None:
        """Evaluate once, and send what is due; None where another process does so.

        Raises
        ------
        StorageError
            If the book cannot be written; nothing was sent that is not in it, and the next look
            tries again.
        """
        with self.folder.alone() as ours:
            if not ours:
                return None
            return self._look()

    def _look(self) -> Book:
        self._configure()
        book = self.folder.book()
        if not self._section.enabled:
            return book
        seen = observe(self._state, clock=self._clock)
        book = _with_bytes(book, seen)
        found = conditions(seen, self._section, bytes_since_ns=book.taken_ns)
        book, events = advanced(
            book,
            found,
            self._section,
            now_ns=seen.at_ns,
            receivers=[one.name for one in self._receivers],
            acknowledgements=self.folder.acknowledgements(),
        )
        # First the book, then the world: what is sent twice or not at all is told by it.
        self.folder.write(book)
        self.folder.log(events)
        for event in events:
            if event.what in ("raised", "over"):
                log.warning(
                    f"alarm_{event.what}",
                    alarm=event.alarm,
                    kind=event.kind,
                    subject=event.subject,
                    text=event.text,
                )
        return self._deliver(book)

    def _deliver(self, book: Book) -> Book:
        for _ in range(MOST_AT_ONCE):
            now = self._clock()
            turn = next(due(book, now), None)
            if turn is None:
                break
            notice, name = turn
            receiver = next((one for one in self._receivers if one.name == name), None)
            if receiver is None:
                break  # was removed just now; the next look drops it
            fault = self._send(receiver, notice.title, notice.body)
            book, word = delivered(book, notice, name, taken=fault is None, now_ns=now)
            self.folder.write(book)
            self.folder.log(
                [
                    Event(
                        at_ns=now,
                        what=word,
                        alarm=notice.alarm,
                        text=fault or notice.title,
                        receiver=name,
                    )
                ]
            )
            if fault is not None:
                log.warning("alarm_not_sent", receiver=name, alarm=notice.alarm, reason=fault)
        return book

    def test(self) -> dict[str, str | None]:
        """Send a test message to every receiver; why it was not taken, by name."""
        self._configure(again=True)
        return {
            one.name: self._send(
                one, "Beamsteer test", "This is a test: alarms of this run arrive here."
            )
            for one in self._receivers
        }

    def _configure(self, *, again: bool = False) -> None:
        """Read experiment and receivers where they changed; with a fault, the old ones stay."""
        path = self._state / EXPERIMENT
        try:
            told = path.stat()
            urls = None
            if self._section.urls_file is not None:
                urls = (self._state / self._section.urls_file).stat().st_mtime
            mark = (told.st_mtime, told.st_size, urls or 0.0)
        except OSError:
            mark = (0.0,)
        if mark == self._read and not again:
            return
        self._read = mark
        try:
            section = load_experiment(path).alarms if path.is_file() else AlarmsSection()
            self._section = section
            file = None if section.urls_file is None else self._state / section.urls_file
            receivers = receivers_of(file, environment=self._environment)
            for one in receivers:
                check_receiver(one)
        except ValueError as error:
            if again:
                raise
            if self.trouble != str(error):
                log.error("alarms_not_configured", state=self._state.name, reason=str(error))
            self.trouble = str(error)
            return
        self._receivers, self.trouble = receivers, None
        log.info(
            "alarms_configured",
            state=self._state.name,
            receivers=[one.name for one in receivers],
            hint="" if receivers else f"nobody is told: set {VARIABLE} or alarms.urls_file",
        )


def _with_bytes(book: Book, seen: Observed) -> Book:
    """Remember when the stream gave something last."""
    if seen.taken_bytes == book.taken_bytes and book.taken_ns is not None:
        return book
    return book.model_copy(update={"taken_bytes": seen.taken_bytes, "taken_ns": seen.at_ns})


class Watches:
    """Looks at all live state folders in and below some folders, new ones too."""

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._folders = tuple(folders)
        self._environment, self._clock = environment, clock
        self._watches: dict[Path, Watch] = {}
        self._faults: dict[Path, str] = {}

    def look(self) -> None:
        """Look at each; a fault in one is told once and keeps no other from its turn."""
        for state in live_states(self._folders):
            watch = self._watches.get(state)
            if watch is None:
                watch = Watch(state, clock=self._clock, environment=self._environment)
                self._watches[state] = watch
            try:
                watch.look()
                self._faults.pop(state, None)
            except (OSError, ValueError) as error:
                if self._faults.get(state) != str(error):
                    passing = isinstance(error, StorageError)
                    log.error(
                        "alarms_not_watched",
                        state=state.name,
                        reason=str(error),
                        tried_again=passing,
                    )
                self._faults[state] = str(error)


@contextmanager
def watching(
    folders: Sequence[Path],
    *,
    environment: Mapping[str, str] = os.environ,
    every_s: float = EVERY_S,
) -> Iterator[None]:
    """Watch over live state folders for as long as a block runs, in a thread of its own.

    Parameters
    ----------
    folders : sequence of Path
        State folders, or folders that hold some.
    environment : mapping
    every_s : float
        Time between two looks.
    """
    watches, end = Watches(folders, environment=environment), threading.Event()

    def turn() -> None:
        while not end.is_set():
            try:
                watches.look()
            except Exception as error:  # a fault of ours must not end the watch
                log.error("watch_failed", reason=repr(error))
            end.wait(every_s)

    with ExitStack() as stack:
        thread = threading.Thread(target=turn, name="alarms", daemon=True)
        thread.start()
        stack.callback(thread.join, 30)
        stack.callback(end.set)
        yield
