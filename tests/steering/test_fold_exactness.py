"""Folded counts of virtual scans against the exact rate at their known truth."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from consumers.fold.folding import fold_events
from consumers.recorded import recorded_source
from model_server.posterior import usable_cells
from simulations.crystal import laue_rotations
from simulations.instrument import Orientation
from simulations.reciprocal import EnergySection
from simulations.virtual import VirtualExperiment, simulate_chunk
from steering.experiment import Experiment, build_measurement, load_experiment
from steering.run import Run
from steering.study import simulate
from tests.conftest import ROOT
from tests.simulations.trajectory_quadrature import quadrature

LEAST_COUNTS = 10.0


def experiment_of(crystal: str, shared: Path) -> Experiment:
    """The reference run with another crystal on its standard path."""
    experiment = load_experiment(ROOT / "examples" / "ge-arcs.yaml")
    experiment = experiment.model_copy(update={"model": None})
    if crystal == "germanium":
        return experiment
    structure, ei, temperature = {
        "niobium": ("niobium", 50.0, 300.0),
        "MgB2": (str(shared / "phonopy-test" / "MgB2" / "phonopy_disp.yaml"), 120.0, 5.0),
        "ZnO": (str(shared / "phonopy-test" / "ZnO" / "phonopy_disp.yaml"), 80.0, 5.0),
    }[crystal]
    path = experiment.path.model_copy(
        update={
            "points": "seekpath",
            "bins": None,
            "step_rlu": 0.05,
            "energy": EnergySection(min_meV=0, max_meV=0.98 * ei, bins=98, substeps=4),
        }
    )
    if crystal == "ZnO":  # the slowest to simulate: wide tubes let fewer neutrons do
        path = path.model_copy(update={"half_width_rlu": 0.1, "voxel_rlu": 0.035})
    return experiment.model_copy(
        update={
            "sample": experiment.sample.model_copy(
                update={
                    "structure": structure,
                    "temperature_K": temperature,
                    "u": (1.0, 0.0, 0.0),
                    "v": (0.0, 0.0, 1.0),
                }
            ),
            "instrument": experiment.instrument.model_copy(update={"ei_meV": ei}),
            "path": path,
            "parameters": experiment.parameters.model_copy(
                update={"cutoff_A": 3.4, "free": 4, "prior": None}
            ),
        }
    )


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("crystal", ["germanium", "niobium", "MgB2", "ZnO"])
def test_counts_scatter_about_the_exact_rate_as_poisson_says(
    crystal, shared_data, tmp_path, capsys
):
    experiment = experiment_of(crystal, shared_data)
    truth = simulate(
        experiment,
        experiment_dir=ROOT / "examples",
        output=tmp_path / "files",
        psi_deg=[7.0, 41.0, 83.0],
        minutes=3.0 if crystal == "ZnO" else 8.0,
        seed=3,
        formats=("sns",),
    )
    (tmp_path / "chunks").mkdir()
    measurement = build_measurement(experiment, ROOT / "examples")
    run = Run(measurement, run_id="x", folder=tmp_path / "chunks", estimate=False)
    for message in recorded_source(
        sorted((tmp_path / "files").glob("*.nxs.h5")), run="x"
    ).messages():
        run.accept(message)
    exact, sums = measurement.exact, run.sums
    state = exact.prepare(measurement.model.values)
    folded_state = measurement.forward.prepare(measurement.model.values)
    scale = truth["flux"]["scale_per_coulomb"]
    background = truth["background"]["per_coulomb_sr_ms"] * sums.flat
    rates = {"exact": background.copy(), "folded": background.copy()}
    for chunk in run.chunks:
        rates["exact"] += scale * exact.rates(chunk.trajectories(), state, gradient=False)[0]
        rates["folded"] += (
            scale * measurement.forward.rates(chunk.exposure(), folded_state, gradient=False)[0]
        )
    use = usable_cells(sums, measurement.energy.centres_meV, measurement.elastic_cut_meV)
    told = {}
    for name, rate in rates.items():
        seen = use & (rate >= LEAST_COUNTS)
        pulls = (sums.counts[seen] - rate[seen]) / np.sqrt(rate[seen])
        told[name] = (float(np.mean(pulls**2)), float(np.abs(pulls).max()), int(seen.sum()))
    with capsys.disabled():
        for name, (chi, worst, cells) in told.items():
            print(  # noqa: T201
                f"\n{crystal}, {name} rate: chi-square per cell {chi:.3f} over {cells} cells, "
                f"largest pull {worst:.1f}",
                end="",
            )
    assert not np.any(sums.counts[sums.exposure == 0])  # support of S inside that of D
    assert 0.9 <= told["exact"][0] <= 1.1


COUNTS = 40_000.0  # one-phonon, in the tubes
PSI_DEG = 17.0
MOUNT = np.array([[1.0, 0.2, 0.1], [0.0, 0.3, 1.0]])  # u and v, along nothing special


def equivalent_mounts(measurement, most: int) -> list[np.ndarray]:
    """u and v turned by proper operations of the Laue group, the given mount first.

    Then those whose operation mixes the grid's axes most: a cell of the grid is not its own image.
    """
    to_hkl = np.linalg.inv(measurement.crystal.conventional_reciprocal)
    to_grid = np.linalg.inv(measurement.crystal.reciprocal)
    _, turns = laue_rotations(measurement.crystal)
    proper = [turn for turn in turns if np.linalg.det(turn) > 0]
    identity = max(proper, key=np.trace)
    mixing = [
        np.count_nonzero(np.rint(measurement.crystal.reciprocal @ turn.T @ to_grid))
        for turn in proper
    ]
    order = np.argsort(-np.array(mixing), kind="stable")[: most - 1]
    chosen = [identity, *(proper[k] for k in order)]
    return [MOUNT @ np.linalg.inv(to_hkl) @ turn.T @ to_hkl for turn in chosen]


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("crystal", ["germanium", "MgB2"])
def test_equivalent_settings_of_the_crystal_fold_one_chunk_alike(crystal, shared_data, capsys):
    experiment = experiment_of(crystal, shared_data)
    experiment = experiment.model_copy(
        update={
            "instrument": experiment.instrument.model_copy(update={"coarsen": 4}),
            "path": experiment.path.model_copy(update={"half_width_rlu": 0.1}),
        }
    )
    base = build_measurement(experiment, ROOT / "examples")
    exact, values = base.exact, base.model.values
    state = exact.prepare(values)
    use = base.energy.centres_meV > base.elastic_cut_meV
    flux, chunk, seen = 0.0, None, []
    for u, v in equivalent_mounts(base, 4):
        mount = Orientation(u=(u[0], u[1], u[2]), v=(v[0], v[1], v[2]))
        turned = replace(base, orientation=mount)
        rate, _ = exact.rates(turned.trajectories(PSI_DEG), state, gradient=False)
        if chunk is None:
            flux = COUNTS / rate[:, use].sum()
            virtual = VirtualExperiment(
                model=base.model,
                phi=values,
                instrument=base.instrument,
                u=mount.u,
                v=mount.v,
                ei_meV=base.ei_meV,
                temperature_K=experiment.sample.temperature_K,
                flux=flux,
                elastic_scale=0.0,
            )
            chunk = simulate_chunk(virtual, PSI_DEG, 1.0, 5)
        counts = np.zeros(rate.shape, dtype=np.int64)
        view = turned.geometry.view(PSI_DEG, base.instrument)
        fold_events(
            chunk.pixel, chunk.energy_transfer_meV, view=view, voxels=base.voxels, counts=counts
        )
        D, _ = base.geometry.path_sums(turned.exposure(PSI_DEG))
        assert not counts[D == 0].any()
        seen.append((counts[:, use], D[:, use], flux * rate[:, use]))
    first_counts, first_exposure, first_rate = seen[0]
    for k, (counts, D, rate) in enumerate(seen):
        full = rate >= LEAST_COUNTS
        chi = float(np.mean((counts - rate)[full] ** 2 / rate[full]))
        moved = np.abs(D - first_exposure).sum() / D.sum()
        change = rate - first_rate
        follows = 1.0
        if moved > 1e-3:  # a quarter of the operations map the grid's cells onto themselves
            follows = float(np.sum((counts - first_counts) * change) / np.sum(change**2))
        with capsys.disabled():
            print(  # noqa: T201
                f"\n{crystal}, setting {k}: chi-square per cell {chi:.3f} over {full.sum()}, "
                f"D moved {100 * moved:.2f} %, all of D {D.sum() / first_exposure.sum() - 1:+.1e}, "
                f"counts {counts.sum()}, follow the rate by {follows:.3f}",
                end="",
            )
        assert 0.9 <= chi <= 1.1
        assert D.sum() == pytest.approx(first_exposure.sum(), rel=0.005)
        assert moved < 0.05
        assert follows == pytest.approx(1.0, abs=0.2)


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("crystal", "n_pixels"), [("germanium", 3000), ("niobium", 3000), ("MgB2", 1000)]
)
def test_counts_scatter_about_a_brute_force_sum_over_all_pixels(
    crystal, n_pixels, shared_data, capsys
):
    experiment = experiment_of(crystal, shared_data)
    sample = experiment.sample.model_copy(update={"temperature_K": 5.0})
    path = experiment.path.model_copy(update={"half_width_rlu": 0.1})
    base = build_measurement(
        experiment.model_copy(update={"sample": sample, "path": path}), ROOT / "examples"
    )
    whole = base.instrument
    live = np.flatnonzero(~whole.masked)
    pixels = np.sort(np.random.default_rng(1).choice(live, n_pixels, replace=False))
    instrument = whole.with_mask(~np.isin(np.arange(whole.n_pixels), pixels))
    rate, _ = quadrature(base, PSI_DEG, pixels)
    use = base.energy.centres_meV > base.elastic_cut_meV
    flux = COUNTS / rate[:, use].sum()
    virtual = VirtualExperiment(
        model=base.model,
        phi=base.model.values,
        instrument=instrument,
        u=sample.u,
        v=sample.v,
        ei_meV=base.ei_meV,
        temperature_K=5.0,
        flux=flux,
        elastic_scale=0.0,
    )
    chunk = simulate_chunk(virtual, PSI_DEG, 1.0, 5)
    counts = np.zeros(rate.shape, dtype=np.int64)
    view = base.geometry.view(PSI_DEG, instrument)
    fold_events(
        chunk.pixel, chunk.energy_transfer_meV, view=view, voxels=base.voxels, counts=counts
    )
    seen = (flux * rate >= LEAST_COUNTS) & use
    pulls = (counts - flux * rate)[seen] / np.sqrt(flux * rate[seen])
    chi = float(np.mean(pulls**2))
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{crystal}, brute force over {n_pixels} pixels: chi-square per cell {chi:.3f} over "
            f"{seen.sum()} cells, largest pull {np.abs(pulls).max():.1f}, "
            f"counts {counts[:, use].sum()} of {COUNTS:.0f}",
            end="",
        )
    assert 0.9 <= chi <= 1.1
