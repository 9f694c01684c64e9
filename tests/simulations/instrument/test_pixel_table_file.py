from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from simulations.instrument import UNKNOWN_RESOLUTION, load_instrument
from simulations.instrument.pixel_table_file import read_pixel_table, write_pixel_table

ROWS = "detector_id,x_m,y_m,z_m,solid_angle_sr\n7,1,0,1,1e-4\n9,0,1,1,2e-4\n"


def written(tmp_path: Path, text: str, name: str = "toy.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    hyspec = load_instrument("HYSPEC/32")
    write_pixel_table(tmp_path / "h.csv", hyspec)
    again = read_pixel_table(tmp_path / "h.csv")
    assert hyspec.tube is not None
    assert again.tube is not None
    for name in ("position_m", "solid_angle_sr", "detector_id", "masked", "tube"):
        assert np.array_equal(getattr(again, name), getattr(hyspec, name))
    assert again.source_to_sample_m == hyspec.source_to_sample_m
    assert (again.name, again.resolution) == (hyspec.name, hyspec.resolution)


def test_angles_and_faces_do_as_well_as_positions_and_solid_angles(tmp_path: Path) -> None:
    text = (
        "# name: two\n# a remark\n"
        "distance_m,polar_deg,azimuthal_deg,width_m,height_m,masked\n"
        "2,90,0,0.02,0.01,0\n4,90,90,0.02,0.01,1\n"
    )
    two = read_pixel_table(written(tmp_path, text))
    np.testing.assert_allclose(two.position_m, [[2, 0, 0], [0, 4, 0]], atol=1e-12)
    np.testing.assert_allclose(two.solid_angle_sr, [5e-5, 1.25e-5])
    assert list(two.masked) == [False, True]
    assert list(two.detector_id) == [0, 1]
    assert (two.name, two.tube, two.resolution) == ("two", None, UNKNOWN_RESOLUTION)
    assert np.isnan(two.source_to_sample_m)


def test_json_and_npz_hold_the_same(tmp_path: Path) -> None:
    columns = {
        "position_m": [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]],
        "solid_angle_sr": [1e-4, 2e-4],
        "detector_id": [7, 9],
        "source_to_sample_m": 13.6,
        "name": "toy",
        "resolution": [0.02, -0.01],
    }
    (tmp_path / "a.json").write_text(json.dumps(columns))
    np.savez(tmp_path / "a.npz", **{k: np.array(v) for k, v in columns.items()})  # pyright: ignore
    one, two = read_pixel_table(tmp_path / "a.json"), read_pixel_table(tmp_path / "a.npz")
    for name in ("position_m", "solid_angle_sr", "detector_id"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    assert one.resolution == two.resolution
    assert (one.name, two.source_to_sample_m) == ("toy", 13.6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no row of numbers"),
        (ROWS.replace("1e-4", "wide"), "line 2, solid_angle_sr is 'wide'; expected a number"),
        (ROWS.replace("9,0,1", "9,0"), "line 3 has 4 columns; expected 5"),
        (ROWS.replace("x_m", "ex"), "column 'ex' is unknown"),
        (ROWS.replace("z_m", "x_m"), "column 'x_m' comes twice"),
        (ROWS.replace("solid_angle_sr", "width_m"), "solid_angle_sr is missing"),
        (ROWS.replace("z_m", "tube"), "positions are missing"),
        (ROWS.replace("9,0,1,1", "9,0,0,0"), "position of pixel 2 is 0"),
        (ROWS.replace("2e-4", "-1"), "solid angle of pixel 2 is -1"),
        (ROWS.replace("\n9", "\n7"), "detector_id 7 comes 2 times"),
        (ROWS.replace("\n9", "\n9.5"), "detector_id of pixel 2 is 9.5"),
        ("# source_to_sample_m: far\n" + ROWS, "source_to_sample_m is 'far'"),
        ("# resolution: -1\n" + ROWS, "resolution is '-1'"),
    ],
)
def test_a_bad_table_is_refused_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=words) as caught:
        read_pixel_table(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npz", b"junk", "cannot be read|pickle"),
        ("a.npz", b"PK\x03\x04junk", "cannot be read"),
        ("a.json", b"{", "cannot be read"),
        ("a.json", b"[1]", "holds a list"),
        ("a.json", b'{"position_m": [[1, 2]], "solid_angle_sr": [1]}', "position_m has shape"),
        ("a.json", b'{"height": [1]}', "'height' is unknown"),
        ("a.csv", b"\xff\xfe", "cannot be read"),
        ("a.dat", b"", "ends with '.dat'"),
    ],
)
def test_junk_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_pixel_table(tmp_path / name)


def test_a_single_array_is_no_table(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="holds a single array"):
        read_pixel_table(tmp_path / "a.npz")
