from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import h5py
import numpy as np
import pytest

from simulations.instrument import (
    Instrument,
    find_instrument,
    instrument_idf,
    known_instruments,
    load_instrument,
    parse_idf,
    read_instrument_table,
)
from simulations.instrument.pixel_table_file import write_pixel_table


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


def test_arcs_covers_its_published_angles() -> None:
    """Horizontally from -28 to 135.95 degrees, all round the beam, 1 m tubes above and below."""
    arcs = load_instrument("ARCS")
    P = arcs.position_m
    across = np.degrees(np.arctan2(P[:, 0], P[:, 2]))
    azimuth = np.degrees(np.arctan2(P[:, 1], P[:, 0]))
    assert (across.min(), across.max()) == pytest.approx((-28.0, 135.95), abs=0.01)
    assert (azimuth.min(), azimuth.max()) == pytest.approx((-180, 180), abs=0.5)
    assert np.diff(np.sort(azimuth)).max() < 5  # no sector is empty


def test_sequoia_has_its_published_size() -> None:
    """117 packs at 5.5 m; horizontally -30 to 60 degrees, vertically 18 but for the four in row A.

    Coverage: chopper-spectrometer table of G. E. Granroth (SEQUOIA: -30 to -5.3, 2.1 to 60; 6.7 to
    18 degrees). Solid angle: ours, no published figure at hand.
    """
    sequoia = load_instrument("SEQUOIA")
    P = sequoia.position_m
    across = np.degrees(np.arctan2(P[:, 0], P[:, 2]))
    up = np.degrees(np.arcsin(sequoia.direction[:, 1]))
    row_a = sequoia.detector_id < 30_000
    assert sequoia.n_pixels == 117 * 1024
    assert (across.min(), across.max()) == pytest.approx((-30, 60), abs=0.7)
    assert (up[~row_a].min(), up[~row_a].max()) == pytest.approx((-18, 18), abs=1.6)
    assert np.hypot(P[:, 0], P[:, 2]).mean() == pytest.approx(5.5, abs=0.1)
    assert sequoia.solid_angle_sr.sum() == pytest.approx(0.887, abs=0.001)
    assert sequoia.source_to_sample_m == 20.0114
    assert np.array_equal(np.unique(sequoia.detector_id // 1024), np.r_[22:26, 37:150])


def test_cncs_has_its_published_size() -> None:
    """50 packs of 2 m at 3.5 m, -50 to 132 degrees, 16 up and down, 36.26 m from the moderator.

    G. Ehlers et al., Rev. Sci. Instrum. 82, 085108 (2011).
    """
    cncs = load_instrument("CNCS")
    P = cncs.position_m
    across = np.degrees(np.arctan2(P[:, 0], P[:, 2]))
    up = np.degrees(np.arcsin(cncs.direction[:, 1]))
    assert cncs.n_pixels == 51_200
    assert np.array_equal(cncs.detector_id, np.arange(51_200))
    assert (across.min(), across.max()) == pytest.approx((-53.6, 132.6), abs=0.1)
    assert (up.min(), up.max()) == pytest.approx((-16, 16), abs=0.2)
    assert np.hypot(P[:, 0], P[:, 2]).mean() == pytest.approx(3.5, abs=0.02)
    assert cncs.solid_angle_sr.sum() == pytest.approx(1.594, abs=0.001)
    assert cncs.source_to_sample_m == pytest.approx(36.25, abs=0.02)


@pytest.mark.parametrize("name", ["ARCS", "CNCS", "SEQUOIA"])
def test_packs_face_the_sample_and_stand_side_by_side(name: str) -> None:
    tubes = load_instrument(name).position_m.reshape(-1, 8, 128, 3)
    centre = tubes.mean(axis=(1, 2))
    across = tubes[:, 7].mean(axis=1) - tubes[:, 0].mean(axis=1)
    outward = centre * [1, 0, 1]
    cosine = np.einsum("pa,pa->p", across, outward)
    cosine /= np.linalg.norm(across, axis=1) * np.linalg.norm(outward, axis=1)
    assert np.degrees(np.arcsin(np.abs(cosine))).max() < 1.5
    apart = np.linalg.norm(centre[:, None] - centre, axis=-1) + np.eye(len(centre)) * 9
    overlapping = int((apart.min(axis=1) < 0.2).sum())  # as surveyed: B1 and B2, 23 and 24
    assert overlapping == (6 if name == "SEQUOIA" else 0)


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


@pytest.mark.parametrize("name", ["ARCS", "CNCS", "HYSPEC", "SEQUOIA"])
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
        ("NOWHERE", None, "expected one of ARCS, CNCS, HYSPEC, SEQUOIA, or a file"),
        ("ARCS/7", None, "Choose a divisor"),
        ("ARCS", 10.0, "does not turn"),
        ("nowhere.csv", None, "expected one of ARCS"),
    ],
)
def test_an_impossible_instrument_says_what_is_expected(
    name: str, turn: float | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        load_instrument(name, turn)


def test_every_table_states_its_source() -> None:
    assert known_instruments() == ("ARCS", "CNCS", "HYSPEC", "SEQUOIA")
    for name in known_instruments():
        table = read_instrument_table(name)
        assert len(table.source) > 50
        assert len(table.resolution_source) > 50


def test_an_instrument_comes_from_an_idf_a_pixel_table_or_a_table_of_packs(tmp_path: Path) -> None:
    cncs = load_instrument("CNCS/32")
    (tmp_path / "x.xml").write_text(instrument_idf("CNCS/32"))
    write_pixel_table(tmp_path / "x.csv", cncs)
    packs = files("simulations") / "data" / "instruments" / "CNCS.json"
    (tmp_path / "x.json").write_text(packs.read_text())
    assert_same(cncs, find_instrument(str(tmp_path / "x.xml")), solid_angle=3e-3)
    assert_same(cncs, find_instrument(str(tmp_path / "x.csv")))
    assert_same(cncs, find_instrument(str(tmp_path / "x.json/32")))
    half = find_instrument(str(tmp_path / "x.csv/2"))
    assert (half.n_pixels, half.name) == (cncs.n_pixels // 2, "CNCS/64")
    write_pixel_table(tmp_path / "x.csv", half)  # a replaced file is read again
    assert find_instrument(str(tmp_path / "x.csv")).n_pixels == half.n_pixels


def test_a_file_is_looked_for_beside_the_experiment(tmp_path: Path) -> None:
    write_pixel_table(tmp_path / "x.csv", load_instrument("CNCS/64"))
    assert find_instrument("x.csv", tmp_path).n_pixels == 800
    assert find_instrument("CNCS/64", tmp_path).n_pixels == 800
    for name in ("y.csv", "y.xml/4"):
        with pytest.raises(ValueError, match=r"y\.\w+ is no file"):
            find_instrument(name, tmp_path)


def test_an_idf_that_needs_logs_is_refused_as_a_file(tmp_path: Path) -> None:
    xml = instrument_idf("HYSPEC/32").replace(
        "<location rot='-33.0' axis-x='0' axis-y='1' axis-z='0'/>",
        "<location><parameter name='roty'><logfile id='s2'/></parameter></location>",
    )
    (tmp_path / "h.xml").write_text(xml)
    with pytest.raises(ValueError, match=r"h.xml: the IDF needs logs s2"):
        find_instrument(str(tmp_path / "h.xml"))


@pytest.mark.shared_data
def test_the_shared_pixel_table_of_arcs_is_an_instrument(shared_data: Path) -> None:
    table = find_instrument(str(shared_data / "arcs" / "pixels.npz"))
    assert table.solid_angle_sr.sum() == pytest.approx(2.19, abs=0.005)
    assert np.array_equal(table.masked, load_instrument("ARCS").masked)
