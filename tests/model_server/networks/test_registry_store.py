from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from model_server.networks import BundleRegistry, UnknownModelError
from model_server.networks.bundle import CARD, BundleError
from simulations.errors import InputError
from tests.model_server.networks.small_bundle import trained


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "small"
    trained().save(folder)
    return folder


@pytest.fixture
def folder(kept, tmp_path):
    shutil.copytree(kept, tmp_path / "small")
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_bundles_of_folders_stand_beside_those_shipped(folder):
    registry = BundleRegistry([folder])
    assert [one.name for one in registry.entries()] == ["small", "germanium"]
    assert [one.shipped for one in registry.entries()] == [False, True]
    assert [one.name for one in BundleRegistry([folder / "small"]).entries()][0] == "small"
    assert registry.card("small")["title"] == "a bundle for tests"


def test_a_folder_may_put_its_own_in_the_place_of_a_shipped_one(folder):
    (folder / "small").rename(folder / "germanium")
    registry = BundleRegistry([folder])
    assert [one.name for one in registry.entries()] == ["germanium"]
    assert registry.get("germanium").parameter_names == ("a", "b")


def test_a_bundle_is_loaded_once_also_by_many_at_a_time(folder):
    registry = BundleRegistry([folder])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(registry.get, ["small"] * 16))
    assert len({id(one) for one in found}) == 1
    assert registry.loaded() == ("small",)


def test_a_replaced_bundle_is_loaded_anew(folder):
    registry = BundleRegistry([folder])
    before = registry.get("small")
    before.with_card({"title": "another"}).save(folder / "small")
    assert registry.get("small").card["title"] == "another"


def test_the_one_asked_for_longest_ago_gives_way(folder):
    for name in ("b", "c"):
        shutil.copytree(folder / "small", folder / name)
    registry = BundleRegistry([folder], keep=2)
    for name in ("b", "c", "b", "small"):
        registry.get(name)
    assert set(registry.loaded()) == {"b", "small"}
    assert len(registry.warm()) == 2


@pytest.mark.parametrize(
    "name", ["", "none", "../small", "small/../small", "/etc", ".", "small\0", "x" * 10_000]
)
def test_a_name_never_becomes_a_path(folder, name):
    registry = BundleRegistry([folder])
    for ask in (registry.get, registry.card, registry.entry):
        with pytest.raises(UnknownModelError, match="expected one of: small, germanium"):
            ask(name)


@pytest.mark.parametrize("text", ["{", "[]", "1", '"' + "x" * 2**21 + '"'])
def test_a_damaged_card_is_told(folder, text):
    (folder / "small" / CARD).write_text(text)
    with pytest.raises(BundleError, match="model 'small': its card cannot be read"):
        BundleRegistry([folder]).card("small")


def test_a_damaged_bundle_is_told_and_the_others_answer(folder):
    (folder / "small" / "weights.safetensors").write_bytes(b"no weights")
    registry = BundleRegistry([folder])
    with pytest.raises(BundleError, match="small"):
        registry.get("small")
    assert registry.get("germanium").name == "germanium"


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(InputError, match="is no folder; expected a bundle"):
        BundleRegistry([tmp_path / "none"])


def test_the_shipped_bundle_tells_how_far_simulated_spectra_lie():
    table = BundleRegistry().card("germanium")["latent distance"]
    assert json.dumps(table)
    for level in table["levels"]:
        assert level["spectra"] >= 500
        assert sorted(level["distance"]) == level["distance"]
        assert 0.8 < level["distance"][3] < 1.2, "the median is about 1"
