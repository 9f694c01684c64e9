"""Writing SNS event files of virtual experiments and tests, in the layout of recorded ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from consumers.recorded.event_reduction import (
    ERROR_BIT,
)
from consumers.recorded.sns_event_layout import (
    EMISSION_LOG,
    EPOCH_1990_S,
    format_time_ns,
)
from simulations.errors import InputError


def write_sns_events(
    path: Path | str,
    *,
    idf_xml: str,
    instrument_name: str,
    detector_id: NDArray[np.integer],
    tof_us: NDArray[np.floating],
    ei_meV: float,
    psi_deg: float,
    proton_charge: float,
    minutes: float,
    run_number: str,
    title: str = "",
    psi_log: str = "s1",
    temperature_K: float | None = None,
    t0_us: float | None = 0.0,
    start_time_ns: int = 0,
    pulse_hz: float = 60.0,
    ids_per_bank: int = 1024,
    logs: Mapping[str, tuple[float, str]] | None = None,
) -> None:
    """Write events in the layout of the SNS, geometry and logs embedded.

    The float32 times of the layout are good to 2 ns below 33 ms, 1e-4 meV at the elastic line of
    the reference run.

    Parameters
    ----------
    path : Path
        File to write; replaced if it exists.
    idf_xml : str
        Geometry, e.g. of ``instrument_idf``.
    instrument_name : str
        Name of the instrument.
    detector_id : (events,) integer
        Identifier of the pixel that counted.
    tof_us : (events,) float
        Time of flight from the pulse, microseconds.
    ei_meV, psi_deg, temperature_K : float
        Logged; kelvin for the temperature, which may be None.
    proton_charge : float
        Coulomb of the whole dwell, spread evenly over its pulses.
    minutes : float
        Wall time of the dwell.
    run_number, title : str
        Names of the run.
    psi_log : str
        Log that receives psi.
    t0_us : float, optional
        Emission time contained in ``tof_us``; logged so that readers need not estimate it.
    start_time_ns : int
        Since the Unix epoch; not before 1990 in the layout, earlier times become 1990.
    pulse_hz : float
        Pulses per second; events are spread over them evenly and reproducibly.
    ids_per_bank : int
        Identifiers per bank.
    logs : mapping of str to (value, unit), optional
        Further constant logs.

    Raises
    ------
    ValueError
        If the arrays differ in length, or an identifier, time, psi, Ei or charge is impossible.
    """
    detector_id, tof_us = np.asarray(detector_id), np.asarray(tof_us)
    if detector_id.shape != tof_us.shape or detector_id.ndim != 1:
        raise ValueError(
            f"detector_id has shape {detector_id.shape}, tof_us {tof_us.shape}; expected (events,)"
        )
    if len(detector_id) and (detector_id.min() < 0 or detector_id.max() >= ERROR_BIT):
        raise InputError("detector_id must lie between 0 and 2**31 - 1")
    if not np.all(np.isfinite(tof_us)):
        raise InputError("tof_us holds values that are not finite")
    for name, value, good in (
        ("ei_meV", ei_meV, ei_meV > 0),
        ("psi_deg", psi_deg, True),
        ("proton_charge", proton_charge, proton_charge > 0),
        ("minutes", minutes, minutes > 0),
        ("pulse_hz", pulse_hz, pulse_hz > 0),
    ):
        if not (np.isfinite(value) and good):
            raise InputError(f"{name} is {value}; expected a finite number, positive but for psi")
    start_ns = max(int(start_time_ns), EPOCH_1990_S * 1_000_000_000)
    pulses = max(1, round(minutes * 60 * pulse_hz))
    pulse_times = np.arange(pulses) / pulse_hz
    n = len(detector_id)
    golden = np.modf(np.arange(n) * 0.6180339887498949)[0]
    pulse = np.minimum((golden * pulses).astype(np.int64), pulses - 1)
    bank = detector_id // ids_per_bank
    order = np.lexsort((pulse, bank))
    with h5py.File(Path(path), "w", libver=("earliest", "v110"), track_order=False) as file:
        entry = _group(file, "entry", "NXentry")
        for key, text in {
            "definition": "NXsnsevent",
            "run_number": run_number,
            "entry_identifier": run_number,
            "title": title,
            "start_time": format_time_ns(start_ns),
            "end_time": format_time_ns(start_ns + round(minutes * 60e9)),
        }.items():
            entry.create_dataset(key, data=np.array([text.encode()]))
        _number_data(entry, "duration", minutes * 60, "second")
        _number_data(entry, "proton_charge", proton_charge * 1e12, "picoCoulombs")
        entry.create_dataset("total_counts", data=np.array([n], np.uint64))
        entry.create_dataset("total_pulses", data=np.array([pulses], np.uint64))
        instrument = _group(entry, "instrument", "NXinstrument")
        instrument.create_dataset("name", data=np.array([instrument_name.encode()]))
        xml = _group(instrument, "instrument_xml", "NXnote")
        xml.create_dataset("data", data=np.array([idf_xml.encode()]))
        xml.create_dataset("type", data=np.array([b"text/xml"]))
        daslogs = _group(entry, "DASlogs", "NXcollection")
        constant = {
            psi_log: (psi_deg, "deg"),
            "EnergyRequest": (ei_meV, "meV"),
            "pause": (0.0, ""),
            **(logs or {}),
        }
        if temperature_K is not None:
            constant["sampletemp"] = (temperature_K, "K")
        if t0_us is not None:
            constant[EMISSION_LOG] = (t0_us, "microsecond")
        for key, (value, unit) in constant.items():
            log = _group(daslogs, key, "NXlog")
            _number_data(log, "value", value, unit)
            _number_data(log, "average_value", value, unit)
            _time_data(log, "time", np.zeros(1), start_ns)
        charge = _group(daslogs, "proton_charge", "NXlog")
        per_pulse = np.full(pulses, proton_charge * 1e12 / pulses)
        _packed(charge, "value", per_pulse).attrs["units"] = "picoCoulombs"
        _time_data(charge, "time", pulse_times, start_ns)
        shared_time = charge["time"]
        numbers, begin = np.unique(bank[order], return_index=True)
        for number, mine in zip(numbers, np.split(order, begin)[1:], strict=True):
            group = _group(entry, f"bank{number + 1}_events", "NXevent_data")
            _packed(group, "event_id", detector_id[mine].astype(np.uint32))
            # whole ns survive the wire, where times of flight are integers of them
            whole_ns = np.rint(tof_us[mine].astype(np.float64) * 1000) / 1000
            tof = _packed(group, "event_time_offset", whole_ns.astype(np.float32))
            tof.attrs["units"] = "microsecond"
            first = np.searchsorted(pulse[mine], np.arange(pulses)).astype(np.uint64)
            _packed(group, "event_index", first)
            group["event_time_zero"] = shared_time
            group.create_dataset("total_counts", data=np.array([len(mine)], np.uint64))


def _group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = np.bytes_(nx_class)
    return group


def _number_data(parent: h5py.Group, name: str, value: float, unit: str) -> None:
    parent.create_dataset(name, data=np.array([value], np.float64)).attrs["units"] = unit


def _packed(parent: h5py.Group, name: str, data: NDArray) -> h5py.Dataset:
    if len(data) == 0:
        return parent.create_dataset(name, data=data)
    return parent.create_dataset(
        name, data=data, compression="gzip", compression_opts=1, shuffle=True
    )


def _time_data(parent: h5py.Group, name: str, seconds: NDArray, start_ns: int) -> None:
    node = _packed(parent, name, seconds)
    node.attrs["units"] = "second"
    node.attrs["offset"] = format_time_ns(start_ns)
    node.attrs["offset_seconds"] = np.uint32(start_ns // 1_000_000_000 - EPOCH_1990_S)
    node.attrs["offset_nanoseconds"] = np.uint32(start_ns % 1_000_000_000)
