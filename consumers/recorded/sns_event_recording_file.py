"""SNS event files as they were recorded, to be passed on: nothing dropped, nothing judged."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from consumers.recorded.hdf5_file import (
    UnreadableError,
    child_array,
    child_number,
    child_text,
    open_hdf5,
    text_of,
)
from consumers.recorded.sns_event_layout import (
    EI_LOGS,
    EMISSION_LOG,
    TEMPERATURE_LOGS,
    Bank,
    epoch_ns,
    event_banks,
    event_entry,
    log_groups,
    mean_of_log,
    pulse_times,
    recorded_start_ns,
)
from simulations.instrument import (
    required_logs,
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RecordedLog:
    """A numeric log as the file holds it."""

    name: str
    unit: str
    time_ns: NDArray[np.int64]  # (samples,) since the Unix epoch
    value: NDArray  # (samples,) in the type of the file
    average: float | None  # the file's own, else the mean of the finite samples; None without any


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RecordedBank:
    """Events of one bank, read in parts while its file is open."""

    name: str  # of the group, e.g. "bank12_events"
    events: int
    pulse_time_ns: NDArray[np.int64]  # (pulses,) since the Unix epoch
    first_event: NDArray[np.int64]  # (pulses,) never falling
    _bank: Bank = field(repr=False)

    def load(self, start: int, stop: int) -> tuple[NDArray, NDArray]:
        """Identifiers as recorded and times of flight in microseconds, (stop - start,) each."""
        return self._bank.load(start, stop)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EventRecording:
    """An event file as it was recorded: nothing dropped, nothing averaged, nothing judged."""

    path: Path
    run_number: str
    title: str
    instrument_name: str  # empty when the file has none
    idf_xml: str  # empty when the file has none
    start_time_ns: int | None  # since the Unix epoch
    duration_s: float | None
    proton_charge: tuple[float, str] | None  # of the whole dwell and its unit
    logs: Mapping[str, RecordedLog]  # those asked for that are there
    banks: tuple[RecordedBank, ...]


@contextmanager
def open_event_recording(path: Path | str, *, psi_log: str = "s1") -> Generator[EventRecording]:
    """Open an event file for passing on what it holds.

    Parameters
    ----------
    path : Path
        Event file.
    psi_log : str
        Log that holds psi. With it come the logs that the geometry needs, charge, pauses, emission
        time and whatever may tell the incident energy and the temperature.

    Yields
    ------
    EventRecording
        Its banks can be loaded until the context ends.

    Raises
    ------
    UnreadableError
        If the file cannot be read, is cut or contradicts itself.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        entry = event_entry(path, file)
        logs = log_groups(entry)
        xml = child_text(entry, "instrument/instrument_xml/data")
        try:
            motors = required_logs(xml) if xml else ("s2",)
        except ValueError as error:
            raise UnreadableError(f"{path}: geometry: {error}") from error
        names = [psi_log, *motors, *EI_LOGS, *TEMPERATURE_LOGS, EMISSION_LOG]
        names += ["proton_charge", "pause"]
        charge, seconds = child_number(entry, "proton_charge"), child_number(entry, "duration")
        node = entry.get("proton_charge")
        unit = text_of(node.attrs.get("units")) if isinstance(node, h5py.Dataset) else ""
        banks = []
        for bank in event_banks(path, entry):
            index, time_ns = pulse_times(path, bank)
            banks.append(
                RecordedBank(
                    name=bank.name.rpartition("/")[2],
                    events=bank.events,
                    pulse_time_ns=time_ns,
                    first_event=index,
                    _bank=bank,
                )
            )
        yield EventRecording(
            path=path,
            run_number=child_text(entry, "run_number")
            or child_text(entry, "entry_identifier")
            or path.name.split(".")[0],
            title=child_text(entry, "title"),
            instrument_name=child_text(entry, "instrument/name"),
            idf_xml=xml,
            start_time_ns=recorded_start_ns(entry),
            duration_s=seconds if np.isfinite(seconds) else None,
            proton_charge=(charge, unit or "picoCoulombs") if np.isfinite(charge) else None,
            logs={
                name: log
                for name in dict.fromkeys(names)
                if (log := _recorded_log(logs, name)) is not None
            },
            banks=tuple(banks),
        )


def _recorded_log(logs: Mapping[str, h5py.Group], name: str) -> RecordedLog | None:
    """One log; a value without times of its own is taken as known from the beginning of time."""
    group = logs.get(name) if name else None
    if not isinstance(group, h5py.Group):
        return None
    value, time = child_array(group, "value"), group.get("time")
    if value is None or value.dtype.kind not in "fiu":
        return None
    value = value.ravel()
    if isinstance(time, h5py.Dataset) and time.size == value.size:
        seconds = np.asarray(time[()], dtype=np.float64).ravel()
        time_ns = epoch_ns(time) + np.round(seconds * 1e9).astype(np.int64)
    else:
        value, time_ns = value[:0], np.empty(0, np.int64)
    node = group.get("value")
    return RecordedLog(
        name=name,
        unit=text_of(node.attrs.get("units")) if isinstance(node, h5py.Dataset) else "",
        time_ns=time_ns,
        value=value,
        average=mean_of_log(logs, name),
    )
