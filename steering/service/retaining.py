"""Bounds of what a partition keeps, applied before every manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import structlog

from consumers.state import (
    Assembler,
    Bounds,
    ChunkRecord,
    Cut,
    EventSpill,
    RunRecord,
    recordings_to_remove,
    runs_to_remove,
)
from steering.run import Run

log = structlog.get_logger()

Records = dict[str, dict[str, ChunkRecord]]  # run -> job -> record


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What is kept of every kind; what is still needed is kept in any case."""

    recordings: Bounds = Bounds()
    runs: Bounds = Bounds()

    @property
    def everything(self) -> bool:
        """Whether nothing is ever removed."""
        return self.recordings.everything and self.runs.everything


def run_records(
    records: Records,
    logs: Mapping[str, Mapping[str, tuple[int, tuple[float, ...]]]],
    cuts: Mapping[tuple[str, str], tuple[Cut, ...]],
    heeded: Mapping[str, tuple[int, bool]] = MappingProxyType({}),
) -> dict[str, RunRecord]:
    """Runs as the manifest names them.

    Parameters
    ----------
    records : dict
        Dwells by run and job.
    logs : mapping
        By run: what logs carry on.
    cuts : mapping
        By run and job: what was cut off and waits.
    heeded : mapping
        By run: number of the last action of people, and whether it is closed.

    Returns
    -------
    dict
        By run, with dwells in order of their start.
    """
    now = {
        name: {job: replace(record, cut=cuts.get((name, job), ())) for job, record in of.items()}
        for name, of in records.items()
    }
    return {
        name: RunRecord(
            chunks=_in_order(now.get(name, {})),
            logs=logs.get(name, {}),
            closed=heeded.get(name, (0, False))[1],
            actions=heeded.get(name, (0, False))[0],
        )
        for name in sorted({*records, *logs})
    }


def retain(
    kept: Kept,
    records: Records,
    assembler: Assembler,
    folder: Path,
    lateness_ns: int,
) -> list[str]:
    """Name no longer what the bounds leave out; files go once the manifest is written.

    Parameters
    ----------
    kept : Kept
    records : dict
        By run and job; changed here.
    assembler : Assembler
        Of the partition; told what it cannot open again.
    folder : Path
        Of the partition.
    lateness_ns : int

    Returns
    -------
    list of str
        Runs that are gone.
    """
    if kept.everything:
        return []

    def size_of(name: str) -> int:
        try:
            return (folder / name).stat().st_size
        except OSError:
            return 0

    needed = assembler.needed()
    known = {name: RunRecord(chunks=_in_order(of)) for name, of in records.items()}
    gone = runs_to_remove(known, bounds=kept.runs, needed=needed, size_of=size_of)
    for name in gone:
        assembler.forget_run(name)
        del records[name], known[name]
        log.info("run_removed", run=name, reason="source.retention.runs")
    stripped = recordings_to_remove(
        known, bounds=kept.recordings, needed=needed, lateness_ns=lateness_ns, size_of=size_of
    )
    for name, job in stripped:
        assembler.without_recording(name, job)
        records[name][job] = replace(records[name][job], recording=None)
        log.info("recording_removed", run=name, job=job, reason="source.retention.recordings")
    assembler.counters["removed.runs"] += len(gone)
    assembler.counters["removed.recordings"] += len(stripped)
    return gone


def events_of(run: Run) -> Counter[str]:
    """What became of the events of a run's folded chunks."""
    found: Counter[str] = Counter()
    for chunk in tuple(run.chunks):
        for name in ("folded", "outside_path", "outside_energy", "masked", "filtered"):
            found[f"events.{name}"] += getattr(chunk.account, name)
    return found


def held_bytes(spills: Collection[EventSpill]) -> dict[str, int]:
    """Events of open dwells by where they wait."""
    return {
        "memory": sum(spill.memory_bytes for spill in spills),
        "disk": sum(spill.disk_bytes for spill in spills),
    }


def _in_order(records: Mapping[str, ChunkRecord]) -> tuple[ChunkRecord, ...]:
    return tuple(sorted(records.values(), key=lambda c: (c.start_time_ns, c.job)))
