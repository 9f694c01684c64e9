from __future__ import annotations

import csv

import numpy as np
import pytest
from matplotlib import image

from steering.predict import (
    Line,
    indirect_spectrum,
    line_map,
    optics,
    powder_map,
    stable,
    vibrations_of,
    write_spectrum,
)
from steering.predict.spectrum_file import colour_limit, direction_text
from steering.report import named_files


@pytest.fixture(scope="module")
def germanium():
    return stable(vibrations_of("germanium"))


def rows(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def test_a_table_of_a_map_has_a_row_per_cell_and_none_is_invented(germanium, tmp_path):
    found = powder_map(
        germanium, optics(37.4, ei_meV=50.0),
        energy_edges_meV=np.arange(0.0, 40.1, 4), momentum_edges=np.arange(0.5, 9.1, 1.0),
    )  # fmt: skip
    write_spectrum(found, named_files([tmp_path / "powder"]))
    table = rows(tmp_path / "powder.csv")
    assert list(table[0]) == [
        "q_inverse_A", "energy_meV", "intensity", "coherent", "incoherent", "multiphonon",
    ]  # fmt: skip
    values = np.array([float(row["intensity"] or "nan") for row in table])
    with np.load(tmp_path / "powder.npz") as kept:
        arrays = dict(kept)
    np.testing.assert_allclose(
        values.reshape(found.intensity.shape), arrays["intensity"], rtol=1e-8, equal_nan=True
    )
    assert np.isnan(values).any()
    np.testing.assert_array_equal(arrays["energy_meV_edges"], np.arange(0.0, 40.1, 4))
    np.testing.assert_allclose(arrays["parts.coherent"], found.parts["coherent"], equal_nan=True)
    grey = image.imread(tmp_path / "powder.png")[..., :3]
    unknown = np.abs(grey - 180 / 255).max(axis=2) < 0.01
    assert unknown.mean() > 0.05  # out of reach is grey


def test_a_table_of_a_line_names_hkl(germanium, tmp_path):
    found = line_map(
        germanium,
        optics(37.4, ei_meV=50.0),
        Line(
            start_hkl=np.array([2.0, 2, -2]), stop_hkl=np.array([2.0, 2, 2]), bins=4,
            half_widths=(0.0, 0.0),
        ),
        energy_edges_meV=np.array([8.0, 10.0, 12.0]),
    )  # fmt: skip
    write_spectrum(found, named_files([tmp_path / "line.csv"]))
    table = rows(tmp_path / "line.csv")
    assert [float(row["l_rlu"]) for row in table[::2]] == pytest.approx([-1.5, -0.5, 0.5, 1.5])
    assert "# ARCS, Ei = 50 meV" in (tmp_path / "line.csv").read_text()


def test_a_table_of_vibrations_splits_banks_orders_and_elements(tmp_path):
    found = indirect_spectrum(
        stable(vibrations_of("MnO")), energy_edges_meV=np.arange(0.0, 101.0, 1.0)
    )
    write_spectrum(found, named_files([tmp_path / "mno"]))
    table = rows(tmp_path / "mno.csv")
    for row in table[10::20]:
        orders = sum(float(row[f"backward_{n}_phonon{'s' if n > 1 else ''}"]) for n in range(1, 11))
        assert orders == pytest.approx(float(row["backward_Mn"]) + float(row["backward_O"]))
        total = float(row["backward_total"])
        assert total == pytest.approx(orders + float(row["backward_elastic"]))
    assert float(table[0]["wavenumber_inverse_cm"]) == pytest.approx(0.5 * 8.065544, rel=1e-5)


def test_the_colour_scale_is_not_set_by_a_reflection():
    intensity = np.full((50, 20), 0.1)
    intensity[20:23] = 1e6
    intensity[0] = np.nan
    assert colour_limit(intensity) == pytest.approx(0.1)
    assert colour_limit(np.zeros((3, 3))) == 1.0


def test_directions_are_written_in_brackets():
    assert direction_text(np.array([1.0, -1.0, 0.25]), "[]") == "[1 -1 0.25]"
    assert direction_text(None) == "(0 0 0)"
