"""Segments of a tape that nobody needs any more, removed by age and size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import structlog

from consumers.transport.retention_settings import Keep
from consumers.transport.tape_record import read_opening, segment_path, segments_of

log = structlog.get_logger()

DAY_S = 86_400.0
Positions = Mapping[tuple[str, int], int]  # next offset by topic and partition


def first_offsets(folder: Path) -> Positions:
    """Offsets at which a tape begins; empty for a tape that has its first segment.

    Raises
    ------
    TapeError
        If it is no tape, or damaged.
    """
    numbers = segments_of(folder)
    return _positions(folder, numbers[0]) or {} if numbers and numbers[0] else {}


def remove_segments(folder: Path, *, acknowledged: Positions, before: int, keep: Keep) -> int:
    """Remove the oldest segments beyond the bounds; how many.

    Only segments of which every message is acknowledged, and never the last. Age is told between
    segments, not by a clock here.

    Parameters
    ----------
    folder : Path
        The tape.
    acknowledged : mapping
        Next offset still needed by (topic, partition).
    before : int
        Segment that is being read: it and later ones stay.
    keep : Keep
    """
    numbers = segments_of(folder)
    told = {number: segment_path(folder, number).stat() for number in numbers}
    size = sum(stat.st_size for stat in told.values())
    removed = 0
    for number in numbers[:-1]:
        age_s = told[numbers[-1]].st_mtime - told[number].st_mtime
        old = keep.days is not None and age_s > keep.days * DAY_S
        much = keep.bytes is not None and size > keep.bytes
        if number >= before or not (old or much):
            break
        ends = _positions(folder, number + 1)
        if ends is None or any(acknowledged.get(place, 0) < n for place, n in ends.items()):
            break
        segment_path(folder, number).unlink()
        size -= told[number].st_size
        removed += 1
        log.info("tape_segment_removed", tape=folder.name, segment=number)
    return removed


def _positions(folder: Path, segment: int) -> Positions | None:
    """Next offsets when a segment was begun; None if its header is not written yet."""
    path = segment_path(folder, segment)
    with path.open("rb") as file:
        opening = read_opening(path, file, segment)
    return None if opening is None else opening.positions
