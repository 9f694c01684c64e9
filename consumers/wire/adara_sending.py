"""Values of the wire as the ADARA packets that a beamline of the SNS would have sent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
import structlog
from numpy.typing import NDArray

from consumers.wire.adara_codec import (
    CHARGE_LOG,
    AdaraMarker,
    AdaraStatus,
    Variable,
)
from consumers.wire.adara_encoding import (
    encode_annotation,
    encode_beamline,
    encode_descriptor,
    encode_double,
    encode_geometry,
    encode_pulse,
    encode_run_status,
)
from consumers.wire.values import Events, LogSample, RunBegins, RunEnds
from simulations.errors import InputError

log = structlog.get_logger()

DEVICE = 1  # that all logs are said to be of
UNMAPPED_BANK = 0xFFFFFFFF  # of sources without a number
_SECOND = 1_000_000_000
_NEARLY = 0.05  # of 0.1 us: what float32 in a file makes of it

Banks = dict[int, tuple[NDArray[np.uint32], NDArray[np.uint32]]]


class AdaraSender:
    """Turns the values of one dwell after the other into packets.

    Events of all banks are joined pulse by pulse: they wait until samples of logs come behind
    them, or the dwell ends. Times of flight are rounded to 0.1 us and charges to 10 pC, all that
    ADARA carries; those of the SNS are such numbers.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}  # of variables, by source
        self._charges: dict[int, int] = {}  # by time of the pulse, in 10 pC
        self._banks: dict[int, Banks] = {}  # by time of the pulse
        self._have_events = False
        self._run, self._start_s = 0, 0
        self._rounded: set[str] = set()

    def begin(
        self, begins: RunBegins, *, geometry: str, logs: Mapping[str, Variable]
    ) -> Iterator[bytes]:
        """Packets at the begin of a dwell.

        Parameters
        ----------
        begins : RunBegins
            The first number in its chunk's name becomes the run's.
        geometry : str
            Instrument definition; empty: none is sent.
        logs : mapping
            Variable of every source of samples.
        """
        number = re.search(r"\d+", begins.chunk)
        time_ns = begins.start_time_ns
        self._run = int(number.group()[-9:]) if number else self._run + 1
        self._start_s = time_ns // _SECOND
        named = [source for source in logs if source not in (CHARGE_LOG, "pause")]
        self._numbers = {source: n for n, source in enumerate(named, 1)}
        yield self._status(time_ns, AdaraStatus.NEW_RUN)
        if begins.instrument_name:
            yield encode_beamline(time_ns, begins.instrument_name)
        if geometry:
            yield encode_geometry(time_ns, geometry)
        yield encode_descriptor(time_ns, DEVICE, [logs[source] for source in named])

    def take(self, value: LogSample | Events | RunEnds) -> Iterator[bytes]:
        """Packets that a value lets go.

        Raises
        ------
        InputError
            If ADARA cannot carry it.
        """
        if isinstance(value, Events):
            self._gather(value)
        elif isinstance(value, RunEnds):
            yield from self._pulses()
            yield self._status(value.stop_time_ns, AdaraStatus.END_RUN)
        else:
            if self._have_events:
                yield from self._pulses()
            yield from self._sample(value)

    def _status(self, time_ns: int, status: AdaraStatus) -> bytes:
        return encode_run_status(time_ns, status, run=self._run, start_s=self._start_s)

    def _sample(self, sample: LogSample) -> Iterator[bytes]:
        time_ns, value = sample.time_ns, float(sample.value[0])
        if sample.source == CHARGE_LOG:
            self._charges[time_ns] = int(self._whole(np.array([value / 10]), CHARGE_LOG)[0])
        elif sample.source == "pause":
            yield encode_annotation(time_ns, AdaraMarker.PAUSE if value else AdaraMarker.RESUME)
        elif sample.source in self._numbers:
            yield encode_double(time_ns, DEVICE, self._numbers[sample.source], value)
        else:
            raise InputError(
                f"log {sample.source!r} is not among those that the start of the dwell names"
            )

    def _gather(self, events: Events) -> None:
        """Keep events by pulse and bank."""
        self._have_events = True
        number = re.search(r"\d+", events.source)
        bank = int(number.group()[-9:]) if number else UNMAPPED_BANK
        tof = self._whole(events.time_of_flight_ns / 100, "times of flight")
        pixel = events.pixel_id.view(np.uint32)
        bounds = [*events.reference_index.tolist(), len(tof)]
        for time_ns, a, b in zip(
            events.reference_time_ns.tolist(), bounds[:-1], bounds[1:], strict=True
        ):
            banks = self._banks.setdefault(time_ns, {})
            mine = (tof[a:b], pixel[a:b])
            if bank in banks:  # two pulses of one time
                before = banks[bank]
                mine = (np.append(before[0], mine[0]), np.append(before[1], mine[1]))
            banks[bank] = mine

    def _pulses(self) -> Iterator[bytes]:
        """All that waits, in the order of time."""
        if self._banks and not self._charges:
            raise InputError(
                f"run {self._run}: neutrons came without a charge of their pulses "
                f"({CHARGE_LOG}); expected one for every pulse, which ADARA sends with it"
            )
        for time_ns in sorted({*self._charges, *self._banks}):
            yield encode_pulse(time_ns, self._charges.get(time_ns, 0), self._banks.get(time_ns, {}))
        self._charges.clear()
        self._banks.clear()
        self._have_events = False

    def _whole(self, values: NDArray[np.float64], what: str) -> NDArray[np.uint32]:
        """Whole numbers; those that do not fit become the largest, which no reader folds."""
        whole = np.rint(values)
        if what not in self._rounded and np.abs(whole - values).max(initial=0.0) > _NEARLY:
            self._rounded.add(what)
            log.warning("adara_rounded", what=what, run=self._run)
        return np.where((whole >= 0) & (whole < 2**32), whole, 2**32 - 1).astype(np.uint32)
