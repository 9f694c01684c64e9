from __future__ import annotations

import numpy as np
import pytest

from model_server.direct.bands import banded, judged_bands
from model_server.direct.bins import BINS
from model_server.direct.calibration import RARE, Judged, calibrate, covered, mean_energy
from model_server.direct.members import MemberDensities


def crystal(rng, *, off: float = 1.0, latent: float = 0.0, number: int = 14) -> Judged:
    """A density with three members that scatter about it; the truth scatters as well."""
    grid = np.arange(BINS)
    centre = rng.uniform(15, 60)
    shape = np.exp(-0.5 * ((grid - centre) / 12) ** 2)
    members = []
    for _ in range(4):
        one = np.exp(-0.5 * ((grid - centre - off * rng.normal(0, 2)) / 12) ** 2)
        members.append(one / one.sum())
    atoms = 4
    said = MemberDensities(
        shares=np.tile(shape / shape.sum(), (atoms, 1)),
        totals=np.stack(members[1:]),
        latent=rng.normal(latent, 1, (atoms, 6)),
    )
    return Judged(said=said, true=members[0], numbers=np.array([number, number, 8, 8]))


@pytest.fixture(scope="module")
def calibrated():
    rng = np.random.default_rng(0)
    known = [crystal(rng) for _ in range(200)]
    latent = [rng.normal(0, 1, (4, 6)) for _ in range(400)]
    numbers = [np.array([14, 14, 8, 8])] * 400 + [np.array([92])] * (RARE - 1)
    return calibrate(known, latent, numbers, most_atoms=40)


def test_bands_hold_what_they_say_of_crystals_that_were_not_looked_at(calibrated):
    rng = np.random.default_rng(1)
    cover = np.mean([covered(calibrated, crystal(rng)) for _ in range(300)])
    assert 0.87 < cover < 0.93


def test_bands_do_not_hold_for_what_is_further_off(calibrated):
    rng = np.random.default_rng(2)
    assert np.mean([covered(calibrated, crystal(rng, off=4.0)) for _ in range(100)]) < 0.87


def test_a_band_surrounds_what_the_members_say(calibrated):
    one = crystal(np.random.default_rng(3))
    low, high = calibrated.band(one.said)
    middle = banded(one.said.total)
    assert np.all((low <= middle) & (middle <= high) & (low >= 0))
    count = judged_bands(one.said.total)
    assert middle[:count].sum() > 0.995


def test_few_crystals_like_those_of_calibration_are_far_and_strange_ones_are(calibrated):
    rng = np.random.default_rng(4)
    near = [calibrated.distance(crystal(rng).said) > calibrated.far for _ in range(300)]
    strange = [
        calibrated.distance(crystal(rng, latent=6.0).said) > calibrated.far for _ in range(30)
    ]
    assert np.mean(near) < 0.08
    assert all(strange)


def test_members_that_disagree_are_far(calibrated):
    rng = np.random.default_rng(5)
    said = [crystal(rng, off=12.0).said for _ in range(30)]
    assert np.mean([calibrated.distance(one) > calibrated.far for one in said]) > 0.8


def test_elements_that_training_hardly_saw_are_rare(calibrated):
    assert calibrated.rare(np.array([14, 8, 92, 1])) == (1, 92)
    assert calibrated.rare(np.array([14, 8])) == ()


def test_a_mean_energy_is_that_of_the_bins():
    assert mean_energy(np.eye(BINS)[0]) == pytest.approx(0.62, abs=0.001)


def test_too_few_crystals_are_no_calibration():
    rng = np.random.default_rng(6)
    with pytest.raises(ValueError, match="expected at least 20"):
        calibrate([crystal(rng)] * 19, [np.zeros((1, 6))], [np.array([1])], most_atoms=1)


def test_a_crystal_of_one_element_is_far_unless_training_had_one(calibrated):
    one = crystal(np.random.default_rng(6))
    assert not calibrated.is_far(one.said, one.numbers)
    assert calibrated.alone == (92,)  # of which there were too few to be known at all
    assert calibrated.is_far(one.said, np.array([8, 8]))
    assert not calibrated.is_far(one.said, np.array([8, 14]))
