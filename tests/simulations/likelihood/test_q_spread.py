"""What blurs Q: widths by hand, and limits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulations.likelihood import QSpreadSection, q_blur
from simulations.likelihood.q_spread import NO_SPREAD, BlurredMoments, size_of_pixels
from simulations.likelihood.trajectory_blur import blurred_width, fill_blur, most_blur_of
from steering.experiment import build_measurement, load_experiment
from steering.experiment.experiment_file import ExperimentError, parse_experiment
from tests.conftest import ROOT

SPREAD = QSpreadSection(mosaic_deg=0.2, divergence_deg=0.3, pixel_m=(0.025, 0.008))


@pytest.fixture(scope="module")
def measurement():
    experiment = load_experiment(ROOT / "examples" / "ge-arcs.yaml")
    changed = experiment.model_copy(update={"q_spread": SPREAD})
    return build_measurement(changed, ROOT / "examples")


def test_widths_are_those_of_angles_and_the_tubes_are_upright(measurement):
    blur = measurement.exact.q_blur
    distance = np.linalg.norm(measurement.instrument.position_m, axis=1).mean()
    assert blur.mosaic == pytest.approx(np.radians(0.2))
    assert blur.divergence == pytest.approx(np.radians(0.3))
    assert blur.width == pytest.approx(0.025 / distance / np.sqrt(12))
    assert blur.width / blur.height == pytest.approx(
        25 / 8 / measurement.experiment.instrument.coarsen
    )
    trajectories = measurement.trajectories(20.0)
    assert trajectories.beam @ blur.up == pytest.approx(0.0, abs=1e-9)  # the beam is level


def test_the_covariance_is_that_of_drawn_neutrons(measurement):
    blur, k = measurement.exact.q_blur, 3.5
    trajectories = measurement.trajectories(20.0)
    away, beam = trajectories.direction[100], trajectories.beam
    rng = np.random.default_rng(3)
    side = np.cross(away, blur.up)
    side /= np.linalg.norm(side)
    lift = blur.up - (blur.up @ away) * away
    n = 200_000
    final = away + np.sqrt(12) * (
        blur.width * (rng.random((n, 1)) - 0.5) * side
        + blur.height * (rng.random((n, 1)) - 0.5) * lift
    )
    final /= np.linalg.norm(final, axis=1)[:, None]
    coming = beam + blur.divergence * np.linalg.norm(beam) * rng.standard_normal((n, 3))
    coming *= np.linalg.norm(beam) / np.linalg.norm(coming, axis=1)[:, None]
    q = coming - k * final
    q += np.cross(blur.mosaic * rng.standard_normal((n, 3)), q)
    drawn = np.cov(q.T)
    ours = np.empty((3, 3))
    fill_blur(blur, k, away, beam, np.eye(3), np.empty((3, 3)), ours)
    assert ours == pytest.approx(drawn, abs=0.02 * np.trace(drawn))
    assert most_blur_of(blur, k, away, beam) == pytest.approx(np.sqrt(np.trace(ours)), rel=0.05)


def test_a_line_is_as_much_wider_as_its_branch_climbs():
    climb = np.array([2 * 10.0 * 30.0, 0.0, 0.0])  # of E^2, at 10 meV: 30 meV angstrom
    blur = np.diag([0.02**2, 1.0, 1.0])
    assert blurred_width(0.05, 100.0, climb, blur) == pytest.approx(np.hypot(0.05, 0.6), rel=5e-3)
    assert blurred_width(0.05, 100.0, climb, 0 * blur) == pytest.approx(0.05)
    # Where E^2 vanishes the width of E is half the root of that of E^2, not without limit.
    assert blurred_width(0.0, 0.0, climb, blur) == pytest.approx(0.5 * np.sqrt(12.0))


def test_moments_are_wider_by_the_mean_spread_and_the_same_without(measurement):
    exposure = measurement.exposure(20.0).moments
    energy = measurement.energy.centres_meV[: exposure.weight.shape[1]]
    assert BlurredMoments(NO_SPREAD, 40.0, energy)(exposure) is exposure
    blur = measurement.exact.q_blur
    wider = BlurredMoments(blur, measurement.ei_meV, energy)
    found = wider(exposure)
    assert wider(exposure) is found
    more = (found.second - exposure.second)[..., :3]
    v, e = np.unravel_index(np.argmax(exposure.weight), exposure.weight.shape)
    size = more[v, e, 0] / exposure.weight[v, e]
    q = np.sqrt(exposure.q_squared[v, e] / exposure.weight[v, e])
    k_i = np.linalg.norm(measurement.trajectories(20.0).beam)
    assert (q * blur.mosaic) ** 2 * 2 / 3 < size < (q * blur.mosaic) ** 2 + (k_i * 0.01) ** 2
    assert np.array_equal(found.second[..., 3:], exposure.second[..., 3:])


def test_an_impossible_spread_names_the_field():
    text = Path(ROOT / "examples" / "ge-arcs.yaml").read_text()
    with pytest.raises(ExperimentError, match=r"q_spread\.mosaic_deg"):
        parse_experiment(text + "\nq_spread: {mosaic_deg: -1}\n", name="x.yaml")


def test_pixels_of_the_instrument_have_their_size(measurement):
    # Helium tubes of an inch with 128 pixels on a metre, as ARCS has them.
    width, height = size_of_pixels(measurement.instrument)
    merged = measurement.experiment.instrument.coarsen
    assert width == pytest.approx(0.0254, rel=0.05)
    assert height == pytest.approx(merged * 1.0 / 128, rel=0.05)
    section = QSpreadSection(pixel_m="instrument")
    assert section.active
    found = q_blur(measurement.crystal, measurement.instrument, measurement.orientation, section)
    assert found.width == pytest.approx(measurement.exact.q_blur.width, rel=0.05)
    untubed = replace(measurement.instrument, tube=None)
    assert np.prod(size_of_pixels(untubed)) == pytest.approx(width * height)
