from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model_server.networks import read_spectra, reading_document
from model_server.networks.bundle import BundleMismatchError
from model_server.networks.reading import latent_share, typical_error
from model_server.training import recipe_of
from simulations.errors import InputError
from tests.model_server.networks.small_bundle import PATH, fold, trained


@pytest.fixture(scope="module")
def bundle():
    return trained()


def test_a_reading_is_that_of_the_bundle_and_the_same_alone_and_among_others(bundle):
    folds = [fold(parameters=(a, 1.0), seed=k) for k, a in enumerate((-0.6, 0.0, 0.6))]
    together = read_spectra(bundle, folds)
    for one, spectrum in zip(together, folds, strict=True):
        alone = read_spectra(bundle, [spectrum])[0]
        values, spread = bundle.estimate(spectrum.intensity, exposure=spectrum.exposure)
        np.testing.assert_allclose(one.values, alone.values, rtol=1e-5)
        np.testing.assert_allclose(one.values, values, rtol=1e-5)
        np.testing.assert_allclose(one.spread, spread, rtol=1e-4)
        far = bundle.latent_distance(spectrum.intensity, exposure=spectrum.exposure)
        assert one.latent_distance == pytest.approx(far, rel=1e-5)
        assert one.known == pytest.approx(7 / 8)
    read = [one.values[0] for one in together]
    assert read[0] < read[1] < read[2], "the peak moves with the first parameter"


def test_the_typical_error_is_the_one_made_on_simulated_spectra_of_as_many_counts(bundle):
    few, many = (typical_error(bundle, counts) for counts in (2_000.0, 200_000.0))
    between = typical_error(bundle, 20_000.0)
    assert few is not None
    assert many is not None
    assert between is not None
    r2 = np.array([level["r2"] for level in bundle.card["accuracy"]])
    np.testing.assert_allclose(few, bundle.prior_sigma * np.sqrt(1 - r2[0]))
    np.testing.assert_allclose(between, bundle.prior_sigma * np.sqrt(1 - r2[1]))
    np.testing.assert_allclose(many, bundle.prior_sigma * np.sqrt(1 - r2[2]))
    assert typical_error(bundle, None) is None
    np.testing.assert_array_equal(typical_error(bundle, 0.0), few)


def test_a_spectrum_like_those_trained_on_is_inside_and_another_is_not(bundle):
    rng = np.random.default_rng(5)
    noise = np.where(rng.uniform(size=(8, 10)) < 0.1, 50.0, 0.0)
    inside, outside = read_spectra(bundle, [fold(hole=False), fold(hole=False, intensity=noise)])
    assert inside.latent_share is not None
    assert outside.latent_share is not None
    assert inside.latent_share < 0.99 < outside.latent_share
    told = reading_document(bundle, [inside, outside])["estimates"]
    assert [one["inside"] for one in told] == [True, False]


def test_shares_follow_the_table_of_the_card():
    card = {
        "latent distance": {
            "levels": [
                {"counts": 1_000.0, "distance": np.linspace(0.0, 0.8, 9).tolist()},
                {"counts": 100_000.0, "distance": np.linspace(0.0, 1.6, 9).tolist()},
            ]
        }
    }
    assert latent_share(card, 0.3, 2_000.0) == pytest.approx(0.5)
    assert latent_share(card, 0.6, 200_000.0) == pytest.approx(0.5)
    assert 0.25 < (latent_share(card, 0.3, 20_000.0) or 0) < 0.5
    assert latent_share(card, 0.3, None) == pytest.approx(0.5), "the largest of any level"
    assert latent_share(card, 9.0, 2_000.0) == 1.0
    assert latent_share({}, 0.3, 2_000.0) is None


def test_a_bundle_of_before_tells_no_share(bundle):
    old = replace(bundle, card={k: v for k, v in bundle.card.items() if k != "latent distance"})
    one = read_spectra(old, [fold()])[0]
    assert one.latent_share is None
    assert reading_document(old, [one])["estimates"][0]["inside"] is None


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"parameter_names": ("a", "c")}, "fold: .*another experiment: parameter names differ"),
        ({"isotopes": ("70Ge",)}, "isotopes differ"),
        ({"parameter_names": ("a", "c"), "isotopes": ("D",)}, "parameter names and isotopes"),
    ],
)
def test_what_is_known_of_another_experiment_is_refused(bundle, more, says):
    with pytest.raises(BundleMismatchError, match=says):
        read_spectra(bundle, [fold(), fold(**more)])


def test_what_agrees_is_told_as_checked(bundle):
    plain, whole = read_spectra(bundle, [fold(), fold(parameter_names=("a", "b"), isotopes=())])
    assert plain.checked == ("path", "energy axis")
    assert whole.checked == ("parameter names", "path", "energy axis", "isotopes")


def test_another_path_or_hash_is_refused(bundle):
    with pytest.raises(BundleMismatchError, match="path differ"):
        read_spectra(bundle, [replace(fold(), path_hkl=PATH + 0.1)])
    with pytest.raises(InputError, match="experiment is 'other'; expected"):
        read_spectra(bundle, [fold()], experiment="other")
    own = bundle.card["experiment"]["hash"]
    assert read_spectra(bundle, [fold()], experiment=own)


def test_a_spectrum_without_counts_is_no_spectrum(bundle):
    with pytest.raises(InputError, match="empty: nothing was counted"):
        read_spectra(bundle, [fold("empty", intensity=np.zeros((8, 10)))])
    with pytest.raises(InputError, match="unknown: nothing was counted"):
        read_spectra(bundle, [fold("unknown", intensity=np.full((8, 10), np.nan))])


@pytest.mark.parametrize("name", ["fc-vae", "resnet-18"])
def test_networks_of_the_literature_are_read_alike(name):
    recipe = recipe_of(name)
    assert not hasattr(recipe, "reconstruction_weight")
    bundle = trained(replace(recipe.shortened(1), noisy=True), spectra=80)
    one, other = read_spectra(bundle, [fold(seed=1), fold(seed=2)])
    values, _ = bundle.estimate(fold(seed=2).intensity, exposure=fold(seed=2).exposure)
    np.testing.assert_allclose(other.values, values, rtol=1e-4)
    assert one.latent_share is not None
