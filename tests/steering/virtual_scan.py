"""A small virtual germanium scan, simulated once per session, for the tests of runs and advice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from simulations.likelihood import MissettingSection, QSpreadSection
from simulations.reciprocal import EnergySection
from simulations.reciprocal.path_choice import PathPoint
from steering.experiment import Experiment, Measurement, build_measurement, load_experiment
from steering.study import simulate

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PSI_DEG = (5.0, 32.0, 61.0, 88.0)
X = PathPoint(label="X", hkl=(0, 0, 1))
GAMMA = PathPoint(label="Gamma", hkl=(0, 0, 0))
L = PathPoint(label="L", hkl=(0.5, 0.5, 0.5))
FREE = ("1NN xx", "1NN xy", "2NN xx")


@dataclass(frozen=True, kw_only=True, slots=True)
class VirtualScan:
    """Files of one scan in both formats, and the truth behind them."""

    experiment: Experiment
    events: tuple[Path, ...]  # SNS layout, in the order of PSI_DEG
    histograms: tuple[Path, ...]  # NXSPE with counts, same order
    truth: dict[str, Any]


@cache
def small_experiment() -> Experiment:
    """Germanium on ARCS with 16 pixels merged, wide tubes, few bins, three parameters alone."""
    experiment = load_experiment(EXAMPLES / "ge-arcs.yaml")
    path = experiment.path.model_copy(
        update={
            "points": (X, GAMMA, L),
            "bins": (10, 8),
            "half_width_rlu": 0.1,
            "voxel_rlu": 0.035,
            "energy": EnergySection(min_meV=0, max_meV=39, bins=52, substeps=4),
        }
    )
    return experiment.model_copy(
        update={
            "instrument": experiment.instrument.model_copy(update={"coarsen": 16}),
            "path": path,
            "parameters": experiment.parameters.model_copy(update={"free": FREE, "others": "held"}),
            "model": None,
            "virtual": experiment.virtual.model_copy(
                update={"counts_per_minute": 1000, "background_ratio": 0.5}
            ),
        }
    )


@cache
def small_measurement() -> Measurement:
    """The same made concrete."""
    return build_measurement(small_experiment(), EXAMPLES)


def known_set_up(experiment: Experiment) -> Experiment:
    """The same with a set-up of which nothing is unknown: a first answer takes a third as long."""
    known = MissettingSection(
        psi_offset_deg=0, tilt_deg=0, lattice_percent=0, ei_percent=0, t0_us=0
    )
    return experiment.model_copy(update={"missetting": known, "q_spread": QSpreadSection()})


@cache
def known_measurement() -> Measurement:
    """The small one with a set-up of which nothing is unknown."""
    return build_measurement(known_set_up(small_experiment()), EXAMPLES)


@pytest.fixture(scope="session")
def virtual_scan(tmp_path_factory: pytest.TempPathFactory) -> VirtualScan:
    """Four orientations of two minutes, as raw events and as NXSPE."""
    folder = tmp_path_factory.mktemp("scan")
    truth = simulate(
        small_experiment(),
        experiment_dir=EXAMPLES,
        output=folder,
        psi_deg=PSI_DEG,
        minutes=2.0,
        seed=7,
        processes=1,
    )
    files = {c["psi_deg"]: [folder / name for name in c["files"]] for c in truth["chunks"]}
    return VirtualScan(
        experiment=small_experiment(),
        events=tuple(f for p in PSI_DEG for f in files[p] if f.name.endswith(".nxs.h5")),
        histograms=tuple(f for p in PSI_DEG for f in files[p] if f.suffix == ".nxspe"),
        truth=truth,
    )
