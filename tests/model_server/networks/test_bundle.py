"""Bundles: saved, loaded, refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from model_server.networks import Bundle, CoarseGrid, Domain
from model_server.networks.architectures import ARCHITECTURES
from model_server.networks.bundle import (
    CARD,
    MODEL_CARD,
    WEIGHTS,
    BundleError,
    BundleMismatchError,
    model_card,
    shipped_bundles,
)
from model_server.posterior import FirstGuess
from model_server.training import Recipe, TrainingSpectra, train_bundle
from simulations.fold import CellSums
from simulations.prior import BoxPrior

GRID = CoarseGrid(path_bins=8, first_energy=1, energy_bins=8, path_group=2, energy_group=2)
DOMAIN = Domain(
    parameter_names=("a", "b"),
    path_hkl=np.linspace([0, 0, 0], [1, 0, 0], 8),
    energy_edges_meV=np.linspace(0, 10, 11),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    prior = BoxPrior(names=("a", "b"), lower=np.array([-1.0, 0.0]), upper=np.array([1.0, 2.0]))
    n = 120
    rate = rng.uniform(0.5, 1.5, (n, *GRID.shape)).astype(np.float32)
    spectra = TrainingSpectra(
        parameters=prior.sample(n, rng).values,
        rate=rate,
        exposure=np.ones_like(rate),
        flat=np.ones_like(rate),
        coverage=np.ones_like(rate),
    )
    bundle = train_bundle(
        spectra,
        domain=DOMAIN,
        grid=GRID,
        prior=prior,
        title="a bundle for tests",
        experiment={"instrument": "none"},
        seed=0,
        recipe=Recipe(latent=3, hidden=8, regressor_hidden=8, epochs=1, batch=32),
    )
    path = tmp_path_factory.mktemp("bundle") / "small"
    bundle.save(path)
    return path


def spectrum(seed=0):
    rng = np.random.default_rng(seed)
    D = rng.uniform(1, 2, (8, 10))
    counts = rng.poisson(5 * D)
    D[3] = 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        return (
            np.where(D > 0, counts / D, np.nan),
            np.where(D > 0, np.sqrt(counts) / D, np.nan),
            D,
        )


def test_a_loaded_bundle_estimates_from_spectra_with_holes(folder):
    bundle = Bundle.load(folder)
    intensity, sigma, D = spectrum()
    values, spread = bundle.estimate(intensity, sigma, D)
    assert values.shape == spread.shape == (2,)
    assert np.isfinite(values).all()
    assert np.all(spread > 0)
    again, _ = bundle.estimate(intensity, sigma, D)
    np.testing.assert_array_equal(values, again)
    scaled, _ = bundle.estimate(1e4 * intensity, 1e4 * sigma, D)
    np.testing.assert_allclose(scaled, values, rtol=1e-4)
    assert bundle.latent_distance(intensity, exposure=D) > 0


def test_exposure_is_recovered_from_counting_errors(folder):
    bundle = Bundle.load(folder)
    intensity, sigma, D = spectrum()
    with_exposure, _ = bundle.estimate(intensity, None, D)
    from_sigma, _ = bundle.estimate(intensity, sigma)
    np.testing.assert_allclose(from_sigma, with_exposure, rtol=0.05, atol=0.02)


def test_unknown_spectra_and_wrong_shapes_are_refused(folder):
    bundle = Bundle.load(folder)
    with pytest.raises(ValueError, match="no cell of the spectrum"):
        bundle.estimate(np.full((8, 10), np.nan))
    with pytest.raises(ValueError, match="expected 8 path bins"):
        bundle.estimate(np.ones((7, 10)))


def test_another_experiment_is_refused_by_what_differs(folder):
    bundle = Bundle.load(folder)
    bundle.check(DOMAIN)
    moved = Domain(
        parameter_names=("a", "b"),
        path_hkl=DOMAIN.path_hkl + 0.1,
        energy_edges_meV=DOMAIN.energy_edges_meV,
    )
    with pytest.raises(BundleMismatchError, match=r"another experiment: path differ.*model: null"):
        bundle.check(moved)
    other = Domain(
        parameter_names=("b", "a"),
        path_hkl=DOMAIN.path_hkl,
        energy_edges_meV=2 * DOMAIN.energy_edges_meV,
    )
    with pytest.raises(BundleMismatchError, match="parameter names and energy axis differ"):
        bundle.check(other)


def test_a_sample_of_isotopes_takes_no_bundle_of_the_natural_one(folder):
    bundle = Bundle.load(folder)
    enriched = replace(DOMAIN, isotopes=("76Ge: mass 75.92 u",))
    with pytest.raises(BundleMismatchError, match="isotopes differ"):
        bundle.check(enriched)
    other = replace(bundle, card={**bundle.card, "experiment": {"parts": enriched.parts()}})
    other.check(enriched)
    with pytest.raises(BundleMismatchError, match="isotopes differ"):
        other.check(DOMAIN)


def test_files_are_readable_and_hold_no_pickle(folder):
    tensors = load_file(folder / WEIGHTS)
    assert all(t.dtype == np.float32 for t in tensors.values())
    assert not any(name.startswith("decoder") for name in tensors)
    card = json.loads((folder / CARD).read_text())
    assert card["experiment"]["hash"] == DOMAIN.hash
    text = (folder / MODEL_CARD).read_text()
    assert "not an error bar" in text
    assert "| a |" in text


def test_missing_and_damaged_bundles_say_what_to_do(folder, tmp_path):
    with pytest.raises(BundleError, match=r"'nothing' cannot be loaded.*beamsteer train"):
        Bundle.load("nothing")
    for name in (WEIGHTS, CARD):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / WEIGHTS).write_bytes(b"garbage")
    with pytest.raises(BundleError, match="cannot be loaded"):
        Bundle.load(tmp_path)
    (tmp_path / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())
    card = json.loads((folder / CARD).read_text())
    (tmp_path / CARD).write_text(json.dumps(card | {"format": 99}))
    with pytest.raises(BundleError, match="this version reads 1"):
        Bundle.load(tmp_path)
    (tmp_path / CARD).write_text(json.dumps({"format": 1}))
    with pytest.raises(BundleError, match="damaged or of another version"):
        Bundle.load(tmp_path)


def test_the_architecture_is_written_and_an_unknown_one_refused_by_name(folder, tmp_path):
    card = json.loads((folder / CARD).read_text())
    assert card["architecture"] == "variational-encoder"
    assert "Architecture: `variational-encoder`" in (folder / MODEL_CARD).read_text()
    (tmp_path / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())
    (tmp_path / CARD).write_text(json.dumps(card | {"architecture": "oracle"}))
    with pytest.raises(BundleError, match="'oracle'; this version knows variational-encoder"):
        Bundle.load(tmp_path)
    del card["architecture"]  # as bundles were written before there was a choice
    (tmp_path / CARD).write_text(json.dumps(card))
    assert Bundle.load(tmp_path).card["architecture"] == "variational-encoder"


def test_a_bundle_is_a_first_guess_from_sums(folder):
    bundle = Bundle.load(folder)
    assert isinstance(bundle, FirstGuess)
    intensity, _, D = spectrum()
    counts = np.nan_to_num(intensity * D)
    sums = CellSums(signal=counts, variance=counts, counts=counts, exposure=D, flat=D)
    values, _ = bundle.estimate(sums.intensity, sums.sigma, sums.exposure)
    np.testing.assert_array_equal(bundle.guess(sums), values[None])


@pytest.mark.parametrize("name", shipped_bundles())
def test_shipped_bundles_are_small_and_load(name):
    bundle = Bundle.load(name)
    from importlib import resources

    folder = resources.files("model_server") / "bundles" / name
    card = json.loads((folder / CARD).read_text())
    assert card["architecture"] in ARCHITECTURES
    assert (folder / MODEL_CARD).read_text() == model_card(card)
    size = sum(len(f.read_bytes()) for f in folder.iterdir())
    assert size < 4_000_000
    shape = (bundle.grid.path_bins, bundle.grid.first_energy + bundle.grid.energy_bins)
    values, _ = bundle.estimate(np.ones(shape))
    assert np.isfinite(values).all()
