"""A run: messages in, after every chunk a fold, an estimate, a verdict and advice out.

Recorded files replay through the very code that live data takes; only the source differs.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from consumers.chunk_store import ClosedChunk, close_chunk
from consumers.folding import EventAccount, fold_events, fold_histogram
from consumers.message import (
    ChunkStart,
    ChunkStop,
    EventBlock,
    HistogramBlock,
    Message,
    SetAside,
)
from consumers.recorded import recorded_source
from model_server.refinement import Coarse, Observation, Posterior, Refinement, usable_cells
from model_server.trust import Trust, assess, residual_sigma
from simulations.background import (
    CanRate,
    can_elsewhere,
    can_share,
    likelihood_of_can,
    without_spoilt,
)
from simulations.cell_sums import CellSums
from simulations.dynamics import modes
from simulations.exposure import (
    Crossings,
    PixelView,
    VoxelExposure,
    histogram_range,
    sum_voxels,
)
from simulations.instrument import Instrument, coarsen, split_name
from simulations.trajectories import Trajectories
from steering.advisor import (
    Candidate,
    FalsificationPolicy,
    InformationPolicy,
    absolute_targets,
    candidate_angles,
    information_per_minute,
    minutes_to_target,
    stop_advice,
)
from steering.empty_can import (
    FoldedCan,
    expect_can,
    fitting_runs,
    fold_can,
    read_can,
    unknown_pairs,
)
from steering.experiment_file import Experiment
from steering.measurement import Measurement, build_measurement, foreign, recorded_instrument
from steering.run_store import RunSnapshot, RunStore, SpectrumView

log = structlog.get_logger()
FloatArray = NDArray[np.float64]
Progress = Callable[[str, float], None]

SCHEMA_VERSION = 1
KEPT_BYTES = 1_500_000_000  # exposures of chunks held in memory; the others are read again
OTHER_KIND = (
    "raw counts and reduced intensity cannot be added; expected the kind of the first chunk. Fold "
    "event files and reduced files in separate runs."
)
CANDIDATES = 25
ADVISED = 10
ADVICE_COARSENING = 8  # pixels merged along a tube for the exposure of candidates
RANDOM_STARTS = {1: 6, 2: 4, 3: 2}  # draws of the prior to anneal from, by number of chunks
Z90 = 1.6448536


@dataclass(slots=True)
class _OpenChunk:
    """A chunk between its start and its stop."""

    start: ChunkStart
    instrument: Instrument
    signal: FloatArray
    variance: FloatArray
    counts: NDArray[np.int64]
    account: EventAccount = field(default_factory=EventAccount)
    exposure: VoxelExposure | None = None  # for one coulomb
    trajectories: Trajectories | None = None  # likewise
    gaussian: bool = False
    reduced: bool = False
    histogram: bool = False  # its histogram came
    edges_meV: FloatArray | None = None  # of the histogram
    seen: PixelView | None = None
    crossings: Crossings | None = None
    skip: NDArray[np.bool_] | None = None  # (pixel, step) pairs that count nowhere
    can: FoldedCan | None = None
    failed: str | None = None


class Run:
    """State of one run. Feed it messages; read ``result`` and ``snapshot``.

    Parameters
    ----------
    measurement : Measurement
        The experiment made concrete.
    run_id : str
    folder : Path
        Where closed chunks are kept.
    estimate : bool
        False folds only.
    """

    def __init__(
        self, measurement: Measurement, *, run_id: str, folder: Path, estimate: bool = True
    ) -> None:
        self.measurement = measurement
        self.run_id = run_id
        self.folder = folder
        self.chunks: list[ClosedChunk] = []  # in canonical order, see ``_add``
        self.newest: ClosedChunk | None = None  # the one that came last
        self.records: list[dict[str, Any]] = []
        self.history: list[dict[str, Any]] = []
        self.posterior: Posterior | None = None
        self.trust: Trust | None = None
        self.estimate_seconds: float | None = None
        self._estimating = estimate
        self._open: dict[str, _OpenChunk] = {}
        self._seen: set[tuple[str, str, int]] = set()
        self._candidates: list[tuple[float, VoxelExposure, tuple[FloatArray, FloatArray]]] = []
        self._below_target = 0
        self._advice: dict[str, Any] = {
            "advice": [],
            "stop": asdict(
                stop_advice(
                    looks_below_target=0,
                    chunks=0,
                    orientations=0,
                    trusted=True,
                    forecast_minutes=None,
                )
            ),
        }
        self._encoder = None
        self._generation: dict[str, int] = {}  # of the next fold of a chunk's name, if not 0
        self._withdrawn: dict[str, str] = {}  # chunk, reason
        self._pooled: VoxelExposure | None = None
        self._pooled_chunks = 0
        self._kept: dict[str, VoxelExposure] = {}
        background = measurement.experiment.background
        self._can_runs = read_can(measurement)
        self._has_can = background.can_sigma is not None
        if estimate:
            self.refinement = Refinement(
                model=measurement.forward,
                prior=measurement.prior,
                energy_centres_meV=measurement.energy.centres_meV,
                elastic_cut_meV=measurement.elastic_cut_meV,
                exact=measurement.exact,
                can_sigma=background.can_sigma,
            )
            self._coarse = Coarse(
                refinement=Refinement(
                    model=measurement.coarse_forward,
                    prior=measurement.prior,
                    energy_centres_meV=measurement.energy.centres_meV,
                    elastic_cut_meV=measurement.elastic_cut_meV,
                    can_sigma=background.can_sigma,
                ),
                merged=measurement.merged,
            )
            self._encoder = _encoder_of(measurement)

    # -- messages -------------------------------------------------------------------------------

    def accept(self, message: Message) -> bool:
        """Take one message; a duplicate is dropped, a bad chunk set aside.

        Returns
        -------
        bool
            True when a chunk was closed and the estimate is new.
        """
        key = (message.run, message.source, message.sequence)
        if key in self._seen:
            return False
        self._seen.add(key)
        payload = message.payload
        if isinstance(payload, SetAside):
            self._set_aside(payload.origin, payload.reason)
            return False
        if isinstance(payload, ChunkStart):
            self._start(payload)
            return False
        chunk = self._open.get(payload.chunk)
        if chunk is None:
            self._set_aside(
                payload.chunk,
                f"{type(payload).__name__} of chunk {payload.chunk!r} came without an open start; "
                "expected its start first. Check the source.",
            )
            return False
        if isinstance(payload, ChunkStop):
            return self._stop(chunk, payload)
        if chunk.failed is None:
            try:
                if isinstance(payload, EventBlock):
                    self._events(chunk, payload)
                else:
                    self._histogram(chunk, payload)
            except ValueError as error:
                chunk.failed = str(error)
        return False

    def _start(self, start: ChunkStart) -> None:
        measurement = self.measurement
        fault = self._fault_of(start)
        shape = (measurement.path.n_bins, measurement.energy.n_bins)
        instrument = measurement.instrument
        if start.geometry is not None and fault is None:
            instrument = measurement.calibrated(start.geometry)
        self._open[start.chunk] = _OpenChunk(
            start=start,
            instrument=instrument,
            signal=np.zeros(shape),
            variance=np.zeros(shape),
            counts=np.zeros(shape, dtype=np.int64),
            failed=fault,
        )

    def _fault_of(self, start: ChunkStart) -> str | None:
        if start.chunk in self._open or any(c.chunk == start.chunk for c in self.chunks):
            return f"chunk {start.chunk!r} started twice; expected every chunk once"
        if start.chunk in self._withdrawn:
            return (
                f"chunk {start.chunk!r} was withdrawn ({self._withdrawn[start.chunk]}); expected "
                "another one. Reopen it to fold it again."
            )
        if not np.isfinite(start.psi_deg):
            return f"psi is {start.psi_deg}; expected a finite angle in degrees. Give --psi."
        measurement = self.measurement
        name = measurement.instrument.name.partition("/")[0]
        return foreign(start, measurement.experiment, name)

    def _events(self, chunk: _OpenChunk, block: EventBlock) -> None:
        if chunk.histogram:
            raise ValueError("events after a histogram in one chunk; expected one kind per chunk")
        if chunk.exposure is None:
            self._expose(chunk)
        view, pixel = self._view(chunk), block.pixel
        if chunk.skip is not None:
            pixel = without_spoilt(pixel, block.energy_transfer_meV, view, chunk.skip)
        account = fold_events(
            pixel,
            block.energy_transfer_meV,
            view=view,
            voxels=self.measurement.voxels,
            counts=chunk.counts,
            crossings=chunk.crossings,
        )
        chunk.account = chunk.account + account

    def _view(self, chunk: _OpenChunk) -> PixelView:
        """What the chunk's pixels look at; computed once."""
        if chunk.seen is None:
            chunk.seen = self.measurement.view(
                chunk.start.psi_deg, chunk.instrument, chunk.edges_meV
            )
        return chunk.seen

    def _expose(self, chunk: _OpenChunk) -> tuple[VoxelExposure, Trajectories]:
        """What the chunk's orientation sees, for one coulomb, and the can there; computed once."""
        measurement, psi, view = self.measurement, chunk.start.psi_deg, self._view(chunk)
        spoilt = measurement.spoilt(view)
        if spoilt is not None:
            chunk.skip = spoilt if chunk.skip is None else chunk.skip | spoilt
        chunk.crossings = measurement.crossings(view)
        if self._can_runs:
            runs = fitting_runs(
                self._can_runs, chunk.instrument, chunk.edges_meV, reduced=chunk.reduced
            )
            if chunk.skip is not None and chunk.edges_meV is not None:
                steps = histogram_range(chunk.edges_meV, measurement.energy, measurement.ei_meV)
                chunk.skip = chunk.skip | unknown_pairs(runs, steps, chunk.skip.shape)
            chunk.can = fold_can(
                runs,
                measurement=measurement,
                instrument=chunk.instrument,
                view=view,
                skip=chunk.skip,
                edges_meV=chunk.edges_meV,
                crossings=chunk.crossings,
            )
        how: dict[str, Any] = {
            "reduced": chunk.reduced,
            "histogram_edges_meV": chunk.edges_meV,
            "skip": chunk.skip,
            "crossings": chunk.crossings,
        }
        chunk.exposure = measurement.exposure(psi, chunk.instrument, **how)
        chunk.trajectories = measurement.trajectories(psi, chunk.instrument, **how)
        return chunk.exposure, chunk.trajectories

    def _histogram(self, chunk: _OpenChunk, block: HistogramBlock) -> None:
        if chunk.histogram or chunk.exposure is not None:
            kind = "two histograms" if chunk.histogram else "a histogram after events"
            raise ValueError(f"{kind} in one chunk; expected one kind of data, a histogram once")
        measurement = self.measurement
        edges = np.asarray(block.energy_edges_meV, dtype=float)
        shape = (chunk.instrument.n_pixels, len(edges) - 1)
        if block.intensity.shape != shape:
            raise ValueError(
                f"histogram has shape {block.intensity.shape}; expected {shape}, pixels x bins"
            )
        steps = histogram_range(edges, measurement.energy, measurement.ei_meV)
        counted = block.counts is not None
        known = np.isfinite(block.intensity)
        if counted:
            values = np.asarray(block.counts, dtype=float)
            errors, weight = np.sqrt(values), np.ones((shape[0], steps.stop - steps.start))
        else:
            values, errors = block.intensity, block.error
            known &= np.isfinite(errors) & (errors > 0)
            weight = chunk.instrument.solid_angle_sr[:, None] * np.diff(edges)[steps]
        chunk.edges_meV, chunk.skip, chunk.reduced = edges, ~known[:, steps], not counted
        self._expose(chunk)
        skip = chunk.skip
        account = fold_histogram(
            values[:, steps],
            errors[:, steps],
            weight=weight,
            skip=skip,
            view=self._view(chunk),
            voxels=measurement.voxels,
            signal=chunk.signal,
            variance=chunk.variance,
        )
        chunk.histogram = True
        chunk.gaussian = not counted
        if counted:
            chunk.counts += np.rint(chunk.signal).astype(np.int64)
            total, inside = int(values.sum()), values[:, steps]
            masked = skip | chunk.instrument.masked[:, None]
            folded, blocked = int(chunk.signal.sum()), int(inside[masked].sum())
            account = EventAccount(
                read=total,
                folded=folded,
                masked=blocked,
                outside_energy=total - int(inside.sum()),
                outside_path=int(inside.sum()) - folded - blocked,
            )
        else:
            account = replace(
                account,
                read=values.size,
                outside_energy=values.size - skip.size,
            )
        chunk.account = chunk.account + account

    def _stop(self, chunk: _OpenChunk, stop: ChunkStop) -> bool:
        del self._open[stop.chunk]
        if chunk.failed is None:
            chunk.failed = self._fault_at_stop(chunk, stop)
        if chunk.failed is not None:
            self._set_aside(stop.chunk, chunk.failed, psi_deg=chunk.start.psi_deg)
            return False
        try:  # a chunk without any event still has exposure
            if chunk.exposure is None or chunk.trajectories is None:
                geometry = self._expose(chunk)
            else:
                geometry = chunk.exposure, chunk.trajectories
        except ValueError as error:
            self._set_aside(stop.chunk, str(error), psi_deg=chunk.start.psi_deg)
            return False
        account = chunk.account + EventAccount(read=stop.filtered, filtered=stop.filtered)
        charge = 1.0 if chunk.reduced else stop.proton_charge
        minutes = stop.minutes if stop.minutes > 0 else 1.0
        exposure, trajectories = geometry[0].scaled(charge), geometry[1].scaled(charge)
        weight, flat = self.measurement.path_sums(exposure)
        if chunk.gaussian:
            signal, variance = chunk.signal, chunk.variance
            known = variance > 0
            counts = np.where(known, signal**2 / np.where(known, variance, 1.0), 0.0)
        else:
            counts = chunk.counts.astype(float)
            signal = variance = counts
        sums = CellSums(
            signal=signal,
            variance=variance,
            counts=counts,
            exposure=weight,
            flat=flat,
            gaussian=chunk.gaussian,
        )
        can = None
        if chunk.can is not None:
            can = chunk.can.sums(weight / charge, flat / charge, gaussian=chunk.gaussian)
        elif self._has_can:
            can = expect_can(
                self.measurement,
                chunk.instrument,
                self._view(chunk),
                sums,
                chunk.skip,
                reduced=chunk.reduced,
            )
        closed = close_chunk(
            self.folder,
            chunk=stop.chunk,
            psi_deg=chunk.start.psi_deg,
            minutes=minutes,
            proton_charge=charge,
            account=account,
            sums=sums,
            exposure=exposure,
            trajectories=trajectories,
            can=can,
            start_time_ns=chunk.start.start_time_ns,
            generation=self._generation.get(stop.chunk, 0),
        )
        self._add(closed)
        log.info("chunk_folded", run=self.run_id, chunk=closed.chunk, psi_deg=closed.psi_deg)
        if self._estimating:
            self._estimate()
        return True

    def _fault_at_stop(self, chunk: _OpenChunk, stop: ChunkStop) -> str | None:
        if chunk.reduced:
            charge_fault = None
        elif not (np.isfinite(stop.proton_charge) and stop.proton_charge > 0):
            charge_fault = (
                f"proton charge is {stop.proton_charge}; expected a positive number of coulomb"
            )
        else:
            charge_fault = None
        if charge_fault is not None:
            return charge_fault
        if not chunk.reduced and chunk.account.read + stop.filtered != stop.read:
            return (
                f"{chunk.account.read} events came and {stop.filtered} were filtered, but the "
                f"source read {stop.read}; expected the same number. Messages were lost: replay."
            )
        if self.chunks and self.chunks[0].sums.gaussian != chunk.gaussian:
            return OTHER_KIND
        return None

    def _set_aside(self, origin: str, reason: str, psi_deg: float | None = None) -> None:
        log.warning("chunk_set_aside", run=self.run_id, origin=origin, reason=reason)
        self.records.append(
            {
                "chunk": origin,
                "psi_deg": psi_deg,
                "minutes": 0.0,
                "events": {},
                "status": "set aside",
                "reason": reason,
            }
        )

    # -- chunks that closed elsewhere or before ---------------------------------------------------

    def adopt(self, closed: ClosedChunk) -> None:
        """Take a chunk that was closed earlier or elsewhere; makes no estimate.

        Parameters
        ----------
        closed : ClosedChunk
            Folded for the same experiment. Its file stays where it is.

        Raises
        ------
        ValueError
            If the chunk is in the run already, was folded on another path, energy axis or voxel
            map, has its exposure in another form, or is of another kind than the chunks before.
        """
        self._check_adoptable(closed)
        self._withdrawn.pop(closed.chunk, None)
        self._generation[closed.chunk] = closed.generation
        self._add(closed)
        log.info("chunk_adopted", run=self.run_id, chunk=closed.chunk, psi_deg=closed.psi_deg)

    def _check_adoptable(self, closed: ClosedChunk, *, instead_of: ClosedChunk | None = None):
        others = [c for c in self.chunks if c is not instead_of]
        if closed.chunk in self._open or any(c.chunk == closed.chunk for c in others):
            raise ValueError(
                f"chunk {closed.chunk!r} is in the run already; expected every chunk once. "
                "Replace it to take a newer generation."
            )
        measurement = self.measurement
        expected = (measurement.path.n_bins, measurement.energy.n_bins)
        if closed.sums.signal.shape != expected:
            raise ValueError(
                f"{closed.path}: sums have shape {closed.sums.signal.shape}; expected {expected}, "
                "path bins x energy bins of the experiment. Fold the chunk anew."
            )
        if closed.n_voxels != measurement.voxels.n_voxels:
            raise ValueError(
                f"{closed.path}: the chunk has {closed.n_voxels} voxels; expected "
                f"{measurement.voxels.n_voxels}, those of the experiment. Fold the chunk anew."
            )
        if closed.form != measurement.form:
            raise ValueError(
                f"{closed.path}: the chunk's exposure is in the form {closed.form!r}; expected "
                f"{measurement.form!r}, which {measurement.crystal.n_atoms} atoms take. Fold the "
                "chunk anew."
            )
        if (closed.can is not None) != self._has_can:
            raise ValueError(
                f"{closed.path}: the chunk has {'a' if closed.can is not None else 'no'} can; "
                f"expected {'one' if self._has_can else 'none'}, as the experiment's background "
                "says. Fold the chunk anew."
            )
        if others and others[0].sums.gaussian != closed.sums.gaussian:
            raise ValueError(f"{closed.path}: {OTHER_KIND}")

    def withdraw(self, chunk: str, reason: str) -> None:
        """Take a folded chunk out of the sums; its record says why, its file stays.

        The estimate is of before until ``estimate_now`` or the next chunk.

        Raises
        ------
        ValueError
            If no such chunk is folded.
        """
        closed = self._folded(chunk)
        self._remove(closed)
        self._withdrawn[chunk] = reason
        self._generation[chunk] = closed.generation + 1
        record = self._record_of(closed)
        record |= {"status": "withdrawn", "reason": reason}
        log.warning("chunk_withdrawn", run=self.run_id, chunk=chunk, reason=reason)

    def replace(self, closed: ClosedChunk) -> None:
        """Put a newer generation in the place of a folded chunk; makes no estimate.

        Raises
        ------
        ValueError
            As ``adopt``, or if no older generation is folded; the run is unchanged then.
        """
        old = self._folded(closed.chunk)
        if closed.generation <= old.generation:
            raise ValueError(
                f"chunk {closed.chunk!r} is of generation {closed.generation}; expected above "
                f"{old.generation}, the one folded. Keep the newer one."
            )
        self._check_adoptable(closed, instead_of=old)
        self.reopen(closed.chunk)
        self.adopt(closed)

    def reopen(self, chunk: str) -> None:
        """Forget a folded or withdrawn chunk, so that its name may start again.

        What is folded then is the next generation, in a file of its own.

        Raises
        ------
        ValueError
            If no such chunk is folded or withdrawn.
        """
        if chunk in self._withdrawn:
            del self._withdrawn[chunk]
            return
        closed = self._folded(chunk)
        self._remove(closed)
        self.records.remove(self._record_of(closed))
        self._generation[chunk] = closed.generation + 1
        log.info("chunk_reopened", run=self.run_id, chunk=chunk)

    def estimate_now(self) -> bool:
        """Estimate from the chunks as they are, after chunks were adopted or withdrawn.

        Returns
        -------
        bool
            True: the estimate is new. False: no chunk is folded, and there is no estimate.

        Raises
        ------
        ValueError
            If the run only folds.
        """
        if not self._estimating:
            raise ValueError(
                f"run {self.run_id!r} was made with estimate=False; expected a run that estimates"
            )
        if not self.chunks:
            self.posterior = self.trust = None
            return False
        self._estimate()
        return True

    def _folded(self, chunk: str) -> ClosedChunk:
        for closed in self.chunks:
            if closed.chunk == chunk:
                return closed
        raise ValueError(
            f"chunk {chunk!r} is not folded in run {self.run_id!r}; expected one of "
            f"{[c.chunk for c in self.chunks]}"
        )

    def _record_of(self, closed: ClosedChunk) -> dict[str, Any]:
        of_chunk = (
            r for r in self.records if (r["chunk"], r["status"]) == (closed.chunk, "folded")
        )
        return next(of_chunk)

    def _add(self, closed: ClosedChunk) -> None:
        """Put a chunk in its place: sums of floats depend on their order, so it is fixed.

        Chunks are in the order of their start, those without a start time first and as they came.
        """
        self.chunks.append(closed)
        self.chunks.sort(key=_canonical)
        self.records.append(
            {
                "chunk": closed.chunk,
                "psi_deg": closed.psi_deg,
                "minutes": closed.minutes,
                "events": asdict(closed.account),
                "status": "folded",
                "reason": None,
            }
        )
        places = [i for i, r in enumerate(self.records) if r["status"] == "folded"]
        of_chunk = {self.records[i]["chunk"]: self.records[i] for i in places}
        for i, chunk in zip(places, self.chunks, strict=True):
            self.records[i] = of_chunk[chunk.chunk]
        self.newest = closed
        if self.chunks.index(closed) < self._pooled_chunks:
            self._pooled, self._pooled_chunks = None, 0

    def _remove(self, closed: ClosedChunk) -> None:
        if self.chunks.index(closed) < self._pooled_chunks:
            self._pooled, self._pooled_chunks = None, 0
        self.chunks.remove(closed)
        self._kept.pop(closed.key, None)
        if self._estimating:
            self.refinement.forget(closed.key)

    # -- estimate and advice --------------------------------------------------------------------

    @property
    def sums(self) -> CellSums:
        """All folded chunks together, in chunk order."""
        total = self.chunks[0].sums
        for chunk in self.chunks[1:]:
            total = total + chunk.sums
        return total

    def _with_can(self, *, cell_by_cell: bool = False) -> list[tuple[CellSums, CanRate | None]]:
        """Sums of every chunk as the likelihood takes them, and the expected rate of its can.

        Events of the can serve all orientations, which an estimate must count with. Within a cell
        only chunks at one psi share them: ``cell_by_cell`` gives the errors to judge cells by.
        """
        section = self.measurement.experiment.background
        transmission = section.can_transmission
        if not self._has_can:
            return [(c.sums, None) for c in self.chunks]
        if not self._can_runs:
            return [
                (c.sums, CanRate(shape=transmission * c.can.signal, fixed=None))
                for c in self.chunks
                if c.can is not None
            ]
        share = [
            0.0 if c.can is None else float(can_share(c.sums, c.can, transmission).max())
            for c in self.chunks
        ]
        angle = [round(c.psi_deg, 3) for c in self.chunks]
        return [
            likelihood_of_can(
                c.sums,
                c.can,
                transmission=transmission,
                total_share=sum(
                    s for s, a in zip(share, angle, strict=True) if not cell_by_cell or a == psi
                ),
            )
            for c, psi in zip(self.chunks, angle, strict=True)
            if c.can is not None
        ]

    def _judged(self, posterior: Posterior) -> tuple[list[CellSums], CellSums, Posterior]:
        """Sums of every chunk and of all, and what is expected of them, to judge cells by."""
        fitted, judged = self._with_can(), self._with_can(cell_by_cell=True)
        each = [sums for sums, _ in judged]
        total = each[0]
        for sums in each[1:]:
            total = total + sums
        if not self._can_runs or total.gaussian:
            return each, total, posterior
        measurement = self.measurement
        moved, totals = np.zeros_like(posterior.expected), posterior.totals.copy()
        for k, ((sums, before), (_, after)) in enumerate(zip(fitted, judged, strict=True)):
            if before is None or after is None or before.fixed is None or after.fixed is None:
                continue
            step = after.fixed - before.fixed
            cells = usable_cells(sums, measurement.energy.centres_meV, measurement.elastic_cut_meV)
            moved += step
            totals[k] += step[cells].sum()
        return each, total, replace(posterior, expected=posterior.expected + moved, totals=totals)

    def _can_scale(self) -> float | None:
        """What the can's sums are multiplied with to be subtracted; None: not known yet."""
        transmission = self.measurement.experiment.background.can_transmission
        if self._can_runs:
            return transmission
        if self.posterior is None or not self._has_can:
            return None
        k = len(self.posterior.values)
        return float(transmission * np.exp(self.posterior.theta[k] + self.posterior.theta[k + 4]))

    @property
    def can_sums(self) -> CellSums | None:
        """Sums of the can alone, scaled chunk by chunk to the sample's exposure; None without."""
        total = None
        for chunk in self.chunks:
            if chunk.can is None:
                return None
            share = can_share(chunk.sums, chunk.can, 1.0)
            scaled = CellSums(
                signal=share * chunk.can.signal,
                variance=share**2 * chunk.can.variance,
                counts=chunk.can.counts,
                exposure=share * chunk.can.exposure,
                flat=share * chunk.can.flat,
                gaussian=chunk.can.gaussian,
            )
            total = scaled if total is None else total + scaled
        return total

    @property
    def net_sums(self) -> CellSums:
        """All folded chunks together without their can: what is shown, never what is fitted.

        The variance is that of the sample plus that of the can, as if a cell's counts of the can
        were the same in every chunk that sees it: an upper bound. A predicted can is subtracted
        from the first estimate on, which gives it its scale.
        """
        total, scale = self.sums, self._can_scale()
        if not self._has_can or scale is None or not self.chunks:
            return total
        signal, variance = total.signal, total.variance
        share, spread = np.zeros_like(signal), np.zeros_like(signal)
        for chunk in self.chunks:
            if chunk.can is not None:
                each = can_share(chunk.sums, chunk.can, scale)
                signal = signal - each * chunk.can.signal
                share = share + each
                spread = spread + each * chunk.can.variance
        return replace(total, signal=signal, variance=variance + share * spread, gaussian=True)

    @property
    def minutes_used(self) -> float:
        """Beam minutes of the folded chunks."""
        return float(sum(c.minutes for c in self.chunks))

    def pooled_exposure(self) -> VoxelExposure:
        """Exposure of all folded chunks together, summed in chunk order."""
        for chunk in self.chunks[self._pooled_chunks :]:
            exposure = self._exposure_of(chunk)
            self._pooled = exposure if self._pooled is None else self._pooled + exposure
            self._pooled_chunks += 1
        if self._pooled is None:
            raise ValueError("no chunk is folded yet")
        return self._pooled

    def _exposure_of(self, chunk: ClosedChunk) -> VoxelExposure:
        """A chunk's exposure, kept in memory while all kept ones stay below the limit."""
        if chunk.key in self._kept:
            return self._kept[chunk.key]
        exposure = chunk.exposure()
        if sum(e.nbytes for e in self._kept.values()) + exposure.nbytes < KEPT_BYTES:
            self._kept[chunk.key] = exposure
        return exposure

    def _estimate(self) -> None:
        began = time.perf_counter()
        measurement = self.measurement
        with_can = self._with_can()
        observations = [
            Observation(
                sums=sums,
                exposure=partial(self._exposure_of, c),
                trajectories=c.trajectories,
                key=c.key,
                can=can,
            )
            for c, (sums, can) in zip(self.chunks, with_can, strict=True)
        ]
        starts = []
        total, total_can = with_can[0]
        for sums, can in with_can[1:]:
            total = total + sums
            total_can = None if total_can is None or can is None else total_can + can
        pooled = self.pooled_exposure()
        if self._encoder is not None:
            net = self.net_sums
            values, _ = self._encoder.estimate(net.intensity, net.sigma, net.exposure)
            starts.append(np.clip(values, measurement.box.lower, measurement.box.upper))
        draws = RANDOM_STARTS.get(len(self.chunks), 1)
        if draws:
            rng = np.random.default_rng([len(self.chunks), 20261])
            q = measurement.voxels.centre_cartesian[:: max(1, measurement.voxels.n_voxels // 60)]
            sample = measurement.box.sample(draws, rng, measurement.model, q)
            starts.extend(sample.values)
        posterior = self.refinement.fit(
            observations,
            starts=starts,
            warm=self.posterior,
            pooled=Observation(sums=total, exposure=lambda: pooled, can=total_can),
            coarse=self._coarse,
        )
        trust = self._judge(posterior)
        self.posterior, self.trust = posterior, trust
        self._advise(total, total_can, posterior, trust.trusted)
        self.estimate_seconds = time.perf_counter() - began
        self.history.append(
            {
                "chunk": self.chunks[-1].chunk,
                "minutes_used": self.minutes_used,
                "parameters": [
                    {"name": n, "value": float(v), "sigma": float(s)}
                    for n, v, s in zip(
                        posterior.names, posterior.values, posterior.sigma, strict=True
                    )
                ],
                "trusted": trust.trusted,
            }
        )

    def _judge(self, posterior: Posterior) -> Trust:
        measurement = self.measurement
        each, total, posterior = self._judged(posterior)
        use = usable_cells(total, measurement.energy.centres_meV, measurement.elastic_cut_meV)
        q_squared = np.zeros(total.exposure.shape)
        exposure = self.pooled_exposure()
        q_squared[:, : exposure.q_squared.shape[1]] = sum_voxels(
            exposure.q_squared, measurement.voxels
        )
        q_squared /= np.where(total.exposure > 0, total.exposure, 1.0)
        ratios = []
        if not total.gaussian:
            # Each chunk against its own expectation: orientations see a cell in other zones and
            # polarisations, so a share of the total by exposure would be wrong by a quarter.
            for chunk, sums, expected in zip(self.chunks, each, posterior.totals, strict=True):
                cells = usable_cells(
                    sums, measurement.energy.centres_meV, measurement.elastic_cut_meV
                )
                observed = float(sums.signal[cells].sum())
                ratios.append((chunk.chunk, observed, float(expected)))
        return assess(
            sums=total,
            posterior=posterior,
            prior=measurement.prior,
            use=use,
            look=len(self.chunks),
            chunk_ratios=ratios if len(ratios) > 1 else (),
            q_squared=q_squared,
        )

    def _candidate_information(
        self, total: CellSums, can: CanRate | None, theta: FloatArray
    ) -> list[Candidate]:
        measurement = self.measurement
        reduced = total.gaussian
        if not self._candidates:
            _, factor = split_name(measurement.instrument.name)
            coarse = measurement.instrument
            if factor < ADVICE_COARSENING and coarse.tube is not None:
                coarse = coarsen(coarse, ADVICE_COARSENING // factor)
            for psi in candidate_angles(measurement.experiment.motion.limits_deg, CANDIDATES):
                skip = measurement.spoilt(measurement.view(float(psi), coarse))
                full = measurement.exposure(float(psi), coarse, reduced=reduced, skip=skip)
                self._candidates.append(
                    (float(psi), full.merged(measurement.merged), measurement.path_sums(full))
                )
        if reduced:
            known = total.variance > 0
            per_minute = float(total.signal[known].sum() / total.variance[known].sum())
        else:
            per_minute = sum(c.proton_charge for c in self.chunks) / self.minutes_used
        refinement = self._coarse.refinement
        state = refinement.model.prepare(theta[: refinement.n_parameters])
        return [
            information_per_minute(
                psi,
                lambda exposure=exposure: exposure,
                sums,
                refinement=refinement,
                theta=theta,
                charge_per_minute=per_minute,
                state=state,
                can=can_elsewhere(can, total.exposure, per_minute * sums[0]),
            )
            for psi, exposure, sums in self._candidates
        ]

    def _advise(
        self, total: CellSums, can: CanRate | None, posterior: Posterior, trusted: bool
    ) -> None:
        experiment = self.measurement.experiment
        candidates = self._candidate_information(self.sums, can, posterior.theta)
        targets = absolute_targets(
            posterior, [experiment.targets.relative(n) for n in posterior.names]
        )
        policy = (
            InformationPolicy()
            if trusted
            else FalsificationPolicy(residual_sigma(total, posterior.expected))
        )
        advice = policy.rank(
            candidates,
            precision=posterior.precision,
            targets=targets,
            current_psi_deg=self.chunks[-1].psi_deg,
            motion=experiment.motion,
            ei_meV=experiment.instrument.ei_meV,
        )
        met = bool(np.all(posterior.sigma <= targets))
        self._below_target = self._below_target + 1 if met and trusted else 0
        limits = experiment.motion.limits_deg
        forecast = minutes_to_target(
            candidates,
            precision=posterior.precision,
            targets=targets,
            budget_minutes=limits[1] - limits[0],
            motion=experiment.motion,
        )
        stop = stop_advice(
            looks_below_target=self._below_target,
            chunks=len(self.chunks),
            orientations=len({round(c.psi_deg, 3) for c in self.chunks}),
            trusted=trusted,
            forecast_minutes=forecast,
        )
        self._advice = {
            "advice": [asdict(a) for a in advice[:ADVISED]],
            "policy": policy.name,
            "targets": [
                {"name": n, "sigma": float(t)}
                for n, t in zip(posterior.names, targets, strict=True)
            ],
            "stop": asdict(stop),
        }

    # -- what others read -----------------------------------------------------------------------

    def result(self) -> dict[str, Any]:
        """Newest answer in the layout of ``result.json``; no timings."""
        events = EventAccount()
        for chunk in self.chunks:
            events = events + chunk.account
        common = {
            "schema_version": SCHEMA_VERSION,
            "run": self.run_id,
            "minutes_used": self.minutes_used,
            "coverage_fraction": self.sums.coverage_fraction if self.chunks else 0.0,
            "events": asdict(events),
            "chunks": self.records,
            "notes": list(self.measurement.notes),
        }
        if self.posterior is None or self.trust is None:
            return {
                "parameters": [],
                "derived": [],
                "trusted": False,
                "reasons": ["no estimate was made"],
                **self._advice,
                **common,
            }
        posterior, trust = self.posterior, self.trust
        return {
            "parameters": [
                {
                    "name": n,
                    "unit": "eV/angstrom^2",
                    "value": float(v),
                    "sigma": float(s),
                    "interval90": [float(v - Z90 * s), float(v + Z90 * s)],
                }
                for n, v, s in zip(posterior.names, posterior.values, posterior.sigma, strict=True)
            ],
            "covariance": posterior.covariance.tolist(),
            "derived": self._derived(posterior),
            "trusted": trust.trusted,
            "reasons": list(trust.reasons),
            "goodness_of_fit": {
                "chi_square": trust.chi_square,
                "degrees_of_freedom": trust.degrees_of_freedom,
                "reduced_chi_square": trust.reduced_chi_square,
                "p_value": trust.p_value,
                "alarm_below": trust.threshold,
            },
            **self._advice,
            **common,
        }

    def _derived(self, posterior: Posterior) -> list[dict[str, Any]]:
        model = self.measurement.model
        onsite = model.onsite(posterior.values)
        slope = model.onsite_gradient()
        derived, seen = [], set()
        for atom, symbol in enumerate(model.crystal.symbols):
            value = float(np.trace(onsite[atom]) / 3)
            if (symbol, round(value, 9)) in seen:
                continue
            seen.add((symbol, round(value, 9)))
            by_parameter = np.einsum("kaa->k", slope[:, atom]) / 3
            derived.append(
                {
                    "name": f"on-site {symbol}",
                    "unit": "eV/angstrom^2",
                    "value": value,
                    "sigma": float(np.sqrt(by_parameter @ posterior.covariance @ by_parameter)),
                }
            )
        return derived

    def spectrum(self) -> SpectrumView | None:
        """Folded map ready to draw; None before the first chunk."""
        if not self.chunks:
            return None
        measurement, total = self.measurement, self.net_sums
        reciprocal = measurement.crystal.conventional_reciprocal
        position, ends = measurement.path.position(reciprocal)
        ticks, labels, breaks = _ticks(measurement, ends)
        known = total.exposure > 0
        scale, expected = 1.0, np.full(total.exposure.shape, np.nan)
        phi, residual = measurement.model.values, expected
        if self.posterior is not None:
            scale = float(np.exp(self.posterior.theta[len(self.posterior.values)]))
            expected, phi = self.posterior.expected, self.posterior.values
            if self.posterior.can is not None:
                expected = expected - self.posterior.can
            _, judged, told = self._judged(self.posterior)
            residual = residual_sigma(judged, told.expected)
        branches, _ = modes(measurement.model, measurement.path.centres_hkl() @ reciprocal, phi)
        divisor = np.where(known, total.exposure, 1.0)
        return SpectrumView(
            path_position=position,
            segment_breaks=breaks,
            tick_positions=ticks,
            tick_labels=labels,
            energy_edges_meV=measurement.energy.edges_meV,
            intensity=total.intensity / scale,
            sigma=total.sigma / scale,
            model_intensity=np.where(known, expected / divisor, np.nan) / scale,
            residual_sigma=residual,
            branches=branches,
            exposure=total.exposure,
        )

    def snapshot(self, status: str = "running", error: str | None = None) -> RunSnapshot:
        """What API and page show."""
        return RunSnapshot(
            run_id=self.run_id,
            title=self.measurement.experiment.title,
            status=status,  # type: ignore[arg-type]
            error=error,
            experiment=self.measurement.experiment.model_dump(mode="json"),
            updated_ns=time.time_ns(),
            chunks=tuple(self.records),
            spectrum=self.spectrum(),
            result=self.result() if self.posterior is not None else None,
            history=tuple(self.history),
            estimate_seconds=self.estimate_seconds,
        )

    def write_folded(self, path: Path) -> None:
        """Write ``folded.npz``: S, V, N, D, T or its images, moments and axes with their units."""
        total, net, exposure = self.sums, self.net_sums, self.pooled_exposure()
        voxels, measurement = self.measurement.voxels, self.measurement
        arrays: dict[str, Any] = {
            "schema_version": np.int64(SCHEMA_VERSION),
            "S": total.signal,
            "V": total.variance,
            "N": total.counts,
            "D": total.exposure,
            "flat_exposure": total.flat,
            "intensity": net.intensity,
            "sigma": net.sigma,
            "gaussian": np.bool_(total.gaussian),
            "energy_edges_meV": measurement.energy.edges_meV,
            "path_hkl_rlu": measurement.path.centres_hkl(),
            "path_position_inverse_angstrom": measurement.path.position(
                measurement.crystal.conventional_reciprocal
            )[0],
            "voxel_path_bin": voxels.path_bin,
            "voxel_q_inverse_angstrom": voxels.centre_cartesian,
            "units": json.dumps(
                {
                    "S": "counts (reduced input: intensity x sr meV)",
                    "D": "C sr meV",
                    "intensity": "S/D less the can; NaN where D is 0",
                    "sigma": "of intensity",
                    "can_S": "as S, of the can alone at D; intensity = (S - can_scale can_S) / D",
                    "can_D": "C sr meV, D where the can is known",
                    "flat_exposure": "C sr ms",
                    "T": "C sr meV barn / (angstrom^2 u), packed 6 N^2 reals",
                    "image_start": "rows of image and image_sums of each voxel and energy bin",
                    "image": "rows of image_G",
                    "image_sums": "C sr meV; then with Q Q, xx yy zz yz xz xy, / angstrom^2",
                    "image_G": "reciprocal vectors, primitive coordinates",
                    "displacement": "angstrom^2, mean square of each atom",
                    "q_first": "C sr meV / angstrom",
                    "q_second": "C sr meV / angstrom^2",
                    "q_slope": "C sr / angstrom",
                    "q_slope_second": "C sr / (angstrom^2 meV)",
                    "q_squared": "C sr meV / angstrom^2",
                }
            ),
        }
        names = {
            "weight": "voxel_D",
            "flat": "voxel_flat_exposure",
            "q_squared": "q_squared",
            "tensor": "T",
            "first": "q_first",
            "second": "q_second",
            "slope": "q_slope",
            "slope_second": "q_slope_second",
            "start": "image_start",
            "image": "image",
            "sums": "image_sums",
            "reciprocal": "image_G",
            "displacement": "displacement",
        }
        arrays |= {names[name]: array for name, array in exposure.arrays().items()}
        can = self.can_sums
        if can is not None:
            arrays |= {
                "can_S": can.signal,
                "can_V": can.variance,
                "can_N": can.counts,
                "can_D": can.exposure,
                "can_scale": np.float64(np.nan if (scale := self._can_scale()) is None else scale),
            }
        np.savez(path, **arrays)


def _canonical(closed: ClosedChunk) -> tuple[int, str]:
    started = closed.start_time_ns > 0
    return (closed.start_time_ns, closed.chunk) if started else (0, "")


def _encoder_of(measurement: Measurement) -> Any:
    name = measurement.experiment.model
    if name is None:
        return None
    from model_server.bundle import Bundle, Domain

    bundle = Bundle.load(name)
    bundle.check(
        Domain(
            parameter_names=measurement.model.names,
            path_hkl=measurement.path.centres_hkl(),
            energy_edges_meV=measurement.energy.edges_meV,
        )
    )
    return bundle


def _ticks(
    measurement: Measurement, ends: FloatArray
) -> tuple[tuple[float, ...], tuple[str, ...], tuple[int, ...]]:
    """Where labels stand on the path axis, and bins after which the path jumps."""
    path = measurement.path
    labels = [path.labels[0][0]]
    breaks = []
    for k in range(1, len(path.bins)):
        before, after = path.labels[k - 1][1], path.labels[k][0]
        jump = np.linalg.norm(path.end_hkl[k - 1] - path.start_hkl[k]) > 1e-9
        labels.append(f"{before}|{after}" if jump and before != after else after)
        if jump:
            breaks.append(int(path.first_bin[k]))
    labels.append(path.labels[-1][1])
    return tuple(float(e) for e in ends), tuple(labels), tuple(breaks)


def replay(
    files: Sequence[Path],
    experiment: Experiment,
    *,
    experiment_dir: Path,
    output: Path | None = None,
    speed: float | None = None,
    store: RunStore | None = None,
    run_id: str = "replay",
    psi_deg: float | None = None,
    progress: Progress | None = None,
    estimate: bool = True,
) -> dict[str, Any]:
    """Replay recorded files chunk by chunk through the code that live data takes.

    Parameters
    ----------
    files : sequence of Path
        NXSPE or SNS event files, one orientation each.
    experiment : Experiment
    experiment_dir : Path
        Folder that relative paths in the experiment start from.
    output : Path, optional
        Gets ``result.json``, ``folded.npz`` and the closed chunks.
    speed : float, optional
        1 waits the dwell of each chunk, 10 a tenth of it; absent: as fast as it goes.
    store : RunStore, optional
        Gets a snapshot after every chunk.
    run_id : str
    psi_deg : float, optional
        Operator's psi for files that have none.
    progress : callable, optional
        Called with (message, fraction).
    estimate : bool
        False folds only.

    Returns
    -------
    dict
        As ``result.json``.

    Raises
    ------
    ValueError
        If the experiment cannot be made concrete or no chunk could be folded.
    """
    say = progress or (lambda message, fraction: None)
    say("reading the experiment", 0.0)
    recorded = recorded_instrument(files, experiment)
    measurement = build_measurement(experiment, experiment_dir, recorded=recorded)
    with ExitStack() as stack:
        if output is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder = output / "chunks"
            folder.mkdir(parents=True, exist_ok=True)
        run = Run(measurement, run_id=run_id, folder=folder, estimate=estimate)
        source = recorded_source(
            files,
            run=run_id,
            psi_log=experiment.source.psi_log,
            psi_deg=psi_deg,
            ei_meV=experiment.source.ei_meV,
            t0_us=experiment.source.t0_us,
            nominal_ei_meV=experiment.instrument.ei_meV,
        )
        try:
            if store is not None:
                store.publish(run.snapshot())
            for message in source.messages():
                new = run.accept(message)
                source.acknowledge(message)
                done = len(run.records) / max(len(files), 1)
                if not new:
                    continue
                newest = run.newest or run.chunks[-1]
                say(f"chunk {newest.chunk}, psi {newest.psi_deg:g} deg", done)
                if store is not None:
                    store.publish(run.snapshot())
                if speed is not None:
                    time.sleep(newest.minutes * 60 / speed)
            if not run.chunks:
                reasons = "\n".join(f"{r['chunk']}: {r['reason']}" for r in run.records)
                raise ValueError(
                    f"no chunk could be folded:\n{reasons}" if reasons else "no files were given"
                )
        except Exception as error:
            if store is not None:
                store.publish(run.snapshot("failed", str(error)))
            raise
        result = run.result()
        if output is not None:
            (output / "result.json").write_text(
                json.dumps(result, indent=2, sort_keys=True) + "\n", encoding="utf-8"
            )
            run.write_folded(output / "folded.npz")
        if store is not None:
            store.publish(run.snapshot("finished"))
    say("done", 1.0)
    return result


def fold(
    files: Sequence[Path],
    experiment: Experiment,
    *,
    experiment_dir: Path,
    output: Path,
    plot: bool = True,
    psi_deg: float | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fold recorded files without estimating.

    Writes ``output``, or ``folded.npz`` in it where it is a folder, and a PNG beside it.

    Returns
    -------
    dict
        Coverage, events and chunks, as in ``result.json``.
    """
    say = progress or (lambda message, fraction: None)
    recorded = recorded_instrument(files, experiment)
    measurement = build_measurement(experiment, experiment_dir, recorded=recorded)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(measurement, run_id=output.stem, folder=Path(folder), estimate=False)
        source = recorded_source(
            files,
            run=output.stem,
            psi_log=experiment.source.psi_log,
            psi_deg=psi_deg,
            ei_meV=experiment.source.ei_meV,
            t0_us=experiment.source.t0_us,
            nominal_ei_meV=experiment.instrument.ei_meV,
        )
        geometry: dict[str, Instrument | None] = {}
        for message in source.messages():
            run.accept(message)
            if isinstance(message.payload, ChunkStart):
                geometry[message.payload.chunk] = message.payload.geometry
            say("folding", len(run.records) / max(len(files), 1))
        if not run.chunks:
            reasons = "\n".join(f"{r['chunk']}: {r['reason']}" for r in run.records)
            raise ValueError(f"no chunk could be folded:\n{reasons}")
        target = output if output.suffix == ".npz" else output / "folded.npz"
        target.parent.mkdir(parents=True, exist_ok=True)
        run.write_folded(target)
        spectrum = run.spectrum()
        if plot and spectrum is not None:
            from steering.fold_pictures import write_fold_pictures

            write_fold_pictures(run, spectrum, target, geometry)
        result = run.result()
    told = ("coverage_fraction", "events", "chunks", "minutes_used", "notes")
    return {key: result[key] for key in told}
