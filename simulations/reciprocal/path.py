"""The path through reciprocal space that the data is folded onto, and its energy axis."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from simulations.arrays import FloatArray, IntArray
from simulations.crystal import Crystal
from simulations.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Path:
    """Straight segments in r.l.u. of the conventional cell, each cut into bins of equal length.

    The bins of all segments are numbered through; segments may jump (``U|K``).
    """

    start_hkl: FloatArray  # (segments, 3)
    end_hkl: FloatArray  # (segments, 3)
    labels: tuple[tuple[str, str], ...]  # (segments,) names of start and end
    bins: tuple[int, ...]  # (segments,) bins per segment

    def __post_init__(self) -> None:
        """Refuse what cannot be a path."""
        if len(self.bins) != len(self.start_hkl) or len(self.labels) != len(self.start_hkl):
            raise InputError(
                f"path has {len(self.start_hkl)} segments, {len(self.bins)} bin counts and "
                f"{len(self.labels)} label pairs; expected as many of each"
            )
        if min(self.bins) < 1:
            raise InputError(f"path.bins is {self.bins}; expected at least 1 bin per segment")

    @property
    def n_bins(self) -> int:
        """Bins of all segments together."""
        return sum(self.bins)

    @property
    def first_bin(self) -> IntArray:
        """Number of the first bin of every segment, (segments,)."""
        return np.concatenate([[0], np.cumsum(self.bins)[:-1]])

    def centres_hkl(self) -> FloatArray:
        """Centres of all bins in r.l.u., (n_bins, 3)."""
        return np.concatenate(
            [
                a + (np.arange(n)[:, None] + 0.5) / n * (b - a)
                for a, b, n in zip(self.start_hkl, self.end_hkl, self.bins, strict=True)
            ]
        )

    def position(self, reciprocal: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Length along the path: centres (n_bins,) and segment ends (segments + 1,), 1/angstrom.

        ``reciprocal`` holds the conventional reciprocal vectors in rows, 1/angstrom.
        """
        lengths = np.linalg.norm((self.end_hkl - self.start_hkl) @ reciprocal, axis=1)
        ends = np.concatenate([[0.0], np.cumsum(lengths)])
        centres = np.concatenate(
            [
                start + (np.arange(n) + 0.5) / n * length
                for start, length, n in zip(ends[:-1], lengths, self.bins, strict=True)
            ]
        )
        return centres, ends


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EnergyAxis:
    """Energy-transfer bins, each cut into equal sub-steps.

    An event is looked up by the sub-step it falls into, never by its continuous energy, so that
    counts and exposure have the same support.
    """

    edges_meV: FloatArray  # (bins + 1,) ascending, uniform
    substeps: int = 4  # per bin

    def __post_init__(self) -> None:
        """Refuse axes that are not ascending and uniform."""
        steps = np.diff(self.edges_meV)
        if len(steps) < 1 or not np.all(steps > 0) or np.ptp(steps) > 1e-6 * steps[0]:
            raise InputError("energy axis edges must ascend in equal steps")
        if self.substeps < 1:
            raise InputError(f"energy.substeps is {self.substeps}; expected at least 1")

    @property
    def n_bins(self) -> int:
        """Number of bins."""
        return len(self.edges_meV) - 1

    @property
    def step_meV(self) -> float:
        """Width of a bin."""
        return float((self.edges_meV[-1] - self.edges_meV[0]) / self.n_bins)

    @property
    def centres_meV(self) -> FloatArray:
        """Bin centres, (bins,)."""
        return 0.5 * (self.edges_meV[1:] + self.edges_meV[:-1])

    def beyond(self, ei_meV: float) -> tuple[str, ...]:
        """Words on bins that neutrons of an incident energy never reach, if there are any."""
        if self.edges_meV[-1] <= ei_meV:
            return ()
        return (
            f"path.energy ends at {self.edges_meV[-1]:g} meV, and a neutron of {ei_meV:g} meV "
            "loses no more than it has: bins above are never measured",
        )

    @property
    def substep_edges_meV(self) -> FloatArray:
        """Edges of all sub-steps, (bins * substeps + 1,)."""
        return np.linspace(self.edges_meV[0], self.edges_meV[-1], self.n_bins * self.substeps + 1)

    def reachable_bins(self, ei_meV: float, smallest_kf_fraction: float = 0.15) -> int:
        """Bins from the bottom whose upper edge leaves ``kf >= fraction * ki``."""
        highest = ei_meV * (1 - smallest_kf_fraction**2)
        return int(np.searchsorted(self.edges_meV[1:], highest + 1e-9, side="right"))


def seekpath_segments(crystal: Crystal, step_rlu: float) -> Path:
    """Standard high-symmetry path of a crystal, in r.l.u. of its conventional cell.

    Parameters
    ----------
    crystal : Crystal
    step_rlu : float
        Bin length in the leading component of each segment.

    References
    ----------
    Y. Hinuma et al., Comput. Mater. Sci. 128, 140 (2017); by the seekpath package.
    """
    import seekpath

    numbers = [sorted(set(crystal.symbols)).index(s) + 1 for s in crystal.symbols]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # seekpath calls spglib the old way
        found = seekpath.get_path_orig_cell((crystal.lattice, crystal.positions, numbers))
    to_hkl = crystal.reciprocal @ np.linalg.inv(crystal.conventional_reciprocal)
    starts, ends, labels, bins = [], [], [], []
    for first, second in found["path"]:
        a = np.asarray(found["point_coords"][first]) @ to_hkl
        b = np.asarray(found["point_coords"][second]) @ to_hkl
        starts.append(a)
        ends.append(b)
        labels.append((first.capitalize(), second.capitalize()))
        bins.append(max(1, round(float(np.abs(b - a).max()) / step_rlu)))
    return Path(
        start_hkl=np.array(starts), end_hkl=np.array(ends), labels=tuple(labels), bins=tuple(bins)
    )
