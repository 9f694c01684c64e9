"""A first estimate of one orientation believes a set-up that is right, and fits one that is off."""

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from consumers.recorded import recorded_source
from model_server.posterior.trust import ALONE
from simulations.fold import merge_voxels
from simulations.likelihood import QSpreadSection
from steering.experiment import build_measurement
from steering.run import Run, result_document
from steering.run.answer import result_of
from steering.run.estimator import Estimator, _Exposures
from steering.run.ledger import ONE_ORIENTATION_DEG
from tests.simulations.fold.exposures import compute_image_exposure
from tests.simulations.fold.test_image_exposure import setting, tubes, wurtzite
from tests.steering.virtual_scan import EXAMPLES, VirtualScan, virtual_scan

__all__ = ["virtual_scan"]
OFF_DEG = 0.6  # two sigma of what may be


def estimated(scan: VirtualScan, folder: Path, off_deg: float) -> Run:
    """A run after the first file of a scan that is read with another psi."""
    sample = scan.experiment.sample
    turned = sample.model_copy(update={"psi_offset_deg": sample.psi_offset_deg + off_deg})
    experiment = scan.experiment.model_copy(update={"sample": turned})
    run = Run(build_measurement(experiment, EXAMPLES), run_id="r", folder=folder)
    for message in recorded_source(scan.events[:1], run="r").messages():
        run.accept(message)
    return run


@pytest.fixture(scope="module")
def believed(virtual_scan: VirtualScan, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose set-up is right."""
    return estimated(virtual_scan, tmp_path_factory.mktemp("believed"), 0.0)


def gaps(scan: VirtualScan, posterior) -> np.ndarray:
    """Errors of the constants in standard deviations."""
    true = np.array([p["value"] for p in scan.truth["parameters"]])
    return (posterior.values - true) / posterior.sigma


def test_a_set_up_that_is_right_is_believed(virtual_scan: VirtualScan, believed: Run):
    posterior = believed.estimate.posterior
    assert not posterior.layout.off_names
    assert ALONE in believed.estimate.trust.reasons
    assert believed.estimate.trust.explained  # nothing else speaks against it
    assert np.all(np.abs(gaps(virtual_scan, posterior)) < 4)


def test_where_one_orientation_cannot_tell_another_is_advised_first(believed: Run):
    """The one that was measured is the best by information here, and comes behind the others."""
    (measured,) = {chunk.psi_deg for chunk in believed.ledger.chunks}
    assert believed.ledger.alone
    assert believed.ledger.turn_deg(measured + 3.0) == pytest.approx(3.0)
    near = [abs(one.psi_deg - measured) < ONE_ORIENTATION_DEG for one in believed.estimate.advice]
    assert any(near)
    assert near == sorted(near)
    far = [one.gain_per_minute for one in believed.estimate.advice][: near.count(False)]
    assert far == sorted(far, reverse=True)


@pytest.mark.parametrize("off_deg", [OFF_DEG, -OFF_DEG])
def test_a_set_up_that_is_off_is_fitted_and_leaves_the_constants_right(
    virtual_scan: VirtualScan, tmp_path, off_deg
):
    posterior = estimated(virtual_scan, tmp_path, off_deg).estimate.posterior
    layout = posterior.layout
    found = dict(zip(layout.off_names, posterior.theta[layout.off], strict=True))
    # Merged pixels and coarse voxels bias it by some hundredths of a degree.
    assert found["psi offset"] == pytest.approx(-off_deg, abs=0.15)
    assert np.all(np.abs(gaps(virtual_scan, posterior)) < 5)


def test_another_answer_is_told_in_the_result_with_its_odds(believed: Run):
    estimate = believed.estimate
    posterior = estimate.posterior
    theta = posterior.theta + np.where(np.arange(posterior.layout.size) == 0, 0.5, 0.0)
    above = posterior.explained + 1.5
    other = replace(posterior, theta=theta, believing=None, aside=None, objective=above)
    told = replace(estimate, posterior=posterior.beside([other]))
    document = result_of(believed.measurement, believed.ledger, told)
    (one,) = result_document(document).other_answers
    assert one.log_odds == pytest.approx(-1.5)
    assert [p.name for p in one.parameters] == list(posterior.names)
    assert one.parameters[0].value == pytest.approx(posterior.values[0] + 0.5)
    assert "other_answers" not in result_of(
        believed.measurement, believed.ledger, replace(estimate, posterior=posterior.beside([]))
    )


def test_pixels_are_left_out_only_where_the_least_spread_of_q_makes_them_alike(
    virtual_scan: VirtualScan, believed: Run
):
    """A spread that is known to 50 % may be none: then all are walked, however wide it is."""
    (chunk,) = believed.ledger.chunks
    few = replace(chunk.sums, signal=1e-3 * chunk.sums.signal)  # many ask for all pixels, too
    everything = len(chunk.trajectories().pixel)
    walked = []
    for known_percent in (10.0, 50.0):
        spread = QSpreadSection(mosaic_deg=3.0, known_percent=known_percent)
        experiment = virtual_scan.experiment.model_copy(update={"q_spread": spread})
        estimator = Estimator(build_measurement(experiment, EXAMPLES), believed._estimator._can)
        walked.append(len(estimator._walked(chunk, few).pixel))
    assert walked[0] < 0.6 * everything
    assert walked[1] == everything


def test_pooled_tensors_are_the_sum_and_what_was_pooled_before_stays():
    crystal = wurtzite()
    voxels = tubes(crystal)
    merged = merge_voxels(voxels, 0.1)
    images = [
        compute_image_exposure(**setting(crystal, voxels, psi, seed))
        for psi, seed in ((10.0, 1), (40.0, 2), (25.0, 3))
    ]
    chunks = [
        SimpleNamespace(key=str(k), exposure=lambda one=one: one) for k, one in enumerate(images)
    ]
    seen = _Exposures(SimpleNamespace(merged=merged, crystal=crystal))  # type: ignore[arg-type]
    two = seen.pooled(SimpleNamespace(chunks=chunks[:2]))  # type: ignore[arg-type]
    before = {one.name: getattr(two, one.name).copy() for one in fields(two)}
    three = seen.pooled(SimpleNamespace(chunks=chunks))  # type: ignore[arg-type]
    each = [image.merged(merged).with_tensor(crystal) for image in images]
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(two, name), value)
        np.testing.assert_array_equal(
            getattr(three, name), getattr(each[0] + each[1] + each[2], name)
        )
