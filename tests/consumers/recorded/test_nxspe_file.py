from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from consumers.recorded import UnreadableError, inspect_file, write_nxspe
from consumers.recorded.nxspe_file import read_nxspe
from tests.consumers.hostile_files import (
    EI_MEV,
    HOSTILE,
    PSI_DEG,
    Hostile,
    good_nxspe,
    put,
    toy_instrument,
)


def test_what_we_write_we_read_back_with_its_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.nxspe"
    counts = good_nxspe(path)
    run, ins = read_nxspe(path), toy_instrument()
    assert (run.ei_meV, run.psi_deg, run.version) == (EI_MEV, PSI_DEG, "1.3")
    assert (run.proton_charge, run.minutes, run.run_number) == (0.05, 0.5, "2001")
    assert (run.temperature_K, run.start_time_ns, run.problems) == (5.0, 7, ())
    assert run.counts is not None
    assert np.array_equal(run.counts, counts)
    np.testing.assert_allclose(run.instrument.position_m, ins.position_m, atol=1e-12)
    assert np.array_equal(run.instrument.solid_angle_sr, ins.solid_angle_sr)
    assert np.array_equal(run.instrument.detector_id, ins.detector_id)
    assert np.array_equal(run.instrument.masked, ins.masked)
    assert run.instrument.resolution == ins.resolution
    assert run.instrument.name == ins.name
    assert run.instrument.source_to_sample_m == ins.source_to_sample_m
    keep = ~ins.masked
    expected = counts[keep] / ins.solid_angle_sr[keep][:, None]
    np.testing.assert_allclose(run.intensity[keep], expected, rtol=1e-6)
    np.testing.assert_allclose(
        run.error[keep] ** 2, expected / ins.solid_angle_sr[keep][:, None], rtol=1e-5
    )
    assert np.isnan(run.intensity[ins.masked]).all()


def test_a_foreign_file_has_neither_counts_nor_charge(tmp_path: Path) -> None:
    path = tmp_path / "a.nxspe"
    good_nxspe(path)
    with h5py.File(path, "r+") as file:
        del file["w1/beamsteer"]
    run = read_nxspe(path)
    assert run.counts is None
    assert (run.proton_charge, run.minutes) == (1.0, 0.0)
    assert any("no raw counts" in problem for problem in run.problems)
    keep = ~run.instrument.masked
    exact = toy_instrument().solid_angle_sr
    np.testing.assert_allclose(run.instrument.solid_angle_sr[keep], exact[keep], rtol=1e-3)


def test_bad_bins_are_masked_one_by_one_and_bad_detectors_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.nxspe"
    good_nxspe(path)
    with h5py.File(path, "r+") as file:
        data = file["w1/data"]
        intensity, error, polar = data["data"][()], data["error"][()], data["polar"][()]
        row = int(np.flatnonzero(~toy_instrument().masked)[0])
        intensity[row, 0] = -1e30
        intensity[row, 1] = np.inf
        error[row, 2] = np.nan
        error[row, 3] = -1.0
        polar[row + 1] = np.nan
        intensity[row + 4] = np.nan  # same place in the next tube
        for name, array in (("data", intensity), ("error", error), ("polar", polar)):
            put(data, name, array)
    run = read_nxspe(path)
    assert np.isnan(run.intensity[row, :4]).all()
    assert np.isnan(run.error[row, :4]).all()
    assert np.isfinite(run.intensity[row, 4:]).all()
    assert not run.instrument.masked[row]
    assert run.instrument.masked[[row + 1, row + 4]].all()
    assert np.isfinite(run.instrument.position_m).all()
    assert np.isfinite(run.instrument.solid_angle_sr).all()
    assert any("no finite angle" in problem for problem in run.problems)
    assert any("no valid bin" in problem for problem in run.problems)


def test_data_without_ki_over_kf_get_it(tmp_path: Path) -> None:
    path = tmp_path / "a.nxspe"
    good_nxspe(path)
    applied = read_nxspe(path).intensity
    with h5py.File(path, "r+") as file:
        put(file["w1/NXSPE_info"], "ki_over_kf_scaling", np.array([0]))
    run = read_nxspe(path)
    centre = (run.energy_edges_meV[1:] + run.energy_edges_meV[:-1]) / 2
    np.testing.assert_allclose(run.intensity, applied * np.sqrt(EI_MEV / (EI_MEV - centre)))


def test_bins_beyond_the_incident_energy_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.nxspe"
    good_nxspe(path)
    with h5py.File(path, "r+") as file:
        put(file["w1/NXSPE_info"], "fixed_energy", np.array([17.5]))
    run = read_nxspe(path)
    assert run.energy_edges_meV[-1] < 17.5
    bins = len(run.energy_edges_meV) - 1
    assert run.intensity.shape[1] == run.error.shape[1] == bins == 23
    assert run.counts is not None
    assert run.counts.shape[1] == bins


def test_the_operators_psi_wins(tmp_path: Path) -> None:
    path = tmp_path / "a.nxspe"
    good_nxspe(path)
    assert read_nxspe(path, psi_deg=-3.0).psi_deg == -3.0
    with pytest.raises(UnreadableError, match="psi_deg is nan"):
        read_nxspe(path, psi_deg=float("nan"))


@pytest.mark.parametrize("hostile", [h for h in HOSTILE if h.kind == "nxspe"], ids=lambda h: h.name)
def test_a_hostile_nxspe_is_refused_with_its_reason(hostile: Hostile, tmp_path: Path) -> None:
    path = hostile.make(tmp_path)
    words = "no NXentry with NXSPE_info" if hostile.name == "no info nxspe" else hostile.words
    with pytest.raises(UnreadableError, match=words) as caught:
        read_nxspe(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"psi_deg": np.nan}, "psi_deg is nan"),
        ({"error": np.zeros((2, 2))}, "error has shape"),
        ({"energy_edges_meV": np.array([1.0, 0.0])}, "must rise"),
        ({"counts": np.zeros((1, 1), int)}, "counts has shape"),
    ],
)
def test_impossible_data_are_not_written(tmp_path: Path, changes: dict, words: str) -> None:
    ins = toy_instrument()
    arguments: dict = {
        "instrument": ins,
        "ei_meV": 25.0,
        "psi_deg": 0.0,
        "energy_edges_meV": np.array([0.0, 1.0]),
        "intensity": np.zeros((ins.n_pixels, 1)),
        "error": np.zeros((ins.n_pixels, 1)),
    }
    with pytest.raises(ValueError, match=words):
        write_nxspe(tmp_path / "a.nxspe", **(arguments | changes))


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "instrument", "ei", "psi", "version", "shape", "masked"),
    [
        ("CNCS_7860_coarse", "CNCS", 3.0, 24.4994, "1.1", (14, 8), 0),
        ("bi2fe4o9_Ei62_5K", "MERLIN", 62.0967, None, "1.2", (212, 220), 5),
        ("er2ir2o7_Ei30_5K", "MARI", 29.9132, None, "1.2", (285, 788), 4),
        ("fm_simple_cubic_a", "NXSPE", 36.0, 45.0, "1.2", (97, 68), 0),
        ("fm_simple_cubic_b", "NXSPE", 36.0, 45.0, "1.2", (73, 68), 0),
        ("gen_sqw_96dets", "Horace", 35.5, 90.0, "1.2", (96, 145), 0),
        ("inst_let_ei3p7_240_120", "LET", 3.7, None, "1.3", (5, 5), 0),
        ("nxspe_version1_0", "MAPS", 800.0, 0.0, "1.0", (5, 30), 2),
    ],
)
def test_files_of_other_programs_are_read(
    shared_data: Path,
    name: str,
    instrument: str,
    ei: float,
    psi: float | None,
    version: str,
    shape: tuple[int, int],
    masked: int,
) -> None:
    path = shared_data / "nxspe" / f"{name}.nxspe"
    if psi is None:
        with pytest.raises(UnreadableError, match="psi is NaN; expected degrees. Give --psi"):
            read_nxspe(path)
    run = read_nxspe(path, psi_deg=11.0 if psi is None else None)
    assert run.instrument.name == instrument
    assert run.ei_meV == pytest.approx(ei, abs=1e-3)
    assert run.psi_deg == pytest.approx(11.0 if psi is None else psi, abs=1e-4)
    assert run.version == version
    assert run.intensity.shape == shape
    assert run.instrument.masked.sum() == masked
    assert np.isfinite(run.instrument.position_m).all()
    good = ~run.instrument.masked
    assert np.all(run.instrument.solid_angle_sr[good] > 0)
    assert np.all(np.diff(run.energy_edges_meV) > 0)
    assert run.energy_edges_meV[-1] < run.ei_meV
    assert not np.any(run.intensity < -1e29)
    with h5py.File(path) as file:  # angles survive the way through positions
        data = file[run.title]["data"]
        direction = run.instrument.direction[good]
        polar = np.degrees(np.arccos(np.clip(direction[:, 2], -1, 1)))
        np.testing.assert_allclose(polar, data["polar"][()][good], atol=1e-5)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "bins", "masked", "in_live_detectors", "empty"),
    [
        ("CNCS_7860_coarse", 112, 0, 0, 0),
        ("bi2fe4o9_Ei62_5K", 46640, 1100, 0, 35),
        ("er2ir2o7_Ei30_5K", 224580, 3152, 0, 0),
        ("fm_simple_cubic_a", 6596, 0, 0, 0),
        ("fm_simple_cubic_b", 4964, 0, 0, 0),
        ("gen_sqw_96dets", 13920, 0, 0, 0),
        ("inst_let_ei3p7_240_120", 25, 0, 0, 0),
        ("nxspe_version1_0", 150, 69, 9, 52),
    ],
)
def test_masks_of_other_programs_are_kept_bin_by_bin(
    shared_data: Path, name: str, bins: int, masked: int, in_live_detectors: int, empty: int
) -> None:
    run = read_nxspe(shared_data / "nxspe" / f"{name}.nxspe", psi_deg=0.0)
    with h5py.File(run.path) as file:
        data = file[run.title]["data"]
        kept = run.intensity.shape[1]
        intensity, error = data["data"][()][:, :kept], data["error"][()][:, :kept]
    good = np.isfinite(intensity) & (intensity > -1e29) & np.isfinite(error) & (error >= 0)
    got = np.isfinite(run.intensity)
    assert np.array_equal(np.isfinite(run.error), got)
    assert not (got & ~good).any()
    lost = good & ~got  # zeros that were not recorded
    assert not intensity[lost].any()
    assert not error[lost].any()
    np.testing.assert_array_equal(run.intensity[got], intensity[got])
    assert run.intensity.size == bins
    assert int((~got).sum()) == masked
    assert int((~got[~run.instrument.masked]).sum()) == in_live_detectors
    assert run.empty_bins == empty
    assert (run.error[got] > 0).all()


def test_the_operators_energy_is_told_where_the_file_has_none(tmp_path: Path) -> None:
    path = tmp_path / "a.nxspe"
    good_nxspe(path)
    with h5py.File(path, "r+") as file:
        put(file["w1/NXSPE_info"], "fixed_energy", np.array([np.nan]))
    own = child_energy(path)
    assert own > 0
    assert read_nxspe(path).ei_from == "instrument/fermi/energy of the file"
    (told,) = [p for p in inspect_file(path)["problems"] if "fixed_energy" in p]
    assert told == (
        f"fixed_energy is missing; Ei of {own:g} meV is instrument/fermi/energy of the file"
    )


def child_energy(path: Path) -> float:
    with h5py.File(path) as file:
        return float(file["w1/instrument/fermi/energy"][0])


def test_a_processed_workspace_of_mantid_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "MAR28581.nxspe"
    with h5py.File(path, "w") as file:
        entry = file.create_group("mantid_workspace_1")
        entry.attrs["NX_class"] = np.bytes_("NXentry")
        entry.create_group("workspace").create_dataset("values", data=np.zeros((3, 4)))
    with pytest.raises(UnreadableError, match=r"workspace of Mantid.*SaveNXSPE\(LoadNexus\('MAR2"):
        read_nxspe(path)
    assert "SaveNXSPE" in inspect_file(path)["problems"][0]


@pytest.mark.parametrize("name", ["data", "error", "energy", "polar", "azimuthal", "distance"])
def test_text_where_numbers_are_due_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.nxspe"
    good_nxspe(path)
    with h5py.File(path, "r+") as file:
        shape = file[f"w1/data/{name}"].shape
        put(file, f"w1/data/{name}", np.full(shape, b"x"))
    with pytest.raises(UnreadableError, match=f"{name} holds text; expected real numbers"):
        read_nxspe(path)
