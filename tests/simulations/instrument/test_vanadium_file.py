from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from simulations.instrument import load_instrument, read_vanadium, with_vanadium

HYSPEC = load_instrument("HYSPEC")
EFFICIENCY = np.random.default_rng(3).uniform(0.7, 1.1, HYSPEC.n_pixels)
COUNTS = 4e7 * HYSPEC.solid_angle_sr * EFFICIENCY


def as_text(path: Path, counts: np.ndarray) -> None:
    rows = (
        f"{i} {c:.9g} {np.sqrt(c):.4g}" for i, c in zip(HYSPEC.detector_id, counts, strict=True)
    )
    path.write_text("# vanadium\nid counts error\n" + "\n".join(rows))


def as_npz(path: Path, counts: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez(file, detector_id=HYSPEC.detector_id, counts=counts)


def as_nexus(path: Path, counts: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        entry = file.create_group("mantid_workspace_1")
        workspace = entry.create_group("workspace")
        workspace["values"] = np.stack([counts * 0.25, counts * 0.75], axis=1)
        workspace["errors"] = np.sqrt(workspace["values"][()])
        detector = entry.create_group("instrument/detector")
        detector["detector_list"] = HYSPEC.detector_id.astype(np.int32)
        detector["detector_count"] = np.ones(HYSPEC.n_pixels, np.int32)


@pytest.mark.parametrize("write", [as_text, as_npz, as_nexus])
def test_the_efficiency_of_pixels_enters_their_solid_angle(tmp_path: Path, write) -> None:  # noqa: ANN001
    write(tmp_path / "v", COUNTS)
    vanadium = read_vanadium(tmp_path / "v")
    weighed, told = with_vanadium(HYSPEC, vanadium)
    live = ~HYSPEC.masked
    ratio = weighed.solid_angle_sr[live] / HYSPEC.solid_angle_sr[live] / EFFICIENCY[live]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-7)
    assert weighed.solid_angle_sr[live].sum() == pytest.approx(HYSPEC.solid_angle_sr[live].sum())
    assert np.array_equal(weighed.masked, HYSPEC.masked)
    assert told.startswith("0 of 17920 live pixels masked")


def test_dead_and_noisy_pixels_are_masked(tmp_path: Path) -> None:
    counts = COUNTS.copy()
    live = np.flatnonzero(~HYSPEC.masked)
    counts[live[:4]] = 0.0, np.nan, counts[live[2]] * 0.05, counts[live[3]] * 40
    as_npz(tmp_path / "v", counts)
    weighed, told = with_vanadium(HYSPEC, read_vanadium(tmp_path / "v"))
    assert np.flatnonzero(weighed.masked & ~HYSPEC.masked).tolist() == live[:4].tolist()
    assert told.startswith("4 of 17920")


def test_merged_pixels_sum_their_members(tmp_path: Path) -> None:
    as_npz(tmp_path / "v", COUNTS)
    merged = load_instrument("HYSPEC/4")
    weighed, _ = with_vanadium(merged, read_vanadium(tmp_path / "v"))
    live = ~merged.masked
    expected = COUNTS.reshape(-1, 4).sum(axis=1)[live]
    np.testing.assert_allclose(
        weighed.solid_angle_sr[live] / weighed.solid_angle_sr[live].sum(),
        expected / expected.sum(),
    )


def test_spectra_of_several_detectors_share_their_counts(tmp_path: Path) -> None:
    as_nexus(tmp_path / "v", COUNTS)
    with h5py.File(tmp_path / "v", "r+") as file:
        entry = file["mantid_workspace_1"]
        for name in ("values", "errors"):
            grouped = entry[f"workspace/{name}"][()].reshape(-1, 8, 2).sum(axis=1)
            del entry[f"workspace/{name}"]
            entry[f"workspace/{name}"] = grouped
        del entry["instrument/detector/detector_count"]
        entry["instrument/detector/detector_count"] = np.full(HYSPEC.n_pixels // 8, 8)
    vanadium = read_vanadium(tmp_path / "v")
    np.testing.assert_allclose(vanadium.counts[:8], COUNTS[:8].mean())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no pixel"),
        (b"1 5\n2 many\n", "line 2 is '2 many'; expected identifier, counts"),
        (b"1 5\n2 5 5 5\n", "line 2 is '2 5 5 5'"),
        (b"1 5\n1 6\n", "has 1 twice"),
        (b"\xff\xfe\x00", "is no text"),
        (b"PK\x03\x04junk", "cannot be read"),
        (b"\x89HDF\r\n\x1a\nshort", "HDF5 cannot read it"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "v"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_vanadium(path)
    assert str(path) in str(caught.value)


def test_files_that_lack_something_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "v"
    with pytest.raises(ValueError, match="cannot be read"):
        read_vanadium(path)
    with path.open("wb") as file:
        np.savez(file, detector_id=np.arange(3))
    with pytest.raises(ValueError, match="array 'counts' is missing"):
        read_vanadium(path)
    with path.open("wb") as file:
        np.savez(file, detector_id=np.arange(3), counts=np.ones(2))
    with pytest.raises(ValueError, match="as many counts"):
        read_vanadium(path)
    for spoil, words in (
        ("workspace/values", "no group with workspace/values"),
        ("instrument/detector/detector_list", "detector_list is missing"),
    ):
        as_nexus(path, COUNTS)
        with h5py.File(path, "r+") as file:
            del file[f"mantid_workspace_1/{spoil}"]
        with pytest.raises(ValueError, match=words):
            read_vanadium(path)


def test_vanadium_of_another_instrument_is_refused(tmp_path: Path) -> None:
    as_npz(tmp_path / "v", COUNTS)
    other = replace(HYSPEC, detector_id=HYSPEC.detector_id + 10**6)
    with pytest.raises(ValueError, match="gives no live pixel of HYSPEC a count"):
        with_vanadium(other, read_vanadium(tmp_path / "v"))
