"""Recorded files folded onto (|Q|, E): what a powder, or the average over a scan, scatters.

Every file is a chunk with sums of its own, which may be left out again; totals are sums over the
chunks in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumers.fold import (
    ChunkStart,
    ChunkStop,
    EventAccount,
    EventBlock,
    HistogramBlock,
    SetAside,
    fault_of,
    fold_powder_events,
    fold_powder_histogram,
    histogram_input,
)
from consumers.recorded import recorded_source
from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.fold import (
    CellSums,
    PowderView,
    histogram_range,
    momentum_axis,
    powder_exposure,
    view_powder,
)
from simulations.instrument import Instrument
from simulations.progress import Progress, silent
from simulations.reciprocal import EnergyAxis
from steering.experiment import (
    Experiment,
    calibrated,
    chosen_instrument,
    foreign,
    recorded_instrument,
)
from steering.run.answer import empty_notes

MOMENTUM_STEP = 0.05  # 1/angstrom


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PowderFold:
    """S(|Q|, E) of recorded files; arrays are (momentum bins, energy bins)."""

    title: str
    momentum_edges: FloatArray  # (momentum bins + 1,) 1/angstrom
    energy_edges_meV: FloatArray
    chunks: dict[str, CellSums]  # in the order in which they are summed
    accounts: dict[str, EventAccount]
    set_aside: tuple[tuple[str, str], ...]  # origin and reason
    ei_meV: float
    temperature_K: float

    @property
    def sums(self) -> CellSums:
        """All chunks together."""
        parts = list(self.chunks.values())
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    @property
    def account(self) -> EventAccount:
        """Where all events went."""
        return sum(self.accounts.values(), EventAccount())

    def without(self, chunk: str) -> PowderFold:
        """Withdraw a chunk.

        Raises
        ------
        ValueError
            If there is no such chunk, or it is the only one.
        """
        if chunk not in self.chunks or len(self.chunks) == 1:
            raise InputError(
                f"chunk {chunk!r} cannot be withdrawn from {', '.join(self.chunks)}; expected one "
                "of several"
            )
        return replace(
            self,
            chunks={k: v for k, v in self.chunks.items() if k != chunk},
            accounts={k: v for k, v in self.accounts.items() if k != chunk},
        )

    def summary(self) -> dict[str, Any]:
        """Coverage, events and chunks, for people and machines."""
        chunks: list[dict[str, Any]] = [
            {"chunk": name, "status": "folded", "reason": None, "events": asdict(account)}
            for name, account in self.accounts.items()
        ]
        chunks += [
            {"chunk": origin, "status": "set aside", "reason": reason, "events": {}}
            for origin, reason in self.set_aside
        ]
        return {
            "coverage_fraction": self.sums.coverage_fraction,
            "momentum_max_inverse_angstrom": float(self.momentum_edges[-1]),
            "events": asdict(self.account),
            "chunks": chunks,
            "notes": list(empty_notes(self.sums, self.account)),
        }


@dataclass(slots=True)
class _Open:
    """A chunk between its start and its stop."""

    start: ChunkStart
    instrument: Instrument
    signal: FloatArray
    variance: FloatArray
    counts: NDArray[np.int64]
    account: EventAccount
    exposure: tuple[FloatArray, FloatArray] | None = None
    histogram: bool = False
    reduced: bool = False
    fault: str | None = None


class _Folder:
    """State of one powder fold; feed it payloads."""

    def __init__(
        self,
        experiment: Experiment,
        experiment_dir: Path,
        step: float,
        recorded: Instrument | None,
    ) -> None:
        section = experiment.path.energy
        self.experiment = experiment
        self.experiment_dir = experiment_dir
        self.instrument = chosen_instrument(experiment, experiment_dir, recorded=recorded)
        self.ei_meV = experiment.instrument.ei_meV
        self.energy = EnergyAxis(
            edges_meV=np.linspace(section.min_meV, section.max_meV, section.bins + 1),
            substeps=section.substeps,
        )
        self.edges: FloatArray | None = None
        self.step = step
        self.open: dict[str, _Open] = {}
        self.chunks: dict[str, CellSums] = {}
        self.accounts: dict[str, EventAccount] = {}
        self.set_aside: list[tuple[str, str]] = []
        self._shared: tuple[Instrument, tuple[FloatArray, FloatArray]] | None = None

    def take(self, payload: Any) -> None:
        """One payload of a source."""
        if isinstance(payload, SetAside):
            self.set_aside.append((payload.origin, payload.reason))
        elif isinstance(payload, ChunkStart):
            self._start(payload)
        elif isinstance(payload, ChunkStop):
            self._stop(payload)
        else:
            chunk = self.open[payload.chunk]
            if chunk.fault is None:
                try:
                    if isinstance(payload, EventBlock):
                        self._events(chunk, payload)
                    else:
                        self._histogram(chunk, payload)
                except ValueError as error:
                    chunk.fault = fault_of(error)

    def _start(self, start: ChunkStart) -> None:
        instrument = self.instrument
        fault = foreign(start, self.experiment, instrument.name.partition("/")[0])
        if start.geometry is not None and fault is None:
            instrument = calibrated(start.geometry, self.experiment, self.experiment_dir)
        if self.edges is None and fault is None:
            self.edges = momentum_axis(instrument, self.energy, self.ei_meV, self.step)
        shape = (0 if self.edges is None else len(self.edges) - 1, self.energy.n_bins)
        self.open[start.chunk] = _Open(
            start=start,
            instrument=instrument,
            signal=np.zeros(shape),
            variance=np.zeros(shape),
            counts=np.zeros(shape, dtype=np.int64),
            account=EventAccount(),
            fault=fault,
        )

    def _view(self, instrument: Instrument, edges: FloatArray | None = None) -> PowderView:
        assert self.edges is not None  # noqa: S101 - a chunk has started
        return view_powder(
            instrument=instrument,
            energy=self.energy,
            ei_meV=self.ei_meV,
            momentum_edges=self.edges,
            histogram_edges_meV=edges,
        )

    def _expose(
        self, instrument: Instrument, view: PowderView, **how: Any
    ) -> tuple[FloatArray, FloatArray]:
        """D and the flat exposure; files of one geometry share them."""
        if not how and self._shared is not None and self._shared[0] is instrument:
            return self._shared[1]
        made = powder_exposure(
            view=view, instrument=instrument, energy=self.energy, ei_meV=self.ei_meV, **how
        )
        if not how:
            self._shared = instrument, made
        return made

    def _events(self, chunk: _Open, block: EventBlock) -> None:
        if chunk.histogram:
            raise InputError("events after a histogram in one chunk; expected one kind per chunk")
        account = fold_powder_events(
            block.pixel,
            block.energy_transfer_meV,
            view=self._view(chunk.instrument),
            counts=chunk.counts,
        )
        chunk.account = chunk.account + account

    def _histogram(self, chunk: _Open, block: HistogramBlock) -> None:
        edges = np.asarray(block.energy_edges_meV, dtype=float)
        steps = histogram_range(edges, self.energy, self.ei_meV)
        view = self._view(chunk.instrument, edges)
        given = histogram_input(block, steps, chunk.instrument)
        skip = given.unknown
        chunk.reduced = not given.counted
        chunk.exposure = self._expose(chunk.instrument, view, reduced=chunk.reduced, skip=skip)
        account = fold_powder_histogram(
            given.inside,
            given.errors,
            weight=given.weight,
            skip=skip,
            view=view,
            signal=chunk.signal,
            variance=chunk.variance,
        )
        chunk.histogram = True
        account = given.account(account, chunk.signal, skip, chunk.instrument.masked)
        chunk.account = chunk.account + account

    def _stop(self, stop: ChunkStop) -> None:
        chunk = self.open.pop(stop.chunk)
        charge = 1.0 if chunk.reduced else stop.proton_charge
        if chunk.fault is None and not (np.isfinite(charge) and charge > 0):
            chunk.fault = f"proton charge is {charge}; expected a positive number of coulomb"
        kinds = {sums.gaussian for sums in self.chunks.values()}
        if chunk.fault is None and kinds and chunk.reduced not in kinds:
            chunk.fault = (
                "raw counts and reduced intensity cannot be added; expected the kind of the first "
                "file. Fold event files and reduced files separately."
            )
        if chunk.fault is not None:
            self.set_aside.append((stop.chunk, chunk.fault))
            return
        exposure = chunk.exposure
        if exposure is None:
            exposure = self._expose(chunk.instrument, self._view(chunk.instrument))
        if chunk.reduced:
            signal, variance = chunk.signal, chunk.variance
            known = variance > 0
            counts = np.where(known, signal**2 / np.where(known, variance, 1.0), 0.0)
        else:
            counts = chunk.signal if chunk.histogram else chunk.counts.astype(float)
            signal = variance = counts
        self.chunks[stop.chunk] = CellSums(
            signal=signal,
            variance=variance,
            counts=counts,
            exposure=exposure[0] * charge,
            flat=exposure[1] * charge,
            gaussian=chunk.reduced,
        )
        filtered = EventAccount(read=stop.filtered, filtered=stop.filtered)
        self.accounts[stop.chunk] = chunk.account + filtered


def fold_powder(
    files: Sequence[Path],
    experiment: Experiment,
    *,
    experiment_dir: Path = Path(),
    step: float = MOMENTUM_STEP,
    psi_deg: float | None = None,
    progress: Progress | None = None,
) -> PowderFold:
    """Fold recorded files onto (|Q|, E), whatever the orientation of the sample.

    Parameters
    ----------
    files : sequence of Path
        NXSPE or SNS event files. Their own geometry overrules the experiment's instrument.
    experiment : Experiment
        Gives instrument, Ei, the energy axis and its sub-steps; path and sample play no part.
    experiment_dir : Path
        Folder that relative paths in the experiment start from.
    step : float
        Width of the |Q| bins, 1/angstrom.
    psi_deg : float, optional
        For files that record no psi; any number serves.
    progress : callable, optional
        Called with (message, fraction).

    Returns
    -------
    PowderFold

    Raises
    ------
    ValueError
        If no file could be folded; the message says why.
    """
    say = progress or silent
    recorded = recorded_instrument(files, experiment)
    folder = _Folder(experiment, experiment_dir, step, recorded)
    source = recorded_source(
        files,
        run="powder",
        psi_log=experiment.source.psi_log,
        psi_deg=0.0 if psi_deg is None else psi_deg,
        ei_meV=experiment.source.ei_meV,
        t0_us=experiment.source.t0_us,
        period=experiment.source.period,
        nominal_ei_meV=experiment.instrument.ei_meV,
    )
    for message in source.messages():
        folder.take(message.payload)
        done = len(folder.chunks) + len(folder.set_aside)
        say("folding onto |Q|", done / max(len(files), 1))
    if not folder.chunks or folder.edges is None:
        reasons = "\n".join(f"{origin}: {reason}" for origin, reason in folder.set_aside)
        raise InputError(f"no file could be folded:\n{reasons}" if reasons else "no files given")
    return PowderFold(
        title=experiment.title,
        momentum_edges=folder.edges,
        energy_edges_meV=folder.energy.edges_meV,
        chunks=folder.chunks,
        accounts=folder.accounts,
        set_aside=tuple(folder.set_aside),
        ei_meV=experiment.instrument.ei_meV,
        temperature_K=experiment.sample.temperature_K,
    )
