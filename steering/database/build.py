"""Build a store of entries from sources: streaming, in any number of processes, killed at will."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from simulations.errors import InputError
from simulations.progress import Progress, silent
from steering.database.block_store import Aside, read_header, write_block
from steering.database.entry import Card, Entry, card_of
from steering.database.index_store import Placed, write_index
from steering.database.plan_store import (
    BLOCKS,
    SourcePlan,
    owned,
    read_plan,
    remove_partial,
    write_plan,
)
from steering.database.source_file import Source, open_source
from steering.database.workers import run_tasks


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltStore:
    """What a build came to."""

    store: Path
    entries: int
    aside: int
    blocks_made: int
    blocks_kept: int  # made by an earlier, interrupted build


@dataclass(frozen=True, kw_only=True, slots=True)
class _BlockTask:
    source: Path
    fingerprint: str
    start: int
    stop: int
    file: Path


def build_store(
    sources: Sequence[Path], store: Path, *, workers: int = 1, progress: Progress = silent
) -> BuiltStore:
    """Build a store, or go on with one, or add sources to it.

    Blocks of a fixed number of entries are made one by one, each a file that appears when it is
    whole; a build that was interrupted goes on behind the last. The index is made from the blocks
    at the end, so that the store is the same to the last bit whoever made which block.

    Parameters
    ----------
    sources : sequence of Path
        HDF5 files of a phonon database, and folders of phonopy files. Sources that the store has
        already stay in it and need not be named again.
    store : Path
        Folder; made if it is not there.
    workers : int
        Processes.
    progress : callable
        Told how far it is.

    Raises
    ------
    InputError
        If a source cannot be read, or the folder holds something else. A bad entry is no error: it
        is set aside with the reason.
    StorageError
        If there is no room. Make some and build again.
    BlockingIOError
        If another process builds the same store.
    """
    if not sources:
        raise InputError("sources are missing; expected at least one file or folder")
    with owned(store):
        planned = read_plan(store)
        paths: dict[str, Path] = {}
        for path in sources:
            real = Path(os.path.realpath(path))  # Path.resolve raises where a link leads to itself
            found = open_source(real)
            paths[found.fingerprint] = real
            if found.fingerprint not in {one.fingerprint for one in planned}:
                new = SourcePlan(
                    name=found.name,
                    note=found.note,
                    fingerprint=found.fingerprint,
                    entries=len(found.ids),
                )
                planned = (*planned, new)
        write_plan(store, planned)
        remove_partial(store)
        remove_partial(store / BLOCKS)
        tasks, kept = _missing(store, planned, paths)
        total = len(tasks) + kept

        def done(count: int) -> None:
            share = (kept + count) / total
            progress(f"reading and judging entries, {int(10 * share)} tenths", 0.98 * share)

        done(0)
        run_tasks(make_block, tasks, workers, done)
        progress("indexing", 0.98)
        aside: list[Aside] = []
        placed = list(_placed(store, planned, aside))
        entries, n_aside = write_index(
            store,
            placed,
            aside,
            {
                f"source {k}": f"{one.name}, {one.entries} entries. {one.note}".strip()
                for k, one in enumerate(planned)
            },
        )
    return BuiltStore(
        store=store, entries=entries, aside=n_aside, blocks_made=len(tasks), blocks_kept=kept
    )


def _missing(
    store: Path, planned: Sequence[SourcePlan], paths: dict[str, Path]
) -> tuple[list[_BlockTask], int]:
    """Blocks that are still to be made, and how many there are."""
    tasks, kept = [], 0
    for source in planned:
        for name, start, stop in source.blocks():
            file = store / BLOCKS / name
            if file.is_file():
                kept += 1
                continue
            if source.fingerprint not in paths:
                raise InputError(
                    f"source: {source.name} was not read to its end before; expected it among the "
                    "sources, unchanged. Name it again, or build another store"
                )
            tasks.append(
                _BlockTask(
                    source=paths[source.fingerprint],
                    fingerprint=source.fingerprint,
                    start=start,
                    stop=stop,
                    file=file,
                )
            )
    return tasks, kept


@lru_cache(maxsize=4)
def _source(path: Path, fingerprint: str) -> Source:
    """A source as it was planned; a process looks once."""
    del fingerprint  # another one is another source, though the path be the same
    return open_source(path)


def make_block(task: _BlockTask) -> None:
    """Read and judge the entries of a block, and write it."""
    source = _source(task.source, task.fingerprint)
    entries: list[tuple[Entry, Card]] = []
    aside: list[Aside] = []
    for row in range(task.start, task.stop):
        try:
            entry = source.entry(row)
            entries.append((entry, card_of(entry, source.name)))
        except (OSError, MemoryError):
            raise  # nothing is wrong with the entry
        except Exception as error:  # libraries raise many kinds for bad numbers
            reason = " ".join(str(error).split())
            if not isinstance(error, InputError):
                reason = f"{type(error).__name__}: {reason}"
            aside.append(Aside(id=source.ids[row], source=source.name, reason=reason))
    write_block(task.file, entries, aside)


def _placed(store: Path, planned: Sequence[SourcePlan], aside: list[Aside]) -> Iterator[Placed]:
    """All entries in the order of the sources; those set aside are gathered on the way."""
    for source in planned:
        for name, _, _ in source.blocks():
            cards, left = read_header(store / BLOCKS / name)
            aside += left
            for place, card in enumerate(cards):
                yield Placed(card=card, block=name, place=place)
