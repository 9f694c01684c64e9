"""Recorded files as the stream that a facility would have sent while they were recorded.

Per reduced file (NXSPE, SPE): `pl72`, `f144` of psi, Ei and temperature, one `da00`, `6s4t`. Raw
counts and charge that our own NXSPE files hold do not travel: what is reduced on the wire is.

Per event file: `pl72`, then `f144` samples and `ev44` messages in the order of their times, then
`6s4t`. Every event of a pulse is sent, doubted ones with their error bit; events that the file
gives to no pulse have no time and stay behind. Times of flight travel as whole nanoseconds: those
of the SNS (float32 microseconds of a 0.1 us clock) and of our own files come back to the last bit.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from consumers.recorded.hdf5_file import UnreadableError
from consumers.recorded.nxspe_file import ReducedRun, read_nxspe
from consumers.recorded.sns_event_file import PSI_MAY_MOVE_DEG
from consumers.recorded.sns_event_layout import format_time_ns
from consumers.recorded.sns_event_recording_file import (
    EventRecording,
    RecordedBank,
    RecordedLog,
    open_event_recording,
)
from consumers.recorded.source import kind_of_file, recorded_source
from consumers.recorded.spe_file import read_spe
from consumers.wire import (
    EARLIEST_NS,
    MAX_MESSAGE_BYTES,
    Events,
    LogSample,
    ReducedHistogram,
    RunBegins,
    RunEnds,
    encode_events,
    encode_log,
    encode_reduced,
    encode_run_begins,
    encode_run_ends,
)
from simulations.errors import InputError

logger = structlog.get_logger()

SERVICE = "beamsteer-replay"
PULSES_PER_MESSAGE = 60  # one second of the SNS
AS_RECORDED = ("proton_charge", "pause")  # sample by sample; of other logs the mean counts
_JOBS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:beamsteer:recorded-stream")
_MS = 1_000_000
_SECOND = 1_000_000_000
_FIRST_NS = EARLIEST_NS + 86_400 * _SECOND
_INT32 = np.iinfo(np.int32)
_LOADED = 1 << 18  # events of a bank in memory at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Topics:
    """Names of the topics of an instrument."""

    detector: str  # ev44
    run_info: str  # pl72, 6s4t
    motion: str  # f144 of what turns and moves
    sample_environment: str  # every other f144
    reduced: str  # da00

    @classmethod
    def of(cls, prefix: str) -> Topics:
        """Usual names for the prefix of an instrument, e.g. ``hyspec``."""
        return cls(
            detector=f"{prefix}_detector",
            run_info=f"{prefix}_runInfo",
            motion=f"{prefix}_motion",
            sample_environment=f"{prefix}_sampleEnv",
            reduced=f"{prefix}_reduced",
        )


def stream_of_files(
    paths: Sequence[Path | str],
    *,
    run: str,
    prefix: str,
    psi_log: str = "s1",
    psi_deg: float | None = None,
    ei_meV: float | None = None,
    pulses_per_message: int = PULSES_PER_MESSAGE,
    begin_ns: int | None = None,
) -> Iterator[tuple[str, bytes, bytes]]:
    """Messages of recorded files as (topic, key, value).

    Parameters
    ----------
    paths, run, prefix, psi_log, psi_deg, ei_meV, pulses_per_message, begin_ns
        As for ``timed_stream_of_files``.

    Yields
    ------
    tuple of str, bytes, bytes
    """
    for _, topic, key, value in timed_stream_of_files(
        paths,
        run=run,
        prefix=prefix,
        psi_log=psi_log,
        psi_deg=psi_deg,
        ei_meV=ei_meV,
        pulses_per_message=pulses_per_message,
        begin_ns=begin_ns,
    ):
        yield topic, key, value


def timed_stream_of_files(
    paths: Sequence[Path | str],
    *,
    run: str,
    prefix: str,
    psi_log: str = "s1",
    psi_deg: float | None = None,
    ei_meV: float | None = None,
    pulses_per_message: int = PULSES_PER_MESSAGE,
    begin_ns: int | None = None,
) -> Iterator[tuple[int, str, bytes, bytes]]:
    """Messages of recorded files with the time at which each could have been sent.

    Equal files and arguments give equal bytes.

    Parameters
    ----------
    paths : sequence of Path
        SNS event files or reduced files, sent in the order in which a replay reads them.
    run : str
        Name of the run; the key of every message.
    prefix : str
        Of the instrument's topics.
    psi_log : str
        Log that holds psi.
    psi_deg : float, optional
        Operator's psi for files whose psi is missing or not a number.
    ei_meV : float, optional
        Incident energy of reduced files that record none (SPE always).
    pulses_per_message : int
        Pulses in one `ev44`.
    begin_ns : int, optional
        When the first file shall begin, ns since the Unix epoch, rounded down to a millisecond;
        the others keep their distance. Absent: as recorded. A file that would begin before the
        end of the one before it is moved behind it: time decides which dwell a message belongs to.
        So is one that would begin before the year 2000, to 2000: no reader believes such times.

    Yields
    ------
    tuple of int, str, bytes, bytes
        Time in ns since the Unix epoch, topic, key, value; times never fall.

    Raises
    ------
    UnreadableError
        If a file cannot be read; nothing of it was sent if its structure is damaged.
    ValueError
        If ``run`` is empty or ``pulses_per_message`` is not positive.
    """
    if not run:
        raise InputError("run is empty; expected a name, which becomes the key of every message")
    if pulses_per_message < 1:
        raise InputError(f"pulses_per_message is {pulses_per_message}; expected at least 1")
    topics = Topics.of(prefix)
    key = run.encode()
    shift_ns: int | None = None if begin_ns is not None else 0
    stopped_ns: int | None = None
    for path in recorded_source(list(paths), run=run, psi_log=psi_log).files:
        with ExitStack() as stack:
            dwell: _Recorded | _Reduced
            kind = kind_of_file(path)
            if kind in ("sqw", "isis-events"):
                raise UnreadableError(
                    f"{path}: a file of the kind {kind}, which is not sent; expected SNS event "
                    "files or reduced ones. Replay it in process"
                )
            if kind == "sns-events":
                recording = stack.enter_context(open_event_recording(path, psi_log=psi_log))
                dwell = _recorded(recording, psi_log, psi_deg, topics, pulses_per_message)
            else:
                dwell = _reduced(path, psi_log, psi_deg, ei_meV, topics)
            if shift_ns is None:
                shift_ns = (begin_ns or 0) // _MS * _MS - dwell.start_ns
            if stopped_ns is not None and dwell.start_ns + shift_ns < stopped_ns:
                shift_ns = stopped_ns - dwell.start_ns
            if dwell.start_ns + shift_ns < _FIRST_NS:
                shift_ns = _FIRST_NS - dwell.start_ns
            begin, end = dwell.start_ns + shift_ns, dwell.stop_ns + shift_ns
            job = str(uuid.uuid5(_JOBS, f"{run}/{dwell.name}"))
            begins = RunBegins(
                job=job,
                chunk=dwell.name,
                source=SERVICE,
                start_time_ns=begin,
                instrument_name=dwell.instrument_name,
                structure=dwell.structure(shift_ns),
            )
            yield begin, topics.run_info, key, encode_run_begins(begins, filename=path.name)
            for time_ns, topic, value in dwell.messages(shift_ns):
                if len(value) > MAX_MESSAGE_BYTES:
                    raise UnreadableError(
                        f"{path}: a message for {topic} has {len(value)} bytes; expected at most "
                        f"{MAX_MESSAGE_BYTES}. Send fewer pulses per message, or merge pixels"
                    )
                yield time_ns, topic, key, value
            ends = RunEnds(job=job, source=SERVICE, stop_time_ns=end)
            yield end, topics.run_info, key, encode_run_ends(ends, run_name=dwell.name)
            stopped_ns = end


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Log:
    name: str
    unit: str
    topic_is_motion: bool
    time_ns: NDArray[np.int64] | None  # None: known when the dwell begins
    value: NDArray


def _samples(recording: EventRecording, psi_log: str, psi_deg: float | None) -> list[_Log]:
    """What is sent of every log: all samples, or the mean that readers would take."""
    found = []
    logs = dict(recording.logs)
    psi = logs.get(psi_log)
    if psi_deg is not None and (psi is None or psi.average is None):
        found.append(_constant(psi_log, "deg", psi_deg))
        logs.pop(psi_log, None)
    for log in logs.values():
        moved = log.name == psi_log and _span(log) > PSI_MAY_MOVE_DEG
        if log.name in AS_RECORDED or moved or log.average is None:
            order = np.argsort(log.time_ns, kind="stable")
            found.append(
                _Log(
                    name=log.name,
                    unit=log.unit,
                    topic_is_motion=_is_motion(log.unit),
                    time_ns=log.time_ns[order],
                    value=log.value[order],
                )
            )
        else:
            found.append(_constant(log.name, log.unit, log.average))
    return found


def _constant(name: str, unit: str, value: float) -> _Log:
    return _Log(
        name=name,
        unit=unit,
        topic_is_motion=_is_motion(unit),
        time_ns=None,
        value=np.array([value], np.float64),
    )


def _span(log: RecordedLog) -> float:
    finite = log.value[np.isfinite(log.value)]
    return float(finite.max() - finite.min()) if len(finite) else 0.0


def _is_motion(unit: str) -> bool:
    return unit.lower() in {"deg", "degree", "degrees", "rad", "mm", "cm", "m", "metre"}


def _bounds(recording: EventRecording, logs: Sequence[_Log]) -> tuple[int, int]:
    """Whole milliseconds, all that `pl72` and `6s4t` can say, round everything in the file."""
    pulses = [bank.pulse_time_ns for bank in recording.banks]
    pulses += [
        log.time_ns for log in logs if log.name == "proton_charge" and log.time_ns is not None
    ]
    pulses = [times for times in pulses if len(times)]
    firsts = [int(times.min()) for times in pulses]
    lasts = [int(times.max()) for times in pulses]
    lasts += [
        int(log.time_ns.max()) for log in logs if log.time_ns is not None and len(log.time_ns)
    ]
    if recording.start_time_ns is not None:
        firsts.append(recording.start_time_ns)
    if not firsts:
        raise UnreadableError(
            f"{recording.path}: neither start_time nor pulse times; a stream needs times. "
            "Leave the file out"
        )
    start = min(firsts) // _MS * _MS
    duration = recording.duration_s or 0.0
    said = (recording.start_time_ns or start) + round(duration * 1e9)
    stop = max([said, start, *(last + 1 for last in lasts)])
    return start, -(-stop // _MS) * _MS


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Recorded:
    """A dwell in an event file; its messages between start and stop."""

    recording: EventRecording
    logs: Sequence[_Log]
    topics: Topics
    start_ns: int  # as recorded; what is sent is later by the shift
    stop_ns: int
    pulses_per_message: int

    @property
    def name(self) -> str:
        return self.recording.run_number

    @property
    def instrument_name(self) -> str:
        return self.recording.instrument_name

    def messages(self, shift: int) -> Iterator[tuple[int, str, bytes]]:
        begin = self.start_ns + shift
        series: list[tuple[_Log, NDArray[np.int64]]] = []
        places = []  # next sample of every series
        for log in self.logs:
            if log.time_ns is None:
                yield begin, self._topic(log), _sample(log.name, log.value[0], begin)
                continue
            series.append((log, log.time_ns))
            # what was set before the dwell still holds when it begins
            places.append(max(int(np.searchsorted(log.time_ns, self.start_ns, "right")) - 1, 0))
        banks = [_Sender(bank) for bank in self.recording.banks]
        for low, high in _windows(self.recording.banks, self.logs, self.pulses_per_message):
            due: list[tuple[int, str, bytes]] = []
            for n, (log, times) in enumerate(series):
                last = len(times) if high is None else int(np.searchsorted(times, high))
                for i in range(places[n], last):
                    time_ns = max(int(times[i]) + shift, begin)
                    message = _sample(log.name, log.value[i], time_ns)
                    due.append((max(time_ns, low + shift), self._topic(log), message))
                places[n] = max(places[n], last)
            due.sort(key=itemgetter(0))
            yield from due
            for bank in banks:
                events = bank.until(high, shift)
                if events is not None:
                    sent = (self.stop_ns if high is None else high) + shift
                    yield sent, self.topics.detector, encode_events(events)

    def _topic(self, log: _Log) -> str:
        return self.topics.motion if log.topic_is_motion else self.topics.sample_environment

    def structure(self, shift: int) -> dict[str, Any]:
        """Template of the file in the layout of the SNS."""
        recording = self.recording
        instrument: list[dict[str, Any]] = [_dataset("name", recording.instrument_name)]
        if recording.idf_xml:
            note = [_dataset("data", recording.idf_xml), _dataset("type", "text/xml")]
            instrument.append(_group("instrument_xml", "NXnote", note))
        # begin and length to the nanosecond, which the messages round to milliseconds
        start_ns = (recording.start_time_ns or self.start_ns) + shift
        entry = _entry(recording.run_number, recording.title, start_ns)
        if recording.duration_s is not None:
            entry.append(_dataset("duration", recording.duration_s, "second"))
        if recording.proton_charge is not None:
            entry.append(_dataset("proton_charge", *recording.proton_charge))
        entry.append(_group("instrument", "NXinstrument", instrument))
        logs = [_log_group(log.name, self._topic(log), log.unit) for log in self.logs]
        entry.append(_group("DASlogs", "NXcollection", logs))
        for bank in recording.banks:
            config = {"source": bank.name, "topic": self.topics.detector}
            entry.append(_group(bank.name, "NXevent_data", [{"module": "ev44", "config": config}]))
        return {"children": [_group("entry", "NXentry", entry)]}


def _recorded(
    recording: EventRecording,
    psi_log: str,
    psi_deg: float | None,
    topics: Topics,
    pulses_per_message: int,
) -> _Recorded:
    logs = _samples(recording, psi_log, psi_deg)
    start_ns, stop_ns = _bounds(recording, logs)
    for bank in recording.banks:
        before = int(bank.first_event[0]) if len(bank.first_event) else bank.events
        if before:
            logger.warning(
                "events_without_pulse", file=str(recording.path), bank=bank.name, events=before
            )
    return _Recorded(
        recording=recording,
        logs=logs,
        topics=topics,
        start_ns=start_ns,
        stop_ns=stop_ns,
        pulses_per_message=pulses_per_message,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Reduced:
    """A dwell in a reduced file; its messages between start and stop."""

    run: ReducedRun
    name: str
    psi_log: str
    topics: Topics

    @property
    def instrument_name(self) -> str:
        return self.run.instrument.name

    @property
    def start_ns(self) -> int:
        return self.run.start_time_ns // _MS * _MS

    @property
    def stop_ns(self) -> int:
        return self.start_ns + max(-(-round(self.run.minutes * 60e9) // _MS) * _MS, _SECOND)

    def _logs(self) -> list[tuple[str, str, str, float]]:
        """Name, topic, unit and value of what a reduced file knows."""
        run, environment = self.run, self.topics.sample_environment
        logs = [
            (self.psi_log, self.topics.motion, "deg", run.psi_deg),
            ("EnergyRequest", environment, "meV", run.ei_meV),
        ]
        if run.temperature_K is not None:
            logs.append(("sampletemp", environment, "K", run.temperature_K))
        return logs

    def messages(self, shift: int) -> Iterator[tuple[int, str, bytes]]:
        begin, end = self.start_ns + shift, self.stop_ns + shift
        for name, topic, _, value in self._logs():
            yield begin, topic, _sample(name, value, begin)
        histogram = ReducedHistogram(
            source="reduced",
            sequence=0,
            time_ns=end - 1,
            energy_edges_meV=self.run.energy_edges_meV,
            intensity=_narrow(self.run.intensity),
            error=_narrow(self.run.error),
        )
        yield end, self.topics.reduced, encode_reduced(histogram)

    def structure(self, shift: int) -> dict[str, Any]:
        """Template with what a reduced file knows of its dwell."""
        entry = _entry(self.name, self.run.title, self.run.start_time_ns + shift)
        entry.append(_group("instrument", "NXinstrument", [_dataset("name", self.instrument_name)]))
        logs = [_log_group(name, topic, unit) for name, topic, unit, _ in self._logs()]
        entry.append(_group("DASlogs", "NXcollection", logs))
        config = {"source": "reduced", "topic": self.topics.reduced}
        entry.append(_group("data", "NXdata", [{"module": "da00", "config": config}]))
        return {"children": [_group("entry", "NXentry", entry)]}


def _reduced(
    path: Path, psi_log: str, psi_deg: float | None, ei_meV: float | None, topics: Topics
) -> _Reduced:
    read = read_nxspe if kind_of_file(path) == "nxspe" else read_spe
    try:
        run = read(path, ei_meV=ei_meV)
    except UnreadableError:
        if psi_deg is None:
            raise
        run = read(path, psi_deg=psi_deg, ei_meV=ei_meV)
    return _Reduced(run=run, name=run.run_number or path.stem, psi_log=psi_log, topics=topics)


def _narrow(values: NDArray[np.float64]) -> NDArray[Any]:
    """Float32 where that loses nothing: such files hold no more, and messages have a limit."""
    narrow = values.astype(np.float32)
    return narrow if np.array_equal(narrow, values, equal_nan=True) else values


def _sample(name: str, value: float, time_ns: int) -> bytes:
    return encode_log(LogSample(source=name, time_ns=time_ns, value=np.array([value], np.float64)))


def _entry(name: str, title: str, start_ns: int) -> list[dict[str, Any]]:
    return [
        _dataset("definition", "NXsnsevent"),
        _dataset("run_number", name),
        _dataset("entry_identifier", name),
        _dataset("title", title),
        _dataset("start_time", format_time_ns(start_ns)),
    ]


def _log_group(name: str, topic: str, unit: str) -> dict[str, Any]:
    config = {"source": name, "topic": topic, "dtype": "double"}
    if unit:
        config["units"] = unit
    return _group(name, "NXlog", [{"module": "f144", "config": config}])


def _group(name: str, nx_class: str, children: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "type": "group",
        "name": name,
        "attributes": [{"name": "NX_class", "dtype": "string", "values": nx_class}],
        "children": list(children),
    }


def _dataset(name: str, value: str | float, unit: str = "") -> dict[str, Any]:
    dtype = "string" if isinstance(value, str) else "double"
    node: dict[str, Any] = {
        "module": "dataset",
        "config": {"name": name, "dtype": dtype, "values": value},
    }
    if unit:
        node["attributes"] = [{"name": "units", "dtype": "string", "values": unit}]
    return node


def _windows(
    banks: Sequence[RecordedBank], logs: Sequence[_Log], pulses_per_message: int
) -> list[tuple[int, int | None]]:
    """Times [low, high) that hold so many pulses each; the last has no end."""
    times = [bank.pulse_time_ns for bank in banks]
    times += [
        log.time_ns for log in logs if log.name == "proton_charge" and log.time_ns is not None
    ]
    pulses = np.unique(np.concatenate(times)) if times else np.empty(0, np.int64)
    lows = [int(t) for t in pulses[::pulses_per_message]] or [0]
    return list(zip(lows, [*lows[1:], None], strict=True))


class _Sender:
    """Cuts one bank into `ev44` messages, from its first pulse to its last."""

    def __init__(self, bank: RecordedBank) -> None:
        self.bank = bank
        self.pulse = 0  # next
        self.sequence = 0
        # a clock that jumped back must not make a pulse overtake the one before it
        self.due_ns = np.maximum.accumulate(bank.pulse_time_ns)
        self.held: tuple[int, NDArray, NDArray] = (0, np.empty(0), np.empty(0))

    def until(self, high_ns: int | None, shift_ns: int) -> Events | None:
        """Pulses not yet sent that are due before a time; None without events."""
        bank, first = self.bank, self.pulse
        last = len(self.due_ns)
        if high_ns is not None:
            last = int(np.searchsorted(self.due_ns, high_ns))
        self.pulse = last = max(first, last)
        if first == last:
            return None
        starts = bank.first_event[first:last]
        stop = bank.events if last == len(self.due_ns) else int(bank.first_event[last])
        full = np.diff(starts, append=stop) > 0
        if not full.any():
            return None
        ids, tof_us = self._events(int(starts[0]), stop)
        self.sequence += 1
        return Events(
            source=bank.name,
            sequence=self.sequence - 1,
            reference_time_ns=bank.pulse_time_ns[first:last][full] + shift_ns,
            reference_index=(starts - starts[0])[full],
            time_of_flight_ns=_whole_ns(bank, tof_us),
            pixel_id=ids.astype(np.uint32).view(np.int32),
        )

    def _events(self, start: int, stop: int) -> tuple[NDArray, NDArray]:
        origin, ids, tof_us = self.held
        if not (origin <= start and stop <= origin + len(ids)):
            end = min(max(stop, start + _LOADED), self.bank.events)
            ids, tof_us = self.bank.load(start, end)
            origin = start
            self.held = (origin, ids, tof_us)
        return ids[start - origin : stop - origin], tof_us[start - origin : stop - origin]


def _whole_ns(bank: RecordedBank, tof_us: NDArray) -> NDArray[np.int32]:
    """Nearest nanosecond; times that are no numbers become -1 ns, which no reader folds."""
    ns = np.rint(tof_us.astype(np.float64) * 1000)
    ns = np.where(np.isfinite(ns), ns, -1.0)
    if len(ns) and (ns.max() > _INT32.max or ns.min() < _INT32.min):
        raise UnreadableError(
            f"{bank.name} holds a time of flight of {np.abs(ns).max() / 1e9:.3g} s; expected at "
            "most 2.1 s, all that ev44 carries. Leave the file out"
        )
    return ns.astype(np.int32)
