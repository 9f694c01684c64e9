"""The empty can in a run's sums: as the likelihood takes it, and as people see it taken off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from consumers.state import ClosedChunk
from simulations.fold import CanRate, CellSums, can_share, likelihood_of_can


@dataclass(frozen=True, kw_only=True, slots=True)
class CanTerms:
    """What a run has of a can."""

    present: bool
    measured: bool  # else it is predicted, and the estimate gives it its scale
    transmission: float  # share of its signal that the sample lets through

    def of_chunks(
        self, chunks: Sequence[ClosedChunk], *, cell_by_cell: bool = False
    ) -> list[tuple[CellSums, CanRate | None]]:
        """Sums of every chunk as the likelihood takes them, and the expected rate of its can.

        Events of the can serve all orientations, which an estimate must count with. Within a cell
        only chunks at one psi share them: ``cell_by_cell`` gives the errors to judge cells by.
        """
        if not self.present:
            return [(c.sums, None) for c in chunks]
        if not self.measured:
            return [
                (c.sums, CanRate(shape=self.transmission * c.can.signal, fixed=None))
                for c in chunks
                if c.can is not None
            ]
        share = [
            0.0 if c.can is None else float(can_share(c.sums, c.can, self.transmission).max())
            for c in chunks
        ]
        angle = [round(c.psi_deg, 3) for c in chunks]
        return [
            likelihood_of_can(
                c.sums,
                c.can,
                transmission=self.transmission,
                total_share=sum(
                    s for s, a in zip(share, angle, strict=True) if not cell_by_cell or a == psi
                ),
            )
            for c, psi in zip(chunks, angle, strict=True)
            if c.can is not None
        ]

    def net(
        self, chunks: Sequence[ClosedChunk], total: CellSums, can_scale: float | None
    ) -> CellSums:
        """All chunks together without their can: what is shown, never what is fitted.

        The variance is that of the sample plus that of the can, as if a cell's counts of the can
        were the same in every chunk that sees it: an upper bound. A predicted can is subtracted
        from the first estimate on, which gives it its scale.

        Parameters
        ----------
        chunks : sequence of ClosedChunk
        total : CellSums
            Of all of them.
        can_scale : float, optional
            See ``scale``.
        """
        scale = self.scale(can_scale)
        if not self.present or scale is None or not chunks:
            return total
        signal, variance = total.signal, total.variance
        share, spread = np.zeros_like(signal), np.zeros_like(signal)
        for chunk in chunks:
            if chunk.can is not None:
                each = can_share(chunk.sums, chunk.can, scale)
                signal = signal - each * chunk.can.signal
                share = share + each
                spread = spread + each * chunk.can.variance
        return replace(total, signal=signal, variance=variance + share * spread, gaussian=True)

    def scale(self, can_scale: float | None) -> float | None:
        """What the can's sums are multiplied with to be subtracted; None: not known yet.

        ``can_scale`` is what an estimate found of a predicted can, None before the first.
        """
        if self.measured:
            return self.transmission
        if can_scale is None or not self.present:
            return None
        return self.transmission * can_scale


def can_alone(chunks: Sequence[ClosedChunk]) -> CellSums | None:
    """Sums of the can alone, scaled chunk by chunk to the sample's exposure; None without."""
    total = None
    for chunk in chunks:
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
