"""Which recipe `beamsteer train` follows, and about which force constants."""

import numpy as np
import pytest

from model_server.networks import Bundle
from model_server.training import ImageRecipe, Recipe
from simulations.errors import InputError
from steering.run import result_document
from steering.study.model_training import EPOCHS, chosen_recipe, moved_to, train
from tests.steering.fabricated import snapshot
from tests.steering.live_stream import live_experiment, live_measurement
from tests.steering.virtual_scan import EXAMPLES


def test_ours_is_the_default_and_takes_epochs():
    assert chosen_recipe("variational-encoder") == Recipe(epochs=EPOCHS)
    assert chosen_recipe("variational-encoder", epochs=3).epochs == 3
    with pytest.raises(ValueError, match="one of the literature with --as-published"):
        chosen_recipe("variational-encoder", as_published=True)


def test_one_of_the_literature_sees_noise_unless_it_is_to_be_as_published():
    recipe = chosen_recipe("fc-vae", epochs=7)
    assert isinstance(recipe, ImageRecipe)
    assert (recipe.epochs, recipe.regressor_epochs, recipe.noisy) == (7, 7, True)
    published = chosen_recipe("fc-vae", as_published=True)
    assert isinstance(published, ImageRecipe)
    assert (published.epochs, published.optimiser, published.noisy) == (2000, "sgd", False)
    with pytest.raises(ValueError, match="'oracle'; expected one of variational-encoder"):
        chosen_recipe("oracle")


def test_around_an_answer_reference_and_box_are_moved_to_it():
    measurement = live_measurement()
    first, second = measurement.model.elements[:2]
    there = dict(zip(measurement.model.elements, measurement.model.element_values, strict=True))
    moved = moved_to(measurement, {first: there[first] + 0.2, second: there[second] - 0.1})
    assert np.allclose(
        moved.box.upper - moved.box.lower, measurement.box.upper - measurement.box.lower
    )
    middle = dict(zip(moved.box.names, moved.box.mean, strict=True))
    assert middle[first] == pytest.approx(there[first] + 0.2)
    values = dict(zip(moved.model.elements, moved.model.element_values, strict=True))
    assert values[second] == pytest.approx(there[second] - 0.1)
    rest = [name for name in values if name not in (first, second)]
    assert all(values[name] == there[name] for name in rest)
    with pytest.raises(InputError, match="1NN QQ; expected some of 1NN xx"):
        moved_to(measurement, {"1NN QQ": 1.0})


def test_a_bundle_trained_around_a_result_knows_spectra_about_it(tmp_path):
    experiment = live_experiment()
    measurement = live_measurement()
    there = dict(zip(measurement.model.elements, measurement.model.element_values, strict=True))
    first = measurement.targeted[0]
    shown = snapshot().result
    assert shown is not None
    document = shown.document()
    document["parameters"] = [
        {**document["parameters"][0], "name": first, "value": 1.1 * there[first]}
    ]
    card = train(
        experiment,
        experiment_dir=EXAMPLES,
        output=tmp_path / "bundle",
        spectra=100,
        epochs=1,
        around=result_document(document),
        work=tmp_path / "work",
    )
    assert {path.name for path in (tmp_path / "work").iterdir()} == {
        "encoder.safetensors",
        "spectra.safetensors",
    }
    with pytest.raises(InputError, match="has spectra of another experiment"):
        train(
            experiment, experiment_dir=EXAMPLES, output=tmp_path / "b", spectra=100, epochs=1,
            work=tmp_path / "work",
        )  # fmt: skip
    assert "the answer of run" in card["experiment"]["trained around"]
    bundle = Bundle.load(tmp_path / "bundle")
    index = bundle.card["parameters"]["names"].index(first)
    assert bundle.prior_mean[index] == pytest.approx(1.1 * there[first])
