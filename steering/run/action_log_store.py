"""The log of actions of a run: ``actions.jsonl`` in its folder, which only ever grows.

A line is an action that somebody asked for, or says that a worker has applied all up to one. Lines
are written whole under a lock and flushed to disk before anybody is told. A line that a crash cut
short was told to nobody: it is closed with a mark when the next one is written, and counts for
nothing. Actions are numbered, so a line that went missing is noticed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from simulations.errors import InputError, StorageError, storing
from simulations.saved_file import sync_folder
from steering.run.actions import Action, Applier, Orders, orders_of

NAME = "actions.jsonl"
LARGEST_BYTES = 20_000_000
_TORN = b" (cut short)\n"


class Applied(BaseModel):
    """A worker has applied every action up to one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    by: Applier
    at_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Logged:
    """A log as it was read."""

    actions: tuple[Action, ...] = ()
    applied: Mapping[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
    """When, by worker and the number up to which it applied, ns since the Unix epoch."""

    @property
    def number(self) -> int:
        """Of the last action; 0: there is none."""
        return len(self.actions)

    def orders(self, number: int | None = None) -> Orders:
        """Orders after all actions, or after those up to one."""
        return orders_of(self.actions if number is None else self.actions[:number])

    def applied_up_to(self, by: str) -> int:
        """Number of the last action that a worker has applied."""
        return max((number for who, number in self.applied if who == by), default=0)

    def applied_ns(self, number: int, by: str) -> int | None:
        """When a worker had applied an action; None: it has not."""
        times = [at for (who, up_to), at in self.applied.items() if who == by and up_to >= number]
        return min(times, default=None)


class ActionLog:
    """The log of one run.

    Parameters
    ----------
    folder : Path
        Of the run, inside a state folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._known: tuple[tuple[int, int, int] | None, Logged] = None, Logged()

    @property
    def mark(self) -> tuple[int, int, int]:
        """Changes whenever the log does; zeros where there is none."""
        try:
            told = self._path.stat()
        except FileNotFoundError:
            return 0, 0, 0
        return told.st_mtime_ns, told.st_size, told.st_ino

    def read(self) -> Logged:
        """The log as it is; read again only where it changed.

        Raises
        ------
        InputError
            If it is damaged.
        """
        mark, (before, logged) = self.mark, self._known
        if mark != before:
            logged = _parsed(_bytes_of(self._path), self._path)
            self._known = mark, logged  # at once: several threads read
        return logged

    def append(self, made: Callable[[Logged], Action]) -> Action:
        """Add an action that is made of the log as it is then: nobody comes between.

        Parameters
        ----------
        made : callable
            Gets the log, gives the action, or raises what ``append`` raises too.

        Raises
        ------
        InputError
            If the log is damaged, or holds all that it may.
        StorageError
            If it cannot be written.
        """
        found: list[Action] = []

        def line(logged: Logged) -> str:
            found.append(made(logged))
            return _line("action", found[0])

        self._append(line)
        return found[0]

    def note_applied(self, number: int, by: Applier, at_ns: int) -> None:
        """Note that a worker has applied all actions up to one, unless that is there already.

        Raises
        ------
        InputError, StorageError
            As ``append``.
        """
        if self.read().applied_up_to(by) < number:
            told = Applied(number=number, by=by, at_ns=at_ns)
            self._append(lambda _: _line("applied", told))

    def _append(self, made: Callable[[Logged], str]) -> None:
        with storing(self._path):
            there = self._path.exists()
            with self._path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                content = file.read(LARGEST_BYTES + 1)
                line = made(_parsed(content, self._path)).encode()
                if len(content) + len(line) > LARGEST_BYTES:
                    raise InputError(
                        f"{self._path}: holds {len(content)} bytes; expected at most "
                        f"{LARGEST_BYTES}. A program seems to ask again and again: stop it."
                    )
                whole = not content or content.endswith(b"\n")
                file.write(line if whole else _TORN + line)
                file.flush()
                os.fsync(file.fileno())
            if not there:
                sync_folder(self._path.parent)


def _line(kind: str, value: BaseModel) -> str:
    return json.dumps({kind: value.model_dump(mode="json")}, ensure_ascii=True) + "\n"


def _bytes_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_BYTES + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be read ({error.strerror or error}); expected the log of actions. It "
            "is tried again.",
            error.errno,
        ) from error


def _parsed(content: bytes, path: Path) -> Logged:
    actions: list[Action] = []
    applied: dict[tuple[str, int], int] = {}
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        if line.endswith(_TORN) or not line.endswith(b"\n") or not line.strip():
            continue
        try:
            told = json.loads(line)
            if "applied" in told:
                one = Applied.model_validate(told["applied"])
                applied.setdefault((one.by, one.number), one.at_ns)
                continue
            action = Action.model_validate(told["action"])
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise _damaged(path, f"line {number} is no action") from error
        if action.number != len(actions) + 1:
            raise _damaged(path, f"line {number} is action {action.number}, not {len(actions) + 1}")
        actions.append(action)
    return Logged(actions=tuple(actions), applied=applied)


def _damaged(path: Path, how: str) -> InputError:
    return InputError(
        f"{path}: is damaged ({how}); expected the log as it was written. Restore it from a "
        "backup: without it nobody knows what was asked of this run."
    )
