"""What people ask of runs, in the fold: chunks withdrawn and restored, runs that take no more.

The log of actions says what is wanted, the records of a partition what is so: each turn brings the
second to the first, so a worker that starts again has nothing to remember.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from consumers.state import ChunkRecord, ClosedChunk, RunRecord, read_chunk, run_folder
from simulations.errors import InputError
from steering.run import NO_ORDERS, ActionLog, Orders, Run
from steering.service.clocks import Clock
from steering.service.retaining import Records

log = structlog.get_logger()


class Obedience:
    """Orders of the runs of one partition, and how far the fold obeys them.

    Parameters
    ----------
    folder : Path
        Of the partition.
    clock : callable
        Unix time, ns.
    """

    def __init__(self, folder: Path, *, clock: Clock) -> None:
        self._folder, self._clock = folder, clock
        self._logs: dict[str, ActionLog] = {}
        self._orders: dict[str, Orders] = {}
        self._before: dict[str, tuple[int, bool]] = {}  # as the manifest said at the start
        self._noted: dict[str, int] = {}
        self.faults: dict[str, str] = {}  # of logs, by run

    def orders(self, run: str) -> Orders:
        """Of a run, as they were read last."""
        return self._orders.get(run, NO_ORDERS)

    def heeded(self) -> dict[str, tuple[int, bool]]:
        """By run: number of the last action, and whether the run is closed."""
        now = {
            name: (one.number, one.closed is not None)
            for name, one in self._orders.items()
            if one.number
        }
        return self._before | now

    def closed(self, run: str) -> str | None:
        """Why a run takes nothing more; None: it does."""
        if run not in self._orders and self._before.get(run, (0, False))[1]:
            return "closed, and its log of actions cannot be read"
        return self.orders(run).closed

    def obey(self, records: Records, run_of: Callable[[str], Run]) -> bool:
        """Bring every run to its orders; True if there is something to commit.

        A log that cannot be read changes nothing, and is told.
        """
        changed = False
        for name, mine in records.items():
            try:
                orders = self._log(name).read().orders()
                if orders != self.orders(name):
                    run = run_of(name)
                    for job, record in mine.items():
                        mine[job] = self.placed(run, record, orders)
                    self._orders[name] = orders
                    changed = True
                    log.info("actions_heeded", run=name, number=orders.number)
            except InputError as error:
                if self.faults.get(name) != str(error):
                    log.error("actions_refused", run=name, reason=str(error))
                self.faults[name] = str(error)
            else:
                self.faults.pop(name, None)
        return changed

    def placed(self, run: Run, record: ChunkRecord, orders: Orders) -> ChunkRecord:
        """A record of a chunk as orders want it, with the run brought to it.

        Raises
        ------
        InputError, OSError
            If a chunk that is to be restored cannot be read.
        """
        reason = orders.withdrawn.get(record.chunk)
        if record.file is None:
            return record
        if record.status == "folded" and reason is not None:
            run.withdraw(record.chunk, reason)
            return replace(record, status="withdrawn", reason=reason)
        if record.status == "withdrawn" and reason is None:
            run.reopen(record.chunk)
            run.adopt(self._read(record.file))
            return replace(record, status="folded", reason=None)
        return record if reason is None else replace(record, reason=reason)

    def recover(self, run: Run, told: RunRecord) -> None:
        """Give a run what a manifest names."""
        if told.actions:
            self._before[run.run_id] = told.actions, told.closed
        for record in told.chunks:
            self._recover(run, record)

    def _recover(self, run: Run, record: ChunkRecord) -> None:
        if record.file is None:
            return
        run.adopt(self._read(record.file))
        if record.status == "withdrawn":
            run.withdraw(record.chunk, record.reason or "withdrawn before")

    def _read(self, file: str) -> ClosedChunk:
        return read_chunk(self._folder / file)

    def note(self, heeded: Mapping[str, int]) -> None:
        """Say in the logs that what a manifest heeds is applied.

        Parameters
        ----------
        heeded : mapping
            By run: number of the last action in the manifest on disk.
        """
        for name, number in heeded.items():
            if number <= self._noted.get(name, 0):
                continue
            try:
                self._log(name).note_applied(number, "consume", self._clock())
            except (InputError, OSError) as error:  # a full disk; the manifest has it
                log.warning("not_noted_as_applied", run=name, reason=str(error))
                continue
            self._noted[name] = number

    def forget(self, run: str) -> None:
        """A run is gone."""
        for known in (self._logs, self._orders, self._before, self._noted, self.faults):
            known.pop(run, None)

    def _log(self, run: str) -> ActionLog:
        if run not in self._logs:
            self._logs[run] = ActionLog(run_folder(self._folder, run))
        return self._logs[run]
