from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest

from simulations.instrument import UNKNOWN_RESOLUTION
from simulations.instrument.instrument_file import read_pack_table

TOY = {
    "name": "TOY",
    "source_to_sample_m": 10.0,
    "pack_types": {
        "flat": {
            "tubes": 2,
            "tube_pitch_m": 0.03,
            "pixels": 4,
            "length_m": 1.0,
            "diameter_m": 0.025,
        }
    },
    "packs": [
        {
            "name": "one",
            "type": "flat",
            "first_id": 0,
            "x_m": 0.0,
            "y_m": 0.0,
            "z_m": 3,
            "turn_deg": 180.0,
        }
    ],
}


def test_a_table_of_packs_needs_no_more_than_its_geometry(tmp_path: Path) -> None:
    (tmp_path / "toy.json").write_text(json.dumps(TOY))
    table = read_pack_table(tmp_path / "toy.json")
    assert (table.name, table.masked_end_pixels, table.turn_log) == ("TOY", 0, None)
    assert table.packs[0].z_m == 3.0
    assert table.resolution == UNKNOWN_RESOLUTION
    assert "toy.json" in table.source


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        (("packs", 0, "type"), "round", r"packs\[0\].type is 'round'; expected one of flat"),
        (("packs", 0, "x_m"), "left", r"packs\[0\].x_m is 'left'; expected a number"),
        (("packs", 0, "first_id"), 0.5, r"packs\[0\].first_id is 0.5; expected a whole number"),
        (("packs", 0, "tilt"), 1, r"packs\[0\].tilt is unknown"),
        (("pack_types", "flat", "pixels"), -4, "pack_types.flat.pixels is -4; expected a positive"),
        (("source_to_sample_m",), -1, "expected a positive length"),
        (("packs",), [], "at least one pack"),
        (("packs",), 3, "expected a table of packs"),
    ],
)
def test_a_wrong_pack_is_named(tmp_path: Path, where: tuple, value: object, words: str) -> None:
    raw = deepcopy(TOY)
    place = raw
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    (tmp_path / "toy.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=words) as caught:
        read_pack_table(tmp_path / "toy.json")
    assert "toy.json: " in str(caught.value)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    for key in ("name", "pack_types", "source_to_sample_m"):
        (tmp_path / "toy.json").write_text(json.dumps({k: v for k, v in TOY.items() if k != key}))
        with pytest.raises(ValueError, match=f"field '{key}' is missing"):
            read_pack_table(tmp_path / "toy.json")
    (tmp_path / "toy.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="cannot be read"):
        read_pack_table(tmp_path / "toy.json")
