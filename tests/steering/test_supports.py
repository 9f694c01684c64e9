"""No cell without exposure is ever reported as a number, whatever was recorded."""

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from consumers.fold import ChunkStart, ChunkStop, EventBlock, HistogramBlock
from consumers.recorded import recorded_source
from consumers.recorded.nxspe_file import read_nxspe
from consumers.recorded.spe_file import write_detectors
from simulations.fold import BackgroundSection
from simulations.reciprocal import EnergyAxis
from steering.experiment import Measurement, build_measurement, chosen_instrument, load_experiment
from steering.run import Run, RunStore
from steering.web import create_app
from tests.steering.virtual_scan import EXAMPLES, VirtualScan, small_measurement, virtual_scan

__all__ = ["virtual_scan"]

EVENTS = ("HYS_178921", "HYS_178923", "HYS_178926")
NXSPE = (
    "CNCS_7860_coarse",
    "bi2fe4o9_Ei62_5K",
    "er2ir2o7_Ei30_5K",
    "fm_simple_cubic_a",
    "fm_simple_cubic_b",
    "gen_sqw_96dets",
    "inst_let_ei3p7_240_120",
    "nxspe_version1_0",
)
# The readable SPE files, and what holds the same data with the detectors that they lack.
SPE = {"fm_simple_cubic_a": "fm_simple_cubic_a", "spe_with_NANs": "nxspe_version1_0"}
MASKS = {"bragg_tails": True, "elastic_band": True}


@cache
def wide_tubes() -> Measurement:
    """A crystal whose wide tubes many pixels of any instrument cross."""
    experiment = load_experiment(EXAMPLES / "mno-hyspec.yaml")
    path = experiment.path.model_copy(
        update={"half_width_rlu": 0.15, "voxel_rlu": 0.05, "bins": (10, 4, 8, 6, 6, 6)}
    )
    return build_measurement(experiment.model_copy(update={"path": path}), EXAMPLES)


def measurement_of(start: ChunkStart, **background: Any) -> Measurement:
    """The same on a file's instrument and at its Ei, with an energy axis that goes with it."""
    whole, ei_meV = wide_tubes(), start.ei_meV
    named = {"ei_meV": ei_meV, "name": start.instrument_name}
    instrument = whole.experiment.instrument.model_copy(update=named)
    changes = {"instrument": instrument, "background": BackgroundSection(**background)}
    experiment = whole.experiment.model_copy(update=changes)
    return replace(
        whole,
        experiment=experiment,
        instrument=chosen_instrument(experiment, recorded=start.geometry),
        energy=EnergyAxis(edges_meV=np.linspace(-0.1, 0.95, 43) * ei_meV, substeps=4),
    )


def folded(
    file: Path,
    folder: Path,
    measurement: Measurement | None,
    *,
    ei_meV: float | None = None,
    **background: Any,
) -> Run:
    """One recorded file folded."""
    source = recorded_source([file], run="r", psi_deg=20.0, nominal_ei_meV=ei_meV)
    messages = list(source.messages())
    payloads = [message.payload for message in messages]
    start, stop = payloads[0], payloads[-1]
    assert isinstance(start, ChunkStart), start
    assert isinstance(stop, ChunkStop), stop
    if measurement is None:
        measurement = measurement_of(start, **background)
    run = Run(measurement, run_id="r", folder=folder, estimate=False)
    for message in messages:
        run.accept(message)
    assert [r["status"] for r in run.records] == ["folded"], run.records
    account = run.chunks[0].account
    assert account.complete
    read = sum(
        len(p.pixel) if isinstance(p, EventBlock) else p.intensity.size
        for p in payloads
        if isinstance(p, EventBlock | HistogramBlock)
    )
    block = payloads[1]
    if isinstance(block, HistogramBlock) and block.counts is not None:
        read = int(np.sum(block.counts))
    assert account.read == read + stop.filtered
    return run


def check_reported(run: Run, folder: Path) -> None:
    """Counts only where there is exposure, and numbers only there, in whatever is read."""
    seen = run.sums.exposure > 0
    assert seen.any()
    total = run.sums
    for part in (total.counts, total.signal, total.variance, total.flat):
        assert not np.any(part[~seen])
    assert np.all(np.isfinite(total.exposure))
    weight, _ = run.measurement.geometry.path_sums(run.pooled_exposure())
    assert np.array_equal(weight > 0, seen)
    spectrum = run.spectrum()
    assert spectrum is not None
    assert np.array_equal(np.isfinite(spectrum.intensity), seen)
    assert spectrum.sigma is not None
    assert np.array_equal(np.isfinite(spectrum.sigma), seen)
    run.write_folded(folder / "folded.npz")
    with np.load(folder / "folded.npz") as file:
        for name in ("intensity", "sigma"):
            assert np.array_equal(np.isfinite(file[name]), seen), name
    store = RunStore()
    store.publish(run.snapshot())
    answer = (
        TestClient(create_app(store), base_url="http://127.0.0.1").get("/runs/r/spectrum").json()
    )
    for name in ("intensity", "sigma"):
        told = np.array([[value is not None for value in row] for row in answer[name]])
        assert np.array_equal(told, seen), name
    unknown = np.array([[v is None for v in row] for row in answer["model_intensity"]])
    assert unknown.all()  # nothing was fitted


@pytest.mark.shared_data
@pytest.mark.parametrize("masks", [{}, MASKS], ids=["whole", "masked"])
@pytest.mark.parametrize("name", EVENTS)
def test_recorded_events_have_exposure_wherever_they_count(name, masks, shared_data, tmp_path):
    run = folded(shared_data / "hyspec-mno" / f"{name}.nxs.h5", tmp_path, None, **masks)
    assert run.chunks[0].account.folded > 100
    check_reported(run, tmp_path)


@pytest.mark.shared_data
@pytest.mark.parametrize("masks", [{}, MASKS], ids=["whole", "masked"])
@pytest.mark.parametrize("name", NXSPE)
def test_reduced_files_have_exposure_wherever_they_count(name, masks, shared_data, tmp_path):
    run = folded(shared_data / "nxspe" / f"{name}.nxspe", tmp_path, None, **masks)
    check_reported(run, tmp_path)


@pytest.mark.shared_data
@pytest.mark.parametrize("masks", [{}, MASKS], ids=["whole", "masked"])
@pytest.mark.parametrize("name", SPE)
def test_spe_files_have_exposure_wherever_they_count(name, masks, shared_data, tmp_path):
    same = read_nxspe(shared_data / "nxspe" / f"{SPE[name]}.nxspe")
    file = tmp_path / f"{name}.spe"
    shutil.copyfile(shared_data / "spe-par" / file.name, file)
    write_detectors(tmp_path / f"{name}.par", same.instrument)
    run = folded(file, tmp_path, None, ei_meV=same.ei_meV, **masks)
    check_reported(run, tmp_path)


@pytest.mark.parametrize("kind", ["events", "histograms"])
def test_virtual_files_have_exposure_wherever_they_count(kind, virtual_scan: VirtualScan, tmp_path):
    for number, file in enumerate(getattr(virtual_scan, kind)):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = folded(file, folder, small_measurement())
        assert run.chunks[0].account.folded > 100
        check_reported(run, folder)
