from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from simulations.idf import parse_idf
from simulations.instrument import Instrument
from simulations.instrument_file import known_instruments, read_instrument_table
from simulations.instruments import instrument_idf, load_instrument


def assert_same(a: Instrument, b: Instrument, solid_angle: float = 1e-12) -> None:
    np.testing.assert_allclose(a.position_m, b.position_m, atol=1e-12)
    np.testing.assert_allclose(a.solid_angle_sr, b.solid_angle_sr, rtol=solid_angle)
    assert np.array_equal(a.detector_id, b.detector_id)
    assert np.array_equal(a.masked, b.masked)
    assert a.tube is not None
    assert b.tube is not None
    assert np.array_equal(a.tube, b.tube)
    assert a.source_to_sample_m == pytest.approx(b.source_to_sample_m)
    assert (a.name, a.resolution) == (b.name, b.resolution)


def two_theta_deg(instrument: Instrument) -> np.ndarray:
    return np.degrees(np.arccos(instrument.direction[:, 2]))


def test_arcs_has_its_published_size() -> None:
    arcs = load_instrument("ARCS")
    assert arcs.n_pixels == 117_760
    assert arcs.solid_angle_sr.sum() == pytest.approx(2.19, abs=0.005)
    assert two_theta_deg(arcs).min() == pytest.approx(2.37, abs=0.01)
    assert two_theta_deg(arcs).max() == pytest.approx(135.95, abs=0.01)
    assert arcs.source_to_sample_m == 13.6
    assert arcs.masked.mean() == 16 / 128
    assert np.array_equal(np.sort(arcs.detector_id), np.arange(117_760))


@pytest.mark.shared_data
def test_arcs_agrees_with_an_independent_pixel_table(shared_data: Path) -> None:
    arcs = load_instrument("ARCS")
    with np.load(shared_data / "arcs" / "pixels.npz") as table:
        np.testing.assert_allclose(arcs.position_m, table["P"], atol=1e-6)
        np.testing.assert_allclose(arcs.solid_angle_sr, table["om"], rtol=1e-3)
        assert np.array_equal(arcs.masked, ~table["mask"])


@pytest.mark.shared_data
def test_hyspec_agrees_with_the_geometry_in_its_event_files(shared_data: Path) -> None:
    with h5py.File(shared_data / "hyspec-mno" / "HYS_178921.nxs.h5") as file:
        xml = file["entry/instrument/instrument_xml/data"][0].decode()
    recorded = parse_idf(xml, {"s2": -33.0, "msd": 1784.358174694486})
    assert_same(load_instrument("HYSPEC", -33.0), recorded)
    assert recorded.n_pixels == 20 * 8 * 128


@pytest.mark.shared_data
def test_the_elastic_width_of_arcs_is_the_measured_one(shared_data: Path) -> None:
    table = np.loadtxt(shared_data / "arcs" / "V_Cali_Int_Res_FC2_2018_v2.dat")
    row = table[(table[:, 2] == 40) & (table[:, 6] == 420)][0]
    sigma = load_instrument("ARCS").resolution.sigma_meV(np.array(0.0), 40.0)
    assert float(sigma) * 2.3548 == pytest.approx(row[9], rel=0.02)


@pytest.mark.parametrize("name", ["ARCS", "HYSPEC"])
def test_our_definition_reads_back_as_the_same_instrument(name: str) -> None:
    assert_same(load_instrument(name), parse_idf(instrument_idf(name), {}))


def test_a_coarsened_definition_reads_back_with_its_name() -> None:
    again = parse_idf(instrument_idf("ARCS/4"), {})
    assert_same(load_instrument("ARCS/4"), again, solid_angle=1e-4)
    assert again.name == "ARCS/4"


def test_hyspec_turns_with_its_vessel() -> None:
    here, there = load_instrument("HYSPEC", 0.0), load_instrument("HYSPEC", -33.0)
    c, s = np.cos(np.radians(-33)), np.sin(np.radians(-33))
    turned = here.position_m @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T
    np.testing.assert_allclose(there.position_m, turned, atol=1e-12)
    assert np.all(there.position_m[:, 0] < 0)
    np.testing.assert_allclose(here.distance_m, 4.55, atol=0.05)


@pytest.mark.parametrize(
    ("name", "turn", "words"),
    [
        ("NOWHERE", None, "expected one of ARCS, HYSPEC"),
        ("ARCS/7", None, "Choose a divisor"),
        ("ARCS", 10.0, "does not turn"),
    ],
)
def test_an_impossible_instrument_says_what_is_expected(
    name: str, turn: float | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        load_instrument(name, turn)


def test_every_table_states_its_source() -> None:
    assert known_instruments() == ("ARCS", "HYSPEC")
    for name in known_instruments():
        table = read_instrument_table(name)
        assert len(table.source) > 50
        assert len(table.resolution_source) > 50
