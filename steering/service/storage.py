"""Trouble with the state folder: what is short, since when writing fails, when it is tried again.

A write that fails settles nothing. Its partition is paused, and the write is tried again, at
growing intervals, until there is room or patience ends.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from consumers.state import (
    MANIFEST,
    DeadLetter,
    Manifest,
    check_fingerprint,
    claim_state,
    partition_folder,
    read_manifest,
)
from consumers.wire import RawMessage, RawSource
from simulations.errors import InputError, StorageError

log = structlog.get_logger()

FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 5.0
LOOK_S = 5.0  # between two looks at the free space
MOST_LETTERS, MOST_LETTER_BYTES = 10_000, 64 * 2**20  # that wait in memory of a partition
RESERVE_COMMITS = 4  # commits of the largest kind so far that should find room
LEAST_RESERVE_BYTES = 64 * 2**20
HELD_EVENT_BYTES = 24  # of an open dwell in its recording: time of flight, pixel, half a chunk more


class WriteTrouble:
    """Failed writes of one owner, and when the next attempt is due.

    Parameters
    ----------
    what : str
        Whose writes, for logs and reasons.
    patience_s : float
        How long they may fail.
    monotonic : callable
        Seconds.
    """

    def __init__(
        self, what: str, *, patience_s: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self._patience_s, self._monotonic = what, patience_s, monotonic
        self._since = self._next = 0.0
        self._pause_s = FIRST_RETRY_S
        self.reason: str | None = None  # why nothing can be written; None while it can

    @property
    def waits(self) -> bool:
        """Whether it is too early to try again."""
        return self.reason is not None and self._monotonic() < self._next

    def failed(self, error: OSError) -> None:
        """Note a failure.

        Raises
        ------
        StorageError
            If writes have failed for longer than patience; the process should end with 75.
        """
        now = self._monotonic()
        if self.reason is None:
            self._since, self._pause_s = now, FIRST_RETRY_S
        else:
            self._pause_s = min(2 * self._pause_s, LONGEST_RETRY_S)
        lasted = now - self._since
        if lasted >= self._patience_s:
            raise StorageError(
                f"{self._what}: nothing could be written for {lasted:.0f} s; expected room within "
                f"{self._patience_s:g} s. {error} Nothing is lost: start again when it is mended.",
                error.errno,
            ) from error
        self._next = now + self._pause_s
        self.reason = f"{self._what} is paused: {error}"
        log.error(
            "write_failed",
            of=self._what,
            reason=str(error),
            again_s=self._pause_s,
            since_s=round(lasted, 1),
        )

    def over(self) -> None:
        """A write succeeded."""
        if self.reason is not None:
            log.warning(
                "writes_again", of=self._what, after_s=round(self._monotonic() - self._since, 1)
            )
        self.reason = None


class DiskWatch:
    """Free space of a folder's disk against what the next commits need.

    The reserve is room for ``RESERVE_COMMITS`` times the largest file of every kind written so far
    and what is held in memory, at least ``LEAST_RESERVE_BYTES``.

    Parameters
    ----------
    folder : Path
    monotonic : callable
        Seconds.
    """

    def __init__(self, folder: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._monotonic = folder, monotonic
        self._largest: dict[str, int] = {}  # bytes by ending
        self._looked: float | None = None
        self._told = False
        self.free_bytes: int | None = None
        self.reserve_bytes: int | None = None

    def wrote(self, path: Path) -> None:
        """A file of the folder is of this size."""
        with suppress(OSError):
            size = path.stat().st_size
            self._largest[path.suffix] = max(size, self._largest.get(path.suffix, 0))

    def look(self, held_bytes: Callable[[], int] = lambda: 0) -> None:
        """Learn how much is free, now and then.

        Parameters
        ----------
        held_bytes : callable
            What waits in memory and will be written.
        """
        now = self._monotonic()
        if self._looked is not None and now - self._looked < LOOK_S:
            return
        self._looked = now
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError:
            return  # a folder that is away is told by who writes into it
        commits = RESERVE_COMMITS * sum(self._largest.values())
        self.reserve_bytes = max(LEAST_RESERVE_BYTES, commits + held_bytes())
        self.free_bytes = free
        low = free < self.reserve_bytes
        if low and not self._told:
            log.warning("disk_nearly_full", free_bytes=free, reserve_bytes=self.reserve_bytes)
        self._told = low


def refuse_too_many(letters: Sequence[DeadLetter], partition: str) -> None:
    """Let a partition pause whose dead letters cannot be sent, before they fill the memory.

    Raises
    ------
    StorageError
        If more than ``MOST_LETTERS`` wait, or ``MOST_LETTER_BYTES``.
    """
    size = sum(len(letter.raw.value) for letter in letters)
    if len(letters) > MOST_LETTERS or size > MOST_LETTER_BYTES:
        raise StorageError(
            f"{len(letters)} dead letters ({size / 1e6:.0f} MB) of {partition} cannot be sent; "
            f"expected at most {MOST_LETTERS} and {MOST_LETTER_BYTES / 1e6:.0f} MB to wait. Make "
            "the topic of dead letters, and rights and room for it: it is tried again."
        )


def claimed_manifest(state: Path, partition: int, fingerprint: Mapping[str, str]) -> Manifest:
    """Manifest of a partition whose lock is held, of a state that is known to be this experiment's.

    Raises
    ------
    InputError
        If the state is of something else, or the manifest of another state; nothing is written.
    """
    identity = claim_state(state, fingerprint)
    folder = partition_folder(state, partition)
    manifest = read_manifest(folder) or Manifest(partition=partition)
    where = f"{folder.name}/{MANIFEST}"
    check_fingerprint(where, manifest.fingerprint, fingerprint)
    if manifest.state_id not in ("", identity.state_id):
        raise InputError(
            f"{where}: state_id is {manifest.state_id}; expected {identity.state_id}, that of "
            "state.json beside it. The folder comes from another state: put it back there."
        )
    return replace(manifest, state_id=identity.state_id, fingerprint=fingerprint)


def poll_unless_stuck(
    source: RawSource, poll_s: float, stuck: frozenset[int]
) -> Sequence[RawMessage]:
    """Messages that came; none while a source that cannot pause one partition must wait."""
    if stuck and not hasattr(source, "pause"):
        time.sleep(poll_s)
        return ()
    return source.poll(poll_s)


def pause_stuck(source: Any, now: frozenset[int], before: frozenset[int]) -> frozenset[int]:
    """Let a source leave out the partitions that are stuck now; returns them."""
    if hasattr(source, "pause"):
        for partition in now - before:
            source.pause(partition)
        for partition in before - now:
            source.resume(partition)
    return now
