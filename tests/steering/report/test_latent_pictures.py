from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib import image

from steering.report import latent_pictures
from tests.steering.germanium_bundle import analysed


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return analysed(tmp_path_factory.mktemp("latent"))


def seen(content):
    return image.imread(io.BytesIO(content), format="png")


def test_every_part_has_a_picture_with_something_on_it(found):
    pictures = latent_pictures(found)
    names = {"dimensions.png", "map.png", "interpolation.png", "psi.png", "distance.png"}
    assert set(pictures) == names
    for content in pictures.values():
        assert seen(content)[..., :3].std() > 0.02


def test_a_run_is_seen_on_the_map_and_among_the_distances(found):
    assert found["runs"]
    with_run, without = latent_pictures(found), latent_pictures(found | {"runs": []})
    for name in ("map.png", "distance.png"):
        assert not np.array_equal(seen(with_run[name]), seen(without[name]))
    assert with_run["psi.png"] == without["psi.png"]
