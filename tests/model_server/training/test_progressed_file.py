"""A training that was interrupted goes on, and ends with the same bundle to the bit."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from model_server.training import Recipe, train_bundle, training
from model_server.training.progressed_file import Keeping, key_of
from simulations.errors import InputError
from tests.model_server.training.test_image_training import (
    DOMAIN,
    GRID,
    IMAGES,
    PRIOR,
    quick,
    spectra,
)

OURS = Recipe(latent=4, hidden=16, regressor_hidden=8, epochs=5, batch=16)


class KilledError(Exception):
    """As a kill, but the test goes on."""


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    monkeypatch.setattr(training, "Keeping", partial(Keeping, every_s=0.0))


def bundle(recipe, work=None, seed=0, stop_after=None):
    calls = []

    def progress(label, share):
        calls.append((label, share))
        if len(calls) == stop_after:
            raise KilledError

    return train_bundle(
        spectra(), domain=DOMAIN, grid=GRID, prior=PRIOR, title="one", experiment={}, seed=seed,
        recipe=recipe, work=work, progress=progress,
    ), calls  # fmt: skip


def recipe_of(name):
    if name == "ours":
        return OURS
    if name == "as published":  # by descent with momentum, on clean spectra
        return replace(quick("fc-vae", 3), optimiser="sgd", learning_rate=1e-3)
    return replace(quick(name, 3), noisy=True)


def same(one, two):
    a, b = one.network.tensors(), two.network.tensors()
    assert a.keys() == b.keys()
    return all(np.array_equal(a[name].numpy(), b[name].numpy()) for name in a)


@pytest.mark.parametrize("name", ["ours", "as published", *IMAGES])
@pytest.mark.parametrize("stop_after", [2, 4])
def test_an_interrupted_training_ends_with_the_same_weights(name, stop_after, tmp_path):
    recipe = recipe_of(name)
    if name == "resnet-18":  # one stage
        stop_after //= 2
    whole, calls = bundle(recipe)
    with pytest.raises(KilledError):
        bundle(recipe, tmp_path / "work", stop_after=stop_after)
    again, left = bundle(recipe, tmp_path / "work")
    assert len(left) == len(calls) - stop_after
    assert same(whole, again)
    assert whole.card["accuracy"] == again.card["accuracy"]
    assert not list((tmp_path / "work").glob("*.partial"))


def test_other_options_do_not_go_on_with_it(tmp_path):
    bundle(OURS, tmp_path)
    for other in ({"recipe": replace(OURS, epochs=6)}, {"recipe": OURS, "seed": 1}):
        with pytest.raises(InputError, match="begun with another experiment.*--work"):
            bundle(work=tmp_path, **other)
    again, calls = bundle(OURS, tmp_path)
    assert calls == []  # it was done


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 64])
def test_a_damaged_file_is_told(tmp_path, content):
    bundle(OURS, tmp_path)
    (tmp_path / "encoder.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="no training that can go on.*Remove it"):
        bundle(OURS, tmp_path)


def test_a_key_knows_every_value():
    assert key_of(a=1, b=np.arange(3)) == key_of(b=np.arange(3), a=1)
    others = [key_of(a=2, b=np.arange(3)), key_of(a=1, b=np.arange(3.0)), key_of(a=1, c=1)]
    assert key_of(a=1, b=np.arange(3)) not in others
