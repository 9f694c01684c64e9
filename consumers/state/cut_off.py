"""What was cut off a recorded dwell and waits for another one, or to be counted as between dwells.

A stop or a start that comes late makes a closed dwell shorter. Its next recording lacks what lies
beyond, so the one before is kept until all of that is settled: a successor finds it there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import structlog
from numpy.typing import NDArray

from consumers.recorded import UnreadableError
from consumers.state.assembled_chunk import AssembledChunk
from consumers.state.held_data import HeldData, held_of_recording
from consumers.state.log_series import LogBook
from consumers.state.manifest_store import ChunkRecord, Cut
from consumers.state.nexus_template import log_names
from consumers.state.offset_ledger import Place
from simulations.arrays import BoolArray

log = structlog.get_logger()
FOR_EVER_NS = 2**63 - 1


class CutOff:
    """Of one run: which recordings hold what was cut off, and what of it is left.

    Parameters
    ----------
    held : HeldData
    logs : LogBook
        Both hold what is left.
    """

    def __init__(self, held: HeldData, logs: LogBook) -> None:
        self._held, self._logs = held, logs
        self._beyond: dict[str, tuple[str, NDArray[np.int64]]] = {}  # recording: job, times

    def give_back(self, known: AssembledChunk, record: ChunkRecord, end_ns: int, now: int) -> None:
        """What a recording has beyond the end of its dwell may belong to another one."""
        everything = Cut(
            recording=str(record.recording), left=((end_ns, FOR_EVER_NS),), logs_from_ns=end_ns
        )
        self._take(known, everything, now)

    def restore(
        self, record: ChunkRecord, outline: Callable[[ChunkRecord], AssembledChunk], now_ns: int
    ) -> None:
        """Hold again what a manifest says was left of a dwell's recordings."""
        for cut in record.cut:
            try:
                known = outline(replace(record, recording=cut.recording))
            except UnreadableError as error:
                log.error("cut_off_data_lost", job=record.job, reason=str(error))
            else:
                self._take(known, cut, now_ns)

    def _take(self, known: AssembledChunk, cut: Cut, now_ns: int) -> None:
        place: Place = (cut.recording, -1)
        bounds = np.array(cut.left, np.int64).reshape(-1, 2)
        times = [np.empty(0, np.int64)]
        for events in known.events:
            at = events.reference_time_ns
            i = np.searchsorted(bounds[:, 0], at, side="right")
            left = (i > 0) & (at <= np.append(bounds[:, 1], 0)[i - 1])
            if left.any():
                times.append(at[left])
                self._held.give_back(held_of_recording(events, left, place, now_ns))
        if cut.logs_from_ns is not None:
            sources = {named.name: source for source, named in log_names(known.structure).items()}
            for name, series in known.logs.items():
                self._logs.give_back(
                    sources.get(name, name), series, cut.logs_from_ns, place, now_ns
                )
        self._beyond[cut.recording] = known.job, np.unique(np.concatenate(times))

    def cuts(self) -> Mapping[str, tuple[Cut, ...]]:
        """By job: recordings of which something is left; the others are forgotten here."""
        if not self._beyond:
            return {}
        left: dict[str, list[NDArray[np.int64]]] = {}
        for held in self._held:
            if held.place[0] in self._beyond:
                left.setdefault(held.place[0], []).append(held.times[held.left])
        oldest = self._logs.oldest_given_back()
        found: dict[str, tuple[Cut, ...]] = {}
        for recording, (job, times) in list(self._beyond.items()):
            if recording not in left and recording not in oldest:
                del self._beyond[recording]
                continue
            there = np.isin(times, np.concatenate([*left.get(recording, []), times[:0]]))
            cut = Cut(
                recording=recording,
                left=_ranges(times, there),
                logs_from_ns=oldest.get(recording),
            )
            found[job] = (*found.get(job, ()), cut)
        return found


def _ranges(times: NDArray[np.int64], chosen: BoolArray) -> tuple[tuple[int, int], ...]:
    """First and last of every stretch of rising times that are chosen without a gap."""
    steps = np.diff(np.concatenate([[0], chosen.astype(np.int8), [0]]))
    first, last = times[np.flatnonzero(steps == 1)], times[np.flatnonzero(steps == -1) - 1]
    return tuple(zip(first.tolist(), last.tolist(), strict=True))
