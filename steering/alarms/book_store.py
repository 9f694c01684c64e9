"""The folder ``alarms`` of a live state folder: book, acknowledgements, log, and whose turn it is.

``book.json`` is written in one step by the one process that holds the lock. Anybody appends to
``acknowledged.jsonl``, a line at a time. ``log.jsonl`` only grows; messages are bounded, so is it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError

from simulations.errors import InputError, storing
from steering.alarms.book import Acknowledgement, Alarm, Book, Event

FOLDER = "alarms"
LONGEST_NAME, LONGEST_NOTE = 80, 500
LARGEST_BYTES = 20_000_000  # of the acknowledgements, which are read whole
NOBODY: Mapping[str, Acknowledgement] = MappingProxyType({})


class AlarmFolder:
    """Alarms of one state folder, as they are on disk.

    Parameters
    ----------
    state : Path
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        self._folder = state / FOLDER
        self._book, self._log = self._folder / "book.json", self._folder / "log.jsonl"
        self._known = self._folder / "acknowledged.jsonl"

    # -- who evaluates --------------------------------------------------------------------------

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether this process evaluates; another one that does keeps the lock until it ends.

        Raises
        ------
        StorageError
            If the folder cannot be written.
        """
        with storing(self._folder / "lock"):
            self._folder.mkdir(exist_ok=True)
            handle = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o640)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
            else:
                yield True
        finally:
            os.close(handle)

    # -- the book -------------------------------------------------------------------------------

    def book(self) -> Book:
        """The newest book; an empty one where there is none.

        Raises
        ------
        InputError
            If it is damaged, or of another version.
        """
        try:
            return Book.model_validate_json(self._book.read_bytes())
        except FileNotFoundError:
            return Book()
        except ValidationError as error:
            raise InputError(
                f"{self._book}: is no book of alarms of this version ({error.error_count()} "
                "faults); expected what `beamsteer serve` writes. Move it away: conditions that "
                "hold are then told once more."
            ) from error

    def write(self, book: Book) -> None:
        """Replace the book in one step.

        Raises
        ------
        StorageError
            If it cannot be written; the old one stays.
        """
        partial = self._book.with_suffix(".partial")
        with storing(self._book):
            try:
                with partial.open("w", encoding="utf-8") as file:
                    file.write(book.model_dump_json(indent=1))
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(self._book)
            finally:
                partial.unlink(missing_ok=True)

    def alarms(self) -> tuple[Alarm, ...]:
        """Alarms that were raised, newest first, with who knows of them."""
        known = self.acknowledgements()
        raised = [one for one in self.book().alarms if one.raised]
        shown = [
            one.model_copy(update={"acknowledged": known.get(one.id, one.acknowledged)})
            for one in raised
        ]
        return tuple(sorted(shown, key=lambda one: (one.over_ns is not None, -one.since_ns)))

    # -- who knows ------------------------------------------------------------------------------

    def acknowledge(self, alarm: str, *, by: str, note: str = "", at_ns: int) -> Alarm:
        """Note that somebody knows of an alarm; it is told no more until there is more to say.

        Parameters
        ----------
        alarm : str
            Its id.
        by, note : str
            Who, and what they say.
        at_ns : int
            Unix time.

        Raises
        ------
        InputError
            If there is no such alarm, it is over, or nobody is named.
        StorageError
            If it cannot be written.
        """
        for name, text, longest in (("by", by, LONGEST_NAME), ("note", note, LONGEST_NOTE)):
            if len(text) > longest or not text.isprintable():
                raise InputError(
                    f"{name} has {len(text)} characters, or some that cannot be printed; expected "
                    f"one line of at most {longest}. Shorten it."
                )
        if not by.strip():
            raise InputError("by is empty; expected who acknowledges. Give a name.")
        found = next((one for one in self.alarms() if one.id == alarm), None)
        if found is None or found.over_ns is not None:
            there = ", ".join(one.id for one in self.alarms() if one.over_ns is None) or "none"
            why = "is over" if found is not None else "is not there"
            raise InputError(f"alarm {alarm[:40]!r} {why}; expected one that holds: {there}.")
        told = Acknowledgement(
            id=alarm, by=by.strip(), note=note.strip(), at_ns=at_ns, level=found.level
        )
        self._append(self._known, [told.model_dump_json()])
        self.log(
            [
                Event(
                    at_ns=at_ns,
                    what="acknowledged",
                    alarm=alarm,
                    kind=found.kind,
                    subject=found.subject,
                    text=told.note,
                    by=told.by,
                )
            ]
        )
        return found.model_copy(update={"acknowledged": told})

    def acknowledgements(self) -> Mapping[str, Acknowledgement]:
        """The newest acknowledgement of every alarm; a line that was cut short counts for none."""
        found: dict[str, Acknowledgement] = {}
        try:
            if self._known.stat().st_size > LARGEST_BYTES:
                return NOBODY
            lines = self._known.read_bytes().splitlines()
        except FileNotFoundError:
            return NOBODY
        for line in lines:
            try:
                one = Acknowledgement.model_validate_json(line)
            except ValidationError:
                continue
            found[one.id] = one
        return found

    # -- the log --------------------------------------------------------------------------------

    def log(self, events: Iterable[Event]) -> None:
        """Append lines to the log.

        Raises
        ------
        StorageError
            If they cannot be written.
        """
        self._append(self._log, [json.dumps(one.model_dump(exclude_none=True)) for one in events])

    def events(self, last: int = 200) -> tuple[Event, ...]:
        """The newest lines of the log, oldest first."""
        try:
            with self._log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 2000 * last))
                lines = file.read().splitlines()[-last:]
        except FileNotFoundError:
            return ()
        found: list[Event] = []
        for line in lines:
            try:
                found.append(Event.model_validate_json(line))
            except ValidationError:
                continue
        return tuple(found)

    def _append(self, path: Path, lines: list[str]) -> None:
        """Add lines at once, after a line that a crash cut short."""
        if not lines:
            return
        with storing(path):
            path.parent.mkdir(exist_ok=True)
            with path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                whole = file.seek(0, os.SEEK_END) == 0
                if not whole:
                    file.seek(-1, os.SEEK_END)
                    whole = file.read(1) == b"\n"
                text = "".join(f"{line}\n" for line in lines)
                file.write((text if whole else f"\n{text}").encode())
                file.flush()
                os.fsync(file.fileno())
