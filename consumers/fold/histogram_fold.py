"""Histograms into sums: what of a block counts, with which weight, and where the rest went.

The one place where a histogram of counts and one of reduced intensity are told apart: samples, cans
and powders fold through it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from consumers.fold.folding import EventAccount, fold_histogram
from consumers.fold.messages import HistogramBlock
from simulations.arrays import BoolArray, FloatArray
from simulations.fold import Sight
from simulations.instrument import Instrument


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HistogramInput:
    """A histogram on the steps of a view, ready to be added."""

    values: FloatArray  # (pixels, bins) counts or intensity, bins outside the axis too
    inside: FloatArray  # (pixels, steps) of them
    errors: FloatArray  # (pixels, steps)
    weight: FloatArray  # (pixels, steps) those that make D
    unknown: BoolArray  # (pixels, steps) pairs of which it says nothing
    counted: bool  # raw counts; else reduced intensity
    steps: slice  # bins inside the energy axis
    absent: BoolArray | None  # (pixels, bins) pairs that nobody recorded

    def account(
        self, folded: EventAccount, signal: FloatArray, skip: BoolArray, masked: BoolArray
    ) -> EventAccount:
        """Where its counts went, or its (pixel, bin) pairs where it is reduced.

        Pairs that are absent are unknown, so they are skipped, and they count nowhere.

        Parameters
        ----------
        folded : EventAccount
            Of pairs, as the fold tells it.
        signal : (path_bins, energy_bins)
            S of this histogram alone.
        skip : (pixels, steps) bool
            Pairs that counted nowhere.
        masked : (pixels,) bool
        """
        if not self.counted:
            read, within = self.values.size, skip.size
            if self.absent is not None:
                read -= int(self.absent.sum())
                within -= int(self.absent[:, self.steps].sum())
            return replace(
                folded,
                read=read,
                outside_energy=read - within,
                masked=folded.masked - (skip.size - within),
            )
        total, inside = int(self.values.sum()), int(self.inside.sum())
        kept = int(signal.sum())
        blocked = int(self.inside[skip | masked[:, None]].sum())
        return EventAccount(
            read=total,
            folded=kept,
            masked=blocked,
            outside_energy=total - inside,
            outside_path=inside - kept - blocked,
        )


def histogram_input(
    block: HistogramBlock,
    steps: slice,
    instrument: Instrument,
    edges_meV: FloatArray | None = None,
) -> HistogramInput:
    """Take a block to the steps of a view.

    Parameters
    ----------
    block : HistogramBlock
    steps : slice
        Bins inside the energy axis, from ``histogram_range``.
    instrument : Instrument
        Its solid angles weigh reduced intensity.
    edges_meV : (bins + 1,), optional
        Of the chunk that the block goes with, in the place of its own.
    """
    known = np.isfinite(block.intensity)
    counted = block.counts is not None
    if counted:
        values = np.asarray(block.counts, dtype=float)
        errors = np.sqrt(values)
        weight = np.ones((values.shape[0], steps.stop - steps.start))
    else:
        values, errors = block.intensity, block.error
        # who tells what is absent has measured the rest, an error of 0 included
        known &= np.isfinite(errors) & ((errors > 0) | (block.absent is not None))
        edges = block.energy_edges_meV if edges_meV is None else edges_meV
        weight = instrument.solid_angle_sr[:, None] * np.diff(np.asarray(edges, dtype=float))[steps]
    return HistogramInput(
        values=values,
        inside=values[:, steps],
        errors=errors[:, steps],
        weight=weight,
        unknown=~known[:, steps],
        counted=counted,
        steps=steps,
        absent=block.absent,
    )


def fold_histogram_block(
    given: HistogramInput, sight: Sight, *, signal: FloatArray, variance: FloatArray
) -> EventAccount:
    """Add a histogram to S and V in place; returns the account of its (pixel, bin) pairs.

    The sight must have been made with the histogram's edges and with what is unknown of it.
    """
    if sight.skip is None:
        raise ValueError("sight skips nothing; expected one made with the histogram's own edges")
    return fold_histogram(
        given.inside,
        given.errors,
        weight=given.weight,
        skip=sight.skip,
        view=sight.view,
        voxels=sight.geometry.voxels,
        signal=signal,
        variance=variance,
    )
