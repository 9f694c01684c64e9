from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from simulations.errors import StorageError
from steering.report import named_files, write_files


def test_a_name_without_an_ending_stands_for_all_three(tmp_path):
    assert named_files([Path("a/ge"), Path("a/ge.png"), Path("b.CSV")]) == [
        Path("a/ge.png"), Path("a/ge.npz"), Path("a/ge.csv"), Path("b.CSV"),
    ]  # fmt: skip
    assert named_files([Path("ge-5.5K")])[0] == Path("ge-5.5K.png")  # no ending but a number


@pytest.mark.parametrize("name", ["a.pdf", "a.json"])
def test_another_ending_is_refused(name):
    with pytest.raises(ValueError, match=r"ends in \.png, \.npz, \.csv"):
        named_files([Path(name)])


def test_a_folder_is_refused_with_a_name_in_it(tmp_path):
    with pytest.raises(ValueError, match="a folder.*result"):
        named_files([tmp_path])


def test_arrays_text_and_tables_come_back(tmp_path):
    written = write_files(
        named_files([tmp_path / "new" / "x"]),
        picture=lambda: b"\x89PNG",
        content={
            "title": "Ge",
            "axis_meV": np.arange(3.0),
            "inner": {"values": [1.0, 2.0], "names": ["a", "b"]},
            "corners": [{"label": "X", "hkl": np.ones(3)}],
        },
        tables=lambda: {"": (["a", "b"], [[1.5, "x"], [np.nan, "y"]]), "-dos": (["c"], [[2]])},
        notes=["one\nline"],
    )
    assert [path.name for path in written] == ["x.png", "x.npz", "x.csv", "x-dos.csv"]
    with np.load(tmp_path / "new" / "x.npz") as kept:
        arrays = dict(kept)
    about = json.loads(str(arrays["about"]))
    assert about == {"title": "Ge", "inner.names": ["a", "b"]}
    np.testing.assert_array_equal(arrays["inner.values"], [1, 2])
    np.testing.assert_array_equal(arrays["corners.X.hkl"], [1, 1, 1])
    lines = (tmp_path / "new" / "x.csv").read_text().splitlines()
    assert lines[0] == "# one line"
    assert list(csv.reader(lines[1:])) == [["a", "b"], ["1.5", "x"], ["", "y"]]


def test_a_full_disk_leaves_what_was_there_and_nothing_half_written(small_disk):
    names = [small_disk.folder / f"x{ending}" for ending in (".png", ".npz", ".csv")]

    def write(name: Path, size: int) -> None:
        noise = np.random.default_rng(1).random(size)
        write_files(
            [name],
            picture=noise.tobytes,
            content={"noise": noise},
            tables=lambda: {"": (["x"], [[f"{value:.15f}"] for value in noise])},
            notes=(),
        )

    for name in names:
        write(name, 10)
    before = {name: name.read_bytes() for name in names}
    small_disk.fill(leave_bytes=32_768)
    for name in names:
        with pytest.raises(StorageError, match="No space left"):
            write(name, 20_000)
    small_disk.make_room()
    assert {path: path.read_bytes() for path in small_disk.folder.iterdir()} == before
