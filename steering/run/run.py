"""A run: messages in, after every chunk a fold, an estimate, a verdict and advice out.

Recorded files replay through the very code that live data takes; only the source differs. The parts
do the work: a `ChunkFold` adds up an open dwell, the `ChunkLedger` keeps closed ones, the
`Estimator` says what they mean.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from consumers.fold import ChunkFold, ChunkStart, ChunkStop, Foreseen, Message, SetAside
from consumers.state import ClosedChunk, check_fingerprint, close_chunk
from model_server.posterior import Posterior, Trust
from simulations.errors import InputError
from simulations.fold import CellSums, VoxelExposure
from steering.experiment import Measurement, foreign
from steering.run.actions import NO_WISHES
from steering.run.answer import result_of, spectrum_of
from steering.run.can_terms import CanTerms, can_alone
from steering.run.empty_can import can_of
from steering.run.estimator import Estimate, Estimator
from steering.run.folded_file import write_folded
from steering.run.force_constants_file import PhonopyTexts
from steering.run.ledger import ChunkLedger
from steering.run.reach import Reach, reach_of
from steering.run.result import chunk_results, history_entries, result_document
from steering.run.store import RunSnapshot, SpectrumView

log = structlog.get_logger()


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
        self.history: list[dict[str, Any]] = []
        self.estimate: Estimate | None = None
        self.estimate_seconds: float | None = None
        self.estimated_ns: int | None = None
        self.can = can_of(measurement)
        self.can_terms = CanTerms(
            present=self.can.present,
            measured=bool(self.can.runs),
            transmission=measurement.experiment.background.can_transmission,
        )
        self.ledger = ChunkLedger(
            run_id=run_id,
            shape=measurement.geometry.shape,
            n_voxels=measurement.voxels.n_voxels,
            form=measurement.form,
            n_atoms=measurement.crystal.n_atoms,
            has_can=self.can.present,
        )
        self._estimator = Estimator(measurement, self.can_terms) if estimate else None
        self._base: Estimate | None = None  # what the next estimate begins at
        self._phonopy = PhonopyTexts(measurement.quick_forward.model)
        self._looks_below_target = 0
        self.wishes = NO_WISHES  # of people, that the next estimate heeds
        self.foreseen: Foreseen | None = None  # taken by dwells that it fits
        self.instrument = measurement.instrument  # of the dwell that started last
        self._open: dict[str, ChunkFold] = {}
        self._seen: set[tuple[str, str, int]] = set()

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
            self.ledger.set_aside(payload.origin, payload.reason)
            return False
        if isinstance(payload, ChunkStart):
            self._start(payload)
            return False
        chunk = self._open.get(payload.chunk)
        if chunk is None:
            self.ledger.set_aside(
                payload.chunk,
                f"{type(payload).__name__} of chunk {payload.chunk!r} came without an open start; "
                "expected its start first. Check the source.",
            )
            return False
        if isinstance(payload, ChunkStop):
            del self._open[payload.chunk]
            return self._close(chunk, payload)
        chunk.take(payload)
        return False

    def _start(self, start: ChunkStart) -> None:
        measurement = self.measurement
        fault = self._fault_of(start)
        instrument = measurement.instrument
        if start.geometry is not None and fault is None:
            instrument = measurement.calibrated(start.geometry)
        self.instrument = instrument
        self._open[start.chunk] = ChunkFold(
            start,
            geometry=measurement.geometry,
            instrument=instrument,
            can=self.can,
            fault=fault,
            foreseen=self.foreseen,
        )

    def _fault_of(self, start: ChunkStart) -> str | None:
        if start.chunk in self._open:
            return f"chunk {start.chunk!r} started twice; expected every chunk once"
        fault = self.ledger.fault_of_name(start.chunk)
        if fault is not None:
            return fault
        if not np.isfinite(start.psi_deg):
            return f"psi is {start.psi_deg}; expected a finite angle in degrees. Give --psi."
        measurement = self.measurement
        name = measurement.instrument.name.partition("/")[0]
        return foreign(start, measurement.experiment, name)

    def _close(self, chunk: ChunkFold, stop: ChunkStop) -> bool:
        psi_deg = chunk.start.psi_deg
        try:
            folded = chunk.close(stop)
            fault = self.ledger.fault_of_kind(folded.sums.gaussian)
            if fault is not None:
                raise InputError(fault)
        except InputError as error:
            self.ledger.set_aside(stop.chunk, str(error), psi_deg=psi_deg)
            return False
        closed = close_chunk(
            self.folder,
            chunk=stop.chunk,
            psi_deg=psi_deg,
            minutes=folded.minutes,
            proton_charge=folded.proton_charge,
            account=folded.account,
            sums=folded.sums,
            exposure=folded.exposure,
            trajectories=folded.trajectories,
            can=folded.can,
            start_time_ns=chunk.start.start_time_ns,
            generation=self.ledger.generation_of(stop.chunk),
            fingerprint=self.measurement.fingerprint,
        )
        self.ledger.add(closed)
        log.info("chunk_folded", run=self.run_id, chunk=closed.chunk, psi_deg=closed.psi_deg)
        if self._estimator is not None:
            self.estimate_now()
        return True

    # -- chunks that closed elsewhere or before ---------------------------------------------------

    def adopt(self, closed: ClosedChunk) -> None:
        """Take a chunk that was closed earlier or elsewhere; makes no estimate.

        Raises
        ------
        InputError
            As ``ChunkLedger.adopt``, or if a chunk of this name is open, or it was folded with
            something else.
        """
        if closed.chunk in self._open:
            raise InputError(
                f"chunk {closed.chunk!r} is open in the run; expected every chunk once. Wait for "
                "its stop, and replace it to take a newer generation."
            )
        check_fingerprint(str(closed.path), closed.fingerprint, self.measurement.fingerprint)
        self.ledger.adopt(closed)

    def withdraw(self, chunk: str, reason: str) -> None:
        """Take a folded chunk out of the sums; its record says why, its file stays.

        The estimate is of before until ``estimate_now`` or the next chunk.
        """
        self._forget(self.ledger.withdraw(chunk, reason))

    def replace(self, closed: ClosedChunk) -> None:
        """Put a newer generation in the place of a folded chunk; makes no estimate."""
        self._forget(self.ledger.replace(closed))

    def reopen(self, chunk: str) -> None:
        """Forget a folded or withdrawn chunk, so that its name may start again."""
        self._forget(self.ledger.reopen(chunk))

    def drop_open(self, chunk: str) -> None:
        """Forget a chunk that started and did not stop, so that its name may start again."""
        self._open.pop(chunk, None)

    def _forget(self, closed: ClosedChunk | None) -> None:
        if closed is not None and self._base is not None:
            self._base = self._base.without(closed.key)

    # -- estimates --------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Compute ahead of the first chunk what the first estimate needs and no chunk changes.

        Optional: a live run has the minutes of its first dwell for it.
        """
        if self._estimator is not None:
            self._estimator.prepare()

    def estimate_now(self) -> bool:
        """Estimate from the chunks as they are, after chunks were adopted or withdrawn.

        Returns
        -------
        bool
            True: the estimate is new. False: no chunk is folded, and there is no estimate.

        Raises
        ------
        InputError
            If the run only folds.
        """
        if not self.chunks:
            self._checked_estimator()
            self.drop_estimate()
            return False
        found = self.look(self._base)
        self._looks_below_target = self._looks_below_target + 1 if found.met else 0
        self.history.append(found.told())
        return True

    def go_on(self) -> bool:
        """Take the newest estimate on where it is still on its way; False: it is not.

        Of costly crystals a fit walks so much a chunk: live, the next chunk takes it on.
        """
        if self.estimate is None or not self.estimate.posterior.unfinished:
            return False
        found = self.look(self._base)
        if self.history:
            self.history[-1] = found.told()
        return True

    def look(self, base: Estimate | None) -> Estimate:
        """Estimate from the chunks as they are, beginning at a given estimate of fewer chunks.

        The answer is a function of the chunks and of ``base``, whatever was estimated before.
        """
        estimator = self._checked_estimator()
        began = time.perf_counter()
        self.estimate = self._base = estimator.estimate(self.ledger, base, self.wishes)
        self.estimate_seconds = time.perf_counter() - began
        self.estimated_ns = time.time_ns()
        return self.estimate

    def advise_again(self, estimate: Estimate, base: Estimate | None) -> Estimate:
        """Take an estimate of the chunks as they are, with the advice that ``wishes`` lead to.

        Parameters
        ----------
        estimate, base : Estimate
            One that ``look`` gave for the same chunks, and what it began at.
        """
        estimator = self._checked_estimator()
        self.estimate = self._base = estimator.advise_again(
            self.ledger, estimate, base, self.wishes
        )
        self.estimated_ns = time.time_ns()
        return self.estimate

    def meets_targets(self, posterior: Posterior, *, trusted: bool) -> bool:
        """Whether an estimate of this run meets every target that ``wishes`` leave."""
        return self._checked_estimator().met(posterior, trusted=trusted, wishes=self.wishes)

    def drop_estimate(self) -> None:
        """Have no estimate, until the next one."""
        self.estimate = self._base = None

    def _checked_estimator(self) -> Estimator:
        if self._estimator is None:
            raise InputError(
                f"run {self.run_id!r} was made with estimate=False; expected a run that estimates"
            )
        return self._estimator

    # -- what others read -------------------------------------------------------------------------

    @property
    def chunks(self) -> list[ClosedChunk]:
        """Folded chunks in canonical order."""
        return self.ledger.chunks

    @property
    def newest(self) -> ClosedChunk | None:
        """The folded chunk that came last."""
        return self.ledger.newest

    @property
    def records(self) -> list[dict[str, Any]]:
        """What became of every chunk, as ``result.json`` tells it."""
        return self.ledger.records

    @property
    def posterior(self) -> Posterior | None:
        """Of the newest estimate."""
        return None if self.estimate is None else self.estimate.posterior

    @property
    def trust(self) -> Trust | None:
        """Of the newest estimate."""
        return None if self.estimate is None else self.estimate.trust

    @property
    def sums(self) -> CellSums:
        """All folded chunks together, in chunk order."""
        return self.ledger.sums

    @property
    def net_sums(self) -> CellSums:
        """All folded chunks together without their can: what is shown, never what is fitted."""
        return self.can_terms.net(self.chunks, self.sums, self._can_scale)

    @property
    def can_sums(self) -> CellSums | None:
        """Sums of the can alone, scaled to the sample's exposure; None without."""
        return can_alone(self.chunks)

    @property
    def _can_scale(self) -> float | None:
        return None if self.estimate is None else self.estimate.posterior.can_scale

    @property
    def minutes_used(self) -> float:
        """Beam minutes of the folded chunks."""
        return self.ledger.minutes_used

    def pooled_exposure(self) -> VoxelExposure:
        """Exposure of all folded chunks together, summed in chunk order."""
        return self.ledger.pooled_exposure()

    def result(self) -> dict[str, Any]:
        """Newest answer in the layout of ``result.json``; no timings."""
        return result_of(
            self.measurement,
            self.ledger,
            self.estimate,
            looks_below_target=self._looks_below_target,
            closed=self.wishes.closed is not None,
        )

    def spectrum(self) -> SpectrumView | None:
        """Folded map ready to draw; None before the first chunk."""
        if not self.chunks:
            return None
        return spectrum_of(self.measurement, self.ledger, self.estimate, self.net_sums)

    def snapshot(self, status: str = "running", error: str | None = None) -> RunSnapshot:
        """What API and page show."""
        return RunSnapshot(
            run_id=self.run_id,
            title=self.measurement.experiment.title,
            status=status,  # type: ignore[arg-type]
            error=error,
            experiment=self.measurement.experiment.model_dump(mode="json"),
            updated_ns=time.time_ns(),
            chunks=chunk_results(self.records),
            spectrum=self.spectrum(),
            result=result_document(self.result()) if self.estimate is not None else None,
            history=history_entries(self.history),
            estimate_seconds=self.estimate_seconds,
            estimated_ns=self.estimated_ns,
            force_constants=self._force_constants(),
            reach=self._reach(),
        )

    def _reach(self) -> Reach | None:
        if not self.chunks:
            return None
        if self._estimator is None:
            return reach_of(self.measurement, self.ledger)
        return self._estimator.reach(self.ledger, self.estimate)

    def _force_constants(self) -> dict[str, str] | None:
        return None if self.posterior is None else self._phonopy.of(self.posterior.values)

    def write_folded(self, path: Path) -> None:
        """Write ``folded.npz``."""
        write_folded(path, self.measurement, self.ledger, self.can_terms, self._can_scale)
