from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from consumers.fold import EventAccount
from consumers.recorded.spe_file import write_detectors
from consumers.state import close_chunk
from simulations.fold import CellSums
from simulations.fold.exposure import Exposure
from simulations.instrument import instrument_idf, load_instrument
from simulations.instrument.mask_file import write_mask
from simulations.instrument.pixel_table_file import write_pixel_table
from simulations.likelihood import Trajectories
from steering import cli
from steering.experiment import dump_experiment
from steering.report import inspect, scan_of
from steering.report.inspection import KINDS
from tests.consumers.hostile_files import HOSTILE, good_events, good_nxspe
from tests.steering.virtual_scan import VirtualScan, virtual_scan

__all__ = ["virtual_scan"]

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def a_chunk(folder: Path, *, folded: int = 7, exposure: float = 2.0) -> Path:
    """Closed chunk of two path bins and three energies; one cell has no exposure."""
    cells = np.array([[exposure, 1, 1], [1, 1, 0]])
    counts = np.array([[1, 2, 0], [3, 1, 0]])
    sums = CellSums(
        signal=counts.astype(float),
        variance=counts.astype(float),
        counts=counts,
        exposure=cells,
        flat=np.ones((2, 3)),
        gaussian=False,
    )
    empty = {name: np.zeros(1) for name in Exposure.__dataclass_fields__}
    walked = {name: np.zeros(1) for name in Trajectories.__dataclass_fields__}
    return close_chunk(
        folder,
        chunk="1001",
        psi_deg=12.5,
        minutes=0.5,
        proton_charge=0.05,
        account=EventAccount(read=10, folded=folded, masked=2, filtered=1),
        sums=sums,
        exposure=Exposure(**empty),  # pyright: ignore[reportArgumentType]
        trajectories=Trajectories(**walked),  # pyright: ignore[reportArgumentType]
    ).path


def test_recorded_files_tell_what_they_hold(tmp_path: Path) -> None:
    good_events(tmp_path / "a.nxs.h5", n=500)
    good_nxspe(tmp_path / "b.nxspe")
    events, reduced = inspect(tmp_path / "a.nxs.h5"), inspect(tmp_path / "b.nxspe")
    assert (events["kind"], events["format"]) == ("sns-events", "SNS raw events")
    assert (events["events"], events["psi_deg"], events["problems"]) == (500, 12.5, [])
    assert (reduced["kind"], reduced["problems"]) == ("nxspe", [])
    scan = scan_of([events, reduced])
    assert (scan["files"], scan["psi_deg"], scan["problems"]) == (2, [12.5, 12.5], [])
    assert scan["proton_charge"] == pytest.approx(0.1)


def test_files_that_do_not_belong_together_are_told() -> None:
    one = {
        "kind": "nxspe",
        "instrument": "ARCS",
        "ei_meV": 40.0,
        "temperature_K": 5.0,
        "run_number": "7",
        "psi_deg": None,
    }
    other = one | {"instrument": "CNCS", "ei_meV": 12.0, "temperature_K": 300.0, "psi_deg": 3.0}
    told = " / ".join(scan_of([one, other, {"kind": "unreadable"}])["problems"])
    for words in (
        "several instruments: ARCS, CNCS",
        "several incident energies: 40, 12",
        "several temperatures: 5, 300",
        "run 7 comes more than once",
        "1 of 2 files have no psi",
    ):
        assert words in told
    assert scan_of([])["events"] is None


def test_a_closed_chunk_tells_its_sums_and_where_events_went(tmp_path: Path) -> None:
    report = inspect(a_chunk(tmp_path))
    assert report["kind"] == "chunk"
    assert (report["psi_deg"], report["minutes"], report["events"]) == (12.5, 0.5, 10)
    assert report["account"]["masked"] == 2
    assert (report["path_bins"], report["energy_bins"], report["counts"]) == (2, 3, 7)
    assert report["coverage_fraction"] == pytest.approx(5 / 6)
    assert report["problems"] == []


def test_a_chunk_that_contradicts_itself_says_so(tmp_path: Path) -> None:
    told = " / ".join(inspect(a_chunk(tmp_path, folded=6, exposure=0.0))["problems"])
    assert "events do not add up" in told
    assert "1 cells have signal without exposure" in told
    path = tmp_path / "cut.safetensors"
    path.write_bytes(a_chunk(tmp_path).read_bytes()[:200])
    report = inspect(path)
    assert report["kind"] == "unreadable"
    assert "is no closed chunk" in report["problems"][0]


@pytest.mark.parametrize("name", ["ge-arcs", "mno-hyspec", "al-arcs"])
def test_an_experiment_tells_its_sample_and_path(name: str) -> None:
    report = inspect(EXAMPLES / f"{name}.yaml")
    assert report["kind"] == "experiment"
    assert report["problems"] == []
    assert report["instrument"] in ("ARCS", "HYSPEC")
    assert set(report["orientation"]) == {"u", "v", "psi_offset_deg"}


def test_a_wrong_experiment_tells_every_fault(tmp_path: Path) -> None:
    text = (EXAMPLES / "ge-arcs.yaml").read_text()
    path = tmp_path / "e.yaml"
    path.write_text(
        text.replace("limits_deg: [0, 120]", "limits_deg: [40, -40]").replace("free: 8", "free: x")
    )
    report = inspect(path)
    assert report["kind"] == "unreadable"
    assert len(report["problems"]) == 2
    assert any("motion.limits_deg is [40, -40]" in p for p in report["problems"])
    path.write_text(
        text.replace("structure: germanium", "structure: unobtanium").replace("ARCS,", "NOWHERE,")
    )
    report = inspect(path)
    assert report["kind"] == "experiment"
    assert any("sample.structure is 'unobtanium'" in p for p in report["problems"])
    assert any("instrument.name is 'NOWHERE'" in p for p in report["problems"])


def test_instruments_masks_and_detectors_are_told(tmp_path: Path) -> None:
    hyspec = load_instrument("HYSPEC/32")
    write_detectors(tmp_path / "h.par", hyspec)
    write_pixel_table(tmp_path / "h.csv", hyspec)
    (tmp_path / "h.xml").write_text(instrument_idf("HYSPEC/32"))
    write_mask(tmp_path / "m.xml", hyspec)
    kinds = {}
    for path in sorted(tmp_path.iterdir()):
        report = inspect(path)
        kinds[path.name] = report["kind"]
        if report["kind"] in ("instrument", "detectors"):
            assert report["pixels"] == 640
    assert kinds == {
        "h.csv": "instrument",
        "h.par": "detectors",
        "h.xml": "instrument",
        "m.xml": "mask",
    }


def test_what_a_fold_wrote_is_told(virtual_scan: VirtualScan, tmp_path: Path) -> None:
    dump_experiment(virtual_scan.experiment, tmp_path / "e.yaml")
    files = [str(file) for file in virtual_scan.events[:2]]
    fold = ["fold", *files, "-e", str(tmp_path / "e.yaml"), "-o", str(tmp_path)]
    assert cli.run(fold) == 0
    assert cli.run([*fold, "--powder", "--q-step", "0.2"]) == 0
    for name, kind, bins in (
        ("folded", "folded", "path_bins"),
        ("powder", "powder", "momentum_bins"),
    ):
        path = tmp_path / f"{name}.npz"
        report = inspect(path)
        with np.load(path) as file:
            arrays = {key: file[key] for key in ("S", "V", "N", "D", "energy_edges_meV")}
        seen = arrays["D"] > 0
        assert (report["kind"], report["problems"]) == (kind, [])
        assert (report[bins], report["energy_bins"]) == seen.shape
        assert (report["coverage_fraction"], report["counts"]) == (seen.mean(), arrays["N"].sum())
        assert report["counts"] > 100
        arrays["S"] = arrays["S"] + 1
        np.savez(path, **arrays)
        (told,) = inspect(path)["problems"]
        assert told == f"{np.sum(~seen)} cells have signal without exposure"
        np.savez(path, **arrays | {"N": np.ones(3)})  # pyright: ignore[reportArgumentType]
        assert "S, N, D have shapes" in inspect(path)["problems"][0]
        assert inspect(path)["kind"] == "unreadable"


def test_a_spectrum_reduced_elsewhere_is_told(tmp_path: Path) -> None:
    energy, momentum = np.arange(-5.0, 46.0), 0.2 * np.arange(13)
    values = np.random.default_rng(0).random((12, 50))
    with h5py.File(tmp_path / "iqe.h5", "w") as file:
        file["IQE/data"], file["IQE/errors"] = values, np.full(values.shape, 0.01)
        file["IQE/grid/Q/bin boundaries"], file["IQE/grid/E/bin boundaries"] = momentum, energy
    report = inspect(tmp_path / "iqe.h5")
    assert (report["kind"], report["problems"]) == ("spectrum", [])
    assert (report["momentum_bins"], report["energy_bins"]) == (12, 50)
    assert report["energy_meV"] == (-4.5, 44.5)
    assert report["unknown"] == ["temperature", "Ei"]
    arrays = {
        "chi": np.stack([values.T, values.T]),
        "T_K": [50.0, 280.0],
        "Ei_meV": 50.0,
        "E_meV": energy[:-1],
        "Q_invA_left": momentum[:-1],
    }
    np.savez(tmp_path / "chi.npz", **arrays)
    report = inspect(tmp_path / "chi.npz")
    assert (report["kind"], report["problems"]) == ("spectrum", [])
    assert (report["temperature_K"], report["ei_meV"]) == ([50.0, 280.0], 50.0)
    assert report["unknown"] == ["errors"]
    np.savez(tmp_path / "chi.npz", **arrays | {"E_meV": energy})
    (told,) = inspect(tmp_path / "chi.npz")["problems"]
    assert told.startswith("spectrum: chi has shape (2, 50, 12); expected (2, 51, 12)")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89HDF\r\n\x1a\n", bytes(range(256)) * 8])
@pytest.mark.parametrize(
    "suffix",
    [".h5", ".nxspe", ".spe", ".par", ".safetensors", ".yaml", ".xml", ".csv", ".json", ".npz", ""],
)
def test_junk_is_told_as_junk(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"junk{suffix}"
    path.write_bytes(content)
    report = inspect(path)
    assert report["kind"] in KINDS
    assert report["problems"]
    assert "Traceback" not in " ".join(report["problems"])


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda h: h.name)
def test_the_command_survives_every_broken_file(hostile, tmp_path, capsys):
    path = hostile.make(tmp_path)
    assert cli.run(["inspect", str(path)]) in (2, 3)  # 3: it can be read, and something is wrong
    told = capsys.readouterr()
    assert "wrong or odd" in told.out
    assert "Traceback" not in told.out + told.err


def test_a_broken_spe_ends_with_2_and_says_its_path_once(tmp_path, capsys):
    path = tmp_path / "cut.spe"
    path.write_text("   2   3\n### Phi Grid\n 0.1 0.2\n")
    assert cli.run(["inspect", str(path)]) == cli.BAD_INPUT
    told = capsys.readouterr().out
    assert "line 3 is the last" in told
    assert str(tmp_path) not in told


def test_an_experiment_is_named_as_its_file_is(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    text = (EXAMPLES / "ge-arcs.yaml").read_text()
    path.write_text(text.replace("structure: germanium", "structure: unobtanium"))
    cli.run(["inspect", str(path)])
    told = capsys.readouterr().out
    assert "sample.structure is 'unobtanium'" in told
    assert "experiment.yaml" not in told


def test_the_command_speaks_words_and_json(tmp_path, capsys):
    good_events(tmp_path / "a.nxs.h5", n=500)
    good_events(tmp_path / "b.nxs.h5", n=500, run_number="1002")
    files = [str(tmp_path / "a.nxs.h5"), str(tmp_path / "b.nxs.h5")]
    assert cli.run(["inspect", *files]) == 0
    told = capsys.readouterr().out
    for words in ("SNS raw events", "HYSPEC/32", "nothing wrong found", "Together: 2 files"):
        assert words in told
    assert cli.run(["inspect", *files, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert [report["kind"] for report in value["files"]] == ["sns-events"] * 2
    assert value["scan"]["events"] == 1000
    assert cli.run(["inspect", str(tmp_path), str(tmp_path / "none")]) == cli.BAD_INPUT
    told = capsys.readouterr().out
    assert "is a folder" in told
    assert "is not there" in told


def test_the_command_has_help_with_an_example(capsys):
    assert cli.run(["inspect", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Example: beamsteer inspect" in shown
    assert "--json" in shown


KNOWN_FOLDERS = ("hyspec-mno", "al-arcs", "nxspe", "spe-par", "arcs", "ge")
"""The data folder may grow; what is counted lies here."""


@pytest.mark.shared_data
def test_every_shared_file_is_told(shared_data: Path) -> None:
    seen: dict[str, int] = {}
    for path in sorted(shared_data.rglob("*")):
        if path.is_file() and path.stat().st_size < 5_000_000 and "phonopy" not in str(path):
            report = inspect(path)
            if path.relative_to(shared_data).parts[0] in KNOWN_FOLDERS:
                seen[report["kind"]] = seen.get(report["kind"], 0) + 1
    assert seen["sns-events"] == 3
    assert seen["nxspe"] == 8
    assert seen["spe"] == 2
    assert {inspect(p)["kind"] for p in (shared_data / "spe-par").glob("*wrong*")} == {"unreadable"}
    assert seen["detectors"] == 3
    assert seen["instrument"] == 1
