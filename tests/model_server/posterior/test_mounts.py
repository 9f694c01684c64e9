"""Which mounts a search looks at beside the one that it found."""

from dataclasses import replace

import numpy as np
import pytest

from model_server.posterior.mounts import MOST_ACROSS, REACH_SIGMAS, STEP_DEG, mounts
from simulations.likelihood import NONE_OFF, Missetting


def ways(**sigma: float) -> Missetting:
    """A set-up that may be off in some ways; only their names and widths matter."""
    n = len(sigma)
    return replace(
        NONE_OFF,
        names=tuple(name.replace("_", " ") for name in sigma),
        units=("deg",) * n,
        sigma=np.array(list(sigma.values())),
        linear=np.zeros((n, 3, 3)),
        ei=np.zeros(n),
        delay=np.zeros(n),
        blur=np.zeros(n),
    )


def test_every_mount_that_may_be_lies_within_a_step_of_one_that_is_looked_at():
    sigma = 0.3
    tilts, places = mounts(ways(psi_offset=sigma, tilt_gl=sigma, tilt_gs=sigma))
    assert tilts == [1, 2]
    assert np.all(places[0] == 0)  # what is believed comes first
    far = np.linalg.norm(places, axis=1)
    assert np.all(np.diff(far) > -1e-9)
    assert far.max() <= REACH_SIGMAS * sigma
    drawn = np.random.default_rng(1).normal(scale=sigma, size=(4000, 2))
    drawn = drawn[np.linalg.norm(drawn, axis=1) < 1.8 * sigma]
    nearest = np.linalg.norm(drawn[:, None] - places, axis=2).min(axis=1)
    assert nearest.max() <= STEP_DEG / np.sqrt(2) + 1e-9
    assert len(places) < 40


def test_a_mount_that_is_known_as_well_as_steps_find_the_way_is_not_looked_at_elsewhere():
    for known in (ways(), ways(psi_offset=0.3), ways(tilt_gl=0.05, tilt_gs=0.05)):
        _, places = mounts(known)
        assert len(places) == 1
        assert not places.any()


@pytest.mark.parametrize("sigma", [0.5, 3.0])
def test_a_mount_that_is_hardly_known_is_looked_at_in_wider_steps(sigma):
    _, places = mounts(ways(tilt_gl=sigma, tilt_gs=sigma))
    assert 20 < len(places) <= MOST_ACROSS**2
    assert np.linalg.norm(places, axis=1).max() > 2 * sigma


def test_one_tilt_alone_is_looked_at_along_its_line():
    tilts, places = mounts(ways(tilt_gs=0.3, time_zero=0.5))
    assert tilts == [0]
    assert places.shape == (7, 1)
