from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from consumers.recorded import UnreadableError, read_detectors
from consumers.recorded.nxspe_file import read_nxspe
from consumers.recorded.spe_file import (
    detector_file,
    looks_like_spe,
    read_spe,
    read_spe_block,
    write_detectors,
    write_spe,
)
from tests.consumers.hostile_files import toy_instrument

GOOD = """ 2   3
### Phi Grid
57.3      57.3      57.3
### Energy Grid
-1        0         1.5       2
### S(Phi,w) 1
-0.0008239-0.00010760.001115
### Errors
0.1       0         0.2
### S(Phi,w) 2
-1.000E+30-NaN      3
### Errors
0         0         -1
"""
DETECTORS = "2\n 4.0 30.0 10.0 0.02 0.01 5\n 4.0 40.0 -90.0 0.02 0.01 6\n"


def written(tmp_path: Path, spe: str = GOOD, par: str | None = DETECTORS) -> Path:
    if par is not None:
        (tmp_path / "a.par").write_text(par)
    path = tmp_path / "a.spe"
    path.write_text(spe)
    return path


def test_numbers_that_touch_and_bins_without_data_are_read(tmp_path: Path) -> None:
    block = read_spe_block(written(tmp_path))
    np.testing.assert_allclose(block.energy_edges_meV, [-1, 0, 1.5, 2])
    np.testing.assert_allclose(block.intensity[0], [-0.0008239, -0.0001076, 0.001115])
    np.testing.assert_allclose(block.error[0], [0.1, 0, 0.2])
    assert np.isnan(block.intensity[1]).all()  # -1e30, NaN, negative error
    assert np.isnan(block.error[1]).all()


def test_a_file_becomes_a_reduced_run_with_its_detectors(tmp_path: Path) -> None:
    run = read_spe(written(tmp_path), psi_deg=12.0, ei_meV=10.0)
    assert (run.psi_deg, run.ei_meV, run.counts, run.minutes) == (12.0, 10.0, None, 0.0)
    assert list(run.instrument.detector_id) == [5, 6]
    assert list(run.instrument.masked) == [False, True]
    np.testing.assert_allclose(run.instrument.solid_angle_sr, 0.02 * 0.01 / 16)
    d = run.instrument.direction
    a = np.radians(-10)  # PAR turns the sign of the azimuth
    expected = [np.sin(np.pi / 6) * np.cos(a), np.sin(np.pi / 6) * np.sin(a), np.cos(np.pi / 6)]
    np.testing.assert_allclose(d[0], expected)
    assert d[1, 1] > 0.6
    assert any("a.par" in problem for problem in run.problems)
    cut = read_spe(written(tmp_path), psi_deg=12.0, ei_meV=1.8)
    assert cut.energy_edges_meV[-1] < 1.8
    assert cut.intensity.shape == (2, 3)
    with pytest.raises(UnreadableError, match=r"psi is not in an SPE file.*Give --psi"):
        read_spe(written(tmp_path), ei_meV=10.0)
    with pytest.raises(UnreadableError, match=r"Ei is not in an SPE file.*Give --ei to init"):
        read_spe(written(tmp_path), psi_deg=1.0)


@pytest.mark.parametrize("suffix", [".par", ".phx"])
def test_what_is_written_reads_back(tmp_path: Path, suffix: str) -> None:
    toy = toy_instrument()
    rng = np.random.default_rng(1)
    edges = np.linspace(-5, 20, 26)
    intensity = rng.normal(size=(toy.n_pixels, 25)) * 1e-3
    intensity[3, 4] = np.nan
    write_spe(
        tmp_path / "a.spe",
        energy_edges_meV=edges,
        intensity=intensity,
        error=np.abs(intensity),
    )
    write_detectors(tmp_path / f"a{suffix}", toy)
    assert looks_like_spe(tmp_path / "a.spe")
    run = read_spe(tmp_path / "a.spe", psi_deg=3.0, ei_meV=25.0)
    np.testing.assert_allclose(run.intensity, intensity, rtol=1e-3)
    np.testing.assert_allclose(run.error, np.abs(intensity), rtol=1e-3)
    np.testing.assert_allclose(run.energy_edges_meV, edges)
    np.testing.assert_allclose(run.instrument.position_m, toy.position_m, atol=1e-5)
    np.testing.assert_allclose(run.instrument.solid_angle_sr, toy.solid_angle_sr, rtol=1e-5)
    assert np.array_equal(run.instrument.detector_id, toy.detector_id)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (" 2   3", "two three", "line 1 is 'two three'; expected two whole numbers"),
        (" 2   3", " 2   4", "line 5 ends energy edges with 4 numbers; expected 5"),
        (" 2   3", " 3   3", "line 13 is the last; expected S of detector 3 of 3 after it"),
        ("1.5       2", "1.5       1", "line 5 energy edges do not rise"),
        ("0.1       0", "a lot     0", "line 9 has 'a' in errors of detector 1|has 'a lot'"),
        ("### Errors\n0 ", "0 ", "line 11 has '-1.000E.30-NaN' in S of detector 2 of 2"),
        ("-1.000E+30-NaN      3", "-1.000E+30-NaN", "ends S of detector 2 of 2 with 2 numbers"),
        ("0         0         -1\n", "0         0\n", "expected 1 more of 3 numbers, errors"),
        ("### Phi Grid\n", "", "line 2 is '57.3"),
    ],
)
def test_a_broken_file_is_refused_with_line_and_expectation(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(UnreadableError, match=words) as caught:
        read_spe(path, psi_deg=0.0, ei_meV=10.0)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 0 is the last; expected the number of detectors"),
        ("2\n 4 30 10 0.02 0.01\n", "line 2 is the last; expected 1 more of 2 detectors"),
        (DETECTORS + " 4 1 1 1 1 7\n", "line 4 is followed by more than the announced 2"),
        (DETECTORS.replace("30.0", "wide"), "line 2 has polar angle 'wide'; expected a finite"),
        (DETECTORS.replace("-90.0", "nan"), "line 3 has azimuth 'nan'; expected a finite"),
        (DETECTORS.replace(" 6\n", "\n"), "line 3 has 5 columns; expected 6 as above"),
        (DETECTORS.replace("4.0 40", "0.0 40"), "line 3 has distance 0; expected metres above 0"),
        (DETECTORS.replace("0.01", "0.01 9"), "line 2 has 7 columns; expected 5 or 6 in a PAR"),
        ("1\n 4 30 10 0.02 0.01\n", "holds 1 detectors, a.spe has 2; expected as many"),
    ],
)
def test_a_broken_list_of_detectors_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UnreadableError, match=words) as caught:
        read_spe(written(tmp_path, par=text), psi_deg=0.0, ei_meV=10.0)
    assert str(tmp_path / "a.par") in str(caught.value)


def test_odd_widths_and_identifiers_are_repaired_and_told(tmp_path: Path) -> None:
    text = "3\n1 10 0 0.1 0.1 4\n1 20 0 0 0 4\n1 30 0 0.1 0.1 4\n"
    (tmp_path / "b.PAR").write_text(text)
    instrument, problems = read_detectors(tmp_path / "b.PAR")
    assert list(instrument.detector_id) == [1, 2, 3]
    np.testing.assert_allclose(instrument.solid_angle_sr, 0.01)
    assert any("no width" in p for p in problems)
    assert any("identifiers repeat" in p for p in problems)


def test_the_detectors_of_a_file_are_found_beside_it(tmp_path: Path) -> None:
    path = written(tmp_path, par=None)
    with pytest.raises(UnreadableError, match=r"none is beside it.*Put it there as a.par"):
        detector_file(path)
    (tmp_path / "x.par").write_text(DETECTORS)
    (tmp_path / "y.phx").write_text("9\n")
    assert detector_file(path, 2).name == "x.par"
    with pytest.raises(UnreadableError, match=r"2 fit \(x.par, y.phx\)"):
        detector_file(path)
    (tmp_path / "a.phx").write_text("9\n")
    assert detector_file(path, 2).name == "a.phx"


def test_impossible_data_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="intensity has shape"):
        write_spe(
            tmp_path / "a.spe",
            energy_edges_meV=np.arange(3.0),
            intensity=np.zeros((1, 3)),
            error=np.zeros((1, 3)),
        )
    with pytest.raises(ValueError, match=r"expected .par or .phx"):
        write_detectors(tmp_path / "a.txt", toy_instrument())


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("spe_wrong.spe", r"line 1 is 'only the file has.*expected two whole numbers"),
        (
            "spe_info_correspondent2demo_par.spe",
            r"line 3529 is the last; expected 30 more of 30 numbers, S of detector 1 of 28160",
        ),
        ("wrong_par.PAR", r"line 1 is 'reader should not.*expected the number of detectors"),
        ("wrong_bin_par.PAR", r"line 1 is 'wrong pseudo.*expected the number of detectors"),
        ("wrong_demo_par_7Col.PAR", r"line 2 has 7 columns; expected 5 or 6 in a PAR file"),
    ],
)
def test_every_broken_file_gives_a_clear_error(shared_data: Path, name: str, words: str) -> None:
    path = shared_data / "spe-par" / name
    with pytest.raises(UnreadableError, match=words) as caught:
        read_spe_block(path) if path.suffix == ".spe" else read_detectors(path)
    assert str(path) in str(caught.value)


@pytest.mark.shared_data
def test_all_other_files_of_the_folder_are_read(shared_data: Path) -> None:
    folder = shared_data / "spe-par"
    seen = set()
    for path in folder.iterdir():
        if path.name.startswith(("wrong", "spe_wrong", "spe_info")):
            continue
        if path.suffix == ".spe":
            read_spe_block(path)
        else:
            read_detectors(path)
        seen.add(path.name)
    assert seen == {
        "96dets.par",
        "det_1.par",
        "det_1.phx",
        "fm_simple_cubic_a.spe",
        "spe_with_NANs.spe",
    }
    block = read_spe_block(folder / "spe_with_NANs.spe")
    assert block.intensity.shape == (5, 30)
    assert int(np.isnan(block.intensity).sum()) == 32  # two NaN, one detector of -1e30


@pytest.mark.shared_data
def test_par_and_phx_of_one_set_agree_in_direction_and_solid_angle(shared_data: Path) -> None:
    par, _ = read_detectors(shared_data / "spe-par" / "det_1.par")
    phx, _ = read_detectors(shared_data / "spe-par" / "det_1.phx")
    np.testing.assert_allclose(par.direction, phx.direction, atol=2e-6)
    np.testing.assert_allclose(par.solid_angle_sr, phx.solid_angle_sr, rtol=0.03)  # flat or round
    assert np.array_equal(par.detector_id, phx.detector_id)


@pytest.mark.shared_data
def test_par_and_nxspe_of_one_set_agree_in_direction(shared_data: Path) -> None:
    par, _ = read_detectors(shared_data / "spe-par" / "96dets.par")
    nxspe = read_nxspe(shared_data / "nxspe" / "gen_sqw_96dets.nxspe").instrument
    np.testing.assert_allclose(par.position_m, nxspe.position_m, atol=1e-6)


@pytest.mark.shared_data
def test_an_spe_and_its_nxspe_are_the_same_data(shared_data: Path, tmp_path: Path) -> None:
    nxspe = read_nxspe(shared_data / "nxspe" / "fm_simple_cubic_a.nxspe")
    shutil.copyfile(shared_data / "spe-par" / "fm_simple_cubic_a.spe", tmp_path / "a.spe")
    write_detectors(tmp_path / "a.par", nxspe.instrument)
    run = read_spe(tmp_path / "a.spe", psi_deg=nxspe.psi_deg, ei_meV=nxspe.ei_meV)
    np.testing.assert_allclose(run.energy_edges_meV, nxspe.energy_edges_meV)
    np.testing.assert_allclose(run.intensity, nxspe.intensity, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(run.error, nxspe.error, rtol=1e-3)
    with h5py.File(nxspe.path) as file:
        assert run.intensity.shape == file[nxspe.title]["data/data"].shape
    same = replace(run.instrument, masked=nxspe.instrument.masked)
    np.testing.assert_allclose(same.position_m, nxspe.instrument.position_m, atol=1e-5)
