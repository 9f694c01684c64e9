"""Which parts of the path every orientation reaches: measured ones, and those that are advised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from simulations.arrays import BoolArray, FloatArray, IntArray
from steering.advice import Advice
from steering.experiment import Measurement
from steering.run.actions import SAME_DEG
from steering.run.ledger import ChunkLedger

MOST_MEASURED = 60  # orientations; of more, that many spread evenly over psi
MOST_ADVISED = 10


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reach:
    """Share of the energies within reach of Ei that an orientation sees of every path bin."""

    psi_deg: FloatArray  # (orientations,)
    rank: IntArray  # (orientations,) 0: measured; 1: advised first, and so on
    share: FloatArray  # (orientations, bins) 0 to 1
    measured: int  # different psi, those left out included


def reach_of(
    measurement: Measurement,
    ledger: ChunkLedger,
    advice: Sequence[Advice] = (),
    exposure_at: Callable[[float], FloatArray | None] = lambda _: None,
) -> Reach:
    """What the chunks of a run have seen, by psi, and what the advised orientations would see.

    Parameters
    ----------
    measurement : Measurement
    ledger : ChunkLedger
    advice : sequence of Advice
        Best first.
    exposure_at : callable
        D of an orientation, (path bins, energy bins) of any scale; None: it was never computed.
    """
    within = measurement.energy.reachable_bins(measurement.ei_meV)
    seen: dict[float, BoolArray] = {}
    for chunk in ledger.chunks:
        psi = next((p for p in seen if abs(p - chunk.psi_deg) <= SAME_DEG), chunk.psi_deg)
        reached = chunk.sums.exposure[:, :within] > 0
        seen[psi] = reached if psi not in seen else seen[psi] | reached
    angles = sorted(seen)
    shown = angles
    if len(angles) > MOST_MEASURED:
        places = np.linspace(0, len(angles) - 1, MOST_MEASURED).round().astype(int)
        shown = [angles[int(k)] for k in places]
    rows = [(psi, 0, seen[psi].mean(axis=1)) for psi in shown]
    for rank, one in enumerate(advice[:MOST_ADVISED], start=1):
        exposure = exposure_at(one.psi_deg)
        if exposure is not None:
            rows.append((one.psi_deg, rank, (exposure[:, :within] > 0).mean(axis=1)))
    bins = measurement.geometry.shape[0]
    return Reach(
        psi_deg=np.array([psi for psi, _, _ in rows]),
        rank=np.array([rank for _, rank, _ in rows], dtype=np.int64),
        share=np.array([share for _, _, share in rows]).reshape(len(rows), bins),
        measured=len(angles),
    )
