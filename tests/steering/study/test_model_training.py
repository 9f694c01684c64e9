"""Which recipe `beamsteer train` follows."""

import pytest

from model_server.training import ImageRecipe, Recipe
from steering.study.model_training import EPOCHS, chosen_recipe


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
