"""A first estimate of one orientation believes a set-up that is right, and fits one that is off."""

from pathlib import Path

import numpy as np
import pytest

from consumers.recorded import recorded_source
from model_server.posterior.trust import ALONE
from steering.experiment import build_measurement
from steering.run import Run
from tests.steering.virtual_scan import EXAMPLES, VirtualScan, virtual_scan

__all__ = ["virtual_scan"]
OFF_DEG = 0.6  # two sigma of what may be


def estimated(scan: VirtualScan, folder: Path, off_deg: float):
    """Posterior and trust after the first file of a scan that is read with another psi."""
    sample = scan.experiment.sample
    turned = sample.model_copy(update={"psi_offset_deg": sample.psi_offset_deg + off_deg})
    experiment = scan.experiment.model_copy(update={"sample": turned})
    run = Run(build_measurement(experiment, EXAMPLES), run_id="r", folder=folder)
    for message in recorded_source(scan.events[:1], run="r").messages():
        run.accept(message)
    return run.estimate.posterior, run.estimate.trust


def gaps(scan: VirtualScan, posterior) -> np.ndarray:
    """Errors of the constants in standard deviations."""
    true = np.array([p["value"] for p in scan.truth["parameters"]])
    return (posterior.values - true) / posterior.sigma


def test_a_set_up_that_is_right_is_believed(virtual_scan: VirtualScan, tmp_path):
    posterior, trust = estimated(virtual_scan, tmp_path, 0.0)
    assert not posterior.layout.off_names
    assert trust.reasons == (ALONE,)  # nothing else speaks against it
    assert np.all(np.abs(gaps(virtual_scan, posterior)) < 4)


@pytest.mark.parametrize("off_deg", [OFF_DEG, -OFF_DEG])
def test_a_set_up_that_is_off_is_fitted_and_leaves_the_constants_right(
    virtual_scan: VirtualScan, tmp_path, off_deg
):
    posterior, _ = estimated(virtual_scan, tmp_path, off_deg)
    layout = posterior.layout
    found = dict(zip(layout.off_names, posterior.theta[layout.off], strict=True))
    # Merged pixels and coarse voxels bias it by some hundredths of a degree.
    assert found["psi offset"] == pytest.approx(-off_deg, abs=0.15)
    assert np.all(np.abs(gaps(virtual_scan, posterior)) < 5)
