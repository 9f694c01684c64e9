"""Recorded files as a source: what was written to disk replays as messages, file by file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
import structlog

from consumers.fold import (
    ChunkStart,
    ChunkStop,
    EventBlock,
    HistogramBlock,
    Message,
    Payload,
    SetAside,
)
from consumers.recorded.event_reduction import EventSlice
from consumers.recorded.hdf5_file import UnreadableError, child_text, group_of_class, open_hdf5
from consumers.recorded.isis_event_file import (
    check_isis_events,
    inspect_isis,
    iterate_isis_events,
    read_isis_run,
)
from consumers.recorded.isis_event_layout import is_isis
from consumers.recorded.nxspe_file import MANTID, ReducedRun, read_nxspe
from consumers.recorded.sns_event_file import (
    EventRun,
    check_events,
    inspect_events,
    iterate_events,
    read_event_run,
)
from consumers.recorded.spe_file import (
    DETECTOR_SUFFIXES,
    looks_like_spe,
    read_spe,
    read_spe_block,
    spe_fault,
)
from consumers.recorded.sqw_file import looks_like_sqw, read_sqw, runs_of_sqw
from consumers.recorded.sqw_inspection import inspect_sqw
from simulations.errors import InputError
from simulations.instrument import NAMELESS, Instrument

_Run = TypeVar("_Run")


def recorded_source(
    files: Sequence[Path | str],
    *,
    run: str,
    psi_log: str = "s1",
    psi_deg: float | Sequence[float] | None = None,
    ei_meV: float | None = None,
    nominal_ei_meV: float | None = None,
    t0_us: float | None = None,
    period: int | None = None,
    instrument: Instrument | None = None,
    blocks: int = 1_000_000,
) -> RecordedSource:
    """Replay SNS event files, NXSPE, SPE and SQW files as the messages a live run would send.

    Parameters
    ----------
    files : sequence of Path
        One orientation per file, but for SQW files, whose runs become a chunk each. They are read
        in the order of run number, then psi, then name; which of the given files comes first does
        not matter.
    run : str
        Name of the run in every message.
    psi_log : str
        Log of the event files that holds psi in degrees.
    psi_deg : float or sequence of float, optional
        Operator's psi. One number serves the files that have none of their own; a sequence gives
        every file, in the order given here, the psi that counts.
    ei_meV : float, optional
        Operator's incident energy; event files that record another one (5 %) are set aside.
    nominal_ei_meV : float, optional
        Incident energy of reduced files that record none (SPE always), where ``ei_meV`` is None,
        and the one that is chosen of the several in an ISIS event file.
    t0_us : float, optional
        Operator's emission time for event files.
    period : int, optional
        Period of ISIS event files that counts, where they hold several.
    instrument : Instrument, optional
        Geometry of event files that hold none and name no instrument known here.
    blocks : int
        Largest number of events per message.

    Returns
    -------
    RecordedSource
        A ``Source``. A file that cannot become a chunk yields ``SetAside`` and nothing else: every
        file is checked to its last event before its ``ChunkStart``. The next file goes on.

    Raises
    ------
    ValueError
        If ``psi_deg`` is a sequence of another length than ``files``.
    """
    paths = [Path(f) for f in files]
    if psi_deg is None or isinstance(psi_deg, (int, float)):
        psis: list[float | None] = [None] * len(paths)
        fallback = None if psi_deg is None else float(psi_deg)
    else:
        fallback = None
        psis = [float(p) for p in psi_deg]
        if len(psis) != len(paths):
            raise InputError(
                f"psi_deg has {len(psis)} values for {len(paths)} files; expected one per file"
            )
    plans = [
        _Plan(path=path, psi_deg=psi, order=_order(path, psi))
        for path, psi in zip(paths, psis, strict=True)
    ]
    return RecordedSource(
        run=run,
        plans=tuple(sorted(plans, key=lambda plan: plan.order)),
        psi_log=psi_log,
        psi_fallback_deg=fallback,
        ei_meV=ei_meV,
        nominal_ei_meV=nominal_ei_meV,
        t0_us=t0_us,
        period=period,
        instrument=instrument,
        blocks=blocks,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    path: Path
    psi_deg: float | None
    order: tuple[float, float, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedSource:
    """Files in reading order; a ``Source`` that needs no acknowledgement."""

    run: str
    plans: tuple[_Plan, ...]
    psi_log: str
    psi_fallback_deg: float | None
    ei_meV: float | None
    nominal_ei_meV: float | None
    t0_us: float | None
    period: int | None
    instrument: Instrument | None
    blocks: int

    @property
    def files(self) -> tuple[Path, ...]:
        """Files in the order in which they are read."""
        return tuple(plan.path for plan in self.plans)

    def messages(self) -> Iterator[Message]:
        """Yield start, blocks and stop of every file; restarts from the first file each time."""
        sequence = 0
        seen: set[str] = set()
        for plan in self.plans:
            try:
                for payload in self._payloads(plan, seen):
                    yield Message(
                        run=self.run, source="recorded", sequence=sequence, payload=payload
                    )
                    sequence += 1
            except UnreadableError as error:
                aside = _set_aside(plan.path, error)
                yield Message(run=self.run, source="recorded", sequence=sequence, payload=aside)
                sequence += 1

    def acknowledge(self, message: Message) -> None:
        """Nothing to do: the files stay where they are."""

    def _with_psi(self, plan: _Plan, read: Callable[[float | None], _Run]) -> _Run:
        """Read with the plan's psi, else the file's own, else the operator's for all files."""
        try:
            return read(plan.psi_deg)
        except UnreadableError:
            if self.psi_fallback_deg is None:
                raise
            return read(self.psi_fallback_deg)

    def _payloads(self, plan: _Plan, seen: set[str]) -> Iterator[Payload]:
        kind = kind_of_file(plan.path)
        if kind == "sns-events":
            yield from self._events(plan, seen)
            return
        if kind == "isis-events":
            yield from self._isis(plan, seen)
            return
        if kind == "sqw":
            yield from self._scan(plan, seen)
            return
        ei = self.nominal_ei_meV if self.ei_meV is None else self.ei_meV
        read = read_nxspe if kind == "nxspe" else read_spe
        run = self._with_psi(plan, lambda psi: read(plan.path, psi_deg=psi, ei_meV=ei))
        yield from self._reduced(plan, run, seen)

    def _events(self, plan: _Plan, seen: set[str]) -> Iterator[Payload]:
        run = self._with_psi(
            plan,
            lambda psi: read_event_run(
                plan.path,
                psi_log=self.psi_log,
                psi_deg=psi,
                ei_meV=self.ei_meV,
                t0_us=self.t0_us,
                instrument=self.instrument,
            ),
        )
        check_events(run)
        yield from self._counted(plan, run, iterate_events(run, block=self.blocks), seen)

    def _isis(self, plan: _Plan, seen: set[str]) -> Iterator[Payload]:
        run = self._with_psi(
            plan,
            lambda psi: read_isis_run(
                plan.path,
                psi_log=self.psi_log,
                psi_deg=psi,
                ei_meV=self.nominal_ei_meV if self.ei_meV is None else self.ei_meV,
                t0_us=self.t0_us,
                period=self.period,
            ),
        )
        check_isis_events(run)
        yield from self._counted(plan, run, iterate_isis_events(run, block=self.blocks), seen)

    def _counted(
        self, plan: _Plan, run: EventRun, parts: Iterator[EventSlice], seen: set[str]
    ) -> Iterator[Payload]:
        """Start, blocks and stop of a file of events."""
        chunk = _new_chunk(plan.path, run.run_number, seen)
        yield ChunkStart(
            chunk=chunk,
            instrument_name=run.instrument.name,
            ei_meV=run.ei_meV,
            psi_deg=run.psi_deg,
            start_time_ns=run.start_time_ns,
            temperature_K=run.temperature_K,
            geometry=run.instrument,
            clean_meV=run.clean_meV,
        )
        read = filtered = 0
        for part in parts:
            read += part.read
            filtered += sum(part.filtered.values())
            if len(part.pixel):
                yield EventBlock(
                    chunk=chunk, pixel=part.pixel, energy_transfer_meV=part.energy_transfer_meV
                )
        yield ChunkStop(
            chunk=chunk,
            proton_charge=run.proton_charge,
            minutes=run.minutes,
            read=read,
            filtered=filtered,
        )

    def _scan(self, plan: _Plan, seen: set[str]) -> Iterator[Payload]:
        """Every run of a pixel file as a chunk of its own."""
        ei = self.nominal_ei_meV if self.ei_meV is None else self.ei_meV
        psi = self.psi_fallback_deg
        pixels = read_sqw(plan.path)
        if plan.psi_deg is not None:
            raise UnreadableError(
                f"{plan.path}: psi_deg is {plan.psi_deg:g} for a file of "
                f"{len(pixels.content.runs)} runs, which have one each; expected none for it"
            )
        for run in runs_of_sqw(pixels, psi_deg=psi, ei_meV=ei):
            try:
                if isinstance(run, UnreadableError):
                    raise run
                yield from self._reduced(plan, run, seen)
            except UnreadableError as error:
                yield _set_aside(plan.path, error)

    def _reduced(self, plan: _Plan, run: ReducedRun, seen: set[str]) -> Iterator[Payload]:
        chunk = _new_chunk(plan.path, run.run_number or plan.path.stem, seen)
        if run.ei_from:
            log.warning(
                "ei_taken_elsewhere",
                file=str(plan.path),
                ei_meV=run.ei_meV,
                reason=f"fixed_energy is missing; this is {run.ei_from}",
            )
        yield ChunkStart(
            chunk=chunk,
            instrument_name=run.instrument.name,
            ei_meV=run.ei_meV,
            psi_deg=run.psi_deg,
            start_time_ns=run.start_time_ns,
            temperature_K=run.temperature_K,
            geometry=run.instrument,
        )
        yield HistogramBlock(
            chunk=chunk,
            energy_edges_meV=run.energy_edges_meV,
            intensity=run.intensity,
            error=run.error,
            counts=run.counts,
            absent=run.absent,
        )
        yield ChunkStop(
            chunk=chunk,
            proton_charge=run.proton_charge,
            minutes=run.minutes,
            read=run.recorded if run.counts is None else int(run.counts.sum()),
            filtered=run.left_out,
        )


def _set_aside(path: Path, error: UnreadableError) -> SetAside:
    return SetAside(origin=str(path), reason=str(error).removeprefix(f"{path}: "))


def _new_chunk(path: Path, name: str, seen: set[str]) -> str:
    if name in seen:
        raise UnreadableError(
            f"{path}: chunk {name!r} was read already from another file; expected every run number "
            "once. Leave one of the files out"
        )
    seen.add(name)
    return name


def kind_of_file(path: Path | str) -> str:
    """``"nxspe"``, ``"spe"``, ``"sqw"``, ``"isis-events"`` or ``"sns-events"``, by content.

    Raises
    ------
    UnreadableError
        If the file is none of them or cannot be read.
    """
    path = Path(path)
    if looks_like_spe(path):
        return "spe"
    if looks_like_sqw(path):
        return "sqw"
    suffix = path.suffix.lower()
    if path.is_file() and suffix in (".spe", *DETECTOR_SUFFIXES) and not h5py.is_hdf5(path):
        if suffix == ".spe":
            raise spe_fault(path)
        raise UnreadableError(
            f"{path}: a {suffix[1:].upper()} file only tells where the detectors of an SPE file "
            "are; expected recorded data. Give the SPE file and keep this one beside it"
        )
    with open_hdf5(path) as file:
        entries = group_of_class(file, "NXentry")
        if any("NXSPE_info" in entry for entry in entries):
            return "nxspe"
        if any(is_isis(entry) for entry in entries):
            return "isis-events"
        if any(group_of_class(entry, "NXevent_data") for entry in entries):
            return "sns-events"
        if MANTID in file:
            return "nxspe"  # named as one by many; its reader says what to do
        raise UnreadableError(
            f"{path}: HDF5 with {len(entries)} NXentry groups, none of them NXSPE or with bank "
            "events; expected an .nxspe or an SNS event file"
        )


def _order(path: Path, psi_deg: float | None) -> tuple[float, float, str]:
    """Run number (of the file, else of its name), psi, name; unreadable files keep their number."""
    number, psi = "", float("nan") if psi_deg is None else psi_deg
    try:
        with open_hdf5(path) as file:
            for entry in group_of_class(file, "NXentry"):
                number = child_text(entry, "run_number") or child_text(
                    entry, "beamsteer/run_number"
                )
                node = entry.get("NXSPE_info/psi")
                if psi_deg is None and isinstance(node, h5py.Dataset) and node.size:
                    psi = float(np.asarray(node[()]).ravel()[0])
    except (UnreadableError, ValueError):
        number = ""
    if not number.isdigit():
        digits = re.findall(r"\d{4,}", path.name) if not np.isfinite(psi) else []
        number = digits[-1] if digits else ""
    return (
        float(number) if number else float("inf"),
        psi if np.isfinite(psi) else float("inf"),
        path.name,
    )


log = structlog.get_logger()

_ANY_EI_MEV = 1e9  # stands in for an unknown one while looking: above every energy transfer
_REPORTED = (
    "instrument",
    "ei_meV",
    "psi_deg",
    "temperature_K",
    "title",
    "run_number",
    "start_time_ns",
    "minutes",
    "proton_charge",
    "events",
    "filtered",
    "pixels",
    "masked_pixels",
    "two_theta_deg",
    "solid_angle_sr",
    "bins",
    "masked_bins",
    "empty_bins",
    "energy_meV",
    "angle_logs",
    "t0_us",
    "orientation",
    "incident_energies",
    "clean_meV",
    "runs",
    "psi_range_deg",
    "sqw_pixels",
    "mount",
    "lattice",
    "residual",
)


def inspect_file(
    path: Path | str,
    *,
    psi_log: str = "s1",
    psi_deg: float | None = None,
    ei_meV: float | None = None,
) -> dict[str, object]:
    """What a recorded file holds, for a first ``experiment.yaml``; never raises for bad content.

    Parameters
    ----------
    path : Path
        Any file.
    psi_log : str
        Log of an event file that holds psi.
    psi_deg : float, optional
        Operator's psi.
    ei_meV : float, optional
        Operator's incident energy, for reduced files that record none.

    Returns
    -------
    dict
        ``file, kind`` ("sns-events", "isis-events", "nxspe", "spe", "sqw" or "unreadable", where
        nothing but the kind could be told), ``instrument, ei_meV,
        psi_deg, temperature_K, title, run_number, start_time_ns, minutes, proton_charge, events,
        filtered`` (reason to events), ``pixels, masked_pixels, two_theta_deg`` (of live pixels),
        ``solid_angle_sr`` (of live pixels), ``bins``, ``masked_bins`` and ``empty_bins`` (without
        data and without a count, of live pixels, reduced files), ``energy_meV`` (lowest,
        highest; of events above -Ei), ``angle_logs, t0_us, orientation`` (UB, rows first), what
        ``inspect_sqw`` and ``inspect_isis`` tell, ``problems`` (list of str) and ``unknown``
        (list of str: what the file cannot tell an experiment).
        Values that are not there are None. Events are read to the last one.
    """
    path = Path(path)
    report: dict[str, object] = {"file": str(path), "kind": "unreadable"}
    report |= dict.fromkeys(_REPORTED)
    unknown = ["crystal structure", "u and v", "psi offset", "path"]
    problems: list[str] = []
    try:
        report["kind"] = kind_of_file(path)
        if report["kind"] == "nxspe":
            _inspect_nxspe(path, psi_deg, ei_meV, report, problems, unknown)
        elif report["kind"] == "spe":
            _inspect_spe(path, psi_deg, ei_meV, report, problems, unknown)
        elif report["kind"] == "isis-events":
            found, notes = inspect_isis(path, psi_log=psi_log, psi_deg=psi_deg, ei_meV=ei_meV)
            geometry = found.pop("geometry")
            report |= found
            problems += notes
            if isinstance(geometry, Instrument):
                report |= _pixels(geometry)
        elif report["kind"] == "sqw":
            pixels, values, notes = inspect_sqw(path, psi_deg=psi_deg, ei_meV=ei_meV)
            report |= _pixels(pixels.instrument) | values
            problems += notes
            if report["mount"] is not None:
                unknown.remove("u and v")
            unknown += ["raw counts", "proton charge", "minutes"]
        else:
            found, notes = inspect_events(path, psi_log=psi_log, psi_deg=psi_deg)
            geometry = found.pop("geometry")
            report |= found
            problems += notes
            if isinstance(geometry, Instrument):
                report |= _pixels(geometry)
            _inspect_to_the_end(path, report)
    except UnreadableError as error:
        problems.append(str(error))
        if all(report[key] is None for key in _REPORTED):
            report["kind"] = "unreadable"
    told = [problem.removeprefix(f"{path}: ") for problem in problems]
    for key, words in (
        ("psi_deg", "psi"),
        ("ei_meV", "incident energy"),
        ("temperature_K", "temperature"),
        ("instrument", "instrument"),
    ):
        if report[key] is None:
            unknown.append(words)
    return report | {"problems": list(dict.fromkeys(told)), "unknown": unknown}


def _pixels(instrument: Instrument) -> dict[str, object]:
    live = ~instrument.masked
    facts: dict[str, object] = {
        "pixels": instrument.n_pixels,
        "masked_pixels": int(instrument.masked.sum()),
    }
    if live.any():
        angle = np.degrees(np.arccos(np.clip(instrument.direction[live, 2], -1, 1)))
        facts["two_theta_deg"] = (float(angle.min()), float(angle.max()))
        facts["solid_angle_sr"] = float(instrument.solid_angle_sr[live].sum())
    return facts


def _inspect_to_the_end(path: Path, report: dict[str, object]) -> None:
    """Add what only the events themselves tell: what is dropped, and their energies."""
    psi = report["psi_deg"]
    run = read_event_run(path, psi_deg=psi if isinstance(psi, float) else 0.0)
    filtered: dict[str, int] = {}
    low, high = np.inf, -np.inf
    for part in iterate_events(run):
        for reason, n in part.filtered.items():
            filtered[reason] = filtered.get(reason, 0) + n
        energy = part.energy_transfer_meV[part.energy_transfer_meV >= -run.ei_meV]
        if len(energy):
            low, high = min(low, float(energy.min())), max(high, float(energy.max()))
    report["filtered"] = filtered
    if low <= high:
        report["energy_meV"] = (low, high)


def _inspect_spe(
    path: Path,
    psi_deg: float | None,
    ei_meV: float | None,
    report: dict[str, object],
    problems: list[str],
    unknown: list[str],
) -> None:
    block = read_spe_block(path)
    edges = block.energy_edges_meV
    report |= {
        "psi_deg": psi_deg,
        "ei_meV": ei_meV,
        "title": path.stem,
        "pixels": len(block.intensity),
        "bins": len(edges) - 1,
        "masked_bins": int(np.isnan(block.intensity).sum()),
        "empty_bins": block.empty_bins,
        "energy_meV": (float(edges[0]), float(edges[-1])),
    }
    problems += block.problems
    unknown += ["raw counts", "proton charge", "minutes"]
    run = read_spe(path, psi_deg=psi_deg or 0.0, ei_meV=ei_meV or _ANY_EI_MEV)
    report |= _reduced(run) | {"ei_meV": ei_meV, "instrument": None}
    problems += run.problems


def _inspect_nxspe(
    path: Path,
    psi_deg: float | None,
    ei_meV: float | None,
    report: dict[str, object],
    problems: list[str],
    unknown: list[str],
) -> None:
    ei = ei_meV or _ANY_EI_MEV
    try:
        run = read_nxspe(path, psi_deg=psi_deg, ei_meV=ei)
        psi = run.psi_deg
    except UnreadableError as error:
        if psi_deg is not None:
            raise
        run, psi = read_nxspe(path, psi_deg=0.0, ei_meV=ei), None
        problems.append(str(error))
    report |= _reduced(run) | {"psi_deg": psi}
    if run.ei_meV == _ANY_EI_MEV:
        report["ei_meV"] = None
        problems.append("no incident energy; give --ei to init, instrument.ei_meV to a fold")
    elif run.ei_from:
        problems.append(f"fixed_energy is missing; Ei of {run.ei_meV:g} meV is {run.ei_from}")
    if run.instrument.name.upper() in NAMELESS:
        report["instrument"] = None
    problems += run.problems
    if run.counts is None:
        unknown += ["raw counts", "proton charge", "minutes"]
    else:
        report |= {
            "events": int(run.counts.sum()),
            "proton_charge": run.proton_charge,
            "minutes": run.minutes,
        }


def _reduced(run: ReducedRun) -> dict[str, object]:
    edges = run.energy_edges_meV
    live = np.isnan(run.intensity[~run.instrument.masked])
    return _pixels(run.instrument) | {
        "instrument": run.instrument.name,
        "ei_meV": run.ei_meV,
        "temperature_K": run.temperature_K,
        "title": run.title,
        "run_number": run.run_number or None,
        "start_time_ns": run.start_time_ns or None,
        "bins": len(edges) - 1,
        "masked_bins": int(live.sum()),
        "empty_bins": run.empty_bins,
        "energy_meV": (float(edges[0]), float(edges[-1])),
    }
