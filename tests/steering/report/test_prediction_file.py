from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from simulations.errors import InputError
from steering.predict import PredictionRequest, predict
from steering.report import (
    named_files,
    prediction_csv,
    prediction_npz,
    prediction_png,
    write_prediction,
)
from steering.report.prediction_file import _draw_dos
from steering.web.answers import clean


@pytest.fixture(scope="module")
def direct():
    request = PredictionRequest(structure="germanium", ei_meV=30, energy_max_meV=20)
    return predict(request)


@pytest.fixture(scope="module")
def indirect():
    return predict(PredictionRequest(structure="germanium", instrument="TOSCA", temperature_K=10))


def rows(text: bytes) -> tuple[list[str], list[list[str]], list[str]]:
    lines = text.decode().splitlines()
    notes = [line for line in lines if line.startswith("#")]
    table = list(csv.reader(line for line in lines if not line.startswith("#")))
    return table[0], table[1:], notes


def test_arrays_are_those_of_the_answer_also_after_json(direct):
    for content in (direct, json.loads(json.dumps(clean(direct)))):
        arrays = np.load(io.BytesIO(prediction_npz(content)), allow_pickle=False)
        np.testing.assert_array_equal(arrays["powder.intensity"], direct["powder"]["intensity"])
        assert arrays["powder.energy_edges_meV"][-1] == pytest.approx(20)
        about = json.loads(str(arrays["about"]))
        assert about["route.kind"] == "force_constants"
        assert about["powder.unit"] == direct["powder"]["unit"]


def test_a_table_sums_its_parts_and_leaves_out_of_reach_empty(direct):
    heads, body, notes = rows(prediction_csv(direct))
    assert heads == [
        "q_inverse_A", "energy_meV", "total", "one_phonon", "multiphonon", "incoherent", "can",
    ]  # fmt: skip
    intensity = direct["powder"]["intensity"]
    assert len(body) == intensity.size
    empty = [row for row in body if row[2] == ""]
    assert len(empty) == np.isnan(intensity).sum()
    seen = np.array([row for row in body if row[2]], dtype=float)
    np.testing.assert_allclose(seen[:, 2], seen[:, 3:].sum(axis=1), rtol=1e-7)
    assert any("30 meV" in note for note in notes)


def test_every_part_has_its_table_and_others_are_refused(direct, indirect):
    for part in ("dos", "dispersion", "background"):
        assert len(rows(prediction_csv(direct, part))[1]) > 100
    heads, body, _ = rows(prediction_csv(indirect))
    energy, total = heads.index("energy_meV"), heads.index("backward_total")
    orders = [k for k, head in enumerate(heads) if head.startswith("backward_order_")]
    values = np.array(body, dtype=float)
    np.testing.assert_allclose(values[:, total], values[:, orders].sum(axis=1), atol=1e-9)
    peak = values[values[:, energy] > 2]
    assert 34 < peak[np.argmax(peak[:, total]), energy] < 38  # flat optic modes
    with pytest.raises(InputError, match="expected one of vibrational, dos, dispersion"):
        prediction_csv(indirect, "powder")


def test_pictures_show_what_there_is(direct, indirect):
    whole = imread(io.BytesIO(prediction_png(direct)))
    other = imread(io.BytesIO(prediction_png(indirect)))
    alone = imread(io.BytesIO(prediction_png({k: v for k, v in direct.items() if k != "powder"})))
    for picture in (whole, other, alone):
        assert picture.shape[0] > 500
        assert picture[::4, ::4, :3].std() > 0.05
    assert whole.shape[0] > 1.5 * imread(
        io.BytesIO(
            prediction_png({k: v for k, v in direct.items() if k not in ("powder", "background")})
        )
    ).shape[0]  # fmt: skip


def test_a_prediction_is_written_under_its_names(direct, tmp_path):
    written = write_prediction(direct, named_files([tmp_path / "a" / "ge"]))
    assert {path.name for path in written} == {
        "ge.png", "ge.npz", "ge-powder.csv", "ge-background.csv", "ge-dos.csv", "ge-dispersion.csv",
    }  # fmt: skip
    assert all(path.stat().st_size > 1000 for path in written)


def test_a_band_of_the_density_is_drawn_where_there_is_one():
    content = {
        "energy_meV": [0.5, 1.5], "total": [1.0, 2.0], "partial": {"Ge": [1.0, 2.0]},
    }  # fmt: skip
    band = {
        "energy_edges_meV": [0, 1, 2, 900], "low": [0.5, 1.0, 0.0], "high": [1.5, 3.0, 0.1],
        "level": 0.9,
    }  # fmt: skip
    for part, shown in ((content, []), (content | {"band": band}, ["total, 90% band"])):
        for beside in (False, True):
            axes = Figure().subplots()
            _draw_dos(axes, part, beside=beside)
            told = [text.get_text() for text in axes.get_legend().get_texts()]
            assert told == ["total", *shown]
            assert len(axes.patches) == len(shown)
            assert max(axes.get_ylim() if beside else axes.get_xlim()) < 2


def test_a_table_names_the_unit_of_what_it_holds(direct):
    density = prediction_csv(direct, "dos").decode()
    assert "modes/meV per primitive cell" in density
    assert "barn" not in density
    assert "barn/meV/sr per primitive cell" in prediction_csv(direct, "powder").decode()
    assert "energies in meV" in prediction_csv(direct, "dispersion").decode()
