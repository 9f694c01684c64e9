"""Spectra that a flow is trained on, and those it is checked on: blocks that a folder keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from model_server.networks import CoarseGrid
from model_server.posterior import NUISANCE_SIGMA
from model_server.training import (
    TrainingSpectra,
    end_to_end,
    key_of,
    simulate_off_set_up,
)
from simulations.fold import VoxelExposure
from simulations.likelihood import Drift
from steering.experiment import Measurement
from steering.study.training_spectra_store import kept_spectra

ORIENTATIONS = 40
BLOCK = 2_000  # spectra that are kept at once
PER_COVERAGE = 50


class SetUps:
    """Exposures and drifts of evenly turned orientations.

    Parameters
    ----------
    measurement : Measurement
    shifted : bool
        Orientations between those of a training.
    fine : bool
        On the voxels of the fold, and not on merged ones: slower, and nearer to the truth.
    """

    def __init__(
        self, measurement: Measurement, *, shifted: bool = False, fine: bool = False
    ) -> None:
        self.measurement = measurement
        self.fine = fine
        self.forward = measurement.forward if fine else measurement.coarse_forward
        ways = measurement.exact.missetting.and_then(measurement.exact.aside)
        self.ways = ways.where(ways.sigma > 0)
        limits = measurement.experiment.motion.limits_deg
        self.psi_deg = np.linspace(limits[0], limits[1], ORIENTATIONS)
        if shifted:
            self.psi_deg = self.psi_deg[:-1] + 0.5 * np.diff(self.psi_deg)
        self.first = int(np.searchsorted(measurement.energy.edges_meV, measurement.elastic_cut_meV))
        self.last = measurement.energy.reachable_bins(measurement.ei_meV)
        self.exposures: list[VoxelExposure] = []
        self.drifts: list[Drift] = []

    def computed(self, progress: Callable[[str, float], None] | None = None) -> SetUps:
        """Itself, with everything computed."""
        m = self.measurement
        for n, psi in enumerate(self.psi_deg[len(self.exposures) :]):
            exposure = m.exposure(float(psi))
            if not self.fine:
                exposure = exposure.merged(m.merged)
            with_tensor = getattr(exposure, "with_tensor", None)
            if with_tensor is not None and not self.fine:
                exposure = with_tensor(m.crystal)
            self.exposures.append(exposure)
            self.drifts.append(m.drift(m.trajectories(float(psi)), self.ways))
            if progress is not None:
                progress("exposures", (n + 1) / len(self.psi_deg))
        return self


def flow_spectra(
    measurement: Measurement,
    grid: CoarseGrid,
    *,
    spectra: int,
    seed: int,
    work: Path | None = None,
    shifted: bool = False,
    fine: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> TrainingSpectra:
    """Spectra of runs whose set-up is off, made or gone on with block by block.

    Parameters
    ----------
    measurement : Measurement
        With all force constants free that are to be read.
    grid : CoarseGrid
    spectra : int
    seed : int
        A block depends on its number and the seed alone.
    work : Path, optional
        Folder of the blocks.
    shifted : bool
        Orientations between those of a training, for runs that are to be unseen.
    fine : bool
        On the voxels of the fold, see ``SetUps``.
    progress : callable, optional
    """
    set_ups = SetUps(measurement, shifted=shifted, fine=fine)
    return end_to_end(list(_blocks(set_ups, grid, spectra, seed, work, progress)))


def _blocks(
    set_ups: SetUps,
    grid: CoarseGrid,
    spectra: int,
    seed: int,
    work: Path | None,
    progress: Callable[[str, float], None] | None,
) -> Iterator[TrainingSpectra]:
    m = set_ups.measurement
    forward = set_ups.forward
    q = m.merged.centre_cartesian[:: max(1, m.merged.n_voxels // 150)]
    for block, first in enumerate(range(0, spectra, BLOCK)):
        size = min(BLOCK, spectra - first)

        def make(block: int = block, first: int = first, size: int = size) -> TrainingSpectra:
            set_ups.computed(progress)

            def told(label: str, share: float) -> None:
                if progress is not None:
                    progress(label, (first + share * size) / spectra)

            rng = np.random.default_rng([seed, block, len(set_ups.psi_deg)])
            drawn = m.box.sample(size, rng, m.model, q, tolerance_meV=forward.deepest_meV)
            return simulate_off_set_up(
                forward,
                set_ups.exposures,
                set_ups.drifts,
                set_ups.ways.sigma,
                drawn.values,
                grid,
                rng,
                width_sigma=NUISANCE_SIGMA[-1],
                per_coverage=PER_COVERAGE,
                progress=told,
            )

        key = key_of(
            experiment=m.experiment.model_dump_json(), names=m.box.names, lower=m.box.lower,
            upper=m.box.upper, seed=seed, block=block, size=size, psi=set_ups.psi_deg,
            ways=set_ups.ways.names, sigma=set_ups.ways.sigma,
            **({"voxels": "fine"} if set_ups.fine else {}),
        )  # fmt: skip
        yield kept_spectra(None if work is None else work / f"block-{block:03d}", key, make)
