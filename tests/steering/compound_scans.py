"""Virtual scans of four compounds on ARCS: is the truth found, and at what cost; resumable.

    python -m tests.steering.compound_scans FOLDER --shared ../shared/data --seeds 3

A cubic, a hexagonal, an orthorhombic and a monoclinic crystal of the phonon database, twelve
orientations of four minutes each, all pixels. Every scan is simulated and then replayed by a run of
its own process; FOLDER keeps one JSON file per scan, and what is there is not computed again. The
virtual crystal shares with the fit what the fit holds fixed: all constants but eight, the
temperature, the geometry and the form of the resolution.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import chi2

from consumers.recorded import recorded_source
from model_server.posterior import Posterior
from simulations.arrays import FloatArray
from simulations.prior import BoxPrior
from steering.experiment import Measurement, build_measurement, load_experiment
from steering.run import Run
from steering.run.replay import MOST_MORE
from steering.study import simulate
from tests.simulations.phonon_oracles import phonondb_crystal

CHUNKS, MINUTES, STEP_DEG = 12, 4.0, 10.0
FREE = 8
HELD = 1e-3  # relative width of a box that holds the parameters at the truth


@dataclass(frozen=True)
class Scan:
    """What is measured of one crystal."""

    material: str
    system: str
    ei_meV: float
    max_meV: float
    cutoff_A: float
    points: str
    u: tuple[int, int, int]
    v: tuple[int, int, int]


SCANS = {
    "RuS2": Scan("mp-2030", "cubic", 80, 60, 3.5,
                 "G 0 0 0|X 0 .5 0|M .5 .5 0|G 0 0 0|R .5 .5 .5|X 0 .5 0", (1, 1, 0), (0, 0, 1)),
    "WSe2": Scan("mp-1821", "hexagonal", 55, 42, 4.0,
                 "G 0 0 0|M .5 0 0|K .3333333333 .3333333333 0|G 0 0 0|A 0 0 .5|L .5 0 .5",
                 (1, 0, 0), (0, 0, 1)),
    "RuP2": Scan("mp-1413", "orthorhombic", 90, 68, 3.0,
                 "G 0 0 0|X .5 0 0|S .5 .5 0|G 0 0 0|Z 0 0 .5|T 0 .5 .5", (1, 1, 0), (0, 0, 1)),
    "AgP2": Scan("mp-8200", "monoclinic", 80, 62, 3.0,
                 "G 0 0 0|Z 0 .5 0|D 0 .5 .5|G 0 0 0|Y .5 0 0|C .5 .5 0", (0, 1, 0), (0, 0, 1)),
}  # fmt: skip


def experiment_file(name: str, folder: Path, database: Path) -> Path:
    """Write the crystal and an experiment on it."""
    scan = SCANS[name]
    folder.mkdir(parents=True, exist_ok=True)
    phonon = phonondb_crystal(database, scan.material)
    phonon.save(folder / "phonopy.yaml", settings={"force_sets": True, "displacements": True})
    points = "\n".join(
        "    - {{label: {}, hkl: [{}]}}".format(label, ", ".join(str(float(x)) for x in hkl))
        for label, *hkl in (point.split() for point in scan.points.split("|"))
    )
    file = folder / "experiment.yaml"
    file.write_text(
        f"""title: {name} on ARCS
sample: {{structure: phonopy.yaml, u: {list(scan.u)}, v: {list(scan.v)}, temperature_K: 5}}
instrument: {{name: ARCS, ei_meV: {scan.ei_meV}, coarsen: 1}}
path:
  points:
{points}
  half_width_rlu: 0.05
  voxel_rlu: 0.025
  energy: {{min_meV: 0, max_meV: {scan.max_meV}, bins: 120, substeps: 4}}
parameters: {{cutoff_A: {scan.cutoff_A}, free: {FREE}, others: held, prior: null}}
motion: {{axis: psi, limits_deg: [0, 120], speed_deg_per_s: 2, settle_s: 0, overhead_s: 30}}
targets: {{relative_sigma: 0.05, per_parameter: {{}}}}
model: null
source: {{kind: files}}
virtual: {{counts_per_minute: 300, background_ratio: 1.0}}
"""
    )
    return file


def one_scan(name: str, seed: int, folder: Path, database: Path, chunks: int) -> dict[str, Any]:
    """Simulate and replay; what was found."""
    file = experiment_file(name, folder, database)
    experiment = load_experiment(file)
    if not (folder / "scan" / "truth.json").exists():  # of its own process: memory is the run's
        simulating = get_context("spawn").Process(target=_simulated, args=(folder, seed, chunks))
        simulating.start()
        simulating.join()
        if simulating.exitcode:
            raise RuntimeError(f"simulate ended with {simulating.exitcode}; see its words above")
    truth = json.loads((folder / "scan" / "truth.json").read_text())
    values = np.array([p["value"] for p in truth["parameters"]])
    measurement = build_measurement(experiment, folder)
    run, seconds = replayed(measurement, folder / "state", folder)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    found = run.estimate
    assert found is not None
    joint, started = _joint(found.posterior, values), time.process_time()
    for _ in range(MOST_MORE):  # as a replay does after the last chunk
        if not run.go_on():
            break
    settling, settled = time.process_time() - started, run.estimate
    assert settled is not None
    gap = found.posterior.values - values
    reach = HELD * np.abs(values)
    held = replace(
        measurement,
        box=BoxPrior(names=measurement.box.names, lower=values - reach, upper=values + reach),
    )
    at_truth = Run(held, run_id="scan", folder=folder / "state")
    for chunk in run.chunks:
        at_truth.adopt(chunk)
    at_truth.estimate_now()
    assert at_truth.estimate is not None
    return {
        "crystal": name,
        "system": SCANS[name].system,
        "atoms": measurement.crystal.n_atoms,
        "seed": seed,
        "counts": float(run.ledger.sums.signal.sum()),
        "seconds": seconds,
        "gigabytes": most,
        "joint": joint,
        "p": float(chi2.sf(joint, len(values))),
        "pulls": (gap / found.posterior.sigma).tolist(),
        "relative_sigma": (found.posterior.sigma / np.abs(values)).tolist(),
        "reduced_chi_square": at_truth.estimate.trust.reduced_chi_square,
        "state": found.trust.state,
        "halted": found.posterior.halted,
        "p_settled": float(chi2.sf(_joint(settled.posterior, values), len(values))),
        "state_settled": settled.trust.state,
        "seconds_of_settling": settling,
    }


def _joint(posterior: Posterior, values: FloatArray) -> float:
    gap = posterior.values - values
    return float(gap @ np.linalg.solve(posterior.covariance, gap))


def _simulated(folder: Path, seed: int, chunks: int) -> None:
    simulate(
        load_experiment(folder / "experiment.yaml"), experiment_dir=folder, output=folder / "scan",
        minutes=MINUTES, seed=seed, psi_deg=list(STEP_DEG * np.arange(chunks)), formats=("sns",),
        processes=1,
    )  # fmt: skip


def replayed(measurement: Measurement, state: Path, folder: Path) -> tuple[Run, list[float]]:
    """A run of all files, prepared, and the seconds of processor that every chunk took."""
    state.mkdir(exist_ok=True)
    run = Run(measurement, run_id="scan", folder=state)
    run.prepare()
    told = measurement.experiment.source
    source = recorded_source(
        sorted((folder / "scan").glob("*.nxs.h5")), run="scan", psi_log=told.psi_log, psi_deg=None,
        ei_meV=told.ei_meV, t0_us=told.t0_us, period=told.period,
        nominal_ei_meV=measurement.ei_meV,
    )  # fmt: skip
    seconds: list[float] = []
    started = time.process_time()
    for message in source.messages():
        if run.accept(message):
            seconds.append(time.process_time() - started)
            started = time.process_time()
    return run, seconds


def table(folder: Path) -> str:
    """What stands in the folder."""
    lines = [
        "crystal  system        atoms seed  counts  chunk 1   median   worst s   GB     p   settled"
        "   chi2  state, settled"
    ]
    for file in sorted(folder.glob("*-*.json")):
        one = json.loads(file.read_text())
        later = one["seconds"][1:]
        lines.append(
            f"{one['crystal']:8} {one['system']:13} {one['atoms']:5d} {one['seed']:4d} "
            f"{one['counts']:7.0f} {one['seconds'][0]:8.1f} {np.median(later):8.1f} "
            f"{max(later):9.1f} {one['gigabytes']:5.2f} {one['p']:7.4f} "
            f"{one['p_settled']:7.4f} {one['reduced_chi_square']:6.3f}  "
            f"{one['state']}, {one['state_settled']}"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shared", type=Path, required=True, help="folder that holds phonondb/")
    parser.add_argument("--crystals", nargs="+", choices=SCANS, default=list(SCANS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--chunks", type=int, default=CHUNKS)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    database = arguments.shared / "phonondb" / "phonondb-2018.h5"
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.crystals:
        for seed in [arguments.one] if arguments.one else range(1, 1 + arguments.seeds):
            kept = arguments.folder / f"{name}-{seed}.json"
            if kept.exists():
                continue
            if arguments.one:
                work = arguments.folder / f"{name}-{seed}"
                kept.write_text(json.dumps(one_scan(name, seed, work, database, arguments.chunks)))
                shutil.rmtree(work)
                continue
            words = ["--shared", str(arguments.shared), "--crystals", name, "--one", str(seed)]
            subprocess.run(
                [sys.executable, "-m", "tests.steering.compound_scans", str(arguments.folder)]
                + [*words, "--chunks", str(arguments.chunks)],
                check=True,
            )
            sys.stdout.write(table(arguments.folder).splitlines()[-1] + "\n")
    sys.stdout.write(table(arguments.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
