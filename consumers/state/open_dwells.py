"""Dwells that are still open: what has come of them so far, for people to look at.

Nothing is taken here: whoever looks sees what a dwell would hold if it ended now, without what is
late, vetoed or cut off at its end. What counts is assembled when it closes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from consumers.state.late_data import log_name
from consumers.state.log_series import CHARGE_LOG, LogSeries
from consumers.state.nexus_template import log_names
from consumers.state.pulses import Identity, identity, select_pulses
from consumers.state.run_assembly import RunAssembly
from consumers.wire import Events


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OpenDwell:
    """What has come of one dwell that is not closed."""

    run: str
    job: str
    chunk: str
    start_ns: int
    newest_ns: int  # of the data and samples that came; the start without any
    logs: Mapping[str, LogSeries]  # of those that were asked for
    events: tuple[tuple[Identity, Events], ...]  # of its pulses, in the order in which they came


def open_dwells(
    runs: Iterable[RunAssembly], *, logs: Collection[str], known: Collection[Identity] = ()
) -> list[OpenDwell]:
    """The newest dwell of every run that is not closed.

    Parameters
    ----------
    runs : iterable of RunAssembly
    logs : collection of str
        Names, in a recording, of the logs that are wanted.
    known : collection of Identity
        Messages of data that are left out.
    """
    return [found for run in runs if (found := _newest(run, logs, known)) is not None]


def _newest(
    run: RunAssembly, wanted: Collection[str], known: Collection[Identity]
) -> OpenDwell | None:
    dwell = next((d for d in reversed(tuple(run.dwells)) if d.record is None), None)
    if dwell is None or dwell.begins is None:
        return None
    end_ns = run.dwells.end_of(dwell)
    limit_ns = np.iinfo(np.int64).max if end_ns is None else end_ns
    names = log_names(dwell.begins.structure)
    logs: dict[str, LogSeries] = {}
    for source in run.logs.sources:
        named = log_name(names, source)
        if named.name not in wanted:
            continue
        series = run.logs.series(
            source, dwell.start_ns, limit_ns, carry=named.name != CHARGE_LOG, unit=named.unit
        )
        if len(series.time_ns):
            logs[named.name] = series
    newest_ns = max(
        dwell.start_ns,
        run.held.newest_of(dwell) or 0,
        *(int(series.time_ns[-1]) for series in logs.values()),
    )
    events: list[tuple[Identity, Events]] = []
    for held in run.held:
        if not isinstance(held.value, Events):
            continue
        own = identity(held.value)
        if own in known:
            continue
        mine = held.pulses_of(dwell, end_ns)
        if mine.any():
            events.append((own, select_pulses(held.value, mine)))
    return OpenDwell(
        run=run.name,
        job=dwell.job,
        chunk=dwell.begins.chunk,
        start_ns=dwell.start_ns,
        newest_ns=min(newest_ns, limit_ns),
        logs=logs,
        events=tuple(events),
    )
