from __future__ import annotations

import json

import numpy as np
import pytest

from simulations.constants import BOLTZMANN_MEV_PER_K, NEUTRON_MEV_A2
from simulations.cut import line_cut
from steering import cli
from steering.lattice_model import lattice_model
from steering.spectra import (
    energy_axis,
    line_map,
    optics,
    path_map,
    plane_map,
    powder_map,
    stable_dos,
    top_meV,
    vibrations,
)

ENERGY = np.arange(-20.0, 40.01, 2.0)


@pytest.fixture(scope="module")
def germanium():
    return lattice_model("germanium")


@pytest.fixture(scope="module")
def dos(germanium):
    return stable_dos(germanium)


def test_without_an_incident_energy_the_highest_phonon_lies_at_three_quarters_of_it(dos):
    seen = optics(top_meV(dos))
    assert seen.ei_meV == 50  # 37.4 / 0.75, to the next 5 meV
    assert seen.words.startswith("ARCS, Ei = 50 meV, resolution")
    assert energy_axis(dos, seen)[-1] < 50


def test_resolution_is_the_instruments_a_choppers_or_one_number():
    at_zero = [
        float(optics(37.4, ei_meV=50.0, **how).sigma_of(np.zeros(1))[0]) * 2.354820045
        for how in ({}, {"chopper": "FC2:300"}, {"fwhm_meV": 0.5})
    ]
    assert at_zero[2] == pytest.approx(0.5)
    assert 0.5 < at_zero[1] < at_zero[0] * 2
    with pytest.raises(ValueError, match="both chopper and fwhm_meV"):
        optics(37.4, chopper="FC2:300", fwhm_meV=1.0)


def test_an_axis_that_reaches_the_incident_energy_is_refused(dos):
    seen = optics(37.4, ei_meV=30.0)
    with pytest.raises(ValueError, match="ends at 40 meV, but neutrons of Ei = 30 meV"):
        energy_axis(dos, seen, np.array([0.0, 20.0, 40.0]))


def test_a_powder_is_the_sum_of_its_parts_within_the_scattering_triangle(germanium, dos):
    seen = optics(37.4, ei_meV=50.0)
    found = powder_map(
        germanium, dos, seen, energy_edges_meV=ENERGY, momentum_edges=np.arange(0.5, 9.1, 0.5)
    )
    assert set(found.parts) == {"coherent", "incoherent", "multiphonon"}
    np.testing.assert_allclose(found.intensity, sum(found.parts.values()))
    ki, kf = np.sqrt(50.0 / NEUTRON_MEV_A2), np.sqrt((50.0 - found.y) / NEUTRON_MEV_A2)
    impossible = (found.x[:, None] > ki + kf) | (found.x[:, None] < np.abs(ki - kf))
    assert np.isnan(found.intensity[impossible]).all()
    assert np.isfinite(found.intensity).mean() > 0.5
    assert np.nanmin(found.intensity) >= 0


def test_a_path_obeys_detailed_balance(germanium, dos):
    seen = optics(37.4, ei_meV=80.0, fwhm_meV=0.05)
    edges = np.linspace(-36.0, 36.0, 1441)
    found = path_map(germanium, dos, seen, energy_edges_meV=edges, path="X U", points=12)
    coherent = found.parts["coherent"]
    gain, loss = coherent[:, : len(found.y) // 2][:, ::-1], coherent[:, len(found.y) // 2 :]
    energy = found.y[len(found.y) // 2 :]
    both = np.isfinite(gain) & np.isfinite(loss)
    gain, loss = np.where(both, gain, 0), np.where(both, loss, 0)
    for column in range(len(loss)):
        place = np.argmax(loss[column])
        boltzmann = np.exp(-energy[place] / (BOLTZMANN_MEV_PER_K * 300))
        assert gain[column, place] == pytest.approx(boltzmann * loss[column, place], rel=1e-2)


def test_a_path_starts_from_a_strong_reflection_within_reach_or_the_one_named(germanium, dos):
    seen = optics(37.4, ei_meV=50.0)
    found = path_map(germanium, dos, seen, energy_edges_meV=ENERGY, points=40)
    assert np.isfinite(found.intensity).mean() > 0.9
    h, k, l = np.abs(found.origin_hkl)  # noqa: E741
    assert (h + k + l) % 4 == 0  # a strong reflection of diamond
    named = path_map(
        germanium, dos, seen, energy_edges_meV=ENERGY, points=40, zone_hkl=np.array([2.0, 2.0, 0.0])
    )
    np.testing.assert_allclose(named.hkl - named.path.hkl, [[2, 2, 0]] * len(named.hkl))
    with pytest.raises(ValueError, match="expected a reciprocal-lattice vector"):
        path_map(germanium, dos, seen, zone_hkl=np.array([1.0, 0.0, 0.0]))


def test_a_line_is_the_cut_of_the_physics_with_the_incoherent_part_added(germanium, dos):
    seen = optics(37.4, ei_meV=50.0)
    start, stop = np.array([2.0, 2.0, -1.0]), np.array([2.0, 2.0, 1.0])
    found = line_map(germanium, dos, seen, start, stop, energy_edges_meV=ENERGY, bins=12)
    direct = line_cut(
        germanium.model, start, stop, 12, ENERGY, temperature_K=300.0, resolution=seen.sigma_of,
        half_widths=(0.05, 0.05),
    )  # fmt: skip
    seen_cells = np.isfinite(found.intensity)
    np.testing.assert_allclose(
        found.parts["coherent"][seen_cells], direct.intensity[seen_cells], rtol=1e-9
    )
    assert np.all(found.parts["incoherent"][seen_cells] > 0)
    np.testing.assert_allclose(found.hkl[[0, -1], 2], [-11 / 12, 11 / 12])


def test_a_plane_has_the_symmetry_of_the_crystal_and_tells_its_progress(germanium, dos):
    seen = optics(37.4, ei_meV=50.0)
    axis = np.arange(-4.0, 4.01, 0.8)
    told: list[float] = []
    found = plane_map(
        germanium, dos, seen, np.array([1.0, 0, 0]), np.array([1.0, 1.0, 0]), (9.0, 11.0),
        u_edges=axis, v_edges=axis, progress=told.append,
    )  # fmt: skip
    np.testing.assert_allclose(found.axes_hkl[1], [0, 1, 0], atol=1e-12)  # made perpendicular
    np.testing.assert_allclose(found.intensity, found.intensity.T, rtol=1e-6)
    np.testing.assert_allclose(found.intensity, found.intensity[::-1], rtol=1e-6)
    assert told == sorted(told)
    assert len(told) == 10
    with pytest.raises(ValueError, match="cannot lose that much"):
        plane_map(germanium, dos, seen, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (40.0, 60.0))


def test_vibrations_have_overtones_above_the_highest_mode(germanium, dos):
    found = vibrations(germanium, dos)
    s = found.spectrum
    energy = 0.5 * (s.energy_edges_meV[1:] + s.energy_edges_meV[:-1])
    above = energy > 1.1 * top_meV(dos)
    assert s.orders[:, 1][:, above].sum() < 1e-3 * s.orders[:, 2][:, above].sum()
    assert found.setting.words == "VISION, 10 K"


def test_imaginary_modes_make_no_spectrum_and_the_message_says_where_to_look():
    with pytest.raises(ValueError, match="imaginary.*beamsteer phonons"):
        stable_dos(lattice_model("aluminium", "chgnet-0.3.0"))


def test_too_many_cells_are_refused_before_they_are_computed(germanium, dos):
    with pytest.raises(ValueError, match="expected at most 4,000,000 cells"):
        line_map(
            germanium, dos, optics(37.4), np.zeros(3), np.ones(3),
            energy_edges_meV=np.linspace(0, 40, 20_001), bins=2000,
        )  # fmt: skip


AXES = ["--energy-meV", "1:40:3", "--ei-meV", "50"]


@pytest.mark.parametrize(
    ("structure", "arguments", "shape"),
    [
        ("germanium", ["--powder", "--q-inverse-A", "2:4:0.5", *AXES], (4, 13)),
        ("niobium", ["--path", "--points", "Gamma H", *AXES], (401, 13)),
        ("MnO", ["--cut", "--from", "2,2,-1", "--to", "2,2,1", *AXES], (150, 13)),
        (
            "aluminium",
            ["--cut", "--u", "1,0,0", "--v", "0,1,0", "--band-meV", "9:11", "--u-inverse-A",
             "0:3:1", "--v-inverse-A=-1:1:1", "--ei-meV", "50"],
            (3, 2),
        ),
    ],
)  # fmt: skip
def test_the_verb_computes_each_kind_of_map_of_each_builtin_crystal(
    structure, arguments, shape, tmp_path, capsys
):
    name = tmp_path / "map"
    assert cli.run(["spectrum", structure, *arguments, "-o", str(name), "--json"]) == cli.OK
    told = json.loads(capsys.readouterr().out)
    assert np.array(told["intensity"], dtype=float).shape == shape
    assert told["ei_meV"] == 50
    assert told["temperature_K"] == 300
    assert all((tmp_path / f"map.{end}").stat().st_size > 500 for end in ("png", "npz", "csv"))


def test_the_verb_reads_a_phonopy_file_for_a_vibrational_spectrum(shared_data, tmp_path, capsys):
    file = shared_data / "phonopy-test" / "NaCl" / "phonopy_disp.yaml"
    picture = tmp_path / "nacl.png"
    code = cli.run(["spectrum", str(file), "--vision", "--instrument", "TOSCA", "-o", str(picture)])
    assert code == cli.OK
    told = capsys.readouterr().out
    assert "NaCl; TOSCA, 10 K" in told
    assert "backward" in told
    assert picture.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "none of them given; expected one of --powder, --path, --cut, --vision"),
        (["--powder", "--path"], "--powder and --path given"),
        (["--powder", "--ei-meV", "30", "--energy-meV", "0:40:1"], "cannot lose that much"),
        (["--powder", "--from", "1,0,0"], "--from given with --powder; expected with --cut only"),
        (["--vision", "--ei", "30"], "--ei-meV given with --vision"),
        (["--cut"], "--from 2,2,-2 --to 2,2,2 for a line, or --u 1,1,0"),
        (["--cut", "--from", "1,0", "--to", "1,1,1"], "--from is '1,0'; expected three numbers"),
        (["--powder", "--energy-meV", "4:1:1"], "min:max:step with min < max"),
        (["--cut", "--u", "1,0,0", "--v", "0,1,0", "--band-meV", "4"], "--band-meV is '4'"),
        (["--powder", "--temperature-K=-1"], "--temperature-K is -1"),
        (["--powder", "--chopper", "FC1"], "frequency like FC2:300"),
        (["--vision", "--instrument", "ARCS"], "expected one of TOSCA, VISION"),
    ],
)
def test_bad_input_of_the_verb_is_told_in_one_line(arguments, says, capsys):
    assert cli.run(["spectrum", "germanium", *arguments]) == cli.BAD_INPUT
    told = capsys.readouterr()
    assert told.out == ""
    assert says in " ".join(told.err.split())
    assert "Traceback" not in told.err
