"""The empty can of an experiment, folded anew at the psi of every chunk of the sample.

A can does not turn with the crystal, so its neutrons serve every orientation. They are folded with
the pixels, masks and voxel map of the sample's chunk: the can has the support of the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from consumers.folding import fold_events, fold_histogram
from consumers.message import ChunkStart, ChunkStop, EventBlock, HistogramBlock, SetAside
from consumers.recorded import recorded_source
from simulations.background import predicted_can, without_spoilt
from simulations.cell_sums import CellSums
from simulations.exposure import Crossings, PixelView, histogram_range
from simulations.instrument import Instrument
from steering.measurement import EI_TOLERANCE, Measurement

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

MOVED_M = 1e-3  # a can whose pixels stand further away was measured with another setting
FOLDED_AT_ONCE = 4_000_000  # events


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CanRun:
    """One recorded run of the can alone: events, or a histogram."""

    name: str
    position_m: FloatArray  # (pixels, 3)
    proton_charge: float  # coulomb
    pixel: NDArray[np.int32]  # (events,)
    energy_transfer_meV: NDArray[np.float32]  # (events,)
    histogram: HistogramBlock | None = None

    @property
    def kind(self) -> str:
        """``events``, ``counts`` (a histogram of them) or ``reduced``."""
        if self.histogram is None:
            return "events"
        return "reduced" if self.histogram.counts is None else "counts"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FoldedCan:
    """The can on the cells of one orientation, without its exposure."""

    signal: FloatArray  # (path_bins, energy_bins)
    variance: FloatArray
    proton_charge: float  # coulomb; 1 for reduced input

    def sums(self, exposure: FloatArray, flat: FloatArray, *, gaussian: bool) -> CellSums:
        """With the exposures of one coulomb, which are those of the sample."""
        known = self.variance > 0
        counts = np.where(known, self.signal**2 / np.where(known, self.variance, 1.0), 0.0)
        return CellSums(
            signal=self.signal,
            variance=self.variance,
            counts=counts if gaussian else self.signal,
            exposure=exposure * self.proton_charge,
            flat=flat * self.proton_charge,
            gaussian=gaussian,
        )


def read_can(measurement: Measurement) -> tuple[CanRun, ...]:
    """Recorded runs of the empty can that the experiment names; none if it names none.

    Events stay in memory, 8 bytes each.

    Raises
    ------
    ValueError
        If there is no such file, or one cannot be read or was measured with another Ei.
    """
    experiment = measurement.experiment
    pattern = experiment.background.can
    if pattern is None:
        return ()
    at = measurement.folder / pattern
    files = sorted(Path(at.anchor).glob(str(at.relative_to(at.anchor))))
    if not files:
        raise ValueError(
            f"background.can is {pattern!r}, which no file in {measurement.folder} matches; "
            "expected files of the empty can. Correct the pattern."
        )
    return tuple(_read(measurement, file) for file in files)


def _read(measurement: Measurement, file: Path) -> CanRun:
    experiment = measurement.experiment
    source = recorded_source(
        [file],
        run="can",
        psi_log=experiment.source.psi_log,
        psi_deg=0.0,  # of a file that has none; the can's own psi is not used
        ei_meV=experiment.source.ei_meV,
        t0_us=experiment.source.t0_us,
        nominal_ei_meV=experiment.instrument.ei_meV,
    )
    start, stop, histogram = None, None, None
    pixels: list[NDArray[np.int32]] = []
    energies: list[NDArray[np.float32]] = []
    for message in source.messages():
        payload = message.payload
        if isinstance(payload, SetAside):
            raise ValueError(f"background.can: {payload.origin}: {payload.reason}")
        if isinstance(payload, ChunkStart):
            start = payload
        elif isinstance(payload, EventBlock):
            pixels.append(np.asarray(payload.pixel, dtype=np.int32))
            energies.append(payload.energy_transfer_meV.astype(np.float32))
        elif isinstance(payload, HistogramBlock):
            histogram = payload
        else:
            stop = payload
    if start is None or stop is None:
        raise ValueError(f"background.can: {file}: holds no complete chunk; expected one")
    expected = experiment.instrument.ei_meV
    if abs(start.ei_meV - expected) > EI_TOLERANCE * expected:
        raise ValueError(
            f"background.can: {file}: Ei is {start.ei_meV:g} meV; expected {expected:g} meV within "
            f"{EI_TOLERANCE:.0%}, that of the sample. Name a can measured with it."
        )
    charge = _charge(file, stop, reduced=histogram is not None and histogram.counts is None)
    instrument = measurement.instrument if start.geometry is None else start.geometry
    return CanRun(
        name=file.name,
        position_m=instrument.position_m,
        proton_charge=charge,
        pixel=np.concatenate(pixels) if pixels else np.zeros(0, np.int32),
        energy_transfer_meV=np.concatenate(energies) if energies else np.zeros(0, np.float32),
        histogram=histogram,
    )


def _charge(file: Path, stop: ChunkStop, *, reduced: bool) -> float:
    if reduced:
        return 1.0
    if not (np.isfinite(stop.proton_charge) and stop.proton_charge > 0):
        raise ValueError(
            f"background.can: {file}: proton charge is {stop.proton_charge}; expected a positive "
            "number of coulomb, to scale the can by"
        )
    return stop.proton_charge


def fitting_runs(
    runs: Sequence[CanRun], instrument: Instrument, edges_meV: FloatArray | None, *, reduced: bool
) -> list[CanRun]:
    """Runs of the can that were measured with the pixels and in the form of a sample's chunk.

    Parameters
    ----------
    runs : sequence of CanRun
    instrument : Instrument
        Pixels of the sample's chunk.
    edges_meV : (bins + 1,), optional
        Of a histogram; None: events.
    reduced : bool
        Whether the sample's histogram holds reduced intensity.

    Raises
    ------
    ValueError
        If there is none.
    """
    faults, fitting = [], []
    for run in runs:
        fault = _unfit(run, instrument, edges_meV, reduced=reduced)
        if fault is None:
            fitting.append(run)
        else:
            faults.append(f"{run.name}: {fault}")
    if not fitting or (reduced and len(fitting) > 1):
        told = "; ".join(faults) or f"{len(fitting)} runs of reduced intensity; expected one"
        raise ValueError(
            f"no run of background.can goes with this chunk ({told}). Name one measured and "
            "reduced as the chunk is, or leave the can out."
        )
    return fitting


def _unfit(
    run: CanRun, instrument: Instrument, edges_meV: FloatArray | None, *, reduced: bool
) -> str | None:
    if run.position_m.shape != instrument.position_m.shape:
        return f"has {len(run.position_m)} pixels; expected {instrument.n_pixels}"
    off = float(np.max(np.abs(run.position_m - instrument.position_m), initial=0.0))
    if off > MOVED_M:
        return f"its pixels are up to {off:.3g} m away; expected those of the chunk"
    if (run.kind == "reduced") != reduced:
        return f"holds {run.kind}; expected {'reduced intensity' if reduced else 'raw counts'}"
    if run.histogram is None:
        return None
    if edges_meV is None:
        return "is a histogram; expected events, as of the sample"
    own = run.histogram.energy_edges_meV
    if own.shape != edges_meV.shape or not np.allclose(own, edges_meV, rtol=0, atol=1e-6):
        return "has other energy bins; expected those of the chunk"
    return None


def unknown_pairs(
    runs: Sequence[CanRun], steps: slice, shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """(pixel, step) pairs where a histogram of the can says nothing; the sample must skip them."""
    unknown = np.zeros(shape, dtype=bool)
    for run in runs:
        if run.histogram is not None:
            known = np.isfinite(run.histogram.intensity)
            if run.kind == "reduced":
                known &= np.isfinite(run.histogram.error) & (run.histogram.error > 0)
            unknown |= ~known[:, steps]
    return unknown


def fold_can(
    runs: Sequence[CanRun],
    *,
    measurement: Measurement,
    instrument: Instrument,
    view: PixelView,
    skip: BoolArray | None,
    edges_meV: FloatArray | None = None,
    crossings: Crossings | None = None,
) -> FoldedCan:
    """Fold fitting runs of the can as the sample's chunk is folded.

    Parameters
    ----------
    runs : sequence of CanRun
        From ``fitting_runs``.
    measurement, instrument, view, skip, edges_meV, crossings
        As the sample's chunk is folded.
    """
    shape = (measurement.path.n_bins, measurement.energy.n_bins)
    signal, variance = np.zeros(shape), np.zeros(shape)
    counts = np.zeros(shape, dtype=np.int64)
    for run in runs:
        if run.histogram is not None:
            _fold_histogram(run, measurement, instrument, view, skip, edges_meV, signal, variance)
            continue
        for first in range(0, len(run.pixel), FOLDED_AT_ONCE):
            part = slice(first, first + FOLDED_AT_ONCE)
            pixel = run.pixel[part]
            energy = run.energy_transfer_meV[part].astype(np.float64)
            if skip is not None:
                pixel = without_spoilt(pixel, energy, view, skip)
            fold_events(
                pixel,
                energy,
                view=view,
                voxels=measurement.voxels,
                counts=counts,
                crossings=crossings,
            )
    return FoldedCan(
        signal=signal + counts,
        variance=variance + counts,
        proton_charge=float(sum(run.proton_charge for run in runs)),
    )


def _fold_histogram(
    run: CanRun,
    measurement: Measurement,
    instrument: Instrument,
    view: PixelView,
    skip: BoolArray | None,
    edges_meV: FloatArray | None,
    signal: FloatArray,
    variance: FloatArray,
) -> None:
    block = run.histogram
    if block is None or edges_meV is None or skip is None:
        raise ValueError("a histogram of the can needs the energy bins of the sample's")
    steps = histogram_range(edges_meV, measurement.energy, measurement.ei_meV)
    if block.counts is not None:
        values = np.asarray(block.counts, dtype=float)
        errors, weight = np.sqrt(values), np.ones(skip.shape)
    else:
        values, errors = block.intensity, block.error
        weight = instrument.solid_angle_sr[:, None] * np.diff(edges_meV)[steps]
    fold_histogram(
        values[:, steps],
        errors[:, steps],
        weight=weight,
        skip=skip,
        view=view,
        voxels=measurement.voxels,
        signal=signal,
        variance=variance,
    )


def expect_can(
    measurement: Measurement,
    instrument: Instrument,
    view: PixelView,
    sums: CellSums,
    skip: BoolArray | None,
    *,
    reduced: bool,
) -> CellSums:
    """Predicted can on the cells of one chunk, in the place of a measured one.

    Returns
    -------
    CellSums
        ``S/D`` is barn/meV/sr per primitive cell of the sample: it still lacks the sample's scale.
    """
    section = measurement.experiment.background
    if section.can_material is None or section.can_atoms is None or section.can_sigma is None:
        raise ValueError("background names no can to predict; expected can_material and can_atoms")
    can = predicted_can(
        view=view,
        voxels=measurement.voxels,
        energy=measurement.energy,
        instrument=replace(instrument, resolution=measurement.instrument.resolution),
        ei_meV=measurement.ei_meV,
        material=section.can_material,
        scale=section.can_atoms,
        temperature_K=measurement.experiment.sample.temperature_K,
        relative_sigma=section.can_sigma,
        reduced=reduced,
        skip=skip,
    )
    signal = np.where(can.known, can.intensity * sums.exposure, 0.0)
    return CellSums(
        signal=signal,
        variance=np.where(can.known, can.variance * sums.exposure**2, 0.0),
        counts=signal,
        exposure=sums.exposure,
        flat=np.zeros_like(signal),
        gaussian=sums.gaussian,
    )
