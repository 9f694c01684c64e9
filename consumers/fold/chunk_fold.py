"""One dwell between its start and its stop: blocks in, sums and exposure out."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import structlog
from numpy.typing import NDArray

from consumers.fold.can_fold import (
    CanRun,
    FoldedCan,
    PredictedCan,
    expect_can,
    fitting_runs,
    fold_can,
    unknown_pairs,
)
from consumers.fold.folding import EventAccount, fold_events
from consumers.fold.histogram_fold import fold_histogram_block, histogram_input
from consumers.fold.messages import ChunkStart, ChunkStop, EventBlock, HistogramBlock
from simulations.arrays import BoolArray, FloatArray
from simulations.errors import InputError
from simulations.fold import CellSums, FoldGeometry, Sight, VoxelExposure, without_spoilt
from simulations.instrument import Instrument
from simulations.likelihood import Trajectories, trace_trajectories

log = structlog.get_logger()

# Grows when the same events, pixels and settings fold to other bits than before.
FOLD_VERSION = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Can:
    """The can of a run: what was measured of it, or what is to be predicted; or neither."""

    runs: tuple[CanRun, ...] = ()
    predicted: PredictedCan | None = None

    @property
    def present(self) -> bool:
        """Whether chunks have a can."""
        return bool(self.runs) or self.predicted is not None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FoldedChunk:
    """What a closed dwell adds."""

    start: ChunkStart
    minutes: float
    proton_charge: float  # coulomb; 1 for reduced input
    account: EventAccount
    sums: CellSums
    exposure: VoxelExposure
    trajectories: Trajectories
    can: CellSums | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Foreseen:
    """What an orientation looks at and exposes, computed before its events are folded."""

    sight: Sight
    exposure: VoxelExposure  # for one coulomb
    trajectories: Trajectories  # for one coulomb

    def fits(self, psi_deg: float, instrument: Instrument) -> bool:
        """Whether it is that of this orientation and these pixels, to the last bit."""
        return self.sight.psi_deg == psi_deg and _same_pixels(self.sight.instrument, instrument)


def foresee(geometry: FoldGeometry, instrument: Instrument, psi_deg: float) -> Foreseen:
    """Compute what a dwell of events at this psi needs besides its events."""
    sight = geometry.sight(psi_deg, instrument)
    return Foreseen(sight=sight, exposure=sight.exposure(), trajectories=trajectories_of(sight))


def _same_pixels(one: Instrument, other: Instrument) -> bool:
    return one is other or all(
        np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(Instrument)
    )


class ChunkFold:
    """Sums of one open dwell. A fault in a block fails the dwell, never the run.

    Parameters
    ----------
    start : ChunkStart
    geometry : FoldGeometry
    instrument : Instrument
        Its pixels, with the experiment's mask.
    can : Can
    fault : str, optional
        Why the dwell cannot be folded, where that is known from the start.
    foreseen : Foreseen, optional
        Taken where it fits; the fold is the same.
    """

    def __init__(
        self,
        start: ChunkStart,
        *,
        geometry: FoldGeometry,
        instrument: Instrument,
        can: Can,
        fault: str | None = None,
        foreseen: Foreseen | None = None,
    ) -> None:
        self.start = start
        self.fault = fault
        self.reduced = False
        self.account = EventAccount()
        self._geometry, self._instrument, self._can = geometry, instrument, can
        self._signal, self._variance = np.zeros(geometry.shape), np.zeros(geometry.shape)
        self._counts = np.zeros(geometry.shape, dtype=np.int64)
        self._histogram = False
        self._sight: Sight | None = None
        fits = foreseen is not None and foreseen.fits(start.psi_deg, instrument)
        self._foreseen = foreseen if fits else None
        self._folded_can: FoldedCan | None = None

    @property
    def counts(self) -> NDArray[np.int64]:
        """Neutrons in every cell so far, (path_bins, energy_bins)."""
        return self._counts

    def take(self, block: EventBlock | HistogramBlock) -> None:
        """Add a block; a fault is noted and ends the adding."""
        if self.fault is not None:
            return
        try:
            if isinstance(block, EventBlock):
                self._events(block)
            else:
                self._take_histogram(block)
        except ValueError as error:
            self.fault = fault_of(error)

    def _events(self, block: EventBlock) -> None:
        if self._histogram:
            raise InputError("events after a histogram in one chunk; expected one kind per chunk")
        sight, pixel = self._look(), block.pixel
        if sight.skip is not None:
            pixel = without_spoilt(pixel, block.energy_transfer_meV, sight.view, sight.skip)
        self.account = self.account + fold_events(
            pixel,
            block.energy_transfer_meV,
            view=sight.view,
            voxels=self._geometry.voxels,
            counts=self._counts,
            crossings=sight.crossings,
        )

    def _take_histogram(self, block: HistogramBlock) -> None:
        if self._histogram or self._sight is not None:
            kind = "two histograms" if self._histogram else "a histogram after events"
            raise InputError(f"{kind} in one chunk; expected one kind of data, a histogram once")
        edges = np.asarray(block.energy_edges_meV, dtype=float)
        shape = (self._instrument.n_pixels, len(edges) - 1)
        if block.intensity.shape != shape:
            raise InputError(
                f"histogram has shape {block.intensity.shape}; expected {shape}, pixels x bins"
            )
        steps = self._geometry.histogram_steps(edges)
        given = histogram_input(block, steps, self._instrument)
        self.reduced = not given.counted
        sight = self._look(edges, given.unknown)
        account = fold_histogram_block(given, sight, signal=self._signal, variance=self._variance)
        self._histogram = True
        if given.counted:
            self._counts += np.rint(self._signal).astype(np.int64)
        skip = given.unknown if sight.skip is None else sight.skip
        self.account = self.account + given.account(
            account, self._signal, skip, self._instrument.masked
        )

    def _look(self, edges_meV: FloatArray | None = None, unknown: BoolArray | None = None) -> Sight:
        """What the dwell looks at, and its can there; made once."""
        if self._sight is not None:
            return self._sight
        fitting: list[CanRun] = []
        if self._can.runs:
            fitting = fitting_runs(
                self._can.runs, self._instrument, edges_meV, reduced=self.reduced
            )
            if unknown is not None and edges_meV is not None:
                steps = self._geometry.histogram_steps(edges_meV)
                unknown = unknown | unknown_pairs(fitting, steps, unknown.shape)
        if edges_meV is None and unknown is None and self._foreseen is not None:
            sight = self._foreseen.sight
        else:
            self._foreseen = None
            sight = self._geometry.sight(
                self.start.psi_deg, self._instrument, histogram_edges_meV=edges_meV, unknown=unknown
            )
        if fitting:
            self._folded_can = fold_can(fitting, sight)
        self._sight = sight
        return sight

    def close(self, stop: ChunkStop) -> FoldedChunk:
        """What the dwell adds.

        Raises
        ------
        InputError
            If it failed, messages of it were lost, or it has no proton charge.
        """
        fault = self.fault or self._fault_at(stop)
        if fault is not None:
            raise InputError(fault)
        try:
            sight = self._look()  # a chunk without any event still has exposure
            if self._foreseen is not None:
                exposure, trajectories = self._foreseen.exposure, self._foreseen.trajectories
            else:
                exposure = sight.exposure(reduced=self.reduced)
                trajectories = trajectories_of(sight, reduced=self.reduced)
        except ValueError as error:
            raise InputError(fault_of(error)) from error
        charge = 1.0 if self.reduced else stop.proton_charge
        exposure, trajectories = exposure.scaled(charge), trajectories.scaled(charge)
        weight, flat = self._geometry.path_sums(exposure)
        if self.reduced:
            signal, variance = self._signal, self._variance
            known = variance > 0
            counts = np.where(known, signal**2 / np.where(known, variance, 1.0), 0.0)
        else:
            counts = self._counts.astype(float)
            signal = variance = counts
        sums = CellSums(
            signal=signal,
            variance=variance,
            counts=counts,
            exposure=weight,
            flat=flat,
            gaussian=self.reduced,
        )
        can = None
        if self._folded_can is not None:
            can = self._folded_can.sums(weight / charge, flat / charge, gaussian=self.reduced)
        elif self._can.predicted is not None:
            can = expect_can(self._can.predicted, sight, sums, reduced=self.reduced)
        filtered = EventAccount(read=stop.filtered, filtered=stop.filtered)
        return FoldedChunk(
            start=self.start,
            minutes=stop.minutes if stop.minutes > 0 else 1.0,
            proton_charge=charge,
            account=self.account + filtered,
            sums=sums,
            exposure=exposure,
            trajectories=trajectories,
            can=can,
        )

    def _fault_at(self, stop: ChunkStop) -> str | None:
        if self.reduced:
            return None
        if not (np.isfinite(stop.proton_charge) and stop.proton_charge > 0):
            return f"proton charge is {stop.proton_charge}; expected a positive number of coulomb"
        if self.account.read + stop.filtered != stop.read:
            return (
                f"{self.account.read} events came and {stop.filtered} were filtered, but the "
                f"source read {stop.read}; expected the same number. Messages were lost: replay."
            )
        return None


def trajectories_of(sight: Sight, *, reduced: bool = False) -> Trajectories:
    """Stretches of trajectories inside the tubes for one coulomb of proton charge."""
    geometry = sight.geometry
    return trace_trajectories(
        view=sight.view,
        voxels=geometry.voxels,
        instrument=sight.instrument,
        energy=geometry.energy,
        displacement=geometry.displacement,
        reduced=reduced,
        skip=sight.skip,
        crossings=sight.crossings,
    )


def fault_of(error: ValueError) -> str:
    """Why a dwell is set aside, and whose fault it is."""
    if isinstance(error, InputError):
        return str(error)
    log.error("fold_fault", fault=repr(error))
    return f"a fault of Beamsteer, not of the data ({error}); report it with the file"
