"""The empty can, folded anew at the psi of every chunk of the sample.

A can does not turn with the crystal, so its neutrons serve every orientation. They are folded with
what the sample's chunk looks at: the can has the support of the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from consumers.fold.folding import fold_events
from consumers.fold.histogram_fold import fold_histogram_block, histogram_input
from consumers.fold.messages import HistogramBlock
from simulations.arrays import FloatArray
from simulations.errors import InputError
from simulations.fold import CellSums, Sight, predicted_can, without_spoilt
from simulations.instrument import Instrument

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


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictedCan:
    """A can that was not measured: cubic metal powder around the sample."""

    material: str
    atoms: float  # in the beam, per primitive cell of the sample
    relative_sigma: float  # of its strength
    temperature_K: float


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
    InputError
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
        raise InputError(
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


def fold_can(runs: Sequence[CanRun], sight: Sight) -> FoldedCan:
    """Fold fitting runs of the can (see ``fitting_runs``) as the sample's chunk is folded."""
    shape = sight.geometry.shape
    signal, variance = np.zeros(shape), np.zeros(shape)
    counts = np.zeros(shape, dtype=np.int64)
    for run in runs:
        if run.histogram is not None:
            edges = sight.histogram_edges_meV
            if edges is None:
                raise InputError("a histogram of the can needs the energy bins of the sample's")
            steps = sight.geometry.histogram_steps(edges)
            given = histogram_input(run.histogram, steps, sight.instrument, edges)
            fold_histogram_block(given, sight, signal=signal, variance=variance)
            continue
        for first in range(0, len(run.pixel), FOLDED_AT_ONCE):
            part = slice(first, first + FOLDED_AT_ONCE)
            pixel = run.pixel[part]
            energy = run.energy_transfer_meV[part].astype(np.float64)
            if sight.skip is not None:
                pixel = without_spoilt(pixel, energy, sight.view, sight.skip)
            fold_events(
                pixel,
                energy,
                view=sight.view,
                voxels=sight.geometry.voxels,
                counts=counts,
                crossings=sight.crossings,
            )
    return FoldedCan(
        signal=signal + counts,
        variance=variance + counts,
        proton_charge=float(sum(run.proton_charge for run in runs)),
    )


def expect_can(can: PredictedCan, sight: Sight, sums: CellSums, *, reduced: bool) -> CellSums:
    """Predicted can on the cells of one chunk, in the place of a measured one.

    Returns
    -------
    CellSums
        ``S/D`` is barn/meV/sr per primitive cell of the sample: it still lacks the sample's scale.
    """
    geometry = sight.geometry
    predicted = predicted_can(
        view=sight.view,
        voxels=geometry.voxels,
        energy=geometry.energy,
        instrument=replace(sight.instrument, resolution=geometry.resolution),
        ei_meV=geometry.ei_meV,
        material=can.material,
        scale=can.atoms,
        temperature_K=can.temperature_K,
        relative_sigma=can.relative_sigma,
        reduced=reduced,
        skip=sight.skip,
    )
    signal = np.where(predicted.known, predicted.intensity * sums.exposure, 0.0)
    return CellSums(
        signal=signal,
        variance=np.where(predicted.known, predicted.variance * sums.exposure**2, 0.0),
        counts=signal,
        exposure=sums.exposure,
        flat=np.zeros_like(signal),
        gaussian=sums.gaussian,
    )
