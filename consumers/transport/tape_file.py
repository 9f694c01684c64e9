"""A tape: every raw message of a stream on disk, as it came, to be replayed bit for bit.

A tape is a folder of segments ``00000000.tape``, ``00000001.tape`` and so on; each begins with a
header that names the version and ends where the next begins. A record is a head of 16 bytes
(marker, length and CRC32C of the body, CRC32C of the head) and a body. Segments are only ever
appended to, by one writer.

Every append is handed to the operating system before it returns, so a killed process loses nothing.
What a power cut may lose is set by ``sync_s``. An incomplete last record is a torn tail: readers
stop before it, the next writer cuts it off and says so. Damage anywhere else is an error.

Records are those of ``tape_record.py``.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import structlog
from crc32c import crc32c

from consumers.transport.tape_record import (
    BODY,
    HEAD,
    MAX_TOPIC_BYTES,
    TapeError,
    TapePlace,
    TornError,
    decoded,
    encoded,
    head_at,
    opening_of,
    read_opening,
    segment_path,
    segments_of,
    torn_or_damaged,
)
from consumers.wire import RawMessage
from simulations.errors import InputError
from simulations.saved_file import sync_folder

log = structlog.get_logger()

SEGMENT_BYTES = 1 << 30


class TapeReader:
    """Reads a tape from its beginning to what is written at the moment; not thread-safe.

    Parameters
    ----------
    folder : Path
        The tape.

    Attributes
    ----------
    torn_bytes : int
        Bytes behind the last whole record when reading last came to the end.

    Raises
    ------
    TapeError
        If it is no tape.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        numbers = segments_of(self.folder)
        if not numbers:
            raise TapeError(f"{self.folder}: holds no .tape file; expected a tape. Check the path")
        self.torn_bytes = 0
        self.place = TapePlace(segment=numbers[0], byte=0)  # of the next record
        self._tape: str | None = None
        self._file: BinaryIO | None = None
        self._end = 0  # bytes of the segment when last looked at

    def read(
        self, wanted: Callable[[str, int, int], bool] | None = None
    ) -> tuple[RawMessage, TapePlace] | None:
        """Return the next message and where the one after it begins; None at the end, for now.

        Parameters
        ----------
        wanted : callable, optional
            ``(topic, partition, offset)`` to whether the message is needed; others are passed over
            without reading their values.

        Raises
        ------
        TapeError
            If the tape is damaged before its end.
        """
        while True:
            file = self._opened()
            if file is None:
                self.close()
                return None
            place, path = self.place, self._path
            try:
                length, check = self._head(path, file)
                end = self._end
                start = place.byte + HEAD.size
                if wanted is not None and not self._is_wanted(file, length, wanted):
                    self.place = TapePlace(segment=place.segment, byte=start + length)
                    continue
                file.seek(start)
                body = file.read(length)
                if crc32c(body) != check:
                    torn_or_damaged(path, file, place.byte, start + length, end)
                message = decoded(body)
            except TornError as torn:
                if not self._next_segment(path, torn):
                    self.close()  # what is buffered behind the last record may yet change
                    return None
                continue
            except (struct.error, ValueError) as error:
                if isinstance(error, TapeError):
                    raise
                raise TapeError(
                    f"{path}: the record at byte {self.place.byte} contradicts itself ({error}); "
                    "it was not written by Beamsteer"
                ) from error
            self.place = TapePlace(segment=place.segment, byte=start + length)
            return message, self.place

    def _head(self, path: Path, file: BinaryIO) -> tuple[int, int]:
        """Head of the next record; the size of the file is asked for only where it matters."""
        try:
            if self.place.byte < self._end:
                return head_at(path, file, self.place.byte, self._end)
        except TornError:
            pass
        self._end = os.fstat(file.fileno()).st_size
        if self.place.byte == self._end:
            raise TornError(self._end, 0)
        return head_at(path, file, self.place.byte, self._end)

    def _is_wanted(
        self,
        file: BinaryIO,
        length: int,
        wanted: Callable[[str, int, int], bool],
    ) -> bool:
        fixed = file.read(min(BODY.size + MAX_TOPIC_BYTES, length))
        topic_size, partition, offset, *_ = BODY.unpack_from(fixed)
        topic = fixed[BODY.size : BODY.size + topic_size].decode()
        return wanted(topic, partition, offset)

    def _opened(self) -> BinaryIO | None:
        """File of the segment at hand, its header judged; None where that is not written yet."""
        if self._file is not None and self.place.byte:
            return self._file
        self._path = path = segment_path(self.folder, self.place.segment)
        if self._file is None:
            self._file = path.open("rb")
            self._end = 0
        if self.place.byte:
            return self._file
        opening = read_opening(path, self._file, self.place.segment)
        if opening is None:
            if self._follows(path):
                raise TapeError(f"{path}: byte 0, the header is cut. Restore the file from a copy")
            self.torn_bytes = os.fstat(self._file.fileno()).st_size
            return None
        if self._tape is not None and opening.tape != self._tape:
            raise TapeError(
                f"{path}: belongs to tape {opening.tape}, the segments before it to {self._tape}. "
                "Keep tapes in folders of their own"
            )
        self._tape = opening.tape
        self.place = replace(self.place, byte=opening.first_byte)
        return self._file

    def _follows(self, path: Path) -> bool:
        return segment_path(path.parent, self.place.segment + 1).is_file()

    def _next_segment(self, path: Path, torn: TornError) -> bool:
        """Go on to the next segment, if there is one."""
        if not self._follows(path):
            self.torn_bytes = torn.left
            return False
        # the writer may have finished this segment between two looks
        if (
            self._file is not None
            and os.fstat(self._file.fileno()).st_size != torn.byte + torn.left
        ):
            return True
        if torn.left:
            raise TapeError(
                f"{path}: byte {torn.byte} is damaged and a segment follows; expected whole "
                "records. Restore the file from a copy"
            )
        self.close()
        self.place = TapePlace(segment=self.place.segment + 1, byte=0)
        return True

    def close(self) -> None:
        """Close the file; reading goes on where it was if it is asked to."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> TapeReader:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()


def read_tape(folder: Path | str) -> Iterator[RawMessage]:
    """Messages of a tape in the order in which they were written.

    Parameters
    ----------
    folder : Path
        The tape. A torn tail is left out, with a warning in the log.

    Yields
    ------
    RawMessage

    Raises
    ------
    TapeError
        If the tape is none, or damaged before its end.
    """
    with TapeReader(folder) as reader:
        while (found := reader.read()) is not None:
            yield found[0]
        if reader.torn_bytes:
            log.warning(
                "tape_tail_torn",
                tape=str(reader.folder),
                segment=reader.place.segment,
                byte=reader.place.byte,
                left_out_bytes=reader.torn_bytes,
            )


# -- writing ------------------------------------------------------------------------------------


class TapeWriter:
    """Appends messages to a tape; the only writer of it while it lives.

    Parameters
    ----------
    folder : Path
        The tape; created if it is not there, continued if it is.
    segment_bytes : int
        Size beyond which a new segment is begun.
    sync_s : float, optional
        Seconds that a power cut may take away: written data are forced to the disk at the first
        append after so long, and when the tape closes. 0 forces every append; None leaves it to
        the operating system. A killed process loses nothing in any case.
    monotonic : callable
        Clock in seconds.

    Attributes
    ----------
    positions : dict
        Next offset by (topic, partition).
    note : str or None
        What was cut off a torn tail, if anything.
    newest : RawMessage or None
        The last message on the tape.

    Raises
    ------
    TapeError
        If the tape is damaged.
    BlockingIOError
        If another writer has it.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        sync_s: float | None = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if segment_bytes < 1:
            raise InputError(f"segment_bytes is {segment_bytes}; expected at least 1")
        self.folder = Path(folder)
        self.segment_bytes = segment_bytes
        self.sync_s = sync_s
        self.positions: dict[tuple[str, int], int] = {}
        self.note: str | None = None
        self.newest: RawMessage | None = None
        self._monotonic = monotonic
        self._synced = monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR, 0o644)
        self._file: BinaryIO | None = None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise BlockingIOError(
                f"{self.folder}: another process is writing this tape. Give another folder, or "
                "stop it"
            ) from None
        try:
            self._continue()
        except BaseException:
            self._unlock()
            raise

    def _continue(self) -> None:
        """Find the end, cut what is torn, and be ready to append."""
        numbers = segments_of(self.folder)
        self._tape = uuid.uuid4().hex
        if not numbers:
            self._begin_segment(0)
            return
        self._segment = numbers[-1]
        path = segment_path(self.folder, self._segment)
        with path.open("rb") as file:
            opening = read_opening(path, file, self._segment)
        if opening is None:
            self._continue_without_opening(path)
            return
        self._tape = opening.tape
        self._first_byte = opening.first_byte
        self.positions = dict(opening.positions)
        end = self._scan(TapePlace(segment=self._segment, byte=opening.first_byte))
        self._cut(path, end)
        if self.newest is None and self._segment:  # a crash came when this segment was begun
            self._scan_before()
        self._file = path.open("ab", buffering=0)

    def _continue_without_opening(self, path: Path) -> None:
        """The crash came while the last segment was begun: begin it again."""
        if self._segment:
            self._scan_before()
        self._say(f"{path.name} was begun and not finished; it is begun again")
        path.unlink()
        self._begin_segment(self._segment)

    def _scan_before(self) -> None:
        """Learn what the segment before the last one holds."""
        before = segment_path(self.folder, self._segment - 1)
        with before.open("rb") as file:
            opening = read_opening(before, file, self._segment - 1)
        if opening is None:
            raise TapeError(f"{before}: byte 0, the header is cut. Restore it from a copy")
        self._tape = opening.tape
        self.positions = dict(opening.positions)
        self._scan(TapePlace(segment=self._segment - 1, byte=opening.first_byte))

    def _scan(self, place: TapePlace) -> int:
        """Learn the offsets of a segment; returns the byte behind its last whole record."""
        reader = TapeReader(self.folder)
        reader.place = place
        with reader:
            while reader.place.segment == place.segment:
                before = reader.place.byte
                found = reader.read()
                if found is None:
                    return reader.place.byte
                if found[1].segment != place.segment:
                    return before
                self._count(found[0])
        return place.byte

    def _cut(self, path: Path, end: int) -> None:
        size = path.stat().st_size
        if size > end:
            self._say(
                f"{path.name}: {size - end} bytes behind byte {end} were no whole record, left by "
                "a crash; they are cut off"
            )
            os.truncate(path, end)

    def _say(self, note: str) -> None:
        self.note = note
        log.warning("tape_tail_cut", tape=str(self.folder), note=note)

    def _count(self, message: RawMessage) -> None:
        place = (message.topic, message.partition)
        self.positions[place] = max(self.positions.get(place, 0), message.offset + 1)
        self.newest = message

    def _begin_segment(self, number: int) -> None:
        """Go on in a new segment; one that cannot be written leaves everything as it was."""
        path = segment_path(self.folder, number)
        file = path.open("xb", buffering=0)
        opening = opening_of(self._tape, number, self.positions)
        try:
            _write_all(file.fileno(), [opening])
            os.fsync(file.fileno())
            sync_folder(self.folder)
        except OSError:
            file.close()
            path.unlink(missing_ok=True)
            raise
        if self._file is not None:
            self._file.close()
        self._file, self._segment, self._first_byte = file, number, len(opening)

    @property
    def end(self) -> TapePlace:
        """Where the next record will begin, if it stays in this segment."""
        if self._file is None:
            raise TapeError(f"{self.folder}: the tape is closed")
        return TapePlace(segment=self._segment, byte=os.fstat(self._file.fileno()).st_size)

    def append(self, messages: Sequence[RawMessage]) -> None:
        """Write messages; they survive the end of this process when it returns.

        Raises
        ------
        TapeError
            If a message is too large, or the tape is closed; nothing of this call is written then.
        OSError
            If the disk does not take them, e.g. because it is full; messages before the one that
            failed are on the tape, the others are not.
        """
        if self._file is None:
            raise TapeError(f"{self.folder}: the tape is closed")
        records = [(message, encoded(message)) for message in messages]
        size = os.fstat(self._file.fileno()).st_size
        waiting: list[tuple[RawMessage, list[bytes]]] = []
        for message, parts in records:
            length = sum(map(len, parts))
            # a record larger than a segment gets one of its own
            if size + length > self.segment_bytes and size > self._first_byte:
                self._write(waiting)
                self._sync()
                self._begin_segment(self._segment + 1)
                size, waiting = self._first_byte, []
            waiting.append((message, parts))
            size += length
        self._write(waiting)
        if self.sync_s is not None and self._monotonic() - self._synced >= self.sync_s:
            self._sync()

    def _write(self, records: list[tuple[RawMessage, list[bytes]]]) -> None:
        """Append whole records: what the system takes of another one is taken back."""
        if not records or self._file is None:
            return
        handle = self._file.fileno()
        start = os.fstat(handle).st_size
        ends = np.cumsum([sum(map(len, parts)) for _, parts in records]) + start
        buffers = [part for _, parts in records for part in parts]
        try:
            for i in range(0, len(buffers), 512):
                _write_all(handle, buffers[i : i + 512])
        except OSError:
            whole = int(np.searchsorted(ends, os.fstat(handle).st_size, side="right"))
            end = int(ends[whole - 1]) if whole else start
            os.ftruncate(handle, end)
            os.lseek(handle, end, os.SEEK_SET)  # else the next record would follow a hole
            records = records[:whole]
            raise
        finally:
            for message, _ in records:
                self._count(message)

    def _sync(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._synced = self._monotonic()

    def sync(self) -> None:
        """Force everything to the disk now."""
        self._sync()

    def close(self) -> None:
        """Force everything to the disk and let another writer have the tape."""
        if self._file is None:
            return
        try:
            self._sync()
            self._file.close()
        finally:
            self._file = None
            self._unlock()

    def _unlock(self) -> None:
        os.close(self._lock)

    def __enter__(self) -> TapeWriter:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()


def _write_all(handle: int, parts: list[bytes]) -> None:
    """Write buffers one after the other, however little the system takes at a time."""
    left = [memoryview(part) for part in parts if part]
    while left:
        done = os.writev(handle, left)
        while left and done >= len(left[0]):
            done -= len(left[0])
            left.pop(0)
        if left and done:
            left[0] = left[0][done:]
