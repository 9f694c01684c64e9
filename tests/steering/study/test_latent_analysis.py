from __future__ import annotations

import json

import numpy as np
import pytest

from model_server.networks import BundleRegistry, read_folded_spectrum, read_spectra
from model_server.networks.bundle import CARD, BundleMismatchError
from simulations.errors import InputError
from steering.experiment import load_experiment
from steering.study import analyse_latent, keep_analysis
from steering.study.latent_analysis import COVERAGES, MINUTES, STEPS, _simulate, folded_of
from tests.steering.germanium_bundle import (
    EXAMPLES,
    SMALL,
    analysed,
    bundle,
    measurement,
    write_fold,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("latent")


@pytest.fixture(scope="module")
def found(folder):
    return analysed(folder)


def test_every_part_has_its_shape(found):
    latent, parameters, spectra = 4, 3, 8 * COVERAGES
    assert found["spectra"] == spectra
    assert found["parameter_names"] == ["1NN xx", "1NN xy", "2NN xx"]
    assert found["activity"]["variance"].shape == (latent,)
    assert found["sensitivity"]["d_code_d_parameter"].shape == (latent, parameters)
    assert found["correlation"]["codes_parameters"].shape == (latent, parameters)
    assert found["map"]["simulated"].shape == (spectra, 2)
    assert found["interpolation"]["along_latent"].shape == (STEPS, parameters)
    assert found["psi"]["error_over_prior"].shape == (len(MINUTES), 3, parameters)
    assert found["psi"]["psi_deg"].tolist() == [0.0, 60.0, 120.0]
    for one in (found["activity"], found["sensitivity"], found["correlation"], found["psi"]):
        for array in one.values():
            assert np.isfinite(np.asarray(array, dtype=float)).all()


def test_the_spectra_between_two_sets_are_those_of_the_sets_between(found):
    between = found["interpolation"]
    np.testing.assert_allclose(np.diff(between["along_parameters"], n=2, axis=0), 0.0, atol=1e-9)
    spectra = between["spectra"]
    known = np.isfinite(spectra[0])
    assert known.any()
    assert (np.isfinite(spectra) == known).all()
    assert (spectra[:, known] >= 0).all()


def test_a_whole_scan_is_the_sum_of_its_orientations():
    """As a measurement is; moments of the summed exposure are means, so cells differ a little."""
    scan = _simulate(measurement(), bundle(), 4, 3, np.random.default_rng(0), lambda *_: None)
    whole = scan.rate.sum(axis=1)
    ends = [np.argmin(scan.parameters[:, 0]), np.argmax(scan.parameters[:, 0])]
    np.testing.assert_allclose(scan.line[[0, -1]].sum(), whole[ends].sum(), rtol=1e-3)
    misfit = np.sqrt(((scan.line[[0, -1]] - whole[ends]) ** 2).mean())
    assert misfit < 0.1 * np.sqrt((whole[ends] ** 2).mean())
    np.testing.assert_array_equal(scan.line_parameters[[0, -1]], scan.parameters[ends])


def test_slopes_are_those_of_the_spectra():
    this, step = measurement(), 1e-4
    scan = _simulate(this, bundle(), 2, 2, np.random.default_rng(1), lambda *_: None)
    whole = this.exposure(float(scan.psi_deg[0])) + this.exposure(float(scan.psi_deg[1]))
    phi = scan.parameters[0].copy()
    sides = []
    for sign in (-1, 1):
        moved = phi + sign * step * np.array([1.0, 0.0, 0.0])
        rate = this.forward.rates(whole, this.forward.prepare(moved), gradient=False)[0]
        sides.append(bundle().grid.sums(rate))
    found = (sides[1] - sides[0]) / (2 * step)
    np.testing.assert_allclose(
        scan.slopes[0, 0], found, rtol=0.05, atol=5e-2 * float(np.abs(found).max())
    )


def test_a_run_is_where_its_reading_is(found, folder):
    own = BundleRegistry([folder]).get("small")
    spectrum = read_folded_spectrum(folder / "folded.npz", "x")
    read = read_spectra(own, [spectrum])[0]
    one = found["runs"][0]
    np.testing.assert_allclose(one["values"], read.values)
    assert one["latent_distance"] == read.latent_distance
    assert one["map"].shape == (2,)
    assert 0.0 <= one["latent_share"] <= 1.0


def test_distances_and_map_are_kept_with_the_bundle_and_read_from_there(found, folder, tmp_path):
    bundle().save(tmp_path / "copy")
    before = json.loads((tmp_path / "copy" / CARD).read_text())
    weights = (tmp_path / "copy" / "weights.safetensors").read_bytes()
    keep_analysis(tmp_path / "copy", found)
    after = json.loads((tmp_path / "copy" / CARD).read_text())
    levels = after["latent distance"]["levels"]
    assert [one["spectra"] for one in levels] == [8 * COVERAGES] * 3
    kept = ("latent distance", "latent map")
    assert {key: after[key] for key in after if key not in kept} == {
        key: before[key] for key in before if key not in kept
    }
    assert (tmp_path / "copy" / "weights.safetensors").read_bytes() == weights
    spectrum = read_folded_spectrum(folder / "folded.npz", "x")
    read = read_spectra(BundleRegistry([tmp_path]).get("copy"), [spectrum])[0]
    assert read.latent_share == pytest.approx(found["runs"][0]["latent_share"], abs=1e-3)
    np.testing.assert_allclose(read.latent_place, found["runs"][0]["map"], atol=1e-3)
    drawn = BundleRegistry([tmp_path]).latent("copy")
    np.testing.assert_allclose(drawn["map"]["simulated"], found["map"]["simulated"], rtol=1e-4)
    with pytest.raises(InputError, match="expected none"):
        keep_analysis(tmp_path / "copy", found | {"experiment": "none"})


def test_another_experiment_is_refused_before_anything_is_simulated(folder, found):
    with pytest.raises(BundleMismatchError, match="model 'small' was trained for another"):
        analyse_latent(
            "small",
            load_experiment(EXAMPLES / "ge-arcs.yaml"),
            experiment_dir=EXAMPLES,
            models=[folder],
        )


def test_a_run_of_another_experiment_is_refused_before_anything_is_simulated(
    folder, found, tmp_path
):
    other = write_fold(tmp_path / "folded.npz", isotopes=np.array(["70Ge"]))
    with pytest.raises(BundleMismatchError, match="isotopes differ"):
        analyse_latent(
            "small",
            load_experiment(SMALL),
            experiment_dir=EXAMPLES,
            models=[folder],
            runs=[other],
            sets=10**6,
        )


def test_a_run_may_be_named_by_its_folder_its_result_or_its_fold(tmp_path):
    fold = tmp_path / "folded.npz"
    assert {folded_of(tmp_path), folded_of(tmp_path / "result.json"), folded_of(fold)} == {fold}
