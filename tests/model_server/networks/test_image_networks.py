"""Networks of the literature: sizes, masks, the same interface for all."""

import numpy as np
import pytest
import torch

from model_server.networks import architecture_of, encoder_input, images_of_inputs
from model_server.networks.architectures import ARCHITECTURES, image_regressor
from model_server.networks.image_networks import (
    FullyConnected,
    ResNet18,
    masked_flatten,
    masked_unflatten,
    normalised_images,
)
from model_server.networks.regressors import PUBLISHED_HIDDEN
from model_server.training.recipes import RECIPES

IMAGES = [name for name, one in ARCHITECTURES.items() if one.body is not None]


def mask_of(rows, columns, seed=0):
    mask = np.random.default_rng(seed).uniform(size=(rows, columns)) > 0.4
    mask[0, 0] = True
    return mask


def published(name, mask, parameters=5):
    recipe = next(r for r in RECIPES.values() if r.architecture == name)
    return architecture_of(name).body(torch.from_numpy(mask), recipe.sizes, parameters)


def test_the_fully_connected_one_has_the_published_sizes():
    mask = np.zeros((70, 101), dtype=bool)
    mask.ravel()[:4144] = True
    body = published("fc-vae", mask)
    assert tuple(body.into.weight.shape) == (400, 4144)
    assert body.latent == 30
    assert tuple(body.out[2].weight.shape) == (4144, 400)
    regressor = image_regressor({"latent": 30, "regressor_hidden": PUBLISHED_HIDDEN}, 5)
    widths = [layer.out_features for layer in regressor.body if hasattr(layer, "out_features")]
    assert widths == [100, 1000, 1000, 100, 5]


def test_the_convolutional_one_has_the_published_sizes():
    body = published("conv-ae", np.ones((70, 101), dtype=bool))
    assert body.smallest == (128, 9, 13)
    assert body.into.out_features == 200


def test_the_residual_network_has_the_parameters_of_its_paper():
    """11,689,512 with three channels and a thousand classes (torchvision's count)."""
    body = ResNet18(torch.ones(32, 32, dtype=torch.bool), 1000)
    count = sum(p.numel() for p in body.parameters()) + 2 * 64 * 7 * 7
    assert count == 11_689_512


@pytest.mark.parametrize("shape", [(7, 9), (16, 11), (46, 44)])
@pytest.mark.parametrize("name", [n for n in IMAGES if n != "resnet-18"])
def test_every_autoencoder_gives_images_back_zero_outside_its_mask(name, shape):
    mask = mask_of(*shape)
    body = published(name, mask)
    images = torch.randn(3, *shape)
    mean, log_variance = body.encode(images)
    assert tuple(mean.shape) == (3, body.latent)
    assert (log_variance is not None) == body.variational == ("vae" in name)
    back = body.decode(mean)
    assert tuple(back.shape) == (3, *shape)
    assert torch.all(back[:, ~torch.from_numpy(mask)] == 0)
    assert torch.any(back != 0)
    hidden = images.clone()
    hidden[:, ~torch.from_numpy(mask)] = 1e3  # what is outside the mask is not seen
    torch.testing.assert_close(body.encode(hidden)[0], mean)


def test_a_masked_flatten_comes_back():
    mask = torch.from_numpy(mask_of(6, 5))
    cells = torch.randn(4, int(mask.sum()))
    images = masked_unflatten(cells, mask)
    assert torch.equal(masked_flatten(images, mask), cells)
    assert torch.all(images[:, ~mask] == 0)


def test_images_are_normalised_as_published_and_scale_drops_out():
    mask = mask_of(6, 5)
    x = np.random.default_rng(2).uniform(1, 9, (3, 6, 5))
    images = normalised_images(x, mask)
    for image, one in zip(images, x, strict=True):
        seen = one[mask]
        want = (seen - seen.mean()) / (seen.max() - seen.min())
        np.testing.assert_allclose(image[mask], want, atol=1e-6)
        assert np.all(image[~mask] == 0)
    np.testing.assert_allclose(normalised_images(7 * x + 3, mask), images, atol=1e-5)
    assert np.all(normalised_images(np.ones((6, 5)), mask) == 0)


def test_a_spectrum_without_a_known_cell_and_a_wrong_shape_are_refused():
    mask = mask_of(6, 5)
    with pytest.raises(ValueError, match="no known cell inside the mask"):
        normalised_images(np.full((6, 5), np.nan), mask)
    with pytest.raises(ValueError, match=r"expected \(\.\.\., \(6, 5\)\)"):
        normalised_images(np.ones((5, 6)), mask)


def test_images_of_what_the_encoder_sees_are_those_of_the_intensity():
    rng = np.random.default_rng(3)
    D = rng.uniform(0.5, 2, (2, 6, 5))
    D[:, 2, 3] = 0.0
    intensity = rng.uniform(1, 5, D.shape)
    mask = np.ones((6, 5), dtype=bool)
    inputs = encoder_input(np.where(D > 0, intensity * D, 0), D, np.ones(D.shape))
    want = normalised_images(np.where(D > 0, intensity, np.nan), mask)
    np.testing.assert_allclose(images_of_inputs(inputs, mask), want, atol=1e-5)


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'oracle'; expected one of variational-encoder, fc-ae"):
        architecture_of("oracle")


def test_deterministic_codes_are_bounded_and_variational_ones_are_not():
    mask = torch.ones(4, 4, dtype=torch.bool)
    for variational in (False, True):
        body = FullyConnected(mask, 8, 3, variational=variational)
        with torch.no_grad():
            body.head.bias += 5.0
        code, _ = body.encode(torch.zeros(1, 4, 4))
        assert bool((code.abs() <= 1).all()) != variational
