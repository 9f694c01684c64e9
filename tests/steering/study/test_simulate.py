import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from consumers.fold import ChunkStart, ChunkStop, EventBlock, HistogramBlock
from consumers.fold.folding import fold_events
from consumers.recorded import recorded_source
from simulations.likelihood import QSpreadSection
from simulations.virtual import lattice_of, simulate_chunk
from simulations.virtual.sampling import BACKGROUND, PHONON
from steering.experiment import Experiment, build_measurement, load_experiment
from steering.study import simulate
from steering.study.simulate import true_parameters, tube_rates, virtual_experiment

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def coarse_experiment(coarsen: int = 16, half_width_rlu: float = 0.1) -> Experiment:
    experiment = load_experiment(EXAMPLES / "ge-arcs.yaml")
    return experiment.model_copy(
        update={
            "instrument": experiment.instrument.model_copy(update={"coarsen": coarsen}),
            "path": experiment.path.model_copy(update={"half_width_rlu": half_width_rlu}),
        }
    )


@cache
def coarse_measurement():
    return build_measurement(coarse_experiment(), EXAMPLES)


def simulated(output: Path, **changes):
    arguments = {"psi_deg": [30.0, 0.0], "minutes": 0.5, "seed": 4, "processes": 1}
    return simulate(
        coarse_experiment(), experiment_dir=EXAMPLES, output=output, **(arguments | changes)
    )


def payloads(files):
    return [message.payload for message in recorded_source(files, run="test").messages()]


def test_tubes_count_what_the_experiment_asks_for():
    measurement = coarse_measurement()
    phi = measurement.model.values
    virtual, rates = virtual_experiment(measurement, [30.0], phi)
    assert virtual.flux * rates.phonon == pytest.approx(3000)
    events = simulate_chunk(virtual, 30.0, 4.0, 1, lattice=lattice_of(virtual))
    view = measurement.geometry.view(30.0, measurement.instrument)
    exposure = measurement.exposure(30.0)
    _, flat = measurement.geometry.path_sums(exposure)
    for origin, tolerance in ((PHONON, 0.04), (BACKGROUND, 0.03)):
        counts = np.zeros((measurement.path.n_bins, measurement.energy.n_bins), dtype=np.int64)
        mine = events.origin == origin
        fold_events(
            events.pixel[mine],
            events.energy_transfer_meV[mine],
            view=view,
            voxels=measurement.voxels,
            counts=counts,
        )
        assert counts.sum() == pytest.approx(12000, rel=tolerance)
    # Flat in time of flight: every cell of the fold gets its share, though their code is not ours.
    expected = flat * 1e3 * virtual.background * 4.0
    many = expected >= 10
    ratio = np.mean((counts - expected)[many] ** 2 / expected[many])
    assert np.sum(many) > 150
    assert abs(ratio - 1) < 4 * np.sqrt(2 / np.sum(many))


def test_both_formats_return_the_events_that_were_simulated(tmp_path):
    truth = simulated(tmp_path, formats=("sns", "nxspe"), power_sigma=0.1)
    assert truth == json.loads((tmp_path / "truth.json").read_text())
    for chunk in truth["chunks"]:
        events, histogram = (payloads([tmp_path / name]) for name in chunk["files"])
        total = sum(chunk["events"].values())
        for found in (events, histogram):
            start, stop = found[0], found[-1]
            assert isinstance(start, ChunkStart)
            assert isinstance(stop, ChunkStop)
            assert start.psi_deg == pytest.approx(chunk["psi_deg"])
            assert start.ei_meV == 40
            assert start.instrument_name == "ARCS/16"
            assert stop.minutes == pytest.approx(0.5)
            assert stop.proton_charge == pytest.approx(chunk["proton_charge"], rel=1e-6)
        assert chunk["proton_charge"] != pytest.approx(0.042, rel=1e-3)
        blocks = [p for p in events if isinstance(p, EventBlock)]
        assert sum(len(b.pixel) for b in blocks) == total
        energy = np.concatenate([b.energy_transfer_meV for b in blocks])
        pixel = np.concatenate([b.pixel for b in blocks])
        (block,) = (p for p in histogram if isinstance(p, HistogramBlock))
        edges = block.energy_edges_meV
        assert block.counts is not None
        assert edges[[0, -1]].tolist() == [-20.0, 39.0]
        again = np.histogram2d(pixel, energy, bins=[np.arange(len(block.counts) + 1) - 0.5, edges])[
            0
        ]
        # Event times are float32, so a few events cross an edge.
        assert np.abs(again - block.counts).sum() <= 4 + 1e-3 * total
        some = block.counts > 0
        middle = 0.5 * (edges[1:] + edges[:-1])
        solid = coarse_measurement().instrument.solid_angle_sr
        expected = (
            block.counts
            * np.sqrt(40 / (40 - middle))
            / (chunk["proton_charge"] * 0.5 * solid[:, None])
        )
        assert block.intensity[some] == pytest.approx(expected[some], rel=1e-5)


def test_the_seed_decides_the_events_whatever_the_number_of_processes(tmp_path):
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    truths = [
        simulated(one, formats=("sns",)),
        simulated(two, formats=("events",), processes=2),
        simulated(other, formats=("sns",), seed=5),
    ]
    assert truths[0] == truths[1]
    for name in ("ge-arcs_0001.nxs.h5", "ge-arcs_0002.nxs.h5"):
        first, second, third = (
            next(p for p in payloads([folder / name]) if isinstance(p, EventBlock))
            for folder in (one, two, other)
        )
        assert np.array_equal(first.energy_transfer_meV, second.energy_transfer_meV)
        assert np.array_equal(first.pixel, second.pixel)
        assert not np.array_equal(first.pixel[:100], third.pixel[:100])


def test_a_shorter_scan_leaves_no_files_of_the_longer_one(tmp_path):
    (tmp_path / "mine.nxs.h5").write_text("kept")
    simulated(tmp_path, formats=("sns",), minutes=0.01)
    simulated(tmp_path, formats=("sns",), minutes=0.01, psi_deg=[10.0])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "ge-arcs_0001.nxs.h5",
        "mine.nxs.h5",
        "truth.json",
    ]


def test_truth_is_the_reference_a_draw_or_what_is_given():
    measurement = coarse_measurement()
    reference = true_parameters(measurement, "reference", 0)
    assert np.array_equal(reference, measurement.model.values)
    drawn = [true_parameters(measurement, "prior", seed) for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert measurement.box.contains(drawn[0]).all()
    given = true_parameters(measurement, {"1NN xx": -3.0}, 0)
    assert given[0] == -3.0
    assert np.array_equal(given[1:], reference[1:])
    with pytest.raises(ValueError, match="truth names"):
        true_parameters(measurement, {"9NN qq": 1.0}, 0)
    with pytest.raises(ValueError, match="expected 'reference', 'prior'"):
        true_parameters(measurement, "made up", 0)


def test_dead_pixels_count_nothing_but_look_alive_in_the_file(tmp_path):
    instrument = coarse_measurement().instrument
    dead = np.arange(instrument.n_pixels) < instrument.n_pixels // 2
    truth = simulated(
        tmp_path, formats=("sns",), psi_deg=[0.0], dead_pixels=dead, settings={"bragg_scale": 1e-4}
    )
    found = payloads([tmp_path / "ge-arcs_0001.nxs.h5"])
    pixel = np.concatenate([p.pixel for p in found if isinstance(p, EventBlock)])
    assert pixel.min() >= instrument.n_pixels // 2
    assert truth["instrument"]["pixels_dead"] == dead.sum()
    assert found[0].geometry is not None
    assert len(found[0].geometry.masked) == instrument.n_pixels


def test_what_the_virtual_section_leaves_open_of_the_spread_of_q_is_as_it_is_believed():
    measurement = coarse_measurement()
    believed = QSpreadSection(mosaic_deg=0.2, divergence_deg=0.3, pixel_m="instrument")
    virtual = measurement.experiment.virtual.model_copy(update={"divergence_deg": 0.0})
    experiment = measurement.experiment.model_copy(
        update={"q_spread": believed, "virtual": virtual}
    )
    asked = build_measurement(experiment, EXAMPLES)
    found, _ = virtual_experiment(asked, [0.0], measurement.model.values)
    assert (found.spread.mosaic_deg, found.spread.divergence_deg) == (0.2, 0.0)
    width_m, height_m = found.spread.pixel_m
    assert width_m == pytest.approx(0.025, rel=0.1)
    assert height_m == pytest.approx(0.125, rel=0.1)  # 16 pixels merged


def test_the_virtual_section_switches_parts_on_and_truth_tells_what_to_expect(tmp_path):
    experiment = coarse_experiment()
    tube = experiment.virtual.model_validate(
        {
            "counts_per_minute": 600,
            "bragg": 1e-4,
            "incoherent": 1.0,
            "multiphonon": 1.0,
            "can": {"atoms": 0.2},
            "decaying_ratio": 0.5,
            "mosaic_deg": 0.2,
            "pixel_m": [0.025, 0.008],
            "dead_tubes": [3, 40],
            "power_sigma": 0.1,
        }
    )
    asked = experiment.model_copy(update={"virtual": tube})
    truth = simulate(
        asked, experiment_dir=EXAMPLES, output=tmp_path, psi_deg=[5.0, 40.0], minutes=0.3, seed=2,
        processes=1,
    )  # fmt: skip
    assert truth == json.loads((tmp_path / "truth.json").read_text())
    instrument = coarse_measurement().instrument
    dead = np.isin(instrument.tube, [3, 40])
    assert truth["instrument"]["pixels_dead"] == dead.sum() > 0
    assert truth["can"] == {
        "material": "aluminium", "atoms": 0.2, "line_width_inverse_A": 0.02
    }  # fmt: skip
    assert truth["spread"] == {
        "mosaic_deg": 0.2,
        "divergence_deg": 0.0,  # no q_spread
        "pixel_m": [0.025, pytest.approx(0.128)],  # 16 pixels merged
    }
    assert truth["chunks"][0]["proton_charge"] != truth["chunks"][1]["proton_charge"]
    for chunk in truth["chunks"]:
        events = [p for p in payloads([tmp_path / chunk["files"][0]]) if isinstance(p, EventBlock)]
        assert sum(len(p.pixel) for p in events) == sum(chunk["events"].values())
        assert not dead[np.concatenate([p.pixel for p in events])].any()
        for name in ("elastic", "incoherent", "multiphonon", "can_elastic", "can", "decaying"):
            expected = chunk["expected"][name]
            assert expected > 0
            assert chunk["events"][name] == pytest.approx(expected, abs=4 * np.sqrt(expected) + 1)
        expected, sigma = chunk["expected"]["phonon"], chunk["expected_phonon_sigma"]
        assert chunk["events"]["phonon"] == pytest.approx(
            expected, abs=4 * np.sqrt(expected + sigma**2)
        )
    empty = experiment.model_copy(update={"virtual": tube.model_copy(update={"sample": False})})
    truth = simulate(
        empty, experiment_dir=EXAMPLES, output=tmp_path / "empty", psi_deg=[0.0], minutes=0.3,
        seed=3, formats=("sns",), processes=1,
    )  # fmt: skip
    events = truth["chunks"][0]["events"]
    assert events["phonon"] == events["elastic"] == events["bragg"] == 0 < events["can_elastic"]


def test_dead_tubes_must_exist(tmp_path):
    experiment = coarse_experiment()
    asked = experiment.virtual.model_copy(update={"dead_tubes": (99_999,)})
    with pytest.raises(ValueError, match="dead_tubes names \\[99999\\]; expected tubes of ARCS/16"):
        simulate(
            experiment.model_copy(update={"virtual": asked}), experiment_dir=EXAMPLES,
            output=tmp_path, psi_deg=[0.0], minutes=0.1, seed=1,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"psi_deg": []}, "psi_deg is \\[\\]; expected at least one"),
        ({"psi_deg": [float("nan")]}, "finite angle"),
        ({"minutes": 0.0}, "minutes is 0.0"),
        ({"formats": ("spe",)}, "formats is"),
        ({"power_sigma": 2.0}, "power_sigma is 2.0"),
    ],
)
def test_impossible_arguments_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        simulated(tmp_path, **changes)


def test_an_orientation_that_reaches_no_tube_is_named():
    measurement = coarse_measurement()
    blind = measurement.instrument.with_mask(np.ones(measurement.instrument.n_pixels, dtype=bool))
    with pytest.raises(ValueError, match="reach no tube"):
        tube_rates(replace(measurement, instrument=blind), [0.0], measurement.model.values, blind)


ONE_SEED = """
import sys
from pathlib import Path
from tests.steering.study.test_simulate import simulated

simulated(
    Path(sys.argv[1]), psi_deg=[30.0], minutes=2.0, truth="prior", formats=("sns",),
    power_sigma=0.1, settings={"bragg_scale": 1.0},
)
"""


def kernels_of_this_processor() -> list[str]:
    """Kernels of the numerical library that this processor can run."""
    known = Path("/proc/cpuinfo")
    flags = set(known.read_text().split()) if known.exists() else set()
    needs = {"Nehalem": "sse4_2", "Haswell": "avx2", "SkylakeX": "avx512vl"}
    return [core for core, flag in needs.items() if flag in flags] or ["", ""]


@pytest.mark.timeout(900)  # three processes of half a minute where the processor is free
def test_one_seed_gives_one_truth_and_one_set_of_files_under_any_kernel(tmp_path):
    """Eigenvectors of degenerate modes and last bits differ; nothing random hangs on them."""
    runs = []
    for number, core in enumerate(kernels_of_this_processor()):
        kernel = {"OPENBLAS_CORETYPE": core} if core else {}
        folder = tmp_path / str(number)
        done = subprocess.run(
            [sys.executable, "-c", ONE_SEED, str(folder)],
            cwd=EXAMPLES.parent, env=os.environ | kernel, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (file,) = folder.glob("*.nxs.h5")
        blocks = [p for p in payloads([file]) if isinstance(p, EventBlock)]
        pixel = np.concatenate([b.pixel for b in blocks])
        energy = np.concatenate([b.energy_transfer_meV for b in blocks])
        order = np.lexsort((energy, pixel))
        truth = json.loads((folder / "truth.json").read_text())
        runs.append((truth, pixel[order], energy[order].round(6)))
    assert len(runs) > 1
    (truth, pixel, energy), *others = runs
    events = set(zip(pixel.tolist(), energy.tolist(), strict=True))
    assert len(events) > 5000
    for other_truth, other_pixel, other_energy in others:
        for a, b in zip(truth["parameters"], other_truth["parameters"], strict=True):
            assert a["name"] == b["name"]
            assert a["value"] == pytest.approx(b["value"], rel=1e-12)
        assert truth["flux"]["value"] == pytest.approx(other_truth["flux"]["value"], rel=1e-9)
        same = set(zip(other_pixel.tolist(), other_energy.tolist(), strict=True))
        assert len(events ^ same) <= 8  # an event or two, gone or moved by a rounded digit
