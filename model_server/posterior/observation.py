"""Counts of an orientation with what they were taken under, and the cells of them that count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

from simulations.arrays import BoolArray, FloatArray
from simulations.fold import CanRate, CellSums, VoxelExposure
from simulations.likelihood import Drift, Trajectories


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Observation:
    """Counts of one orientation with the exposure they were taken under."""

    sums: CellSums
    exposure: Callable[[], VoxelExposure]  # loads or computes; not kept between calls
    trajectories: Callable[[], Trajectories] | None = None  # for the exact rate, likewise
    key: str = ""  # names the orientation; its exact rate is kept between fits
    drift: Callable[[], Drift] | None = None  # of its neutrons, where the set-up may be off
    can: CanRate | None = None  # what the empty can adds; ``sums`` are then those that go with it
    parts: tuple[FloatArray, ...] = ()  # (path_bins, energy_bins) each: `ExpectedPart.rate`


def usable_cells(
    sums: CellSums, energy_centres_meV: FloatArray, elastic_cut_meV: float
) -> BoolArray:
    """Exposed cells on the energy-loss side of the elastic band; reduced ones need an error."""
    use = (sums.exposure > 0) & (energy_centres_meV > elastic_cut_meV)[None, :]
    if sums.gaussian:
        use &= sums.variance > 0
    return use


def pool(observations: Sequence[Observation]) -> Observation:
    """All orientations as one; exact for the coverage tensor, loses some information."""
    sums = observations[0].sums
    exposure = observations[0].exposure()
    can, parts = observations[0].can, observations[0].parts
    for other in observations[1:]:
        sums = sums + other.sums
        exposure = exposure + other.exposure()
        can = None if can is None or other.can is None else can + other.can
        parts = tuple(a + b for a, b in zip(parts, other.parts, strict=True))
    drifts = [o.drift() for o in observations if o.drift is not None]
    drift = reduce(add, drifts) if len(drifts) == len(observations) else None
    return Observation(
        sums=sums,
        exposure=lambda: exposure,
        can=can,
        parts=parts,
        drift=None if drift is None else lambda: drift,
    )
