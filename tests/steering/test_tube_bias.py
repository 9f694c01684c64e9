"""How far I(cell; phi) is off for the width of tubes and the bend of trajectories.

The yardstick is the walk along trajectories with a finer zone grid and finer steps than in use;
tests/simulations/test_trajectories.py holds the walk to brute force on single pixels.
"""

from dataclasses import dataclass

import numpy as np
import pytest

import simulations.trajectories as walk
from model_server.refinement import NUISANCE_SIGMA
from simulations.exposure import Exposure
from simulations.folded_model import FoldedPhonons
from simulations.voxel_map import MergedVoxels
from simulations.zone_map import build_zone_map
from steering.experiment_file import load_experiment
from steering.measurement import Measurement, build_measurement
from tests.conftest import ROOT

ORIENTATIONS = 12  # stand for 120: every tenth degree, ten minutes each
SCAN_MINUTES = 120.0
BAR = "0.3 sigma in 99.9 % of the cells, 0.5 anywhere, 0.3 of a parameter's posterior sigma"
COUNTS_PER_MINUTE = 3000.0  # one-phonon, inside the tubes; as many of the background


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One line of the table."""

    crystal: str
    temperature_K: float
    half_width_rlu: float


def measurement_of(case: Case, shared) -> Measurement:
    experiment = load_experiment(ROOT / "examples" / "ge-arcs.yaml")
    sample = {"temperature_K": case.temperature_K}
    path = {"half_width_rlu": case.half_width_rlu}
    parameters = {}
    if case.crystal == "ZnO":
        sample["structure"] = str(shared / "phonopy-test" / "ZnO" / "phonopy_disp.yaml")
        sample |= {"u": (1.0, 0.0, 0.0), "v": (0.0, 0.0, 1.0)}
        path |= {"points": "seekpath", "bins": None, "step_rlu": 0.05}
        parameters = {"cutoff_A": 3.4, "free": 6, "prior": None}
    return build_measurement(
        experiment.model_copy(
            update={
                "model": None,
                "sample": experiment.sample.model_copy(update=sample),
                "path": experiment.path.model_copy(update=path),
                "parameters": experiment.parameters.model_copy(update=parameters),
            }
        ),
        ROOT / "examples",
    )


def at_the_path(measurement: Measurement) -> tuple[FoldedPhonons, MergedVoxels]:
    """The naive baseline: one voxel per path bin, modes at its centre, no moments."""
    voxels = measurement.voxels
    centre = measurement.path.centres_hkl() @ measurement.crystal.conventional_reciprocal
    used, group = np.unique(voxels.path_bin, return_inverse=True)
    merged = MergedVoxels(
        group=group,
        offset=voxels.centre_cartesian - centre[voxels.path_bin],
        centre_cartesian=centre[used],
        path_bin=used,
        n_path_bins=voxels.n_path_bins,
    )
    model = FoldedPhonons(
        model=measurement.model,
        voxels=merged,
        energy=measurement.energy,
        ei_meV=measurement.ei_meV,
        temperature_K=measurement.experiment.sample.temperature_K,
        resolution=measurement.instrument.resolution,
    )
    return model, merged


def without_moments(exposure: Exposure) -> Exposure:
    return Exposure(
        weight=exposure.weight,
        flat=exposure.flat,
        q_squared=exposure.q_squared,
        tensor=exposure.tensor,
        first=0 * exposure.first,
        second=0 * exposure.second,
        slope=exposure.slope,
        slope_second=exposure.slope_second,
    )


def study(case: Case, shared, orientations: int) -> dict[str, tuple[float, ...]]:
    """Bias of cells and parameters for the walk, the folded model and the path's centre."""
    measurement = measurement_of(case, shared)
    values = measurement.model.values
    exact, forward = measurement.exact, measurement.forward
    naive, merged = at_the_path(measurement)
    state, folded_state = exact.prepare(values), forward.prepare(values)
    naive_state = naive.prepare(values)
    fine_steps = (0.2, 0.7)
    finer = walk.TrajectoryPhonons(
        model=measurement.model,
        crystal=measurement.crystal,
        zone=build_zone_map(measurement.crystal, step_rlu=0.016),
        energy=measurement.energy,
        n_path_bins=measurement.path.n_bins,
        ei_meV=measurement.ei_meV,
        temperature_K=case.temperature_K,
        resolution=measurement.instrument.resolution,
    )
    finer_state = finer.prepare(values)
    rates = dict.fromkeys(("truth", "walk", "folded", "path centre"), 0.0)
    slope, flat = 0.0, 0.0
    usual = walk.STEP_SIGMAS, walk.FOUND_STEPS
    for psi in np.linspace(0, 120, orientations, endpoint=False):
        trajectories = measurement.trajectories(float(psi))
        exposure = measurement.exposure(float(psi))
        rate, along = exact.rates(trajectories, state)
        rates["walk"] += rate
        slope = slope + along
        walk.STEP_SIGMAS, walk.FOUND_STEPS = fine_steps
        rates["truth"] += finer.rates(trajectories, finer_state, gradient=False)[0]
        walk.STEP_SIGMAS, walk.FOUND_STEPS = usual
        rates["folded"] += forward.rates(exposure, folded_state, gradient=False)[0]
        bare = without_moments(exposure.merged(merged))
        rates["path centre"] += naive.rates(bare, naive_state, gradient=False)[0]
        flat = flat + measurement.path_sums(exposure)[1]
    use = flat > 0
    use[:, measurement.energy.centres_meV <= measurement.elastic_cut_meV] = False
    minutes = SCAN_MINUTES if orientations > 1 else 1.0
    scale = COUNTS_PER_MINUTE * minutes / rates["truth"][use].sum()
    background = COUNTS_PER_MINUTE * minutes * flat / flat[use].sum()
    expected = (scale * rates["truth"] + background)[use]
    columns = np.concatenate(
        [
            scale * slope[use],
            np.stack([scale * rates["truth"][use], background[use]], axis=1),
        ],
        axis=1,
    )
    prior = np.concatenate([measurement.prior.sigma, NUISANCE_SIGMA[:2]]) ** -2.0
    covariance = np.linalg.inv(np.diag(prior) + (columns / expected[:, None]).T @ columns)
    table = {}
    for name in ("walk", "folded", "path centre"):
        off = scale * (rates[name] - rates["truth"])[use]
        pulls = np.abs(off) / np.sqrt(expected)
        moved = covariance @ (columns.T @ (off / expected))
        shift = np.abs(moved / np.sqrt(np.diag(covariance)))[: len(values)]
        table[name] = (
            100 * float(np.mean(pulls > 0.3)),
            float(np.quantile(pulls, 0.999)),
            float(pulls.max()),
            float(shift.max()),
        )
    return table


def told(case: Case, orientations: int, table) -> str:
    head = f"{case.crystal}, {case.temperature_K:g} K, half-width {case.half_width_rlu:g}, " + (
        f"{orientations} orientations as a full scan" if orientations > 1 else "one minute"
    )
    lines = [
        f"  {name:12} cells above 0.3 sigma {share:6.2f} %, 99.9 % below {most:6.2f}, "
        f"worst {worst:6.2f}; worst parameter {shift:5.2f} sigma"
        for name, (share, most, worst, shift) in table.items()
    ]
    return "\n".join([head, *lines])


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("half_width", [0.05, 0.1])
@pytest.mark.parametrize("temperature", [5.0, 300.0])
@pytest.mark.parametrize("crystal", ["germanium", "ZnO"])
@pytest.mark.parametrize("orientations", [ORIENTATIONS, 1])
def test_bias_of_cells_and_parameters(
    crystal, temperature, half_width, orientations, shared_data, capsys
):
    case = Case(crystal=crystal, temperature_K=temperature, half_width_rlu=half_width)
    table = study(case, shared_data, orientations)
    with capsys.disabled():
        print("\n" + told(case, orientations, table))  # noqa: T201
        print(f"  bar          {BAR}")  # noqa: T201
    _, most, worst, shift = table["walk"]
    for name in ("folded", "path centre"):
        assert most < table[name][1]
        assert worst < table[name][2]
        assert shift < table[name][3]
