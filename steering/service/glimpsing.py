"""Glimpses of open dwells: what has come is folded every few seconds, for people to look at.

Nothing else reads them. What is late, vetoed, paused or cut off at the end is known when a dwell
closes; until then every neutron that came is counted, at the incident energy and emission time
that are known by then.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import structlog

from consumers.fold import Can, ChunkFold, ChunkStart, EventBlock
from consumers.recorded import (
    CHARGE_UNITS_COULOMB,
    EI_LOGS,
    EMISSION_LOG,
    KEEP,
    PSI_MAY_MOVE_DEG,
    TEMPERATURE_LOGS,
    default_t0_us,
    reduce_events,
)
from consumers.state import SECOND, Assembler, Identity, OpenDwell
from consumers.wire import Events
from simulations.instrument import Instrument
from steering.experiment import Measurement
from steering.run import OpenDwellFile, OpenDwellView, open_dwell_path

log = structlog.get_logger()

EVERY_S = 5.0
MOST_EVENTS = 2_000_000  # folded in one look: the stream must not wait
PSI_SAME_DEG = 0.05  # an orientation that moves farther is folded anew
RECENT_S = 20.0  # of stream time: what rates are of
CHARGE_LOG = "proton_charge"
PICOCOULOMB = 1e-12


class Glimpses:
    """Folds what has come of the open dwells of a partition.

    Parameters
    ----------
    measurement : Measurement
    state : Path
        State folder.
    partition : int
    psi_deg : float, optional
        Operator's psi for dwells that log none.
    clock_ns : callable
        Unix time.
    """

    def __init__(
        self,
        measurement: Measurement,
        *,
        state: Path,
        partition: int,
        psi_deg: float | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._measurement, self._psi_deg, self._clock_ns = measurement, psi_deg, clock_ns
        self._state, self._partition = state, partition
        source = measurement.experiment.source
        self._names = frozenset(
            {source.psi_log, CHARGE_LOG, EMISSION_LOG, *EI_LOGS, *TEMPERATURE_LOGS}
        )
        self._dwells: dict[str, _Glimpsed] = {}  # by run
        self._looked_ns: int | None = None

    def look(self, assembler: Assembler, instrument: Instrument, now_ns: int) -> None:
        """Fold what came since the last look, unless that was a moment ago.

        Parameters
        ----------
        assembler : Assembler
        instrument : Instrument
            Pixels that are expected.
        now_ns : int
            Of a clock that never steps.
        """
        if self._looked_ns is not None and now_ns - self._looked_ns < EVERY_S * SECOND:
            return
        self._looked_ns = now_ns
        known: set[Identity] = set().union(*(one.taken for one in self._dwells.values()))
        found = assembler.open_dwells(logs=self._names, known=known)
        anew = {one.run for one in found if self._is_anew(one)}
        if anew & self._dwells.keys():  # what was folded is wanted again
            found = assembler.open_dwells(logs=self._names)
            self._dwells = {run: one for run, one in self._dwells.items() if run not in anew}
        self._look_at({one.run: one for one in found}, instrument)

    def _look_at(self, found: dict[str, OpenDwell], instrument: Instrument) -> None:
        for run in [run for run in self._dwells if run not in found]:
            self._dwells.pop(run).file.remove()
        for run, dwell in found.items():
            try:
                self._look(dwell, instrument)
            except (ValueError, MemoryError) as error:  # the dwell says so when it closes
                log.warning("open_dwell_not_folded", run=run, reason=str(error))
                self._dwells.pop(run, None)

    def close(self) -> None:
        """Somebody else owns the partition now, or nobody."""
        for glimpsed in self._dwells.values():
            glimpsed.file.remove()
        self._dwells.clear()

    def _is_anew(self, dwell: OpenDwell) -> bool:
        """Whether it is another dwell than before, or at another orientation."""
        glimpsed = self._dwells.get(dwell.run)
        return (
            glimpsed is None
            or glimpsed.job != dwell.job
            or glimpsed.elsewhere(self._psi_of(dwell)[0])
        )

    def _look(self, dwell: OpenDwell, instrument: Instrument) -> None:
        psi, note = self._psi_of(dwell)
        glimpsed = self._dwells.get(dwell.run)
        if glimpsed is None:
            file = OpenDwellFile(open_dwell_path(self._state, self._partition, dwell.run))
            glimpsed = self._dwells[dwell.run] = _Glimpsed(job=dwell.job, psi_deg=psi, file=file)
            if psi is not None:
                glimpsed.fold = self._fold_of(dwell, instrument, psi)
        waiting = glimpsed.take(dwell, instrument, self._t0_us(dwell, instrument))
        if glimpsed.fold is not None and glimpsed.fold.fault is not None:
            note = glimpsed.fold.fault
        temperature = next((t for n in TEMPERATURE_LOGS if (t := _newest(dwell, n))), None)
        charge = _charge(dwell)
        rate, current = glimpsed.recent(dwell.newest_ns, charge)
        glimpsed.file.write(
            OpenDwellView(
                job=dwell.job,
                chunk=dwell.chunk,
                psi_deg=psi,
                start_ns=dwell.start_ns,
                newest_ns=dwell.newest_ns,
                looked_ns=self._clock_ns(),
                read=glimpsed.read,
                folded=0 if glimpsed.fold is None else glimpsed.fold.account.folded,
                waiting=waiting,
                rate_per_s=rate,
                charge_coulomb=charge,
                beam_current_microampere=current,
                temperature_K=temperature,
                note=note,
                counts=np.zeros(self._measurement.geometry.shape, np.uint32)
                if glimpsed.fold is None
                else glimpsed.fold.counts.astype(np.uint32),
            )
        )

    def _psi_of(self, dwell: OpenDwell) -> tuple[float | None, str | None]:
        """Orientation so far, and why nothing can be folded."""
        name = self._measurement.experiment.source.psi_log
        if self._psi_deg is not None:
            return self._psi_deg, None
        series = dwell.logs.get(name)
        if series is None or not np.isfinite(series.value).all():
            return None, f"log {name!r} of psi has no value yet; expected degrees"
        if float(np.ptp(series.value)) > PSI_MAY_MOVE_DEG:
            return None, f"psi (log {name!r}) moves: {series.value[-1]:.2f} degrees now"
        return series.average(dwell.start_ns, dwell.newest_ns + 1), None

    def _ei_meV(self, dwell: OpenDwell) -> float:
        given = self._measurement.experiment.source.ei_meV
        logged = next((e for n in EI_LOGS if (e := _mean(dwell, n)) is not None), None)
        return given or logged or self._measurement.ei_meV

    def _t0_us(self, dwell: OpenDwell, instrument: Instrument) -> float:
        given = self._measurement.experiment.source.t0_us
        logged = _mean(dwell, EMISSION_LOG) if given is None else given
        usual = default_t0_us(instrument.name, self._ei_meV(dwell)) if logged is None else logged
        return 0.0 if usual is None else float(usual)

    def _fold_of(self, dwell: OpenDwell, instrument: Instrument, psi_deg: float) -> ChunkFold:
        start = ChunkStart(
            chunk=dwell.chunk,
            instrument_name=instrument.name,
            ei_meV=self._ei_meV(dwell),
            psi_deg=psi_deg,
            start_time_ns=dwell.start_ns,
        )
        geometry = self._measurement.geometry
        return ChunkFold(start, geometry=geometry, instrument=instrument, can=Can())


class _Glimpsed:
    """One open dwell, as far as it was folded."""

    def __init__(self, *, job: str, psi_deg: float | None, file: OpenDwellFile) -> None:
        self.job, self.psi_deg, self.file = job, psi_deg, file
        self.fold: ChunkFold | None = None
        self.taken: set[Identity] = set()
        self.read = 0
        self._marks: deque[tuple[int, int, float | None]] = deque()  # time, neutrons, charge

    def elsewhere(self, psi_deg: float | None) -> bool:
        """Whether what was folded was folded at another orientation."""
        if psi_deg is None or self.psi_deg is None:
            return psi_deg is not self.psi_deg
        return abs(psi_deg - self.psi_deg) > PSI_SAME_DEG

    def take(self, dwell: OpenDwell, instrument: Instrument, t0_us: float) -> int:
        """Fold what is new, and return how many neutrons wait for the next look."""
        if self.fold is None:  # it may be folded yet: counted, and asked for again
            self.read = sum(len(events.time_of_flight_ns) for _, events in dwell.events)
            return 0
        fresh = [(own, events) for own, events in dwell.events if own not in self.taken]
        now: list[Events] = []
        count = waiting = 0
        for own, events in fresh:
            n = len(events.time_of_flight_ns)
            if count and count + n > MOST_EVENTS:
                waiting += n
                continue
            count += n
            now.append(events)
            self.taken.add(own)
        self.read += count
        if not now:
            return waiting
        slice_ = reduce_events(
            np.concatenate([one.pixel_id for one in now]),
            np.concatenate([one.time_of_flight_ns for one in now]) * 1e-3,
            first=0,
            pulse_index=np.zeros(1, np.int64),
            pulse_state=np.full(1, KEEP, np.int8),
            instrument=instrument,
            ei_meV=self.fold.start.ei_meV,
            t0_us=t0_us,
        )
        self.fold.take(
            EventBlock(
                chunk=dwell.chunk,
                pixel=slice_.pixel,
                energy_transfer_meV=slice_.energy_transfer_meV,
            )
        )
        return waiting

    def recent(self, newest_ns: int, charge: float | None) -> tuple[float | None, float | None]:
        """Neutrons per second and beam current in microampere of the last seconds."""
        self._marks.append((newest_ns, self.read, charge))
        while len(self._marks) > 2 and newest_ns - self._marks[1][0] >= RECENT_S * SECOND:
            self._marks.popleft()
        then_ns, read, before = self._marks[0]
        seconds = (newest_ns - then_ns) / SECOND
        if not seconds > 0:
            return None, None
        current = None
        if charge is not None and before is not None:
            current = 1e6 * (charge - before) / seconds
        return (self.read - read) / seconds, current


def _mean(dwell: OpenDwell, name: str) -> float | None:
    series = dwell.logs.get(name)
    if series is None:
        return None
    mean = series.average(dwell.start_ns, dwell.newest_ns + 1)
    return mean if math.isfinite(mean) else None


def _newest(dwell: OpenDwell, name: str) -> float | None:
    series = dwell.logs.get(name)
    value = float("nan") if series is None else float(series.value[-1])
    return value if math.isfinite(value) else None


def _charge(dwell: OpenDwell) -> float | None:
    """Proton charge so far, coulomb; samples are of one pulse each."""
    series = dwell.logs.get(CHARGE_LOG)
    if series is None:
        return None
    unit = CHARGE_UNITS_COULOMB.get(series.unit.lower(), PICOCOULOMB)
    inside = series.value[series.time_ns >= dwell.start_ns]
    return unit * float(inside[inside > 0].sum())
