"""Predictions: two routes, labelled answers, refusals."""

from importlib.util import find_spec

import numpy as np
import pytest
from pydantic import ValidationError

from simulations.dynamics import force_constant_model, phonon_dos, read_force_constants
from steering.predict import PredictionRequest, predict

CUBIC_POSCAR = """aluminium
1.0
0.0 2.025 2.025
2.025 0.0 2.025
2.025 2.025 0.0
Al
1
direct
0.0 0.0 0.0
"""


def test_germanium_is_predicted_from_its_own_force_constants():
    answer = predict(PredictionRequest(structure="germanium", temperature_K=5, ei_meV=60))
    assert answer["route"]["kind"] == "force_constants"
    assert answer["structure"]["formula"] == "Ge2"
    dos = answer["dos"]
    width = np.diff(dos["energy_meV"]).mean()
    assert dos["total"].sum() * width == pytest.approx(6.0, rel=0.01)
    powder = answer["powder"]
    intensity = powder["intensity"]
    assert intensity.shape == (100, 120)
    seen = np.isfinite(intensity)
    assert 0.1 < seen.mean() < 0.9
    assert np.nanmin(intensity) >= 0
    # nothing above the top of the optic branch, 37 meV, plus the resolution
    energy = 0.5 * (powder["energy_edges_meV"][1:] + powder["energy_edges_meV"][:-1])
    assert np.nanmax(intensity[:, energy > 45]) < 1e-3 * np.nanmax(intensity)
    components = answer["background"]["components"]
    assert set(components) == {"multiphonon", "incoherent", "can"}
    for part in [*components.values(), powder, dos]:
        assert part["approximation"]
    # the ratio of incoherent to coherent one-phonon scattering is that of the cross sections
    assert np.nanmean(components["incoherent"]["intensity"]) < 0.05 * np.nanmean(intensity)


def test_quantities_are_answered_alone():
    request = PredictionRequest(structure="germanium", quantity="dos")
    answer = predict(request)
    assert "powder" not in answer
    assert "background" not in answer
    reference = read_force_constants("germanium")
    expected = phonon_dos(force_constant_model(reference.crystal, reference, None)).shown()
    np.testing.assert_allclose(answer["dos"]["total"], expected.total)
    assert "half the error would take" in answer["dos"]["sampling"]


def test_a_stored_force_field_answers_without_its_package():
    answer = predict(
        PredictionRequest(structure="germanium", route="sevennet-0-22May2024", quantity="dos")
    )
    assert answer["route"] == {"kind": "force_field", "source": "sevennet-0-22May2024, stored"}
    assert any("soft" in note for note in answer["approximations"])
    top = answer["dos"]["energy_meV"][answer["dos"]["total"] > 1e-3].max()
    assert 29 < top < 33  # germanium's optic top in this force field; measured 37


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("chgnet") is None,
    reason="chgnet is not installed; pip install 'beamsteer[forcefields]'",
)
def test_a_structure_text_goes_through_a_force_field():
    answer = predict(
        PredictionRequest(structure=CUBIC_POSCAR, route="chgnet-0.2.0", quantity="dos")
    )
    assert answer["route"]["source"] == "chgnet-0.2.0"
    # the cell stays as it was given: the force field's own lattice parameter is 4.107
    assert np.linalg.norm(answer["structure"]["lattice_A"][0]) == pytest.approx(4.05, abs=1e-6)
    assert 15 < answer["dos"]["energy_meV"][-1] < 45  # 40 measured; the field is soft


def test_more_temperature_means_more_multiphonon_scattering():
    cold, hot = (
        predict(
            PredictionRequest(
                structure="germanium", temperature_K=t, quantity="background", can=None
            )
        )["background"]["components"]
        for t in (5.0, 600.0)
    )
    assert "can" not in cold
    assert np.nansum(hot["multiphonon"]["intensity"]) > 3 * np.nansum(
        cold["multiphonon"]["intensity"]
    )


def test_the_can_scales_with_its_atoms():
    one, two = (
        predict(
            PredictionRequest(structure="germanium", quantity="background", can_atoms_per_cell=n)
        )["background"]["components"]["can"]["intensity"]
        for n in (1.0, 2.0)
    )
    np.testing.assert_allclose(two, 2 * one)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"structure": "/etc/hostname"}, "expected one of .*germanium.*or the text of a POSCAR"),
        ({"structure": "unobtainium"}, "expected one of .*germanium"),
        ({"structure": "a\nb\nc\n"}, "structure"),
        ({"structure": "germanium", "instrument": "NONESUCH"}, "instrument"),
        ({"structure": CUBIC_POSCAR, "route": "given"}, "no force constants"),
    ],
)
def test_what_cannot_be_predicted_is_refused_with_a_reason(fields, message):
    with pytest.raises(ValueError, match=message):
        predict(PredictionRequest(**fields))


def test_too_many_atoms_are_refused():
    sites = "\n".join(f"{k / 80} 0.0 0.0" for k in range(80))
    text = f"row\n1.0\n160 0 0\n0 4 0\n0 0 3\nAl\n80\ndirect\n{sites.replace('0.0125', '0.0126')}\n"
    with pytest.raises(ValueError, match="80 atoms in the primitive cell; expected at most 60"):
        predict(PredictionRequest(structure=text, route="force_field"))


@pytest.mark.parametrize(
    "fields",
    [
        {"ei_meV": -1.0},
        {"ei_meV": float("nan")},
        {"temperature_K": -5.0},
        {"route": "magic"},
        {"quantity": "everything"},
        {"structure": ""},
        {"colour": "red"},
    ],
)
def test_bad_fields_fail_validation(fields):
    with pytest.raises(ValidationError):
        PredictionRequest(**({"structure": "germanium"} | fields))


def test_files_are_read_only_where_allowed(tmp_path):
    file = tmp_path / "POSCAR"
    file.write_text(CUBIC_POSCAR)
    request = PredictionRequest(structure=str(file), route="given")
    with pytest.raises(ValueError, match="expected one of"):
        predict(request)
    with pytest.raises(ValueError, match="no force constants"):
        predict(request, files=True)


def test_an_indirect_instrument_sees_s_of_e_alone():
    answer = predict(PredictionRequest(structure="germanium", instrument="tosca", temperature_K=10))
    assert answer["instrument"] == "TOSCA"
    assert "powder" not in answer
    part = answer["vibrational"]
    assert part["elements"] == ["Ge"]
    assert np.all(np.isfinite(part["total"]))
    for fields, says in (
        ({"instrument": "VISION", "quantity": "background"}, "sees S\\(E\\) alone"),
        ({"quantity": "vibrational"}, "expected VISION or TOSCA"),
        ({"quantity": "line"}, "expected line_hkl"),
        ({"quantity": "plane", "band_meV": (1, 2)}, "expected plane_hkl and band_meV"),
        ({"energy_max_meV": 40.0}, "expected less than Ei"),
    ):
        with pytest.raises(ValueError, match=says):
            predict(PredictionRequest(structure="germanium", **fields))


def test_a_generic_instrument_has_one_width_and_says_what_it_cannot_reach():
    answer = predict(
        PredictionRequest(structure="germanium", instrument="generic", ei_meV=30, quantity="powder")
    )
    assert answer["optics"]["two_theta_deg"] == [0.0, 180.0]
    np.testing.assert_allclose(answer["optics"]["fwhm_meV"], 0.02 * 30)
    assert any("modes reach 37" in words for words in answer["warnings"])


def test_a_dispersion_ends_where_optic_modes_do():
    part = predict(PredictionRequest(structure="germanium", quantity="dispersion"))["dispersion"]
    energies = part["energies_meV"]
    assert energies.shape == (len(part["position_inverse_A"]), 6)
    assert energies.max() == pytest.approx(37.4, abs=0.5)
    assert part["tick_labels"][0] == "Gamma"


def test_a_line_is_seen_as_far_as_detectors_reach():
    fields = {"structure": "germanium", "quantity": "line", "ei_meV": 40}
    near = predict(PredictionRequest(**fields, line_hkl=((2, 2, -2), (2, 2, 2))))["line"]
    assert near["intensity"].shape == (150, 160)
    far = predict(PredictionRequest(**fields, line_hkl=((2, 2, 0), (9, 9, 0))))["line"]
    assert np.isfinite(near["intensity"]).mean() > 0.9
    lost = np.isnan(far["intensity"]).all(axis=1)
    length = np.linalg.norm(far["hkl_rlu"] * 2 * np.pi / 5.6463, axis=1)
    assert lost[length > 8.4].all()  # twice the wave number of 40 meV is 8.8
    assert not lost[length < 7.5].any()
