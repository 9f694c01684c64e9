"""Dwells that have stopped and wait for what is late: what is known of them already."""

from __future__ import annotations

from collections.abc import Iterable

from consumers.state.late_data import log_name
from consumers.state.log_series import CHARGE_LOG
from consumers.state.nexus_template import log_names
from consumers.state.run_assembly import RunAssembly
from consumers.wire import Events


def settling(runs: Iterable[RunAssembly], log: str) -> list[float | None]:
    """Average of a log in every dwell of events that waits to settle, as its recording will say.

    Parameters
    ----------
    runs : iterable of RunAssembly
    log : str
        Name in a recording.

    Returns
    -------
    list of float or None
        None where the dwell logs nothing of this name.
    """
    return [average for run in runs for average in _settling(run, log)]


def _settling(run: RunAssembly, log: str) -> list[float | None]:
    found: list[float | None] = []
    for dwell in run.dwells:
        if dwell.record is not None or dwell.ends is None or dwell.begins is None:
            continue
        end_ns = run.dwells.end_of(dwell)
        if end_ns is None or not any(
            isinstance(held.value, Events) and held.pulses_of(dwell, end_ns).any()
            for held in run.held
        ):
            continue
        names = log_names(dwell.begins.structure)
        average = None
        for source in run.logs.sources:
            if log_name(names, source).name == log:
                series = run.logs.series(
                    source, dwell.start_ns, end_ns, carry=log != CHARGE_LOG, unit=""
                )
                if len(series.time_ns):
                    average = series.average(dwell.start_ns, end_ns)
        found.append(average)
    return found
