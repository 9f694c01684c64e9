"""Tapes as sources: replay at any speed, and streams made repeatable by a tape."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from consumers.transport.retention_settings import Keep
from consumers.transport.tape_file import TapeReader, TapeWriter
from consumers.transport.tape_record import TapeError
from consumers.transport.tape_retention_file import first_offsets, remove_segments
from consumers.wire import PartitionOwner, RawMessage, RawSource
from simulations.errors import InputError

log = structlog.get_logger()

BATCH_MESSAGES, BATCH_BYTES = 1000, 64 * 2**20  # of one poll
RETRY_S = 0.5  # between two attempts to write a tape
FOLLOW_S = 0.05  # between two looks at a tape that is still being written


class _Positions:
    """Where the owner of partitions wants to go on, asked once per partition."""

    def __init__(
        self, folder: Path, owner: PartitionOwner | None, topics: Collection[str] | None
    ) -> None:
        self._owner, self._folder = owner, folder
        self._topics = None if topics is None else frozenset(topics)
        self._next: dict[int, Mapping[str, int]] = {}

    def wanted(self, topic: str, partition: int, offset: int) -> bool:
        if self._topics is not None and topic not in self._topics:
            return False
        return offset >= self.of(partition).get(topic, 0)

    def of(self, partition: int) -> Mapping[str, int]:
        if partition not in self._next:
            first = first_offsets(self._folder)
            if self._owner is None:
                if first:
                    log.warning(
                        "tape_begins_late", tape=str(self._folder), lacks=sum(first.values())
                    )
                self._next[partition] = {}
                return self._next[partition]
            wanted = self._owner.take(partition)
            for (topic, number), offset in first.items():
                if number == partition and wanted.get(topic, 0) < offset:
                    raise TapeError(
                        f"{self._folder}: begins at offset {offset} of {topic!r}; expected "
                        f"{wanted.get(topic, 0)}, which the state still needs. Its first segments "
                        "were removed: put them back, or begin a new state, which will lack "
                        f"{offset - wanted.get(topic, 0)} messages"
                    )
            self._next[partition] = wanted
        return self._next[partition]


class TapeSource:
    """A recorded stream as a ``RawSource``: topics, offsets, keys and times as they were.

    Parameters
    ----------
    folder : Path
        The tape.
    owner : PartitionOwner, optional
        Says where every partition goes on; absent: from the beginning.
    speed : float, optional
        1 replays at the pace of the recorded timestamps, 10 at ten times that; absent: as fast as
        it goes. A timestamp that falls is due at once.
    topics : collection of str, optional
        Topics that are delivered; absent: all.
    follow : bool
        Wait at the end for what another process still writes.
    monotonic, sleep : callable
        Clock in seconds, and waiting.

    Attributes
    ----------
    exhausted : bool
        The end was reached; never while following.

    Raises
    ------
    TapeError
        If it is no tape; from ``poll`` if it is damaged.
    """

    def __init__(
        self,
        folder: Path | str,
        owner: PartitionOwner | None = None,
        *,
        speed: float | None = None,
        topics: Collection[str] | None = None,
        follow: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if speed is not None and not speed > 0:
            raise InputError(f"speed is {speed}; expected a positive number, or none for no pause")
        self._reader = TapeReader(folder)
        self._positions = _Positions(Path(folder), owner, topics)
        self._speed, self._follow = speed, follow
        self._monotonic, self._sleep = monotonic, sleep
        self._held: RawMessage | None = None  # read, and not yet due
        self._origin: tuple[float, int] | None = None  # clock and timestamp of the first message
        self.exhausted = False

    @property
    def connected(self) -> None:
        """Nobody sends: a tape is here, or is not."""
        return None

    def poll(self, timeout_s: float) -> Sequence[RawMessage]:
        """Messages that are due; none after the time-out or at the end."""
        until = self._monotonic() + timeout_s
        batch: list[RawMessage] = []
        size = 0
        while len(batch) < BATCH_MESSAGES and size < BATCH_BYTES:
            message = self._held or self._next()
            if message is None:
                left = until - self._monotonic()
                if batch or self.exhausted or left <= 0:
                    break
                self._sleep(min(FOLLOW_S, left))
                continue
            wait = self._wait_of(message)
            if wait > 0:
                self._held = message
                left = until - self._monotonic()
                if batch or left <= 0:
                    break
                self._sleep(min(wait, left))
                continue
            self._held = None
            batch.append(message)
            size += len(message.value)
        return batch

    def _next(self) -> RawMessage | None:
        found = self._reader.read(self._positions.wanted)
        if found is not None:
            return found[0]
        if not self._follow and not self.exhausted:
            self.exhausted = True
            if self._reader.torn_bytes:
                log.warning(
                    "tape_tail_torn",
                    tape=str(self._reader.folder),
                    segment=self._reader.place.segment,
                    byte=self._reader.place.byte,
                    left_out_bytes=self._reader.torn_bytes,
                )
        return None

    def _wait_of(self, message: RawMessage) -> float:
        if self._speed is None:
            return 0.0
        if self._origin is None:
            self._origin = (self._monotonic(), message.timestamp_ns)
        clock, timestamp_ns = self._origin
        due = clock + (message.timestamp_ns - timestamp_ns) * 1e-9 / self._speed
        return due - self._monotonic()

    def acknowledge(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Nothing to do: a tape keeps everything."""

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


class Taped:
    """A stream that cannot be read twice, made one that can: everything goes to a tape first.

    A thread takes messages from the source as they come and appends them to the tape; ``poll``
    reads the tape. So a consumer that is slow, or dead for a while with this process alive, makes
    the tape longer and loses nothing, and after a crash of the process everything that had come is
    replayed from where the owner's state ends. What a sender sends while this process is down is
    lost with ZMQ: only a broker keeps that.

    Messages get the partition 0 and offsets of their own, counted by topic along the tape.

    Parameters
    ----------
    source : RawSource
        Without an owner: its offsets are not used. One that can go on behind a message
        (``resume``) is given the last one of the tape.
    tape : Path or TapeWriter
        Where to write; a path is opened with a writer's defaults.
    owner : PartitionOwner, optional
        Asked for partition 0 before anything is delivered.
    patience_s : float
        How long a tape that cannot be written is tried again; meanwhile nothing is taken from the
        source, and its own buffers hold what they can.
    keep : Keep, optional
        Segments beyond these bounds are removed once all in them is acknowledged; absent: none is.

    Attributes
    ----------
    trouble : str or None
        Why the tape cannot be written now.
    removed_segments : int
        So far.
    """

    def __init__(
        self,
        source: RawSource,
        tape: Path | str | TapeWriter,
        owner: PartitionOwner | None = None,
        *,
        patience_s: float = 600.0,
        keep: Keep | None = None,
    ) -> None:
        self._source, self._patience_s = source, patience_s
        self.trouble: str | None = None
        self._writer = tape if isinstance(tape, TapeWriter) else TapeWriter(tape)
        resume = getattr(source, "resume", None)
        if resume is not None and self._writer.newest is not None:
            resume(self._writer.newest)
        self._positions = _Positions(self._writer.folder, owner, None)
        self._keep = keep or Keep()
        self.removed_segments = 0
        self._reader = TapeReader(self._writer.folder)
        self._came = threading.Condition()
        self._appended = 0  # calls of append that are done
        self._failure: BaseException | None = None
        self._leave = threading.Event()
        self._thread: threading.Thread | None = None

    def poll(self, timeout_s: float) -> Sequence[RawMessage]:
        """Messages from the tape, in its order; none after the time-out.

        Raises
        ------
        OSError
            If the tape could not be written, e.g. because the disk is full.
        """
        self._start()
        with self._came:
            seen = self._appended
        batch = self._batch()
        if not batch and timeout_s > 0:
            with self._came:
                self._came.wait_for(
                    lambda: self._appended != seen or self._failure is not None, timeout_s
                )
            batch = self._batch()
        if not batch and self._failure is not None:
            raise self._failure
        return batch

    @property
    def connected(self) -> bool:
        """Whether the stream comes: its source is connected, and the tape can be written."""
        return self._failure is None and self._source.connected is not False

    @property
    def lost_s(self) -> float:
        """Time of the stream that the source's sender did not have any more, since the start."""
        return float(getattr(self._source, "lost_s", 0.0))

    def _batch(self) -> list[RawMessage]:
        batch: list[RawMessage] = []
        size = 0
        while len(batch) < BATCH_MESSAGES and size < BATCH_BYTES:
            found = self._reader.read(self._positions.wanted)
            if found is None:
                break
            batch.append(found[0])
            size += len(found[0].value)
        return batch

    def _start(self) -> None:
        """Ask the owner, then let the thread run; offsets never fall behind the owner's."""
        if self._thread is not None:
            return
        next_offset = {topic: n for (topic, _), n in self._writer.positions.items()}
        for topic, position in self._positions.of(0).items():
            if position > next_offset.get(topic, 0):
                # a power cut took the end of the tape, or the tape is another one
                log.warning(
                    "tape_ends_before_the_saved_position",
                    tape=str(self._writer.folder),
                    topic=topic,
                    tape_end=next_offset.get(topic, 0),
                    position=position,
                )
                next_offset[topic] = position
        self._thread = threading.Thread(
            target=self._record, args=(next_offset,), name="tape", daemon=True
        )
        self._thread.start()

    def _record(self, next_offset: dict[str, int]) -> None:
        try:
            while not self._leave.is_set():
                messages = []
                for message in self._source.poll(0.1):
                    offset = next_offset.get(message.topic, 0)
                    next_offset[message.topic] = offset + 1
                    messages.append(replace(message, partition=0, offset=offset))
                if messages:
                    self._append(messages)
                    with self._came:
                        self._appended += 1
                        self._came.notify_all()
        except BaseException as error:
            log.error("taping_failed", tape=str(self._writer.folder), reason=str(error))
            with self._came:
                self._failure = error
                self._came.notify_all()

    def _append(self, messages: list[RawMessage]) -> None:
        """Bring messages onto the tape, again and again while the disk does not take them."""
        since = time.monotonic()
        while True:
            try:
                self._writer.append(messages)
            except OSError as error:
                ends = self._writer.positions
                messages = [m for m in messages if m.offset >= ends.get((m.topic, 0), 0)]
                if self._leave.is_set() or time.monotonic() - since >= self._patience_s:
                    raise
                if self.trouble is None:
                    log.error("tape_not_written", reason=str(error), messages=len(messages))
                self.trouble = f"the tape cannot be written ({error.strerror}); it is tried again."
                self._leave.wait(RETRY_S)
            else:
                self.trouble = None
                return

    def acknowledge(self, positions: Mapping[tuple[str, int], int]) -> None:
        """What is in a saved manifest may go, as far as the bounds say."""
        if not self._keep.everything:
            self.removed_segments += remove_segments(
                self._writer.folder,
                acknowledged=positions,
                before=self._reader.place.segment,
                keep=self._keep,
            )

    def close(self) -> None:
        """Stop taking messages, close the source and the tape."""
        self._leave.set()
        if self._thread is not None:
            self._thread.join()
        self._source.close()
        self._reader.close()
        self._writer.close()
