"""How far members are off on formulas that they never saw, and when a crystal is far from those.

Bands are those of ``model_server.direct.bands``, counted on crystals that took no part in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from model_server.direct.bands import BandCase, Bands, conformal_bands, held
from model_server.direct.bins import energy_edges_meV
from model_server.direct.members import MemberDensities
from simulations.arrays import FloatArray, IntArray

FAR_SHARE = 0.03
"""Share of crystals like those of the calibration that may be called far."""
RARE = 5
"""An element of fewer training crystals counts as unknown, where that is seldom so."""
_KEPT = 16  # directions of the latent space
_REFERENCES = 4000  # atoms


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Judged:
    """A crystal whose density is known, and what the members say of it."""

    said: MemberDensities
    true: FloatArray  # (bins,) shares of the crystal
    numbers: IntArray  # (atoms,)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Calibration:
    """Factors of the bands and of the distance; made by `calibrate`."""

    bands: Bands
    energy_low: float  # predicted / true - 1 of the mean energy, 5 % quantile
    energy_high: float  # 95 %
    far: float  # distance above which a crystal is far
    distance_scale: float
    disagreement_scale: float
    seen: IntArray  # (elements + 1,) training crystals of each
    rare_below: int  # training crystals; an element of fewer is rare
    most_atoms: int  # of a crystal that was tried
    alone: tuple[int, ...]  # elements of which training had a crystal that holds nothing else
    latent_mean: FloatArray  # (readout,)
    latent_axes: FloatArray  # (readout, kept), each of width 1 over the training set
    references: FloatArray  # (atoms, kept)

    def band(self, said: MemberDensities) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest share per band at `LEVEL`, each (BINS / 2,)."""
        return self.bands.around(said.total, said.totals)

    def distance(self, said: MemberDensities) -> float:
        """How far a crystal lies from the training set: 1 is usual for unseen formulas."""
        place = (said.latent - self.latent_mean) @ self.latent_axes
        return float(
            max(
                np.mean(_nearest(place, self.references)) / self.distance_scale,
                said.disagreement / self.disagreement_scale,
            )
        )

    def rare(self, numbers: IntArray) -> tuple[int, ...]:
        """Atomic numbers that training hardly or never saw."""
        return tuple(int(n) for n in np.unique(numbers) if self.seen[n] < self.rare_below)

    def lonely(self, numbers: IntArray) -> bool:
        """Whether a crystal is of one element alone, of which training had none such.

        Compounds tell networks little about them: of metals energies come out up to 40 % off.
        """
        return _lonely(numbers, self.alone)

    def is_far(self, said: MemberDensities, numbers: IntArray) -> bool:
        """Whether a crystal is unlike those of training, so that bands do not hold for it."""
        return bool(self.rare(numbers)) or self.lonely(numbers) or self.distance(said) > self.far


def covered(calibration: Calibration, judged: Judged) -> float:
    """Share of the judged bands of a crystal whose true intensity lies in its band."""
    return held(calibration.bands, _case(judged))


def _case(judged: Judged) -> BandCase:
    return BandCase(total=judged.said.total, totals=judged.said.totals, true=judged.true)


def mean_energy(shares: FloatArray) -> float:
    """Mean energy of the modes, meV."""
    edges = energy_edges_meV()
    return float(shares @ (0.5 * (edges[1:] + edges[:-1])))


def calibrate(
    judged: Sequence[Judged],
    training_latent: Sequence[FloatArray],
    training_numbers: Sequence[IntArray],
    most_atoms: int,
    seed: int = 0,
) -> Calibration:
    """Make bands and distances of crystals that took no part in training.

    Parameters
    ----------
    judged : sequence of Judged
        Of formulas that are not in training.
    training_latent : sequence of (atoms, readout) float64
        Of the first member, a crystal each.
    training_numbers : sequence of (atoms,) int64
    most_atoms : int
        In the largest crystal that was tried.
    seed : int
        Of the choice of references.

    Raises
    ------
    ValueError
        If there are fewer than 20 crystals to judge by.
    """
    if len(judged) < 20:
        raise ValueError(f"{len(judged)} crystals for calibration; expected at least 20")
    bands = conformal_bands([_case(one) for one in judged])
    off = [mean_energy(one.said.total) / mean_energy(one.true) - 1 for one in judged]
    low, high = np.quantile(off, [0.05, 0.95])

    latent = np.concatenate(list(training_latent))
    mean = latent.mean(axis=0)
    _, values, axes = np.linalg.svd(latent - mean, full_matrices=False)
    kept = min(_KEPT, int(np.count_nonzero(values > 1e-6 * values[0])))
    axes = axes[:kept].T / (values[:kept] / np.sqrt(len(latent)))
    chosen = np.random.default_rng(seed).permutation(len(latent))[:_REFERENCES]
    references = (latent[chosen] - mean) @ axes
    near = np.array(
        [np.mean(_nearest((one.said.latent - mean) @ axes, references)) for one in judged]
    )
    differ = np.array([one.said.disagreement for one in judged])
    seen = np.zeros(101, dtype=np.int64)
    for numbers in training_numbers:
        seen[np.unique(numbers)] += 1
    alone = sorted({int(n[0]) for n in training_numbers if len(np.unique(n)) == 1})
    near_scale, differ_scale = (
        max(float(np.median(near)), 1e-9),
        max(float(np.median(differ)), 1e-9),
    )
    distance = np.maximum(near / near_scale, differ / differ_scale)
    rare_below, rare = RARE, np.zeros(len(judged), dtype=bool)
    for rare_below in range(RARE, 0, -1):
        rare = np.array(
            [
                bool((seen[one.numbers] < rare_below).any()) or _lonely(one.numbers, alone)
                for one in judged
            ]
        )
        if rare.mean() <= 0.5 * FAR_SHARE:
            break
    return Calibration(
        bands=bands,
        energy_low=float(low),
        energy_high=float(high),
        far=_threshold(distance, rare),
        distance_scale=near_scale,
        disagreement_scale=differ_scale,
        seen=seen,
        rare_below=rare_below,
        most_atoms=most_atoms,
        alone=tuple(alone),
        latent_mean=mean,
        latent_axes=axes,
        references=references,
    )


def _lonely(numbers: IntArray, alone: Sequence[int]) -> bool:
    return len(set(numbers.tolist())) == 1 and int(numbers[0]) not in alone


def _nearest(places: FloatArray, references: FloatArray) -> FloatArray:
    """Distance of each place to the nearest reference; parts keep memory flat."""
    parts = np.array_split(places, 1 + len(places) // 1000)
    return np.concatenate([cdist(part, references).min(axis=1) for part in parts])


def _threshold(distance: FloatArray, rare: FloatArray) -> float:
    """Distance at which `FAR_SHARE` of the crystals are far, those of rare elements among them."""
    allowed = max(0, int(FAR_SHARE * len(distance)) - int(np.count_nonzero(rare)))
    known = np.sort(distance[~rare.astype(bool)])
    if allowed == 0 or allowed >= len(known):
        return float(known[-1] * (1 + 1e-9))
    return float(0.5 * (known[-allowed] + known[-allowed - 1]))
